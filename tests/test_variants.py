"""Variants of the cipher: what they keep of its promises, and what they give up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, images_for, signed_permutations
from torch import Tensor

from mixerkey import (
    Key,
    SignedPermutation,
    accuracy,
    encrypt_images,
    encrypt_model,
    load_pretrained,
    normalize,
    patch_matrix,
)
from mixerkey.attacks import image_statistics
from mixerkey.attacks.variants import unlock_patches, unmix
from mixerkey.blocks import segment
from mixerkey.data import load_digits
from mixerkey.variants import (
    add_noise,
    encrypt_each,
    encrypt_patches,
    mix_blocks,
    mix_images,
    mix_model,
    orthogonal_matrix,
)

SMALL = st.tuples(st.integers(1, 4), st.integers(1, 3))  # (M, C)


def keys_for(count: int, M: int = 2, C: int = 1) -> list[Key]:
    return [Key.from_seed(seed, M, C) for seed in range(count)]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return load_digits("test")


@given(st.data(), signed_permutations(SMALL))
def test_one_key_for_all_is_the_cipher(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    blocks = (x.shape[-2] // key.patch_size) * (x.shape[-1] // key.patch_size)
    assert torch.equal(encrypt_patches(x, [key] * blocks), encrypt_images(x, key))
    images = x.reshape(-1, *x.shape[-3:])
    assert torch.equal(encrypt_each(images, [key] * len(images)), encrypt_images(images, key))


def test_keys_are_used_in_order(digits: tuple[Tensor, Tensor]) -> None:
    x, keys = digits[0][:16], keys_for(16)
    each, patches = encrypt_each(x, keys), encrypt_patches(x, keys)
    assert each.dtype == patches.dtype == torch.uint8
    for n, key in enumerate(keys):
        assert torch.equal(each[n], encrypt_images(x[n], key))
        i, j = divmod(n, 4)  # row by row
        assert torch.equal(segment(patches, 2)[:, i, j], segment(encrypt_images(x, key), 2)[:, i, j])


@pytest.mark.parametrize("encrypt", [encrypt_each, encrypt_patches])
def test_inverse_keys_decrypt_and_others_do_not(encrypt, digits: tuple[Tensor, Tensor]) -> None:  # type: ignore[no-untyped-def]
    x, keys = digits[0][:16], keys_for(16)
    hidden = encrypt(x, keys)
    assert torch.equal(encrypt(hidden, [key.inverse() for key in keys]), x)
    assert not torch.equal(encrypt(hidden, [key.inverse() for key in reversed(keys)]), x)
    with pytest.raises(ValueError, match="one key for each"):
        encrypt(x, keys[:15])


def test_no_convolution_absorbs_keys_per_patch_but_an_unshared_embedding_does(digits: tuple[Tensor, Tensor]) -> None:
    model, keys = load_pretrained("digits"), keys_for(16)
    x, y = digits
    hidden = encrypt_patches(x, keys)
    assert accuracy(model, x, y) > 0.95
    assert all(accuracy(encrypt_model(model, key), hidden, y) < 0.6 for key in keys)
    E = patch_matrix(model)
    unshared = torch.stack([patch_matrix(encrypt_model(model, key)) for key in keys]).reshape(4, 4, *E.shape)
    z = torch.einsum("nijp,ijpd->nijd", segment(normalize(hidden), 2), unshared)
    assert torch.allclose(z, segment(normalize(x), 2) @ E, atol=1e-5)


def test_a_key_per_image_works_only_with_a_network_per_image(digits: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = load_pretrained("digits"), digits
    keys = [Key.from_seed(seed % 40, 2, 1) for seed in range(len(x))]
    hidden = encrypt_each(x, keys)
    assert accuracy(encrypt_model(model, keys[0]), hidden, y) < 0.6
    right = [accuracy(encrypt_model(model, keys[n]), hidden[n : n + 1], y[n : n + 1]) for n in range(40)]
    assert sum(right) == sum(accuracy(model, x[n : n + 1], y[n : n + 1]) for n in range(40))


@given(SMALL, SEEDS)
def test_orthogonal_matrices_are_orthogonal_and_reproducible(shape: tuple[int, int], seed: int) -> None:
    Q = orthogonal_matrix(*shape, torch.Generator().manual_seed(seed))
    assert torch.allclose(Q @ Q.T, torch.eye(len(Q), dtype=Q.dtype), atol=1e-12)
    assert torch.equal(Q, orthogonal_matrix(*shape, torch.Generator().manual_seed(seed)))


def test_orthogonal_matrices_prefer_no_sign() -> None:
    """QR without the correction gives a fixed sign to the diagonal of R, and so to what Q does on average."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.stack([orthogonal_matrix(1, 3, generator)[0, 0] for _ in range(400)])
    assert abs(corners.sign().mean().item()) < 0.2  # four standard deviations; -1 without the correction


