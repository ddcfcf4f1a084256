"""Key files: JSON with a version and a checksum; within safetensors where a key holds matrices."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mixerkey import keys
from mixerkey.files import parse_json, write_file
from mixerkey.keys import BlockKey, BlockOrder, MatrixKey, PatchKeys, ScrambledKey, SignedPermutation, check_key

FORMAT_VERSION = 1
KEY_ID = "[0-9a-f]{16}"
LIMIT = 2**30  # bytes; no key is larger
LARGEST = 2**31  # no number in a key is larger
KINDS: dict[str, Any] = {  # all that `mixerkey.keys` defines
    name: kind for name, kind in vars(keys).items() if isinstance(kind, type) and BlockKey in kind.__mro__[1:]
}
AnyKey = TypeVar("AnyKey", bound=BlockKey)


class KeyFileError(ValueError):
    """A key file that can't be used; the message says what is wrong with it and what to do."""


def save_key(key: BlockKey, path: str | Path, *, key_id: str | None = None) -> None:
    """Write a key, readable by its owner only (mode 0600), all or nothing; of several writers at once one wins.

    Args:
        key: of any kind. One with matrices becomes a safetensors file that holds the JSON as metadata.
        path: the file; never one that holds something else.
        key_id: 16 hexadecimal digits that name the key and say nothing about it, kept in the same file.

    Raises:
        FileExistsError: the file exists and holds something else: a key overwritten is a key lost.
        TypeError: it is no key.
        ValueError: an id of another form, or a key that could not be loaded again.
    """
    _check_id(key_id)
    path, content = Path(path), encode(key, key_id)
    if decode(content, path.name) != (key, key_id):
        raise ValueError(f"what {path.name} would hold is another key; nothing was written")
    try:
        write_file(path, content, private=True, exclusive=True)
    except FileExistsError:
        if not path.is_file() or path.read_bytes() != content:
            raise
        path.chmod(0o600)  # the same key once more


def load_key(
    path: str | Path,
    kind: type[AnyKey] = BlockKey,  # type: ignore[assignment]
    *,
    patch_size: int | None = None,
    channels: int | None = None,
) -> AnyKey:
    """Read what `save_key` wrote, checking everything.

    Args:
        path: the file.
        kind: the kind of key that is expected; by default any.
        patch_size: the M that is expected, if it is known.
        channels: the C that is expected, if it is known.

    Raises:
        FileNotFoundError: there is no such file.
        KeyFileError: truncated or not JSON, another kind, a newer version, an altered file, another block shape,
            a wrong length, a repeated index, unbalanced flips.

    >>> import tempfile
    >>> key = MatrixKey.orthogonal(4, 3).then(BlockOrder.generate(4, 3, grid=(8, 8)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_key(key, folder + "/key.safetensors")
    ...     load_key(folder + "/key.safetensors") == key
    True
    """
    path = Path(path)
    key, _ = decode(_content(path), path.name, kind, patch_size=patch_size, channels=channels)
    return key  # type: ignore[return-value]


def load_key_and_id(path: str | Path) -> tuple[BlockKey, str | None]:
    """A key of any kind and its id, of one reading; None where it has no id.

    The id is in the key's file. Version 0.1 wrote it beside ``key.json`` into ``key.id``, which is read, too.

    Raises:
        FileNotFoundError: there is no such file.
        KeyFileError: as for `load_key`; or what is beside it is no id.

    >>> import tempfile
    >>> from mixerkey import Key
    >>> key = Key.generate(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_key(key, folder + "/key.json", key_id="00d1f2e3a4b5c6d7")
    ...     load_key_and_id(folder + "/key.json") == (key, "00d1f2e3a4b5c6d7")
    True
    """
    path = Path(path)
    key, key_id = decode(_content(path), path.name)
    beside = path.with_suffix(".id")
    if key_id is None and beside.is_file():
        with beside.open("rb") as stream:
            key_id = stream.read(100).decode("utf-8-sig", "replace").strip()
        if not re.fullmatch(KEY_ID, key_id):
            raise KeyFileError(f"{beside} does not hold a key id (16 hexadecimal digits); copy it again")
    return key, key_id


def encode(key: BlockKey, key_id: str | None = None) -> bytes:
    """The content of a key file: what `save_key` writes."""
    check_key(key)
    document, matrices = _document(key, key_id)
    text = json.dumps(document | {"checksum": _checksum(document, matrices)}, indent=1)
    if not matrices:
        return (text + "\n").encode()
    return save({str(n): T for n, T in enumerate(matrices)}, {"key": text})


def _document(key: BlockKey, key_id: str | None) -> tuple[dict, list[Tensor]]:
    matrices: list[Tensor] = []
    named = {} if key_id is None else {"id": key_id}
    fields = _fields(key, matrices)
    return {"format": fields.pop("format"), "version": FORMAT_VERSION, **named, **fields}, matrices


def _fields(key: BlockKey, matrices: list[Tensor]) -> dict[str, Any]:
    """A key as what JSON can hold; matrices are put aside and numbered."""
    fields: dict[str, Any] = {
        "format": f"mixerkey {type(key).__name__}",
        "patch_size": key.patch_size,
        "channels": key.channels,
    }
    if isinstance(key, SignedPermutation):
        fields |= {"permutation": key.permutation.tolist(), "flips": key.flips.int().tolist()}
    elif isinstance(key, MatrixKey):
        fields["matrix"] = len(matrices)
        matrices.append(key.matrix())
    elif isinstance(key, PatchKeys):
        fields |= {"grid": list(key.grid), "keys": [_fields(each, matrices) for each in key.keys]}
    elif isinstance(key, BlockOrder):
        fields |= {"grid": list(key.grid), "order": key.order.tolist()}
    elif isinstance(key, ScrambledKey):
        fields |= {"within": _fields(key.within, matrices), "order": _fields(key.order, matrices)}
    return fields


