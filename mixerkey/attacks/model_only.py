"""The encrypted model alone: what E' and the layers left in the clear tell whoever holds it, such as the provider."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mixerkey.attacks.assignment import swap_gains
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.recovery import Recovery, as_key
from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import patch_matrix, set_patch_matrix
from mixerkey.keys import SignedPermutation

SHARPNESS = 3  # power of a filter's response; at 2 to 4 the leading eigenvector is brightness
CLOSE = 0.02  # a relative that fits worse by less than this is not ruled out
MOVES, PATIENCE = 4000, 800  # exchanges of one search at most; exchanges without a better match
LEAST = 4  # directions to which filters listen least that may be brightness
NEAR = 8  # pixels on each side of the cut between signs that may be on the wrong one
NOISE = 0.003  # variance that is added to normalised pixels: some seven grey levels


def model_only(
    encrypted: ConvMixer,
    expected: np.ndarray,
    generator: torch.Generator | None = None,
    *,
    starts: int = 5,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """The key, up to its relatives, from the encrypted network and what its Gram matrix should be like.

    1. Flips: `brightness`, to which all pixels contribute with one sign, shows the sign of each flip, up to one for
       all. Half of them are flipped, so the cut is at the median.
    2. Permutation: the Gram matrix of the rows passes through the key, E' E'ᵀ = Tᵀ E Eᵀ T. It is matched with the
       expected one, on the diagonal and off it, by tabu search.
    3. All directions that may be brightness and all expected matrices are tried, and the best match is kept. Pixels
       near the cut then exchange their signs, and their places with them, where that matches better.

    Args:
        encrypted: a network encrypted with a balanced key.
        expected: float (p_b, p_b) or several (n, p_b, p_b), such as `expected_grams` of public pictures, or `gram` of
            another network that was trained for a like task. On the diagonal and off it the scale plays no part.
        generator: draws starts and how long exchanges are forbidden; by default one with a fixed seed.
        starts: searches for each direction and matrix; one of 48 pixels takes about a quarter of a second.
        progress: whether to show a progress bar on stderr.

    Returns:
        the key. Its score is the mean correlation of the Gram matrices, on and off the diagonal, at most 1. `ambiguous`
        always holds the flip of everything, which no Gram matrix shows, and those mirror images and orders of channels
        that cost less than 0.02 of the score. `settle` decides between them where there is evidence, such as `by_fit`.

    Raises:
        ValueError: the expected matrix is not of the size of the network's blocks.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model = load_pretrained("digits")
    >>> recovery = model_only(encrypt_model(model, Key.from_seed(3, 2, 1)), gram(model), starts=1)
    >>> round(recovery.score, 6)  # a network is its own best surrogate
    1.0
    """
    M, C = encrypted.sizes["patch_size"], encrypted.sizes["in_channels"]
    size = C * M**2
    if expected.shape[-2:] != (size, size):
        raise ValueError(
            f"the encrypted network has M = {M} and C = {C}, so {size} pixels a block, and the expected Gram matrix "
            f"has the shape {expected.shape}; compute it for blocks of that size"
        )
    generator = generator or torch.Generator().manual_seed(0)
    G, found = gram(encrypted), []
    tries = list(product(brightness(encrypted), expected.reshape(-1, size, size)))
    for seen, like in tqdm(tries, "candidates", disable=not progress):
        order, signs, A = np.argsort(seen), np.ones(size), _centred(like)
        signs[order[: size // 2]] = -1
        found.append(_searched(A, G, signs, order, generator, starts))
    best = _exchanged(max(found, key=_score), G)
    again = _searched(best.A, G, best.signs, best.order, generator, starts)
    score, v, signs, _, A = max(best, again, key=_score)
    key = SignedPermutation(v, signs < 0, M, C)
    B = _centred(G * np.outer(signs, signs))
    costs = {g: score - _overlap(A, B, g.permutation.numpy()[v]) for g in relatives(M, C)[1:]}
    return Recovery(as_key(key), score, tuple(g for g, cost in costs.items() if cost < CLOSE))


def expected_grams(images: Tensor, patch_size: int) -> np.ndarray:
    """What the Gram matrix E Eᵀ of a trained network is like, as far as public pictures tell: float64 (2, p_b, p_b).

    Both are (Σ + 0.003)^(-1/2), where Σ is the covariance of normalised blocks; in the second the sign is reversed off
    the diagonal. That matrix would whiten the blocks: its diagonal is large for pixels that the others predict well,
    such as those inside a block, and trained filters weigh these most, too. Off the diagonal its size tells how closely
    two pixels belong together. Filters that whiten, such as the recipe "lesson" starts with, weigh such two against
    each other, as it does; others weigh them alike.

    That is an observation, not a law: made for a few networks on CIFAR-10, with other powers tried on the first. The
    0.003, noise of seven grey levels, is a choice as well: without any the match fails.

    Args:
        images: plain pictures (N, C, H, W), uint8 or floating point in [0, 1]; photographs will do.
        patch_size: M.

    >>> from mixerkey.data import load_photos
    >>> against, alike = expected_grams(load_photos()["flower"][None], 4)
    >>> corner, inner, next_to_it, far = 0, 5, 6, 15
    >>> bool(alike[inner, inner] > alike[corner, corner] > alike[inner, next_to_it] > alike[inner, far] > 0)
    True
    >>> bool(against[inner, next_to_it] == -alike[inner, next_to_it])
    True
    """
    x = segment(normalize(images), patch_size).flatten(0, -2).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(x.T) + NOISE * np.eye(x.shape[1]))
    whitening = (vectors * values**-0.5) @ vectors.T
    return np.stack([whitening, np.where(np.eye(len(whitening), dtype=bool), whitening, -whitening)])


def brightness(model: ConvMixer) -> np.ndarray:
    """Directions of the block, one of which is brightness in a trained network: float64 (up to 5, p_b), of unit length.

    Entries of brightness have one sign; in an encrypted network, the signs of the flips. It is

    1. what the strongest filters listen to. Strong are those with a large variance for their norm; batch normalisation
       is not encrypted, and has stored it. Or
    2. to 5. among what all filters, of unit length, listen to least, where they whiten: brightness varies most in
       pictures.

    >>> from mixerkey import load_pretrained
    >>> strongest, *least = brightness(load_pretrained("digits"))
    >>> bool((strongest > 0).all() or (strongest < 0).all())
    True
    """
    E, variance = patch_matrix(model).double(), cast(Tensor, model.embedding_norm.running_var).double()
    size = (E**2).sum(0)
    response = variance / size
    strongest = torch.linalg.eigh((E * (response**SHARPNESS / size)) @ E.T)[1][:, -1]
    return np.vstack([strongest.numpy(), np.linalg.eigh(gram(model))[1].T[:LEAST]])


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


def by_fit(recovery: Recovery[SignedPermutation], encrypted: ConvMixer, images: Tensor) -> Recovery[SignedPermutation]:
    """Decide between a key and all its relatives by `mismatch`: colours by the first layers, mirror images by all.

    A block that is mirrored fits the embedding nearly as well as one that is not, so that only later layers, which see
    how blocks continue in each other, can tell.

    Args:
        recovery: of `model_only` or `annealed`.
        encrypted: the network.
        images: plain public pictures (N, C, H, W); some two dozen, seconds of one core.

    Returns:
        the relative that fits best, with minus its mismatch as score. Ambiguous remains what is none of the relatives.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> from mixerkey.data import load_digits
    >>> model, key, (images, _) = load_pretrained("digits"), Key.from_seed(3, 2, 1), load_digits("train")
    >>> encrypted = encrypt_model(model, key)
    >>> by_fit(model_only(encrypted, gram(model), starts=5), encrypted, images[:100]).key == key
    True
    """
    key, doubts = recovery.key, recovery.ambiguous
    others = relatives(key.patch_size, key.channels)[1:]
    mirrors = tuple(g for g in others if not g.flips.any() and _keeps_channels(g))
    for rivals, layers in ((tuple(others), 1), (mirrors, len(encrypted.layers))):
        recovery = settle(
            Recovery(recovery.key, recovery.score, rivals),
            lambda key, layers=layers: -mismatch(decrypted(encrypted, key), images, layers),  # type: ignore[misc]
        )
    change = recovery.key.then(key.inverse())
    left = (change.then(g).then(change.inverse()) for g in doubts if g not in others)
    return Recovery(recovery.key, recovery.score, tuple(left))


def _keeps_channels(key: SignedPermutation) -> bool:
    area = key.patch_size**2
    return bool((key.permutation // area == torch.arange(key.channels * area) // area).all())


def decrypted(model: ConvMixer, key: SignedPermutation) -> ConvMixer:
    """`mixerkey.decrypt_model` without its proof: an attacker tries many keys.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model, key = load_pretrained("digits"), Key.from_seed(3, 2, 1)
    >>> torch.equal(patch_matrix(decrypted(encrypt_model(model, key), key)), patch_matrix(model))
    True
    """
    return set_patch_matrix(model, key.inverse().act(patch_matrix(model).T).T)


def mismatch(model: ConvMixer, images: Tensor, layers: int = 1) -> float:
    """How badly plain public images fit the statistics that batch normalisation stored in training, without labels.

    The embedding and the first mixing layers are run, and for each channel of their batch normalisations the mean and
    the variance are compared with the running ones, as normal distributions are by their Kullback-Leibler divergence.

    Args:
        model: a network, such as one decrypted with a guessed key.
        images: plain images (N, C, H, W) of the kind that it was trained on, uint8 or floating point in [0, 1].
        layers: how many mixing layers are run.

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

    norms = [model.embedding_norm]
    norms += [norm for layer in model.layers[:layers] for norm in (layer.depthwise_norm, layer.pointwise_norm)]
    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            model[: 3 + layers](normalize(images))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return torch.stack(seen).mean().item()


