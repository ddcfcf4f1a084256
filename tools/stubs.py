"""Write the stubs of the book's exercises: each is its solution's cell with the answer taken out.

    python -m tools.stubs

An exercise with a checker holds one code cell, between ``{exercise-start}`` and ``{exercise-end}``. It is made from the
first code cell of its solution, so it is never edited by hand; a test compares the two.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

BOOK = Path(__file__).parent.parent / "book"


def stub(solution: str) -> str:
    """A solution without the answer: functions keep their docstring, names their name, calls stay.

    >>> print(stub("n = 4\\ncheck.n(n)"))
    n = ...
    check.n(n)
    """
    lines = solution.splitlines()
    for statement in reversed(ast.parse(solution).body):
        last = statement.end_lineno
        if isinstance(statement, ast.FunctionDef):
            first = statement.body[0]
            has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            begin = first.end_lineno if has_docstring else first.lineno - 1
            lines[begin:last] = ["    raise NotImplementedError"]
        elif isinstance(statement, ast.Assign):
            lines[statement.lineno - 1 : last] = [f"{ast.unparse(statement.targets[0])} = ..."]
    return "\n".join(lines)


def exercises(cells: list[dict]) -> Iterator[tuple[str, dict, dict]]:
    """The label, stub cell and solution cell of each exercise with a checker."""
    waiting: dict[str, dict] = {}
    inside = ("", "")  # which directive, of which label
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            kind, label = inside
            if kind == "exercise":
                waiting[label] = cell
            elif kind == "solution" and label in waiting:
                yield label, waiting.pop(label), cell
            continue
        for line in source.splitlines():
            if gate := re.match(r"`{3,}\{(exercise|solution)-(start|end)\} ?(.*)", line):
                kind, which, rest = gate.groups()
                inside = (kind, rest) if which == "start" else ("", "")
            elif line.startswith(":label: ") and inside[0] == "exercise":
                inside = ("exercise", line.removeprefix(":label: "))


def main() -> None:
    for path in sorted(BOOK.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for _, before, solution in exercises(notebook["cells"]):
            before["source"] = stub("".join(solution["source"])).splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