def _checksum(document: dict, matrices: list[Tensor]) -> str:
    canonical = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(canonical + b"".join(T.numpy().tobytes() for T in matrices)).hexdigest()


def decode(
    content: bytes,
    name: str,
    kind: type[BlockKey] = BlockKey,
    *,
    patch_size: int | None = None,
    channels: int | None = None,
) -> tuple[BlockKey, str | None]:
    """The key and the id, or None, in the content of a key file; `name` is what messages call it."""
    document, matrices = _parsed(content, name)
    found, key_id = document.get("format"), document.get("id")
    wanted = "key" if kind is BlockKey else kind.__name__
    if found not in [f"mixerkey {each}" for each, of in KINDS.items() if kind in (BlockKey, of)]:
        what = (
            f"; it holds a {found.removeprefix('mixerkey ')}" if isinstance(found, str) and found[9:] in KINDS else ""
        )
        raise KeyFileError(f"{name} is not a mixerkey {wanted} file{what}")
    version = document.get("version")
    if not _whole(version) or version < FORMAT_VERSION:
        raise KeyFileError(
            f"{name} says {version!r:.40} where its format version, a whole number, should stand: it was altered; "
            "copy it again"
        )
    if version > FORMAT_VERSION:
        raise KeyFileError(
            f"{name} has format version {version}, this mixerkey reads version {FORMAT_VERSION}; upgrade mixerkey"
        )
    for field, expected in (("patch_size", patch_size), ("channels", channels)):
        if expected is not None and _whole(document.get(field)) and document[field] != expected:
            raise KeyFileError(
                f"{name} is for {field} {document[field]}, expected {expected}: it is another block shape's"
            )
    try:
        _check_id(key_id)
        key = _key(document, matrices)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{name}: {error}") from error
    if document.get("checksum") != _checksum(*_document(key, key_id)):
        raise KeyFileError(f"{name} does not match its checksum: it was altered or damaged; copy it again")
    return key, key_id


def _content(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(LIMIT + 1)


def _parsed(content: bytes, name: str) -> tuple[dict, list[Tensor]]:
    """The JSON of a key file, with nothing in it but objects, lists, strings and whole numbers; and its matrices."""
    if len(content) > LIMIT:
        raise KeyFileError(f"{name} is larger than any key: is it another file?")
    matrices: list[Tensor] = []
    try:
        length = int.from_bytes(content[:8], "little")
        if content[8:9] == b"{" and length <= len(content):  # safetensors; text begins with a far larger number
            metadata = parse_json(content[8 : 8 + length])["__metadata__"]
            tensors = load(content)
            content = metadata["key"].encode()
            matrices = [tensors[str(n)] for n in range(len(tensors))]
        return parse_json(content), matrices
    except (ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        reason = str(error) if isinstance(error, ValueError) else "there is no key in it"
        raise KeyFileError(
            f"{name} is not a complete key file ({reason}); it may be truncated: copy it again"
        ) from error


def _check_id(key_id: object) -> None:
    if key_id is not None and not (isinstance(key_id, str) and re.fullmatch(KEY_ID, key_id)):
        raise ValueError(f"a key id is 16 hexadecimal digits, got {str(key_id)[:40]!r}")


def _key(fields: dict[str, Any], matrices: list[Tensor], around: tuple[type, ...] = ()) -> BlockKey:
    """A key from its `_fields`; one of the kinds `around` it is no part of it."""
    found = fields.get("format")
    kind = KINDS.get(found.removeprefix("mixerkey ")) if isinstance(found, str) else None
    M, C = fields.get("patch_size"), fields.get("channels")
    if kind is None or kind in around:
        raise ValueError(f"an unknown kind of key{', within another' if around else ''}: {str(found)[:40]!r}")
    if not (_whole(M) and _whole(C)):
        raise ValueError("must hold integers: patch_size and channels")
    if issubclass(kind, SignedPermutation):
        v, r = fields.get("permutation"), fields.get("flips")
        if not (_integers(v) and _integers(r)):
            raise ValueError("must hold integers: permutation and flips as lists, patch_size and channels")
        return kind(v, r, M, C)
    if kind is MatrixKey:
        n = fields.get("matrix")
        if not _whole(n) or not 0 <= n < len(matrices) or matrices[n].dtype != torch.float64:
            raise ValueError("its matrix is missing, or not float64")
        return MatrixKey(matrices[n], M, C)
    if kind is ScrambledKey:
        parts = (_key(_part(fields, name), matrices, (ScrambledKey,)) for name in ("within", "order"))
        return ScrambledKey(*parts)  # type: ignore[arg-type]
    grid = fields.get("grid")
    if not _integers(grid) or len(grid) != 2:
        raise ValueError("must hold the grid as two integers")
    if kind is BlockOrder:
        order = fields.get("order")
        if not _integers(order):
            raise ValueError("must hold the order as a list of integers")
        return BlockOrder(order, M, C, (grid[0], grid[1]))
    each_place = fields.get("keys")
    if not isinstance(each_place, list) or not all(isinstance(each, dict) for each in each_place):
        raise ValueError("must hold a list of keys")
    inner = (ScrambledKey, PatchKeys)
    return PatchKeys((_key(each, matrices, inner) for each in each_place), (grid[0], grid[1]))


def _part(fields: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(fields.get(name), dict):
        raise ValueError(f"must hold a key under {name!r}")
    return fields[name]


def _whole(value: object) -> TypeGuard[int]:
    return type(value) is int and abs(value) < LARGEST


def _integers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(map(_whole, values))
