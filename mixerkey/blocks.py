"""Block segmentation and integration (§3.2): an image as a grid of flattened M × M blocks, and back."""

from __future__ import annotations

from torch import Tensor


def segment(x: Tensor, patch_size: int) -> Tensor:
    """Divide images into blocks and flatten each in the order (channel, row, column).

    Args:
        x: images (..., C, H, W), any dtype, any number of leading dimensions.
        patch_size: M, the side of a block.

    Returns:
        block image (..., H / M, W / M, p_b), where p_b = M² C.

    Raises:
        ValueError: fewer than three dimensions, or H or W not divisible by M.

    >>> import torch
    >>> segment(torch.arange(16).reshape(1, 4, 4), 2)[0, 1]  # first row of blocks, second block
    tensor([2, 3, 6, 7])
    """
    if patch_size < 1:
        raise ValueError(f"the block size must be at least 1, got {patch_size}")
    if x.ndim < 3:
        raise ValueError(f"images must have shape (..., C, H, W), got {tuple(x.shape)}")
    *lead, C, H, W = x.shape
    M = patch_size
    if H % M or W % M:
        raise ValueError(f"height and width must be divisible by the block size {M}, got {H} x {W}; crop or pad first")
    n = len(lead)
    grid = x.reshape(*lead, C, H // M, M, W // M, M)
    order = (*range(n), n + 1, n + 3, n, n + 2, n + 4)  # (..., H/M, W/M, C, M, M)
    return grid.permute(order).reshape(*lead, H // M, W // M, M * M * C)


def integrate(blocks: Tensor, patch_size: int) -> Tensor:
    """Put blocks back into images: the inverse of `segment`.

    Args:
        blocks: block image (..., H / M, W / M, p_b).
        patch_size: M.

    Returns:
        images (..., C, H, W), where C = p_b / M².

    Raises:
        ValueError: fewer than three dimensions, or p_b not a multiple of M².

    >>> import torch
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.equal(integrate(segment(x, 4), 4), x)
    True
    """
    if blocks.ndim < 3 or blocks.shape[-1] % patch_size**2:
        raise ValueError(
            f"blocks must have shape (..., H/M, W/M, M*M*C) with M = {patch_size}, got {tuple(blocks.shape)}"
        )
    *lead, h, w, size = blocks.shape
    M, n = patch_size, len(lead)
    grid = blocks.reshape(*lead, h, w, size // M**2, M, M)
    order = (*range(n), n + 2, n, n + 3, n + 1, n + 4)  # (..., C, H/M, M, W/M, M)
    return grid.permute(order).reshape(*lead, size // M**2, h * M, w * M)
