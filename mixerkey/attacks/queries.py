"""Optimisation with queries: climb on any score of a key, or follow a gradient through a relaxed permutation."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.blocks import integrate, segment
from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.evaluation import checked_labels
from mixerkey.fast import forward
from mixerkey.keys import SignedPermutation

SINKHORN = 10  # normalisations of rows and columns


def hill_climb(
    score: Callable[[SignedPermutation], float],
    start: SignedPermutation,
    queries: int,
    generator: torch.Generator,
    *,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """Change a key a little, keep what is no worse, repeat: all that an attacker needs is a score.

    A change exchanges two positions, or moves a flip from one position to another, so flips stay balanced. In a black
    box, the score is the accuracy on labelled plain images that are encrypted with the candidate and sent to the
    encrypted network; who holds the network can take it from there as well.

    Args:
        score: how good a key is; higher is better. Called once a query.
        start: a guess, such as a random key or what another attack has found.
        queries: how many keys are scored, that one included.
        generator: draws the changes.
        progress: whether to show a progress bar on stderr.

    Returns:
        the best key found and its score. Nothing is known of what else scores as well.

    Raises:
        ValueError: no query, or a block of a single pixel.

    >>> from mixerkey import Key
    >>> secret = Key.from_seed(1, 2, 1)
    >>> def score(key):
    ...     return float((key.matrix() * secret.matrix()).sum())
    >>> hill_climb(score, Key.from_seed(2, 2, 1), 100, torch.Generator().manual_seed(0)).key == secret
    True
    """
    size = start.size
    if queries < 1 or size < 2:
        raise ValueError(f"need at least one query and two pixels a block, got {queries} and {size}")
    key, best = start, score(start)
    for _ in tqdm(range(queries - 1), "queries", disable=not progress):
        v, r = key.permutation, key.flips
        i, j = torch.randperm(size, generator=generator)[:2].tolist()
        if torch.rand((), generator=generator) < 0.5 or r[i] == r[j]:
            v[[i, j]] = v[[j, i]]
        else:
            r[[i, j]] = r[[j, i]]
        candidate = type(key)(v, r, key.patch_size, key.channels)
        if (value := score(candidate)) >= best:
            key, best = candidate, value
    return Recovery(key, best)


def relaxed_permutation(
    loss: Callable[[Tensor], Tensor],
    patch_size: int,
    channels: int,
    generator: torch.Generator,
    *,
    steps: int = 300,
    rate: float = 0.1,
    start: SignedPermutation | None = None,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """Follow the gradient through a relaxed signed permutation, then round.

    A key's matrix has one entry ±1 in each row and column. Relaxed, it is D = P - N with P + N doubly stochastic,
    which Sinkhorn's alternating normalisation makes of any positive entries (Mena et al., 2018). While Adam lowers the
    loss, a falling temperature drives D towards a vertex. The nearest key is a linear assignment problem.

    Args:
        loss: takes D, float32 (p_b, p_b) as `Key.matrix`, and returns a scalar with a gradient; it may be noisy.
        patch_size: M.
        channels: C.
        generator: draws the first entries.
        steps: of Adam; each is one query with a gradient.
        rate: Adam's.
        start: a guess from which to start.
        progress: whether to show a progress bar on stderr.

    Returns:
        the rounded key, its flips balanced only if they happen to be; its score is minus the loss.

    >>> from mixerkey import Key
    >>> secret = Key.from_seed(1, 2, 1)
    >>> target = secret.matrix().float()
    >>> recovery = relaxed_permutation(lambda D: ((D - target) ** 2).sum(), 2, 1, torch.Generator().manual_seed(0))
    >>> recovery.key == secret, recovery.score
    (True, -0.0)
    """
    size = patch_size**2 * channels
    entries = 0.01 * torch.randn(2, size, size, generator=generator)
    if start is not None:
        T = start.matrix().float()
        entries += 2 * torch.stack([(T > 0).float(), (T < 0).float()])
    entries.requires_grad_()
    adam = torch.optim.Adam([entries], lr=rate)
    for step in tqdm(range(steps), "steps", disable=not progress):
        value = loss(_relaxed(entries / 0.1 ** (step / steps)))
        adam.zero_grad()
        value.backward()
        adam.step()
    with torch.no_grad():
        D = _relaxed(entries / 0.1).double().numpy()
        rows, columns = linear_sum_assignment(np.abs(D).T, maximize=True)
        assert (rows == np.arange(size)).all()
        key = SignedPermutation(columns, D[columns, rows] < 0, patch_size, channels)
        return Recovery(as_key(key), -loss(key.matrix().float()).item())


def labelled_loss(
    model: ConvMixer, images: Tensor, labels: Tensor, batch_size: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """For `relaxed_permutation`: the cross-entropy of an encrypted network on labelled plain images times D.

    Args:
        model: the encrypted network; the attacker holds its weights.
        images: plain, uint8 (N, C, H, W).
        labels: integers (N,), of any width.
        batch_size: how many images are drawn for each call.
        generator: draws them.

    Raises:
        TypeError, ValueError: labels that `mixerkey.accuracy` refuses.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> key, (x, y) = Key.from_seed(1, 2, 1), load_digits("train")
    >>> model = encrypt_model(load_pretrained("digits"), key)
    >>> loss = labelled_loss(model, x, y, 100, torch.Generator().manual_seed(0))
    >>> bool(loss(key.matrix().float()) < 1 < loss(torch.eye(4)))
    True
    """
    M = model.sizes["patch_size"]
    labels = checked_labels(labels, len(images), model.sizes["num_classes"])
    model = deepcopy(model).eval().requires_grad_(False)

    def loss(D: Tensor) -> Tensor:
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        x = integrate(segment(normalize(images[chosen]), M) @ D, M)
        return F.cross_entropy(forward(model, x), labels[chosen])

    return loss


def _relaxed(logits: Tensor) -> Tensor:
    """D of logits (2, p_b, p_b), of the positive and of the negative entries."""
    for _ in range(SINKHORN):
        logits = logits - logits.logsumexp((0, 1), keepdim=True)
        logits = logits - logits.logsumexp((0, 2), keepdim=True)
    positive, negative = logits.exp()
    return positive - negative
