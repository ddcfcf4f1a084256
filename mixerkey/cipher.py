"""The image cipher of §3.2: pixel shuffling, bit flipping, and the normalisation that turns a flip into a sign."""

from __future__ import annotations

import torch
from torch import Tensor

from mixerkey.blocks import integrate, segment
from mixerkey.keys import SignedPermutation


def encrypt_images(x: Tensor, key: SignedPermutation) -> Tensor:
    """Encrypt every block of every image with one key: shuffle by Eq. (4), then flip by Eq. (5) or (6).

    Args:
        x: images (..., C, H, W): uint8, or floating point in [0, 1]. C must be the key's, H and W divisible by its
            patch size M.
        key: the secret; it lives on the CPU, the images on any device.

    Returns:
        encrypted images, same shape, dtype and device. Pixel k of a block becomes pixel v_k; where r_k = 1 it is
        flipped: ``p XOR 255`` on uint8 (Eq. 5), ``1 - p`` on floats (Eq. 6).

    Raises:
        TypeError: a dtype other than uint8 or floating point.
        ValueError: a shape that does not fit the key, NaN, or a value outside [0, 1].

    >>> from mixerkey import Key
    >>> key = Key.from_seed(7, patch_size=4, channels=3)
    >>> x = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
    >>> torch.equal(decrypt_images(encrypt_images(x, key), key), x)
    True
    """
    _check(x)
    if x.ndim < 3 or x.shape[-3] != key.channels:
        raise ValueError(
            f"the key is for images (..., {key.channels}, H, W), got {tuple(x.shape)}; "
            "images are channel first, and the key must be made for their number of channels"
        )
    *batch, C, H, W = x.shape
    M = key.patch_size
    # Which pixel of an image goes where, worked out once; then one gather moves all images without regrouping them.
    numbers = segment(torch.arange(C * H * W).reshape(C, H, W), M)  # (H/M, W/M, p_b)
    source = integrate(numbers[..., key.permutation], M).flatten().to(x.device)  # Eq. (4), (C*H*W,)
    flips = integrate(key.flips.expand(H // M, W // M, -1), M).flatten().to(x.device)  # (C*H*W,)
    shuffled = x.flatten(-3).gather(-1, source.expand(*batch, -1))  # (..., C*H*W)
    if x.dtype == torch.uint8:
        flipped = shuffled.bitwise_xor_(flips.to(torch.uint8) * 255)  # Eq. (5)
    else:
        flipped = torch.where(flips, 1 - shuffled, shuffled)  # Eq. (6)
    return flipped.reshape(x.shape)


def decrypt_images(x: Tensor, key: SignedPermutation) -> Tensor:
    """Undo `encrypt_images` with the same key; arguments, result and errors as there.

    Exact on uint8, and on floats wherever ``1 - p`` is exact: on multiples of 2⁻²⁴ in float32, of 2⁻⁵³ in float64.
    Elsewhere ``1 - p`` has rounded, and p comes back to within half of that step.

    >>> from mixerkey import Key
    >>> key = Key.from_seed(7, patch_size=2, channels=1)
    >>> x = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    >>> torch.equal(decrypt_images(encrypt_images(x, key), key), x)
    True
    """
    return encrypt_images(x, key.inverse())


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


def _check(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(x).__name__}; torch.from_numpy converts an array")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {x.dtype}")
    if x.is_floating_point() and x.numel():
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise ValueError(
                f"floating-point images must lie in [0, 1] without NaN, got {low.item():g} to {high.item():g}; "
                "encrypt before normalising, and divide 8-bit values by 255"
            )
