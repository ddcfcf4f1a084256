"""The assignments, graded: full marks, no marks, the marks that flaws deserve, and attacks that get nothing."""

from __future__ import annotations

import ast
import doctest
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import openpyxl
import pytest
import torch
from nbformat import NotebookNode
from playwright.sync_api import Browser

from assignments import feedback, grades, inbox, marking, sandbox, table, variants, worker
from assignments.__main__ import main
from assignments.grade import _grade_one, _work, grade
from assignments.grades import Grades
from assignments.inbox import Notebook, choose, entries, read, which
from assignments.marking import run_tests, written
from assignments.notebook import HERE, Assignment, assignments
from assignments.sandbox import Submission, SubmissionError
from assignments.variants import NAMES

ROOT = HERE.parent
CIPHER, PROOF, BREAK = NAMES
KNOWN = assignments(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices are faster without threads, and much faster where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bubblewrap() -> str | None:
    """Why submissions can't be isolated here, or None; installs bubblewrap where that is allowed."""
    if shutil.which("bwrap") is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in ("update", "install --yes --no-install-recommends bubblewrap"):
            subprocess.run(["apt-get", "--quiet", *command.split()], check=False, capture_output=True)
    if shutil.which("bwrap") is None:
        return "needs bubblewrap: apt install bubblewrap"
    user = 1_000_000 if os.geteuid() == 0 else None
    works = subprocess.run([*sandbox.sandbox(user), "/usr/bin/true"], check=False, capture_output=True)
    return None if works.returncode == 0 else "bubblewrap is not allowed to make namespaces here"


def answered(assignment: Assignment, text: str = "") -> NotebookNode:
    """The student's notebook with the reference's answers, and perhaps a text where one is asked for."""
    made = assignment.notebook()
    visible = [cell for cell in assignment.cells if cell.kind != "secret"]
    for cell, source in zip(made.cells, visible, strict=True):
        if source.kind == "answer":
            cell.source = source.for_teacher()
        if source.kind == "written" and text:
            cell.source = text
    return made


def handed_in(made: NotebookNode, path: str = "x.ipynb") -> Notebook:
    return read(path, nbformat.writes(made).encode())


# --- what is handed out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_the_reference_passes_every_test_in_every_variant_and_the_stub_none(name: str, seed: int) -> None:
    assignment = Assignment(name, seed)
    assert [test["said"] for test in judged(assignment)] == [""] * len(assignment.tests)
    stub: dict[str, Any] = {}
    exec("\n".join(cell.for_student() for cell in assignment.cells if cell.kind == "answer"), stub)
    assert all(test["mark"] == 0 for test in run_tests(assignment, {name: stub[name] for name in assignment.names}))


def judged(assignment: Assignment, flaw: str = "") -> list[dict[str, Any]]:
    """What the tests find in the reference, or in the reference with a flaw, without a sandbox."""
    names: dict[str, Any] = {"__name__": "answers"}
    for cell in assignment.cells:
        if cell.kind in ("given", "answer"):
            exec(cell.for_teacher(), names)
    exec(flaw, names)
    return run_tests(assignment, {name: names[name] for name in assignment.names})


def test_a_seed_gives_one_variant_and_seeds_give_many() -> None:
    for name in NAMES:
        assert variants.variant(name, 5) == variants.variant(name, 5)
        assert len({str(variants.variant(name, seed) | {"seed": 0}) for seed in range(20)}) >= 5
        assert Assignment(name, 1).digest != Assignment(name, 2).digest


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_is_worth_20_points_and_says_so(name: str) -> None:
    points: dict[str, int] = {}
    stated: dict[str, int] = {}
    for cell in KNOWN[name].cells:
        question = cell.name.split("-")[0]
        if cell.points:
            points[question] = points.get(question, 0) + cell.points
        if cell.kind == "hidden":
            assert cell.source.startswith(f"# Hidden tests, {cell.points} point")
        if heading := re.search(r"^## Question (\d): .* \((\d) points?\)", cell.source, re.M):
            stated[f"q{heading[1]}"] = int(heading[2])
        if heading := re.search(r"^## The (proof|claim) \((\d+) points, marked by hand\)", cell.source, re.M):
            stated[heading[1]] = int(heading[2])
    assert points == stated
    assert sum(points.values()) == KNOWN[name].points == 20
    by_hand = sum(points for points, _ in KNOWN[name].scheme)
    assert by_hand == (0 if name == CIPHER else 10)


@pytest.mark.parametrize("name", NAMES)
def test_students_get_neither_solutions_nor_hidden_tests(name: str) -> None:
    assignment = KNOWN[name]
    public = {line.strip() for cell in assignment.notebook().cells for line in cell.source.splitlines()}
    for cell in assignment.cells:
        secret = set(cell.for_teacher().splitlines()) - set(cell.for_student().splitlines())
        if cell.kind == "secret":
            secret = set(cell.source.splitlines())
        assert not {line.strip() for line in secret if len(line.strip()) > 30} & public
    everything = nbformat.writes(assignment.notebook())
    assert not re.search(r"SOLUTION|hidden tests? \{|\| the |<<|>>|\{%", everything)
    own = written(assignment, handed_in(assignment.notebook()))
    assert own == []  # nothing of what is given counts as the student's
    teacher = "\n".join(cell.source for cell in assignment.notebook(teacher=True).cells)
    assert all(cell.for_teacher() in teacher for cell in assignment.cells)


def expressions(source: str) -> set[str]:
    """Every larger piece of some Python code, whatever its variables are called."""
    found: set[str] = set()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic, or an exercise's gap
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = "_"
        if isinstance(node, ast.arg):
            node.arg, node.annotation = "_", None
    for node in ast.walk(tree):
        if isinstance(node, (ast.expr, ast.stmt)) and not isinstance(node, ast.FunctionDef):
            size = sum(not isinstance(inner, (ast.expr_context, ast.operator)) for inner in ast.walk(node))
            if size >= 12:
                found.add(ast.dump(node))
    return found


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")  # text of a page, tried as code
def test_no_key_expression_of_a_solution_stands_in_the_book_or_the_package() -> None:
    open_pages: set[str] = set()
    for path in [*ROOT.glob("book/**/*.ipynb"), *ROOT.glob("book/**/*.md"), *ROOT.glob("mixerkey/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        cells = json.loads(text)["cells"] if path.suffix == ".ipynb" else [{"source": text}]
        for piece in ("".join(cell["source"]) for cell in cells):
            for code in [piece, *re.findall(r"^`{3,}.*?\n(.*?)^`{3,}", piece, re.M | re.S)]:
                open_pages |= expressions(code)
    assert len(open_pages) > 1000
    for seed in range(8):
        for name in NAMES:
            for cell in Assignment(name, seed).cells:
                if cell.kind == "answer":
                    assert not expressions(cell.for_teacher()) & open_pages, (name, cell.source)


def test_students_install_a_wheel_without_solutions(tmp_path: Path) -> None:
    assert main(["build", "--out", str(tmp_path), "--seed", "3"]) == 0
    students = sorted(path.name for path in (tmp_path / "students").iterdir())
    assert [name for name in students if not name.endswith(".whl")] == [f"{name}.zip" for name in NAMES]
    (wheel,) = (tmp_path / "students").glob("mixerkey-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} <= {
            "mixerkey",
            wheel.name[: -len("-py3-none-any.whl")] + ".dist-info",
        }
    with zipfile.ZipFile(tmp_path / "students" / f"{CIPHER}.zip") as archive:
        assert sorted(archive.namelist()) == [f"{CIPHER}/{CIPHER}.ipynb", f"{CIPHER}/README.md"]
        assert f"ipykernel {wheel.name}" in archive.read(f"{CIPHER}/README.md").decode()
        made = nbformat.reads(archive.read(f"{CIPHER}/{CIPHER}.ipynb").decode(), as_version=4)
        assert made == Assignment(CIPHER, 3).notebook()
    assert sorted(path.name for path in (tmp_path / "teacher").iterdir()) == [f"{name}.ipynb" for name in NAMES]


def test_notes_in_a_teachers_notebook_are_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "teacher" / f"{CIPHER}.ipynb"
    mine.parent.mkdir()
    mine.write_text("with notes of mine")
    assert main(["build", "--out", str(tmp_path)]) == 2
    assert f"{mine}: there already; move {tmp_path} away, or give each class a folder" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "with notes of mine"


# --- what flaws cost


FLAWS: dict[str, tuple[str, str, dict[str, int], str]] = {  # what a student hands in, what it costs, what is said
    "the book's direction": (
        CIPHER,
        "def scramble(flat, v, r):\n    y = flat[..., v]\n    return torch.where(r, 255 - y, y)",
        {"q3-public": 1, "q3-hidden": 3},
        "Pixel 0, a 10, must go to place 2",
    ),
    "flips of the other block": (
        CIPHER,
        "def scramble(flat, v, r):\n"
        "    y = torch.empty_like(flat)\n"
        "    y[..., v] = flat\n"
        "    return torch.where(r, 255 - y, y)",
        {"q3-hidden": 3},
        "Does r belong to the plain block",
    ),
    "no border": (
        CIPHER,
        "TOP = LEFT = 0",
        {"q1-public": 1, "q1-hidden": 3, "q2-public": 1, "q2-hidden": 2, "q6-public": 1, "q6-hidden": 1},
        "Expected shape",
    ),
    "the book's order": (
        CIPHER,
        'ORDER = ("channel", "row", "column")',
        {"q1-public": 1, "q1-hidden": 3, "q2-hidden": 2, "q4-public": 1, "q4-hidden": 2},
        "mind the order inside a block",
    ),
    "a block short": (
        CIPHER,
        "right = blocks\ndef blocks(x):\n    return right(x[:, :-1, :-1])",
        {"q1-public": 1},
        "Expected shape \\(1, 2, 3, .*: take as many whole blocks as fit",
    ),
    "lists in place of tensors": (
        CIPHER,
        "right, right_matrix = blocks, embedding_matrix\n"
        "def blocks(x):\n    return right(x).tolist()\n"
        "def embedding_matrix(weight):\n    return right_matrix(weight).tolist()",
        {},
        "",
    ),
    "whole numbers of another width": (
        CIPHER,
        "right_put, right_scramble, right_unscramble = put, scramble, unscramble\n"
        "def put(x, flat):\n    return right_put(x.long(), flat.long())\n"
        "def scramble(flat, v, r):\n    return right_scramble(flat.int(), v, r)\n"
        "def unscramble(flat, v, r):\n    return right_unscramble(flat.float(), v, r).numpy()",
        {},
        "",
    ),
    "float32": (
        CIPHER,
        "right, right_matrix, right_features = blocks, lock_matrix, features\n"
        "def blocks(x):\n    return right(x).float()\n"
        "def lock_matrix(E, v, r):\n    return right_matrix(E.float(), v, r)\n"
        "def features(x, weight, bias):\n    return right_features(x, weight.float(), bias.float())",
        {},
        "",
    ),
    "lists of tensors": (
        CIPHER,
        "right = embedding_matrix\ndef embedding_matrix(weight):\n    return list(right(weight))",
        {},
        "",
    ),
    "whole numbers where there are fractions": (
        CIPHER,
        "right = blocks\ndef blocks(x):\n    return right(x).long()",
        {"q1-hidden": 3},
        "A grey image in float64: are its fractions lost",
    ),
    "three channels, whatever comes": (
        CIPHER,
        "right = blocks\ndef blocks(x):\n    return right(x.expand(*x.shape[:3], 3) if x.shape[3] == 1 else x)",
        {"q1-hidden": 3},
        "Expected shape",
    ),
    "a border of zeros": (
        CIPHER,
        "right = put\ndef put(x, flat):\n    return right(torch.zeros_like(x), flat)",
        {"q2-public": 1, "q2-hidden": 2},
        "Only the blocks must change",
    ),
    "blocks scrambled where they lie": (
        CIPHER,
        "right, turn = scramble, unscramble\n"
        "def scramble(flat, v, r):\n    return flat.copy_(right(flat.clone(), v, r))\n"
        "def unscramble(flat, v, r):\n    return flat.copy_(turn(flat.clone(), v, r))",
        {},
        "",
    ),
    "the weight locked where it lies": (
        PROOF,
        "right = lock\ndef lock(weight, keys):\n    return weight.copy_(right(weight.clone(), keys))",
        {},
        "",
    ),
    "the input changed": (
        CIPHER,
        "right = put\ndef put(x, flat):\n    return x.copy_(right(x, flat))",
        {"q2-public": 1},
        "put must leave x as it was",
    ),
    "pixels of a block exchanged": (
        CIPHER,
        "right = put\ndef put(x, flat):\n    return right(x, flat.flip(-1))",
        {"q2-hidden": 2},
        "is flat read in ORDER",
    ),
    "no signs": (
        CIPHER,
        "right = lock_matrix\ndef lock_matrix(E, v, r):\n    return right(E, v, r & False)",
        {"q5-hidden": 3},
        "x' E' is not x E",
    ),
    "no normalisation": (
        CIPHER,
        "def features(x, weight, bias):\n"
        "    x = x[:, TOP:, LEFT:].permute(0, 3, 1, 2).to(weight.dtype) / 255\n"
        "    return F.conv2d(x, weight, bias, stride=(ROWS, COLUMNS))",
        {"q6-public": 1, "q6-hidden": 1},
        "differs from blocks times E",
    ),
    "T transposed": (
        PROOF,
        "right = tubelet_matrix\ndef tubelet_matrix(keys, depth):\n    return right(keys, depth).T",
        {"q1-public": 1, "q1-hidden": 2},
        "at \\[0, 1\\]: expected 1, got -1",
    ),
    "one key for all frames": (
        PROOF,
        "right = lock\ndef lock(weight, keys):\n    return right(weight, keys[:1])",
        {"q2-hidden": 3},
        "The features differ for 2 keys",
    ),
    "the inverse keys": (
        PROOF,
        "right = lock\n"
        "def lock(weight, keys):\n"
        "    return right(weight, [(v.argsort(), r[v.argsort()]) for v, r in keys])",
        {"q2-public": 1, "q2-hidden": 3},
        "the filter must move as the block does",
    ),
    "a counterexample in lists": (
        PROOF,
        "right = counterexample\n"
        "def counterexample(size):\n"
        "    return [part.tolist() if torch.is_tensor(part) else [p.tolist() for p in part] for part in right(size)]",
        {},
        "",
    ),
    "a counterexample whose keys are a list": (
        PROOF,
        "right = counterexample\ndef counterexample(size):\n    E, *keys = right(size)\n    return E, keys",
        {},
        "",
    ),
    "a counterexample without brackets": (
        PROOF,
        "right = counterexample\n"
        "def counterexample(size):\n"
        "    E, *keys = right(size)\n"
        "    return E, *(part for key in keys for part in key)",
        {"q4-hidden": 2},
        r"Expected E, \(v, r\), \(v, r\), got",
    ),
    "float32 and 0 or 1": (
        PROOF,
        "right, right_lock, right_matrix = counterexample, lock, tubelet_matrix\n"
        "def counterexample(size):\n"
        "    E, *keys = right(size)\n"
        "    return E.float(), *((v.int(), r.int()) for v, r in keys)\n"
        "def lock(weight, keys):\n    return right_lock(weight.float(), keys)\n"
        "def tubelet_matrix(keys, depth):\n    return right_matrix(keys, depth).int()",
        {},
        "",
    ),
    "a counterexample of next to nothing": (
        PROOF,
        "right = counterexample\n"
        "def counterexample(size):\n"
        "    E, *keys = right(size)\n"
        "    return torch.rand(size, 3, dtype=torch.float64) * 1e-12, *keys",
        {"q4-hidden": 2},
        "The two keys need different E",
    ),
    "keys change every frame": (
        PROOF,
        "HOLD = 1",
        {"q1-hidden": 2, "q2-hidden": 3, "q3-hidden": 1},
        "expected",
    ),
    "a film without a period": (
        PROOF,
        "def embeddings_needed(stride, count):\n    return count",
        {"q3-hidden": 1},
        "Stride \\d+ and 2 keys: expected",
    ),
    "a counterexample of zeros": (
        PROOF,
        "right = counterexample\n"
        "def counterexample(size):\n"
        "    E, *keys = right(size)\n"
        "    return E * (torch.arange(size) > 1)[:, None], *keys",
        {"q4-hidden": 2},
        "A row of E is zero",
    ),
    "pools all places": (
        BREAK,
        "def find_flips(encrypted, places):\n"
        "    return (leading(encrypted.flatten(0, 1)) < 0).repeat(len(places.unique()), 1)",
        {"q2-public": 1, "q2-hidden": 2},
        "of 48 flips are right",
    ),
    "flips as 0 and 1": (
        BREAK,
        "right = find_flips\ndef find_flips(encrypted, places):\n    return right(encrypted, places).int().numpy()",
        {},
        "",
    ),
    "the eigenvector for the flips": (
        BREAK,
        "def find_flips(encrypted, places):\n"
        "    return torch.stack([leading(encrypted[:, places == key].flatten(0, 1)) for key in places.unique()])",
        {"q2-public": 1, "q2-hidden": 2},
        "Expected truth values, got",
    ),
    "knows the example": (
        BREAK,
        "def find_map(encrypted, count):\n    return example_map",
        {"q1-hidden": 3},
        "pairs of places are wrong",
    ),
    "always answers": (
        BREAK,
        "def count_keys(encrypted):\n    return KEYS",
        {"q3-public": 1, "q3-hidden": 2},
        "Noise has no keys",
    ),
    "no control": (
        BREAK,
        "def count_keys(encrypted):\n    return len(alike(encrypted).unique())",
        {"q3-public": 1, "q3-hidden": 2},
        "Noise has no keys",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_costs_what_it_deserves_and_the_message_says_why(flaw: str) -> None:
    name, code, expected, said = FLAWS[flaw]
    tests = judged(KNOWN[name], code)
    assert {test["name"]: test["points"] for test in tests if test["said"]} == expected
    assert re.search(said, " ".join(test["said"] for test in tests))


@pytest.mark.parametrize("name", NAMES)
def test_a_function_may_change_what_it_is_given_as_the_rules_say(name: str) -> None:
    """In the student's notebook as well, where it gets no copy of its own; only one question asks for that."""
    assignment = KNOWN[name]
    assert (
        "Your function may change them, unless the question asks for a copy." in assignment.notebook().cells[0].source
    )
    tests = judged(
        assignment,
        "def careless(right):\n"
        "    def answer(*arguments):\n"
        "        result = right(*arguments)\n"
        "        result = result.clone() if torch.is_tensor(result) else result\n"
        "        if torch.is_tensor(arguments[0]):\n"
        "            arguments[0].zero_()\n"
        "        return result\n"
        "    return answer\n"
        f"for each in {assignment.names}:\n"
        "    globals()[each] = careless(globals()[each])",
    )
    assert [test["name"] for test in tests if test["said"]] == ["q2-public"] * (name == CIPHER)


@pytest.mark.parametrize("name", NAMES)
def test_a_forgotten_return_is_named_by_every_test_that_meets_it(name: str) -> None:
    tests = judged(KNOWN[name], "\n".join(f"def {function}(*arguments):\n    pass" for function in KNOWN[name].names))
    assert {test["said"] for test in tests} == {"The function returned None: is there a return at its end?"}


# --- what is handed in


def notebook_bytes(name: str, text: str = "x = 1") -> bytes:
    made = KNOWN[name].notebook()
    made.cells.append(nbformat.v4.new_code_cell(text))
    return nbformat.writes(made).encode()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


ONE = notebook_bytes(CIPHER)
WITHOUT_IDS = json.dumps(
    {"cells": [{"cell_type": "code", "source": ["x = 1\n", "y = 2"]}], "metadata": {"colab": {}}, "nbformat": 4}
).encode()


@pytest.mark.parametrize(
    ("path", "content", "student", "inside"),
    [
        ("anna.maier/1-cipher.ipynb", ONE, "anna.maier", "1-cipher.ipynb"),
        ("anna.schulz/deep/er/Abgabe.IPYNB", ONE, "anna.schulz", "deep/er/Abgabe.IPYNB"),
        ("Ada/1-cipher (1).ipynb", ONE, "Ada", "1-cipher (1).ipynb"),
        ("ada.ipynb", ONE, "ada", "ada.ipynb"),
        ("ada/1-cipher.ipynb.txt", ONE, "ada", "1-cipher.ipynb.txt"),  # what browsers make of it
        ("ada/1-cipher.json", ONE, "ada", "1-cipher.json"),
        ("ada.ipynb.json", ONE, "ada", "ada.ipynb.json"),
        ("ada/work", ONE.decode().encode("utf-16"), "ada", "work"),
        ("ada.zip", zip_of({"1-cipher.txt": b"\xef\xbb\xbf" + ONE}), "ada", "ada.zip/1-cipher.txt"),
        ("ada.ZIP", zip_of({"work/1-CIPHER.ipynb": ONE}), "ada", "ada.ZIP/work/1-CIPHER.ipynb"),
        ("ada.tar.gz", tar_of({"1-cipher.ipynb": ONE}, "gz"), "ada", "ada.tar.gz/1-cipher.ipynb"),
        ("ada.tgz", tar_of({"./work/1-cipher.ipynb": ONE}, "gz"), "ada", "ada.tgz/work/1-cipher.ipynb"),
        ("ada.txz", tar_of({"1-cipher.ipynb": ONE}, "xz"), "ada", "ada.txz/1-cipher.ipynb"),
        ("ada/all.zip", zip_of({"more.zip": zip_of({"x.ipynb": ONE})}), "ada", "all.zip/more.zip/x.ipynb"),
        ("ada.zip", zip_of({"work\\1-cipher.ipynb": ONE}), "ada", "ada.zip/work/1-cipher.ipynb"),
        ("Ada L_412_assignsubmission_file_/1-cipher.ipynb", ONE, "Ada L_412", "1-cipher.ipynb"),  # Moodle
        ("Ada L_412_assignsubmission_file_1-cipher.ipynb", ONE, "Ada L_412", "1-cipher.ipynb"),
        ("lovelaceada_412_9001_1-cipher-1.ipynb", ONE, "lovelaceada_412", "1-cipher-1.ipynb"),  # Canvas
        ("lovelaceada_LATE_412_9001_work.zip", zip_of({"x.ipynb": ONE}), "lovelaceada_412", "work.zip/x.ipynb"),
        ("gradebook_MI_A1_ada_attempt_2026-01-05-12-33-44_1.ipynb", ONE, "ada", "2026-01-05-12-33-44_1.ipynb"),
        ("Lovelace_Ada_alove_88/20260105123344_1-cipher.ipynb", ONE, "Lovelace_Ada_alove_88", None),  # ILIAS
    ],
)
def test_a_notebook_is_found_under_its_students_name(
    tmp_path: Path, path: str, content: bytes, student: str, inside: str | None
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    (tmp_path / ".DS_Store").write_text("")
    (entry,) = entries(tmp_path)
    assert (entry.name, entry.notes) == (student, [])
    assert [found.path for found in entry.notebooks] == [inside or path.partition("/")[2]]
    assert which(entry.notebooks[0], KNOWN) == CIPHER


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("ada/1-cipher.ipynb", b"<!doctype html>", "not a notebook: it starts with '<!doctype html>'"),
        ("ada/1-cipher.ipynb", b"\xef\xbb\xbf" + ONE[:3000], "a notebook that breaks off or is damaged"),
        ("ada/1-cipher.ipynb", b"", "an empty file"),
        ("ada/1-cipher.ipynb", b"[" * 100_000, "not a notebook"),
        ("ada/1-cipher.ipynb", b'{"worksheets": []}', "not a notebook of version 4"),
        (
            "ada/x.ipynb",
            b'{"cells": [1, {"source": 2}], "metadata": 3}',
            "a notebook of none of the assignments",
        ),
        ("ada/report.pdf", b"%PDF", "report.pdf: not a notebook"),
        ("ada/report.rtf", b"{\\rtf1", "report.rtf: not a notebook"),
        ("ada/1-cipher.json", ONE[:3000], "a notebook that breaks off or is damaged"),
        ("ada/a.json", b"{}", "not a notebook of version 4"),
        ("ada.py", b"print()", "ada.py: not a notebook"),
        ("ada.zip", b"no archive", "a damaged archive, or none"),
        ("ada.zip", zip_of({"x.txt": b""}), "ada.zip/x.txt: not a notebook"),
        ("ada.rar", b"Rar!", "a .rar archive, which is not opened: use zip"),
    ],
)
def test_what_cannot_be_graded_is_told(tmp_path: Path, path: str, content: bytes, said: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    (entry,) = entries(tmp_path)
    for found in entry.notebooks:
        assert which(found, KNOWN) is None
        entry.notes.append("a notebook of none of the assignments")
    assert entry.name.startswith("ada")
    assert any(said in note for note in entry.notes)


def test_every_entry_appears_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "work").mkdir(parents=True)
    (tmp_path / "litter" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "litter" / ".ipynb_checkpoints" / "x-checkpoint.ipynb").write_bytes(ONE)
    (tmp_path / "thief.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    with open(folder + b"/1-cipher.ipynb", "wb") as file:
        file.write(ONE)
    found = {entry.name: entry for entry in entries(tmp_path)}
    assert list(found) == ["empty", "hollow", "litter", "M\\xfcller", "pipe", "thief.ipynb"]
    for name in ("empty", "hollow", "litter"):
        assert found[name].notes == ["no files, checkpoints and the like aside"]
    assert found["thief.ipynb"].notes == ["a link, which is not followed"]
    assert found["pipe"].notes == ["neither a file nor a folder"]
    assert len(found["M\\xfcller"].notebooks) == 1


@pytest.mark.parametrize("pack", [zip_of, lambda files: tar_of(files, "gz")], ids=["zip", "tar"])
def test_every_entry_of_an_archive_appears(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    file = tmp_path / "class.archive"
    litter = {"bob/.ipynb_checkpoints/x-checkpoint.ipynb": ONE, "__MACOSX/ada/._x": b"", ".DS_Store": b""}
    file.write_bytes(pack({"ada/1-cipher.ipynb": ONE, "ada/.DS_Store": b""} | litter))
    assert [(entry.name, len(entry.notebooks)) for entry in entries(file)] == [("ada", 1), ("bob", 0)]
    file.write_bytes(pack({"./ada/x.ipynb": ONE, "./bob/./x.ipynb": ONE, "././cleo/x.ipynb": ONE}))  # tar czf … .
    assert [(entry.name, len(entry.notebooks)) for entry in entries(file)] == [("ada", 1), ("bob", 1), ("cleo", 1)]
    made = zipfile.ZipFile(file, "w")
    made.mkdir("cleo")
    made.close()
    assert [(entry.name, entry.notes) for entry in entries(file)] == [("cleo", [inbox.NOTHING])]


def test_the_archive_of_a_learning_platform_is_taken_as_it_is(tmp_path: Path) -> None:
    moodle = {f"{who}_assignsubmission_file_/1-cipher.ipynb": ONE for who in ("Anna Maier_1", "Anna Maier_2")}
    (tmp_path / "moodle.zip").write_bytes(zip_of(moodle))
    assert [entry.name for entry in entries(tmp_path / "moodle.zip")] == ["Anna Maier_1", "Anna Maier_2"]
    (tmp_path / "ilias.zip").write_bytes(zip_of({"Abgaben/Maier_Anna/x.ipynb": ONE, "Abgaben/Schulz_Anna/x.zip": b""}))
    assert [entry.name for entry in entries(tmp_path / "ilias.zip")] == ["Maier_Anna", "Schulz_Anna"]
    (tmp_path / "none.zip").write_text("")
    with pytest.raises(ValueError, match=r"none\.zip: a damaged archive"):
        entries(tmp_path / "none.zip")
    with pytest.raises(FileNotFoundError, match="no folder or file"):
        entries(tmp_path / "nowhere")


DEEP = b'{"cells": [], "metadata": {"mixerkey": {"assignment": "1-cipher", "seed": ' + b"[" * 900 + b"]" * 900 + b"}}}"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("odd/aufgabe 1².ipynb", ONE),
        ("odd/1.zip", zip_of({f"{'9' * 5000}.ipynb": ONE})),
        ("odd/1-cipher.ipynb", DEEP),
        ("김" * 85 + "/1-cipher.ipynb", ONE),
    ],
    ids=["superscript", "digits", "deep", "long name"],
)
def test_one_students_oddity_does_not_end_the_grading_of_a_class(tmp_path: Path, path: str, content: bytes) -> None:
    submissions, out = tmp_path / "submissions", tmp_path / "out"
    for where, what in ((path, content), ("ada/1-cipher.ipynb", ONE)):
        file = submissions / where
        file.parent.mkdir(parents=True)
        file.write_bytes(what)
    for result, notebook in _work(entries(submissions), KNOWN, {CIPHER}):
        pickle.dumps(notebook)  # as on its way to a process of its own
        Grades(out, 0).add(result)
    assert len(rows(out, CIPHER)) == len(list(out.glob("feedback/*/1-cipher.html"))) == 2


def test_a_console_that_lacks_a_letter_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "in" / "Müller").mkdir(parents=True)
    (tmp_path / "in" / "Müller" / "x.txt").write_text("")
    command = [sys.executable, "-m", "assignments", "grade", "in", "--out", "out", "--trust", "--only", CIPHER]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "[1 of 1] 1-cipher  M?ller" in done.stdout, done.stderr


def test_two_entries_of_one_name_are_told_in_the_terminal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "Anna").mkdir(parents=True)
    (tmp_path / "in" / "Anna.zip").write_bytes(b"")
    nbformat.write(KNOWN[PROOF].notebook(), tmp_path / "in" / "Anna" / "x.ipynb")
    two = "from Anna and Anna.zip: if these are two students"
    command = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--trust", "--only"]
    assert main([*command, PROOF]) == 0
    assert two in capsys.readouterr().out
    assert main([*command, CIPHER]) == 0
    line, closing = capsys.readouterr().out.split("Not graded, 1 of 1:")
    assert two in line
    assert two in closing


def test_every_class_may_have_a_folder_of_its_own() -> None:
    makefile = (HERE.parent / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"-m assignments (build|grade|marks).* --out .\$\(OUT\)/(\w+)", makefile)
    assert commands == [("build", "assignments"), ("grade", "grades"), ("marks", "grades")]
    assert re.search("^OUT := dist$", makefile, re.MULTILINE)


def test_two_entries_of_one_name_are_told_as_perhaps_two_students(tmp_path: Path) -> None:
    files = ["Anna/homework.ipynb", "Anna.ipynb", "Ben/a.ipynb", "Ben/b.ipynb"]
    files += [f"maieranna_412_900{number}_{number}.ipynb" for number in (1, 2)]  # of Canvas, which tells people apart
    for number, path in enumerate(files):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(notebook_bytes(CIPHER, f"x = {number}"))
    notes = {result["student"]: " ".join(result["notes"]) for result, _ in _work(entries(tmp_path), KNOWN, set())}
    assert list(notes) == ["Anna", "Ben", "maieranna_412"]
    assert all("2 attempts" in note for note in notes.values())
    assert [name for name, note in notes.items() if "from Anna and Anna.ipynb: if these are two students" in note] == [
        "Anna"
    ]
    assert "two students" not in notes["Ben"] + notes["maieranna_412"]


def test_an_archive_or_folders_without_end_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox.Budget.__init__, "__defaults__", (200_000, 20))
    (tmp_path / "bytes.zip").write_bytes(zip_of({f"{i}.ipynb": b" " * 60_000 for i in range(4)}))
    (tmp_path / "files.zip").write_bytes(zip_of({f"{i}.txt": b"" for i in range(30)}))
    deep = ONE
    for _ in range(6):
        deep = zip_of({"x.zip" if deep is not ONE else "x.ipynb": deep})
    (tmp_path / "deep.zip").write_bytes(deep)
    monkeypatch.setattr(inbox, "FOLDERS", 3)
    (tmp_path / "low" / "a" / "b" / "c").mkdir(parents=True)
    notes = {entry.name: entry.notes[-1] for entry in entries(tmp_path)}
    assert "more files or bytes than are read" in notes["bytes"]
    assert "more files or bytes than are read" in notes["files"]
    assert "more archives within archives" in notes["deep"]
    assert notes["low"] == "a/b/c/more folders within folders than are opened"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + WITHOUT_IDS,
        WITHOUT_IDS.decode().encode("utf-16"),
        WITHOUT_IDS.replace(b'"metadata": {"colab": {}}, ', b""),
        WITHOUT_IDS.replace(b'"source"', b'"id": 7, "outputs": [{"data": 3}, 4], "source"'),
    ],
)
def test_a_notebook_of_another_editor_is_read(content: bytes) -> None:
    assert read("x.ipynb", content).code == ["x = 1\ny = 2"]


