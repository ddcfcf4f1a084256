"""The image cipher of §3.2: pixel shuffling, bit flipping, and the normalisation that turns a flip into a sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixerkey.blocks import integrate, segment
from mixerkey.keys import BlockKey

PIXELS = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def encrypt_images(x: Tensor, key: BlockKey | Sequence[BlockKey]) -> Tensor:
    """Encrypt images: with the paper's key, shuffle every block by Eq. (4), then flip by Eq. (5) or (6).

    Args:
        x: images (..., C, H, W): uint8, or floating point in [0, 1]. C must be the key's, H and W divisible by its
            patch size M.
        key: the secret; it lives on the CPU, the images on any device. For images (N, C, H, W) also a sequence of N
            keys, one an image, such as `KeySchedule.keys` gives.

    Returns:
        encrypted images, same shape and device. Of keys that move pixels the dtype is the images' own: pixel k of a
        block becomes pixel v_k; where r_k = 1 it is flipped, ``p XOR 255`` on uint8 (Eq. 5), ``1 - p`` on floats
        (Eq. 6). Of keys that mix pixels it is float32: what the network takes, normalised already.

    Raises:
        TypeError: a dtype other than uint8 or floating point, no dense tensor, or a key that is none.
        ValueError: a shape that does not fit the key, NaN, a value outside [0, 1], or not as many keys as images.

    >>> from mixerkey import Key
    >>> key = Key.from_seed(7, patch_size=4, channels=3)
    >>> x = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
    >>> torch.equal(decrypt_images(encrypt_images(x, key), key), x)
    True
    """
    if not isinstance(key, BlockKey):
        return _each(encrypt_images, x, key)
    if not key.moves_pixels:
        return network_input(x, key)
    _check(x)
    _check_channels(x, key)
    *batch, C, H, W = x.shape
    # Number the pixels from 1 and encrypt the numbers: each place then says which pixel comes there, and whether it is
    # flipped. One gather moves all images without regrouping them.
    numbers = segment(torch.arange(1, C * H * W + 1).reshape(C, H, W), key.patch_size)  # (H/M, W/M, p_b)
    moved = integrate(key.act(numbers), key.patch_size).flatten().to(x.device)  # (C*H*W,)
    source, flips = moved.abs() - 1, moved < 0
    shuffled = x.flatten(-3).gather(-1, source.expand(*batch, -1))  # Eq. (4), (..., C*H*W)
    if x.dtype == torch.uint8:
        flipped = shuffled.bitwise_xor_(flips.to(torch.uint8) * 255)  # Eq. (5)
    else:
        flipped = torch.where(flips, 1 - shuffled, shuffled)  # Eq. (6)
    return flipped.reshape(x.shape)


def decrypt_images(x: Tensor, key: BlockKey | Sequence[BlockKey]) -> Tensor:
    """Undo `encrypt_images` with the same key; arguments and errors as there.

    Of keys that move pixels: exact on uint8, and on floats wherever ``1 - p`` is exact: on multiples of 2⁻²⁴ in
    float32, of 2⁻⁵³ in float64. Elsewhere ``1 - p`` has rounded, and p comes back to within half of that step. Of keys
    that mix pixels: floats in [0, 1], to the rounding of float32 times the key's condition.

    >>> from mixerkey import Key
    >>> key = Key.from_seed(7, patch_size=2, channels=1)
    >>> x = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    >>> torch.equal(decrypt_images(encrypt_images(x, key), key), x)
    True
    """
    if not isinstance(key, BlockKey):
        return _each(decrypt_images, x, key)
    if key.moves_pixels:
        return encrypt_images(x, key.inverse())
    check_dense(x)
    if not x.is_floating_point():
        raise TypeError(f"mixed images are floating point, as encrypt_images gives them; got {x.dtype}")
    _check_channels(x, key)
    blocks = segment(x, key.patch_size)
    plain = integrate(key.inverse().act(blocks.double()), key.patch_size).to(x.dtype)  # normalised
    return ((1 + plain) / 2).clamp(0, 1)


def network_input(
    x: Tensor, key: BlockKey | Sequence[BlockKey] | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What every network of the package takes: images encrypted, if there is a key, and normalised.

    Args:
        x: plain images, as for `encrypt_images`.
        key: as there.
        dtype: of the result, floating point; pixels are mixed in it.

    Returns:
        ``normalize(encrypt_images(x, key))`` for keys that move pixels; for others ``normalize(x)``, mixed.

    Raises:
        TypeError, ValueError: as there; also for another dtype.

    >>> from mixerkey.keys import MatrixKey
    >>> x, key = torch.rand(5, 3, 8, 8), MatrixKey.orthogonal(4, 3, seed=0)
    >>> bool((network_input(x, key).norm() - network_input(x).norm()).abs() < 1e-4)  # an isometry
    True
    """
    if dtype not in PIXELS[1:]:
        raise TypeError(f"a network takes floating-point numbers, such as torch.float32; got {dtype}")
    if key is None:
        return normalize(x).to(dtype)
    if not isinstance(key, BlockKey):
        return _each(network_input, x, key, dtype).to(dtype)  # also where there is no image
    if key.moves_pixels:
        return normalize(encrypt_images(x, key)).to(dtype)
    normal = normalize(x).to(dtype)
    _check_channels(x, key)
    return integrate(key.act(segment(normal, key.patch_size)), key.patch_size)


