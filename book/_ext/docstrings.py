"""A Sphinx extension: which docstrings are read, and how.

Those of the package are, and none of what it imports: PyTorch may be there or not, and to read it takes long.
An argument that is "C." is the letter C, not the third entry of a list, as Napoleon has it, and x' is no apostrophe.
Attributes stand in the words of their class: there is no second list of their bare names.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from astroid.manager import AstroidManager
from sphinx.application import Sphinx


class Elsewhere:
    """The names of all modules that are neither Python's own nor the package's."""

    def __contains__(self, name: str) -> bool:
        return name.partition(".")[0] not in {"mixerkey", *sys.stdlib_module_names}


def keep_letters(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [re.sub(r"^(\s+[\w*, ]+: )([A-Z]\.)", r"\1\\\2", line) for line in lines]
    for k, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[k] = re.sub(r"(?<![\w'`])([^\W\d_])'(?!\w)", "\\1\N{PRIME}", line)


def skip_bare_names(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: object) -> bool | None:
    return True if getattr(obj, "type", None) == "attribute" and not obj.docstring else None


def setup(app: Sphinx) -> dict[str, Any]:
    AstroidManager.brain["module_denylist"] = Elsewhere()
    app.connect("autodoc-process-docstring", keep_letters, priority=400)  # before Napoleon
    app.connect("autodoc-skip-member", skip_bare_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