def test_large_stored_outputs_are_no_trouble() -> None:
    made = KNOWN[CIPHER].notebook()
    made.cells[1].outputs = [nbformat.v4.new_output("stream", text="x" * 12_000_000)]
    (output,) = {output for _, _, output in handed_in(made).cells if output}
    assert len(output) == inbox.SHOWN


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_known_by_what_is_in_it(name: str) -> None:
    made = answered(KNOWN[name])
    made.metadata.clear()
    assert which(handed_in(made, "Untitled.ipynb"), KNOWN) == name  # by its title
    made.cells = [cell for cell in made.cells if cell.cell_type == "code"]
    assert which(handed_in(made, "Untitled.ipynb"), KNOWN) == name  # by its functions
    made.cells = []
    assert which(handed_in(made, f"Ada {name.upper()}.ipynb"), KNOWN) == name  # by its file's name
    assert which(handed_in(made, "Untitled.ipynb"), KNOWN) is None


def test_of_two_attempts_the_last_counts_and_copies_of_what_was_given_do_not() -> None:
    stub = KNOWN[CIPHER].notebook()
    tries = {f"attempt-{number}/1-cipher.ipynb": notebook_bytes(CIPHER, f"x = {number}") for number in (1, 2, 10)} | {
        "zz/1-cipher.ipynb": nbformat.writes(stub).encode(),
        "again/1.ipynb": notebook_bytes(CIPHER, "x = 10"),
    }
    chosen, notes = choose([read(path, content) for path, content in tries.items()], KNOWN[CIPHER])
    assert chosen is not None
    assert chosen.code[-1] == "x = 10"
    assert notes == [
        "3 attempts; this is attempt-10/1-cipher.ipynb, not attempt-1/1-cipher.ipynb, attempt-2/1-cipher.ipynb"
    ]
    chosen, notes = choose([handed_in(stub, "b"), handed_in(Assignment(CIPHER, 4).notebook(), "a")], KNOWN[CIPHER])
    assert (chosen.path if chosen else "", notes) == ("a", ["made for SEED=4, marked for SEED=0"])
    assert choose([], KNOWN[CIPHER]) == (None, [])


