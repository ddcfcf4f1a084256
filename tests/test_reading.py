"""What a reader's eyes meet on every page: nothing stretched, hidden, empty or cut, and in the book's own fonts."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fontTools.ttLib import TTFont
from playwright.sync_api import Browser, Page, expect

from conftest import HTML, ROOT, SHOW, needs_html
from tools.browser import ARGUMENTS, chromium
from tools.claims import load

pytestmark = needs_html
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.glob("book/*.html"))
OTHERS = ["search.html", "genindex.html", "prf-prf.html", "py-modindex.html"]
WAYS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]

# Every picture that is seen is asked for and waited for; then the faults, in words.
FAULTS = r"""async () => {
  await document.fonts.ready;
  const root = document.querySelector("article"), found = [];
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getBoundingClientRect().width > 0;
  const name = (e) => (e.alt || e.textContent || e.tagName).trim().replace(/\s+/g, " ").slice(0, 60);
  const images = [...root.querySelectorAll("img")].filter(seen);
  images.forEach((image) => { image.loading = "eager"; });
  await Promise.all(images.map((image) => image.decode()));
  for (const image of images) {
    const ratio = (image.naturalWidth / image.naturalHeight) / (image.clientWidth / image.clientHeight);
    if (Math.abs(ratio - 1) > 0.02) found.push(`stretched ${ratio.toFixed(2)} times: ${name(image)}`);
  }
  for (const live of root.querySelectorAll(".live:not(mixer-break)")) {
    if (!live.parentElement.matches("figure")) found.push(`no figure: ${live.tagName}`);
  }
  for (const figure of root.querySelectorAll("figure:has(img, svg, .live):not(.live *, .lab *)")) if (seen(figure)) {
    const caption = figure.querySelector(":scope > figcaption");
    if (!caption || !seen(caption) || !caption.textContent.trim()) found.push(`no caption: ${name(figure)}`);
    else if (!/^Fig\. \d+/.test(caption.textContent.trim())) found.push(`no number: ${name(caption)}`);
  }
  for (const output of root.querySelectorAll(".cell_output")) {
    const parts = [...output.querySelectorAll(":scope > .output")];
    parts.forEach((part, k) => {
      const stream = (p) => p?.classList.contains("stream");
      const full = part.textContent.trim() || part.querySelector("img, svg, canvas");
      if (seen(part) && !full) found.push("an empty output");
      if (stream(part) && stream(parts[k - 1])) found.push(`one output in two boxes: ${name(part)}`);
    });
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 1) found.push(`wider than the window by ${wide} px`);
  const signed = (e) => [e, e.parentElement, e.parentElement.parentElement]
    .some((box) => getComputedStyle(box).backgroundImage !== "none");
  for (const content of root.querySelectorAll(".katex-display, table, pre")) if (seen(content)) {
    const box = content.tagName === "TABLE" ? content.parentElement : content;
    if (box.scrollWidth > box.clientWidth + 2) {
      if (!signed(box)) found.push(`cut without a sign: ${name(content)}`);
      if (!/auto|scroll/.test(getComputedStyle(box).overflowX)) found.push(`cut for good: ${name(content)}`);
    }
  }
  for (const formula of root.querySelectorAll("div.math")) if (seen(formula)) {
    const { top, bottom } = formula.querySelector(".katex-display").getBoundingClientRect();
    const [before, after] = [formula.previousElementSibling, formula.nextElementSibling];
    if (!before?.matches("p") || !after?.matches("p")) continue;
    const gaps = [top - before.getBoundingClientRect().bottom, after.getBoundingClientRect().top - bottom];
    if (Math.abs(gaps[0] - gaps[1]) > 4) found.push(`nearer to one side, ${gaps}: ${name(formula)}`);
    const { scrollWidth, clientWidth } = formula.querySelector(".katex-display");
    const over = scrollWidth - clientWidth;
    if (over > 0 && over < 12) found.push(`scrolls by ${over} pixels: ${name(formula)}`);
  }
  for (const formula of root.querySelectorAll(".katex")) if (seen(formula)) {
    const block = formula.closest("p, li, td, th, dd, figcaption, h1, h2, h3, h4, div").getBoundingClientRect();
    const parts = formula.closest(".katex-display") ? [] : [...formula.querySelectorAll(".base")];
    const right = Math.max(0, ...parts.map((part) => part.getBoundingClientRect().right));
    if (right > Math.min(block.right, innerWidth) + 1) found.push(`a formula cut for good: ${name(formula)}`);
    const edges = parts.map((part) => part.getBoundingClientRect());
    const width = edges.reduce((sum, edge) => sum + edge.width, 0);
    if (width < 180 && edges.some(({ left }, k) => k && left < edges[k - 1].left)) {
      found.push(`a short formula in two lines: ${name(formula)}`);
    }
    const after = formula.closest(".math")?.nextSibling;
    if (parts.length === 1 && /^[,.;:!?)’”]/.test(after?.data)) {
      const sign = document.createRange();
      sign.setStart(after, 0), sign.setEnd(after, 1);
      const [last] = parts.slice(-1), { left } = sign.getBoundingClientRect();
      if (left < last.getBoundingClientRect().right - 2) found.push(`its sign begins a line: ${name(formula)}`);
    }
  }
  for (const tag of root.querySelectorAll(".katex-display .tag")) if (seen(tag)) {
    const { left, top, bottom } = tag.getBoundingClientRect();
    const clear = getComputedStyle(tag).backgroundImage === "none"; // it would be printed over what is under it
    for (const base of tag.parentElement.querySelectorAll(":scope > .base")) {
      const under = base.getBoundingClientRect();
      const covered = under.top >= top - 1 && under.bottom <= bottom + 1;
      if (under.right > left + 1 && (clear || !covered)) found.push(`a number over its formula: ${name(tag)}`);
    }
    const bases = [...tag.parentElement.querySelectorAll(":scope > .base")].map((e) => e.getBoundingClientRect());
    const box = tag.closest(".katex-display").getBoundingClientRect();
    const room = [bases[0].left - box.left, tag.getBoundingClientRect().left - bases.at(-1).right];
    if (room[1] < -1 && room[0] > 4) found.push(`a number over its formula in spite of room: ${name(tag)}`);
  }
  for (const table of root.querySelectorAll(".pst-scrollable-table-container[tabindex='0']")) if (seen(table)) {
    const rows = [...table.querySelectorAll("tr")], other = [...table.querySelectorAll("tr > :not(:first-child)")];
    const opaque = [...rows, ...other].some((e) => getComputedStyle(e).backgroundColor !== "rgba(0, 0, 0, 0)");
    if (opaque) found.push(`a table hides that it goes on: ${name(table)}`);
    const first = rows[0].firstElementChild, before = first.getBoundingClientRect().left;
    table.scrollLeft = 1e4;
    if (Math.abs(first.getBoundingClientRect().left - before) > 1) found.push(`no first column: ${name(table)}`);
    table.scrollLeft = 0;
  }
  for (const box of root.querySelectorAll(".pst-scrollable-table-container, pre, .katex-display")) if (seen(box)) {
    if (box.tabIndex === 0 && box.scrollWidth <= box.clientWidth) found.push(`nothing to scroll: ${name(box)}`);
  }
  for (const words of root.querySelectorAll("p, li, td, dd, figcaption, div.lab")) {
    if (/vermilion/.test(words.textContent)) found.push(`a colour of one theme: ${name(words)}`);
  }
  for (const code of root.querySelectorAll("code .pre")) if (seen(code) && code.getClientRects().length > 1) {
    const signs = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), place = document.createRange();
    let last = "", line;
    while (signs.nextNode()) for (let k = 0; k < signs.currentNode.length; k++) {
      place.setStart(signs.currentNode, k), place.setEnd(signs.currentNode, k + 1);
      const { top } = place.getBoundingClientRect(), sign = signs.currentNode.data[k];
      if (top > line + 4 && /[A-Za-z\d]{2}/.test(last + sign)) found.push(`broken within a part: ${name(code)}`);
      [last, line] = [sign, top];
    }
  }
  for (const code of root.querySelectorAll(":is(p, li, dd) code")) if (seen(code) && !code.closest("td, th")) {
    const over = code.getBoundingClientRect().right - code.closest("p, li, dd").getBoundingClientRect().right;
    if (over > 1) found.push(`sticks out by ${over.toFixed(1)} pixels: ${name(code)}`);
  }
  for (const words of root.querySelectorAll("dl.py > dd:empty")) found.push(`no words: ${name(words.parentElement)}`);
  const looks = [...root.querySelectorAll(".cell_output > .printed, .cell_output pre")].filter(seen)
    .map((box) => getComputedStyle(box))
    .map((look) => `${look.backgroundColor} ${look.borderTopWidth} ${look.borderTopColor}`);
  if (new Set(looks).size > 1) found.push(`outputs of several looks: ${[...new Set(looks)].join("; ")}`);
  for (const question of root.querySelectorAll(".quiz legend")) {
    if (getComputedStyle(question).float === "none") found.push(`a question upon its line: ${name(question)}`);
  }
  for (const words of root.querySelectorAll("h1, h2, h3, h4, figcaption")) {
    const text = words.textContent.replace(words.querySelector(".caption-number")?.textContent, "");
    if (/(?<!paper[’']s )Fig\. \d/.test(text) && !/claims/.test(location)) found.push(`whose figure? ${name(words)}`);
  }
  const text = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (text.nextNode()) {
    const { data, parentElement } = text.currentNode;
    const plain = /Eq\. \(\d/.test(data) && !parentElement.closest("a, pre, code, h2, h3, figcaption, .lab, .live");
    if (plain) found.push(`leads nowhere: ${data.trim().slice(0, 60)}`);
    const [prime] = data.match(/(?<![\p{L}\d’])\p{L}’(?!\p{L}).{0,20}/u) ?? [];
    if (prime) found.push(`an apostrophe for a prime: ${prime}`);
  }
  for (const code of root.querySelectorAll("pre")) if (seen(code)) {
    if (getComputedStyle(code).whiteSpace !== "pre") found.push(`code wraps: ${name(code)}`);
    const columns = /^ |\S {2,}\S/m.test(code.textContent);
    if (code.closest(".cell_output") && !columns) found.push(`words do not wrap: ${name(code)}`);
  }
  if (document.documentElement.dataset.theme === "dark") {
    for (const box of root.querySelectorAll(":is(div, p, pre, table, details):not(.live *, .lab *)")) if (seen(box)) {
      const [red, green, blue, shown = 1] = getComputedStyle(box).backgroundColor.match(/[\d.]+/g).map(Number);
      if (shown > 0.5 && red + green + blue > 3 * 128) found.push(`light in the dark: ${name(box)}`);
    }
  }
  for (const mark of root.querySelectorAll(".exercise-done")) if (seen(mark)) {
    const [inner, outer] = [mark, mark.parentElement].map((e) => e.getBoundingClientRect());
    if (inner.bottom > outer.bottom + 1) found.push(`out of its title: ${name(mark.parentElement)}`);
  }
  return found;
}"""


# All is unfolded, and browsers say when something has another size before they draw.
UNFOLDED = r"""async () => {
  await document.fonts.ready;
  document.querySelectorAll("main details").forEach((details) => { details.open = true; });
  document.querySelectorAll("main .toggle-hidden").forEach((box) => box.classList.remove("toggle-hidden"));
  for (let n = 0; n < 3; n++) await new Promise(requestAnimationFrame);
}"""
TABLES = r"""() => {
  const found = [];
  for (const box of document.querySelectorAll("article .cell_output pre")) {
    if (box.scrollWidth > box.clientWidth + 1) found.push(`scrolls: ${box.textContent.slice(0, 60)}`);
  }
  for (const box of document.querySelectorAll("article .pst-scrollable-table-container")) {
    const [table] = box.children, name = table.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
    const cut = box.scrollWidth > box.clientWidth + 1, cards = table.matches(".cards");
    if (cut) found.push(`scrolls: ${name}`);
    for (const cell of table.querySelectorAll(".to-fill td:not(:first-child), .to-fill td:only-child")) {
      const { width, height } = cell.getBoundingClientRect();
      if (width < 40 || height < 40) found.push(`no room to write: ${name}`);
      if (cards && getComputedStyle(cell, "::before").visibility === "hidden") found.push(`what to write? ${name}`);
    }
    if (cards && innerWidth > 640) found.push(`cards on a desk: ${name}`);
    if (cut && box.tabIndex !== 0) found.push(`out of reach: ${name}`);
    if (!box.tabIndex && box.scrollWidth <= box.clientWidth) found.push(`nothing to scroll: ${name}`);
    const lines = (cell) => {
      const words = document.createRange();
      words.selectNodeContents(cell);
      return words.getBoundingClientRect().height / parseFloat(getComputedStyle(cell).lineHeight);
    };
    const many = [...table.tBodies[0].rows].filter(({ cells }) => cells.length > 3);
    const high = many.some(({ cells }) => [...cells].some((cell, k) => lines(cell) > (k ? 2.5 : 4.5)));
    if (!cards && innerWidth < 640 && high) found.push(`squeezed: ${name}`);
    for (const cell of table.querySelectorAll("td[style*='right']")) {
      if (!cards && lines(cell) > 1.5) found.push(`broken: ${cell.textContent}`);
    }
    if (cards) for (const cell of table.querySelectorAll("tbody > tr > *")) {
      const title = getComputedStyle(cell, "::before").content;
      const column = table.querySelectorAll("thead th")[cell.cellIndex];
      if (!title.startsWith(`"${column.textContent}`) || !title.endsWith('/ ""')) found.push(`no title: ${name}`);
      if (cell.scrollWidth > cell.clientWidth + 1) found.push(`cut in its card: ${cell.textContent}`);
      const side = cell.matches(":is(:first-child, :last-child):not(.to-fill *)");
      const blank = side && !cell.textContent.trim() && cell.checkVisibility();
      if (blank) found.push(`a blank strip: ${cell.parentElement.textContent}`);
    }
  }
  return found;
}"""


# Every control in turn takes the focus, as a keyboard gives it.
UNSEEN_FOCUS = r"""() => {
  const controls = "a[href], button, input, select, summary, video, [tabindex='0']", found = [];
  for (const control of document.querySelectorAll(controls)) {
    if (!control.checkVisibility({ visibilityProperty: true }) || control.disabled) continue;
    control.focus({ focusVisible: true });
    if (document.activeElement !== control) found.push(`takes no focus: ${control.outerHTML.slice(0, 80)}`);
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(control);
    const ring = outlineStyle === "solid" && parseFloat(outlineWidth) >= 2 && !/, 0\)|transparent/.test(outlineColor);
    if (!ring) found.push(`no ring: ${control.outerHTML.slice(0, 80)}`);
  }
  return found;
}"""


CUT_ON_PAPER = r"""() => {
  const cut = [...document.querySelectorAll("article :is(pre, .katex-display, .pst-scrollable-table-container)")]
    .filter((box) => box.checkVisibility() && box.getBoundingClientRect().left + box.scrollWidth > innerWidth + 1);
  const faded = [...document.querySelectorAll("article :is(pre, .katex-display)")]
    .filter((box) => getComputedStyle(box).backgroundImage !== "none");
  const name = (box) => box.textContent.trim().slice(0, 60);
  const buttons = [...document.querySelectorAll("details.hide > summary")].filter((words) => words.checkVisibility());
  const untitled = [...document.querySelectorAll("article h1")].filter((title) => !title.checkVisibility());
  const narrow = [...document.querySelectorAll(".to-fill td:not(:first-child), .to-fill td:only-child")]
    .filter((cell) => cell.getBoundingClientRect().width < 60 || cell.getBoundingClientRect().height < 40);
  return [["cut", cut], ["faded", faded], ["no title", untitled], ["a button", buttons], ["no room to write", narrow]]
    .flatMap(([fault, boxes]) => boxes.map((box) => `${fault}: ${name(box)}`));
}"""
# Each "Fig. n" of the text, and the address of the link that it stands in.
MENTIONS = r"""() => {
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const { data, parentElement } = walker.currentNode;
    if (parentElement.closest("pre, code, h1, h2, h3, h4, figcaption, .live, script")) continue;
    const link = parentElement.closest("a");
    for (const { 0: name, index } of data.matchAll(/Fig\. \d+/g)) {
      const before = data.slice(0, index) || (link?.previousSibling?.textContent ?? "");
      found.push([name, link?.href ?? "", /paper[’']s $/.test(before) ? "the paper's" : ""]);
    }
  }
  return found;
}"""


# Wider than the window, before anything is unfolded.
SIDEWAYS = """() => {
  const wide = document.documentElement.scrollWidth - innerWidth;
  return wide > 0 ? [`scrolls sideways by ${wide} px`] : [];
}"""
Found = dict[str, dict[str, list[Any]]]  # of each page, what each question found


def look(page: Page, name: str, width: int) -> dict[str, list[Any]]:
    """All that several tests judge, of a page that is loaded once, in the dark; what changes it comes last."""
    text = name in PAGES  # the indexes and the search have none
    found = {"dark": page.evaluate(FAULTS)} if text else {}
    page.evaluate(SHOW, "light")
    found |= {"light": page.evaluate(FAULTS), "mentions": page.evaluate(MENTIONS)} if text else {}
    found |= {"sideways": page.evaluate(SIDEWAYS), "focus": page.evaluate(UNSEEN_FOCUS)}
    if text and width == 1280:  # A4 with the browser's margins of 1 cm
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        found["paper"] = page.evaluate(CUT_ON_PAPER)
    elif text:
        page.evaluate(UNFOLDED)
        found["phone"] = page.evaluate(TABLES)
        found["cards"] = [  # what who listens hears, and what is there
            {role: table.get_by_role(role).count() for role in ("row", "cell")}
            | {
                "header": table.get_by_role("columnheader").all_text_contents(),
                "tr": table.locator("tr").count(),
                "last": table.get_by_role("row").last.locator("td, th").count(),
            }
            for table in page.locator("table.cards").all()
        ]
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate(UNFOLDED)
        found["desk"] = page.evaluate(TABLES)
    return found


@pytest.fixture(scope="module")
def walk(browser: Browser, site: str) -> Callable[[int], Found]:
    """What is found on all pages at one width."""

    @cache
    def through(width: int) -> Found:
        context = browser.new_context()
        context.add_init_script("localStorage.mode = localStorage.theme = 'dark'")
        page, found = context.new_page(), {}
        for name in [*PAGES, *OTHERS]:
            page.goto("about:blank")  # has another size, and is on a screen again, in no time
            page.emulate_media(media="screen")
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(site + name)
            found[name] = look(page, name, width)
        context.close()
        return found

    return through


def faults(found: Found, question: str) -> list[str]:
    return [f"{name}: {fault}" for name, answers in found.items() for fault in answers.get(question, [])]


@pytest.mark.parametrize(("width", "theme"), WAYS)
def test_no_page_has_a_fault_of_layout(walk: Callable[[int], Found], width: int, theme: str) -> None:
    assert faults(walk(width), theme) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_scrolls_sideways(walk: Callable[[int], Found], width: int) -> None:
    assert faults(walk(width), "sideways") == []


def test_a_table_too_wide_for_a_phone_is_a_card_for_each_row(walk: Callable[[int], Found]) -> None:
    found = walk(390)
    assert faults(found, "phone") == faults(found, "desk") == []
    cards = [(name, heard) for name in PAGES for heard in found[name]["cards"]]
    for name, heard in cards:
        header = heard["header"]
        assert heard["row"] == heard["tr"] >= 2
        assert len(header) == heard["last"] == len(set(header)), name
        assert heard["cell"] >= (heard["row"] - 1) * (len(header) - 1)
    assert len(cards) >= 9


def test_paper_cuts_nothing_and_has_titles_and_room(walk: Callable[[int], Found]) -> None:
    assert faults(walk(1280), "paper") == []


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_shows_that_it_has_the_focus(walk: Callable[[int], Found], width: int) -> None:
    assert faults(walk(width), "focus") == []


LED_TO = """() => {
  const target = document.querySelector(":target");
  const words = target.querySelector(":scope > figcaption") ?? target.closest("section").querySelector("h1, h2, h3");
  return words.textContent;
}"""


def test_every_figure_that_the_text_names_is_led_to(walk: Callable[[int], Found], browser: Browser, site: str) -> None:
    """Those of the book to the figure of that number, those of the paper to the claims ledger, and the words say so."""
    mentions = set[tuple[str, str]]()
    for name, found in walk(1280).items():
        for figure, url, whose in found.get("mentions", []):
            mentions.add((url, figure))
            assert name == "book/claims.html" or bool(whose) == ("claims.html#" in url), f"{name}: whose {figure}?"
    assert len(mentions) >= 8
    page = browser.new_page()
    for url, figure in sorted(mentions):  # so that a page is loaded once
        assert url, f"{figure} leads nowhere"
        page.goto(url)
        assert re.search(rf"{re.escape(figure)}\b", page.evaluate(LED_TO)), f"{figure} leads to {url}"
    page.close()


def test_no_line_breaks_before_a_per_cent_sign_or_within_a_number_or_size() -> None:
    """Cells show what they computed as it is, and alone."""
    as_it_is = re.compile(r"<(pre|code|table|script|style)\b.*?</\1>", re.DOTALL)
    texts = {name: as_it_is.sub("", (HTML / name).read_text()) for name in PAGES}
    broken = re.compile(r"\d[ \n](?:%|× \d).{0,40}")
    assert {name: found for name, text in texts.items() if (found := broken.findall(text))} == {}
    printed = re.findall(r'<p class="[^"]*printed[^>]*>(.*?)</p>', " ".join(texts.values()), re.DOTALL)
    assert [text for text in printed if re.search(r"\de-\d", text)] == []
    assert any("e-\N{WORD JOINER}0" in text for text in printed)
    for joined in ("\N{NO-BREAK SPACE}%", "8\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}8"):
        assert any(joined in text for text in texts.values())


def test_a_phone_says_that_a_figure_can_be_enlarged(browser: Browser, site: str) -> None:
    """Labels of ten points are nine pixels high there, and fifteen on a desk."""
    sign = "(e) => getComputedStyle(e, '::after').content"
    page = browser.new_page()
    page.goto(site + "book/patch-embedding.html")
    for width, media, expected in ((390, "screen", '"Enlarge"'), (390, "print", "none"), (1280, "screen", "none")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media=media)  # type: ignore[arg-type]
        links = page.locator("a.full-size:visible")
        assert {link.evaluate(sign) for link in links.all()} == {expected}
    page.close()


def test_links_to_code_lead_to_that_code(browser: Browser, site: str) -> None:
    page = browser.new_page()
    page.goto(site + "book/claims.html")
    links = page.locator("a[href*='#cell-']").evaluate_all("links => links.map(link => link.href)")
    entries = {entry["page"]: entry["cell"] for entry in load()}  # the last of each page
    assert len(links) >= 35
    cells = {}
    for url in links:
        path, _, cell = url.removeprefix(site).partition("#")
        text = (HTML / path).read_text(encoding="utf-8")
        found = re.search(rf'<div class="cell ([^>]*)id="{cell}">.*?<pre>(.*?)</pre>', text, re.DOTALL)
        assert found, url
        cells[url] = found
    for name, fragment in entries.items():
        if name:
            url = [url for url in links if f"{name}.html#cell-" in url][-1]
            assert fragment in unescape(re.sub(r"<.*?>", "", cells[url][2])), url
    page.goto(next(url for url, found in cells.items() if "hide-input" in found[1]))
    expect(page.locator("div.cell:target div.cell_input pre")).to_be_visible(timeout=60_000)  # a busy machine is slow
    page.close()


@pytest.mark.parametrize("page", ["prf-prf.html", "genindex.html", "search.html"])
def test_indexes_have_words_and_no_labels(page: str) -> None:
    words = Words((HTML / page).read_text(encoding="utf-8"))
    assert not re.search(r"\b(thm|lem|cor|def|ex|fig|eq)-[a-z]", " ".join(words.lines))
    if page == "prf-prf.html":
        assert "Theorem 2: A first layer absorbs any invertible map, in one way" in words.lines


def test_the_glossary_is_in_the_order_of_the_alphabet() -> None:
    glossary = (ROOT / "book" / "notation.md").read_text(encoding="utf-8").partition("```{glossary}\n")[2]
    terms = re.findall(r"^(\w.*)\n  \w", glossary, re.MULTILINE)
    assert len(terms) >= 50
    assert terms == sorted(terms, key=str.casefold)


def test_a_link_to_the_site_alone_says_what_it_is() -> None:
    front, welcome = ((HTML / name).read_text(encoding="utf-8") for name in ("index.html", "book/welcome.html"))
    tags = re.findall(r'<meta (?:name|property)="[^"]+" content="[^"]*" />', welcome)
    assert {re.split('"', tag)[1] for tag in tags} >= {"description", "og:title", "og:description"}
    assert [tag for tag in tags if tag not in front and re.search(r"og:|citation_|description|author", tag)] == []


class Words(HTMLParser):
    """The text of a page, of code and of all else; formulas bring fonts of their own."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.text, self.code, self.lines = set[str](), set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("br", "img", "input", "link", "meta", "hr", "path", "source", "wbr", "col"):
            self.open.append((tag, dict(attributes).get("class")))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if tags & {"script", "style", "title", "head"} or any("katex" in (name or "") for _, name in self.open):
            return
        self.lines.append(data)
        (self.code if tags & {"pre", "code", "kbd"} else self.text).update(data)


def japanese(sign: str) -> bool:
    """The glossary's third column, which its readers' machines have fonts for: one would be larger than the book."""
    return unicodedata.name(sign, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"))


def test_the_books_fonts_have_every_sign_of_its_pages() -> None:
    """One that they lack would be drawn with whatever the reader's machine has."""
    sheet = (HTML / "_static" / "fonts.css").read_text(encoding="utf-8")
    drawn: dict[str, set[int]] = {"Mixer Text": set(), "Mixer Code": set()}
    for family, url in re.findall(r'"(Mixer \w+)[^"]*"; ?src: url\("?(.*?)"?\)', sheet.replace("\n", " ")):
        drawn[family] |= set(TTFont(HTML / "_static" / url).getBestCmap())
    for name in PAGES:
        words = Words((HTML / name).read_text(encoding="utf-8"))
        for family, signs in (("Mixer Text", words.text), ("Mixer Code", words.code)):
            wanted = {sign for sign in signs if sign.isprintable() and not japanese(sign)}
            assert {sign for sign in wanted if ord(sign) not in drawn[family]} == set(), name


LAYOUT = """async () => {
  await document.fonts.ready;
  document.querySelector(".bd-sidebar-primary").scrollTop = 0; // the theme scrolls it, before or after fonts come
  const boxes = [...document.querySelectorAll("body :not(math, math *)")].map((element) => {
    const { x, y, width, height } = element.getBoundingClientRect();
    return [element.tagName, ...[x, y, width, height].map((value) => Math.round(10 * value) / 10)];
  });
  return boxes.filter(([, , , width]) => width > 0);
}"""
FONTS = '<!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><dir>{}</dir><cachedir>{}</cachedir></fontconfig>'


def test_pages_measure_the_same_whatever_fonts_a_machine_has(browser: Browser, site: str, tmp_path: Path) -> None:
    """One browser with the machine's fonts, one with KaTeX's typewriter and script faces alone."""
    others = tmp_path / "fonts"
    others.mkdir()
    for face in ("Typewriter-Regular", "Script-Regular"):
        file = ROOT / "node_modules" / "katex" / "dist" / "fonts" / f"KaTeX_{face}.ttf"
        (others / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "fonts.conf"
    config.write_text(FONTS.format(others, tmp_path / "cache"))
    environment: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(config)}
    other = browser.browser_type.launch(executable_path=chromium(), args=ARGUMENTS, env=environment)
    for name in ("book/welcome.html", "book/image-cipher.html", "book/claims.html"):
        for width in (390, 1280):
            seen = []
            for one in (browser, other):
                page = one.new_page(viewport={"width": width, "height": 900})
                page.goto(site + name)
                seen.append(page.evaluate(LAYOUT))
                page.close()
            assert seen[0] == seen[1], f"{name} at {width} pixels"
    other.close()
