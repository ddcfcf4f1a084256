"""Draw what stands on the title page and in the window's tab from the real thing: a digit, a key, the matrix E.

    python -m tools.art    # writes book/images/idea.svg and idea-tall.svg, book/_static/favicon.svg and social.png

The diagrams take their colours from the page (mixerkey/palette.css) and fall back to the light ones outside it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained, normalize, patch_matrix
from mixerkey.classroom.figures import BLUE, DARK, INK, LIGHT, SIGNS, VERMILION, set_style
from mixerkey.data import load_digits

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "book" / "_static"
DIGIT, COLUMNS = 5, 13  # which test image; how many columns of E are shown
COLOUR = {name: f"var(--mixer-{name}, {value})" for name, value in LIGHT.items()}

# What the steps are, for readers who do not see them.
ALT = (
    "Two ways to the same answer. Plain: the image x, a {label}, is multiplied by the matrix E; the rest of the "
    "network answers {plain}. Encrypted: the image is multiplied by the key T and comes out scrambled, x T; it is "
    "multiplied by T transposed times E, which has the rows of E in another order, some negated; the same rest of the "
    "network answers {encrypted}."
)


class Idea:
    """One real run of the whole idea on the digits network, with M = 2."""

    def __init__(self) -> None:
        images, labels = load_digits("test")
        model = load_pretrained("digits")
        self.key = Key.from_seed(33, patch_size=2, channels=1)
        locked = encrypt_model(model, self.key)
        self.x = images[DIGIT : DIGIT + 1]  # (1, 1, 8, 8)
        self.xT = encrypt_images(self.x, self.key)
        self.T = self.key.matrix()  # (4, 4)
        self.E, self.E_enc = (patch_matrix(net)[:, :COLUMNS] for net in (model, locked))  # (4, COLUMNS)
        with torch.no_grad():
            self.plain = int(model(normalize(self.x)).argmax())
            self.encrypted = int(locked(normalize(self.xT)).argmax())
        self.alt = ALT.format(label=int(labels[DIGIT]), plain=self.plain, encrypted=self.encrypted)


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"{more}/>'


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle"{more}>{words}</text>'


def cells(colours: dict[str, list[tuple[int, int]]], shape: torch.Size, x: float, y: float, size: float) -> str:
    """A grid of cells (row, column) by their paint, its middle at (x, y), with a hairline around it."""
    rows, columns = shape
    paths = [
        f'<path {paint} d="' + "".join(f"M{column} {row}h1v1h-1z" for row, column in places) + '"/>'
        for paint, places in colours.items()
    ]
    frame = f'<path fill="none" stroke="{COLOUR["ink"]}" stroke-width="{1 / size:.3f}" d="M0 0h{columns}v{rows}H0z"/>'
    corner = f"translate({x - size * columns / 2:g} {y - size * rows / 2:g}) scale({size:g})"
    return f'<g transform="{corner}" shape-rendering="crispEdges">{"".join(paths)}{frame}</g>'


def picture(image: Tensor, x: float, y: float, size: float) -> str:
    """A grey image (1, 1, H, W)."""
    colours: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate(image[0, 0].tolist()):
        for j, value in enumerate(row):
            colours[f'fill="#{value:02x}{value:02x}{value:02x}"'].append((i, j))
    return cells(colours, image[0, 0].shape, x, y, size)


def matrix(values: Tensor, x: float, y: float, size: float) -> str:
    """A matrix, blue for positive and vermilion for negative entries, the fainter the smaller."""
    colours: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate((values / values.abs().max()).tolist()):
        for j, value in enumerate(row):
            if strength := round(abs(value), 1):
                fill = COLOUR["blue" if value > 0 else "vermilion"]
                colours[f'fill="{fill}" fill-opacity="{strength:g}"'].append((i, j))
    return cells(colours, values.shape, x, y, size)


@dataclass(frozen=True)
class Layout:
    """Where the steps of the two ways stand.

    Attributes:
        kind: "wide", one way below the other, or "tall", side by side.
        size: width and height.
        tracks: of the ways, across.
        steps: middle of each step, along.
        half: half of each step's length, along.
        name: length of the name behind a step, along.
    """

    kind: str
    size: tuple[int, int]
    tracks: tuple[int, int]
    steps: tuple[int, ...]
    half: tuple[int, ...]
    name: int

    def at(self, step: int, track: int) -> tuple[float, float]:
        x, y = self.steps[step], self.tracks[track]
        return (y, x) if self.kind == "tall" else (x, y)

    def arrow(self, start: int, end: int, track: int) -> str:
        a = self.steps[start] + self.half[start] + 8 + (self.name if start < 4 else 0)
        b = self.steps[end] - self.half[end] - 8
        c = self.tracks[track]
        return f'<path d="M{c} {a}V{b}"/>' if self.kind == "tall" else f'<path d="M{a} {c}H{b}"/>'


LAYOUTS = {
    "idea.svg": Layout("wide", (780, 296), (62, 212), (46, 164, 282, 448, 636, 752), (40, 26, 40, 67, 66, 16), name=0),
    "idea-tall.svg": Layout(
        "tall", (362, 662), (92, 270), (46, 168, 284, 420, 542, 636), (40, 26, 40, 26, 26, 16), name=24
    ),
}


def way(idea: Idea, layout: Layout, *, encrypted: bool) -> tuple[list[str], list[str]]:
    """One way from image to answer: the drawn steps, and the arrows between them."""
    transposed = '<tspan>T</tspan><tspan dy="-6" font-size="12">⊤</tspan><tspan dy="6">E</tspan>'
    steps = {0: (idea.x, "x"), 3: (idea.E, "E")}
    if encrypted:
        steps = {0: (idea.x, "x"), 1: (idea.T, "T"), 2: (idea.xT, "xT"), 3: (idea.E_enc, transposed)}
    drawn: list[str] = []
    for step, (what, name) in steps.items():
        x, y = layout.at(step, encrypted)
        drawn.append(picture(what, x, y, 10) if step in (0, 2) else matrix(what, x, y, 13 if step == 1 else 10))
        italic = ' font-style="italic" font-family="Georgia, serif" font-size="19"'
        drawn.append(text(x, y + [40, 26, 40, 20][step] + 22, name, italic))
    x, y = layout.at(4, encrypted)
    frame = f' rx="6" fill-opacity="0.08" stroke="{COLOUR["ink"]}"'
    drawn.append(rect(x - 66, y - 26, 132, 52, COLOUR["ink"], frame))
    drawn += [text(x, y - 4, "the same rest of" if encrypted else "the rest of"), text(x, y + 15, "the network")]
    x, y = layout.at(5, encrypted)
    answer = idea.encrypted if encrypted else idea.plain
    drawn.append(text(x, y + 10, str(answer), ' font-size="28" font-weight="bold"'))
    return drawn, [layout.arrow(a, b, encrypted) for a, b in pairwise([*steps, 4, 5])]


def diagram(idea: Idea, layout: Layout) -> str:
    """Both ways as an SVG."""
    (plain, plain_arrows), (encrypted, encrypted_arrows) = (way(idea, layout, encrypted=e) for e in (False, True))
    (width, height), kind = layout.size, layout.kind
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'class="idea-{kind}" aria-label="{idea.alt}" '
            f'font-family="system-ui, sans-serif" font-size="15">',
            f'<g fill="{COLOUR["ink"]}">',
            *plain,
            *encrypted,
            "</g>",
            f'<marker id="tip-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{COLOUR["ink"]}"/></marker>',
            f'<g stroke="{COLOUR["ink"]}" stroke-width="1.5" fill="none" marker-end="url(#tip-{kind})">',
            *plain_arrows,
            *encrypted_arrows,
            "</g>",
            "</svg>",
            "",
        ]
    )


def mark(idea: Idea) -> str:
    """The book's mark: its key, a signed permutation matrix, on a dark ground."""
    cells = [
        rect(
            6 + 13 * j,
            6 + 13 * i,
            12,
            12,
            DARK["blue" if value > 0 else "vermilion" if value < 0 else "line"],
            ' rx="2"',
        )
        for i, row in enumerate(idea.T.tolist())
        for j, value in enumerate(row)
    ]
    ground = rect(0, 0, 64, 64, DARK["paper"], ' rx="10"')
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">\n{ground}\n' + "\n".join(cells) + "\n</svg>\n"


