"""The three parties, each on its own: files, key update, batching, the service's answers, the client, the commands."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import torch
import uvicorn
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import DIGITS, ID, KEY, OTHER, PATIENCE, RAW, WRONG, lock, png
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from strategies import SEEDS, keys
from torch import Tensor, nn

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_model,
    encrypt_images,
    encrypt_model,
    key_files,
    load_pretrained,
    patch_matrix,
)
from mixerkey.__main__ import main
from mixerkey.attacks.challenge import make_challenge
from mixerkey.convmixer import load_model, save_model
from mixerkey.data import CIFAR10_CLASSES, load_digits
from mixerkey.evaluation import predict
from mixerkey.keys import BlockOrder
from mixerkey.parties import client as client_module
from mixerkey.parties import commands, guard, provider
from mixerkey.parties.batching import Batcher, QueueFull
from mixerkey.parties.client import Client, ProviderError
from mixerkey.parties.provider import Limits, Models, create_app, make_server
from mixerkey.parties.trainer import (
    ModelCard,
    load_encrypted,
    load_key_id,
    load_named_key,
    rotate_model,
    save_encrypted,
    save_key,
)
from mixerkey.pictures import write_picture
from mixerkey.vit import ViT

IMAGES, LABELS = load_digits("test")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    lock(KEY, ID, folder / "a.safetensors")
    return Models([folder])


@pytest.fixture(scope="module")
def http(models: Models) -> Iterator[TestClient]:
    with TestClient(create_app(models), "http://localhost") as client:
        yield client


def raw(images: Tensor) -> bytes:
    return images.numpy().tobytes()


# --- what the third party hands out ---


def test_a_key_is_written_for_its_owner_only_with_an_id_that_is_not_made_from_it(tmp_path: Path) -> None:
    first, second = save_key(KEY, tmp_path / "a.json"), save_key(KEY, tmp_path / "b.json")
    assert first != second, "the same key twice: an id made from it would be the same"
    assert load_key_id(tmp_path / "a.json") == first
    assert Key.load(tmp_path / "a.json") == KEY
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600


def test_of_many_third_parties_that_save_a_key_of_one_name_one_wins_with_its_own_id(tmp_path: Path) -> None:
    for turn in range(10):
        path, start = tmp_path / f"{turn}.json", threading.Barrier(8)

        def save(n: int, path: Path = path, start: threading.Barrier = start) -> tuple[Key, str] | None:
            key = Key.from_seed(n, 2, 1)
            start.wait()
            with suppress(FileExistsError):
                return key, save_key(key, path)
            return None

        with ThreadPoolExecutor(8) as pool:
            won = [pair for pair in pool.map(save, range(8)) if pair]
        assert [load_named_key(path)] == won


@pytest.mark.parametrize("name", ["key.json", "key.id", "key", "a.b.c", "key.safetensors", ".id", "k[e]y*.json"])
def test_whatever_a_key_is_called_it_keeps_its_id_and_is_never_overwritten(tmp_path: Path, name: str) -> None:
    key_id = save_key(KEY, tmp_path / name)
    assert load_named_key(tmp_path / name) == (KEY, key_id)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for other in (KEY, WRONG):
        with pytest.raises(FileExistsError):
            save_key(other, tmp_path / name)
    assert load_named_key(tmp_path / name) == (KEY, key_id)


def test_the_id_beside_a_key_of_version_0_1_is_read(tmp_path: Path) -> None:
    KEY.save(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="ask who issued it"):
        load_key_id(tmp_path / "a.json")
    for content in (f"{ID}\n", f"\ufeff{ID}\r\n"):
        (tmp_path / "a.id").write_text(content)
        assert load_key_id(tmp_path / "a.json") == ID
    for content in ("id", "", ID.upper(), ID + ID, "\udcff"):
        (tmp_path / "a.id").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match="16 hexadecimal digits"):
            load_key_id(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_id": "A" * 16}, "16 hexadecimal"),
        ({"height": 0}, "positive"),
        ({"width": 7}, "divisible by 2"),
        ({"classes": ()}, "at least one class"),
    ],
)
def test_an_impossible_card_is_refused(changes: dict, message: str) -> None:
    fields: dict[str, Any] = {"key_id": ID, "patch_size": 2, "channels": 1, "height": 8, "width": 8, "classes": DIGITS}
    with pytest.raises(ValueError, match=message):
        ModelCard(**fields | changes)
    assert ModelCard(**fields | {"classes": list(DIGITS)}) == ModelCard(**fields)
    for classes in ("0123456789", None, 10, dict.fromkeys(DIGITS)):
        with pytest.raises(TypeError, match="classes are a tuple of names, got "):
            ModelCard(**fields | {"classes": classes})


@pytest.mark.parametrize(("patch_size", "channels", "classes"), [(4, 1, DIGITS), (2, 3, DIGITS), (2, 1, DIGITS[:9])])
def test_a_card_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, patch_size: int, channels: int, classes: tuple[str, ...]
) -> None:
    card = ModelCard(ID, patch_size, channels, 8, 8, classes)
    with pytest.raises(ValueError, match="but its card says"):
        save_encrypted(load_pretrained("digits"), card, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


LARGE: dict[str, tuple[nn.Module, int, str]] = {
    "features": (ConvMixer(257, 1, 1, 1, 2, 1), 1024, "269,484,032 values at a time"),
    "attention": (ViT(8, 1, 2, 1, 2, 1, image_size=108), 108, "272,097,792 values at a time"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_model_that_would_take_all_memory_for_an_image_is_refused_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, side, words = LARGE[name]
    card = ModelCard(ID, 1, 1, side, side, ("a", "b"))
    save_model(model, tmp_path / "a.safetensors", card=json.dumps(asdict(card)))  # type: ignore[arg-type]
    monkeypatch.setattr("mixerkey.parties.trainer.predict", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(ValueError, match=words):
        load_encrypted(tmp_path / "a.safetensors")


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), MemoryError("too little")])
def test_a_model_that_cannot_be_tried_is_refused(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock(KEY, ID, tmp_path / "a.safetensors")
    models = Models([tmp_path])

    def failing(*arguments: object) -> Tensor:
        raise error

    monkeypatch.setattr("mixerkey.parties.trainer.predict", failing)
    with pytest.raises(ValueError, match=str(error)):
        models.reload()
    assert list(models.served) == [ID]


def test_the_model_file_holds_the_encrypted_model_its_card_and_nothing_else(tmp_path: Path) -> None:
    card = lock(KEY, ID, tmp_path / "a.safetensors")
    model, read = load_encrypted(tmp_path / "a.safetensors")
    assert read == card
    expected = encrypt_model(load_pretrained("digits"), KEY).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert load_model(tmp_path / "a.safetensors").sizes == model.sizes  # still an ordinary ConvMixer file
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_model_without_a_card_is_refused(tmp_path: Path) -> None:
    save_model(ConvMixer(8, 1), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="encrypt-model"):
        load_encrypted(tmp_path / "a.safetensors")


# --- key update ---


SAME_SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(*[keys(st.just(shape))] * 2)
)


@given(seed=SEEDS, pair=SAME_SHAPE)
@settings(max_examples=30)
def test_rotation_gives_bit_for_bit_the_plain_model_under_the_new_key(seed: int, pair: tuple[Key, Key]) -> None:
    """E'' = T_newᵀ E, from E' = T_oldᵀ E and the relative key alone (Eq. 8, 9)."""
    old, new = pair
    model = nn.Conv2d(old.channels, 3, old.patch_size, old.patch_size)
    with torch.no_grad():
        model.weight.normal_(generator=torch.Generator().manual_seed(seed))
    rotated = rotate_model(encrypt_model(model, old), old, new)
    assert torch.equal(patch_matrix(rotated), patch_matrix(encrypt_model(model, new)))


