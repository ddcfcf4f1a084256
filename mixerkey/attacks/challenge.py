"""Three challenges: images encrypted with keys that nobody kept, and a checker that knows only the keys' hashes.

1. Tiles of the right halves of two photographs; `photo_tiles` has the left halves.
2. Two photographs of another source, which are in the public domain.
3. Digits, with a key for each place, and the network that reads them, encrypted with the same keys.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixerkey.absorption import encrypt_model
from mixerkey.attacks.ciphertext import relatives
from mixerkey.cipher import encrypt_images
from mixerkey.convmixer import ConvMixer, check_entries, check_values
from mixerkey.data import load_photos
from mixerkey.embedding import UnsharedEmbedding
from mixerkey.files import Entry, load_tensors, parse_json, save_tensors
from mixerkey.keys import BlockKey, Key, PatchKeys, SignedPermutation, integer

SIDE = 32  # of the tiles, in pixels
LEVELS = 3


class Evidence(NamedTuple):
    """What the attacker is given.

    Attributes:
        images: uint8 (N, C, H, W), encrypted.
        model: the network that answers them, encrypted with the same keys; None at levels without one.
    """

    images: Tensor
    model: ConvMixer | None = None


class Verdict(NamedTuple):
    """What a key is worth.

    Attributes:
        points: 2 for the key, 1 for one that is right up to one of the `relatives`, 0 for any other.
        words: a sentence that says so.

    >>> print(Verdict(2, "This is the key."))
    2 of 2 points. This is the key.
    """

    points: int
    words: str

    def __str__(self) -> str:
        return f"{self.points} of 2 points. {self.words}"


def photo_tiles(half: str) -> Tensor:
    """Tiles of the left or the right half of both photographs: public images, and what level 1 encrypts.

    Args:
        half: "left" or "right".

    Returns:
        uint8 (260, 3, 32, 32), in a fixed order without pattern.

    Raises:
        ValueError: another half.

    >>> photo_tiles("left").shape
    torch.Size([260, 3, 32, 32])
    """
    if half not in ("left", "right"):
        raise ValueError(f'half must be "left" or "right", got {half!r}')
    tiles = []
    for photo in load_photos().values():
        middle = photo.shape[2] // 2 // SIDE * SIDE
        part = photo[:, :, :middle] if half == "left" else photo[:, :, middle:]
        grid = part.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)  # (C, rows, columns, SIDE, SIDE)
        tiles.append(grid.permute(1, 2, 0, 3, 4).flatten(0, 1))
    order = torch.randperm(sum(map(len, tiles)), generator=torch.Generator().manual_seed(0))
    return torch.cat(tiles)[order]


def make_challenge(images: Tensor, patch_size: int, path: str | Path, model: ConvMixer | None = None) -> None:
    """Encrypt images with a fresh key, write them and the key's hash, and forget the key.

    Args:
        images: uint8 (N, C, H, W).
        patch_size: M.
        path: safetensors file to write, where there is none.
        model: with it, each place has a key of its own, and the file holds the network as well, encrypted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_challenge(photo_tiles("right")[:2], 4, folder + "/mine.safetensors")
    ...     load_challenge(folder + "/mine.safetensors").images.shape
    torch.Size([2, 3, 32, 32])
    """
    C, H, W = images.shape[1:]
    key: Key | PatchKeys = Key.generate(patch_size, C)
    tensors, about = {}, {"patch_size": str(patch_size), "channels": str(C)}
    if model is not None:
        key = PatchKeys.generate(patch_size, C, (H // patch_size, W // patch_size))
        tensors = {f"model.{name}": tensor for name, tensor in encrypt_model(model, key).state_dict().items()}
        about["model"] = json.dumps(model.sizes)
    about["key_sha256"] = key_digest(key)
    save_tensors(path, tensors | {"images": encrypt_images(images, key)}, about, exclusive=True)


def load_challenge(level: int | str | Path) -> Evidence:
    """What the attacker of a level is given.

    Args:
        level: 1, 2 or 3; or the file of a challenge of your own, from `make_challenge`.

    Returns:
        encrypted images, and at level 3 the encrypted network, in evaluation mode. It was trained as the package's
        network for digits was, from another seed, and is nowhere else.

    Raises:
        TypeError: the level is no integer, and no path.
        ValueError: there is no such level, or the file holds no challenge, or not a whole one.
        FileNotFoundError: there is no such file.

    >>> [tuple(load_challenge(level).images.shape) for level in (1, 2, 3)]
    [(260, 3, 32, 32), (2, 3, 192, 192), (360, 1, 8, 8)]
    """
    return _read(level)[0]


def check_challenge(key: SignedPermutation | PatchKeys, level: int | str | Path) -> Verdict:
    """Whether `key` is that of the level, and if not, whether it is a near relative.

    Args:
        key: what an attack has found: a `SignedPermutation`; at level 3 `PatchKeys` of them.
        level: as in `load_challenge`.

    Returns:
        points and words.

    Raises:
        TypeError: a key of another kind, or as in `load_challenge`.
        ValueError: a key for blocks of another shape or for another grid, or as in `load_challenge`.

    >>> print(check_challenge(Key.from_seed(0, 4, 3), 1))
    0 of 2 points. Not the key. Look at the images that it decrypts: do blocks look like pieces of a picture?
    """
    (images, model), about = _read(level)
    M, C = int(about["patch_size"]), int(about["channels"])
    keys = [key] if model is None else key.keys if isinstance(key, PatchKeys) else []
    if not keys or not all(isinstance(each, SignedPermutation) for each in keys):
        kind = "a SignedPermutation" if model is None else "PatchKeys of a SignedPermutation for each place"
        raise TypeError(f"the key of this challenge is {kind}; got {type(key).__name__}")
    wanted = (M, C) if model is None else (M, C, (images.shape[2] // M, images.shape[3] // M))
    given = (key.patch_size, key.channels, *([key.grid] if isinstance(key, PatchKeys) else []))
    if given != wanted:
        names = "(M, C)" if model is None else "(M, C, grid)"
        raise ValueError(f"the key of this challenge is for {names} = {wanted}; got one for {given}")
    change = next((g for g in relatives(M, C) if key_digest(g.then(key)) == about["key_sha256"]), None)
    if change is None:
        return Verdict(0, "Not the key. Look at the images that it decrypts: do blocks look like pieces of a picture?")
    faults = ["all flips are reversed: the pictures are negatives"] if bool(change.flips[0]) else []
    if change.permutation.tolist() != list(range(key.size)):
        faults.append("blocks are mirrored, turned, or their colour channels exchanged")
    return Verdict(1, f"Not yet, but close: {', and '.join(faults)}.") if faults else Verdict(2, "This is the key.")


def key_digest(key: BlockKey) -> str:
    """SHA-256 of a `SignedPermutation`, or of `PatchKeys` of them.

    A key has 247.8 bits to guess for M = 4, C = 3, and 16 keys for M = 2, C = 1 have 114.7, so the digest gives none
    away. Whoever knows a key up to a few candidates can try them, as `check_challenge` does.

    >>> len(key_digest(Key.from_seed(0, 4, 3)))
    64
    """
    content = [key.patch_size, key.channels]
    for each in key.keys if isinstance(key, PatchKeys) else [key]:
        content += [each.permutation.tolist(), each.flips.long().tolist()]  # type: ignore[attr-defined]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read(level: int | str | Path) -> tuple[Evidence, dict[str, str]]:
    if isinstance(level, str | Path):
        path, remedy = Path(level), "copy it again from who made it"
    elif 1 <= (number := integer(level, "the level")) <= LEVELS:
        path = Path(str(files("mixerkey") / "attacks" / f"challenge-{number}.safetensors"))
        remedy = "install mixerkey again"
    else:
        raise ValueError(f"there are levels 1 to {LEVELS}, got {number}")
    try:
        about, tensors = load_tensors(path, _plan)
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        images = weights.pop("images")
        if images.dtype != torch.uint8:
            raise ValueError(f"its images are {images.dtype}")
        check_values(weights)
    except ValueError as error:
        raise ValueError(f"{path.name} holds no challenge, or not a whole one ({error}); {remedy}") from error
    if "model" not in about:
        return Evidence(images), about
    model = ConvMixer(**parse_json(about["model"]))
    model[0] = UnsharedEmbedding(weights["0.weight"], weights["0.bias"], model.sizes["patch_size"])
    model.load_state_dict(weights)
    return Evidence(images, model.eval()), about


def _plan(about: dict[str, str], entries: dict[str, Entry]) -> dict[str, str]:
    """Refuse a header that is no challenge's; else its metadata."""
    if "key_sha256" not in about or "images" not in entries:
        raise ValueError("make_challenge writes images and the hash of a key")
    M, C, shape = int(about["patch_size"]), int(about["channels"]), entries["images"].shape
    if M < 1 or len(shape) != 4 or 0 in shape or shape[1] != C or shape[2] % M or shape[3] % M:
        raise ValueError(f"its images are {entries['images']}, its blocks {M} x {M} of {C} channels")
    if "model" in about:
        weights = {name.removeprefix("model."): entry for name, entry in entries.items() if name != "images"}
        d, *each_place = weights["0.weight"].shape
        if each_place != [shape[2] // M, shape[3] // M, C * M * M]:
            raise ValueError(f"its embedding is {weights['0.weight']}, which does not fit its images")
        check_entries("convmixer", parse_json(about["model"]), weights | {"0.weight": Entry(True, (d, C, M, M))})
    return about
