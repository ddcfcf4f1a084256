"""What leads to what: to code cells, to equations, to the paper's figures, and from an index to theorems.

A Sphinx extension. ``{cell}`PAGE: FRAGMENT` `` is a link to the one code cell of a page that has FRAGMENT in its
source; the build fails where there is none. "The paper's Fig. 5" leads to what the claims ledger says of it; the book's
own figures are referred to by ``{numref}``, so that a "Fig. 5" that does not say whose it is fails the build, too.
"Eq. (8)" leads to the paper's equation of that number, "Eq. (2a)" to ours, the formula with ``\\tag{2a}``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains import Index, IndexEntry
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx_proof.domain import ProofDomain
from tools.claims import find_cell, load

log = logging.getLogger(__name__)
FIGURE = re.compile(r"Fig\. (\d)\b")
EQUATIONS = re.compile(r"(Eq\. \(\d[a-z]?\)(?: and \(\d[a-z]?\))*)")
NUMBER = re.compile(r"\((\d[a-z]?)\)")
TAG = re.compile(r"\\tag\{(\d[a-z])\}")
OF_PAPER = re.compile(r"(?<=aper's )Fig\. (\d)\b")
LEDGER = {number: f"claim-{entry['id']}" for entry in load() for number in FIGURE.findall(entry["where"])}


def reference(env: BuildEnvironment, label: str, *content: nodes.Node) -> pending_xref:
    """A link to a label, with words of its own."""
    what = {"reftype": "ref", "refdomain": "std", "reftarget": label, "refdoc": env.docname}
    return pending_xref("", nodes.inline("", "", *content), **what, refexplicit=True, refwarn=True)


def cell(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: object = None, content: object = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The role ``{cell}``."""
    page, _, fragment = text.partition(": ")
    try:
        number, heading, _ = find_cell(page, fragment)
    except LookupError as error:
        message = inliner.reporter.error(str(error), line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    env = inliner.document.settings.env
    return [reference(env, f"cell-{page}-{number}", nodes.Text(f"the code under “{heading}”"))], []


class CodeCells(SphinxTransform):
    """Each code cell of a notebook has an address."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        standard = self.env.get_domain("std")
        assert isinstance(standard, StandardDomain)
        for block in self.document.findall(nodes.container):
            if block.get("nb_element") == "cell_code":
                label = f"cell-{self.env.docname.rpartition('/')[2]}-{block['exec_count']}"
                block["ids"].append(label)
                standard.anonlabels[label] = self.env.docname, label


def apart(node: nodes.Node) -> bool:
    """Whether it stands where no link can, in a title, a caption, code or another link."""
    places = (nodes.title, nodes.caption, nodes.literal, nodes.literal_block, nodes.raw, nodes.reference, pending_xref)
    return node.parent is not None and (isinstance(node.parent, places) or apart(node.parent))


class PaperFigures(SphinxTransform):
    """The paper's figures lead to the claims ledger, which itself speaks of no others."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        for text in list(self.document.findall(nodes.Text)):
            code = isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.raw)
            pieces = OF_PAPER.split(text)
            if FIGURE.search("".join(pieces[::2])) and not code and self.env.docname != "book/claims":
                log.warning("whose figure? say “the paper's”, or use {numref}: %s", text, location=text.parent)
            if len(pieces) == 1 or apart(text):
                continue
            new: list[nodes.Node] = [nodes.Text(pieces[0])]
            for number, rest in zip(pieces[1::2], pieces[2::2], strict=True):
                new += [reference(self.env, LEDGER[number], nodes.Text(f"Fig. {number}")), nodes.Text(rest)]
            text.parent.replace(text, new)


class Equations(SphinxTransform):
    """Equations that the text names are led to."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        standard = self.env.get_domain("std")
        assert isinstance(standard, StandardDomain)
        for block in list(self.document.findall(nodes.math_block)):
            if tag := TAG.search(block.astext()):
                label = f"eq-{tag[1]}"
                block.parent.insert(block.parent.index(block), nodes.target("", "", ids=[label]))
                standard.anonlabels[label] = self.env.docname, label
        for text in list(self.document.findall(nodes.Text)):
            if not EQUATIONS.search(text) or apart(text):
                continue
            new: list[nodes.Node] = []
            for k, span in enumerate(EQUATIONS.split(text)):
                pieces = NUMBER.split(span) if k % 2 else [span]
                new += [self.lead(piece) if j % 2 else nodes.Text(piece) for j, piece in enumerate(pieces)]
            text.parent.replace(text, new)

    def lead(self, number: str) -> pending_xref:
        if not number.isdigit():
            return reference(self.env, f"eq-{number}", nodes.Text(f"({number})"))
        what = {"reftype": "eq", "refdomain": "math", "reftarget": f"eq-{number}", "refdoc": self.env.docname}
        return pending_xref("", nodes.literal("", number), **what, refwarn=True)


class Statements(Index):
    """Theorems and the like by kind, with their number and title."""

    name, localname, shortname = "prf", "Theorems and definitions", "Theorems"

    def generate(self, docnames: object = None) -> tuple[list[tuple[str, list[IndexEntry]]], bool]:
        env, kinds = self.domain.env, dict[str, list[IndexEntry]]()
        pages = list(env.toc_fignumbers)
        for label, of in sorted(vars(env)["proof_list"].items(), key=lambda item: pages.index(item[1]["docname"])):
            kind, page = of["realtype"], of["docname"]
            (number,) = env.toc_fignumbers[page][of["countertype"]][label]
            (node,) = (n for n in env.get_doctree(page).findall(nodes.Element) if label in n.get("ids", []))
            title = f"{kind.title()} {number}: {node['title'].strip().strip('()')}"
            entry = IndexEntry(title, of["prio"], page, label, env.titles[page].astext(), "", "")
            kinds.setdefault(kind.title(), []).append(entry)
        return sorted(kinds.items()), True


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("cell", cell)
    app.add_transform(CodeCells)
    app.add_transform(PaperFigures)
    app.add_transform(Equations)
    ProofDomain.indices = [Statements]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
