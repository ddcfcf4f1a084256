"""Where each pixel of a block belongs, from the encrypted pictures themselves: in a picture, distance counts.

How alike two pixels are depends on their channels and on the step from one to the other, hardly on where in the grid
of blocks they lie. So for the right permutation the similarities of pixels, within a block and across to its right and
its lower neighbour, are constant on classes of equal steps. No public picture is needed to see that, only to start
the search near enough.
"""

from __future__ import annotations

from copy import copy
from functools import cache

import numpy as np
import torch
from tqdm import tqdm

from mixerkey.attacks.assignment import match, permutation_matrix, start, swap_gains
from mixerkey.attacks.statistics import centred

NEAR = 1e-4  # added to 1 - |correlation|, so that equal pixels are not infinitely close
ROUNDS = 100  # of climbing at most
WAVES = 8  # of searches at most
AGAIN = 3  # searches a wave that know nothing of what was found, but what the pictures are like
PAIRS = 6.0  # that public pictures count for in each class
TIE = 1e-9
BLURS = ((0.6, 0.0), (1.2, 0.0), (2.5, 0.0), (0.6, 0.5), (2.5, 0.5))  # pixels, and how much channels are mixed


def remoteness(correlations: np.ndarray) -> np.ndarray:
    """log(1 - abs(ρ)) of pixels, each of the matrices centred: no brightness, contrast or flip of a pixel matters.

    Args:
        correlations: (3, p_b, p_b), as `Moments.correlations` gives.

    Returns:
        (3, p_b, p_b); the diagonal of the first, a pixel and itself, is 0.
    """
    return centred(np.log(1 - np.minimum(np.abs(correlations), 1) + NEAR))


@cache
def step_classes(patch_size: int, channels: int) -> np.ndarray:
    """Number of the class of each pair of pixels, int (3, p_b, p_b): two channels, and the step between them.

    >>> first, right, lower = step_classes(2, 1)  # pixels 0 1 / 2 3
    >>> bool(first[0, 1] == first[2, 3] == right[1, 0] == right[3, 2])  # one to the right
    True
    """
    M, C = patch_size, channels
    y, x = (np.tile(axis, C) for axis in np.divmod(np.arange(M * M), M))
    c = np.repeat(np.arange(C), M * M)
    a, b = np.broadcast_arrays(c[:, None], c)
    classes = []
    for right, down in ((0, 0), (M, 0), (0, M)):
        dx, dy = x + right - x[:, None], y + down - y[:, None]
        back = (dy < 0) | ((dy == 0) & ((dx < 0) | ((dx == 0) & (a > b))))  # the same pair, seen from the other pixel
        dx, dy = np.where(back, -dx, dx), np.where(back, -dy, dy)
        classes.append((((dy * 4 * M) + dx + 2 * M) * C + np.where(back, b, a)) * C + np.where(back, a, b))
    return np.unique(np.stack(classes), return_inverse=True)[1].reshape(3, M * M * C, M * M * C)


class Stationarity:
    """How stationary encrypted pictures would be under a permutation.

    Each class of equal steps is replaced by its mean; classes of few pairs, of which small blocks have many, lean on
    public pictures, as if `PAIRS` more had been seen there.

    Args:
        D: `remoteness` of encrypted pixels.
        public: that of public pictures.
        patch_size: M.
        channels: C.

    >>> classes = step_classes(2, 1).astype(float)  # as stationary as can be
    >>> pictures = Stationarity(classes, classes, 2, 1)
    >>> pictures.of(np.arange(4)) > pictures.of(np.array([1, 0, 2, 3]))
    True
    """

    def __init__(self, D: np.ndarray, public: np.ndarray, patch_size: int, channels: int) -> None:
        self.D, self.classes = D, step_classes(patch_size, channels)
        self.counts = np.bincount(self.classes.ravel())
        self.public = PAIRS * np.bincount(self.classes.ravel(), public.ravel()) / self.counts
        self.norm = float((D**2).sum()) or 1.0

    def like(self, D: np.ndarray) -> Stationarity:
        """Other pictures beside the same public ones."""
        other = copy(self)
        other.D, other.norm = D, float((D**2).sum()) or 1.0
        return other

    def plain(self, v: np.ndarray) -> np.ndarray:
        """`D` in the order of plain pixels, were v the permutation."""
        back = np.argsort(v)
        return self.D[:, back][:, :, back]

    def smoothed(self, v: np.ndarray) -> np.ndarray:
        """The same with each class replaced by its mean."""
        return (self._sums(v) / (self.counts + PAIRS)).astype(self.D.dtype)[self.classes]

    def of(self, v: np.ndarray) -> float:
        """The part of the variance of `D` that the classes explain, about 1 at most."""
        return float((self._sums(v) ** 2 / (self.counts + PAIRS)).sum() / self.norm)

    def _sums(self, v: np.ndarray) -> np.ndarray:
        return np.bincount(self.classes.ravel(), self.plain(v).ravel()) + self.public


