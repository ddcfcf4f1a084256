"""Patch embedding as a matrix (Eq. 3) and model encryption (Eq. 8, 9), here and in other people's networks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import pytest
import timm
import timm.models.convmixer
import timm.models.mlp_mixer
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, keys, signed_permutations
from torch import Tensor, nn
from torch.nn.utils import prune

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    decrypt_model,
    encrypt_images,
    encrypt_model,
    normalize,
    patch_matrix,
    renormalize,
    set_patch_matrix,
)
from mixerkey.blocks import segment


def embedding_for(key: SignedPermutation, dim: int = 5) -> nn.Conv2d:
    conv = nn.Conv2d(key.channels, dim, key.patch_size, key.patch_size).double()
    # Small integers, so that every product and sum is exact.
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-9, 10, conv.weight.shape))
        cast(Tensor, conv.bias).copy_(torch.randint(-9, 10, (dim,)))
    return conv


@given(data=st.data(), key=keys())
def test_eq3_the_convolution_is_the_matrix_E(data: st.DataObject, key: Key) -> None:
    conv = embedding_for(key)
    x = data.draw(images_for(key)).double()
    x = x.reshape(-1, *x.shape[-3:])
    z = segment(x, key.patch_size) @ patch_matrix(conv) + cast(Tensor, conv.bias)  # (N, h, w, d)
    assert torch.equal(conv(x), z.permute(0, 3, 1, 2))


@given(keys())
def test_set_patch_matrix_changes_E_and_nothing_else(key: Key) -> None:
    conv = embedding_for(key)
    before = deepcopy(conv.state_dict())
    E = torch.randn_like(patch_matrix(conv))
    changed = set_patch_matrix(conv, E)
    assert torch.equal(patch_matrix(changed), E)
    assert torch.equal(cast(Tensor, changed.bias), cast(Tensor, conv.bias))
    assert all(torch.equal(before[name], value) for name, value in conv.state_dict().items())


@given(signed_permutations())
def test_eq8_eq9_row_by_row(key: SignedPermutation) -> None:
    E = patch_matrix(conv := embedding_for(key))
    encrypted = patch_matrix(encrypt_model(conv, key))
    for k, (v, r) in enumerate(zip(key.permutation, key.flips, strict=True)):
        assert torch.equal(encrypted[k], -E[v] if r else E[v])
    # The same with the paper's matrices: E1 by rows (Eq. 8), then signs by ciphertext position (Eq. 9).
    E1 = torch.eye(len(E), dtype=E.dtype)[key.permutation]
    signs = torch.diag(1 - 2 * key.flips.to(E))
    assert torch.equal(encrypted, signs @ (E1 @ E))
    assert torch.equal(encrypted, key.matrix().T @ E)


@given(data=st.data(), key=signed_permutations())
def test_theorem_xT_TtE_is_xE_in_exact_integers(data: st.DataObject, key: SignedPermutation) -> None:
    conv = embedding_for(key)
    x = data.draw(images_for(key))
    E, E_encrypted = patch_matrix(conv).long(), patch_matrix(encrypt_model(conv, key)).long()
    plain = segment(2 * x.long() - 255, key.patch_size)  # 255 times the normalised pixels: integers
    encrypted = segment(2 * encrypt_images(x, key).long() - 255, key.patch_size)
    assert torch.equal(encrypted @ E_encrypted, plain @ E)


@given(data=st.data(), key=signed_permutations())
def test_theorem_through_the_embedding_in_float64(data: st.DataObject, key: SignedPermutation) -> None:
    conv = nn.Conv2d(key.channels, 7, key.patch_size, key.patch_size).double()
    x = data.draw(images_for(key))
    x = x.reshape(-1, *x.shape[-3:])
    z = conv(normalize(x).double())
    assert torch.allclose(encrypt_model(conv, key)(normalize(encrypt_images(x, key)).double()), z, rtol=0, atol=1e-12)


@given(signed_permutations())
def test_the_transposed_permutation_fails_unless_it_is_its_own_inverse(key: SignedPermutation) -> None:
    """The classic mistake, E1 transposed: right only where v is an involution."""
    v, E = key.permutation, torch.arange(len(key.permutation), dtype=torch.float64)[:, None]
    assert torch.equal(E[v.argsort()], E[v]) == torch.equal(v[v], torch.arange(len(v)))


@given(signed_permutations())
def test_decryption_is_exact_and_the_bias_untouched(key: SignedPermutation) -> None:
    conv = nn.Conv2d(key.channels, 7, key.patch_size, key.patch_size)
    before = deepcopy(conv.state_dict())
    encrypted = encrypt_model(conv, key)
    assert torch.equal(patch_matrix(decrypt_model(encrypted, key)), patch_matrix(conv))
    assert torch.equal(cast(Tensor, encrypted.bias), cast(Tensor, conv.bias))
    assert all(torch.equal(before[name], value) for name, value in conv.state_dict().items())


def test_the_relative_key_takes_a_model_from_one_key_to_another() -> None:
    old, new = Key.generate(4, 3), Key.generate(4, 3)
    model = ConvMixer(8, 1)
    rotated = encrypt_model(encrypt_model(model, old), old.inverse().then(new))
    assert torch.equal(patch_matrix(rotated), patch_matrix(encrypt_model(model, new)))


PEERS = {
    "torchvision ViT": (
        lambda: torchvision.models.VisionTransformer(16, 8, 2, 2, 32, 64, num_classes=10),
        (8, 3),
        16,
    ),
    "torchvision Swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 16, [2], [2], [4, 4], num_classes=10),
        (4, 3),
        32,
    ),
    "torchvision ConvNeXt": (lambda: torchvision.models.convnext_tiny(num_classes=10), (4, 3), 32),
    "timm ConvMixer": (lambda: timm.models.convmixer.ConvMixer(16, 2, 5, patch_size=7, num_classes=10), (7, 3), 28),
    "timm ViT": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10),
        (8, 3),
        32,
    ),
    "timm MLP-Mixer": (
        lambda: timm.models.mlp_mixer.MlpMixer(num_classes=10, img_size=64, patch_size=16, num_blocks=2, embed_dim=32),
        (16, 3),
        64,
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_other_networks_with_a_patch_embedding(name: str) -> None:
    build, shape, side = PEERS[name]
    torch.manual_seed(0)
    model = build().eval().double()
    for parameter in model.parameters():  # some start with a classifier of zeros, which hides everything
        nn.init.normal_(parameter, std=0.1)
    key = Key.from_seed(1, *shape)
    x = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    plain, encrypted = normalize(x).double(), normalize(encrypt_images(x, key)).double()
    with torch.inference_mode():
        expected = model(plain)
        assert torch.allclose(encrypt_model(model, key)(encrypted), expected, rtol=0, atol=1e-9)
        assert not torch.allclose(model(encrypted), expected, rtol=0, atol=1e-9)


class TwoEmbeddings(nn.Module):
    """Two layers that could be the patch embedding, of which one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.right(x)


