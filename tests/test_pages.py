"""The built pages: links lead somewhere, figures have words. `make test` builds them first."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from conftest import HTML, needs_html

pytestmark = needs_html


class Page(HTMLParser):
    """The ids, links and images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids |= {value for value in (values.get("id"), tag == "a" and values.get("name")) if value}
        self.links += [value for name, value in attributes if name in ("href", "src") and value]
        if tag == "img":
            self.images.append(values)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path) for path in HTML.rglob("*.html") if "_static" not in path.parts}


def test_every_internal_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    assert len(pages) >= 10
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing_id = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            if missing_id or not target.exists():
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_every_image_has_alt_text(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for image in page.images:
            named = "logo__image" in (image.get("class") or "")  # the book's name stands beside it
            assert named or (image.get("alt") or "").strip(), f"{path.name}: {image.get('src')}"
