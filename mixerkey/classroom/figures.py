"""Plots that the chapters share, on light paper and on dark. They need the extra ``book`` (matplotlib)."""

from __future__ import annotations

import io
import re
import sys
import textwrap
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

WIDTH = 4.8  # inches: labels of 10 points are 9.7 pixels high where a phone of 390 pixels shows all of it
FINE = 1.5  # pixels of a stored picture for each of a page: sharp on a phone, whose screen has up to three

_CSS = (Path(__file__).parents[1] / "palette.css").read_text(encoding="utf-8")
_COLOURS = re.findall(r"--mixer-(\w+): light-dark\((#\w+), (#\w+)\)", _CSS)
LIGHT = {name: light for name, light, _ in _COLOURS}
DARK = {name: dark for name, _, dark in _COLOURS}
BLUE, VERMILION, GREEN, PURPLE, INK = (LIGHT[name] for name in ("blue", "vermilion", "green", "purple", "ink"))


def _diverging(palette: Mapping[str, str]) -> LinearSegmentedColormap:
    """From -1, orange, by 0, the paper, to +1, blue."""
    steps = [palette[name] for name in ("vermilion", "paper", "blue")]
    return LinearSegmentedColormap.from_list("signs", steps, N=257)  # odd, so that zero has a colour of its own


SIGNS = _diverging(LIGHT)
_DARK_SIGNS = _diverging(DARK)
_TWINS = np.array([[to_rgb(colour) for colour in palette.values()] for palette in (LIGHT, DARK)])  # (2, colours, 3)


def set_style() -> None:
    """Set matplotlib's defaults for the book, and let a notebook keep each figure on dark paper too.

    The second picture goes into the metadata of the same output, as ``{"image/png": {"dark": base64}}``, beside the
    width and the height in pixels of a page. A figure is `WIDTH` inches wide unless it says otherwise.

    >>> set_style()
    >>> plt.rcParams["axes.spines.top"]
    False
    """
    plt.rcParams.update(
        {
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), LIGHT["paper"]),
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
            "figure.figsize": (WIDTH, 2.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
        }
    )
    shell = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    if shell:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _both)


def _dark(value: Any) -> Any:
    """A colour (3,) or (4,) or an array of such, in which the palette's light colours are replaced by the dark ones."""
    if not isinstance(value, tuple | np.ndarray) or np.ndim(value) not in (1, 2) or np.shape(value)[-1] not in (3, 4):
        return value
    colours = np.array(value, dtype=float)
    same = np.isclose(colours[..., None, :3], _TWINS[0], rtol=0, atol=1e-6).all(-1)  # (..., colours)
    colours[..., :3] = np.where(same.any(-1, keepdims=True), _TWINS[1][same.argmax(-1)], colours[..., :3])
    return tuple(colours) if isinstance(value, tuple) else colours


class _DarkInk(GraphicsContextBase):
    def set_foreground(self, fg: Any, isRGBA: bool = False) -> None:
        super().set_foreground(_dark(to_rgba(fg)), isRGBA)


class _DarkRenderer(RendererAgg):
    """Draws what it is told in the dark colours."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        super().__init__(width, height, dpi)
        for name in ("draw_path", "draw_markers", "draw_path_collection", "draw_quad_mesh"):
            setattr(self, name, self._recoloured(getattr(self, name)))

    @staticmethod
    def _recoloured(draw: Callable) -> Callable:
        return lambda *given, **named: draw(*map(_dark, given), **{name: _dark(value) for name, value in named.items()})

    def new_gc(self) -> GraphicsContextBase:
        return _DarkInk()


class _DarkCanvas(FigureCanvasAgg):
    def get_renderer(self) -> RendererAgg:
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if self._lastKey != size:
            self.renderer, self._lastKey = _DarkRenderer(*size), size  # type: ignore[assignment]
        return self.renderer


def png(figure: Figure, *, dark: bool = False) -> bytes:
    """A figure as a PNG file, as a notebook shows it, with `FINE` pixels for one; the figure itself stays as it is.

    Args:
        figure: drawn in the book's style.
        dark: on dark paper: every colour of the palette becomes its dark twin, and so does the map ``SIGNS``; other
            colours, pictures and maps stay.
    """
    canvas, file = figure.canvas, io.BytesIO()
    mapped = figure.findobj(lambda artist: getattr(artist, "cmap", None) == SIGNS) if dark else []
    try:
        for artist in mapped:
            artist.set_cmap(_DARK_SIGNS)  # type: ignore[attr-defined]
        drawing = _DarkCanvas(figure) if dark else FigureCanvasAgg(figure)
        drawing.print_figure(file, format="png", dpi=FINE * figure.dpi, bbox_inches="tight")
    finally:
        for artist in mapped:
            artist.set_cmap(SIGNS)  # type: ignore[attr-defined]
        figure.set_canvas(canvas)
    smaller = io.BytesIO()
    Image.open(file).convert("RGB").save(smaller, "png", optimize=True)
    return smaller.getvalue()


def _both(figure: Figure) -> tuple[dict, dict]:
    """What a notebook keeps of a figure: data and metadata."""
    formatter = sys.modules["IPython"].get_ipython().display_formatter
    formatter.formatters["image/png"].pop(Figure, None)  # the inline backend's, which would come before this one
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which would lay it out a bit better each time
    light, dark = (png(figure, dark=dark) for dark in (False, True))
    width, height = (round(side / FINE) for side in Image.open(io.BytesIO(light)).size)
    metadata = {"dark": b64encode(dark).decode(), "width": width, "height": height}
    return {"image/png": b64encode(light).decode()}, {"image/png": metadata}


def show_images(images: Mapping[str, Tensor], *, columns: int = 4) -> Figure:
    """Draw images side by side, each under its title, pixels kept sharp.

    Args:
        images: title -> image (C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
        columns: images a row, as many as `WIDTH` inches have room for.

    >>> figure = show_images({"grey": torch.rand(1, 8, 8), "colour": torch.rand(3, 8, 8)})
    >>> [axes.get_title() for axes in figure.axes]
    ['grey', 'colour']
    >>> plt.close(figure)
    """
    width = WIDTH / columns  # inches of an image
    room, titles = int(12 * width), list(images)  # 12 letters of 10 points are an inch long
    if max(map(len, titles)) > room:
        lines = ([textwrap.fill(part, room) for part in re.split(r"(?<=,) ", title)] for title in titles)
        titles = ["\n".join(parts) for parts in lines]
    tall = max(image.shape[1] / image.shape[2] for image in images.values())
    above = 0.1 + 0.17 * max(title.count("\n") + 1 for title in titles)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (width * columns, (width * tall + above) * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, title, image in zip(grid.flat, titles, images.values(), strict=False):
        top = 255 if image.dtype == torch.uint8 else 1
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(title)
    return figure


def show_matrix(matrix: Tensor, title: str = "", *, axes: Axes | None = None, numbers: bool = False) -> Axes:
    """Draw a matrix as coloured cells, orange for negative, blank for zero, blue for positive.

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
            ink = LIGHT["paper"] if abs(value) > 0.7 * limit else INK
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
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 1.08 * WIDTH / columns * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, pictures, strict=False):
        axes.imshow(picture.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure
