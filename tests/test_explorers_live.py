"""The explorers where a reader meets them: the chapters' own cells in JupyterLab, in a real browser."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import nbformat
import pytest
from parties import PATIENCE
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from conftest import ROOT

BOOK = ROOT / "book"
CHAPTERS = ("image-cipher", "experiments", "model-encryption", "breaking")
TOKEN = "for-this-test-only"


def explorer_cells(stem: str) -> list[str]:
    """A chapter, reduced to its imports and its explorers."""
    cells = nbformat.read(BOOK / f"{stem}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    (imports,) = [source for source in code if "set_style()" in source]
    return [imports, *(source for source in code if re.match(r"explorers\.\w+\(", source))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab with a home of its own; the address that opens the notebook."""
    home = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for stem in CHAPTERS for source in explorer_cells(stem)]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "work").mkdir()
    nbformat.write(notebook, home / "work" / "explorers.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    options = {
        "ServerApp.root_dir": home / "work",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "IdentityProvider.token": TOKEN,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        + [f"--{name}={value}" for name, value in options.items()],
        env=os.environ | folders | {"HOME": str(home), "IPYTHONDIR": str(home / "ipython")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    log = []
    for line in server.stderr:  # ends when the server listens, or has ended
        log.append(line)
        if "is running at" in line:
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it
    assert server.poll() is None, "".join(log)
    yield f"http://127.0.0.1:{port}/lab/tree/explorers.ipynb?token={TOKEN}"
    server.terminate()
    server.wait(PATIENCE)


@pytest.fixture(scope="module")
def page(browser: Browser, lab: str) -> Iterator[Page]:
    """The notebook, with all of its cells run."""
    page = browser.new_page(viewport={"width": 1300, "height": 4000})  # JupyterLab draws only what is in view
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    page.goto(lab)
    expect(page.locator(".jp-Notebook .jp-Cell")).not_to_have_count(0)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.get_by_role("button", name="Run the attack")).to_be_visible()
    yield page
    page.close()


def explorer(page: Page, control: str) -> Locator:
    """The explorer that has a control of this name."""
    return page.locator(".jp-OutputArea-output").filter(has=page.get_by_text(control, exact=True))


def press(slider: Locator, key: str) -> None:
    """Move a slider as somebody without a mouse does."""
    slider.focus()
    slider.press(key)


def test_cipher_steps(page: Page) -> None:
    box = explorer(page, "Step")
    expect(box.locator("img")).to_have_attribute("alt", re.compile("plain, shuffled, flipped\\.$"))
    press(box.get_by_role("slider"), "ArrowRight")
    expect(box.locator("img")).to_have_attribute("alt", re.compile("flipped, decrypted\\.$"))
    expect(box.get_by_role("status")).to_contain_text("0.0%")  # it is the plain picture again
    press(box.get_by_role("slider"), "ArrowLeft")
    box.get_by_label("Shuffle, Eq. (4)").press("Space")
    box.get_by_label("Flip, Eq. (5)").press("Space")
    expect(box.get_by_role("status")).to_contain_text("0.0%")


def test_a_picture_of_ones_own(page: Page) -> None:
    box = explorer(page, "Step")
    before = box.locator("img").get_attribute("src")
    red = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(red, "PNG")
    with page.expect_file_chooser() as chooser:
        box.get_by_role("button", name="A picture of your own").press("Enter")
    chooser.value.set_files({"name": "red.png", "mimeType": "image/png", "buffer": red.getvalue()})
    expect(box.locator("img")).not_to_have_attribute("src", before or "")


def test_wrong_fraction(page: Page) -> None:
    box = explorer(page, "Wrong signs")
    expect(box.get_by_role("status")).to_contain_text("of 4 signs 0")
    before = box.locator("img").get_attribute("src")
    press(box.get_by_role("slider").nth(1), "ArrowRight")
    expect(box.get_by_role("status")).to_contain_text("of 4 signs 2")
    expect(box.locator("img")).not_to_have_attribute("src", before or "")


def test_embedding_rows(page: Page) -> None:
    box = explorer(page, "Row")
    expect(box.get_by_role("option")).to_have_text([f"place {k}: + row {k}" for k in range(4)])
    box.get_by_role("button", name="Change the sign").press("Enter")
    box.get_by_role("button", name="Move down").press("Enter")
    expect(box.get_by_role("option").nth(1)).to_have_text("place 1: − row 0")
    expect(box.get_by_label("Row")).to_have_value("place 1: − row 0")
    expect(box.locator("img")).to_have_attribute("alt", re.compile("place 1 is marked"))


def test_attackers_console(page: Page) -> None:
    box = explorer(page, "Attack")
    expect(box.get_by_role("status")).to_contain_text("Press the button")
    box.get_by_label("Attack", exact=True).select_option("known plaintext")
    box.get_by_role("button", name="Run the attack").press("Enter")
    expect(box.get_by_role("status")).to_contain_text("48 of 48 positions and 48 of 48 flips are right")
    expect(box.locator("img")).to_have_attribute("alt", re.compile("decrypted with the recovered key"))