def card(idea: Idea, path: Path) -> None:
    """The picture that a shared link shows, 1200 by 630 pixels."""
    set_style()
    figure = plt.figure(figsize=(12, 6.3), dpi=100, layout="none")
    canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, 1200), ylim=(0, 630))
    canvas.axis("off")
    canvas.add_patch(Rectangle((0, 0), 600, 14, color=BLUE))
    canvas.add_patch(Rectangle((600, 0), 600, 14, color=VERMILION))
    canvas.text(70, 505, "The Mixer Key", fontsize=62, fontfamily="DejaVu Serif", color=INK)
    canvas.text(74, 440, "A network that, used as it is, works only with a key.", fontsize=23, color=INK)
    for image, left, caption in ((idea.x, 70, "$x$"), (idea.xT, 470, "$xT$")):
        axes = figure.add_axes((left / 1200, 140 / 630, 230 / 1200, 230 / 630))
        axes.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.axis("off")
        canvas.text(left + 115, 85, caption, fontsize=26, ha="center")
    boxes = ((idea.T, 325, 120, "$T$"), (idea.E_enc, 740, 390, r"$T^{\top}E$"))
    for values, left, width, caption in boxes:
        axes = figure.add_axes((left / 1200, (255 - 60) / 630, width / 1200, 120 / 630))
        limit = values.abs().max().item()
        axes.imshow(values.numpy(), cmap=SIGNS, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        canvas.text(left + width / 2, 85 if width > 200 else 140, caption, fontsize=26, ha="center")
    figure.savefig(path, facecolor=LIGHT["paper"], metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    idea = Idea()
    for file, layout in LAYOUTS.items():
        (ROOT / "book" / "images" / file).write_text(diagram(idea, layout), encoding="utf-8")
    (STATIC / "favicon.svg").write_text(mark(idea), encoding="utf-8")
    card(idea, STATIC / "social.png")


if __name__ == "__main__":
    main()
