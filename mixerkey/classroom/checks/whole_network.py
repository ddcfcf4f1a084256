"""The exercises of the page On CIFAR-10, all ten thousand: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Generator, Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import draw

EXAMPLE = torch.tensor([1, 1, 1, 1, 0, 1, 0]).bool(), torch.tensor([1, 0, 1, 0, 1, 0, 0]).bool()


def two_networks(g: Generator, n: int) -> tuple[Tensor, Tensor]:
    """Which of n images two networks get right; they share most of their mistakes."""
    a = torch.rand(n, generator=g) < 0.8
    return a, torch.where(torch.rand(n, generator=g) < 0.2, torch.rand(n, generator=g) < 0.6, a)


def from_counts(how: Callable[[int, int, int], float]) -> Callable[[Tensor, Tensor], float]:
    """A function of: only a is right, only b is right, images."""
    return lambda a, b: how(int((a & ~b).sum()), int((b & ~a).sum()), len(a))


mcnemar = from_counts(lambda m, n, images: (m - n) / (m + n) ** 0.5)


def unpaired(a: Tensor, b: Tensor, correction: int = 0) -> float:
    p, q, n = a.double().mean().item(), b.double().mean().item(), len(a)
    return (p - q) / ((p * (1 - p) + q * (1 - q)) / (n - correction)) ** 0.5


def corrected(a: Tensor, b: Tensor) -> float:
    return unpaired(a, b, correction=1)


def pooled(a: Tensor, b: Tensor) -> float:
    p, q, n = a.double().mean().item(), b.double().mean().item(), len(a)
    return (p - q) / ((p + q) * (1 - (p + q) / 2) / n) ** 0.5


def p_value(score: Callable[[Tensor, Tensor], float], sides: int = 2) -> Callable[[Tensor, Tensor], float]:
    """By the normal distribution."""
    return lambda a, b: sides * NormalDist().cdf(-abs(score(a, b)))


APART = "this compares two shares as if each network had images of its own; here they share them"


@checker(
    lambda g: [
        EXAMPLE,
        EXAMPLE[::-1],
        *[two_networks(g, 200 + draw(g, 99)) for _ in range(4)],
    ],
    "only the images on which one network is right and the other wrong tell the two apart.",
    (
        *[(score, APART) for score in (unpaired, corrected, pooled)],
        *[
            (p_value(score, sides), f"this is a p-value, of another test: {APART}")
            for score in (unpaired, corrected, pooled)
            for sides in (2, 1)
        ],
        *[
            (
                p_value(mcnemar, sides),
                "this is the p-value; give χ itself, which has a sign",
            )
            for sides in (2, 1)
        ],
        *[
            (
                lambda a, b, sides=sides: 1 - p_value(mcnemar, sides)(a, b),
                "this is 1 - p, by how much the test is sure; give χ itself, which has a sign",
            )
            for sides in (2, 1)
        ],
        *[
            (
                lambda a, b, turn=turn: NormalDist().cdf(turn * mcnemar(a, b)),
                "this is the share of the normal distribution on one side of χ; give χ itself",
            )
            for turn in (1, -1)
        ],
        (
            lambda a, b: (
                (a.double() - b.double()).mean().item() / (a.double() - b.double()).std().item() * len(a) ** 0.5
            ),
            "this is Student's t of the differences; here the spread is not measured, it is that of m + n coins",
        ),
        (from_counts(lambda b, c, n: b - c), "this is m - n; divide by its standard deviation, the root of m + n"),
        (from_counts(lambda b, c, n: (c - b) / (b + c) ** 0.5), "the sign is reversed: positive where a is better"),
        (
            from_counts(lambda b, c, n: abs(b - c) / (b + c) ** 0.5),
            "the sign is lost: positive where a is better, negative where b is",
        ),
        (
            from_counts(lambda b, c, n: (b - c) ** 2 / (b + c)),
            "this is the square, McNemar's χ²; take its root, with the sign of the difference",
        ),
        (from_counts(lambda b, c, n: (b - c) / (b + c)), "divide by the root of the number of such images"),
        (from_counts(lambda b, c, n: (b - c) / n**0.5), "images on which both are right, or both wrong, do not count"),
        (
            from_counts(lambda b, c, n: (b - c) / n),
            "this is the difference of the accuracies; divide by its standard error",
        ),
        (
            from_counts(lambda b, c, n: (abs(b - c) - 1) / (b + c) ** 0.5),
            "this has a continuity correction, and no sign; leave both out",
        ),
        (
            from_counts(lambda b, c, n: (abs(b - c) - 1) ** 2 / (b + c)),
            "this is McNemar's χ² with a continuity correction; leave that out, and take the root, with its sign",
        ),
    ),
    tolerance=1e-5,  # a float32 may have become a number
)
def paired(a: Tensor, b: Tensor) -> float:
    return mcnemar(a, b)