def normalize(x: Tensor) -> Tensor:
    """Map pixels to [-1, 1] by mean 1/2 and standard deviation 1/2, exactly odd about the middle (Eq. 7).

    ``normalize(255 - p) == -normalize(p)`` and ``normalize(1 - p) == -normalize(p)`` hold bit for bit, so on
    normalised pixels a flip *is* a sign. The naive ``(p / 255 - 0.5) / 0.5`` misses this at half of the 256 levels.

    Args:
        x: uint8 0..255, or floating point in [0, 1], any shape.

    Returns:
        float32, same shape and device.

    Raises:
        TypeError: a dtype other than uint8 or floating point.
        ValueError: NaN, or a value outside [0, 1].

    >>> normalize(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    >>> p = torch.arange(256, dtype=torch.uint8)
    >>> torch.equal(normalize(255 - p), -normalize(p))
    True
    """
    _check(x)
    if x.dtype == torch.uint8:
        return (2 * x.to(torch.float32) - 255) / 255  # an integer, then one rounding: odd
    # 1 - x has already rounded to the grid on which 2(1 - x) and 1 minus that are exact: odd. 2x - 1 is not.
    return (1 - 2 * (1 - x)).to(torch.float32)


def _each(function, x: Tensor, keys: Sequence[BlockKey], *options: Any) -> Tensor:  # type: ignore[no-untyped-def]
    """`function` of each image and its own key."""
    if not isinstance(keys, Sequence) or not all(isinstance(key, BlockKey) for key in keys):
        raise TypeError(
            f"need a key, such as Key.generate makes, or a list of keys, one for each image; got {type(keys).__name__}"
        )
    if function is not network_input and len({key.moves_pixels for key in keys}) > 1:
        raise ValueError("some keys move pixels and some mix them, which gives images of two kinds; take them apart")
    if len(keys) != len(x):
        raise ValueError(f"need one key for each image; got {len(keys)} keys and {len(x)} images")
    return torch.stack([function(image, key, *options) for image, key in zip(x, keys, strict=True)]) if len(x) else x


def check_dense(x: Tensor) -> None:
    """Refuse what is no tensor of numbers, each of them there.

    >>> check_dense([1])
    Traceback (most recent call last):
        ...
    TypeError: images must be a torch.Tensor, got list; torch.from_numpy converts an array
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(x).__name__}; torch.from_numpy converts an array")
    if x.layout != torch.strided or x.is_nested or x.is_meta or isinstance(x, torch.masked.MaskedTensor):
        raise TypeError("images must be a dense tensor with numbers; got a sparse, nested, masked or meta one")


def _check(x: Tensor) -> None:
    check_dense(x)
    if x.dtype not in PIXELS:
        raise TypeError(f"images must be uint8 or floating point, got {x.dtype}")
    if x.is_floating_point() and x.numel():
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise ValueError(
                f"floating-point images must lie in [0, 1] without NaN, got {low.item():g} to {high.item():g}; "
                "encrypt before normalising, and divide 8-bit values by 255"
            )


def _check_channels(x: Tensor, key: BlockKey) -> None:
    if x.ndim < 3 or x.shape[-3] != key.channels:
        raise ValueError(
            f"the key is for images (..., {key.channels}, H, W), got {tuple(x.shape)}; "
            "images are channel first, and the key must be made for their number of channels"
        )
