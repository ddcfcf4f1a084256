"""Blocks and the image cipher: segmentation, Eq. (4) to (7), integration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SHAPES, images_for, keys, signed_permutations
from torch import Tensor

from mixerkey import Key, SignedPermutation, decrypt_images, encrypt_images, network_input, normalize
from mixerkey.blocks import integrate, segment
from mixerkey.keys import BlockKey, MatrixKey, block_size


@given(data=st.data(), key=keys())
def test_segmentation_takes_each_block_in_the_order_channel_row_column(data: st.DataObject, key: Key) -> None:
    x = data.draw(images_for(key))
    M, blocks = key.patch_size, segment(x, key.patch_size)
    h, w = x.shape[-2] // M, x.shape[-1] // M
    assert blocks.shape == (*x.shape[:-3], h, w, block_size(M, key.channels))
    for i in range(h):
        for j in range(w):
            block = x[..., i * M : (i + 1) * M, j * M : (j + 1) * M]
            assert torch.equal(blocks[..., i, j, :], block.flatten(-3))
    assert torch.equal(integrate(blocks, M), x)


@pytest.mark.parametrize(
    ("shape", "M", "message"),
    [
        ((3, 30, 32), 4, "divisible by the block size 4, got 30 x 32"),
        ((3, 32, 30), 4, "got 32 x 30"),
        ((32, 32), 4, "must have shape"),
        ((3, 4, 4), 0, "at least 1"),
    ],
)
def test_images_that_do_not_fit_the_grid_are_refused(shape: tuple, M: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(torch.zeros(shape), M)


@pytest.mark.parametrize("shape", [(2, 2, 50), (2, 48)])
def test_blocks_that_make_no_image_are_refused(shape: tuple) -> None:
    with pytest.raises(ValueError, match="blocks must have shape"):
        integrate(torch.zeros(shape), 4)


def by_hand(x: Tensor, key: SignedPermutation) -> Tensor:
    """Eq. (4) and (5) pixel by pixel."""
    M = key.patch_size
    blocks, v, r = segment(x, M), key.permutation.tolist(), key.flips.tolist()
    result = torch.empty_like(blocks)
    for k in range(len(v)):
        result[..., k] = blocks[..., v[k]]  # Eq. (4)
        if r[k]:
            result[..., k] ^= 2**8 - 1  # Eq. (5)
    return integrate(result, M)


@given(data=st.data(), key=signed_permutations())
def test_eq4_eq5_pixel_by_pixel(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    encrypted = encrypt_images(x, key)
    assert encrypted.dtype == torch.uint8
    assert torch.equal(encrypted, by_hand(x, key))


@given(data=st.data(), key=signed_permutations())
def test_decryption_is_exact_on_uint8(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    assert torch.equal(decrypt_images(encrypt_images(x, key), key), x)
    assert torch.equal(encrypt_images(decrypt_images(x, key), key), x)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53), (torch.bfloat16, 8)])
@given(key=signed_permutations(), seed=st.integers(0, 2**32 - 1))
def test_eq6_on_floats_is_one_minus_x_and_exact_on_the_grid(
    key: SignedPermutation, seed: int, dtype: torch.dtype, bits: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, key.channels, key.patch_size, 2 * key.patch_size)
    x = (torch.randint(2**bits + 1, shape, generator=generator).double() / 2**bits).to(dtype)
    encrypted = encrypt_images(x, key)
    assert encrypted.dtype == dtype
    shuffled = encrypt_images(x, SignedPermutation(key.permutation, [False] * len(key.flips), *shape_of(key)))
    flips = integrate(key.flips.expand(1, 1, 2, -1), key.patch_size)
    assert torch.equal(encrypted, torch.where(flips, 1 - shuffled, shuffled))  # Eq. (6)
    assert torch.equal(decrypt_images(encrypted, key), x)


def shape_of(key: SignedPermutation) -> tuple[int, int]:
    return key.patch_size, key.channels


@given(key=signed_permutations(), seed=st.integers(0, 2**32 - 1))
def test_off_the_grid_floats_come_back_to_half_a_step(key: SignedPermutation, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(256, (2, key.channels, key.patch_size, key.patch_size), generator=generator)
    x = levels.float() / 255
    back = decrypt_images(encrypt_images(x, key), key)
    assert (back - x).abs().max() <= 2**-25
    assert torch.equal((back * 255).round().long(), levels)


def test_normalize_is_exactly_odd_on_all_levels_eq7() -> None:
    p = torch.arange(256, dtype=torch.uint8)
    n = normalize(p)
    assert n.dtype == torch.float32
    assert torch.equal(normalize(p ^ 255), -n)
    assert torch.equal(n.double(), ((2 * p.double() - 255) / 255).float().double())  # correctly rounded
    naive = ((p.float() / 255) - 0.5) / 0.5
    flipped = (((255 - p).float() / 255) - 0.5) / 0.5
    assert int((flipped != -naive).sum()) == 128  # why the naive way will not do


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_normalize_is_exactly_odd_on_floats_eq7(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(100_000, dtype=torch.float64, generator=generator)
    x = torch.cat([wide, wide**20, torch.arange(256) / 255, torch.tensor([0.0, 0.5, 1.0])]).to(dtype)
    assert torch.equal(normalize(1 - x), -normalize(x))
    assert (normalize(x).double() - (2 * x.double() - 1)).abs().max() <= 2 * max(
        torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    )
    assert normalize(x).dtype == torch.float32


@pytest.mark.parametrize("floats", [False, True])
@given(data=st.data(), key=signed_permutations())
def test_encrypt_then_normalize_is_permute_and_negate_bit_for_bit_eq7(
    data: st.DataObject, key: SignedPermutation, floats: bool
) -> None:
    x = data.draw(images_for(key))
    pixels = x / 255 if floats else x
    plain = segment(normalize(pixels), key.patch_size)
    signs = torch.where(key.flips, -1.0, 1.0)
    encrypted = segment(normalize(encrypt_images(pixels, key)), key.patch_size)
    assert torch.equal(encrypted, signs * plain[..., key.permutation])
    assert torch.equal(encrypted.double(), plain.double() @ key.matrix())


@given(SHAPES.flatmap(lambda s: st.tuples(*[signed_permutations(st.just(s))] * 2)), st.data())
def test_then_is_one_after_the_other(two: tuple[SignedPermutation, SignedPermutation], data: st.DataObject) -> None:
    a, b = two
    x = data.draw(images_for(a))
    assert torch.equal(encrypt_images(encrypt_images(x, a), b), encrypt_images(x, a.then(b)))


def test_the_input_is_left_as_it_was() -> None:
    x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    before = x.clone()
    encrypt_images(x, Key.generate(4, 3))
    assert torch.equal(x, before)


def test_views_and_empty_batches_are_images_too() -> None:
    key = Key.generate(4, 3)
    x = torch.randint(256, (5, 16, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # channels last in memory
    assert torch.equal(encrypt_images(x, key), encrypt_images(x.contiguous(), key))
    assert encrypt_images(x[:0], key).shape == (0, 3, 16, 8)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 8, 8, dtype=torch.uint8), ValueError, r"images \(..., 3, H, W\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), ValueError, r"images \(..., 3, H, W\)"),
        (torch.zeros(3, 6, 8, dtype=torch.uint8), ValueError, "divisible by the block size 4"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), TypeError, "uint8 or floating point, got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), TypeError, "uint8 or floating point, got torch.bool"),
        (torch.full((3, 8, 8), float("nan")), ValueError, r"lie in \[0, 1\] without NaN"),
        (torch.full((3, 8, 8), 1.5), ValueError, "divide 8-bit values by 255"),
        (torch.full((3, 8, 8), -0.5), ValueError, "encrypt before normalising"),
        ([[0]], TypeError, "torch.Tensor, got list"),
    ],
)
def test_bad_images_are_refused(x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encrypt_images(x, Key.generate(4, 3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64, float, "float32"])
@pytest.mark.parametrize("key", [None, Key.from_seed(0, 4, 3), MatrixKey.orthogonal(4, 3, seed=0)])
def test_a_network_takes_floating_point_only(key: BlockKey | None, dtype: Any) -> None:
    for one in (key, [key]) if key else (key,):
        with pytest.raises(TypeError, match="a network takes floating-point numbers"):
            network_input(torch.rand(1, 3, 8, 8), one, dtype)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, keys: encrypt_images(x, keys), ValueError, "some keys move pixels and some mix them"),
        (lambda x, keys: encrypt_images(x / 255, keys), ValueError, "some keys move pixels and some mix them"),
        (lambda x, keys: decrypt_images(x / 255, keys), ValueError, "some keys move pixels and some mix them"),
        (lambda x, keys: decrypt_images(x.numpy(), keys[1]), TypeError, "torch.Tensor, got ndarray"),
        (lambda x, keys: decrypt_images((x / 255).to_sparse(), keys[1]), TypeError, "a dense tensor"),
    ],
)
def test_keys_that_mix_pixels_take_images_of_their_own(
    call: Callable[[Tensor, list[BlockKey]], object], error: type[Exception], message: str
) -> None:
    keys = [Key.from_seed(0, 4, 3), MatrixKey.orthogonal(4, 3, seed=0)]
    x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    with pytest.raises(error, match=message):
        call(x, keys)
    expected = torch.stack([network_input(image, key) for image, key in zip(x, keys, strict=True)])
    assert torch.equal(network_input(x, keys), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to_sparse(),
        lambda x: torch.nested.nested_tensor([x, x]),
        lambda x: torch.masked.masked_tensor(x, x > 0.5),
        lambda x: x.to("meta"),
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: x.to(torch.complex64),
        lambda x: (x * 255).short(),
    ],
    ids=["sparse", "nested", "masked", "meta", "float8", "complex", "int16"],
)
def test_tensors_of_other_kinds_are_refused_by_name(make: Callable[[Tensor], Tensor]) -> None:
    for encrypt in (encrypt_images, network_input):
        with pytest.raises(TypeError, match="images must be"):
            encrypt(make(torch.rand(3, 8, 8)), Key.from_seed(0, 4, 3))
