"""The data sets: digits, photographs, and CIFAR-10 from every source and over a bad line.

The CIFAR-10 tests use a stand-in of 36 images in the official layout, served by a real HTTP server on localhost; the
last section reads the real one, where MIXERKEY_DATA has a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from mixerkey import data
from mixerkey.data import (
    ARCHIVE,
    CIFAR10_CLASSES,
    DataUnavailable,
    cifar10_available,
    load_cifar10,
    load_digits,
    load_photos,
)

FOLDER = "cifar-10-batches-py"
REAL = os.environ.get("MIXERKEY_DATA") or ""
HAS_REAL = bool(REAL) and cifar10_available()
Split = tuple[np.ndarray, np.ndarray]  # images uint8 (N, 3, 32, 32), labels uint8 (N,)


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An environment of the test's own, and the hosts it connected to, which may only be this machine."""
    for name in ("MIXERKEY_DATA", "MIXERKEY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIXERKEY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    hosts: list[str] = []
    connect = socket.create_connection

    def local(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        hosts.append(address[0])
        assert address[0] == "127.0.0.1", "a test went to the network"
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", local)
    return hosts


def refused(*parts: str, split: str = "test", download: bool = True, lines: int = 2) -> None:
    """Loading fails, with a message of so many lines that has these parts."""
    with pytest.raises(DataUnavailable) as caught:
        load_cifar10(split, download=download)
    message = str(caught.value)
    assert len(message.splitlines()) == lines, message
    for part in parts:
        assert part in message


SET_OR_UNSET = "Point MIXERKEY_DATA at a complete copy, or unset it to use the cache."
OTHER_WAYS = (
    "Check the network, set MIXERKEY_MIRROR to another URL of the archive, or set MIXERKEY_DATA to a copy "
    f"({ARCHIVE} or cifar10.npz)."
)


# The stand-in: the official files' format with few images.


def short(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def batch_file(label: str, images: np.ndarray, labels: np.ndarray, run: int = 4) -> bytes:
    """A batch as Python 2's cPickle wrote the official ones, opcode for opcode (its runs of labels are 1000 long)."""
    pixels = images.tobytes()
    runs = [labels[i : i + run] for i in range(0, len(labels), run)]
    names = b"".join(
        short(f"leptodactylus_pentadactylus_s_{i:06}.png") + b"q" + bytes([14 + i]) for i in range(len(labels))
    )
    return b"".join(
        [
            b"\x80\x02}q\x01(" + short("batch_label") + b"q\x02" + short(label) + b"q\x03",
            short("labels") + b"q\x04]q\x05",
            *(b"(" + b"".join(b"K" + bytes([label]) for label in part) + b"e" for part in runs),
            short("data")
            + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb",
            short("filenames") + b"q\x0c]q\x0d(" + names + b"eu.",
        ]
    )


def batch_files(splits: dict[str, Split]) -> dict[str, bytes]:
    images, labels = splits["train"]
    size = len(images) // 5
    files = {
        f"data_batch_{i + 1}": batch_file(f"training batch {i + 1} of 5", images[part], labels[part])
        for i in range(5)
        for part in [slice(i * size, (i + 1) * size)]
    }
    return files | {"test_batch": batch_file("testing batch 1 of 1", *splits["test"])}


def archive_of(files: dict[str, bytes]) -> bytes:
    """The tarball, in the official archive's order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folder = tarfile.TarInfo(FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for i in ("data_batch_4", "readme.html", "test_batch", *(f"data_batch_{k}" for k in (3, 2, 5, 1))):
            content = files.get(i, b"<html></html>")
            member = tarfile.TarInfo(f"{FOLDER}/{i}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def canonical(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor, str]:
    """The order that the package promises, and its checksum, worked out image by image."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        in_rows = bytes(image[c, y, x] for y in range(32) for x in range(32) for c in range(3))
        rows.append((hashlib.sha256(bytes([label]) + in_rows).digest(), image, int(label)))
    rows.sort(key=lambda row: row[0])
    checksum = hashlib.sha256(b"".join(digest for digest, _, _ in rows)).hexdigest()
    return (
        torch.tensor(np.stack([image for _, image, _ in rows])),
        torch.tensor([label for *_, label in rows]),
        checksum,
    )


@dataclass(frozen=True)
class StandIn:
    splits: dict[str, Split]
    archive: bytes
    expected: dict[str, tuple[Tensor, Tensor, str]]

    def shuffled(self) -> dict[str, Split]:
        order = {split: np.random.default_rng(1).permutation(len(y)) for split, (_, y) in self.splits.items()}
        return {split: (x[order[split]], y[order[split]]) for split, (x, y) in self.splits.items()}

    def check(self, split: str = "test", **options: bool) -> None:
        """Loading gives the right images, in the canonical order."""
        images, labels = load_cifar10(split, **options)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        assert torch.equal(images, self.expected[split][0])
        assert torch.equal(labels, self.expected[split][1])


@pytest.fixture(scope="module")
def made() -> StandIn:
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(256, size=(n, 3, 32, 32), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8))
        for split, n in (("train", 30), ("test", 6))
    }
    expected = {split: canonical(*arrays) for split, arrays in splits.items()}
    return StandIn(splits, archive_of(batch_files(splits)), expected)


@pytest.fixture
def standin(made: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, which the package takes for CIFAR-10."""
    monkeypatch.setattr(data, "CHECKSUMS", {split: checksum for split, (_, _, checksum) in made.expected.items()})
    monkeypatch.setattr(data, "ARCHIVE_MD5", hashlib.md5(made.archive).hexdigest())
    return made


def npz_arrays(splits: dict[str, Split]) -> dict[str, np.ndarray]:
    """The arrays of cifar10.npz, channels last."""
    (x, y), (u, v) = splits["train"], splits["test"]
    return {"x_train": x.transpose(0, 2, 3, 1), "y_train": y, "x_test": u.transpose(0, 2, 3, 1), "y_test": v}


def write_source(kind: str, folder: Path, splits: dict[str, Split]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        np.savez(folder / "cifar10.npz", **npz_arrays(splits))  # type: ignore[arg-type]
        return folder / "cifar10.npz"
    if kind == "tarball":
        (folder / ARCHIVE).write_bytes(archive_of(batch_files(splits)))
        return folder / ARCHIVE
    (folder / FOLDER).mkdir()
    for name, content in batch_files(splits).items():
        (folder / FOLDER / name).write_bytes(content)
    return folder / FOLDER


KINDS = ["npz", "batches", "tarball"]


def test_the_stand_ins_batches_are_pickles_that_python_reads_as_the_official_ones(made: StandIn) -> None:
    content = pickle.loads(batch_files(made.splits)["data_batch_2"], encoding="latin1")
    assert list(content) == ["batch_label", "labels", "data", "filenames"]
    images, labels = made.splits["train"]
    assert content["labels"] == labels[6:12].tolist()
    assert np.array_equal(content["data"], images[6:12].reshape(6, 3072))
    assert len(made.archive) > 100_000  # more than the pieces in which a download is read


# Sources.


@pytest.mark.parametrize("shuffled", [False, True], ids=["", "shuffled"])
@pytest.mark.parametrize("inside", [False, True], ids=["", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_index_gives_the_same_image_from_every_source(
    kind: str,
    inside: bool,
    shuffled: bool,
    standin: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    connections: list[str],
) -> None:
    path = write_source(kind, tmp_path / "data", standin.shuffled() if shuffled else standin.splits)
    monkeypatch.setenv("MIXERKEY_DATA", str(path.parent if inside else path))
    assert cifar10_available()
    for split in ("train", "test"):
        standin.check(split)
        standin.check(split, download=False)
    assert connections == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_in_the_cache_is_used_without_the_network(
    kind: str, standin: StandIn, tmp_path: Path, connections: list[str]
) -> None:
    write_source(kind, tmp_path / "cache", standin.splits)
    assert cifar10_available()
    standin.check("train")
    assert connections == []


def test_mixerkey_data_goes_before_the_cache(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ARCHIVE).write_bytes(b"something else")
    monkeypatch.setenv("MIXERKEY_DATA", str(write_source("npz", tmp_path / "data", standin.splits)))
    standin.check()


def test_an_npz_may_have_labels_of_another_integer_type(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {split: (images, labels.astype(np.int64)) for split, (images, labels) in standin.splits.items()}
    monkeypatch.setenv("MIXERKEY_DATA", str(write_source("npz", tmp_path / "data", splits)))
    standin.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_only_data_folder_is_left_as_it_was(
    kind: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permissions stop a user; root, as whom tests may run, they do not, so the folder is compared too."""
    root = tmp_path / "data"
    write_source(kind, root, standin.splits)
    paths = [root, *sorted(root.rglob("*"))]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
        monkeypatch.setenv("MIXERKEY_DATA", str(root))
        standin.check("train")
        standin.check("test")
        assert [(p, p.stat().st_mtime_ns, p.stat().st_size) for p in [root, *sorted(root.rglob("*"))]] == before
        assert not (tmp_path / "cache").exists()
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_mixerkey_data_without_cifar10_is_an_error_even_where_the_cache_has_it(
    exists: bool, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[str]
) -> None:
    write_source("npz", tmp_path / "cache", standin.splits)
    path = tmp_path / "nothing"
    if exists:
        path.mkdir()
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    assert not cifar10_available()
    refused(
        f"MIXERKEY_DATA is {path}, where there is no CIFAR-10.",
        f"It must be {ARCHIVE}, cifar10.npz, or a folder with one of them or with train/airplane/1.png and so on; "
        "unset it to use the cache.",
    )
    monkeypatch.setenv("MIXERKEY_DATA", "")  # as good as unset
    standin.check()
    assert connections == []


def test_no_copy_and_no_download(tmp_path: Path, connections: list[str]) -> None:
    assert not cifar10_available()
    refused(
        f"No copy of CIFAR-10: MIXERKEY_DATA is not set and {tmp_path / 'cache'} has none.",
        f"Set MIXERKEY_DATA to a copy ({ARCHIVE} or cifar10.npz), or call load_cifar10 with a network.",
        download=False,
    )
    assert connections == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("split", ["validation", "Train", ""])
@pytest.mark.parametrize("load", [load_digits, load_cifar10])
def test_another_split_is_refused(load: Callable[[str], Any], split: str, connections: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"split must be 'train' or 'test', got {split!r}")):
        load(split)
    assert connections == []


# The same images in another form.


def pickled_again(splits: dict[str, Split], protocol: int, **changes: Callable[[np.ndarray], Any]) -> dict[str, bytes]:
    """The batches as Python 3 writes them."""
    change = {"data": lambda x: x.reshape(-1, 3072), "labels": lambda y: y.tolist()} | changes
    return {
        name: pickle.dumps(
            {
                key.encode() if protocol == 4 else key: value
                for key, value in (
                    ("batch_label", name),
                    ("labels", change["labels"](labels)),
                    ("data", change["data"](images)),
                    ("filenames", [f"{i}.png" for i in range(len(labels))]),
                )
            },
            protocol,
        )
        for name, (images, labels) in parts(splits).items()
    }


def parts(splits: dict[str, Split]) -> dict[str, Split]:
    """What each batch holds."""
    images, labels = splits["train"]
    size = len(images) // 5
    return {
        f"data_batch_{i + 1}": (images[i * size : (i + 1) * size], labels[i * size : (i + 1) * size]) for i in range(5)
    } | {"test_batch": splits["test"]}


def c_batches(splits: dict[str, Split]) -> dict[str, bytes]:
    return {
        f"{name}.bin": b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True))
        for name, (images, labels) in parts(splits).items()
    }


