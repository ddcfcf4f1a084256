"""The built site in a browser and on a static host: offline, light, found, cited. `make test` builds it first."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from book._ext import site as metadata
from book._ext.lean import compress, with_size
from conftest import ROOT
from tools.weigh import SITE, Visit, pages, visit

MEGABYTE = 1_000_000
LIMITS = {"book/welcome.html": 1.0, "book/convmixer.html": 1.0}  # megabytes, all requests together
HEAVY = 1.8  # the same for every other page
REQUESTS = 60


@pytest.fixture(scope="module")
def visits(browser: Browser, site: str) -> dict[str, Visit]:
    """Every page, read to its end."""
    return {page: visit(browser, site + page) for page in pages()}


def test_no_page_asks_another_host_or_for_what_is_not_there(visits: dict[str, Visit], site: str) -> None:
    assert len(visits) >= 20
    for page, seen in visits.items():
        assert seen.requests[0] == site + page
        assert [url for url in seen.requests if not url.startswith(site)] == [], page
        assert seen.failed == [], page
        assert seen.errors == [], page


def test_pages_are_light(visits: dict[str, Visit]) -> None:
    for page, seen in visits.items():
        assert seen.bytes <= LIMITS.get(page, HEAVY) * MEGABYTE, f"{page}: {seen.bytes:,} bytes"
        assert len(seen.requests) <= REQUESTS, f"{page}: {len(seen.requests)} requests"


SHIFT = """new Promise((resolve) => {
  let total = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) total += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  const step = (y) => {
    scrollTo({ top: y, behavior: "instant" });
    if (y < document.body.scrollHeight) requestAnimationFrame(() => step(y + 600));
    else setTimeout(() => resolve(total), 300);
  };
  step(0);
})"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["welcome", "convmixer", "model-encryption"])
def test_nothing_moves_while_a_page_loads(browser: Browser, site: str, page: str, width: int) -> None:
    window = browser.new_page(viewport={"width": width, "height": 900})
    window.goto(f"{site}book/{page}.html")
    assert window.evaluate(SHIFT) < 0.01
    window.close()


def test_the_readers_place_and_exercises_are_remembered_and_forgotten(browser: Browser, site: str) -> None:
    context = browser.new_context()
    page, resume = context.new_page(), "#resume"
    page.goto(f"{site}book/welcome.html")
    expect(page.locator(resume)).to_be_hidden()
    page.goto(f"{site}book/image-cipher.html")
    page.locator(".exercise-done input").nth(1).check()
    page.locator("section[id] > h2").nth(2).evaluate("(e) => e.scrollIntoView({ behavior: 'instant' })")
    heading = page.locator("section[id] > h2").nth(2).evaluate("(e) => e.firstChild.textContent")
    page.goto(f"{site}book/welcome.html")
    expect(page.locator(resume)).to_contain_text(f"“{heading}”")
    expect(page.locator(resume)).to_contain_text("1 exercise done.")
    page.locator(f"{resume} a").click()
    page.wait_for_url("**/image-cipher.html#*")
    expect(page.locator("section:target h2").first).to_contain_text(heading, timeout=60_000)
    expect(page.locator(".exercise-done input").nth(1)).to_be_checked()
    expect(page.locator(".exercise-done input").first).not_to_be_checked()
    page.go_back()
    page.get_by_role("button", name="Forget this").click()
    expect(page.locator(resume)).to_be_hidden()
    assert page.evaluate("localStorage.mixerkey") is None
    context.close()


def test_dark_pages_load_the_dark_figures_and_no_light_ones(
    browser: Browser, site: str, visits: dict[str, Visit]
) -> None:
    name = "book/convmixer.html"
    themes = {"light": visits[name], "dark": visit(browser, site + name, color_scheme="dark")}
    seen = {theme: {Path(url).name for url in visited.requests} for theme, visited in themes.items()}
    page = (SITE / "book" / "convmixer.html").read_text(encoding="utf-8")
    tags = re.findall(r"<img[^>]*_images/[^>]*>", page)
    names = {
        theme: {re.search(r"_images/([^\"]+)", tag)[1] for tag in tags if f"only-{theme}" in tag}  # type: ignore[index]
        for theme in seen
    }
    assert len(names["dark"]) == len(names["light"]) >= 3
    for theme, other in (("light", "dark"), ("dark", "light")):
        assert names[theme] <= seen[theme]
        assert not names[other] & seen[theme]


