"""A Sphinx extension: pages that are found, cited, edited and run.

No address is written down anywhere. The repository's comes from the environment variable MIXERKEY_REPOSITORY or from
the remote `origin`, the site's from MIXERKEY_SITE; buttons and links that need one are left out where there is none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from book._ext import ROOT
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

LOCAL = "book/run"  # the page that says how to run the chapters, and its section
LOCAL_SECTION = "on-your-own-computer"
FRONT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
{head}<meta http-equiv="refresh" content="0; url={page}">
</head>
<body><p><a href="{page}">{title}</a></p></body>
</html>
"""


class Forge(NamedTuple):
    """Where a repository lives."""

    host: str
    owner: str
    name: str

    @property
    def url(self) -> str:
        return f"https://{self.host}/{self.owner}/{self.name}"

    @property
    def kind(self) -> str | None:
        """What the theme, Binder and Colab call it."""
        return next((kind for kind in ("github", "gitlab", "bitbucket") if kind in self.host), None)


def git(*command: str) -> str:
    """What git says about the repository; empty where there is none."""
    try:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def parse(address: str) -> Forge | None:
    """A forge's public address from that of a remote, without the name and password that it may carry.

    >>> parse("git@forge.example:group/book.git").url
    'https://forge.example/group/book'
    >>> parse("https://reader:secret@forge.example/group/book").url
    'https://forge.example/group/book'
    >>> parse("/srv/git/book.git")
    """
    found = re.fullmatch(
        r"(?:https://|ssh://)?(?:[^/@\s]+@)?([\w.-]+\.[a-z]+)(?::\d+)?[/:]([\w./-]+)/([\w.-]+?)(?:\.git)?/?", address
    )
    return Forge(*found.groups()) if found else None


REPOSITORY = parse(os.environ.get("MIXERKEY_REPOSITORY") or git("remote", "get-url", "origin"))
SITE = os.environ.get("MIXERKEY_SITE", "").rstrip("/")
# The whole book in one file; the site has them (.github/workflows/pages.yml), a build of the pages alone has not.
COPIES = {kind.upper(): f"{SITE}/the-mixer-key.{kind}" for kind in ("pdf", "epub") if SITE}
COMMIT = git("rev-parse", "HEAD")
HISTORY = git("rev-parse", "--is-shallow-repository") == "false"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def changed(file: str) -> str:
    """The day of the last change of a file, ISO 8601; empty where git doesn't know."""
    return git("log", "-1", "--format=%cs", "--", file) if HISTORY else ""


def configure(app: Sphinx, config: Config) -> None:
    """Tell Sphinx and the theme the addresses that are known."""
    config.html_baseurl = f"{SITE}/" if SITE else ""
    commit = f", commit {COMMIT[:7]}" if COMMIT else ""
    options = config.html_theme_options
    copies = " and ".join(f'<a href="{url}">{name}</a>' for name, url in COPIES.items())
    take = f" To take along: {copies}." if copies else ""
    options["extra_footer"] = f"<p>Text: CC BY 4.0. Code: MIT. Version {VERSION}{commit}.{take}</p>"
    if REPOSITORY and REPOSITORY.kind:
        options |= {"repository_url": REPOSITORY.url, "repository_branch": "main", "path_to_docs": ""}
        options |= dict.fromkeys(("use_repository_button", "use_edit_page_button", "use_issues_button"), True)


def launch(page: str, pathto: Any) -> dict[str, Any]:
    """The button of a notebook page that runs it: on Colab and Binder, where they can find it, and at home."""
    file, places = quote(f"{page}.ipynb"), []
    if REPOSITORY and REPOSITORY.kind == "github":
        # Continuous integration keeps copies on this branch that begin by installing the package: tools/colab.py.
        address = f"https://colab.research.google.com/github/{REPOSITORY.owner}/{REPOSITORY.name}/blob/colab/{file}"
        places.append(("Colab", "Run this chapter on Colab", "fas fa-cloud", address))
    if REPOSITORY:
        short = {"github": f"gh/{REPOSITORY.owner}/{REPOSITORY.name}"}.get(str(REPOSITORY.kind))
        where = short or f"git/{quote(REPOSITORY.url, safe='')}"
        address = f"https://mybinder.org/v2/{where}/main?urlpath=lab/tree/{file}"
        places.append(("Binder", "Run this chapter on Binder", "fas fa-cubes", address))
    places.append(
        ("Local", "Run this chapter on your own computer", "fas fa-laptop", f"{pathto(LOCAL)}#{LOCAL_SECTION}")
    )
    buttons = [
        {"type": "link", "text": text, "tooltip": tooltip, "icon": icon, "url": url, "label": f"launch-{text.lower()}"}
        for text, tooltip, icon, url in places
    ]
    tooltip, icon = "Run this chapter", "fas fa-rocket"
    return {"type": "group", "tooltip": tooltip, "icon": icon, "label": "launch-buttons", "buttons": buttons}


