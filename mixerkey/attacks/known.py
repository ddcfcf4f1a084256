"""Known plaintext: the attacker has images and their encryption."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mixerkey.attacks.recovery import Recovery, as_key, exchanges
from mixerkey.blocks import segment
from mixerkey.keys import SignedPermutation

CHUNK = 256  # blocks compared at a time


def known_plaintext(
    plain: Tensor, encrypted: Tensor, patch_size: int, *, tolerance: int = 2
) -> Recovery[SignedPermutation]:
    """The key from images that are known in both forms, even if some pixels are damaged.

    Every block votes: plain pixel j for ciphertext position k when both have the same value, or the flipped one. A
    miss by less than `tolerance` levels is a part of a vote, so rounding costs little, and a damaged pixel costs one
    vote. The permutation with the most votes is a linear assignment problem; each flip is decided by majority.

    Args:
        plain: uint8 images (..., C, H, W).
        encrypted: the same images encrypted with one key, uint8, same shape.
        patch_size: M.
        tolerance: the number of levels by which a value must miss to count nothing; 1 for exact values only.

    Returns:
        the key. Its score is the fraction of all votes, 1 when it explains every pixel. `ambiguous` holds, as
        exchanges of two plain positions (with two flips, where one is the negative of the other), what leaves the
        votes as they are: positions whose values are equal in all blocks, such as the channels of a grey image. Where
        the key does not explain every pixel, an exchange or a flip also counts as invisible when it costs no more
        than three standard deviations of the votes lost to noise at its positions, taken as a Poisson count.

    Raises:
        ValueError: images that are not uint8, differ in shape, are empty, or do not divide into blocks.

    >>> from mixerkey import Key, encrypt_images
    >>> secret, image = Key.generate(2, 3), torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    >>> recovery = known_plaintext(image, encrypt_images(image, secret), 2)
    >>> recovery.key == secret, recovery.score, recovery.ambiguous
    (True, 1.0, ())
    >>> grey = image[:1].expand(3, 8, 8)
    >>> len(known_plaintext(grey, encrypt_images(grey, secret), 2).ambiguous)  # (R, G) and (G, B) of 4 pixels
    8
    """
    if plain.dtype != torch.uint8 or encrypted.dtype != torch.uint8 or plain.shape != encrypted.shape:
        raise ValueError(
            f"need uint8 images of one shape, got {plain.dtype} {tuple(plain.shape)} and "
            f"{encrypted.dtype} {tuple(encrypted.shape)}; encrypt 8-bit images to compare with"
        )
    if not plain.numel():
        raise ValueError(f"need at least one image with its encryption, got shape {tuple(plain.shape)}")
    if tolerance < 1:
        raise ValueError(f"tolerance must be at least 1 level, got {tolerance}")
    blocks = segment(plain, patch_size)
    size = blocks.shape[-1]
    x, y = blocks.reshape(-1, size), segment(encrypted, patch_size).reshape(-1, size)  # (n, p_b)
    votes = np.stack([_votes(x, y, tolerance), _votes(255 - x, y, tolerance)])  # (2, p_b plain, p_b cipher)
    best = votes.max(0)
    rows, columns = linear_sum_assignment(best, maximize=True)
    v = rows[np.argsort(columns)]
    flips = votes.argmax(0)[v, np.arange(size)].astype(bool)
    key = SignedPermutation(v.tolist(), flips.tolist(), patch_size, plain.shape[-3])
    return Recovery(as_key(key), float(best[v, range(size)].sum() / (len(x) * size)), _unseen(votes, key, len(x)))


def _votes(x: Tensor, y: Tensor, tolerance: int) -> np.ndarray:
    """How many of the n blocks say that plain position j (row) became ciphertext position k (column)."""
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        miss = (a[:, :, None].short() - b[:, None, :].short()).abs()  # (chunk, p_b, p_b)
        total += (tolerance - miss).clamp(min=0).sum(0)
    return (total / tolerance).numpy()


def _unseen(votes: np.ndarray, key: SignedPermutation, blocks: int) -> tuple[SignedPermutation, ...]:
    """Flips of one plain position, and exchanges of two, that the votes do not notice."""
    back = key.permutation.argsort().numpy()
    votes = votes[:, :, back]  # [i, j]: plain position i at the place where the key puts j
    best, sign = votes.max(0), votes.argmax(0).astype(bool)
    own, size = np.diag(best), len(best)
    cost = own[:, None] + own - best - best.T
    lost = blocks - own  # 0 at every position when the data are exact
    hidden = cost <= 3 * np.sqrt(lost[:, None] + lost) + 1e-9
    flips = own - np.diag(votes.min(0)) <= 3 * np.sqrt(lost)  # only noise makes a flip doubtful
    M, C = key.patch_size, key.channels
    changes = [SignedPermutation(range(size), np.arange(size) == i, M, C) for i in np.flatnonzero(flips)]
    for i, j in exchanges(hidden):
        v, r = np.arange(size), np.zeros(size, dtype=bool)
        v[[i, j]] = j, i
        r[i], r[j] = sign[j, i] ^ sign[i, i], sign[i, j] ^ sign[j, j]
        changes.append(SignedPermutation(v, r, M, C))
    return tuple(changes)
