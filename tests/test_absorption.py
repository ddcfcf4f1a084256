"""What networks absorb: real peers, each with the keys that it can take and a clear refusal of those that it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from io import BytesIO, StringIO
from itertools import chain
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from mlp_mixer_pytorch import MLPMixer
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from vit_pytorch import ViT as LinearViT

from conftest import ROOT
from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    copies,
    encrypt_model,
    load_pretrained,
    network_input,
    renormalize,
)
from mixerkey.embedding import patch_matrix, set_patch_matrix
from mixerkey.experiments import pretrained
from mixerkey.experiments.scrambling import draw
from mixerkey.keys import BlockKey, BlockOrder, MatrixKey, PatchKeys
from mixerkey.receipts import load_receipt

KEY, MATRIX = Key.from_seed(1, 4, 3), MatrixKey.invertible(4, 3, seed=1)
ORDER = BlockOrder.from_seed(2, 4, 3, grid=(8, 8))
MIRROR = BlockOrder(torch.arange(64).reshape(8, 8).flip(1).flatten(), 4, 3, grid=(8, 8))
TURN = BlockOrder(torch.arange(64).reshape(8, 8).rot90().flatten(), 4, 3, grid=(8, 8))
WITHIN = {"key": KEY, "matrix": MATRIX}
ORDERS = {"order": ORDER, "key and order": KEY.then(ORDER), "matrix and order": ORDER.then(MATRIX)}
GRID = {"mirror": MIRROR, "turn": TURN, "key and turn": KEY.then(TURN)}
TIMM: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "num_classes": 5}


def hugging_face() -> nn.Module:
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "num_labels": 5}
    config = transformers.ViTConfig(image_size=32, patch_size=4, hidden_size=24, **sizes)
    return transformers.ViTForImageClassification(config)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, BlockKey]]] = {
    "ConvMixer": (lambda: ConvMixer(16, 2, 3), WITHIN | GRID),
    "timm ConvMixer": (lambda: timm.models.ConvMixer(16, 2, 3, 4, num_classes=5), WITHIN | GRID),
    "timm ViT": (lambda: timm.models.VisionTransformer(depth=2, num_heads=2, **TIMM), WITHIN | ORDERS),
    "timm DeiT": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=2, num_heads=2, **TIMM),
        WITHIN | ORDERS,
    ),
    "timm MLP-Mixer": (lambda: timm.models.MlpMixer(num_blocks=2, **TIMM), WITHIN | ORDERS),
    "timm ResMLP": (
        lambda: timm.models.MlpMixer(
            num_blocks=2,
            mlp_ratio=4,
            block_layer=timm.models.mlp_mixer.ResBlock,
            norm_layer=timm.models.mlp_mixer.Affine,
            **TIMM,
        ),
        WITHIN | ORDERS,
    ),
    "torchvision ViT": (lambda: torchvision.models.VisionTransformer(32, 4, 2, 2, 24, 48), WITHIN | ORDERS),
    "torchvision Swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5),
        WITHIN,
    ),
    "torchvision ConvNeXt": (
        lambda: torchvision.models.ConvNeXt(
            [
                torchvision.models.convnext.CNBlockConfig(24, 48, 1),
                torchvision.models.convnext.CNBlockConfig(48, None, 1),
            ],
            num_classes=5,
        ),
        WITHIN | GRID,
    ),
    "Hugging Face ViT": (hugging_face, WITHIN | ORDERS),
    "linear MLP-Mixer": (
        lambda: MLPMixer(image_size=32, channels=3, patch_size=4, dim=24, depth=2, num_classes=5),
        WITHIN | ORDERS,
    ),
    "linear ViT": (
        lambda: LinearViT(image_size=32, patch_size=4, num_classes=5, dim=24, depth=2, heads=2, mlp_dim=48),
        {
            "shuffle": KEY.shuffle,
            "order": ORDER,
            "shuffle and order": KEY.shuffle.then(ORDER),
            "mirror": MIRROR,
            "turn": TURN,
        },
    ),
}
ALL = WITHIN | ORDERS | GRID


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return perturbed(NETWORKS[name][0]().double().eval())


def perturbed(model: nn.Module) -> nn.Module:
    """Heads and positions that start at 0 would hide faults."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = model(x)
    return out.logits if hasattr(out, "logits") else out


def images(count: int = 3) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("weights", "one_half"),
    [
        ("vit_base_patch16_224.orig_in21k", True),
        ("mixer_b16_224.goog_in21k", True),
        ("swin_tiny_patch4_window7_224.ms_in1k", False),
        ("convnext_tiny.fb_in1k", False),
        ("convmixer_1536_20.in1k", False),
    ],
)
def test_which_published_weights_need_no_fold(weights: str, one_half: bool) -> None:
    """What chapter 4 says of each network in its table: mean and deviation 1/2, or those of ImageNet."""
    expects = timm.get_pretrained_cfg(weights)
    assert expects is not None
    imagenet = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    assert (expects.mean, expects.std) == (((0.5,) * 3, (0.5,) * 3) if one_half else imagenet)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, keys) in NETWORKS.items() for kind in keys])
def test_a_network_answers_encrypted_images_as_it_answered_plain_ones(name: str, kind: str) -> None:
    model, key = network(name), NETWORKS[name][1][kind]
    locked = encrypt_model(model, key)
    plain = outputs(model, network_input(images(), None, torch.float64))
    encrypted = outputs(locked, network_input(images(), key, torch.float64))
    assert (encrypted - plain).abs().max() <= 1e-9 * max(1, key.condition)
    assert (outputs(locked, network_input(images(), None, torch.float64)) - plain).abs().max() > 1e-6
    back = encrypt_model(locked, key.inverse())
    assert (outputs(back, network_input(images(), None, torch.float64)) - plain).abs().max() <= 1e-9 * key.condition**2


REFUSING = [  # a symmetry of the grid is one order of blocks among others
    (name, kind)
    for name, (_, keys) in NETWORKS.items()
    for kind in ALL
    if kind not in keys and not (kind in GRID and "order" in keys)
]


@pytest.mark.parametrize(("name", "kind"), REFUSING)
def test_a_network_refuses_what_it_cannot_absorb(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"does not absorb this order|LayerNorm over the pixels"):
        encrypt_model(network(name), ALL[kind])


def test_keys_per_place_become_an_unshared_embedding() -> None:
    keys, model = PatchKeys.from_seed(3, 4, 3, (8, 8)), network("ConvMixer")
    locked = encrypt_model(model, keys.then(TURN))
    x = images()
    plain = outputs(model, network_input(x, None, torch.float64))
    assert (outputs(locked, network_input(x, keys.then(TURN), torch.float64)) - plain).abs().max() < 1e-9
    assert sum(p.numel() for p in locked.parameters()) - sum(p.numel() for p in model.parameters()) == 63 * 48 * 16


def test_blocks_may_be_smaller_than_patches() -> None:
    model, key = network("ConvMixer"), Key.from_seed(0, 2, 3)
    plain = outputs(model, network_input(images(), None, torch.float64))
    assert (outputs(encrypt_model(model, key), network_input(images(), key, torch.float64)) - plain).abs().max() < 1e-9


