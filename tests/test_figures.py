"""The arrays behind the figures, since notebook validation does not look at pixels; and how tables stand."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from conftest import ROOT

mpl.use("agg")
import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from mixerkey.classroom import figures
from mixerkey.classroom.tables import Table
from tools import art

PROVIDER = sorted((ROOT / "mixerkey" / "parties" / "page").glob("*.[cjh]*"))
ON_A_PHONE = 342  # pixels wide is a figure on a phone of 390
TEN_POINTS = 110 * 10 / 72  # pixels high are letters at a figure's full size
TOOLS = sorted((ROOT / "tools").glob("*.py"))
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


def test_a_column_of_numbers_stands_to_the_right_though_a_word_is_in_it() -> None:
    table = Table(["scheme", "found"], [["shuffle", "8 of 10"], ["both", "none"], ["order", "10 of 10"]])
    lines = ["scheme      found", "shuffle   8 of 10", "both         none", "order    10 of 10"]
    assert repr(table).splitlines() == lines
    assert table._repr_html_().count('style="text-align: right"') == 4


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it, 1 to 21."""
    rgb = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_the_palette_is_one_file_and_no_other_names_a_colour() -> None:
    """All pages take theirs from it, the provider's too; only paper that is printed on is white."""
    assert len(figures.LIGHT) >= 9
    assert figures.LIGHT.keys() == figures.DARK.keys()
    own = {"#e03030", "#20a040", "#3060e0", "#fff"}  # the three channels of a picture; paper
    for path in [
        *ROOT.glob("book/*/*.css"),
        *ROOT.glob("book/*/*.js"),
        *ROOT.glob("book/_ext/*.py"),
        *PROVIDER,
        *TOOLS,
    ]:
        source = path.read_text(encoding="utf-8")
        assert set(re.findall(r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b", source)) <= own, path.name
        used = set(re.findall(r"--mixer-([a-z]+)", source)) - {"text", "code"}  # fonts
        assert used <= figures.LIGHT.keys(), path.name


@pytest.mark.parametrize("theme", PALETTES)
def test_every_colour_of_the_palette_is_readable_on_the_paper(theme: str) -> None:
    colours = PALETTES[theme]
    for name in ("blue", "vermilion", "green", "purple", "ink", "soft"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "soft"):
        assert contrast(colours[name], colours["raised"]) >= 4.5, name


def test_negative_numbers_have_one_colour_in_pictures_and_in_words() -> None:
    """The map of figures runs between the two of the lab and the title page; red beside blue is of photographs."""
    for palette, signs in ((figures.LIGHT, figures.SIGNS), (figures.DARK, figures._DARK_SIGNS)):
        for value, name in ((0.0, "vermilion"), (0.5, "paper"), (1.0, "blue")):
            assert signs(value)[:3] == pytest.approx(to_rgb(palette[name]))
    words = [path.read_text(encoding="utf-8") for path in ROOT.glob("book/*.md")]
    for path in ROOT.glob("book/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            shown = cell["metadata"].get("mystnb", {})
            words += [shown[of][what] for of, what in (("figure", "caption"), ("image", "alt")) if of in shown]
    assert sum("orange" in text for text in words) >= 8
    for sentence in re.split(r"[.;]", " ".join(words)):
        named = set(re.findall(r"\b(?:red|green|blue)\b", sentence))
        assert not {"red", "blue"} <= named or "green" in named, sentence


def drawn(figure: Figure, *, dark: bool) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figures.png(figure, dark=dark))).convert("RGB"))


