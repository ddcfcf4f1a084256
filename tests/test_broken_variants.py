"""A gallery of broken variants: for each, the wrong code, how it shows, and a check that tells it from the right code.

The page "A gallery of broken variants" tells their stories.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from math import comb, factorial, log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import images_for, signed_permutations
from torch import Tensor

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_images,
    encrypt_images,
    encrypt_model,
    key_space_bits,
    normalize,
    patch_matrix,
    set_patch_matrix,
)
from mixerkey.blocks import integrate, segment

Cipher = Callable[[Tensor, SignedPermutation], Tensor]
Draw = Callable[[int, int], tuple[Tensor, Tensor]]  # a seed and p_b -> v, r


# The transposed permutation


def transposed(x: Tensor, key: SignedPermutation) -> Tensor:
    """Sends pixel k to v_k, instead of fetching it from there."""
    blocks, out = segment(x, key.patch_size), torch.empty_like(segment(x, key.patch_size))
    out[..., key.permutation] = blocks
    return integrate(out ^ (key.flips.to(torch.uint8) * 255), key.patch_size)


def follows_eq4(encrypt: Cipher) -> bool:
    """A 3-cycle tells a permutation from its inverse; an exchange of two does not."""
    key = SignedPermutation([1, 2, 0, 3], [0] * 4, 2, 1)
    return encrypt(torch.tensor([[[10, 11], [12, 13]]], dtype=torch.uint8), key).flatten().tolist() == [11, 12, 10, 13]


def test_the_transposed_permutation_is_caught_by_a_3_cycle() -> None:
    assert follows_eq4(encrypt_images)
    assert not follows_eq4(transposed)


@given(st.data(), signed_permutations())
def test_a_round_trip_does_not_catch_it(data: st.DataObject, key: SignedPermutation) -> None:
    x = data.draw(images_for(key))
    back = key.permutation.argsort()
    undo = SignedPermutation(back, key.flips[key.permutation], key.patch_size, key.channels)  # its own, wrong inverse
    assert torch.equal(transposed(transposed(x, key), undo), x)


def test_the_transposed_permutation_loses_the_accuracy(model: ConvMixer, digits: tuple[Tensor, Tensor]) -> None:
    key = Key([1, 2, 3, 0], [0, 1, 0, 1], 2, 1)
    locked = encrypt_model(model, key)
    assert accuracy(locked, encrypt_images(digits[0], key), digits[1]) > 0.95
    assert accuracy(locked, transposed(digits[0], key), digits[1]) < 0.8
    own_inverse = Key([1, 0, 3, 2], [0, 1, 0, 1], 2, 1)  # where v is its own inverse, it is not even wrong
    assert torch.equal(transposed(digits[0], own_inverse), encrypt_images(digits[0], own_inverse))


# Flips that are not half, and keys that are not independent


def right_draw(seed: int, size: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=rng), torch.randperm(size, generator=rng) >= size // 2


def too_few(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """The ranks are 0 … 47, so `>` leaves 25 … 47: 23 of 48."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=rng), torch.randperm(size, generator=rng) > size // 2


def one_seed(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """K1 and K2 from the same seed are the same random numbers."""
    v = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    r = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) >= size // 2
    return v, r


def flips_half(draw: Draw) -> bool:
    return all(int(draw(seed, 48)[1].sum()) == 24 for seed in range(20))


def independent(draw: Draw) -> bool:
    """Of the flipped pixels, as many should come from one half of the block as from the other."""
    second = [int((v[r] >= 24).sum()) for v, r in (draw(seed, 48) for seed in range(100))]
    return abs(sum(second) / len(second) - 12) < 1  # six standard deviations


def test_a_strict_inequality_flips_23_of_48_and_only_counting_shows_it(
    model: ConvMixer, digits: tuple[Tensor, Tensor]
) -> None:
    assert flips_half(right_draw)
    assert not flips_half(too_few)
    assert {int(too_few(seed, 48)[1].sum()) for seed in range(20)} == {23}
    with pytest.raises(ValueError, match="flips exactly 24 of 48 pixels"):
        Key(*too_few(0, 48), 4, 3)
    assert log2(comb(48, 24)) > log2(comb(48, 23))  # the fewer, though by little
    key = SignedPermutation(*too_few(0, 4), 2, 1)  # the accuracy says nothing
    assert accuracy(encrypt_model(model, key), *digits, key) == accuracy(model, *digits)


def test_one_seed_for_both_keys_makes_the_flips_a_function_of_the_permutation() -> None:
    assert independent(right_draw)
    assert not independent(one_seed)
    for seed in range(20):
        v, r = one_seed(seed, 48)
        assert torch.equal(r, v >= 24)
        Key(v, r, 4, 3)  # well formed: no check of a single key can see it
    assert independent(lambda seed, size: ((key := Key.from_seed(seed, 4, 3)).permutation, key.flips))
    assert key_space_bits(4, 3) - log2(factorial(48)) > 44  # what is lost


