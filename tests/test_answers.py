"""Answers to exercises in the page: the checkers', right by computation, and judged as a reader types them."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from book._ext.answers import load
from conftest import HTML, ROOT, SHOW
from mixerkey import Key, key_space_bits
from mixerkey.classroom.checks import check
from mixerkey.classroom.checks.checker import Value

ANSWERS = load(ROOT / "book" / "answers.toml")
RIGHT = {label: [field["right"] for field in fields] for label, fields in ANSWERS.items()}


def exercises() -> dict[str, tuple[str, str, str]]:
    """Of each exercise, by its label: its page, its title, and the code that stands in it."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        label = ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and label:
                page, title, code = found[label]
                found[label] = page, title, code + source
            if "{exercise-end}" in source:
                label = ""
            for start, title, name in re.findall(r"\{exercise(-start)?\} (.*)\n:label: (\S+)", source):
                found[name] = path.stem, title, ""
                label = name if start else ""
    return found


EXERCISES = exercises()


def as_list(value: object) -> list:
    return value if isinstance(value, list) else [value]


def test_every_answer_belongs_to_an_exercise() -> None:
    assert len(EXERCISES) >= 60
    assert ANSWERS.keys() <= EXERCISES.keys()
    assert len(ANSWERS) >= 10


def test_the_page_judges_as_the_checker_does() -> None:
    values = 0
    for label, (_, _, code) in EXERCISES.items():
        for name in re.findall(r"check\.(\w+)\(", code):
            value = getattr(check, name)
            if isinstance(value, Value):
                field = ANSWERS[label][0]
                assert field["right"] == as_list(value.right)
                assert field["praise"] == value.praise
                assert field["mistakes"] == [[as_list(wrong), why] for wrong, why in value.mistakes]
                values += 1
    assert values == 6


