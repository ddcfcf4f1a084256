"""Blocks that have changed places, put together again as a jigsaw puzzle is: by borders, or by learned positions.

All images of a `BlockOrder` are cut alike, so the borders of many images can be compared at once: neighbouring blocks
continue each other in each of them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from mixerkey.attacks.assignment import match, start
from mixerkey.attacks.recovery import Recovery
from mixerkey.blocks import segment
from mixerkey.cipher import normalize
from mixerkey.keys import BlockOrder

STARTS = 3  # of the search for places
SHARPNESS = 3  # how much a border of one image tells: differences of log distances count as nats divided by this


def solve_jigsaw(images: Tensor, patch_size: int) -> Recovery[BlockOrder]:
    """The order of blocks from images whose blocks have changed places, all alike, and are whole otherwise.

    Pairs of borders that continue each other are joined, the surest first, as long as the pieces fit into the grid
    (after Gallagher, 2012); what is left over goes where it fits best.

    Args:
        images: uint8 (N, C, H, W).
        patch_size: M, at least 2.

    Returns:
        the order; its score is the share of borders within the grid that are each other's best. Ambiguous nothing is
        called, though an image and its mirror image are both pictures: mirrored *blocks* would have to be, too.

    Raises:
        ValueError: blocks of a single pixel, which have no borders.

    >>> from mixerkey import encrypt_images
    >>> from mixerkey.attacks.challenge import photo_tiles
    >>> secret = BlockOrder.from_seed(1, 8, 3, grid=(4, 4))
    >>> solve_jigsaw(encrypt_images(photo_tiles("left"), secret), 8).key == secret
    True
    """
    if patch_size < 2:
        raise ValueError("blocks of a single pixel have no borders to compare")
    blocks = segment(normalize(images), patch_size)
    h, w = blocks.shape[1:3]
    sure = _joints(blocks.flatten(1, 2).unflatten(-1, (images.shape[1], patch_size, patch_size)))
    grid = _assembled(sure, h, w)
    right, lower = (sure[0][grid[:, :-1], grid[:, 1:]], sure[1][grid[:-1], grid[1:]])
    score = float(np.concatenate([right.ravel(), lower.ravel()]).mean()) if h * w > 1 else 1.0
    return Recovery(BlockOrder(grid.ravel().argsort(), patch_size, images.shape[1], (h, w)), score)


def order_from_neighbours(positions: Tensor, key: BlockOrder) -> Recovery[BlockOrder]:
    """The order of blocks, up to the symmetries of the grid, from the position embedding of an encrypted network alone.

    Neighbouring places learn positions that are alike. As many pairs as a grid has neighbours are joined, those of the
    greatest cosine after the mean is taken off; the steps from place to place in that graph are matched with the steps
    in the grid.

    Args:
        positions: real (places, d), of the encrypted network, class tokens left out.
        key: any order for the same blocks and grid; only its shape is used.

    Returns:
        the order; its score is the correlation of the steps, 1 where the graph is a grid. `ambiguous` holds the other
        symmetries of the grid, of which steps tell nothing.

    Raises:
        ValueError: not one position for each place of the grid.

    >>> from mixerkey import encrypt_model, load_pretrained
    >>> secret = BlockOrder.from_seed(1, 4, 3, grid=(8, 8))
    >>> locked = encrypt_model(load_pretrained("vit"), secret)
    >>> found = order_from_neighbours(locked.positions.detach(), secret)
    >>> secret in [found.key, *(turned.then(found.key) for turned in found.ambiguous)], len(found.ambiguous)
    (True, 7)
    """
    h, w = key.grid
    if positions.ndim != 2 or len(positions) != h * w:
        raise ValueError(f"need one position for each of {h} x {w} places, got a tensor {tuple(positions.shape)}")
    z = F.normalize((positions - positions.mean(0)).double(), dim=1)
    alike = (z @ z.T).fill_diagonal_(-1).numpy()
    least = np.sort(alike, axis=None)[-2 * (2 * h * w - h - w) :][:1]  # each pair of neighbours is there twice
    steps = shortest_path(alike >= least, unweighted=True)
    steps[np.isinf(steps)] = h + w
    row, column = np.divmod(np.arange(h * w), w)
    grid = np.abs(row[:, None] - row) + np.abs(column[:, None] - column) + 0.0
    generator = torch.Generator().manual_seed(0)
    found = [match(grid[None], steps[None], start(grid[None], steps[None], k, generator)) for k in range(STARTS)]
    scores = [np.corrcoef(grid[np.ix_(v, v)].ravel(), steps.ravel())[0, 1] for v in found]
    best = int(np.nanargmax(scores))

    def order(places: np.ndarray) -> BlockOrder:
        return BlockOrder(places.tolist(), key.patch_size, key.channels, key.grid)

    places = np.arange(h * w).reshape(h, w)
    turned = [places, places[::-1], places[:, ::-1], places[::-1, ::-1]]
    turned += [each.T for each in turned] if h == w else []
    return Recovery(order(found[best]), float(scores[best]), tuple(order(each.ravel()) for each in turned[1:]))


def _joints(z: Tensor) -> np.ndarray:
    """How sure it is that block j continues block i to the right, and downwards: (2, n, n), from 0 to 1.

    Args:
        z: blocks (N, n, C, M, M).
    """
    result = []
    for a, b, before, after in (
        (z[..., :, -1], z[..., :, 0], z[..., :, -2], z[..., :, 1]),
        (z[..., -1, :], z[..., 0, :], z[..., -2, :], z[..., 1, :]),
    ):
        a, b, onwards, backwards = (border.flatten(2) for border in (a, b, 2 * a - before, 2 * b - after))
        misfit = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64)
        for image in range(len(z)):
            squared = torch.cdist(onwards[image], b[image]) ** 2 + torch.cdist(a[image], backwards[image]) ** 2
            misfit += (squared + 1e-2).log()
        misfit.fill_diagonal_(float("inf"))
        result.append((-misfit / SHARPNESS).softmax(0) * (-misfit / SHARPNESS).softmax(1))
    return torch.stack(result).numpy()


def _assembled(sure: np.ndarray, h: int, w: int) -> np.ndarray:
    """The grid of block numbers, int (h, w)."""
    count = h * w
    piece = {n: {n: (0, 0)} for n in range(count)}  # of each block: its piece, as places of blocks
    for rank in sure.argsort(axis=None)[::-1]:
        direction, i, j = np.unravel_index(rank, sure.shape)
        if sure[direction, i, j] < 1e-3 or len(piece[0]) == count:
            break
        mine, other = piece[int(i)], piece[int(j)]
        if mine is other:
            continue
        (y, x), (v, u) = mine[int(i)], other[int(j)]
        dy, dx = y + int(direction == 1) - v, x + int(direction == 0) - u
        moved = {n: (r + dy, c + dx) for n, (r, c) in other.items()}
        places = [*mine.values(), *moved.values()]
        rows, columns = zip(*places, strict=True)
        if len(set(places)) == len(places) and max(rows) - min(rows) < h and max(columns) - min(columns) < w:
            mine |= moved
            for n in moved:
                piece[n] = mine
    return _filled(max(piece.values(), key=len), sure, h, w)


def _filled(piece: dict[int, tuple[int, int]], sure: np.ndarray, h: int, w: int) -> np.ndarray:
    """The largest piece in the grid, where it and the blocks that are left over fit best."""
    rows, columns = zip(*piece.values(), strict=True)
    best, result = -1.0, np.empty((h, w), dtype=int)
    for top in range(h - max(rows) + min(rows)):
        for left in range(w - max(columns) + min(columns)):
            grid = np.full((h, w), -1)
            for n, (r, c) in piece.items():
                grid[r - min(rows) + top, c - min(columns) + left] = n
            fit = _fill(grid, [n for n in range(h * w) if n not in piece], sure)
            if fit > best:
                best, result = fit, grid
    return result


def _fill(grid: np.ndarray, loose: list[int], sure: np.ndarray) -> float:
    """Put loose blocks into the holes, the surest first, in place; how sure all of them are."""
    total = 0.0
    holes = [tuple(hole) for hole in np.argwhere(grid < 0)]

    def fit(n: int, hole: tuple) -> float:
        r, c = hole
        found = 0.0
        for direction, (dy, dx) in enumerate(((0, 1), (1, 0))):
            if r - dy >= 0 and c - dx >= 0 and (m := grid[r - dy, c - dx]) >= 0:
                found += sure[direction, m, n]
            if r + dy < grid.shape[0] and c + dx < grid.shape[1] and (m := grid[r + dy, c + dx]) >= 0:
                found += sure[direction, n, m]
        return found

    while holes:
        value, n, hole = max(((fit(n, hole), n, hole) for n in loose for hole in holes), key=lambda t: t[0])
        grid[hole] = n
        loose.remove(n)
        holes.remove(hole)
        total += value
    return total
