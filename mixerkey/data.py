"""Data sets (§4.1): digits and photographs that need no network, and CIFAR-10 from wherever a copy is."""

from __future__ import annotations

import hashlib
import http.client
import os
import pickletools
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor
from tqdm import tqdm

from mixerkey.files import one_line

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"  # as published beside the archive; the pixels are checked by SHA-256
TRIES = 5  # of one call, for a connection that is cut in the middle
TIMEOUT = 30  # seconds without a byte
# SHA-256 over the sorted SHA-256 digests of the images, each as bytes([label]) + its pixels in (row, column, channel).
CHECKSUMS = {
    "train": "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
    "test": "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
}
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
# What reading a damaged or foreign file can raise.
DAMAGE = (
    *(OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


class DataUnavailable(RuntimeError):
    """A data set that is not at hand; the message says how to get it."""


def load_digits(split: str) -> tuple[Tensor, Tensor]:
    """The pocket data set: scikit-learn's 1,797 real 8×8 grey digits, in 10 classes, in a fixed shuffled order.

    Args:
        split: "train" (1,437 images) or "test" (360).

    Returns:
        images uint8 (N, 1, 8, 8) and labels int64 (N,). The original 17 grey levels 0..16 are spread over 0..255.

    Raises:
        ValueError: another split.

    >>> images, labels = load_digits("test")
    >>> images.shape, images.dtype, labels.shape
    (torch.Size([360, 1, 8, 8]), torch.uint8, torch.Size([360]))
    """
    from sklearn.datasets import load_digits as sklearn_digits

    _check_split(split)
    pixels, labels = sklearn_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = _order(_digests(images, labels))
    chosen = order[:360] if split == "test" else order[360:]
    return torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]).long()


def load_photos() -> dict[str, Tensor]:
    """Two colour photographs from scikit-learn, for pictures of the cipher: uint8 (3, 416, 640), by name.

    The originals are 427 × 640; the last 11 rows are cut so that blocks of 2, 4, 8, 16 and 32 pixels fit.

    >>> {name: tuple(photo.shape) for name, photo in load_photos().items()}
    {'china': (3, 416, 640), 'flower': (3, 416, 640)}
    """
    from sklearn.datasets import load_sample_image

    return {
        name: torch.from_numpy(load_sample_image(f"{name}.jpg")[:416].copy()).permute(2, 0, 1).contiguous()
        for name in ("china", "flower")
    }


def load_cifar10(split: str, *, download: bool = True) -> tuple[Tensor, Tensor]:
    """CIFAR-10: 50,000 training and 10,000 test images in ten classes (`CIFAR10_CLASSES`).

    It is read from the path in the environment variable MIXERKEY_DATA, if that is set: a ``cifar10.npz`` with
    ``x_train, y_train, x_test, y_test``, the official ``cifar-10-batches-py``, its tarball, or a folder holding one of
    them. Otherwise from the cache; otherwise it is downloaded (170 MB) from the official host or from the URL in
    MIXERKEY_MIRROR, resuming what an earlier call left unfinished. The images are put into one canonical order and
    checked, so the same index gives the same image whatever the source.

    Args:
        split: "train" or "test".
        download: whether to use the network when no copy is at hand.

    Returns:
        images uint8 (N, 3, 32, 32) and labels int64 (N,).

    Raises:
        ValueError: another split.
        DataUnavailable: no copy and no way to get one, or a copy that is damaged.

    >>> images, labels = load_cifar10("test")  # doctest: +SKIP
    >>> images.shape  # doctest: +SKIP
    torch.Size([10000, 3, 32, 32])
    """
    _check_split(split)
    source = _find_cifar10(download)
    try:
        images, labels = _read(source, split)
        digests = _digests(images.transpose(0, 2, 3, 1), labels)
    except DAMAGE as error:
        raise DataUnavailable(
            f"{source} is damaged or not CIFAR-10 ({type(error).__name__}: {one_line(error)}).\n"
            "Delete it and load again, or point MIXERKEY_DATA at a complete copy."
        ) from error
    order = _order(digests)
    if hashlib.sha256(b"".join(digests[i] for i in order)).hexdigest() != CHECKSUMS[split]:
        raise DataUnavailable(
            f"{source} does not hold the official CIFAR-10 {split} images (checksum mismatch).\n"
            "Delete it and load again, or point MIXERKEY_DATA at a complete copy."
        )
    return torch.from_numpy(np.ascontiguousarray(images[order])), torch.from_numpy(labels[order].astype(np.int64))


def cifar10_available() -> bool:
    """Whether `load_cifar10` finds a copy without the network.

    >>> isinstance(cifar10_available(), bool)
    True
    """
    try:
        _find_cifar10(download=False)
    except DataUnavailable:
        return False
    return True


