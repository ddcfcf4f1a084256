"""`python -m assignments build` and `python -m assignments grade FOLDER`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from assignments.course import HERE, NAMES, build, grade, student_zip

MISSING = """bubblewrap is not installed, so nothing would keep a submission away from your files.
On Debian or Ubuntu: apt install bubblewrap. On Fedora: dnf install bubblewrap. On macOS there is none: grade on a Linux
machine, in a virtual machine, or in a container that allows user namespaces.
If you have read every submission and trust it, --trust grades without protection."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m assignments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="write the student zips and the teacher's notebooks")
    building.add_argument("--out", type=Path, default=Path("dist/assignments"))
    grading = commands.add_parser("grade", help="grade a folder with a sub-folder or zip file for each student")
    grading.add_argument("submissions", type=Path)
    grading.add_argument("--out", type=Path, default=Path("dist/grades"))
    grading.add_argument("--jobs", type=int, help="how many at a time; one a core by default")
    grading.add_argument("--only", choices=NAMES, nargs="+", default=NAMES, help="which assignments")
    grading.add_argument("--trust", action="store_true", help="without a sandbox, where there is no bubblewrap")
    options = parser.parse_args(arguments)

    if options.command == "build":
        with tempfile.TemporaryDirectory() as temporary:
            build(Path(temporary) / "course")
            options.out.mkdir(parents=True, exist_ok=True)
            for name in NAMES:
                student_zip(Path(temporary) / "course", name, options.out / f"{name}.zip")
                shutil.copy(HERE / "source" / name / f"{name}.ipynb", options.out / f"{name}-instructor.ipynb")
        print(f"{options.out}: {', '.join(f'{name}.zip' for name in NAMES)} for students, *-instructor.ipynb for you")
        return 0

    if options.trust:
        print("Without a sandbox: submissions can read and change whatever you can.", file=sys.stderr)
    start = time.monotonic()
    try:
        tables = grade(options.submissions, options.out, options.jobs, options.trust, options.only)
    except FileNotFoundError as error:
        print(MISSING if "bubblewrap" in str(error) else error, file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for name, rows in tables.items():
        print(f"{name}: {len(rows)} graded")
        for row in rows:
            print(f"  {row['student']:30} {row['mark']:4g} of {row['of']:g}  {row['note']}")
    print(f"{options.out}: a table for each assignment, and feedback/; {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
