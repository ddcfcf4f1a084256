"""Ciphertext only, against mixed pixels: these are whole numbers, a lattice, which a matrix turns or shears."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mixerkey.attacks.mixed import power, products, refined, unmix, whitened
from mixerkey.attacks.pairs import least_squares, procrustes
from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.statistics import ImageStatistics
from mixerkey.blocks import segment
from mixerkey.keys import MatrixKey, block_size

if TYPE_CHECKING:
    from flint import fmpz_mat

COEFFICIENT = 2**9  # what 1 in a coefficient costs, so that a long combination does not pass for a short vector
LEVEL = 2**16  # what a grey level costs, far above that; the unit of both is smaller than a float's rounding
MOST = 500  # differences are enough
ROUNDS = 4  # of taking in what the basis does not generate yet
SHORT = 0.3  # grey levels; what is shorter than this is 0 but for rounding
WHITE = 127.5  # grey levels above the middle; no pixel is brighter, nor darker than its negative
FAR = 3000  # blocks, those with the most extreme pixels, rule out nearly all that are no pixels
EXPLAINED = 1 - 1e-6  # of the blocks' squares at least; what is left is rounding
TRIES = 500  # without a new pixel
TURNS = 8  # a try, of what is not known yet
TURNED = 1.5  # by what at most, in norms of a random matrix to that of an orthogonal one
MOVED = 1.5  # by how many grey levels at most, in each direction


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
            orthogonal, mixed pixels are rounded or noisy, the images are too few, grey or of few levels, or the
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
    _check_blocks(mixed, patch_size, channels)
    grey = WHITE * segment(mixed.double(), patch_size)  # (N, h, w, p_b), about mid-grey
    rows, y = _basis(_differences(grey)), grey.flatten(0, 2)
    plain = (y @ rows.T + WHITE).round() - WHITE  # as many columns as rows were found
    turned = len(rows) == size and (rows @ rows.T - torch.eye(size)).abs().max() < 0.1
    if not turned or plain.abs().max() > WHITE:
        raise ValueError(
            "no turned lattice of whole grey levels was found: the matrix is not orthogonal, or there are too few "
            "images, rounded pixels, or blocks that are too large"
        )
    found = procrustes(plain, y, patch_size, channels)
    return Recovery(found.key, found.score, _orders_and_signs(patch_size, channels))


def sheared_lattice(
    mixed: Tensor, prior: ImageStatistics, generator: torch.Generator | None = None
) -> Recovery[MatrixKey]:
    """Any matrix T of a `MatrixKey`, but perhaps for the order and the signs of its rows, from public moments, too.

    The differences of mixed blocks are points of a lattice whatever T is, and LLL finds a basis of it; but where T
    shears, the rows of T need not be short. In coordinates of the basis each pixel is a linear form with *whole*
    coefficients, and `unmix` has an estimate of it. Near that is one whole form (Babai's nearest plane, 1986, in the
    metric of the moments), and it is taken for a pixel if its values are grey levels, from black to white in all
    blocks; of many images with black and white hardly any other form is. What is found is exact, so that estimates of
    the others, as they go with the found pixels in public pictures, come nearer. Where no more is found, they are
    disturbed at random.

    It needs the extra ``lattice`` (FLINT), mixed pixels as for `turned_lattice`, and images for which `unmix` is not
    far off: of CIFAR-10's a hundred or more, and a prior of like pictures.

    Args:
        mixed: what `mixerkey.encrypt_images` gives with such a key, float32 (N, C, H, W), at least two blocks a side.
        prior: from `image_statistics`, of images like the secret ones.
        generator: of the disturbances; by default seeded with 0.

    Returns:
        the key; ``score`` is the share of the blocks' squares that it explains, 1. Rows may be exchanged or negative;
        in practice they are not, but where the estimate took a picture for another one in other colours.

    Raises:
        ValueError: images of another shape, or not all pixels were found: mixed pixels are rounded or noisy, images too
            few or without contrast, T nearly singular, or the prior too far from them.
        ImportError: FLINT is not installed.

    >>> from mixerkey import encrypt_images
    >>> from mixerkey.attacks import image_statistics
    >>> from mixerkey.data import load_digits
    >>> (public, _), (private, _) = load_digits("train"), load_digits("test")
    >>> secret = MatrixKey.invertible(2, 1, seed=0)
    >>> found = sheared_lattice(encrypt_images(private, secret), image_statistics(public, 2)).key
    >>> (found.matrix() @ torch.linalg.inv(secret.matrix())).round().abs().sum(1)  # one row each
    tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    M, C, generator = prior.patch_size, prior.channels, generator or torch.Generator().manual_seed(0)
    _check_blocks(mixed, M, C)
    estimated = unmix(mixed, prior, orthogonal=False).key.matrix()
    grey = WHITE * segment(mixed.double(), M)
    near = grey @ torch.linalg.inv(estimated)
    basis = _basis(_differences(near))
    if len(basis) == len(estimated):
        to_basis = torch.linalg.inv(basis @ estimated)  # grey blocks become whole coordinates, but for a constant
        hidden = WHITE**2 * to_basis.numpy().T @ products(mixed, M) @ to_basis.numpy()
        y = grey.flatten(0, 2) @ to_basis
        far = y[near.flatten(0, 2).abs().amax(1).topk(min(FAR, len(y))).indices]
        forms = _whole_forms(basis, WHITE**2 * prior.moments.products, hidden, far, generator)
        plain = (y @ forms + WHITE).round() - WHITE
        if forms.any(0).all() and plain.abs().max() <= WHITE:
            found = least_squares(plain, grey.flatten(0, 2), M, C)
            if found.score > EXPLAINED:
                return found
    raise ValueError(
        "not all pixels were found in a lattice of whole grey levels: rounded or noisy pixels, too few images, or a "
        "prior that is not like them"
    )


