"""The exercises of the page A gallery of broken variants: right answers, inputs, classic mistakes."""

from __future__ import annotations

import torch
from torch import Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import BLOCKS, SIGNS, normal, random_key, sign


def ranks(u: Tensor) -> Tensor:
    return u.argsort().argsort()


@checker(
    lambda g: [(torch.tensor([0.3, 0.9, 0.1, 0.2]),), *[(torch.rand(n, generator=g) * 0.7,) for n in (48, 27, 12, 75)]],
    "exactly half of them, rounded down, for even and odd p_b.",
    (
        (
            lambda u: u > 0.5,
            "each flip is drawn alone, so the number of flips is a matter of luck; a key has exactly half",
        ),
        (
            lambda u: u > u.mean(),
            "the mean does not halve the numbers, their median does; how many lie above the mean is a matter of luck",
        ),
        (
            lambda u: u >= u.median(),
            "the median itself is included: 25 of 48, since torch takes the lower of the middle two",
        ),
        (lambda u: ranks(u) > len(u) // 2, "ranks begin at 0, so this is one flip short where p_b is even"),
        (lambda u: ranks(u) >= len(u) // 2, "right for even p_b; for odd it flips half rounded up"),
        *[
            (lambda u, half=half: u < half(u), "these are the smallest numbers, and not always half of them")
            for half in (torch.median, torch.mean)
        ],
        (lambda u: 1 - 2 * (ranks(u) >= len(u) - len(u) // 2).int(), SIGNS),
        (lambda u: ranks(u) < len(u) // 2, "these are the smallest numbers; the exercise asks for the largest"),
        *[
            (order, "argsort gives the order, not the ranks; a second argsort gives these")
            for order in (
                lambda u: u.argsort() >= len(u) - len(u) // 2,
                lambda u: u.argsort(descending=True) < len(u) // 2,
                lambda u: u.argsort() < len(u) // 2,
                lambda u: u.argsort() >= len(u) // 2,
            )
        ],
    ),
)
def balanced_flips(u: Tensor) -> Tensor:
    return ranks(u) >= len(u) - len(u) // 2


def offset(mean: float, deviation: float) -> float:
    return (1 - 2 * mean) / deviation


@checker(
    lambda g: [
        (
            torch.zeros(2).double(),
            torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]]).double(),
            torch.tensor([True, False, True, False]),
            0.3,
            0.5,
        ),
        *[
            (
                normal(g, 7),
                normal(g, M * M * C, 7),
                random_key(g, M, C).flips,
                0.1 + 0.3 * float(torch.rand((), generator=g)),
                0.3,
            )
            for M, C in BLOCKS
        ],
    ],
    "each flipped pixel brings the offset (1 - 2 mean) / deviation to its row, and the bias takes it away.",
    (
        (lambda b, E, r, m, s: b + offset(m, s) * E[r].sum(0), "the offset must be taken away, this adds it"),
        (
            lambda b, E, r, m, s: b - offset(m, s) * E.sum(0),
            "only flipped pixels bring an offset: sum over the rows where r_k = 1",
        ),
        (lambda b, E, r, m, s: b - offset(m, s) * E[~r].sum(0), "these are the rows that are not flipped"),
        (lambda b, E, r, m, s: b - (1 - 2 * m) * E[r].sum(0), "the division by the deviation is missing"),
        (
            lambda b, E, r, m, s: b - (1 - m) / s * E[r].sum(0),
            "f(255 - p) + f(p) is (1 - 2 mean) / deviation: the mean is subtracted twice",
        ),
        (
            lambda b, E, r, m, s: b - offset(m, s) / 2 * E[r].sum(0),
            "f(255 - p) + f(p) is (1 - 2 mean) / deviation; this takes away half of it",
        ),
        (lambda b, E, r, m, s: b - (1 - 2 * m) * s * E[r].sum(0), "divide by the deviation, do not multiply"),
        (lambda b, E, r, m, s: -offset(m, s) * E[r].sum(0), "the old bias is lost"),
        (
            lambda b, E, r, m, s: b,
            "this is the bias as it was; flipped pixels add to the product, and the bias must take that away",
        ),
        (lambda b, E, r, m, s: b + (1 - 2 * m) * E[r].sum(0), "take away, do not add, and divide by the deviation"),
        *[
            (
                lambda b, E, r, m, s, two=two: b + two * m / s * E[r].sum(0),
                "f(255 - p) + f(p) is (1 - 2 mean) / deviation; the 1 is missing",
            )
            for two in (-2, 2)
        ],
        (
            lambda b, E, r, m, s: b - (255 - 2 * m) / s * E[r].sum(0),
            "mean and deviation are those of pixels from 0 to 1, so white is 1, not 255",
        ),
        (
            lambda b, E, r, m, s: b - offset(m, s) * E[r].mean(0),
            "each flipped pixel brings an offset of its own: sum the rows, do not average them",
        ),
        (
            lambda b, E, r, m, s: b - (255 - 255 * 2 * m) / s * E[r].sum(0),
            "mean and deviation are those of pixels from 0 to 1, so white is 1, not 255",
        ),
        (lambda b, E, r, m, s: b - E[r].sum(0) / s, "black becomes (0 - mean) / deviation: mind the sign"),
        (
            lambda b, E, r, m, s: b - (1 - 2 * m / s) * E[r].sum(0),
            "put brackets around 1 - 2 mean; all of it is divided",
        ),
        (
            lambda b, E, r, m, s: b - offset(m, s),
            "the offset is that of a pixel; the rows of E_enc carry it to the channels",
        ),
        (lambda b, E, r, m, s: b - offset(m, s) * E[r], "sum the rows of the flipped pixels, .sum(0)"),
        (
            lambda b, E, r, m, s: b - offset(m, s) * E[r.nonzero()[-1, 0]],
            "each round starts from the old bias, so the last flipped pixel alone counts; add up",
        ),
        *[
            (
                lambda b, E, r, m, s, turn=turn: b - turn * offset(m, s) * (sign(r) @ E),
                "these are the signs s; pixels that are not flipped bring nothing, so take r, 0 or 1",
            )
            for turn in (1, -1)
        ],
        (lambda b, E, r, m, s: b - offset(m, s) * E[r].sum(), "each channel has a sum of its own: add rows, .sum(0)"),
        (
            lambda b, E, r, m, s: b - offset(m, s) * E[r.long()].sum(0),
            "as whole numbers, r takes rows 0 and 1 again and again; as truth values, the rows that are flipped",
        ),
    ),
)
def mended_bias(bias: Tensor, E_enc: Tensor, r: Tensor, mean: float, deviation: float) -> Tensor:
    return bias - offset(mean, deviation) * E_enc[r].sum(0)
