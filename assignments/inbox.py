"""What was handed in: every entry of a folder with the notebooks in it, under whatever name, in whatever archive.

Nothing is unpacked to disk, no link is followed, and no file is run. What can't be read becomes a note on its entry.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

from assignments.notebook import Assignment

FILE = 2**26  # bytes, the largest file that is read
TOTAL = 2**28  # bytes that are unpacked of one student's archives
FILES = 2000  # files that are looked at in them
CLASS = 2**34, 10**6  # the same for the archive of a class
DEPTH = 4  # archives within archives
FOLDERS = 100  # within folders
SHOWN = 2000  # characters of a stored output that are kept
LITTER = re.compile(r"(^|/)(__MACOSX|\.ipynb_checkpoints|\.git|\.DS_Store|Thumbs\.db|desktop\.ini|\._[^/]*)(/|$)")
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.I)
NOTEBOOK = re.compile(r"\.ipynb(\.(txt|json))?$|\.json$", re.I)  # also what browsers make of an .ipynb
BEFORE = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"  # what may stand before the { of JSON
NOTHING = "no files, checkpoints and the like aside"
FOREIGN = re.compile(r"\.(rar|7z|gz|bz2|xz|zst)$", re.I)
# How learning platforms name what they export; `student` is the person, `rest` the file's own name.
PLATFORMS = (
    re.compile(r"(?P<student>.+_\d+)_assignsubmission_[a-z]+_?(?P<rest>.*)"),  # Moodle
    re.compile(r".*?_(?P<student>[^_]+)_attempt_(?P<rest>\d{4}(?:-\d\d){2,5}.*)"),  # Blackboard
    re.compile(r"(?P<student>[^_]+?)(?:_LATE)?_(?P<id>\d+)_\d+_(?P<rest>.+)"),  # Canvas
)
WRAPPERS = {"abgaben", "submissions", "soumissions"}  # a folder between an ILIAS archive and its students


@dataclass
class Notebook:
    """A notebook that was handed in: its path, and its cells as (type, source, stored text output)."""

    path: str
    cells: list[tuple[str, str, str]]
    declared: dict = field(default_factory=dict)

    @property
    def code(self) -> list[str]:
        return [source for kind, source, _ in self.cells if kind == "code"]


@dataclass
class Budget:
    """How much may still be unpacked: a small archive can hold a great deal."""

    bytes: int = TOTAL
    files: int = FILES

    def spend(self, size: int) -> None:
        """Take a file of this size.

        Raises:
            UnreadableError: nothing is left.
        """
        self.bytes, self.files = self.bytes - size, self.files - 1
        if min(self.bytes, self.files) < 0:
            raise UnreadableError("archives of more files or bytes than are read")


@dataclass
class Entry:
    """What one student handed in."""

    name: str
    notebooks: list[Notebook] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what else was found, and why it can't be graded
    budget: Budget = field(default_factory=Budget)
    places: list[str] = field(default_factory=list)  # in the folder of submissions, beside what a platform has named


class UnreadableError(Exception):
    """A file that can't be read; the message, for students and teachers, says why."""


def entries(submissions: Path) -> list[Entry]:
    """Everything that a folder, or an archive of a learning platform, holds: one entry a student, in order of name.

    A student's entry is a folder, an archive or a notebook, named after them; several of one name are one student's.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a file that is no archive, or nothing in it.
    """
    found: dict[str, Entry] = {}
    for path, content in _top(submissions):
        name, rest = student(path)
        entry = found.setdefault(name, Entry(name))
        first = path.partition("/")[0]
        if first not in entry.places and not any(platform.fullmatch(first) for platform in PLATFORMS):
            entry.places.append(first)
        if content is None:
            entry.notes.append(rest)
        else:
            _take(entry, rest, content)
    if not found:
        raise ValueError(f"nothing was handed in: {submissions} is empty")
    for entry in found.values():
        if not entry.notebooks and not entry.notes:
            entry.notes.append(NOTHING)
    return [found[name] for name in sorted(found, key=natural)]


def student(path: str) -> tuple[str, str]:
    """Whose a file is, by its path below the folder of submissions, and the path without that.

    >>> student("anna.maier/work/1-cipher.ipynb")
    ('anna.maier', 'work/1-cipher.ipynb')
    >>> student("Anna Maier_412_assignsubmission_file_/1-cipher.ipynb")
    ('Anna Maier_412', '1-cipher.ipynb')
    >>> student("maieranna_LATE_412_9001_1-cipher-1.ipynb")
    ('maieranna_412', '1-cipher-1.ipynb')
    >>> student("gradebook_MI-7_A1_anna.maier_attempt_2026-01-05-12-33-44_1-cipher.ipynb")
    ('anna.maier', '2026-01-05-12-33-44_1-cipher.ipynb')
    >>> student("anna.maier.zip")
    ('anna.maier', 'anna.maier.zip')
    """
    first, _, rest = path.partition("/")
    for platform in PLATFORMS:
        if match := platform.fullmatch(first):
            name = match["student"] + (f"_{match['id']}" if "id" in match.groupdict() else "")
            return name, "/".join(part for part in (match["rest"].lstrip("_"), rest) if part) or first
    if rest:
        return first, rest
    return ARCHIVE.sub("", NOTEBOOK.sub("", first)), first


