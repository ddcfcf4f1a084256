"""Feedback as one page that loads nothing, runs nothing and believes nothing that a student wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

from assignments.inbox import plain
from assignments.notebook import HERE

KATEX = HERE.parent / "node_modules" / "katex"
DRAW = """\
const katex = require(process.argv[1]);
const options = { output: "mathml", throwOnError: false, trust: false, maxSize: 10, maxExpand: 100 };
const draw = ([tex, displayMode]) => katex.renderToString(tex, { ...options, displayMode });
let text = "";
process.stdin.on("data", (part) => (text += part));
process.stdin.on("end", () => process.stdout.write(JSON.stringify(JSON.parse(text).map(draw))));
"""
SECONDS = 20  # for the formulas of a text
# What Markdown makes, and nothing that could lead away, load something or lie over the page.
TAGS = {"p", "br", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "hr"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
LEFT, RIGHT = "\ue000", "\ue001"  # around the number of a formula, while the text is sanitised


def page(result: dict[str, Any], steps: list[dict[str, Any]], mark: float, of: int, comment: str) -> str:
    """The feedback on one notebook.

    Args:
        result: as `assignments.marking.mark` gives it, with "student", "assignment", "path", "notes" and "problem".
        steps: of the marking scheme, each with "points", "what" and the "mark" that the teacher gave, or None.
        mark: the sum so far.
        of: the sum of all points.
        comment: the teacher's.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["prose"] = prose
    template = environment.get_template("feedback.html")
    return template.render(result, steps=steps, mark=mark, of=of, comment=comment)


def prose(text: str) -> Markup:
    """Markdown as HTML: formulas are drawn, HTML is shown as it is written, and asterisks stay asterisks.

    >>> print(prose("a*b*c <meta http-equiv=refresh>"))
    <p>a*b*c &lt;meta http-equiv=refresh&gt;</p>
    <BLANKLINE>
    """
    formulas: list[tuple[str, bool]] = []

    def keep(tex: str, options: dict) -> str:
        formulas.append((tex, bool(options["display_mode"])))
        return f"{LEFT}{len(formulas) - 1}{RIGHT}"

    # Emphasis would take the asterisks and underscores out of a formula that was typed without dollar signs.
    markdown = (
        MarkdownIt("commonmark", {"html": False}).enable("table").disable(["emphasis", "link", "image", "autolink"])
    )
    markdown.use(dollarmath_plugin, renderer=keep, allow_digits=False)
    html = nh3.clean(markdown.render(plain(text).replace(LEFT, "").replace(RIGHT, "")), tags=TAGS, attributes={})
    for number, formula in enumerate(_drawn(formulas)):
        html = html.replace(f"{LEFT}{number}{RIGHT}", formula)
    return Markup(html)


def _drawn(formulas: list[tuple[str, bool]]) -> list[str]:
    """Formulas as MathML, which needs no fonts or scripts; as they were typed where KaTeX is not at hand."""
    node = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    if formulas and node and KATEX.exists():
        try:
            command = [node, "-e", DRAW, str(KATEX)]
            done = subprocess.run(
                command, input=json.dumps(formulas), capture_output=True, encoding="utf-8", timeout=SECONDS
            )
            if done.returncode == 0:
                return json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            pass
    return [f"<code>{escape(f'$${tex}$$' if display else f'${tex}$')}</code>" for tex, display in formulas]
