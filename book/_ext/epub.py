"""A Sphinx extension: the book as an EPUB, for readers that run no scripts and may be without a network.

`make epub` builds it. Sphinx packs the pages; here they become valid XHTML without anything that moves, formulas are
MathML, figures the light ones, and links that lead out of the EPUB lead to the site, where its address is known.
"""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5
from xml.dom.minidom import Element, parseString

from book._ext import ROOT
from book._ext.accessible import REPAIRS
from book._ext.scripts import PICTURES
from book._ext.site import REPOSITORY, SITE, VERSION
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.epub3 import Epub3Builder

STYLES = [ROOT / "book" / "epub.css", ROOT / "book" / "live" / "live.css"]
CARD = ROOT / "book" / "_static" / "social.png"
PALETTE = (ROOT / "mixerkey" / "palette.css").read_text(encoding="utf-8")
LIGHT = dict(re.findall(r"(--mixer-\w+): light-dark\(([^,]*),", PALETTE))
PAPER = LIGHT["--mixer-paper"]
GONE = {"input", "button", "script", "noscript", "style"}  # tags, and classes, of what only a browser has a use for
GONE_CLASSES = {"live-note", "expanded", "idea-wide", "headerlink"}
PLAIN = {"fieldset": "div", "legend": "p", "label": "p"}  # a quiz, to read
ABOUT = {
    "accessMode": ("textual", "visual"),
    "accessModeSufficient": ("textual",),
    "accessibilityFeature": ("alternativeText", "MathML", "structuralNavigation", "tableOfContents"),
    "accessibilityHazard": ("none",),
    "accessibilitySummary": ("Every figure has a caption and alternative text; every formula is MathML.",),
}


def plain_colours(text: str) -> str:
    """Style with the palette's light colours in place of its variables, which not every reader knows."""
    return re.sub(r"var\((--mixer-\w+)[^)]*\)", lambda found: LIGHT[found[1]], text)


def classes(element: Element) -> set[str]:
    return set(element.getAttribute("class").split())


def replace(element: Element) -> None:
    """Put an element's content in its place."""
    parent: Any = element.parentNode
    for child in list(element.childNodes):
        parent.insertBefore(child, element)
    parent.removeChild(element)


def lead(link: Element, page: str, inside: set[str]) -> None:
    """Let a link lead to a page of the EPUB or a site, or be mere words."""
    url = urlsplit(link.getAttribute("href"))
    if url.scheme or url.netloc or not url.path:
        return
    target = re.sub(r"\.x?html$", "", normpath(join(dirname(page), url.path)))
    fragment = f"#{url.fragment}" if url.fragment else ""
    if target in inside:
        link.setAttribute("href", re.sub(r"\.html$", ".xhtml", url.path) + fragment)
    elif SITE:
        link.setAttribute("href", f"{SITE}/{target}{'' if Path(target).suffix else '.html'}{fragment}")
    else:
        replace(link)


def still(body: str, page: str, inside: set[str]) -> str:
    """A page's body as XHTML that needs no script.

    Raises:
        ExpatError: it is not well-formed; the message says where.
    """
    for wrong, right in REPAIRS:
        body = re.sub(wrong, right, body)
    body = re.sub(r"&(?!(?:amp|lt|gt|quot);)\w+;", lambda found: unescape(found[0]), body)
    root: Any = parseString(f"<div>{plain_colours(body)}</div>").documentElement
    ids = set[str]()
    for element in root.getElementsByTagName("*"):
        tag = element.tagName
        if (name := element.getAttribute("id")) in ids:  # exercises, solutions and proofs name all their contents alike
            element.removeAttribute("id")
        elif name:
            ids.add(name)
        if tag in GONE or classes(element) & GONE_CLASSES or element.hasAttribute("hidden"):
            element.parentNode.removeChild(element)
        elif tag == "a" and element.hasAttribute("href"):
            lead(element, page, inside)
        elif tag == "svg":
            element.setAttribute("xmlns", "http://www.w3.org/2000/svg")
        elif tag in ("mtable", "mtd") and element.hasAttribute("width"):
            element.setAttribute("style", f"width: {element.getAttribute('width')}")
            element.removeAttribute("width")
        elif tag == "p" and element.parentNode.tagName == "summary":
            element.tagName = "span"
        elif tag in PLAIN or tag.startswith("mixer-"):
            element.tagName = PLAIN.get(tag, "div")
        elif {"admonition", "dropdown"} <= classes(element):  # which a script of the theme unfolds
            element.tagName = "details"
            title = next(child for child in element.childNodes if isinstance(child, Element))
            title.tagName = "summary"
    return "".join(child.toxml() for child in root.childNodes)


