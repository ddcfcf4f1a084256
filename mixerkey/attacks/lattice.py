"""Ciphertext only, against an orthogonal matrix: pixels are whole numbers, and show how they were turned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mixerkey.attacks.pairs import procrustes
from mixerkey.attacks.recovery import Recovery
from mixerkey.blocks import segment
from mixerkey.keys import MatrixKey, block_size

COEFFICIENT = 2**9  # what 1 in a coefficient costs, so that a long combination does not pass for a short vector
LEVEL = 2**16  # what a grey level costs, far above that; the unit of both is smaller than a float's rounding
MOST = 500  # differences are enough
ROUNDS = 4  # of taking in what the basis does not generate yet
SHORT = 0.3  # grey levels; what is shorter than this is 0 but for rounding


def turned_lattice(mixed: Tensor, patch_size: int, channels: int) -> Recovery[MatrixKey]:
    """The orthogonal matrix T of a `MatrixKey` but for the order and the signs of its rows, from mixed images alone.

    In grey levels differences of plain blocks are whole numbers, points of the cubic lattice, and those of mixed
    blocks, d' = d T, are points of the same lattice, turned. Its shortest vectors are the rows of T and their
    negatives. The LLL algorithm (Lenstra, Lenstra and Lovász, 1982) makes a basis of short vectors out of the
    shortest differences of neighbouring blocks. That it finds the very shortest is sure of no lattice of many
    dimensions; here it did so from ten images of 32 x 32 pixels and M = 4, 48 dimensions. With the rows in any order,
    `decrypt_images` gives pixels that a signed permutation has encrypted: what is left to `ciphertext_only`.

    It needs the extra ``lattice`` (FLINT), and mixed pixels as `mixerkey.encrypt_images` gives them: rounded to 16 bits
    they are too far from the lattice, and to 8 they are on another.

    Args:
        mixed: what `mixerkey.encrypt_images` gives with such a key, float32 (N, C, H, W), at least two blocks a side.
        patch_size: M.
        channels: C.

    Returns:
        the key, whose rows stand in some order and with some signs; ``score`` is the share of the blocks' squares that
        it explains, 1. `ambiguous` generates these orders and signs: exchanges of neighbouring pixels, and a flip.

    Raises:
        ValueError: images of another shape, or what was found is not a turned cubic lattice: the matrix is not
            orthogonal, the pixels are rounded or noisy, the images are too few, grey or of few levels, or the
            dimensions too many.
        ImportError: FLINT is not installed.

    >>> from mixerkey import encrypt_images
    >>> from mixerkey.data import load_digits
    >>> images, secret = load_digits("test")[0], MatrixKey.orthogonal(2, 1, seed=0)
    >>> found = turned_lattice(encrypt_images(images, secret), 2, 1).key
    >>> (found.matrix() @ secret.matrix().T).round().abs().sum(1)  # one row each
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    size = block_size(patch_size, channels)
    if mixed.ndim != 4 or mixed.shape[1] != channels or min(mixed.shape[2:]) < 2 * patch_size:
        raise ValueError(
            f"need mixed images (N, {channels}, H, W), at least two blocks of {patch_size} a side; "
            f"got {tuple(mixed.shape)}"
        )
    grey = 127.5 * segment(mixed.double(), patch_size)  # (N, h, w, p_b), about mid-grey
    rows, y = _basis(_differences(grey)), grey.flatten(0, 2)
    plain = (y @ rows.T + 127.5).round() - 127.5  # as many columns as rows were found
    turned = len(rows) == size and (rows @ rows.T - torch.eye(size)).abs().max() < 0.1
    if not turned or plain.abs().max() > 127.5:
        raise ValueError(
            "no turned lattice of whole grey levels was found: the matrix is not orthogonal, or there are too few "
            "images, rounded pixels, or blocks that are too large"
        )
    found = procrustes(plain, y, patch_size, channels)
    return Recovery(found.key, found.score, _orders_and_signs(patch_size, channels))


def _differences(blocks: Tensor) -> Tensor:
    """The shortest between a block and its right or its lower neighbour, each once: float64 (at most `MOST`, p_b)."""
    steps = (blocks[:, :, 1:] - blocks[:, :, :-1], blocks[:, 1:] - blocks[:, :-1])
    d = torch.cat([step.flatten(0, 2) for step in steps])
    d = d[:: -(-len(d) // (5 * MOST))]  # from everywhere: the very shortest may all be of one flat wall
    d = torch.where(d[:, :1] < 0, -d, d)[d.norm(dim=1) > SHORT]
    _, first = np.unique((10 * d).round(), axis=0, return_index=True)
    d = d[first]
    return d[d.norm(dim=1).argsort()[:MOST]]


def _basis(d: Tensor) -> Tensor:
    """A basis of short vectors of the lattice that d (n, p_b) generates, from the shortest that suffice."""
    basis = d[:0]
    for _ in range(ROUNDS):
        off, _ = _from_whole(basis, d)
        if not (missed := off > SHORT).any() or len(basis) > d.shape[1]:  # all, or nothing but noise
            break
        basis = _reduced(torch.cat([basis, d[missed][: 3 * d.shape[1]]]))
        for _ in range(2):  # the better the basis, the longer the vectors that are rounded rightly
            off, whole = _from_whole(basis, d)
            basis = torch.linalg.lstsq(whole[off <= SHORT], d[off <= SHORT], driver="gelsd").solution
    return basis


def _from_whole(basis: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """How far each of d (n, p_b) is from a whole combination of the basis (r, p_b), and that: (n,), (n, r)."""
    whole = (d @ torch.linalg.pinv(basis)).round()
    return (d - whole @ basis).norm(dim=1), whole


def _reduced(d: Tensor) -> Tensor:
    """The same of all d, by LLL.

    Each vector is written beside the coefficients by which it is combined, which are cheap: what combines to nothing
    is then shorter than any other vector, and is left out.
    """
    try:
        from flint import fmpz_mat
    except ImportError:
        raise ImportError("reducing a lattice takes FLINT: install the extra, pip install '.[lattice]'") from None
    n, size = d.shape
    written = torch.cat([(LEVEL * d).round().long(), COEFFICIENT * torch.eye(n, dtype=torch.long)], dim=1)
    reduced = fmpz_mat(written.tolist()).lll().tolist()
    found = torch.tensor([[int(x) for x in row[:size]] for row in reduced], dtype=torch.float64).view(n, size) / LEVEL
    return found[found.norm(dim=1) > SHORT]


def _orders_and_signs(patch_size: int, channels: int) -> tuple[MatrixKey, ...]:
    """Generators of all signed permutations of a block's pixels."""
    size = block_size(patch_size, channels)
    nothing = torch.eye(size, dtype=torch.float64)
    exchanges = (nothing[[*range(k), k + 1, k, *range(k + 2, size)]] for k in range(size - 1))
    flip = nothing.clone()
    flip[0, 0] = -1
    return tuple(MatrixKey(P, patch_size, channels) for P in (*exchanges, flip))
