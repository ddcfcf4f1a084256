"""The marks of a class: results as they come, what the teacher enters, one table, and a page of feedback each."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from assignments import feedback, table
from assignments.inbox import plain
from assignments.notebook import Assignment, assignments

Result = dict[str, Any]
OFTEN = 2  # seconds between two writings of the table


class Grades:
    """A folder of marks: ``grades.xlsx``, ``feedback/STUDENT/1-cipher.html``, and ``results/`` for later calls.

    Args:
        out: the folder.
        seed: of the class's variant.

    Raises:
        ValueError: it holds a table that can't be read, or a mark in it that can't be.
    """

    def __init__(self, out: Path, seed: int) -> None:
        self.out = out
        self.known = assignments(seed)
        self.results: dict[tuple[str, str], Result] = {}
        for path in sorted((out / "results").glob("*/*.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            self.results[result["assignment"], result["student"]] = result
        self.entered = {
            (name, row["student"]): row for name, rows in table.load(out / table.FILE).items() for row in rows
        }
        self.saved = 0.0
        for result in self.results.values():
            self._steps(result)  # a mark that can't be read is reported before anything is written

    def others(self, work: set[tuple[str, str]]) -> list[str]:
        """Whose stored results were made by other tests or another variant, and are not about to be made again."""
        return [
            f"{student} ({name})"
            for (name, student), result in self.results.items()
            if (name, student) not in work and result["digest"] != self.known[name].digest
        ]

    def add(self, result: Result) -> None:
        """Store a result, write its page, and the table every now and then."""
        name, student = result["assignment"], result["student"]
        self.results[name, student] = result
        path = self.out / "results" / name / f"{file_name(student)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
        self._write_page(result)
        if time.monotonic() - self.saved > OFTEN:
            self.save()

    def save(self) -> None:
        """Write the table, once there is a result."""
        if not self.results:
            return
        sheets = {
            name: [self._row(result) for (which, _), result in sorted(self.results.items()) if which == name]
            for name in self.known
        }
        columns = {column for assignment in self.known.values() for column in by_hand(assignment)}
        self.out.mkdir(parents=True, exist_ok=True)
        table.save(self.out / table.FILE, {n: rows for n, rows in sheets.items() if rows}, columns | {table.COMMENT})
        self.saved = time.monotonic()

    def update(self) -> None:
        """Take the marks that were entered into the sums and the pages.

        Raises:
            ValueError: nothing was graded.
        """
        if not self.results:
            raise ValueError(f"there are no grades in {self.out}; grade first")
        for result in self.results.values():
            self._write_page(result)
        self.save()

    def mark(self, result: Result) -> float:
        """The sum of what the tests gave and what was entered."""
        given = [test["mark"] for test in result["tests"]] + [step["mark"] or 0 for step in self._steps(result)]
        return tidy(sum(given))

    def _row(self, result: Result) -> table.Row:
        assignment, steps = self.known[result["assignment"]], self._steps(result)
        tests = {test["name"]: test["mark"] for test in result["tests"]}
        notes = [result["problem"], *result["notes"]]
        if written(result) and any(step["mark"] is None for step in steps):
            notes.append("to be marked by hand")
        return {
            "student": result["student"],
            "mark": self.mark(result),
            "of": assignment.points,
            "note": "; ".join(note for note in notes if note),
            **{test.name: tests.get(test.name, 0) for test in assignment.tests},
            **{step["column"]: step["mark"] for step in steps},
            table.COMMENT: self._comment(result),
            "notebook": result["path"],
        }

    def _steps(self, result: Result) -> list[dict[str, Any]]:
        """The marking scheme with the marks that were entered, None where there is none."""
        assignment = self.known[result["assignment"]]
        row = self.entered.get((assignment.name, result["student"]), {})
        return [
            {"column": column, "points": points, "what": what, "mark": _entered(row, column, points)}
            for column, (points, what) in zip(by_hand(assignment), assignment.scheme, strict=True)
        ]

    def _comment(self, result: Result) -> str:
        return str(self.entered.get((result["assignment"], result["student"]), {}).get(table.COMMENT) or "")

    def _write_page(self, result: Result) -> None:
        assignment = self.known[result["assignment"]]
        folder = self.out / "feedback" / file_name(result["student"])
        folder.mkdir(parents=True, exist_ok=True)
        html = feedback.page(result, self._steps(result), self.mark(result), assignment.points, self._comment(result))
        (folder / f"{assignment.name}.html").write_text(plain(html), encoding="utf-8")


def written(result: Result) -> bool:
    """Whether there is text to be marked by hand."""
    return any(cell["type"] != "code" for cell in result["cells"])


def by_hand(assignment: Assignment) -> list[str]:
    """The columns that the teacher fills in."""
    return [f"step {number} (of {points})" for number, (points, _) in enumerate(assignment.scheme, 1)]


def _entered(row: table.Row, column: str, points: int) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        mark = float(str(value).replace(",", "."))
    except ValueError:
        mark = -1
    if not 0 <= mark <= points:
        raise ValueError(f"{table.FILE}, {row['student']}, {column}: {value!r} is no mark from 0 to {points}")
    return tidy(mark)


def tidy(mark: float) -> float:
    """A whole number where it is one.

    >>> tidy(2.0), tidy(2.5)
    (2, 2.5)
    """
    return int(mark) if mark == int(mark) else mark


def file_name(student: str) -> str:
    """A file name of its own for each student, on every system.

    >>> file_name("anna.maier")
    'anna.maier'
    >>> file_name("Anna/..") == file_name("Anna:..")
    False
    """
    safe = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", student).strip(". ").encode()[:100].decode(errors="ignore")
    if safe == student:
        return safe
    return f"{safe}-{hashlib.sha256(student.encode(errors='surrogateescape')).hexdigest()[:8]}"