def test_search_finds_a_word(browser: Browser, site: str) -> None:
    window = browser.new_page()
    window.goto(f"{site}book/welcome.html")
    window.keyboard.press("Control+k")
    window.locator("#pst-search-dialog input").fill("depthwise")
    window.keyboard.press("Enter")
    hit = window.locator(".found-sections li", has_text="ConvMixer").first.locator("a")
    hit.wait_for(timeout=60_000)
    hit.click()
    window.wait_for_url(f"{site}book/*.html*")
    window.close()


@pytest.mark.parametrize(
    ("query", "page", "section"),
    [("Eq. (8)", "model-encryption", "eq-8"), ("key space", "experiments", None), ("sign flip", "image-cipher", None)],
)
def test_search_leads_to_the_section(browser: Browser, site: str, query: str, page: str, section: str | None) -> None:
    window = browser.new_page()
    window.goto(f"{site}search.html?{urlencode({'q': query})}")
    first = window.locator(".found-sections a").first
    first.wait_for(timeout=60_000)
    found = window.locator(".found-sections a").evaluate_all("links => links.map(link => link.href)")
    assert any(f"/{page}.html#" in link for link in found), found
    assert f"/{page}.html#" in found[0] or query == "sign flip"
    excerpt = window.locator(".found-sections p").first.inner_text()
    assert excerpt.lower().find("(8)" if section else query.split()[0]) >= 0, excerpt
    script = (SITE / "_static" / "sections.js").read_text(encoding="utf-8")
    sections = json.loads(script.removeprefix("const SECTIONS = ").rstrip().removesuffix(";"))
    assert [s["id"] for s in sections if re.search(r"\b(?:ex|quiz|thm|claim)-[a-z]+-", s["text"])] == []  # but titles
    folded = ["the network is isotropic", "Right. ", "Wrong. "]
    assert [s["id"] for s in sections if any(answer in s["text"] for answer in folded)] == []
    whole = set(re.findall(r"\w+", re.sub("[_^]", "", script)))
    ends = [re.findall(r"\w+", text.replace("_", "")) for text in window.locator(".found-sections p").all_inner_texts()]
    assert [words for words in ends if not {words[0], words[-1]} <= whole] == []
    expect(window.locator("#search-results")).to_be_hidden()  # folded
    window.locator(".found-pages summary").click()
    expect(window.locator("#search-results li").first).to_be_visible(timeout=60_000)
    first.click()
    window.wait_for_url(f"{site}book/*.html#*")
    shown = window.evaluate("document.querySelector(location.hash).textContent.toLowerCase()")
    assert section is not None or all(word in shown for word in query.split())
    assert section is None or window.evaluate(f"document.querySelector(location.hash + ' [id*={section}]') !== null")
    assert not window.locator(".highlighted").count(), "parts of words are marked"
    window.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_search_shows_words_beside_its_icon_and_no_tex(browser: Browser, site: str, width: int) -> None:
    window = browser.new_page(viewport={"width": width, "height": 900})
    window.goto(f"{site}search.html?q=key+space")
    window.locator(".found-sections a").first.wait_for(timeout=60_000)
    places = """() => [...document.querySelectorAll(".bd-search input[type=search]")]
      .filter((field) => field.checkVisibility()).map((field) => {
        const { left } = field.getBoundingClientRect();
        const icon = field.closest("form").querySelector(".fa-magnifying-glass").getBoundingClientRect();
        return [icon.right, left + parseFloat(getComputedStyle(field).paddingLeft)];
      })"""
    found = window.evaluate(places)
    excerpts = window.locator(".found-sections p")
    assert excerpts.evaluate_all("all => all.every((e) => e.scrollWidth <= e.clientWidth)")
    window.goto(f"{site}book/welcome.html")
    window.keyboard.press("Control+k")  # the field above the page
    found += window.evaluate(places)
    assert len(found) == 2
    assert [pair for pair in found if pair[0] > pair[1]] == []
    window.close()
    sections = (SITE / "_static" / "sections.js").read_text(encoding="utf-8")
    assert not re.search(r"mathrm|\\\\top|\\\\Sigma|horn2013matrix", sections)