def test_after_rotation_the_new_key_is_as_accurate_and_the_old_one_stops_working() -> None:
    old, new = Key.from_seed(1, 2, 1), Key.from_seed(2, 2, 1)
    plain = load_pretrained("digits")
    locked = encrypt_model(plain, old)
    rotated = rotate_model(locked, old, new)
    best = accuracy(plain, IMAGES, LABELS)
    assert accuracy(locked, IMAGES, LABELS, old) == accuracy(rotated, IMAGES, LABELS, new) == best
    assert accuracy(rotated, IMAGES, LABELS, old) < 0.5
    assert accuracy(locked, IMAGES, LABELS, new) < 0.5


def test_whoever_has_both_encrypted_models_has_the_relative_key() -> None:
    """Why a rotation does not help against a provider that got hold of the old key."""
    old, new = KEY, WRONG
    locked = encrypt_model(load_pretrained("digits"), old)
    E1, E2 = patch_matrix(locked), patch_matrix(rotate_model(locked, old, new))
    products = E2 @ E1.T  # row k of E2 is ± row v_k of E1
    v = (products.abs() / (E1.norm(dim=1) * E2.norm(dim=1)[:, None])).argmax(1)
    r = products[torch.arange(len(v)), v] < 0
    assert old.then(SignedPermutation(v, r, 2, 1)) == new


# --- batching ---


def test_requests_that_wait_share_a_pass_and_none_gets_another_ones_rows() -> None:
    gate, sizes = threading.Event(), []

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        gate.wait()
        sizes.append(len(images))
        return images.flatten(1)[:, :1] * 2

    async def run() -> list[Tensor]:
        batcher = Batcher(compute, batch=8, queue=100)
        worker, model = asyncio.create_task(batcher.run()), nn.Identity()
        tasks = [asyncio.create_task(batcher.submit(model, torch.full((1 + n % 3, 1, 1, 1), n))) for n in range(20)]
        await asyncio.sleep(0)  # all are submitted
        gate.set()
        answers = await asyncio.gather(*tasks)
        worker.cancel()
        assert batcher.waiting == 0
        assert (batcher.images, batcher.passes) == (sum(sizes), len(sizes))
        return answers

    for n, answer in enumerate(asyncio.run(run())):
        assert answer.tolist() == [[2 * n]] * (1 + n % 3)
    assert len(sizes) <= 7 < 20
    assert max(sizes) == 8


def test_images_for_different_models_never_share_a_pass() -> None:
    a, b, seen = nn.Identity(), nn.Identity(), []

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        seen.append((model, images.flatten().tolist()))
        return images.flatten(1)

    async def run() -> None:
        batcher = Batcher(compute, batch=8, queue=100)
        worker = asyncio.create_task(batcher.run())
        await asyncio.gather(*(batcher.submit(m, torch.full((1, 1, 1, 1), i)) for i, m in enumerate([a, b, a, b])))
        worker.cancel()

    asyncio.run(run())
    assert seen == [(a, [0, 2]), (b, [1, 3])]


def test_the_queue_is_bounded_and_a_failing_pass_fails_its_own_requests_only() -> None:
    fail = [True]

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        if fail.pop():
            raise ZeroDivisionError
        return images

    async def run() -> None:
        batcher, model, image = Batcher(compute, batch=2, queue=3), nn.Identity(), torch.zeros(2, 1, 1, 1)
        first = asyncio.create_task(batcher.submit(model, image))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await asyncio.wait_for(batcher.submit(model, image), 1)
        with pytest.raises(ValueError, match="1 to 2 images"):
            await batcher.submit(model, torch.zeros(3, 1, 1, 1))
        worker = asyncio.create_task(batcher.run())
        with pytest.raises(ZeroDivisionError):
            await first
        fail.append(False)
        assert torch.equal(await batcher.submit(model, image), image)
        worker.cancel()

    asyncio.run(run())