def _whole_forms(
    estimates: Tensor, public: np.ndarray, hidden: np.ndarray, far: Tensor, generator: torch.Generator
) -> Tensor:
    """The pixels as whole linear forms of coordinates, columns (p_b, p_b) in an order that fits; 0 if not found.

    Args:
        estimates: such forms, not whole.
        public, hidden: moments as `Moments.products` has them, of public blocks and of the coordinates.
        far: some coordinates, (n, p_b).
    """
    metric = torch.from_numpy(hidden[0])
    nearest, unit = _nearest_plane(metric), torch.from_numpy(power(hidden[0], -0.5))
    forms, known, tries = torch.zeros_like(estimates), torch.zeros(len(estimates), dtype=torch.bool), 0
    while not known.all() and tries < TRIES:
        if tries == 0:
            predicted, white, Q, root = _rest(forms, known, estimates, public, hidden)
        strength = torch.rand(TURNS, 1, 1, generator=generator)
        strength[0] = 0
        turn = strength * torch.randn(TURNS, *Q.shape, generator=generator) / len(Q) ** 0.5
        left, _, right = torch.linalg.svd(Q + TURNED * turn)
        free = predicted + white @ left @ right @ root  # (turns, p_b, u)
        moved = strength * torch.randn(free.shape, generator=generator)
        candidates = nearest((free + MOVED * unit @ moved.double()).movedim(1, 0).flatten(1))
        levels = far @ candidates + WHITE
        whole = (levels - levels.round()).abs().amax(0) < SHORT  # a difference of pixels is half a level off
        inside = candidates[:, whole & (levels - WHITE).abs().amax(0).lt(WHITE + SHORT)]
        tries += 1
        for form in torch.unique(inside, dim=1).T:
            if torch.linalg.matrix_rank(torch.cat([forms[:, known], form[:, None]], dim=1)) > known.sum():
                free = estimates[:, ~known]
                alike = (form @ metric @ free) / (free * (metric @ free)).sum(0).sqrt()
                place = (~known).nonzero()[alike.abs().argmax(), 0]
                forms[:, place], known[place] = form * alike[alike.abs().argmax()].sign(), True
                tries = 0
    return forms