@given(st.data(), signed_permutations(SMALL))
def test_a_signed_permutation_is_a_mixture(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    mixed = mix_images(x, key.matrix(), key.patch_size)
    assert torch.equal(mixed, normalize(encrypt_images(x, key)))


def test_mixed_networks_give_the_same_logits_on_mixed_images_only(digits: tuple[Tensor, Tensor]) -> None:
    model, (x, y) = load_pretrained("digits").double(), digits
    Q = orthogonal_matrix(2, 1, torch.Generator().manual_seed(0))
    mixed = mix_blocks((2 * x.double() - 255) / 255, Q, 2)
    with torch.inference_mode():
        plain, logits = model((2 * x.double() - 255) / 255), mix_model(model, Q)(mixed)
        locked = mix_model(model, Q)((2 * x.double() - 255) / 255)
    assert torch.allclose(logits, plain, atol=1e-10)
    assert (locked.argmax(1) == y).double().mean() < 0.6
    assert mix_images(x, Q, 2).abs().max() > 1  # not pixels any more
    with pytest.raises(ValueError, match="Q must be 4 x 4"):
        mix_images(x, orthogonal_matrix(2, 2, torch.Generator()), 2)


def test_noise_is_of_the_size_that_was_asked_for_and_never_wraps() -> None:
    x = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat_interleave(3000).reshape(3, 1, 50, 60)
    noisy = add_noise(x, 8, torch.Generator().manual_seed(0))
    assert noisy.dtype == torch.uint8
    assert abs(noisy[1].float().std().item() - 8) < 0.5
    assert noisy[0].max() < 64  # 0 - 5 would be 251
    assert noisy[2].min() > 192
    assert torch.equal(noisy, add_noise(x, 8, torch.Generator().manual_seed(0)))
    with pytest.raises(TypeError, match="uint8"):
        add_noise(x.float(), 8, torch.Generator())
    with pytest.raises(ValueError, match="negative"):
        add_noise(x, -1, torch.Generator())


# Ciphertext only against the variants


def test_mixed_digits_alone_give_the_matrix(digits: tuple[Tensor, Tensor]) -> None:
    """Nearly: 360 digits are a sample. A single direction with the wrong sign would make it 1/2."""
    prior = image_statistics(load_digits("train")[0], 2)
    for count, overlap in ((10, 0.99), (360, 0.999)):
        for seed in range(3):
            Q = orthogonal_matrix(2, 1, torch.Generator().manual_seed(seed))
            found = unmix(mix_images(digits[0][:count], Q, 2), prior)
            assert torch.allclose(found @ found.T, torch.eye(4, dtype=found.dtype), atol=1e-6)
            assert (found * Q).sum() / 4 > overlap


def test_mixed_noise_gives_nothing() -> None:
    prior = image_statistics(load_digits("train")[0], 2)
    noise = torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Q = orthogonal_matrix(2, 1, torch.Generator().manual_seed(0))
    assert (unmix(mix_images(noise, Q, 2), prior) * Q).sum() / 4 < 0.5
    with pytest.raises(ValueError, match=r"the prior is for images \(N, 1, H, W\)"):
        unmix(torch.zeros(1, 3, 8, 8), prior)


def test_keys_per_patch_fall_to_360_encrypted_digits(digits: tuple[Tensor, Tensor]) -> None:
    for start in (0, 100):
        keys = [Key.from_seed(start + n, 2, 1) for n in range(16)]
        hidden = encrypt_patches(digits[0], keys)
        found = unlock_patches(hidden, load_digits("train")[0], 2)
        # Pixels that are black in every digit cannot be told apart, and need not be.
        assert torch.equal(encrypt_patches(hidden, [recovery.key.inverse() for recovery in found]), digits[0])
        assert found == unlock_patches(hidden, load_digits("train")[0], 2)


def test_keys_per_patch_that_change_with_the_image_are_safe_from_this(digits: tuple[Tensor, Tensor]) -> None:
    rows = [[Key.from_seed(16 * i + n, 2, 1) for n in range(16)] for i in range(50)]
    hidden = torch.stack([encrypt_patches(image, keys) for image, keys in zip(digits[0], rows, strict=False)])
    found = unlock_patches(hidden, load_digits("train")[0], 2)
    opened = encrypt_patches(hidden, [recovery.key.inverse() for recovery in found]).float()
    assert (opened - digits[0][:50].float()).abs().mean() > 50
    with pytest.raises(ValueError, match="must have one size"):
        unlock_patches(hidden, torch.zeros(1, 1, 16, 16, dtype=torch.uint8), 2)
