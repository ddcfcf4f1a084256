"""A Sphinx extension: a search that leads to sections and equations. Sphinx's own, of whole pages, is folded below it.

The sections of all pages, with their words, go to _static/sections.js, for book/_static/search.js; both are on the page
of the search alone.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import lookup

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx_exercise.nodes import solution_node

SIGNS = {"top": "T", "times": "×", "cdot": "·", "dots": "…", "ldots": "…", "le": "≤", "ge": "≥", "in": "∈", "to": "→"}


def sign(command: re.Match[str]) -> str:
    """A TeX command as a letter, if it is one."""
    name = command[1]
    try:
        greek = lookup(f"GREEK {'CAPITAL' if name[0].isupper() else 'SMALL'} LETTER {name.upper()}")
    except KeyError:
        greek = ""
    return SIGNS.get(name, greek)


def words(part: nodes.Element, titles: Mapping[str, str] | None = None) -> str:
    r"""The text of a part, with formulas as one might type them, titles for links to what has one, and no bare labels.

    Solutions and answers stay folded: no search gives them away.

    >>> words(nodes.paragraph("", "", nodes.Text("of "), nodes.math("", r"\Sigma' = T^\top, M^2\,p_\mathrm{b}")))
    "of Σ' = T^T, M^2 p_b"
    >>> words(nodes.math("", r"\binom{p_b}{p_b/2}, \tfrac{1}{2}h"))
    '(p_b over p_b/2), 1/2h'
    """
    copy, known = nodes.container("", part.deepcopy()), titles or {}
    for node in list(copy.findall(unasked)):
        node.parent.remove(node)
    for link in list(copy.findall(lambda node: isinstance(node, pending_xref) and not node.get("refexplicit"))):
        page = posixpath.join(posixpath.dirname(link.get("refdoc", "")), link["reftarget"])  # of a link to a page
        title = "Theorem" if link.get("refdomain") == "prf" else known.get(link["reftarget"]) or known.get(page)
        link.parent.replace(link, nodes.Text(title or link.astext()))
    for formula in list(copy.findall(nodes.math)):
        tex = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", formula.astext())
        tex = re.sub(r"\\[dt]?binom\{([^{}]*)\}\{([^{}]*)\}", r"(\1 over \2)", tex)
        tex = re.sub(r"\\([A-Za-z]+)", sign, tex)
        formula.parent.replace(formula, nodes.Text(re.sub(r"\\.", " ", tex).translate(str.maketrans("", "", "{}"))))
    return re.sub(r"\s+", " ", copy.astext())


def unasked(node: nodes.Node) -> bool:
    """Displayed formulas, keys of citations, labels of exercises that test an objective, solutions and answers."""
    if isinstance(node, nodes.math_block | nodes.raw | solution_node):
        return True
    cites = isinstance(node, pending_xref) and node.get("refdomain") == "cite"
    return cites or (isinstance(node, nodes.Element) and not {"tested", "quiz-answer"}.isdisjoint(node["classes"]))


def sections(app: Sphinx) -> list[dict[str, Any]]:
    """For each section: its page and id, the titles of both, the equations in it, and its text without subsections."""
    found = []
    labels = app.env.get_domain("std").labels  # type: ignore[attr-defined]
    titles = {label: title for label, (_, _, title) in labels.items()}
    titles |= {page: title.astext() for page, title in app.env.titles.items()}
    for page in sorted(app.env.found_docs):
        title = app.env.titles[page].astext()
        for section in app.env.get_doctree(page).findall(nodes.section):
            if (heading := section.next_node(nodes.title)) is None:  # of a module in the reference
                continue
            parts = [part for part in section.children if not isinstance(part, nodes.section | nodes.title)]
            text = re.sub(r"\bEq\. (?:eq-)?(\d+)\b", r"Eq. (\1)", " ".join(words(part, titles) for part in parts))
            blocks = [block for part in parts for block in part.findall(nodes.math_block)]
            equations = [label[3:] for block in blocks if (label := block.get("label") or "").startswith("eq-")]
            equations += [tag for block in blocks for tag in re.findall(r"\\tag\{(\w+)\}", block.astext())]
            where = {"page": page, "id": section["ids"][0], "book": title, "title": heading.astext()}
            found.append(where | {"equations": equations, "text": text})
    return found


def write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        text = f"const SECTIONS = {json.dumps(sections(app), ensure_ascii=False)};\n"
        (Path(app.outdir) / "_static" / "sections.js").write_text(text, encoding="utf-8")


def load(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if page == "search":
        app.add_js_file("sections.js")
        app.add_js_file("search.js")
    else:  # no parts of words marked on whatever page is opened next
        context["script_files"] = [s for s in context["script_files"] if "sphinx_highlight" not in str(s.filename)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
