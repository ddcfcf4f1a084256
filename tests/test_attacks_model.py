"""Attacks by whoever holds the encrypted model: that they work, and that they fail where they must."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS
from torch import Tensor

from mixerkey import (
    ConvMixer,
    Key,
    SignedPermutation,
    accuracy,
    decrypt_images,
    decrypt_model,
    encrypt_images,
    encrypt_model,
    load_pretrained,
    patch_matrix,
    set_patch_matrix,
)
from mixerkey.attacks import Recovery, annealed, annealing, image_statistics, naturalness
from mixerkey.attacks.ciphertext import relatives
from mixerkey.attacks.fine_tuning import fine_tune_embedding
from mixerkey.attacks.model_only import (
    brightness,
    by_fit,
    decrypted,
    expected_grams,
    gram,
    mismatch,
    model_only,
    settle,
)
from mixerkey.attacks.queries import hill_climb, labelled_loss, relaxed_permutation
from mixerkey.attacks.recovery import as_key
from mixerkey.cipher import normalize
from mixerkey.data import load_digits
from mixerkey.experiments.trials import pictures
from mixerkey.keys import MatrixKey
from mixerkey.training import Recipe, initialize, train

Digits = tuple[Tensor, Tensor]
KEYS = [Key.from_seed(seed, 2, 1) for seed in range(20)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def public() -> Digits:
    return load_digits("train")


@pytest.fixture(scope="module")
def private() -> Digits:
    return load_digits("test")


@pytest.fixture(scope="module")
def surrogate(public: Digits) -> ConvMixer:
    """What an attacker trains: other first weights, another depth, fewer epochs."""
    recipe = Recipe(epochs=6, batch_size=64, peak_lr=0.01, crop=1)
    network, _ = train(
        ConvMixer(64, 2, 3, 2, in_channels=1), *public, recipe, seed=99, evaluate=lambda _: 0.0, progress=False
    )
    return network


# The model alone


@given(SEEDS)
def test_the_gram_matrix_and_brightness_pass_through_the_key(seed: int) -> None:
    model, key = load_pretrained("digits"), Key.from_seed(seed, 2, 1)
    T, encrypted = key.matrix().numpy(), encrypt_model(model, key)
    assert np.allclose(gram(encrypted), T.T @ gram(model) @ T)
    plain = brightness(encrypted) @ T.T
    assert (plain[0] > 0).all() or (plain[0] < 0).all()
    assert np.allclose(np.abs(plain), np.abs(brightness(model)))


def test_the_key_up_to_symmetries_from_the_model_and_a_surrogate(model: ConvMixer, surrogate: ConvMixer) -> None:
    for key in KEYS:
        recovery = model_only(encrypt_model(model, key), gram(surrogate), rng(), starts=1)
        assert isinstance(recovery.key, Key)
        assert key in {g.then(recovery.key) for g in relatives(2, 1)}
        flipped = SignedPermutation(range(4), [True] * 4, 2, 1)
        assert flipped in recovery.ambiguous  # a Gram matrix cannot see it


def test_public_images_settle_the_symmetries_by_batch_normalisation(
    model: ConvMixer, surrogate: ConvMixer, public: Digits
) -> None:
    for key in KEYS[:5]:
        encrypted = encrypt_model(model, key)
        recovery = model_only(encrypted, gram(surrogate), rng(), starts=1)
        everything = Recovery(recovery.key, recovery.score, tuple(relatives(2, 1)[1:]))
        settled = settle(everything, lambda k: -mismatch(decrypt_model(encrypted, k), public[0][:200]))  # noqa: B023
        assert settled.key == key
        assert settled.ambiguous == ()


def test_a_few_encrypted_images_or_labelled_images_settle_them_too(
    model: ConvMixer, surrogate: ConvMixer, public: Digits, private: Digits
) -> None:
    key = KEYS[3]
    encrypted, hidden = encrypt_model(model, key), encrypt_images(private[0][:20], key)
    recovery = model_only(encrypted, gram(surrogate), rng(), starts=1)
    everything = Recovery(recovery.key, recovery.score, tuple(relatives(2, 1)[1:]))
    prior = image_statistics(public[0], 2)
    by_sight = settle(everything, lambda k: naturalness(decrypt_images(hidden, k), prior))
    # Twenty digits do not tell up from down, but a flipped one is white on black.
    assert torch.equal(by_sight.key.flips, key.flips)
    by_labels = settle(everything, lambda k: accuracy(decrypt_model(encrypted, k), public[0][:200], public[1][:200]))
    assert by_labels.key == key


def right(key: SignedPermutation, truth: Key) -> int:
    """Positions, up to mirror images and orders of channels."""
    symmetries = relatives(truth.patch_size, truth.channels)
    return max(int((g.then(key).permutation == truth.permutation).sum()) for g in symmetries)


def test_the_shipped_networks_key_from_two_photographs_and_a_control() -> None:
    """The encrypted model and public pictures are enough; of random filters they tell nothing, in five starts either,
    as a chapter shows."""
    tiles = pictures("photographs")
    expected, key = expected_grams(tiles, 4), Key.from_seed(0, 4, 3)
    locked = encrypt_model(load_pretrained("cifar10"), key)
    found = model_only(locked, expected, rng(), starts=3)
    assert right(found.key, key) == 48
    assert by_fit(found, locked, tiles[::27]).key == key
    random = torch.randn(48, 256, generator=rng())
    control = model_only(set_patch_matrix(locked, key.dual().act(random.T).T), expected, rng(), starts=1)
    assert right(control.key, key) < 16


def test_patience_gets_the_search_out_of_hilltops_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    module, scores = import_module("mixerkey.attacks.model_only"), {}
    for patience in (1, 200):
        monkeypatch.setattr(module, "PATIENCE", patience)
        for seed in range(4):
            networks = [ConvMixer(32, 1, 3, 3, in_channels=3) for _ in range(2)]
            for i, network in enumerate(networks):
                initialize(network, rng(10 * seed + i))
            scores[patience, seed] = model_only(networks[0], gram(networks[1]), rng(), starts=1).score
    assert all(scores[200, seed] >= scores[1, seed] for seed in range(4))
    assert sum(scores[200, seed] > scores[1, seed] for seed in range(4)) >= 3


def test_relatives_are_told_by_fit_colours_first_and_mirror_images_by_all_layers(
    model: ConvMixer, public: Digits
) -> None:
    for key, g in product(KEYS[:2], relatives(2, 1)):
        start = Recovery(as_key(g.then(key)), 0.0, ())
        assert by_fit(start, encrypt_model(model, key), public[0][:200]).key == key


def remembering(images: Tensor, seed: int) -> ConvMixer:
    """Random filters: all that this network has from the pictures are the statistics that it stored."""
    network = ConvMixer(64, 1, 3, 2).train()
    initialize(network, rng(seed))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.inference_mode():
        network(normalize(images))
    return network.eval()


@pytest.fixture(scope="module")
def halves() -> tuple[Tensor, Tensor]:
    """Pictures of one kind: the owner's, and others."""
    tiles = pictures("photographs")
    mixed = tiles[torch.randperm(len(tiles), generator=rng())]
    return mixed[:300], mixed[300:400]


