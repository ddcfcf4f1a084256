"""What runs a student's code: a process that executes cells and calls functions, and answers with plain data.

It runs in the sandbox that `assignments.sandbox` builds, and never sees a test. Messages are one line of JSON each,
both ways; tensors travel as dtype, shape and bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

DTYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
SPARE = 2**30  # bytes of memory above what torch takes by itself
FILE = 2**24  # bytes, the largest file
OUTPUT = 10_000  # characters that a cell may print
PROCESSES = 8  # and threads


def encode(x: Any, functions: list[Callable]) -> Any:
    """What JSON can say of x: numbers, text, lists, dictionaries, tensors; a function goes to `functions` by number.

    >>> encode([1, (2.5, "a")], [])
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
        return [encode(item, functions) for item in x]
    if isinstance(x, tuple):
        return {"tuple": [encode(item, functions) for item in x]}
    if isinstance(x, dict):
        return {"dict": [[encode(k, functions), encode(v, functions)] for k, v in x.items()]}
    if callable(x):
        functions.append(x)
        return {"function": len(functions) - 1}
    return {"other": type(x).__name__}


def decode(x: Any, function: Callable[[int], Callable]) -> Any:
    """The inverse of `encode`; `function` makes something to call of a function's number.

    Raises:
        ValueError: anything that `encode` does not write.

    >>> decode({"tuple": [2.5, "a"]}, lambda number: print)
    (2.5, 'a')
    """
    import torch

    if isinstance(x, list):
        return [decode(item, function) for item in x]
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
        return tuple(decode(item, function) for item in content)
    if kind == "dict":
        return {decode(k, function): decode(v, function) for k, v in content}
    if kind == "function" and type(content) is int:
        return function(content)
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
    with open("/proc/self/statm") as statm:
        memory = int(statm.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, memory + SPARE),
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


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    HistoryManager.enabled = False  # type: ignore[assignment]
    shell = InteractiveShell()
    shell.colors = "nocolor"

    def send(message: Any) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    def callback(number: int) -> Callable:
        def ask(*arguments: Any) -> Any:
            send({"ask": number, "arguments": encode(list(arguments), [])})
            reply = json.loads(requests.readline())
            if "error" in reply:
                raise RuntimeError(reply["error"])
            return decode(reply["value"], callback)

        return ask

    send({"ready": True})
    for line in requests:
        message = json.loads(line)
        if "run" in message:
            with capture_output(display=True) as captured:
                shell.run_cell(message["run"])
            send({"printed": (captured.stdout + captured.stderr)[:OUTPUT]})
            continue
        try:
            with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                value = shell.user_ns[message["name"]]
                if "arguments" in message:
                    value = value(*decode(message["arguments"], callback))
            send({"value": encode(value, [])})
        except BaseException as error:
            send({"error": explain(error)[:1000]})


def explain(error: BaseException) -> str:
    """What was raised, and in which line of the student's cells."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if "ipython-input" in frame.filename]
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
