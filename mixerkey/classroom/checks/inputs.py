"""What the checkers of several chapters draw: keys, numbers and pixels, from the generator that they are given."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from mixerkey.keys import Key

SOLVED = 1e-4  # by how much a system that was solved in float32 may be off; a wrong one is off by far more
BLOCKS = ((4, 3), (2, 3), (4, 1))  # (M, C)

NO_SIGN = "only a normalised pixel changes its sign; an 8-bit pixel p becomes 255 - p"
SIGNS = "these are the signs s, -1 where a pixel is flipped; r is 1 there, and 0 elsewhere"


def random_key(g: Generator, M: int, C: int) -> Key:
    """A key from the generator."""
    size = M * M * C
    flips = torch.randperm(size, generator=g) < size // 2
    return Key(torch.randperm(size, generator=g), flips, M, C)


def draw(g: Generator, n: int) -> int:
    """One of 0..n-1."""
    return int(torch.randint(n, (), generator=g))


def normal(g: Generator, *shape: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def pixels(g: Generator, *shape: int) -> Tensor:
    """Uniform uint8 numbers."""
    return torch.randint(256, shape, dtype=torch.uint8, generator=g)


def sign(r: Tensor) -> Tensor:
    """s, float64: -1 where r is 1."""
    return 1 - 2 * r.double()


def full(r: Tensor) -> Tensor:
    """The mask of Eq. (5): 255 where r is 1."""
    return r.to(torch.uint8) * 255
