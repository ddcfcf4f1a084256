"""The challenge: solvable by the attack, with a checker that knows the key's hash only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixerkey import Key, decrypt_images
from mixerkey.attacks import ciphertext_only, image_statistics
from mixerkey.attacks.challenge import check_challenge, key_digest, load_challenge, make_challenge, photo_tiles
from mixerkey.attacks.ciphertext import relatives


def test_the_shipped_challenge_falls_to_the_attack_and_the_checker_says_so() -> None:
    encrypted = load_challenge()
    found = ciphertext_only(encrypted, image_statistics(photo_tiles("left"), 4))
    assert check_challenge(found.key) == "Right: this is the key."
    assert torch.equal(decrypt_images(encrypted, found.key), photo_tiles("right"))


def test_near_misses_are_named_and_others_are_not_the_key() -> None:
    key = ciphertext_only(load_challenge(), image_statistics(photo_tiles("left"), 4)).key
    verdicts = [check_challenge(g.inverse().then(key)) for g in relatives(4, 3)]
    assert [verdict.startswith("Right") for verdict in verdicts] == [True] + 95 * [False]
    assert verdicts[1] == "Not yet, but close: all flips are reversed: the pictures are negatives."
    assert all(verdict.startswith("Not yet, but close") for verdict in verdicts[1:])
    moved = key.permutation[torch.tensor([1, 0, *range(2, 48)])]
    assert check_challenge(Key(moved, key.flips, 4, 3)).startswith("Not the key")


def test_the_file_holds_the_images_and_a_hash_but_no_key(tmp_path: Path) -> None:
    path = tmp_path / "challenge.safetensors"
    images = photo_tiles("right")[:3]
    make_challenge(images, 2, path)
    assert load_challenge(path).shape == images.shape
    assert not torch.equal(load_challenge(path), images)
    assert b"permutation" not in path.read_bytes()
    with pytest.raises(ValueError, match="M = 2, C = 3; got a key for 4, 3"):
        check_challenge(Key.from_seed(0, 4, 3), path)


def test_the_digest_tells_keys_apart() -> None:
    assert len({key_digest(key) for key in Key.every(2, 1)}) == 144


def test_tiles_are_of_the_halves() -> None:
    with pytest.raises(ValueError, match='must be "left" or "right"'):
        photo_tiles("top")
    assert not torch.equal(photo_tiles("left"), photo_tiles("right"))
