"""On a GPU, where there is one: the same bytes, logits and classes as on the CPU; and what `make gpu` does."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import needs_cifar10
from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained, normalize
from mixerkey.__main__ import Trained
from mixerkey.convmixer import ConvMixer
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import classify, predict
from mixerkey.files import read_json
from mixerkey.keys import BlockOrder, MatrixKey, ScrambledKey
from mixerkey.training import Recipe
from mixerkey.vit import ViT
from tools import gpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_the_bytes_are_the_same_and_stay_there() -> None:
    key = Key.generate(4, 3)
    x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    there = encrypt_images(x.to(DEVICE), key)
    assert there.device.type == DEVICE.type
    assert torch.equal(there.cpu(), encrypt_images(x, key))
    assert torch.equal(normalize(there).cpu(), normalize(there.cpu()))


@pytest.mark.parametrize("kind", ["the paper's", "matrix", "scrambled"])
def test_a_model_is_encrypted_there(kind: str) -> None:
    """Encrypting where the model is gives what encrypting on the CPU gives, and the pair answers as the plain pair."""
    key, model = Key.generate(4, 3), ViT(dim=32, depth=2, heads=2).eval().double()
    keys = {"the paper's": key, "matrix": MatrixKey.orthogonal(4, 3, seed=0)}
    used = keys.get(kind) or ScrambledKey(key, BlockOrder.generate(4, 3, (8, 8)))
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    plain, here = predict(model, x), encrypt_model(model, used)
    there = encrypt_model(model.to(DEVICE), used)
    for name, tensor in there.state_dict().items():
        assert tensor.device.type == DEVICE.type
        assert torch.allclose(tensor.cpu(), here.state_dict()[name], rtol=0, atol=1e-12), name
    assert torch.allclose(predict(there, x, used), plain, rtol=0, atol=1e-9)


@needs_cifar10
def test_logits_and_classes_are_those_of_the_cpu() -> None:
    """float64 to rounding on 100 images; the classes of exact arithmetic on 10,000, plain and encrypted (Table 1)."""
    images, _ = load_cifar10("test")
    key, model = Key.generate(4, 3), load_pretrained("cifar10")
    secret = encrypt_model(model, key)
    exact = predict(load_pretrained("cifar10").double(), images[:100])
    assert torch.allclose(predict(model.to(DEVICE).double(), images[:100]), exact, rtol=0, atol=1e-9)
    some = images if DEVICE.type == "cuda" else images[:100]
    plain = classify(model.float(), some)
    assert torch.equal(plain, classify(secret.to(DEVICE), some, key))
    assert torch.equal(plain[:100], exact.argmax(1))


def test_what_a_machine_with_a_gpu_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first recipe in full; of the second an epoch that is timed, and then as many as fit."""
    recipe, end = Recipe(2, 64, 0.01), time.monotonic() + 1e6
    make = partial(ConvMixer, 16, 1, 3, patch_size=2, in_channels=1)
    network = Trained(make, load_digits, {"fast": recipe, "paper": replace(recipe, epochs=3)})
    gpu.learn(network, DEVICE, tmp_path, end)
    receipts = {name: read_json(tmp_path / f"{name}.json") for name in ("full", "partial")}
    assert [receipts[name]["recipe"]["epochs"] for name in receipts] == [2, 3]
    gpu.learn(network, DEVICE, tmp_path, time.monotonic())
    assert read_json(tmp_path / "partial.json")["recipe"]["epochs"] == 1
    assert "after 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "partial.safetensors").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.main([])


def test_it_asks_for_nothing_that_builds_or_opens_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules |= dict.fromkeys(['playwright', 'sphinx'])\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    run = subprocess.run
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, cwd: run([*command, "--collect-only"], cwd=cwd))
    assert gpu.verify() == 0
