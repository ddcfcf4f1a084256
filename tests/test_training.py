"""Training: the same run twice, a run that is killed, augmentation, the pocket network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixerkey import ConvMixer, accuracy
from mixerkey.__main__ import RECIPES, main
from mixerkey.convmixer import load_model
from mixerkey.data import load_digits
from mixerkey.receipts import load_receipt, weights_digest
from mixerkey.training import DIGITS, PAPER, Recipe, augment, cutmix, learning_rate, train

FULL = Recipe(
    epochs=3, batch_size=64, peak_lr=0.01, crop=1, flip=True, cutout=2, cutmix=0.9, average=0.99, dtype="bfloat16"
)


def small() -> ConvMixer:
    return ConvMixer(8, 1, 3, patch_size=2, in_channels=1)


def run(recipe: Recipe, checkpoint: Path | None = None, seed: int = 0) -> tuple[ConvMixer, dict]:
    images, labels = load_digits("train")
    return train(
        small(), images, labels, recipe, seed=seed, evaluate=lambda _: 0.5, checkpoint=checkpoint, progress=False
    )


def test_the_same_seed_trains_the_same_network_and_another_another() -> None:
    first, receipt = run(FULL)
    again, _ = run(FULL)
    other, _ = run(FULL, seed=1)
    assert weights_digest(first) == weights_digest(again) == receipt["weights_sha256"]
    assert weights_digest(other) != weights_digest(first)
    assert not first.training


def test_the_receipt_says_everything() -> None:
    _, receipt = run(FULL)
    assert receipt["recipe"]["epochs"] == len(receipt["curve"]) == 3
    assert receipt["images_processed"] == 3 * 1408
    assert receipt["accuracy"] == 0.5
    assert {"torch", "numpy", "python"} == set(receipt["versions"])
    assert receipt["wall_seconds"] >= 0


class Killed(Exception):
    pass


def test_a_run_that_stops_goes_on_from_its_checkpoint_to_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(FULL)
    calls = 0

    def fragile(x: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 16:  # in the middle of the second epoch
            raise Killed
        return cutmix(x, target, generator)

    monkeypatch.setattr("mixerkey.training.cutmix", fragile)
    with pytest.raises(Killed):
        run(FULL, tmp_path / "run" / "checkpoint.safetensors")
    resumed, receipt = run(FULL, tmp_path / "run" / "checkpoint.safetensors")
    assert calls > 16
    assert weights_digest(resumed) == weights_digest(expected)
    assert len(receipt["curve"]) == 3


def test_kill_minus_nine_and_resume_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mixerkey", "train", "digits", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (tmp_path / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "digits.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "digits.safetensors").exists()
    assert "epoch 1/30" not in done.stderr  # it went on
    assert float(done.stdout.split()[-1]) >= 0.97


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run(FULL, path)
    before = path.read_bytes()
    for recipe, seed in ((replace(FULL, peak_lr=0.02), 0), (FULL, 1)):
        with pytest.raises(ValueError, match="the checkpoint of another run"):
            run(recipe, path, seed)
    assert path.read_bytes() == before


def test_the_recipe_of_the_paper_is_what_section_4_1_states() -> None:
    assert (PAPER.epochs, PAPER.peak_lr, PAPER.weight_decay) == (200, 0.001, 0)  # AdamW without decay is Adam
    assert {learning_rate(t / 10, PAPER.warmup, PAPER.final_lr) for t in range(11)} == {1.0}


def test_two_processes_under_torchrun_reach_what_one_reaches(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "mixerkey", "train", "digits", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy on the test images") == 1  # one process speaks
    receipt = json.loads((tmp_path / "digits.json").read_text())
    assert receipt["processes"] == 2
    assert receipt["accuracy"] >= 0.97  # as test_the_pocket_recipe_reaches_97_percent asks of one process
    assert receipt["images_processed"] == load_receipt("digits")["images_processed"]
    assert weights_digest(load_model(tmp_path / "digits.safetensors")) == receipt["weights_sha256"]


def test_processes_must_share_a_batch_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="64 images cannot be shared equally by 3 processes"):
        run(FULL)


def test_validation_images_are_held_out_of_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES["digits"], "fast", replace(DIGITS, epochs=1))
    assert main(["train", "digits", "--out", str(tmp_path), "--validation", "200"]) == 0
    assert "accuracy on the validation images" in capsys.readouterr().out
    receipt = json.loads((tmp_path / "digits.json").read_text())
    assert receipt["images_processed"] == (1437 - 200) // 64 * 64
    images, labels = load_digits("train")
    assert receipt["accuracy"] == accuracy(load_model(tmp_path / "digits.safetensors"), images[-200:], labels[-200:])


def test_a_recipe_that_a_network_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits", "--recipe", "paper", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "mixerkey: digits has no recipe 'paper'; use --recipe fast\n"


def test_the_pocket_recipe_reaches_97_percent() -> None:
    test_images, test_labels = load_digits("test")
    _, receipt = train(
        ConvMixer(64, 4, 3, patch_size=2, in_channels=1),
        *load_digits("train"),
        DIGITS,
        seed=1,
        evaluate=lambda trained: accuracy(trained, test_images, test_labels),
        progress=False,
    )
    assert receipt["accuracy"] >= 0.97
    assert receipt["curve"][-1]["loss"] < receipt["curve"][0]["loss"]


def test_bad_data_is_refused() -> None:
    images, labels = load_digits("train")
    with pytest.raises(ValueError, match="1437 images but 10 labels"):
        train(small(), images, labels[:10], DIGITS, seed=0, evaluate=lambda _: 0.0)
    with pytest.raises(ValueError, match="10 images, fewer than one batch of 64"):
        train(small(), images[:10], labels[:10], DIGITS, seed=0, evaluate=lambda _: 0.0)


def test_crops_and_mirror_images_are_windows_of_the_padded_image() -> None:
    recipe = Recipe(1, 1, 0.1, crop=2, flip=True)
    x = torch.rand(1, 3, 6, 6)
    padded = torch.nn.functional.pad(x, [2] * 4, mode="reflect")
    windows = [padded[..., i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    windows += [window.flip(-1) for window in windows]
    drawn = set()
    for seed in range(300):
        result = augment(x, recipe, torch.Generator().manual_seed(seed))
        matches = [n for n, window in enumerate(windows) if torch.equal(result, window)]
        assert matches
        drawn.update(matches)
    assert len(drawn) > 40  # of 50: all but a few were met


def test_cutout_greys_at_most_its_square() -> None:
    recipe = Recipe(1, 1, 0.1, cutout=4)
    x = torch.ones(50, 3, 8, 8)
    grey = augment(x, recipe, torch.Generator().manual_seed(0)) == 0
    areas = grey[:, 0].flatten(1).sum(1)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert areas.max() == 16
    assert areas.min() >= 4  # at least a corner of it is inside


def test_cutmix_takes_as_much_of_the_label_as_of_the_image() -> None:
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    for seed in range(50):
        mixed, target = cutmix(x, torch.eye(4), torch.Generator().manual_seed(seed))
        for image, label in zip(mixed, target, strict=True):
            for c in range(4):  # image c is filled with c
                assert (image == c).double().mean() == pytest.approx(label[c].item())


def test_without_averaging_the_last_weights_are_returned() -> None:
    images, labels = load_digits("train")
    model = small()
    trained, _ = train(model, images, labels, replace(DIGITS, epochs=1), seed=0, evaluate=lambda _: 0.0, progress=False)
    assert trained is model


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    assert "example: mixerkey train digits" in capsys.readouterr().out
