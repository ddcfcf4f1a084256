"""Accuracy, the key space of §4.3, and the equality of §4.2 on whole test sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import needs_cifar10
from mixerkey import (
    Key,
    accuracy,
    decrypt_images,
    decrypt_model,
    encrypt_images,
    encrypt_model,
    key_space_bits,
    load_pretrained,
)
from mixerkey.attacks import fine_tune_embedding, labelled_loss
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import classify, confusion, predict, sweep
from mixerkey.keys import KeySchedule
from mixerkey.receipts import load_receipt, weights_digest
from mixerkey.training import DIGITS, train


def test_key_space_is_247_82_bits_not_the_printed_543_8() -> None:
    assert round(key_space_bits(4, 3), 2) == 247.82
    scrambled_blocks_too = key_space_bits(4, 3) + math.log2(math.factorial(64))
    assert round(scrambled_blocks_too, 1) == 543.8  # what the paper prints


@pytest.mark.parametrize(("M", "C"), [(1, 1), (1, 3), (2, 1), (1, 5)])
def test_key_space_counts_the_keys(M: int, C: int) -> None:
    size = M * M * C
    count = sum(1 for _ in permutations(range(size)) for _ in combinations(range(size), size // 2))
    assert round(2 ** key_space_bits(M, C)) == count


class Brightest(nn.Module):
    """Classifies an image (1, 1, K) by the position of its brightest pixel; its own normalisation stays odd."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)


def test_accuracy_is_the_fraction_that_is_right() -> None:
    images, labels = torch.eye(4).reshape(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    assert accuracy(Brightest(), images, labels) == 1.0
    assert accuracy(Brightest(), images, torch.tensor([0, 1, 0, 0]), batch_size=3) == 0.5
    key = Key([1, 0, 2, 3], [False, False, True, True], 2, 1)  # images 0 and 1 become [0 1 1 1] and [1 0 1 1]
    assert accuracy(Brightest(), images, torch.tensor([1, 0, 3, 2]), key) == 1.0
    assert accuracy(Brightest(), images, labels, key) == 0.0


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(5)])
def test_as_many_labels_as_images(labels: Tensor) -> None:
    with pytest.raises(ValueError, match="as many labels as images"):
        accuracy(Brightest(), torch.zeros(4, 1, 2, 2), labels)
    with pytest.raises(ValueError, match="at least one"):
        accuracy(Brightest(), torch.zeros(0, 1, 2, 2), torch.zeros(0))


def test_predict_leaves_the_mode_of_the_model() -> None:
    model = load_pretrained("digits").train()
    before = weights_digest(model)
    predict(model, load_digits("test")[0][:8])
    assert model.training
    assert weights_digest(model) == before


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_shipped_weights_are_those_of_the_receipt(name: str) -> None:
    receipt, model = load_receipt(name), load_pretrained(name)
    assert receipt["weights_sha256"] == weights_digest(model)
    assert receipt["network"] == model.sizes
    assert len(receipt["curve"]) == receipt["recipe"]["epochs"]


def test_the_pocket_network_reads_97_percent_of_held_out_digits_with_and_without_the_key() -> None:
    images, labels = load_digits("test")
    model = load_pretrained("digits").double()
    plain = predict(model, images)
    assert (plain.argmax(1) == labels).double().mean() >= 0.97
    assert abs(accuracy(model, images, labels) - load_receipt("digits")["accuracy"]) < 0.005
    for seed in range(20):
        key = Key.from_seed(seed, 2, 1)
        assert torch.allclose(predict(encrypt_model(model, key), images, key), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "other", ["digits", None, b"secret", 7, KeySchedule(bytes(32), 2, 1)], ids=lambda x: type(x).__name__
)
def test_what_is_no_model_and_no_key_is_named_and_not_printed(other: Any) -> None:
    model, key, (images, labels) = load_pretrained("digits"), Key.generate(2, 1), load_digits("test")
    kind = f"got {type(other).__name__}"
    calls: list[Callable[[], object]] = [
        lambda: encrypt_model(other, key),
        lambda: decrypt_model(other, key),
        lambda: predict(other, images),
        lambda: accuracy(other, images, labels),
        lambda: encrypt_model(model, other),
        lambda: encrypt_images(images, other),
        lambda: decrypt_images(images, other),
    ]
    if other is not None:  # no key: plain images
        calls.append(lambda: predict(model, images, other))
    for call in calls:
        with pytest.raises(TypeError, match=kind) as raised:
            call()
        assert "secret" not in str(raised.value)


