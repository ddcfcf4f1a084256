"""Attacks that have pairs: known and chosen images, several models, a public checkpoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixerkey import ConvMixer, Key, encrypt_images, encrypt_model, load_pretrained, patch_matrix, set_patch_matrix
from mixerkey.attacks.challenge import photo_tiles
from mixerkey.attacks.checkpoint import (
    from_checkpoint,
    from_initialization,
    mixture_from_checkpoint,
    order_from_positions,
)
from mixerkey.attacks.chosen import chosen_under_noise
from mixerkey.attacks.jigsaw import order_from_neighbours, solve_jigsaw
from mixerkey.attacks.pairs import block_pairs, known_scrambled, least_squares, procrustes, signed_assignment
from mixerkey.attacks.relative import keys_between_places, relative_key
from mixerkey.blocks import integrate, segment
from mixerkey.data import load_digits
from mixerkey.keys import BlockKey, BlockOrder, MatrixKey, PatchKeys, SignedPermutation
from mixerkey.receipts import load_receipt
from mixerkey.training import initialize

SEEDS = st.integers(0, 10**6)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


@given(SEEDS)
def test_signed_assignment_is_the_best_of_all_keys(seed: int) -> None:
    """Against the 384 signed permutations of four positions, on noise: least squares, exactly."""
    x, y = normal(6, 4, seed=seed), normal(6, 4, seed=seed + 1)
    found = signed_assignment(x, y, 2, 1).key
    error = ((y - found.act(x)) ** 2).sum()
    every = (
        SignedPermutation(key.permutation, flips, 2, 1)
        for key in Key.every(2, 1)
        for flips in torch.cartesian_prod(*[torch.tensor([0, 1])] * 4)
    )
    assert all(((y - key.act(x)) ** 2).sum() >= error - 1e-9 for key in every)


@given(SEEDS)
def test_signed_assignment_says_exactly_what_the_pairs_do_not_show(seed: int) -> None:
    key = SignedPermutation.from_seed(seed, 2, 2)
    x = normal(3, 8, seed=seed)
    assert signed_assignment(x, key.act(x), 2, 2).ambiguous == ()
    x[:, 1], x[:, 2], x[:, 3] = x[:, 0], -x[:, 0], 0
    found = signed_assignment(x, key.act(x), 2, 2)
    assert len(found.ambiguous) == 3  # two exchanges connect three positions, one flip of a zero
    assert found.score == 1
    for g in found.ambiguous:
        assert torch.allclose(g.act(x), x)
        assert g.then(found.key) != found.key


def test_doubt_grows_with_noise() -> None:
    key, x = Key.from_seed(0, 2, 3), normal(30, 12)
    few, many = (signed_assignment(x, key.act(x) + s * normal(30, 12, seed=1), 2, 3) for s in (0.1, 3.0))
    assert few.key == key
    assert few.ambiguous == ()
    assert many.ambiguous
    assert many.score < few.score < 1


@given(SEEDS)
def test_least_squares_finds_any_matrix_from_p_b_pairs(seed: int) -> None:
    key, x = MatrixKey.invertible(2, 1, seed), normal(4, 4, seed=seed)
    found = least_squares(x, key.act(x), 2, 1)
    assert (found.key.matrix() - key.matrix()).abs().max() < 1e-6 * torch.linalg.cond(x)
    assert found.ambiguous == ()
    assert abs(found.score - 1) < 1e-9


def test_too_few_pairs_leave_what_they_leave() -> None:
    key, x = MatrixKey.orthogonal(2, 1, seed=0), normal(3, 4)
    found = least_squares(x, key.act(x), 2, 1)
    (g,) = found.ambiguous
    assert torch.allclose(g.act(x), x)
    assert torch.allclose(procrustes(x, key.act(x), 2, 1).key.act(x), key.act(x))


@pytest.mark.parametrize("key", [Key.from_seed(1, 4, 3), MatrixKey.orthogonal(4, 3, seed=1)])
def test_noise_costs_the_attacker_queries_and_nothing_else(key: BlockKey) -> None:
    noise = rng(5)

    def oracle(image: Tensor) -> Tensor:
        noisy = (image + 32 * torch.randn(image.shape, generator=noise)).round().clamp(0, 255).to(torch.uint8)
        return encrypt_images(noisy, key)

    if isinstance(key, MatrixKey):
        errors = [
            (chosen_under_noise(oracle, 4, 3, rng(), queries=n, solve=procrustes).key.matrix() - key.matrix()).norm()
            for n in (2, 32)
        ]
        assert errors[1] < errors[0] / 2  # as the root of the number of queries
    else:
        assert all(chosen_under_noise(oracle, 4, 3, rng(seed)).key == key for seed in range(5))


def test_known_blocks_that_changed_places_are_found_again() -> None:
    secret = Key.from_seed(1, 2, 1).then(BlockOrder.from_seed(2, 2, 1, grid=(4, 4)))
    x = load_digits("test")[0]
    found = known_scrambled(x, encrypt_images(x, secret), 2)
    assert torch.equal(encrypt_images(x, found.key), encrypt_images(x, secret))
    y = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8, generator=rng())
    assert known_scrambled(y, encrypt_images(y, secret), 2).key == secret
    blank = y.clone()
    blank[:, :, :4] = 0
    assert len(known_scrambled(blank, encrypt_images(blank, secret), 2).ambiguous) >= 7  # eight places alike


def test_pairs_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        block_pairs(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 2), 2)


@given(SEEDS, st.sampled_from(["signed", "orthogonal", "invertible"]))
def test_two_models_of_one_network_give_the_relative_key(seed: int, kind: str) -> None:
    """(T_a⁻¹ E)(T_b⁻¹ E)⁺ = T_a⁻¹ T_b, where E has full row rank."""
    make = {"signed": Key.from_seed, "orthogonal": None, "invertible": None}[kind]
    model = load_pretrained("digits").double()
    if make:
        a, b = make(seed, 2, 1), make(seed + 1, 2, 1)
    else:
        a, b = (getattr(MatrixKey, kind)(2, 1, s) for s in (seed, seed + 1))
    found = relative_key(encrypt_model(model, a), encrypt_model(model, b), 2, 1)
    expected = a.inverse().then(b)
    if kind == "signed":
        assert found.key == expected
    else:
        assert (found.key.matrix() - expected.matrix()).abs().max() < 1e-7 * a.condition * b.condition
    assert found.ambiguous == ()


def test_keys_per_place_are_one_key_to_whoever_holds_the_embedding() -> None:
    keys = PatchKeys([MatrixKey.orthogonal(2, 1, seed) for seed in range(16)], (4, 4))
    locked = encrypt_model(load_pretrained("digits"), keys)
    x = load_digits("test")[0][:20]
    hidden, between = encrypt_images(x, keys), keys_between_places(locked[0], 1)  # type: ignore[arg-type]
    one = integrate(between.act(segment(hidden, 2)), 2)
    assert torch.allclose(one, encrypt_images(x, keys.keys[0]), atol=1e-4)


def fine_tuned(model: ConvMixer, noise: float) -> ConvMixer:
    E = patch_matrix(model)
    return set_patch_matrix(model, E + noise * E.std() * torch.randn(E.shape, generator=rng(3)))


def test_a_public_checkpoint_gives_the_key_and_another_network_does_not() -> None:
    public, key = load_pretrained("cifar10"), Key.from_seed(4, 4, 3)
    victim = encrypt_model(fine_tuned(public, 0.5), key)
    found = from_checkpoint(victim, public, 4, 3)
    assert found.key == key
    stranger = ConvMixer(256, 1)
    initialize(stranger, rng(1))
    assert from_checkpoint(victim, stranger, 4, 3).key != key
    assert from_checkpoint(victim, stranger, 4, 3).score < 0.5 < found.score
    mixing = MatrixKey.orthogonal(4, 3, seed=4)
    exact = mixture_from_checkpoint(encrypt_model(public, mixing), public, 4, 3).key
    assert (exact.matrix() - mixing.matrix()).abs().max() < 1e-4


def test_the_seed_of_the_training_gives_the_key() -> None:
    """64 epochs do not make the shipped network forget the weights that it began with."""
    key = Key.from_seed(5, 4, 3)
    locked = encrypt_model(load_pretrained("cifar10"), key)
    seed, found = from_initialization(locked, [1, 2, 0])
    assert seed == load_receipt("cifar10")["seed"] == 0
    assert found.key == key
    assert from_initialization(locked, [1, 2])[1].score < 0 < found.score
    with pytest.raises(ValueError, match="at least one seed"):
        from_initialization(locked, [])


def test_positions_give_the_order_of_blocks() -> None:
    order = BlockOrder.from_seed(1, 4, 3, grid=(8, 8))
    positions = normal(64, 24)
    noisy = positions[order.order] + 0.3 * normal(64, 24, seed=1)
    assert order_from_positions(noisy, positions, order).key == order


@pytest.mark.parametrize("seed", range(3))
def test_positions_of_neighbours_give_the_order_up_to_the_grids_symmetries(seed: int) -> None:
    """From the shipped transformer alone; without learned positions the steps fit no grid."""
    order = BlockOrder.from_seed(seed, 4, 3, grid=(8, 8))
    learned = load_pretrained("vit").positions.detach()
    found = order_from_neighbours(learned[order.order], order)
    assert found.score == pytest.approx(1)
    assert order in [found.key, *(turned.then(found.key) for turned in found.ambiguous)]
    control = order_from_neighbours(normal(64, 128, seed=seed), order)
    assert control.score < 0.8
    assert order not in [control.key, *(turned.then(control.key) for turned in control.ambiguous)]


def test_a_rectangle_has_three_symmetries_besides_and_positions_must_fit_it() -> None:
    order = BlockOrder.from_seed(0, 4, 3, grid=(4, 6))
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    bumps = torch.stack([torch.exp(-((row - y) ** 2 + (column - x) ** 2)) for y in range(4) for x in range(6)])
    found = order_from_neighbours(bumps.flatten(1)[order.order], order)
    assert order in [found.key, *(turned.then(found.key) for turned in found.ambiguous)]
    assert len(found.ambiguous) == 3
    with pytest.raises(ValueError, match="one position for each of 4 x 6 places"):
        order_from_neighbours(bumps.flatten(1)[1:], order)


# From pictures alone: the order of blocks


@pytest.mark.parametrize(("M", "count"), [(8, 30), (4, 100)])
def test_borders_give_the_order_of_blocks(M: int, count: int) -> None:
    x = photo_tiles("left")[:count]
    for seed in range(3):
        order = BlockOrder.from_seed(seed, M, 3, grid=(32 // M, 32 // M))
        found = solve_jigsaw(encrypt_images(x, order), M)
        assert found.key == order
        assert found.score > 0.8


def test_noise_has_no_borders() -> None:
    noise = torch.randint(256, (30, 3, 32, 32), dtype=torch.uint8, generator=rng())
    order = BlockOrder.from_seed(1, 8, 3, grid=(4, 4))
    found = solve_jigsaw(encrypt_images(noise, order), 8)
    assert found.key != order
    assert found.score < 0.3
    with pytest.raises(ValueError, match="no borders"):
        solve_jigsaw(noise, 1)