@pytest.mark.parametrize("seed", range(2))
def test_stored_statistics_betray_the_key_of_filters_without_structure(
    monkeypatch: pytest.MonkeyPatch, halves: tuple[Tensor, Tensor], seed: int
) -> None:
    monkeypatch.setattr(annealing, "STEPS", 3000)
    (own, public), key = halves, Key.from_seed(seed, 2, 3)
    network = remembering(own, seed)
    encrypted, begun = encrypt_model(network, key), Key.from_seed(99, 2, 3)
    found = annealed(Recovery(begun, 0.0), encrypted, public, rng(), rounds=3)
    assert isinstance(found.key, Key)
    assert key in {g.then(found.key) for g in relatives(2, 3)}
    assert set(relatives(2, 3)[1:]) <= set(found.ambiguous)
    settled = by_fit(found, encrypted, public)
    assert settled.key == key
    plain = decrypted(encrypted, as_key(found.key))
    assert -found.score == pytest.approx(mismatch(plain, public, 0), rel=0.01)


def test_a_search_that_went_astray_has_doubts(monkeypatch: pytest.MonkeyPatch, halves: tuple[Tensor, Tensor]) -> None:
    """Too few steps, or statistics of other channels: relatives are settled, others are not."""
    (own, public), key = halves, Key.from_seed(0, 2, 3)
    encrypted = encrypt_model(remembering(own, 0), key)
    elsewhere = encrypt_model(remembering(own, 0), key)
    for stored in (elsewhere.embedding_norm.running_mean, elsewhere.embedding_norm.running_var):
        assert stored is not None
        stored.copy_(stored.roll(1))
    for steps, network in ((50, encrypted), (3000, elsewhere)):
        monkeypatch.setattr(annealing, "STEPS", steps)
        found = by_fit(annealed(Recovery(Key.from_seed(99, 2, 3), 0.0), network, public, rounds=2), network, public)
        assert found.key != key
        assert found.ambiguous