def test_a_dark_figure_is_the_light_one_in_the_dark_colours() -> None:
    """Each kind of ink: lines, letters, bars, markers, collections, pictures, maps, and colours of nobody's palette."""
    figures.set_style()
    photo = [[to_rgb(colour) for colour in figures.LIGHT.values()]]  # a picture may have any colour

    def draw(palette: dict[str, str], signs: LinearSegmentedColormap) -> Figure:
        figure, ((one, two, three), (four, five, six)) = plt.subplots(2, 3)
        one.plot([1, 3, 2], "o--", color=palette["blue"], label="line")
        one.legend()
        two.bar([1, 2], [2, 1], color=palette["vermilion"], alpha=0.5)
        two.text(1, 1, "$x^2$", color=palette["green"])
        three.scatter([1, 2, 3], [1, 2, 3], c=[palette["purple"], "orange", palette["ink"]])
        four.imshow(photo, interpolation="nearest")
        figure.colorbar(five.imshow([[-1, 0.5], [0, 1]], cmap=signs, vmin=-1, vmax=1))
        six.boxplot([1, 2, 3, 9], medianprops={"color": palette["vermilion"]})
        six.fill_between([0, 1], [2, 3], color=palette["blue"], alpha=0.15)
        return figure

    light = draw(figures.LIGHT, figures.SIGNS)
    dark, after = drawn(light, dark=True), drawn(light, dark=False)
    swap = {figures.LIGHT[name]: figures.DARK[name] for name in figures.LIGHT}
    style: Any = {name: swap[value] for name, value in plt.rcParams.items() if isinstance(value, str) and value in swap}
    assert len(style) >= 12
    with plt.rc_context(style):
        assert np.array_equal(dark, drawn(draw(figures.DARK, figures._DARK_SIGNS), dark=False))
    assert not np.array_equal(dark, after)
    again = draw(figures.LIGHT, figures.SIGNS)
    drawn(again, dark=False)  # each drawing lays it out a bit better
    assert np.array_equal(after, drawn(again, dark=False))  # dark paper has left no trace


def test_every_stored_figure_has_a_dark_version_of_the_same_size() -> None:
    """The notebooks' style draws both: `figures.set_style()`."""
    paper, count = tuple(round(255 * channel) for channel in to_rgb(figures.DARK["paper"])), 0
    for path in sorted(ROOT.glob("book/*.ipynb")):
        outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
        for output in outputs:
            if png := output.get("data", {}).get("image/png"):
                light, dark = (
                    Image.open(io.BytesIO(b64decode(data))).convert("RGB")
                    for data in ("".join(png), output["metadata"]["image/png"]["dark"])
                )
                assert dark.size == light.size, path.name
                width, height = dark.size
                shown = output["metadata"]["image/png"]["width"]
                assert width >= figures.FINE * shown - 1, path.name
                assert TEN_POINTS * min(1, ON_A_PHONE / shown) > 9.5, f"{path.name}: letters too small on a phone"
                corners = [dark.getpixel((x, y)) for x in (0, width - 1) for y in (0, height - 1)]
                assert corners == [paper] * 4, path.name
                count += 1
    assert count >= 30


def test_a_notebook_keeps_both_versions_in_one_output() -> None:
    shell = InteractiveShell.instance()
    figures.set_style()
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    assert shell.display_formatter
    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda _: "the inline backend's")
    data, metadata = shell.display_formatter.format(figure)
    assert data.keys() == {"image/png", "text/plain"}
    assert b64decode(data["image/png"]) == figures.png(figure)
    assert b64decode(metadata["image/png"]["dark"]) == figures.png(figure, dark=True)
    assert plt.rcParams["figure.figsize"][0] == figures.WIDTH
    size = Image.open(io.BytesIO(b64decode(data["image/png"]))).size
    shown = [metadata["image/png"][side] for side in ("width", "height")]
    assert shown == [round(side / figures.FINE) for side in size]
    assert figures.WIDTH * 110 < shown[0] < figures.WIDTH * 110 + 20  # with its margin
    InteractiveShell.clear_instance()


def test_the_title_page_shows_what_the_code_draws() -> None:
    idea = art.Idea()
    assert idea.plain == idea.encrypted == 7
    for name, svg in (
        *((f"book/images/{file}", art.diagram(idea, layout)) for file, layout in art.LAYOUTS.items()),
        ("book/_static/favicon.svg", art.mark(idea)),
    ):
        assert (ROOT / name).read_text(encoding="utf-8") == svg, f"run python -m tools.art: {name}"
    assert Image.open(ROOT / "book" / "_static" / "social.png").size == (1200, 630)


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
