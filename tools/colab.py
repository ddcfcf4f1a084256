"""Copies of the chapters that start on Colab: each first installs the package from the repository, at one commit.

    python -m tools.colab OUTDIR REPOSITORY_URL COMMIT

Continuous integration puts them on the branch `colab`, to which the chapters' Colab buttons lead.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

BOOK = Path(__file__).parent.parent / "book"
PROSE = (
    "This copy of the chapter runs where the package is not installed, on Colab for instance. "
    "Run the next cell first: it installs the package, as it was when these outputs were computed."
)


def install_line(notebook: NotebookNode, source: str) -> str:
    """The line that installs what a chapter needs on a host that ships torch, matplotlib, ipykernel and ipywidgets.

    So without the extra `book`: its versions would replace the host's own ipykernel and ipywidgets, and a kernel that
    runs can't be replaced.

    Args:
        notebook: the chapter; what its metadata lists under mixerkey.extras is installed too.
        source: what pip installs from: ``git+URL@COMMIT``, or the URL of a wheel.
    """
    extras = ", ".join(notebook.metadata.get("mixerkey", {}).get("extras", []))
    return f'%pip install --quiet "mixerkey{f"[{extras}]" if extras else ""} @ {source}"'


def colab_copy(notebook: NotebookNode, source: str) -> NotebookNode:
    """The notebook with one line of prose and the install cell before everything else; arguments as above.

    >>> chapter = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    >>> [cell.source for cell in colab_copy(chapter, "git+https://host/book@abc").cells[1:]]
    ['%pip install --quiet "mixerkey @ git+https://host/book@abc"', '1 + 1']
    """
    first = [
        nbformat.v4.new_markdown_cell(PROSE, id="install-prose"),
        nbformat.v4.new_code_cell(install_line(notebook, source), id="install"),
    ]
    return NotebookNode(notebook | {"cells": [*first, *notebook.cells]})


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies of the chapters that start on Colab.")
    parser.add_argument("folder", type=Path, help="where to write them")
    parser.add_argument("repository", help="https address from which git can clone this repository")
    parser.add_argument("commit", help="the commit to install, 40 hexadecimal digits")
    arguments = parser.parse_args()
    if not re.fullmatch(r"https://[^\s\"'@]+", arguments.repository):
        parser.error(f"the repository must be a public https address, got {arguments.repository!r}")
    if not re.fullmatch(r"[0-9a-f]{40}", arguments.commit):
        parser.error(f"the commit must be 40 hexadecimal digits (git rev-parse HEAD), got {arguments.commit!r}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(BOOK.glob("*.ipynb")):
        copy = colab_copy(nbformat.read(path, as_version=4), f"git+{arguments.repository}@{arguments.commit}")
        nbformat.write(copy, arguments.folder / path.name)


if __name__ == "__main__":
    main()
