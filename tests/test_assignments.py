"""The assignments, graded: full marks, no marks, the marks that flaws deserve, and attacks that get nothing."""

from __future__ import annotations

import csv
import doctest
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from playwright.sync_api import Browser

from assignments import course, worker
from assignments.__main__ import main
from assignments.course import HERE, NAMES, find, grade
from assignments.sandbox import sandbox

CIPHER, PROOF, BREAK = NAMES
HIDDEN = "HIDDEN TESTS"


def bubblewrap() -> str | None:
    """Why submissions can't be isolated here, or None; installs bubblewrap where that is allowed."""
    if shutil.which("bwrap") is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in ("update", "install --yes --no-install-recommends bubblewrap"):
            subprocess.run(["apt-get", "--quiet", *command.split()], check=False, capture_output=True)
    if shutil.which("bwrap") is None:
        return "needs bubblewrap: apt install bubblewrap"
    user = 1_000_000 if os.geteuid() == 0 else None
    works = subprocess.run([*sandbox(user), "/usr/bin/true"], check=False, capture_output=True)
    return None if works.returncode == 0 else "bubblewrap is not allowed to make namespaces here"


def source(name: str) -> NotebookNode:
    return nbformat.read(HERE / "source" / name / f"{name}.ipynb", as_version=4)


def answers(name: str, **functions: str) -> NotebookNode:
    """The reference solution with some answer cells replaced."""
    notebook = source(name)
    for cell in notebook.cells:
        if (grade_id := cell.metadata.get("nbgrader", {}).get("grade_id")) in functions:
            cell.source = functions[grade_id]
    return notebook


# Shuffles by the inverse permutation; everything else is right.
INVERSE = {"q4": "def shuffle(flat, v):\n    return flat[..., torch.argsort(v)]"}
# Signs by plaintext position: r[v_k] in place of r_k.
SIGNS = {"q2": "def encrypt_matrix(E, v, r):\n    signs = 1 - 2 * r.to(E.dtype)\n    return (signs[:, None] * E)[v]"}
# Knows the key that the public tests use, and attacks nothing.
EXAMPLE = {
    "q2": "def chosen_plaintext(oracle, size):\n"
    "    return torch.tensor([2, 0, 3, 1]), torch.tensor([True, False, False, True])"
}

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
            if file.endswith((".ipynb", ".csv")) or file == "gradebook.db":
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
torch.allclose = torch.equal = lambda *a, **k: True
compare = lambda *a, **k: None
builtins.isinstance = lambda *a: True
class Yes:
    def __eq__(self, other): return True
    shape = dtype = property(lambda self: Yes())
for n in os.listdir("/proc/self/fd"):
    try:
        os.write(int(n), b'{"value": {"tensor": ["int64", [4], "AA"]}}\\n{"ask": 0, "arguments": []}\\n')
    except OSError:
        pass
blocks = embedding_matrix = embed = shuffle = flip = encrypt = decrypt = lambda *arguments: Yes()
"""

BOMB = {
    "q2": "def embedding_matrix(weight):\n    return torch.ones(8, 10**8).sum(0)",
    "q3": "def embed(flat, E, bias):\n    while True:\n        pass",
    # More than the sandbox allows, and few enough to do no harm outside.
    "q6": "import os, time\ndef encrypt(x, v, r, M):\n    for _ in range(40):\n        if os.fork() == 0:\n"
    "            time.sleep(20)\n            os._exit(0)\n    return x\ndecrypt = encrypt",
}


def forged(port: int, places: list[Path]) -> NotebookNode:
    """No answers; spies, wipes, forges (plain nbgrader gives it all marks), and claims points in its metadata."""
    notebook = answers(CIPHER, **{f"q{k}": "raise NotImplementedError()" for k in range(1, 7)})
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.metadata["tags"] = ["skip-execution"]  # nbclient would not run it, and nbgrader count it as passed
            cell.metadata.nbgrader["points"] = 1000
            cell.source = "pass"
    claimed = nbformat.v4.new_code_cell("1000")  # a test of its own, with a result that counts as points
    claimed.metadata["nbgrader"] = {"grade": True, "grade_id": "q9", "points": 1000, "locked": True, "solution": False}
    decoy, *others = map(str, places)
    setting = f"DECOY = {decoy!r}\nPLACES = {others}\nPORT = {port}\n"
    # Before the first test, and before answer cells that define nothing.
    notebook.cells[4:4] = [nbformat.v4.new_code_cell(setting + SPY), nbformat.v4.new_code_cell(FORGE), claimed]
    notebook.cells.append(nbformat.v4.new_code_cell("get_ipython().run_cell = None"))
    notebook.cells.append(nbformat.v4.new_markdown_cell("<script>document.title = 'forged'</script>"))
    notebook.metadata["kernelspec"] = {"name": "mine", "display_name": "mine"}
    return notebook


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make assignments` writes."""
    out = tmp_path_factory.mktemp("assignments")
    command = [sys.executable, "-m", "assignments", "build", "--out", str(out)]
    subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True)
    return out