def test_an_untrained_network_betrays_nothing(surrogate: ConvMixer) -> None:
    """No structure, no attack: what the Gram matrix and the variances say of random weights is chance."""
    hits = 0
    for seed in range(20):
        random = ConvMixer(64, 2, 3, 2, in_channels=1)
        initialize(random, rng(seed))
        key = Key.from_seed(seed, 2, 1)
        recovery = model_only(encrypt_model(random, key), gram(surrogate), rng(), starts=1)
        hits += key in {g.then(recovery.key) for g in relatives(2, 1)}
    assert hits <= 12  # a guess hits one of the 16 relatives in 144 keys; 1 in 3 with the right flips


def test_no_key_undoes_an_orthogonal_matrix(model: ConvMixer, surrogate: ConvMixer, private: Digits) -> None:
    mixing = MatrixKey.orthogonal(2, 1, seed=0)
    for locked, opens in ((encrypt_model(model, KEYS[0]), True), (encrypt_model(model, mixing), False)):
        recovery = model_only(locked, gram(surrogate), rng(), starts=1)
        guesses = [g.then(recovery.key) for g in relatives(2, 1)]
        assert (max(accuracy(decrypt_model(locked, guess), *private) for guess in guesses) > 0.95) == opens


def test_settle_keeps_what_fits_equally_well() -> None:
    key = KEYS[0]
    recovery = Recovery(key, 1.0, tuple(relatives(2, 1)[1:]))
    settled = settle(recovery, lambda k: float(torch.equal(k.flips, key.flips)))
    assert {g.then(settled.key) for g in settled.ambiguous} | {settled.key} == {
        g.then(key) for g in relatives(2, 1) if not g.flips.any() and torch.equal(g.then(key).flips, key.flips)
    }
    assert settled.score == 1.0


