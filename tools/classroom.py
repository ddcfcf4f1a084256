"""How long does a class wait? Run times of the notebooks, of `make book`, and of an installation without a network.

    python -m tools.classroom               the notebooks and the book
    python -m tools.classroom wheelhouse    the installation too; 10 GB of disk for its time, deleted after

Use a quiet machine. The notebooks run in a temporary folder and are not changed; those that need CIFAR-10 find it as
`mixerkey.data.load_cifar10` says. The receipt is read by the teacher's guide.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

from mixerkey.files import read_json, write_json
from mixerkey.receipts import processor, versions
from tools.browser import serve

ROOT = Path(__file__).parent.parent
RECEIPT = ROOT / "mixerkey" / "receipts" / "classroom.json"
WHAT = "mixerkey[book,service]", "jupyterlab"  # what a student needs


def seconds(task: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    task()
    return round(time.perf_counter() - start, 1)


def run_notebook(path: Path) -> None:
    """Execute a notebook as a reader would, from top to bottom, in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()


def build_book(python: str) -> None:
    """What `make book` does once its environment is there, in a copy of the repository."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "book"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "_build", "runs", "__pycache__"))
        build = [str(Path(python).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going", "--quiet"]
        subprocess.run(build, cwd=copy, check=True, stdout=subprocess.DEVNULL)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def install(python: str) -> dict:
    """Fill a wheelhouse, serve it, and install from it alone into a new environment."""
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    with TemporaryDirectory() as folder:
        wheelhouse, student = Path(folder) / "wheelhouse", Path(folder) / "student"
        fill = [python, *pip, "wheel", "-w", str(wheelhouse), "-c", "constraints.txt", ".[book,service]"]
        filling = seconds(lambda: subprocess.run([*fill, "--group", "lab"], cwd=ROOT, check=True))
        with serve(wheelhouse) as address:
            venv.create(student, with_pip=True)
            source = ["--no-index", "--find-links", address]
            take = [str(student / "bin" / "python"), *pip, "install", "--no-cache-dir", *source, *WHAT]
            installing = seconds(lambda: subprocess.run(take, check=True))
        return {
            "wheels": len(list(wheelhouse.glob("*.whl"))),
            "wheelhouse_bytes": size(wheelhouse),
            "fill_seconds": filling,
            "install_seconds": installing,
            "environment_bytes": size(student),
        }


def main(arguments: list[str]) -> None:
    """Measure, print and write the receipt; what is not measured this time keeps its earlier entry."""
    receipt = read_json(RECEIPT) if RECEIPT.exists() else {}
    receipt |= {"processor": processor(), "cores": os.cpu_count(), "versions": versions()}
    receipt["notebooks"] = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        receipt["notebooks"][path.stem] = seconds(partial(run_notebook, path))
        print(f"{path.stem:20}{receipt['notebooks'][path.stem]:8.1f} s")
        write_json(RECEIPT, receipt)
    receipt["book_seconds"] = seconds(partial(build_book, sys.executable))
    print(f"{'make book':20}{receipt['book_seconds']:8.1f} s")
    if arguments == ["wheelhouse"]:
        receipt["installation"] = install(sys.executable)
        print(receipt["installation"])
    write_json(RECEIPT, receipt)


if __name__ == "__main__":
    main(sys.argv[1:])
