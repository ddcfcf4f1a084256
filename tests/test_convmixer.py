"""The network against its peers, and the fast path against the network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.models.convmixer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file
from torch import nn

from mixerkey import ConvMixer, load_pretrained
from mixerkey.convmixer import ARCHITECTURES, Residual, load_model, save_model, timm_state_dict
from mixerkey.fast import fast_forward, forward
from mixerkey.training import initialize


def random_model(seed: int = 0, **sizes: int) -> Any:
    """A float64 network whose every weight and running statistic matters."""
    model: Any = ConvMixer(**sizes).double()
    generator = torch.Generator().manual_seed(seed)
    initialize(model, generator)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            nn.init.uniform_(value, 0.5, 1.5 if "var" in name else 1.0, generator=generator)
    return model.eval()


def test_the_papers_network_has_718090_parameters() -> None:
    model: Any = ConvMixer(dim=256, depth=8)
    assert sum(p.numel() for p in model.parameters()) == 718_090
    assert model[0].weight.numel() == 12_288


def test_eq1_eq2_written_out() -> None:
    """The paper's equations with functions only, in its order: convolution, activation, normalisation, skip."""
    model: Any = random_model(dim=6, depth=2, kernel_size=3, patch_size=2, in_channels=3)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def bn(z: torch.Tensor, norm: Any) -> torch.Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (z - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    def gelu(z: torch.Tensor) -> torch.Tensor:
        return z * (1 + torch.erf(z / 2**0.5)) / 2

    z = bn(gelu(nn.functional.conv2d(x, model[0].weight, model[0].bias, stride=2)), model[2])  # Eq. (1)
    for layer in (model[3], model[4]):
        depthwise, _, inner = layer[0].fn
        mixed = nn.functional.conv2d(z, depthwise.weight, depthwise.bias, padding=1, groups=6)
        z = bn(gelu(mixed), inner) + z  # Eq. (2), first line
        z = bn(gelu(nn.functional.conv2d(z, layer[1].weight, layer[1].bias)), layer[3])  # Eq. (2), second line
    logits = z.mean((2, 3)) @ model[-1].weight.T + model[-1].bias
    assert torch.allclose(model(x), logits, rtol=0, atol=1e-12)


def test_state_dict_has_the_names_and_order_of_the_reference_implementation() -> None:
    dim, depth, kernel_size, patch_size = 8, 2, 5, 4
    reference = nn.Sequential(  # the order of modules published with Trockman and Kolter (2022)
        nn.Conv2d(3, dim, patch_size, patch_size),
        nn.GELU(),
        nn.BatchNorm2d(dim),
        *(
            nn.Sequential(
                Residual(
                    nn.Sequential(
                        nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same"), nn.GELU(), nn.BatchNorm2d(dim)
                    )
                ),
                nn.Conv2d(dim, dim, 1),
                nn.GELU(),
                nn.BatchNorm2d(dim),
            )
            for _ in range(depth)
        ),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(dim, 10),
    )
    model = random_model(dim=dim, depth=depth, kernel_size=kernel_size)
    assert list(model.state_dict()) == list(reference.state_dict())
    reference.double().load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(reference.eval()(x), model(x))


@pytest.mark.parametrize(
    "sizes", [{"dim": 256, "depth": 8}, {"dim": 32, "depth": 3, "kernel_size": 5, "patch_size": 2}]
)
def test_forward_equals_timms_convmixer_with_the_same_weights(sizes: dict[str, int]) -> None:
    model = random_model(**sizes)
    all_sizes: dict[str, Any] = {"kernel_size": 9, "patch_size": 4} | sizes
    peer = timm.models.convmixer.ConvMixer(**all_sizes, num_classes=10).double()
    peer.load_state_dict(timm_state_dict(model))
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(model(x), peer.eval()(x), rtol=0, atol=1e-10)


def test_a_slice_of_the_network_is_a_network() -> None:
    model = random_model(dim=8, depth=2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model[3:](model[:3](x)), model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dim": 0}, "dim must be at least 1"), ({"kernel_size": 4}, "must be odd"), ({"patch_size": -1}, "patch_size")],
)
def test_bad_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvMixer(**{"dim": 8, "depth": 1} | change)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 30, 32), (1, 3, 32, 30)])
@pytest.mark.parametrize("forward", [lambda model, x: model(x), fast_forward])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], forward: Callable) -> None:
    with pytest.raises(ValueError, match=r"takes images \(N, 3, H, W\) with H and W divisible by 4"):
        forward(ConvMixer(8, 1), torch.zeros(shape))


# --- the fast path ---