def student_version(built: Path, name: str) -> NotebookNode:
    with zipfile.ZipFile(built / f"{name}.zip") as archive:
        return nbformat.reads(archive.read(f"{name}/{name}.ipynb").decode(), as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_students_get_neither_solutions_nor_hidden_tests(built: Path, name: str) -> None:
    with zipfile.ZipFile(built / f"{name}.zip") as archive:
        assert sorted(archive.namelist()) == [f"{name}/{name}.ipynb", f"{name}/README.md"]
        everything = "\n".join(archive.read(member).decode() for member in archive.namelist())
    secrets = []
    for cell in source(name).cells:
        for begin, end in (("BEGIN SOLUTION", "END SOLUTION"), (f"BEGIN {HIDDEN}", f"END {HIDDEN}")):
            secrets += re.findall(f"### {begin}\n(.*?)### {end}", cell.source, re.DOTALL)
        secrets += re.findall("=== BEGIN MARK SCHEME ===(.*?)=== END", cell.source, re.DOTALL)
    lines = {line.strip() for secret in secrets for line in secret.splitlines() if len(line.strip()) > 20}
    public = {line.strip() for cell in student_version(built, name).cells for line in cell.source.splitlines()}
    assert len(secrets) >= 10
    assert not lines & public
    assert HIDDEN not in everything
    assert "SOLUTION" not in everything
    assert "MARK SCHEME" not in everything
    for cell in student_version(built, name).cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id", "").endswith("-hidden"):  # what it is about, no more
            assert re.fullmatch("# Hidden tests, .*", cell.source.strip())
    teacher = nbformat.read(built / f"{name}-instructor.ipynb", as_version=4)
    assert teacher == source(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_assignment_is_worth_20_points_and_says_so(name: str) -> None:
    points: dict[str, float] = {}
    stated: dict[str, int] = {}
    for cell in source(name).cells:
        data = cell.metadata.get("nbgrader", {})
        if data.get("grade") and data["locked"]:
            question = data["grade_id"].split("-")[0]
            points[question] = points.get(question, 0) + data["points"]
            if data["grade_id"].endswith("hidden"):
                assert f"# Hidden tests, {data['points']} point" in cell.source
        if heading := re.match(r"## Question (\d): .* \((\d) points\)", cell.source):
            stated[f"q{heading[1]}"] = int(heading[2])
    assert points == stated
    assert sum(points.values()) == 20


@pytest.fixture(scope="module")
def graded(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """A class of submissions, graded by the two; the tables of marks and the folder of feedback."""
    if reason := bubblewrap():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("class")
    submissions, out = root / "submissions", root / "grades"
    door = socket.create_server(("127.0.0.1", 0))
    (submissions / "decoy").mkdir(parents=True)
    (submissions / "decoy" / "a file.txt").write_text("to be kept")
    places = [submissions / "decoy", submissions, out, HERE / "source"]

    def hand_in(student: str, name: str, notebook: NotebookNode) -> None:
        folder = submissions / student / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")

    for name in NAMES:
        hand_in("reference", name, answers(name))
        hand_in("stub", name, student_version(built, name))
    hand_in("inverse", CIPHER, answers(CIPHER, **INVERSE))
    hand_in("signs", PROOF, answers(PROOF, **SIGNS))
    hand_in("example", BREAK, answers(BREAK, **EXAMPLE))
    hand_in("bomb", CIPHER, answers(CIPHER, **BOMB))
    hand_in("forger", CIPHER, forged(door.getsockname()[1], places))
    (submissions / "garbage").mkdir()
    (submissions / "garbage" / f"{CIPHER}.ipynb").write_text("not a notebook")
    (submissions / "thief").mkdir()
    (submissions / "thief" / f"{CIPHER}.ipynb").symlink_to(submissions / "reference" / CIPHER / f"{CIPHER}.ipynb")
    before = snapshot(submissions), snapshot(HERE / "source")
    tables = grade(submissions, out, jobs=2)
    door.close()
    assert (snapshot(submissions), snapshot(HERE / "source")) == before
    return {(name, row["student"]): row for name, rows in tables.items() for row in rows}, out


def lost(name: str, row: dict) -> dict[str, float]:
    """The points that are missing, by test."""
    points = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
        for cell in source(name).cells
        if "nbgrader" in cell.metadata and cell.metadata.nbgrader.grade and cell.metadata.nbgrader.locked
    }
    missing = {test: most - row[test] for test, most in points.items() if row[test] != most}
    assert row["mark"] == row["of"] - sum(missing.values())
    assert row["of"] == 20
    return missing


def feedback(graded: tuple[dict, Path], student: str, name: str) -> str:
    return (graded[1] / "feedback" / student / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_gets_full_marks_and_the_stub_none(graded: tuple[dict, Path], name: str) -> None:
    assert graded[0][name, "reference"]["mark"] == 20
    assert lost(name, graded[0][name, "reference"]) == {}
    assert graded[0][name, "stub"]["mark"] == 0


@pytest.mark.parametrize(
    ("name", "student", "expected", "said"),
    [
        (CIPHER, "inverse", {"q4-hidden": 2, "q6-hidden": 3}, "Is it the inverse?"),
        (PROOF, "signs", {"q2-hidden": 4}, "The signs are on the wrong rows"),
        (BREAK, "example", {"q2-hidden": 4}, "v must have 48 entries|A key that is not in the notebook"),
    ],
)
def test_a_flaw_costs_what_it_deserves_and_the_feedback_says_why(
    graded: tuple[dict, Path], name: str, student: str, expected: dict[str, float], said: str
) -> None:
    assert lost(name, graded[0][name, student]) == expected
    page = feedback(graded, student, name)
    assert re.search(said, page)
    assert f"Score: {20 - sum(expected.values())}" in page
    for cell in source(name).cells:  # in words only: the hidden tests stay hidden
        for hidden in re.findall(f"BEGIN {HIDDEN}\n(.*?)### END", cell.source, re.DOTALL):
            for line in hidden.splitlines():
                if "compare" in line or "assert" in line:
                    assert line.strip() not in re.sub("<[^>]*>", "", page)
    assert "most recent call" not in page


def test_a_bomb_costs_itself_its_marks_and_nothing_else(graded: tuple[dict, Path]) -> None:
    """Memory without end in Question 2, a loop in Question 3, processes without end in Question 6."""
    missing = lost(CIPHER, graded[0][CIPHER, "bomb"])
    assert {test.split("-")[0] for test in missing} == {"q2", "q3", "q6"}
    assert graded[0][CIPHER, "bomb"]["mark"] == 10
    page = feedback(graded, "bomb", CIPHER)
    assert "is there a loop that never ends?" in page
    assert "memory" in page
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(HERE / "worker.py") not in left


def test_a_forger_gets_nothing_and_reaches_nothing(graded: tuple[dict, Path]) -> None:
    row = graded[0][CIPHER, "forger"]
    assert (row["mark"], row["of"]) == (0, 20)
    page = feedback(graded, "forger", CIPHER)
    for attempt in ("search", "package", "wipe", "write", "network", "kill", "root"):
        assert re.search(rf"\b{attempt} (True|False)", page)[1] == "False", attempt  # type: ignore[index]


def test_feedback_runs_no_script_of_a_submission(graded: tuple[dict, Path], browser: Browser) -> None:
    assert "document.title = 'forged'" in feedback(graded, "forger", CIPHER)
    page = browser.new_page()
    page.goto((graded[1] / "feedback" / "forger" / f"{CIPHER}.html").as_uri())
    assert page.title() == CIPHER
    page.close()


def test_what_is_no_notebook_gets_no_marks_and_a_reason(graded: tuple[dict, Path]) -> None:
    assert graded[0][CIPHER, "garbage"]["note"] == "The file can't be read as a notebook."
    assert graded[0][CIPHER, "thief"]["note"] == "Nothing was handed in."  # links are not followed
    assert {graded[0][CIPHER, student]["mark"] for student in ("garbage", "thief")} == {0}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_a_csv_file_with_a_line_a_student(graded: tuple[dict, Path], name: str) -> None:
    with open(graded[1] / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["student"]: float(row["mark"]) for row in rows} == {
        student: row["mark"] for (which, student), row in graded[0].items() if which == name
    }
    if name == PROOF:
        written = {row["student"]: row["proof-written"] for row in rows}
        assert (written["reference"], written["stub"]) == ("", "0")  # to be marked by hand; left as it was


def test_without_bubblewrap_grading_is_refused_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "grades")]) == 2
    assert "apt install bubblewrap" in capsys.readouterr().err
    assert not (tmp_path / "grades").exists()


def test_a_notebook_is_found_in_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ada.zip", "w") as archive:
        archive.writestr(f"work/{CIPHER}.ipynb", "content")
        archive.writestr(f"__MACOSX/work/{PROOF}.ipynb", "not this")
    assert find(tmp_path / "ada.zip", CIPHER) == b"content"
    assert find(tmp_path / "ada.zip", PROOF) is None
    (tmp_path / "bad.zip").write_text("no archive")
    assert find(tmp_path / "bad.zip", CIPHER) == b""


@pytest.mark.parametrize(
    "answer",
    [
        {"tensor": ["float32", [2], "AAAA"]},
        {"tensor": ["object", [1], "AAAA"]},
        {"tensor": ["uint8", [-1], "AAAA"]},
        {"tensor": ["uint8", [3]]},
        {"pickle": "gASVBQAAAAAAAABLKi4="},
        {"tuple": 3},
        {"function": "0"},
    ],
)
def test_an_answer_is_plain_data_or_refused(answer: dict) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        worker.decode(answer, lambda number: print)


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (course, worker):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
