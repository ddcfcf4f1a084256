"""The encrypted model alone: what E' and the layers left in the clear tell whoever holds it, such as the provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.assignment import match, swap_gains
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import patch_matrix
from mixerkey.keys import SignedPermutation

SHARPNESS = 3  # power of a filter's response; at 2 to 4 the leading eigenvector is brightness
CLOSE = 0.02  # a relative that fits worse by less than this is not ruled out
KICK = 12  # at most so many positions are moved at random before each further climb


def model_only(
    encrypted: ConvMixer,
    surrogate: ConvMixer,
    generator: torch.Generator | None = None,
    *,
    starts: int = 5000,
    kicks: int = 500,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """The key from the encrypted network and another network that the attacker trained, without any image.

    1. Flips: batch normalisation is not encrypted. It stores the variance of each filter's response, and the filters
       that respond most for their size are those that see brightness, to which all pixels contribute with one sign.
       The leading eigenvector of E' W E'ᵀ, where W weighs filters by response, shows the sign of each flip, up to
       one for all (see `brightness`). Half of them are flipped (step B2), so the cut is at the median.
    2. Permutation: the Gram matrix of the rows passes through the key, E' E'ᵀ = Tᵀ E Eᵀ T, and networks that were
       trained independently have like Gram matrices. They are matched by Frank and Wolfe's method, as structures
       of pictures are in `ciphertext_only`; the best match, or the best of its mirror images and orders of channels,
       is then improved by exchanging positions.

    Args:
        encrypted: a network encrypted with a balanced key.
        surrogate: a network of the same patch size and number of channels for a like task, not encrypted.
        generator: draws starts and kicks; by default one with a fixed seed.
        starts: from how many points to search; each takes a few milliseconds.
        kicks: how often the best match is disturbed and climbed again.
        progress: whether to show a progress bar on stderr.

    Returns:
        the key. Its score is the correlation of the Gram matrices (on and off the diagonal), at most 1. `ambiguous`
        always holds the flip of everything, which no Gram matrix shows, and those mirror images and orders of channels
        that cost less than 0.02 of the score. `settle` decides between them where there is evidence.

    Raises:
        ValueError: the networks differ in patch size or channels.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model = load_pretrained("digits")
    >>> recovery = model_only(encrypt_model(model, Key.from_seed(3, 2, 1)), model, starts=20, kicks=0)
    >>> round(recovery.score, 6)  # a network is its own best surrogate
    1.0
    """
    M, C = encrypted.sizes["patch_size"], encrypted.sizes["in_channels"]
    other = surrogate.sizes["patch_size"], surrogate.sizes["in_channels"]
    if other != (M, C):
        raise ValueError(
            f"the encrypted network has M = {M} and C = {C}, the surrogate M = {other[0]} and C = {other[1]}; "
            "train one of the same"
        )
    generator = generator or torch.Generator().manual_seed(0)
    leading = brightness(encrypted)
    signs = np.ones(len(leading))
    signs[np.argsort(leading)[: len(leading) // 2]] = -1
    A, B = _centred(gram(surrogate)), _centred(gram(encrypted) * np.outer(signs, signs))

    symmetries = [g.permutation.numpy() for g in relatives(M, C) if not g.flips.any()]
    best, v = -np.inf, np.arange(len(signs))
    for k in tqdm(range(starts), "starts", disable=not progress):
        found = match(A, B, _start(len(signs), k, generator))
        if (value := _overlap(A, B, found)) > best:
            best, v = value, found
    best, v = _climb(A, B, max((g[v] for g in symmetries), key=lambda w: _overlap(A, B, w)))
    for _ in tqdm(range(kicks), "kicks", disable=not progress):
        size = int(torch.randint(2, KICK + 1, (), generator=generator))
        i = torch.randperm(len(v), generator=generator)[:size].numpy()
        kicked = v.copy()
        kicked[i] = np.roll(kicked[i], 1)
        value, found = _climb(A, B, kicked)
        if value > best:
            best, v = value, found
    key = SignedPermutation(v, signs < 0, M, C)
    costs = {g: best - _overlap(A, B, g.permutation.numpy()[v]) for g in relatives(M, C)[1:]}
    return Recovery(as_key(key), best, tuple(g for g, cost in costs.items() if cost < CLOSE))


def brightness(model: ConvMixer) -> np.ndarray:
    """The direction of the block to which the strongest filters listen, of unit length (p_b,).

    Strong are filters with a large variance after activation, as batch normalisation has stored it, for their norm.
    In a trained network it is brightness, so its entries have one sign; in an encrypted one, the signs of the flips.

    >>> from mixerkey import load_pretrained
    >>> b = brightness(load_pretrained("digits"))
    >>> bool((b > 0).all() or (b < 0).all())
    True
    """
    E, variance = patch_matrix(model).double(), cast(Tensor, model.embedding_norm.running_var).double()
    size = (E**2).sum(0)
    response = variance / size
    leading = torch.linalg.eigh((E * (response**SHARPNESS / size)) @ E.T)[1][:, -1]
    return leading.numpy()


def gram(model: ConvMixer) -> np.ndarray:
    """E Eᵀ of filters of unit length: float64 (p_b, p_b). A key T makes it Tᵀ (E Eᵀ) T.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model, key = load_pretrained("digits"), Key.from_seed(3, 2, 1)
    >>> T = key.matrix().numpy()
    >>> bool(np.allclose(gram(encrypt_model(model, key)), T.T @ gram(model) @ T))
    True
    """
    E = F.normalize(patch_matrix(model).double(), dim=0)
    return (E @ E.T).numpy()


def settle(
    recovery: Recovery[SignedPermutation], evidence: Callable[[SignedPermutation], float]
) -> Recovery[SignedPermutation]:
    """Decide between a key and its ambiguous relatives by other evidence.

    Args:
        recovery: what an attack left open.
        evidence: how well a key fits it; higher is better. It may be the `naturalness` of images that the key
            decrypts, the accuracy on labelled plain images of the network that it decrypts, or minus `mismatch`.

    Returns:
        the best of ``recovery.key`` and ``g.then(recovery.key)`` for each ambiguous g, with its evidence as score.
        Ambiguous remains what fits equally well.

    >>> from mixerkey import Key
    >>> swap = SignedPermutation([1, 0, 2, 3], [0] * 4, 2, 1)
    >>> right = Key.from_seed(1, 2, 1)
    >>> settled = settle(Recovery(swap.then(right), 1.0, (swap,)), lambda key: float(key == right))
    >>> settled.key == right, settled.ambiguous
    (True, ())
    """
    key = recovery.key
    identity = SignedPermutation.identity(key.patch_size, key.channels)
    scores = {g: evidence(as_key(g.then(key))) for g in (identity, *recovery.ambiguous)}
    best = max(scores, key=lambda g: scores[g])
    equal = (best.inverse().then(g) for g, score in scores.items() if g != best and score == scores[best])
    return Recovery(as_key(best.then(key)), scores[best], tuple(equal))


def mismatch(model: ConvMixer, images: Tensor) -> float:
    """How badly plain public images fit the statistics that batch normalisation stored in training, without labels.

    The embedding and the first mixing layer are run, and for each channel of their batch normalisations the mean and
    the variance are compared with the running ones, as normal distributions are by their Kullback-Leibler divergence.

    Args:
        model: a network, such as one decrypted with a guessed key.
        images: plain images (N, C, H, W) of the kind that it was trained on, uint8 or floating point in [0, 1].

    Returns:
        nats, the mean over channels; 0 for a perfect fit.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> model, (images, _) = load_pretrained("digits"), load_digits("test")
    >>> mismatch(model, images) < mismatch(encrypt_model(model, Key.from_seed(3, 2, 1)), images)
    True
    """
    seen: list[Tensor] = []

    def compare(norm: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        z = inputs[0].transpose(0, 1).flatten(1)  # (d, N h w)
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        ratio, shift = z.var(1) / variance, (z.mean(1) - mean) ** 2 / variance
        seen.append((ratio + shift - 1 - ratio.log()) / 2)

    norms = (model.embedding_norm, model.layers[0].depthwise_norm, model.layers[0].pointwise_norm)
    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            model[:4](normalize(images))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return torch.stack(seen).mean().item()


def _centred(G: np.ndarray) -> np.ndarray:
    """(1, p_b, p_b), of unit norm: the diagonal and the rest each about 0, so that no start is favoured."""
    own = np.eye(len(G), dtype=bool)
    centred = G - np.where(own, G.mean(where=own), G.mean(where=~own))
    return (centred / np.linalg.norm(centred))[None]


def _start(size: int, k: int, generator: torch.Generator) -> np.ndarray:
    """Doubly stochastic: all permutations alike, then mixtures of that and a random matrix."""
    X = np.full((size, size), 1 / size)
    if k:
        noise = torch.rand(size, size, dtype=torch.float64, generator=generator).numpy()
        for _ in range(20):  # Sinkhorn
            noise /= noise.sum(0)
            noise /= noise.sum(1, keepdims=True)
        X = (X + noise) / 2
    return X


def _overlap(A: np.ndarray, B: np.ndarray, v: np.ndarray) -> float:
    return float((A[:, v][:, :, v] * B).sum())


def _climb(A: np.ndarray, B: np.ndarray, v: np.ndarray) -> tuple[float, np.ndarray]:
    """Exchange the two positions that gain most, until none gains."""
    while True:
        gains = swap_gains(B, A[:, v][:, :, v])
        i, j = np.unravel_index(gains.argmax(), gains.shape)
        if gains[i, j] <= 1e-12:
            return _overlap(A, B, v), v
        v = v.copy()
        v[[i, j]] = v[[j, i]]