@settings(max_examples=20)
@given(
    kernel_size=st.sampled_from([1, 3, 5, 9]),
    patch_size=st.integers(1, 4),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fast_path_has_equal_outputs_gradients_and_statistics(
    kernel_size: int, patch_size: int, h: int, w: int, training: bool, seed: int
) -> None:
    def run(forward: Callable) -> dict[str, torch.Tensor]:
        model = random_model(seed, dim=6, depth=2, kernel_size=kernel_size, patch_size=patch_size, num_classes=4)
        model.train(training)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 3, h * patch_size, w * patch_size, dtype=torch.float64, generator=generator)
        x.requires_grad_()
        logits = forward(model, x)
        logits.pow(2).sum().backward()
        gradients = {f"gradient {name}": p.grad for name, p in model.named_parameters()}
        return {"logits": logits, "gradient x": x.grad, **gradients, **model.state_dict()}

    slow, fast = run(lambda model, x: model(x)), run(fast_forward)
    for name, expected in slow.items():
        scale = max(1.0, expected.abs().max().item())
        assert torch.allclose(fast[name], expected, rtol=0, atol=1e-9 * scale), name


def test_fast_path_trains_after_it_was_first_used_for_inference() -> None:
    model = ConvMixer(4, 1, kernel_size=7, patch_size=2, in_channels=1)  # a shape that no other test uses
    with torch.inference_mode():
        fast_forward(model, torch.zeros(1, 1, 14, 10))
    fast_forward(model, torch.zeros(1, 1, 14, 10)).sum().backward()
    assert model[0].weight.grad is not None


def test_fast_path_takes_many_images_a_part_at_a_time_in_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(dim=4, depth=1, patch_size=2)
    x = torch.rand(7, 3, 8, 8, dtype=torch.float64)
    monkeypatch.setattr("mixerkey.fast.CHUNK", 3)
    seen = []

    def spy(self: ConvMixer, x: torch.Tensor) -> None:
        seen.append(len(x))

    monkeypatch.setattr(ConvMixer, "check_images", spy)
    for training in (False, True):  # batch statistics are of the whole batch
        model.train(training)
        with torch.inference_mode():
            assert torch.allclose(fast_forward(model, x), model(x), rtol=0, atol=1e-12)
    assert seen == [7, 3, 3, 1, 7, 7, 7]  # fast, in parts; slow; then the same in training


def test_fast_path_in_bfloat16_is_the_network_to_rounding() -> None:
    model = random_model(dim=32, depth=2).float()
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    logits = fast_forward(model, x.bfloat16())
    assert logits.dtype == torch.float32
    assert (logits - model(x)).norm() < 0.05 * model(x).norm()


