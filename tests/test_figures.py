"""The arrays behind the figures, since notebook validation does not look at pixels."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import AxesImage
from PIL import Image

from mixerkey.classroom import figures
from tools import art, dark

ROOT = Path(__file__).parent.parent
PALETTES = {"light": figures.LIGHT, "dark": figures.DARK}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def pixels(image: AxesImage) -> np.ndarray:
    return np.asarray(image.get_array())


def test_show_images_draws_the_pixels_in_full_range() -> None:
    colour = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    grey = torch.rand(1, 4, 5)
    figure = figures.show_images({"a": colour, "b": grey, "c": grey}, columns=2)
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert np.array_equal(pixels(drawn[0]), colour.permute(1, 2, 0))
    assert np.array_equal(pixels(drawn[1]), grey[0])
    assert [image.get_clim() for image in drawn] == [(0, 255), (0, 1), (0, 1)]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", ""]


def test_show_matrix_puts_zero_in_the_middle_and_numbers_in_their_cells() -> None:
    axes = figures.show_matrix(torch.tensor([[1.0, -3.0], [0.0, 2.0]]), "T", numbers=True)
    assert axes.images[0].get_clim() == (-3, 3)
    assert np.array_equal(pixels(axes.images[0]), [[1, -3], [0, 2]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1",
        (1, 0): "-3",
        (0, 1): "0",
        (1, 1): "2",
    }


def test_show_filters_draws_the_strongest_columns_as_blocks_with_zero_grey() -> None:
    E = torch.zeros(12, 3)
    E[:, 1] = torch.arange(12) - 6.0  # P = 2, C = 3: (channel, row, column)
    E[5, 2] = 1.0
    figure = figures.show_filters(E, 2, 3, count=2, columns=2)
    strongest, second = (pixels(axes.images[0]) for axes in figure.axes)
    assert np.allclose(strongest, 0.5 + (E[:, 1].reshape(3, 2, 2).permute(1, 2, 0)) / 12)
    assert second[0, 1, 1] == 1.0
    assert np.sum(second == 0.5) == 11


def style_sheet(theme: str) -> dict[str, str]:
    """The palette of a theme in the pages' style sheet, by name."""
    css = (ROOT / "_static" / "book.css").read_text(encoding="utf-8")
    block = re.search(rf'html\[data-theme="{theme}"\][^{{]*{{(.*?)}}', css, re.DOTALL)
    assert block
    return dict(re.findall(r"--mixer-([a-z]+): (#[0-9a-f]{6});", block[1]))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it, 1 to 21."""
    rgb = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", PALETTES)
def test_figures_and_pages_have_one_palette(theme: str) -> None:
    assert style_sheet(theme).items() >= PALETTES[theme].items()


@pytest.mark.parametrize("theme", PALETTES)
def test_every_colour_of_the_palette_is_readable_on_the_paper(theme: str) -> None:
    colours = style_sheet(theme)
    for name in colours.keys() - {"paper", "raised", "line"}:
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "soft"):
        assert contrast(colours[name], colours["raised"]) >= 4.5, name


def test_the_environment_chooses_the_dark_palette() -> None:
    command = (
        "from matplotlib.colors import to_hex; from mixerkey.classroom import figures as f; "
        "print(f.INK, f.PAPER, to_hex(f.SIGNS(0.5)), f.BLUE)"
    )
    run = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"MIXERKEY_DARK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for shown, colours in (
        (run.stdout.split(), figures.DARK),
        ([figures.INK, figures.PAPER, to_hex(figures.SIGNS(0.5)), figures.BLUE], figures.LIGHT),
    ):
        assert shown == [colours["ink"], colours["paper"], colours["paper"], colours["blue"]]


def test_every_stored_figure_has_a_dark_twin_of_the_same_size() -> None:
    """Made by `make dark`, after the notebooks were executed."""
    chapters = dark.stored()
    twins = {dark.twin(png): (path.name, png) for path, pngs in chapters.items() for png in pngs}
    assert len(twins) >= 30
    assert set(dark.DARK.glob("*.png")) == twins.keys(), "run make dark"
    paper = tuple(round(255 * channel) for channel in to_rgb(figures.DARK["paper"]))
    for path, (name, light) in twins.items():
        picture = Image.open(path).convert("RGB")
        assert picture.size == Image.open(io.BytesIO(light)).size, name
        width, height = picture.size
        corners = [picture.getpixel((x, y)) for x in (0, width - 1) for y in (0, height - 1)]
        assert corners == [paper] * 4, name


def test_the_title_page_shows_what_the_code_draws() -> None:
    idea = art.Idea()
    assert idea.plain == idea.encrypted == 7
    for name, svg in (
        ("book/images/idea.svg", art.diagram(idea, tall=False)),
        ("book/images/idea-tall.svg", art.diagram(idea, tall=True)),
        ("web/favicon.svg", art.mark(idea)),
    ):
        assert (ROOT / name).read_text(encoding="utf-8") == svg, f"run python tools/art.py: {name}"
    assert Image.open(ROOT / "web" / "social.png").size == (1200, 630)


def test_the_diagram_holds_the_entries_of_the_matrices() -> None:
    """Each row of T transposed times E is a row of E, negated where the key flips."""
    idea = art.Idea()
    order, flips = idea.key.permutation, idea.key.flips
    assert torch.equal(idea.E_enc, torch.where(flips[:, None], -1, 1) * idea.E[order])
    values = torch.tensor([[1.0, 0.0], [-0.5, 0.25]])
    drawn = art.matrix(values, 0, 0, 10)
    blue, vermilion = art.COLOUR["blue"], art.COLOUR["vermilion"]
    assert f'fill="{blue}" fill-opacity="1" d="M0 0h1v1h-1z"' in drawn
    assert f'fill="{vermilion}" fill-opacity="0.5" d="M0 1h1v1h-1z"' in drawn
    assert "M1 0h1" not in drawn
