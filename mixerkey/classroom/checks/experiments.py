"""The exercises of chapter 6, The paper's experiments: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable
from math import log, log10

from mixerkey.classroom.checks.checker import Value, checker
from mixerkey.classroom.checks.inputs import draw
from mixerkey.receipts import confidence_interval

most_different = Value(
    1908,
    "the two sets of 954 wrong images can be disjoint, and elsewhere both are right.",
    (
        (954, "each is wrong on 954 images, but these need not be the same ones"),
        (0, "equal accuracies do not mean equal answers"),
        *[(share, "this is a share of the images; give their number") for share in (0.1908, 19.08)],
        (9046, "where both are right they agree; look at the images on which one is wrong"),
        (477, "each errs on all of its 954 images, and the other can be right on every one of these"),
        (908, "a thousand is lost on the way: both err on 954 images, and these can be different ones"),
        (1726, "mistakes that do not depend on each other would give this on average; the most is asked for"),
        (1817, "here one or both are wrong if mistakes do not depend on each other; the most is asked for"),
        (91, "on so many images both are wrong on average if mistakes do not depend on each other; look for the most"),
        (1907, "19.08 * 100 is 1907.99… in floating point, and int() cuts it; count whole images, 10,000 - 9,046"),
        (8092, "on so many images both are right at least; on the others one can be wrong"),
        (10000, "where both are right they agree; look at the images on which one is wrong"),
    ),
)


def wald(z: float = 1.959964, power: float = 0.5) -> Callable[[int, int], tuple[float, float]]:
    """The naive interval: share ± z · its standard error."""

    def bounds(right: int, total: int) -> tuple[float, float]:
        share = right / total
        half = z * (share * (1 - share) / total) ** power
        return share - half, share + half

    return bounds


def wilson(
    z: float = 1.959964, middle: float = 0.5, inner: float = 0.25, power: float = 0.5, divided: int = 2
) -> Callable[[int, int], tuple[float, float]]:
    """Wilson's interval of another level, or solved wrongly: without a summand, the root, or a division by 1 + e."""

    def bounds(right: int, total: int) -> tuple[float, float]:
        share, e = right / total, z * z / total
        centre = (share + e * middle) / (1 + e) ** (divided > 0)
        half = (share * (1 - share) * e + e**2 * inner) ** power / (1 + e) ** (divided > 1)
        return centre - half, centre + half

    return bounds


def clipped(right: int, total: int) -> tuple[float, float]:
    """The naive interval, cut at 0 and 1."""
    low, high = wald()(right, total)
    return max(low, 0.0), min(high, 1.0)


def agresti_coull(right: int, total: int) -> tuple[float, float]:
    """The naive interval about Wilson's middle."""
    square = 1.959964**2
    n, share = total + square, (right + square / 2) / (total + square)
    half = (square * share * (1 - share) / n) ** 0.5
    return share - half, share + half


def middle_and_half(right: int, total: int) -> tuple[float, float]:
    low, high = confidence_interval(right, total)
    return (low + high) / 2, (high - low) / 2


def about_share(right: int, total: int) -> tuple[float, float]:
    """Wilson's width about the measured share."""
    low, high = confidence_interval(right, total)
    return right / total - (high - low) / 2, right / total + (high - low) / 2


