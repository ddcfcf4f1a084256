"""The exercises of chapter 5, Three parties: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import BLOCKS, SOLVED, normal, random_key, sign
from mixerkey.keys import Key, SignedPermutation


def pair(key: SignedPermutation) -> tuple[Tensor, Tensor]:
    return key.permutation, key.flips


def as_keys(v_old: Tensor, r_old: Tensor, v_new: Tensor, r_new: Tensor) -> tuple[SignedPermutation, SignedPermutation]:
    """Two signed permutations; M = 1 and C = p_b stand for any shape of that size."""
    return SignedPermutation(v_old, r_old, 1, len(v_old)), SignedPermutation(v_new, r_new, 1, len(v_new))


def composed(
    how: Callable[[SignedPermutation, SignedPermutation], SignedPermutation], order: int = 1, signs: bool = False
) -> Callable[..., tuple]:
    def parts(*key_pair: Tensor) -> tuple[Tensor, ...]:
        v, r = pair(how(*as_keys(*key_pair)))
        return (v, sign(r) if signs else r)[::order]

    return parts


NOT_UNDONE = "the old key must be undone: its inverse comes first, v_old.argsort()"


def places(how: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple]:
    """A mistake in the permutation, with any flips."""
    return lambda v_old, r_old, v_new, r_new: (how(v_old, v_new), ...)


@checker(
    lambda g: [
        (*pair(Key.from_seed(1, 2, 1)), *pair(Key.from_seed(3, 2, 1))),
        *[(*pair(random_key(g, M, C)), *pair(random_key(g, M, C))) for M, C in BLOCKS],
    ],
    "first back with the old key, then on with the new one, flips included.",
    (
        (places(lambda old, new: new.argsort()[old]), "this leads from the new key to the old one"),
        (
            places(lambda old, new: new[old.argsort()]),
            "the order is exchanged: first undo the old key, then apply the new, v_old.argsort()[v_new]",
        ),
        (places(lambda old, new: old[new.argsort()]), "this undoes the new key; it is the old one that must be undone"),
        (
            lambda v_old, r_old, v_new, r_new: (v_new, r_new),
            "this is the new key itself, for plain images; these here have the old key on them",
        ),
        (places(lambda old, new: new - old), "permutations are not subtracted; undo the old one by v_old.argsort()"),
        (places(lambda old, new: old[new]), NOT_UNDONE),
        (places(lambda old, new: new[old]), NOT_UNDONE),
        (
            lambda v_old, r_old, v_new, r_new: (v_old.argsort()[v_new], r_old[v_new] ^ r_new),
            "the permutation is right; r_old moves as the old places do, by v_old.argsort()[v_new], not v_new",
        ),
        (
            composed(lambda a, b: a.inverse().then(b), order=-1),
            "both are right, in the other order: give v first, then r",
        ),
        (
            lambda v_old, r_old, v_new, r_new: (v_old.argsort()[v_new], r_old ^ r_new),
            "the permutation is right; the old flips must move with their pixels before they meet the new ones",
        ),
        (
            lambda v_old, r_old, v_new, r_new: (v_old.argsort()[v_new], r_new),
            "the permutation is right, but the old flips are not undone",
        ),
        (
            composed(lambda a, b: a.inverse().then(b), signs=True),
            "the permutation is right; these are signs, r is 1 where a pixel is flipped, and 0 elsewhere",
        ),
        (
            places(lambda old, new: old.argsort()[new]),
            "the permutation is right; the flips are r_old, moved as the old places are, XOR r_new",
        ),
    ),
)
def relative_key(v_old: Tensor, r_old: Tensor, v_new: Tensor, r_new: Tensor) -> tuple[Tensor, Tensor]:
    old, new = as_keys(v_old, r_old, v_new, r_new)
    return pair(old.inverse().then(new))


def two_models(g: Generator, size: int, d: int) -> tuple[Tensor, Tensor]:
    """E, encrypted by two invertible matrices."""
    E = normal(g, size, d)
    E[:, 0] = 0  # a filter that has died
    T_a, T_b = (torch.eye(size).double() + normal(g, size, size) / (3 * size**0.5) for _ in range(2))
    return torch.linalg.solve(T_a, E), torch.linalg.solve(T_b, E)


@checker(
    lambda g: [
        (torch.tensor([[1.0, 0, 2], [0, 1, 1]]).double(), torch.tensor([[0.0, 1, 1], [-1, 0, -2]]).double()),
        *[two_models(g, size, d) for size, d in ((4, 64), (12, 30), (48, 96))],
    ],
    "one model, times the pseudo-inverse of the other: E and its pseudo-inverse meet between the two keys and vanish.",
    (
        (lambda E_a, E_b: E_b @ torch.linalg.pinv(E_a), "this leads from the new key to the old one"),
        (
            lambda E_a, E_b: (E_a @ torch.linalg.pinv(E_b)).T,
            "this is the transpose; an image is a row, so R stands right of it",
        ),
        (lambda E_a, E_b: E_a @ E_b.T, "the transpose of E_b is no inverse; take the pseudo-inverse"),
        (
            lambda E_a, E_b: torch.linalg.pinv(E_a) @ E_b,
            "the factors are exchanged: this is (d, d), and R acts on the p_b pixels",
        ),
    ),
    tolerance=SOLVED,
    axes="E_a and E_b have a column for each filter, and the first p_b may depend on each other: take all of them",
)
def relative_matrix(E_a: Tensor, E_b: Tensor) -> Tensor:
    return E_a @ torch.linalg.pinv(E_b)
