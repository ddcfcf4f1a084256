"""The live figures: their numbers are the package's; they work by keyboard and in words, and do not move the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import HTML, ROOT
from mixerkey import (
    ConvMixer,
    Key,
    decrypt_images,
    encrypt_images,
    encrypt_model,
    key_space_bits,
    load_pretrained,
    normalize,
    patch_matrix,
)
from mixerkey.blocks import segment
from mixerkey.evaluation import predict
from mixerkey.keys import BlockKey, BlockOrder, MatrixKey
from mixerkey.receipts import box_plot, load_receipt
from mixerkey.vit import ViT
from tools.lab import LAB, PIECE, photo, run_node

CHAPTERS = {
    "patch": "patch-embedding",
    "block": "image-cipher",
    "proof": "model-encryption",
    "keys": "experiments",
    "zoom": "convmixer",
}
Open = Callable[..., Page]


@cache
def alone(name: str) -> str:
    """A chapter's page whose text is that figure and nothing else."""
    page = (HTML / "book" / f"{CHAPTERS[name]}.html").read_text(encoding="utf-8")
    (figure,) = re.findall(rf"<figure(?:(?!<figure).)*<mixer-{name}.*?</figure>", page, re.DOTALL)
    return re.sub(r"(<article[^>]*>).*(?=</article>)", lambda start: start[1] + figure, page, flags=re.DOTALL)


def open_alone(page: Page, site: str, name: str) -> None:
    """The whole page would take three times as long to open, and again whenever its size changes."""
    url = f"{site}book/{CHAPTERS[name]}.html"
    page.route(url, lambda route: route.fulfill(body=alone(name), content_type="text/html"))
    page.goto(url)


@pytest.fixture
def figure(browser: Browser, site: str) -> Iterator[Open]:
    """Open a chapter with nothing but its figure; in the end no page has complained."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(name: str, **context: Any) -> Page:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.add_init_script("localStorage.mode = 'auto'")  # where nothing is stored, the theme itself complains
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("response", lambda response: complaints.append(response.url) if response.status >= 400 else None)
        open_alone(page, site, name)
        expect(page.locator(f"mixer-{name} .live-says")).not_to_be_empty()
        if name == "zoom":
            page.locator("mixer-zoom").evaluate("figure => figure.fetchNetwork()")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def go(page: Page, step: int) -> str:
    """Set the figure's slider as a reader does, and return the words for that step."""
    slider = page.locator(".live-controls input")
    slider.fill(str(step))
    return page.locator(".live-says").inner_text()


def numbers(page: Page, selector: str) -> list[list[float]]:
    """The numbers of a table's rows, empty cells left out."""
    rows = page.locator(selector).evaluate(
        "table => [...table.rows].map(row => [...row.querySelectorAll('td')].map(cell => cell.textContent))"
    )
    return [[float(text.replace("−", "-")) for text in row if text] for row in rows]


def test_the_patch_figure_computes_the_convolution(figure: Open) -> None:
    page = figure("patch")
    planes = [numbers(page, f".live-row:first-child table:nth-child({c})") for c in (1, 2, 3)]
    image = torch.tensor(planes)  # (C, H, W)
    x = segment(image, 2).flatten(0, 1)  # (N, p_b)
    columns = []
    for j in (0, 1):
        for i in range(4):
            go(page, 3 * i + 1 + j)
            k, shown, weights, products = numbers(page, ".live-product")
            assert k == list(range(12))
            assert shown == x[i].tolist()
            assert products == (x[i] * torch.tensor(weights)).tolist()
        columns.append(weights)
    E = torch.tensor(columns).T  # (p_b, d)
    z = F.conv2d(image[None], E.T.reshape(2, 3, 2, 2), stride=2)[0]  # (d, 2, 2)
    go(page, 11)
    maps = [numbers(page, f".live-row:last-child table:nth-child({j})") for j in (1, 2)]
    assert maps == z.tolist()
    assert torch.equal(x[1], x[2])  # as the chapter says


def key_and_rows(page: Page) -> tuple[Key, list[list[float]]]:
    v, r, *rest = zip(*[(row[0], row[2], row[1], *row[3:]) for row in numbers(page, ".live-block tbody")], strict=True)
    return Key(list(map(int, v)), list(map(bool, r)), patch_size=2, channels=3), [list(column) for column in rest]


def test_the_block_figure_encrypts_as_the_package_does(figure: Open) -> None:
    page = figure("block")
    for change in ("none", "pixel", "key"):
        if change == "pixel":
            page.get_by_label("pixel 9", exact=True).fill("7")
            page.keyboard.press("Enter")
        if change == "key":
            page.get_by_role("button", name="Another key").click()
        fields = page.locator(".live-block input")
        block = torch.tensor([int(field.input_value()) for field in fields.all()], dtype=torch.uint8)
        go(page, 4)
        key, (shuffled, flipped, normalised) = key_and_rows(page)
        sent = encrypt_images(block.reshape(3, 2, 2), key)
        assert shuffled == block[key.permutation].tolist()  # Eq. (4)
        assert flipped == sent.flatten().tolist()  # Eq. (5)
        assert [f"{value:.2f}" for value in normalised] == [f"{value:.2f}" for value in normalize(sent).flatten()]
        assert (key == Key.from_seed(7, patch_size=2, channels=3)) is (change != "key")
        assert (block[9] == 7) == (change != "none")
        back = decrypt_images(sent, key).flatten().tolist()
        assert go(page, 5).endswith(": " + ", ".join(map(str, back)) + ".")
        assert back == block.tolist()


def test_a_pixel_out_of_range_becomes_the_nearest(figure: Open) -> None:
    page = figure("block")
    for typed, becomes in (("300", "255"), ("-4", "0"), ("", "0"), ("12.6", "13")):
        field = page.get_by_label("pixel 3", exact=True)
        field.fill(typed)
        page.keyboard.press("Enter")
        expect(field).to_have_value(becomes)


# A step of the proof as it is drawn: by place, the pixels and the rows of E; the sum and z; are threads straight?
DRAWN = r"""figure => {
  const number = (text) => Number(text.textContent.replace("−", "-"));
  const numbers = (group) => [...group.querySelectorAll("text")].map(number);
  const height = (group) => group.querySelector("text").getAttribute("y");
  const byPlace = (name) =>
    [...figure.querySelectorAll(`.proof-${name}`)].sort((a, b) => height(a) - height(b)).map(numbers);
  const ends = [...figure.querySelectorAll(".proof-thread")].map((path) => path.getAttribute("d").match(/[\d.]+/g));
  return {
    x: byPlace("x").flat(), E: byPlace("E"), sum: byPlace("sum")[0], z: byPlace("z")[0],
    verdict: figure.querySelector(".proof-verdict")?.textContent,
    straight: ends.every((numbers) => numbers[1] === numbers.at(-1)),
    terms: [...figure.querySelectorAll(".proof-term")].map((term) => term.textContent),
  };
}"""


def test_the_proof_draws_five_products(figure: Open) -> None:
    page = figure("proof", reduced_motion="reduce")
    for another in range(4):
        if another:
            page.get_by_role("button", name="Another key").click()
        seen = []
        for step in range(5):
            go(page, step)
            drawn = page.locator("mixer-proof").evaluate(DRAWN)
            seen.append((torch.tensor(drawn["x"]), torch.tensor(drawn["E"])))
            x, E = seen[-1]
            total = drawn["z"] if step == 0 else drawn["sum"]  # z itself is said once
            assert (x @ E).tolist() == total
            assert drawn["z"] == [-10, -3]
            assert drawn["verdict"] == (None if step == 0 else "= z" if step < 3 else "≠ z")
            assert (total == drawn["z"]) == drawn["straight"] == (step < 3)
            assert (drawn["sum"] is None) == (step == 0)
            assert all(a != b for a, b in zip(total, drawn["z"], strict=True)) or step < 3
        (x, E), (x_moved, _), (x_enc, E_enc), _, (_, TE) = seen
        assert sorted(x_moved.tolist()) == sorted(x.tolist())
        T = torch.zeros(4, 4, dtype=torch.int64)
        for k, value in enumerate(x_enc.tolist()):  # no two of its pixels have the same absolute value
            T[x.abs().tolist().index(abs(value)), k] = 1 if value in x.tolist() else -1
        assert torch.equal(T.T @ E, E_enc)
        assert torch.equal(T @ E, TE)
        if not another:
            assert torch.equal(T, Key.from_seed(7, patch_size=2, channels=1).matrix().long())


BEYOND = """(picture) => {
  const { width } = picture.viewBox.baseVal;
  const beyond = ({ x, width: wide }) => x < 0 || x + wide > width;
  return [...picture.querySelectorAll("text")].filter((text) => beyond(text.getBBox())).map((text) => text.textContent);
}"""


def test_the_proof_adds_up_a_column_when_asked(figure: Open) -> None:
    page = figure("proof", reduced_motion="reduce")
    go(page, 2)
    for j, total in enumerate((-10, -3)):
        page.get_by_role("button", name=f"Add up column {j + 1}").click()
        terms = page.locator("mixer-proof").evaluate(DRAWN)["terms"]
        products = [eval(term.replace("−", "-").replace("·", "*").removeprefix("+ ")) for term in terms]
        assert sum(products) == total
        expect(page.locator(".live-says")).to_contain_text(f"Column {j + 1}: ")
        expect(page.locator(".live-says")).to_contain_text(f"= {total}.".replace("-", "−"))
        for step in range(5):
            go(page, step)
            assert page.locator(".proof-picture").evaluate(BEYOND) == []
        go(page, 2)


def test_the_welcome_page_and_the_slide_show_the_same_picture(browser: Browser, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page, pictures = context.new_page(), set()
    for name in ("book/welcome", "book/model-encryption", "slides/model-encryption"):
        page.goto(f"{site}{name}.html")
        pictures.add(page.locator("mixer-proof svg").first.evaluate("svg => svg.outerHTML"))
    assert len(pictures) == 1
    assert "= z" in pictures.pop()  # the step that tells
    context.close()


def test_the_zoom_shows_where_the_two_become_equal(figure: Open) -> None:
    page, model = figure("zoom"), load_pretrained("digits")
    page.reload()
    with page.expect_request("**/digits.safetensors"):  # not before the reader steps on
        go(page, 1)
    expect(page.locator(".zoom-verdict")).to_have_text("left and right are equal")
    samples = json.loads((ROOT / "mixerkey/parties/page/samples.json").read_text(encoding="utf-8"))
    for another in ("patch", "column", "digit", "key"):
        page.get_by_role("button", name=f"Another {another}").click()
        verdicts = []
        for step in range(9):
            go(page, step)
            verdicts.append(page.locator(".zoom-verdict").inner_text())
        assert verdicts == [f"left and right are {word}" for word in ("different", *8 * ["equal"])]
    image = torch.tensor(samples[4]["pixels"], dtype=torch.uint8).reshape(1, 1, 8, 8)  # the next after the first shown
    z = segment(normalize(image)[0], 2) @ patch_matrix(model)  # (4, 4, d), without the bias
    for i in (1, 2):
        panel = f".zoom-pair figure:nth-child({i}) tbody"
        go(page, 8)
        scores = [row[1] for row in numbers(page, panel)]
        assert scores == pytest.approx(predict(model, image)[0].tolist(), abs=0.006)
        go(page, 1)
        *terms, total = numbers(page, panel)
        assert [x * e for x, e, _ in terms] == pytest.approx([product for *_, product in terms], abs=0.02)
        assert total[-1] == pytest.approx(float(z[1, 2, 1]), abs=0.006)


def test_fig_5_names_the_key_of_each_point(figure: Open) -> None:
    page = figure("keys")
    receipt = load_receipt("paper")
    images = receipt["experiments"]["table 1"]["result"]["images"]
    first, last = receipt["wrong_key_seeds"]
    right = dict(zip(range(first, last + 1), receipt["experiments"]["wrong keys"]["result"], strict=True))
    points = page.locator("mixer-keys circle")
    across = {int(p.get_attribute("data-seed") or 0): p.get_attribute("cx") for p in points.all()}
    assert across.keys() == right.keys()
    assert sorted(right, key=right.__getitem__) == sorted(
        right, key=lambda seed: (float(str(across[seed])[:-1]), right[seed])
    )
    for step, (seed, count) in enumerate(sorted(right.items(), key=lambda item: (item[1], item[0]))):
        if step % 9 == 0:
            words = go(page, step)
            assert f"Key.from_seed({seed}, 4, 3): {count:,} of {images:,} images" in words
            assert page.locator(".live-chosen").get_attribute("data-seed") == str(seed)
            expect(page.locator(f'[data-seed="{seed}"]')).to_have_attribute("r", "7")
    page.locator('[data-seed="57"]').dispatch_event("pointerenter")
    expect(page.locator(".live-says")).to_contain_text(f"Key.from_seed(57, 4, 3): {right[57]:,} of")
    shares = sorted(count / images for count in right.values())
    shown = run_node("(await live('boxplot')).boxPlot(value)", shares)
    box = box_plot(torch.tensor(list(right.values()), dtype=torch.float64) / images)
    assert shown == pytest.approx({name: float(value) for name, value in box.items()}, abs=1e-12)


PARTS = {
    "ConvMixer": ["patch embedding", "kernels"],
    "ViT": ["patch embedding", "positions"],
    "MLP-Mixer": ["patch embedding", "token mixing"],
    "3 × 3 convolutions": ["kernels"],
}


def test_the_figure_of_absorption_says_what_the_package_does(browser: Browser, site: str) -> None:
    """For each network and change: whether it is absorbed, and which parts of the network become others."""
    torch.manual_seed(0)
    networks = {
        "ConvMixer": ConvMixer(8, 1),
        "ViT": ViT(8, 1, 2),
        "MLP-Mixer": timm.models.MlpMixer(5, 32, patch_size=4, num_blocks=1, embed_dim=8),
        "3 × 3 convolutions": nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.GELU(), nn.Conv2d(8, 8, 4, 4)),
    }
    key, order = Key.from_seed(1, 4, 3), BlockOrder.from_seed(1, 4, 3, grid=(8, 8))
    changes = {
        "key within blocks": key,
        "matrix within blocks": MatrixKey.orthogonal(4, 3, seed=1),
        "mirror image of the grid": BlockOrder(torch.arange(64).reshape(8, 8).flip(1).flatten(), 4, 3, grid=(8, 8)),
        "any order of blocks": order,
        "key and any order": key.then(order),
    }
    page = browser.new_page()
    page.goto(f"{site}book/beyond.html")
    says, parts = page.locator("mixer-absorb .live-says"), page.locator("mixer-absorb .live-parts")
    assert says.get_attribute("role") == "status"
    heard = set()
    for name, network in networks.items():
        page.get_by_label(name, exact=True).check()
        for change, scheme in changes.items():
            page.get_by_label(change, exact=True).check()
            assert parts.locator("li").all_inner_texts() == PARTS[name]
            marked = parts.locator(".live-result").all_inner_texts()
            assert marked == parts_changed(network.eval(), scheme), (name, change)
            verdict = f"Absorbed by the {' and '.join(marked)}. " if marked else "Not absorbed. "
            assert says.inner_text().startswith(verdict), (name, change)
            heard.add((name, says.inner_text()))
    assert len(heard) == 20
    page.get_by_label("ConvMixer", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("ViT", exact=True)).to_be_checked()
    page.close()


def parts_changed(network: nn.Module, scheme: BlockKey) -> list[str]:
    """Which parts become others; none if the network refuses."""
    try:
        other = encrypt_model(network, scheme).state_dict()
    except ValueError:
        return []
    changed = [name for name, old in network.state_dict().items() if not torch.equal(old, other[name])]
    parts = {"patch embedding": r"^(embedding|stem|0)\.", "positions": "position", "token mixing": "mlp_tokens"}
    found = {part: [name for name in changed if re.search(sign, name)] for part, sign in parts.items()}
    found["kernels"] = [name for name in changed if not any(name in names for names in found.values())]
    assert all(network.state_dict()[name].ndim == 4 for name in found["kernels"])
    return [part for part, names in found.items() if names]


@pytest.mark.parametrize("name", CHAPTERS)
def test_keyboard_alone_steps_and_each_step_is_said(figure: Open, name: str) -> None:
    page = figure(name, reduced_motion="reduce")
    says, slider = page.locator(".live-says"), page.locator(".live-controls input")
    assert says.get_attribute("role") == "status"
    assert slider.get_attribute("aria-label")
    page.get_by_role("button", name="Back", exact=True).focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Next", exact=True)).to_be_focused()
    heard = [says.inner_text()]
    for press in ("Enter", "Space", "ArrowRight"):
        page.keyboard.press(press)
        heard.append(says.inner_text())
    assert len(set(heard)) == 4
    assert slider.get_attribute("aria-valuetext") == page.locator(".live-count").inner_text()
    page.keyboard.press("ArrowLeft")
    assert says.inner_text() == heard[2]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert says.inner_text() == heard[3]
    page.keyboard.press("Home")
    assert says.inner_text() == heard[0]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # back from the first step stays there
    assert says.inner_text() == heard[0]
    back, on = (page.get_by_role("button", name=text, exact=True) for text in ("Back", "Next"))
    assert [button.get_attribute("aria-disabled") for button in (back, on)] == ["true", "false"]
    expect(back).to_be_focused()
    slider.press("End")
    assert [button.get_attribute("aria-disabled") for button in (back, on)] == ["false", "true"]


SEEN = """(figure) => {
  const others = [...figure.querySelectorAll("button:not(.live-controls *)")];
  const shown = (drawing) => drawing.checkVisibility({ visibilityProperty: true });
  const drawings = () => [...figure.querySelectorAll("svg")].filter(shown);
  const seen = () => figure.innerText + drawings().map((drawing) => drawing.outerHTML)
    + [...figure.querySelectorAll("canvas")].map((picture) => picture.toDataURL())
    + [...figure.querySelectorAll(".zoom-mark")].map((mark) => mark.style.inset);
  const dead = [];
  for (let step = 0; step < figure.steps; step++) for (const button of others) for (let press = 0; press < 3; press++) {
    figure.go(step);
    const before = seen();
    button.click();
    if (seen() === before) dead.push(`${button.textContent}, step ${step + 1}`);
  }
  return [others.length, dead];
}"""


@pytest.mark.parametrize(("name", "count"), [("block", 1), ("proof", 3), ("zoom", 4)])
def test_every_button_changes_what_is_seen_at_every_step(figure: Open, name: str, count: int) -> None:
    page = figure(name, reduced_motion="reduce")
    assert page.locator(f"mixer-{name}").evaluate(SEEN) == [count, []]


def test_play_is_there_only_for_readers_who_want_motion(figure: Open) -> None:
    page = figure("patch", reduced_motion="no-preference")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator(".live-count")).to_have_text("2 of 12")
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    still = figure("patch", reduced_motion="reduce")
    expect(still.get_by_role("button", name="Next", exact=True)).to_be_visible()
    expect(still.get_by_role("button", name="Play")).to_have_count(0)


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_moves_or_overflows(browser: Browser, site: str, name: str) -> None:
    """On a phone and on a desk, the height is the same before the script runs, after it, and at every step."""
    context = browser.new_context()
    page = context.new_page()
    element, note = page.locator(f"mixer-{name}"), page.locator(f"figure:has(mixer-{name}) > figcaption .live-note")
    page.route(f"**/live/{name}.js", lambda route: route.abort())
    open_alone(page, site, name)
    before = heights(page, name)
    expect(note).to_be_visible()
    page.unroute(f"**/live/{name}.js")
    page.reload()
    expect(element.locator(".live-says")).not_to_be_empty()
    expect(note).to_be_hidden()
    assert heights(page, name) == before
    assert element.evaluate("element => element.scrollWidth <= element.clientWidth")
    context.close()


def heights(page: Page, name: str) -> list[set[float]]:
    """The figure's heights, in pixels, over all its steps, on pages of 1280 and 390 pixels."""
    found = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        found.append(
            page.locator(f"mixer-{name}").evaluate(
                "element => Array.from({ length: element.steps ?? 1 }, (_, step) => "
                "(element.go?.(step), element.getBoundingClientRect().height))"
            )
        )
    return [set(of) for of in found]


@pytest.mark.parametrize("name", CHAPTERS)
def test_paper_shows_the_telling_step(figure: Open, name: str) -> None:
    page = figure(name)
    before, count = page.locator(".live-says").inner_text(), page.locator(".live-count")
    last = page.locator(f"mixer-{name}").evaluate("figure => (figure.telling ?? figure.steps - 1) + 1")
    assert last > 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert count.text_content() == f"{last} of {page.locator(f'mixer-{name}').evaluate('figure => figure.steps')}"
    expect(page.locator(".live-says")).to_be_visible()
    expect(page.locator(".live-controls")).to_be_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    expect(page.locator(".live-says")).to_have_text(before)


@pytest.mark.parametrize("name", CHAPTERS)
def test_without_scripts_the_words_stand(browser: Browser, site: str, name: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    open_alone(page, site, name)
    text = page.locator(f"figure:has(mixer-{name})").inner_text()
    assert len(text) > 100
    assert re.search("moves on the rendered page", text)
    context.close()


# The first screen


BOXES = """(figure) => {
  const at = (element) => element.getBoundingClientRect();
  const [box, button] = [at(figure), at(figure.querySelector("button"))];
  const words = document.createRange();
  words.selectNodeContents(figure.querySelector(".live-facts p:last-of-type"));
  const low = Math.max(...[...figure.querySelectorAll("img, canvas, p, button")].map((part) => at(part).bottom));
  return [box.top, box.height, button.top, button.top - at(words).bottom, box.bottom - low];
}"""


def boxes(page: Page, width: int) -> list[float]:
    """On a page of this width: where the first screen begins, its height, its button, the room above it and below."""
    page.set_viewport_size({"width": width, "height": 900})
    seen: list[list[float]] = []
    while len(seen) < 5 or seen[-1] != seen[-5]:  # until fonts are there, and what moves has moved
        page.wait_for_timeout(100)
        seen.append(page.locator("mixer-break").evaluate(BOXES))
    return seen[-1]


def test_the_first_screen_finds_the_key_of_encrypted_pictures(browser: Browser, site: str) -> None:
    page, asked = browser.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site}book/welcome.html")
    assert not [url for url in asked if url.endswith(".jpg") or url.startswith("blob:")]  # nothing before it is wanted
    expect(page.locator("mixer-break img")).to_be_visible()
    facts = page.locator("mixer-break .live-facts p").first
    expect(facts).to_have_text("This is a photograph, encrypted with one of 2248 keys.")
    before = [boxes(page, width) for width in (390, 1280)]
    assert all(above < 48 and end < 24 for *_, above, end in before)
    page.get_by_role("button", name="Break it").click()
    says = page.locator("mixer-break .live-says")
    expect(says).to_contain_text("48 of 48 positions and 48 of 48 signs are right", timeout=120_000)
    expect(facts).to_have_text("This photograph was encrypted with one of 2248 keys.")
    expect(page.locator("mixer-break canvas")).to_have_attribute("aria-label", "the photograph, brought back")
    assert [boxes(page, width)[:3] for width in (390, 1280)] == [place[:3] for place in before]
    shown = page.locator("mixer-break canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, 144, 144).data]"
    )
    top, left, side = PIECE
    plain = photo("china")[:, top : top + side, left : left + side].permute(1, 2, 0)
    difference = torch.tensor(shown).reshape(side, side, 4)[..., :3] - plain.int()
    assert difference.abs().float().mean() < 2  # browsers decode a JPEG each in their way
    assert [url for url in asked if not url.startswith((site, "blob:"))] == []
    page.close()


def test_the_first_screen_says_the_numbers_of_the_receipt() -> None:
    words = (ROOT / "book" / "welcome.md").read_text(encoding="utf-8")
    result = load_receipt("paper")["experiments"]["table 1"]["result"]
    plain, pair, without = (
        100 * result[name] / result["images"]
        for name in ("baseline", "encrypted pair", "encrypted model, plain images")
    )
    assert f"<strong>{plain:.1f}&nbsp;%</strong> → <strong>{pair:.1f}&nbsp;%</strong>" in words
    assert f"about <strong>{without:.0f}&nbsp;%</strong>" in words
    assert f"2<sup>{key_space_bits(4, 3):.0f}</sup>" in words
    assert "a hundred encrypted pictures" in words  # what break.js takes
    assert "CIPHERTEXTS = 100" in (ROOT / "book" / "live" / "break.js").read_text(encoding="utf-8")


def test_the_encrypted_photograph_of_the_first_screen_is_the_one_that_comes_back() -> None:
    """Blocks keep their pixels: each sorted, up to flips."""
    top, left, side = PIECE
    plain = photo("china")[:, top : top + side, left : left + side]
    hidden = torch.from_numpy(np.array(Image.open(LAB / "encrypted.png"))).permute(2, 0, 1)

    def folded(image: Tensor) -> Tensor:
        return torch.minimum(segment(image, 4), 255 - segment(image, 4)).sort(dim=-1).values

    assert torch.equal(folded(plain), folded(hidden))
    assert (plain.int() - hidden.int()).abs().float().mean() > 40


def test_pages_that_are_opened_from_the_disk_are_alive(browser: Browser) -> None:
    """Where a browser neither loads modules nor fetches files: `make book` tells the reader to open index.html."""
    site, page, complaints = HTML.as_uri(), browser.new_page(), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{site}/index.html")
    page.get_by_role("button", name="Break it").click()
    expect(page.locator("mixer-break .live-says")).to_contain_text("of 48 positions", timeout=120_000)
    for name, chapter in CHAPTERS.items():
        page.goto(f"{site}/book/{chapter}.html")
        expect(page.locator(f"mixer-{name} .live-says")).not_to_be_empty()
    page.goto(f"{site}/book/lab.html")
    page.locator("#lab-samples button").nth(1).click()
    page.locator("#lab-fetch").click()
    expect(page.locator("#lab-pair-3 strong")).to_contain_text("automobile", timeout=60_000)
    page.goto(f"{site}/search.html?q=sign+flip")
    expect(page.locator(".found-sections li").first).to_be_visible()
    page.close()
    assert complaints == []
