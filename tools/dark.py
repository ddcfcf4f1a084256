"""Draw the chapters' figures a second time, for dark pages: each goes to book/dark/<SHA-256 of the light one>.png.

    python tools/dark.py                            # every chapter whose dark figures are not complete
    python tools/dark.py book/image-cipher.ipynb    # this one, if its dark figures are not complete

A chapter is executed from top to bottom with matplotlib in its dark style; its stored outputs stay as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from base64 import b64decode
from pathlib import Path

from PIL import Image

BOOK = Path(__file__).parent.parent / "book"
DARK = BOOK / "dark"


def figures(notebook: dict) -> list[bytes]:
    """The PNG pictures among a notebook's outputs, in order."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pngs = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [b64decode("".join(png)) for png in pngs]


def twin(png: bytes) -> Path:
    """Where the dark version of a figure lies. The pages name the light one by the same digest."""
    return DARK / f"{hashlib.sha256(png).hexdigest()}.png"


def stored() -> dict[Path, list[bytes]]:
    """Every chapter's committed figures."""
    return {path: figures(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(BOOK.glob("*.ipynb"))}


def draw(path: Path, light: list[bytes]) -> None:
    """Execute one chapter in the dark style and write the dark version of each of its figures.

    Raises:
        ValueError: the run drew other figures than the stored ones.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}})
    dark = figures(client.execute(env=os.environ | {"MIXERKEY_DARK": "1"}))
    sizes = [[Image.open(io.BytesIO(png)).size for png in pngs] for pngs in (light, dark)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{path.name} drew figures of {sizes[1]} pixels, stored are {sizes[0]}: execute it again first"
        )
    DARK.mkdir(exist_ok=True)
    for before, after in zip(light, dark, strict=True):
        Image.open(io.BytesIO(after)).convert("RGB").save(twin(before), optimize=True)


def main(names: list[str]) -> None:
    chapters = stored()
    for path, light in chapters.items():
        if names and path.resolve() not in [Path(name).resolve() for name in names]:
            continue
        if not all(twin(png).exists() for png in light):
            print(f"{path.name}: {len(light)} figures", flush=True)
            draw(path, light)
    wanted = {twin(png) for light in chapters.values() for png in light}
    for orphan in set(DARK.glob("*.png")) - wanted:
        orphan.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