class _Match(NamedTuple):
    """How well pixels put to places v, with signs, match a centred expected matrix A; order is from dark to bright."""

    score: float
    v: np.ndarray
    signs: np.ndarray
    order: np.ndarray
    A: np.ndarray


def _score(match: _Match) -> float:
    return match.score


def _exchanged(match: _Match, G: np.ndarray) -> _Match:
    """Pixels near the cut exchange signs, with their places or without, as long as that matches better."""
    middle = len(G) // 2
    near = match.order[max(middle - NEAR, 0) : middle + NEAR]
    while True:
        options = [match]
        for i, j in combinations(near, 2):
            if match.signs[i] == match.signs[j]:
                continue
            signs = match.signs.copy()
            signs[[i, j]] *= -1
            B = _centred(G * np.outer(signs, signs))
            for places in ([i, j], [j, i]):
                v = match.v.copy()
                v[[i, j]] = v[places]
                options.append(match._replace(score=_overlap(match.A, B, v), v=v, signs=signs))
        best = max(options, key=_score)
        if best.score < match.score + 1e-9:
            return match
        match = best


def _centred(G: np.ndarray) -> np.ndarray:
    """(1, p_b, p_b): the diagonal and the rest, each about 0 and of equal size, so that neither start nor scale tells.

    Of two such matrices the products add up to the mean of the two correlations.
    """
    own = np.eye(len(G), dtype=bool)
    on, off = (np.where(part, G - G.mean(where=part), 0) for part in (own, ~own))
    return (on / (np.linalg.norm(on) or 1) + off / (np.linalg.norm(off) or 1))[None] / np.sqrt(2)


