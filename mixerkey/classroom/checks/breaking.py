"""The exercises of chapter 7, Breaking it: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from mixerkey.cipher import encrypt_images
from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import NO_SIGN, SIGNS, SOLVED, normal, random_key, sign
from mixerkey.keys import Key


def correlated(g: Generator, n: int, size: int, turned: int) -> tuple[Tensor]:
    """Normalised blocks whose pixels go together, though not each with each, with so many signs turned."""
    averages, together = (torch.linspace(*ends, size, dtype=torch.float64) for ends in ((-0.2, 0.2), (0.5, 0.8)))
    together[:2] = 0.15  # of these two, one has another sign in each row of the second moments than in the eigenvector
    apart = 0.45 * (-1.0) ** torch.arange(size)
    order = torch.randperm(size, generator=g)
    factors = torch.linalg.qr(normal(g, n, 2)).Q * n**0.5  # (n, 2), uncorrelated
    x = factors @ torch.stack([together, apart])[:, order] + 0.2 * normal(g, n, size)
    x = x + averages[torch.randperm(size, generator=g)]
    x[0] = normal(g, size)  # or the first block alone might show the answer
    return (torch.where(torch.randperm(size, generator=g) < turned, -x, x),)


def leading(column: bool = True, which: int = -1) -> Callable[[Tensor], Tensor]:
    def flips(x: Tensor) -> Tensor:
        vectors = torch.linalg.eigh(x.T @ x).eigenvectors
        return (vectors[:, which] if column else vectors[which]) < 0

    return flips


def halved(middle: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """About half of the places by force: those below the middle of the leading eigenvector's entries."""

    def flips(x: Tensor) -> Tensor:
        entries = torch.linalg.eigh(x.T @ x).eigenvectors[:, -1]
        return entries < middle(entries)

    return flips


