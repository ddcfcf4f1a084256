"""A Sphinx extension: an argument that is "C." is the letter C, not the third entry of a list, as Napoleon has it."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def keep_letters(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [re.sub(r"^(\s+[\w*, ]+: )([A-Z]\.)", r"\1\\\2", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", keep_letters, priority=400)  # before Napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