def _overlap(A: np.ndarray, B: np.ndarray, v: np.ndarray) -> float:
    return float((A[:, v][:, :, v] * B).sum())


def _searched(
    A: np.ndarray, G: np.ndarray, signs: np.ndarray, order: np.ndarray, generator: torch.Generator, starts: int
) -> _Match:
    """The best of several searches."""
    B = _centred(G * np.outer(signs, signs))
    score, v = max((_search(A, B, generator) for _ in range(starts)), key=lambda one: one[0])
    return _Match(score, v, signs, order, A)


def _search(A: np.ndarray, B: np.ndarray, generator: torch.Generator) -> tuple[float, np.ndarray]:
    """A local search that gets out of hilltops: Taillard's robust tabu search (Parallel Computing 17, 1991).

    From a random permutation on, the exchange that gains most is made, also where it loses, but no two pixels go back
    to places that both had in the last moves, unless that is the best match so far.
    """
    size = len(B[0])
    v = torch.randperm(size, generator=generator).numpy()
    moved, value = A[:, v][:, :, v], _overlap(A, B, v)
    best, found, last = value, v.copy(), 0
    until = np.zeros((size, size), dtype=int)  # place, pixel: the move up to which it may not go there
    for move in range(1, MOVES):
        gains = swap_gains(B, moved)
        barred = until[:, v] > move  # place i, the pixel that is now at j
        gains[barred & barred.T & (value + gains <= best + 1e-9)] = -np.inf
        np.fill_diagonal(gains, -np.inf)
        i, j = np.unravel_index(gains.argmax(), gains.shape)
        if gains[i, j] == -np.inf or move - last > PATIENCE:
            break
        terms = torch.randint(9 * size // 10, 11 * size // 10 + 1, (2,), generator=generator).tolist()
        until[i, v[i]], until[j, v[j]] = move + terms[0], move + terms[1]
        for of in (v, moved[0], moved[0].T):
            of[[i, j]] = of[[j, i]]
        value += gains[i, j]
        if value > best + 1e-9:
            best, found, last = value, v.copy(), move
    return float(best), found
