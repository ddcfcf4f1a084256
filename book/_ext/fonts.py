"""A Sphinx extension: the book's own fonts, so that its pages look and measure the same on every machine.

Source Serif for text and headings, Source Code for code, both of Latin and Greek letters, each face reduced to the
signs that a page may need. Neither has the superscripts of SUPERIORS: those are made from their own letters. Arrows and
other mathematical signs are KaTeX's, which the formulas bring. book/_static/fonts.css names the faces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from book._ext import PAGES
from book._ext.lean import MODULES
from fontTools.pens.recordingPen import DecomposingRecordingPen
from fontTools.pens.transformPen import TransformPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

FACES = {
    "text": ("source-serif-4", "400-normal"),
    "italic": ("source-serif-4", "400-italic"),
    "bold": ("source-serif-4", "600-normal"),
    "code": ("source-code-pro", "400-normal"),
}
LATIN = [*range(0x20, 0x7F), *range(0xA0, 0x100), *range(0x2010, 0x203B), 0x200B, 0x20AC, 0x2212]
GREEK = [*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)]
SUPERIORS = {
    "⁺": "+",
    "⁴": "4",
    "⁵": "5",
    "⁶": "6",
    "⁷": "7",
    "⁸": "8",
    "⁹": "9",
    "⁰": "0",
    "⁻": "−",
    "ⁿ": "n",
    "ᵀ": "T",
}
FEATURES = ["kern", "liga", "lnum", "tnum", "mark", "ccmp"]


def reduce(font: TTFont, codes: list[int]) -> TTFont:
    """Keep the signs with these codes, and what typesets them."""
    options = Options()
    options.layout_features = FEATURES
    subset = Subsetter(options)
    subset.populate(unicodes=codes)
    subset.subset(font)
    font.flavor = "woff2"
    return font


def superiors(font: TTFont) -> TTFont:
    """Small raised letters, drawn with the font's own at 3/5 of their size, and of their width where widths differ."""
    font = reduce(font, [ord(letter) for letter in SUPERIORS.values()])
    names, glyphs, em = font.getBestCmap(), font.getGlyphSet(), font["head"].unitsPerEm
    widths = {letter: glyphs[names[ord(letter)]].width for letter in SUPERIORS.values()}
    room = 1 if len(set(widths.values())) == 1 else 0.6  # columns of code stay in line
    drawn = {}
    for letter in SUPERIORS.values():
        name, outline, pen = names[ord(letter)], DecomposingRecordingPen(glyphs), TTGlyphPen(None)
        glyphs[name].draw(outline)
        outline.replay(TransformPen(pen, (0.6, 0, 0, 0.6, (room - 0.6) / 2 * widths[letter], 0.3 * em)))
        drawn[name] = pen.glyph()
    for name, glyph in drawn.items():
        font["glyf"][name] = glyph
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = round(room * glyphs[name].width), glyph.xMin
    for table in font["cmap"].tables:
        table.cmap = {ord(sign): names[ord(letter)] for sign, letter in SUPERIORS.items()}
    return font


def make(folder: Path) -> None:
    """Write every face of book/_static/fonts.css to a folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def source(name: str, script: str) -> TTFont:
        family, style = FACES[name]
        return TTFont(MODULES / "@fontsource" / family / "files" / f"{family}-{script}-{style}.woff2")

    for name in FACES:
        reduce(source(name, "latin"), LATIN).save(folder / f"{name}.woff2")
    for name in ("text", "code"):
        reduce(source(name, "greek"), GREEK).save(folder / f"{name}-greek.woff2")
        superiors(source(name, "latin")).save(folder / f"{name}-superiors.woff2")


def prepare(app: Sphinx) -> None:
    if app.builder.name in PAGES:
        make(Path(app.outdir) / "_static" / "fonts")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
