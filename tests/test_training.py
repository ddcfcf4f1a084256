"""Training: the same run twice, a run that is killed, augmentation, the pocket network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixerkey import ConvMixer, accuracy
from mixerkey.__main__ import NETWORKS, main
from mixerkey.cipher import normalize
from mixerkey.convmixer import load_model, load_pretrained
from mixerkey.data import load_digits
from mixerkey.fast import forward
from mixerkey.receipts import load_receipt, weights_digest
from mixerkey.training import (
    DIGITS,
    LESSON,
    PAPER,
    Recipe,
    _halfway,
    _Run,
    augment,
    cutmix,
    initialize,
    learning_rate,
    shape_start,
    train,
)
from mixerkey.vit import ViT

FULL = Recipe(
    epochs=3, batch_size=64, peak_lr=0.01, crop=1, flip=True, cutout=2, cutmix=0.9, average=0.99, dtype="bfloat16"
)
SHAPED = replace(  # with everything that FULL has not
    FULL, flip="alternate", beta2=0.99, muon=0.02, sides=(4, 6, 8), envelopes=(1.0, 2.0), whiten=True
)


def small() -> ConvMixer:
    return ConvMixer(8, 1, 3, patch_size=2, in_channels=1)


def run(
    recipe: Recipe, checkpoint: Path | None = None, seed: int = 0, model: Any = None, teacher: Any = None
) -> tuple[Any, dict]:
    return train(
        model or small(),
        *load_digits("train"),
        recipe,
        seed=seed,
        evaluate=lambda _: 0.5,
        teacher=teacher,
        checkpoint=checkpoint,
        progress=False,
    )


def student() -> ViT:
    return ViT(16, 2, 2, patch_size=2, in_channels=1, image_size=8)


@pytest.mark.parametrize("recipe", [FULL, SHAPED])
def test_the_same_seed_trains_the_same_network_and_another_another(recipe: Recipe) -> None:
    first, receipt = run(recipe)
    again, _ = run(recipe)
    other, _ = run(recipe, seed=1)
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


@pytest.mark.parametrize("every", [0, 10**6])  # seconds between checkpoints within an epoch
@pytest.mark.parametrize(("recipe", "distilled"), [(FULL, False), (SHAPED, False), (replace(FULL, muon=0.02), True)])
def test_a_run_that_stops_goes_on_from_its_checkpoint_to_the_same_network(
    recipe: Recipe, distilled: bool, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(checkpoint: Path | None = None) -> tuple[Any, dict]:
        return run(recipe, checkpoint, model=student() if distilled else None, teacher=teacher if distilled else None)

    teacher, path = load_pretrained("digits"), tmp_path / "run" / "checkpoint.safetensors"
    expected, complete = start()
    taken: list[int] = []
    step = _Run.step

    def fragile(self: _Run, index: int, x: Tensor, target: Tensor) -> None:
        if index == 30 and 30 not in taken:  # in the middle of the second epoch
            taken.append(index)
            raise Killed
        taken.append(index)
        step(self, index, x, target)

    monkeypatch.setattr("mixerkey.training.SAVE_EVERY", every)
    monkeypatch.setattr(_Run, "step", fragile)
    with pytest.raises(Killed):
        start(path)
    resumed, receipt = start(path)
    assert taken == [*range(31), *range(22 if every else 30, 66)]  # an epoch has 22 steps
    assert weights_digest(resumed) == weights_digest(expected)
    assert [entry["loss"] for entry in receipt["curve"]] == [entry["loss"] for entry in complete["curve"]]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run(FULL, path)
    before = path.read_bytes()
    for recipe, seed in ((replace(FULL, peak_lr=0.02), 0), (FULL, 1)):
        with pytest.raises(ValueError, match="the checkpoint of another run"):
            run(recipe, path, seed)
    images, labels = load_digits("train")
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        train(small(), images.flip(0), labels, FULL, seed=0, evaluate=lambda _: 0.5, checkpoint=path, progress=False)
    assert path.read_bytes() == before
    path.write_bytes(before[:-1])
    with pytest.raises(ValueError, match=rf"{path}: it has .* remove the file to start over"):
        run(FULL, path)


@pytest.mark.parametrize("others_seed", [0, 1], ids=["the same run", "another"])
def test_of_two_runs_with_one_checkpoint_the_first_to_write_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others_seed: int
) -> None:
    path, step, epoch = tmp_path / "checkpoint.safetensors", _Run.step, replace(FULL, epochs=1)

    def step_after_another_run(self: _Run, *args: Any) -> None:
        monkeypatch.setattr(_Run, "step", step)
        run(epoch, path, others_seed)
        step(self, *args)

    monkeypatch.setattr(_Run, "step", step_after_another_run)
    with pytest.raises(ValueError, match=r"another run has written to .*checkpoint\.safetensors meanwhile"):
        run(epoch, path)
    written = path.read_bytes()
    run(epoch, path, others_seed)  # the other's is whole
    assert path.read_bytes() == written


@pytest.mark.parametrize("seed", [2**47, 2**63 - 1])
def test_every_seed_that_the_command_takes_trains(seed: int) -> None:
    assert run(replace(FULL, epochs=1), seed=seed)[1]["seed"] == seed


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_other_seeds_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"a seed is a number from 0 to 2\\^63 - 1, got {seed}"):
        run(FULL, seed=seed)


def test_the_recipe_of_the_paper_is_what_section_4_1_states() -> None:
    assert (PAPER.epochs, PAPER.peak_lr, PAPER.weight_decay) == (200, 0.001, 0)  # AdamW without decay is Adam
    assert {learning_rate(t / 10, PAPER.warmup, PAPER.final_lr) for t in range(11)} == {1.0}


def test_the_recipe_of_a_lesson_keeps_to_its_images() -> None:
    steps = LESSON.epochs * (50_000 // LESSON.batch_size)
    shares = [(LESSON.sides[len(LESSON.sides) * i // steps] / 32) ** 2 for i in range(steps)]
    assert LESSON.batch_size * sum(shares) <= 1_100_000


BRIEFLY = """
import sys
from dataclasses import replace
from mixerkey.__main__ import NETWORKS, main
from mixerkey.training import DIGITS

