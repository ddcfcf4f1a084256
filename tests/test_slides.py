"""The slides: made from the notebooks' cells, whole and legible in a browser, and from no other host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from book._ext.slides import Deck, draw, titles
from conftest import ROOT

BOOK = ROOT / "book"
TITLES = titles(BOOK)
DECKS = [name for name in TITLES if '"slide_type": "slide"' in (BOOK / f"{name}.ipynb").read_text(encoding="utf-8")]


def notebook(folder: Path, *cells: dict) -> Path:
    path = folder / "chapter.ipynb"
    path.write_text(json.dumps({"cells": [{"source": "# Chapter", "metadata": {}, **cell} for cell in cells]}))
    return path


def text(source: str, kind: str = "slide", show: list[str] | None = None) -> dict:
    settings = {"slide_type": kind} | ({"show": show} if show else {})
    return {"cell_type": "markdown", "source": source, "metadata": {"slideshow": settings}}


def test_cells_become_slides_and_fragments(tmp_path: Path) -> None:
    code: dict = {"cell_type": "code", "source": "print(1 < 2)", "outputs": [{"text": ["True < \n"]}]}
    skipped = {"cell_type": "markdown", "source": "## Part\n\nNot on a slide."}
    code["metadata"] = {"slideshow": {"slide_type": "slide"}}
    deck = Deck(notebook(tmp_path, text("# One"), text("more", "fragment"), skipped, code, text("last", "-")), {})
    first, second = deck.slides
    assert first == ["<h1>One</h1>\n", '<div class="fragment"><p>more</p>\n</div>']
    assert second[0] == "<h2>Part</h2>"  # a slide without a heading bears the one that it stands under
    assert '<pre class="output">True &lt;</pre>' in second[1]
    assert re.sub("<[^>]*>", "", second[1].split('<pre class="output">')[0]).strip() == "print(1 &lt; 2)"
    assert second[2] == "<p>last</p>\n"


def test_code_that_is_folded_on_the_page_is_not_on_the_slide(tmp_path: Path) -> None:
    code: dict = {"cell_type": "code", "source": "print(1)", "outputs": [{"text": ["one"]}]}
    code["metadata"] = {"slideshow": {"slide_type": "slide"}, "tags": ["hide-input"]}
    (slide,) = Deck(notebook(tmp_path, code), {}).slides
    assert "print" not in "".join(slide)
    assert "one" in "".join(slide)


def test_blocks_are_shown_by_their_beginning_and_the_rest_is_for_the_speaker(tmp_path: Path) -> None:
    source = "## Key\n\nLong & prose, in *words* {tested}`x`.\n\n$$\nx = 1\n$$ (eq-3)\n\nThe end."
    deck = Deck(notebook(tmp_path, text(source, show=["## Key", "$$"])), {})
    ((slide,),) = deck.slides
    assert '<aside class="notes"><p>Long &amp; prose, in <em>words</em>.</p>\n<p>The end.</p>\n</aside>' in slide
    assert "prose" not in slide.split("<aside")[0]
    assert deck.formulas == [(r"x = 1 \tag{3}", True, "htmlAndMathml")]
    with pytest.raises(ValueError, match=r"chapter: no block of the cell begins with \['Short'\]"):
        Deck(notebook(tmp_path, text(source, show=["## Key", "Short"])), {})


def test_myst_comes_out_clean(tmp_path: Path) -> None:
    source = (
        "# Roles\n\nSee {cite:p}`one`, {doc}`other`, {doc}`this <other>`, {eq}`eq-4`.\n\n"
        "```{prf:lemma} A sign\n:label: l\n\nIt is $1$.\n```"
    )
    ((slide,),) = Deck(notebook(tmp_path, text(source)), {"other": "The other"}).slides
    assert "See, “The other”, this, (4)." in slide
    assert '<div class="statement"><p><strong>Lemma (A sign).</strong> It is' in slide
    for bad, message in (("{ref}`x`", "can't show {ref}"), ("```{exercise}\n```", "can't show '{exercise}'")):
        with pytest.raises(ValueError, match=re.escape(message)):
            Deck(notebook(tmp_path, text(bad)), {})


def test_a_formula_that_katex_does_not_understand_stops_the_build() -> None:
    assert "katex" in draw([("x^2", False, "mathml")])[0]
    with pytest.raises(ValueError, match=r"(?s)KaTeX does not understand.*control sequence: .nosuchthing"):
        draw([(r"\nosuchthing", False, "html")])


@pytest.mark.parametrize("name", DECKS)
def test_what_is_added_to_a_slide_is_of_its_section(name: str) -> None:
    section = title = ""
    for cell in json.loads((BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            section = [section, *re.findall(r"^#+ (.*)", "".join(cell["source"]), re.MULTILINE)][-1]
        kind = cell["metadata"].get("slideshow", {}).get("slide_type")
        title = section if kind == "slide" else title
        assert kind != "fragment" or section == title, "".join(cell["source"])


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_has_8_to_15_slides_and_its_figures_have_words(name: str) -> None:
    deck = Deck(BOOK / f"{name}.ipynb", TITLES)
    assert 8 <= len(deck.slides) <= 15
    images = re.findall(r"<img [^>]*>", "".join(map("".join, deck.slides)))
    assert images
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)


# -------------------------------------------------------------------------------------------------- in a browser

OVERFLOW = """() => {
    const slide = Reveal.getCurrentSlide(), frame = slide.getBoundingClientRect();
    const scale = Reveal.getScale(), found = [];
    for (const part of slide.querySelectorAll("*:not(aside, .katex *)")) {
        const box = part.getBoundingClientRect();
        const out = box.right > frame.left + 1280 * scale + 1 || box.bottom > frame.top + 720 * scale + 1;
        if (box.width && (out || part.scrollWidth > part.clientWidth + 1 && part.tagName === "PRE"))
            found.push(`${part.tagName} ${Math.round(box.right)}, ${Math.round(box.bottom)}`);
    }
    return found;
}"""


@pytest.fixture(params=DECKS)
def deck(request: pytest.FixtureRequest, browser: Browser, site: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda made: asked.append(made.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda response: errors.append(response.url) if response.status >= 400 else None)
    page.goto(f"{site}slides/{request.param}.html", wait_until="load")
    page.wait_for_function("Reveal.isReady()")
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((site, "data:"))] == []
    assert errors == []


def test_a_deck_shows_every_slide_whole_by_the_arrow_key(deck: Page) -> None:
    steps = deck.evaluate("Reveal.getTotalSlides() + document.querySelectorAll('.fragment').length")
    seen = set()
    for step in range(steps):
        seen.add(deck.evaluate("Reveal.getIndices().h"))
        assert deck.evaluate(OVERFLOW) == [], f"slide {deck.evaluate('Reveal.getIndices().h') + 1}"
        assert deck.evaluate("Reveal.isLastSlide() && !Reveal.availableFragments().next") == (step == steps - 1)
        deck.keyboard.press("ArrowRight")
    assert seen == set(range(deck.evaluate("Reveal.getTotalSlides()")))
    deck.keyboard.press("ArrowLeft")


def test_formulas_are_drawn_and_no_markup_is_left(deck: Page) -> None:
    words = deck.evaluate("""() => {
        document.querySelectorAll("aside, .katex, pre, code").forEach((part) => part.remove());
        return document.querySelector(".slides").textContent;
    }""")
    assert re.findall(r"\$|\x00|\{[a-z:]+\}|```|\]\(|:label:", words) == []


SMALL = """() => {
    const words = document.createTreeWalker(document.querySelector(".slides"), NodeFilter.SHOW_TEXT), found = [];
    while (words.nextNode()) {
        const { data, parentElement } = words.currentNode;
        if (!data.trim() || parentElement.closest("aside, .katex, mixer-proof > p:last-child")) continue;
        if (!parentElement.checkVisibility({ visibilityProperty: true, opacityProperty: true })) found.push(data);
        else if (parseFloat(getComputedStyle(parentElement).fontSize) < 12) found.push(data);
    }
    return [found, innerWidth >= document.documentElement.scrollWidth];
}"""


# What is wider than a phone and does not scroll in its box, or does not say so.
UNSIGNED = """() => {
    const wide = [...document.querySelectorAll(".slides :is(pre, .katex-display, table):not(mixer-proof *, aside *)")]
        .filter((box) => box.scrollWidth > box.clientWidth + 1);
    const unsigned = ({ overflowX, backgroundImage }) => overflowX !== "auto" || backgroundImage === "none";
    return wide.filter((box) => unsigned(getComputedStyle(box))).map((box) => box.textContent.slice(0, 60));
}"""


@pytest.mark.parametrize("name", DECKS)
def test_a_phone_shows_all_slides_in_letters_that_can_be_read(browser: Browser, site: str, name: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{site}slides/{name}.html", wait_until="load")
    assert page.evaluate(SMALL) == [[], True]
    gaps = page.evaluate(
        "() => [...document.querySelectorAll('.katex-html > .tag')].map(tag => tag.getBoundingClientRect().left"
        " - Math.max(...[...tag.parentElement.querySelectorAll(':scope > .base')]"
        ".map(base => base.getBoundingClientRect().right)))"
    )
    assert all(gap > 0 for gap in gaps), gaps  # an equation's number stands beside it
    assert page.evaluate(UNSIGNED) == []
    page.set_viewport_size({"width": 844, "height": 390})
    page.wait_for_function("window.Reveal?.isReady()")  # turned, it is a deck
    page.close()
