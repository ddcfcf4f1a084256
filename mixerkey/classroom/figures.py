"""Plots that the chapters share. They need the extra ``book`` (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

# The book's palette, the same as in _static/book.css. After Okabe and Ito, told apart in any colour vision; each has
# contrast 4.5:1 on the paper, so that it serves lines and letters alike.
LIGHT = {
    "blue": "#006eab",
    "vermilion": "#bf4f00",
    "green": "#00795a",
    "purple": "#a3527f",
    "ink": "#22303c",
    "paper": "#fbfaf7",
}
DARK = {
    "blue": "#6cb9ea",
    "vermilion": "#f58a4b",
    "green": "#46c79c",
    "purple": "#d990bd",
    "ink": "#e8ecef",
    "paper": "#14191e",
}
# `make dark` executes the chapters once more with this variable set, for their figures on dark pages.
_DARK = bool(os.environ.get("MIXERKEY_DARK"))
BLUE, VERMILION, GREEN, PURPLE, INK, PAPER = (DARK if _DARK else LIGHT).values()
# Diverging: -1 red, 0 as the paper, +1 blue.
SIGNS = LinearSegmentedColormap.from_list(
    "signs",
    ["#ff9f80", "#c2452d", PAPER, "#2573b3", "#9ad4ff"]
    if _DARK
    else ["#7a0c1e", "#d6604d", PAPER, "#4393c3", "#08306b"],
    N=257,  # odd, so that zero has a colour of its own
)


def set_style() -> None:
    """Set matplotlib's defaults for the book: one palette, light ink on dark paper where ``MIXERKEY_DARK`` is set.

    >>> set_style()
    >>> plt.rcParams["axes.spines.top"]
    False
    """
    plt.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "patch.edgecolor": INK,
            "boxplot.boxprops.color": INK,
            "boxplot.whiskerprops.color": INK,
            "boxplot.capprops.color": INK,
            "boxplot.flierprops.color": INK,
            "boxplot.flierprops.markeredgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.prop_cycle": plt.cycler(color=[BLUE, VERMILION, GREEN, PURPLE]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "font.size": 10,
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
        }
    )


def show_images(images: Mapping[str, Tensor], *, columns: int = 4, size: float = 2.0) -> Figure:
    """Draw images side by side, each under its title, pixels kept sharp.

    Args:
        images: title -> image (C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
        columns: images a row.
        size: width and height of one image, in inches.

    >>> figure = show_images({"grey": torch.rand(1, 8, 8), "colour": torch.rand(3, 8, 8)})
    >>> [axes.get_title() for axes in figure.axes]
    ['grey', 'colour']
    >>> plt.close(figure)
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.3) * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (title, image) in zip(grid.flat, images.items(), strict=False):
        top = 255 if image.dtype == torch.uint8 else 1
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(title)
    return figure


def show_matrix(matrix: Tensor, title: str = "", *, axes: Axes | None = None, numbers: bool = False) -> Axes:
    """Draw a matrix as coloured cells, red for negative, blank for zero, blue for positive.

    Args:
        matrix: (rows, columns), real.
        title: above it.
        axes: where to draw; by default in a new figure.
        numbers: write each entry into its cell, for small matrices.

    >>> axes = show_matrix(torch.eye(2), "identity", numbers=True)
    >>> [text.get_text() for text in axes.texts]
    ['1', '0', '0', '1']
    >>> plt.close()
    """
    axes = axes if axes is not None else plt.subplots(figsize=(3, 3))[1]
    limit = matrix.abs().max().item() or 1.0
    axes.imshow(matrix.detach().numpy(), cmap=SIGNS, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    axes.set_title(title)
    axes.spines[:].set_visible(True)
    axes.set_xticks([])
    axes.set_yticks([])
    if numbers:
        for row, column in torch.cartesian_prod(*map(torch.arange, matrix.shape)).tolist():
            value = matrix[row, column].item()
            ink = PAPER if abs(value) > 0.6 * limit else INK
            axes.text(column, row, f"{value:g}", ha="center", va="center", color=ink)
    return axes


def show_filters(E: Tensor, patch_size: int, channels: int, *, count: int = 32, columns: int = 16) -> Figure:
    """Draw columns of E as the pictures that they answer to: each has p_b entries, so it is a block of pixels.

    Args:
        E: (p_b, d).
        patch_size: P.
        channels: C, 1 or 3.
        count: how many of the d columns, the ones of largest norm first.
        columns: pictures a row.

    >>> figure = show_filters(torch.randn(48, 256), 4, 3, count=8, columns=8)
    >>> len(figure.axes)
    8
    >>> plt.close(figure)
    """
    strongest = E.norm(dim=0).argsort(descending=True)[:count]
    pictures = E[:, strongest].T.reshape(-1, channels, patch_size, patch_size)
    pictures = 0.5 + 0.5 * pictures / pictures.flatten(1).abs().amax(1)[:, None, None, None]
    rows = -(-len(pictures) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(0.55 * columns, 0.6 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, pictures, strict=False):
        axes.imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure
