"""The built pages for readers who use a keyboard, a phone, a screen reader, the dark theme, less motion, or paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from conftest import SHOW, needs_html
from tools.weigh import pages

pytestmark = needs_html
PAGES = pages()
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
CHAPTER = "book/convmixer.html"

# For axe's speed, some things less on the page. What the eye sees of a formula is thousands of elements that screen
# readers pass over: they read the MathML. Code has a span for each word: one of each colour in each place is enough.
# Of what the reference, the index and the MathML say in one form of a hundred names or formulas, some are enough.
LEAN = """() => {
    for (const many of ["dl.py.function", "dl.py.class", "dl.py.method", "dl.py.property", "dl.py.attribute"])
        [...document.querySelectorAll(many)].slice(10).forEach((entry) => entry.remove());
    [...document.querySelectorAll(".genindextable li, .indextable tr")].slice(50).forEach((entry) => entry.remove());
    document.querySelectorAll(".katex-html").forEach((drawn) => drawn.remove());
    [...document.querySelectorAll("math")].slice(20).forEach((formula) => formula.replaceChildren(formula.textContent));
    const seen = new Set();
    for (const span of document.querySelectorAll("pre span, dt.sig span")) {
        const colour = span.className + span.closest(".admonition, .cell_output, .cell_input, dt, details")?.className;
        if (!span.children.length && !span.id && seen.has(colour)) span.replaceWith(...span.childNodes);
        seen.add(colour);
    }
}"""

# Contrast is a matter of looks, and of which two meet in a block: a block is kept for what no other shows, in either
# theme, and nothing that is hidden. What is left of formulas is MathML, and of the buttons beside code an icon.
LOOK = """() => {
    document.querySelectorAll(".katex, .copybtn").forEach((wordless) => wordless.remove());
    window.looks ??= new Map();
    const grounds = new Map([[null, ""]]);
    const ground = (e) => {
        if (!grounds.has(e)) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(e);
            const own = [backgroundColor, backgroundImage, opacity].join(" ");
            grounds.set(e, ground(e.parentElement) + (own === "rgba(0, 0, 0, 0) none 1" ? "" : own));
        }
        return grounds.get(e);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode, element = text.parentElement;
        if (!text.data.trim() || !element.checkVisibility()) continue;
        const { color, fontSize, fontWeight, textDecorationLine } = getComputedStyle(element);
        const look = [element.tagName, color, fontSize, fontWeight, textDecorationLine, ground(element)].join(" ");
        window.looks.set(text, [window.looks.get(text), document.documentElement.dataset.theme, look].join());
    }
}"""
THIN = """() => {
    const blocks = new Map(), looks = new Set();
    for (const [text, look] of window.looks) {
        let block = text.parentElement;
        while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
        blocks.set(block, [...(blocks.get(block) ?? []), [look, text]]);
    }
    for (const words of blocks.values()) {
        const own = [...new Set(words.map(([look]) => look))].sort();
        const pairs = own.flatMap((a) => own.map((b) => a + b));
        if (pairs.every((pair) => looks.has(pair))) for (const [, text] of words) {
            let emptied = text.parentElement;
            text.remove();
            for (let up; !emptied.textContent.trim() && !emptied.childElementCount; emptied = up) {
                up = emptied.parentElement;
                emptied.remove();
            }
        }
        pairs.forEach((pair) => looks.add(pair));
    }
    const kept = new Set();
    for (const text of window.looks.keys()) for (let e = text.parentElement; e; e = e.parentElement) kept.add(e);
    for (const part of document.body.querySelectorAll(":not(style)"))
        if (!kept.has(part) && !part.checkVisibility()) part.remove();
}"""
CONTRAST = ["color-contrast", "link-in-text-block"]


@contextmanager
def opened(browser: Browser, address: str = "", **settings: object) -> Iterator[Page]:
    with browser.new_context(**settings) as context:  # type: ignore[arg-type]
        page = context.new_page()
        if address:
            page.goto(address)
        yield page


def in_each_theme(page: Page) -> Iterator[str]:
    """The page in the one, then in the other."""
    for theme in ("light", "dark"):
        page.evaluate(SHOW, theme)
        yield theme


def violations(page: Page) -> list[str]:
    """What axe-core finds on an open page. A theme changes colours and nothing else: the other rules need one run."""
    page.evaluate(LEAN)
    others = {"rules": {rule: {"enabled": False} for rule in CONTRAST}}
    found = {"any": Axe().run(page, options=others | {"resultTypes": ["violations"]}).response["violations"]}
    for _ in in_each_theme(page):
        page.evaluate(LOOK)
    page.evaluate(THIN)
    for theme in in_each_theme(page):
        options = {"resultTypes": ["violations"], "runOnly": CONTRAST}
        found[theme] = page.evaluate("async (options) => (await axe.run(options)).violations", options)
    return [
        f"{page.url}, {theme} theme: {rule['id']}: {node['html'][:160]}"
        for theme, rules in found.items()
        for rule in rules
        for node in rule["nodes"]
    ]


def test_axe_finds_nothing(browser: Browser, site: str) -> None:
    found = []
    with opened(browser, viewport=DESKTOP) as page:
        for name in PAGES:
            page.goto(site + name)
            assert page.locator("main h1:visible").count() == 1, page.url
            found += violations(page)
    assert found == []


@pytest.mark.parametrize("name", ["book/welcome.html", "book/references.html", "book/notation.html"])
def test_axe_finds_nothing_on_a_phone(browser: Browser, site: str, name: str) -> None:
    with opened(browser, site + name, viewport=PHONE) as page:
        assert violations(page) == []


def test_the_keyboard_reaches_everything(browser: Browser, site: str) -> None:
    with opened(browser, site + CHAPTER, color_scheme="light", viewport=DESKTOP) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to main content"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    """() => {
                        const active = document.activeElement;
                        const places = {
                            search: ".search-button-field", chapter: ".bd-sidebar-primary a.reference",
                            unfold: ".bd-sidebar-primary summary", theme: ".theme-switch-button",
                            text: "main article a",
                        };
                        // The theme outlines the arrow inside a summary.
                        const outlined = [active, active.querySelector(".toctree-toggle") ?? active]
                            .map((element) => getComputedStyle(element))
                            .some((style) => style.outlineStyle !== "none" || style.boxShadow !== "none");
                        const place = Object.keys(places).find((name) => active.matches(places[name]));
                        return place && !outlined ? place + " without a visible focus" : place ?? "";
                    }"""
                )
            )
        assert reached - {""} == {"search", "chapter", "unfold", "theme", "text"}
        page.locator(".theme-switch-button").first.focus()
        before = page.locator("html").get_attribute("data-mode")
        page.keyboard.press("Enter")
        assert page.locator("html").get_attribute("data-mode") != before


def test_scrollers_are_reachable_on_a_phone(browser: Browser, site: str) -> None:
    """Whatever scrolls sideways inside the text can take the focus; whatever does not stays out of the tab order."""
    with opened(browser, viewport=PHONE) as page:
        scrollers = 0
        for name in (CHAPTER, "book/model-encryption.html", "book/notation.html"):
            page.goto(site + name)
            missed = page.evaluate(
                """() => [...document.querySelectorAll("main *")].filter((e) =>
                    ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1
                    && e.clientWidth && e.tabIndex < 0
                    && !e.querySelector("a, button, input")).map((e) => e.className)"""
            )
            assert missed == [], name
            scrollers += page.locator("main [tabindex='0']").count()
        assert scrollers > 0


def test_fingers_hit_what_is_to_be_hit(browser: Browser, site: str) -> None:
    small = """() => [...document.querySelectorAll("article :is([type=checkbox], [type=radio], [type=range])")]
        .filter((e) => e.checkVisibility()).map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
        .filter(([, { width, height }]) => width < 24 || height < 24).map(([name]) => name)"""
    for name in ("book/lab.html", "book/image-cipher.html", "book/beyond.html"):
        with opened(browser, site + name, viewport=PHONE, has_touch=True, is_mobile=True) as page:
            page.locator("article input").first.wait_for()
            assert page.evaluate(small) == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_opens_at_its_full_size(browser: Browser, site: str, scheme: str) -> None:
    with opened(browser, site + CHAPTER, viewport=PHONE, color_scheme=scheme) as page:
        links = page.locator("a.full-size:visible")
        assert links.count() == page.locator("figure img:visible").count() >= 3
        assert links.evaluate_all("all => all.every((e) => e.firstElementChild.matches('.only-" + scheme + "'))")
        link, above = links.first, page.locator("dialog.above")
        link.focus()
        page.keyboard.press("Enter")
        image = above.locator("img")
        shown = image.evaluate("async (e) => (await e.decode(), [e.clientWidth, e.naturalWidth, e.alt])")
        assert PHONE["width"] < shown[0] < shown[1]  # larger than in the page, and as fine as a phone's screen
        assert shown[2] == link.locator("img").get_attribute("alt")
        assert image.evaluate("(e) => getComputedStyle(e).filter") == "none"  # the theme's, for pictures of one colour
        assert above.evaluate("(e) => (e.scrollTo(200, 0), e.scrollLeft)") == 200
        page.keyboard.press("Escape")
        assert above.count() == 0
        assert link.evaluate("(e) => e === document.activeElement")
        link.click()
        above.get_by_role("button", name="Close").click()
        assert above.count() == 0


def test_reduced_motion_is_respected(browser: Browser, site: str) -> None:
    moving = """() => [...document.querySelectorAll("*")].filter((e) => {
        const style = getComputedStyle(e);
        return style.animationName !== "none" || style.transitionDuration.split(", ").some((t) => t !== "0s")
            || style.scrollBehavior === "smooth";
    }).length"""
    for motion, quiet in (("no-preference", False), ("reduce", True)):
        with opened(browser, site + CHAPTER, reduced_motion=motion) as page:
            assert (page.evaluate(moving) == 0) == quiet


def test_each_theme_shows_its_own_figures(browser: Browser, site: str) -> None:
    for theme, other in (("light", "dark"), ("dark", "light")):
        with opened(browser, site + CHAPTER, color_scheme=theme) as page:
            own, others = (page.locator(f"main figure img.only-{name}") for name in (theme, other))
            assert own.count() == others.count() >= 3
            assert own.evaluate_all("all => all.every((e) => e.offsetParent)")
            assert others.evaluate_all("all => all.every((e) => !e.offsetParent)")


def test_paper_shows_the_text_alone_with_everything_open(browser: Browser, site: str) -> None:
    with opened(browser, site + CHAPTER) as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        for furniture in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".bd-footer"):
            hidden = "all => all.length && all.every((e) => !e.offsetParent && !e.offsetHeight)"
            assert page.locator(furniture).evaluate_all(hidden), furniture
        folded = page.locator("main details:not([open]), main .toggle-hidden > :not(.admonition-title)")
        assert page.locator("main details, main .toggle-hidden").count() >= 3
        assert folded.evaluate_all("all => all.filter((e) => !e.offsetHeight).map((e) => e.className)") == []