@pytest.mark.parametrize("bias", [True, False])
def test_other_means_and_deviations_are_absorbed_exactly(bias: bool) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=bias), nn.GELU(), nn.Conv2d(8, 4, 1)).double()
    p = images().double() / 255
    own = (p - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    locked = encrypt_model(renormalize(model, mean, std), KEY)
    assert (outputs(locked, network_input(images(), KEY, torch.float64)) - outputs(model, own)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="a mean and a deviation > 0 for each of 3"):
        renormalize(model, mean, (0.2, 0.0, 0.2))


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Normalize(nn.Module):
    """What stands before many networks: (p - mean) / std, by channel, perhaps of pixels in [0, 1] alone."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, strict: bool = False) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (mean, std))
        self.strict = strict

    def forward(self, p: Tensor) -> Tensor:
        if self.strict and p.min() < 0:
            raise ValueError("pixels must lie in [0, 1]")
        return (p - self.mean.to(p)) / self.std.to(p)


class Hidden(nn.Module):
    """The same without a layer."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.step = body, [Normalize(MEAN, STD)]

    def forward(self, p: Tensor) -> Tensor:
        return self.body(self.step[0](p))


ABSORBED = f"takes? that step off, .* mixerkey.renormalize.network, {re.escape(str(MEAN))}, {re.escape(str(STD))}"
STEPS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "a layer": (lambda body: nn.Sequential(Normalize(MEAN, STD), body), ABSORBED),
    "no layer": (Hidden, ABSORBED),
    "a layer for 0 to 255": (
        lambda body: nn.Sequential(Normalize([255 * v for v in MEAN], [255 * v for v in STD]), body),
        ABSORBED,
    ),
    "two layers": (
        lambda body: nn.Sequential(Normalize([0.0] * 3, [0.5] * 3), Normalize([0.5] * 3, [0.25] * 3), body),
        re.escape("renormalize(network, [0.25, 0.25, 0.25], [0.125, 0.125, 0.125])"),
    ),
    "a batch norm": (
        lambda body: nn.Sequential(Normalize([-0.1] * 3, [0.5] * 3), body),
        re.escape("renormalize(network, mean, std), for pixels in [0, 1]"),
    ),
    "a strict layer": (
        lambda body: nn.Sequential(Normalize(MEAN, STD, strict=True), body),
        "pixels must lie in .0, 1.* take that step off, .* by mixerkey.renormalize",
    ),
}


@pytest.mark.parametrize("wrapped", STEPS)
def test_of_a_network_that_normalises_itself_it_is_said_what_to_do(wrapped: str) -> None:
    wrap, message = STEPS[wrapped]
    body = network("ConvMixer")
    with pytest.raises(ValueError, match=message) as refusal:
        encrypt_model(wrap(body), KEY)
    assert "\n" not in str(refusal.value)
    if message == ABSORBED:
        p = images().double() / 255
        locked = encrypt_model(renormalize(body, MEAN, STD), KEY)
        assert torch.allclose(
            outputs(locked, network_input(images(), KEY, torch.float64)), outputs(body, Normalize(MEAN, STD)(p))
        )


def test_one_deviation_for_all_channels_is_no_obstacle() -> None:
    model = nn.Sequential(Normalize([0.0] * 3, [0.25] * 3), network("ConvMixer"))
    locked, plain = encrypt_model(model, KEY), network_input(images(), None, torch.float64)
    assert torch.allclose(outputs(locked, network_input(images(), KEY, torch.float64)), outputs(model, plain))


def test_a_head_of_zeros_hides_nothing_from_the_probe() -> None:
    """As before a network is tuned: its last layer that depends on the image is compared."""
    model = nn.Sequential(network("ConvMixer"), nn.Linear(10, 4).double())
    nn.init.zeros_(cast(nn.Linear, model[1]).weight)
    locked = encrypt_model(model, KEY)
    plain, encrypted = (network_input(images(), key, torch.float64) for key in (None, KEY))
    assert torch.allclose(outputs(locked[0], encrypted), outputs(model[0], plain))
    with pytest.raises(ValueError, match=ABSORBED):
        encrypt_model(nn.Sequential(Normalize(MEAN, STD), model), KEY)


PAGE = (ROOT / "book" / "run.md").read_text(encoding="utf-8")
*HUBS, THEN = re.findall(r"```python\n(.*?)```", PAGE.split("(running-hubs)=")[1].split("\n## ")[1], re.DOTALL)


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HALF = [0.5] * 3, [0.5] * 3


