"""An assignment: read from its source, written as the teacher's notebook and as the student's.

A source is Markdown. Each fenced block is a cell, and the text between two of them is one:

    ```python given                  code for students and tests alike
    ```python answer                 the student sees a stub in place of ### BEGIN SOLUTION ... ### END SOLUTION
    ```python test NAME POINTS       a test that the student sees
    ```python hidden NAME POINTS     a test of which the student sees the first line
    ```python secret                 what hidden tests share; the student sees nothing
    ```written NAME POINTS           a text to be written; below ---, the marking scheme, a line "POINTS | what" a step
"""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbformat import NotebookNode

from assignments.variants import NAMES, variant

HERE = Path(__file__).parent
SOURCE = HERE / "source"
FENCE = re.compile(
    r"^```(?:python (given|answer|test|hidden|secret)|(written))(?: (\S+) (\d+))?\n(.*?)^```$", re.M | re.S
)
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION\n?", re.M | re.S)
STUB = r"\1raise NotImplementedError()\n"


@dataclass(frozen=True)
class Cell:
    """A piece of an assignment; `name` and `points` where it is marked."""

    kind: str
    source: str
    name: str = ""
    points: int = 0

    def for_student(self) -> str:
        """What the student sees of it."""
        if self.kind == "answer":
            return SOLUTION.sub(STUB, self.source).strip()
        if self.kind == "hidden":
            return self.source.splitlines()[0]
        return self.source.partition("\n---\n")[0] if self.kind == "written" else self.source

    def for_teacher(self) -> str:
        """Everything, the solution without its markers."""
        return re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", self.source, flags=re.M).strip()


@dataclass(frozen=True)
class Assignment:
    """One assignment in the variant of a class."""

    name: str
    seed: int

    @cached_property
    def cells(self) -> list[Cell]:
        """What it consists of, from its source."""
        text, cells, end = self._text(), [], 0
        for match in FENCE.finditer(text):
            cells.append(Cell("text", text[end : match.start()].strip()))
            kind, written, name, points, source = match.groups()
            cells.append(Cell(kind or written, source.strip(), name or "", int(points or 0)))
            end = match.end()
        cells.append(Cell("text", text[end:].strip()))
        return [cell for cell in cells if cell.source]

    @cached_property
    def digest(self) -> str:
        """Of the source, so that marks by other tests are never mixed with these."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:16]

    @property
    def tests(self) -> list[Cell]:
        """What the machine marks."""
        return [cell for cell in self.cells if cell.kind in ("test", "hidden")]

    @property
    def scheme(self) -> list[tuple[int, str]]:
        """The steps that are marked by hand, with their points; empty where there are none."""
        lines = [
            line
            for cell in self.cells
            if cell.kind == "written"
            for line in cell.source.partition("\n---\n")[2].splitlines()
        ]
        return [(int(points), what) for points, what in (line.split(" | ") for line in lines)]

    @property
    def names(self) -> list[str]:
        """The functions that students write."""
        nodes = [node for cell in self.cells if cell.kind == "answer" for node in ast.parse(cell.for_student()).body]
        return [node.name for node in nodes if isinstance(node, ast.FunctionDef)]

    @property
    def points(self) -> int:
        """All marks, by the machine and by hand."""
        return sum(cell.points for cell in self.cells)

    def notebook(self, teacher: bool = False) -> NotebookNode:
        """The notebook, with or without what only the teacher sees."""
        cells = []
        for number, cell in enumerate(self.cells):
            if cell.kind == "secret" and not teacher:
                continue
            code = cell.kind not in ("text", "written")
            new = nbformat.v4.new_code_cell if code else nbformat.v4.new_markdown_cell
            made = new(cell.for_teacher() if teacher else cell.for_student(), id=cell.name or f"{self.name}-{number}")
            if cell.kind not in ("text", "answer", "written"):  # JupyterLab keeps it from being changed by accident
                made.metadata["editable"] = False
            made.metadata["deletable"] = False
            cells.append(made)
        return nbformat.v4.new_notebook(
            cells=cells, metadata={"mixerkey": {"assignment": self.name, "seed": self.seed}, **KERNEL}
        )

    def _text(self) -> str:
        environment = Environment(
            loader=FileSystemLoader(SOURCE),
            variable_start_string="<<",
            variable_end_string=">>",
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template(f"{self.name}.md").render(variant(self.name, self.seed))


KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def assignments(seed: int) -> dict[str, Assignment]:
    """All of them, in the variant of this seed."""
    return {name: Assignment(name, seed) for name in NAMES}