def test_answers_without_a_checker_are_right() -> None:
    (patches, weights), (_, *inverse) = RIGHT["ex-patch-shapes"], RIGHT["ex-cipher-hand"]
    assert patches == [(224 // 16) ** 2, 16 * 16 * 3]
    assert weights == [patches[1] * 768]
    key = Key([3, 1, 0, 2], [0, 1, 0, 1], patch_size=2, channels=1).inverse()
    assert inverse == [key.permutation.tolist(), key.flips.int().tolist()]
    flips = [r for r in itertools.product((0, 1), repeat=4) if sum(r) == 2]
    still = sum(all(r[k] == r[v[k]] for k in range(4)) for v in itertools.permutations(range(4)) for r in flips)
    assert RIGHT["ex-me-order"] == [[still]]
    two = [math.comb(48, 2), 24 * 24]
    assert RIGHT["ex-nearly-right"] == [two, [round(math.log2(1 + sum(two)), 1)]]
    assert RIGHT["ex-wn-standard-error"] == [[pytest.approx(100 * math.sqrt(0.9 * 0.1 / 10_000))]]
    assert RIGHT["ex-fast-break-even"] == [[next(k for k in itertools.count(1, 2) if k * k > 4 * 4)]]
    permutation = torch.arange(1, 49).double().log2().sum().item()
    assert RIGHT["ex-br-constant"] == [[round(key_space_bits(4, 3) - permutation, 1)]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[ex]", "answers.toml is not valid TOML"),
        ("[[ex]]\nask = 'n'\nright = [1]\npraise = 'so.'\n", "ex: lacks mistakes"),
        (
            "[[ex]]\nask = 'n'\nright = [1, 2]\npraise = 'so.'\nmistakes = [[[2], 'why']]\n",
            r"\[2\] is no explained mistake",
        ),
        ("[[ex]]\nask = 'n'\nright = [1]\npraise = 'so.'\nmistakes = [[[2], '']]\n", r"\[2\] is no explained mistake"),
    ],
)
def test_a_badly_written_answer_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "answers.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(file)


# -------------------------------------------------------------------------------------------------- in a browser


def typed(values: list) -> str:
    return ", ".join(str(value) for value in values)


def typeset(words: str) -> str:
    """Words as the page shows them, with the indices of symbols lowered."""
    return re.sub(r"\b([a-zA-Z])_(\w)\b", r"\1\2", words)


@pytest.mark.parametrize("page", sorted({page for page, _, _ in EXERCISES.values()}))
def test_every_right_and_wrong_answer_is_judged_and_other_exercises_say_what_they_need(
    browser: Browser, site: str, page: str
) -> None:
    context = browser.new_context()
    window = context.new_page()
    window.goto(f"{site}book/{page}.html")
    for label in (label for label in ANSWERS if EXERCISES[label][0] == page):
        box = window.locator(f"#{label}")
        expect(box.locator(".exercise-done input")).not_to_be_checked()
        for number, field in enumerate(ANSWERS[label]):
            place, says = box.locator(".answer input").nth(number), box.locator("output").nth(number)
            for wrong, why in field["mistakes"]:
                place.fill(typed(wrong))
                assert says.inner_text() == ""  # the last verdict is gone
                place.press("Enter")
                assert says.inner_text() == typeset(f"Not right: {why}.")
            place.fill("perhaps")
            place.press("Enter")
            assert "asked for, and none found" in says.inner_text()
            place.fill(typed(field["right"]))
            place.press("Enter")
            assert says.inner_text() == typeset(f"Right: {field['praise']}")
            assert says.locator("sub").count() == len(re.findall(r"\b[a-zA-Z]_\w\b", field["praise"]))
            asked = place.locator("xpath=..").inner_text()
            assert (len(field["right"]) > 1) == bool(
                re.search(r"\(\d+ (numbers, with commas|times True or False)\)", asked)
            )
        expect(box.locator(".exercise-done input")).to_be_checked()
        assert label in window.evaluate("JSON.parse(localStorage.mixerkey).done")
    for label, (where, title, _) in EXERCISES.items():
        if where == page and label not in ANSWERS:
            needs = "in words" if title.startswith("Recall") else "needs a notebook"
            expect(window.locator(f"#{label} .answer")).to_contain_text(needs)
    context.close()


@pytest.fixture(scope="module")
def opened(browser: Browser, site: str) -> Callable[[str], Page]:
    """A page, which stays open for all that is asked of it."""

    @cache
    def once(name: str) -> Page:
        window = browser.new_page()
        window.goto(f"{site}book/{name}.html")
        return window

    return once


@pytest.fixture
def large(opened: Callable[[str], Page]) -> Locator:
    """The exercise that asks for a large number."""
    return opened("convmixer").locator("#ex-convmixer-large")


@pytest.mark.parametrize(
    "text",
    [
        "51625960",
        "51,625,960",
        " 51 625 960 parameters",
        "51'625'960",
        "51,625,960.",
        "51.625.960",
        "５１６２５９６０",
        "5.162596e7",
        "51.62596 million",
        "51,62596 Millionen",
    ],
)
def test_a_number_may_be_written_in_any_usual_way(large: Locator, text: str) -> None:
    large.locator(".answer input").fill(text)
    expect(large.locator("output")).to_be_empty()
    large.get_by_role("button", name="Check").click()
    expect(large.locator("output")).to_contain_text("Right:")


@pytest.mark.parametrize(
    ("page", "label", "text", "said"),
    [
        ("model-encryption", "ex-me-which", "1 1 0 0 1 0 0 1", ["Right: what counts"]),
        ("model-encryption", "ex-me-which", "TTFFTFFT", ["Right: what counts"]),
        ("model-encryption", "ex-me-which", "yes, yes, no, no, yes, no, no, yes", ["Right: what counts"]),
        ("model-encryption", "ex-me-which", "1, 2, 5, 8", ["and 1 found; one for each question, in turn."]),
        ("experiments", "ex-nearly-right", "1,128 and 576", ["Right:"]),
        ("experiments", "ex-nearly-right", "2.256; 576", ["half of the first"]),
        ("whole-network", "ex-wn-standard-error", "0,3", ["Right:"]),
        ("whole-network", "ex-wn-standard-error", ".3 points", ["Right:"]),
        ("whole-network", "ex-wn-standard-error", "0,003", ["this is the share"]),
        ("convmixer", "ex-convmixer-large", "51.6 million", ["this is rounded; give it with all its digits."]),
        (
            "patch-embedding",
            "ex-patch-shapes",
            "14 × 14 = 196, 768",
            ["2 numbers are asked for, and 4 found; write them"],
        ),
        (
            "model-encryption",
            "ex-me-which",
            "1. True, 2. t, 3. true, 4. f, 5. t, 6. t, 7. f, 8. t",
            ["at 3:", "; look again at 6:"],
        ),
        ("patch-embedding", "ex-patch-shapes", "14, 256", ["a side has 14 patches", "; a patch has three channels."]),
    ],
)
def test_answers_are_read_as_they_are_written_and_each_mistake_is_explained(
    opened: Callable[[str], Page], page: str, label: str, text: str, said: list[str]
) -> None:
    box = opened(page).locator(f"#{label}")
    box.locator(".answer input").first.fill(text)
    box.get_by_role("button", name="Check").click()
    for words in said:
        expect(box.locator("output").first).to_contain_text(words)


def test_axe_finds_nothing_in_an_answer(browser: Browser, site: str) -> None:
    window = browser.new_page()
    window.goto(f"{site}book/image-cipher.html")
    box = window.locator("#ex-cipher-hand")
    box.locator(".answer input").first.fill("1, 2, 3, 4")
    box.get_by_role("button", name="Check").click()
    # axe reads the whole page, whatever the context
    others = "article section section:not(:has(#ex-cipher-hand), #ex-cipher-hand *)"
    window.locator(others).evaluate_all("all => all.forEach((section) => section.remove())")
    for theme in ("light", "dark"):
        window.evaluate(SHOW, theme)
        found = Axe().run(window, context="#ex-cipher-hand .answer")
        assert found.response["violations"] == [], found.generate_report()
        assert len(found.response["passes"]) >= 5
    window.close()


def test_answers_are_judged_on_pages_that_are_opened_from_the_disk(browser: Browser) -> None:
    window = browser.new_page()
    window.goto((HTML / "book" / "image-cipher.html").as_uri())
    window.locator("#ex-cipher-count .answer input").fill("24")
    window.locator("#ex-cipher-count").get_by_role("button", name="Check").click()
    expect(window.locator("#ex-cipher-count output")).to_contain_text("permutations alone")
    window.close()