def test_a_model_without_a_patch_embedding_is_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(3, 8, 4, 4, padding=1),
        nn.Conv2d(3, 6, 4, 4, groups=3),
        nn.Conv2d(3, 8, 4, 4, dilation=2),
        nn.Conv2d(3, 8, (4, 2), (4, 2)),
        nn.Conv2d(3, 8, 4, 2),
        nn.Linear(3, 3),
    )
    with pytest.raises(ValueError, match=r"no layer that is a patch embedding .* found: none"):
        patch_matrix(model)
    with pytest.raises(ValueError, match="as the key has; found: none"):
        encrypt_model(model, Key.generate(4, 3))


def test_a_key_for_another_shape_is_refused_and_told_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"patch size 2 and 1 input channels.* found: 0 \(patch size 4, 3 channels\)"):
        encrypt_model(ConvMixer(8, 1), Key.generate(2, 1))
    with pytest.raises(ValueError, match="layer '0' has patch size 4 and 3 input channels, but the key is for 2 and 1"):
        encrypt_model(ConvMixer(8, 1), Key.generate(2, 1), layer="0")


def test_several_candidates_are_named_and_layer_chooses() -> None:
    model, key = TwoEmbeddings(), Key.from_seed(0, 4, 3)
    for call in (lambda: patch_matrix(model), lambda: encrypt_model(model, key)):
        with pytest.raises(ValueError, match=r"several layers are .*left, right; name one with layer="):
            call()
    with pytest.raises(ValueError, match="would stay plain: left; name them with layer=, too"):
        encrypt_model(model, key, layer="right")
    both = ["right", "left"]
    encrypted = encrypt_model(model, key, layer=both)
    decrypted = decrypt_model(encrypted, key, layer=both)
    for layer in both:
        assert not torch.equal(patch_matrix(encrypted, layer=layer), patch_matrix(model, layer=layer))
        assert torch.equal(patch_matrix(decrypted, layer=layer), patch_matrix(model, layer=layer))


