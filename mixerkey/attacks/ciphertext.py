"""Ciphertext only: encrypted images and what is known of pictures, because second moments pass through the cipher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise, permutations

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from mixerkey.attacks.assignment import swap_gains
from mixerkey.attacks.chooser import colour_evidence
from mixerkey.attacks.recovery import Recovery, as_key, exchanges
from mixerkey.attacks.stationarity import Stationarity, arrange, remoteness, square_symmetries
from mixerkey.attacks.statistics import (
    COLOUR,
    ROUNDING,
    ImageStatistics,
    Moments,
    block_colours,
    check_channels,
    colour_bins,
    correlation,
    image_moments,
    photographic,
)
from mixerkey.cipher import decrypt_images
from mixerkey.keys import SignedPermutation

GROUPS = 10  # of images, to see by how much the evidence varies
DOUBT = 0.001  # significance level
COLOURED = 1000  # images are enough to judge colours by
LOOKED = 64  # are shown to the network, which takes its time
ALIKE = 0.95  # correlation of structure from which on pictures are of the public ones' kind


def ciphertext_only(
    encrypted: Tensor,
    prior: ImageStatistics,
    generator: torch.Generator | None = None,
    *,
    starts: int = 5,
    look: bool = True,
    progress: bool = False,
) -> Recovery[SignedPermutation]:
    """The key from encrypted images alone, of the public ones' kind or of another.

    With T the key's matrix, a second-moment matrix Σ of plain blocks becomes T.T @ Σ @ T: its entries change places
    and signs, nothing else.

    1. Permutation: the correlations of pixels, within a block and across to its right and its lower neighbour, depend
       on the step from one to the other alone. The permutation under which that is most nearly true is searched, from
       where the public pictures' correlations fit best (see `arrange`). What kind of pictures they are hardly matters.
       Which of its eight ways up a block is, its borders tell: it goes on in its neighbours.
    2. Flips: brightness moves all pixels of a channel together, so the leading eigenvector of their correlations has
       entries of one sign. That of the encrypted pixels of each channel has the signs of the flips, and an edge in
       one channel is an edge in the others; all flips together are perhaps reversed.
    3. The order of the channels remains, and whether the pictures are negatives. What the key cannot hide, which
       pixels are how alike, tells whether the pictures are of the public ones' kind. If so, the change wins under
       which they look most natural (see `naturalness`); if not, of three channels, the one that a network sees in
       them, which does not go by brightness (see `mixerkey.attacks.chooser`), beside the public pictures' colours.
       That network has learned from CIFAR-10's training images, which are evidence, too. Who lacks these goes by what
       is true of mixed photographs, red, blue and the light from above (see `photographic`).

    Args:
        encrypted: uint8 images (N, C, H, W), all encrypted with one key, at least two blocks a side. They count as
            independent pictures: give one photograph as one image, not as many tiles.
        prior: what is known of pictures, from `image_statistics`.
        generator: draws the starts; by default one with a fixed seed.
        starts: from how many points to search at first.
        look: whether that network may judge colours. Without it, where the public pictures are of another kind, those
            three facts do, or for a single image the public pictures' colours; all ways round stay in doubt.
        progress: whether to show a progress bar on stderr.

    Returns:
        the key; its score is the `naturalness` of the images that it decrypts (as to colour, of the first 1,000).
        `ambiguous` holds what is not clearly worse: an exchange of two plain pixels, flip of one or of a channel, or
        symmetry of the block whose disadvantage is not significant (Student's t at 0.1 %, jackknife over ten groups
        of images, or bands of them); where another search ended, if none came to the same end; and each other way
        round of the colours that is not significantly worse. Of a single image all of these last stay in doubt, and
        of other than three channels, where the public pictures are of another kind.

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
    (moments,) = image_moments(encrypted, M, 1, progress=progress)
    found, pictures, rival = _structure(moments, prior, generator or torch.Generator(), starts, progress)
    pieces = _pieces(encrypted, M)
    groups = [image_moments(piece, M, 1)[0] for piece in pieces]
    rests = [_mean([group for i, group in enumerate(groups) if i != k] or groups) for k in range(len(groups))]
    key, score, doubts = _colour_choice(encrypted, found, prior, moments, pieces, rests, look)
    return Recovery(as_key(key), score, (*_local_doubts(key, pictures, rests, rival), *doubts))


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
    return _signs(np.linalg.eigh(moments.products[0])[1][:, -1])


