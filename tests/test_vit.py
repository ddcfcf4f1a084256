"""The vision transformer: against its peer, equivariant but for its positions, and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm.models.vision_transformer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import needs_cifar10
from mixerkey.absorption import encrypt_model
from mixerkey.blocks import integrate, segment
from mixerkey.convmixer import load_model, load_pretrained, save_model
from mixerkey.data import load_cifar10, load_digits
from mixerkey.evaluation import classify, sweep
from mixerkey.experiments import scrambling
from mixerkey.experiments.paper import RIGHT_KEY, WRONG_KEYS
from mixerkey.receipts import load_receipt, weights_digest
from mixerkey.training import Recipe, train
from mixerkey.vit import ViT, timm_state_dict


def random_model(seed: int = 0, **sizes: int) -> Any:
    """A float64 network whose every parameter matters."""
    model: Any = ViT(**{"dim": 24, "depth": 2, "heads": 3, "image_size": 16} | sizes).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()


def permuted(model: Any, order: torch.Tensor) -> Any:
    """A copy whose rows of the position embedding are in another order."""
    copy: Any = ViT(**model.sizes).double()
    copy.load_state_dict(model.state_dict() | {"positions": model.positions[order]})
    return copy.eval()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), patch_size=st.sampled_from([2, 4]), in_channels=st.sampled_from([1, 3]))
def test_patches_and_positions_in_the_same_other_order_give_the_same_logits(
    seed: int, patch_size: int, in_channels: int
) -> None:
    model = random_model(seed, patch_size=patch_size, in_channels=in_channels)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, in_channels, 16, 16, dtype=torch.float64, generator=generator)
    blocks = segment(x, patch_size)  # (N, h, w, p_b)
    order = torch.randperm(blocks.shape[1] * blocks.shape[2], generator=generator)
    moved = integrate(blocks.flatten(1, 2)[:, order].view_as(blocks), patch_size)
    with torch.inference_mode():
        expected = model(x)
        assert torch.allclose(permuted(model, order)(moved), expected, rtol=0, atol=1e-9)
        assert not torch.allclose(model(moved), expected, rtol=0, atol=1e-3)
        tokens = permuted(model, order).tokens(moved)
        assert torch.allclose(tokens[:, 1:], model.tokens(x)[:, 1:][:, order], rtol=0, atol=1e-9)


def test_positions_start_as_waves_by_which_shifts_can_be_told() -> None:
    model = ViT(64, 1, 4)
    rows = model.positions.detach().view(8, 8, 64)
    for dy, dx in ((0, 1), (1, 0), (2, 3)):  # the product of two places depends on how far they are apart, not on where
        products = (rows[: 8 - dy, : 8 - dx] * rows[dy:, dx:]).sum(-1)
        assert torch.allclose(products, products[0, 0].expand_as(products), atol=1e-4)
    near = model.positions.detach() @ model.positions.detach().T
    assert (near.argmax(1) == torch.arange(64)).all()
    assert ViT(6, 1, 2).positions[:, 4:].abs().max() == 0  # two features are left over


@pytest.mark.parametrize("sizes", [{}, {"patch_size": 2, "in_channels": 1, "num_classes": 7}])
def test_forward_equals_timms_vit_with_the_same_weights(sizes: dict[str, int]) -> None:
    model = random_model(**sizes)
    peer = timm.models.vision_transformer.VisionTransformer(
        img_size=16,
        patch_size=model.sizes["patch_size"],
        in_chans=model.sizes["in_channels"],
        num_classes=model.sizes["num_classes"],
        embed_dim=24,
        depth=2,
        num_heads=3,
        norm_layer=nn.LayerNorm,  # timm's own has another epsilon
    ).double()
    peer.load_state_dict(timm_state_dict(model))
    x = torch.randn(4, model.sizes["in_channels"], 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(model(x), peer.eval()(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be at least 1"),
        ({"depth": -1}, "depth must be at least 1"),
        ({"heads": 3}, "heads must divide dim .* got 3 and 8"),
        ({"patch_size": 5}, "patch_size must divide image_size, got .* 5 and 32"),
    ],
)
def test_bad_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViT(**{"dim": 8, "depth": 1, "heads": 2} | change)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 28, 32), (1, 3, 32, 64)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"this ViT takes images \(N, 3, 32, 32\), got"):
        ViT(8, 1, 2)(torch.zeros(shape))


def test_a_saved_vit_is_loaded_as_a_vit(tmp_path: Path) -> None:
    model = random_model().float()
    save_model(model, tmp_path / "vit.safetensors")
    loaded = load_model(tmp_path / "vit.safetensors")
    assert isinstance(loaded, ViT)
    assert not loaded.training
    assert loaded.sizes == model.sizes
    assert weights_digest(loaded) == weights_digest(model)


def test_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path: Path) -> None:
    images, labels = load_digits("train")

    def run(checkpoint: Path | None, stop: int = -1) -> str:
        model = ViT(8, 1, 2, patch_size=2, in_channels=1, image_size=8)
        recipe = Recipe(epochs=3, batch_size=64, peak_lr=0.01, crop=1, average=0.99, dtype="bfloat16")
        calls = 0

        def counted(module: Any, inputs: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt

        model.register_forward_pre_hook(counted)
        _, receipt = train(
            model, images, labels, recipe, seed=0, evaluate=lambda _: 0.0, checkpoint=checkpoint, progress=False
        )
        return receipt["weights_sha256"]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "checkpoint.safetensors", stop=30)  # in the middle of the second epoch
    assert run(tmp_path / "checkpoint.safetensors") == run(None)


def test_the_right_key_and_order_are_worth_the_plain_network_and_wrong_ones_less() -> None:
    recipe = Recipe(epochs=3, batch_size=64, peak_lr=0.01, muon=0.02, whiten=True)
    model: Any = ViT(16, 1, 2, patch_size=2, in_channels=1, image_size=8)
    trained, _ = train(model, *load_digits("train"), recipe, seed=0, evaluate=lambda _: 0.0, progress=False)
    images, labels = load_digits("test")
    right = int((classify(trained, images) == labels).sum())
    key, order = scrambling.draw(3, 2, 1, (4, 4))
    found = scrambling.exactness(trained, key, order, (images, labels))
    for counts in found.values():
        assert counts["same class"] == len(images)
        assert counts["encrypted pair"] == right
        assert max(counts["encrypted model, plain images"], counts["plain model, encrypted images"]) < right
    assert found["everything"]["bits"] == pytest.approx(key.bits + order.bits, abs=0.01)
    swept = scrambling.wrong_keys(trained, key, order, (images, labels), range(3, 6, 2))
    for first, second in swept.values():  # seed 3 is the right one
        assert first == right > second


def test_the_shipped_receipts_are_of_the_shipped_network_and_nothing_is_lost() -> None:
    trained, found = load_receipt("vit"), load_receipt("scrambling")
    digest = weights_digest(load_pretrained("vit"))
    assert trained["weights_sha256"] == found["weights_sha256"] == digest
    assert trained["accuracy"] >= 0.85
    for counts in found["exactness"].values():
        assert counts["same class"] == found["images"] == 10_000
        assert counts["encrypted pair"] == round(10_000 * trained["accuracy"])
    assert found["exactness"]["everything"]["bits"] == 543.82
    assert [len(counts) for counts in found["wrong keys"].values()] == [100] * 3
    swept = {
        name: [right / found["images of a sweep"] for right in counts] for name, counts in found["wrong keys"].items()
    }
    assert max(swept["wrong key"] + swept["both wrong"]) < 0.15
    assert 0.35 < min(swept["wrong order"]) < max(swept["wrong order"]) < 0.55  # as the chapter says


@needs_cifar10
def test_a_sample_of_the_sweep_of_orders_is_recomputed() -> None:
    images, labels = load_cifar10("test")
    key, order = scrambling.draw(RIGHT_KEY, 4, 3, (8, 8))
    _, other = scrambling.draw(WRONG_KEYS[7], 4, 3, (8, 8))
    locked, some = encrypt_model(load_pretrained("vit"), key.then(order)), slice(scrambling.SWEPT)
    (again,) = sweep(locked, images[some], labels[some], [key.then(other)], progress=False)
    assert again == load_receipt("scrambling")["wrong keys"]["wrong order"][7]
