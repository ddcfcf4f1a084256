"""Explorers for running notebooks: controls, a picture and a sentence that follow them. They need the extra ``book``.

Each is a function that gives an `Explorer` to put at the end of a cell. What it shows comes from the package's own
functions; the rendered pages, which have no kernel, have live figures in their place.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mixerkey.absorption import encrypt_model
from mixerkey.attacks import (
    chosen_plaintext,
    ciphertext_only,
    exhaustive,
    image_statistics,
    known_plaintext,
    naturalness,
)
from mixerkey.attacks.challenge import photo_tiles
from mixerkey.attacks.recovery import Recovery
from mixerkey.attacks.statistics import ImageStatistics
from mixerkey.cipher import decrypt_images, encrypt_images
from mixerkey.classroom.figures import WIDTH, show_images, show_matrix
from mixerkey.convmixer import load_pretrained
from mixerkey.data import load_digits, load_photos
from mixerkey.embedding import find_patch_embedding, patch_matrix
from mixerkey.evaluation import accuracy, classify, partly_wrong
from mixerkey.keys import Key, SignedPermutation
from mixerkey.pictures import open_picture

SIDE = 96  # pixels of an uploaded picture, a multiple of every block size
BLOCK_SIZES = (2, 4, 8, 16)
COUNTS = (1, 3, 10, 30, 100)  # images that the attacker gets
ATTACKS = ("exhaustive search", "chosen plaintext", "known plaintext", "ciphertext only")


@dataclass(frozen=True)
class View:
    """What an explorer shows.

    Attributes:
        figure: the picture.
        alt: what the picture shows, in words, for readers who do not see it.
        sentence: what to read beneath it.
        found: what was computed, by name.
    """

    figure: Figure
    alt: str
    sentence: str
    found: Mapping[str, Any]


class Explorer(ipywidgets.VBox):
    """Controls above, a picture and a sentence below that follow them.

    Args:
        controls: by name; a new value of one of them draws everything again. What has no value, a button, does not.
        view: what to show, given the controls' values by name. A `ValueError` that it raises is shown as the sentence.

    Attributes:
        controls: as given.
        found: what the last view computed; empty after an error.

    >>> slider = ipywidgets.IntSlider(1, 0, 2, description="value")
    >>> explorer = Explorer(
    ...     {"n": slider}, lambda n: View(show_images({"": torch.zeros(1, 2, 2)}), "black", f"n = {n}", {"n": n})
    ... )
    >>> slider.value = 2
    >>> explorer.found
    {'n': 2}
    """

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], view: Callable[..., View]) -> None:
        self.controls, self._view, self._held = dict(controls), view, False
        self.found: dict[str, Any] = {}
        self._picture, self._sentence = ipywidgets.HTML(), ipywidgets.HTML()
        for control in self.controls.values():
            control.style.description_width = "initial"  # as wide as the words are
            if not control.has_trait("value") or isinstance(control, ipywidgets.FileUpload):
                control.layout.width = "max-content"
            if control.has_trait("value"):
                control.observe(self._follow, "value")
        super().__init__([*self.controls.values(), self._picture, self._sentence])
        self._show()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Change several controls inside, and draw once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.draw()

    def draw(self) -> None:
        """Show what belongs to the controls as they are now."""
        try:
            self._show()
        except ValueError as error:
            self.found = {}
            self._say(str(error))

    def _follow(self, _: object) -> None:
        if not self._held:
            self.draw()

    def _show(self) -> None:
        values = {name: control.value for name, control in self.controls.items() if control.has_trait("value")}
        view = self._view(**values)
        png = io.BytesIO()
        view.figure.savefig(png, format="png")
        plt.close(view.figure)
        data = base64.b64encode(png.getvalue()).decode()
        self._picture.value = f'<img alt="{html.escape(view.alt)}" src="data:image/png;base64,{data}">'
        self.found = dict(view.found)
        self._say(view.sentence)

    def _say(self, sentence: str) -> None:
        self._sentence.value = f'<p role="status">{html.escape(sentence)}</p>'

    def __repr__(self) -> str:
        """The same for every key and every run, since notebooks store it."""
        return "an explorer, alive in a running notebook"


def cipher_steps(image: Tensor | None = None, key: Key | None = None) -> Explorer:
    """Step through the cipher: shuffle (Eq. 4), flip (Eq. 5), decrypt; each can be left out, and M changed.

    Args:
        image: uint8 (C, H, W), at least 16 pixels a side, cut to whole blocks; by default a photograph. A picture that
            the reader uploads takes its place.
        key: the secret for its own block size; a fresh one is generated for each other. By default one for M = 4.

    Returns:
        controls "file", "block_size", "shuffle", "flip" and "step"; finds "plain", "shuffled", "flipped" and
        "decrypted", as far as the step goes: uint8 (C, H, W).

    Raises:
        TypeError: an image that is not uint8.
        ValueError: an image of another shape, too small, or with another number of channels than the key.

    >>> image, key = load_photos()["flower"][:, :32, :32], Key.generate(4, 3)
    >>> explorer = cipher_steps(image, key)
    >>> torch.equal(explorer.found["flipped"], encrypt_images(image, key))
    True
    >>> explorer.controls["shuffle"].value = explorer.controls["flip"].value = False
    >>> torch.equal(explorer.found["flipped"], image)
    True
    """
    if image is None:
        image = load_photos()["china"][:, 60 : 60 + 2 * SIDE : 2, 200 : 200 + 2 * SIDE : 2]
    _check_image(image)
    key = key if key is not None else Key.generate(4, len(image))
    if key.channels != len(image):
        raise ValueError(f"the image has {len(image)} channels, but the key is for {key.channels}")
    keys = {key.patch_size: key}
    step = ipywidgets.SelectionSlider(
        options=["plain", "shuffled", "flipped", "decrypted"], value="flipped", description="Step"
    )

    def view(file: Any, block_size: int, shuffle: bool, flip: bool, step: str) -> View:
        x = read_picture(file_content(file), len(image)) if file else image
        x = x[:, : x.shape[1] // block_size * block_size, : x.shape[2] // block_size * block_size]
        if block_size not in keys:
            keys[block_size] = Key.generate(block_size, len(image))
        stages = cipher_stages(x, keys[block_size], shuffle, flip)
        names = list(stages)[: list(stages).index(step) + 1]
        seen = {name: stages[name] for name in names}
        changed = (seen[names[-1]] != x).double().mean().item()
        return View(
            show_images(seen, columns=4),
            f"The picture, with blocks of {block_size} by {block_size} pixels: {', '.join(names)}.",
            f"M = {block_size}: {changed:.1%} of all values differ from the plain picture's.",
            seen,
        )

    return Explorer(
        {
            "file": ipywidgets.FileUpload(accept="image/*", multiple=False, description="A picture of your own"),
            "block_size": ipywidgets.Dropdown(
                options=sorted({key.patch_size, *BLOCK_SIZES}), value=key.patch_size, description="Block size M"
            ),
            "shuffle": ipywidgets.Checkbox(True, description="Shuffle, Eq. (4)"),
            "flip": ipywidgets.Checkbox(True, description="Flip, Eq. (5)"),
            "step": step,
        },
        view,
    )


def cipher_stages(image: Tensor, key: SignedPermutation, shuffle: bool = True, flip: bool = True) -> dict[str, Tensor]:
    """The picture after each step: "plain", "shuffled", "flipped", and "decrypted" with the inverse of both.

    Args:
        image: uint8 (C, H, W).
        key: the secret.
        shuffle: whether the first step does anything.
        flip: whether the second does.

    >>> image, key = load_digits("test")[0][0], Key.generate(2, 1)
    >>> stages = cipher_stages(image, key)
    >>> torch.equal(stages["flipped"], encrypt_images(image, key)), torch.equal(stages["decrypted"], image)
    (True, True)
    """
    shape = key.patch_size, key.channels
    nothing = SignedPermutation.identity(*shape)
    only_shuffle = key.shuffle if shuffle else nothing
    only_flip = key.flip if flip else nothing
    shuffled = encrypt_images(image, only_shuffle)
    flipped = encrypt_images(shuffled, only_flip)
    decrypted = decrypt_images(flipped, only_shuffle.then(only_flip))
    return {"plain": image, "shuffled": shuffled, "flipped": flipped, "decrypted": decrypted}


def read_picture(content: bytes, channels: int) -> Tensor:
    """A picture file as uint8 (C, 96, 96): the largest square in its middle.

    Args:
        content: of a PNG, JPEG or any other file that Pillow reads.
        channels: 3 for colour, 1 for grey.

    Raises:
        ValueError: not a picture, or another number of channels.

    >>> from PIL import Image
    >>> png = io.BytesIO()
    >>> Image.new("RGB", (300, 200), "red").save(png, "PNG")
    >>> picture = read_picture(png.getvalue(), 3)
    >>> picture.shape, picture[:, 0, 0]
    (torch.Size([3, 96, 96]), tensor([255,   0,   0], dtype=torch.uint8))
    """
    picture = open_picture(io.BytesIO(content), channels)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.resize((SIDE, SIDE), box=(left, top, left + side, top + side))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(SIDE, SIDE, channels).permute(2, 0, 1).contiguous()  # (C, SIDE, SIDE)


def wrong_fraction(
    model: nn.Module | None = None, images: Tensor | None = None, labels: Tensor | None = None, key: Key | None = None
) -> Explorer:
    """Slide how much of the client's key is wrong; see the accuracy of the encrypted model and the pictures.

    Args:
        model: a plain one, which is encrypted with `key`; by default the digits network.
        images: uint8 (N, C, H, W); by default the 360 test digits.
        labels: int64 (N,); needed with `images`.
        key: the right one; by default generated for the model.

    Returns:
        controls "positions" and "signs", how many are wrong, and "draw", which of many such keys; finds "accuracy",
        and "decrypted", the first six encrypted images decrypted with the wrong key.

    Raises:
        ValueError: images without labels; a key that does not fit model or images.

    >>> explorer = wrong_fraction(key=Key.from_seed(0, 2, 1))
    >>> right = explorer.found["accuracy"]
    >>> explorer.controls["signs"].value = 4
    >>> right >= 0.97, explorer.found["accuracy"] < right
    (True, True)
    """
    model, images, labels, key = _classifier(model, images, labels, key)
    locked, size = encrypt_model(model, key), key.size
    sent = encrypt_images(images[:6], key)

    def view(positions: int, signs: int, draw: int) -> View:
        other = partly_wrong(key, positions, signs, torch.Generator().manual_seed(draw))
        seen = decrypt_images(sent, other)
        share = accuracy(locked, images, labels, other)
        return View(
            show_images({f"image {i + 1}": picture for i, picture in enumerate(seen)}, columns=6),
            f"Six encrypted images, decrypted with a key of which {positions} positions and {signs} signs are wrong.",
            f"Of {size} positions {positions} are wrong, of {size} signs {signs}: with this key {share:.1%} of "
            f"{len(images)} images are classified correctly.",
            {"accuracy": share, "decrypted": seen},
        )

    def slider(counts: range | list[int], what: str) -> ipywidgets.SelectionSlider:
        return ipywidgets.SelectionSlider(
            options=[(f"{n / size:.0%}", n) for n in counts], value=0, description=f"Wrong {what}"
        )

    return Explorer(
        {
            "positions": slider([0, *range(2, size + 1)], "positions"),
            "signs": slider(range(0, size + 1, 2), "signs"),
            "draw": ipywidgets.IntSlider(0, 0, 9, description="Which such key"),
        },
        view,
    )


def embedding_rows(
    model: nn.Module | None = None, images: Tensor | None = None, labels: Tensor | None = None, key: Key | None = None
) -> Explorer:
    """Move and negate the rows of E by hand until the network reads encrypted images: find the key's order.

    Args:
        model: a plain one; by default the digits network.
        images: uint8 (N, C, H, W), which are encrypted with `key`; by default the 360 test digits.
        labels: int64 (N,); needed with `images`.
        key: the secret to find; by default generated for the model.

    Returns:
        controls "row", which place of the matrix is meant, and the buttons "up", "down" and "negate"; finds "guess",
        the signed permutation made so far, "accuracy" on the encrypted images, "plain_accuracy", and "classes" of the
        first six.

    Raises:
        ValueError: images without labels; a key that does not fit model or images.

    >>> key = Key([1, 0, 2, 3], [1, 0, 1, 0], patch_size=2, channels=1)
    >>> explorer = embedding_rows(key=key)
    >>> explorer.controls["down"].click()  # row 0 to place 1, so row 1 to place 0
    >>> for place in (0, 2):
    ...     explorer.controls["row"].value = place
    ...     explorer.controls["negate"].click()
    >>> explorer.found["guess"] == key, explorer.found["accuracy"] == explorer.found["plain_accuracy"]
    (True, True)
    """
    model, images, labels, key = _classifier(model, images, labels, key)
    sent, E, best = encrypt_images(images, key), patch_matrix(model), accuracy(model, images, labels)
    rows = _Rows(key.patch_size, key.channels)

    def view(row: int) -> View:
        guess = rows.key()
        moved = encrypt_model(model, guess)
        share, classes = accuracy(moved, sent, labels), classify(moved, sent[:6])
        figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 3))
        show_matrix(E, "E", axes=axes[0])
        show_matrix(patch_matrix(moved), "the rows as you have put them", axes=axes[1])
        axes[1].axhspan(row - 0.5, row + 0.5, fill=False, linewidth=2)
        done = " The rows stand as the key wants them." if guess == key else ""
        return View(
            figure,
            f"E, and below it the matrix with {', '.join(rows.names())}; place {row} is marked.",
            f"{share:.1%} of {len(sent)} encrypted images are read correctly; the plain network reads {best:.1%} of "
            f"the plain ones. The first six are read as {', '.join(map(str, classes.tolist()))}; they are "
            f"{', '.join(map(str, labels[:6].tolist()))}.{done}",
            {"guess": guess, "accuracy": share, "plain_accuracy": best, "classes": classes},
        )

    row = ipywidgets.Select(options=rows.options(), value=0, rows=min(key.size, 8), description="Row")
    actions = {"up": ("Move up", rows.up), "down": ("Move down", rows.down), "negate": ("Change the sign", rows.negate)}
    buttons = {name: ipywidgets.Button(description=words) for name, (words, _) in actions.items()}
    explorer = Explorer({"row": row, **buttons}, view)

    def take(action: Callable[[int], int]) -> None:
        place = action(row.value)
        with explorer.held():
            row.options = rows.options()  # which chooses place 0
            row.value = place

    for name, (_, action) in actions.items():
        buttons[name].on_click(lambda _, action=action: take(action))
    return explorer


class _Rows:
    """A signed permutation that is made by hand, place by place; each change tells the place to mark then."""

    def __init__(self, patch_size: int, channels: int) -> None:
        self.shape = patch_size, channels
        self.order = list(range(channels * patch_size**2))
        self.signs = [False] * len(self.order)

    def key(self) -> SignedPermutation:
        return SignedPermutation(self.order, self.signs, *self.shape)

    def names(self) -> list[str]:
        rows = enumerate(zip(self.order, self.signs, strict=True))
        return [f"place {k}: {'−' if sign else '+'} row {j}" for k, (j, sign) in rows]

    def options(self) -> list[tuple[str, int]]:
        return [(name, k) for k, name in enumerate(self.names())]

    def up(self, place: int) -> int:
        return self._swap(place, max(place - 1, 0))

    def down(self, place: int) -> int:
        return self._swap(place, min(place + 1, len(self.order) - 1))

    def negate(self, place: int) -> int:
        self.signs[place] = not self.signs[place]
        return place

    def _swap(self, here: int, there: int) -> int:
        self.order[here], self.order[there] = self.order[there], self.order[here]
        self.signs[here], self.signs[there] = self.signs[there], self.signs[here]
        return there


def attackers_console(public: Tensor | None = None, private: Tensor | None = None, key: Key | None = None) -> Explorer:
    """Choose an attack and how many images the attacker gets, run it, and see what it recovers of the key.

    Args:
        public: uint8 (N, C, H, W), what the attacker knows of such images; by default tiles of two photographs.
        private: uint8 (N, C, H, W), what was encrypted; by default other tiles of them.
        key: the secret; by default generated for blocks of 4 × 4 pixels. No attack is given it.

    Returns:
        controls "attack", "count" and the button "run"; finds, after a run, "recovery", "right_positions",
        "right_flips" and "decrypted", the first six images.

    Raises:
        ValueError: images that do not fit the key.

    >>> console = attackers_console()
    >>> console.controls["attack"].value = "known plaintext"
    >>> console.found  # nothing before the run
    {}
    >>> console.controls["run"].click()
    >>> console.found["right_positions"], console.found["right_flips"]
    (48, 48)
    """
    public, private = _attacked(public, private)
    key = key if key is not None else Key.generate(4, private.shape[1])
    prior, encrypted = image_statistics(public, key.patch_size), encrypt_images(private, key)
    wanted = False  # whether the button was pressed

    def view(attack: str, count: int) -> View:
        if wanted:
            sentence, found = _outcome(attack, private[:count], key, prior)
            found["decrypted"] = seen = decrypt_images(encrypted[:6], found["recovery"].key)
        else:
            sentence = f"{count} encrypted images were seen on the wire. Press the button to attack."
            seen, found = encrypted[:6], {}
        what = "as decrypted with the recovered key" if wanted else "as they were sent, encrypted"
        pictures = {f"image {i + 1}": picture for i, picture in enumerate(seen)}
        return View(show_images(pictures, columns=6), f"Six images, {what}.", sentence, found)

    counts = [n for n in COUNTS if n < len(private)] + [len(private)]
    run = ipywidgets.Button(description="Run the attack")
    console = Explorer(
        {
            "attack": ipywidgets.Dropdown(options=ATTACKS, value="ciphertext only", description="Attack"),
            "count": ipywidgets.SelectionSlider(options=counts, value=counts[-1], description="Images"),
            "run": run,
        },
        view,
    )

    def attack(_: object) -> None:
        nonlocal wanted
        wanted, run.disabled = True, True
        try:
            console.draw()
        finally:
            wanted, run.disabled = False, False

    run.on_click(attack)
    return console


def _attacked(public: Tensor | None, private: Tensor | None) -> tuple[Tensor, Tensor]:
    """What was given, or tiles of two photographs, those rich in contrast first, so that there is something to see."""
    if (public is None) != (private is None):
        raise ValueError("give both, public and private images, or neither")
    if public is not None and private is not None:
        return public, private
    private = photo_tiles("right")
    return photo_tiles("left"), private[private.float().std((1, 2, 3)).argsort(descending=True)]


def _outcome(attack: str, images: Tensor, key: Key, prior: ImageStatistics) -> tuple[str, dict[str, Any]]:
    """What an attack recovers of the key: in a sentence, and by name."""
    recovery = run_attack(attack, images, key, prior)
    positions = int((recovery.key.permutation == key.permutation).sum())
    flips = int((recovery.key.flips == key.flips).sum())
    sentence = (
        f"{attack}, {len(images)} images: {positions} of {key.size} positions and {flips} of {key.size} flips are "
        f"right; the attack itself reports {len(recovery.ambiguous)} doubts."
    )
    return sentence, {"recovery": recovery, "right_positions": positions, "right_flips": flips}


def run_attack(attack: str, images: Tensor, key: SignedPermutation, prior: ImageStatistics) -> Recovery:
    """One of the package's attacks with the evidence that it needs, made with the key and without handing it over.

    Args:
        attack: "exhaustive search" by how natural the images look, "chosen plaintext" (one image, whatever `images`
            are), "known plaintext" or "ciphertext only".
        images: uint8 (N, C, H, W), plain.
        key: what they are encrypted with.
        prior: what the attacker knows of such images.

    Raises:
        ValueError: another attack, too many keys to try, or images that do not fit.

    >>> secret, prior = Key.generate(2, 1), image_statistics(load_digits("train")[0], 2)
    >>> images = load_digits("test")[0]
    >>> [run_attack(attack, images, secret, prior).key == secret for attack in ATTACKS]
    [True, True, True, True]
    """
    M, C = key.patch_size, key.channels
    encrypted = encrypt_images(images, key)
    if attack == "exhaustive search":
        return exhaustive(lambda guess: naturalness(decrypt_images(encrypted, guess), prior), M, C, progress=False)
    if attack == "chosen plaintext":
        return chosen_plaintext(lambda image: encrypt_images(image, key), M, C)
    if attack == "known plaintext":
        return known_plaintext(images, encrypted, M)
    if attack == "ciphertext only":
        return ciphertext_only(encrypted, prior)
    raise ValueError(f"no attack {attack!r}; choose from {', '.join(ATTACKS)}")


def _classifier(
    model: nn.Module | None, images: Tensor | None, labels: Tensor | None, key: Key | None
) -> tuple[nn.Module, Tensor, Tensor, Key]:
    """What was given, or the digits and a fresh key."""
    if (images is None) != (labels is None):
        raise ValueError("give both, images and labels, or neither")
    if images is None or labels is None:
        images, labels = load_digits("test")
    model = load_pretrained("digits") if model is None else model
    if key is None:
        embedding = find_patch_embedding(model)
        key = Key.generate(embedding.kernel_size[0], embedding.in_channels)
    return model, images, labels, key


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor) or image.dtype != torch.uint8:
        raise TypeError(f"the image must be a uint8 tensor, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or len(image) not in (1, 3) or min(image.shape[1:]) < max(BLOCK_SIZES):
        raise ValueError(
            f"the image must be (C, H, W) with C = 1 or 3 and at least {max(BLOCK_SIZES)} pixels a side, "
            f"got {tuple(image.shape)}"
        )


def file_content(file: Any) -> bytes:
    """The bytes of the one file that a FileUpload holds.

    Args:
        file: its value: a tuple of files in ipywidgets 8, files by name in ipywidgets 7, which Colab has.

    >>> file_content(({"name": "mine.png", "content": memoryview(b"png")},))
    b'png'
    """
    (first,) = file.values() if isinstance(file, dict) else file
    return bytes(first["content"])