def arrange(
    pictures: Stationarity,
    public: np.ndarray,
    patch_size: int,
    channels: int,
    generator: torch.Generator,
    starts: int,
    *,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The permutation under which the encrypted pictures are most stationary.

    The search starts from matches with public pictures. What it finds, smoothed, takes their place: the pictures
    become their own prior. They are matched with that again, from the best permutation blurred by a pixel or more,
    from that with one channel mirrored or turned, and from starts that know nothing of it, until nothing is better.

    Args:
        pictures: encrypted ones.
        public: `remoteness` of pixels of public ones.
        patch_size: M.
        channels: C.
        generator: draws the starts.
        starts: how many at first.
        progress: whether to show a progress bar on stderr.

    Returns:
        v, int (p_b,), up to the order of channels and symmetries of the square; and where the last of the searches
        that knew nothing of it ended, or None if one of them found v again.
    """
    D, M, C = pictures.D, patch_size, channels
    value, v = -np.inf, np.arange(D.shape[1])

    def improve(A: np.ndarray, X: np.ndarray) -> tuple[bool, np.ndarray]:
        nonlocal value, v
        found = _climb(pictures, _settle(pictures, match(A, D, X)))
        if (better := pictures.of(found)) <= value + TIE:
            return False, found
        value, v = better, found
        return True, found

    for k in tqdm(range(starts), "starts", disable=not progress):
        improve(public, start(public, D, k, generator))
    rivals: list[np.ndarray] = []
    for _ in range(WAVES):
        before = value
        turned = max((p[v] for p in _turned_channels(M, C)), key=pictures.of, default=v)
        if pictures.of(turned) > value:
            improve(pictures.smoothed(v), permutation_matrix(turned))
        for blur in _blurs(M, C):
            improve(pictures.smoothed(v), blur @ permutation_matrix(v))
        rivals = [improve(A, start(A, D, k, generator))[1] for k in range(AGAIN) for A in [pictures.smoothed(v)]]
        if value <= before + TIE:
            break
    best = [w for w in rivals if pictures.of(w) >= value - TIE]
    return v, None if best else max(rivals, key=pictures.of)


def _settle(pictures: Stationarity, v: np.ndarray) -> np.ndarray:
    """Match with its own smoothed self, again and again, as long as it gets more stationary."""
    value = pictures.of(v)
    for _ in range(ROUNDS):
        found = match(pictures.smoothed(v), pictures.D, permutation_matrix(v))
        if (better := pictures.of(found)) <= value + TIE:
            break
        v, value = found, better
    return v


def _climb(pictures: Stationarity, v: np.ndarray) -> np.ndarray:
    """Exchange pairs of positions, many at a time while that helps, then fewer."""
    value, size = pictures.of(v), len(v)
    for _ in range(ROUNDS):
        gains = np.triu(swap_gains(pictures.smoothed(v), pictures.plain(v)), 1)
        free, pairs = np.ones(size, dtype=bool), []
        for k in gains.argsort(axis=None)[::-1][:size]:
            i, j = divmod(int(k), size)
            if gains[i, j] > TIE and free[i] and free[j]:
                free[[i, j]] = False
                pairs.append((i, j))
        while pairs:
            p = np.arange(size)
            i, j = np.array(pairs).T
            p[i], p[j] = j, i
            if (better := pictures.of(p[v])) > value + TIE:
                v, value = p[v], better
                break
            pairs = pairs[: len(pairs) // 2]
        else:
            break
    return v


def square_symmetries(patch_size: int) -> list[np.ndarray]:
    """How a square of pixels can be turned and mirrored, as permutations of them; the first is the identity.

    >>> [len(square_symmetries(M)) for M in (1, 2, 4)]
    [1, 8, 8]
    """
    square = np.arange(patch_size**2).reshape(patch_size, patch_size)
    every = (np.rot90(s, turns).ravel() for s in (square, square.T) for turns in range(4))
    return list({tuple(turned): turned for turned in every}.values())


def _turned_channels(M: int, C: int) -> list[np.ndarray]:
    """Permutations of plain pixels that mirror or turn one channel, where there are others."""
    result = []
    for turned in square_symmetries(M)[1:] if C > 1 else ():
        for c in range(C):
            p = np.arange(C * M * M).reshape(C, M * M)
            p[c] = p[c][turned]
            result.append(p.ravel())
    return result


@cache
def _blurs(M: int, C: int) -> list[np.ndarray]:
    """Doubly stochastic (p_b, p_b): each plain pixel spread over those around it, and over the channels."""
    y, x = np.divmod(np.arange(M * M), M)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    result = []
    for pixels, mixed in BLURS:
        K = np.kron((1 - mixed) * np.eye(C) + mixed / C, np.exp(-squared / (2 * pixels**2)))
        for _ in range(50):  # Sinkhorn
            K /= K.sum(0)
            K /= K.sum(1, keepdims=True)
        result.append(K)
    return result
