"""The exercises of chapter 8, Beyond the paper: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import factorial

import torch
from torch import Generator, Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import draw, normal


def mixing(g: Generator) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """W1, W2, c2 and an order that is not its own inverse, for several numbers of places."""
    cases = []
    for places in (3, 5, 16):
        order = torch.randperm(places, generator=g)
        while torch.equal(order, order.argsort()):
            order = torch.randperm(places, generator=g)
        cases.append((normal(g, 7, places), normal(g, places, 7), normal(g, places), order))
    return cases


ORDERS = {
    "right": lambda order: order,
    "in the inverse order": torch.argsort,
    "as it was": lambda order: torch.arange(len(order)),
}


def mixed_up() -> Iterator[tuple[Callable[..., tuple], str]]:
    """Each way to have some of W1, W2 and c2 in the new order, some in the inverse, and some as they were."""
    for states in product(ORDERS, repeat=3):
        if set(states) != {"right"}:
            a, b, c = (ORDERS[state] for state in states)
            said = ", ".join(f"{name} is {state}" for name, state in zip(("W1", "W2", "c2"), states, strict=True))
            yield (
                lambda W1, W2, c2, order, a=a, b=b, c=c: (W1[:, a(order)], W2[b(order)], c2[c(order)]),
                f"{said}; place n now holds the patch of place order[n]",
            )


@checker(
    mixing,
    "columns of W1, rows of W2 and entries of c2 follow the patches: PZ goes to P times what Z went to.",
    (
        *mixed_up(),
        (lambda W1, W2, c2, order: (W2[order], W1[:, order], c2[order]), "all three are right, but W1 comes first"),
    ),
    axes="order holds places: columns of W1, rows of W2 and entries of c2",
)
def reorder_mixing(W1: Tensor, W2: Tensor, c2: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return W1[:, order], W2[order], c2[order]


def grids(g: Generator) -> list[tuple[int, int]]:
    """Rows and columns: squares, the smallest too, a wide and a high rectangle, a column, a row, a single place."""
    a, b, c, d, e = (2 + draw(g, 99) for _ in range(5))
    return [(8, 8), (2, 2), (1, 2), (a, a), (b, b + c), (b + c, b), (d, 1), (1, e), (1, 1)]


def symmetries(h: int, w: int) -> int:
    if min(h, w) == 1:
        return 1 if h == w else 2
    return 8 if h == w else 4


@checker(
    grids,
    "eight for a square, four for a rectangle, two for a row, one for a single place.",
    (
        (lambda h, w: 8, "a rectangle is not a square: quarter turns change its shape"),
        (lambda h, w: 8 if h == w else 4, "a grid of one row has fewer: some of these orders are the same"),
        (
            lambda h, w: factorial(h * w),
            "these are all orders; convolutions absorb those that keep neighbours together",
        ),
        (
            lambda h, w: 24 if h == w == 2 else symmetries(h, w),
            "places across the diagonal are not beside each other: 8 of the 24 orders of 2 × 2 keep who is beside whom",
        ),
        (
            lambda h, w: 8 if min(h, w) > 1 else symmetries(h, w),
            "a quarter turn of a rectangle has another shape, so it is no order of the same grid",
        ),
        (
            lambda h, w: factorial(h) * factorial(w),
            "a convolution sees who is beside whom; rows can't be put in any order",
        ),
        *[
            (lambda h, w, square=square: square if h == w else 2, "a rectangle has two mirror images and a half turn")
            for square in (2, 8)
        ],
        (lambda h, w: 1, "a grid can be turned and mirrored, and keeps who is beside whom"),
        (lambda h, w: 4, "a square also has quarter turns"),
        *[
            (
                lambda h, w, one=one, row=row: one if h == w == 1 else row if min(h, w) == 1 else 4 if h == w else 2,
                "these are the turns, or the mirror images; a grid has both",
            )
            for one in (1, 2, 4)
            for row in (1, 2)
        ],
        (lambda h, w: symmetries(h, w) - 1, "to leave every place where it is counts, too"),
        (lambda h, w: h * w * symmetries(h, w), "a shift moves places over the border, where a kernel meets zeros"),
        (lambda h, w: h * w, "a shift moves places over the border, where a kernel meets zeros"),
        (
            lambda h, w: symmetries(h, w) if min(h, w) > 1 or h == w else 2 * symmetries(h, w),
            "of a single row, or column, turns and mirror images are the same two orders",
        ),
        (lambda h, w: 2 if min(h, w) == 1 else 8 if h == w else 4, "a single place has one order"),
    ),
)
def absorbed_orders(h: int, w: int) -> int:
    return symmetries(h, w)