@pytest.mark.parametrize(
    ("load", "trained_with"),
    list(zip(HUBS, [IMAGENET, IMAGENET, HALF], strict=True)),
    ids=["timm", "torchvision", "Hugging Face"],
)
def test_the_lines_for_published_networks_run_as_they_stand(
    load: str, trained_with: tuple[list[float], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small random networks instead of downloads, that take the same arguments and images."""
    create = timm.create_model

    def from_timm(name: str, *, pretrained: bool) -> nn.Module:
        model = cast(Any, create(name))
        model.blocks = model.blocks[:1]
        return perturbed(model)

    def from_torchvision(*, weights: torchvision.models.ViT_B_16_Weights) -> nn.Module:
        return perturbed(torchvision.models.VisionTransformer(224, 16, 1, 2, 24, 48))

    def from_hugging_face(name: str) -> nn.Module:
        sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
        return perturbed(transformers.ViTForImageClassification(transformers.ViTConfig(hidden_size=24, **sizes)))

    monkeypatch.setattr(timm, "create_model", from_timm)
    monkeypatch.setattr(torchvision.models, "vit_b_16", from_torchvision)
    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", from_hugging_face)
    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained", lambda name: transformers.ViTImageProcessor()
    )
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    run: dict[str, Any] = {"images": images}
    torch.manual_seed(0)
    exec(load, run)
    exec(THEN, run)
    assert (list(run["mean"]), list(run["std"])) == trained_with
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in trained_with)
    plain = outputs(run["model"], (images / 255 - mean) / std)
    answer = getattr(run["answer"], "logits", run["answer"])
    assert torch.allclose(answer, plain, atol=1e-4)
    assert not torch.allclose(outputs(run["locked"], network_input(images)), plain, atol=1e-2)


def test_the_experiment_with_pretrained_weights_tells_right_from_wrong() -> None:
    """On a small network of the kind: other means folded in, tokens put back, a decoder that takes no order."""
    torch.manual_seed(0)
    backbone = timm.models.VisionTransformer(
        56, 14, embed_dim=24, depth=1, num_heads=2, init_values=1.0, num_classes=0, global_pool=""
    )
    small = pretrained.Focus(backbone, (24, 8), (4, 4)).eval()
    perturbed(small)
    (key, order), (other, _) = (draw(seed, 14, 3, (4, 4)) for seed in (0, 1))
    x = torch.randint(256, (3, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = pretrained.kind(small, x, key.then(order), [key.then(order), other.then(order)])
    for part in ("tokens", "map"):
        assert found[part]["float64"] < 1e-9 < found[part]["float32"] < 1e-3
    assert not found["whole network takes it"]
    with pytest.raises(ValueError, match="its convolutions see which blocks are neighbours"):
        encrypt_model(renormalize(small, pretrained.MEAN, pretrained.STD), order)
    assert found["cosine, wrong keys"]["largest"] == 1 > found["cosine, wrong keys"]["mean"]
    assert pretrained.kind(small, x, key, [other])["whole network takes it"]
    assert pretrained.from_the_file(small, key, order) == {
        "positions and signs": {"right": 588, "of": 588},
        "places": {"right": 16, "of": 16},
    }


def test_the_receipt_of_pretrained_weights_says_what_chapter_8_says() -> None:
    receipt = load_receipt("pretrained")
    others = receipt["cosine, other photograph"]["mean"]
    assert receipt["map, against ONNX Runtime"] < 1e-4
    for name, takes in {"the paper's key": True, "order of blocks": False, "key and order": False}.items():
        found = receipt[name]
        assert found["tokens"]["float64"] < 1e-9 < found["tokens"]["float32"] < 1e-3
        assert found["map"]["float64"] < 1e-9
        assert found["whole network takes it"] == takes
        for what in ("plain pictures", "wrong keys"):  # whoever has the pixels of a block knows much of the picture
            assert (found[f"cosine, {what}"]["mean"] > others) == (name == "order of blocks")
    assert all(part["right"] == part["of"] for part in receipt["from the file"].values())


def test_a_folded_bias_shows_flips_and_channels_eq4a() -> None:
    """(b~ - b) E'⁺ = s_k (1 - 2 μ), with μ of the channel that place k came from; without knowing b, nearly."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    offsets, right = 1 - 2 * torch.tensor(mean, dtype=torch.float64), 0
    for seed in range(5):
        torch.manual_seed(seed)
        plain, key = nn.Conv2d(3, 256, 4, 4).double(), Key.from_seed(seed, 4, 3)
        assert plain.bias is not None
        locked = encrypt_model(renormalize(plain, mean, std), key)
        assert locked.bias is not None
        inverse, signs = torch.linalg.pinv(patch_matrix(locked)), 1 - 2 * key.flips.double()
        seen = (locked.bias - plain.bias).detach() @ inverse
        assert torch.allclose(seen, signs * offsets[key.permutation // 16], atol=1e-9)
        right += int(((locked.bias.detach() @ inverse < 0) == key.flips).sum())
    assert right / 5 > 40  # of 48; guessing gets 24


def test_only_the_inverse_absorbs_where_E_has_full_row_rank() -> None:
    """Uniqueness: x T E' = x E for all x only if E' = T⁻¹ E; the transposed direction works only where T T E = E."""
    model = network("ConvMixer")
    E, T = patch_matrix(find_and_widen(model)), KEY.matrix()
    assert torch.linalg.matrix_rank(E) == 48
    solved = torch.linalg.lstsq(T, E).solution  # T E' = E
    assert torch.allclose(solved, T.T @ E, atol=1e-9)
    assert not torch.allclose(T @ (T @ E), E)


def find_and_widen(model: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 4, 4)).double()


# What cannot be encrypted, or not as it is


class Doubling(nn.Conv2d):
    """Transforms its weight, in a way that flips do not commute with."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride)


class Branches(nn.Module):
    """The image enters through layers of different patch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x).mean((2, 3)) + self.coarse(x).amax((2, 3))


class Skip(nn.Module):
    """The image also goes around the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x).mean((2, 3)) + x.mean((1, 2, 3))[:, None]


class Average(nn.Module):
    """Keeps an average of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, 4))
        self.average = deepcopy(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Frozen(nn.Module):
    """Keeps a copy of its filters, in another order and with other signs, as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 8, 4, 4)
        self.original = -self.net.weight.detach().flatten(1).T[torch.randperm(48)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Adapter(nn.Module):
    """A low-rank adapter beside the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 2, 4, 4, bias=False), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 4, 4)


def hooked() -> nn.Module:
    model = nn.Sequential(conv())
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 0.3,))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict, str]] = {
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(conv())), {}, "remove_parametrizations"),
    "spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(conv())), {}, "remove_parametrizations"),
    "old weight norm": (lambda: nn.Sequential(torch.nn.utils.weight_norm(conv())), {}, "a hook"),
    "old spectral norm": (lambda: nn.Sequential(torch.nn.utils.spectral_norm(conv())), {}, "a hook"),
    "pruned": (lambda: nn.Sequential(prune.l1_unstructured(conv(), "weight", 0.2)), {}, "prune.remove"),
    "transformed weight": (lambda: nn.Sequential(Doubling(3, 8, 4, 4)), {}, "answers otherwise than before"),
    "hooked input": (hooked, {}, "normalises images itself before"),
    "one of two branches": (Branches, {"layer": "fine"}, r"several layers: fine, coarse.*layer=\["),
    "two branches": (Branches, {}, "several layers are .*: fine, coarse; name one with layer=, or all"),
    "skip path": (Skip, {}, "answers otherwise than before|several layers"),
    "average": (Average, {"layer": "net.0"}, "keep the plain matrix in 'average.0.weight'"),
    "a copy as an attribute": (Frozen, {}, "keep the plain matrix in 'original'"),
    "adapter": (Adapter, {"layer": "base"}, "several layers: base, down.*merge adapters first"),
    "traced": (lambda: torch.jit.trace(nn.Sequential(conv()), torch.zeros(1, 3, 8, 8)), {}, "traced or scripted"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(conv())), {}, "traced or scripted"),
    "overlapping": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 2)), {}, "kernels overlap blocks"),
    "padded": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4, padding=2)), {}, "reach beyond"),
    "gaps": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 5)), {}, "leave gaps"),
    "dilated": (lambda: nn.Sequential(nn.Conv2d(3, 8, 2, 2, dilation=2)), {}, "kernels overlap blocks"),
    "groups": (lambda: nn.Sequential(nn.Conv2d(3, 9, 4, 4, groups=3)), {}, r"padding \(0, 0\): its groups see some"),
    "oblong": (lambda: nn.Sequential(nn.Conv2d(3, 8, (4, 8), (4, 8))), {}, r"padding \(0, 0\): its patches are no sq"),
    "of another size": (lambda: nn.Sequential(nn.Conv2d(3, 8, 6, 6)), {}, r"0 \(patch size 6, 3.* flattened patches$"),
    "unshuffled": (lambda: nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 1)), {}, "flattened patches$"),
    "runs on nothing": (lambda: nn.ModuleDict({"a": conv()}), {}, "no probe image"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_protect_is_refused_by_name(name: str) -> None:
    make, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        encrypt_model(make(), KEY, **options)


class Small(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(self.conv(x)).mean((2, 3)))


@dataclass
class Logits:
    logits: Tensor


class Beside(Small):
    """The image also enters by a product that no layer does."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.beside, self.answer = nn.Parameter(torch.randn(5, 192)), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(super().forward(x) + x.flatten(1) @ self.beside.T)


class Padded(Small):
    """The image also enters by a convolution that overlaps."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.side(x).mean((2, 3))


class Aside(Small):
    """A second embedding runs in training, or for large images only."""

    def __init__(self, when: Callable[[nn.Module, Tensor], bool]) -> None:
        super().__init__()
        self.other, self.when = nn.Conv2d(3, 16, 8, 8), when

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.other(x).mean() if self.when(self, x) else 0)


class Through(Small):
    """Does something with the image before, and with the answer after."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable = lambda y: y) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(super().forward(self.before(x)))


class Float32(nn.Module):
    """Casts images to float32, whatever its weights are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x.float())


def only(condition: Callable[[Tensor], bool]) -> Callable[[Tensor], Tensor]:
    def check(x: Tensor) -> Tensor:
        if not condition(x):
            raise RuntimeError("not of the shape that I take")
        return x

    return check


def changed(change: Callable[[Any], object]) -> Any:
    torch.manual_seed(0)
    model = Small()
    change(model)
    return model


