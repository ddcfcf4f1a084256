"""For every test: Hypothesis without a clock, and notebooks that say what they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from mixerkey.data import cifar10_available

settings.register_profile("mixerkey", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("mixerkey")

MISSING = {  # a notebook's metadata names what it needs: {"mixerkey": {"needs": ["cifar10"]}}
    "cifar10": None if cifar10_available() else "needs CIFAR-10: set MIXERKEY_DATA to a copy",
    "gpu": None if torch.cuda.is_available() else "needs a GPU",
}
needs_cifar10 = pytest.mark.skipif(MISSING["cifar10"] is not None, reason=str(MISSING["cifar10"]))


def needs(notebook: Path) -> list[str]:
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    return metadata.get("mixerkey", {}).get("needs", [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb":
            for what in needs(item.path):
                if MISSING[what]:
                    item.add_marker(pytest.mark.skip(reason=MISSING[what]))
