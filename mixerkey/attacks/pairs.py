"""Pairs of plain and encrypted vectors, and the key between them: the arithmetic of every attack that has such pairs.

Known images give pairs of blocks, chosen ones as many as are asked for; the filters of a public network and of an
encrypted one are pairs, too, since a filter is encrypted like a block. Each solution is the best one by least squares,
which is the likeliest under Gaussian noise.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mixerkey.attacks.recovery import Recovery, as_key, exchanges
from mixerkey.blocks import segment
from mixerkey.cipher import network_input
from mixerkey.keys import BlockKey, BlockOrder, MatrixKey, SignedPermutation

SURE = 3.0  # standard deviations of noise that a change must cost to be ruled out


def signed_assignment(x: Tensor, y: Tensor, patch_size: int, channels: int) -> Recovery[SignedPermutation]:
    """The signed permutation that takes x nearest to y: min ∥y - x T∥, exactly, as a linear assignment problem.

    Column k of x T is ± column v_k of x, so the cost of each pair of columns is known beforehand.

    Args:
        x, y: real (n, p_b).
        patch_size: M.
        channels: C.

    Returns:
        the key; its score is 1 - ∥y - x T∥² / ∥y∥². `ambiguous` holds the flips of one plain position and exchanges of
        two (with the signs that fit) that cost no more than noise of the size that was left over: of exact data,
        columns that are 0, equal, or negatives of each other. Unique is the key if there are none, hence of exact data
        if and only if all columns of x are different, even up to sign, and none is 0.

    >>> key = SignedPermutation.from_seed(1, 2, 1)
    >>> x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    >>> found = signed_assignment(x, key.act(x), 2, 1)
    >>> found.key == key, found.score, found.ambiguous
    (True, 1.0, ())
    """
    a, b = x.double().numpy(), y.double().numpy()
    products, norms = a.T @ b, (a**2).sum(0)
    cost = norms[:, None] + (b**2).sum(0) - 2 * np.abs(products)  # (p_b plain, p_b cipher)
    rows, columns = linear_sum_assignment(cost)
    v = rows[np.argsort(columns)]
    key = SignedPermutation(v, products[v, np.arange(len(v))] < 0, patch_size, channels)
    left = max(float(((b - key.act(torch.from_numpy(a)).numpy()) ** 2).sum()), 0.0)
    score = 1 - left / (float((b**2).sum()) or 1.0)
    return Recovery(as_key(key), 1.0 if left < 1e-9 * len(a) else score, _unseen(a, b, key, left / max(b.size, 1)))


def least_squares(x: Tensor, y: Tensor, patch_size: int, channels: int) -> Recovery[MatrixKey]:
    """The matrix that takes x nearest to y: min ∥y - x T∥ over all T; arguments as for `signed_assignment`.

    Returns:
        the key; its score is 1 - ∥y - x T∥² / ∥y∥². Unique is T if and only if x has rank p_b; otherwise T is the
        identity on directions that x leaves out, and `ambiguous` holds a reflection of each of them.

    Raises:
        ValueError: what was found is singular, so that it is no key.

    >>> key = MatrixKey.invertible(2, 1, seed=0)
    >>> x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> bool((least_squares(x, key.act(x), 2, 1).key.matrix() - key.matrix()).abs().max() < 1e-9)
    True
    """
    a, b = x.double(), y.double()
    _, values, directions = torch.linalg.svd(torch.linalg.qr(a, mode="r").R)  # of a few rows, however many a has
    rank = int((values > values[0] * max(a.shape) * 1e-12).sum()) if len(values) else 0
    unseen = directions[rank:]  # (p_b - rank, p_b)
    T = torch.linalg.pinv(a) @ b + unseen.T @ unseen
    left, whole = ((b - a @ T) ** 2).sum(), (b**2).sum()
    reflections = (torch.eye(a.shape[1], dtype=torch.float64) - 2 * torch.outer(u, u) for u in unseen)
    doubts = tuple(MatrixKey(reflection, patch_size, channels) for reflection in reflections)
    return Recovery(MatrixKey(T, patch_size, channels), float(1 - left / whole), doubts)


def procrustes(x: Tensor, y: Tensor, patch_size: int, channels: int) -> Recovery[MatrixKey]:
    """The orthogonal matrix that takes x nearest to y: min ∥y - x Q∥ over QᵀQ = 1 (Schönemann, 1966).

    Arguments and score are as for `least_squares`. It needs p_b - 1 pairs only, and noise costs it less.

    >>> key = MatrixKey.orthogonal(2, 1, seed=0)
    >>> x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> bool((procrustes(x, key.act(x), 2, 1).key.matrix() - key.matrix()).abs().max() < 1e-9)
    True
    """
    a, b = x.double(), y.double()
    left, _, right = torch.linalg.svd(a.T @ b)
    Q = left @ right
    return Recovery(MatrixKey(Q, patch_size, channels), float(1 - ((b - a @ Q) ** 2).sum() / (b**2).sum()))


def block_pairs(plain: Tensor, encrypted: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """The blocks of known images as pairs: float64 (n, p_b) twice, normalised.

    Args:
        plain: images (..., C, H, W), uint8 or floating point in [0, 1].
        encrypted: the same images as `mixerkey.encrypt_images` gives them, by a key for blocks.
        patch_size: M.

    Raises:
        ValueError: images of different shapes, or none.
    """
    if plain.shape != encrypted.shape or not plain.numel():
        raise ValueError(
            f"need images and their encryptions, of one shape; got {tuple(plain.shape)} and {tuple(encrypted.shape)}"
        )
    size = patch_size**2 * plain.shape[-3]
    mixed = encrypted.is_floating_point() and not plain.is_floating_point()  # mixed pixels are normalised already
    y = encrypted.double() if mixed else network_input(encrypted, None, torch.float64)
    pair = (network_input(plain, None, torch.float64), y)
    first, second = (segment(z, patch_size).reshape(-1, size) for z in pair)
    return first, second


def known_scrambled(plain: Tensor, encrypted: Tensor, patch_size: int) -> Recovery[BlockKey]:
    """The key from known images when blocks have changed places, too: first the order, then what happened within.

    What a signed permutation leaves of a block is how large its values are, whatever their order and signs. So the
    blocks of each place are known again in all images by their sorted absolute values.

    Args:
        plain: uint8 images (N, C, H, W).
        encrypted: the same images under ``key.then(order)``, with a `SignedPermutation` and a `BlockOrder`.
        patch_size: M.

    Returns:
        the key; its score is that of `signed_assignment`. `ambiguous` holds what `signed_assignment` leaves open, and
        exchanges of places whose blocks are alike in all images.

    >>> from mixerkey import Key, encrypt_images
    >>> secret = Key.from_seed(1, 2, 3).then(BlockOrder.from_seed(2, 2, 3, grid=(4, 4)))
    >>> x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> known_scrambled(x, encrypt_images(x, secret), 2).key == secret
    True
    """
    C, (H, W), M = plain.shape[-3], plain.shape[-2:], patch_size
    grid = H // M, W // M
    seen = [segment(network_input(x, None, torch.float64), M).flatten(1, 2) for x in (plain, encrypted)]  # (N, n, p_b)
    a, b = [z.abs().sort(-1).values.movedim(1, 0).flatten(1) for z in seen]  # (n, N * p_b)
    distance = torch.cdist(a, b).numpy()  # [plain place, cipher place]
    rows, columns = linear_sum_assignment(distance)
    order = BlockOrder(rows[np.argsort(columns)], M, C, grid)
    back = order.inverse().act(seen[1].unflatten(1, grid)).flatten(1, 2)
    found = signed_assignment(seen[0].reshape(-1, back.shape[-1]), back.reshape(-1, back.shape[-1]), M, C)
    twins = torch.cdist(a, a).numpy() < 1e-9
    swaps = []
    for i, j in exchanges(twins):
        places = np.arange(len(twins))
        places[[i, j]] = j, i
        swaps.append(BlockOrder(places, M, C, grid))
    return Recovery(found.key.then(order), found.score, (*found.ambiguous, *swaps))


def _unseen(a: np.ndarray, b: np.ndarray, key: SignedPermutation, variance: float) -> tuple[SignedPermutation, ...]:
    """Flips of one plain position, and exchanges of two, that cost no more than `SURE` deviations of the noise."""
    M, C, size = key.patch_size, key.channels, key.size
    plain = key.inverse().act(torch.from_numpy(b)).numpy()  # as the key decrypts it
    norms, products = (a**2).sum(0), a.T @ plain  # [i, j]: position i in the place of j
    own = np.diag(products)
    gram = a.T @ a
    sign = np.where(products < 0, -1, 1)
    # ∥moved - stays∥², how far an exchange or a flip moves the prediction, against the noise in that direction.
    gap = np.maximum(norms[:, None] + norms - 2 * np.abs(gram), 0)
    cost = own[:, None] + own - np.abs(products) - np.abs(products.T)
    slack = SURE * np.sqrt(2 * gap * variance) + 1e-9 * (norms.max() or 1)
    flips = own <= SURE * np.sqrt(norms * variance) + 1e-9 * (norms.max() or 1)
    changes = [SignedPermutation(range(size), np.arange(size) == i, M, C) for i in np.flatnonzero(flips)]
    for i, j in exchanges(cost <= slack):
        v, r = np.arange(size), np.zeros(size, dtype=bool)
        v[[i, j]] = j, i
        r[i], r[j] = sign[j, i] < 0, sign[i, j] < 0
        changes.append(SignedPermutation(v, r, M, C))
    return tuple(changes)
