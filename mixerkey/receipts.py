"""Receipts: what a run found, with what it was computed, and how sure that is; written so that nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import version
from importlib.resources import files
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from mixerkey.convmixer import PRETRAINED

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


def read_json(path: Path) -> dict:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that a kill leaves the old one or the new one, never half of one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(Path(folder) / "a.json", {"b": 1})
    ...     read_json(Path(folder) / "a.json")
    {'b': 1}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Versions of what computes, for receipts.

    >>> sorted(versions())
    ['numpy', 'python', 'torch']
    """
    return {name: version(name) for name in ("torch", "numpy")} | {"python": platform.python_version()}


def processor(device: torch.device) -> str:
    """The name of what computes there, for receipts: GPU, or CPU and number of threads.

    >>> "threads" in processor(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
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
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    return (middle - half) / (1 + z**2 / total), (middle + half) / (1 + z**2 / total)


def box_plot(values: Tensor) -> dict[str, float]:
    """The five numbers of a box plot by the rule of Fig. 5: whiskers end at the most extreme values within 1.5 IQR.

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
