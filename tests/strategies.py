"""What Hypothesis draws: keys, signed permutations, and images that fit them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from mixerkey import Key, SignedPermutation

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4))  # (M, C)


@st.composite
def keys(draw: st.DrawFn, shapes: st.SearchStrategy = SHAPES) -> Key:
    return Key.from_seed(draw(SEEDS), *draw(shapes))


@st.composite
def signed_permutations(draw: st.DrawFn, shapes: st.SearchStrategy = SHAPES) -> SignedPermutation:
    M, C = draw(shapes)
    generator = torch.Generator().manual_seed(draw(SEEDS))
    v = torch.randperm(M * M * C, generator=generator)
    r = torch.randint(2, (M * M * C,), generator=generator)
    return SignedPermutation(v, r, M, C)


@st.composite
def images_for(draw: st.DrawFn, key: SignedPermutation) -> torch.Tensor:
    """uint8 images that fit a key: up to three leading dimensions, up to three blocks a side."""
    lead = draw(st.lists(st.integers(1, 3), max_size=3))
    h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    shape = (*lead, key.channels, h * key.patch_size, w * key.patch_size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
