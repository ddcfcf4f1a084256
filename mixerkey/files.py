"""Files: written so that a reader, a kill or a full disk finds the old file or the new one; JSON read strictly."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

T = TypeVar("T")
LARGEST_JSON = 64 * 2**20  # bytes; whatever is larger is none of ours
LARGEST_HEADER = 4 * 2**20  # of a safetensors file: some 40,000 tensors
# How a key file says what it is, also within safetensors; and how a key id stood in a file of its own.
KEY_FILE = re.compile(rb'format\\?"\s*:\s*\\?"mixerkey |\A\s*[0-9a-f]{16}\s*\Z')


def keep_apart(path: str | Path, *sources: str | Path) -> None:
    """Refuse to write a file over what it is made from, by whatever name or link.

    Raises:
        ValueError: `path` and a source are the same file.

    >>> keep_apart(__file__, __file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ...
    """
    for source in sources:
        with suppress(FileNotFoundError):
            if os.path.samefile(path, source):
                raise ValueError(f"{path} is where {source} is read from; name another file to write")


@contextmanager
def replacing(
    path: str | Path, *, private: bool = False, exclusive: bool = False, over: bytes | None = None
) -> Iterator[Path]:
    """A temporary file beside `path` to write to and read back, put in its place when the block has ended well.

    It has a name that no other process uses. Folders on the way are made. A link is replaced, never followed; an
    existing file keeps its mode, and its content until the last moment. Nothing is left behind by an error.

    Between the last look at what is there and the replacement no other process that writes so comes, as they take turns
    in a folder. Without such locks, as under Windows, hard links still let a new file appear only where there is none.
    Without either, as on a USB stick there, no operation of the system looks and replaces in one, so that who writes
    over a file may meet a key which takes the file's place in that instant; and a kill may leave a new file empty.

    Args:
        path: the file to write.
        private: readable by its owner only (mode 0600) from the first moment.
        exclusive: never over an existing file; of several writers at once exactly one wins.
        over: the content that the caller last read or wrote there, b"" for none; never over anything else.

    Raises:
        FileExistsError: there is a key at `path`, which nothing is ever written over; or anything, if `exclusive`.
        ValueError: there is something else than `over`.
        OSError: a full disk, a folder that can't be written, or something at `path` that is no file; with `path` as
            its filename.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
    [('a.txt', 'whole')]
    """
    path = Path(path)
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        mode = _check_place(path, exclusive)
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is no folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
        if private or mode is not None:  # whatever the umask says
            temporary.chmod(0o600 if private or mode is None else mode)
        yield temporary
        _flush(temporary)
        with taking_turns(path.parent):
            _place(temporary, path, exclusive, over)
        with suppress(OSError):  # where a folder can't be opened, as on Windows
            _flush(path.parent)
    except OSError as error:
        if error.filename == str(path):
            raise
        reason = f"{error.strerror or error}; nothing was written"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check_place(path: Path, exclusive: bool) -> int | None:
    """Refuse what must not be replaced; the mode of the file that may be."""
    if exclusive and os.path.lexists(path):
        raise _exists(path)
    if not path.exists():
        return None
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file", str(path))
    if not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file; name another", str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected; nothing was written", str(path))
    if _is_key(path):
        raise FileExistsError(
            errno.EEXIST, "it is a key, and a key overwritten is a key lost; choose another name", str(path)
        )
    return None if path.is_symlink() else path.stat().st_mode & 0o777


def _is_key(path: Path) -> bool:
    """Whether a file says that it is a key: by its text, though it be damaged, or by its JSON, however written."""
    content = b""
    with suppress(PermissionError), path.open("rb") as stream:
        content = stream.read(LARGEST_JSON)
    if KEY_FILE.search(content[: 2**22].replace(b"\0", b"")):  # also a key that was saved again as UTF-16
        return True
    with suppress(ValueError):
        return str(parse_json(content).get("format")).startswith("mixerkey ")
    return False


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "it exists already; move it away or choose another name", str(path))


def _place(temporary: Path, path: Path, exclusive: bool, over: bytes | None) -> None:
    if over is not None and path.is_file() and path.read_bytes() != over:
        raise ValueError(
            f"another run has written to {path} meanwhile; run again, to go on from there, or choose another file or "
            "folder"
        )
    if exclusive or not os.path.lexists(path):
        try:
            return _place_new(temporary, path)
        except FileExistsError:
            if exclusive:
                raise
    _check_place(path, exclusive=False)  # again: while this file was written, somebody may have put a key there
    os.replace(temporary, path)


def _place_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without links, such as a USB stick's: take the name, then fill it
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise _exists(path) from None
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink()
            raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def taking_turns(folder: str | Path) -> Iterator[None]:
    """One process at a time in this block, of those that name the same folder; a kill ends its turn.

    Where the system has no such lock, as on Windows, or the folder can't be opened, all are let in.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, taking_turns(folder):
    ...     list(Path(folder).iterdir())
    []
    """
    with ExitStack() as held:
        with suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def replaceable(path: str | Path, what: str, read: Callable[[Path], object]) -> bytes | None:
    """The content of the file at `path`, which another may replace if `read` takes it; None if nothing is there.

    Raises:
        FileExistsError: there is anything else than `what`.

    >>> replaceable(__file__, "a receipt", read_json)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileExistsError: ...
    """
    if not os.path.lexists(path):
        return None
    try:
        content = Path(path).read_bytes()
        read(Path(path))
    except (OSError, ValueError, LookupError):
        reason = f"it exists already, and is not {what}; move it away or choose another name or folder"
        raise FileExistsError(errno.EEXIST, reason, str(path)) from None
    return content


def make_folder(path: str | Path) -> None:
    """Make a folder, unless it is there, and prove that it can be written to, before long work is done for it.

    Raises:
        OSError: it can't.

    >>> make_folder(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileExistsError: ...
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; name a folder that can be written to", str(path)) from error


def write_file(
    path: str | Path, content: bytes, *, private: bool = False, exclusive: bool = False, over: bytes | None = None
) -> None:
    """Write `content` as `replacing` does, and read it back before it takes its place.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(folder + "/a.txt", b"whole", exclusive=True)
    ...     Path(folder, "a.txt").read_bytes()
    b'whole'
    """
    with replacing(path, private=private, exclusive=exclusive, over=over) as temporary:
        temporary.write_bytes(content)
        if temporary.read_bytes() != content:
            raise OSError(errno.EIO, "what was read back is not what was written")


def save_tensors(
    path: str | Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    *,
    exclusive: bool = False,
    over: bytes | None = None,
) -> bytes:
    """Write tensors, from any device and in any layout, to a safetensors file as `replacing` does; its content.

    >>> import tempfile, torch
    >>> from safetensors.torch import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_tensors(folder + "/a.safetensors", {"eye": torch.eye(2).T}, {})
    ...     load_file(folder + "/a.safetensors")["eye"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    write_file(path, content, exclusive=exclusive, over=over)
    return content


class Entry(NamedTuple):
    """What the header of a safetensors file says of a tensor."""

    floating: bool
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'real' if self.floating else 'whole'} numbers of shape {self.shape}"


def load_tensors(
    path: str | Path, plan: Callable[[dict[str, str], dict[str, Entry]], T]
) -> tuple[T, dict[str, Tensor]]:
    """The tensors of a safetensors file, of one opening, and what `plan` makes of its header.

    Args:
        path: the file.
        plan: is given metadata and entries before anything else is read, and refuses by a ValueError what does not fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `plan` refuses, or the file is damaged, not whole, or changes while it is read.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_tensors(folder + "/a.safetensors", {"eye": torch.eye(2)}, {"about": "them"})
    ...     load_tensors(folder + "/a.safetensors", lambda metadata, entries: (metadata, entries))[0]
    ({'about': 'them'}, {'eye': Entry(floating=True, shape=(2, 2))})
    """
    path = Path(path)
    if not path.is_file():  # nor a pipe, whose end might never come
        reason = "it is no regular file" if path.exists() else "there is no such file"
        raise FileNotFoundError(errno.ENOENT, reason, str(path))
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if not 2 <= length <= min(before.st_size - 8, LARGEST_HEADER):
            raise ValueError("it is no safetensors file, or not a whole one")
        start += stream.read(length)
        header = parse_json(start[8:])
        metadata = header.pop("__metadata__", {})
        try:
            entries = {
                name: Entry(entry["dtype"].startswith(("F", "BF")), tuple(map(int, entry["shape"])))
                for name, entry in header.items()
            }
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if before.st_size != len(start) + end:
                raise ValueError(f"it has {before.st_size} bytes, and by its header {len(start) + end}")
            if sum(prod(entry.shape) for entry in entries.values()) > end:
                raise ValueError("its header claims more numbers than it has bytes")
            planned = plan(metadata, entries)
            tensors = load(start + stream.read())
        except (LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"its header is damaged: {error}") from error
        after = os.fstat(stream.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise ValueError("it changed while it was read; write it elsewhere, then move it into place")
    return planned, tensors


def write_json(path: str | Path, content: object, *, over: bytes | None = None) -> bytes:
    """Write a JSON file as `replacing` does; its content.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_json(Path(folder) / "a.json", {"b": 1})
    ...     read_json(Path(folder) / "a.json")
    {'b': 1}
    """
    text = (json.dumps(content, indent=1) + "\n").encode()
    write_file(path, text, over=over)
    return text


def read_json(path: str | Path) -> dict:
    """The object in a JSON file, in UTF-8, UTF-16 or UTF-32, with a byte-order mark or without.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, cut short, damaged, larger than 64 MiB, no object, or says a field twice; the message
            names the file.
    """
    with open(path, "rb") as stream:
        content = stream.read(LARGEST_JSON + 1)
    try:
        if len(content) > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB")
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path} is not a complete JSON file ({error}); remove it, or copy it again") from error


@overload
def parse_json(text: str | bytes) -> dict: ...
@overload
def parse_json(text: str | bytes, kind: type[list]) -> list: ...
def parse_json(text: str | bytes, kind: type = dict) -> Any:
    """The object that JSON text says, or the list if `kind` is list, read strictly.

    Raises:
        ValueError: no JSON, something else, a field that is said twice, a number that is none or has thousands of
            digits, or nesting that has no end.

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
        ...
    ValueError: the field 'a' is there twice
    """
    try:
        found = json.loads(text, object_pairs_hook=_fields, parse_constant=_no_number, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, kind):
        raise ValueError(f"{'an object' if kind is dict else 'a list'} was expected, not {type(found).__name__}")
    return found


def one_line(text: object, limit: int = 300) -> str:
    """What others wrote, as one line that can't command a terminal.

    >>> one_line("wrong\\n\\x1b[2Jkey")
    'wrong [2Jkey'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:limit]


def explained(error: Exception) -> str:
    """What went wrong, on one line.

    >>> explained(FileNotFoundError(errno.ENOENT, "No such file", "key.json"))
    'key.json: No such file'
    """
    if not isinstance(error, OSError) or error.filename is None or not error.strerror:
        return one_line(error, 500) or type(error).__name__
    path, reason = os.fsdecode(error.filename), error.strerror
    if error.errno == errno.ENOENT and os.path.islink(path):
        reason = f"it is a link to {os.readlink(path)}, which is not there"
    return one_line(f"{path}: {reason}", 500)


def _fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the field {name[:40]!r} is there twice")
        fields[name] = value
    return fields


def _whole_number(digits: str) -> int:
    if len(digits) > 4300:  # from there on Python refuses, in words about Python
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number")
