"""What the attacks rest on, as equations: second moments, several models, hidden-side keys, equivalent keys."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixerkey import ConvMixer, Key, encrypt_model
from mixerkey.attacks.model_only import gram
from mixerkey.cipher import network_input, normalize
from mixerkey.experiments.robustness import perturbed
from mixerkey.keys import BlockKey, MatrixKey, SignedPermutation

SEEDS = st.integers(0, 10**6)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


def moments(x: torch.Tensor) -> np.ndarray:
    return (x.T @ x / len(x)).numpy()


@given(SEEDS)
def test_second_moments_of_encrypted_blocks_are_Tt_Sigma_T(seed: int) -> None:
    """Σ' = Tᵀ Σ T, and what stands: entries up to place and sign, the spectrum, or no more than the rank."""
    x = normal(30, 4, seed=seed) @ normal(4, 4, seed=seed + 1)
    sigma = moments(x)
    for key in (Key.from_seed(seed, 2, 1), MatrixKey.orthogonal(2, 1, seed), MatrixKey.invertible(2, 1, seed)):
        T, encrypted = key.matrix().numpy(), moments(key.act(x))
        assert np.allclose(encrypted, T.T @ sigma @ T)
        same_entries = np.allclose(np.sort(np.abs(encrypted).ravel()), np.sort(np.abs(sigma).ravel()))
        same_spectrum = np.allclose(np.linalg.eigvalsh(encrypted), np.linalg.eigvalsh(sigma))
        assert same_entries == isinstance(key, SignedPermutation)
        assert same_spectrum == (key.condition < 1 + 1e-9)
        assert (np.linalg.eigvalsh(encrypted) > 0).all()  # Sylvester: the inertia


@given(SEEDS)
def test_any_second_moments_are_some_invertible_key_away_from_any_others(seed: int) -> None:
    """T = Σ^(-1/2) Q Σ'^(1/2) takes Σ to Σ' for every orthogonal Q: second moments of one block tell no more than Q."""

    def power(S: np.ndarray, exponent: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(S)
        return vectors * values**exponent @ vectors.T

    one, other = (moments(normal(30, 4, seed=s)) for s in (seed, seed + 1))
    Q = MatrixKey.orthogonal(2, 1, seed).matrix().numpy()
    T = power(one, -0.5) @ Q @ power(other, 0.5)
    assert np.allclose(T.T @ one @ T, other)


@given(SEEDS)
def test_two_models_give_the_relative_key_of_any_invertible_matrices(seed: int) -> None:
    """(T_a⁻¹ E)(T_b⁻¹ E)⁺ = T_a⁻¹ T_b if and only if E has full row rank."""
    a, b = (MatrixKey.invertible(2, 1, s).matrix() for s in (seed, seed + 1))
    E = normal(4, 9, seed=seed)
    wide = torch.linalg.inv(a) @ E @ torch.linalg.pinv(torch.linalg.inv(b) @ E)
    relative = torch.linalg.inv(a) @ b
    scale = torch.linalg.cond(a) * torch.linalg.cond(b) * torch.linalg.cond(E)
    assert (wide - relative).abs().max() < 1e-11 * scale * relative.abs().max()
    E = E[:, :3]  # rank 3
    thin = torch.linalg.inv(a) @ E @ torch.linalg.pinv(torch.linalg.inv(b) @ E)
    assert torch.linalg.matrix_rank(thin, rtol=1e-9) == 3


@given(SEEDS)
def test_a_key_on_the_hidden_side_does_not_change_the_gram_matrix(seed: int) -> None:
    """E' = T⁻¹ E S with orthogonal S: E' E'ᵀ = T⁻¹ E Eᵀ T⁻ᵀ, as without S."""
    E, T = normal(4, 9, seed=seed), MatrixKey.invertible(2, 1, seed).matrix()
    S = torch.linalg.qr(normal(9, 9, seed=seed + 1))[0]
    inverse = torch.linalg.inv(T)
    hidden = inverse @ E @ S
    expected = inverse @ E @ E.T @ inverse.T
    assert (hidden @ hidden.T - expected).abs().max() < 1e-9 * expected.abs().max()


@given(SEEDS)
def test_the_attack_on_the_model_sees_no_key_on_the_hidden_side(seed: int) -> None:
    """A signed permutation of the channels leaves `gram` as it is, which compares filters of unit length."""
    E, order = normal(4, 9, seed=seed), torch.randperm(9, generator=rng(seed))
    signs = 1.0 - 2 * torch.randint(2, (9,), generator=rng(seed + 1))
    model = ConvMixer(9, 1, 3, patch_size=2, in_channels=1).double()
    with torch.no_grad():
        model.embedding.weight.copy_(E.T.reshape(9, 1, 2, 2))
        before = gram(model)
        model.embedding.weight.copy_((E[:, order] * signs).T.reshape(9, 1, 2, 2))
    assert np.allclose(gram(model), before)


@given(st.lists(st.lists(st.integers(-1, 1), min_size=2, max_size=2), min_size=3, max_size=3))
def test_equivalent_keys_are_those_that_fix_E(rows: list[list[int]]) -> None:
    """{S : S E = E} is trivial among signed permutations if and only if all rows of E are different, even up to sign,
    and none is 0. Against all 48 signed permutations of three rows."""
    E = torch.tensor(rows, dtype=torch.float64)
    fixing = 0
    for order, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
        S = SignedPermutation(order, flips, 1, 3).matrix()
        fixing += torch.equal(S @ E, E)
    classes = {max(tuple(row), tuple(-v for v in row)) for row in rows}
    assert (fixing == 1) == (len(classes) == 3 and (0, 0) not in classes)


@pytest.mark.parametrize("key", [Key.from_seed(1, 4, 3), MatrixKey.orthogonal(4, 3, seed=1)])
def test_adversarial_examples_carry_over(key: BlockKey) -> None:
    """(x + δ) T = x T + δ T, ‖δ T‖ = ‖δ‖: the plain example, encrypted, is one for the encrypted network."""
    torch.manual_seed(0)
    model = ConvMixer(16, 2).eval().double()
    x = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=rng(0))
    labels, plain = torch.arange(5), normalize(x).double()
    adversarial = perturbed(model, plain, labels, radius=0.05)
    delta = adversarial - plain
    assert delta.abs().max() <= 0.05 + 1e-9
    assert delta.abs().max() > 0.04
    z = network_input((adversarial + 1) / 2, key, torch.float64)  # normalised in float32
    locked = encrypt_model(model, key)
    assert torch.allclose(locked(z), model(adversarial), atol=1e-5)
    assert (z - network_input(x, key, torch.float64)).norm() == pytest.approx(delta.norm().item(), rel=1e-4)


