"""A Sphinx extension: mend in the finished pages what axe-core finds in the theme's and the extensions' HTML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from book._ext import PAGES
from sphinx.application import Sphinx

REPAIRS = [
    # The sidebar is a landmark.
    (r'<div id="pst-primary-sidebar" ', '<div id="pst-primary-sidebar" role="region" aria-label="Book" '),
    # The buttons that unfold a chapter's pages have a name.
    (r">([^<>]+)(</a><details[^>]*>)<summary>", r'>\1\2<summary aria-label="Pages of \1">'),
    # What unfolds a cell is named as one sees it.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # Each entry of the bibliography takes a role that is deprecated, in a list that may not hold it.
    (r' role="doc-biblioentry"', ""),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    # The space before a link is not underlined.
    (r"(Solution to)(<a [^>]*>) ", r"\1 \2"),
]


def mend(app: Sphinx, error: Exception | None) -> None:
    """Apply the repairs to every page."""
    if error or app.builder.name not in PAGES:
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.parts:
            page = path.read_text(encoding="utf-8")
            for wrong, right in REPAIRS:
                page = re.sub(wrong, right, page)
            path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
