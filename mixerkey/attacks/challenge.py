"""A challenge: images encrypted with a key that nobody kept, and a checker that knows only the key's hash."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mixerkey.attacks.ciphertext import relatives
from mixerkey.cipher import encrypt_images
from mixerkey.data import load_photos
from mixerkey.files import save_tensors
from mixerkey.keys import Key, SignedPermutation

SIDE = 32  # of the tiles, in pixels


def photo_tiles(half: str) -> Tensor:
    """Tiles of the left or the right half of both photographs: the challenge's public images, and what it encrypts.

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


def make_challenge(images: Tensor, patch_size: int, path: str | Path) -> None:
    """Encrypt images with a fresh key, write them and the key's hash, and forget the key.

    Args:
        images: uint8 (N, C, H, W).
        patch_size: M.
        path: safetensors file to write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_challenge(photo_tiles("right")[:2], 4, Path(folder) / "challenge.safetensors")
    ...     load_challenge(Path(folder) / "challenge.safetensors").shape
    torch.Size([2, 3, 32, 32])
    """
    key = Key.generate(patch_size, images.shape[1])
    shape = {"patch_size": str(patch_size), "channels": str(images.shape[1]), "key_sha256": key_digest(key)}
    save_tensors(path, {"images": encrypt_images(images, key)}, shape)


def load_challenge(path: str | Path | None = None) -> Tensor:
    """The encrypted images of a challenge: by default the package's, tiles of the right half of two photographs.

    Returns:
        uint8 (N, C, H, W).

    >>> load_challenge().shape
    torch.Size([260, 3, 32, 32])
    """
    return _read(path)[0]


def check_challenge(key: SignedPermutation, path: str | Path | None = None) -> str:
    """Whether `key` is the challenge's, and if not, whether it is a near relative: a verdict in words.

    Args:
        key: what an attack has found.
        path: of the challenge; by default the package's.

    Returns:
        a sentence, which starts with "Right" or "Not".

    Raises:
        ValueError: a key for blocks of another shape.

    >>> check_challenge(Key.from_seed(0, 4, 3))
    'Not the key. Look at the images that it decrypts: do blocks look like pieces of a picture?'
    """
    _, secret = _read(path)
    M, C = int(secret["patch_size"]), int(secret["channels"])
    if (key.patch_size, key.channels) != (M, C):
        raise ValueError(
            f"the challenge has blocks of M = {M}, C = {C}; got a key for {key.patch_size}, {key.channels}"
        )
    same, *others = relatives(M, C)
    if key_digest(same.then(key)) == secret["key_sha256"]:
        return "Right: this is the key."
    for g in others:
        if key_digest(g.then(key)) == secret["key_sha256"]:
            faults = ["all flips are reversed: the pictures are negatives"] if bool(g.flips[0]) else []
            if g.permutation.tolist() != list(range(M * M * C)):
                faults.append("blocks are mirrored, turned, or their colour channels exchanged")
            return f"Not yet, but close: {', and '.join(faults)}."
    return "Not the key. Look at the images that it decrypts: do blocks look like pieces of a picture?"


def key_digest(key: SignedPermutation) -> str:
    """SHA-256 of a key. It has 247.8 bits to guess for M = 4, C = 3, so the digest does not give it away.

    >>> len(key_digest(Key.from_seed(0, 4, 3)))
    64
    """
    content = [key.patch_size, key.channels, key.permutation.tolist(), key.flips.long().tolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read(path: str | Path | None) -> tuple[Tensor, dict[str, str]]:
    if path is None:
        with as_file(files("mixerkey") / "attacks" / "challenge.safetensors") as own:
            return _read(own)
    with safe_open(path, "pt") as file:
        return file.get_tensor("images"), file.metadata()
