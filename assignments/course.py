"""nbgrader's course: student versions from the sources, marks and feedback from submissions."""

from __future__ import annotations

import ast
import csv
import html
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.preprocessors import ClearHiddenTests, Execute, GetGrades, SaveAutoGrades
from traitlets.config import Config

from assignments.sandbox import sandbox

HERE = Path(__file__).parent
NAMES = tuple(sorted(folder.name for folder in (HERE / "source").iterdir() if folder.is_dir()))
STUDENT = "student"  # each submission is graded in a course of its own, so nbgrader needs no other name
NOTEBOOK = 2**23  # bytes, the largest submission
PIPE = "_submission"
# The teacher opens what students wrote: no script runs in it, nothing is loaded from anywhere.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'\">"
)


class ExecuteApart(Execute):
    """nbgrader's Execute, with the student's cells in one process and the tests in another.

    The kernel runs the locked cells only, as the teacher wrote them. Every other cell goes to the sandbox, and what it
    defines comes back as functions that ask the sandbox.
    """

    def preprocess(self, nb: NotebookNode, resources: Any, km: Any = None) -> tuple[NotebookNode, Any]:
        trust, self.names = nb.metadata["mixerkey"]["trust"], nb.metadata["mixerkey"]["names"]
        start = nbformat.v4.new_code_cell(
            f"from assignments.sandbox import Submission\n{PIPE} = Submission(trust={trust})",
            metadata={"nbgrader": {"locked": True, "grade": True, "solution": False}},
        )
        nb.cells.insert(0, start)
        nb, resources = super().preprocess(nb, resources, km)
        for output in nb.cells.pop(0).outputs:
            if output.output_type == "error":
                raise RuntimeError(output.evalue)
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(_summary(nb)))
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        if cell.cell_type != "code":
            return cell, resources
        source = cell.source
        if not utils.is_locked(cell):
            cell.source = f"print({PIPE}.run({source!r}), end='')\nglobals().update({PIPE}.names({self.names}))"
        elif not utils.is_grade(cell):  # imports, for both; what only the tests need fails in the sandbox, in silence
            cell.source = f"_ = {PIPE}.run({source!r})\n{source}"
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = source
        for output in cell.outputs:
            if output.output_type == "error":  # a traceback would show the hidden test
                said = output.evalue or output.ename
                output.traceback = [said if output.ename in SPOKEN else f"{output.ename}: {said}"]
        return cell, resources


SPOKEN = ("AssertionError", "SubmissionError")  # whose message is a sentence


class UngradableError(Exception):
    """A submission without a notebook that can be read; the message says why."""


def _summary(nb: NotebookNode) -> str:
    """What each test found, in words, for the top of the feedback."""
    lines = ["## What the tests found", ""]
    for cell in nb.cells:
        if utils.is_grade(cell) and utils.is_locked(cell):
            failed = [output.traceback[0] for output in cell.outputs if output.output_type == "error"]
            said = f"<code>{html.escape(' '.join(failed[0].split()))}</code>" if failed else "passed"
            lines.append(f"- **{cell.metadata.nbgrader.grade_id}**: {said}")
    return "\n".join(lines)


def configure(root: Path) -> NbGraderAPI:
    """nbgrader, on a course folder."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic
    os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"] = str(HERE.parent), "1"  # for the kernels
    config = Config()
    config.CourseDirectory.root = str(root)
    config.Autograde.autograde_preprocessors = [ExecuteApart, SaveAutoGrades]
    config.OverwriteCells.add_missing_cells = False  # none is missing: see `merge`
    config.Execute.timeout = 600
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--log-level=ERROR"]
    config.GenerateFeedback.preprocessors = [GetGrades, ClearHiddenTests, CSSHTMLHeaderPreprocessor]
    api = NbGraderAPI(config=config)
    api.log_level = "ERROR"
    warnings.filterwarnings("ignore", "Object of type <Submitted")  # of nbgrader's own use of SQLAlchemy
    return api


def build(root: Path) -> None:
    """Copy the sources to a course folder and generate the student versions, in `release`.

    Args:
        root: a new folder.

    Raises:
        RuntimeError: nbgrader refuses a source; the message is its log.
    """
    shutil.copytree(HERE / "source", root / "source", ignore=shutil.ignore_patterns(".*"))
    api = configure(root)
    for name in NAMES:
        _checked(api.generate_assignment(name, force=True))


def student_zip(root: Path, name: str, path: Path) -> None:
    """Pack what a student gets: the notebook without solutions and hidden tests, and what is needed to work on it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "release" / name / f"{name}.ipynb", f"{name}/{name}.ipynb")
        archive.write(HERE / "STUDENT.md", f"{name}/README.md")


def grade(
    submissions: Path, out: Path, jobs: int | None = None, trust: bool = False, only: Iterable[str] = NAMES
) -> dict[str, list[dict[str, Any]]]:
    """Grade a folder of submissions.

    Args:
        submissions: a sub-folder or zip file for each student, named after them, with their notebooks anywhere inside.
            It is read, never written.
        out: gets a table of marks for each assignment, ``1-cipher.csv``, and ``feedback/STUDENT/1-cipher.html``.
        jobs: how many at a time; as many as there are cores by default.
        trust: see `assignments.sandbox.Submission`.
        only: which assignments.

    Returns:
        the rows of each table.

    Raises:
        FileNotFoundError: bubblewrap is missing, and `trust` is false.
        ValueError: no submission is found.
    """
    if not trust:
        sandbox(None)
    students = sorted(
        entry for entry in submissions.iterdir() if not entry.name.startswith(".") and _is_submission(entry)
    )
    found = {(entry, name): find(entry, name) for entry in students for name in only}
    given = [name for name in only if any(found[entry, name] for entry in students)]
    if not given:
        raise ValueError(f"no notebook called {' or '.join(f'{name}.ipynb' for name in only)} in {submissions}")
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        course = Path(temporary) / "course"
        build(course)
        work = {
            name: [
                pool.submit(_grade_one, course, name, entry.stem, found[entry, name], out, trust) for entry in students
            ]
            for name in given
        }
        for name, rows in work.items():
            tables[name] = [row.result() for row in rows]
            with open(out / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(tables[name][0]))
                writer.writeheader()
                writer.writerows(tables[name])
    return tables