def test_who_gave_up_takes_no_place_in_a_pass() -> None:
    seen = []

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        seen.append(images.flatten().tolist())
        return images

    async def run() -> None:
        batcher, model = Batcher(compute, batch=8, queue=8), nn.Identity()
        tasks = [asyncio.create_task(batcher.submit(model, torch.full((1, 1, 1, 1), n))) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        worker = asyncio.create_task(batcher.run())
        await asyncio.gather(tasks[0], tasks[2])
        worker.cancel()

    asyncio.run(run())
    assert seen == [[0, 2]]


# --- the service's answers ---


def test_raw_batches_and_pngs_get_the_offline_answers(http: TestClient) -> None:
    x = encrypt_images(IMAGES[:9], KEY)
    expected = predict(encrypt_model(load_pretrained("digits"), KEY), x).softmax(1)
    answer = http.post("/v1/classify?count=9", content=raw(x), headers=RAW).json()
    assert torch.allclose(torch.tensor(answer["probabilities"]), expected, atol=1e-5)
    assert answer["labels"] == [str(n) for n in expected.argmax(1).tolist()]
    assert answer["key_id"] == ID
    for image, row in zip(x, expected, strict=True):
        one = http.post("/v1/classify", content=png(image), headers={"Content-Type": "image/png"}).json()
        assert torch.allclose(torch.tensor(one["probabilities"]), row[None], atol=1e-5)


def test_a_vision_transformer_under_a_key_and_an_order_of_blocks_is_one_more_model_file(tmp_path: Path) -> None:
    key = Key.from_seed(1, 4, 3).then(BlockOrder.from_seed(1, 4, 3, grid=(8, 8)))
    key_id = save_key(key, tmp_path / "key.json")
    (tmp_path / "models").mkdir()
    assert main(["encrypt-model", "vit", f"{tmp_path}/key.json", f"{tmp_path}/models/vit.safetensors"]) == 0
    x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = predict(load_pretrained("vit"), x).softmax(1)
    with TestClient(create_app(Models([tmp_path / "models"])), "http://localhost") as http:
        answer = http.post("/v1/classify?count=4", content=raw(encrypt_images(x, key)), headers=RAW).json()
    assert answer["key_id"] == key_id
    assert torch.allclose(torch.tensor(answer["probabilities"]), expected, atol=1e-5)
    assert set(answer["labels"]) <= set(CIFAR10_CLASSES)


def test_colour_pngs_arrive_channel_first(tmp_path: Path) -> None:
    card = ModelCard(ID, 4, 3, 4, 8, ("a", "b"))
    image = torch.randint(256, (1, 3, 4, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream = io.BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(stream, "PNG")
    assert torch.equal(provider.decode_png(stream.getvalue(), 1, card), image)
    assert torch.equal(provider.decode_raw(raw(image), 1, card), image)


def test_health_card_page_and_reference_are_there(http: TestClient) -> None:
    assert http.get("/health").json()["status"] == "ok"
    assert http.get("/v1/models").json() == [
        {"key_id": ID, "patch_size": 2, "channels": 1, "height": 8, "width": 8, "classes": list(DIGITS)}
    ]
    for path in ("/", "/docs"):
        page = http.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/v1/classify" in http.get("/openapi.json").json()["paths"]


def test_the_page_names_nothing_outside_itself() -> None:
    for path in provider.PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import", text), path.name


def picture(mode: str, size: tuple[int, int] = (8, 8), format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int, *extra: bytes, rows: int | None = None) -> bytes:
    """A PNG of side × side grey pixels, all black, small as a file; other chunks before them; or fewer rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    squeezed = zlib.compressobj(9)
    pixels = (
        b"".join(squeezed.compress(bytes(side + 1)) for _ in range(side if rows is None else rows)) + squeezed.flush()
    )
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


TEXT_BOMB = bomb(8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))])
ZIP = gzip.compress(bytes(50_000_000))
GOOD = picture("L")
PNG_TYPE = {"Content-Type": "image/png"}
ABUSE: dict[str, tuple[bytes, dict[str, str], str, int, str]] = {
    # name: body, headers, query, status, words of the answer
    "not a PNG": (b"hello", PNG_TYPE, "", 422, "not a complete PNG"),
    "no body": (b"", PNG_TYPE, "", 422, "not a complete PNG"),
    "half a PNG": (GOOD[: len(GOOD) // 2], PNG_TYPE, "", 422, "not a complete PNG"),
    "PNG with three of eight rows": (bomb(8, rows=3), PNG_TYPE, "", 422, "not a complete PNG"),
    "PNG with a damaged byte": (GOOD[:45] + b"\xff" + GOOD[46:], PNG_TYPE, "", 422, "not a complete PNG"),
    "JPEG": (picture("L", format="JPEG"), PNG_TYPE, "", 422, "not a complete PNG"),
    "wrong size": (picture("L", (16, 8)), PNG_TYPE, "", 422, "expected 8 x 8"),
    "colour for grey": (picture("RGB"), PNG_TYPE, "", 422, "expected 8 x 8 in mode L"),
    "16 bits a pixel": (picture("I;16"), PNG_TYPE, "", 422, "expected 8 x 8 in mode L"),
    "palette": (picture("P"), PNG_TYPE, "", 422, "expected 8 x 8 in mode L"),
    "PNG bomb": (bomb(6_000), PNG_TYPE, "", 422, "expected 8 x 8"),
    "bomb in a PNG's text": (TEXT_BOMB, PNG_TYPE, "", 422, "not a complete PNG"),
    "zip bomb": (ZIP, RAW | {"Content-Encoding": "gzip"}, "", 415, "without Content-Encoding"),
    "two images in a PNG": (GOOD, PNG_TYPE, "?count=2", 422, "one image"),
    "wrong shape": (bytes(63), RAW, "", 422, "got 63 bytes, expected 64"),
    "float32": (bytes(256), RAW, "", 422, "uint8"),
    "wrong count": (bytes(64), RAW, "?count=2", 422, "got 64 bytes, expected 128"),
    "count 0": (bytes(64), RAW, "?count=0", 422, "count"),
    "count without end": (bytes(64), RAW, f"?count={10**30}", 422, "count"),
    "no content type": (bytes(64), {"Content-Type": ""}, "", 415, "no content type"),
    "wrong content type": (b"{}", {"Content-Type": "application/json"}, "", 415, "got application/json"),
    "too large": (bytes(10_000_000), RAW, "", 413, "send fewer images"),
    "key id that is none": (bytes(64), RAW | {"Key-Id": "../../etc"}, "", 422, "key-id"),
    "unknown key id": (bytes(64), RAW | {"Key-Id": OTHER}, "", 404, "ask who issued your key"),
}


@pytest.mark.parametrize("name", ABUSE)
def test_what_is_wrong_gets_a_clear_4xx(http: TestClient, name: str) -> None:
    body, headers, query, status, words = ABUSE[name]
    response = http.post("/v1/classify" + query, content=body, headers=headers)
    assert response.status_code == status, response.text
    assert words.lower() in response.json()["detail"].lower()
    assert http.post("/v1/classify", content=GOOD, headers=PNG_TYPE).status_code == 200


def deep() -> bytes:
    """An RGB PNG of 16 bits a channel, of which Pillow would drop half."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 4, 16, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + bytes(48)) * 4))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def colour(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 4)).save(stream, "PNG", **options)
    return stream.getvalue()


PNGS = {
    "16 bits": (deep(), "more than 8 bits a channel"),
    "two frames": (colour(save_all=True, append_images=[Image.new("RGB", (8, 4), "red")]), "several frames"),
    "linear light": (colour()[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + colour()[33:], "its gamma is 1,"),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_that_means_more_than_its_pixels_is_a_422(name: str) -> None:
    content, words = PNGS[name]
    with pytest.raises(HTTPException) as caught:
        provider.decode_png(content, 1, ModelCard(ID, 4, 3, 4, 8, ("a", "b")))
    assert caught.value.status_code == 422
    assert words in caught.value.detail


def test_outside_the_page_no_file_is_served(http: TestClient) -> None:
    for path in ("/page/../provider.py", "/page/%2e%2e/provider.py", "/page/..%2fprovider.py", "/page//etc/passwd"):
        assert http.get(path).status_code == 404


@pytest.mark.parametrize(
    ("given", "status"),
    [(None, 401), ("Bearer wrong", 401), ("Bearer ", 401), ("Basic secret", 401), ("Bearer secret", 200)],
)
def test_a_token_is_asked_for_where_there_is_one(models: Models, given: str | None, status: int) -> None:
    headers = {"Authorization": given} if given else {}
    with TestClient(create_app(models, token="secret"), "http://localhost") as http:
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models", headers=headers).status_code == status
        response = http.post("/v1/classify", content=bytes(64), headers=RAW | headers)
        assert response.status_code == status
        if status == 401:
            assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_full_queue_is_a_503_that_says_when_to_come_back(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    running, gate = threading.Semaphore(0), threading.Event()

    def slow(model: nn.Module, images: Tensor) -> Tensor:
        running.release()
        gate.wait()
        return torch.ones(len(images), 10)

    monkeypatch.setattr(provider, "probabilities", slow)
    statuses: list[int] = []
    with TestClient(create_app(models, limits=Limits(batch=1, queue=1)), "http://localhost") as http:

        def ask() -> None:
            statuses.append(http.post("/v1/classify", content=bytes(64), headers=RAW).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]  # one runs, one waits: full
        threads[0].start()
        assert running.acquire(timeout=PATIENCE)
        threads[1].start()
        end = time.monotonic() + PATIENCE
        while http.get("/health").json()["waiting"] == 0:
            assert time.monotonic() < end
        refused = http.post("/v1/classify", content=bytes(64), headers=RAW)
        gate.set()
        for thread in threads:
            thread.join()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "busy" in refused.json()["detail"]
    assert statuses == [200, 200]


def test_bodies_are_bounded_all_together(models: Models) -> None:
    """Slow ones hold what they will need from the start; who finds no room hears it at once, and room comes back."""

    async def run() -> None:
        app, opened = create_app(models, limits=Limits(memory=150_000)), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            await opened.wait()
            yield bytes(64)

        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            held = [asyncio.create_task(http.post("/v1/classify", content=slow(), headers=RAW)) for _ in range(2)]
            await asyncio.sleep(0.2)
            refused = await asyncio.wait_for(http.post("/v1/classify", content=bytes(64), headers=RAW), PATIENCE)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert (await http.get("/health")).status_code == 200
            opened.set()
            assert [(await answer).status_code for answer in held] == [200, 200]
            assert (await http.post("/v1/classify", content=bytes(64), headers=RAW)).status_code == 200
            too_large = await http.post("/v1/classify", content=bytes(70_000), headers=RAW)
            assert too_large.status_code == 413

    asyncio.run(run())


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("can't allocate"), ValueError])
def test_a_pass_that_fails_fails_its_request_and_no_other(
    models: Models, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch, TestClient(create_app(models), "http://localhost") as http:
        patch.setattr(torch, "cat", lambda *_: (_ for _ in ()).throw(error))
        failed = http.post("/v1/classify", content=bytes(64), headers=RAW)
        assert failed.status_code == (503 if error is MemoryError else 500)
        assert "default-src" in failed.headers["content-security-policy"]
        patch.undo()
        assert http.post("/v1/classify", content=bytes(64), headers=RAW).status_code == 200
        assert http.get("/health").status_code == 200


def test_health_says_when_nothing_computes_any_more(models: Models) -> None:
    app = create_app(models)
    assert TestClient(app, "http://localhost").get("/health").status_code == 503
    with TestClient(app, "http://localhost") as http:
        assert http.get("/health").status_code == http.head("/health").status_code == 200
        assert http.head("/v1/classify").status_code == 405


def test_an_answer_that_is_no_number_is_a_500(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "probabilities", lambda model, images: torch.full((len(images), 10), torch.nan))
    with TestClient(create_app(models), "http://localhost") as http:
        answer = http.post("/v1/classify", content=bytes(64), headers=RAW)
    assert answer.status_code == 500
    assert "no number" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("192.0.2.1", 200),
        ("[::1]:8000", 200),
        ("provider.example:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[::1", 421),
        ("evil.example@127.0.0.1", 421),
        ("[::ffff:127.0.0.1%25evil]", 421),
        ("*", 421),
    ],
)
def test_it_answers_to_its_own_names_only(models: Models, host: str, status: int) -> None:
    with TestClient(create_app(models, names=["Provider.example"]), "http://localhost") as http:
        for path in ("/", "/health", "/v1/models", "/page/app.js", "/none"):
            answer = http.get(path, headers={"Host": host})
            assert (answer.status_code == 421) == (status == 421)
            assert guard.HEADERS.keys() <= answer.headers.keys()


@pytest.mark.parametrize("prefix", ["", "/mixer", "/a/b"])
@pytest.mark.parametrize("taken_off", [True, False])
def test_behind_a_proxy_with_a_prefix(models: Models, prefix: str, taken_off: bool) -> None:
    with TestClient(create_app(models, prefix=prefix), "http://localhost") as http:
        at = "" if taken_off else prefix
        for path in ("/", "/docs", "/health", "/v1/models", "/page/app.js", "/page/palette.css", "/openapi.json"):
            assert http.get(at + path).status_code == 200, path
        assert http.post(f"{at}/v1/classify", content=bytes(64), headers=RAW).status_code == 200
        if prefix and not taken_off:
            for method in ("GET", "HEAD"):
                there = http.request(method, f"{prefix}?a=b", follow_redirects=True)
                assert (there.status_code, there.url.path) == (200, f"{prefix}/")
            assert http.get(f"{prefix}x").status_code == 404
            assert http.get(prefix, headers={"Host": "evil.example"}).status_code == 421


def test_the_last_reload_that_was_asked_for_is_the_one_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that is slow, begun before a key was withdrawn, does not bring the key back."""
    lock(KEY, ID, tmp_path / "a.safetensors")
    lock(WRONG, OTHER, tmp_path / "b.safetensors")
    models = Models([tmp_path])
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> tuple:
        found = load_encrypted(path)
        begun.set()
        go_on.wait(PATIENCE)
        return found

    monkeypatch.setattr(provider, "load_encrypted", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(models.reload)
        assert begun.wait(PATIENCE)
        monkeypatch.setattr(provider, "load_encrypted", load_encrypted)
        (tmp_path / "a.safetensors").rename(tmp_path / "withdrawn")
        second = pool.submit(models.reload)
        time.sleep(0.2)
        go_on.set()
        for reload in (first, second):
            with suppress(OSError):
                reload.result(PATIENCE)
    assert list(models.served) == [OTHER]


def test_an_answer_that_takes_too_long_is_a_503(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow(model: nn.Module, images: Tensor) -> Tensor:
        gate.wait()
        return torch.ones(len(images), 10)

    monkeypatch.setattr(provider, "probabilities", slow)
    with TestClient(create_app(models, limits=Limits(seconds=0.05)), "http://localhost") as http:
        response = http.post("/v1/classify", content=bytes(64), headers=RAW)
        gate.set()
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"


# --- several models, and reading them again ---


def test_while_two_models_are_served_the_key_id_chooses(tmp_path: Path) -> None:
    lock(KEY, ID, tmp_path / "a.safetensors")
    lock(WRONG, OTHER, tmp_path / "b.safetensors")
    with TestClient(create_app(Models([tmp_path])), "http://localhost") as http:
        for key, key_id in ((KEY, ID), (WRONG, OTHER)):
            body = raw(encrypt_images(IMAGES[:100], key))
            answer = http.post("/v1/classify?count=100", content=body, headers=RAW | {"Key-Id": key_id}).json()
            right = sum(int(a) == b for a, b in zip(answer["labels"], LABELS[:100].tolist(), strict=True))
            assert (answer["key_id"], right >= 95) == (key_id, True)
        missing = http.post("/v1/classify", content=bytes(64), headers=RAW)
    assert missing.status_code == 400
    assert all(word in missing.json()["detail"] for word in ("Key-Id", ID, OTHER))


@pytest.mark.parametrize(
    ("put", "message"),
    [
        pytest.param(lambda path: path.write_bytes(b""), "not a whole one", id="nothing"),
        pytest.param(lambda path: path.write_bytes(b"half a file"), "not a whole one", id="half a file"),
        pytest.param(lambda path: lock(WRONG, ID, path), "another model", id="another of that id"),
        pytest.param(lambda path: path.mkdir(), "no regular file", id="a folder"),
        pytest.param(lambda path: os.mkfifo(path), "no regular file", id="a pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "no regular file", id="a link to a device"),
        pytest.param(lambda path: path.symlink_to("none"), "no such file", id="a dangling link"),
        pytest.param(lambda path: path.symlink_to(path), "no such file", id="a link to itself"),
    ],
)
def test_a_reload_that_meets_something_else_names_it_and_changes_nothing(
    tmp_path: Path, put: Callable[[Path], object], message: str
) -> None:
    lock(KEY, ID, tmp_path / "a.safetensors")
    models = Models([tmp_path])
    before = dict(models.served)
    put(tmp_path / "b.safetensors")
    with pytest.raises((OSError, ValueError), match=message) as caught:
        models.reload()
    assert "b.safetensors" in str(caught.value)
    assert models.served == before


def test_a_folder_without_models_or_that_cannot_be_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, key_id in (("a", ID), ("b", OTHER)):
        (tmp_path / name).mkdir()
        lock(KEY, key_id, tmp_path / name / "model.safetensors")
    models, iterdir = Models([tmp_path / "a", tmp_path / "b"]), Path.iterdir
    before = dict(models.served)

    def closed(folder: Path) -> Iterator[Path]:
        if folder == tmp_path / "b":
            raise PermissionError("Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(PermissionError):
        models.reload()
    monkeypatch.undo()
    for name in ("a", "b"):
        (tmp_path / name / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model to serve"):
        models.reload()
    assert models.served == before


def test_a_macs_notes_on_a_model_are_no_model(tmp_path: Path) -> None:
    lock(KEY, ID, tmp_path / "a.safetensors")
    (tmp_path / "._a.safetensors").write_bytes(b"notes")
    assert list(Models([tmp_path]).served) == [ID]


# --- connections that dawdle or lie, on a real socket ---


@contextmanager
def running(models: Models, limits: Limits) -> Iterator[int]:
    """A provider in a thread; its port."""
    with serving(make_server(create_app(models, limits=limits), limits)) as port:
        yield port


@contextmanager
def serving(server: uvicorn.Server) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(models: Models) -> Iterator[int]:
    """A server with little patience."""
    with running(models, Limits(seconds=0.5)) as port:
        yield port


def talk(port: int, *parts: bytes) -> bytes:
    """Send the parts, and read until the other side closes; it must, within half a minute."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65_536):
                received += data
        except (BrokenPipeError, ConnectionResetError):  # it has answered and gone
            pass
        return received


HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"


WHOLE = HEAD + b"Content-Length: 64\r\n\r\n" + bytes(64)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\n" + bytes(64) + b"\r\n0\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def patient_port(models: Models) -> Iterator[int]:
    with running(models, Limits(seconds=2 * PATIENCE)) as port:
        yield port


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param(WHOLE, 1, id="whole"),
        pytest.param(CHUNKED, 1, id="chunked"),
        pytest.param(HEALTH, 1, id="no body"),
        pytest.param(3 * (WHOLE + HEALTH + CHUNKED), 9, id="nine in a row"),
        pytest.param(WHOLE + HEAD, 1, id="one and half the headers"),
        pytest.param(WHOLE + WHOLE[:-1], 1, id="one and half a body"),
        pytest.param(HEAD, 0, id="half the headers"),
        pytest.param(WHOLE[:-1], 0, id="half a body"),
        pytest.param(CHUNKED[:-3], 0, id="no end"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
def test_who_shuts_its_own_direction_gets_the_answers_to_all_that_it_has_sent_whole(
    patient_port: int, sent: bytes, answers: int
) -> None:
    with socket.create_connection(("127.0.0.1", patient_port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65_536):  # until the provider closes, long before its deadline
            received += data
    assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1") == answers


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked", "Content-Length and Transfer-Encoding"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 77", "Content-Length and Transfer-Encoding"),
        (b"Content-Length: 64\r\nContent-Type: image/png", "two of Content-Type"),
        (b"Content-Length: 64\r\nContent-Encoding: identity\r\nContent-Encoding: gzip", "two of Content-Encoding"),
        (b"Content-Length: 64\r\nKey-Id: 00d1f2e3a4b5c6d7\r\nKey-Id: 10d1f2e3a4b5c6d7", "two of Key-Id"),
        (b"Content-Length: 64\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b", "two of Authorization"),
        (b"Content-Length: 64\r\nContent-Type: application/octet-stream", ""),
        (b"Content-Length: 64\r\nX-Forwarded-For: ::1\r\nX-Forwarded-For: ::2", ""),
    ],
)
def test_what_a_proxy_may_read_otherwise_is_refused_and_nothing_after_it_is_answered(
    port: int, headers: bytes, said: str
) -> None:
    body = CHUNKED.partition(b"\r\n\r\n")[2] if b"chunked" in headers else bytes(64)
    received = talk(port, HEAD + headers + b"\r\n\r\n" + body + HEALTH)
    statuses = [int(answer[:3]) for answer in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == ([400] if said else [200, 200])
    assert said.encode() in received


def test_a_slow_body_is_a_408(port: int) -> None:
    answer = talk(port, HEAD + b"Content-Length: 64\r\n\r\n", bytes(10))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within" in answer


@pytest.mark.parametrize("sent", [b"", b"POST /v1/cl", HEAD], ids=["nothing", "half a line", "half the headers"])
def test_headers_that_never_come_are_not_waited_for(port: int, sent: bytes) -> None:
    assert talk(port, sent) == b""


def test_headers_of_a_second_request_that_never_come_are_not_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        while connection.recv(65_536):
            pass


def test_a_body_without_end_is_a_413(port: int) -> None:
    chunks = [b"10000\r\n" + bytes(65_536) + b"\r\n"] * 200
    answer = talk(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")  # the answer may be lost while we still send


def test_a_huge_header_is_a_400(port: int) -> None:
    answer = talk(port, HEAD + b"X: " + b"a" * 60_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, b"hello"])
def test_what_is_not_http_is_a_400(port: int, sent: bytes) -> None:
    assert talk(port, sent + b"\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not this computer")
def test_idle_connections_shut_nobody_else_out_and_are_closed(models: Models) -> None:
    def ask(port: int, address: str) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 30, (address, 0)) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return connection.recv(12)
        except ConnectionResetError:
            return b""

    with running(models, Limits(connections=6, seconds=5)) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        assert ask(port, "127.0.0.1") == b"", "one address has at most half of them"
        assert ask(port, "127.0.0.2") == b"HTTP/1.1 200"
        assert [connection.recv(1) for connection in idle] == [b""] * 3, "it has closed them"
        assert ask(port, "127.0.0.1") == b"HTTP/1.1 200"
        for connection in idle:
            connection.close()


def test_who_does_not_read_the_answer_is_cut_off() -> None:
    async def generous(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await Starlette()(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2**8):  # MiB
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})

    received = 0
    with (
        serving(make_server(generous, Limits(seconds=0.2))) as port,  # type: ignore[arg-type]
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
        suppress(ConnectionResetError),
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(1)
        time.sleep(2)
        while data := connection.recv(2**20):
            received += len(data)
    assert received < 2**27, "it was still sending"


def test_a_stream_that_ends_early_does_no_harm(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(HEAD + b"Content-Length: 64\r\n\r\n" + bytes(10))
    answer = talk(port, HEAD + b"Content-Length: 64\r\nConnection: close\r\n\r\n" + bytes(64))
    assert answer.startswith(b"HTTP/1.1 200")


# --- the client ---

CARD = {"key_id": ID, "patch_size": 2, "channels": 1, "height": 8, "width": 8, "classes": ["a"]}


def answering(*responses: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A provider that answers to the model cards by one, and to what follows by these."""
    seen: list[httpx.Request] = []
    rest = list(responses)

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=[CARD])
        seen.append(request)
        response = rest.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    return httpx.MockTransport(handle), seen


def certain(count: int) -> httpx.Response:
    return httpx.Response(200, json={"key_id": ID, "labels": ["a"] * count, "probabilities": [[1.0]] * count})


def test_the_client_comes_back_after_a_503_or_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy = httpx.Response(503, json={"detail": "busy"}, headers={"Retry-After": "3"})
    transport, seen = answering(httpx.ConnectError("refused"), busy, httpx.ReadError("reset"), certain(1))
    with Client("http://x", KEY, transport=transport) as client:
        assert client.classify(IMAGES[:1]).tolist() == [[1.0]]
    assert len({request.content for request in seen}) == 1, "each time the same images"
    assert len(waits) == 3
    assert waits[1] >= 3


def test_clients_that_failed_together_come_back_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for _ in range(20):
        transport, _ = answering(httpx.ReadError("reset"), certain(1))
        Client("http://x", KEY, transport=transport).classify(IMAGES[:1])
    assert len(set(waits)) == 20


def certificate() -> Exception:
    """What httpx raises for a certificate that does not hold."""
    error = httpx.ConnectError("certificate")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    return error


def no_host(code: int) -> Exception:
    error = httpx.ConnectError("no host")
    error.__cause__ = socket.gaierror(code, "unknown")
    return error


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401, json={"detail": "a valid token is needed"}), "401.*token is needed"),
        (httpx.Response(502, text="<html>proxy"), "502.*proxy"),
        (httpx.Response(302, headers={"Location": "http://elsewhere/"}), "302"),
        (httpx.Response(500, json={"detail": ["a", "list"]}), "500.*list"),
        (httpx.Response(404, text="\x1b]0;title\x07\x1b[2Jred\n\n"), r"404\): \]0;title \[2Jred$"),
        (httpx.Response(503, json={"detail": "busy"}, headers={"Retry-After": "86400"}), "come back in 86400 seconds"),
        (httpx.UnsupportedProtocol("gopher"), "no answer from x: gopher"),
        (httpx.ProxyError("407"), "no answer from x: 407"),
        (certificate(), "no answer from x: certificate"),
        (no_host(socket.EAI_NONAME), "no answer from x: no host"),
        (httpx.DecodingError("gzip"), "an encoding that was not asked for"),
    ],
)
def test_the_client_does_not_repeat_what_was_refused(response: httpx.Response | Exception, message: str) -> None:
    transport, seen = answering(response)
    with Client("http://x", KEY, transport=transport) as client, pytest.raises(ProviderError, match=message) as caught:
        client.classify(IMAGES[:1])
    assert len(seen) == 1
    assert str(caught.value).isprintable()


ROWS: dict[str, object] = {"key_id": ID, "labels": ["a"], "probabilities": [[1.0]]}


NO_ROWS: list[object] = [None, [], 1, [1.0], [[1.0, 0.0]], [[1.0], [1.0]], [["a"]], [[None]], [[-1.0]], [[2.0]], {}]
NO_ROWS += [[[0.25]], [[0.0]], [[True]], [[0.99]]]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps(ROWS | {"key_id": OTHER}).encode(),
        json.dumps({"probabilities": [[1.0]]}).encode(),
        *(json.dumps(ROWS | {"probabilities": rows}).encode() for rows in NO_ROWS),
        json.dumps(ROWS | {"probabilities": [[float("nan")]]}).encode(),
        json.dumps(ROWS | {"probabilities": [[10**400]]}).encode(),
        json.dumps(ROWS)[:-1].encode() + b', "probabilities": [[0.5]]}',
    ],
)
def test_an_answer_that_is_none_is_said_to_be(answer: bytes) -> None:
    transport, seen = answering(httpx.Response(200, content=answer))
    with pytest.raises(ProviderError, match="the provider's answer can't be used: ") as caught:
        Client("http://x", KEY, transport=transport).classify(IMAGES[:1])
    assert str(caught.value).isprintable()
    assert len(seen) == 1


PROBABILITIES: list[tuple[list[float], bool]] = [
    ([0.333] * 3, True),
    ([1, 0, 0], True),
    ([0.25] * 3, False),
    ([1.5, -0.5, 0], False),
    ([True, False, False], False),
    ([1.0, 0.0, False], False),
]


@pytest.mark.parametrize(("row", "good"), PROBABILITIES)
def test_rows_are_probabilities_to_rounding(row: list[float], good: bool) -> None:
    card = ModelCard(ID, 2, 1, 8, 8, ("a", "b", "c"))
    answer = json.dumps({"key_id": ID, "probabilities": [row]}).encode()
    with nullcontext() if good else pytest.raises(ProviderError, match="it holds what is no probability"):
        assert client_module._rows(answer, card, 1).tolist() == [pytest.approx(row)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({"tries": tries}, ValueError) for tries in (0, -1)),
        *(({"seconds": seconds}, ValueError) for seconds in (0, -1.0, float("nan"), float("inf"), 1e12)),
        *(({"tries": tries}, TypeError) for tries in ("8", 8.0, None)),
        *(({"seconds": seconds}, TypeError) for seconds in ("60", None, (1, 2))),
    ],
)
def test_a_client_needs_time_and_a_try(options: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Client("http://x", KEY, **options)


LOCKED, ODD = load_pretrained("digits"), cast(Any, "odd")
NONE: dict[str, tuple[Callable[[Path, Client], object], str]] = {
    "a client's key": (lambda path, client: Client("http://x", ODD), "need a key, .* got str"),
    "images": (lambda path, client: client.classify(ODD), "must be a torch.Tensor, got str"),
    "images in an array": (lambda path, client: client.classify(cast(Any, IMAGES.numpy())), "Tensor, got ndarray"),
    "batch": (lambda path, client: client.classify(IMAGES[:1], batch=ODD), "batch must be an integer, got str"),
    "old key": (lambda path, client: rotate_model(LOCKED, ODD, KEY), "need a key, .* got str"),
    "new key": (lambda path, client: rotate_model(LOCKED, KEY, ODD), "need a key, .* got str"),
    "key to decrypt with": (lambda path, client: decrypt_model(LOCKED, ODD), "need a key, .* got str"),
    "network": (lambda path, client: save_encrypted(ODD, ModelCard(ID, 2, 1, 8, 8, DIGITS), path), "got str"),
    "card": (lambda path, client: save_encrypted(LOCKED, ODD, path), "need a ModelCard, got str"),
    "key": (lambda path, client: key_files.save_key(ODD, path), "need a key, .* got str"),
    "key with an id": (lambda path, client: save_key(ODD, path), "need a key, .* got str"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_of_another_type_is_named(tmp_path: Path, name: str) -> None:
    call, message = NONE[name]
    with (
        Client("http://x", KEY, transport=answering(certain(1))[0]) as client,
        pytest.raises(TypeError, match=f"{message}[^\n]*$"),
    ):
        call(tmp_path / "a", client)
    assert not list(tmp_path.iterdir())


def test_paths_of_models_may_be_text(tmp_path: Path) -> None:
    lock(KEY, ID, tmp_path / "a.safetensors")
    for paths in (str(tmp_path), tmp_path, [str(tmp_path / "a.safetensors")]):
        assert list(Models(paths).served) == [ID]


def test_an_answer_that_trickles_without_end_is_not_waited_for() -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" "
            time.sleep(0.01)

    transport, seen = answering(httpx.Response(200, content=trickle()))
    with pytest.raises(ProviderError, match="does not come to its end in time"):
        Client("http://x", KEY, seconds=0.1, transport=transport).classify(IMAGES[:1])
    assert len(seen) == 1


@pytest.mark.parametrize(
    "cards",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        *(
            json.dumps([CARD | changes]).encode()
            for changes in (
                {"key_id": 1},
                {"height": 10**9},
                {"height": 8.0},
                {"channels": True},
                {"classes": "ab"},
                {"classes": ["\x1b[2J"]},
                {"classes": [1]},
                {"more": 1},
            )
        ),
    ],
)
def test_cards_that_are_none_are_said_to_be(cards: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=cards))
    with pytest.raises(ProviderError, match="does not answer by model cards: ") as caught:
        Client("http://x", KEY, transport=transport).card()
    assert str(caught.value).isprintable()


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LARGEST_ANSWER", 2**20)
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(2**16)

    transport, _ = answering(httpx.Response(200, content=endless()))
    with (
        Client("http://x", KEY, transport=transport) as client,
        pytest.raises(ProviderError, match="larger than 1 MiB"),
    ):
        client.classify(IMAGES[:1])
    assert len(taken) < 20


@pytest.mark.parametrize("key", [Key.from_seed(0, 4, 1), Key.from_seed(0, 2, 3), Key.from_seed(0, 4, 3)])
def test_a_key_for_other_blocks_than_the_models_is_refused_before_anything_is_sent(key: Key) -> None:
    transport, seen = answering()
    with Client("http://x", key, transport=transport) as client, pytest.raises(ValueError, match="another model's key"):
        client.classify(IMAGES[:1])
    assert seen == []


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://[::1", "file:///etc/passwd", "http://\n"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Client(url, KEY)


@pytest.mark.parametrize("token", ["", " \n", "two words", "two\nlines", "é", "a\0b", "a\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(models: Models, token: str) -> None:
    for take in (lambda: Client("http://x", KEY, token=token), lambda: create_app(models, token=token)):
        with pytest.raises(ValueError, match="token") as caught:
            take()
        assert not token.strip() or token not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "url", "proxied"),
    [
        ({}, "http://provider:1", False),
        ({"http_proxy": "http://proxy:3128"}, "http://provider:1", True),
        ({"http_proxy": "http://proxy:3128"}, "https://provider:1", False),
        ({"all_proxy": "http://proxy:3128"}, "https://provider:1", True),
        ({"http_proxy": "http://proxy:3128"}, "http://127.0.0.1:8000", False),
        ({"http_proxy": "http://proxy:3128"}, "http://[::1]:8000", False),
        ({"http_proxy": "http://proxy:3128"}, "http://localhost:8000", False),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost,[::1]"}, "http://provider:1", True),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "provider,[::1]"}, "http://provider:1", False),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "*"}, "http://provider:1", False),
        ({"http_proxy": ""}, "http://provider:1", False),
    ],
)
def test_the_environments_proxy_is_used_where_it_should_be(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxied: bool
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(httpx, "HTTPTransport", lambda proxy: asked.append(proxy))
    Client(url, KEY).close()
    assert asked == [environment.get("http_proxy") or environment.get("all_proxy") if proxied else None]


def test_a_proxy_that_cannot_be_used_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for proxy in ("socks5://127.0.0.1:1", "gopher://x", "http://[::1"):
        monkeypatch.setenv("all_proxy", proxy)
        with pytest.raises(ValueError, match=r"the proxy in the environment can't be used .*NO_PROXY=provider"):
            Client("http://provider:1", KEY)


def test_the_client_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    transport, _ = answering(*[httpx.ConnectError("refused")] * 3)
    client = Client("http://x", KEY, tries=3, transport=transport)
    with pytest.raises(ProviderError, match="refused; gave up after 3 tries"):
        client.classify(IMAGES[:1])


def test_the_client_sends_ciphertext_only_and_refuses_what_it_cannot_encrypt_exactly() -> None:
    transport, seen = answering(certain(4))
    client = Client("http://x", KEY, key_id=ID, token="secret", transport=transport)
    client.classify(IMAGES[:4])
    (request,) = seen
    assert request.content == raw(encrypt_images(IMAGES[:4], KEY))
    assert request.headers["Key-Id"] == ID
    for wrong in (IMAGES[:4].float(), IMAGES[0], IMAGES[:4, :, :4]):
        with pytest.raises(ValueError, match="uint8"):
            client.classify(wrong)
    assert client.classify(IMAGES[:0]).shape == (0, 1)


@pytest.mark.parametrize(("key_id", "message"), [(None, "say which is yours"), ("0" * 16, "get the new key")])
def test_the_client_says_when_no_model_is_for_its_key(key_id: str | None, message: str) -> None:
    cards = [CARD | {"key_id": i} for i in (ID, OTHER)]
    client = Client(
        "http://x", KEY, key_id=key_id, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=cards))
    )
    with pytest.raises(ProviderError, match=message):
        client.card()


# --- the commands ---


def test_the_commands_of_the_third_party(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = (str(tmp_path / name) for name in ("a.json", "b.json"))
    first, second = (str(tmp_path / "models" / name) for name in ("a.safetensors", "b.safetensors"))  # a new folder
    shape = ["--patch-size", "2", "--channels", "1"]
    assert main(["keygen", a, *shape]) == main(["keygen", b, *shape]) == 0
    assert main(["encrypt-model", "digits", a, first]) == 0
    assert main(["rotate", first, a, b, second]) == 0
    plain, key = load_pretrained("digits"), Key.load(b)
    model, card = load_encrypted(second)
    assert torch.equal(patch_matrix(model), patch_matrix(encrypt_model(plain, key)))
    assert (card.key_id, card.shape, card.classes) == (load_key_id(b), (1, 8, 8), DIGITS)
    printed = capsys.readouterr().out
    for secret in (Key.load(a), key):
        assert str(secret.permutation.tolist()) not in printed
    with pytest.raises(SystemExit, match="but the old key's is"):
        main(["rotate", second, a, b, first])


def test_a_trained_model_needs_its_image_size_and_may_name_its_classes(tmp_path: Path) -> None:
    key, model, out = (str(tmp_path / name) for name in ("key.json", "model.safetensors", "out.safetensors"))
    save_model(ConvMixer(4, 1, 3, num_classes=2), model)
    main(["keygen", key, "--patch-size", "4", "--channels", "3"])
    with pytest.raises(SystemExit, match=r"pixels wide and high the images are: --side PIXELS$"):
        main(["encrypt-model", model, key, out])
    main(["encrypt-model", model, key, out, "--side", "16"])
    assert load_encrypted(out)[1].classes == ("0", "1")
    main(["encrypt-model", model, key, out, "--side", "16", "--classes", "cat, dog"])
    assert load_encrypted(out)[1].classes == ("cat", "dog")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_picture_is_encrypted_and_decrypted(tmp_path: Path, mode: str, channels: int) -> None:
    key = Key.from_seed(3, 4, channels)
    key.save(tmp_path / "key.json")
    size = (12, 8)
    pixels = torch.randint(256, (8, 12, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.frombytes(mode, size, pixels.numpy().tobytes()).save(tmp_path / "plain.png")
    names = [str(tmp_path / name) for name in ("plain.png", "locked.png", "back.png")]
    for command, source, target in (("encrypt", names[0], names[1]), ("decrypt", names[1], names[2])):
        assert main([command, source, target, "--key", str(tmp_path / "key.json")]) == 0
    read = {name: Image.open(tmp_path / name).tobytes() for name in ("plain.png", "locked.png", "back.png")}
    assert read["plain.png"] == read["back.png"] != read["locked.png"]
    expected = encrypt_images(pixels.permute(2, 0, 1), key).permute(1, 2, 0).contiguous()
    assert read["locked.png"] == expected.numpy().tobytes()


@pytest.mark.parametrize("command", ["encrypt-model digits key.json out", "encrypt in.png out.png --key key.json"])
def test_a_key_that_changes_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    save_key(SignedPermutation.identity(2, 1), "key.json")
    Image.new("L", (8, 8)).save("in.png")
    with pytest.raises(SystemExit, match="this key changes nothing, so that it protects nothing"):
        main(command.split())
    assert {path.name for path in tmp_path.iterdir()} == {"key.json", "in.png"}


def test_a_lossy_format_is_refused(tmp_path: Path) -> None:
    Key.from_seed(3, 4, 1).save(tmp_path / "key.json")
    Image.new("L", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(SystemExit, match=r"write a \.png"):
        main(["encrypt", str(tmp_path / "plain.png"), str(tmp_path / "a.jpg"), "--key", str(tmp_path / "key.json")])


COMMANDS = {  # the files that each reads, and then the one that it writes
    "encrypt-model": ("model.safetensors", "key.json", "OUT", "--side", "8"),
    "rotate": ("locked.safetensors", "key.json", "new.json", "OUT"),
    "encrypt": ("plain.png", "OUT", "--key", "key.json"),
    "decrypt": ("plain.png", "OUT", "--key", "key.json"),
}
OTHER_KEY = Key.from_seed(9, 2, 1)


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The third party's folder, in which it works."""
    monkeypatch.chdir(tmp_path)
    key_id = save_key(KEY, "key.json")
    save_key(WRONG, "new.json")
    save_model(load_pretrained("digits"), "model.safetensors")
    lock(KEY, key_id, Path("locked.safetensors"))
    Path("plain.png").write_bytes(png(IMAGES[0]))
    OTHER_KEY.save("other.json")
    OTHER_KEY.save("other.png")
    Path("old.id").write_text(f"{ID}\n")
    return tmp_path


@pytest.mark.parametrize("how", ["same", "dotted", "absolute", "link", "hard link"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_what_it_reads(third: Path, command: str, how: str) -> None:
    read = [name for name in COMMANDS[command] if Path(name).is_file()]
    before = {path.name: path.read_bytes() for path in third.iterdir()}
    for name in read:
        out = {"same": name, "dotted": f"./{name}", "absolute": str(third / name)}.get(how, f"again-{name}")
        if how == "link":
            Path(out).symlink_to(name)
        elif how == "hard link":
            os.link(name, out)
        with pytest.raises(SystemExit, match="is read from"):
            main([command, *(out if argument == "OUT" else argument for argument in COMMANDS[command])])
        assert {path.name: path.read_bytes() for path in third.iterdir() if path.name in before} == before


OURS = ("locked.safetensors", "model.safetensors", "plain.png")  # an encrypted network, a plain one, a picture
WRITERS: dict[str, tuple[Callable[[str], object], str]] = {  # what writes a network, and over which of those it may
    "encrypt-model": (lambda out: main(["encrypt-model", "digits", "key.json", out]), "locked.safetensors"),
    "rotate": (lambda out: main(["rotate", "again.safetensors", "key.json", "new.json", out]), "locked.safetensors"),
    "save_encrypted": (lambda out: lock(WRONG, ID, Path(out)), "locked.safetensors"),
    "save_model": (lambda out: save_model(load_pretrained("digits"), out), "model.safetensors"),
    "make_challenge": (lambda out: make_challenge(IMAGES[:2], 2, out), "none"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_network_is_written_over_one_of_its_kind_and_over_nothing_else(third: Path, writer: str) -> None:
    lock(KEY, load_key_id("key.json"), Path("again.safetensors"))
    Path("notes.txt").write_text("lecture 3")
    Path("empty").touch()
    Path("half.safetensors").write_bytes(Path("locked.safetensors").read_bytes()[:-1])
    Path("folder").mkdir()
    write, own = WRITERS[writer]
    before = {path: path.read_bytes() for path in third.iterdir() if path.is_file()}
    for out in {*OURS, "notes.txt", "empty", "half.safetensors", "folder", "key.json"} - {own, "again.safetensors"}:
        with pytest.raises((SystemExit, ValueError, OSError), match=r"exists already|is read from"):
            write(out)
        assert {path: path.read_bytes() for path in third.iterdir() if path.is_file()} == before
    if own in OURS:
        write(own)
        assert [path.name for path in third.iterdir() if path.is_file() and path not in before] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_a_key_or_its_id(third: Path, command: str) -> None:
    before = {path.name: path.read_bytes() for path in third.iterdir()}
    for out in ("other.json", "other.png", "old.id"):
        if command in ("encrypt", "decrypt") and not out.endswith(".png"):
            continue
        with pytest.raises(SystemExit, match=r"is not an encrypted network|there already, and not this picture"):
            main([command, *(out if argument == "OUT" else argument for argument in COMMANDS[command])])
    with pytest.raises(SystemExit, match="exists already"):
        main(["keygen", "other.json", "--patch-size", "2", "--channels", "1"])
    assert {path.name: path.read_bytes() for path in third.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keygen", "/dev/null/key.json", "--patch-size", "2", "--channels", "1"],
        ["keygen", "{}/key.json", "--patch-size", "0", "--channels", "1"],
        ["serve", "{}/none.safetensors"],
        ["serve", "{}"],
        ["classify", "--key", "{}/none.json"],
        ["encrypt", "{}/none.png", "{}/out.png", "--key", "{}/none.json"],
    ],
)
def test_what_a_reader_can_put_right_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^mixerkey: [^\n]+$"):
        main([argument.format(tmp_path) for argument in arguments])


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, 0),
        (KeyboardInterrupt(), 130),
        (ValueError("two\nlines \x1b[2J"), "mixerkey: two lines [2J"),
        (OSError(28, "No space left on device", "/x/a.json"), "mixerkey: /x/a.json: No space left on device"),
        (OSError(28, "No space left on device", b"/x/\xff"), "mixerkey: /x/ : No space left on device"),
        (OSError("odd"), "mixerkey: odd"),
        (MemoryError(), "mixerkey: MemoryError"),
        (RuntimeError("a"), "mixerkey: a"),
        (ModuleNotFoundError("no", name="fastapi"), "mixerkey: fastapi is missing; pip install 'mixerkey[service]'"),
    ],
)
def test_however_a_command_ends_a_script_can_tell(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None, ending: int | str
) -> None:
    def run(options: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(commands, "_keygen", run)
    arguments = ["keygen", "key.json", "--patch-size", "2", "--channels", "1"]
    if isinstance(ending, int):
        assert main(arguments) == ending
    else:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == ending


def test_nobody_reads_on(tmp_path: Path) -> None:
    """As with ``| head``: neither a traceback nor Python's complaint at the end."""
    for n, name in enumerate(("a", "b")):
        write_picture(IMAGES[n], tmp_path / "in" / f"{name}.png")
    KEY.save(tmp_path / "key.json")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mixerkey", "encrypt", "in", "out", "--key", "key.json"]
    with os.fdopen(writer, "wb") as stdout:
        ended = subprocess.run(command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_without_the_extra_the_commands_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mixerkey.parties.provider")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit, match=r"fastapi is missing; pip install 'mixerkey\[service\]'"):
        main(["serve", str(tmp_path)])


def test_a_password_in_the_address_does_not_take_the_place_of_the_token() -> None:
    with pytest.raises(ValueError, match="would replace the token"):
        Client("http://user:word@provider.example", KEY, token="secret")


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(SystemExit, match="is empty"):
        main(["serve", str(tmp_path), "--token-file", str(tmp_path / "token")])


def test_a_log_line_is_json_with_neither_headers_nor_body(caplog: pytest.LogCaptureFixture, http: TestClient) -> None:
    caplog.set_level("INFO", "mixerkey.parties")
    http.post("/v1/classify?count=1", content=raw(IMAGES[:1]), headers=RAW | {"Key-Id": ID})
    (record,) = [record for record in caplog.records if record.name == "mixerkey.parties"]
    fields = json.loads(guard.JSONLines().format(record))
    assert fields.keys() == {"time", "level", "event", "method", "route", "status", "ms"}
    assert (fields["method"], fields["route"], fields["status"]) == ("POST", "/v1/classify", 200)