def relatives(patch_size: int, channels: int) -> list[SignedPermutation]:
    """Changes of a plain block that leave it looking much like one: 8 symmetries of the square, orders of the
    channels, and all flips at once, in all combinations. The first changes nothing.

    >>> len(relatives(4, 3)), len(relatives(1, 1))
    (96, 2)
    """
    return _changes(patch_size, channels, square_symmetries(patch_size))


def colour_changes(patch_size: int, channels: int) -> list[SignedPermutation]:
    """The `relatives` that leave a block the right way up: orders of the channels, and all flips at once.

    >>> len(colour_changes(4, 3)), colour_changes(4, 3)[0] == SignedPermutation.identity(4, 3)
    (12, True)
    """
    return _changes(patch_size, channels, square_symmetries(patch_size)[:1])


def _changes(M: int, C: int, squares: Sequence[np.ndarray]) -> list[SignedPermutation]:
    orders = (np.array(order)[:, None] * M**2 for order in permutations(range(C)))
    places = [(order + square).ravel() for order in orders for square in squares]
    return [SignedPermutation(place, [flip] * len(place), M, C) for place in places for flip in (False, True)]


def _structure(
    moments: Moments, prior: ImageStatistics, generator: torch.Generator, starts: int, progress: bool
) -> tuple[SignedPermutation, Stationarity, np.ndarray | None]:
    """Steps 1 and 2: the key up to `colour_changes`, what it was found by, and where another search ended."""
    M, C = prior.patch_size, prior.channels
    public = remoteness(prior.moments.correlations())
    pictures = Stationarity(remoteness(moments.correlations()), public, M, C)
    v, rival = arrange(pictures, public, M, C, generator, starts, progress=progress)
    signs = _signs(_brightness(moments, v, C))
    signs *= _signs(_agreement(moments, v, signs, C))[v // M**2]
    v = min((square[v] for square in _squares(M, C)), key=lambda turned: _torn(moments, turned, signs, C))
    return SignedPermutation(v, signs < 0, M, C), pictures, rival


def _colour_choice(
    encrypted: Tensor,
    found: SignedPermutation,
    prior: ImageStatistics,
    moments: Moments,
    pieces: Sequence[Tensor],
    rests: Sequence[Moments],
    look: bool,
) -> tuple[SignedPermutation, float, list[SignedPermutation]]:
    """Step 3: the key, its `naturalness`, and the changes of colours that are not significantly worse."""
    changes = [h.inverse() for h in colour_changes(prior.patch_size, prior.channels)]
    fits = _fits(prior, moments, changes, found)
    natural = fits + COLOUR * _colours(encrypted[:COLOURED], found, changes, prior).mean(0)
    alike = fits.max() >= ALIKE
    foreign = prior.channels == 3 and not alike
    if look and foreign:
        seen = encrypted[:: -(-len(encrypted) // LOOKED)]
        evidence = colour_evidence(decrypt_images(seen, found)).numpy() + _colours(seen, found, changes, prior)
        best = int(evidence.sum(0).argmax())
        unclear = _doubtful(_without_each(evidence[:, [best]] - evidence))
    else:
        best = int(natural.argmax())
        if foreign and len(encrypted) > 1:
            views = (decrypt_images(encrypted[:COLOURED], g.then(found)) for g in changes)
            best = int(np.argmax([photographic(view) for view in views]))
        evidence = np.stack([_fits(prior, rest, changes, found) for rest in rests])
        parts = [_colours(piece[: COLOURED // GROUPS], found, changes, prior).mean(0) for piece in pieces]
        evidence += COLOUR * _without_each(np.stack(parts))
        unclear = _doubtful(evidence[:, [best]] - evidence) | (len(encrypted) == 1) | (not alike)
    doubts = [changes[k].then(changes[best].inverse()) for k in np.flatnonzero(unclear) if k != best]
    return changes[best].then(found), float(natural[best]), doubts


def _pieces(images: Tensor, patch_size: int) -> list[Tensor]:
    """Groups of images; where these are few, of bands of at least two blocks."""
    if len(images) >= GROUPS:
        return list(images.tensor_split(GROUPS))
    rows = images.shape[2] // patch_size
    bands = max(1, min(-(-GROUPS // len(images)), rows // 2))
    edges = [rows * k // bands * patch_size for k in range(bands + 1)]
    return [image[None, :, a:b] for image in images for a, b in pairwise(edges)]


def _squares(M: int, C: int) -> list[np.ndarray]:
    """The symmetries of the square, of all channels at once, as permutations of plain pixels."""
    return [(np.arange(C)[:, None] * M**2 + square).ravel() for square in square_symmetries(M)]


def _brightness(moments: Moments, v: np.ndarray, channels: int) -> np.ndarray:
    """The leading eigenvectors of the correlations within each channel, (p_b,)."""
    correlations, area = moments.correlations()[0], len(v) // channels
    result = np.empty(len(v))
    for c in range(channels):
        own = v // area == c
        result[own] = np.linalg.eigh(correlations[np.ix_(own, own)])[1][:, -1]
    return result


def _agreement(moments: Moments, v: np.ndarray, signs: np.ndarray, channels: int) -> np.ndarray:
    """The leading eigenvector of the correlations between the channels' gradients, (C,).

    An edge is an edge in all channels. Their brightness is not as faithful: a blue sky is dark in red.
    """
    back, side = np.argsort(v), round((len(v) // channels) ** 0.5)
    S = ((moments.products[0] - np.outer(moments.means, moments.means)) * np.outer(signs, signs))[back][:, back]
    place = np.arange(side**2).reshape(side, side)
    pairs = [(place[:, :-1], place[:, 1:]), (place[:-1], place[1:])]
    here, there = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    steps = np.eye(side**2)[there] - np.eye(side**2)[here] if side > 1 else np.eye(1)
    L = steps.T @ steps
    covariances = np.einsum("ij,cidj->cd", L, S.reshape(channels, side**2, channels, side**2))
    scale = np.sqrt(np.diag(covariances) + ROUNDING)
    return np.linalg.eigh(covariances / np.outer(scale, scale))[1][:, -1]


def _torn(moments: Moments, v: np.ndarray, signs: np.ndarray, channels: int) -> float:
    """How torn pictures would be at the borders of blocks: the log of the squared differences of neighbours there.

    A ratio counts the same in pictures of little contrast.
    """
    D, side = moments.differences(signs), round((len(v) // channels) ** 0.5)
    place = np.argsort(v).reshape(channels, side, side)
    across, down = D[1][place[:, :, -1], place[:, :, 0]], D[2][place[:, -1], place[:, 0]]
    return float(np.log(across.sum() + down.sum() + ROUNDING))


def _signs(vector: np.ndarray) -> np.ndarray:
    return np.where(vector < 0, -1, 1)


def _fits(
    prior: ImageStatistics, moments: Moments, changes: Sequence[SignedPermutation], found: SignedPermutation
) -> np.ndarray:
    """Correlation of the structure of public pictures with that of the encrypted ones, had each change been made."""
    A, back = prior.moments.distances(), found.permutation.argsort().numpy()
    B = moments.distances(np.where(found.flips.numpy(), -1, 1))[:, back][:, :, back]
    places = [g.permutation.numpy() for g in changes]  # all flips at once do not matter
    return np.array([correlation(A[:, w][:, :, w], B) for w in places])


def _colours(
    encrypted: Tensor, found: SignedPermutation, changes: Sequence[SignedPermutation], prior: ImageStatistics
) -> np.ndarray:
    """Mean log-likelihoods of the colours of each image's blocks, had each change been made; (N, changes)."""
    colour, contrast = block_colours(decrypt_images(encrypted, found), prior.patch_size)
    return np.stack([_colour(colour, contrast, g, prior) for g in changes], axis=1)


def _without_each(values: np.ndarray) -> np.ndarray:
    """The mean without each of the rows in turn; a single row stands for itself."""
    count = len(values)
    return (values.sum(0) - values) / (count - 1) if count > 1 else values


def _mean(groups: Sequence[Moments]) -> Moments:
    return Moments(*(np.mean([getattr(group, f.name) for group in groups], axis=0) for f in fields(Moments)))


def _colour(colour: np.ndarray, contrast: np.ndarray, g: SignedPermutation, prior: ImageStatistics) -> np.ndarray:
    """Log-likelihood (N,) of the colours of blocks, had `g` changed them (a relative) before they were encrypted."""
    area = prior.patch_size**2
    order = np.argsort(g.permutation.numpy()[::area] // area)
    before = colour[..., order]
    bins = colour_bins(1 - before if g.flips[0] else before, contrast)
    return prior.colours[bins].mean(1)


def _local_doubts(
    key: SignedPermutation, pictures: Stationarity, rests: Sequence[Moments], rival: np.ndarray | None
) -> tuple[SignedPermutation, ...]:
    """Flips, exchanges and symmetries that are no worse, or not significantly so, and the rival permutation."""
    M, C, size = key.patch_size, key.channels, key.size
    v, signs = key.permutation.numpy(), np.where(key.flips.numpy(), -1, 1)
    back, channel, nothing = np.argsort(v), np.arange(size) // M**2, [False] * size
    smooth, squares = pictures.smoothed(v), _squares(M, C)
    # The advantages of the key over each rival, with each group of images left out in turn.
    flips, negatives, swaps, turns = [], [], [], []
    for rest in rests:
        brightness = (_brightness(rest, v, C) * signs)[back].reshape(C, -1)
        flips.append((brightness * np.sign(brightness.sum(1, keepdims=True))).ravel())
        agreement = _agreement(rest, v, signs, C)
        negatives.append(agreement * np.sign(agreement.sum()))
        part = pictures.like(remoteness(rest.correlations()))
        swaps.append(-swap_gains(smooth, part.plain(v)) / pictures.norm)
        torn = [_torn(rest, square[v], signs, C) for square in squares]
        turns.append([other - torn[0] for other in torn[1:]])

    flipped = [np.arange(size) == i for i in np.flatnonzero(_doubtful(np.array(flips)))]
    if C > 1:
        flipped += [channel == c for c in np.flatnonzero(_doubtful(np.array(negatives)))]
    places = []
    for i, j in exchanges(_doubtful(np.array(swaps))):
        w = np.arange(size)
        w[[i, j]] = j, i
        places.append(w)
    places += [squares[1:][k] for k in np.flatnonzero(_doubtful(np.array(turns)))]
    if rival is not None:
        places.append(rival[back])
    return (
        *(SignedPermutation(range(size), flip, M, C) for flip in flipped),
        *(SignedPermutation(w, nothing, M, C) for w in places),
    )


def _doubtful(advantages: np.ndarray) -> np.ndarray:
    """Where the advantage, known with each group left out in turn, is not significantly above 0 (jackknife)."""
    count = len(advantages)
    if count < 2:
        return np.ones(advantages.shape[1:], dtype=bool)
    error = np.sqrt((count - 1) / count * ((advantages - advantages.mean(0)) ** 2).sum(0))
    return advantages.mean(0) <= stdtrit(count - 1, 1 - DOUBT) * error
