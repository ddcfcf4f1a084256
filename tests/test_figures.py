"""The arrays behind the figures, since notebook validation does not look at pixels."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.image import AxesImage

from mixerkey import figures


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


def test_flipbook_has_a_page_with_words_for_each_slider_position() -> None:
    pictures = [figures.show_images({"": torch.rand(1, 2, 2)}) for _ in range(3)]
    slider, stack = figures.flipbook(pictures, ["<first>", "b", "c"], "step").children
    assert (slider.min, slider.max, len(stack.children)) == (0, 2, 3)
    assert 'alt="&lt;first&gt;"' in stack.children[0].value
    assert plt.get_fignums() == []
    with pytest.raises(ValueError, match="got 0 figures but 1 alternative texts"):
        figures.flipbook([], ["a"], "step")