def take_along(buttons: list[dict[str, Any]]) -> None:
    """Add the copies of the whole book to the buttons for downloads."""
    for group in buttons:
        if group.get("label") == "download-buttons":
            group["buttons"] += [
                {
                    "type": "link",
                    "url": url,
                    "text": f"The book as {name}",
                    "tooltip": f"Download the whole book as {name}",
                    "icon": "fas fa-file",
                    "label": f"download-book-{name.lower()}",
                }
                for name, url in COPIES.items()
            ]


def describe(doctree: nodes.document, limit: int = 200) -> str:
    """What a page begins with, cut at a word: the first paragraphs and list items."""
    text = ""
    for paragraph in doctree.findall(nodes.paragraph):
        if len(text) < limit:
            text += " " + re.sub(r"\s*\[[^\]]*\]|\s+", " ", paragraph.astext())
    words = text.strip().replace(" .", ".")
    return words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0] + " …"


def bibtex(title: str, page: str, day: str, config: Config) -> str:
    """A BibTeX entry for a chapter."""
    fields = {"title": title, "booktitle": config.html_title, "author": f"{{{config.author}}}", "year": day[:4]}
    fields |= {"url": f"{SITE}/{page}.html"} if SITE else {"url": REPOSITORY.url} if REPOSITORY else {}
    fields["note"] = f"Version {VERSION}" + (f", commit {COMMIT[:7]}" if COMMIT else "")
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@incollection{{mixerkey-{Path(page).name},\n{lines}}}"


def tag(name: str, content: str, key: str = "name") -> str:
    return f'<meta {key}="{escape(name)}" content="{escape(content)}" />\n'


def introduce(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say in a page's head what it is, for search engines and reference managers, and in its foot how to cite it."""
    if doctree is None:
        return
    config, title, source = app.config, app.env.titles[page].astext(), app.env.doc2path(page)
    last = changed(source)
    context["last_updated"] = last
    day, about = last or str(config.copyright), describe(doctree)
    head = tag("description", about) + tag("author", config.author)
    facts = {"og:type": "article", "og:title": title, "og:description": about, "og:site_name": config.html_title}
    names = {"title": title, "author": config.author, "publication_date": day.replace("-", "/"), "language": "en"}
    names["inbook_title"] = config.html_title
    schema = {"@context": "https://schema.org", "@type": "Chapter", "name": title, "description": about}
    schema |= {"isPartOf": {"@type": "Book", "name": config.html_title}, "datePublished": day, "version": VERSION}
    if SITE:
        address = f"{SITE}/{page}.html"
        facts |= {"og:url": address, "og:image": f"{SITE}/social.png", "twitter:card": "summary_large_image"}
        names |= {"public_url": address, "pdf_url": COPIES["PDF"]}
        schema["url"] = address
    head += "".join(tag(name, content, key="property") for name, content in facts.items())
    head += "".join(tag(f"citation_{name}", content) for name, content in names.items())
    head += f'<script type="application/ld+json">{json.dumps(schema).replace("<", chr(92) + "u003c")}</script>\n'
    context["metatags"] = context.get("metatags", "") + head
    take_along(context.get("header_buttons", []))
    if page == config.root_doc != "index" and app.builder.name == "html":  # what a link to the site alone shows
        lead = FRONT.format(title=escape(title), head=head, page=f"{page}.html")
        (Path(app.outdir) / "index.html").write_text(lead, encoding="utf-8")
    if source.endswith(".ipynb") and app.builder.name == "html":
        context["header_buttons"].insert(0, launch(page, context["pathto"]))
        entry = escape(bibtex(title, page, day, config))
        context["body"] += (
            '<details class="cite d-print-none"><summary>Cite this chapter</summary>'
            f'<div class="notranslate"><div class="highlight"><pre>{entry}\n</pre></div></div></details>'
        )


def write_sitemap(app: Sphinx, error: Exception | None) -> None:
    """List the pages for search engines, where the site's address is known."""
    if error or not SITE or app.builder.name != "html":
        return
    entries = ""
    for page in sorted(app.env.found_docs):
        day = changed(app.env.doc2path(page))
        entries += f"<url><loc>{SITE}/{page}.html</loc>{f'<lastmod>{day}</lastmod>' if day else ''}</url>\n"
    schema = "http://www.sitemaps.org/schemas/sitemap/0.9"
    sitemap = f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="{schema}">\n{entries}</urlset>\n'
    (Path(app.outdir) / "sitemap.xml").write_text(sitemap, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure)
    app.connect("html-page-context", introduce, priority=600)  # after the theme has made its buttons
    app.connect("build-finished", write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
