"""Ciphertext only, against a key for each place: `PatchKeys`."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.assignment import match
from mixerkey.attacks.ciphertext import leading_signs, relatives
from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.attacks.statistics import CHUNK, Moments, image_statistics, naturalness
from mixerkey.blocks import segment
from mixerkey.cipher import decrypt_images, normalize
from mixerkey.keys import PatchKeys, SignedPermutation

JUDGED = 100  # images are enough to tell a negative
STARTS = 20  # of each graph matching
RIDGE = 1e-3  # added to variances of pixels in [-1, 1]


def unlock_patches(
    encrypted: Tensor,
    public_images: Tensor,
    patch_size: int,
    generator: torch.Generator | None = None,
    *,
    progress: bool = False,
) -> Recovery[PatchKeys]:
    """The `PatchKeys` from images encrypted with them and public images of the same size.

    A patch has one block an image, so its own second moments need many images. But moments between patches pass
    through the keys too. Every patch is first solved alone, by matching the distances of its pixels with those in
    public images, and the best of them is taken as known. Then a patch beside known ones is solved: its pixels are
    predicted from theirs, by linear regression learnt from public images, and each encrypted pixel is assigned to
    the prediction that it agrees with, a linear assignment problem; so outwards, and again for all when all are
    known. The mirror images and channel orders of the first patch are tried, and the one under which the
    predictions agree best and the images look most natural wins.

    Args:
        encrypted: uint8 (N, C, H, W), encrypted with `PatchKeys`.
        public_images: uint8 (N', C, H, W).
        patch_size: M.
        generator: draws starts; by default one with a fixed seed.
        progress: whether to show a progress bar on stderr.

    Returns:
        the keys; the score is the mean correlation of the moments of a patch's pixels with those of all pixels.

    Raises:
        ValueError: images of different sizes.
    """
    if encrypted.shape[1:] != public_images.shape[1:]:
        raise ValueError(
            f"public and encrypted images must have one size, got {tuple(public_images.shape[1:])} "
            f"and {tuple(encrypted.shape[1:])}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    C = encrypted.shape[1]
    plain, hidden = _all_moments(public_images, patch_size), _all_moments(encrypted, patch_size)  # (n, p, n, p)
    count = len(plain)
    own = np.arange(count)
    alone = [
        _solve_alone(plain[n, :, n], hidden[n, :, n], generator) for n in tqdm(own, "patches", disable=not progress)
    ]
    seed = int(np.argmax([score for score, _, _ in alone]))
    _, v, s = alone[seed]
    width = encrypted.shape[3] // patch_size
    row, column = own // width, own % width
    distance = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    near = [np.flatnonzero((d > 0) & (d <= 2)).tolist() for d in distance]  # up to eight patches around each
    order = np.argsort(distance[seed], kind="stable").tolist()

    prior = image_statistics(public_images[:1000], patch_size)
    grid = (encrypted.shape[2] // patch_size, width)
    best = -np.inf
    for g in tqdm(relatives(patch_size, C), "relatives", disable=not progress):
        w, t = g.permutation.numpy()[v], s * (-1 if g.flips[0] else 1)
        found = _spread(plain, hidden, near, order, w, t)
        keys = PatchKeys((as_key(SignedPermutation(w, t < 0, patch_size, C)) for w, t, _ in found), grid)
        score = float(np.mean([score for _, _, score in found]))
        fit = score + naturalness(decrypt_images(encrypted[:JUDGED], keys), prior)
        if fit > best:
            best, result = fit, Recovery(keys, score)
    return result


def _all_moments(images: Tensor, patch_size: int) -> np.ndarray:
    """Second moments of all pixels of the normalised images, float32 (patches, p_b, patches, p_b)."""
    total: Tensor | None = None
    for part in images.split(CHUNK):
        x = segment(normalize(part), patch_size).flatten(1, 2)  # (N, patches, p_b)
        z = x.flatten(1)
        total = z.T @ z if total is None else total.addmm_(z.T, z)
    assert total is not None
    n, p = x.shape[1:]
    return (total / len(images)).reshape(n, p, n, p).numpy()


def _solve_alone(plain: np.ndarray, hidden: np.ndarray, generator: torch.Generator) -> tuple:
    """Score, permutation and signs of one patch, from its own second moments."""

    def moments(S: np.ndarray) -> Moments:
        variances = np.diag(S)
        squares = variances[:, None] + variances
        return Moments(S[None].astype(float), squares[None].astype(float), np.zeros(len(S)))  # only distances count

    signs = leading_signs(moments(hidden))
    A, B = moments(plain).distances(), moments(hidden).distances(signs)
    size = len(signs)
    best, permutation = -np.inf, np.arange(size)
    for k in range(STARTS):
        X = np.full((size, size), 1 / size)
        if k:
            X = (X + np.eye(size)[torch.randperm(size, generator=generator).numpy()]) / 2
        v = match(A, B, X)
        value = (A[:, v][:, :, v] * B).sum() / np.linalg.norm(A) / np.linalg.norm(B)
        if value > best:
            best, permutation = value, v
    return best, permutation, signs


def _spread(
    plain: np.ndarray, hidden: np.ndarray, near: list[list[int]], order: list[int], v: np.ndarray, s: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """From one known patch, the first of `order`, to all: permutation, signs and score of each."""
    count, size = plain.shape[:2]
    known = {order[0]: (v, s)}
    scores = np.zeros(count)
    for n in (*order[1:], *order):  # outwards, then once more with everything known
        others = [m for m in near[n] if m in known]
        # The best linear prediction of the pixels of patch n from those of the patches around it, and what it misses.
        S = plain[others][:, :, others].reshape(len(others) * size, -1)
        c = plain[n][:, others].reshape(size, -1)
        W = np.linalg.solve(S + RIDGE * np.eye(len(S)), c.T).T  # (p_b, others * p_b)
        explained = (W * c).sum(1)
        missed = np.diag(plain[n][:, n]) - explained + RIDGE
        # Moments of the encrypted pixels of patch n with the known ones, these in plain order.
        b = np.concatenate([(hidden[n][:, m] * known[m][1])[:, np.argsort(known[m][0])] for m in others], axis=1)
        gain = W @ b.T  # [plain, cipher]
        variances = np.diag(hidden[n][:, n])
        rows, columns = linear_sum_assignment((variances + explained[:, None] - 2 * np.abs(gain)) / missed[:, None])
        w = rows[np.argsort(columns)]
        agreement = gain[w, np.arange(size)]
        known[n] = w, np.where(agreement < 0, -1.0, 1.0)
        scores[n] = np.abs(agreement).sum() / np.sqrt(explained.sum() * variances.sum())
    return [(*known[n], float(scores[n])) for n in range(count)]
