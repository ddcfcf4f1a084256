"""Muon (Jordan et al., 2024): momentum whose singular values are all brought to about one, for matrices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Moves a matrix (m, n) by about the nearest matrix to its momentum whose singular values are one.

    A step of Adam may have one large singular value and many small ones: it learns the loudest direction. Here every
    direction moves by the learning rate; by √(m/n) times it where there are more rows than columns.

    Args:
        params: weights whose first dimension counts the rows, such as those of linear layers (m, n) and of pointwise
            convolutions (m, n, 1, 1).
        lr: the learning rate; `step` reads it from the parameter groups, where a schedule may change it.
        momentum: decay of the running average of the gradients, per step; the step looks ahead (Nesterov).
        fixed_norm: whether the matrix is scaled after each step to the norm √min(m, n) of an orthogonal one. It makes
            the learning rate the relative step, and wants a layer behind that is indifferent to the scale, as batch
            normalisation nearly is.
        dtype: in which `orthogonalize` computes.

    >>> W = torch.nn.Parameter(torch.eye(2))
    >>> W.grad = torch.diag(torch.tensor([100.0, 1.0]))  # one direction is a hundred times as loud
    >>> Muon([W], lr=0.5, fixed_norm=True).step()
    >>> round(W.norm().item() ** 2, 3), bool(0.5 < W[0, 0] / W[1, 1] < 2)
    (2.0, True)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        fixed_norm: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.fixed_norm, self.dtype = fixed_norm, dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move each matrix by its gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                W, G = p.flatten(1), p.grad.flatten(1)  # (m, n)
                M = self.state[p].setdefault("momentum", torch.zeros_like(G))
                M.lerp_(G, 1 - group["momentum"])
                U = orthogonalize(G.lerp(M, group["momentum"]).to(self.dtype))
                W.sub_(U, alpha=group["lr"] * max(1, W.shape[0] / W.shape[1]) ** 0.5)
                if self.fixed_norm:
                    W.mul_(min(W.shape) ** 0.5 / W.norm())


def orthogonalize(G: Tensor) -> Tensor:
    """About the nearest matrix to G (m, n) whose singular values are one.

    It has the same singular vectors, and singular values from 0.68 to 1.21.

    Five Newton-Schulz steps, matrix products only. Each replaces the singular values σ by 3.4445σ - 4.775σ³ + 2.0315σ⁵,
    the polynomial of Jordan et al. (2024), which lifts small ones fast and lets them end near one rather than at it.
    A singular value below a thousandth of the norm of G is still on its way up.

    >>> U = orthogonalize(torch.tensor([[3.0, 0.0], [0.0, -0.2]]))
    >>> [bool(0.68 < abs(U[i, i]) < 1.21) for i in range(2)], bool(U[0, 1] == 0)
    ([True, True], True)
    """
    if len(G) > G.shape[1]:
        return orthogonalize(G.T).T  # A is smaller
    X = G / (G.norm() + 1e-7)
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.775 * A + 2.0315 * A @ A) @ X
    return X