@checker(
    # Not half of them in the last, since that a key has half is a check, and no way to find them.
    lambda g: [correlated(g, 300, 12, 6), correlated(g, 500, 48, 24), correlated(g, 999, 27, 9)],
    "the leading eigenvector tells which places were turned over, up to all of them at once.",
    (
        (
            leading(which=0),
            "eigh sorts its eigenvalues upwards: the leading eigenvector is the last column, not the first",
        ),
        (leading(which=-2), "this is the second eigenvector from the end; the leading one is the last"),
        *[
            (
                halved(middle),
                "this makes half of them flips whatever their signs; count them, as a check, but take the signs",
            )
            for middle in (
                lambda entries: entries.sort().values[len(entries) // 2],
                lambda entries: entries.sort().values[len(entries) // 2 - 1],
            )
        ],
        (
            lambda x: torch.linalg.svd(x, full_matrices=False).U[:, 0] < 0,
            "this has an entry for each block: x xᵀ compares blocks, xᵀ x pixels; of the SVD it is Vh, not U",
        ),
        (
            lambda x: torch.linalg.svd(x, full_matrices=False).Vh[:, 0] < 0,
            "the rows of Vh are the vectors; this takes a column",
        ),
        (
            lambda x: (x.T @ x).sum(0) < 0,
            "these are sums of the second moments' rows; the leading eigenvector weighs them by their signs",
        ),
        (leading(column=False), "the eigenvectors are the columns; this takes a row"),
        (
            lambda x: torch.linalg.eigh(x.T @ x).eigenvectors[:, -1],
            "this is the eigenvector itself; its signs are what the flips can be read from",
        ),
        (lambda x: sign(leading()(x)), SIGNS),
        (
            lambda x: (x.T @ x)[0] < 0,
            "this is one row of the second moments; the leading eigenvector weighs all of them",
        ),
        (lambda x: x.mean(0) < 0, "this looks at averages; they need pictures that are bright or dark on the whole"),
        (lambda x: x[0] < 0, "one block is not enough: use the second moments of all"),
    ),
    canonical=lambda flips: flips != flips[0] if ((flips == 0) | (flips == 1)).all() else flips / flips[0],
)
def leading_flips(x: Tensor) -> Tensor:
    return leading()(x)


@dataclass
class Machine:
    """Encrypts what it is given, and counts how often it is asked."""

    key: Key
    queries: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.queries += 1
        return encrypt_images(torch.as_tensor(image), self.key)


def one_query(result: object, arguments: tuple) -> str:
    machine: Machine = arguments[0]
    if machine.queries == 1:
        return ""
    return f"the key is right, after {machine.queries} queries; the exercise allows one, and one holds it all"


def read(encrypts: Callable[[Tensor], Tensor], M: int, C: int) -> tuple[Tensor, Tensor, Tensor]:
    """One query: the places as they are read, the flips, and the places with the flips undone."""
    answer = encrypts(torch.arange(M * M * C, dtype=torch.uint8).reshape(C, M, M)).flatten()
    r = answer > 127
    return answer.long(), r, torch.where(r, 255 - answer, answer).long()


def wrong_reading(how: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., tuple]:
    return lambda encrypts, M, C: how(*read(encrypts, M, C))


@checker(
    lambda g: [(Machine(random_key(g, M, C)), M, C) for M, C in ((4, 3), (2, 3), (3, 2), (5, 1), (4, 3))],
    "one block of different numbers, all below 128, gives the whole key.",
    (
        (
            wrong_reading(lambda raw, r, v: (v.argsort(), r)),
            "place k of the answer says where it came from: this is v_k itself, not its inverse",
        ),
        (
            wrong_reading(lambda raw, r, v: (v.argsort(), r[v.argsort()])),
            "this is the inverse key: it decrypts; place k of the answer says where it came from, v_k itself",
        ),
        (wrong_reading(lambda raw, r, v: (v + 1, r)), "places are counted from 0"),
        (wrong_reading(lambda raw, r, v: (raw, r)), "a flipped answer is 255 minus the place; turn it back"),
        (wrong_reading(lambda raw, r, v: (v, ~r)), "an answer above 127 was flipped: r_k = 1 there, not 0"),
        *[
            (
                wrong_reading(moved),
                "r is indexed by encrypted place, as the answer is; do not move it",
            )
            for moved in (lambda raw, r, v: (v, r[v.argsort()]), lambda raw, r, v: (v, r[v]))
        ],
        (wrong_reading(lambda raw, r, v: (torch.where(r, -raw, raw), r)), NO_SIGN),
        (
            wrong_reading(lambda raw, r, v: (torch.where(raw > len(v) // 2, 255 - raw, raw), raw > len(v) // 2)),
            "plain answers reach p_b - 1, so the border between them and flipped ones is not p_b / 2",
        ),
        (
            lambda encrypts, M, C: (
                torch.arange(M * M * C).reshape(M, M, C).permute(2, 0, 1).flatten()[read(encrypts, M, C)[2]],
                read(encrypts, M, C)[1],
            ),
            "the places of your block are numbered (row, column, channel); a key counts (channel, row, column)",
        ),
        (wrong_reading(lambda raw, r, v: (torch.where(r, 256 - raw, raw), r)), "a flip is 255 - p, not 256 - p"),
        (wrong_reading(lambda raw, r, v: (r, v)), "both are right, in the other order: give v first, then r"),
        (
            wrong_reading(lambda raw, r, v: (v, 1 - 2 * r.long())),
            SIGNS,
        ),
    ),
    rule=one_query,
)
def read_key(encrypts: Callable[[Tensor], Tensor], M: int, C: int) -> tuple[Tensor, Tensor]:
    _, r, v = read(encrypts, M, C)
    return v, r


def pairs(g: Generator, n: int, size: int, black: bool = False) -> tuple[Tensor, Tensor]:
    """Plain blocks, the first perhaps of zeros, and the same under a matrix that mixes pixels, in float64."""
    x, T = normal(g, n, size), normal(g, size, size)
    x[0] *= not black
    return x, x @ T


def first_rows(X: Tensor, Y: Tensor) -> Any:
    """From as many pairs as there are pixels: right if their plain blocks are independent, or else anything."""
    size = X.shape[1]
    return torch.linalg.lstsq(X, Y).solution if torch.linalg.matrix_rank(X[:size]) == size else ...


TOO_FEW = (
    "X has a row for each block, more than p_b, and its first p_b may depend on each other: solve with all of them"
)


@checker(
    lambda g: [pairs(g, 40, 12), pairs(g, 200, 48), pairs(g, 30, 16, black=True)],
    "least squares gives the matrix, whatever it is, as soon as the plain blocks have full rank.",
    (
        (lambda X, Y: torch.linalg.lstsq(X, Y).solution.T, "this is Tᵀ: Y = XT, with blocks as rows"),
        (first_rows, TOO_FEW),
        (lambda X, Y: torch.linalg.lstsq(Y, X).solution, "this is the inverse: it decrypts"),
        (lambda X, Y: X.T @ Y, "Xᵀ Y has the second moments of X in it: divide them out, (XᵀX)⁻¹ XᵀY"),
        (
            lambda X, Y: (lambda u, s, v: u @ v)(*torch.linalg.svd(X.T @ Y, full_matrices=False)),
            "this is the best orthogonal matrix; T need not be orthogonal",
        ),
        (lambda X, Y: X.T @ Y / len(X), "Xᵀ Y has the second moments of X in it: divide them out, (XᵀX)⁻¹ XᵀY"),
        *[
            (lambda X, Y, n=n: Y.T @ X / (len(X) if n else 1), "this is the transpose of XᵀY; T is (XᵀX)⁻¹ XᵀY")
            for n in (False, True)
        ],
        (lambda X, Y: X.T @ Y / (X.T @ X), "/ divides number by number; solve, (XᵀX)⁻¹ XᵀY"),
        (
            lambda X, Y: torch.linalg.lstsq(X, Y).solution.round(),
            "this is rounded; T need not be a matrix of whole numbers",
        ),
    ),
    tolerance=SOLVED,
    axes=TOO_FEW,
)
def recover_matrix(X: Tensor, Y: Tensor) -> Tensor:
    return torch.linalg.lstsq(X, Y).solution