def test_formulas_are_drawn_and_numbered() -> None:
    numbers = []
    for path in SITE.glob("book/*.html"):
        page = path.read_text(encoding="utf-8")
        assert "katex-error" not in page, path.name
        assert not re.search(r"\\\(|\\\[|MathJax", re.sub(r"<(annotation|pre|code).*?</\1>", "", page, flags=re.S))
        numbers += re.findall(r'<span class="eqno">\((\d+)\)', page)
    assert sorted(numbers) == list("123456789")


ADDRESS, HOME = "https://github.com/group/book", "https://group.example/book"
CONFIG = """
import sys
sys.path.insert(0, {root!r})
extensions = ["myst_nb", "sphinx_book_theme", "sphinxcontrib.katex", "book._ext.lean", "book._ext.site"]
html_theme, html_title, author, copyright = "sphinx_book_theme", "Title", "Author", "2026"
html_math_renderer, katex_prerender, katex_css_path = "katex", True, "katex/katex.min.css"
html_theme_options, nb_execution_mode, nb_ipywidgets_js = {{}}, "off", {{}}
"""
NOTEBOOK = """{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source":
"# A chapter\\n\\nIts *first* words, $x^2$."}%s],
"metadata": {"kernelspec": {"name": "python3", "display_name": "Python"}},
"nbformat": 4, "nbformat_minor": 5}"""
ALT = '{"mystnb": {"image": {"alt": "A red field"}}}'
PICTURE = """, {"cell_type": "code", "id": "%s", "metadata": %s, "source": "draw()", "execution_count": 1, "outputs": [
{"output_type": "display_data", "metadata": {}, "data": {"image/png": "%s"}}]}"""


def build(folder: Path, welcome: str, cells: str = "", **environment: str) -> tuple[str, Path]:
    """Build a book of three small pages with the extensions; its warnings and where it lies."""
    source, out = folder / "source", folder / "site"
    (source / "book").mkdir(parents=True)
    (source / "conf.py").write_text(CONFIG.format(root=str(ROOT)))
    (source / "index.md").write_text("# Home\n\n```{toctree}\nbook/chapter\nbook/run\n```\n\n" + welcome)
    (source / "book" / "chapter.ipynb").write_text(NOTEBOOK % cells)
    (source / "book" / "run.md").write_text("# Run it\n\n## On your own computer\n\nSo.\n")
    Image.new("RGB", (40, 20), "red").save(source / "red.png")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(out)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MIXERKEY_")}
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr, out


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A small book whose addresses nobody knows: its warnings and where it lies. Of its two pictures and its two
    outputs, one each has alt text.
    """
    folder = tmp_path_factory.mktemp("unknown")
    Image.new("RGB", (40, 20), "red").save(folder / "red.png")
    drawn = base64.b64encode((folder / "red.png").read_bytes()).decode()
    cells = "".join(PICTURE % (id, metadata, drawn) for id, metadata in (("b", "{}"), ("c", ALT)))
    return build(folder, "![](red.png)\n\n![A red field](red.png)", cells, MIXERKEY_REPOSITORY="/srv/book.git")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book whose addresses are known."""
    folder = tmp_path_factory.mktemp("known")
    return build(folder, "Words.", MIXERKEY_REPOSITORY=f"{ADDRESS}.git", MIXERKEY_SITE=f"{HOME}/")[1]


def test_pages_whose_address_is_known_say_it(known: Path) -> None:
    chapter = (known / "book" / "chapter.html").read_text(encoding="utf-8")
    for part in (
        f'href="{HOME}/book/chapter.html"',  # canonical
        f'<meta property="og:url" content="{HOME}/book/chapter.html"',
        f'<meta property="og:image" content="{HOME}/social.png"',
        f'<meta name="citation_public_url" content="{HOME}/book/chapter.html"',
        'href="https://colab.research.google.com/github/group/book/blob/colab/book/chapter.ipynb"',
        'href="https://mybinder.org/v2/gh/group/book/main?urlpath=lab/tree/book/chapter.ipynb"',
        'href="run.html#on-your-own-computer"',
        f'href="{ADDRESS}/edit/main/book/chapter.ipynb"',
        f'To take along: <a href="{HOME}/the-mixer-key.pdf">PDF</a> and <a href="{HOME}/the-mixer-key.epub">EPUB</a>.',
        "btn-download-book-epub",
    ):
        assert part in chapter, part
    assert "mybinder" not in (known / "book" / "run.html").read_text(encoding="utf-8")  # nothing to run there


