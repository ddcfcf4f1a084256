"""The provider: answers encrypted images with class probabilities. It has encrypted models, and never a key."""

# No ``from __future__ import annotations``: FastAPI reads the annotations of the functions inside create_app.

import asyncio
import hmac
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from PIL import Image
from starlette.requests import ClientDisconnect
from torch import Tensor, nn

from mixerkey.convmixer import ConvMixer
from mixerkey.evaluation import predict
from mixerkey.parties.batching import Batcher, QueueFull
from mixerkey.parties.client import check_token
from mixerkey.parties.guard import Gate, JSONLines, Protocol, log
from mixerkey.parties.trainer import KEY_ID, ModelCard, load_encrypted

PNG, RAW = "image/png", "application/octet-stream"
PAGE = Path(str(files("mixerkey") / "parties" / "page"))
PALETTE = Path(str(files("mixerkey") / "palette.css"))
PROBLEMS = {
    400: "several models are served, and no Key-Id says which; or the request is no HTTP",
    401: "no token, or a wrong one",
    404: "no model is served for this key id",
    408: "the body did not arrive in time",
    413: "the body is too large: send fewer images at a time",
    415: "neither a PNG nor raw bytes, or compressed",
    422: "the body is not the images that it should be, or a parameter is wrong; the detail says what was expected",
    503: "busy; Retry-After says when to ask again",
}


@dataclass(frozen=True)
class Limits:
    """What one provider takes on.

    Args:
        batch: the most images in a request, and in a forward pass.
        queue: the most images that wait for a forward pass; beyond it the answer is 503.
        requests: the most requests at a time; beyond it the answer is 503.
        connections: the most connections at a time.
        seconds: for a request's headers, again for its body, again for its answer.

    Raises:
        ValueError: a limit that is not positive.

    >>> Limits(seconds=0)
    Traceback (most recent call last):
        ...
    ValueError: limits must be positive, got Limits(batch=256, queue=1024, requests=128, connections=512, seconds=0)
    """

    batch: int = 256
    queue: int = 1024
    requests: int = 128
    connections: int = 512
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise ValueError(f"limits must be positive, got {self}")


@dataclass(frozen=True)
class Answer:
    """Class probabilities, one row an image; `labels` names the likeliest class of each."""

    key_id: str
    labels: list[str]
    probabilities: list[list[float]]


@dataclass(frozen=True)
class Health:
    """That the service runs, and what it has done: images per pass say how well requests share them."""

    status: str
    waiting: int
    images: int
    passes: int


@dataclass(frozen=True)
class Problem:
    """What is wrong with the request and what to do."""

    detail: str


class Models:
    """The encrypted models that are served, by key id; `reload` replaces them all at once."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        self.served: dict[str, tuple[ConvMixer, ModelCard]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the files, and those in the folders, again; when one is unusable everything stays as it was.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not an encrypted model, two have one key id, or there is none.
        """
        served: dict[str, tuple[ConvMixer, ModelCard]] = {}
        for path in self.paths:
            for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
                model, card = load_encrypted(file)
                if card.key_id in served:
                    raise ValueError(f"{file.name} has the key id {card.key_id} of another model; serve one of them")
                served[card.key_id] = model, card
        if not served:
            raise ValueError("there is no model to serve: name a file or a folder with .safetensors files")
        self.served = served

    def choose(self, key_id: str | None) -> tuple[ConvMixer, ModelCard]:
        served = self.served
        if key_id is None and len(served) == 1:
            return next(iter(served.values()))
        known = "this provider answers " + ", ".join(served)
        if key_id is None:
            raise HTTPException(400, f"say which key your images are encrypted with, in the header Key-Id: {known}")
        if key_id not in served:
            raise HTTPException(
                404, f"no model for the key id {key_id}: {known}; ask who issued your key for a new one"
            )
        return served[key_id]


