"""The one way to write a file, and to read JSON: what is there before, during and after, and who wins."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixerkey import Key
from mixerkey.files import parse_json, read_json, replacing, save_tensors, taking_turns, write_file, write_json
from mixerkey.key_files import load_key
from mixerkey.keys import MatrixKey


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def fail(temporary: Path) -> None:
    temporary.write_bytes(b"half")
    raise ValueError("midway")


def fill_the_disk(temporary: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        temporary.write_bytes(b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def vanish(temporary: Path) -> None:
    temporary.unlink()


@pytest.mark.parametrize("break_it", [fail, fill_the_disk, vanish])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, break_it: Callable[[Path], None], exclusive: bool, old: bytes | None
) -> None:
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises((ValueError, OSError)) as caught, replacing(path, exclusive=exclusive) as temporary:
        break_it(temporary)
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("a.txt", old)] if old is not None else [])


def test_what_is_read_back_must_be_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: path.write_text("other"))
    with pytest.raises(OSError, match="read back"):
        write_file(tmp_path / "a.txt", b"content")
    assert list(tmp_path.iterdir()) == []


def in_a_missing_folder(folder: Path) -> Path:
    return folder / "some" / "where" / "a.txt"


def a_link(folder: Path) -> Path:
    (folder / "other.txt").write_bytes(b"other")
    (folder / "a.txt").symlink_to("other.txt")
    return folder / "a.txt"


def a_dangling_link(folder: Path) -> Path:
    (folder / "a.txt").symlink_to("nowhere")
    return folder / "a.txt"


def a_link_to_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    (folder / "a.txt").symlink_to("pipe")
    return folder / "a.txt"


def a_folder(folder: Path) -> Path:
    (folder / "a.txt").mkdir()
    return folder / "a.txt"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "a.txt"


def a_long_name(folder: Path) -> Path:
    return folder / ("a" * 300)


def the_longest_name(folder: Path) -> Path:
    return folder / ("é" * 127)


def a_key(folder: Path) -> Path:
    Key.generate(2, 1).save(folder / "key.json")
    return folder / "key.json"


def a_key_of_matrices(folder: Path) -> Path:
    MatrixKey.orthogonal(2, 1).save(folder / "key.safetensors")
    return folder / "key.safetensors"


def a_key_saved_again(folder: Path) -> Path:
    path = a_key(folder)
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")), encoding="utf-16")
    return path


def a_key_written_in_escapes(folder: Path) -> Path:
    path = a_key(folder)
    path.write_text(path.read_text().replace("mixerkey Key", "mixerkey\\u0020Key"))
    load_key(path)
    return path


def a_key_behind_white_space(folder: Path) -> Path:
    path = a_key(folder)
    path.write_text(" " * 2**22 + path.read_text())
    load_key(path)
    return path


@pytest.mark.parametrize(
    ("place", "exclusive", "problem"),
    [
        (in_a_missing_folder, False, None),
        (in_a_missing_folder, True, None),
        (the_longest_name, False, None),
        (the_longest_name, True, None),
        (a_link, False, None),
        (a_link, True, "exists already"),
        (a_dangling_link, False, None),
        (a_dangling_link, True, "exists already"),
        (a_link_to_a_pipe, False, "no regular file"),
        (lambda _: Path("/dev/null"), False, "no regular file"),
        (a_folder, False, "it is a folder"),
        (a_folder, True, "exists already"),
        (below_a_file, False, "is no folder"),
        (a_long_name, False, "too long"),
        (a_key, False, "a key overwritten is a key lost"),
        (a_key, True, "exists already"),
        (a_key_of_matrices, False, "a key overwritten is a key lost"),
        (a_key_saved_again, False, "a key overwritten is a key lost"),
        (a_key_written_in_escapes, False, "a key overwritten is a key lost"),
        (a_key_behind_white_space, False, "a key overwritten is a key lost"),
        (lambda _: Path(), False, "it is a folder"),
        (lambda _: Path("a\0b"), False, "null"),
    ],
)
def test_where_a_file_may_be_written_and_where_not(
    tmp_path: Path, place: Callable[[Path], Path], exclusive: bool, problem: str | None
) -> None:
    path = place(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and not p.is_symlink()}
    if problem is None:
        write_file(path, b"new", exclusive=exclusive)
        assert path.read_bytes() == b"new"
        assert not path.is_symlink()
    else:
        with pytest.raises((OSError, ValueError), match=problem):
            write_file(path, b"new", exclusive=exclusive)
    assert all(p.read_bytes() == content for p, content in before.items())
    assert [p.name for p in tmp_path.rglob("*.part")] == []


@pytest.mark.parametrize(
    ("arrives", "problem"),
    [
        (a_key, "a key overwritten is a key lost"),
        (a_key_of_matrices, "a key overwritten is a key lost"),
        (a_key_saved_again, "a key overwritten is a key lost"),
        (a_folder, "it is a folder"),
        (a_link_to_a_pipe, "no regular file"),
        (a_link, None),
        (a_dangling_link, None),
    ],
)
@pytest.mark.parametrize("exclusive", [False, True])
def test_what_arrives_while_a_file_is_written_is_as_safe_as_what_was_there_before(
    tmp_path: Path, arrives: Callable[[Path], Path], problem: str | None, exclusive: bool
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    path = tmp_path / arrives(elsewhere).name
    problem = "exists already" if exclusive else problem

    def write() -> None:
        with replacing(path, exclusive=exclusive) as temporary:
            temporary.write_bytes(b"new")
            arrives(tmp_path)

    if problem is None:
        write()
        assert path.read_bytes() == b"new"
        assert not path.is_symlink()
    else:
        with pytest.raises(OSError, match=problem):
            write()
        assert path.is_dir() or path.is_symlink() or load_key(path) is not None
    assert list(tmp_path.glob(".*.part")) == []


def test_modes(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        write_file(tmp_path / "own", b"", private=True)
        os.umask(0o027)
        write_file(tmp_path / "public", b"")
        write_file(tmp_path / "private", b"", private=True)
        write_file(tmp_path / "kept", b"")
        (tmp_path / "kept").chmod(0o604)
        write_file(tmp_path / "kept", b"again")
    finally:
        os.umask(old)
    with replacing(tmp_path / "secret", private=True) as temporary:
        assert mode(temporary) == 0o600
    modes = {path.name: oct(mode(path)) for path in tmp_path.iterdir()}
    assert modes.pop("own") == "0o600"  # though the umask takes everything from everybody
    assert modes == {"public": "0o640", "private": "0o600", "kept": "0o604", "secret": "0o600"}


def no_links(*_: object) -> None:
    raise PermissionError("this file system has no hard links")


@pytest.mark.parametrize("links", [True, False], ids=["", "no-hard-links"])
def test_of_many_exclusive_writers_exactly_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for turn in range(20):
        path, start = tmp_path / f"{turn}.txt", threading.Barrier(8)

        def write(n: int, path: Path = path, start: threading.Barrier = start) -> int | None:
            start.wait()
            try:
                write_file(path, b"%d" % n, exclusive=True)
            except FileExistsError:
                return None
            return n

        with ThreadPoolExecutor(8) as pool:
            won = [n for n in pool.map(write, range(8)) if n is not None]
        assert [path.read_bytes()] == [b"%d" % n for n in won]
    assert len(list(tmp_path.iterdir())) == 20


@pytest.mark.parametrize("links", [True, False], ids=["", "no-hard-links"])
def test_a_key_that_comes_between_the_last_look_and_the_replacement_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path, replace, saving = tmp_path / "a", os.replace, list[Future]()
    write_file(path, b"old")
    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def replace_later(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        path.unlink()  # as if its owner had moved it away
        saving.append(pool.submit(Key.generate(2, 1).save, path))
        wait(saving, timeout=0.5)  # it waits for its turn; else it would be there by then
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_later)
    with ThreadPoolExecutor(1) as pool:
        write_file(path, b"new")
    assert isinstance(saving[0].exception(), FileExistsError)
    assert path.read_bytes() == b"new"


def test_a_name_that_cannot_be_filled_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_replace(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", fail_to_replace)
    with pytest.raises(OSError, match="broken; nothing was written"):
        write_file(tmp_path / "a", b"new", exclusive=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "over", "written"),
    [
        (None, b"", True),
        (None, b"mine", True),
        (b"mine", b"mine", True),
        (b"mine", b"", False),
        (b"its", b"mine", False),
    ],
)
def test_a_file_is_written_over_what_the_writer_knows_and_nothing_else(
    tmp_path: Path, there: bytes | None, over: bytes, written: bool
) -> None:
    path = tmp_path / "a"
    if there is not None:
        path.write_bytes(there)
    if written:
        write_file(path, b"new", over=over)
    else:
        with pytest.raises(ValueError, match=r"another run has written to .*a meanwhile"):
            write_file(path, b"new", over=over)
    assert path.read_bytes() == (b"new" if written else there)
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_once_leave_one_of_their_files_and_readers_never_see_half(tmp_path: Path) -> None:
    path, contents = tmp_path / "a.txt", [bytes([n]) * 100_000 for n in range(4)]
    write_file(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(10):
            write_file(path, content)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, content) for content in contents]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


KILLED = """
import itertools, os, signal, sys
from importlib.util import find_spec, module_from_spec
from unittest.mock import MagicMock

