"""The exercises of the page A fast ConvMixer on a CPU: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import normal


def toeplitz(
    rows: str = "circular", columns: str = "circular", mirrored: bool = False, swapped: bool = False
) -> Callable[[Tensor, int, int], Tensor]:
    """The matrix of a kernel on an h × w map; right as it is, wrong in one way with an argument.

    Args:
        rows, columns: what lies above and below the map, and left and right of it, in the words of `F.pad`.
    """

    def matrix(kernel: Tensor, h: int, w: int) -> Tensor:
        k = len(kernel)
        beside = k // 2
        units = torch.eye(h * w, dtype=kernel.dtype).reshape(-1, 1, h, w)
        padded = F.pad(F.pad(units, (0, 0, beside, beside), rows), (beside, beside, 0, 0), columns)
        kernel = kernel.T if swapped else kernel
        out = F.conv2d(padded, kernel[None, None]).flatten(1)  # (hw, hw)
        return out.T if mirrored else out

    return matrix


def cornered(turn: int) -> Callable[[Tensor, int, int], Tensor]:
    """With a corner of the kernel at the position itself, in place of its middle."""

    def matrix(kernel: Tensor, h: int, w: int) -> Tensor:
        away = turn * (len(kernel) // 2)
        return toeplitz()(kernel, h, w).reshape(-1, h, w).roll((away, away), (1, 2)).flatten(1)

    return matrix


def run_on(mirrored: bool) -> Callable[[Tensor, int, int], Tensor]:
    """A ring of all positions: what leaves a row comes in on the next one."""

    def matrix(kernel: Tensor, h: int, w: int) -> Tensor:
        k, units = len(kernel), torch.eye(h * w, dtype=kernel.dtype)
        turned = [units.roll((a - k // 2) * w + b - k // 2, 0) for a in range(k) for b in range(k)]
        A = torch.einsum("k,kij->ij", kernel.flatten(), torch.stack(turned))
        return A.T if mirrored else A

    return matrix


def one_sided(mirrored: bool) -> Callable[[Tensor, int, int], Tensor]:
    """The chapter's loop with differences modulo h and w: what lies above and left is at no small difference now."""

    def matrix(kernel: Tensor, h: int, w: int) -> Tensor:
        below = torch.arange(len(kernel)) >= len(kernel) // 2
        return toeplitz(mirrored=mirrored)(kernel * below * below[:, None], h, w)

    return matrix


EDGES = {
    "constant": "this pads with zeros",
    "reflect": "this reflects the map at its edges",
    "replicate": "this repeats the outermost positions",
}


@checker(
    lambda g: [(torch.arange(1.0, 10).double().reshape(3, 3), 4, 5), (normal(g, 5, 5), 8, 8), (normal(g, 3, 3), 6, 3)],
    "row i says where the unit vector of position i goes, around the edges too.",
    (
        *[
            (
                toeplitz(mode, mode, mirrored),
                f"{what}; on a ring, what leaves on one side comes in on the other"
                + ", and it is the transpose" * mirrored,
            )
            for mode, what in EDGES.items()
            for mirrored in (False, True)
        ],
        *[
            (toeplitz(*modes, mirrored), f"the map is closed from {closed} only; close it in both directions")
            for edge in EDGES
            for modes, closed in (((edge, "circular"), "left to right"), (("circular", edge), "top to bottom"))
            for mirrored in (False, True)
        ],
        (
            toeplitz(mirrored=True),
            "this is the transpose (row i must belong to input i, as the output is z times A), or the kernel is turned "
            "over, as in a convolution of mathematics: torch's conv2d lays it on as it is",
        ),
        *[
            (
                lambda kernel, h, w, axis=axis: toeplitz()(kernel.flip(axis), h, w),
                "the kernel is mirrored in one direction",
            )
            for axis in (0, 1)
        ],
        *[
            (
                one_sided(mirrored),
                "after % h and % w no difference is below 0, so abs(dy) <= k // 2 loses what lies above and left: add "
                "k // 2 before the modulo, and ask for less than k",
            )
            for mirrored in (False, True)
        ],
        *[
            (cornered(turn), "the middle of the kernel belongs to the position itself, not a corner: mind k // 2")
            for turn in (1, -1)
        ],
        *[
            (run_on(mirrored), "what leaves a row must come in on the same row: take rows modulo h, columns modulo w")
            for mirrored in (False, True)
        ],
        (
            lambda kernel, h, w: toeplitz()(kernel.T, w, h),
            "this flattens the map column by column; its positions are numbered row by row",
        ),
        (toeplitz(swapped=True), "rows and columns of the kernel are exchanged"),
    ),
)
def circular_matrix(kernel: Tensor, h: int, w: int) -> Tensor:
    return toeplitz()(kernel, h, w)
