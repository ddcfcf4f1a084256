"""A class, graded: each notebook in a process of its own, so that one student's trouble is that student's alone."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from assignments.grades import Grades, Result
from assignments.inbox import Entry, Notebook, choose, entries, which
from assignments.notebook import Assignment
from assignments.sandbox import sandbox

LIMIT = 600  # seconds for one notebook; the sandbox's own limits end it long before
TOLD = 3  # of what else an entry holds


def grade(
    submissions: Path,
    out: Path,
    seed: int = 0,
    jobs: int | None = None,
    trust: bool = False,
    only: Iterable[str] = (),
    students: Iterable[str] = (),
    tell: Callable[[str], None] = print,
) -> list[Result]:
    """Grade a folder of submissions, or some students of it.

    Args:
        submissions: a folder with an entry for each student, or the archive that a learning platform exports. It is
            read, never written.
        out: see `assignments.grades.Grades`.
        seed: of the class's variant.
        jobs: how many at a time; as many as there are cores by default.
        trust: see `assignments.sandbox.Submission`.
        only: which assignments; by default those that somebody handed in.
        students: whom; by default everybody.
        tell: gets a line for each result.

    Returns:
        the results, in the order in which they came.

    Raises:
        FileNotFoundError: bubblewrap is missing, and `trust` is false; or there are no submissions.
        ValueError: nothing to grade, or `out` holds the submissions, marks of another variant or a table that can't be
            read.
    """
    if not trust:
        sandbox(None)
    if out.exists() and out.samefile(submissions):
        raise ValueError(f"{out} holds the submissions; name another folder for the marks")
    grades = Grades(out, seed)
    work = _work(_selected(entries(submissions), set(students)), grades.known, set(only))
    if others := grades.others({(result["assignment"], result["student"]) for result, _ in work}):
        raise ValueError(
            f"{out} holds marks of another SEED or by other tests: {', '.join(others)}; give each "
            "class a folder of its own, as for its notebooks: make's OUT=, or --out"
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["assignments.marking", "mixerkey"])
    results = []
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        futures = [pool.submit(_grade_one, context, grades.known, result, notebook, trust) for result, notebook in work]
        try:
            for future in as_completed(futures):
                results.append(result := future.result())
                grades.add(result)
                said = result["problem"] or f"{grades.mark(result):g} of {grades.known[result['assignment']].points}"
                said = "; ".join([said, *result["notes"]])
                tell(f"[{len(results)} of {len(work)}] {result['assignment']}  {result['student']}  {said}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            grades.save()
    return results


def _selected(found: list[Entry], students: set[str]) -> list[Entry]:
    if missing := students - {entry.name for entry in found}:
        names = ", ".join(entry.name for entry in found)
        raise ValueError(f"no entry of {', '.join(sorted(missing))}; there are {names}")
    return [entry for entry in found if not students or entry.name in students]


def _work(found: list[Entry], known: dict[str, Assignment], only: set[str]) -> list[tuple[Result, Notebook | None]]:
    """For each assignment and entry, the result so far and the notebook that is to be marked."""
    sorted_out = [(entry, _by_assignment(entry, known)) for entry in found]
    handed_in = only or {name for _, notebooks in sorted_out for name in notebooks}
    if not handed_in:
        raise ValueError("nothing that can be graded:\n" + "\n".join(f"{e.name}: {_told(e)}" for e in found))
    work = []
    for name in sorted(handed_in):
        for entry, notebooks in sorted_out:
            notebook, notes = choose(notebooks.get(name, []), known[name])
            if len(entry.places) > 1:
                notes.append(
                    f"from {' and '.join(entry.places)}: if these are two students, give each a name of their own"
                )
            result = {
                "assignment": name,
                "student": entry.name,
                "digest": known[name].digest,
                "path": notebook.path if notebook else "",
                "problem": "" if notebook else f"No notebook of this assignment; found: {_told(entry)}",
                "notes": notes,
                "tests": [],
                "cells": [],
            }
            work.append((result, notebook))
    return work


def _by_assignment(entry: Entry, known: dict[str, Assignment]) -> dict[str, list[Notebook]]:
    found: dict[str, list[Notebook]] = {}
    for notebook in entry.notebooks:
        if name := which(notebook, known):
            found.setdefault(name, []).append(notebook)
        else:
            entry.notes.append(f"{notebook.path}: a notebook of none of the assignments")
    return found


def _told(entry: Entry) -> str:
    """What an entry holds that was not graded."""
    more = f", and {len(entry.notes) - TOLD} more" if len(entry.notes) > TOLD else ""
    return ", ".join(entry.notes[:TOLD]) + more if entry.notes else "notebooks of other assignments"


def _grade_one(
    context: ForkServerContext,
    known: dict[str, Assignment],
    result: Result,
    notebook: Notebook | None,
    trust: bool,
) -> Result:
    """Mark one notebook in a process of its own; whatever becomes of that, there is a result."""
    if notebook is None:
        return result
    answers, send = context.Pipe(duplex=False)
    process = context.Process(target=_mark, args=(send, known[result["assignment"]], notebook, trust))
    process.start()
    send.close()
    try:
        if not answers.poll(LIMIT):
            raise TimeoutError(f"it took more than {LIMIT} seconds")
        return result | json.loads(answers.recv_bytes())
    except (OSError, EOFError) as error:
        return result | {
            "problem": f"The grader failed: {str(error) or 'its process ended'}. Grade this student again."
        }
    finally:
        process.kill()
        process.join()


def _mark(send: Connection, assignment: Assignment, notebook: Notebook, trust: bool) -> None:
    """In a process of its own: the marks of a notebook, as JSON."""
    import torch  # which the grader itself does not need

    from assignments.marking import mark

    torch.set_num_threads(1)
    try:
        found: dict[str, Any] = mark(assignment, notebook, trust)
    except Exception as error:
        found = {"problem": f"The grader failed: {type(error).__name__}: {error}. Grade this student again."}
    send.send_bytes(json.dumps(found).encode())