def natural(text: str) -> list:
    """A key that sorts attempt-2 before attempt-10, and "x.ipynb" before "x (1).ipynb".

    >>> sorted(["try-10/x.ipynb", "try-2/x.ipynb", "x (1).ipynb", "x.ipynb"], key=natural)
    ['try-2/x.ipynb', 'try-10/x.ipynb', 'x.ipynb', 'x (1).ipynb']
    """
    stem = NOTEBOOK.sub("", text.casefold())
    parts = re.split(r"0*([0-9]+)", stem)  # numbers as text, since int takes neither ² nor 5,000 digits
    return [(len(part), part) if part.isdigit() else (-1, part) for part in parts] + [(-2, text)]


def shown(name: str) -> str:
    """A file's name as text, also where it is not UTF-8.

    >>> shown(b"M\\xfcller".decode(errors="surrogateescape"))
    'M\\\\xfcller'
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def plain(text: str) -> str:
    """Text with ? for half of a surrogate pair, which Python and JSON can write and nothing else.

    >>> plain("a\\ud800b")
    'a?b'
    """
    return text.encode(errors="replace").decode()


def _top(submissions: Path) -> Iterator[tuple[str, bytes | None]]:
    """The files below the folder as (path, content); content None: the path ends with a note in place of a name."""
    if submissions.is_dir():
        for entry in sorted(submissions.iterdir()):
            path, found = shown(entry.name), False
            for below in _below(entry, path):
                found = True
                yield below
            if not found and not LITTER.search(path):
                yield f"{path}/{NOTHING}", None
    elif submissions.exists():
        try:
            with open(submissions, "rb") as file:
                empty: dict[str, bool] = {}
                for path, content in _members(file, Budget(*CLASS)):
                    first, _, rest = path.partition("/")
                    path = rest if first.casefold() in WRAPPERS else path
                    first = path.partition("/")[0]
                    if content is not None:
                        empty[first] = False
                        yield path, content
                    elif "/" in path and not LITTER.search(first):
                        empty.setdefault(first, True)
                yield from ((f"{first}/{NOTHING}", None) for first in empty if empty[first])
        except UnreadableError as error:
            raise ValueError(f"{submissions}: {error}") from error
    else:
        raise FileNotFoundError(f"there is no folder or file {submissions}")


def _below(entry: Path, path: str) -> Iterator[tuple[str, bytes | None]]:
    if LITTER.search(path):
        return
    try:
        if entry.is_symlink():
            yield f"{path}/a link, which is not followed", None
        elif path.count("/") == FOLDERS:
            yield f"{path}/more folders within folders than are opened", None
        elif entry.is_dir():
            for child in sorted(entry.iterdir()):
                yield from _below(child, f"{path}/{shown(child.name)}")
        elif not entry.is_file():
            yield f"{path}/neither a file nor a folder", None
        else:
            with open(entry, "rb") as file:
                yield path, _content(path, file)
    except OSError as error:
        yield f"{path}/can't be read: {error.strerror}", None


def _content(path: str, file: IO[bytes]) -> bytes:
    """What could be a notebook, by its name or its start, or an archive; of anything else only the start."""
    start = file.read(64)
    wanted = NOTEBOOK.search(path) or ARCHIVE.search(path) or _json(start)
    return start + file.read(FILE + 1 - len(start)) if wanted else start


def _json(content: bytes) -> bool:
    return content.lstrip(BEFORE).startswith(b"{")


def _take(entry: Entry, path: str, content: bytes, depth: int = DEPTH) -> None:
    """Put the notebooks of a file into the entry, and a note where it holds none."""
    try:
        if NOTEBOOK.search(path) or (_json(content) and not ARCHIVE.search(path)):
            entry.notebooks.append(read(path, content))
        elif ARCHIVE.search(path):
            if depth == 0:
                raise UnreadableError("more archives within archives than are opened")
            if len(content) > FILE:
                raise UnreadableError(f"larger than {FILE // 2**20} MiB")
            for member, inside in _members(BytesIO(content), entry.budget):
                if inside is not None:
                    _take(entry, f"{path}/{member}", inside, depth - 1)
        else:
            kind = FOREIGN.search(path)
            raise UnreadableError(f"a {kind[0]} archive, which is not opened: use zip" if kind else "not a notebook")
    except UnreadableError as error:
        entry.notes.append(f"{path}: {error}")
    except Exception as error:  # one student's trouble is that student's alone
        entry.notes.append(f"{path}: can't be read ({type(error).__name__})")


def _members(file: IO[bytes], budget: Budget) -> Iterator[tuple[str, bytes | None]]:
    """What an archive holds as (path, content): as `_content` has it, and None for folders and litter."""
    try:
        for name, member in _zip(file) if zipfile.is_zipfile(file) else _tar(file):
            name = re.sub(r"^(\.?/+)+", "", name.replace("\\", "/"))  # as tar writes it of "."
            if name in ("", "."):
                continue
            if member is None or LITTER.search(name):
                yield name, None
            else:
                content = _content(name, member)
                budget.spend(len(content))
                yield name, content
    except UnreadableError:
        raise
    except RuntimeError as error:  # zipfile's word for a password
        raise UnreadableError("an archive with a password, or of a kind that is not read") from error
    except Exception as error:
        raise UnreadableError("a damaged archive, or none") from error


def _zip(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename
            if not info.flag_bits & 0x800:  # not said to be UTF-8, and often is, from macOS
                with contextlib.suppress(UnicodeError):
                    name = name.encode("cp437").decode()
            if info.is_dir():
                yield name, None
            else:
                with archive.open(info) as member:
                    yield name, member


def _tar(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        for info in archive:
            if info.isdir():
                yield f"{shown(info.name)}/", None
            elif info.isfile() and (member := archive.extractfile(info)):
                yield shown(info.name), member


def read(path: str, content: bytes) -> Notebook:
    """Read a notebook leniently: whatever editor wrote it, its cells count and nothing else.

    Raises:
        UnreadableError: it has none.
    """
    if len(content) > FILE:
        raise UnreadableError(f"larger than {FILE // 2**20} MiB; clear its outputs")
    if not content.strip():
        raise UnreadableError("an empty file")
    try:
        data = json.loads(content.decode(_encoding(content)))
    except (ValueError, RecursionError) as error:
        if NOTEBOOK.search(path) and _json(content):
            raise UnreadableError("a notebook that breaks off or is damaged: hand it in again") from error
        start = content.lstrip()[:15].decode(errors="replace")
        raise UnreadableError(f"not a notebook: it starts with {start!r}") from error
    if not isinstance(data, dict) or not isinstance(data.get("cells"), list):
        raise UnreadableError("not a notebook of version 4: open it in JupyterLab and save it again")
    metadata = data.get("metadata")
    declared = metadata.get("mixerkey") if isinstance(metadata, dict) else None
    cells = [_cell(cell) for cell in data["cells"] if isinstance(cell, dict)]
    known = declared.items() if isinstance(declared, dict) else ()
    return Notebook(path, cells, {name: value for name, value in known if isinstance(value, str | int)})


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _cell(cell: dict) -> tuple[str, str, str]:
    """Type, source and stored text output."""
    outputs = cell.get("outputs")
    texts = []
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict):
            data = output.get("data")
            texts.append(_text(output.get("text")) or _text(data.get("text/plain") if isinstance(data, dict) else ""))
    return str(cell.get("cell_type")), _text(cell.get("source")), "".join(texts)[:SHOWN]


def _text(source: object) -> str:
    text = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    text = text if isinstance(text, str) else ""
    return plain(text).replace("\r\n", "\n")


def which(notebook: Notebook, known: dict[str, Assignment]) -> str | None:
    """The assignment that a notebook answers: by what it says of itself, its title, its functions, its file's name."""
    if (declared := str(notebook.declared.get("assignment"))) in known:
        return declared
    texts = "\n".join(source for kind, source, _ in notebook.cells if kind != "code")
    code = "\n".join(notebook.code)
    name = re.sub(r"[\s_]+", "-", notebook.path.rpartition("/")[2].casefold())
    for assignment in known.values():
        title = assignment.cells[0].source.splitlines()[0].lstrip("# ")
        if title in texts:
            return assignment.name
    for assignment in known.values():
        defined = [function for function in assignment.names if re.search(rf"^def {function}\(", code, re.M)]
        if len(defined) > len(assignment.names) / 2 or assignment.name in name:
            return assignment.name
    return None


def choose(notebooks: list[Notebook], assignment: Assignment) -> tuple[Notebook | None, list[str]]:
    """The attempt that counts, and notes on it: the last by path of those in which something was written."""
    given = [cell.for_student() for cell in assignment.cells]
    different: dict[tuple, Notebook] = {}
    for notebook in sorted(notebooks, key=lambda one: natural(one.path), reverse=True):
        different.setdefault(tuple(notebook.cells), notebook)  # of equal ones, the last
    attempts = list(different.values())[::-1]
    attempts = [one for one in attempts if any(source.strip() not in given for _, source, _ in one.cells)] or attempts
    if not attempts:
        return None, []
    chosen, notes = attempts[-1], []
    if len(attempts) > 1:
        notes.append(
            f"{len(attempts)} attempts; this is {chosen.path}, not {', '.join(one.path for one in attempts[:-1])}"
        )
    if (seed := chosen.declared.get("seed", assignment.seed)) != assignment.seed:
        notes.append(f"made for SEED={seed!r:.20}, marked for SEED={assignment.seed}")
    return chosen, notes
