"""The provider: answers encrypted images with class probabilities. It has encrypted models, and never a key."""

# No ``from __future__ import annotations``: FastAPI reads the annotations of the functions inside create_app.

import asyncio
import hmac
import io
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from PIL import Image
from starlette.requests import ClientDisconnect
from torch import Tensor, nn

from mixerkey.convmixer import ConvMixer
from mixerkey.evaluation import predict
from mixerkey.files import one_line
from mixerkey.parties.batching import Batcher, QueueFull
from mixerkey.parties.client import check_token
from mixerkey.parties.guard import Gate, JSONLines, Protocol, is_address, log
from mixerkey.parties.trainer import KEY_ID, ModelCard, load_encrypted
from mixerkey.pictures import check_meaning, check_rows

PNG, RAW = "image/png", "application/octet-stream"
PAGE = Path(str(files("mixerkey") / "parties" / "page"))
FILES = {
    "/": PAGE / "index.html",
    "/docs": PAGE / "docs.html",
    "/page/palette.css": Path(str(files("mixerkey") / "palette.css")),
}
HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
DAY = 24 * 60 * 60  # seconds
PASS = 2**22  # pixel values that go through a network at a time
PROBLEMS = {
    400: "several models are served, and no Key-Id says which; or the request is no HTTP, or says a thing twice",
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
        connections: the most connections at a time, and from one address half of them.
        seconds: for a request's headers, again for its body, again for its answer, and again until that is read.
        memory: the most bytes of bodies at a time; beyond it the answer is 503, and for one body 413.

    Raises:
        ValueError: a limit that is not positive, or infinite; more than a day for a request.

    >>> Limits(seconds=0)
    Traceback (most recent call last):
        ...
    ValueError: limits must be positive and finite, got seconds = 0
    """

    batch: int = 256
    queue: int = 1024
    connections: int = 512
    seconds: float = 30.0
    memory: int = 2**28

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < inf:
                raise ValueError(f"limits must be positive and finite, got {name} = {value}")
        if self.seconds > DAY:
            raise ValueError(f"a request may take a day, {DAY:,} seconds, at most; got {self.seconds:g}")


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

    def __init__(self, paths: str | Path | Iterable[str | Path]) -> None:
        self.paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        self.served: dict[str, tuple[ConvMixer, ModelCard]] = {}
        self._one = threading.Lock()
        self.reload()

    def reload(self) -> None:
        """Read the files, and those in the folders, again; when one is unusable everything stays as it was.

        One at a time, so that the last to be asked for is the last to be served.

        Raises:
            OSError: a file is missing, or it or a folder can't be read.
            ValueError: a file is not an encrypted model, two have one key id, or there is none.
        """
        with self._one:
            served: dict[str, tuple[ConvMixer, ModelCard]] = {}
            for path in self.paths:
                for file in _models_in(path) if path.is_dir() else [path]:
                    model, card = load_encrypted(file)
                    if card.key_id in served:
                        raise ValueError(
                            f"{file.name} has the key id {card.key_id} of another model; serve one of them"
                        )
                    served[card.key_id] = model, card
            if not served:
                raise ValueError("there is no model to serve: name a file or a folder with .safetensors files")
            self.served = served

    def choose(self, key_id: str | None) -> tuple[ConvMixer, ModelCard]:
        """The model for images under this key, and its card; without a key's id, the only one.

        Raises:
            HTTPException: 400, no id and several models; 404, none for this id.
        """
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


def _models_in(folder: Path) -> list[Path]:
    """Whatever is called a model there; unlike a glob, a folder that can't be read is not taken for an empty one."""
    return sorted(path for path in folder.iterdir() if path.match("[!.]*.safetensors"))


Count = Annotated[int, Query(ge=1, description="how many images the body holds")]
KeyId = Annotated[
    str | None, Header(alias="Key-Id", pattern=f"^{KEY_ID}$", description="needed while several models are served")
]
BODY = {
    "requestBody": {
        "required": True,
        "description": "One PNG; or count images as uint8, one after the other, each in the order "
        "(channel, row, column).",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (PNG, RAW)},
    }
}
BEARER = HTTPBearer(auto_error=False, description="the token that the provider gave you")


