"""What every attack gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from mixerkey.keys import BlockKey, Key, SignedPermutation

AnyKey = TypeVar("AnyKey", bound=BlockKey)


@dataclass(frozen=True)
class Recovery(Generic[AnyKey]):
    """A recovered key, how well it explains what the attacker has, and what that evidence cannot settle.

    Attributes:
        key: the attacker's best answer, a `Key` where its flips are balanced.
        score: how well `key` explains the evidence; higher is better, the scale is each attack's own.
        ambiguous: changes g of the *plain* block that the evidence cannot see: ``g.then(key)`` explains it as well as
            `key` does. They generate a group, of which only generators are listed, so 48 changes can stand for
            billions of keys. Empty when the evidence singles out `key`.

    >>> red_and_blue = SignedPermutation([2, 1, 0], [0, 0, 0], patch_size=1, channels=3)
    >>> recovery = Recovery(Key.from_seed(1, 1, 3), score=1.0, ambiguous=(red_and_blue,))
    >>> [g.then(recovery.key) == recovery.key for g in recovery.ambiguous]  # another key, just as good
    [False]
    """

    key: AnyKey
    score: float
    ambiguous: tuple[AnyKey, ...] = ()


def as_key(key: SignedPermutation) -> SignedPermutation:
    """The same as a `Key`, if its flips are balanced as those of the paper's keys are.

    >>> as_key(SignedPermutation([0, 1, 2, 3], [1, 0, 1, 0], 2, 1))
    Key(patch_size=2, channels=1, secret hidden)
    """
    try:
        return Key(key.permutation, key.flips, key.patch_size, key.channels)
    except ValueError:
        return key


def exchanges(hidden: np.ndarray) -> list[tuple[int, int]]:
    """Enough of the pairs (i, j) with ``hidden[i, j]``, i < j, to generate all exchanges: a spanning forest.

    >>> exchanges(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool))
    [(0, 1), (0, 2)]
    """
    return [(int(i), int(j)) for i, j in np.argwhere(minimum_spanning_tree(np.triu(hidden, 1)).toarray())]