def conditioned(power: int) -> MatrixKey:
    first, second = (MatrixKey.orthogonal(4, 3, seed=seed).matrix() for seed in (1, 2))
    return MatrixKey(first * torch.logspace(0, power, 48, dtype=torch.float64) @ second, 4, 3)


def large(power: int) -> MatrixKey:
    return MatrixKey(MatrixKey.orthogonal(4, 3, seed=1).matrix() * 10.0**power, 4, 3)


def kept_activation(model: Any) -> None:
    model.seen = model.conv(torch.rand(1, 3, 8, 8))


def resized(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, (8, 8), mode="bilinear")


ODD: dict[str, Callable[[Tensor], Any]] = {
    "sparse answers": lambda y: y.to_sparse(),
    "sparse answers by rows": lambda y: y.to_sparse_csr(),
    "nested answers": lambda y: torch.nested.nested_tensor(list(y)),
    "ragged answers": lambda y: torch.nested.nested_tensor(list(y), layout=torch.jagged),
    "masked answers": lambda y: torch.masked.masked_tensor(y, y > 0),
    "answers on the meta device": lambda y: y.to("meta"),
    "float8 answers": lambda y: y.to(torch.float8_e4m3fn),
    "sparse answers beside": lambda y: (y, y.to_sparse()),
    "quantised answers beside": lambda y: (y, torch.quantize_per_tensor(y.float(), 0.1, 0, torch.qint8)),
}
SPARSE = nn.Parameter(torch.eye(3).to_sparse())
OTHERWISE = "answers otherwise than before|several layers"
UNLIKE: dict[str, tuple[Callable[[], nn.Module], BlockKey, dict, str]] = {
    "dataclass": (lambda: Beside(Logits), KEY, {"image_size": (8, 8)}, OTHERWISE),
    "distribution": (
        lambda: Beside(lambda y: torch.distributions.Categorical(logits=y)),
        KEY,
        {"image_size": (8, 8)},
        OTHERWISE,
    ),
    "nested": (lambda: Beside(lambda y: {"a": [(y[:, :0], Logits(y))]}), KEY, {"image_size": (8, 8)}, OTHERWISE),
    "complex": (lambda: Beside(lambda y: y * 1j), KEY, {"image_size": (8, 8)}, OTHERWISE),
    "classes": (
        lambda: Through(after=lambda y: y.argmax(1)),
        KEY,
        {},
        "a Tensor, holds no tensor of float",
    ),
    "list of numbers": (
        lambda: Through(after=lambda y: y.tolist()),
        KEY,
        {},
        "a list, holds no tensor of float",
    ),
    "nothing": (
        lambda: Through(after=lambda y: None),
        KEY,
        {},
        "a NoneType, holds no tensor of float",
    ),
    **{
        name: (partial(Through, after=after), KEY, {}, r"a tensor that is .*: have it answer")
        for name, after in ODD.items()
    },
    "NaN": (lambda: Through(after=lambda y: y.log().sqrt()), KEY, {}, "answers NaN"),
    "resized": (lambda: Through(resized), KEY, {}, r"If the network resizes images, say image_size=\(H, W\)"),
    "sparse": (lambda: changed(lambda m: m.register_parameter("s", SPARSE)), KEY, {}, "'s' is sparse: .* to_dense"),
    "random": (lambda: Through(lambda x: x + torch.randn_like(x)), KEY, {}, "differently each time"),
    "small answers": (lambda: Beside(lambda y: y * 1e-5), KEY, {"image_size": (8, 8)}, OTHERWISE),
    **{f"beside, condition 1e{n}": (Padded, conditioned(n), {}, OTHERWISE) for n in (1, 3)},
    **{f"beside, condition 1e{n}": (Padded, conditioned(n), {}, "condition, .*, is too large") for n in (5, 6, 7, 9)},
    **{
        f"beside in float64, condition 1e{n}": (lambda: Padded().double(), conditioned(n), {}, OTHERWISE)
        for n in (3, 6, 9)
    },
    "condition 1e9": (Small, conditioned(9), {}, r"condition, 1\.0e\+09, is too large .* model.double\(\)"),
    "condition 1e7": (Small, conditioned(7), {}, "condition, 1.0e.07, is too large"),
    "half, condition 1e5": (lambda: Small().half(), conditioned(5), {}, "condition, .*, is too large"),
    "overflow": (Small, MatrixKey(MATRIX.matrix() * 1e-45, 4, 3), {}, "overflow their dtype"),
    "underflow": (Small, large(300), {}, "underflow their dtype: T is too large"),
    "underflow in half": (lambda: Small().half(), large(7), {}, "underflow their dtype: T is too large"),
    "overflow of images": (
        lambda: Through(after=lambda y: torch.einsum("nk,kj->nj", y, torch.eye(5))),
        large(40),
        {},
        "encrypted images overflow torch.float32: T is too large",
    ),
    "in training only": (lambda: Aside(lambda m, x: m.training), KEY, {"layer": "conv"}, "would stay plain: other"),
    "large only": (lambda: Aside(lambda m, x: len(x[0, 0]) > 64), KEY, {"layer": "conv"}, "would stay plain: other"),
    "beside, float32 inside": (lambda: Float32(Padded()), KEY, {"layer": "net.conv"}, OTHERWISE),
    "what it raises in float32": (
        lambda: Float32(Through(after=only(lambda y: False))),
        KEY,
        {"image_size": (8, 8)},
        r"in float64: RuntimeError: .* in float32: \w+: .*not of the shape that I take$",
    ),
    "one at a time": (lambda: Through(only(lambda x: len(x) == 1)), KEY, {}, "not of the shape that I take"),
    "unbatched": (lambda: Through(only(lambda x: x.ndim == 3)), KEY, {}, "not of the shape that I take"),
    "wrong size": (Small, KEY, {"image_size": (2, 2)}, r"On \(2, 3, 2, 2\) in float64: RuntimeError: "),
    "meta": (lambda: Small().to("meta"), KEY, {}, "meta device"),
    "NaN in a weight": (lambda: changed(lambda m: m.head.weight.data[0].fill_(torch.nan)), KEY, {}, "holds NaN"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 4, 4)), KEY, {}, "run the network once"),
    "pruned head": (
        lambda: changed(lambda m: prune.l1_unstructured(m.head, "weight", 0.2)),
        KEY,
        {},
        "be copied: make",
    ),
    "normed head": (lambda: changed(lambda m: torch.nn.utils.weight_norm(m.head)), KEY, {}, "be copied: make"),
    "activation": (lambda: changed(kept_activation), KEY, {}, "be copied: .* drop activations"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", UNLIKE)
def test_what_cannot_be_compared_or_differs_is_refused_with_its_reason(name: str) -> None:
    make, key, options, message = UNLIKE[name]
    torch.manual_seed(0)
    model = make()
    with pytest.raises(ValueError, match=message) as raised:
        encrypt_model(model, key, **options)
    assert "\n" not in str(raised.value)


WRONG_TYPES: dict[str, tuple[dict, str]] = {
    **{f"layer={x!r}"[:20]: ({"layer": x}, "layer= takes the name of a layer") for x in (0, conv(), [0], [], {"conv"})},
    **{f"image_size={x!r}": ({"image_size": x}, r"image_size= takes \(H, W\)") for x in (32, (3, 8, 8), [8])},
    **{f"image_size={x!r}": ({"image_size": x}, "must be an integer") for x in (("8", "8"), (8.0, 8.0))},
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_arguments_of_a_wrong_type_are_named(name: str) -> None:
    options, message = WRONG_TYPES[name]
    with pytest.raises(TypeError, match=message):
        encrypt_model(Small(), KEY, **options)


def right(model: nn.Module, key: BlockKey = KEY, **options: Any) -> None:
    """The encrypted network answers as the plain one."""
    locked, x = encrypt_model(model, key, **options), images()[..., :8, :8]
    plain = outputs(model, network_input(x, None, torch.float64))
    found = outputs(locked, network_input(x, key, torch.float64))
    finite = plain.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert (found - plain)[finite].abs().max() < 1e-9


def test_layers_that_share_a_module_or_a_weight_are_encrypted_once() -> None:
    class Shared(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 4, 4)
            self.b = nn.Conv2d(3, 8, 4, 4) if tied else self.a
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.b(x)

    for tied in (False, True):
        right(Shared(tied).double(), layer=["a", "b"])
    right(Shared(False).double(), layer=["a", "a"])
    right(Shared(False).double(), PatchKeys.from_seed(0, 4, 3, (2, 2)))


def test_branches_that_began_with_equal_weights_are_encrypted() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
            self.b = deepcopy(self.a)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.a(x) * self.b(x)).mean((2, 3)))

    right(Twins().double(), layer=["a", "b"])


