"""Ciphertext only: encrypted images and nothing else, because second moments pass through a signed permutation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.recovery import Recovery, as_key, exchanges
from mixerkey.attacks.statistics import (
    COLOUR,
    ImageStatistics,
    Moments,
    block_colours,
    check_channels,
    colour_bins,
    correlation,
    image_moments,
)
from mixerkey.cipher import decrypt_images
from mixerkey.keys import SignedPermutation

GROUPS = 10  # of images, to see by how much the evidence varies
DOUBT = 0.001  # significance level
COLOURED = 1000  # images are enough to judge colours by
STEPS = 100  # of Frank and Wolfe at most; a handful is usual


def ciphertext_only(
    encrypted: Tensor,
    prior: ImageStatistics,
    generator: torch.Generator | None = None,
    *,
    starts: int = 20,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """The key from encrypted images alone.

    With T the key's matrix, a second-moment matrix Σ of plain blocks becomes T.T @ Σ @ T: its entries change places
    and signs, nothing else.

    1. Flips: brightness moves all pixels of a block together, so the leading eigenvector of Σ has entries of one
       sign. That of the encrypted blocks has the sign of each flip, all of them perhaps reversed.
    2. Permutation: the mean squared differences between pixels, within a block and across to its right and its lower
       neighbour, are matched with those of the public images: three pairs of matrices in one quadratic assignment
       problem, solved approximately by the method of Frank and Wolfe from several starts (Vogelstein et al., 2015).
    3. Each solution has relatives: mirror images of the block, exchanged channels, reversed flips. The key under
       which the decrypted images look most natural wins (see `naturalness`); the colours tell most relatives apart.

    Args:
        encrypted: uint8 images (N, C, H, W), all encrypted with one key, at least two blocks a side.
        prior: what is known of such images, from `image_statistics`.
        generator: draws the starts; by default one with a fixed seed.
        starts: from how many points to search.
        progress: whether to show a progress bar on stderr.

    Returns:
        the key; its score is the `naturalness` of the images that it decrypts (as to colour, of the first 1,000).
        `ambiguous` holds each exchange of two plain pixels, flip of one, and relative in the sense of step 3, whose
        disadvantage is not significant (Student's t at 0.1 %, jackknife over ten groups of images). A single image
        does not show how much images vary, so it leaves everything ambiguous. That the encrypted images are of the
        public ones' kind is taken for granted: a prior from another source can be wrong without a doubt showing.

    Raises:
        ValueError: images of another kind, none, too small, of another number of channels than the prior's or more
            than four; no start.

    >>> from mixerkey import Key, encrypt_images
    >>> from mixerkey.attacks import image_statistics
    >>> from mixerkey.data import load_digits
    >>> secret, (public, _), (private, _) = Key.generate(2, 1), load_digits("train"), load_digits("test")
    >>> ciphertext_only(encrypt_images(private, secret), image_statistics(public, 2)).key == secret
    True
    """
    check_channels(encrypted, prior)
    M, C = prior.patch_size, prior.channels
    if C > 4:
        raise ValueError(f"images may have at most 4 channels, got {C}: every order of the channels is tried")
    if starts < 1:
        raise ValueError(f"need at least one start, got {starts}")
    generator = generator or torch.Generator()
    groups = image_moments(encrypted, M, min(GROUPS, len(encrypted)), progress=progress)
    moments = _mean(groups)
    signs = leading_signs(moments)
    A, B = prior.moments.distances(), moments.distances(signs)

    matches = {}
    for k in tqdm(range(starts), "starts", disable=not progress):
        v = match(A, B, _start(A, B, k, generator))
        matches[tuple(v.tolist())] = v
    best = -np.inf
    for v in matches.values():
        found = SignedPermutation(v, signs < 0, M, C)
        colour, contrast = block_colours(decrypt_images(encrypted[:COLOURED], found), M)
        for g in relatives(M, C):
            w = g.permutation.numpy()[v]
            score = correlation(A[:, w][:, :, w], B) + COLOUR * _colour(colour, contrast, g, prior).mean()
            if score > best:
                best, key = score, g.then(found)
    return Recovery(as_key(key), float(best), _doubts(encrypted, key, groups, prior))


def leading_signs(moments: Moments) -> np.ndarray:
    """±1 (p_b,): the signs of the leading eigenvector of the second moments of a block.

    >>> from mixerkey import Key, encrypt_images
    >>> from mixerkey.data import load_digits
    >>> key = Key.from_seed(7, 2, 1)
    >>> (moments,) = image_moments(encrypt_images(load_digits("test")[0], key), 2, 1)
    >>> found = torch.from_numpy(leading_signs(moments) < 0)
    >>> torch.equal(found, key.flips) or torch.equal(~found, key.flips)  # up to all of them at once
    True
    """
    return np.where(_leading(moments) < 0, -1, 1)


def match(A: np.ndarray, B: np.ndarray, X: np.ndarray) -> np.ndarray:
    """A permutation v for which the sum over m of A[m, v_k, v_l] B[m, k, l] is large: Frank and Wolfe's method.

    The sum is tr(A[m].T @ X @ B[m] @ X.T) with X[v_k, k] = 1. That function is climbed over all doubly stochastic X:
    the permutation that its gradient likes best, a linear assignment problem, gives the direction, and the best
    point on the way there is a quadratic's maximum.

    Args:
        A, B: (m, p, p).
        X: doubly stochastic (p, p), where to start.

    Returns:
        v, int (p,).

    >>> A = np.array([[[0.0, 5, 1], [5, 0, 2], [1, 2, 0]]])
    >>> match(A, A[:, [1, 2, 0]][:, :, [1, 2, 0]], np.full((3, 3), 1 / 3))
    array([1, 2, 0])
    """

    def gradient(X: np.ndarray) -> np.ndarray:
        return (A @ X @ B.transpose(0, 2, 1) + A.transpose(0, 2, 1) @ X @ B).sum(0)

    G = gradient(X)
    for _ in range(STEPS):
        direction = _permutation_matrix(G) - X
        change = gradient(direction)
        slope, curvature = (direction * G).sum(), (direction * change).sum()
        if slope <= 1e-9 * np.abs(G).sum():
            break
        step = 1.0 if curvature >= 0 else min(1.0, -slope / curvature)
        X, G = X + step * direction, G + step * change
    return _permutation_matrix(X).argmax(0)


def relatives(patch_size: int, channels: int) -> list[SignedPermutation]:
    """Changes of a plain block that leave it looking much like one: 8 symmetries of the square, orders of the
    channels, and all flips at once, in all combinations. The first changes nothing.

    >>> len(relatives(4, 3)), len(relatives(1, 1))
    (96, 2)
    """
    square = np.arange(patch_size**2).reshape(patch_size, patch_size)
    mirrors = [np.rot90(s, turns).ravel() for s in (square, square.T) for turns in range(4)]
    orders = (np.array(order) * patch_size**2 for order in permutations(range(channels)))
    places = {tuple((order[:, None] + mirror).ravel().tolist()): None for order in orders for mirror in mirrors}
    return [
        SignedPermutation(place, [flip] * len(place), patch_size, channels)
        for place in places
        for flip in (False, True)
    ]


def _mean(groups: Sequence[Moments]) -> Moments:
    return Moments(
        np.mean([group.products for group in groups], axis=0), np.mean([group.squares for group in groups], axis=0)
    )


def _leading(moments: Moments) -> np.ndarray:
    return np.linalg.eigh(moments.products[0])[1][:, -1]


def _permutation_matrix(gain: np.ndarray) -> np.ndarray:
    """The permutation matrix P that maximises the sum of P * gain."""
    P = np.zeros_like(gain)
    P[linear_sum_assignment(gain, maximize=True)] = 1
    return P


def _start(A: np.ndarray, B: np.ndarray, k: int, generator: torch.Generator) -> np.ndarray:
    """The k-th start: pixels with like profiles of distances, all permutations alike, then random ones."""
    size = A.shape[1]
    if k == 0:  # a profile, sorted, does not depend on the order of the pixels
        a, b = (np.concatenate([np.sort(D, axis=2), np.sort(D, axis=1).transpose(0, 2, 1)], axis=2) for D in (A, B))
        return _permutation_matrix((a @ b.transpose(0, 2, 1) - (a**2).sum(2)[:, :, None] / 2).sum(0))
    centre = np.full((size, size), 1 / size)
    if k == 1:
        return centre
    return (centre + np.eye(size)[torch.randperm(size, generator=generator).numpy()]) / 2


def _colour(colour: np.ndarray, contrast: np.ndarray, g: SignedPermutation, prior: ImageStatistics) -> np.ndarray:
    """Log-likelihood (N,) of the colours of blocks, had `g` changed them (a relative) before they were encrypted."""
    area = prior.patch_size**2
    order = np.argsort(g.permutation.numpy()[::area] // area)
    before = colour[..., order]
    bins = colour_bins(1 - before if g.flips[0] else before, contrast)
    return prior.colours[bins].mean(1)


def _doubts(
    encrypted: Tensor, key: SignedPermutation, groups: Sequence[Moments], prior: ImageStatistics
) -> tuple[SignedPermutation, ...]:
    """What is no worse than `key`, or not significantly so."""
    M, C = key.patch_size, key.channels
    A, back, count = prior.moments.distances(), key.permutation.argsort().numpy(), len(groups)
    signs = np.where(key.flips.numpy(), -1, 1)
    size = len(signs)
    rests = [_mean([group for i, group in enumerate(groups) if i != k] or groups) for k in range(count)]
    # The advantages of the key over each rival, with each group of images left out in turn.
    flips = np.array([_aligned(_leading(rest) * signs)[back] for rest in rests])
    Bs = [rest.distances(signs)[:, back][:, :, back] for rest in rests]  # in the order of plain pixels
    swaps = np.array([-swap_gains(A, B) / (np.linalg.norm(A) * np.linalg.norm(B) or 1) for B in Bs])
    same, *others = relatives(M, C)
    colour, contrast = block_colours(decrypt_images(encrypted[:COLOURED], key), M)
    natural = _colour(colour, contrast, same, prior)
    changes = np.empty((count, len(others)))
    for m, g in enumerate(others):
        w = g.permutation.numpy()
        moved = A[:, w][:, :, w]
        gains = np.array_split(natural - _colour(colour, contrast, g, prior), count)
        for k, B in enumerate(Bs):
            gain = np.concatenate([part for i, part in enumerate(gains) if i != k] or gains).mean()
            changes[k, m] = correlation(A, B) - correlation(moved, B) + COLOUR * gain

    single = [SignedPermutation(range(size), np.arange(size) == i, M, C) for i in np.flatnonzero(_doubtful(flips))]
    pairs = []
    for i, j in exchanges(_doubtful(swaps)):
        v = np.arange(size)
        v[[i, j]] = j, i
        pairs.append(SignedPermutation(v, [False] * size, M, C))
    wholes = [others[i] for i in np.flatnonzero(_doubtful(changes))]
    return (*single, *pairs, *wholes)


def swap_gains(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """By how much the sum of A * B grows when rows i and j and columns i and j of each B[m] are exchanged: (p, p).

    >>> rng = np.random.default_rng(0)
    >>> A, B, v = rng.random((2, 4, 4)), rng.random((2, 4, 4)), [0, 3, 2, 1]
    >>> bool(np.isclose(swap_gains(A, B)[1, 3], (A * (B[:, v][:, :, v] - B)).sum()))
    True
    """
    total = np.zeros(A.shape[1:])
    for a, b in zip(A, B, strict=True):
        for x, y in ((a, b), (a.T, b.T)):  # rows, then columns, as if the others stayed
            product = x @ y.T
            own = np.diag(product)
            total += product + product.T - own[:, None] - own
            # The four entries where i and j meet are not moved like the rest.
            dx, dy = np.diag(x), np.diag(y)
            total -= (dx[:, None] - x.T) * (y.T - dy[:, None]) + (x - dx) * (dy - y)
        da, db = np.diag(a), np.diag(b)
        total += (da[:, None] - da) * (db - db[:, None]) + (a - a.T) * (b.T - b)
    return total


def _aligned(vector: np.ndarray) -> np.ndarray:
    """An eigenvector, whose sign is arbitrary, turned to be positive on the whole."""
    return vector * np.sign(vector.sum())


def _doubtful(advantages: np.ndarray) -> np.ndarray:
    """Where the advantage, known with each group left out in turn, is not significantly above 0 (jackknife)."""
    count = len(advantages)
    if count < 2:
        return np.ones(advantages.shape[1:], dtype=bool)
    error = np.sqrt((count - 1) / count * ((advantages - advantages.mean(0)) ** 2).sum(0))
    return advantages.mean(0) <= student.ppf(1 - DOUBT, count - 1) * error
