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
from functools import cache
from pathlib import Path
from typing import Any

from book._ext import PAGES, ROOT
from book._ext.lean import NODE
from sphinx.application import Sphinx

ROOMS = {
    "lab": ("lab",),
    "live": ("absorb", "block", "break", "keys", "patch", "proof", "zoom"),
    "quiz": ("answer", "quiz"),
}
STILLS = {"proof": "book/live/proof-picture.js"}  # whose still() is the picture for paper and pages without scripts
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


@cache
def still(script: str) -> str:
    """The picture of a live figure, as SVG."""
    program = f'import {{ still }} from "{(ROOT / script).as_uri()}"; process.stdout.write(still());'
    command = [NODE, "--input-type=module", "-e", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def draw(body: str) -> str:
    """A page's body with the stills in their elements."""
    for name, script in STILLS.items():
        picture = still(script)
        body = re.sub(rf"<mixer-{name}\b[^>]*>", rf"\g<0>{picture}", body)
    return body


def tags(body: str, root: str) -> str:
    """What the head of a page must name for the elements of its body."""
    names, found = set(re.findall(r"<mixer-(\w+)", body)), ""
    for room, scripts in ROOMS.items():
        if used := names & set(scripts):
            found += f'<link rel="stylesheet" href="{root}{room}/{room}.css">\n'
            found += "".join(f'<script defer src="{root}{room}/{name}.js"></script>\n' for name in sorted(used))
            names -= used
    if names:
        raise ValueError(f"there is no script for {', '.join(f'<mixer-{name}>' for name in sorted(names))}")
    return found


def bring(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    body = context.get("body", "")
    context["metatags"] = context.get("metatags", "") + tags(body, "../" * page.count("/"))
    if body:
        context["body"] = draw(body)


def write(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name not in PAGES:
        return
    site = Path(app.outdir)
    for room in ROOMS:
        (site / room).mkdir(exist_ok=True)
        shutil.copy(ROOT / "book" / room / f"{room}.css", site / room)
    for name in PICTURES:
        shutil.copy(ROOT / "book" / name, site / name)
    if app.builder.name != "html":
        return
    sources = [f"book/{room}/{name}.js" for room, names in ROOMS.items() for name in names]
    subprocess.run([NODE, ROOT / "book" / "_ext" / "bundle.mjs", site, *sources], check=True, cwd=ROOT)
    for name, source in FILES.items():
        content = (ROOT / source).read_bytes()
        (site / name).write_bytes(content)
        text = json.dumps([name, b64encode(content).decode()])
        (site / f"{name}.js").write_text(f"(globalThis.mixerFiles ??= new Map()).set(...{text});\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", bring)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