# Without PyTorch, of which write_file needs nothing: a process that has it takes long to fork.
package = module_from_spec(find_spec("mixerkey"))
sys.modules |= {"mixerkey": package, "torch": MagicMock(), "safetensors.torch": MagicMock()}
from mixerkey.files import write_file

path, exclusive = sys.argv[1], sys.argv[2] == "True"
old, new = None if exclusive else b"old", b"new" * 1000
for moment in itertools.count():
    if os.path.exists(path):
        os.remove(path)
    if old is not None:
        with open(path, "wb") as file:
            file.write(old)
    child = os.fork()
    if child == 0:
        left = iter(range(moment))

        def trace(frame, event, argument):
            if not frame.f_code.co_filename.endswith(("files.py", "pathlib.py")):
                return None
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        write_file(path, new, exclusive=exclusive)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found = None
    if os.path.exists(path):
        with open(path, "rb") as file:
            found = file.read()
    assert found in (old, new), f"killed at moment {moment}, it leaves {found}"
    assert status in (0, signal.SIGKILL), "the write itself failed"
    if status == 0:
        break
print(moment)
"""


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_kill_at_any_line_leaves_the_old_file_or_the_new_one(tmp_path: Path, exclusive: bool) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.bin"), str(exclusive)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 50


def test_processes_that_name_one_folder_take_turns_and_a_kill_ends_a_turn(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    holding = "with taking_turns(sys.argv[1]): print(1, flush=True); input()"
    holding = f"import sys; from mixerkey.files import taking_turns\n{holding}"
    first = subprocess.Popen([sys.executable, "-c", holding, tmp_path / "new"], stdin=-1, stdout=-1, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "1\n"
    entered = threading.Event()

    def second() -> None:
        with taking_turns(tmp_path / "new"):
            entered.set()

    with taking_turns(tmp_path), ThreadPoolExecutor(1) as pool:  # another folder has turns of its own
        waits = pool.submit(second)
        assert not entered.wait(0.2)
        first.kill()
        waits.result()
    first.communicate()
    with taking_turns(__file__), taking_turns("/proc/none"):  # nothing to lock: whoever writes there hears why not
        pass


def test_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    tensors = {"turned": torch.arange(6).view(2, 3).T, "trained": torch.ones(2, requires_grad=True)}
    save_tensors(tmp_path / "a.safetensors", tensors, {"about": "them"})
    assert {name: t.tolist() for name, t in load_file(tmp_path / "a.safetensors").items()} == {
        "turned": [[0, 3], [1, 4], [2, 5]],
        "trained": [1, 1],
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_every_encoding_that_json_has_had(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text('{"é": "١"}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"é": "١"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b'{"a": [1, 2', "Expecting"),
        (b'{"a": 1}{"a": 1}', "Extra data"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[1]", "an object was expected, not list"),
        (b"null", "an object was expected, not NoneType"),
        ('{"a": ١}'.encode(), "Expecting value"),
        (b'{"a": "\xff"}', "can't decode"),
        (b"\x89PNG\r\n\x1a\n", "can't decode"),
        (b"\x00" * 100, "Expecting value"),
    ],
)
def test_strange_json_gets_one_line_that_names_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.json is not a complete JSON file") as caught:
        read_json(tmp_path / "odd.json")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r".*"):
        parse_json(content)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        read_json("/dev/zero")


def test_json_goes_round(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": [1.5, "é", None]})
    assert read_json(tmp_path / "new" / "a.json") == {"b": [1.5, "é", None]}