def test_the_copies_that_pages_lead_to_are_published() -> None:
    workflow = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    assert re.search(
        r"make pdf epub\n\s+cp _build/the-mixer-key.pdf _build/the-mixer-key.epub _build/html/\n", workflow
    )


def test_the_sitemap_lists_every_page(known: Path) -> None:
    tree = ElementTree.parse(known / "sitemap.xml")
    found = {element.text for element in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")}
    assert found == {f"{HOME}/{page}.html" for page in ("index", "book/chapter", "book/run")}


def test_the_title_and_the_citation_are_those_of_the_page(known: Path) -> None:
    chapter = (known / "book" / "chapter.html").read_text(encoding="utf-8")
    for part in (
        '<meta name="description" content="Its first words',
        '<meta property="og:title" content="A chapter"',
        '<meta name="citation_title" content="A chapter"',
        '<meta name="citation_author" content="Author"',
        '<meta name="citation_publication_date" content="2026',
        "@incollection{mixerkey-chapter,",
        f"url = {{{HOME}/book/chapter.html}}",
    ):
        assert part in chapter, part


def test_no_address_is_made_up(unknown: tuple[str, Path]) -> None:
    _, out = unknown
    chapter = (out / "book" / "chapter.html").read_text(encoding="utf-8")
    assert "run.html#on-your-own-computer" in chapter
    for part in ("colab.research", "mybinder", "og:url", "og:image", "canonical", "/edit/", "the-mixer-key."):
        assert part not in chapter, part
    assert not (out / "sitemap.xml").exists()


def test_an_image_without_alt_text_is_a_warning(unknown: tuple[str, Path]) -> None:
    warnings, out = unknown
    (warning,) = re.findall(r".*index\.md.*has no alt text.*", warnings)
    assert "red.png" in warning
    assert (out / "index.html").read_text(encoding="utf-8").count('width="40" height="20" loading="lazy"') == 2


def test_an_output_without_alt_text_is_a_warning(unknown: tuple[str, Path]) -> None:
    warnings, out = unknown
    assert len(re.findall(r"chapter\.ipynb.*has no alt text", warnings)) == 1
    assert (out / "book" / "chapter.html").read_text(encoding="utf-8").count('alt="A red field"') == 1


def test_make_book_stops_at_a_warning() -> None:
    assert "jupyter-book build . -W -n" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("git@forge.example:group/book.git", "https://forge.example/group/book"),
        ("ssh://git@forge.example:22/group/book", "https://forge.example/group/book"),
        ("https://reader:secret@forge.example/group/part/book.git", "https://forge.example/group/part/book"),
        ("/srv/git/book.git", None),
        ("../book", None),
        ("", None),
    ],
)
def test_a_remote_becomes_a_public_address_without_its_password(address: str, url: str | None) -> None:
    forge = metadata.parse(address)
    assert (forge and forge.url) == url


def test_compressing_a_picture_keeps_every_pixel(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    few = Image.new("RGBA", (64, 64), (10, 20, 30, 255))
    few.putpixel((3, 5), (200, 100, 50, 255))
    many = Image.frombytes("RGB", (64, 64), bytes(i * 7 % 256 for i in range(64 * 64 * 3)))
    for image in (few, many, Image.new("RGBA", (64, 64), (1, 2, 3, 128))):
        image.save(picture, compress_level=0)
        before = picture.stat().st_size
        kept = compress(picture)
        assert Image.open(kept).convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
        assert kept.stat().st_size < before
        assert kept == picture or not picture.exists()


def test_an_image_tag_gets_its_size_once(tmp_path: Path) -> None:
    Image.new("L", (7, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 12 8.0"></svg>')
    assert 'width="7" height="9" loading="lazy"' in with_size('<img src="a.png" />', tmp_path)
    assert 'width="12" height="8"' in with_size('<img src="b.svg" />', tmp_path)
    assert "height" not in with_size('<img style="width: 50%" src="a.png" />', tmp_path)
    assert 'width="14" height="18" loading="lazy"' in with_size('<img style="width: 14px" src="a.png" />', tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_day_of_the_last_change_is_a_day_or_nothing() -> None:
    day = r"\d{4}-\d\d-\d\d" if metadata.HISTORY else ""
    assert re.fullmatch(day, metadata.changed("README.md"))
    assert metadata.changed("no-such-file") == ""
