"""The exercises of the page On CIFAR-10, all ten thousand: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

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


def unpaired(a: Tensor, b: Tensor) -> float:
    p, q, n = a.double().mean().item(), b.double().mean().item(), len(a)
    return (p - q) / ((p * (1 - p) + q * (1 - q)) / n) ** 0.5


@checker(
    lambda g: [
        EXAMPLE,
        EXAMPLE[::-1],
        *[two_networks(g, 200 + draw(g, 99)) for _ in range(4)],
    ],
    "only the images on which one network is right and the other wrong tell the two apart.",
    (
        (
            unpaired,
            "this compares two shares as if each network had images of its own; here they share them",
        ),
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
    ),
    tolerance=1e-5,  # a float32 may have become a number
)
def paired(a: Tensor, b: Tensor) -> float:
    return from_counts(lambda only_a, only_b, n: (only_a - only_b) / (only_a + only_b) ** 0.5)(a, b)