# --- the student's side of the sandbox


def test_a_line_that_fails_costs_itself_only(capsys: pytest.CaptureFixture[str]) -> None:
    cells = worker.Cells()
    cells.run(
        "%matplotlib inline\nimport nothing_like_it\nfrom mixerkey_ import Key\n!pip install x\n"
        "def f(x):\n    return x + 1\nphoto = open('photo.png')\n%time y = f(2)\nz = 4"
    )
    cells.run("%%time\ndef g(x):\n    return f(x) * 2")
    cells.run("%%bash\nls")
    cells.run("def broken(:\n    pass")
    cells.run("import sys\nsys.exit()")
    cells.run("raise KeyboardInterrupt")
    assert (cells.names["g"](3), cells.names["y"], cells.names["z"]) == (8, 3, 4)
    printed = capsys.readouterr().out
    for said in (
        "%matplotlib is not run when work is marked",
        "ModuleNotFoundError: No module named 'nothing_like_it', in the line: import nothing_like_it",
        "!pip install x is not run when work is marked",
        "FileNotFoundError",
        "%%bash is not run when work is marked",
        "SyntaxError: invalid syntax, in the line: def broken(:",
    ):
        assert said in printed


@pytest.mark.parametrize(
    "answer",
    [
        {"tensor": ["float32", [2], "AAAA"]},
        {"tensor": ["object", [1], "AAAA"]},
        {"tensor": ["uint8", [-1], "AAAA"]},
        {"tensor": ["uint8", [3]]},
        {"pickle": "gASVBQAAAAAAAABLKi4="},
        {"tuple": 3},
        {"function": 0},
    ],
)
def test_an_answer_is_plain_data_or_refused(answer: dict) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        worker.decode(answer)


