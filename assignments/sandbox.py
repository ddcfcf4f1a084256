"""The grader's side: a submission in a process of its own that can reach nothing, asked for answers through a pipe."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from assignments import worker
from assignments.inbox import plain

SECONDS = 60  # for all cells, and again for all answers; the grader's own time is not counted
ONE = 10  # seconds for one cell or answer: a loop without an end leaves time for the other questions
ANSWER = 2**24  # bytes, the longest answer
FOLDER = 2**26  # bytes, what a submission may write in all
START = 120  # seconds to start Python and torch, which are not the student's
STARTS = 16  # of a process for one notebook: after a stop, a fresh one goes on
FIRST_USER = 1_000_000  # when root grades, each sandbox runs under an unprivileged number of its own


class SubmissionError(Exception):
    """A submission did not answer; the message, for the student, says why."""


def sandbox(user: int | None) -> list[str]:
    """The start of a command line: what follows sees a read-only Python, an empty folder, and nothing else.

    No network, no other process, no home folder, no course folder; `mixerkey` is masked, as submissions must not
    answer with the package's own functions.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
    """
    if (bwrap := shutil.which("bwrap")) is None:
        raise FileNotFoundError("bubblewrap is not installed")
    found = importlib.util.find_spec("mixerkey")
    assert found is not None
    assert found.origin is not None
    command = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    if user is None:
        command += ["--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    else:  # root needs no user namespace, and gives up its rights in worker.limit
        command = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", *command[2:]]
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    # The empty folder comes first: what the course needs may lie below /tmp, and is mounted over it.
    command += ["--proc", "/proc", "--perms", "1777", "--size", str(FOLDER), "--tmpfs", "/tmp"]
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives"):
        command += ["--ro-bind-try", path, path]
    for path in (sys.base_prefix, sys.prefix, str(Path(worker.__file__))):
        for parent in [*Path(path).parents][-2::-1]:  # bubblewrap would make them readable by root only
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", path, path]
    package = Path(found.origin).parent
    if package.is_relative_to(sys.prefix):
        command += ["--tmpfs", str(package)]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--"]


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "agg",
    "PYTHONDONTWRITEBYTECODE": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


class Submission:
    """A student's cells and functions, run out of reach.

    Args:
        trust: whether to run it *without* the sandbox, where there is no bubblewrap: only limits on time, memory and
            processes are left then, and the code can read and write whatever the teacher can.

    Raises:
        FileNotFoundError: bubblewrap is not installed, and `trust` is false.
    """

    def __init__(self, trust: bool = False) -> None:
        self.user = FIRST_USER + os.getpid() if os.geteuid() == 0 and not trust else None
        self.prefix = [] if trust else sandbox(self.user)
        self.folder = tempfile.TemporaryDirectory() if trust else None
        self.left: float = SECONDS
        self.cells: list[str] = []
        self.stopped: dict[str, SubmissionError] = {}  # functions that are not asked again
        self.process: subprocess.Popen | None = None
        self.starts = 0
        self.buffer = b""
        self._start()

    def __enter__(self) -> Submission:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, source: str) -> str:
        """Run a cell; returns what it printed, errors included."""
        try:
            printed = str(self._exchange({"run": source}).get("printed", ""))
        except SubmissionError as error:
            return f"{error}\n"
        self.cells.append(source)
        return printed

    def functions(self, names: list[str]) -> dict[str, Callable]:
        """Functions that ask the submission's of these names when they are called. Their time starts afresh.

        The arguments reach it as copies; with `left=True` the answer is what the call has left of these.
        """
        self.left = SECONDS
        return {name: self._function(name) for name in names}

    def close(self) -> None:
        """End the process, and everything that it has started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # bubblewrap dies, and with it everything inside
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process = None

    def _function(self, name: str) -> Callable:
        def ask(*arguments: Any, left: bool = False) -> Any:
            if name in self.stopped:
                raise self.stopped[name]
            try:
                call = {"name": name, "arguments": worker.encode(list(arguments)), "left": left}
                answer = self._exchange(call)
            except SubmissionError as error:
                self.stopped[name] = SubmissionError(f"{name}: {error}")
                raise self.stopped[name] from error
            return self._value(answer, name)

        return ask

    def _value(self, answer: dict, name: str) -> Any:
        if "error" in answer:
            said = str(answer["error"])
            if said.startswith("NotImplementedError"):
                raise SubmissionError(f"{name} is not written yet")
            if said == f"KeyError: {name!r}":
                raise SubmissionError(f"{name} is not written yet, has another name, or its cell failed")
            raise SubmissionError(f"{name} raised {said}")
        try:
            return worker.decode(answer["value"])
        except Exception as error:
            raise SubmissionError(f"the answer of {name} can't be read") from error

    def _exchange(self, message: dict) -> dict:
        """Send a message and return the answer; the process starts if there is none."""
        if self.process is None:
            self._start()
            for cell in self.cells:  # after a stop: everything but what was stopped
                self._send({"run": cell})
                self._receive()
        self._send(message)
        return self._receive()

    def _start(self) -> None:
        self.starts += 1
        if self.starts > STARTS:
            raise SubmissionError("the code was stopped too often")
        command = [sys.executable, "-I", "-X", "utf8", worker.__file__, str(self.user or ""), str(2 * SECONDS + ONE)]
        self.buffer = b""
        self.process = subprocess.Popen(
            [*self.prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=ENVIRONMENT,
            cwd=self.folder.name if self.folder else None,
        )
        began = time.monotonic()
        try:
            self._receive(START)
        except SubmissionError as error:
            late = time.monotonic() - began >= START
            why = f"Python and torch did not start in {START} seconds; is this machine busy?"
            raise RuntimeError(
                why if late else "the sandbox does not start; does this machine allow user namespaces?"
            ) from error

    def _send(self, message: dict) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        data = json.dumps(message).encode() + b"\n"
        os.set_blocking(self.process.stdin.fileno(), False)
        while data:
            self._wait(self.process.stdin)
            try:
                data = data[os.write(self.process.stdin.fileno(), data) :]
            except OSError:
                self._stop("it ended before it had answered; a limit on memory, files or processes may have ended it")

    def _receive(self, start: float = 0) -> dict:
        assert self.process is not None
        assert self.process.stdout is not None
        while b"\n" not in self.buffer:
            self._wait(self.process.stdout, start)
            data = os.read(self.process.stdout.fileno(), 2**20)
            if not data:
                self._stop("it ended before it had answered; a limit on memory, files or processes may have ended it")
            self.buffer += data
            if len(self.buffer) > ANSWER:
                self._stop(f"its answer is longer than {ANSWER // 2**20} MiB")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            answer = json.loads(plain(json.dumps(json.loads(line), ensure_ascii=False)))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self._stop("its answer can't be read")
        return answer

    def _wait(self, pipe: IO[bytes], start: float = 0) -> None:
        allowed = start or min(self.left, ONE)
        began = time.monotonic()
        reading, writing, _ = select.select(*(([], [pipe]) if pipe.writable() else ([pipe], [])), [], max(allowed, 0))
        if not start:
            self.left -= time.monotonic() - began
        if not reading and not writing:
            enough = allowed < ONE and not start
            all_of_them = f"the {SECONDS} seconds for all cells, or for all answers, are over"
            self._stop(all_of_them if enough else "it took too long: is there a loop that never ends?")

    def _stop(self, why: str) -> NoReturn:
        self.close()
        raise SubmissionError(f"the code was stopped, {why}")
