"""The challenge: each level falls to an attack, and the checker knows the keys' hashes only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from mixerkey import Key, decrypt_images, encrypt_images, load_pretrained, normalize
from mixerkey.attacks import between, challenge, ciphertext_only, image_statistics, keys_between_places
from mixerkey.attacks.challenge import check_challenge, key_digest, load_challenge, make_challenge, photo_tiles
from mixerkey.attacks.ciphertext import relatives
from mixerkey.data import load_digits
from mixerkey.embedding import patch_matrix
from mixerkey.files import load_tensors, save_tensors
from mixerkey.keys import MatrixKey, PatchKeys, SignedPermutation


def key_of_each_place() -> PatchKeys:
    """By the attack on level 3."""
    images, model = load_challenge(3)
    assert model is not None
    to_first = keys_between_places(model[0], 1)  # type: ignore[arg-type]
    first = ciphertext_only(encrypt_images(images, to_first), image_statistics(load_digits("train")[0], 2))
    key = first.key.then(to_first.inverse())
    assert isinstance(key, PatchKeys)
    return key


def test_the_shipped_challenge_falls_to_the_attack_and_the_checker_says_so() -> None:
    encrypted = load_challenge(1).images
    found = ciphertext_only(encrypted, image_statistics(photo_tiles("left"), 4))
    assert str(check_challenge(found.key, 1)) == "2 of 2 points. This is the key."
    assert torch.equal(decrypt_images(encrypted, found.key), photo_tiles("right"))


def test_the_photographs_of_another_source_fall_up_to_their_colours_and_the_attack_says_so() -> None:
    found = ciphertext_only(load_challenge(2).images, image_statistics(photo_tiles("left"), 4))
    assert check_challenge(found.key, 2).points == 1
    points = [check_challenge(g.then(found.key), 2).points for g in found.ambiguous]
    assert sorted(points) == 10 * [1] + [2]


def test_a_key_for_each_place_falls_to_whoever_has_the_model() -> None:
    key = key_of_each_place()
    assert check_challenge(key, 3) == (2, "This is the key.")
    images, model = load_challenge(3)
    assert model is not None
    with torch.inference_mode():
        answers = model(normalize(images)).argmax(1)
    plain, labels = load_digits("test")
    place = {image.numpy().tobytes(): int(label) for image, label in zip(plain, labels, strict=True)}
    truth = [place[image.numpy().tobytes()] for image in decrypt_images(images, key)]
    assert sum(a == b for a, b in zip(answers.tolist(), truth, strict=True)) > 0.95 * len(truth)


def test_near_misses_are_named_and_others_are_not_the_key() -> None:
    key = ciphertext_only(load_challenge(1).images, image_statistics(photo_tiles("left"), 4)).key
    verdicts = [check_challenge(g.inverse().then(key), 1) for g in relatives(4, 3)]
    assert [verdict.points for verdict in verdicts] == [2] + 95 * [1]
    assert verdicts[1].words == "Not yet, but close: all flips are reversed: the pictures are negatives."
    assert all(verdict.words.startswith("Not yet, but close") for verdict in verdicts[1:])
    moved = key.permutation[torch.tensor([1, 0, *range(2, 48)])]
    assert check_challenge(Key(moved, key.flips, 4, 3), 1).points == 0


def test_a_relative_counts_if_it_is_the_same_in_each_place() -> None:
    key, negative = key_of_each_place(), relatives(2, 1)[1]
    points = []
    for places in (range(16), range(1)):
        keys = (negative.then(each) if n in places else each for n, each in enumerate(key.keys))
        points.append(check_challenge(PatchKeys(keys, (4, 4)), 3).points)
    assert points == [1, 0]


@pytest.mark.parametrize(
    ("key", "level", "error", "words"),
    [
        (Key.from_seed(0, 2, 3), 1, ValueError, r"for \(M, C\) = \(4, 3\); got one for \(2, 3\)"),
        (MatrixKey.orthogonal(4, 3, seed=0), 2, TypeError, "is a SignedPermutation; got MatrixKey"),
        (Key.from_seed(0, 2, 1), 3, TypeError, "PatchKeys of a SignedPermutation for each place; got Key"),
        (PatchKeys.from_seed(0, 4, 3, (8, 8)), 1, TypeError, "is a SignedPermutation; got PatchKeys"),
        (PatchKeys(4 * [MatrixKey.orthogonal(2, 1, seed=0)], (2, 2)), 3, TypeError, "PatchKeys of a SignedPerm"),
        (PatchKeys.from_seed(0, 2, 1, (2, 8)), 3, ValueError, r"\(2, 1, \(4, 4\)\); got one for \(2, 1, \(2, 8\)\)"),
        (Key.from_seed(0, 4, 3), 0, ValueError, "there are levels 1 to 3, got 0"),
        (Key.from_seed(0, 4, 3), 4, ValueError, "there are levels 1 to 3, got 4"),
        (Key.from_seed(0, 4, 3), 1.5, TypeError, "the level must be an integer, got float"),
        (Key.from_seed(0, 4, 3), "1", FileNotFoundError, "there is no such file"),
    ],
)
def test_keys_and_levels_that_do_not_fit_get_one_clear_line(
    key: SignedPermutation | PatchKeys, level: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        check_challenge(key, level)
    assert "\n" not in str(caught.value)


def test_the_file_holds_the_images_and_a_hash_but_no_key(tmp_path: Path) -> None:
    path, images = tmp_path / "challenge.safetensors", photo_tiles("right")[:3]
    make_challenge(images, 2, path)
    encrypted = load_challenge(path).images
    assert encrypted.shape == images.shape
    assert not torch.equal(encrypted, images)
    assert b"permutation" not in path.read_bytes()
    make_challenge(images, 2, again := tmp_path / "again.safetensors")
    assert not torch.equal(load_challenge(again).images, encrypted)  # the key is another one each time


def test_a_challenge_with_a_network_holds_it_encrypted(tmp_path: Path) -> None:
    path, public, images = tmp_path / "challenge.safetensors", load_pretrained("digits"), load_digits("test")[0][:20]
    make_challenge(images, 2, path, public)
    encrypted, model = load_challenge(path)
    assert model is not None
    with torch.inference_mode():
        assert torch.allclose(model(normalize(encrypted)), public(normalize(images)), atol=1e-5)
    assert public.embedding.weight.detach().numpy().tobytes() not in path.read_bytes()
    E = patch_matrix(public)
    filters = model.state_dict()["0.weight"]  # (d, h, w, p_b)
    places = [between(E, filters[:, i, j].T, 2, 1).key for i in range(4) for j in range(4)]
    assert len({key_digest(place) for place in places}) > 1
    key = PatchKeys(places, (4, 4))
    assert torch.equal(decrypt_images(encrypted, key), images)
    assert check_challenge(key, path).points == 2


Damage = Callable[[dict[str, str], dict[str, torch.Tensor]], object]  # to the metadata and tensors of a file
DAMAGES: dict[str, Damage] = {
    "no hash": lambda about, _: about.pop("key_sha256"),
    "no patch size": lambda about, _: about.pop("patch_size"),
    "a size in words": lambda about, _: about.update(patch_size="two"),
    "blocks without pixels": lambda about, _: about.update(patch_size="0"),
    "other channels": lambda about, _: about.update(channels="3"),
    "no images": lambda _, tensors: tensors.pop("images"),
    "flat images": lambda _, tensors: tensors.update(images=tensors["images"].flatten()),
    "none of them": lambda _, tensors: tensors.update(images=tensors["images"][:0]),
    "wide images": lambda _, tensors: tensors.update(images=tensors["images"].long()),
    "no embedding": lambda _, tensors: tensors.pop("model.0.weight"),
    "fewer places": lambda _, tensors: tensors.update({"model.0.weight": tensors["model.0.weight"][:, :, :3]}),
    "no bias": lambda _, tensors: tensors.pop("model.0.bias"),
    "another layer": lambda _, tensors: tensors.update({"model.99.weight": torch.zeros(1)}),
    "NaN": lambda _, tensors: tensors["model.0.bias"].fill_(float("nan")),
    "too deep": lambda about, _: about.update(model=about["model"].replace('depth": ', 'depth": 9999')),
    "other sizes": lambda about, _: about.update(model='{"width": 1}'),
    "no JSON": lambda about, _: about.update(model="?"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_challenge_that_is_none_or_damaged_gets_one_line_that_says_what_to_do(tmp_path: Path, damage: Damage) -> None:
    about, tensors = load_tensors(Path(challenge.__file__).parent / "challenge-3.safetensors", lambda about, _: about)
    damage(about, tensors)
    save_tensors(tmp_path / "mine.safetensors", tensors, about)
    with pytest.raises(ValueError, match=r"^mine\.safetensors holds no challenge.*; copy it again from who") as caught:
        load_challenge(tmp_path / "mine.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_damaged_installation_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, kept: int
) -> None:
    name = f"challenge-{level}.safetensors"
    whole = (Path(challenge.__file__).parent / name).read_bytes()
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / name).write_bytes(whole[:kept])
    monkeypatch.setattr(challenge, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=rf"^{name} holds no challenge.*; install mixerkey again$"):
        load_challenge(level)


def test_the_digest_tells_keys_apart() -> None:
    assert len({key_digest(key) for key in Key.every(2, 1)}) == 144
    first, second = Key.from_seed(0, 2, 1), Key.from_seed(1, 2, 1)
    assert key_digest(PatchKeys([first, first], (1, 2))) != key_digest(PatchKeys([first, second], (1, 2)))


def test_tiles_are_of_the_halves() -> None:
    with pytest.raises(ValueError, match='must be "left" or "right"'):
        photo_tiles("top")
    assert not torch.equal(photo_tiles("left"), photo_tiles("right"))


def test_the_solution_shows_the_checker_one_answer_a_level() -> None:
    """As the exercise asks of everybody."""
    cells = json.loads((ROOT / "book" / "breaking.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = re.findall(r"check_challenge\((\S+), (\d)\)", "\n".join("".join(cell["source"]) for cell in cells))
    assert shown == [(f"answers[{level}]", level) for level in "123"]
