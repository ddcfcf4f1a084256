"""The whole book as one PDF: `make pdf` prints Sphinx's single page with Chromium to _build/the-mixer-key.pdf."""

from __future__ import annotations

import subprocess
import sys
from html import escape
from pathlib import Path

from playwright.sync_api import sync_playwright

from book._ext import ROOT
from book._ext.site import COMMIT, VERSION, changed
from tools.browser import ARGUMENTS, chromium, serve

PDF = ROOT / "_build" / "the-mixer-key.pdf"
# Fold nothing, wait for every picture, and put a title page first.
PREPARE = """async (title) => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
  document.querySelectorAll(".toggle-hidden").forEach((element) => element.classList.remove("toggle-hidden"));
  const pictures = [...document.querySelectorAll("article img:not(.only-dark)")];
  pictures.forEach((picture) => { picture.loading = "eager"; });
  await Promise.all(pictures.map((picture) => picture.decode().catch(() => {})));
  document.querySelector("#jb-print-docs-body")?.remove();
  document.querySelector("article").insertAdjacentHTML("beforebegin", title);
}"""
STYLE = """
.title-page { height: 240mm; display: flex; flex-direction: column; justify-content: center; break-after: page; }
.title-page .name { font: 4rem var(--pst-font-family-heading); }
span[id^="document-"] + section { break-before: page; }
h1, h2, h3, .admonition-title { break-after: avoid; }
figure, .katex-display, tr { break-inside: avoid; }
.only-dark, .headerlink, .toggle-button, .copybtn { display: none !important; }
"""
NUMBER = '<div style="width: 100%; text-align: center; font-size: 8pt"><span class="pageNumber"></span></div>'


def title_page() -> str:
    """The first page: the book's name, its makers, and which state of it this is."""
    about = ["The Mixer Key contributors", f"Version {VERSION}" + (f", commit {COMMIT[:7]}" if COMMIT else "")]
    lines = "".join(f"<p>{escape(line)}</p>" for line in [*about, changed("book")] if line)
    subtitle = "<p>Encrypting a neural network and its images with one secret key</p>"
    return f'<div class="title-page"><p class="name">The Mixer Key</p>{subtitle}{lines}</div>'


def main() -> None:
    book = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([book, "build", ".", "-W", "-n", "--quiet", "--builder", "singlehtml"], cwd=ROOT, check=True)
    single = ROOT / "_build" / "singlehtml"
    (single / "book" / "welcome.html").replace(single / "index.html")  # its links are relative to the root
    if (path := chromium()) is None:
        raise SystemExit("The book is printed with Chromium: apt install chromium")
    with serve(single) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(color_scheme="light")
        page.goto(site, wait_until="load")
        page.add_style_tag(content=STYLE)
        page.evaluate(PREPARE, title_page())
        margin = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
        page.pdf(
            path=PDF,
            format="A4",
            scale=0.75,
            margin=margin,  # type: ignore[arg-type]
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=NUMBER,
            outline=True,
            tagged=True,
        )
        browser.close()
    print(f"The book is printed: {PDF.relative_to(ROOT)}, {PDF.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
