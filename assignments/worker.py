"""What runs a student's code: a process that executes cells and calls functions, and answers with plain data.

It runs in the sandbox that `assignments.sandbox` builds, and never sees a test. Messages are one line of JSON each,
both ways; tensors travel as dtype, shape and bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import linecache
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

DTYPES = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
SPARE = 2**30  # bytes of memory above what torch takes by itself
FILE = 2**24  # bytes, the largest file
OUTPUT = 10_000  # characters that a cell may print
PROCESSES = 8  # and threads


def encode(x: Any) -> Any:
    """What JSON can say of x: numbers, text, lists, dictionaries, arrays and tensors; of all else the type's name.

    >>> encode([1, (2.5, "a")])
    [1, {'tuple': [2.5, 'a']}]
    """
    import torch

    if type(x).__module__ == "numpy":
        x = torch.from_numpy(x.copy()) if x.ndim else x.item()
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().contiguous()
        name = str(x.dtype).removeprefix("torch.")
        if name not in DTYPES:
            return {"other": f"Tensor of {name}"}
        return {"tensor": [name, list(x.shape), base64.b64encode(x.numpy().tobytes()).decode()]}
    if x is None or type(x) in (bool, int, float, str):
        return x
    if isinstance(x, list):
        return [encode(item) for item in x]
    if isinstance(x, tuple):
        return {"tuple": [encode(item) for item in x]}
    if isinstance(x, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in x.items()]}
    return {"other": type(x).__name__}


def decode(x: Any) -> Any:
    """The inverse of `encode`.

    Raises:
        ValueError: anything that `encode` does not write.

    >>> decode({"tuple": [2.5, "a"]})
    (2.5, 'a')
    """
    import torch

    if isinstance(x, list):
        return [decode(item) for item in x]
    if not isinstance(x, dict):
        return x
    if len(x) != 1:
        raise ValueError("not an answer")
    ((kind, content),) = x.items()
    if kind == "tensor":
        name, shape, data = content
        if name not in DTYPES or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("not a tensor")
        raw = bytearray(base64.b64decode(data, validate=True))
        dtype = getattr(torch, name)
        return (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if kind == "dict":
        return {decode(k): decode(v) for k, v in content}
    if kind == "other":
        return Other(str(content)[:100])
    raise ValueError("not an answer")


class Other:
    """Something that was answered and is none of the kinds that travel; only its type's name did."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"an object of type {self.kind}"


def limit(user: int | None, seconds: int) -> None:
    """Give up the rights of root, where there are any, and put limits on memory, processes, files and time."""
    memory = resource.RLIM_INFINITY
    if os.path.exists("/proc/self/statm"):  # not on macOS
        with open("/proc/self/statm") as statm:
            memory = int(statm.read().split()[0]) * resource.getpagesize() + SPARE
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))


class Magics:
    """What `%magic` and `!command` become when work is marked: only those that time Python run it."""

    def __init__(self, run: Callable[[str], None]) -> None:
        self.run = run

    def run_line_magic(self, name: str, line: str) -> None:
        if name in TIMING:
            self.run(line)
        else:
            print(f"%{name} is not run when work is marked")

    def run_cell_magic(self, name: str, line: str, body: str) -> None:
        if name in TIMING:
            self.run(body)
        else:
            print(f"%%{name} is not run when work is marked")

    def system(self, command: str) -> None:
        print(f"!{command} is not run when work is marked")

    getoutput = system


TIMING = ("time", "timeit", "capture", "prun")


class Cells:
    """The student's notebook: one namespace, in which cells run one after the other."""

    def __init__(self) -> None:
        from IPython.core.inputtransformer2 import TransformerManager
        from IPython.display import display

        self.transform = TransformerManager().transform_cell
        magics = Magics(self.run)
        self.names: dict[str, Any] = {"__name__": "__main__", "display": display, "get_ipython": lambda: magics}
        self.count = 0

    def run(self, source: str) -> None:
        """Run each statement by itself: one that fails is reported, and the next one runs."""
        self.count += 1
        file = f"<cell {self.count}>"
        source = self.transform(source)
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            statements = ast.parse(source, file).body
        except SyntaxError as error:
            print(f"SyntaxError: {error.msg}, in the line: {error.text or ''}")
            return
        for statement in statements:
            try:
                exec(compile(ast.Module([statement], []), file, "exec"), self.names)
            except BaseException as error:
                print(explain(error))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    cells, me = Cells(), os.getpid()

    def send(message: Any) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    send({"ready": True})
    for line in requests:
        message = json.loads(line)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                if "run" in message:
                    cells.run(message["run"])
                    reply = {"printed": printed.getvalue()[:OUTPUT]}
                else:
                    value = cells.names[message["name"]]
                    if "arguments" in message:
                        arguments = decode(message["arguments"])
                        value = value(*arguments)
                        value = arguments if message["left"] else value
                    reply = {"value": encode(value)}
        except BaseException as error:
            reply = {"error": explain(error)[:1000]}
        if os.getpid() != me:  # a child of what was run, which must not answer beside its parent
            os._exit(0)
        send(reply)


def explain(error: BaseException) -> str:
    """What was raised, and in which line of the student's cells."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<cell")]
    return f"{text}, in the line: {lines[-1]}" if lines and lines[-1] else text


if __name__ == "__main__":
    # Pipes to the grader; the standard streams go nowhere, so that nothing printed is taken for an answer.
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    import torch

    torch.set_num_threads(1)
    _, user, seconds = sys.argv
    limit(int(user) if user else None, int(seconds))
    serve(*pipes)