def test_the_same_steps_in_the_place_of_encrypted_images() -> None:
    """A signed permutation commutes with the sign of the gradient, so who has no key finds δ T as easily as δ."""
    torch.manual_seed(0)
    model, key = ConvMixer(16, 2).eval().double(), Key.from_seed(1, 4, 3)
    x, labels = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=rng(0)), torch.arange(5)
    z = perturbed(encrypt_model(model, key), network_input(x, key, torch.float64), labels, radius=0.05)
    y = perturbed(model, normalize(x).double(), labels, radius=0.05)
    assert torch.allclose(z, network_input((y + 1) / 2, key, torch.float64), atol=1e-6)


@pytest.mark.parametrize(("h", "w", "symmetries"), [(2, 2, 8), (2, 3, 4), (3, 2, 4), (1, 5, 2)])
def test_a_convolution_absorbs_the_symmetries_of_its_grid_and_no_other_order(h: int, w: int, symmetries: int) -> None:
    """All orders P of the places, all kernels of 3 × 3: whether P K Pᵀ is a kernel again."""
    places, steps = list(product(range(h), range(w))), list(product((-1, 0, 1), repeat=2))
    kernels = np.array([[[(c - a, d - b) == s for a, b in places] for c, d in places] for s in steps], dtype=float)
    sizes = kernels.sum((1, 2)).clip(min=1)

    def absorbed(order: tuple[int, ...]) -> bool:
        moved = kernels[:, order][:, :, order]
        means = np.einsum("sij,kij->sk", moved, kernels) / sizes  # no two kernels share an entry
        return np.allclose(np.einsum("sk,kij->sij", means, kernels), moved)

    assert sum(map(absorbed, permutations(range(h * w)))) == symmetries