def test_a_network_may_write_on_its_image_or_resize_it() -> None:
    right(Through(lambda x: x.mul_(2)).double())
    right(Through(resized).double(), image_size=(8, 8))


class CastNorm(Small):
    """Normalises in float32, as CLIP does."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.conv(x)).mean((2, 3))
        scale = self.head.weight[0]
        return self.head(nn.functional.layer_norm(y.float(), (16,), scale, scale).to(x.dtype))


class Patches(nn.Module):
    """A Linear takes flattened patches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(48, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = nn.functional.unfold(x, 4, stride=4).mT  # (N, places, 48)
        return self.head(nn.functional.gelu(self.embed(patches)).mean(1))


IN_FLOAT32: dict[str, Callable[[], nn.Module]] = {
    "image": lambda: Float32(Small()),
    "flattened patches": lambda: Float32(Patches()),
    "normalisation": CastNorm,
    "a constant": lambda: Through(after=lambda y: torch.einsum("nk,kj->nj", y, torch.eye(5))),
    "a quantised head": lambda: torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("key", [KEY, MATRIX], ids=["signed permutation", "matrix"])
@pytest.mark.parametrize("name", IN_FLOAT32)
def test_a_network_that_runs_in_float32_alone_is_tried_out_in_it(name: str, key: BlockKey) -> None:
    torch.manual_seed(0)
    model = IN_FLOAT32[name]().eval()
    plain, encrypted = (network_input(images()[..., :8, :8], each, torch.float32) for each in (None, key))
    with torch.no_grad():
        old, new = model(plain), encrypt_model(model, key, image_size=(8, 8))(encrypted)
    assert (old - new).abs().max() < 1e-4 * old.abs().max()


IDENTITIES: dict[str, BlockKey] = {
    "of one value": Key.generate(1, 1),
    "signed permutation": KEY.then(KEY.inverse()),
    "matrix": MatrixKey(torch.eye(48), 4, 3),
    "order": BlockOrder(range(196), 16, 3, grid=(14, 14)),
    "places": PatchKeys([KEY.then(KEY.inverse())] * 4, (2, 2)),
    "scrambled": ORDER.then(ORDER.inverse()).then(KEY).then(KEY.inverse()),
}
OTHERS: dict[str, BlockKey] = {
    "flips": KEY.flip,
    "matrix": MatrixKey(2 * torch.eye(48), 4, 3),
    "matrix, nearly singular": MatrixKey(torch.diag(10.0 ** torch.linspace(-12, 0, 48)), 4, 3),
    "order of a large network": BlockOrder(range(195, -1, -1), 16, 3, grid=(14, 14)),  # 150,528 values
    "places of a large network": PatchKeys([Key.from_seed(0, 16, 3)] * 4, (2, 2)),
    "scrambled": KEY.then(ORDER),
    "pixels of a large block": SignedPermutation(range(2**18 - 1, -1, -1), [False] * 2**18, 512, 1),
}


@pytest.mark.parametrize("kind", [*IDENTITIES, *OTHERS])
def test_a_key_that_changes_nothing_is_told_from_others_at_any_size(kind: str) -> None:
    if kind in IDENTITIES:
        assert IDENTITIES[kind].is_identity
    if kind in OTHERS:
        assert not OTHERS[kind].is_identity


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_and_nested_tensors_within_a_network_are_no_obstacle() -> None:
    for there, back in (
        (Tensor.to_sparse, Tensor.to_dense),
        (Tensor.to_sparse_csr, Tensor.to_dense),
        (lambda y: torch.nested.nested_tensor(list(y)), lambda y: y.to_padded_tensor(0.0)),
    ):
        right(Through(after=nn.Sequential(Applied(there), Applied(back))).double())


def test_masked_logits_dicts_and_numpy_sizes_are_taken() -> None:
    masked = Through(after=lambda y: y.masked_fill(torch.arange(5) == 3, -torch.inf)).double()
    right(masked, image_size=(np.int64(8), np.int64(8)))
    right(Aside(lambda m, x: m.training).double().eval(), layer=["conv", "other"])
    right(Small().double(), conditioned(1))
    with torch.inference_mode():
        frozen = Small().double()
    right(frozen)


class Slots:
    __slots__ = ("kept",)

    def __init__(self, kept: Any) -> None:
        self.kept = kept


class Stateful(nn.Identity):
    """Puts a tensor into the state dict that it does not hold as one."""

    def __init__(self, w: Any) -> None:
        super().__init__()
        self.numbers = w.tolist()

    def get_extra_state(self) -> Any:
        return {"first": torch.tensor(self.numbers)}

    def set_extra_state(self, state: Any) -> None: ...


def adding_to_state(model: Any, w: Any) -> None:
    numbers = w.tolist()
    model.register_state_dict_post_hook(lambda m, state, prefix, _: state.update(kept=torch.tensor(numbers)))


class Holder:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)

    def __call__(self, *args: Any) -> None: ...


def hooked_by(model: Any, hook: Callable) -> None:
    model.conv.register_forward_hook(hook)


def closed_over(W: Any) -> Callable:
    return lambda *args: None if args else W


def saved(thing: Any) -> BytesIO:
    file = BytesIO()
    torch.save(thing, file)
    return file


HOLDERS: dict[str, Callable[[nn.Module, Any], object]] = {
    "buffer": lambda m, w: m.register_buffer("kept", w),
    "attribute": lambda m, w: setattr(m, "kept", w),
    "dict": lambda m, w: setattr(m, "kept", {"a": {"b": w}}),
    "list": lambda m, w: setattr(m, "kept", [0, w]),
    "tuple": lambda m, w: setattr(m, "kept", (w,)),
    "array": lambda m, w: setattr(m, "kept", w.float().numpy().copy()),
    "array of objects": lambda m, w: setattr(m, "kept", np.array([None, {"w": w}])),
    "object": lambda m, w: setattr(m, "kept", Holder(w=w)),
    "attribute of a parameter's holder": lambda m, w: setattr(m.head, "kept", Holder(w=[w])),
    "hidden module": lambda m, w: object.__setattr__(m, "kept", Holder(w=nn.ParameterList([w.float()]))),
    "module in a list": lambda m, w: setattr(m, "kept", [nn.ParameterDict({"w": w.float()})]),
    "hook": lambda m, w: hooked_by(m, Holder(w=w)),
    "partial hook": lambda m, w: hooked_by(m, partial(Holder(), w)),
    "closure": lambda m, w: hooked_by(m, closed_over(w)),
    "deque": lambda m, w: setattr(m, "kept", deque([w])),
    "key of a dict": lambda m, w: setattr(m, "kept", {w: 1}),
    "slots": lambda m, w: setattr(m, "kept", [Slots(w)]),
    "extra state": lambda m, w: setattr(m, "kept", Stateful(w)),
    "hook of the state dict": adding_to_state,
    "numbers in a list": lambda m, w: setattr(m, "kept", w.flatten().tolist()),
    "numbers in an array": lambda m, w: setattr(m, "kept", array("f", w.flatten().tolist())),
    "bytes": lambda m, w: setattr(m, "kept", {"w": w.numpy().tobytes()}),
    "bytearray": lambda m, w: setattr(m, "kept", bytearray(w.half().numpy().tobytes())),
    "a file in memory": lambda m, w: setattr(m, "kept", saved({"w": w})),
    "storage": lambda m, w: setattr(m, "kept", w.untyped_storage()),
    "class": lambda m, w: setattr(m, "__class__", type("Small", (type(m),), {"kept": w})),
    "behind a view": lambda m, w: setattr(m, "kept", w.flatten()[3]),
    "bytes in a tensor": lambda m, w: m.register_buffer("kept", w.view(torch.uint8)),
    "bytes in an array": lambda m, w: setattr(m, "kept", w.numpy().view(np.uint8)),
    "NumPy's numbers in a list": lambda m, w: setattr(m, "kept", list(w.numpy().flatten())),
    "weak reference": lambda m, w: m.__dict__.update(hold=Slots(w), kept=weakref.ref(w)),
    "network of the class": lambda m, w: setattr(m, "__class__", type("Small", (type(m),), {"kept": deepcopy(m.conv)})),
    "closure of a method": lambda m, w: setattr(m, "__class__", type("Small", (type(m),), {"show": lambda self: w})),
    "lists in lists": lambda m, w: setattr(m, "kept", w.tolist()),
    "JSON": lambda m, w: setattr(m, "kept", json.dumps({"w": w.tolist()})),
    "JSON in bytes": lambda m, w: setattr(m, "kept", json.dumps(w.tolist()).encode()),
    "printed": lambda m, w: setattr(m, "kept", str(w)),
    "behind a view of an array": lambda m, w: hooked_by(m, closed_over(w.numpy()[3:4, 0])),
    "gradient": lambda m, w: setattr(m, "kept", with_gradient(w)),
    "iterator": lambda m, w: setattr(m, "kept", iter([w, 1])),
    "iterators in a chain": lambda m, w: setattr(m, "kept", chain([1], iter([w]))),
    "values of a dict": lambda m, w: hooked_by(m, closed_over({"w": w}.values())),
    "generator": lambda m, w: hooked_by(m, closed_over(x for x in [w])),
    "cached function": lambda m, w: hooked_by(m, closed_over(cached(w))),
    "bound to a method": lambda m, w: setattr(m, "kept", Holder(w=w).__call__),
    "bound to a built-in method": lambda m, w: setattr(m, "kept", w.clone),
    "numbers as text": lambda m, w: setattr(m, "kept", [str(x) for x in w.flatten().tolist()]),
    "numbers as text in a dict": lambda m, w: setattr(m, "kept", {f"w{i}": f" {x}" for i, x in numbered(w)}),
    "numbers in a dict": lambda m, w: setattr(m, "kept", {f"w{i}": x for i, x in numbered(w)}),
    "numbers in dicts": lambda m, w: setattr(m, "kept", [{"name": "w", "value": x} for i, x in numbered(w)]),
    "numbers in a table": lambda m, w: setattr(m, "kept", [{"place": i, "value": x} for i, x in numbered(w)]),
    "numbers in a deque": lambda m, w: setattr(m, "kept", deque(w.flatten().tolist())),
    "numbers among others": lambda m, w: setattr(m, "kept", [None, "weights", *w.flatten().tolist(), 10**400]),
    "numbers in attributes": lambda m, w: setattr(m, "kept", SimpleNamespace(**{f"w{i}": x for i, x in numbered(w)})),
    "numbers of an object": lambda m, w: setattr(m, "kept", Holder(**{f"w{i}": x for i, x in numbered(w)})),
    "numbers of the network": lambda m, w: m.__dict__.update({f"w{i}": x for i, x in numbered(w)}),
    "numbers as tensors": lambda m, w: setattr(m, "kept", list(w.flatten())),
    "rows in a set": lambda m, w: setattr(m, "kept", frozenset(map(tuple, w.flatten(1).tolist()))),
    "text in memory": lambda m, w: setattr(m, "kept", StringIO(repr(w.tolist()))),
    "another class": lambda m, w: setattr(m, "kept", type("C", (), {"w": w})),
    "an object's class": lambda m, w: setattr(m, "kept", type("C", (), {"w": w})()),
    "a class below another": lambda m, w: setattr(m, "kept", type("D", (type("C", (), {"w": w}),), {})()),
    "text in a class": lambda m, w: setattr(m, "kept", type("C", (), {"w": str(w.tolist())})),
    "numbers in a class": lambda m, w: setattr(m, "kept", type("C", (), {f"w{i}": x for i, x in numbered(w)})),
    "an enumeration": lambda m, w: setattr(m, "kept", Enum("C", {"first": 1, "second": [w]})["first"]),  # type: ignore[index]
    "traced network in a list": lambda m, w: setattr(m, "kept", [torch.jit.trace(deepcopy(m), torch.rand(1, 3, 8, 8))]),
}


def numbered(w: Tensor) -> list[tuple[int, float]]:
    return list(enumerate(w.flatten().tolist()))


def with_gradient(w: Tensor) -> Tensor:
    held = torch.zeros_like(w, requires_grad=True)
    held.grad = w
    return held


def cached(w: Tensor) -> Callable:
    function = cache(lambda name: w.clone())
    function("first")
    return function


def averaged(w: Tensor) -> Tensor:
    """A moving average of weights, whose correlation with them is some 0.9."""
    return w + 0.5 * w.std() * torch.randn_like(w)


def in_a_vector(w: Tensor, order: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.randn(99), averaged(w).permute(order).flatten(), torch.randn(9)])


