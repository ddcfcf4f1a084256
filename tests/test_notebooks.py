"""What nbval does not see: cells that verify nothing, noise, figures without words, cells too long to read."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import CHAPTERS, MISSING, ROOT, needs

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))

# The only cells whose outputs are not compared, by their first line, and why.
NOT_COMPARED = {"# Versions": "says which versions this run used"}


def code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


def test_every_code_cell_was_executed_in_order(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_on_stderr_and_no_error(notebook: Path) -> None:
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", cell["source"]
            assert output.get("name") != "stderr", cell["source"]


def test_what_a_cell_prints_is_one_output(notebook: Path) -> None:
    """In pieces, as a kernel happens to send it, a line may break anywhere on the page; nbval does not see it."""
    for cell in code_cells(notebook):
        for first, second in pairwise(cell["outputs"]):
            assert not first["output_type"] == second["output_type"] == "stream", cell["source"]


def test_only_listed_cells_are_not_compared(notebook: Path) -> None:
    for cell in code_cells(notebook):
        tags = set(cell["metadata"].get("tags", []))
        assert not tags & {"nbval-skip", "nbval-raises-exception", "raises-exception", "skip-execution"}
        if "nbval-ignore-output" in tags:
            assert cell["source"].splitlines()[0] in NOT_COMPARED


def test_every_figure_has_alt_text_and_a_caption(notebook: Path) -> None:
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            mystnb = cell["metadata"].get("mystnb", {})
            assert len(mystnb.get("image", {}).get("alt", "")) >= 20, cell["source"]
            assert len(mystnb.get("figure", {}).get("caption", "")) >= 20, cell["source"]


def test_cells_are_short(notebook: Path) -> None:
    """Twenty lines at most, after the imports, which stand together in one cell."""
    for cell in code_cells(notebook):
        statements = ast.parse(cell["source"]).body
        imports = [s.end_lineno or 0 for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
        assert len(cell["source"].splitlines()) - max(imports, default=0) <= 20, cell["source"]


FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}


def words_of_main_line(cells: list[dict]) -> int:
    """Words that a reader meets before the exercises: prose, and code that is not folded away."""
    count = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            count += 0 if FOLDED & set(cell["metadata"].get("tags", [])) else len(source.split())
            continue
        before, exercises, _ = f"\n{source}".partition("\n## Exercises")
        count += len(
            re.sub(r"(`{3,}|:{3,})\{\w+\}[^\n]*\n:class: [^\n]*dropdown.*?\n\1", "", before, flags=re.DOTALL).split()
        )
        if exercises:
            return count
    return count


def test_main_line_is_short_enough_for_its_reader(notebook: Path) -> None:
    assert words_of_main_line(json.loads(notebook.read_text(encoding="utf-8"))["cells"]) <= 6500


def test_folded_code_and_exercises_are_not_in_the_main_line() -> None:
    def cell(source: str, kind: str = "markdown", *tags: str) -> dict:
        return {"cell_type": kind, "source": [source], "metadata": {"tags": list(tags)}}

    fold = "```{note} Aside\n:class: dropdown\nmany more words\n```"
    cells = [cell("one two"), cell("three = 4", "code"), cell("x = 1", "code", "hide-input"), cell(fold)]
    assert words_of_main_line(cells) == 5
    assert words_of_main_line([*cells, cell("six\n\n## Exercises\n\nseven"), cell("eight")]) == 6


def test_each_chapter_opens_with_a_picture_and_folds_its_set_up(notebook: Path) -> None:
    """Versions and imports are folded, and a figure stands among the first cells."""
    first = code_cells(notebook)[:2]
    for cell in first:
        assert FOLDED & set(cell["metadata"].get("tags", [])), cell["source"]
    if notebook.stem in CHAPTERS:
        assert "figure" in first[1]["metadata"].get("mystnb", {})


def test_code_that_draws_is_folded(notebook: Path) -> None:
    for cell in code_cells(notebook):
        if "figure" in cell["metadata"].get("mystnb", {}):
            folded = "hide-input" in cell["metadata"].get("tags", [])
            assert folded, cell["source"]


def test_what_is_folded_and_shows_nothing_has_a_name(notebook: Path) -> None:
    """Under "Show the code" a reader expects a picture, a table or words."""
    for cell in code_cells(notebook):
        if FOLDED & set(cell["metadata"].get("tags", [])) - {"remove-input"} and not cell["outputs"]:
            assert "code_prompt_show" in cell["metadata"].get("mystnb", {}), cell["source"]


def test_prose_stands_between_code_cells(notebook: Path) -> None:
    kinds = [cell["cell_type"] for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    assert kinds[0] == kinds[-1] == "markdown"
    assert ("code", "code") not in pairwise(kinds)


def test_a_colon_announces_what_follows_it(notebook: Path) -> None:
    """Text that is inserted between a colon and its code tears them apart."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell, following in pairwise(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert not re.search(r"[^:\n]:\n+#", source), source
            assert following["cell_type"] == "code" or not re.search(r"[^:\n]:\s*$", source), source


def test_widgets_stand_only_where_the_page_leaves_them_out(notebook: Path) -> None:
    """The rendered page has no kernel and no widget manager, so it shows no widget and needs no widget's state."""
    view = "application/vnd.jupyter.widget-view+json"
    for cell in code_cells(notebook):
        if any(view in output.get("data", {}) for output in cell["outputs"]):
            assert {"remove-input", "remove-output"} <= set(cell["metadata"].get("tags", [])), cell["source"]
    assert "widgets" not in json.loads(notebook.read_text(encoding="utf-8"))["metadata"]


def test_needs_are_known(notebook: Path) -> None:
    assert set(needs(notebook)) <= MISSING.keys()


def test_notebooks_are_small_and_name_no_path(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 2_500_000
    for path in ("/home/", "/root/", "/Users/", "/tmp/"):
        assert path not in text