@pytest.mark.parametrize("x", [torch.arange(6).reshape(2, 3).T, torch.arange(3).numpy().astype("uint32"), 1.5, [True]])
def test_tensors_arrays_and_lists_travel(x: Any) -> None:
    there = worker.decode(json.loads(json.dumps(worker.encode(x))))
    assert torch.equal(torch.as_tensor(there), torch.as_tensor(x))


def test_after_a_loop_the_start_of_a_fresh_process_is_not_the_students_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "ONE", 3)
    slow = tmp_path / "worker.py"
    slow.write_text(f"import runpy, time\ntime.sleep(4)\nrunpy.run_path({worker.__file__!r}, run_name='__main__')")
    monkeypatch.setattr(worker, "__file__", str(slow))
    with Submission(trust=True) as submission:
        submission.run("def endless():\n    while True: pass\ndef fine():\n    return 7")
        ask = submission.functions(["endless", "fine", "missing"])
        with pytest.raises(SubmissionError, match="endless: the code was stopped, it took too long"):
            ask["endless"]()
        assert ask["fine"]() == 7
        with pytest.raises(SubmissionError, match="missing is not written yet, has another name, or its cell failed"):
            ask["missing"]()


def test_time_that_is_over_and_a_slow_machine_are_named_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with Submission(trust=True) as submission:
        submission.run("import time\ndef slow():\n    time.sleep(60)")
        ask = submission.functions(["slow"])
        submission.left = 0
        with pytest.raises(SubmissionError, match="the 60 seconds for all cells, or for all answers, are over"):
            ask["slow"]()
        monkeypatch.setattr(sandbox, "STARTS", 1)
        assert "stopped too often" in submission.run("x = 1")
    monkeypatch.setattr(sandbox, "START", 0.001)
    with pytest.raises(RuntimeError, match="is this machine busy"):
        Submission(trust=True)