def create_app(models: Models, *, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        models: what it serves.
        token: if given, requests under ``/v1`` must carry it: ``Authorization: Bearer …``.
        limits: by default, `Limits()`.

    Raises:
        ValueError: a batch that is larger than the queue, or a token that no header can hold.

    >>> import tempfile
    >>> from starlette.testclient import TestClient
    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.parties.trainer import save_encrypted
    >>> card = ModelCard("00d1f2e3a4b5c6d7", 2, 1, 8, 8, tuple("0123456789"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "locked.safetensors")
    ...     save_encrypted(encrypt_model(load_pretrained("digits"), Key.generate(2, 1)), card, path)
    ...     with TestClient(create_app(Models([path]))) as http:
    ...         http.get("/v1/models").json()[0]["key_id"]
    '00d1f2e3a4b5c6d7'
    """
    limits = limits or Limits()
    token = None if token is None else check_token(token)
    batcher = Batcher(probabilities, batch=limits.batch, queue=limits.queue)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()  # uvicorn has waited for the requests that it accepted

    app = FastAPI(
        title="The Mixer Key: provider",
        version="1",
        description="Send encrypted images, get class probabilities. The provider has no key.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from the internet; page/docs.html does not
        redoc_url=None,
    )
    app.add_middleware(Gate, limit=limits.requests)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        detail = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        return JSONResponse({"detail": detail}, 422)

    bearer = HTTPBearer(auto_error=False, description="the token that the provider gave you")

    async def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), (token or "").encode()):
            raise HTTPException(401, "a valid token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    guard = [Depends(authorised)] if token else []

    def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
        codes = (*codes, 401, 503) if token else (*codes, 503)
        return {code: {"model": Problem, "description": PROBLEMS[code]} for code in sorted(codes)}

    @app.get("/health", responses=problems())
    async def health() -> Health:
        """Whether the service runs."""
        return Health("ok", batcher.waiting, batcher.images, batcher.passes)

    @app.get("/v1/models", dependencies=guard, responses=problems())
    async def cards() -> list[ModelCard]:
        """The model cards: what images each model takes, its classes, and the id of the key it was encrypted with."""
        return [card for _, card in models.served.values()]

    @app.post(
        "/v1/classify",
        dependencies=guard,
        responses=problems(400, 404, 408, 413, 415, 422),
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "One PNG; or count images as uint8, one after the other, each in the order "
                "(channel, row, column).",
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (PNG, RAW)},
            }
        },
    )
    async def classify(
        request: Request,
        count: Annotated[int, Query(ge=1, le=limits.batch, description="how many images the body holds")] = 1,
        key_id: Annotated[
            str | None,
            Header(alias="Key-Id", pattern=f"^{KEY_ID}$", description="needed while several models are served"),
        ] = None,
    ) -> Answer:
        """Class probabilities of encrypted images."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (PNG, RAW):
            raise HTTPException(415, f"send {PNG} or {RAW}, got {kind or 'no content type'}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "send the body as it is, without Content-Encoding")
        model, card = models.choose(key_id)
        size = card.channels * card.height * card.width
        body = await read_body(request, limits.batch * size + 65_536, limits.seconds)
        images = decode_png(body, count, card) if kind == PNG else decode_raw(body, count, card)
        try:
            async with asyncio.timeout(limits.seconds):
                rows = await batcher.submit(model, images)
        except (QueueFull, TimeoutError):
            raise HTTPException(503, "busy; ask again", {"Retry-After": "1"}) from None
        return Answer(card.key_id, [card.classes[i] for i in rows.argmax(1).tolist()], rows.tolist())

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    @app.get("/page/palette.css", include_in_schema=False)
    async def palette() -> FileResponse:
        return FileResponse(PALETTE)

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), float32, of encrypted uint8 images (N, C, H, W)."""
    return predict(model, images).softmax(1)


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The request's body, at most `limit` bytes, within `seconds`.

    Raises:
        HTTPException: 413 too large, 408 too slow, 400 the connection ended before the body did.
    """
    body = bytearray()
    close = {"Connection": "close"}  # the rest of the body is not read
    too_large = HTTPException(413, f"the body is larger than {limit} bytes; send fewer images at a time", close)
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} seconds", close) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the body did") from None
    return bytes(body)