class Epub(Epub3Builder):
    """Sphinx's builder, with a manifest that says what is in each file, and no style but the EPUB's own."""

    def init(self) -> None:
        self.config.pygments_style = "a11y-high-contrast-light"
        self.config.html_domain_indices = ["prf-prf"]
        super().init()

    def handle_finish(self) -> None:
        static = Path(self.outdir) / "_static"
        for path in static.iterdir():
            if path.name != "pygments.css":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        style = "".join(plain_colours(path.read_text(encoding="utf-8")) for path in STYLES)
        (static / "epub.css").write_text(style, encoding="utf-8")
        cover = Image.new("RGB", (1200, 1600), PAPER)
        with Image.open(CARD) as card:
            cover.paste(card, (0, 400))
        cover.save(static / "cover.png")
        for name in PICTURES:
            (Path(self.outdir) / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / "book" / name, Path(self.outdir) / name)
        super().handle_finish()

    def toc_metadata(self, level: int, navpoints: list[Any]) -> dict[str, Any]:
        return super().toc_metadata(level, navpoints) | {"uid": self.config.epub_identifier}

    def build_content(self) -> None:
        super().build_content()
        path = Path(self.outdir) / "content.opf"
        package = parseString(path.read_text(encoding="utf-8"))
        for item in package.getElementsByTagName("item"):
            file = Path(self.outdir) / item.getAttribute("href")
            if file.name == "cover.png":
                item.setAttribute("properties", "cover-image")
            elif file.suffix == ".xhtml" and file.exists():
                text = file.read_text(encoding="utf-8")
                kinds = [kind for kind, mark in {"mathml": "<math", "svg": "<svg"}.items() if mark in text]
                if kinds:
                    item.setAttribute("properties", " ".join(kinds))
        (metadata,) = package.getElementsByTagName("metadata")
        for name, values in ABOUT.items():
            for value in values:
                meta = package.createElement("meta")
                meta.setAttribute("property", f"schema:{name}")
                meta.appendChild(package.createTextNode(value))
                metadata.appendChild(meta)
        path.write_text(package.toxml(), encoding="utf-8")


def configure(app: Sphinx, config: Any) -> None:
    config.version = VERSION
    config.epub_contributor = config.author
    config.epub_copyright = f"{config.copyright} {config.author}. Text: CC BY 4.0. Code: MIT."
    config.epub_cover = "_static/cover.png", "epub-cover.html"
    where = SITE or (REPOSITORY.url if REPOSITORY else "the-mixer-key")
    config.epub_identifier = f"urn:uuid:{uuid5(NAMESPACE_URL, where)}"


def settle(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave in a page what an EPUB can show."""
    if app.builder.name != "epub":
        return
    context |= {"metatags": "", "css_files": ["_static/pygments.css", "_static/epub.css"], "script_files": []}
    left_out = {path.removesuffix(".xhtml") for path in app.config.epub_exclude_files}
    if page in left_out:
        context["body"] = ""
    elif "body" in context:
        context["body"] = still(context["body"], page, app.env.found_docs - left_out)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_builder(Epub, override=True)
    app.connect("config-inited", configure)
    app.connect("html-page-context", settle, priority=1000)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