class Halved(ConvMixer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


def change(part: Callable[[ConvMixer], object], make: type[ConvMixer] = ConvMixer) -> ConvMixer:
    torch.manual_seed(0)
    model = make(dim=8, depth=2, kernel_size=3, patch_size=2).eval().double()
    part(model)
    return model


def patched(model: Any) -> None:
    model.forward = lambda x: torch.zeros(len(x), 10, dtype=x.dtype) + model.head.bias.sum()


CHANGED: dict[str, Callable[[], ConvMixer]] = {
    "subclass": lambda: change(lambda m: None, Halved),
    "another activation": lambda: change(lambda m: m.__setitem__(1, nn.ReLU())),
    "an activation of another form": lambda: change(lambda m: m.__setitem__(1, nn.GELU("tanh"))),
    "another activation within a layer": lambda: change(lambda m: m.layers[1].__setitem__(2, nn.ReLU())),
    "a head of two": lambda: change(lambda m: m.__setitem__(-1, nn.Sequential(m.head, nn.Softplus()))),
    "one layer less": lambda: change(lambda m: m.__delitem__(3)),
    "pooled by the largest": lambda: change(lambda m: m.__setitem__(-3, nn.AdaptiveMaxPool2d(1))),
    "forward hook": lambda: change(lambda m: m.layers[0].register_forward_hook(lambda _, x, y: -y)),
    "forward hook before": lambda: change(lambda m: m.head.register_forward_pre_hook(lambda _, x: (2 * x[0],))),
    "patched forward": lambda: change(patched),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_network_that_was_changed_is_asked_itself(name: str) -> None:
    model, x = CHANGED[name](), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for inference in (True, False):
        with torch.inference_mode(inference):
            assert torch.equal(forward(model, x), model(x))
    with pytest.raises(ValueError, match="layers were changed"):
        fast_forward(model, x)


# --- files ---


def test_save_and_load(tmp_path: Path) -> None:
    model = random_model(dim=8, depth=2, patch_size=2).float()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert not loaded.training
    assert loaded.sizes == model.sizes
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


SIZES = {"dim": 4, "depth": 1, "kernel_size": 3, "patch_size": 2, "num_classes": 2, "in_channels": 1}
VIT = {"dim": 4, "depth": 1, "heads": 2, "patch_size": 2, "num_classes": 2, "in_channels": 1, "image_size": 4}
DAMAGED: dict[str, tuple[dict, dict, str]] = {
    # name: changes of the sizes, of the tensors (None removes one), words of the message
    "a network that its tensors are too few for": ({"dim": 20_000}, {}, "its dim is 20000"),
    "a depth without end": ({"depth": 10**9}, {}, "its depth is 1000000000"),
    "a size of many digits": ({"kernel_size": 10**4000}, {}, "its kernel_size is 1000"),
    "no size": ({"dim": 0}, {}, "its dim is 0"),
    "a size that is no integer": ({"dim": 4.0}, {}, "its dim is 4.0"),
    "a size that is true": ({"depth": True}, {}, "its depth is True"),
    "a size in words": ({"patch_size": "2"}, {}, "its patch_size is '2'"),
    "a size that networks have not": ({"width": 1}, {}, "not those of a convmixer"),
    "another size": ({"num_classes": 3}, {}, "should be real numbers of shape"),
    "weights of integers": (
        {},
        {"0.weight": torch.zeros(4, 1, 2, 2, dtype=torch.int32)},
        "0.weight should be real numbers",
    ),
    "weights of another shape": ({}, {"0.weight": torch.zeros(4, 1, 2, 1)}, "0.weight should be real numbers"),
    "a layer is missing": ({}, {"0.weight": None}, "0.weight should be .* but is missing"),
    "the plain matrix beside it": ({}, {"original": torch.zeros(4, 1, 2, 2)}, "original belongs to no layer"),
    "NaN": ({}, {"0.bias": torch.tensor([0, 0, 0, torch.nan])}, "0.bias holds NaN or infinity"),
    "infinity": ({}, {"0.bias": torch.tensor([0, 0, 0, -torch.inf])}, "0.bias holds NaN or infinity"),
    "a negative variance": ({}, {"2.running_var": -torch.ones(4)}, "2.running_var holds a negative variance"),
}


def write_model(path: Path, sizes: dict, tensors: dict, name: str = "convmixer") -> None:
    """A model file as anybody could write it."""
    model = ARCHITECTURES[name](**(SIZES if name == "convmixer" else VIT))
    kept = {n: t for n, t in (dict(model.state_dict()) | tensors).items() if t is not None}
    save_file(kept, path, {name: json.dumps(model.sizes | sizes)})


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_model_file_that_claims_what_it_does_not_hold_is_refused_before_a_network_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    sizes, tensors, words = DAMAGED[fault]
    write_model(tmp_path / "model.safetensors", sizes, tensors)
    built = []

    class Spy(ConvMixer):
        def __init__(self, **sizes: int) -> None:
            built.append(torch.empty(0).device.type)
            super().__init__(**sizes)

    monkeypatch.setitem(ARCHITECTURES, "convmixer", Spy)
    with pytest.raises(ValueError, match=rf"model\.safetensors is not a network.*{words}"):
        load_model(tmp_path / "model.safetensors")
    if not {"NaN", "infinity", "a negative variance"} & {fault}:
        assert "cpu" not in built


def test_transformers_are_held_against_their_header_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, {}, {}, "vit")
    assert load_model(path).sizes == VIT
    for sizes in ({"image_size": 8}, {"heads": 3}, {"dim": 8}, {"heads": 0}, {"depth": 2}):
        write_model(path, sizes, {}, "vit")
        with pytest.raises(ValueError, match="is not a network"):
            load_model(path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_model(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="no regular file"):
        load_model(tmp_path / "pipe")
    write_model(path, {}, {})
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = good[8 : 8 + length]
    members = {
        b"": "no safetensors file",
        b"not a model": "no safetensors file",
        good[:-1]: "bytes, and by its header",
        good + b"\0": "bytes, and by its header",
        b"\xff" * 8 + good[8:]: "no safetensors file",
        good[:8] + header.replace(b'"F32"', b'"F33"') + good[8 + length :]: "header is damaged",
        good[:8] + header.replace(b"convmixer", b"convnexer") + good[8 + length :]: "which network it holds",
        good[:8] + header.replace(b"0.bias", b"2.bias") + good[8 + length :]: "'2.bias' is there twice",
        good[:8] + b"[" * length + good[8 + length :]: "nested too deeply|Expecting",
    }
    for content, words in members.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"model\.safetensors is not a network that mixerkey saved.*({words})"):
            load_model(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, {}, {})

    def late(content: bytes) -> dict:
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"x")
        os.utime(path, (1, 1))
        return load(content)

    monkeypatch.setattr("mixerkey.files.load", late)
    with pytest.raises(ValueError, match="changed while it was read"):
        load_model(path)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda m: torch.compile(nn.DataParallel(m))])
def test_wrappers_are_taken_off_before_a_network_is_saved(tmp_path: Path, wrap: Callable) -> None:
    model = ConvMixer(**SIZES)
    save_model(wrap(model), tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def another_layer(model: ConvMixer) -> nn.Module:
    model[0] = nn.Conv2d(1, 4, 4, 4)
    return model


def a_parametrised_layer(model: ConvMixer) -> nn.Module:
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def not_finite(model: ConvMixer) -> nn.Module:
    model.state_dict()["0.bias"].fill_(torch.nan)
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_layer, "undo what changed"),
        (a_parametrised_layer, "undo what changed"),
        (not_finite, "NaN"),
        (lambda model: nn.Sequential(model), "a Sequential is no network of this package"),
    ],
)
def test_a_network_that_could_not_be_loaded_again_is_not_saved(tmp_path: Path, change: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        save_model(change(ConvMixer(**SIZES)), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_unknown_pretrained_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no pretrained network 'imagenet'; choose from cifar10, digits"):
        load_pretrained("imagenet")