def decode_raw(body: bytes, count: int, card: ModelCard) -> Tensor:
    """uint8 (count, C, H, W) from bytes in this order.

    Raises:
        HTTPException: 422 when there are not exactly that many bytes.

    >>> decode_raw(bytes(range(8)), 2, ModelCard("00d1f2e3a4b5c6d7", 2, 1, 2, 2, ("a", "b")))[1, 0]
    tensor([[4, 5],
            [6, 7]], dtype=torch.uint8)
    """
    expected = count * card.channels * card.height * card.width
    if len(body) != expected:
        raise HTTPException(
            422,
            f"got {len(body)} bytes, expected {expected}: {count} image(s) of shape {card.shape} as uint8, "
            "one byte a pixel and channel; say in ?count= how many there are",
        )
    return torch.from_numpy(np.frombuffer(body, np.uint8).reshape(count, *card.shape).copy())


def decode_png(body: bytes, count: int, card: ModelCard) -> Tensor:
    """uint8 (1, C, H, W) from a PNG of the card's size, 8-bit grey (C = 1) or RGB (C = 3).

    Size and mode are checked before anything is decompressed, so a small file can't become a large picture.

    Raises:
        HTTPException: 422 when it is something else.

    >>> png = io.BytesIO()
    >>> Image.new("L", (2, 2), 7).save(png, "PNG")
    >>> decode_png(png.getvalue(), 1, ModelCard("00d1f2e3a4b5c6d7", 2, 1, 2, 2, ("a", "b")))
    tensor([[[[7, 7],
              [7, 7]]]], dtype=torch.uint8)
    """
    mode = {1: "L", 3: "RGB"}.get(card.channels)
    if mode is None or count != 1:
        raise HTTPException(422, f"a PNG holds one image, grey or RGB; send others as {RAW}")
    try:
        with Image.open(io.BytesIO(body), formats=("PNG",)) as image:
            if image.size != (card.width, card.height) or image.mode != mode:
                raise HTTPException(
                    422,
                    f"the PNG has {image.width} x {image.height} pixels in mode {image.mode}, "
                    f"expected {card.width} x {card.height} in mode {mode}",
                )
            pixels = np.array(image)  # (H, W) or (H, W, C)
    except HTTPException:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise HTTPException(422, f"this is not a complete PNG: {error}") from error
    return torch.from_numpy(pixels.reshape(card.height, card.width, card.channels)).permute(2, 0, 1)[None].contiguous()


def make_server(models: Models, *, token: str | None = None, limits: Limits | None = None) -> uvicorn.Server:
    """A uvicorn server for `create_app`, with the limits that are uvicorn's to keep; `serve` runs it."""
    limits = limits or Limits()
    return uvicorn.Server(
        uvicorn.Config(
            create_app(models, token=token, limits=limits),
            http=type("Protocol", (Protocol,), {"seconds": limits.seconds}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=round(2 * limits.seconds) + 1,
        )
    )


def serve(
    paths: Iterable[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve encrypted models until SIGINT or SIGTERM, which finish what was accepted; SIGHUP reads them again.

    Args:
        paths: files that ``mixerkey encrypt-model`` wrote, or folders of such files.
        host: the address to listen on; "0.0.0.0" for a classroom's network.
        port: 0 for any that is free; the log's first line says which.
        token: see `create_app`.
        limits: see `create_app`.

    Raises:
        FileNotFoundError, ValueError: see `Models.reload`.
        OSError: the address is in use.
    """
    limits = limits or Limits()
    models = Models(Path(path) for path in paths)
    listener = socket.create_server((host, port))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    server = make_server(models, token=token, limits=limits)

    async def reload() -> None:
        try:
            await asyncio.to_thread(models.reload)
        except (OSError, ValueError) as error:
            log.error("reload failed, serving what was there", extra={"fields": {"reason": str(error)}})
        else:
            log.info("reloaded", extra={"fields": {"key_ids": list(models.served)}})

    async def main() -> None:
        reloads = set()

        def on_hangup() -> None:
            task = asyncio.create_task(reload())
            reloads.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(reloads.discard)

        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)
        where, bound = listener.getsockname()[:2]
        log.info(
            "listening", extra={"fields": {"url": f"http://{where}:{bound}", "pid": os.getpid(), **asdict(limits)}}
        )
        await server.serve(sockets=[listener])

    asyncio.run(main())