def test_children_that_an_answer_leaves_behind_do_not_answer() -> None:
    with Submission(trust=True) as submission:
        submission.run("import os\ndef forks():\n    return bool(os.fork()) or True\ndef seven():\n    return 7")
        ask = submission.functions(["forks", "seven"])
        assert [ask["forks"](), *(ask["seven"]() for _ in range(3))] == [True, 7, 7, 7]


def test_half_a_character_that_is_printed_raised_or_answered_is_replaced() -> None:
    with Submission(trust=True) as submission:
        assert submission.run("print('a\\ud800')") == "a?\n"
        submission.run("def give():\n    return {'\\ud800': '😀'}\ndef fail():\n    raise ValueError('\\udfff')")
        ask = submission.functions(["give", "fail"])
        assert ask["give"]() == {"?": "😀"}
        with pytest.raises(SubmissionError, match=r"fail raised ValueError: \?"):
            ask["fail"]()


def test_a_changed_argument_is_seen_from_the_other_process() -> None:
    made = with_cells("right = put\ndef put(x, flat):\n    return x.copy_(right(x, flat))")
    found = marking.mark(KNOWN[CIPHER], handed_in(made), trust=True)["tests"]
    ((name, said),) = [(test["name"], test["said"]) for test in found if test["said"]]
    assert name == "q2-public"
    assert said.startswith("put must leave x as it was, and give a changed copy.")


