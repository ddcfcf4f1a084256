"""The teacher's guide: it quotes chapters, cells and the receipt, and notices when one of them goes."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from book._ext import teaching
from book._ext.quiz import load
from conftest import ROOT
from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained
from mixerkey.evaluation import partly_wrong, predict
from mixerkey.receipts import load_receipt
from tools.claims import find_cell

GUIDE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def test_the_objectives_are_those_of_every_chapter() -> None:
    text = teaching.objectives(ROOT)
    assert re.findall(r"\{doc\}`([\w-]+)`\*\*", text)[:2] == ["convmixer", "patch-embedding"]
    chapters = dict(re.findall(r"\{doc\}`([\w-]+)`\*\*\n(.*?)(?=\n\*\*|\Z)", text, re.DOTALL))
    assert chapters.keys() == {path.stem for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        objectives = [line for line in first.splitlines() if line.startswith("- ")]
        assert len(objectives) >= 3
        assert [line for line in chapters[path.stem].splitlines() if line.startswith("- ")] == objectives


def test_each_objective_names_what_tests_it() -> None:
    """That the labels exist is checked when the book is built: a dead one is a warning, and warnings stop it."""
    chapters = re.split(r"\*\*\{doc\}`([\w-]+)`\*\*", teaching.objectives(ROOT))[1:]
    for text in chapters[1::2]:
        for line in re.findall(r"^- .*$", text, re.MULTILINE):
            assert re.search(r"\{tested\}`(ex|quiz)-[\w, -]+`[;.]$", line), line


def test_each_question_tests_an_objective_of_its_chapter() -> None:
    chapters = re.split(r"\*\*\{doc\}`([\w-]+)`\*\*", teaching.objectives(ROOT))[1:]
    tested = {
        page: set(re.findall(r"quiz-[\w-]+", text)) for page, text in zip(chapters[::2], chapters[1::2], strict=True)
    }
    quizzes = load(ROOT / "book" / "quizzes.toml")
    assert tested == {page: {f"quiz-{page}-{n}" for n in range(1, len(qs) + 1)} for page, qs in quizzes.items()}


def test_a_chapter_without_objectives_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text("- file: book/one\n", encoding="utf-8")
    (tmp_path / "book" / "one.ipynb").write_text(json.dumps({"cells": [{"source": "# One\n"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"book/one.ipynb does not begin with"):
        teaching.objectives(tmp_path)


def test_the_table_shows_the_receipt() -> None:
    receipt = load_receipt("classroom")
    assert set(receipt["notebooks"]) <= {path.stem for path in NOTEBOOKS}
    assert all(seconds > 0 for seconds in receipt["notebooks"].values())
    other = deepcopy(receipt)
    other["notebooks"]["convmixer"] = 1234.4
    other["installation"] = {
        "wheels": 11, "fill_seconds": 22, "wheelhouse_bytes": 3.3e9, "install_seconds": 44, "environment_bytes": 5.5e9
    }  # fmt: skip
    text = teaching.timings(other)
    assert "| run {doc}`convmixer` | 1234 s |" in text
    for piece in ("(11 wheels) | 22 s |", "| 3.3 GB |", "| 44 s |", "| 5.5 GB |"):
        assert piece in text


def test_what_the_lesson_of_one_hour_expects_of_the_board_and_the_lab_holds() -> None:
    assert "$v = (2, 0, 1, 3)$ and $r = (1, 0, 1, 0)$, to $(225, 10, 235, 40)$" in GUIDE
    block = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint8)
    assert encrypt_images(block, Key([2, 0, 1, 3], [1, 0, 1, 0], 2, 1)).flatten().tolist() == [225, 10, 235, 40]
    assert "*Fetch the network (2.9 MB)*" in GUIDE
    assert round((ROOT / "mixerkey" / "weights" / "cifar10.safetensors").stat().st_size / 1e6, 1) == 2.9
    assert "starts at 25 %" in GUIDE
    assert (ROOT / "book" / "lab.md").read_text(encoding="utf-8").count('step="5" value="25"') == 2
    assert "five positions and four signs" in GUIDE
    sheet = torch.from_numpy(np.array(Image.open(ROOT / "book" / "lab" / "samples.png").convert("RGB")))
    samples = sheet[:, :320].permute(2, 0, 1).unflatten(2, (10, 32)).permute(2, 0, 1, 3)  # (10, 3, 32, 32)
    model = load_pretrained("cifar10")
    plain, changed = predict(model, samples).argmax(1), 0
    for seed in range(10):
        key = Key.from_seed(seed, 4, 3)
        other = partly_wrong(key, 5, 4, torch.Generator().manual_seed(seed))
        changed += int((predict(encrypt_model(model, key), encrypt_images(samples, other)).argmax(1) != plain).sum())
    assert 70 <= changed <= 90, changed


def test_each_misconception_names_a_cell_that_is_there() -> None:
    cures = re.findall(r"^\| \".*\{cell\}`([\w-]+): ([^`]+)`", GUIDE, re.MULTILINE)
    assert len(cures) >= 10
    for page, fragment in cures:
        assert find_cell(page, fragment)
    assert len(cures) == len(re.findall(r"^\| \"", GUIDE, re.MULTILINE))


def test_the_guide_links_every_deck() -> None:
    decks = [path.stem for path in NOTEBOOKS if '"slide_type": "slide"' in path.read_text(encoding="utf-8")]
    assert re.findall(r'href="../slides/([\w-]+)\.html"', GUIDE) == sorted(decks, key=teaching.objectives(ROOT).index)
