"""The explorers without a browser: a control is set, and what is shown is what the package computes."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import torch
from PIL import Image
from torch import Tensor

from mixerkey import Key, SignedPermutation, accuracy, encrypt_images, encrypt_model, load_pretrained
from mixerkey.attacks import ciphertext_only, image_statistics
from mixerkey.attacks.challenge import photo_tiles
from mixerkey.cipher import decrypt_images
from mixerkey.classroom.explorers import (
    SIDE,
    Explorer,
    attackers_console,
    cipher_steps,
    embedding_rows,
    file_content,
    wrong_fraction,
)
from mixerkey.data import load_digits, load_photos
from mixerkey.evaluation import classify, partly_wrong

PICTURE = load_photos()["flower"][:, :64, :72]  # (3, 64, 72)
KEY = Key.from_seed(3, 4, 3)
POCKET = Key.from_seed(3, 2, 1)
IMAGES, LABELS = load_digits("test")


def set_to(explorer: Explorer, **values: object) -> dict:
    for name, value in values.items():
        explorer.controls[name].value = value
    return explorer.found


def words(explorer: Explorer) -> str:
    return re.sub("<[^>]+>", "", explorer.children[-1].value)


def picture(explorer: Explorer) -> Image.Image:
    """What the reader sees, from the HTML that shows it."""
    (data,) = re.findall('src="data:image/png;base64,([^"]+)"', explorer.children[-2].value)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def upload(content: bytes) -> tuple[dict]:
    file = {"name": "mine", "type": "image/png", "size": len(content), "content": memoryview(content)}
    return (file | {"last_modified": datetime.fromtimestamp(0, UTC)},)


@pytest.fixture(scope="module")
def every_explorer() -> dict[str, Explorer]:
    return {
        "cipher_steps": cipher_steps(PICTURE, KEY),
        "wrong_fraction": wrong_fraction(key=POCKET),
        "embedding_rows": embedding_rows(key=POCKET),
        "attackers_console": attackers_console(key=KEY),
    }


def test_each_has_names_for_its_controls_and_words_for_its_picture(every_explorer: dict[str, Explorer]) -> None:
    for explorer in every_explorer.values():
        assert all(len(control.description) >= 3 for control in explorer.controls.values())
        assert re.search('<img alt="[^"]{20,}"', explorer.children[-2].value)
        assert len(words(explorer)) >= 20
        assert picture(explorer).width >= 300


def test_each_prints_the_same_whatever_its_key(every_explorer: dict[str, Explorer]) -> None:
    """The notebooks store it, and nbval compares it."""
    assert {repr(explorer) for explorer in every_explorer.values()} == {"an explorer, alive in a running notebook"}


def test_the_package_needs_no_widgets() -> None:
    code = "import mixerkey, mixerkey.attacks, mixerkey.classroom.figures, sys; sys.exit('ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_held_changes_draw_once() -> None:
    drawn = []
    explorer = cipher_steps(PICTURE, KEY)
    explorer.draw = lambda: drawn.append(explorer.controls["step"].value)  # type: ignore[method-assign]
    with explorer.held():
        set_to(explorer, shuffle=False, flip=False, step="plain")
    assert drawn == ["plain"]


class TestCipherSteps:
    def test_stages_are_the_packages(self) -> None:
        explorer = cipher_steps(PICTURE, KEY)
        found = set_to(explorer, step="decrypted")
        shuffle = SignedPermutation(KEY.permutation, [False] * 48, 4, 3)
        assert torch.equal(found["shuffled"], encrypt_images(PICTURE, shuffle))
        assert torch.equal(found["flipped"], encrypt_images(PICTURE, KEY))
        assert torch.equal(found["decrypted"], PICTURE)

    def test_a_step_shows_only_what_came_before(self) -> None:
        explorer = cipher_steps(PICTURE, KEY)
        assert list(set_to(explorer, step="shuffled")) == ["plain", "shuffled"]
        assert list(set_to(explorer, step="plain")) == ["plain"]
        assert "0.0%" in words(explorer)

    def test_each_step_can_be_left_out(self) -> None:
        explorer = cipher_steps(PICTURE, KEY)
        found = set_to(explorer, shuffle=False)
        assert torch.equal(found["shuffled"], PICTURE)
        assert torch.equal(found["flipped"], encrypt_images(PICTURE, SignedPermutation(range(48), KEY.flips, 4, 3)))
        before = picture(explorer).tobytes()
        found = set_to(explorer, shuffle=True, flip=False)
        assert torch.equal(found["flipped"], found["shuffled"])
        assert picture(explorer).tobytes() != before

    def test_another_block_size_cuts_to_whole_blocks_and_keeps_its_key(self) -> None:
        explorer = cipher_steps(PICTURE, KEY)
        found = set_to(explorer, block_size=16)
        assert found["flipped"].shape == (3, 64, 64)
        again = (set_to(explorer, block_size=4), set_to(explorer, block_size=16))[1]
        assert torch.equal(found["flipped"], again["flipped"])

    def test_a_picture_of_ones_own(self) -> None:
        mine = torch.arange(SIDE, dtype=torch.uint8).expand(3, SIDE, SIDE).contiguous()
        found = set_to(cipher_steps(PICTURE, KEY), file=upload(png(mine)))
        assert torch.equal(found["flipped"], encrypt_images(mine, KEY))

    def test_an_upload_is_read_from_either_version_of_ipywidgets(self) -> None:
        assert file_content(upload(b"eight")) == b"eight"
        assert file_content({"mine.png": {"content": b"seven"}}) == b"seven"

    def test_a_file_that_is_no_picture_is_explained(self) -> None:
        explorer = cipher_steps(PICTURE, KEY)
        explorer.controls["file"].value = upload(b"not a picture")
        assert "choose a PNG or JPEG" in words(explorer)
        assert explorer.found == {}
        explorer.controls["file"].value = upload(png(PICTURE))
        assert explorer.found["plain"].shape == (3, SIDE, SIDE)

    @pytest.mark.parametrize(
        ("image", "key", "error", "message"),
        [
            (PICTURE.float(), KEY, TypeError, "must be a uint8 tensor, got torch.float32"),
            ("flower.jpg", KEY, TypeError, "must be a uint8 tensor, got str"),
            (PICTURE[None], KEY, ValueError, r"must be \(C, H, W\)"),
            (PICTURE[:, :8], KEY, ValueError, "at least 16 pixels a side"),
            (PICTURE[:1], KEY, ValueError, "has 1 channels, but the key is for 3"),
        ],
    )
    def test_bad_input(self, image: Tensor, key: Key, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            cipher_steps(image, key)


class TestWrongFraction:
    def test_numbers_are_the_packages(self) -> None:
        model = load_pretrained("digits")
        locked = encrypt_model(model, POCKET)
        explorer = wrong_fraction(model, IMAGES, LABELS, POCKET)
        assert explorer.found["accuracy"] == accuracy(model, IMAGES, LABELS)
        assert torch.equal(explorer.found["decrypted"], IMAGES[:6])
        found = set_to(explorer, positions=3, signs=2, draw=5)
        other = partly_wrong(POCKET, 3, 2, torch.Generator().manual_seed(5))
        assert found["accuracy"] == accuracy(locked, IMAGES, LABELS, other)
        assert torch.equal(found["decrypted"], decrypt_images(encrypt_images(IMAGES[:6], POCKET), other))
        assert f"{found['accuracy']:.1%}" in words(explorer)

    def test_sliders_offer_what_is_possible_as_fractions(self) -> None:
        explorer = wrong_fraction(key=POCKET)
        labels = [label for label, _ in explorer.controls["positions"].options]
        assert labels == ["0%", "50%", "75%", "100%"]  # one wrong position is impossible
        assert [n for _, n in explorer.controls["signs"].options] == [0, 2, 4]

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="both, images and labels"):
            wrong_fraction(images=IMAGES)
        with pytest.raises(ValueError, match="as the key has"):
            wrong_fraction(key=KEY)


class TestEmbeddingRows:
    def test_rows_can_be_brought_into_the_keys_order(self) -> None:
        """As a reader who knows the key would: each row is moved up to its place, then given its sign."""
        model = load_pretrained("digits")
        explorer = embedding_rows(model, IMAGES, LABELS, POCKET)
        row = explorer.controls["row"]
        assert explorer.found["guess"] == SignedPermutation.identity(2, 1)
        assert explorer.found["accuracy"] == accuracy(model, encrypt_images(IMAGES, POCKET), LABELS)
        for place, wanted in enumerate(POCKET.permutation.tolist()):
            row.value = explorer.found["guess"].permutation.tolist().index(wanted)
            for _ in range(row.value - place):
                explorer.controls["up"].click()
            assert row.value == place  # the selection goes with the row
            if POCKET.flips[place]:
                explorer.controls["negate"].click()
        assert explorer.found["guess"] == POCKET
        assert explorer.found["accuracy"] == explorer.found["plain_accuracy"] == accuracy(model, IMAGES, LABELS)
        assert torch.equal(explorer.found["classes"], classify(model, IMAGES[:6]))
        assert "as the key wants them" in words(explorer)

    def test_ends_of_the_list_and_labels(self) -> None:
        explorer = embedding_rows(key=POCKET)
        explorer.controls["up"].click()
        assert explorer.found["guess"] == SignedPermutation.identity(2, 1)
        explorer.controls["negate"].click()
        explorer.controls["down"].click()
        names = [name for name, _ in explorer.controls["row"].options]
        assert names == ["place 0: + row 1", "place 1: − row 0", "place 2: + row 2", "place 3: + row 3"]
        assert explorer.found["guess"] == SignedPermutation([1, 0, 2, 3], [0, 1, 0, 0], 2, 1)
        assert "as the key wants them" not in words(explorer)


class TestAttackersConsole:
    def test_attacks_only_when_told_to(self) -> None:
        console = attackers_console(key=KEY)
        assert console.found == {}
        console.controls["run"].click()
        recovery = console.found["recovery"]
        private = photo_tiles("right")
        private = private[private.float().std((1, 2, 3)).argsort(descending=True)]
        expected = ciphertext_only(encrypt_images(private, KEY), image_statistics(photo_tiles("left"), 4))
        assert (recovery.key, recovery.score) == (expected.key, expected.score)
        assert torch.equal(console.found["decrypted"], decrypt_images(encrypt_images(private[:6], KEY), expected.key))
        assert console.found["right_positions"] == int((expected.key.permutation == KEY.permutation).sum())
        assert console.found["right_flips"] == int((expected.key.flips == KEY.flips).sum())
        assert set_to(console, count=1) == {}  # what was found belongs to other images
        assert not console.controls["run"].disabled

    def test_too_many_keys_are_explained_and_few_are_tried(self) -> None:
        console = attackers_console(key=KEY)
        set_to(console, attack="exhaustive search")
        console.controls["run"].click()
        assert "too many to try" in words(console)
        small = attackers_console(load_digits("train")[0], IMAGES, POCKET)
        set_to(small, attack="exhaustive search", count=30)
        small.controls["run"].click()
        assert small.found["right_positions"] == 4

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="both, public and private"):
            attackers_console(photo_tiles("left"))
        with pytest.raises(ValueError, match="the key is for images"):
            attackers_console(key=POCKET)
