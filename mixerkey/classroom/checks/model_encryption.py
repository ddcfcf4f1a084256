"""The exercises of chapter 4, Encrypting the model: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from mixerkey.classroom.checks.checker import Value, checker
from mixerkey.classroom.checks.inputs import BLOCKS, SOLVED, normal, random_key, sign
from mixerkey.keys import Key

TRANSPOSED = "this is the transpose of E1: row k must be row v_k of E, not E's row k at v_k"
INVERSE = "this is T E, the inverse; encryption of the model is the transpose of T, times E"

rows_by_hand = Value(
    [2, -4, -1, 3],
    "row v_k at place k, negated where r_k = 1.",
    (
        ([3, -1, -4, 2], "this is the transpose: row k must be row v_k of E, not E's row k at v_k"),
        ([-3, 1, 4, -2], INVERSE),
        ([-2, 4, 1, -3], "this negates before it moves, or where r_k is 0; s_k belongs to the new row k"),
        ([2, 4, 1, 3], "the rows are right, the signs are missing"),
        ([1, -2, -3, 4], "the signs are there, but no row has moved"),
        ([3, 1, 4, 2], "this is the transpose, and the signs are missing"),
        ([2, 251, 254, 3], "255 - p is for pixels; rows of E belong to normalised ones, so a flip is a minus"),
    ),
)


def matrix_and_key(g: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """E, v and r for several shapes; first the example."""
    example = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64), torch.tensor([1, 3, 0, 2])
    cases = [(*example, torch.tensor([False, True, True, False]))]
    for M, C in BLOCKS:
        key = random_key(g, M, C)
        cases.append((normal(g, M * M * C, 5), key.permutation, key.flips))
    return cases


def in_place(E: Tensor, v: Tensor, r: Tensor) -> Tensor:
    E = E.clone()
    for k, place in enumerate(v):
        E[k] = -E[place] if r[k] else E[place]
    return E


@checker(
    matrix_and_key,
    "row k is row v_k of E, negated where r_k = 1: E' is the transpose of T, times E.",
    (
        (lambda E, v, r: sign(r)[:, None] * E[v.argsort()], TRANSPOSED),
        (lambda E, v, r: (sign(r)[:, None] * E)[v], "this negates before it moves; s_k belongs to the new row k"),
        (lambda E, v, r: (sign(r)[:, None] * E)[v.argsort()], INVERSE),
        (lambda E, v, r: E[v], "the rows are right, the signs are missing"),
        (lambda E, v, r: sign(r)[:, None] * E, "the signs are there, but no row has moved"),
        (lambda E, v, r: -sign(r)[:, None] * E[v], "this negates where r is 0"),
        (in_place, "each row is written over one that is still to be read; write the result into a new matrix"),
        *[
            (
                lambda E, v, r, top=top: torch.where(r[:, None], top - E[v], E[v]),
                f"{top} - p is for pixels; E meets normalised ones, so a flip is a minus",
            )
            for top in (1, 255)
        ],
        (
            lambda E, v, r: r[:, None] * E[v],
            "r is 0 where nothing is flipped, and such rows must stay; the sign is 1 - 2r",
        ),
        (
            lambda E, v, r: -(r.double()[:, None]) * E[v],
            "r is 0 where nothing is flipped, and such rows must stay; the sign is 1 - 2r",
        ),
    ),
    axes="the rows of E are its first axis",
)
def encrypt_rows(E: Tensor, v: Tensor, r: Tensor) -> Tensor:
    return sign(r)[:, None] * E[v]


def invertible(g: Generator, size: int, d: int) -> tuple[Tensor, Tensor]:
    """T, far from singular, and E."""
    scales = 0.5 + torch.rand(size, generator=g).double()  # (p_b,)
    return torch.linalg.qr(normal(g, size, size)).Q * scales, normal(g, size, d)


@checker(
    lambda g: [
        (torch.tensor([[2.0, 1], [1, 1]]).double(), torch.tensor([[1.0], [2]]).double()),
        *[invertible(g, *shape) for shape in ((4, 6), (12, 5), (48, 7))],
        (random_key(g, 2, 3).matrix(), normal(g, 12, 3)),
    ],
    "the inverse of T, times E: the only matrix that meets xT and gives xE for every x.",
    (
        (lambda T, E: T.T @ E, "the transpose is the inverse only if T is orthogonal; this T need not be"),
        (lambda T, E: T @ E, "this is T E; T meets T once more and nothing is undone"),
        (lambda T, E: T.inverse().T @ E, "this is the transpose of the inverse; the inverse itself meets T"),
        (lambda T, E: E, "this is E itself, which expects x and not xT"),
    ),
    tolerance=SOLVED,
)
def absorb(T: Tensor, E: Tensor) -> Tensor:
    return torch.linalg.solve(T, E)


LAYERS = (  # whether the layer absorbs the change, and why
    (True, "1: any invertible T will do, the first layer becomes the inverse of T, times E"),
    (True, "2: each patch holds whole blocks, so the change is one signed permutation of the patch"),
    (False, "3: pixels move from one patch to another, and a matrix that sees one patch can't fetch them back"),
    (False, "4: a pixel meets several entries of an overlapping kernel, so no single reordering serves all of them"),
    (
        True,
        "5: the change acts on the channels of each pixel; the kernels' channels move and change sign with it",
    ),
    (False, "6: the layer has one matrix for all places, and here each place asks for another"),
    (False, "7: a power is not linear, and a matrix undoes only what is"),
    (True, "8: xT + c is affine; the matrix takes T, the bias takes c"),
)
which_absorb = Value(
    [absorbed for absorbed, _ in LAYERS],
    "what counts is one invertible affine map, the same for all patches, within what one patch sees.",
    tuple(
        ([absorbed != (i == place) for i, (absorbed, _) in enumerate(LAYERS)], f"look again at {reason}")
        for place, (_, reason) in enumerate(LAYERS)
    ),
)


def rows(E: Tensor, key: Key) -> Tensor:
    return sign(key.flips)[:, None] * E[key.permutation]


def linear(
    there: bool = True,
    back: bool = True,
    inverse: bool = False,
    axes: tuple[int, int, int] = (2, 0, 1),
    again: bool = False,
    rows: Callable[[Tensor, Key], Tensor] = rows,
) -> Callable[[Tensor, Key], Tensor]:
    """Encryption of a linear embedding's weight by `rows`, with or without the change of order before and after it."""

    def encrypted(weight: Tensor, key: Key) -> Tensor:
        M, C = key.patch_size, key.channels
        order = torch.arange(M * M * C).reshape(M, M, C).permute(axes).flatten()  # (p_b,)
        order = order.argsort() if inverse else order
        E = rows(weight.T[order] if there else weight.T, key)  # (p_b, d)
        return (E[order if again else order.argsort()] if back else E).T

    return encrypted


