"""Quadratic assignment: the permutation that takes pairs of pixels to pairs alike, by Frank and Wolfe's method."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

STEPS = 100  # of Frank and Wolfe at most; a handful is usual


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

    turned = B.transpose(0, 2, 1)
    G = (A @ X @ turned + A.transpose(0, 2, 1) @ X @ B).sum(0)
    for _ in range(STEPS):
        w = _best_permutation(G)
        direction = permutation_matrix(w) - X
        change = (A[:, :, w] @ turned + A[:, w].transpose(0, 2, 1) @ B).sum(0) - G  # the gradient is linear
        slope, curvature = (direction * G).sum(), (direction * change).sum()
        if slope <= 1e-9 * np.abs(G).sum():
            break
        step = 1.0 if curvature >= 0 else min(1.0, -slope / curvature)
        X, G = X + step * direction, G + step * change
    return _best_permutation(X)


def permutation_matrix(v: np.ndarray) -> np.ndarray:
    """X with X[v_k, k] = 1.

    >>> permutation_matrix(np.array([1, 0, 2])) @ np.array([5, 6, 7])
    array([6., 5., 7.])
    """
    return np.eye(len(v))[v].T


def swap_gains(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """By how much the sum of A * B grows when rows i and j and columns i and j of each B[m] are exchanged: (p, p).

    >>> rng = np.random.default_rng(0)
    >>> A, B, v = rng.random((2, 4, 4)), rng.random((2, 4, 4)), [0, 3, 2, 1]
    >>> bool(np.isclose(swap_gains(A, B)[1, 3], (A * (B[:, v][:, :, v] - B)).sum()))
    True
    """
    total = np.zeros(A.shape[1:])
    for a, b in zip(A, B, strict=True):
        da, db = np.diag(a), np.diag(b)
        gain = a @ b.T + a.T @ b  # rows, and columns, as if the others stayed
        own = np.diag(gain)
        # The four entries where i and j meet are not moved like the rest.
        gain = gain + (a - da) * (b - db) + (a.T - da) * (b.T - db) - own
        total += gain + gain.T - (da[:, None] - da) * (db[:, None] - db) - (a - a.T) * (b - b.T)
    return total


def start(A: np.ndarray, B: np.ndarray, k: int, generator: torch.Generator) -> np.ndarray:
    """The k-th start: pixels with like profiles of distances, all permutations alike, then random ones."""
    size = A.shape[1]
    if k == 0:  # a profile, sorted, does not depend on the order of the pixels
        a, b = (np.concatenate([np.sort(D, axis=2), np.sort(D, axis=1).transpose(0, 2, 1)], axis=2) for D in (A, B))
        return permutation_matrix(_best_permutation((a @ b.transpose(0, 2, 1) - (a**2).sum(2)[:, :, None] / 2).sum(0)))
    centre = np.full((size, size), 1 / size)
    if k == 1:
        return centre
    return (centre + np.eye(size)[torch.randperm(size, generator=generator).numpy()]) / 2


def _best_permutation(gain: np.ndarray) -> np.ndarray:
    """The permutation v that maximises the sum over k of gain[v_k, k]."""
    return linear_sum_assignment(gain.T, maximize=True)[1]