def test_mismatch_leaves_the_network_as_it_was(model: ConvMixer, public: Digits) -> None:
    network = encrypt_model(model, KEYS[0]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert mismatch(network, public[0][:50]) > 10 * mismatch(model, public[0][:50]) > 0
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network[2]._forward_pre_hooks


def test_an_expected_matrix_of_another_size_is_refused(model: ConvMixer) -> None:
    with pytest.raises(ValueError, match=r"so 4 pixels a block, .* has the shape \(48, 48\)"):
        model_only(model, np.eye(48))


# Queries


def black_box(model: ConvMixer, key: Key, images: Tensor, labels: Tensor) -> Callable[[SignedPermutation], float]:
    encrypted = encrypt_model(model, key)
    return lambda guess: accuracy(encrypted, images, labels, guess)


def test_hill_climbing_on_accuracy_finds_the_key_of_a_small_block(model: ConvMixer, public: Digits) -> None:
    found = 0
    for seed, key in enumerate(KEYS[:3]):
        score = black_box(model, key, public[0][:60], public[1][:60])
        recovery = hill_climb(score, Key.from_seed(100 + seed, 2, 1), 120, rng(seed))
        found += recovery.key == key
        assert recovery.score == score(recovery.key)
    assert found >= 2


@settings(max_examples=20)
@given(st.integers(1, 30), SEEDS)
def test_hill_climbing_asks_as_often_as_it_says_never_gets_worse_and_stays_balanced(queries: int, seed: int) -> None:
    asked: list[SignedPermutation] = []
    values = torch.rand(queries, generator=rng(seed)).tolist()

    def score(key: SignedPermutation) -> float:
        asked.append(key)
        return values[len(asked) - 1]

    recovery = hill_climb(score, Key.from_seed(seed, 2, 2), queries, rng(seed))
    assert len(asked) == queries
    assert recovery.score == max(values)
    assert all(isinstance(key, Key) for key in asked)
    assert all(a != b or queries == 1 for a, b in pairwise(asked[:2]))


def test_hill_climbing_gets_nowhere_without_information() -> None:
    recovery = hill_climb(lambda key: 0.1, KEYS[0], 200, rng())
    assert recovery.score == 0.1


def test_hill_climbing_is_reproducible(model: ConvMixer, public: Digits) -> None:
    score = black_box(model, KEYS[1], public[0][:50], public[1][:50])
    assert hill_climb(score, KEYS[7], 20, rng(5)) == hill_climb(score, KEYS[7], 20, rng(5))


def test_the_gradient_through_a_relaxed_permutation_finds_the_key(model: ConvMixer, public: Digits) -> None:
    found = 0
    for key in KEYS[:3]:
        loss = labelled_loss(encrypt_model(model, key), *public, 50, rng())
        found += relaxed_permutation(loss, 2, 1, rng(), steps=60).key == key
    assert found >= 2  # the others end in a local minimum


def test_the_gradient_gets_nowhere_with_random_labels(model: ConvMixer, public: Digits) -> None:
    labels = torch.randint(10, (len(public[1]),), generator=rng())
    loss = labelled_loss(encrypt_model(model, KEYS[0]), public[0], labels, 50, rng())
    assert relaxed_permutation(loss, 2, 1, rng(), steps=60).score < -2


def test_a_start_is_kept_when_the_loss_says_nothing() -> None:
    key = Key.from_seed(3, 4, 3)
    assert relaxed_permutation(lambda D: 0 * D.sum(), 4, 3, rng(), steps=5, start=key).key == key


def test_labelled_loss_leaves_the_network_as_it_was(model: ConvMixer, public: Digits) -> None:
    network = load_pretrained("digits").train()
    labelled_loss(network, *public, 10, rng())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


# Fine-tuning


def test_fine_tuning_brings_the_model_back_but_not_the_key(model: ConvMixer, public: Digits, private: Digits) -> None:
    stolen = encrypt_model(model, KEYS[3])
    before = patch_matrix(stolen)
    assert accuracy(stolen, *private) < 0.5
    reached = [
        accuracy(fine_tune_embedding(stolen, public[0][:n], public[1][:n], rng(), rate=0.03, batch_size=50), *private)
        for n in (10, 50, 200)
    ]
    assert reached == sorted(reached)
    assert reached[0] < 0.9 < reached[2]
    assert torch.equal(patch_matrix(stolen), before)
    tuned = fine_tune_embedding(stolen, *public, rng(), rate=0.03, batch_size=50)
    nearest = max((patch_matrix(encrypt_model(tuned, key)) * before).sum() for key in KEYS) / before.norm() ** 2
    assert nearest < 0.95  # no key takes one to the other


def test_fine_tuning_changes_the_embedding_only(model: ConvMixer, public: Digits) -> None:
    stolen = encrypt_model(model, KEYS[3])
    tuned = fine_tune_embedding(stolen, public[0][:20], public[1][:20], rng(), steps=3)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, stolen.state_dict()[name])}
    assert changed == {"0.weight", "0.bias"}
    with pytest.raises(ValueError, match="as many labels as images"):
        fine_tune_embedding(stolen, public[0][:20], public[1][:19], rng())


def test_fine_tuning_with_random_labels_is_worth_nothing(model: ConvMixer, public: Digits, private: Digits) -> None:
    labels = torch.randint(10, (len(public[1]),), generator=rng())
    tuned = fine_tune_embedding(encrypt_model(model, KEYS[3]), public[0], labels, rng(), rate=0.03, steps=50)
    assert accuracy(tuned, *private) < 0.4