@checker(
    lambda g: [(357, 360), (0, 20), *[(1 + draw(g, 30), 40 + draw(g, 30)) for _ in range(3)]],
    "Wilson's interval, inside [0, 1] also where nothing or everything is right.",
    (
        (
            wald(),
            "this puts the measured share under the root (Wald); Wilson has the unknown p there",
        ),
        (clipped, "this is Wald's interval, cut at 0 and 1; Wilson has the unknown p under the root"),
        (about_share, "the middle is not the measured share, but (share + e / 2) / (1 + e), e = q² / n"),
        (wilson(middle=0), "e / 2 is missing in the middle: 2 share + e stands before p, e = q² / n"),
        (wilson(inner=0), "e² / 4 is missing under the root, e = q² / n"),
        (wilson(middle=1), "e in the middle must be halved: 2 share + e is twice the middle, e = q² / n"),
        (wilson(inner=1), "e² under the root must be divided by 4, as half of e is squared, e = q² / n"),
        (wilson(middle=-0.5), "the middle is (share + e / 2) / (1 + e), this takes e / 2 away, e = q² / n"),
        (
            lambda right, total: tuple(2 * p for p in confidence_interval(right, total)),
            "this is twice as much: a quadratic's roots are divided by 2 (1 + e), e = q² / n",
        ),
        (
            lambda right, total: tuple(-p for p in confidence_interval(right, total)[::-1]),
            "the signs are wrong: what stands before p is -(2 share + e), and the roots begin with plus that",
        ),
        (wald(2.0), "this is Wald's interval with q = 2; Wilson has the unknown p under the root, and q = 1.959964"),
        (wilson(2.0), "q = 2 is rounded; 95 % needs q = 1.959964"),
        (wilson(power=1.0), "the root is missing"),
        (wilson(divided=1), "the half width must be divided by 1 + e, too, e = q² / n"),
        (wilson(divided=0), "divide by 1 + e, what stands before p², e = q² / n"),
        (wilson(1.959964**0.5), "q enters as its square: e = q² / n"),
        (wald(power=1.0), "the variance is not the standard error; take the root"),
        (wilson(1.0), "this is one standard error; 95 % needs q = 1.96"),
        *[
            (wilson(q), "q = 1.645 leaves 5 % on each side; of 95 % in the middle, 2.5 % are left on each")
            for q in (1.644854, 1.645, 1.64)
        ],
        *[(wilson(q), "q = 2.576 is for 99 %") for q in (2.575829, 2.576, 2.58)],
        (
            agresti_coull,
            "this is Wald's interval for q² / 2 more of each (Agresti and Coull); Wilson's solves for p itself",
        ),
        (middle_and_half, "these are the middle and the half width; give the two bounds"),
        (lambda right, total: tuple(100 * p for p in confidence_interval(right, total)), "give shares, not percent"),
        (lambda right, total: tuple(total * p for p in confidence_interval(right, total)), "give shares, not counts"),
        (lambda right, total: confidence_interval(right, total)[::-1], "the lower bound comes first"),
    ),
    tolerance=1e-5,
)
def interval(right: int, total: int) -> tuple[float, float]:
    return confidence_interval(right, total)


@checker(
    lambda g: [(100,), *[(5 + draw(g, 300),) for _ in range(4)]],
    "with a larger share of good keys, n failures in a row would have had a chance below 5 %.",
    (
        (lambda n: 3 / n, "3 / n is the rule of thumb, near the bound; the bound itself solves (1 - p)^n = 0.05"),
        (lambda n: -log(0.05) / n, "this is near the bound, as 3 / n is; the bound itself solves (1 - p)^n = 0.05"),
        (lambda n: 100 * (1 - 0.05 ** (1 / n)), "give the share, not percent"),
        (lambda n: n * (1 - 0.05 ** (1 / n)), "give the share, not n times it"),
        (lambda n: -log10(0.05) / n, "this has the logarithm to base 10; the bound itself solves (1 - p)^n = 0.05"),
        (lambda n: 0.05 / n, "this shares 5 % out among n tests; solve (1 - p)^n = 0.05 instead"),
        (lambda n: 1 - 0.05**n, "take the n-th root of 0.05, not its n-th power"),
        (lambda n: 1 - 0.95**n, "this is the chance to meet a key if 5 % are good; the share is what is asked for"),
        (lambda n: 1 / n, "1 / n would be the share if one key had been good; none was"),
        *[
            (
                lambda n, more=more: 1 / (n + more),
                "this is an estimate of the share, not the largest that 5 % allow: solve (1 - p)^n = 0.05",
            )
            for more in (1, 2)
        ],
        (lambda n: log(0.05) / n, "a share is not negative; and the bound itself solves (1 - p)^n = 0.05"),
        (lambda n: 0.95 ** (1 / n), "solve (1 - p)^n = 0.05 for p: one minus the n-th root of 0.05, not of 0.95"),
        (lambda n: 1 - 0.01 ** (1 / n), "this is for 99 %; 95 % leave 0.05"),
        (lambda n: 0.05, "this is the 5 % themselves; the share depends on n"),
        (lambda n: 0.0, "that none was seen does not mean that there are none"),
        (lambda n: 1 - 0.95 ** (1 / n), "n failures should have a chance of 5 %, here they have one of 95 %"),
        (lambda n: 0.05 ** (1 / n), "this is the share of the keys that fail; the others are asked for"),
        (
            lambda n: 1 - 0.025 ** (1 / n),
            "this is the two-sided bound; with nothing seen, only the upper end is open",
        ),
        (lambda n: confidence_interval(0, n)[1], "this is Wilson's two-sided bound; solve (1 - p)^n = 0.05 instead"),
    ),
    tolerance=1e-7,
)
def largest_share(n: int) -> float:
    return 1 - 0.05 ** (1 / n)
