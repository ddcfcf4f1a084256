"""What a reader's browser loads for each page: `make weigh` prints a table of requests and bytes.

A page is opened with an empty cache and scrolled to its end, so that everything counts which it loads without being
asked. Bytes are those of the files, as a host that compresses nothing sends them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Request, Response, sync_playwright

from tools.browser import ARGUMENTS, chromium, serve

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"
SCROLL = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += innerHeight) {
    scrollTo({top: y, behavior: "instant"});
    await new Promise(requestAnimationFrame);
  }
}"""
HIGH = {"width": 1280, "height": 3600}  # a window in which a page is read in few steps: each of them is drawn


class Visit(NamedTuple):
    """What happened while a page was read."""

    requests: list[str]
    failed: list[str]
    errors: list[str]
    bytes: int


def visit(browser: Browser, url: str, **options: object) -> Visit:
    """Open a page in a new window, read it to its end, and say what it asked for."""
    context = browser.new_context(service_workers="block", viewport=HIGH, **options)  # type: ignore[arg-type]
    page = context.new_page()
    requests: list[Request] = []
    ended: list[Request] = []
    responses: list[Response] = []
    failed, errors = [], []
    page.on("request", lambda request: requests.append(request))
    page.on("response", lambda response: responses.append(response))
    page.on("requestfailed", lambda request: failed.append(f"{request.url}: {request.failure}"))
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: ended.append(request))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.evaluate(SCROLL)
    known = 0
    while not known == len(requests) == len(ended):  # until half a second brings nothing new
        known = len(requests)
        page.wait_for_timeout(500)
    failed += [f"{response.url}: {response.status}" for response in responses if response.status >= 400]
    loaded = [response for response in responses if response.ok and response.url.startswith("http")]
    size = sum(int(response.headers["content-length"]) for response in loaded)  # for a body one may wait for ever
    context.close()
    return Visit([request.url for request in requests if request.url.startswith("http")], failed, errors, size)


def pages() -> list[str]:
    """The pages of the built site, relative to its root."""
    found = (path.relative_to(SITE).as_posix() for path in [*SITE.glob("*.html"), *SITE.glob("book/*.html")])
    return sorted(set(found) - {"index.html"})  # that one leads on to the first


def main() -> None:
    with serve(SITE) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        print(f"{'page':32}{'requests':>10}{'bytes':>12}")
        for page in pages():
            seen = visit(browser, f"{site}{page}")
            print(f"{page:32}{len(seen.requests):>10}{seen.bytes:>12,}")
        browser.close()


if __name__ == "__main__":
    main()