class Service:
    """What answers the requests of one provider, within its limits."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.batcher = Batcher(probabilities, batch=limits.batch, queue=limits.queue)
        self.worker: asyncio.Task | None = None
        self.held = 0  # bytes of bodies

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.worker = asyncio.create_task(self.batcher.run())
        yield
        self.worker.cancel()  # uvicorn has waited for the requests that it accepted

    async def health(self) -> Health:
        """Whether the service runs and can answer images."""
        if self.worker is None or self.worker.done():
            raise HTTPException(503, "nothing computes answers any more; restart the provider")
        return Health("ok", self.batcher.waiting, self.batcher.images, self.batcher.passes)

    async def cards(self) -> list[ModelCard]:
        """The model cards: what images each model takes, its classes, and the id of the key it was encrypted with."""
        return [card for _, card in self.models.served.values()]

    async def classify(self, request: Request, count: Count = 1, key_id: KeyId = None) -> Answer:
        """Class probabilities of encrypted images."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (PNG, RAW):
            raise HTTPException(415, f"send {PNG} or {RAW}, got {one_line(kind, 80) or 'no content type'}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "send the body as it is, without Content-Encoding")
        if count > self.limits.batch:
            raise HTTPException(422, f"count: a request has at most {self.limits.batch} images")
        model, card = self.models.choose(key_id)
        size = card.channels * card.height * card.width
        limit = min(count * size + 65_536, self.limits.memory)
        with self._room(limit):
            body = await read_body(request, limit, self.limits.seconds)
            decode = decode_png if kind == PNG else decode_raw
            rows = await self._compute(model, await asyncio.to_thread(decode, body, count, card))
        return Answer(card.key_id, [card.classes[i] for i in rows.argmax(1).tolist()], rows.tolist())

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Hold `size` bytes for a body."""
        if self.held + size > self.limits.memory:
            raise busy()
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    async def _compute(self, model: nn.Module, images: Tensor) -> Tensor:
        try:
            async with asyncio.timeout(self.limits.seconds):
                rows = await self.batcher.submit(model, images)
        except (QueueFull, TimeoutError, MemoryError):
            raise busy() from None
        if not rows.isfinite().all():
            raise HTTPException(500, "the model answers these images with what is no number")
        return rows


def busy() -> HTTPException:
    """A 503 that says when to come back."""
    return HTTPException(503, "busy; ask again", {"Retry-After": "1"})


def create_app(
    models: Models,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    names: Iterable[str] = (),
    prefix: str = "",
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        models: what it serves.
        token: if given, requests under ``/v1`` must carry it: ``Authorization: Bearer …``.
        limits: by default, `Limits()`.
        names: the host names that it answers to, besides ``localhost`` and every IP address.
        prefix: the path under which a proxy shows it, whether the proxy takes it off or not.

    Raises:
        ValueError: a batch that is larger than the queue, a token that no header can hold, a prefix that is no path or
            begins like the provider's own, or a name that is none.

    >>> import tempfile
    >>> from starlette.testclient import TestClient
    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.parties.trainer import save_encrypted
    >>> card = ModelCard("00d1f2e3a4b5c6d7", 2, 1, 8, 8, tuple("0123456789"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "locked.safetensors")
    ...     save_encrypted(encrypt_model(load_pretrained("digits"), Key.generate(2, 1)), card, path)
    ...     with TestClient(create_app(Models([path])), "http://localhost") as http:
    ...         http.get("/v1/models").json()[0]["key_id"]
    '00d1f2e3a4b5c6d7'
    """
    if not re.fullmatch(r"(/[\w.~-]+)*/?", prefix, re.ASCII):
        raise ValueError(f"a prefix is a path such as /mixerkey, got {prefix!r}")
    if prefix.split("/")[1:2] in (["docs"], ["health"], ["openapi.json"], ["page"], ["v1"]):
        raise ValueError(f"the prefix {prefix!r} begins like a path of the provider's own; choose another")
    for name in (names := list(names)):
        if not (HOST.fullmatch(name) or is_address(name)):
            raise ValueError(f"a name is a host's, without a port, such as models.example; got {name!r}")
    service = Service(models, limits or Limits())
    guard = [] if token is None else [Depends(wants(check_token(token)))]
    app = FastAPI(
        title="The Mixer Key: provider",
        version="1",
        description="Send encrypted images, get class probabilities. The provider has no key.",
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from the internet; page/docs.html does not
        redoc_url=None,
    )
    app.add_middleware(Gate, names=("localhost", *names), prefix=prefix)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_api_route("/health", service.health, responses=problems(503))
    for path, answer, methods, extra, codes in (
        ("/v1/models", service.cards, ["GET"], None, ()),
        ("/v1/classify", service.classify, ["POST"], BODY, (400, 404, 408, 413, 415, 422, 503)),
    ):
        shown = problems(*codes, *([401] if guard else []))
        app.add_api_route(path, answer, methods=methods, dependencies=guard, responses=shown, openapi_extra=extra)
    for path, file in FILES.items():
        app.add_route(path, show(file), include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def wants(token: str) -> Callable:
    """A dependency that lets requests through that carry this bearer token."""

    async def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(401, "a valid token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    return authorised


def show(file: Path) -> Callable[[Request], Response]:
    """A route that answers by this file."""
    return lambda request: FileResponse(file)


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description: what a route may answer besides 200."""
    return {code: {"model": Problem, "description": PROBLEMS[code]} for code in sorted(codes)}


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """A 422 that says which parameter is wrong."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in found)}, 422)


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), float32, of encrypted uint8 images (N, C, H, W)."""
    return predict(model, images, batch_size=max(1, PASS // images[0].numel())).softmax(1)


async def read_body(request: Request, limit: int, seconds: float) -> bytearray:
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
    return body


def decode_raw(body: bytes | bytearray, count: int, card: ModelCard) -> Tensor:
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
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).view(count, *card.shape)


def decode_png(body: bytes | bytearray, count: int, card: ModelCard) -> Tensor:
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
            try:
                check_meaning(image)
            except ValueError as error:
                raise HTTPException(422, f"the PNG can't be taken: {error}") from error
            check_rows(io.BytesIO(body))
            pixels = np.array(image)  # (H, W) or (H, W, C)
    except HTTPException:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files, some with addresses in memory
        raise HTTPException(422, "this is not a complete PNG") from error
    return torch.from_numpy(pixels.reshape(card.height, card.width, card.channels)).permute(2, 0, 1)[None].contiguous()


def make_server(app: FastAPI, limits: Limits | None = None) -> uvicorn.Server:
    """A uvicorn server for an application, with the limits that are uvicorn's to keep; `serve` runs it."""
    limits = limits or Limits()
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=type("Limited", (Protocol,), {"limits": limits, "addresses": Counter()}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=round(2 * limits.seconds) + 1,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at a name or an address of either version of IP.

    Raises:
        ValueError: no port, or no such host.
        OSError: the address is in use, or not this computer's.

    >>> with listen("127.0.0.1", 0) as listener:
    ...     listener.getsockname()[0]
    '127.0.0.1'
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"a port is 0 to 65535, got {port}")
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"there is no host {one_line(host)} to listen on: {error}") from error
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(address, family=family, dualstack_ipv6=both)
    # asyncio does so only for a socket that was made as one of TCP by number; else an answer waits 40 ms for an
    # acknowledgement between its head and its body. Connections that are accepted inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    paths: Iterable[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    names: Iterable[str] = (),
    prefix: str = "",
) -> None:
    """Serve encrypted models until SIGINT or SIGTERM, which finish what was accepted; SIGHUP reads them again.

    Args:
        paths: files that ``mixerkey encrypt-model`` wrote, or folders of such files.
        host: the address to listen on; "0.0.0.0" for a classroom's network, "::" for IPv6 too.
        port: 0 for any that is free; the log's first line says which.
        token, limits, prefix: see `create_app`.
        names: see `create_app`; the names of `host` and of this computer are known.

    Raises:
        OSError, ValueError: see `Models.reload` and `create_app`; no such host or port, or the address is in use.
    """
    limits = limits or Limits()
    models = Models(paths)
    app = create_app(models, token=token, limits=limits, names=(host, *own_names(), *names), prefix=prefix)
    listener = listen(host, port)
    write_log()
    server = make_server(app, limits)
    where, bound = listener.getsockname()[:2]
    address = f"[{where}]" if ":" in where else where

    async def reload() -> None:
        try:
            await asyncio.to_thread(models.reload)
        except Exception as error:  # of any kind, as of memory: a task that fails says so to nobody
            reason = str(error) or type(error).__name__
            log.error("reload failed, serving what was there", extra={"fields": {"reason": reason}})
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
        fields = {"url": f"http://{address}:{bound}{prefix}", "pid": os.getpid(), "token": token is not None}
        fields |= asdict(limits)
        log.info("listening", extra={"fields": fields})
        if token is None and not ip_address(where).is_loopback:
            log.warning("everyone who reaches this address may ask: set a token")
        await server.serve(sockets=[listener])

    asyncio.run(main())


def own_names() -> list[str]:
    """What this computer is called on its network."""
    name = socket.gethostname().lower()
    return list(filter(HOST.fullmatch, [name, f"{name.partition('.')[0]}.local"]))


def write_log() -> None:
    """Everything that is logged, warnings too, as lines of JSON on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