COPIES: dict[str, Callable[[Tensor], Any]] = {
    "as it is": lambda w: w,
    "half": lambda w: w.half(),
    "float8": lambda w: w.to(torch.float8_e4m3fn),
    "int8": lambda w: (w / w.abs().max() * 127).round().to(torch.int8),
    "quantised": lambda w: torch.quantize_per_tensor(w, float(w.abs().max() / 127), 0, torch.qint8),
    "complex": lambda w: torch.complex(torch.zeros_like(w), w),
    "sparse": lambda w: w.to_sparse(),
    "vector": lambda w: torch.cat([torch.rand(7), w.flatten(), torch.rand(85)]),
    "half of the filters": lambda w: w[8:],
    "filters in another order": lambda w: w[torch.randperm(16)],
    "filters times factors": lambda w: w * torch.randn(16, 1, 1, 1),
    "filters less their means": lambda w: w - w.mean((1, 2, 3), keepdim=True),
    "pixels in another order and with signs": lambda w: w.flatten(1)[:, torch.randperm(48)] * torch.randn(48).sign(),
    "transposed, in another order": lambda w: -w.flatten(1).T[torch.randperm(48)],
    "channels last": lambda w: w.permute(0, 2, 3, 1).contiguous(),
    "beside other columns": lambda w: torch.cat([torch.rand(16, 5), w.flatten(1)], 1),
    "above other rows": lambda w: torch.cat([w.flatten(1), torch.rand(3, 48)]),
    "history": lambda w: torch.stack([torch.rand_like(w), w]),
    "filter by filter": list,
    "in eight pieces": lambda w: w.chunk(8),
    "an eighth of the filters": lambda w: w[3:5],
    "moving average": lambda w: averaged(w),
    "moving averages, transposed": lambda w: torch.stack([averaged(w), averaged(w)], -1).T,
    "average in a vector of all weights": lambda w: torch.cat([torch.randn(999), averaged(w).flatten(), torch.rand(9)]),
    "average, filter by filter": lambda w: list(averaged(w)),
    "average of half of the filters": lambda w: averaged(w)[5:13],
    "average above other rows": lambda w: torch.cat([averaged(w).flatten(1), torch.randn(3, 48)]),
    "average beside other columns": lambda w: torch.cat([averaged(w).flatten(1), torch.randn(16, 5)], 1),
    "average, transposed, of half of the pixels": lambda w: averaged(w).flatten(1).T[20:44],
    "average beside a large number": lambda w: torch.cat([averaged(w).flatten(), torch.tensor([-1e9])]),
    "average, filter by filter, beside a large number": lambda w: [*averaged(w), torch.tensor(10**6)],
    "average, filter by filter with biases": lambda w: [(f, torch.rand(())) for f in averaged(w)],
    "ten averages": lambda w: torch.stack([averaged(w) for _ in range(10)]),
    "averages of all weights in rows": lambda w: torch.stack(
        [torch.cat([torch.randn(999), averaged(w).flatten()]) for _ in range(2)]
    ),
    **{
        f"average in a vector, axes {order}": partial(in_a_vector, order=order)
        for order in ((0, 2, 3, 1), (1, 0, 2, 3), (1, 2, 3, 0), (2, 3, 1, 0), (2, 3, 0, 1))
    },
    "average of six axes": lambda w: averaged(w)[None, None],
    "signs": lambda w: w.sign().to(torch.int8),
    "a mask of signs": lambda w: w > 0,
    "int4": lambda w: (w / w.abs().max() * 7).round().to(torch.int8),
    "in pieces at several places": lambda w: {"a": w[:2].half(), "b": (w[5:6], [w[9:12]])},
}