# A seeded key


def find_seed(plain: Tensor, encrypted: Tensor, draw: Draw, bits: int) -> int | None:
    """Try all seeds on one known block (p_b,)."""
    for seed in range(2**bits):
        v, r = draw(seed, len(plain))
        if torch.equal(plain[v] ^ (r.to(torch.uint8) * 255), encrypted):
            return seed
    return None


def test_a_seed_is_found_by_trying_and_operating_system_entropy_is_not() -> None:
    block = torch.randint(256, (48,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    v, r = right_draw(2**12 - 1, 48)
    assert find_seed(block, block[v] ^ (r.to(torch.uint8) * 255), right_draw, 12) == 2**12 - 1
    key = Key.generate(4, 3)
    hidden = block[key.permutation] ^ (key.flips.to(torch.uint8) * 255)
    assert find_seed(block, hidden, right_draw, 12) is None


# Normalisation by the mean and deviation of the data


def normalised_by(mean: float, deviation: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x / 255 - mean) / deviation


def flip_is_a_sign(normalise: Callable[[Tensor], Tensor]) -> bool:
    p = torch.arange(256, dtype=torch.uint8)
    return torch.allclose(normalise(255 - p), -normalise(p), atol=1e-6)


def test_only_the_mean_one_half_makes_a_flip_a_sign() -> None:
    assert flip_is_a_sign(normalize)
    assert flip_is_a_sign(normalised_by(0.5, 0.3))  # the deviation does not matter
    for mean, deviation in ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)):  # CIFAR-10's, as everybody uses them
        assert not flip_is_a_sign(normalised_by(mean, deviation))


def test_normalisation_by_the_data_costs_the_encrypted_pair_its_accuracy(
    model: ConvMixer, digits: tuple[Tensor, Tensor]
) -> None:
    """The same network, its embedding rewritten for (p - mean) / deviation: as good on plain images."""
    x, y = digits
    mean, deviation = (x / 255).mean().item(), (x / 255).std().item()
    normalise, E = normalised_by(mean, deviation), patch_matrix(model)
    rewritten = set_patch_matrix(model, 2 * deviation * E)
    with torch.no_grad():
        rewritten.get_parameter("0.bias").add_((2 * mean - 1) * E.sum(0))

    def right(network: ConvMixer, images: Tensor) -> float:
        with torch.inference_mode():
            return (network(normalise(images)).argmax(1) == y).double().mean().item()

    key = Key.from_seed(3, 2, 1)
    plain = right(rewritten, x)
    assert abs(plain - accuracy(model, x, y)) < 0.01
    assert right(encrypt_model(rewritten, key), encrypt_images(x, key)) < plain - 0.1


# JPEG after encryption


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Grey images (N, 1, H, W) through JPEG."""
    out = []
    for image in x[:, 0]:
        stream = io.BytesIO()
        Image.fromarray(image.numpy()).save(stream, format="JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(Image.open(stream))))
    return torch.stack(out)[:, None]


def test_jpeg_after_encryption_costs_accuracy_and_before_it_nothing_more(
    model: ConvMixer, digits: tuple[Tensor, Tensor]
) -> None:
    (x, y), key = digits, Key([3, 0, 1, 2], [0, 1, 1, 0], 2, 1)
    hidden, locked = encrypt_images(x, key), encrypt_model(model, key)
    assert torch.equal(decrypt_images(hidden, key), x)
    damaged = decrypt_images(jpeg(hidden, 30), key)
    loss = (damaged.float() - x.float()).square().mean()
    assert loss > 1.2 * (jpeg(x, 30).float() - x.float()).square().mean()
    assert accuracy(locked, jpeg(hidden, 10), y) < accuracy(model, jpeg(x, 10), y) - 0.04
    assert accuracy(locked, encrypt_images(jpeg(x, 10), key), y) == accuracy(
        model, jpeg(x, 10), y
    )  # before, it is fine


# A key in a pickle


class Trap:
    """What a pickle may hold in the place of a key: a call, to be made by whoever loads it. Never loaded here."""

    def __reduce__(self) -> tuple:
        return print, ("whatever the sender wants",)


def runs_code(data: bytes) -> bool:
    """Whether loading a pickle would call something, read from its opcodes without loading it."""
    return any(
        opcode.name in ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX") for opcode, _, _ in pickletools.genops(data)
    )


def test_a_pickle_calls_functions_when_loaded_and_a_key_refuses_to_be_one() -> None:
    key = Key.from_seed(1, 4, 3)
    assert not runs_code(pickle.dumps({"permutation": key.permutation.tolist()}))
    assert runs_code(pickle.dumps(Trap()))
    assert runs_code(pickle.dumps(key.permutation))  # an innocent tensor too: one cannot tell by looking for calls
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)