def matlab_batches(splits: dict[str, Split]) -> dict[str, bytes]:
    files = {}
    for name, (images, labels) in parts(splits).items():
        savemat(stream := io.BytesIO(), {"data": images.reshape(-1, 3072), "labels": labels[:, None]})
        files[f"{name}.mat"] = stream.getvalue()
    return files


def pngs(splits: dict[str, Split], train: str = "train", test: str = "test", names: Any = CIFAR10_CLASSES) -> dict:
    files = {}
    for folder, (images, labels) in zip((train, test), (splits["train"], splits["test"]), strict=True):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image.transpose(1, 2, 0)).save(stream := io.BytesIO(), "PNG")
            files[f"{folder}/{names[label]}/{i:04}.png"] = stream.getvalue()
    return files


def npys(arrays: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, array in arrays.items():
        np.save(stream := io.BytesIO(), array)
        files[f"{name}.npy"] = stream.getvalue()
    return files


def npz(**changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Split]], dict[str, bytes]]:
    """As an npz with other images ("x") or labels ("y")."""

    def made(splits: dict[str, Split]) -> dict[str, bytes]:
        return npys({name: changes.get(name[0], lambda a: a)(a) for name, a in npz_arrays(splits).items()})

    return made


def under(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {prefix + name: content for name, content in files.items()}


FORMS: dict[str, Callable[[dict[str, Split]], dict[str, bytes]]] = {
    "the official batches": batch_files,
    **{f"pickled again, protocol {p}": lambda s, p=p: pickled_again(s, p) for p in range(1, 6)},  # type: ignore[misc]
    "pickled again, channels last": lambda s: pickled_again(s, 5, data=lambda x: x.transpose(0, 2, 3, 1)),
    "batches for C": c_batches,
    "batches for MATLAB": matlab_batches,
    "arrays": npz(),
    "a column of labels": npz(y=lambda y: y[:, None]),
    "a row of labels": npz(y=lambda y: y[None]),
    "ten columns of labels": npz(y=lambda y: np.eye(10, dtype=np.float32)[y]),
    "real labels": npz(y=lambda y: y.astype(np.float64)),
    "channels first": npz(x=lambda x: x.transpose(0, 3, 1, 2)),
    "rows, channel by channel": npz(x=lambda x: x.transpose(0, 3, 1, 2).reshape(-1, 3072)),
    "rows, pixel by pixel": npz(x=lambda x: x.reshape(-1, 3072)),
    "wide integers": npz(x=lambda x: x.astype(np.int64)),
    "0 to 1, float32": npz(x=lambda x: x / np.float32(255)),
    "0 to 1, float16": npz(x=lambda x: (x / 255).astype(np.float16)),
    "0 to 255, float64": npz(x=lambda x: x.astype(np.float64)),
    "Fortran's order": npz(x=np.asfortranarray),
    "upper case": lambda s: npys({name.upper(): array for name, array in npz_arrays(s).items()}),
    "other names": lambda s: npys(
        dict(zip(("train_images", "train_labels", "test_images", "test_labels"), npz_arrays(s).values(), strict=True))
    ),
    "pictures": pngs,
    "pictures in numbered folders": lambda s: pngs(s, names=range(10)),
    "pictures with other capitals": lambda s: pngs(s, "Train", "TEST", [name.title() for name in CIFAR10_CLASSES]),
    "pictures for training and testing": lambda s: pngs(s, "training", "testing"),
    "with a Mac's notes": lambda s: batch_files(s) | under("._", dict.fromkeys(batch_files(s), b"Mac OS X")),
    "with other files": lambda s: batch_files(s) | {"batches.meta": b"?", "readme.html": b"<html>", "cat.jpg": b"?"},
    "in two forms": lambda s: batch_files(s) | c_batches(s),
}


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_link(path: Path, files: dict[str, bytes]) -> Path:
    as_folder(path / "elsewhere", files)
    (path / "data").mkdir()
    (path / "data" / FOLDER).symlink_to(path / "elsewhere")
    return path / "data"


def as_tarball(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("latest")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        archive.addfile(link)
    return path


def as_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PLACES: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "a folder": lambda root, files: as_folder(root, files),
    "three folders down": lambda root, files: as_folder(root / "a" / "b" / FOLDER, files).parent.parent.parent,
    "a folder with a link": as_link,
    "a tarball": lambda root, files: as_tarball(root / "cifar-10-binary.tar.gz", files),
    "members that begin with ./": lambda root, files: as_tarball(root / "cifar10.tgz", under("./x/", files)),
    "an uncompressed tarball": lambda root, files: as_tarball(root / "CIFAR-10.tar", files, "w"),
    "a tarball as xz": lambda root, files: as_tarball(root / "any name", files, "w:xz"),
    "a zip archive": lambda root, files: as_zip(root / "archive.zip", files),
    "an npz": lambda root, files: as_zip(root / "data.npz", files),
    "an archive in a folder": lambda root, files: as_zip(root / "cifar-10 (1).zip", under("cifar10/", files)).parent,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_in_another_form_are_taken(
    form: str, place: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root := tmp_path / "data").mkdir()
    monkeypatch.setenv("MIXERKEY_DATA", str(PLACES[place](root, FORMS[form](standin.splits))))
    assert cifar10_available()
    standin.check("train")
    standin.check("test")


def test_of_several_copies_a_whole_one_is_taken(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXERKEY_DATA", str(tmp_path))
    for name in ("cifar10.npz", "cifar-10-python.tar.gz", "a/cifar-10-python.tar.gz.part", "cifar-100-python.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(standin.archive[:1000])
    as_folder(tmp_path / FOLDER, {"data_batch_1": b"", "test_batch": b""})
    refused(*(str(tmp_path / name) for name in ("cifar10.npz", FOLDER, ARCHIVE)), SET_OR_UNSET, lines=4)
    write_source("tarball", tmp_path / "b", standin.splits)
    standin.check("test")
    standin.check("train")


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz.part", "train-00000-of-00001.parquet", "cifar-100.zip"])
def test_what_is_there_instead_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"?")
    monkeypatch.setenv("MIXERKEY_DATA", str(tmp_path))
    refused(f"where there is no CIFAR-10, only {name}.")


# Copies that are damaged or something else.


@pytest.mark.parametrize("kind", KINDS)
def test_one_other_pixel_or_label_or_a_missing_image_is_noticed(
    kind: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel, label = ({split: (x.copy(), y.copy()) for split, (x, y) in standin.splits.items()} for _ in range(2))
    pixel["test"][0][3, 1, 20, 30] ^= 1
    label["test"][1][5] ^= 1
    fewer = {split: (images[:5], labels[:5]) for split, (images, labels) in standin.splits.items()}
    for name, splits in (("pixel", pixel), ("label", label), ("fewer", fewer)):
        path = write_source(kind, tmp_path / name, splits)
        monkeypatch.setenv("MIXERKEY_DATA", str(path))
        reason = f"checksum mismatch: it has {len(splits['test'][1])} images, and other ones"
        refused(f"{path} does not hold the CIFAR-10 test images ({reason}).\n{SET_OR_UNSET}")
        if name != "fewer":
            standin.check("train")  # that split is whole


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: {"x_train": a["x_train"], "y_train": a["y_train"]}, "no test_batch, x_test or test/airplane/*.png"),
        (lambda a: {"x_test": a["x_test"]}, "it has images only"),
        (lambda a: {"y_test": a["y_test"]}, "it has labels only"),
        (lambda a: a | {"x_test": a["x_test"][0]}, "of shape (32, 3)"),
        (lambda a: a | {"x_test": a["x_test"][:, ::2, ::2]}, "of shape (16, 16, 3)"),
        (lambda a: a | {"x_test": a["x_test"][:0]}, "0 images but 6 labels"),
        (lambda a: a | {"x_test": a["x_test"].astype(np.int16) - 128}, "its pixels are not in 0..255"),
        (lambda a: a | {"x_test": a["x_test"] * np.nan}, "its pixels are not in 0..255"),
        (lambda a: a | {"x_test": a["x_test"] / 127.5 - 1}, "its pixels are not in 0..255"),
        (lambda a: a | {"x_test": a["x_test"].astype("S3")}, "its images are |S3"),
        (lambda a: a | {"y_test": a["y_test"][:4]}, "6 images but 4 labels"),
        (lambda a: a | {"y_test": a["y_test"] + np.float32(0.5)}, "its labels are not 0..9"),
        (lambda a: a | {"y_test": a["y_test"].astype(np.int64) - 9}, "its labels are not 0..9"),
        (lambda a: a | {"y_test": a["y_test"].astype(np.int64) + 256}, "its labels are not 0..9"),
        (lambda a: a | {"y_test": np.array([CIFAR10_CLASSES[i] for i in a["y_test"]])}, "its labels are <U"),
        (lambda a: a | {"y_test": a["y_test"].astype(object)}, "allow_pickle=False"),
        (lambda a: a | {"x_test": a["x_test"][..., ::-1]}, "checksum mismatch"),
        (lambda a: a | {"x_test": a["x_test"].transpose(0, 2, 1, 3)}, "checksum mismatch"),
    ],
)
def test_an_npz_with_something_else_says_so(
    change: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    reason: str,
    standin: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "cifar10.npz"
    np.savez(path, **change(npz_arrays(standin.splits)))
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    refused(str(path), reason, SET_OR_UNSET)


def test_files_of_another_kind_say_so(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cifar10.npz", ARCHIVE):
        path = tmp_path / name
        monkeypatch.setenv("MIXERKEY_DATA", str(path))
        for content in (b"", b"<html>Please log in</html>", b"PK\x03\x04", b"\x1f\x8b\x08\x00"):
            path.write_bytes(content)
            refused(f"{path} does not hold the CIFAR-10 test images (", SET_OR_UNSET)
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
        refused(f"{path} does not hold the CIFAR-10 test images (", SET_OR_UNSET)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "cifar10.npz", f"{FOLDER}/data_batch_1")
    refused("test_batch", SET_OR_UNSET)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path, f"{FOLDER}/test_batch", recursive=False)
    refused("no test_batch", SET_OR_UNSET)


@pytest.mark.parametrize(
    ("files", "spoil", "said"),
    [
        (batch_files, lambda _: b"\x80\x02" + short("?" * 24) + b".", "24 bytes where each image has 3,072"),
        (batch_files, lambda whole: whole[:-900], ""),
        (lambda splits: pickled_again(splits, 4), lambda whole: whole[:-900], ""),
        (c_batches, lambda whole: whole[:-900], "17,538 bytes where each image has 3,073"),
        (c_batches, lambda _: b"", "0 bytes where each image has 3,073"),
        (matlab_batches, lambda whole: whole[:-900], ""),
        (matlab_batches, lambda _: b"<html>", ""),
        (pngs, lambda whole: whole[:-900], ""),
        (npz(), lambda whole: whole[:-1], ""),
    ],
)
@pytest.mark.parametrize("place", ["a folder", "three folders down", "a tarball"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_damaged_file_is_named_and_what_is_ones_own_is_not_to_be_deleted(
    files: Callable[[dict[str, Split]], dict[str, bytes]],
    spoil: Callable[[bytes], bytes],
    said: str,
    place: str,
    cached: bool,
    standin: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = files(standin.splits)
    name = max(name for name in content if "test" in name)
    path = PLACES[place](tmp_path, content | {name: spoil(content[name])})
    monkeypatch.setenv("MIXERKEY_CACHE" if cached else "MIXERKEY_DATA", str(path))
    with pytest.raises(DataUnavailable) as caught:
        load_cifar10("test", download=False)
    message = str(caught.value)
    assert f"({name} is cut, damaged or of another kind: {said}" in message
    assert "elete" not in message
    assert "reshape" not in message
    assert message.endswith(
        "Move it away and load again, or point MIXERKEY_DATA at a complete copy." if cached else SET_OR_UNSET
    )


@pytest.mark.parametrize("name", ["cifar10.npz", "cifar-10.zip", "cifar10.tar", ARCHIVE])
def test_an_archive_that_is_cut_is_said_to_be(
    name: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = as_zip(tmp_path / "whole", batch_files(standin.splits)).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    monkeypatch.setenv("MIXERKEY_DATA", str(tmp_path / name))
    refused(f"{tmp_path / name} does not hold", "it is cut, damaged or of another kind: neither a zip", SET_OR_UNSET)


def test_a_compressed_npz_works_and_says_so_when_its_stream_is_broken(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cifar10.npz"
    np.savez_compressed(path, **npz_arrays(standin.splits))  # type: ignore[arg-type]
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    standin.check()
    content = path.read_bytes()
    name, extra = content.index(b"x_test.npy"), 20  # bytes between an entry's name and its stream
    path.write_bytes(content[: name + 10 + extra] + b"\xff" * 8 + content[name + 18 + extra :])
    refused(f"{path} does not hold the CIFAR-10 test images (", SET_OR_UNSET)


def test_a_folder_that_lacks_a_batch_says_which(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_source("batches", tmp_path, standin.splits)
    (path / "data_batch_3").unlink()
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    refused(
        f"{path} does not hold the CIFAR-10 train images (it lacks data_batch_3).",
        "data_batch_3",
        SET_OR_UNSET,
        split="train",
    )
    standin.check("test")


def test_a_batch_with_more_labels_than_images_says_so(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_source("batches", tmp_path, standin.splits)
    images, labels = standin.splits["test"]
    (path / "test_batch").write_bytes(batch_file("testing batch 1 of 1", images[:5], labels))
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    refused("5 images but 6 labels", SET_OR_UNSET)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_and_flipped_files_are_errors_never_other_images(
    kind: str, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_source(kind, tmp_path / "data", standin.splits)
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    file = path / "test_batch" if path.is_dir() else path
    whole, rng = file.read_bytes(), random.Random(0)
    for _ in range(40):
        file.write_bytes(whole[: rng.randrange(len(whole) - 1200)])  # the last bytes of a tarball are padding
        refused(str(path), SET_OR_UNSET)
    for _ in range(150):
        position = rng.choice([rng.randrange(len(whole)), rng.randrange(600), -1 - rng.randrange(600)])
        file.write_bytes(whole)
        with file.open("r+b") as stream:
            stream.seek(position % len(whole))
            stream.write(rng.randbytes(1))
        try:
            standin.check()  # many a byte does not matter: a time stamp, a file name
        except DataUnavailable as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            assert str(error).endswith(SET_OR_UNSET)  # noqa: PT017


def test_a_malicious_pickle_is_never_executed(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_source("batches", tmp_path / "data", standin.splits)
    monkeypatch.setenv("MIXERKEY_DATA", str(path))
    trace = tmp_path / "trace"
    call = b"cos\nsystem\n" + short(f"touch {trace}") + b"\x85R"
    genuine = (path / "test_batch").read_bytes()
    smuggled = genuine[:2] + call + b"0" + genuine[2:]  # its result is dropped, and the batch follows

    for content in (b"\x80\x02" + call + b".", smuggled):
        pickle.loads(content, encoding="latin1")  # does what it says
        assert trace.exists()
        trace.unlink()

    (path / "test_batch").write_bytes(b"\x80\x02" + call + b".")
    refused(str(path), SET_OR_UNSET)
    (path / "test_batch").write_bytes(smuggled)
    standin.check()
    (path.parent / ARCHIVE).write_bytes(archive_of(batch_files(standin.splits) | {"test_batch": smuggled}))
    monkeypatch.setenv("MIXERKEY_DATA", str(path.parent / ARCHIVE))
    standin.check()
    assert not trace.exists()


# The download.


@dataclass
class Mirror:
    """A web server on localhost that serves `body`, as badly as the test asks."""

    body: bytes
    url: str = ""
    status: int = 200
    ranges: bool = True  # whether it honours Range
    framing: str = "length"  # how the end is told: by "length", in "chunked" pieces, or by "closing" the connection
    cuts: list[int] = field(default_factory=list)  # the first answers break after so many bytes
    cut_by: str = "closing"  # or "reset", or "silence" until the client gives up
    piece: int = 1 << 16
    pause: float = 0.0
    seen: list[str | None] = field(default_factory=list)  # the Range headers of the requests

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.seen.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        status, rest = (206 if start else self.status), self.body[start:]
        if start and not rest:
            status, rest = 416, b"<html>no more</html>"
        elif status >= 400:
            rest = b"<html>not here</html>"
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.framing == "length":
            handler.send_header("Content-Length", str(len(rest)))
        elif self.framing == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts and status < 400 else None
        for i in range(0, len(rest[:cut]), self.piece):
            piece = rest[i : i + self.piece]
            if self.framing == "chunked":
                handler.wfile.write(b"%x\r\n" % len(piece))
            handler.wfile.write(piece if cut is None else piece[: cut - i])
            if self.framing == "chunked" and (cut is None or i + self.piece <= cut):
                handler.wfile.write(b"\r\n")
            time.sleep(self.pause)
        if cut is None and self.framing == "chunked":
            handler.wfile.write(b"0\r\n\r\n")
        if cut is not None and self.cut_by == "silence":
            handler.connection.settimeout(60)
            try:
                handler.connection.recv(1)  # returns when the client hangs up
            except TimeoutError:
                self.seen.append("the client would have waited for ever")
        if cut is not None and self.cut_by == "reset":
            time.sleep(0.2)  # for the client to read what came before
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.rfile.close()
            handler.connection.close()


@pytest.fixture
def mirror(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    mirror = Mirror(standin.archive)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client may hang up
                mirror.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            mirror.url = f"http://127.0.0.1:{server.server_port}/mirror/{ARCHIVE}"
            monkeypatch.setenv("MIXERKEY_MIRROR", mirror.url)
            yield mirror
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / ARCHIVE


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "cifar-10-python.tar.partial"


def kept(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name != ".cifar10.lock"]


def arrived(target: Path, standin: StandIn) -> None:
    """The archive is in the cache, whole and alone, and loads from there."""
    assert kept(target.parent) == [ARCHIVE]
    assert target.read_bytes() == standin.archive
    standin.check("test", download=False)


def test_a_download_is_kept_in_the_cache_for_both_splits(
    mirror: Mirror, standin: StandIn, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not cifar10_available()
    standin.check("test")
    assert re.search(r"CIFAR-10 from 127.0.0.1:\d+: 100%", capsys.readouterr().err)  # the progress bar
    standin.check("train")
    assert cifar10_available()
    assert mirror.seen == [None]
    arrived(target, standin)


def test_without_a_mirror_of_ones_own_the_known_ones_are_used(
    mirror: Mirror, standin: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in data.MIRRORS
    assert all(url.startswith("https://") and url.endswith(f"/{ARCHIVE}") for url in data.MIRRORS)
    monkeypatch.setenv("MIXERKEY_MIRROR", "")
    monkeypatch.setattr(data, "MIRRORS", (mirror.url,))
    standin.check()
    arrived(target, standin)


def test_a_file_is_a_mirror_too(
    standin: StandIn, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_source("tarball", tmp_path / "share", standin.splits)
    monkeypatch.setattr(data, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setenv("MIXERKEY_MIRROR", path.as_uri())
    standin.check()
    assert kept(target.parent) == [ARCHIVE]


@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
def test_a_server_that_trickles_is_waited_for(framing: str, mirror: Mirror, standin: StandIn, target: Path) -> None:
    mirror.framing, mirror.piece, mirror.pause = framing, 2_345, 0.01
    standin.check()
    assert mirror.seen == [None]
    arrived(target, standin)


def test_mirrors_are_tried_in_turn_and_the_reader_sees_which_failed(
    mirror: Mirror, standin: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/{ARCHIVE}"
    other = Path(target.parent.parent / "other")
    other.write_bytes(b"<html>Please log in</html>")
    urls = [closed, "address", other.as_uri()]
    monkeypatch.setenv("MIXERKEY_MIRROR", " ".join([*urls, mirror.url]))
    standin.check()
    arrived(target, standin)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("CIFAR-10 could not")]
    assert [line.split()[6] for line in lines] == urls
    assert ["refused" in lines[0], "unknown url type" in lines[1], "checksum mismatch" in lines[2]] == [True] * 3

    target.unlink()
    mirror.status = 404
    refused(*urls, mirror.url, "HTTP Error 404", OTHER_WAYS, lines=5)


def test_what_one_mirror_gave_of_the_archive_another_completes(
    mirror: Mirror, standin: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "TRIES", 1)
    mirror.cuts = [70_001]
    monkeypatch.setenv("MIXERKEY_MIRROR", f"{mirror.url} {mirror.url}?second")
    standin.check()
    assert mirror.seen == [None, "bytes=70001-"]
    arrived(target, standin)


FETCH = """
import os, sys
from mixerkey import data
data.ARCHIVE_MD5, data.CHECKSUMS = sys.argv[1], {"test": sys.argv[2]}
print(len(data.load_cifar10("test")[1]))
"""


def test_of_processes_that_need_it_at_once_one_downloads(mirror: Mirror, standin: StandIn, target: Path) -> None:
    mirror.piece, mirror.pause = 1000, 0.02  # some seconds
    command = [sys.executable, "-c", FETCH, data.ARCHIVE_MD5, data.CHECKSUMS["test"]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [out for out, _ in ended] == ["6\n"] * 2, ended
    assert mirror.seen == [None]
    arrived(target, standin)


def test_a_process_that_is_killed_leaves_no_lock_and_what_it_had(
    mirror: Mirror, standin: StandIn, target: Path
) -> None:
    mirror.piece, mirror.pause = 1000, 0.05
    command = [sys.executable, "-c", FETCH, data.ARCHIVE_MD5, data.CHECKSUMS["test"]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not any(path.stat().st_size for path in target.parent.glob("*.partial")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    mirror.pause = 0
    standin.check()
    assert re.fullmatch(r"bytes=\d+-", str(mirror.seen[1]))
    arrived(target, standin)


@pytest.mark.parametrize("cut_by", ["closing", "reset", "silence"])
@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
def test_a_connection_that_is_cut_is_resumed_where_it_was(
    framing: str, cut_by: str, mirror: Mirror, standin: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte that arrived is used: 70,001 of the first answer, 12,345 of the second, none of the third."""
    if cut_by == "silence":
        monkeypatch.setattr(data, "TIMEOUT", 0.5)
    mirror.framing, mirror.cut_by, mirror.cuts = framing, cut_by, [70_001, 12_345, 0]
    standin.check()
    assert mirror.seen == [None, "bytes=70001-", "bytes=82346-", "bytes=82346-"]
    arrived(target, standin)


@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
def test_a_server_that_always_cuts_is_given_up_and_a_later_call_goes_on(
    framing: str, mirror: Mirror, standin: StandIn, target: Path, partial: Path
) -> None:
    mirror.framing, mirror.cuts = framing, [1_000] * data.TRIES
    refused(mirror.url, "what arrived is kept, so load again to go on", OTHER_WAYS)
    assert mirror.seen == [None, *(f"bytes={1000 * i}-" for i in range(1, data.TRIES))]
    assert kept(target.parent) == [partial.name]
    assert partial.read_bytes() == standin.archive[: 1000 * data.TRIES]
    assert not cifar10_available()

    standin.check()
    assert mirror.seen[data.TRIES :] == [f"bytes={1000 * data.TRIES}-"]
    arrived(target, standin)


@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
def test_a_server_that_ignores_range_is_read_from_the_start(
    framing: str, mirror: Mirror, standin: StandIn, target: Path
) -> None:
    mirror.framing, mirror.ranges, mirror.cuts = framing, False, [70_001]
    standin.check()
    assert mirror.seen == [None, "bytes=70001-"]
    arrived(target, standin)


def test_a_partial_file_that_lacks_nothing_is_taken(
    mirror: Mirror, standin: StandIn, target: Path, partial: Path
) -> None:
    partial.write_bytes(standin.archive)
    standin.check()
    assert mirror.seen == [f"bytes={len(standin.archive)}-"]  # answered by 416
    arrived(target, standin)


@pytest.mark.parametrize("length", [100, 200_000], ids=["shorter", "longer"])
def test_a_partial_file_of_something_else_is_deleted_and_read_from_the_start(
    length: int, mirror: Mirror, standin: StandIn, target: Path, partial: Path
) -> None:
    partial.write_bytes(b"?" * length)
    standin.check()
    assert mirror.seen == [f"bytes={length}-", None]
    arrived(target, standin)


@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
@pytest.mark.parametrize("before", [b"", b"?" * 1000], ids=["", "after another part"])
def test_a_corrupt_archive_is_deleted(
    framing: str, before: bytes, mirror: Mirror, standin: StandIn, target: Path, partial: Path
) -> None:
    if before:
        partial.write_bytes(before)
    mirror.framing, mirror.body = framing, standin.archive[:5_000] + b"?" + standin.archive[5_001:]
    mirror.ranges = framing != "length"
    refused(mirror.url, "another file or a damaged one (checksum mismatch), which was deleted", OTHER_WAYS)
    once = 1 if framing == "length" else 2  # without a length, 416 tells that this was all
    assert len(mirror.seen) == once * (2 if before else 1)
    assert kept(target.parent) == []
    assert not cifar10_available()
    mirror.body = standin.archive
    standin.check()
    arrived(target, standin)


@pytest.mark.parametrize("framing", ["length", "chunked", "closing"])
def test_a_download_without_end_is_not_read_to_its_end(
    framing: str, mirror: Mirror, standin: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "LARGEST_DOWNLOAD", len(standin.archive))
    written: list[int] = []
    monkeypatch.setattr(data.tqdm, "update", lambda bar, n: written.append(n))
    mirror.framing, mirror.body = framing, standin.archive + bytes(5_000_000)
    refused(mirror.url, "another file or a damaged one (checksum mismatch), which was deleted", OTHER_WAYS)
    assert sum(written) <= len(standin.archive) + (1 << 16)
    assert kept(target.parent) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_http_error_says_which_and_keeps_what_there_was(
    status: int, mirror: Mirror, standin: StandIn, target: Path, partial: Path
) -> None:
    mirror.status, mirror.ranges = status, False
    for there in (b"", standin.archive[:500]):
        partial.write_bytes(there)
        refused(mirror.url, f"HTTP Error {status}", OTHER_WAYS)
        assert kept(target.parent) == [partial.name]
        assert partial.read_bytes() == there
    mirror.status, mirror.ranges = 200, True
    standin.check()
    assert mirror.seen[-1] == "bytes=500-"
    arrived(target, standin)


def test_no_server_at_all_says_so_and_keeps_what_there_was(
    standin: StandIn, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial.write_bytes(standin.archive[:500])
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{ARCHIVE}"
    monkeypatch.setenv("MIXERKEY_MIRROR", url)
    refused(url, "refused", OTHER_WAYS)
    assert partial.read_bytes() == standin.archive[:500]


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"])
def test_a_server_that_does_not_speak_http_is_an_error_like_the_others(
    reply: bytes, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{ARCHIVE}"
        monkeypatch.setenv("MIXERKEY_MIRROR", url)
        refused(f"CIFAR-10 could not be downloaded from {url}", OTHER_WAYS)
        thread.join()


@pytest.mark.parametrize(
    "url", ["classroom/cifar.tar.gz", "http://127.0.0.1:port/", "/data/cifar.tar.gz", "gopher://x/"]
)
def test_a_mirror_that_is_no_address_is_an_error_like_the_others(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXERKEY_MIRROR", url)
    refused(f"CIFAR-10 could not be downloaded from {url}", OTHER_WAYS)


def test_a_cache_that_cannot_be_made_says_where(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIXERKEY_CACHE", str(tmp_path / "file" / "cache"))
    refused(str(tmp_path / "file" / "cache"), OTHER_WAYS)
    assert mirror.seen == []


def test_a_full_disk_is_not_taken_for_a_bad_connection(
    mirror: Mirror, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(response: Any, stream: Any, bar: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data, "_copy", full)
    refused(str(target.parent), "No space left on device", OTHER_WAYS)
    assert mirror.seen == [None]


# Digits and photographs.


def test_digits_are_the_1797_of_scikit_learn_split_once_and_for_all(connections: list[str]) -> None:
    from sklearn.datasets import load_digits as sklearn_digits

    parts = {split: load_digits(split) for split in ("train", "test")}
    for split, n in (("train", 1437), ("test", 360)):
        images, labels = parts[split]
        assert images.shape == (n, 1, 8, 8)
        assert images.dtype == torch.uint8
        assert labels.shape == (n,)
        assert labels.dtype == torch.int64
        assert images.min() == 0
        assert images.max() == 255
        assert len(labels[:50].unique()) == 10  # mixed
    rows = {
        split: [image.numpy().tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)]
        for split, (images, labels) in parts.items()
    }
    pixels, labels = sklearn_digits(return_X_y=True)
    everything = [
        bytes(round(v * 255 / 16) for v in image) + bytes([label])
        for image, label in zip(pixels.tolist(), labels.tolist(), strict=True)
    ]
    assert set(rows["train"]).isdisjoint(rows["test"])
    assert sorted(rows["train"] + rows["test"]) == sorted(everything)
    assert len(everything) == 1797
    assert connections == []


def test_digits_are_the_same_on_every_call_and_everywhere() -> None:
    """Pinned, since the shipped weights were trained on one split and are measured on the other."""
    checksums = {
        "train": "00edb783bc52207b6f69544ccc6183aa1648799bebbca47006532a73ad63cf72",
        "test": "0c9ac05ae9d6aefd57cc472742bcc1aa6c21665a9e70441c821aac9130aa96ac",
    }
    for split, checksum in checksums.items():
        for _ in range(2):
            images, labels = load_digits(split)
            assert hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest() == checksum
            images.zero_()  # the caller's own, which no later call sees
            labels.zero_()


def test_photos_are_two_colour_photographs_that_blocks_fit(connections: list[str]) -> None:
    from sklearn.datasets import load_sample_image

    photos = load_photos()
    assert list(photos) == ["china", "flower"]
    for name, photo in photos.items():
        assert photo.shape == (3, 416, 640)
        assert photo.dtype == torch.uint8
        assert photo.is_contiguous()
        assert all(photo.shape[1] % M == photo.shape[2] % M == 0 for M in (2, 4, 8, 16, 32))
        original = load_sample_image(f"{name}.jpg")
        for channel in range(3):
            assert np.array_equal(photo[channel], original[:416, :, channel])
        photo.zero_()
    assert all(photo.max() > 200 for photo in load_photos().values())
    assert connections == []


# The real CIFAR-10.


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[Tensor, Tensor]]:
    if not HAS_REAL:
        pytest.skip(f"MIXERKEY_DATA is {REAL}, which has no CIFAR-10" if REAL else "MIXERKEY_DATA is not set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXERKEY_DATA", REAL)
        return {split: load_cifar10(split, download=False) for split in ("train", "test")}


@pytest.mark.parametrize(("split", "n"), [("train", 50_000), ("test", 10_000)])
def test_real_cifar10_has_its_shapes_and_classes(split: str, n: int, real: dict[str, tuple[Tensor, Tensor]]) -> None:
    images, labels = real[split]
    assert images.shape == (n, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.shape == (n,)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [n // 10] * 10
    first = labels[:100].bincount(minlength=10)
    assert first.min() >= 2  # mixed: one in a hundred million fair draws is worse
    assert first.max() <= 30


def test_real_cifar10_has_the_statistics_in_its_papers(real: dict[str, tuple[Tensor, Tensor]]) -> None:
    images, _ = real["train"]
    values = np.arange(256) / 255
    for channel, mean, std in zip(range(3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), strict=True):
        share = np.bincount(images[:, channel].flatten().numpy(), minlength=256) / images[:, channel].numel()
        assert share @ values == pytest.approx(mean, abs=1e-4)
        assert np.sqrt(share @ values**2 - (share @ values) ** 2) == pytest.approx(std, abs=1e-4)


@pytest.mark.parametrize(
    ("split", "checksum"),
    [
        ("train", "a1a3cc9c14a8fd3c0d66de6ab787bbe8abbea0ab10446fa41b395c03644f2b1e"),
        ("test", "0ae072db3437edb693feba85f2d9dec41036f6e2f6d6f2cbd900da3ee13568b6"),
    ],
)
def test_real_cifar10_is_that_of_an_independent_checksum(
    split: str, checksum: str, real: dict[str, tuple[Tensor, Tensor]]
) -> None:
    """SHA-256 over the sorted images, each as its label and its pixels, computed apart from this package."""
    images, labels = real[split]
    whole = hashlib.sha256()
    for row in sorted(
        bytes([label]) + image.tobytes()
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True)
    ):
        whole.update(row)
    assert whole.hexdigest() == checksum


def test_home_is_where_the_tilde_says_and_without_one_nothing_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIXERKEY_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIXERKEY_CACHE", "~/cache")
    assert data.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MIXERKEY_CACHE")

    def homeless(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(data, "user_cache_path", homeless)
    assert not data.cifar10_available()
    with pytest.raises(data.DataUnavailable, match="Set MIXERKEY_CACHE to a folder"):
        data.load_cifar10("test")
