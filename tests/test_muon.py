"""Muon: the orthogonal step against a singular value decomposition, and the step written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixerkey.muon import Muon, orthogonalize


def matrix(m: int, seed: int, n: int | None = None) -> Tensor:
    return torch.randn(m, m if n is None else n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (8, 8), (64, 64), (8, 24), (24, 8)])
def test_orthogonalizing_changes_singular_values_as_the_polynomial_does_and_nothing_else(m: int, n: int) -> None:
    G = matrix(m, m, n)
    U, s, Vh = torch.linalg.svd(G / G.norm(), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    assert torch.allclose(orthogonalize(G), U @ s.diag() @ Vh, atol=1e-6)


def test_what_is_orthogonalized_is_near_the_nearest_orthogonal_matrix() -> None:
    U, _, Vh = torch.linalg.svd(matrix(64, 0))
    for spread in (1, 10, 100):  # the largest singular value over the smallest
        result = orthogonalize(U @ torch.linspace(1, spread, 64, dtype=torch.float64).diag() @ Vh)
        values = (U.T @ result @ Vh.T).diag()  # of the same vectors, in the same order
        assert values.min() > 0.68
        assert values.max() < 1.21
    half = orthogonalize(matrix(64, 1).bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.double() - orthogonalize(matrix(64, 1))).norm() / 8 < 0.05


def test_steps_written_out() -> None:
    W = nn.Parameter(matrix(4, 0).view(4, 4, 1, 1))  # a pointwise convolution
    optimizer = Muon([W], lr=0.1, momentum=0.9, fixed_norm=True, dtype=torch.float64)
    expected, momentum = W.detach().clone().view(4, 4), torch.zeros(4, 4, dtype=torch.float64)
    for seed in (1, 2, 3):
        G = matrix(4, seed)
        W.grad = G.view_as(W).clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * G
        expected = expected - 0.1 * orthogonalize(0.9 * momentum + 0.1 * G)
        expected = expected * 2 / expected.square().sum().sqrt()  # √d = 2
        assert torch.allclose(W.view(4, 4), expected, atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (12, 4), (4, 12)])
def test_without_a_fixed_norm_it_steps_as_pytorchs_own_does(m: int, n: int) -> None:
    ours, theirs = (nn.Parameter(matrix(m, 0, n)) for _ in range(2))
    optimizer = Muon([ours], lr=0.1, dtype=torch.bfloat16)  # in which PyTorch's computes
    peer = torch.optim.Muon([theirs], lr=0.1, momentum=0.95, weight_decay=0, adjust_lr_fn="original")
    for seed in (1, 2, 3):
        ours.grad, theirs.grad = matrix(m, seed, n), matrix(m, seed, n)
        optimizer.step()
        peer.step()
        assert torch.allclose(ours, theirs, atol=0.02)  # of steps of length 0.1 to 0.2
        assert (ours - matrix(m, 0, n)).abs().max() > 0.05


def test_the_size_of_the_gradient_does_not_matter() -> None:
    ends = []
    for size in (1e-3, 1.0, 1e3):
        W = nn.Parameter(matrix(8, 0))
        W.grad = size * matrix(8, 1)
        Muon([W], lr=0.1, dtype=torch.float64).step()
        ends.append(W.detach())
    assert torch.allclose(ends[0], ends[2], atol=1e-4)
    assert torch.allclose(ends[1], ends[2], atol=1e-6)
