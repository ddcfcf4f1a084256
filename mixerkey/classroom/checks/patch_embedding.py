"""The exercises of chapter 2, Patch embedding is a matrix: right answers, inputs, classic mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixerkey.classroom.checks.checker import checker
from mixerkey.classroom.checks.inputs import normal


def permuted(*order: int, lying: bool = False) -> Callable[[Tensor, int, int, int, int], Tensor]:
    """Patches back to an image by this permute; right with (2, 0, 3, 1, 4). `lying` takes the grid to be W/P × H/P."""

    def image(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
        grid = (W // P, H // P) if lying else (H // P, W // P)
        return flat.reshape(*grid, C, P, P).permute(order).reshape(C, H, W)

    return image


def unpatch_channels_last(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
    return flat.reshape(H // P, W // P, P, P, C).permute(4, 0, 2, 1, 3).reshape(C, H, W)


def first_patch(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
    image = flat.new_zeros(C, H, W)
    image[:, :P, :P] = flat[0].reshape(C, P, P)
    return image


GRID = "height and width are exchanged: the grid has H/P rows of W/P patches"
DOWN = "this lays the patches column by column; they are numbered row by row"
SIDE = "this is the picture on its side: its rows have become columns"


@checker(
    lambda g: [
        (torch.arange(288.0).reshape(6, 48), 3, 8, 12, 4),  # no whole numbers: np.zeros is a good place for them
        (normal(g, 12, 12), 3, 6, 8, 2),
        (normal(g, 3, 18), 2, 9, 3, 3),
    ],
    "the inverse of patches, also where height and width differ.",
    (
        (
            permuted(1, 3, 0, 2, 4),
            "these are the numbers of the forward direction; permute by the inverse, (2, 0, 3, 1, 4)",
        ),
        (permuted(2, 0, 1, 3, 4), "the rows of a patch must go between those of its neighbours: (C, H/P, P, W/P, P)"),
        (permuted(2, 0, 4, 1, 3), "rows and columns within a patch are exchanged"),
        (permuted(2, 0, 3, 1, 4, lying=True), GRID),
        (lambda flat, C, H, W, P: permuted(2, 0, 3, 1, 4)(flat, C, W, H, P), GRID),
        (permuted(2, 1, 3, 0, 4), DOWN),
        (permuted(2, 1, 3, 0, 4, lying=True), DOWN),
        (permuted(2, 1, 4, 0, 3), SIDE),
        (lambda flat, C, H, W, P: permuted(2, 0, 3, 1, 4)(flat, C, H, W, P).mT, SIDE),
        (permuted(4, 3, 2, 1, 0), "this reverses all axes; permute by (2, 0, 3, 1, 4)"),
        (
            lambda flat, C, H, W, P: permuted(2, 0, 3, 1, 4)(flat, C, H, W, P).permute(1, 2, 0),
            "the picture is right, with its channels last; they come first",
        ),
        (lambda flat, C, H, W, P: flat.reshape(C, H, W), "reshape alone keeps the order of the numbers; permute first"),
        (first_patch, "only the first patch is in its place: the return stands inside the loop"),
        (
            lambda flat, C, H, W, P: flat.T.reshape(C, H, W),
            "the transpose moves two axes; there are five to put in order: split to (H/P, W/P, C, P, P), then permute",
        ),
        (
            lambda flat, C, H, W, P: flat.reshape(C, H // P, W // P, P, P).permute(0, 1, 3, 2, 4).reshape(C, H, W),
            "flat has a row for each patch, with all its channels: split it into (H/P, W/P, C, P, P), channels third",
        ),
        (unpatch_channels_last, "a flattened patch is in the order (channel, row, column), not (row, column, channel)"),
    ),
)
def unpatch(flat: Tensor, C: int, H: int, W: int, P: int) -> Tensor:
    return permuted(2, 0, 3, 1, 4)(flat, C, H, W, P)


@checker(
    lambda g: [(torch.arange(60.0).reshape(5, 3, 2, 2),), (normal(g, 7, 3, 4, 4),), (normal(g, 4, 2, 3, 3),)],
    "row k of E holds what pixel k gives to each channel, rows in the order (channel, row, column).",
    (
        (lambda weight: weight.flatten(1), "this is the transpose of E: E has a row for each pixel, shape (p_b, d)"),
        (
            lambda weight: weight.permute(0, 2, 3, 1).flatten(1).T,
            "the rows are in the order (row, column, channel); flatten as the weight lies, (channel, row, column)",
        ),
        (
            lambda weight: weight.reshape(-1, len(weight)),
            "reshape to (p_b, d) cuts the numbers anew; reshape to (d, p_b), then transpose",
        ),
        *[
            (
                lambda weight, order=order: weight.permute(order).reshape(-1, len(weight)),
                "the axis of the outputs must be the last before this reshape: permute(1, 2, 3, 0)",
            )
            for order in ((1, 0, 2, 3), (2, 3, 0, 1))
        ],
        (lambda weight: weight.mT.flatten(1).T, "rows and columns of the kernels are exchanged"),
        (
            lambda weight: weight.permute(3, 2, 1, 0).flatten(0, 2),
            "this reverses all axes, so its rows are in the order (column, row, channel)",
        ),
        (
            lambda weight: weight.flip(2, 3).flatten(1).T,
            "the kernels are turned over; torch's convolution does not do that",
        ),
    ),
)
def matrix_from_weight(weight: Tensor) -> Tensor:
    return weight.flatten(1).T
