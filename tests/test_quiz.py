"""The quizzes: five explained questions a chapter, an error for each way to write one badly, and the page at work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from book._ext.quiz import QUESTIONS, load
from conftest import CHAPTERS, ROOT, SHOW

QUIZZES = load(ROOT / "book" / "quizzes.toml")
PAGE = "whole-network"  # a light one
ONE = (
    "[[chapter]]\nquestion = 'What is $1 + 1$?'\noptions = [['right', '2', 'So it is.'], ['wrong', '3', 'Too many.']]\n"
)


def test_every_chapter_has_five_questions() -> None:
    assert set(CHAPTERS) <= QUIZZES.keys()
    assert all(len(questions) == QUESTIONS == 5 for questions in QUIZZES.values())


@pytest.mark.parametrize("page", QUIZZES)
def test_each_option_is_explained_in_its_own_words(page: str) -> None:
    for entry in QUIZZES[page]:
        options = [text for _, text, _ in entry["options"]]
        reasons = [why for _, _, why in entry["options"]]
        assert len(set(options)) == len(options) >= 3
        assert len(set(reasons)) == len(reasons)
        assert all(len(why) >= 20 for why in reasons)


def test_the_right_option_has_no_favourite_place() -> None:
    places = [[option[0] for option in entry["options"]].index("right") for page in QUIZZES.values() for entry in page]
    assert all(places.count(place) <= len(places) / 2 for place in range(4))


@pytest.mark.parametrize("page", QUIZZES)
def test_the_notebook_shows_its_quiz_once_at_the_end(page: str) -> None:
    cells = json.loads((ROOT / "book" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert sum("## Self-check" in source for source in text) == 1
    assert f"```{{quiz}} {page}\n```" in text[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[chapter]", "quizzes.toml is not valid TOML.*line 1"),
        (ONE * 4, "chapter must have 5 questions"),
        (ONE * 6, "chapter must have 5 questions"),
        (ONE * 4 + ONE.replace("'right', '2'", "'wrong', '2'"), "chapter, question 5: .*exactly one right option"),
        (ONE * 4 + ONE.replace("'wrong'", "'right'"), "chapter, question 5: .*exactly one right option"),
        (ONE * 4 + ONE.replace("'wrong'", "'worng'"), "the verdict of '3' must be 'right' or 'wrong', got 'worng'"),
        (ONE * 4 + ONE.replace(", 'Too many.'", ""), r"an option must be \[.*got \['wrong', '3'\]"),
        (ONE * 4 + ONE.replace("'Too many.'", "''"), r"an option must be \[.*got \['wrong', '3', ''\]"),
        (ONE * 4 + ONE.replace("question =", "ask ="), "has ask, options; expected question and options"),
        (ONE * 5 + "[other]\n", "other must have 5 questions"),
    ],
)
def test_a_badly_written_quiz_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "quizzes.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(file)


def build(folder: Path, quizzes: str, page: str = "chapter", builder: str = "html") -> Path:
    """A book of one page with one quiz, warnings being errors."""
    (folder / "book").mkdir()
    (folder / "book" / "quizzes.toml").write_text(quizzes, encoding="utf-8")
    (folder / "index.md").write_text(f"# Book\n\n```{{quiz}} {page}\n```\n", encoding="utf-8")
    out = folder / "out"
    options = {"extensions": ["myst_parser", "book._ext.quiz"], "myst_enable_extensions": ["dollarmath"]}
    with patch_docutils(), docutils_namespace():
        app = Sphinx(folder, None, out, out, builder, options, status=None, warningiserror=True)
        app.build()
        if app.statuscode:
            raise SphinxError("the build failed")
    return out


@pytest.mark.parametrize(
    ("quizzes", "page", "message"),
    [
        (ONE + "[[", "chapter", "quizzes.toml is not valid TOML"),
        (ONE, "chapter", "chapter must have 5 questions"),
        (ONE * 5, "chaptre", "no questions for 'chaptre'; it has some for chapter"),
        (ONE.replace("'3'", "'3. item'") * 5, "chapter", "expected one paragraph, got '3. item'"),
    ],
)
def test_the_build_says_what_is_wrong(tmp_path: Path, quizzes: str, page: str, message: str) -> None:
    with pytest.raises(SphinxError) as caught:
        build(tmp_path, quizzes, page)
    assert message in str(caught.value)


def test_without_pages_the_answers_follow_their_options(tmp_path: Path) -> None:
    text = (build(tmp_path, ONE * 5, builder="text") / "index.txt").read_text(encoding="utf-8")
    assert re.search(r"\*\*1\.\*\* What is.*\*\*5\.\*\* What is", text, re.DOTALL)
    assert "**Wrong.** Too many." in text
    assert "<" not in text


# -------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site}book/{PAGE}.html", wait_until="load")
    page.wait_for_selector(".quiz button")
    yield page
    context.close()


def choose(page: Page, number: int, verdict: str) -> None:
    """Choose an option by the keyboard: Tab has come to the radio buttons, arrows move among them, Tab goes on."""
    target = [option[0] for option in QUIZZES[PAGE][number]["options"]].index(verdict)
    question = page.locator(".quiz fieldset").nth(number)
    question.locator("input").first.focus()
    page.keyboard.press("Space")
    for _ in range(target):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert question.locator("button").evaluate("button => button === document.activeElement")
    page.keyboard.press("Enter")


def test_a_wrong_and_a_right_answer_are_explained_by_keyboard(page: Page) -> None:
    entry = QUIZZES[PAGE][2]  # its explanations are plain words
    answer = page.locator(".quiz fieldset").nth(2).locator(".quiz-answer")
    assert answer.get_attribute("role") == "status"  # read aloud
    for verdict, label in (("wrong", "Wrong."), ("right", "Right.")):
        choose(page, 2, verdict)
        (why, *_) = [reason for found, _, reason in entry["options"] if found == verdict]
        assert answer.inner_text().strip() == f"{label} {why}"  # the verdict in words, not in colour alone
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowUp")
    assert answer.inner_text() == ""  # another choice is not answered until it is checked


def test_circles_stand_beside_their_answers(browser: Browser, site: str) -> None:
    """Also where a finger is the pointer, for which they are larger."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(f"{site}book/convmixer.html")
    phone.wait_for_selector(".quiz button")
    away = phone.locator(".quiz label").evaluate_all("""(labels) => labels.map((label) => {
      const [circle, letter] = [label.querySelector("input"), label.querySelector("b, strong, span")];
      const [a, b] = [circle, letter].map((element) => element.getBoundingClientRect());
      return [circle.offsetHeight, Math.abs(a.top + a.bottom - b.top - b.bottom) / 2];
    })""")
    context.close()
    assert len(away) == 20
    assert all(height >= 24 and distance <= 3 for height, distance in away), away


