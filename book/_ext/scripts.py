"""A Sphinx extension: the scripts of the pages at their addresses, book/lab/ as lab/ and so on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from book._ext import ROOT
from sphinx.application import Sphinx

FOLDERS = ("lab", "live", "quiz")


def copy(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for name in FOLDERS:
            shutil.copytree(ROOT / "book" / name, Path(app.outdir) / name, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
