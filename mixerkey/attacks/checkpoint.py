"""A public checkpoint: the victim was fine-tuned from a network that everybody has, and then encrypted.

Fine-tuning moves a patch embedding little, so the rows of E' lie near the rows of the public E, in another order and
with other signs. The same holds for the position embedding and an order of blocks, and for the weights with which a
training began, where they were drawn from a seed that can be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mixerkey.attacks.pairs import procrustes, signed_assignment
from mixerkey.attacks.recovery import Recovery
from mixerkey.convmixer import ConvMixer
from mixerkey.embedding import patch_matrix
from mixerkey.keys import BlockOrder, MatrixKey, SignedPermutation
from mixerkey.training import initialize


def from_checkpoint(
    encrypted: nn.Module, public: nn.Module, patch_size: int, channels: int
) -> Recovery[SignedPermutation]:
    """The paper's key from the encrypted model and the public network that it was fine-tuned from.

    Args:
        encrypted: the victim.
        public: a network with a patch embedding of the same shape; for one that was trained independently the answer
            is worthless, and the score near 0 says so.
        patch_size: M.
        channels: C.

    Returns:
        see `mixerkey.attacks.pairs.signed_assignment`; a score near 1 says that the embeddings are near each other.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> model, secret = load_pretrained("digits"), Key.from_seed(1, 2, 1)
    >>> from_checkpoint(encrypt_model(model, secret), model, 2, 1).key == secret
    True
    """
    return signed_assignment(patch_matrix(public).T, patch_matrix(encrypted).T, patch_size, channels)


def from_initialization(encrypted: ConvMixer, seeds: Iterable[int]) -> tuple[int, Recovery[SignedPermutation]]:
    """The paper's key from the encrypted model and the seed with which its training began, or a guess at it.

    Long training does not quite forget where it started. So a training that everybody can repeat up to its first step
    is a public checkpoint, and a small seed can be tried.

    Args:
        encrypted: the victim, trained by `mixerkey.training.train`, or by code that draws its weights alike.
        seeds: to try.

    Returns:
        the seed whose initial weights lie nearest, and the recovery from them; scores of wrong seeds are below 0.

    Raises:
        ValueError: no seed.

    >>> from mixerkey import Key, encrypt_model, load_pretrained
    >>> secret = Key.generate(4, 3)
    >>> seed, found = from_initialization(encrypt_model(load_pretrained("cifar10"), secret), range(3))
    >>> seed, found.key == secret, found.score > 0
    (0, True, True)
    """
    M, C = encrypted.sizes["patch_size"], encrypted.sizes["in_channels"]
    tried = {}
    for seed in seeds:
        start = ConvMixer(**encrypted.sizes)
        initialize(start, torch.Generator().manual_seed(seed))
        tried[seed] = from_checkpoint(encrypted, start, M, C)
    if not tried:
        raise ValueError("need at least one seed to try")
    best = max(tried, key=lambda seed: tried[seed].score)
    return best, tried[best]


def mixture_from_checkpoint(
    encrypted: nn.Module, public: nn.Module, patch_size: int, channels: int
) -> Recovery[MatrixKey]:
    """As `from_checkpoint`, for an orthogonal `MatrixKey`: the orthogonal matrix nearest to taking E to E'."""
    return procrustes(patch_matrix(public).T, patch_matrix(encrypted).T, patch_size, channels)


def order_from_positions(encrypted: Tensor, public: Tensor, key: BlockOrder) -> Recovery[BlockOrder]:
    """The order of blocks from the position embeddings of the encrypted and of the public network.

    Args:
        encrypted, public: real (places, d), class tokens left out.
        key: any order for the same blocks and grid; only its shape is used.

    Returns:
        the order under which the embeddings are nearest; its score is 1 - ∥difference∥² / ∥encrypted∥².

    >>> import torch
    >>> secret = BlockOrder.from_seed(1, 4, 3, grid=(8, 8))
    >>> positions = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    >>> order_from_positions(positions[secret.order], positions, secret).key == secret
    True
    """
    a, b = public.double().numpy(), encrypted.double().numpy()
    rows, columns = linear_sum_assignment(a @ b.T, maximize=True)
    order = rows[np.argsort(columns)]
    left = float(((b - a[order]) ** 2).sum() / (b**2).sum())
    return Recovery(BlockOrder(order, key.patch_size, key.channels, key.grid), 1 - left)
