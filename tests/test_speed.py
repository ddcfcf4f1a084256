"""The benchmarks: that the ways they time do the same work, and what they make of the times. No clock is read here."""

from __future__ import annotations

import timeit
from collections.abc import Callable

import pytest
import torch

from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import patch_matrix
from mixerkey.experiments import speed
from mixerkey.experiments.speed import (
    ENCRYPTED,
    FAST,
    FAST_FP32,
    PLAIN,
    PLAIN_BF16,
    POINTWISE,
    Benchmark,
    cipher,
    depthwise,
    inference,
    key_sweep,
    measure,
    model_encryption,
    provider,
    table,
    training,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def results(benchmark: Benchmark) -> dict:
    return {name: run() for name, run in benchmark.ways.items()}


def test_the_ways_of_inference_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "runtimes", lambda model, x: {})
    logits = results(inference(2, generator()))
    assert logits.keys() == {FAST, PLAIN, PLAIN_BF16, FAST_FP32, ENCRYPTED}
    assert torch.allclose(logits[FAST_FP32], logits[PLAIN], atol=1e-4)
    for name in (FAST, PLAIN_BF16):
        assert (logits[name] - logits[PLAIN]).norm() < 0.1 * logits[PLAIN].norm()
    assert not torch.allclose(logits[ENCRYPTED], logits[FAST], atol=0.1)  # these images are not encrypted


def test_other_runtimes_give_the_same_logits() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason="needs the dependency group bench")
    model, x = ConvMixer(8, 2).eval(), torch.rand(2, 3, 8, 8, generator=generator())
    with torch.inference_mode():
        logits, expected = {name: run() for name, run in speed.runtimes(model, x).items()}, model(x)
    assert {"ONNX Runtime, float32", "OpenVINO, float32", "OpenVINO, bfloat16"} <= logits.keys()
    for name, found in logits.items():
        near = 1e-5 if name.endswith("float32") else 0.05
        assert torch.allclose(found, expected, atol=near), name


def test_a_request_to_the_provider_gives_what_its_network_gives() -> None:
    for benchmark in provider(2, generator()):
        asked, alone = results(benchmark).values()
        assert torch.allclose(asked, alone, atol=1e-5)


def test_the_ways_of_a_depthwise_convolution_have_its_shape_and_all_go_back() -> None:
    forward, back = depthwise(2, generator())
    shapes = {name: tuple(out.shape) for name, out in results(forward).items()}
    assert shapes == {FAST_FP32: (256, 2, 64), PLAIN: (2, 256, 8, 8), POINTWISE: (2, 256, 8, 8)}
    assert results(back) == {FAST_FP32: None, PLAIN: None, POINTWISE: None}


def test_every_way_of_training_takes_a_step() -> None:
    assert results(training(2, generator())) == dict.fromkeys((FAST, PLAIN, PLAIN_BF16, FAST_FP32))


def test_the_sweep_counts_what_the_loop_counts() -> None:
    ours, loop = results(key_sweep(20, generator())).values()
    assert ours == loop
    assert len(ours) == 2


def test_the_other_ways_are_what_their_names_say() -> None:
    encrypted, copied = results(cipher(3, generator())).values()
    assert encrypted.shape == copied.shape == (3, 3, 32, 32)
    assert not torch.equal(encrypted, copied)
    locked, plain = results(model_encryption()).values()
    sizes = [patch_matrix(model).abs().sort(0).values for model in (locked, plain)]
    assert torch.equal(*sizes)  # the same entries, moved and negated


def test_a_ratio_is_the_median_over_rounds_of_neighbours_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": [0.5, 1.0, 4.0, 1.0], "reference": [9.0, 2.0, 8.0, 4.0]}  # the first call is to warm up

    class Timer:
        def __init__(self, run: Callable[[], list[float]]) -> None:
            self.left = run()

        def autorange(self) -> tuple[int, float]:
            return 1, self.left.pop(0)

        def timeit(self, number: int) -> float:
            return number * self.left.pop(0)

    monkeypatch.setattr(timeit, "Timer", Timer)
    ways = {"ours": lambda: seconds["ours"], "reference": lambda: seconds["reference"]}
    (row,) = measure(Benchmark("work", ways, 12, "images", {"reference": 3}), rounds=3)
    assert row["ratio"] == 2  # of 2, 2 and 4
    assert row["range"] == [2, 4]
    assert row["our speed"] == 12
    assert row["reference speed"] == 3
    printed = table([row]).splitlines()
    assert printed[0].split() == ["what", "reference", "ours", "ratio", "range", "target"]
    assert " ".join(printed[1].split()) == "work reference 3 ours 12 images/s 2.00 2.00 to 4.00 ≥ 3.00"
