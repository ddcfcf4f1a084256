"""A Sphinx extension: what moves in the pages, and drawings. An element <mixer-NAME> brings its script and its style.

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
from book._ext.quiz import html
from docutils import nodes
from docutils.parsers.rst.directives import unchanged_required
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

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


LIVE = re.compile(r'<(mixer-\w+) class="live" id="(fig-[\w-]+)">(.*)<p>(.*)</p>\s*</\1>\s*', re.DOTALL)


class LiveFigures(SphinxTransform):
    """An element with class "live" and an id is a figure like any other: its last paragraph is the caption."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if found := LIVE.fullmatch(raw.astext()):
                name, label, content, words = found.groups()
                figure = nodes.figure(ids=[label], names=[label], classes=["live-figure"])
                figure += html(f'<{name} class="live">{content.strip()}</{name}>')
                plain, tag, rest = words.partition("<")  # Sphinx numbers no caption without words
                figure += nodes.caption("", "", nodes.Text(plain), html(tag + rest))
                raw.replace_self(figure)
                self.document.note_explicit_target(figure)


class Drawing(SphinxDirective):
    """SVG files of the page's folder, in its text, as one figure: ``{drawing} FILE …`` with the caption as content."""

    required_arguments, final_argument_whitespace, has_content = 1, True, True
    option_spec = {"name": unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        figure = nodes.figure()
        for name in self.arguments[0].split():
            path = Path(self.env.doc2path(self.env.docname)).parent / name
            self.env.note_dependency(str(path))
            figure += html(path.read_text(encoding="utf-8"))
        words, messages = self.parse_inline(" ".join(self.content))
        figure += nodes.caption("", "", *words)
        self.add_name(figure)
        return [figure, *messages]


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
    app.add_directive("drawing", Drawing)
    app.add_transform(LiveFigures)
    app.connect("html-page-context", bring)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
