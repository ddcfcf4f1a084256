"""Slides from the cells of the chapters, as reveal.js decks that need no network.

A Sphinx extension: whenever the pages are built, ``slides/NAME.html`` is made for each notebook that has slides. A cell
takes part by its metadata, as in Jupyter::

    {"slideshow": {"slide_type": "slide", "show": ["## The key", "$$"]}}

"slide" begins a slide, "fragment" adds to it at the next key press, "-" at once; all other cells are left out. Of a
text, ``show`` names the blocks (paragraphs, lists, formulas) by how they begin; the rest becomes the speaker's notes
(key S). Of a code cell with a figure the figure is shown, of others code and printed output.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from book._ext import PAGES, ROOT, scripts
from book._ext.lean import MODULES, NODE
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

STYLE = HtmlFormatter(style="a11y-high-contrast-light", noclasses=True, nobackground=True, wrapcode=True)
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<link rel="icon" href="../favicon.svg">
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="katex/katex.min.css">
<link rel="stylesheet" href="../_static/palette.css">
<link rel="stylesheet" href="../_static/fonts.css">
<link rel="stylesheet" href="slides.css">
{tags}</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script src="reveal/reveal.js"></script>
<script src="reveal/notes.js"></script>
<script src="slides.js"></script>
</body>
</html>
"""
STATEMENTS = {"thm": "the theorem", "lem": "the lemma", "cor": "the corollary", "def": "the definition"}
# Draws formulas, [[TeX, displayed, as HTML or MathML], …] on its input; one that is not understood stops it.
KATEX = """\
const katex = require(process.argv[1]);
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
const draw = ([tex, displayMode, output]) => katex.renderToString(tex, { displayMode, output, throwOnError: true });
process.stdout.write(JSON.stringify(formulas.map(draw)));
"""


class Deck:
    """The slides of one notebook.

    Raises:
        ValueError: a cell asks for a block that it does not have, or for one that a slide can't show.
    """

    def __init__(self, notebook: Path, titles: dict[str, str]) -> None:
        self.name, self.titles = notebook.stem, titles
        self.formulas: list[tuple[str, bool, str]] = []
        self.in_notes = False
        self.markdown = MarkdownIt("commonmark").enable("table")
        self.markdown.use(dollarmath_plugin, renderer=self._formula, double_inline=True)
        rules: Any = self.markdown.renderer  # its add_render_rule would bind the methods anew
        rules.rules |= {"math_block_label": self._numbered, "fence": self._statement}
        self.slides: list[list[str]] = []
        heading = ""
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            settings = cell["metadata"].get("slideshow", {})
            kind = settings.get("slide_type", "skip")
            if kind in ("slide", "fragment", "-"):
                of_text = cell["cell_type"] == "markdown"
                part = self._text(source, settings.get("show")) if of_text else self._code(cell, source)
                if kind == "slide":
                    self.slides.append([] if re.match("<h[123]", part) else [f"<h2>{self._words(heading)}</h2>"])
                self.slides[-1].append(f'<div class="fragment">{part}</div>' if kind == "fragment" else part)
            if cell["cell_type"] == "markdown":
                heading = [heading, *re.findall(r"^#+ (.*)$", source, re.MULTILINE)][-1]

    def render(self, formulas: list[str]) -> str:
        """The page, with the formulas in their places."""
        slides = "\n".join("<section>\n{}\n</section>".format("\n".join(parts)) for parts in self.slides)
        slides = re.sub(r"\x00(\d+)\x00", lambda match: formulas[int(match[1])], slides)
        title = html.escape(self.titles[self.name])
        return PAGE.format(title=title, tags=scripts.tags(slides, "../"), slides=scripts.draw(slides))

    def _text(self, source: str, show: list[str] | None) -> str:
        lines = source.splitlines()
        shown: list[str] = []
        notes: list[str] = []
        missing = set(show or ())
        for token in self.markdown.parse(source):
            if token.level == 0 and token.nesting >= 0 and token.map:
                block = "\n".join(lines[slice(*token.map)]).strip()
                starts = {start for start in show or () if block.startswith(start)}
                missing -= starts
                (shown if show is None or starts else notes).append(block)
        if missing:
            raise ValueError(f"{self.name}: no block of the cell begins with {sorted(missing)}; mend its metadata")
        text = self.markdown.render(self._plain("\n\n".join(shown)))
        self.in_notes = True  # whose window has no style: the browser itself draws the formulas
        aside = self.markdown.render(self._plain("\n\n".join(notes)))
        self.in_notes = False
        return text + (f'<aside class="notes">{aside}</aside>' if aside else "")

    def _plain(self, text: str) -> str:
        """Text without the roles of MyST."""
        text = re.sub(r"\s*\{(cite:p|tested)\}`[^`]*`", "", text)
        text = re.sub(r"\{doc\}`([^`<]*) <[^`]*`", r"\1", text)
        text = re.sub(r"\{doc\}`([^`]*)`", lambda match: f"“{self.titles[match[1]]}”", text)
        text = re.sub(r"\{eq\}`eq-(\d)`", r"(\1)", text)
        text = re.sub(r"\{numref\}`[^`]*`", "the figure", text)
        text = re.sub(r"\{prf:ref\}`(thm|lem|cor|def)-[^`]*`", lambda match: STATEMENTS[match[1]], text)
        if self.in_notes:
            return re.sub(r"\s*\{[a-z:]+\}`[^`]*`", "", text)
        if found := re.search(r"\{[a-z:]+\}`[^`]*`", text):
            raise ValueError(f"{self.name}: a slide can't show {found[0]}")
        return text

    def _words(self, text: str) -> str:
        return self.markdown.renderInline(self._plain(text))

    def _code(self, cell: dict, source: str) -> str:
        words = cell["metadata"].get("mystnb", {})
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                picture = "".join(output["data"]["image/png"]).replace("\n", "")
                alt, caption = (html.escape(words["image"]["alt"]), self._words(words["figure"]["caption"]))
                image = f'<img src="data:image/png;base64,{picture}" alt="{alt}">'
                return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"]).rstrip()
        folded = "hide-input" in cell["metadata"].get("tags", [])
        code = "" if folded else highlight(source, PythonLexer(), STYLE)
        tables = "".join("".join(output.get("data", {}).get("text/html", "")) for output in cell["outputs"])
        return code + (f'<pre class="output">{html.escape(printed)}</pre>' if printed else "") + tables

    def _formula(self, tex: str, options: dict[str, Any]) -> str:
        self.formulas.append((tex.strip(), options["display_mode"], "mathml" if self.in_notes else "htmlAndMathml"))
        return f"\x00{len(self.formulas) - 1}\x00"

    def _numbered(self, tokens: Any, index: int, *_: object) -> str:
        """A formula with a label: the paper's equations carry their number."""
        number = re.fullmatch(r"eq-(\d)", tokens[index].info)
        tag = rf" \tag{{{number[1]}}}" if number else ""
        return f"<p>{self._formula(tokens[index].content.strip() + tag, {'display_mode': True})}</p>"

    def _statement(self, tokens: Any, index: int, *_: object) -> str:
        """A theorem or the like."""
        match = re.fullmatch(r"\{prf:(\w+)\}\s*(.*)", tokens[index].info)
        if not match and self.in_notes:
            return f"<pre>{html.escape(tokens[index].content)}</pre>"
        if not match:
            raise ValueError(f"{self.name}: a slide can't show {tokens[index].info!r}")
        body = re.sub(r"^:.*\n", "", tokens[index].content, flags=re.MULTILINE)
        title = f"**{match[1].capitalize()}" + (f" ({match[2]})" if match[2] else "") + ".** "
        return f'<div class="statement">{self.markdown.render(self._plain(title + body.strip()))}</div>'