def _rest(
    forms: Tensor, known: Tensor, estimates: Tensor, public: np.ndarray, hidden: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is known of the u pixels that are not: forms that the known ones predict, as in public pictures; and of what
    is left, white forms (p_b, u), the orthogonal matrix that turns them, as `unmix` finds it, and the root of their
    public moments.
    """
    k, mine, free = known.numpy(), forms[:, known].numpy(), estimates[:, ~known].numpy()
    predict = np.linalg.solve(public[0][k][:, k], public[0][k][:, ~k])
    leave = np.zeros((len(k), (~k).sum()))
    leave[k], leave[~k] = -predict, np.eye((~k).sum())
    rest = free - mine @ np.linalg.solve(mine.T @ hidden[0] @ mine, mine.T @ hidden[0] @ free)
    plain, mixed = leave.T @ public @ leave, rest.T @ hidden @ rest
    A, B = (white / np.linalg.norm(white, axis=(1, 2), keepdims=True) for white in (whitened(plain), whitened(mixed)))
    left, _, right = np.linalg.svd(power(plain[0], 0.5) @ power(mixed[0], 0.5))
    Q = refined(A, B, left @ right).T
    parts = mine @ predict, rest @ power(mixed[0], -0.5), Q, power(plain[0], 0.5)
    predicted, white, turn, root = map(torch.from_numpy, parts)
    return predicted, white, turn, root


def _nearest_plane(metric: Tensor) -> Callable[[Tensor], Tensor]:
    """Babai's algorithm: takes columns to whole ones near them, as a quadratic form (p_b, p_b) measures it."""
    root = torch.linalg.cholesky(metric).T  # ∥root u∥² is the form of u
    _, made = _integers(LEVEL * root.T).lll(True)
    short = torch.tensor(made.tolist(), dtype=torch.float64).T  # whole columns u for which root u are short
    Q, R = torch.linalg.qr(root @ short)

    def nearest(forms: Tensor) -> Tensor:
        left = Q.T @ root @ forms
        whole = torch.zeros_like(left)
        for i in reversed(range(len(left))):
            whole[i] = (left[i] / R[i, i]).round()
            left = left - R[:, i : i + 1] * whole[i]
        return short @ whole

    return nearest


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
    """A basis of what d generates, by LLL.

    Each vector is written beside the coefficients by which it is combined, which are cheap: what combines to nothing
    is then shorter than any other vector, and is left out. Of the basis only the whole numbers are taken that say how
    to make each of d from it; the vectors are then fitted, so that rounding does not add up.
    """
    n, size = d.shape
    written = torch.cat([LEVEL * d, COEFFICIENT * torch.eye(n)], dim=1)
    reduced = torch.tensor([[int(x) for x in row] for row in _integers(written).lll().tolist()], dtype=torch.float64)
    something = reduced[:, :size].norm(dim=1) > LEVEL * SHORT
    whole = torch.linalg.inv(reduced[:, size:] / COEFFICIENT).round()[:, something]
    return torch.linalg.pinv(whole) @ d


def _integers(x: Tensor) -> fmpz_mat:
    """A matrix, rounded, as FLINT's."""
    try:
        from flint import fmpz_mat
    except ImportError:
        raise ImportError("reducing a lattice takes FLINT: install the extra, pip install '.[lattice]'") from None
    return fmpz_mat(x.round().long().tolist())


def _check_blocks(mixed: Tensor, patch_size: int, channels: int) -> None:
    if mixed.ndim != 4 or mixed.shape[1] != channels or min(mixed.shape[2:]) < 2 * patch_size:
        raise ValueError(
            f"need mixed images (N, {channels}, H, W), at least two blocks of {patch_size} a side; "
            f"got {tuple(mixed.shape)}"
        )


def _orders_and_signs(patch_size: int, channels: int) -> tuple[MatrixKey, ...]:
    """Generators of all signed permutations of a block's pixels."""
    size = block_size(patch_size, channels)
    nothing = torch.eye(size, dtype=torch.float64)
    exchanges = (nothing[[*range(k), k + 1, k, *range(k + 2, size)]] for k in range(size - 1))
    flip = nothing.clone()
    flip[0, 0] = -1
    return tuple(MatrixKey(P, patch_size, channels) for P in (*exchanges, flip))
