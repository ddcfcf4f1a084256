"""What the teacher's guide takes from the rest of the book: objectives from the chapters, times from the receipt.

A Sphinx extension with two directives and a role. ``{objectives}`` lists what each chapter says a reader will be
able to do, ``{timings}`` is a table of mixerkey/receipts/classroom.json, which tools/classroom.py writes.
``{tested}`LABEL, LABEL` `` says what tests an objective: exercises by their labels, questions as quiz-PAGE-NUMBER; the
build fails where there is no such exercise or question.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RECEIPT = "mixerkey/receipts/classroom.json"


def objectives(root: Path) -> str:
    """The "You will be able to" of each notebook, in the order of the table of contents.

    Raises:
        ValueError: a chapter does not begin with one.
    """
    parts = []
    for name in re.findall(r"file: book/([\w-]+)", (root / "_toc.yml").read_text(encoding="utf-8")):
        notebook = root / "book" / f"{name}.ipynb"
        if notebook.exists():
            first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
            found = re.search(r"\*\*You will be able to\*\*\n\n((?:- .*\n|  .*\n)+)", "".join(first["source"]) + "\n")
            if not found:
                raise ValueError(f"book/{name}.ipynb does not begin with what a reader will be able to do")
            parts.append(f"**{{doc}}`{name}`**\n\n{found[1]}")
    return "\n".join(parts)


def timings(receipt: dict) -> str:
    """The receipt as a table, with a sentence on the machine."""
    rows = [(f"run {{doc}}`{name}`", f"{time:.0f} s") for name, time in receipt["notebooks"].items()]
    if "book_seconds" in receipt:
        rows.append(("build the book (`make book`, when its environment is there)", f"{receipt['book_seconds']:.0f} s"))
    if of := receipt.get("installation"):
        rows += [
            (f"fill the wheelhouse, from a near mirror ({of['wheels']} wheels)", f"{of['fill_seconds']:.0f} s"),
            ("size of the wheelhouse", f"{of['wheelhouse_bytes'] / 1e9:.1f} GB"),
            ("install from it on a student's computer", f"{of['install_seconds']:.0f} s"),
            ("size of the environment", f"{of['environment_bytes'] / 1e9:.1f} GB"),
        ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    machine = f"Measured on {receipt['cores']} cores ({receipt['processor']}), torch {receipt['versions']['torch']}."
    return f"{machine}\n\n| what | time or size |\n|---|---|\n{table}\n"


class Generated(SphinxDirective):
    """A directive whose content is made from files of the repository."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        self.env.note_reread()
        try:
            text = self.text(root)
        except (OSError, KeyError, ValueError) as error:
            raise self.error(f"{type(error).__name__}: {error}") from error
        parent = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), source=self.env.docname), 0, parent)
        return parent.children

    def text(self, root: Path) -> str:
        raise NotImplementedError


class Objectives(Generated):
    def text(self, root: Path) -> str:
        return objectives(root)


class Timings(Generated):
    def text(self, root: Path) -> str:
        return timings(json.loads((root / RECEIPT).read_text(encoding="utf-8")))


def named_tests(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: object = None, content: object = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The role ``{tested}``."""
    doc, links = inliner.document.settings.env.docname, nodes.inline(classes=["tested"])
    for number, label in enumerate(label.strip() for label in text.split(",")):
        links += nodes.Text(", " if number else "(")
        what = {"reftype": "ref", "refdomain": "std", "reftarget": label, "refdoc": doc}
        links += pending_xref(rawtext, nodes.inline(label, label), **what, refexplicit=False, refwarn=True)
    links += nodes.Text(")")
    return [links], []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("objectives", Objectives)
    app.add_directive("timings", Timings)
    app.add_role("tested", named_tests)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