def titles(book: Path) -> dict[str, str]:
    """The title of each notebook, by name."""
    found = {}
    for path in sorted(book.glob("*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        found[path.stem] = "".join(first["source"]).splitlines()[0].removeprefix("# ")
    return found


def draw(formulas: list[tuple[str, bool, str]]) -> list[str]:
    """Formulas as HTML or MathML, by KaTeX."""
    command = [NODE, "-e", KATEX, str(MODULES / "katex")]
    result = subprocess.run(command, input=json.dumps(formulas), capture_output=True, text=True, encoding="utf-8")
    if result.returncode:
        raise ValueError(f"KaTeX does not understand a formula of the slides: {result.stderr.strip()}")
    return json.loads(result.stdout)


def make(book: Path, out: Path) -> list[str]:
    """Write the decks of all notebooks that have slides to ``out/slides``; their names."""
    known = titles(book)
    decks = [deck for name in known if (deck := Deck(book / f"{name}.ipynb", known)).slides]
    folder = out / "slides"
    shutil.copytree(ROOT / "book" / "slides", folder, dirs_exist_ok=True)
    (folder / "reveal").mkdir(exist_ok=True)
    for file in ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js"):
        shutil.copy(MODULES / "reveal.js" / file, folder / "reveal")
    katex = MODULES / "katex" / "dist"
    (folder / "katex" / "fonts").mkdir(parents=True, exist_ok=True)
    for path in [katex / "katex.min.css", *katex.glob("fonts/*.woff2")]:
        shutil.copy(path, folder / "katex" / path.relative_to(katex))
    drawn = iter(draw([formula for deck in decks for formula in deck.formulas]))
    for deck in decks:
        formulas = [next(drawn) for _ in deck.formulas]
        (folder / f"{deck.name}.html").write_text(deck.render(formulas), encoding="utf-8")
    return [deck.name for deck in decks]


def after_build(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name in PAGES:
        make(Path(app.srcdir) / "book", Path(app.outdir))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", after_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