# --- tables and pages


def result(student: str, name: str = PROOF, **more: Any) -> dict[str, Any]:
    tests = [{"name": test.name, "points": test.points, "mark": test.points, "said": ""} for test in KNOWN[name].tests]
    cells = [{"type": "markdown", "source": "My proof.", "printed": ""}]
    digest = KNOWN[name].digest
    plain = {"assignment": name, "student": student, "digest": digest, "path": "x", "problem": "", "notes": []}
    return plain | {"tests": tests, "cells": cells} | more


def rows(out: Path, name: str = PROOF) -> dict[str, dict[str, Any]]:
    return {row["student"]: row for row in table.load(out / table.FILE)[name]}


def enter(out: Path, student: str, values: dict[str, Any], name: str = PROOF) -> None:
    """As a teacher does, in a spreadsheet."""
    book = openpyxl.load_workbook(out / table.FILE)
    titles = [cell.value for cell in book[name][1]]
    for row in book[name].iter_rows(min_row=2):
        if row[0].value == student:
            for title, value in values.items():
                row[titles.index(title)].value = value
    book.save(out / table.FILE)


def test_marks_are_entered_in_the_table_and_reach_sum_and_page(tmp_path: Path) -> None:
    before = Grades(tmp_path, 0)
    before.add(result("anna"))
    before.add(result("ben", cells=[]))
    before.save()
    assert (rows(tmp_path)["anna"]["mark"], rows(tmp_path)["anna"]["note"]) == (10, "to be marked by hand")
    assert (rows(tmp_path)["ben"]["mark"], rows(tmp_path)["ben"]["note"]) == (10, None)  # nothing was written
    page = tmp_path / "feedback" / "anna" / f"{PROOF}.html"
    assert "Not marked yet" in (text := page.read_text(encoding="utf-8"))
    assert "<th>step</th>" not in text  # what is asked of a proof is said when it has been read
    steps = grades.by_hand(KNOWN[PROOF])
    enter(tmp_path, "anna", dict.fromkeys(steps, 1) | {steps[0]: "1,5", table.COMMENT: "Good <b>."})
    assert main(["marks", "--out", str(tmp_path)]) == 0
    assert (rows(tmp_path)["anna"]["mark"], rows(tmp_path)["anna"]["note"]) == (17.5, None)
    text = page.read_text(encoding="utf-8")
    assert "<h1>2-proof: 17.5 of 20</h1>" in text
    assert "Comment: Good &lt;b&gt;." in text
    assert "Not marked yet" not in text
    assert "<th>step</th>" in text
    Grades(tmp_path, 0).add(result("anna", notes=["marked again"]))  # what was entered stays
    assert Grades(tmp_path, 0).mark(result("anna")) == 17.5


def test_a_proof_that_comes_late_is_to_be_marked_by_hand(tmp_path: Path) -> None:
    out, files = tmp_path / "grades", tmp_path / "handed-in"
    files.mkdir()
    proofs = {who: answered(KNOWN[PROOF], "My proof.") for who in ("anna", "ben", "cleo")}
    nbformat.write(proofs["anna"], files / "anna.ipynb")
    nbformat.write(KNOWN[PROOF].notebook(), files / "ben.ipynb")
    (files / "cleo.ipynb").write_bytes(notebook_bytes(CIPHER))
    grade(files, out, trust=True, only=[PROOF])
    steps = grades.by_hand(KNOWN[PROOF])
    assert [rows(out)["ben"]["mark"], *(rows(out)["ben"][step] for step in steps)] == [0, *[None] * len(steps)]
    page = (out / "feedback" / "ben" / f"{PROOF}.html").read_text(encoding="utf-8")
    assert "No text was handed in" in page
    assert "<th>step</th>" not in page
    for late in ("ben", "cleo"):
        nbformat.write(proofs[late], files / f"{late}.ipynb")
        assert main(["grade", str(files), "--out", str(out), "--only", PROOF, "--student", late, "--trust"]) == 0
        assert (rows(out)[late]["mark"], rows(out)[late]["note"]) == (10, "to be marked by hand")


def test_a_mark_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Grades(tmp_path, 0)
    before.add(result("anna"))
    before.save()
    enter(tmp_path, "anna", {"step 1 (of 2)": 3})
    written = (tmp_path / table.FILE).read_bytes()
    assert main(["marks", "--out", str(tmp_path)]) == 2
    assert "anna, step 1 (of 2): 3 is no mark from 0 to 2" in capsys.readouterr().err
    assert (tmp_path / table.FILE).read_bytes() == written
    (tmp_path / table.FILE).write_text("no table")
    assert main(["marks", "--out", str(tmp_path)]) == 2
    assert "can't be read as a table of marks" in capsys.readouterr().err


