"""The EPUB: valid XML without scripts or dead links, figures, formulas and solutions, and a way through it."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit
from xml.dom.minidom import parseString
from xml.etree import ElementTree
from zipfile import ZIP_STORED, ZipFile

import pytest

from book._ext import epub
from conftest import HTML, ROOT

FILE = ROOT / "_build" / "the-mixer-key.epub"
XHTML, MATHML, OPF = (
    "{http://www.w3.org/1999/xhtml}",
    "{http://www.w3.org/1998/Math/MathML}",
    "{http://www.idpf.org/2007/opf}",
)
SCRIPTED = {"script", "form", "input", "button", "iframe", "noscript", "canvas"}
built = pytest.mark.skipif(not FILE.exists(), reason="the EPUB is not built: run make epub")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with ZipFile(FILE) as archive:
        assert archive.infolist()[0].filename == "mimetype"
        assert archive.infolist()[0].compress_type == ZIP_STORED
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def pages(files: dict[str, bytes]) -> dict[str, ElementTree.Element]:
    """Every page; none that is not well-formed."""
    return {name: ElementTree.fromstring(content) for name, content in files.items() if name.endswith(".xhtml")}


@built
def test_the_manifest_has_every_file_and_says_what_is_in_it(files: dict[str, bytes]) -> None:
    package = ElementTree.fromstring(files["content.opf"])
    items = {item.attrib["href"]: item.attrib for item in package.iter(f"{OPF}item")}
    assert items.keys() == files.keys() - {"mimetype", "META-INF/container.xml", "content.opf"}
    for name, item in items.items():
        has = {kind for kind, mark in (("mathml", b"<math"), ("svg", b"<svg")) if mark in files[name]}
        if name.endswith(".xhtml"):
            assert set(item.get("properties", "").split()) - {"nav"} == has, name
    words = files["content.opf"].decode()
    for part in ("<dc:title>The Mixer Key<", "<dc:identifier id=", "<dc:language>en<", "schema:accessibilitySummary"):
        assert part in words
    assert "unknown" not in words
    assert sum(map(len, files.values())) < 40e6
    assert FILE.stat().st_size < 8e6


@built
def test_every_chapter_can_be_found_and_is_read_in_order(files: dict[str, bytes]) -> None:
    toc = re.findall(r"file: book/([\w-]+)|root: book/([\w-]+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [f"book/{a or b}.xhtml" for a, b in toc if a != "lab"]
    package = ElementTree.fromstring(files["content.opf"])
    names = {item.attrib["id"]: item.attrib["href"] for item in package.iter(f"{OPF}item")}
    spine = [names[item.attrib["idref"]] for item in package.iter(f"{OPF}itemref") if item.get("linear") != "no"]
    assert [name for name in spine if name in chapters] == chapters
    links = [link.attrib["href"] for link in ElementTree.fromstring(files["nav.xhtml"]).iter(f"{XHTML}a")]
    assert [link for link in links if link in chapters] == chapters


@built
def test_no_page_needs_a_script_or_leads_nowhere(
    files: dict[str, bytes], pages: dict[str, ElementTree.Element]
) -> None:
    ids = {name: {element.get("id") for element in page.iter()} for name, page in pages.items()}
    wrong = []
    for name, page in pages.items():
        for element in page.iter():
            tag = element.tag.rpartition("}")[2]
            if tag in SCRIPTED or any(attribute.startswith("on") for attribute in element.attrib):
                wrong.append(f"{name}: <{tag}>")
            for link in (element.get("href"), element.get("src")):
                url = urlsplit(link or "")
                if link and not url.scheme:
                    target = normpath(join(dirname(name), unquote(url.path))) if url.path else name
                    missing = url.fragment and target in ids and unquote(url.fragment) not in ids[target]
                    if target not in files or missing:
                        wrong.append(f"{name}: {link}")
    assert wrong == []


@built
def test_the_book_is_all_there(pages: dict[str, ElementTree.Element]) -> None:
    for name, page in pages.items():
        other = HTML / Path(name).with_suffix(".html")
        if not name.startswith("book/"):
            continue
        html = other.read_text(encoding="utf-8")
        html = html.partition("<article")[2].partition("</article>")[0]  # the list of titles beside it repeats formulas
        assert len(list(page.iter(f"{MATHML}math"))) == html.count("<math "), name
        pictures = re.findall(r"<img[^>]*_images/[^>]*>", html)
        assert len([i for i in page.iter(f"{XHTML}img") if "_images/" in i.attrib["src"]]) == len(
            [tag for tag in pictures if "only-dark" not in tag]
        ), name
        captions = [caption for caption in page.iter(f"{XHTML}figcaption") if "".join(caption.itertext()).strip()]
        assert len(captions) >= len([tag for tag in pictures if "only-light" in tag]), name
        solutions = [e for e in page.iter(f"{XHTML}details") if "solution" in e.get("class", "").split()]
        assert len(solutions) == len(re.findall(r'class="solution dropdown', html)), name
    for image in (image for page in pages.values() for image in page.iter(f"{XHTML}img")):
        assert image.get("alt"), image.attrib


def test_a_body_becomes_plain_xhtml(monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        '<mixer-quiz><fieldset><legend>Q&nbsp;1</legend><label><input type="radio" /><b>A</b></label></fieldset>'
        '<button>Check</button></mixer-quiz><p class="live-note">alive</p><svg fill="var(--mixer-blue, red)"></svg>'
        '<div class="solution dropdown admonition"><p class="admonition-title">S</p><p>42</p></div>'
        '<a href="run.html#x">run</a> <a href="lab.html">lab</a> <a href="../slides/a.html">slides</a> '
        '<a href="#y">y</a>'
    )
    monkeypatch.setattr(epub, "SITE", "")
    text = epub.still(body, "book/page", {"book/run"})
    parseString(f"<div>{text}</div>")
    for part in ("<div><div><p>Q\xa01</p><p><b>A</b></p></div></div>", f'fill="{epub.LIGHT["--mixer-blue"]}"'):
        assert part in text
    assert re.search(r"<details[^>]*><summary[^>]*>S</summary><p>42</p></details>", text)
    assert '<a href="run.xhtml#x">run</a> lab slides <a href="#y">y</a>' in text
    assert "alive" not in text
    monkeypatch.setattr(epub, "SITE", "https://site.example")
    text = epub.still(body, "book/page", {"book/run"})
    assert '<a href="https://site.example/book/lab.html">lab</a>' in text
    assert '<a href="https://site.example/slides/a.html">slides</a>' in text


def test_a_body_that_is_no_xml_stops_the_build() -> None:
    with pytest.raises(Exception, match="mismatched tag"):
        epub.still("<p><br></p>", "book/page", set())
