"""The key from the encrypted model and public pictures of its kind: by the statistics that were stored in the clear.

With the right key, public pictures give the embedding's batch normalisation inputs of the mean and the variance that it
stored in training: two numbers for each of d channels, of filters that need not have any structure themselves.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import patch_matrix
from mixerkey.keys import SignedPermutation

WARM, HOT, COLD = 3e-4, 1e-1, 1e-5  # temperatures, like the mismatch: where chains begin, the first and last, and end
CHAINS, STEPS = 8, 60_000  # searches of a round, and exchanges that each of them tries
WHOLE = 4  # every so many exchanges are of pixels in all channels
QUANTILES = 101  # that stand for the distribution of a channel
CLOSE = 2  # what fits worse by less than this factor is not ruled out
Candidate = tuple[int, ...]


def annealed(
    recovery: Recovery[SignedPermutation],
    encrypted: ConvMixer,
    images: Tensor,
    generator: torch.Generator | None = None,
    *,
    rounds: int = 10,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """Exchange pixels and signs until public pictures fit the stored statistics: simulated annealing.

    A key T gives each filter e = T e' of the embedding the mean eᵀμ + b and the variance eᵀΣe, where μ and Σ are of the
    public blocks. What was stored is of gelu(z); which mean and variance of z that takes is computed with the present
    key, from the shape of each channel's distribution. From there on only moments are compared, as

    ((log of the quotient of the variances)² / 2 + (difference of the means)² / variance) / 2, the mean over channels,

    and an exchange changes them at once. Each round begins with the best key so far, at temperatures from where little
    moves to where everything does, and ends with the one whose `mismatch` in the first layer is least.

    Args:
        recovery: where to begin, such as what `model_only` found. Filters that whiten need one that is nearly right;
            for others any balanced key will do.
        encrypted: a network encrypted with a balanced key.
        images: plain pictures (N, C, H, W) of the kind that it was trained on; a hundred, without labels.
        generator: draws the exchanges; by default one with a fixed seed.
        rounds: a round of 48 pixels takes a quarter of a minute.
        progress: whether to show a progress bar on stderr.

    Returns:
        the key, with minus its mismatch as score. Ambiguous are all relatives, which `by_fit` settles, and whatever
        else the last round ended in that fits half as well, or began with: a search that went astray is hardly found
        again by others, and one that still moves has not ended.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.attacks import by_fit
    >>> from mixerkey.data import load_digits
    >>> model, key, (images, _) = load_pretrained("digits"), Key.from_seed(3, 2, 1), load_digits("train")
    >>> encrypted, anything = encrypt_model(model, key), Recovery(Key.from_seed(0, 2, 1), 0.0)
    >>> by_fit(annealed(anything, encrypted, images[:100], rounds=1), encrypted, images[:100]).key == key
    True
    """
    key, generator = recovery.key, generator or torch.Generator().manual_seed(0)
    blocks = segment(normalize(images), key.patch_size).flatten(0, -2).double().numpy()  # (blocks, p_b)
    search = _Search(blocks, encrypted, key.channels)
    begun = best = search.rows(key)
    ends = {best: search.mismatch(best)}
    for _ in trange(rounds, desc="rounds", disable=not progress):
        begun = best
        ends = {rows: search.mismatch(rows) for rows in [best, *search.ends(best, generator)]}
        best = min(ends, key=lambda rows: ends[rows])
    found, known = search.key(best), relatives(key.patch_size, key.channels)
    rivals = [rows for rows, one in ends.items() if one < CLOSE * ends[best] or rows == begun]
    changes = (search.key(rows).then(found.inverse()) for rows in rivals)
    return Recovery(as_key(found), -ends[best], (*known[1:], *(g for g in changes if g not in known)))


class _Search:
    """A candidate says which row of E' takes each place, or, from p_b on, of -E': p_b numbers."""

    def __init__(self, blocks: np.ndarray, encrypted: ConvMixer, channels: int) -> None:
        E, norm = patch_matrix(encrypted).double().numpy(), encrypted.embedding_norm
        self.blocks, self.channels, self.size = blocks, channels, len(E)
        self.table = np.concatenate([E, -E])
        self.bias = cast(Tensor, encrypted.embedding.bias).detach().double().numpy()
        self.mean, self.variance = (cast(Tensor, v).double().numpy() for v in (norm.running_mean, norm.running_var))
        self.mu, self.sigma = blocks.mean(0), np.cov(blocks.T)

    def rows(self, key: SignedPermutation) -> Candidate:
        back = key.permutation.argsort()
        return tuple((back + self.size * key.flips[back]).tolist())

    def key(self, rows: Candidate) -> SignedPermutation:
        side = round((self.size // self.channels) ** 0.5)
        back = np.argsort(np.array(rows) % self.size)
        return SignedPermutation(back, np.array(rows)[back] >= self.size, side, self.channels)

    def before(self, rows: Candidate) -> np.ndarray:
        """z, (blocks, d)."""
        return self.blocks @ self.table[list(rows)] + self.bias

    def mismatch(self, rows: Candidate) -> float:
        """`mixerkey.attacks.mismatch` of the embedding alone."""
        y = _gelu(self.before(rows))
        ratio, shift = y.var(0) / self.variance, (y.mean(0) - self.mean) ** 2 / self.variance
        return float((ratio + shift - 1 - np.log(ratio)).mean() / 2)

    def wanted(self, rows: Candidate) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (d,) for which z of the present shape would give what was stored: Newton's method."""
        z = self.before(rows)
        z0, s0 = z.mean(0), z.std(0)
        shape = np.quantile((z - z0) / s0, (np.arange(QUANTILES) + 0.5) / QUANTILES, axis=0).T  # (d, quantiles)

        def off(p: np.ndarray) -> np.ndarray:
            y = _gelu(p[:, :1] + np.exp(p[:, 1:]) * shape)
            return np.stack([(y.mean(1) - self.mean) / self.variance**0.5, np.log(y.var(1) / self.variance)], 1)

        p, h = np.stack([z0, np.log(s0)], 1), 1e-5
        for _ in range(60):
            f = off(p)
            J = np.stack([(off(p + h * e) - f) / h for e in np.eye(2)], 2)  # (d, 2, 2)
            JT = J.transpose(0, 2, 1)
            p -= np.clip(np.linalg.solve(JT @ J + 1e-4 * np.eye(2), JT @ f[:, :, None])[:, :, 0], -0.5, 0.5)
        return p[:, 0], np.exp(2 * p[:, 1])

    def ends(self, rows: Candidate, generator: torch.Generator) -> list[Candidate]:
        """Where chains end that all begin there."""
        size, area, S = self.size, self.size // self.channels, self.sigma
        mean, variance = self.wanted(rows)

        def costs(m: np.ndarray, v: np.ndarray) -> np.ndarray:
            return (np.log(v / variance) ** 2 / 4 + (m - mean) ** 2 / variance / 2).mean(-1)

        w, chain = np.tile(rows, (CHAINS, 1)), np.arange(CHAINS)[:, None]
        E = self.table[w]  # (chains, p_b, d)
        G, m = S @ E, self.mu @ E + self.bias
        v = (E * G).sum(1)
        cost = costs(m, v)
        hot = np.geomspace(WARM, HOT, CHAINS)
        for step, T in enumerate(np.geomspace(hot, COLD, STEPS)):
            a, b, what, chance = torch.rand((4, CHAINS), generator=generator, dtype=torch.float64).numpy()
            places, rest = (area, np.arange(0, size, area)) if step % WHOLE == 0 else (size, np.zeros(1, dtype=int))
            i = (a * places).astype(int)
            j = (i + 1 + (b * (places - 1)).astype(int)) % places
            pair = np.concatenate([i[:, None] + rest, j[:, None] + rest], 1)  # (chains, 2 or 2C)
            old, kind = w[chain, pair], (6 * what).astype(int)[:, None]  # one in three also or only reverses signs
            new = np.where(kind == 5, old, np.roll(old, len(rest), 1))
            new = np.where(kind >= 4, (new + size) % (2 * size), new)
            D = self.table[new] - self.table[old]
            next_m = m + (self.mu[pair][:, None] @ D)[:, 0]
            next_v = v + (D * (2 * G[chain, pair] + S[pair[:, :, None], pair[:, None]] @ D)).sum(1)
            next_cost = costs(next_m, next_v)
            balanced = (new < size).sum(1) == (old < size).sum(1)
            taken = np.flatnonzero(balanced & (chance < np.exp(np.minimum((cost - next_cost) / T, 0))))
            w[taken[:, None], pair[taken]] = new[taken]
            G[taken] += S[:, pair[taken]].transpose(1, 0, 2) @ D[taken]
            m[taken], v[taken], cost[taken] = next_m[taken], next_v[taken], next_cost[taken]
        return [tuple(rows) for rows in w.tolist()]


def _gelu(z: np.ndarray) -> np.ndarray:
    return F.gelu(torch.from_numpy(z)).numpy()
