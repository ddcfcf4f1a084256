"""Marks of one notebook: the student's cells in the sandbox, the tests here, and what each test found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from assignments.inbox import Notebook
from assignments.notebook import Assignment, Cell
from assignments.sandbox import Submission, SubmissionError

LONGEST = 500  # characters of what a test found
EXPERIMENT = "# experiment"  # the first line of a cell that is not run


def mark(assignment: Assignment, notebook: Notebook, trust: bool = False) -> dict[str, Any]:
    """Run a notebook and test it.

    The tests never share a process with the student's code: see `assignments.sandbox`. A submission contributes the
    source of its cells, and nothing else.

    Args:
        trust: see `assignments.sandbox.Submission`.

    Returns:
        plain data: "tests", a list of {"name", "points", "mark", "said"}, and "cells", what was handed in beside what
        was given, a list of {"type", "source", "printed"}.
    """
    own = written(assignment, notebook)
    with Submission(trust) as submission:
        for cell in assignment.cells:
            if cell.kind == "given":
                submission.run(cell.source)
        for each in own:
            if each["type"] == "code" and not each["source"].lstrip().startswith(EXPERIMENT):
                each["printed"] = submission.run(each["source"])
        functions = submission.functions(assignment.names)
        functions["left"] = lambda function, *arguments: function(*arguments, left=True)
        tests = run_tests(assignment, functions)
    return {"tests": tests, "cells": own}


def written(assignment: Assignment, notebook: Notebook) -> list[dict[str, str]]:
    """The cells that the student has written or changed; of an output, only what a cell stored that is not run."""
    given = {cell.for_student().strip() for cell in assignment.cells}
    return [
        {"type": kind, "source": source, "printed": output}
        for kind, source, output in notebook.cells
        if source.strip() and source.strip() not in given
    ]


def run_tests(assignment: Assignment, functions: dict[str, Callable]) -> list[dict[str, Any]]:
    """What each test finds against these functions, which stand for the student's."""
    names: dict[str, Any] = {"__name__": "tests"}
    found = []
    for cell in assignment.cells:
        if cell.kind in ("given", "secret"):
            with contextlib.redirect_stdout(None):
                exec(cell.for_teacher(), names)
            names.update(functions)
        elif cell in assignment.tests:
            said = _finding(cell, names)
            found.append({"name": cell.name, "points": cell.points, "mark": 0 if said else cell.points, "said": said})
    return found


def _finding(cell: Cell, names: dict[str, Any]) -> str:
    """What a test says against the answers; nothing if it passes."""
    try:
        exec(cell.for_teacher(), names)
    except (AssertionError, SubmissionError) as error:
        return str(error)[:LONGEST] or "It is wrong."
    except Exception as error:  # an answer of a kind that the test can do nothing with
        return f"The test can't use the answer. {type(error).__name__}: {error}"[:LONGEST]
    return ""