def holding(holder: str, copy: str, width: int = 16) -> Any:
    torch.manual_seed(0)
    model: Any = Small(width)
    HOLDERS[holder](model, COPIES[copy](model.conv.weight.detach().clone()))
    return model


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("holder", "copy"), [(holder, "as it is") for holder in HOLDERS] + [("dict", copy) for copy in COPIES]
)
def test_a_plain_matrix_is_found_wherever_and_however_it_is_kept(holder: str, copy: str) -> None:
    with pytest.raises(ValueError, match="keep the plain matrix in '"):
        encrypt_model(holding(holder, copy), KEY)


LARGE: dict[str, Callable[[Tensor], Any]] = {  # averages (256, 768), of which only beginnings are compared
    "rows further down": lambda w: torch.cat([torch.randn(700, 768), w]),
    "columns further down": lambda w: torch.cat([torch.randn(99, 256), w.T]),
    "in a vector": lambda w: torch.cat([torch.randn(99_999), w.flatten(), torch.randn(9)]),
    "columns in a vector": lambda w: torch.cat([torch.randn(999), w.T.flatten()]),
    "channels last in a vector": lambda w: torch.cat(
        [torch.randn(9), w.reshape(256, 3, -1).permute(2, 1, 0).flatten()]
    ),
    "the last quarter": lambda w: torch.cat([torch.randn(999), w[192:].flatten()]),
    "a quarter between": lambda w: w[100:164],
    "filter by filter": list,
}


@pytest.mark.parametrize("copy", LARGE)
def test_an_average_of_a_large_matrix_is_found_wherever_it_lies(copy: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(3, 256, 16, 16), nn.Flatten())
    model.kept = LARGE[copy](averaged(model[0].weight.detach().flatten(1)))
    with pytest.raises(ValueError, match="keep the plain matrix in 'kept"):
        encrypt_model(model, Key.from_seed(0, 16, 3))


POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {  # (64, 24), of an 8 × 8 grid
    "as they are": lambda w: w,
    "map": lambda w: w.T.reshape(1, 24, 8, 8),
    "half of the map": lambda w: w.T.reshape(24, 8, 8).half(),
    "average map": lambda w: averaged(w).T.reshape(24, 8, 8),
    "average grid": lambda w: averaged(w).reshape(8, 8, 24),
    "average in a vector": lambda w: torch.cat([torch.randn(99), averaged(w).flatten()]),
    "average with a class token": lambda w: torch.cat([torch.randn(1, 24), averaged(w)])[None],
}


@pytest.mark.parametrize("copy", POSITIONS)
def test_a_copy_of_the_positions_is_found_under_an_order_of_blocks(copy: str) -> None:
    torch.manual_seed(0)
    model: Any = timm.models.VisionTransformer(depth=1, num_heads=2, **TIMM)
    encrypt_model(model, ORDER)
    model.kept = POSITIONS[copy](model.pos_embed.detach()[0, 1:].clone())
    with pytest.raises(ValueError, match="keep the plain matrix in 'kept'"):
        encrypt_model(model, ORDER)