def test_a_grader_that_dies_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assignments.grade._mark", lambda *arguments: os._exit(1))
    context = multiprocessing.get_context("fork")
    got = _grade_one(context, KNOWN, result("anna"), handed_in(KNOWN[PROOF].notebook()), trust=True)  # type: ignore[arg-type]
    assert got["problem"] == "The grader failed: its process ended. Grade this student again."


def test_without_grades_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    assert main(["marks", "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"there are no grades in {out}; grade first\n"
    Grades(out, 0).save()  # as when grading is stopped before the first result
    assert not out.exists()


def test_a_table_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / table.FILE).mkdir()
    with pytest.raises(OSError, match=r"grades\.xlsx"):
        table.save(tmp_path / table.FILE, {"a": [{"student": "anna"}]}, set())
    assert [path.name for path in tmp_path.iterdir()] == [table.FILE]


def test_names_stay_names_in_a_spreadsheet(tmp_path: Path) -> None:
    names = ["=HYPERLINK(1)", "+1", "@x", "Müller", "anna.maier", "anna.schulz", "a\x07b"]
    sheet = Grades(tmp_path, 0)
    for name in names:
        sheet.add(result(name))
    sheet.save()
    book = openpyxl.load_workbook(tmp_path / table.FILE)
    cells = [row[0] for row in book[PROOF].iter_rows(min_row=2)]
    assert {cell.value for cell in cells} == {*names[:-1], "a�b"}
    assert {cell.data_type for cell in cells} == {"s"}
    assert len(list((tmp_path / "feedback").iterdir())) == len(names)


def test_half_a_character_spoils_no_page_and_no_table(tmp_path: Path) -> None:
    half = '\ud800 $\\char"D800$'
    cells = [{"type": kind, "source": half, "printed": half} for kind in ("code", "markdown", half)]
    said = [{"name": "q1", "points": 1, "mark": 0, "said": half}]
    Grades(tmp_path, 0).add(result("anna", cells=cells, tests=said, notes=[half], path=half, problem=half))
    Grades(tmp_path, 0).update()  # what is stored already, too
    assert rows(tmp_path)["anna"]["notebook"] == half.replace("\ud800", "?")
    (page,) = tmp_path.glob("feedback/*/*.html")
    assert "?" in page.read_text(encoding="utf-8")


def test_marks_by_other_tests_are_not_mixed_with_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Grades(tmp_path, 0).add(result("anna", digest="another"))
    assert Grades(tmp_path, 0).others(set()) == ["anna (2-proof)"]
    assert Grades(tmp_path, 0).others({(PROOF, "anna")}) == []


HOSTILE = """# Proof
<meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/">
<div style="position:fixed;inset:0;background:red">20 of 20</div><script>document.title = "forged"</script>
![x](http://127.0.0.1:9/x.png) [click](javascript:alert(1)) <http://127.0.0.1:9/>
E'*T*x and a_i b_i and $T^{-1}*E$, $$\\href{http://127.0.0.1:9/}{x} \\rule{9999em}{9999em}$$ \ue0000\ue001
"""


def test_a_page_loads_nothing_and_shows_what_was_written(tmp_path: Path, browser: Browser) -> None:
    cells = [
        {"type": "markdown", "source": HOSTILE, "printed": ""},
        {"type": "code", "source": HOSTILE, "printed": HOSTILE},
        {"type": "raw", "source": HOSTILE, "printed": ""},
    ]
    said = [{"name": "q1", "points": 1, "mark": 0, "said": HOSTILE}]
    Grades(tmp_path, 0).add(result("<b>anna</b>", cells=cells, tests=said, notes=[HOSTILE], path=HOSTILE))
    (path,) = tmp_path.glob("feedback/*/*.html")
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_timeout(500)
    assert (page.title(), requests) == ("2-proof: <b>anna</b>", [path.as_uri()])
    assert page.locator("a, img, script, [style], .handed-in meta").count() == 0
    text = page.locator(".handed-in section").first.inner_text()
    assert "E'*T*x and a_i b_i and " in text
    assert '<meta http-equiv="refresh"' in text
    assert page.locator("math").count() == 4  # two formulas in each text
    page.close()


def test_a_formula_is_shown_as_typed_where_it_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in feedback.prose("$x^2$")
    assert "color" in feedback.prose("$\\frac{$")  # KaTeX marks what it does not understand
    monkeypatch.setattr(feedback, "KATEX", tmp_path)
    assert "<code>$x^2 &lt; 1$</code>" in feedback.prose("$x^2 < 1$")


# --- a class, graded in the sandbox

# Each line of what it prints is an attempt, and whether it came to something. Without the sandbox it must do no harm:
# it deletes a decoy only, and looks whether it could write, mount or end processes where it would matter.
SPY = """
import os, pathlib, shutil, signal, socket, subprocess, sys
def attempt(name, action):
    try:
        print(name, bool(action()))
    except BaseException as error:
        print(name, False)
def search():
    for folder, folders, files in os.walk("/"):
        if folder in ("/proc", "/usr", "/lib", "/lib64") or folder.endswith(("site-packages", "/lib/python")):
            folders.clear()
        for file in files:
            if file.endswith((".ipynb", ".xlsx")) or "1-cipher" in file:
                return True
def package():
    import mixerkey
    return mixerkey.Key
def wipe():
    shutil.rmtree(DECOY, ignore_errors=True)
    return any(os.path.exists(place) for place in (DECOY, *PLACES))
def write():
    places = (DECOY, *PLACES, sys.prefix, sys.base_prefix, "/", "/usr", "/dev")
    return any(os.access(place, os.W_OK) for place in places)
def network():
    return socket.create_connection(("127.0.0.1", PORT), timeout=2)
def kill():
    me = os.getpid()
    others = [int(n) for n in os.listdir("/proc") if n.isdigit() and int(n) not in (1, me)]
    return others
def root():
    rights = pathlib.Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0]
    return os.geteuid() == 0 or int(rights, 16) != 0
for name in ("search", "package", "wipe", "write", "network", "kill", "root"):
    attempt(name, globals()[name])
"""

FORGE = """
import builtins, json, os, torch
torch.allclose = torch.equal = torch.as_tensor = lambda *a, **k: True
compare = lambda *a, **k: None
builtins.isinstance = lambda *a: True
class Yes:
    def __eq__(self, other): return True
    shape = dtype = property(lambda self: Yes())
for n in os.listdir("/proc/self/fd"):
    try:
        os.write(int(n), b'{"value": {"tensor": ["int64", [4], "AA"]}}\\n{"ready": true}\\n')
    except OSError:
        pass
blocks = put = scramble = unscramble = embedding_matrix = lock_matrix = features = lambda *arguments: Yes()
"""

BOMB = """
import os, time
print('\\ud800')
def blocks(x):
    return torch.ones(8, 10**8).sum(0)
def put(x, flat):
    while True:
        pass
def embedding_matrix(weight):  # more than the sandbox allows, and few enough to do no harm outside
    for _ in range(40):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    return weight
"""

# Answers in NumPy, in cells of their own, after what another editor has made of the notebook.
FOREIGN = """%matplotlib inline
import numpy as np
import no_such_package
from mixerkey import Key
right_blocks, right_scramble = blocks, scramble

def blocks(x):
    return right_blocks(x).numpy()

def scramble(flat, v, r):
    return np.asarray(right_scramble(flat, v, r), order="F")

def unscramble(flat, v, r):
    key = Key(v, r)
"""


def with_cells(*sources: str) -> NotebookNode:
    made = answered(KNOWN[CIPHER])
    made.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    return made


def forged(port: int, places: list[Path]) -> NotebookNode:
    """No answers; spies, wipes, forges, and claims points in its metadata."""
    made = KNOWN[CIPHER].notebook()
    decoy, *others = map(str, places)
    sources = [f"DECOY = {decoy!r}\nPLACES = {others}\nPORT = {port}\n{SPY}", FORGE, "### BEGIN HIDDEN TESTS"]
    made.cells[2:2] = [nbformat.v4.new_code_cell(source, metadata={"points": 1000}) for source in sources]
    made.metadata["mixerkey"]["points"] = made.metadata["mixerkey"]["mark"] = 20
    return made


def foreign() -> NotebookNode:
    made = with_cells("# experiment\nwhile True:\n    pass", FOREIGN)
    made.metadata.clear()
    for cell in made.cells:
        cell.metadata.clear()
        cell.pop("id")
    made.nbformat_minor = 4
    return made


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], dict[str, Any]], Path]:
    """A class of submissions, graded; the results, and the folder of marks."""
    if reason := bubblewrap():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("class")
    submissions, out = root / "submissions", root / "grades"
    door = socket.create_server(("127.0.0.1", 0))
    (submissions / "decoy").mkdir(parents=True)
    (submissions / "decoy" / "a file.txt").write_text("to be kept")
    places = [submissions / "decoy", submissions, out, HERE / "source"]
    class_of = {
        ("reference", CIPHER): answered(KNOWN[CIPHER]),
        ("reference", PROOF): answered(KNOWN[PROOF], "We show both directions."),
        ("reference", BREAK): answered(KNOWN[BREAK], "The map falls."),
        ("stub", CIPHER): KNOWN[CIPHER].notebook(),
        ("bomb", CIPHER): with_cells(BOMB),
        ("forger", CIPHER): forged(door.getsockname()[1], places),
        ("foreign", CIPHER): foreign(),
    }
    for (student, name), made in class_of.items():
        (submissions / student).mkdir(exist_ok=True)
        nbformat.write(made, submissions / student / f"{name}.ipynb")
    before = snapshot(submissions), snapshot(HERE / "source")
    told: list[str] = []
    results = grade(submissions, out, jobs=2, tell=told.append)
    door.close()
    assert (snapshot(submissions), snapshot(HERE / "source")) == before
    assert len(told) == len(results) == 3 * 6
    assert told[-1].startswith("[18 of 18] ")
    return {(result["student"], result["assignment"]): result for result in results}, out


