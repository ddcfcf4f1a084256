"""A Sphinx extension: what moves in the pages. An element <mixer-NAME> of a page brings its script and its style.

Each script becomes one file that needs no server. What it reads lies in the site at the address that `FILES` names, and
beside it, with .js after its name, as a script that has the same bytes: for pages that are opened from the disk.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

from book._ext import ROOT
from book._ext.lean import NODE
from sphinx.application import Sphinx

ROOMS = {
    "lab": ("lab",),
    "live": ("absorb", "block", "break", "keys", "patch", "proof"),
    "quiz": ("quiz",),
}
FILES = {
    "lab/china.jpg": "book/lab/china.jpg",
    "lab/flower.jpg": "book/lab/flower.jpg",
    "lab/samples.png": "book/lab/samples.png",
    "samples.json": "mixerkey/parties/page/samples.json",
    "paper.json": "mixerkey/receipts/paper.json",
    "cifar10.safetensors": "mixerkey/weights/cifar10.safetensors",
    "digits.safetensors": "mixerkey/weights/digits.safetensors",
}
PICTURES = ("lab/encrypted.png",)  # which pages show without a script


def bring(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Name in a page's head the scripts and styles of its elements."""
    names = set(re.findall(r"<mixer-(\w+)", context.get("body", "")))
    root, tags = "../" * page.count("/"), ""
    for room, scripts in ROOMS.items():
        if used := names & set(scripts):
            tags += f'<link rel="stylesheet" href="{root}{room}/{room}.css">\n'
            tags += "".join(f'<script defer src="{root}{room}/{name}.js"></script>\n' for name in sorted(used))
            names -= used
    if names:
        raise ValueError(f"{page}: there is no script for {', '.join(f'<mixer-{name}>' for name in sorted(names))}")
    context["metatags"] = context.get("metatags", "") + tags


def write(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    site = Path(app.outdir)
    sources = [f"book/{room}/{name}.js" for room, names in ROOMS.items() for name in names]
    subprocess.run([NODE, ROOT / "book" / "_ext" / "bundle.mjs", site, *sources], check=True, cwd=ROOT)
    for room in ROOMS:
        shutil.copy(ROOT / "book" / room / f"{room}.css", site / room)
    for name in PICTURES:
        shutil.copy(ROOT / "book" / name, site / name)
    for name, source in FILES.items():
        content = (ROOT / source).read_bytes()
        (site / name).write_bytes(content)
        text = json.dumps([name, b64encode(content).decode()])
        (site / f"{name}.js").write_text(f"(globalThis.mixerFiles ??= new Map()).set(...{text});\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", bring)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