@checker(
    lambda g: [
        (normal(g, 5, 48), Key.from_seed(7, 4, 3)),
        *[(normal(g, 6, M * M * C), random_key(g, M, C)) for M, C in ((2, 3), (3, 2))],
    ],
    "the columns go to the key's order, are encrypted, and come back.",
    (
        (linear(False, False), "the key counts (channel, row, column), this weight's columns (row, column, channel)"),
        (linear(back=False), "the columns are still in the key's order; bring them back"),
        (linear(there=False), "the columns are not in the key's order when they are encrypted"),
        (linear(rows=lambda E, key: sign(key.flips)[:, None] * E[key.permutation.argsort()]), TRANSPOSED),
        (linear(rows=lambda E, key: E[key.permutation]), "the columns are in place, the signs are missing"),
        (
            linear(rows=lambda E, key: (sign(key.flips)[:, None] * E)[key.permutation]),
            "this negates before it moves; s_k belongs to the new place k",
        ),
        (linear(rows=lambda E, key: (sign(key.flips)[:, None] * E)[key.permutation.argsort()]), INVERSE),
        (linear(rows=lambda E, key: -rows(E, key)), "this negates where r is 0"),
        (linear(rows=lambda E, key: sign(key.flips)[:, None] * E), "the signs are there, but no column has moved"),
        (
            lambda weight, key: linear(rows=lambda E, key: E[key.permutation])(weight, key) * sign(key.flips),
            "the signs are in the key's order, and these columns back in the weight's: negate before they come back",
        ),
        (
            linear(again=True),
            "the columns are brought into another order twice; bring them back by the inverse, argsort",
        ),
        (linear(axes=(2, 1, 0)), "rows and columns of the patch are exchanged: the key counts (channel, row, column)"),
        (linear(inverse=True), "there and back are exchanged; argsort gives the other direction"),
    ),
)
def encrypt_linear(weight: Tensor, key: Key) -> Tensor:
    return linear()(weight, key)