KEYS = [Key.from_seed(n, 2, 1) for n in range(9)]
WRONG: dict[str, tuple[Callable[..., object], type[Exception], str]] = {
    **{f"batch of {n}": (lambda m, x, y, n=n: predict(m, x, batch_size=n), ValueError, "one image") for n in (0, -1)},
    **{
        f"batch of {n!r}": (
            lambda m, x, y, n=n: predict(m, x, batch_size=n),
            TypeError,
            "batch size must be an integer",
        )
        for n in (1.5, "3", None)
    },
    "list": (lambda m, x, y: predict(m, x.tolist()), TypeError, "must be a torch.Tensor .* got list"),
    "array": (lambda m, x, y: accuracy(m, x.numpy(), y), TypeError, "must be a torch.Tensor .* got ndarray"),
    "too few keys": (lambda m, x, y: predict(m, x, KEYS[:7]), ValueError, "got 7 keys and 8 images"),
    "too many keys": (lambda m, x, y: predict(m, x, KEYS), ValueError, "got 9 keys and 8 images"),
    "too many keys of accuracy": (lambda m, x, y: accuracy(m, x, y, KEYS), ValueError, "got 9 keys and 8 images"),
    "too many keys of classify": (lambda m, x, y: classify(m, x, KEYS), ValueError, "got 9 keys and 8 images"),
    "a class too many": (lambda m, x, y: confusion(y, y + 9, 10), ValueError, "integers 0 to 9"),
    "a class too few": (lambda m, x, y: confusion(y - 9, y, 10), ValueError, "integers 0 to 9"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_one_line(name: str) -> None:
    call, error, message = WRONG[name]
    images, labels = load_digits("test")
    with pytest.raises(error, match=message):
        call(load_pretrained("digits"), images[:8], labels[:8].clamp(min=1))


@needs_cifar10
def test_the_encrypted_pair_gives_the_plain_class_on_every_image() -> None:
    """Table 1, first row against second, under a fresh key: the chapter counts all 10,000, and compares the receipt."""
    images, labels = (part[::10] for part in load_cifar10("test"))
    model, key = load_pretrained("cifar10"), Key.generate(4, 3)
    plain = classify(model, images)
    assert torch.equal(classify(encrypt_model(model, key), images, key), plain)
    assert (plain == labels).double().mean() >= 0.75


@needs_cifar10
def test_without_the_key_the_encrypted_network_is_lost() -> None:
    images, labels = (part[:1000] for part in load_cifar10("test"))
    model, key = load_pretrained("cifar10"), Key.from_seed(1, 4, 3)
    locked = encrypt_model(model, key)
    assert accuracy(locked, images, labels, key) == pytest.approx(accuracy(model, images, labels), abs=0.002)
    assert accuracy(locked, images, labels) < 0.3
    assert accuracy(locked, images, labels, Key.from_seed(2, 4, 3)) < 0.3
    assert accuracy(model, images, labels, key) < 0.3


SHORT = replace(DIGITS, epochs=1)
LABELLED: dict[str, Callable[[Any, Tensor, Any], object]] = {
    "accuracy": accuracy,
    "sweep": lambda m, x, y: sweep(m, x, y, KEYS[:2], progress=False),
    "confusion": lambda m, x, y: confusion(y, torch.zeros(len(x)).long(), 10),
    "confusion, given": lambda m, x, y: confusion(torch.zeros(len(x)).long(), y, 10),
    "train": lambda m, x, y: weights_digest(train(m, x, y, SHORT, seed=0, evaluate=lambda _: 0.0, progress=False)[0]),
    "fine-tuning": lambda m, x, y: weights_digest(fine_tune_embedding(m, x, y, torch.Generator(), steps=2)),
    "loss": lambda m, x, y: labelled_loss(m, x, y, 9, torch.Generator())(torch.eye(4)),
}


@pytest.mark.parametrize("caller", LABELLED)
@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[:, None],
        lambda y: torch.eye(10)[y],
        lambda y: y + 1,
        lambda y: y - 1,
        lambda y: torch.where(y == 3, -100, y),
        lambda y: y / 0,
        lambda y: y.float(),
        lambda y: y + 0.5,
        lambda y: y > 4,
        lambda y: y * 1j,
    ],
    ids=["column", "one-hot", "from 1", "from -1", "ignored", "not numbers", "floats", "halves", "truths", "complex"],
)
def test_labels_that_are_no_classes_of_the_network_are_refused(change: Callable[[Tensor], Tensor], caller: str) -> None:
    """An accuracy of them would be a number without meaning."""
    images, labels = load_digits("test")
    with pytest.raises(ValueError, match="labels must be a row of integers 0 to 9"):
        LABELLED[caller](load_pretrained("digits"), images, change(labels))


@pytest.mark.parametrize("caller", LABELLED)
def test_labels_are_a_tensor_with_one_for_each_image(caller: str) -> None:
    images, labels = load_digits("test")
    call, model = LABELLED[caller], load_pretrained("digits")
    with pytest.raises(TypeError, match=r"labels must be a torch\.Tensor of integers, got list"):
        call(model, images, labels.tolist())
    with pytest.raises(ValueError, match=r"as many labels as images, .* got \d+ images and labels \(\d+,\)"):
        call(model, images, labels[:-1])


@pytest.mark.parametrize("caller", LABELLED)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_are_integers_of_any_width(dtype: torch.dtype, caller: str) -> None:
    images, labels = load_digits("test")
    call = LABELLED[caller]
    found, wanted = (call(load_pretrained("digits"), images, y) for y in (labels.to(dtype), labels))
    assert str(found) == str(wanted)


def test_an_answer_of_nan_is_no_class() -> None:
    """argmax would call it the first one that is NaN."""
    images = torch.eye(4).reshape(4, 1, 2, 2)
    model = Brightest()
    model.scale.data.fill_(torch.nan)
    for ask in (lambda: accuracy(model, images, torch.zeros(4).long()), lambda: classify(model, images)):
        with pytest.raises(ValueError, match="4 of 4 images by NaN"):
            ask()