def find(entry: Path, name: str) -> bytes | None:
    """The notebook of this name in a student's folder or zip file; nothing else is taken from there, no link followed.

    Returns:
        the file's content, at most `NOTEBOOK` + 1 bytes of it; None where there is none.
    """
    wanted = f"{name}.ipynb"
    try:
        if entry.is_dir():
            for folder, folders, files in os.walk(entry):
                folders.sort()
                path = Path(folder, wanted)
                if wanted in files and not path.is_symlink() and path.is_file():
                    with open(path, "rb") as file:
                        return file.read(NOTEBOOK + 1)
            return None
        with zipfile.ZipFile(entry) as archive:
            for member in sorted(archive.namelist()):
                if member.rpartition("/")[2] == wanted and not member.startswith("__MACOSX"):
                    with archive.open(member) as file:
                        return file.read(NOTEBOOK + 1)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return b""  # there, and unreadable
    return None


def merge(release: NotebookNode, submission: NotebookNode) -> NotebookNode:
    """The student's answers in the teacher's notebook.

    Locked cells, order and metadata are the teacher's, so nothing that a submission says of itself counts. Cells that
    the student added stay where they are, as code or text without metadata.
    """
    own = {cell.metadata.nbgrader.grade_id for cell in release.cells if "nbgrader" in cell.metadata}
    known = {(cell.cell_type, cell.source) for cell in release.cells}
    answers: dict[str, str] = {}
    added: dict[str, list[NotebookNode]] = {}
    last = ""
    for cell in submission.cells:
        metadata = cell.metadata.get("nbgrader")
        grade_id = metadata.get("grade_id") if isinstance(metadata, dict) else None
        if isinstance(grade_id, str) and grade_id in own and grade_id not in answers:
            last = grade_id
            answers[grade_id] = cell.source
        elif cell.cell_type in NEW and (cell.cell_type, cell.source) not in known:
            added.setdefault(last, []).append(NEW[cell.cell_type](cell.source))
    merged = [*added.get("", [])]
    names: list[str] = []
    for cell in release.cells:
        cell = deepcopy(cell)
        merged.append(cell)
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if utils.is_solution(cell):
            if cell.cell_type == "code":
                names += _defined(cell.source)
            cell.source = answers.get(grade_id, cell.source)
        merged += added.get(grade_id, [])
    notebook = nbformat.v4.new_notebook(cells=merged, metadata=deepcopy(release.metadata))
    notebook.metadata["mixerkey"] = {"names": names}
    return notebook


NEW = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}


def _grade_one(course: Path, name: str, student: str, content: bytes | None, out: Path, trust: bool) -> dict[str, Any]:
    """Grade one notebook in a course folder of its own; write the feedback and return the row."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "course"
        shutil.copytree(course, root)
        release = nbformat.read(root / "release" / name / f"{name}.ipynb", as_version=4)
        tests = [cell.metadata.nbgrader.grade_id for cell in release.cells if utils.is_grade(cell)]
        most = sum(c.metadata.nbgrader.points for c in release.cells if utils.is_grade(c) and utils.is_locked(c))
        row: dict[str, Any] = {"student": student, "mark": 0, "of": most, **dict.fromkeys(tests, 0)}
        try:
            notebook = merge(release, _read(content))
        except UngradableError as error:
            return row | {"note": str(error)}
        notebook.metadata["mixerkey"]["trust"] = trust
        folder = root / "submitted" / STUDENT / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
        api = configure(root)
        _checked(api.autograde(name, STUDENT, force=True))
        _checked(api.generate_feedback(name, STUDENT, force=True))
        feedback = out / "feedback" / student
        feedback.mkdir(parents=True, exist_ok=True)
        page = (root / "feedback" / STUDENT / name / f"{name}.html").read_text(encoding="utf-8")
        (feedback / f"{name}.html").write_text(page.replace("<head>", f"<head>{POLICY}", 1), encoding="utf-8")
        with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as gradebook:
            grades = gradebook.find_submission_notebook(name, name, STUDENT).grades
            scores = {grade.name: grade.auto_score for grade in grades}
    for test in tests:
        row[test] = "" if scores[test] is None else _short(scores[test])  # a written answer is marked by hand
        row["mark"] += row[test] or 0
    return row | {"note": ""}


def _short(mark: float) -> float:
    return int(mark) if mark == int(mark) else mark


def _read(content: bytes | None) -> NotebookNode:
    if content is None:
        raise UngradableError("Nothing was handed in.")
    if len(content) > NOTEBOOK:
        raise UngradableError(f"The notebook is larger than {NOTEBOOK // 2**20} MiB; clear its outputs.")
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        raise UngradableError("The file can't be read as a notebook.") from error
    return notebook


def _is_submission(entry: Path) -> bool:
    return not entry.is_symlink() and (entry.is_dir() or entry.suffix == ".zip")


def _defined(source: str) -> list[str]:
    """The names that a stub defines at its top level.

    >>> _defined("LIMIT = 3\\ndef shuffle(x, v):\\n    y = x")
    ['LIMIT', 'shuffle']
    """
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names


def _checked(result: dict) -> None:
    if not result["success"]:
        raise RuntimeError(f"nbgrader: {result.get('error') or ''}{result.get('log') or ''}")