def test_an_empty_choice_is_asked_for(page: Page) -> None:
    question = page.locator(".quiz fieldset").first
    question.locator("button").click()
    assert question.locator(".quiz-answer").inner_text() == "Choose an answer first."


def test_the_score_counts_first_tries_and_nothing_is_sent_or_stored(page: Page) -> None:
    requests: list[str] = []
    state = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    before = page.evaluate(state)
    page.on("request", lambda request: requests.append(request.url))
    for number in range(QUESTIONS):
        assert page.locator(".quiz-score").inner_text() == ""
        choose(page, number, "wrong" if number == 1 else "right")
    choose(page, 1, "right")
    assert page.locator(".quiz-score").inner_text() == "Your score: 4 of 5 right at the first try."
    assert [url for url in requests if "/_images/" not in url] == []  # figures load as they come into view
    assert page.evaluate(state) == before


def test_who_comes_back_sees_the_answer_again(page: Page, site: str) -> None:
    choose(page, 0, "wrong")
    page.goto(f"{site}book/notation.html")
    page.go_back()
    question = page.locator(".quiz fieldset")
    expect(question.nth(0).locator(".quiz-answer")).to_have_attribute("data-verdict", "wrong")
    expect(question.nth(1).locator(".quiz-answer")).to_be_empty()


def test_axe_finds_nothing_in_a_quiz(page: Page) -> None:
    choose(page, 0, "wrong")
    choose(page, 1, "right")
    # axe reads the whole page, whatever the context
    others = page.locator("article section section:not(:has(.quiz))")
    others.evaluate_all("all => all.forEach((section) => section.remove())")
    for theme in ("light", "dark"):
        page.evaluate(SHOW, theme)
        found = Axe().run(page, context=".quiz")
        assert found.response["violations"] == [], found.generate_report()
        assert len(found.response["passes"]) >= 5


def test_without_javascript_the_answers_unfold(browser: Browser, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}book/{PAGE}.html")
    question = page.locator(".quiz fieldset").first
    assert not question.locator("li").first.is_visible()
    question.locator("summary").click()
    assert question.locator("li").first.is_visible()
    assert page.locator(".quiz button").count() == 0
    context.close()


def test_in_print_the_answers_follow_all_questions(page: Page) -> None:
    item = page.locator(".quiz li").first
    assert item.bounding_box() is None
    page.emulate_media(media="print")
    answer, question = item.bounding_box(), page.locator(".quiz fieldset").last.locator("label").last.bounding_box()
    assert answer
    assert question
    assert answer["y"] > question["y"] + question["height"]
    assert page.locator(".quiz legend").last.is_visible()
    assert not page.locator(".quiz button").first.is_visible()


def test_pages_without_a_quiz_load_nothing_of_it(browser: Browser, site: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for name in ("notation", PAGE):
        page.goto(f"{site}book/{name}.html", wait_until="load")
        assert any("/quiz/quiz.js" in url for url in requests) == (name == PAGE)
    context.close()
