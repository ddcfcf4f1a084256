"""Each chapter starts by itself on a host that is not this repository: Colab, Binder, somebody's laptop.

The host is made here: a clean virtual environment that sees what Colab ships, linked from the environment of the
tests so that gigabytes need not be installed again, but neither `mixerkey` nor this repository; an empty folder to
run in, an empty home, no CIFAR-10, and a mirror that answers nobody. The versions are those of the tests, not Colab's.
Then comes the install line, with a wheel of this tree in the place of the repository's address. Of each chapter the
first cells run, and every import that comes later; that all of it runs is what nbval sees to, in a kernel for each.
Here one kernel, which forgets every name in between, starts them all.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from conftest import ROOT, needs
from tools.colab import colab_copy

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
SHIPPED = ("ipykernel", "ipywidgets", "matplotlib", "numpy", "pillow", "pip", "scikit-learn", "scipy", "torch", "tqdm")
START = 5  # code cells: versions, imports, and three more
SETTINGS = ("HOME", "JUPYTER", "MIXERKEY", "MPL", "PYTHON")  # what begins so is this machine's own
Run = Callable[..., None]  # of cells


@functools.cache
def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def shipped() -> set[str]:
    """What Colab ships, with everything that it needs."""
    found, todo = set[str](), list(SHIPPED)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            wanted = map(Requirement, distribution(name).requires or [])
            todo += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    command = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("mixerkey-*.whl")
    return built.as_uri()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, wheel: str) -> Iterator[Callable[[NotebookNode], Run]]:
    """For a notebook, what runs cells on a host where its install line, and nothing else, has been run."""
    started = ExitStack()

    @functools.cache
    def host(line: str) -> Run:
        folder = tmp_path_factory.mktemp("host")
        venv.create(folder / "venv")
        python = folder / "venv" / "bin" / "python"
        (folder / "shipped").mkdir()
        for name in shipped():
            for top in {file.parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}:
                link = folder / "shipped" / top
                if not link.exists():
                    link.symlink_to(str(distribution(name).locate_file(top)))
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "shipped.pth").write_text(f"{folder / 'shipped'}\n")
        kernel = folder / "jupyter" / "kernels" / "fresh"
        kernel.mkdir(parents=True)
        command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (kernel / "kernel.json").write_text(
            json.dumps({"argv": command, "display_name": "fresh", "language": "python"})
        )
        (folder / "empty").mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        environment |= {
            "HOME": str(folder / "home"),
            "MIXERKEY_CACHE": str(folder / "cache"),
            "MIXERKEY_MIRROR": "http://127.0.0.1:9/nobody",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",  # which takes longer than to install
        }

        resources = {"metadata": {"path": str(folder / "empty")}}
        client = NotebookClient(nbformat.v4.new_notebook(), kernel_name="fresh", resources=resources, timeout=300)
        client.shutdown_kernel = "immediate"

        def run(*cells: str, last: bool = False) -> None:
            client.nb = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, ["%reset -f", *cells])))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
                client.execute(env=environment, cleanup_kc=last)

        nothing = "import importlib.util; assert importlib.util.find_spec('mixerkey') is None"
        installed = f"assert importlib.util.find_spec('mixerkey').origin.startswith({str(packages)!r})"
        run(nothing, line, installed, last=True)
        started.callback(run, last=True)
        return run

    with started:
        yield lambda notebook: host(code(colab_copy(notebook, wheel))[0])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_starts_on_a_fresh_host(fresh: Callable[[NotebookNode], Run], chapter: Path) -> None:
    notebook = read(chapter)
    cells = code(notebook)
    later = [
        ast.unparse(node)
        for cell in cells[START:]
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    start = [*cells[:START], "\n".join(later)]
    if "cifar10" in needs(chapter):
        with pytest.raises(CellExecutionError) as failure:
            fresh(notebook)(*start)
        assert failure.value.ename == "DataUnavailable"
        assert "set MIXERKEY_MIRROR to another URL of the archive, or set MIXERKEY_DATA to a copy" in str(failure.value)
    else:
        fresh(notebook)(*start)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_cell_names_a_file_of_the_repository(chapter: Path) -> None:
    for cell in code(read(chapter)):
        strings = [node.value for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Constant)]
        for text in strings:
            if isinstance(text, str) and re.fullmatch(r"[\w./-]*[./][\w./-]*\w", text):
                assert not text.startswith(".."), cell
                assert not (chapter.parent / text).exists(), cell
                assert not (ROOT / text).exists(), cell
    for cell in read(chapter).cells:
        if cell.cell_type == "markdown":  # a picture that a copy elsewhere does not have
            assert not re.search(r"!\[[^]]*\]\((?!https://|data:|attachment:)", cell.source)


def colab(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.colab", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_colab_copies_differ_by_the_install_cell_alone(tmp_path: Path) -> None:
    done = colab(tmp_path, "https://host.invalid/book.git", "0123456789" * 4)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in CHAPTERS]
    for chapter in CHAPTERS:
        copy = json.loads((tmp_path / chapter.name).read_text(encoding="utf-8"))
        nbformat.validate(copy)
        prose, install, *rest = copy["cells"]
        extras = "[service]" if chapter.stem == "three-parties" else ""
        assert "".join(install["source"]) == (
            f'%pip install --quiet "mixerkey{extras} @ git+https://host.invalid/book.git@{"0123456789" * 4}"'
        )
        assert prose["cell_type"] == "markdown"
        assert {**copy, "cells": rest} == json.loads(chapter.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("repository", "commit", "message"),
    [
        ("git@host.invalid:book.git", "0" * 40, "must be a public https address"),
        ("", "0" * 40, "must be a public https address"),
        ("https://host.invalid/book.git", "main", "must be 40 hexadecimal digits"),
    ],
)
def test_without_a_real_address_and_commit_nothing_is_written(
    tmp_path: Path, repository: str, commit: str, message: str
) -> None:
    done = colab(tmp_path, repository, commit)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_binder_installs_this_package_with_a_python_that_it_allows() -> None:
    """By repo2docker's rules: where there is a folder `binder`, its files alone count; pip runs in the root."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"python-3\.\d+", python)
    assert SpecifierSet(project["requires-python"]).contains(python.removeprefix("python-"))
    (line,) = [
        line
        for line in (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith(("#", "--"))
    ]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", line)
    assert extras
    assert set(extras[1].split(",")) == project["optional-dependencies"].keys()
