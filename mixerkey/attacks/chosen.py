"""Chosen plaintext: the attacker may have an image of their own encrypted, once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
