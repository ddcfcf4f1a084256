"""Receipts: what a run found, with what it was computed, and how sure that is."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mixerkey.convmixer import PRETRAINED
from mixerkey.files import read_json, write_json

T = TypeVar("T")
RECEIPTS = Path(str(files("mixerkey"))) / "receipts"  # in a checkout, where the experiments write


def load_receipt(name: str) -> dict:
    """A receipt that comes with the package.

    Args:
        name: a pretrained network, for what `train` returned when it was made, or a module of `mixerkey.experiments`,
            for what it wrote, such as "paper" or "ciphertext-only".

    Raises:
        FileNotFoundError: there is no receipt of that name.

    >>> load_receipt("digits")["network"]["patch_size"]
    2
    >>> load_receipt("paper")["key_space_bits"]
    247.82
    """
    folder = "weights" if name in PRETRAINED else "receipts"
    return json.loads((files("mixerkey") / folder / f"{name}.json").read_text(encoding="utf-8"))


class Receipt:
    """Results in a JSON file that a run adds to as they come, and that a later run takes up again.

    Of runs at the same time one goes on, and the others end with a ValueError when they would write.

    Args:
        path: the file; None keeps the results in memory.
        facts: all that the results depend on, such as digests of weights and data, ready for JSON; kept beside them.
        notes: what else is kept, such as versions and processor; a later run's replace an earlier one's.

    Raises:
        ValueError: the file is no receipt, or one for other facts; the message names it.

    >>> receipt = Receipt(None, {"model": "5f1c"}, processor="abacus")
    >>> receipt.trials("squares", 3, lambda i: i**2)
    [0, 1, 4]
    >>> receipt.trials("squares", 4, lambda i: -1)  # the first three are there
    [0, 1, 4, -1]
    >>> receipt.content
    {'model': '5f1c', 'processor': 'abacus', 'trials': {'squares': [0, 1, 4, -1]}}
    """

    def __init__(self, path: str | Path | None, facts: dict[str, object], **notes: object) -> None:
        self.path = None if path is None else Path(path)
        self.content: dict[str, Any] = json.loads(json.dumps(facts | notes))
        self._in_file = b""  # when this run last read or wrote it
        if self.path is not None and self.path.exists():
            self._in_file = self.path.read_bytes()
            found = read_json(self.path)
            for name in facts:
                if found.get(name) != self.content[name]:
                    raise ValueError(
                        f"{self.path} holds results for another {name} ({_short(found.get(name))}, here it is "
                        f"{_short(self.content[name])}); choose another file or folder, or remove it"
                    )
            self.content = found | self.content

    def write(self) -> None:
        """Write the file as it stands.

        Raises:
            ValueError: another run has written to it meanwhile, whose results would be lost.
        """
        if self.path is not None:
            self._in_file = write_json(self.path, self.content, over=self._in_file)

    def once(self, name: str, run: Callable[[], T]) -> T:
        """The result of that name: the file's, or else what `run` returns, which is written."""
        if name not in self.content:
            self.content[name] = run()
            self.write()
        return self.content[name]

    def trials(self, name: str | tuple[str, ...], count: int, run: Callable[[int], T]) -> list[T]:
        """run(0) … run(count - 1), under ``"trials"`` and that name, or those names one within the other.

        What is there already is not run again; each new result is written when it is there.
        """
        group = self.content.setdefault("trials", {})
        *outer, last = (name,) if isinstance(name, str) else name
        for part in outer:
            group = group.setdefault(part, {})
        results = group.setdefault(last, [])
        for i in range(len(results), count):
            results.append(run(i))
            self.write()
        return results[:count]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def versions(*packages: str) -> dict[str, str]:
    """Versions of what computes, for receipts: of PyTorch, NumPy, Python, and these packages.

    >>> sorted(versions("scipy"))
    ['numpy', 'python', 'scipy', 'torch']
    """
    return {name: version(name) for name in ("torch", "numpy", *packages)} | {"python": platform.python_version()}


def processor(device: torch.device | str = "cpu") -> str:
    """The name of what computes there, for receipts: GPU, or CPU and number of threads.

    >>> "threads" in processor()
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all weights and buffers, by name: the identity of a trained network.

    >>> weights_digest(nn.ReLU()) == weights_digest(nn.GELU())  # neither has any
    True
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + _bytes(value))
    return digest.hexdigest()


def tensors_digest(*tensors: Tensor) -> str:
    """SHA-256 over tensors with their shapes and dtypes: the identity of data.

    >>> tensors_digest(torch.zeros(2)) == tensors_digest(torch.zeros(2, 1))
    False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16


def confidence_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a proportion (Wilson, 1927): the accuracy on all images like these.

    Args:
        right: how many were right.
        total: of how many.

    Raises:
        ValueError: not 0 <= right <= total, or no trial.

    >>> [round(bound, 4) for bound in confidence_interval(9046, 10_000)]
    [0.8987, 0.9102]
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"need 0 <= right <= total and at least one trial; got {right} of {total}")
    z = 1.959964  # of the normal distribution, two-sided
    share = right / total
    middle = share + z**2 / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half) / (1 + z**2 / total), min(1.0, (middle + half) / (1 + z**2 / total))


def box_plot(values: Tensor) -> dict[str, float]:
    """Five numbers of a box plot by the rule of the paper's Fig. 5: whiskers reach values within 1.5 IQR of the box.

    Args:
        values: real (N,), N > 0.

    Returns:
        low whisker, Q1, median, Q3, high whisker; what lies outside the whiskers is an outlier.

    >>> box_plot(torch.tensor([1.0, 2, 3, 4, 5, 100]))
    {'low': 1.0, 'Q1': 2.25, 'median': 3.5, 'Q3': 4.75, 'high': 5.0}
    """
    values = values.double()
    q1, median, q3 = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    inside = values[(values >= q1 - 1.5 * (q3 - q1)) & (values <= q3 + 1.5 * (q3 - q1))]
    return {"low": inside.min().item(), "Q1": q1, "median": median, "Q3": q3, "high": inside.max().item()}
