"""`python -m assignments build`, `grade FOLDER` and `marks`."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat

from assignments.grade import grade
from assignments.grades import Grades
from assignments.notebook import HERE, assignments
from assignments.variants import NAMES
from mixerkey.parties.commands import whole

MISSING = """bubblewrap is not installed, so nothing would keep a submission away from your files.
On Debian or Ubuntu: apt install bubblewrap. On Fedora: dnf install bubblewrap. On macOS there is none: grade on a Linux
machine, in a virtual machine, or in a container that allows user namespaces.
If you have read every submission and trust it, --trust grades without protection."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter of a name shows another
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except FileNotFoundError as error:
        print(MISSING if "bubblewrap" in str(error) else error, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m assignments", description=__doc__)
    commands = parser.add_subparsers(required=True)
    building = commands.add_parser("build", help="write what students get, and the teacher's notebooks")
    building.add_argument("--out", type=Path, default=Path("dist/assignments"))
    building.set_defaults(run=_build)
    grading = commands.add_parser("grade", help="grade a folder with an entry for each student")
    grading.add_argument("submissions", type=Path, help="the folder, or the archive of a learning platform")
    grading.add_argument("--student", nargs="+", default=[], metavar="NAME", help="only these, by the table's names")
    grading.add_argument("--only", choices=NAMES, nargs="+", default=[], help="which assignments")
    grading.add_argument("--jobs", type=whole(1), help="how many at a time; one a core by default")
    grading.add_argument("--trust", action="store_true", help="without a sandbox, where there is no bubblewrap")
    grading.set_defaults(run=_grade)
    marking = commands.add_parser("marks", help="add the marks that you have entered in grades.xlsx to the sums")
    marking.set_defaults(run=_marks)
    for command in (grading, marking):
        command.add_argument("--out", type=Path, default=Path("dist/grades"))
    for command in (building, grading, marking):
        command.add_argument("--seed", type=whole(0), default=0, help="of the class's variant; 0 by default")
    return parser


def _build(options: argparse.Namespace) -> None:
    """Two folders: what may be handed out, and what may not. Students install the wheel, which holds no solutions.

    Nothing is written over that is there: a teacher's notebook may be full of notes.
    """
    students, teacher = options.out / "students", options.out / "teacher"
    made = [path for name in NAMES for path in (students / f"{name}.zip", teacher / f"{name}.ipynb")]
    if there := [str(path) for path in made if path.exists()]:
        raise ValueError(
            f"{', '.join(there)}: there already; move {options.out} away, or give each class a folder of its own, "
            "as for its marks: make's OUT=, or --out"
        )
    for folder in (students, teacher):
        folder.mkdir(parents=True, exist_ok=True)
    for old in students.glob("mixerkey-[0-9]*-py3-none-any.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(students.resolve())]
    subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True)
    (wheel,) = students.glob("mixerkey-[0-9]*-py3-none-any.whl")
    guide = (HERE / "STUDENT.md").read_text(encoding="utf-8").replace("WHEEL", wheel.name)
    for name, assignment in assignments(options.seed).items():
        with zipfile.ZipFile(students / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}/{name}.ipynb", nbformat.writes(assignment.notebook()))
            archive.writestr(f"{name}/README.md", guide)
        nbformat.write(assignment.notebook(teacher=True), teacher / f"{name}.ipynb")
    print(f"Variant SEED={options.seed}. For students: {students}. For you alone: {teacher}.")


def _grade(options: argparse.Namespace) -> None:
    if options.trust:
        print("Without a sandbox: submissions can read and change whatever you can.", file=sys.stderr)
    start = time.monotonic()
    results = grade(
        options.submissions, options.out, options.seed, options.jobs, options.trust, options.only, options.student
    )
    if failed := [result for result in results if result["problem"]]:
        print(f"Not graded, {len(failed)} of {len(results)}:")
        for result in failed:
            print(f"  {result['assignment']}  {result['student']}: {'; '.join([result['problem'], *result['notes']])}")
    print(f"{options.out}: grades.xlsx and feedback/, of variant SEED={options.seed}; {time.monotonic() - start:.0f} s")


def _marks(options: argparse.Namespace) -> None:
    Grades(options.out, options.seed).update()
    print(f"{options.out}: grades.xlsx and feedback/ have the marks that you entered")


if __name__ == "__main__":
    sys.exit(main())
