"""What this book adds to Sphinx: one module an extension, all of them set up here."""

from __future__ import annotations

import gc
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
PAGES = "html", "singlehtml"  # the builders of pages for browsers; there is one of EPUB, too
EXTENSIONS = (
    "accessible",
    "answers",
    "docstrings",
    "epub",
    "fonts",
    "lean",
    "quiz",
    "references",
    "scripts",
    "search",
    "site",
    "slides",
    "teaching",
)


def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ValueError: the file is not TOML; the message says where.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name} is not valid TOML: {error}") from error


def setup(app: Sphinx) -> dict[str, Any]:
    gc.disable()  # a build keeps its trees to its end: looking for garbage among them takes a third of its time
    for name in EXTENSIONS:
        app.setup_extension(f"{__name__}.{name}")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