def mark(graded: tuple[dict, Path], student: str, name: str) -> float:
    return rows(graded[1], name)[student]["mark"]


def test_the_reference_gets_full_marks_and_the_stub_none(graded: tuple[dict, Path]) -> None:
    assert [mark(graded, "reference", name) for name in NAMES] == [20, 10, 10]
    assert mark(graded, "stub", CIPHER) == 0
    assert [rows(graded[1], name)["reference"]["note"] for name in NAMES] == [None, *["to be marked by hand"] * 2]
    assert {test["said"].split(" ", 1)[1] for test in graded[0]["stub", CIPHER]["tests"]} == {
        "is not written yet, has another name, or its cell failed"
    }


def test_everybody_has_a_row_and_a_page_for_each_assignment(graded: tuple[dict, Path]) -> None:
    students = {"reference", "stub", "bomb", "forger", "foreign", "decoy"}
    for name in NAMES:
        assert set(rows(graded[1], name)) == students
        assert {path.parent.name for path in graded[1].glob(f"feedback/*/{name}.html")} == students
    assert "found: a file.txt: not a notebook" in rows(graded[1], CIPHER)["decoy"]["note"]
    assert "notebooks of other assignments" in rows(graded[1], BREAK)["stub"]["note"]


def test_other_editors_retyped_cells_and_arrays_cost_nothing(graded: tuple[dict, Path]) -> None:
    tests = {test["name"]: test["said"] for test in graded[0]["foreign", CIPHER]["tests"]}
    failed = {name: said for name, said in tests.items() if said}
    assert list(failed) == ["q3-public", "q3-hidden"]  # of the only function that needs what is not there
    assert set(failed.values()) == {
        "unscramble raised NameError: name 'Key' is not defined, in the line: key = Key(v, r)"
    }
    page = (graded[1] / "feedback" / "foreign" / f"{CIPHER}.html").read_text(encoding="utf-8")
    assert "No module named &#39;no_such_package&#39;, in the line: import no_such_package" in page


def test_a_bomb_costs_itself_its_marks_and_nothing_else(graded: tuple[dict, Path]) -> None:
    """Half a character printed; memory without end in Question 1, a loop in 2, processes without end in 4."""
    tests = {test["name"]: test["said"] for test in graded[0]["bomb", CIPHER]["tests"]}
    assert {name.split("-")[0] for name, said in tests.items() if said} == {"q1", "q2", "q4"}
    assert mark(graded, "bomb", CIPHER) == 10
    assert tests["q2-hidden"] == "put: the code was stopped, it took too long: is there a loop that never ends?"
    assert "memory" in tests["q1-public"]
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(HERE / "worker.py") not in left


def test_a_forger_gets_nothing_and_reaches_nothing(graded: tuple[dict, Path]) -> None:
    assert mark(graded, "forger", CIPHER) == 0
    (spied,) = [cell["printed"] for cell in graded[0]["forger", CIPHER]["cells"] if "DECOY" in cell["source"]]
    for attempt in ("search", "package", "wipe", "write", "network", "kill", "root"):
        assert f"{attempt} False" in spied


def test_one_late_student_is_graded_without_the_others(graded: tuple[dict, Path], tmp_path: Path) -> None:
    out, late = tmp_path / "grades", tmp_path / "late"
    shutil.copytree(graded[1], out)
    late.mkdir()
    nbformat.write(KNOWN[CIPHER].notebook(), late / "ada.ipynb")
    (late / "eve.ipynb").write_bytes(ONE)
    assert [result["student"] for result in grade(late, out, students=["ada"])] == ["ada"]
    assert set(rows(out, CIPHER)) == {*rows(graded[1], CIPHER), "ada"}
    with pytest.raises(ValueError, match=r"no entry of adam; there are ada, eve"):
        grade(late, out, students=["adam"])
    with pytest.raises(ValueError, match=r"holds marks of another SEED or by other tests: .*reference \(1-cipher\)"):
        grade(late, out, seed=1)


def test_where_there_is_nothing_to_grade_it_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is empty"):
        grade(tmp_path, tmp_path / "out", trust=True)
    (tmp_path / "report.pdf").write_text("")
    with pytest.raises(ValueError, match=r"nothing that can be graded:\nreport.pdf: report.pdf: not a notebook"):
        grade(tmp_path, tmp_path / "out", trust=True)
    assert not (tmp_path / "out").exists()


def test_without_bubblewrap_grading_is_refused_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "grades")]) == 2
    assert "apt install bubblewrap" in capsys.readouterr().err
    assert not (tmp_path / "grades").exists()


@pytest.mark.parametrize("module", [feedback, grades, inbox, variants, worker])
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert (result.attempted > 0, result.failed) == (True, 0)


def test_marks_are_not_written_among_the_submissions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "anna").mkdir()
    assert main(["grade", str(tmp_path), "--out", str(tmp_path), "--trust"]) == 2
    assert "holds the submissions; name another folder for the marks" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["anna"]


@pytest.mark.parametrize("option", [["--seed", "-7"], ["--jobs", "0"], ["--jobs", "two"]])
def test_a_number_of_the_command_line_is_whole_and_not_too_small(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["grade", str(tmp_path), *option])
    assert "it is a whole number from" in capsys.readouterr().err