NETWORKS["digits"] = NETWORKS["digits"]._replace(recipes={"fast": replace(DIGITS, epochs=8)})
sys.exit(main(["train", "digits", "--out", sys.argv[1]]))
"""


def test_two_processes_under_torchrun_reach_what_one_reaches(tmp_path: Path) -> None:
    """After eight epochs one has 97.8 % of the test images right; after all thirty a chapter asks for 97 %."""
    (tmp_path / "briefly.py").write_text(BRIEFLY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(tmp_path / "briefly.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy on the test images") == 1  # one process speaks
    receipt = json.loads((tmp_path / "digits.json").read_text())
    assert receipt["processes"] == 2
    assert receipt["accuracy"] >= 0.96
    assert receipt["curve"][-1]["loss"] < receipt["curve"][0]["loss"]
    assert receipt["images_processed"] == load_receipt("digits")["images_processed"] * 8 // 30
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
    monkeypatch.setitem(NETWORKS["digits"].recipes, "fast", replace(DIGITS, epochs=1))
    assert main(["train", "digits", "--out", str(tmp_path), "--validation", "200"]) == 0
    assert "accuracy on the validation images" in capsys.readouterr().out
    receipt = json.loads((tmp_path / "digits.json").read_text())
    assert receipt["images_processed"] == (1437 - 200) // 64 * 64
    images, labels = load_digits("train")
    assert receipt["accuracy"] == accuracy(load_model(tmp_path / "digits.safetensors"), images[-200:], labels[-200:])


def test_a_recipe_that_a_network_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^mixerkey: digits has no recipe 'paper'; use --recipe fast$"):
        main(["train", "digits", "--recipe", "paper", "--out", str(tmp_path)])


def test_bad_data_is_refused() -> None:
    images, labels = load_digits("train")
    for wrong in (images.permute(0, 2, 3, 1), images[:, 0], images.expand(-1, 3, -1, -1)):
        with pytest.raises(ValueError, match=r"images must be \(N, 1, H, W\), channel first; got \(1437, "):
            train(small(), wrong, labels, DIGITS, seed=0, evaluate=lambda _: 0.0)
    with pytest.raises(TypeError, match=r"images must be a torch\.Tensor \(N, 1, H, W\), got ndarray"):
        train(small(), images.numpy(), labels, DIGITS, seed=0, evaluate=lambda _: 0.0)  # type: ignore[arg-type]
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


def test_alternating_flips_show_both_sides_of_every_image_in_two_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = torch.zeros(128, 1, 8, 8, dtype=torch.uint8)
    marked[:, :, :, 0] = torch.arange(1, 129)[:, None, None]  # the left column bears the image's number
    seen: list[tuple[int, bool]] = []

    def watching(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
        for left, right in ((x[:, 0, 0, [0, -1]] + 1) * 127.5).round().int().tolist():
            seen.append((max(left, right), right > left))
        return x

    monkeypatch.setattr("mixerkey.training.augment", watching)
    recipe = Recipe(epochs=4, batch_size=64, peak_lr=0.01, flip="alternate")
    labels = torch.zeros(128, dtype=torch.int64)
    train(small(), marked, labels, recipe, seed=0, evaluate=lambda _: 0.0, progress=False)
    first, second, third, fourth = (dict(seen[i : i + 128]) for i in range(0, 512, 128))
    assert len(first) == 128
    assert 40 < sum(first.values()) < 88  # half of them begin mirrored
    assert all(first[number] != second[number] for number in first)
    assert (third, fourth) == (first, second)


def test_images_of_each_size_are_counted_by_their_share_of_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []

    def watching(model: ConvMixer, x: Tensor) -> Tensor:
        sides.append(x.shape[-1])
        assert x.shape[-2] == x.shape[-1]
        return forward(model, x)

    monkeypatch.setattr("mixerkey.training.forward", watching)
    _, receipt = run(Recipe(epochs=3, batch_size=64, peak_lr=0.01, sides=(4, 6, 8)))
    steps = 1408 // 64
    assert sides == [4] * steps + [6] * steps + [8] * steps
    assert receipt["images_processed"] == 1408 * (16 + 36 + 64) / 64


def test_the_learning_rate_goes_by_what_the_images_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = []

    def watching(part: float, warmup: float, final: float) -> float:
        progress.append(part)
        return 1.0

    monkeypatch.setattr("mixerkey.training.learning_rate", watching)
    run(Recipe(epochs=3, batch_size=64, peak_lr=0.01, sides=(4, 6, 8)))
    assert progress[:: 2 * 1408 // 64] == pytest.approx([0, 16 / 116, 52 / 116])  # Adam has two groups


def test_the_start_is_enveloped_and_whitened() -> None:
    recipe = replace(SHAPED, sides=())
    model = ConvMixer(64, 2, 9, patch_size=2, in_channels=1)
    images, _ = load_digits("train")
    initialize(model, torch.Generator().manual_seed(0))
    shape_start(model, recipe, images, torch.Generator().manual_seed(0))
    place = torch.arange(9) - 4
    for layer, sigma in zip(model.layers, recipe.envelopes, strict=True):
        kernels = layer.depthwise.weight[:, 0]  # (d, 9, 9)
        assert torch.allclose(kernels.flatten(1).norm(dim=1), torch.ones(64))
        radius = place[:, None] ** 2 + place**2
        spread = (kernels.square().mean(0) * radius).sum()  # of the square of a Gaussian, e^(-r²/σ²): σ²
        assert spread.item() == pytest.approx(sigma**2, rel=0.3)
    features = model.embedding(normalize(images)).movedim(1, 0).flatten(1)  # (d, N*h*w)
    values = torch.linalg.eigvalsh(features.cov())
    assert torch.allclose(values[:-4], torch.zeros(60), atol=1e-3)  # a patch has four pixels
    assert torch.allclose(values[-4:], torch.full((4,), 16.0), rtol=0.1)  # and they count the same in 64 features


def test_a_teacher_takes_the_place_of_the_labels() -> None:
    teacher = load_pretrained("digits")
    before = weights_digest(teacher)
    images, labels = load_digits("train")
    recipe = Recipe(epochs=6, batch_size=64, peak_lr=0.01, label_smoothing=0, muon=0.02, whiten=True)
    ends = [
        train(
            student(),
            images,
            given,
            recipe,
            seed=0,
            teacher=teacher,
            progress=False,
            evaluate=lambda trained: accuracy(trained, *load_digits("test")),
        )
        for given in (labels, labels.flip(0))
    ]
    assert weights_digest(ends[0][0]) == weights_digest(ends[1][0])
    assert weights_digest(teacher) == before == ends[0][1]["teacher_sha256"]
    assert ends[0][1]["accuracy"] > 0.75


def test_the_hint_is_the_teachers_standardised_features_halfway() -> None:
    teacher = load_pretrained("digits")  # of four layers
    x = normalize(load_digits("test")[0][:10])
    with torch.no_grad():
        logits, features = _halfway(teacher, x, torch.float32)
        assert torch.allclose(features, teacher[:5](x).flatten(2).mT, atol=1e-5)
        assert torch.allclose(logits, teacher(x), atol=1e-4)
        model = student()
        logits, features = _halfway(model, x, torch.float32)
        assert torch.allclose(logits, model(x), atol=1e-6)
        assert torch.allclose(features, model.blocks[0](next(model.states(x)))[:, 1:], atol=1e-6)


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path: Path) -> None:
    run(replace(FULL, epochs=1), tmp_path / "c", model=student(), teacher=load_pretrained("digits"))
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        run(replace(FULL, epochs=1), tmp_path / "c", model=student(), teacher=ConvMixer(64, 4, 3, 2, in_channels=1))


def test_muon_has_the_matrices_of_the_layers_and_adam_the_rest() -> None:
    start = small()
    initialize(start, torch.Generator().manual_seed(0))
    trained, _ = run(Recipe(epochs=1, batch_size=64, peak_lr=0.0, muon=0.02))
    for (name, before), after in zip(start.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(before, after) == (name != "3.1.weight"), name
    untrained = student()
    initialize(untrained, torch.Generator().manual_seed(0))
    pupil, _ = run(Recipe(epochs=1, batch_size=64, peak_lr=0.0, muon=0.02), model=student())
    weights = pupil.state_dict()
    moved = {name for name, value in untrained.named_parameters() if not torch.equal(value, weights[name])}
    layer = ("attention.qkv.weight", "attention.proj.weight", "mlp.0.weight", "mlp.2.weight")
    assert moved == {f"blocks.{i}.{name}" for i in range(2) for name in layer}


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


def test_fine_tuning_begins_with_the_weights_that_are_there(tmp_path: Path) -> None:
    images, labels = load_digits("train")
    recipe, path = replace(DIGITS, epochs=1, peak_lr=1e-6), tmp_path / "run.safetensors"

    def run(fine_tune: bool) -> tuple[float, dict]:
        model = load_pretrained("digits")
        before = model.embedding.weight.detach().clone()
        tuned, receipt = train(
            model,
            images,
            labels,
            recipe,
            seed=0,
            evaluate=lambda _: 0.0,
            checkpoint=path,
            fine_tune=fine_tune,
            progress=False,
        )
        return float((tuned.embedding.weight.detach() - before).abs().max()), receipt

    moved, receipt = run(fine_tune=True)
    assert moved < 1e-3
    assert receipt["start_sha256"] == weights_digest(load_pretrained("digits"))
    with pytest.raises(ValueError, match="another run"):
        run(fine_tune=False)
    path.unlink()
    assert run(fine_tune=False)[0] > 0.1
