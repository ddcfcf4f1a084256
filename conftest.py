"""For every test: Hypothesis without a clock, and notebooks that say what they need."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from hypothesis import settings
from torch import Tensor

from mixerkey import ConvMixer, load_pretrained
from mixerkey.data import cifar10_available, load_digits
from tools.browser import ARGUMENTS, chromium, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
# Shows an open page in the one theme or the other, at once.
SHOW = """(theme) => {
    document.documentElement.dataset.theme = theme;
    document.getAnimations().forEach((change) => change.finish());
}"""
CHAPTERS = [Path(entry["file"]).stem for entry in TOC["parts"][0]["chapters"]]  # the numbered ones, in their order

gc.disable()  # until all is collected: what the tests import stays to the end, and takes long to look through
settings.register_profile("mixerkey", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("mixerkey")

MISSING = {  # a notebook's metadata names what it needs: {"mixerkey": {"needs": ["cifar10"]}}
    "cifar10": None if cifar10_available() else "needs CIFAR-10: set MIXERKEY_DATA to a copy",
    "gpu": None if torch.cuda.is_available() else "needs a GPU",
}
needs_cifar10 = pytest.mark.skipif(MISSING["cifar10"] is not None, reason=str(MISSING["cifar10"]))
needs_html = pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run make book")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: while some wait for a browser, a server or a kernel, the others compute."""
    return (os.cpu_count() or 1) + 1


def needs(notebook: Path) -> list[str]:
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    return metadata.get("mixerkey", {}).get("needs", [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb":
            for what in needs(item.path):
                if reason := MISSING[what]:
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return load_digits("test")


@pytest.fixture(scope="module")
def model() -> ConvMixer:
    """The pocket network for the digits."""
    return load_pretrained("digits")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without the internet; tests that take it are skipped where it can't be had.

    Playwright keeps an event loop in this thread, so that it must be gone when tests of other modules start theirs.
    """
    if (path := chromium()) is None:
        pytest.skip("needs Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright  # not where no test opens a page

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built book on a static host, in a sub-folder; ends with a slash."""
    if not HTML.exists():
        pytest.skip("the book is not built: run make book")
    host = tmp_path_factory.mktemp("host")
    shutil.copytree(HTML, host / "some" / "folder")
    with serve(host) as address:
        yield f"{address}some/folder/"