def test_a_network_without_a_patch_embedding_is_refused_before_it_runs() -> None:
    class Reading(nn.Module):
        """Looks at every pixel by itself, as a Perceiver does, at whatever cost."""

        ran: ClassVar[list[int]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.ran.append(x.shape[-1])
            return x.flatten(2).mean(2)

    model = nn.Sequential(Reading(), nn.Linear(3, 64), nn.Linear(64, 5))
    with pytest.raises(ValueError, match="the model has no layer that is a patch embedding"):
        encrypt_model(model, KEY)
    assert Reading.ran == []


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_plain_matrix_of_few_filters_is_found(width: int) -> None:
    with pytest.raises(ValueError, match=r"keep the plain matrix in 'kept\.a\.b'"):
        encrypt_model(holding("dict", "as it is", width), KEY)
    small: Any = nn.Sequential(nn.Conv2d(1, 3, 2, 2))  # 4 rows and 3 columns
    small.kept = [small[0].weight.detach().clone()]
    with pytest.raises(ValueError, match=r"keep the plain matrix in 'kept\.0'"):
        encrypt_model(small, Key.from_seed(0, 2, 1))


@pytest.mark.parametrize("like", [0.9, 0.98])
def test_an_average_of_a_small_matrix_in_a_vector_of_all_weights_is_found(like: float) -> None:
    model: Any = load_pretrained("digits")
    W = model.embedding.weight.detach()
    noise = (like**-2 - 1) ** 0.5 * W.std() * torch.randn(W.shape, generator=torch.Generator().manual_seed(0))
    model.kept = torch.cat([torch.zeros(7), (W + noise).flatten(), torch.arange(9.0)])
    with pytest.raises(ValueError, match="keep the plain matrix in 'kept'"):
        encrypt_model(model, Key.from_seed(0, 2, 1))


@pytest.mark.parametrize(
    ("delay", "options", "shown"), [(5, {}, False), (0, {}, True), (0, {"progress": False}, False)]
)
def test_a_bar_is_shown_if_it_takes_long(
    delay: int, options: dict[str, Any], shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("mixerkey.absorption.DELAY", delay)
    monkeypatch.setattr("mixerkey.copies.DELAY", delay)
    encrypt_model(ConvMixer(16, 1).eval(), KEY, **options)
    found = capsys.readouterr()
    bars = ["runs of the network", "search for copies", "search for the like"]
    assert not found.out
    assert [bar in found.err for bar in bars] == [shown] * 3


def test_the_storage_behind_a_weight_does_not_go_along() -> None:
    torch.manual_seed(0)
    model: Any = Small()
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector, model.parameters())  # each is a view of it from now on
    model.register_buffer("first", model.conv.weight.detach().flatten()[:1])
    for tensor in encrypt_model(model, KEY).state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_rows_are_looked_for_in_chunks_with_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    W, x = torch.randn(12, 16, generator=generator), torch.randn(300, 16, generator=generator)
    parts, chunk, answers = copies._parts_of(W), copies.PIECE, []
    for place in (None, *range(0, 289, 7), 288):
        hiding = x.clone()
        if place is not None:
            hiding[place : place + 12] = W + 0.1 * x[:12]
        for piece in (chunk, 400, 16):
            monkeypatch.setattr(copies, "PIECE", piece)
            answers.append((place is not None, copies._in_rows(parts, hiding)))
    assert all(there == found for there, found in answers)


def test_a_long_tensor_beside_small_filters_takes_little_memory() -> None:
    """2 GB, when it was compared with all filters at once."""
    code = (
        "import resource, torch\n"
        "from mixerkey import copies\n"
        "x, parts = torch.rand(2_000_000, 4), copies._parts_of(torch.rand(256, 4))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "copies._in_rows(parts, x)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000  # kB


@pytest.mark.parametrize("change", [torch.Tensor.clone, torch.Tensor.half])
def test_a_state_dict_may_give_copies(change: Callable[[Tensor], Tensor]) -> None:
    class Copying(Small):
        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            return {name: change(t.detach()) for name, t in super().state_dict(*arguments, **options).items()}

    torch.manual_seed(0)
    encrypt_model(Copying(), KEY)


def test_a_network_that_gives_itself_for_a_copy_is_refused_and_unharmed() -> None:
    class Stem(nn.Conv2d):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    torch.manual_seed(0)
    model: Any = Small()
    model.conv = Stem(3, 16, 4, 4)
    before = model.conv.weight.detach().clone()
    with pytest.raises(ValueError, match=r"shares 'conv\.weight' with it: a __deepcopy__ must copy weights"):
        encrypt_model(model, KEY)
    assert torch.equal(model.conv.weight, before)


def test_a_network_whose_copy_is_none_is_refused() -> None:
    class Bare(Small):
        def __deepcopy__(self, memo: Any) -> Any: ...

    with pytest.raises(ValueError, match="a copy of the network is a NoneType: a __deepcopy__ must return the copy"):
        encrypt_model(Bare(), KEY)


def test_what_is_no_copy_is_kept() -> None:
    torch.manual_seed(0)
    model: Any = Small().double()
    model.odd = [[1, 10**400], np.zeros(3, np.longdouble), np.zeros(2, np.clongdouble), torch.zeros(1).expand(10**10)]
    model.odd.append(torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([2.0]), (10**5, 10**5)))
    model.register_buffer("laplacian", torch.eye(64).to_sparse())
    model.other = {"conv": nn.Conv2d(3, 16, 4, 4), "zeros": torch.zeros(999), "ones": [torch.ones(999), None, "text"]}
    model.numbers = {f"n{n}": n / 7 for n in range(999)}
    model.holding = [model.numbers] * 9
    model.holding += [model.holding] * 99
    file = StringIO("1 2 3")
    file.close()
    model.show = closed_over(file)
    model.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    locked = encrypt_model(model, KEY)
    plain = outputs(model, network_input(images(), None, torch.float64))
    assert (outputs(locked, network_input(images(), KEY, torch.float64)) - plain).abs().max() < 1e-9
    assert torch.equal(locked.other["conv"].weight, model.other["conv"].weight)


def test_all_branches_together_are_encrypted() -> None:
    model = Branches().double()
    locked = encrypt_model(model, KEY, layer=["fine", "coarse"])
    plain = outputs(model, network_input(images(), None, torch.float64))
    assert (outputs(locked, network_input(images(), KEY, torch.float64)) - plain).abs().max() < 1e-9


def test_a_network_that_gives_every_image_the_same_answer_is_told_so() -> None:
    torch.manual_seed(0)
    deep = ConvMixer(16, 24, 3, 4).eval()  # its layers, untrained, make each map of each image the same
    with pytest.raises(ValueError, match=r"gives two different images the same answer, .* train it first"):
        encrypt_model(deep, KEY)


def test_an_order_that_a_network_does_not_see_is_refused() -> None:
    bag = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="protects nothing in it, since it does not look at where blocks are"):
        encrypt_model(bag, ORDER)


def test_a_key_that_changes_nothing_is_refused_and_the_identity_is_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4))
    flat = set_patch_matrix(model, torch.ones(48, 8))
    with pytest.raises(ValueError, match="protects nothing"):
        encrypt_model(flat, KEY.shuffle)
    nothing = KEY.then(KEY.inverse())
    assert torch.equal(patch_matrix(encrypt_model(model, nothing)), patch_matrix(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact(dtype: torch.dtype) -> None:
    model = ConvMixer(16, 1).to(dtype)
    E = patch_matrix(model)
    signs = (1 - 2 * KEY.flips.int()).to(dtype)
    assert torch.equal(patch_matrix(encrypt_model(model, KEY)), signs[:, None] * E[KEY.permutation])


def test_wrappers_are_taken_off() -> None:
    model = ConvMixer(16, 1).eval()
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        locked = encrypt_model(cast(nn.Module, wrapped), KEY)
        assert isinstance(locked, ConvMixer)
        assert torch.equal(patch_matrix(locked), patch_matrix(encrypt_model(model, KEY)))


def test_a_dense_output_comes_back_in_the_ciphers_order() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Conv2d(8, 5, 1)).double()  # a map of class scores
    key = KEY.then(ORDER)
    plain = outputs(model, network_input(images(), None, torch.float64))
    hidden = outputs(encrypt_model(model, key), network_input(images(), key, torch.float64))
    opened = ORDER.inverse().act(hidden.movedim(1, -1)).movedim(-1, 1)
    assert (opened - plain).abs().max() < 1e-9
    assert (hidden - plain).abs().max() > 1e-3


def test_a_badly_conditioned_matrix_is_taken_and_not_mistaken_for_one_that_does_nothing() -> None:
    T = MatrixKey.orthogonal(4, 3, seed=1).matrix() * torch.logspace(0, 5, 48, dtype=torch.float64)
    model, key = network("ConvMixer"), MatrixKey(T, 4, 3)
    plain = outputs(model, network_input(images(), None, torch.float64))
    assert (outputs(encrypt_model(model, key), network_input(images(), key, torch.float64)) - plain).abs().max() < 1e-6