def cache_folder() -> Path:
    """Where downloads are kept: MIXERKEY_CACHE, or the platform's cache folder.

    Raises:
        DataUnavailable: this user has no home.

    >>> isinstance(cache_folder(), Path)
    True
    """
    try:
        return Path(os.environ.get("MIXERKEY_CACHE") or user_cache_path("mixerkey")).expanduser()
    except RuntimeError as error:
        raise DataUnavailable(f"No cache: {one_line(error)} Set MIXERKEY_CACHE to a folder.") from error


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")


def _digests(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """SHA-256 of each image with its label."""
    return [
        hashlib.sha256(bytes([label]) + image.tobytes()).digest() for image, label in zip(images, labels, strict=True)
    ]


def _order(digests: list[bytes]) -> list[int]:
    """The canonical order: by digest, which mixes the classes and depends on nothing but the images."""
    return sorted(range(len(digests)), key=digests.__getitem__)


def _find_cifar10(download: bool) -> Path:
    given = os.environ.get("MIXERKEY_DATA")
    if given:
        if found := _locate(Path(os.path.expanduser(given))):
            return found
        raise DataUnavailable(
            f"MIXERKEY_DATA is {given}, where there is no CIFAR-10.\n"
            f"It must be cifar10.npz, {FOLDER}, {ARCHIVE}, or a folder with one of them; unset it to use the cache."
        )
    if found := _locate(cache_folder()):
        return found
    if not download:
        raise DataUnavailable(
            f"No copy of CIFAR-10: MIXERKEY_DATA is not set and {cache_folder()} has none.\n"
            f"Set MIXERKEY_DATA to a copy ({ARCHIVE} or cifar10.npz), or call load_cifar10 with a network."
        )
    return _download(os.environ.get("MIXERKEY_MIRROR") or CIFAR10_URL, cache_folder() / ARCHIVE)


def _locate(path: Path) -> Path | None:
    if path.is_file() or (path / BATCHES["test"][0]).is_file():
        return path
    for name in ("cifar10.npz", FOLDER, ARCHIVE):
        if (path / name).exists():
            return path / name
    return None


def _read(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 3, 32, 32) and uint8 (N,) in the source's own order."""
    if source.suffix == ".npz":
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return arrays[f"x_{split}"].transpose(0, 3, 1, 2), arrays[f"y_{split}"]
    batches = [_parse_batch(data) for data in _batch_files(source, split)]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _batch_files(source: Path, split: str) -> Iterator[bytes]:
    if source.is_dir():
        for name in BATCHES[split]:
            yield (source / name).read_bytes()
        return
    with tarfile.open(source) as archive:
        for name in BATCHES[split]:
            member = archive.extractfile(f"{FOLDER}/{name}")
            if member is None:
                raise KeyError(f"{FOLDER}/{name} is not a file")
            yield member.read()


def _parse_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one official batch file, a pickle, whose opcodes are read but never executed."""
    pixels, labels, key = b"", [], None
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "SHORT_BINSTRING":
            key = argument
        elif opcode.name == "BINSTRING":
            pixels = str(argument).encode("latin-1")
        elif opcode.name == "BININT1" and key == "labels":
            labels.append(argument)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    return images, np.array(labels, dtype=np.uint8)


def _download(url: str, target: Path) -> Path:
    """Fetch the archive into the cache, resuming a partial file, and move it into place when it is complete."""
    partial = target.with_suffix(".partial")
    hint = (
        "Check the network, set MIXERKEY_MIRROR to another URL of the archive, or set MIXERKEY_DATA to a copy "
        f"({ARCHIVE} or cifar10.npz)."
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            complete = _fetch(url, partial)
            if _md5(partial) == ARCHIVE_MD5:
                return partial.replace(target)
            if complete:
                partial.unlink()
                raise DataUnavailable(f"{url} gave a damaged archive (checksum mismatch); it was deleted.\n{hint}")
        raise OSError("the connection was cut again and again; what arrived is kept, so call again to go on")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataUnavailable(f"CIFAR-10 could not be downloaded from {url} ({one_line(error)}).\n{hint}") from error


def _fetch(url: str, partial: Path) -> bool:
    """Append to `partial` what the server still has; whether that is all, as far as the server says."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send
            return True
        raise
    with response, partial.open("ab" if response.status == 206 else "wb") as stream:
        start = stream.tell()
        size = int(response.headers.get("Content-Length") or 0)
        total = start + size if size else None  # without a length, the next request shows whether this was all
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="CIFAR-10") as bar:
            _copy(response, stream, bar)
        return stream.tell() == total


def _copy(response: Any, stream: BinaryIO, bar: tqdm) -> None:
    """Write what arrives, as it arrives, until the connection ends or breaks."""
    while True:
        try:
            chunk = response.read1(1 << 16)
        except (OSError, http.client.HTTPException):
            return
        if not chunk:
            return
        stream.write(chunk)
        bar.update(len(chunk))


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