@pytest.mark.parametrize(("layer", "message"), [("middle", "no layer 'middle'"), ("1", "a GELU, not a Conv2d")])
def test_a_layer_that_is_none_is_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patch_matrix(ConvMixer(8, 1), layer=layer)


def test_an_E_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"E must have shape \(48, 8\), \(p_b, d\), got \(8, 48\)"):
        set_patch_matrix(ConvMixer(8, 1), torch.zeros(8, 48))


@settings(max_examples=5)
@given(keys(st.just((4, 3))))
def test_equal_logits_through_the_papers_network(key: Key) -> None:
    torch.manual_seed(0)
    model = ConvMixer(256, 8).eval().double()
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        plain = model(normalize(x).double())
        encrypted = encrypt_model(model, key)(normalize(encrypt_images(x, key)).double())
    assert torch.allclose(plain, encrypted, rtol=0, atol=1e-10)


def ones(model: nn.Module) -> nn.Module:
    for weight in model.parameters():
        nn.init.ones_(weight)
    return model


ARRAY: Any = torch.zeros(48, 8).numpy()
NUMBER: Any = 0.5
TEXT: Any = ["a"] * 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: set_patch_matrix(m, torch.full((48, 8), torch.nan)), ValueError, "E must hold finite numbers"),
        (lambda m: set_patch_matrix(m, torch.full((48, 8), torch.inf)), ValueError, "E must hold finite numbers"),
        (lambda m: set_patch_matrix(m, torch.zeros(48, 8) * 1j), TypeError, "a real torch.Tensor, got torch.complex64"),
        (lambda m: set_patch_matrix(m, ARRAY), TypeError, "a real torch.Tensor, got ndarray"),
        (lambda m: renormalize(m, [torch.nan] * 3, [0.5] * 3), ValueError, "a mean and a deviation > 0"),
        (lambda m: renormalize(m, [0.5] * 3, [torch.nan] * 3), ValueError, "a mean and a deviation > 0"),
        (lambda m: renormalize(m, [0.5] * 3, [torch.inf] * 3), ValueError, "a mean and a deviation > 0"),
        (lambda m: renormalize(m, NUMBER, NUMBER), TypeError, "lists of a number for each channel; got 0.5, 0.5"),
        (lambda m: renormalize(m, TEXT, [0.5] * 3), TypeError, "lists of a number for each channel"),
        (lambda m: set_patch_matrix(m.half(), torch.full((48, 8), 1e6)), ValueError, "overflow torch.float16"),
        (
            lambda m: set_patch_matrix(m, torch.full((48, 8), 1e60, dtype=torch.float64)),
            ValueError,
            "overflow torch.float32",
        ),
        (lambda m: renormalize(m.half(), [0.5] * 3, [1e-7] * 3), ValueError, "overflow torch.float16"),
        (lambda m: renormalize(ones(m).half(), [0.0] * 3, [1e-5] * 3), ValueError, "overflow torch.float16"),
        (lambda m: renormalize(m, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]), ValueError, "from 0 to 255 by"),
        (lambda m: renormalize(m, [0.485, 0.456, 0.406], [58.395, 57.12, 57.375]), ValueError, "from 0 to 255 by 255"),
        (lambda m: renormalize(m, [0.0] * 3, [255.0] * 3), ValueError, "those of pixels in .0, 1"),
        (lambda m: renormalize(m, [0.4, -0.01, 0.4], [0.5] * 3), ValueError, "none is negative"),
        (lambda m: set_patch_matrix(pruned(m), torch.zeros(48, 8)), ValueError, "be copied: make .* its own"),
        (lambda m: renormalize(pruned(m), [0.5] * 3, [0.5] * 3), ValueError, "be copied: make .* its own"),
    ],
)
def test_numbers_that_are_none_are_refused(
    change: Callable[[nn.Module], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        change(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)))


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.get_submodule("1"), "weight", 0.2)
    return model
