"""What a machine with a GPU verifies, within eight minutes: `make gpu`.

It runs in the Python that is there, with its own PyTorch, and installs nothing. First the tests of the GPU and all
notebooks; then the recipe `fast`, from its first image to its receipt; and in the time that is left the paper's own
recipe, for as many epochs as fit. Weights and receipts lie in the folder that it names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from mixerkey.__main__ import NETWORKS, Trained
from mixerkey.convmixer import save_model
from mixerkey.evaluation import accuracy
from mixerkey.files import make_folder, write_json
from mixerkey.training import Recipe, train

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "fastapi",
    "httpx",
    "hypothesis",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
    "nbval",
    "pytest_timeout",
    "uvicorn",
    "xdist",
    "yaml",
)
MINUTES = 8.0


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit status is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "gpu", help="folder for weights and receipts")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * MINUTES
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU here: torch.cuda.is_available() is False")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SystemExit(f"not installed here: {', '.join(missing)}; where there is no network, pip takes wheels")
    failed = verify()
    learn(NETWORKS["cifar10"], torch.device("cuda"), options.out, end)
    return failed


def verify() -> int:
    """The tests of the GPU and all notebooks; pytest's exit status."""
    flags = ("--nbval", "--nbval-current-env", "-n", "logical", "--maxprocesses=8", "--dist", "loadfile", "--quiet")
    what = ("tests/test_gpu.py", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "book").glob("*.ipynb")))
    return subprocess.run([sys.executable, "-m", "pytest", *flags, *what], cwd=ROOT).returncode


def learn(network: Trained, device: torch.device, out: Path, end: float) -> None:
    """Train by the recipe `fast` in full, then by `paper` for as many epochs as fit before `end` (monotonic)."""
    make_folder(out)
    make, load, recipes, _ = network
    (images, labels), held_out = load("train"), load("test")

    def run(name: str, recipe: Recipe) -> None:
        model, receipt = train(
            make().to(device), images, labels, recipe, seed=0, evaluate=lambda net: accuracy(net, *held_out)
        )
        save_model(model.cpu(), out / f"{name}.safetensors")
        write_json(out / f"{name}.json", receipt)
        print(f"{name}: {receipt['accuracy']:.2%} after {recipe.epochs} epochs, {receipt['wall_seconds']:.0f} s")

    run("full", recipes["fast"])
    partial = recipes["paper"]
    start = time.monotonic()
    run("partial", replace(partial, epochs=1))
    fit = int((end - time.monotonic()) / (time.monotonic() - start))  # an epoch, with its measurement
    if fit > 1:
        run("partial", replace(partial, epochs=min(fit, partial.epochs)))


if __name__ == "__main__":
    raise SystemExit(main())
