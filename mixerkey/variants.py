"""Variants of the cipher that answer its attacks: what each hides better, and what the user pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mixerkey.blocks import integrate, segment
from mixerkey.cipher import encrypt_images, normalize
from mixerkey.embedding import patch_matrix, set_patch_matrix
from mixerkey.keys import SignedPermutation, block_size

Model = TypeVar("Model", bound=nn.Module)


def encrypt_each(x: Tensor, keys: Sequence[SignedPermutation]) -> Tensor:
    """A key per image: image i is encrypted with keys[i].

    What one image betrays opens no other. The price: no patch embedding fits more than one key, so a network must be
    encrypted anew for each image, or the images decrypted before it.

    Args:
        x: images (N, C, H, W), uint8 or floating point in [0, 1].
        keys: N keys of one block shape. Their inverses decrypt.

    Returns:
        same shape and dtype. Deterministic for given keys.

    Raises:
        ValueError: as many keys as images are not there, or an image does not fit its key.

    >>> from mixerkey import Key
    >>> x, keys = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8), [Key.generate(2, 1) for _ in range(5)]
    >>> torch.equal(encrypt_each(encrypt_each(x, keys), [key.inverse() for key in keys]), x)
    True
    """
    if len(keys) != len(x):
        raise ValueError(f"need one key for each image; got {len(keys)} keys and {len(x)} images")
    return torch.stack([encrypt_images(image, key) for image, key in zip(x, keys, strict=True)]) if len(x) else x


def encrypt_patches(x: Tensor, keys: Sequence[SignedPermutation]) -> Tensor:
    """Keys per patch: block (i, j) of every image is encrypted with its own key, keys[i * W / M + j].

    The blocks of an image no longer share a key, so an attacker needs many images instead of many blocks. The price:
    z = x_p T E' would need another E' in every place, and a convolution has one. An embedding with unshared weights
    absorbs the keys, with H W / M² times the parameters; images of another size need other keys.

    Args:
        x: images (..., C, H, W), uint8 or floating point in [0, 1].
        keys: as many as an image has blocks, row by row. Their inverses decrypt.

    Returns:
        same shape and dtype. Deterministic.

    Raises:
        ValueError: as many keys as blocks are not there, or the images do not fit them.

    >>> from mixerkey import Key
    >>> x, keys = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8), [Key.generate(2, 1) for _ in range(16)]
    >>> torch.equal(encrypt_patches(encrypt_patches(x, keys), [key.inverse() for key in keys]), x)
    True
    """
    M = keys[0].patch_size if keys else 1
    h, w = x.shape[-2] // M, x.shape[-1] // M
    if len(keys) != h * w:
        raise ValueError(f"need one key for each of the {h} x {w} blocks, got {len(keys)}")
    out = x.clone()
    for n, key in enumerate(keys):
        i, j = n // w, n % w
        block = (..., slice(i * M, (i + 1) * M), slice(j * M, (j + 1) * M))
        out[block] = encrypt_images(x[block], key)
    return out


def orthogonal_matrix(patch_size: int, channels: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, all equally likely (Haar): the key that mixes pixels instead of moving them.

    Args:
        patch_size: M.
        channels: C.
        generator: draws it; seeded by the operating system where it is to be a secret.

    Returns:
        Q, float64 (p_b, p_b). Its inverse is ``Q.T``.

    >>> Q = orthogonal_matrix(2, 3, torch.Generator().manual_seed(0))
    >>> torch.allclose(Q @ Q.T, torch.eye(12, dtype=torch.float64))
    True
    """
    size = block_size(patch_size, channels)
    Q, R = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return Q * R.diagonal().sign()  # without the signs, QR prefers some matrices


def mix_images(x: Tensor, Q: Tensor, patch_size: int) -> Tensor:
    """Mix the normalised pixels of every block by an orthogonal matrix: x' = x Q (Aso, Chuman and Kiya, 2023).

    A signed permutation is the special case `Key.matrix`. The price: x' is not made of pixels. It takes four bytes
    instead of one, lies outside [-1, 1], and rounding it to 8 bits costs accuracy.

    Args:
        x: images (..., C, H, W), uint8 or floating point in [0, 1].
        Q: orthogonal (p_b, p_b).
        patch_size: M.

    Returns:
        float32 (..., C, H, W), normalised pixels, mixed: what the network takes without further normalisation.

    Raises:
        ValueError: Q does not fit the blocks.

    >>> x, Q = torch.rand(5, 3, 8, 8), orthogonal_matrix(4, 3, torch.Generator().manual_seed(0))
    >>> bool((mix_images(x, Q, 4).norm() - normalize(x).norm()).abs() < 1e-4)
    True
    """
    return mix_blocks(normalize(x), Q, patch_size)


def mix_blocks(x: Tensor, Q: Tensor, patch_size: int) -> Tensor:
    """x Q for every block of normalised pixels (..., C, H, W): with ``Q.T``, undoes `mix_images`.

    >>> x, Q = torch.rand(5, 3, 8, 8), orthogonal_matrix(4, 3, torch.Generator().manual_seed(0))
    >>> torch.allclose(mix_blocks(mix_images(x, Q, 4), Q.T, 4), normalize(x), atol=1e-5)
    True
    """
    blocks = segment(x, patch_size)
    if Q.shape != (blocks.shape[-1], blocks.shape[-1]):
        raise ValueError(f"Q must be {blocks.shape[-1]} x {blocks.shape[-1]} for these images, got {tuple(Q.shape)}")
    return integrate(blocks @ Q.to(blocks), patch_size)


def mix_model(model: Model, Q: Tensor) -> Model:
    """The network for mixed images: E' = Qᵀ E, so that (x Q)(Qᵀ E) = x E, as for a key.

    >>> from mixerkey import load_pretrained
    >>> model, Q = load_pretrained("digits"), orthogonal_matrix(2, 1, torch.Generator().manual_seed(0))
    >>> x = torch.rand(5, 1, 8, 8)
    >>> torch.allclose(mix_model(model, Q)(mix_images(x, Q, 2)), model(normalize(x)), atol=1e-4)
    True
    """
    E = patch_matrix(model)
    return set_patch_matrix(model, Q.T.to(E) @ E)


def add_noise(x: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise before encryption, so that the same picture is never sent twice alike.

    The price is accuracy; see the receipt of ``mixerkey/experiments/schemes.py``.

    Args:
        x: uint8 images.
        levels: standard deviation in grey levels; 0 for none.
        generator: of the noise.

    Returns:
        uint8, same shape: rounded and cut to 0..255.

    Raises:
        TypeError: images that are not uint8.
        ValueError: a negative standard deviation.

    >>> x = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    >>> torch.equal(add_noise(x, 0, torch.Generator()), x), torch.equal(add_noise(x, 8, torch.Generator()), x)
    (True, False)
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"noise is added to uint8 images, got {x.dtype}")
    if levels < 0:
        raise ValueError(f"the standard deviation must not be negative, got {levels}")
    noise = levels * torch.randn(x.shape, generator=generator)
    return (x + noise).round().clamp(0, 255).to(torch.uint8)
