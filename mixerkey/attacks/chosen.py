"""Chosen plaintext: the attacker may have images of their own encrypted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixerkey.attacks.pairs import block_pairs, signed_assignment
from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.blocks import integrate, segment
from mixerkey.keys import SignedPermutation, block_size

HALF = 128  # a pixel and its flip are p and 255 - p: 128 pairs that can be told apart


def chosen_plaintext(oracle: Callable[[Tensor], Tensor], patch_size: int, channels: int) -> Recovery[SignedPermutation]:
    """The whole key from one query.

    Pixel j of the query is j: all different, and below 128. An answer of 128 or more can only be a flipped pixel, and
    tells which one. A block of more than 128 pixels has more positions than there are such values; then position j
    is spelled in base 128, one digit a block, in as many blocks side by side as it has digits (two for M = 8, C = 3).
    That is the least: n blocks give a pixel at most 128ⁿ different histories.

    Args:
        oracle: encrypts a uint8 image (C, M, n M) with the secret key.
        patch_size: M.
        channels: C.

    Returns:
        the key; its score is 1 and nothing is ambiguous.

    Raises:
        ValueError: the answer is not one of this cipher with one key for all blocks.

    >>> from mixerkey import Key, encrypt_images
    >>> secret = Key.generate(4, 3)
    >>> chosen_plaintext(lambda image: encrypt_images(image, secret), 4, 3).key == secret
    True
    """
    size = block_size(patch_size, channels)
    digits = 1
    while HALF**digits < size:
        digits += 1
    places = HALF ** torch.arange(digits)
    query = (torch.arange(size) // places[:, None] % HALF).to(torch.uint8)  # (n, p_b)
    image = integrate(query[None], patch_size)  # (C, M, n M)
    answer = oracle(image)
    if not isinstance(answer, Tensor) or answer.shape != image.shape or answer.dtype != torch.uint8:
        raise ValueError(f"the oracle must answer a uint8 image {tuple(image.shape)} with one of the same shape")
    blocks = segment(answer, patch_size)[0].long()  # (n, p_b)
    flips = blocks >= HALF
    permutation = (torch.where(flips, 255 - blocks, blocks) * places[:, None]).sum(0)
    if not (flips == flips[0]).all() or permutation.sort().values.tolist() != list(range(size)):
        raise ValueError(
            "the oracle's answer is no shuffle and flip of the pixels of each block with one key; "
            "does it return the encrypted image untouched, not compressed or resized?"
        )
    return Recovery(as_key(SignedPermutation(permutation, flips[0], patch_size, channels)), score=1.0)


def chosen_under_noise(
    oracle: Callable[[Tensor], Tensor],
    patch_size: int,
    channels: int,
    generator: torch.Generator,
    *,
    queries: int = 1,
    side: int = 8,
    solve: Callable[[Tensor, Tensor, int, int], Recovery] = signed_assignment,
) -> Recovery:
    """The key from queries that noise does not hide: blocks of black and white pixels at random.

    Noise of standard deviation σ is averaged out over the n blocks that were sent: the answers of two positions differ
    by √n or more of its deviations as soon as the pixels are far apart, and black and white are as far as can be.

    Args:
        oracle: encrypts a uint8 image (C, side M, side M) with the secret key, after or before adding noise.
        patch_size: M.
        channels: C.
        generator: draws the blocks.
        queries: how many images are sent.
        side: blocks a side of each.
        solve: `signed_assignment`; for mixed pixels `procrustes` or `least_squares`.

    Returns:
        the key, see `solve`.

    >>> from mixerkey import Key, encrypt_images
    >>> secret, rng = Key.generate(4, 3), torch.Generator().manual_seed(0)
    >>> def oracle(image):
    ...     noisy = image + 32 * torch.randn(image.shape, generator=rng)
    ...     return encrypt_images(noisy.clamp(0, 255).to(torch.uint8), secret)
    >>> chosen_under_noise(oracle, 4, 3, rng).key == secret
    True
    """
    pairs = []
    for _ in range(queries):
        shape = (channels, side * patch_size, side * patch_size)
        image = (255 * torch.randint(2, shape, generator=generator)).to(torch.uint8)
        pairs.append(block_pairs(image, oracle(image), patch_size))
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return solve(x, y, patch_size, channels)
