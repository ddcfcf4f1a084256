"""Keys: invertible linear maps of the normalised pixels of an image's blocks, x' = x T (§3.2, and beyond the paper).

Each member of the family says what it does to blocks (`BlockKey.act`); everything else follows from that: images and
filters are encrypted by the same method, because a filter of a patch embedding is a vector over the pixels of a block.

===================== ===================================== ============================
key                   what it does                          who proposed it for models
===================== ===================================== ============================
`Key`                 moves and flips pixels, one T for all Iijima and Kiya, 2022
`Shuffle`, `Flips`    one of the two steps alone
`MatrixKey`           mixes pixels by a matrix              orthogonal: Aso, Chuman and Kiya, 2023
`PatchKeys`           a key of its own for each place       Lin, Imaizumi and Kiya, 2024
`BlockOrder`          moves whole blocks                    Kiya, Iijima et al., 2023
`ScrambledKey`        first within blocks, then whole ones  Kiya, Iijima et al., 2023
===================== ===================================== ============================
"""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, permutations
from math import comb, factorial, inf, log2
from operator import index
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from scipy.special import ndtri
from torch import Tensor

AnyKey = TypeVar("AnyKey", bound="BlockKey")
Self = TypeVar("Self", bound="SignedPermutation")
Below = Callable[[int], int]  # below(n) is one of 0..n-1
LARGEST_BLOCK = 2**20  # values; vision transformers have at most some thousands
LARGEST_GRID = 2**20  # places
LARGEST_MATRIX = 2**14  # values of a block whose matrix is drawn; that has 2 GiB


class BlockKey(ABC):
    """An invertible linear map of block images. Immutable; its secret is neither shown nor pickled.

    Attributes:
        patch_size: M, the side of a block.
        channels: C.
        moves_pixels: whether pixels only change places and signs, so that uint8 images stay uint8 images, exactly.
        needs: what a network must have to absorb such a key (see `mixerkey.encrypt_model`).
    """

    __slots__ = ("_secret", "channels", "patch_size")
    moves_pixels: ClassVar[bool] = True
    needs: ClassVar[str] = "a patch embedding"
    channels: int
    patch_size: int
    _secret: Any

    def _set(self, patch_size: int, channels: int, secret: Any) -> None:
        block_size(patch_size, channels)
        sizes = (("patch_size", index(patch_size)), ("channels", index(channels)))
        for name, value in (*sizes, ("_secret", secret)):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """p_b = M² C, the number of pixels in a block."""
        return block_size(self.patch_size, self.channels)

    @property
    @abstractmethod
    def bits(self) -> float:
        """log2 of how many keys of this kind there are; infinite where they are a continuum."""

    @property
    def condition(self) -> float:
        """The condition number of T: by how much it may enlarge a relative error. 1 for orthogonal ones."""
        return 1.0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, such as the only key for blocks of one value: T T⁻¹ is T only where T is I.

        >>> Key.generate(1, 1).is_identity, Key.generate(2, 1).is_identity
        (True, False)
        """
        return self.then(self.inverse()) == self

    @abstractmethod
    def act(self, blocks: Tensor) -> Tensor:
        """x T for normalised pixels, or for filters of a patch embedding.

        Args:
            blocks: block image (..., H / M, W / M, p_b), such as `mixerkey.blocks.segment` gives. Floating point; keys
                that move pixels also take signed integers.

        Returns:
            same shape, dtype and device.

        Raises:
            TypeError: unsigned integers for a signed permutation, or any for a key that mixes.
            ValueError: the grid of blocks is not the one that the key was made for.
        """

    @abstractmethod
    def inverse(self: AnyKey) -> AnyKey:
        """What undoes this one."""

    def dual(self: AnyKey) -> AnyKey:
        """T⁻ᵀ: what filters need, so that (x T)(T⁻¹ E) = x E. T itself where T is orthogonal."""
        return self

    def then(self, other: BlockKey) -> BlockKey:
        """This one first, `other` after it, as one key: ``a.then(b).act(x)`` is ``b.act(a.act(x))``.

        The relative key ``old.inverse().then(new)`` takes what `old` encrypted to what `new` encrypts.

        Raises:
            TypeError: `other` is no key.
            ValueError: `other` is for another block shape or another grid.

        >>> key, order = Key.from_seed(1, 4, 3), BlockOrder.from_seed(2, 4, 3, grid=(8, 8))
        >>> key.then(order) == order.then(key), order.then(key)  # one T for all places: the order does not matter
        (True, ScrambledKey(patch_size=4, channels=3, secret hidden))
        """
        check_key(other)
        if (self.patch_size, self.channels) != (other.patch_size, other.channels):
            raise ValueError(
                f"block shapes differ: M = {self.patch_size}, C = {self.channels} "
                f"and M = {other.patch_size}, C = {other.channels}"
            )
        # All keys are of the form "first within blocks, then whole blocks".
        (a, first), (b, second) = _parts(self), _parts(other)
        order = second if first is None else first if second is None else first._and_then(second)
        if b is not None and first is not None:
            b = b._before(first)
        within = b if a is None else a if b is None else _within(a, b)
        if within is None or order is None:
            return within or order or SignedPermutation.identity(self.patch_size, self.channels)
        return ScrambledKey(within, order)

    def _before(self, order: BlockOrder) -> BlockKey:
        """The key b with ``b.then(order)`` equal to ``order.then(self)``; itself, if it is the same in all places."""
        return self

    def save(self, path: str | Path) -> None:
        """Write a file of its own for this key, readable by its owner only: see `mixerkey.key_files.save_key`."""
        from mixerkey.key_files import save_key

        save_key(self, path)

    @classmethod
    def load(
        cls: type[AnyKey], path: str | Path, *, patch_size: int | None = None, channels: int | None = None
    ) -> AnyKey:
        """Read what `save` wrote for a key of this kind, checking everything: see `mixerkey.key_files.load_key`.

        >>> import tempfile
        >>> key = Key.generate(4, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     key.save(folder + "/key.json")
        ...     Key.load(folder + "/key.json") == key
        True
        """
        from mixerkey.key_files import load_key

        return load_key(path, cls, patch_size=patch_size, channels=channels)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple:
        raise TypeError("keys are never pickled; use save and load, which write JSON")

    def __copy__(self: AnyKey) -> AnyKey:
        return self

    def __deepcopy__(self: AnyKey, memo: dict) -> AnyKey:
        return self

    def __eq__(self, other: object) -> bool:
        """Equal numbers in the same form; `Key`, `Shuffle` and `Flips` have that of a signed permutation."""
        if not isinstance(other, BlockKey):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(patch_size={self.patch_size}, channels={self.channels}, secret hidden)"

    def _content(self) -> tuple:
        return self.patch_size, self.channels, self._secret


class SignedPermutation(BlockKey):
    """What the paper's cipher does to the pixels of a block: x'(k) = ± x(v_k), the same in every block.

    Args:
        permutation: v, p_b integers, each of 0..p_b-1 once.
        flips: r, p_b booleans (or 0 and 1), indexed by *ciphertext* position: r_k says whether x'(k) is flipped.
        patch_size: M, the side of a block.
        channels: C.

    Raises:
        ValueError: a size below 1, a wrong length, an index out of range or repeated, a flip that is not 0 or 1.

    >>> SignedPermutation([1, 0, 2, 3], [True, False, False, False], patch_size=2, channels=1).matrix()
    tensor([[ 0.,  1.,  0.,  0.],
            [-1.,  0.,  0.,  0.],
            [ 0.,  0.,  1.,  0.],
            [ 0.,  0.,  0.,  1.]], dtype=torch.float64)
    """

    __slots__ = ()

    def __init__(
        self, permutation: Iterable[int] | Tensor, flips: Iterable[int] | Tensor, patch_size: int, channels: int
    ) -> None:
        size = block_size(patch_size, channels)
        v, r = (x.tolist() if isinstance(x, Tensor) else list(x) for x in (permutation, flips))
        for name, values in (("permutation", v), ("flips", r)):
            if len(values) != size:
                raise ValueError(
                    f"{name} must have {size} entries for M = {patch_size} and C = {channels}, got {len(values)}"
                )
        if any(bit not in (0, 1) for bit in r):
            raise ValueError("flips must be booleans, or 0 and 1")
        self._set(patch_size, channels, (_permutation(v, "permutation"), tuple(bool(bit) for bit in r)))

    @property
    def permutation(self) -> Tensor:
        """v, int64 (p_b,): x'(k) = x(permutation[k]) (Eq. 4). A fresh tensor."""
        return torch.tensor(self._secret[0], dtype=torch.int64)

    @property
    def flips(self) -> Tensor:
        """r, bool (p_b,), indexed by ciphertext position (Eq. 5). A fresh tensor."""
        return torch.tensor(self._secret[1], dtype=torch.bool)

    @property
    def bits(self) -> float:
        """log2 of p_b! · 2^p_b: flips of a signed permutation need not be balanced."""
        return log2(factorial(self.size)) + self.size

    @property
    def shuffle(self) -> Shuffle:
        """Its first step alone, Eq. (4), so that ``key.shuffle.then(key.flip) == key``."""
        return Shuffle(self._secret[0], [False] * self.size, self.patch_size, self.channels)

    @property
    def flip(self) -> Flips:
        """Its second step alone, Eq. (5)."""
        return Flips(range(self.size), self._secret[1], self.patch_size, self.channels)

    def act(self, blocks: Tensor) -> Tensor:
        """± x(v_k) (Eq. 4, and Eq. 7: on normalised pixels a flip is a sign)."""
        if not blocks.dtype.is_signed:
            raise _no_pixels(blocks)
        signs = (1 - 2 * self.flips.int()).to(blocks)
        return blocks[..., self.permutation.to(blocks.device)] * signs

    def matrix(self) -> Tensor:
        """T, float64 (p_b, p_b): a row vector of *normalised* pixels is encrypted by x' = x @ T.

        Column k holds ±1 in row v_k. T is orthogonal: ``T @ T.T`` is the identity. On pixels in [0, 1] or 0..255 a
        flip is not linear, so T does not apply to them.
        """
        return self.act(torch.eye(self.size, dtype=torch.float64)) + 0.0  # no zero is negative

    def inverse(self: Self) -> Self:
        """What undoes this one; of a `Key`, a `Key`.

        >>> key = Key.generate(4, 3)
        >>> key.then(key.inverse()) == SignedPermutation.identity(4, 3)
        True
        """
        back = self.permutation.argsort()
        return type(self)(back, self.flips[back], self.patch_size, self.channels)

    @overload
    def then(self, other: SignedPermutation) -> SignedPermutation: ...
    @overload
    def then(self, other: BlockKey) -> BlockKey: ...
    def then(self, other: BlockKey) -> BlockKey:
        """As `BlockKey.then`. Flips of two keys do not add up to balanced ones, so the result is no `Key`."""
        return super().then(other)

    @classmethod
    def identity(cls, patch_size: int, channels: int) -> SignedPermutation:
        """The one that changes nothing.

        >>> bool(SignedPermutation.identity(2, 1).flips.any())
        False
        """
        size = block_size(patch_size, channels)
        return SignedPermutation(range(size), [False] * size, patch_size, channels)

    @classmethod
    def generate(cls: type[Self], patch_size: int, channels: int) -> Self:
        """A key from the operating system's entropy, each of its kind equally likely.

        >>> Key.generate(4, 3) == Key.generate(4, 3)  # 247.8 bits say no
        False
        """
        return cls._draw(patch_size, channels, secrets.randbelow, secrets.randbelow)

    @classmethod
    def from_seed(cls: type[Self], seed: int, patch_size: int, channels: int) -> Self:
        """A reproducible key for lessons, the same on every platform and version; K1 and K2 are independent.

        A seed is not a key: whoever can try all seeds has the key, however large the key space is.

        Raises:
            ValueError: the seed is negative.

        >>> Key.from_seed(7, 2, 1).permutation
        tensor([2, 0, 1, 3])
        """
        return cls._draw(patch_size, channels, *(_randbelow(_label(name, seed)) for name in ("K1", "K2")))

    @classmethod
    def _draw(cls: type[Self], patch_size: int, channels: int, below1: Below, below2: Below) -> Self:
        size = block_size(patch_size, channels)
        r = [below2(2) for _ in range(size)]
        return cls(_shuffled(list(range(size)), below1), r, patch_size, channels)


class Key(SignedPermutation):
    """A secret key of the paper: a permutation v (K1) and flips r (K2), exactly p_b // 2 of which are True.

    Raises:
        ValueError: also when the flips are not balanced.

    >>> key = Key.from_seed(7, patch_size=4, channels=3)
    >>> key, round(key.bits, 1)
    (Key(patch_size=4, channels=3, secret hidden), 247.8)
    >>> int(key.flips.sum()), len(key.permutation)
    (24, 48)
    """

    __slots__ = ()

    def __init__(
        self, permutation: Iterable[int] | Tensor, flips: Iterable[int] | Tensor, patch_size: int, channels: int
    ) -> None:
        super().__init__(permutation, flips, patch_size, channels)
        half, count = self.size // 2, sum(self._secret[1])
        if count != half:
            raise ValueError(f"a key flips exactly {half} of {self.size} pixels, got {count}")

    @property
    def bits(self) -> float:
        """log2 of p_b! · C(p_b, p_b // 2) (§4.3)."""
        return key_space_bits(self.patch_size, self.channels)

    @classmethod
    def every(cls, patch_size: int, channels: int) -> Iterator[Key]:
        """All p_b! · C(p_b, p_b // 2) keys, one after the other; only the smallest blocks have few enough to wait for.

        >>> sum(1 for _ in Key.every(2, 1))
        144
        """
        size = block_size(patch_size, channels)
        for v in permutations(range(size)):
            for flipped in combinations(range(size), size // 2):
                yield cls(v, [k in flipped for k in range(size)], patch_size, channels)

    @classmethod
    def _draw(cls: type[Self], patch_size: int, channels: int, below1: Below, below2: Below) -> Self:
        size = block_size(patch_size, channels)
        half = size // 2
        v = _shuffled(list(range(size)), below1)
        r = _shuffled([1] * half + [0] * (size - half), below2)
        return cls(v, r, patch_size, channels)


class Shuffle(SignedPermutation):
    """The paper's first step alone: pixels change places (Eq. 4), none is flipped.

    >>> round(Shuffle.generate(4, 3).bits, 2)
    202.95
    """

    __slots__ = ()

    @property
    def bits(self) -> float:
        """log2 of p_b!."""
        return log2(factorial(self.size))

    @classmethod
    def _draw(cls, patch_size: int, channels: int, below1: Below, below2: Below) -> Shuffle:
        return Key._draw(patch_size, channels, below1, below2).shuffle


class Flips(SignedPermutation):
    """The paper's second step alone: pixels are flipped (Eq. 5), none moves.

    >>> round(Flips.generate(4, 3).bits, 2)
    44.87
    """

    __slots__ = ()

    @property
    def bits(self) -> float:
        """log2 of C(p_b, p_b // 2), when half of the pixels are flipped, as in a `Key`."""
        return log2(comb(self.size, self.size // 2))

    @classmethod
    def _draw(cls, patch_size: int, channels: int, below1: Below, below2: Below) -> Flips:
        return Key._draw(patch_size, channels, below1, below2).flip


class MatrixKey(BlockKey):
    """Mixes the pixels of every block by one invertible matrix: x' = x T.

    Mixed pixels are no pixels: they take four bytes instead of one, leave [-1, 1], and rounding them to 8 bits costs
    accuracy. What rounding to float32 costs depends on `condition`.

    Args:
        matrix: T, real (p_b, p_b); kept as float64.
        patch_size: M.
        channels: C.

    Raises:
        TypeError: a complex matrix.
        ValueError: another shape, an entry that is not finite, or a matrix that is singular in float64.

    >>> key = MatrixKey(torch.tensor([[2.0]]), patch_size=1, channels=1)
    >>> key.act(torch.tensor([[[0.5]]])), key.inverse().act(torch.tensor([[[1.0]]]))
    (tensor([[[1.]]]), tensor([[[0.5000]]]))
    """

    __slots__ = ()
    moves_pixels = False

    def __init__(self, matrix: Tensor, patch_size: int, channels: int) -> None:
        size = block_size(patch_size, channels)
        T = torch.as_tensor(matrix)
        if T.is_complex():
            raise TypeError(f"T must be real, got {T.dtype}")
        T = T.detach().to("cpu", torch.float64, copy=True).contiguous()
        if tuple(T.shape) != (size, size):
            raise ValueError(f"T must be {size} x {size} for M = {patch_size} and C = {channels}, got {tuple(T.shape)}")
        if not T.isfinite().all():
            raise ValueError("T must hold finite numbers; it has NaN or infinity")
        values = torch.linalg.svdvals(T)
        if values[-1] <= size * torch.finfo(T.dtype).eps * values[0] or (1 / values[-1]).isinf():
            raise ValueError("T must be invertible; this matrix is singular, or too nearly so to be undone in float64")
        self._set(patch_size, channels, _Matrix(T))

    def matrix(self) -> Tensor:
        """T, float64 (p_b, p_b). A fresh tensor."""
        return self._secret.T.clone()

    @property
    def bits(self) -> float:
        """Infinite, since real numbers cannot be counted; in float32 there are at most 32 bits an entry."""
        return inf

    @property
    def condition(self) -> float:
        """The condition number of T: its largest singular value over its smallest."""
        values = torch.linalg.svdvals(self._secret.T)
        return float(values[0] / values[-1])

    def act(self, blocks: Tensor) -> Tensor:
        """x T, in the dtype of the blocks."""
        if not blocks.is_floating_point():
            raise _no_pixels(blocks)
        return blocks @ self._secret.T.to(blocks)

    def inverse(self) -> MatrixKey:
        """T⁻¹, in float64."""
        return MatrixKey(torch.linalg.inv(self._secret.T), self.patch_size, self.channels)

    def dual(self) -> MatrixKey:
        """T⁻ᵀ; equal to T, up to rounding, where T is orthogonal."""
        return MatrixKey(torch.linalg.inv(self._secret.T).T, self.patch_size, self.channels)

    @classmethod
    def orthogonal(cls, patch_size: int, channels: int, seed: int | None = None) -> MatrixKey:
        """A random orthogonal matrix, all equally likely (Haar); from the operating system's entropy without a seed.

        >>> T = MatrixKey.orthogonal(2, 3, seed=0).matrix()
        >>> torch.allclose(T @ T.T, torch.eye(12, dtype=torch.float64))
        True
        """
        Q, R = torch.linalg.qr(_normal(block_size(patch_size, channels), seed))
        return cls(Q * R.diagonal().sign(), patch_size, channels)  # without the signs, QR prefers some matrices

    @classmethod
    def invertible(cls, patch_size: int, channels: int, seed: int | None = None) -> MatrixKey:
        """A random matrix with standard normal entries; its condition is a matter of luck.

        >>> 1 < MatrixKey.invertible(2, 3, seed=0).condition < 1000
        True
        """
        return cls(_normal(block_size(patch_size, channels), seed), patch_size, channels)


class PatchKeys(BlockKey):
    """A key of its own for each place of the grid: block (i, j) of every image gets ``keys[i * w + j]``.

    Args:
        keys: h · w keys of one block shape that act on blocks one by one: signed permutations, or matrices.
        grid: (h, w), blocks down and across.

    Raises:
        ValueError: as many keys as places are not there, or their block shapes differ.
        TypeError: a key that is not for single blocks.

    >>> keys = PatchKeys.from_seed(0, 4, 3, grid=(8, 8))
    >>> round(keys.bits / 64, 2)
    247.82
    """

    __slots__ = ()
    needs = "a patch embedding whose weights are not shared among places"

    def __init__(self, keys: Iterable[BlockKey], grid: tuple[int, int]) -> None:
        keys = tuple(keys)
        for key in keys:
            if not isinstance(key, SignedPermutation | MatrixKey):
                raise TypeError(
                    f"the key of a place must be a SignedPermutation or a MatrixKey, got {type(key).__name__}"
                )
        grid = _grid(grid)
        if len(keys) != grid[0] * grid[1]:
            raise ValueError(f"need one key for each of the {grid[0]} x {grid[1]} places, got {len(keys)}")
        shapes = {(key.patch_size, key.channels) for key in keys}
        if len(shapes) > 1:
            raise ValueError(f"keys of all places must be for one block shape (M, C), got {sorted(shapes)}")
        self._set(*shapes.pop(), (grid, keys))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), blocks down and across."""
        return self._secret[0]

    @property
    def keys(self) -> tuple[BlockKey, ...]:
        """One for each place, row by row."""
        return self._secret[1]

    @property
    def moves_pixels(self) -> bool:  # type: ignore[override]
        """Whether all of its keys do."""
        return all(key.moves_pixels for key in self.keys)

    @property
    def bits(self) -> float:
        """The sum over all places."""
        return sum(key.bits for key in self.keys)

    @property
    def condition(self) -> float:
        """The worst of all places."""
        return max(key.condition for key in self.keys)

    def act(self, blocks: Tensor) -> Tensor:
        """Each block with its own key."""
        _check_grid(blocks, self.grid)
        places = zip(self.keys, blocks.flatten(-3, -2).unbind(-2), strict=True)
        return torch.stack([key.act(block) for key, block in places], -2).reshape(blocks.shape)

    def inverse(self) -> PatchKeys:
        """The inverse of each."""
        return PatchKeys((key.inverse() for key in self.keys), self.grid)

    def dual(self) -> PatchKeys:
        """The dual of each."""
        return PatchKeys((key.dual() for key in self.keys), self.grid)

    def _before(self, order: BlockOrder) -> PatchKeys:
        _same_grid(order.grid, self.grid)
        return PatchKeys((self.keys[n] for n in order.order.argsort().tolist()), self.grid)

    @classmethod
    def generate(cls, patch_size: int, channels: int, grid: tuple[int, int]) -> PatchKeys:
        """The paper's keys, one for each place, from the operating system's entropy."""
        grid = _grid(grid)
        return cls((Key.generate(patch_size, channels) for _ in range(grid[0] * grid[1])), grid)

    @classmethod
    def from_seed(cls, seed: int, patch_size: int, channels: int, grid: tuple[int, int]) -> PatchKeys:
        """Reproducible ones: of place n, ``Key.from_seed(seed * h * w + n)``."""
        seed, grid = integer(seed, "the seed"), _grid(grid)
        count = grid[0] * grid[1]
        return cls((Key.from_seed(seed * count + n, patch_size, channels) for n in range(count)), grid)


class BlockOrder(BlockKey):
    """Blocks change places, and stay as they are: place n of the encrypted image gets the block of place order[n].

    Args:
        order: h · w integers, each of 0..hw-1 once; places are counted row by row.
        patch_size: M.
        channels: C.
        grid: (h, w), blocks down and across.

    Raises:
        ValueError: a size below 1, a wrong length, an index out of range or repeated.

    >>> order = BlockOrder([1, 0], patch_size=1, channels=1, grid=(1, 2))
    >>> order.act(torch.tensor([[[5], [7]]])).flatten()
    tensor([7, 5])
    >>> round(BlockOrder.generate(4, 3, grid=(8, 8)).bits, 1)
    296.0
    """

    __slots__ = ()
    needs = (
        "learned positions or token mixing; or convolutions with odd kernels, where the order is a symmetry of the grid"
    )

    def __init__(self, order: Iterable[int] | Tensor, patch_size: int, channels: int, grid: tuple[int, int]) -> None:
        grid = _grid(grid)
        values = order.tolist() if isinstance(order, Tensor) else list(order)
        if len(values) != grid[0] * grid[1]:
            raise ValueError(
                f"order must have {grid[0] * grid[1]} entries for {grid[0]} x {grid[1]} places, got {len(values)}"
            )
        self._set(patch_size, channels, (grid, _permutation(values, "order")))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), blocks down and across."""
        return self._secret[0]

    @property
    def order(self) -> Tensor:
        """int64 (h · w,). A fresh tensor."""
        return torch.tensor(self._secret[1], dtype=torch.int64)

    @property
    def bits(self) -> float:
        """log2 of (h w)!."""
        return log2(factorial(self.grid[0] * self.grid[1]))

    def act(self, blocks: Tensor) -> Tensor:
        """Blocks in the new order; also of any other tensor (..., h, w, n), such as a map or a position embedding."""
        _check_grid(blocks, self.grid)
        return blocks.flatten(-3, -2)[..., self.order.to(blocks.device), :].reshape(blocks.shape)

    def inverse(self) -> BlockOrder:
        """The order that puts all blocks back."""
        return BlockOrder(self.order.argsort(), self.patch_size, self.channels, self.grid)

    def _and_then(self, other: BlockOrder) -> BlockOrder:
        _same_grid(self.grid, other.grid)
        return BlockOrder(self.order[other.order], self.patch_size, self.channels, self.grid)

    @classmethod
    def generate(cls, patch_size: int, channels: int, grid: tuple[int, int]) -> BlockOrder:
        """An order from the operating system's entropy, each of the (h w)! equally likely."""
        h, w = _grid(grid)
        return cls(_shuffled(list(range(h * w)), secrets.randbelow), patch_size, channels, (h, w))

    @classmethod
    def from_seed(cls, seed: int, patch_size: int, channels: int, grid: tuple[int, int]) -> BlockOrder:
        """A reproducible order, independent of `Key.from_seed` with the same seed."""
        h, w = _grid(grid)
        return cls(_shuffled(list(range(h * w)), _randbelow(_label("K3", seed))), patch_size, channels, (h, w))


class ScrambledKey(BlockKey):
    """First each block by a key for blocks, then whole blocks by an order: what ``key.then(order)`` gives.

    Args:
        within: a `SignedPermutation`, a `MatrixKey` or `PatchKeys`.
        order: a `BlockOrder` for the same block shape, and the same grid if `within` has one.

    Raises:
        TypeError: another kind of key.
        ValueError: block shapes or grids differ.
    """

    __slots__ = ()

    def __init__(self, within: BlockKey, order: BlockOrder) -> None:
        if not isinstance(within, SignedPermutation | MatrixKey | PatchKeys) or not isinstance(order, BlockOrder):
            raise TypeError(
                "need a key for the pixels of blocks and a BlockOrder, "
                f"got {type(within).__name__} and {type(order).__name__}; a.then(b) composes any two keys"
            )
        if (within.patch_size, within.channels) != (order.patch_size, order.channels):
            raise ValueError(f"block shapes differ: {within} and {order}")
        if isinstance(within, PatchKeys):
            _same_grid(within.grid, order.grid)
        self._set(within.patch_size, within.channels, (within, order))

    @property
    def within(self) -> BlockKey:
        """What happens first, to the pixels of each block."""
        return self._secret[0]

    @property
    def order(self) -> BlockOrder:
        """What happens then, to whole blocks."""
        return self._secret[1]

    @property
    def needs(self) -> str:  # type: ignore[override]
        """What both need."""
        return f"{self.within.needs}; {self.order.needs}"

    @property
    def moves_pixels(self) -> bool:  # type: ignore[override]
        """Whether the key within blocks does."""
        return self.within.moves_pixels

    @property
    def bits(self) -> float:
        """The sum of both."""
        return self.within.bits + self.order.bits

    @property
    def condition(self) -> float:
        """That of the key within blocks."""
        return self.within.condition

    def act(self, blocks: Tensor) -> Tensor:
        """Both, one after the other."""
        return self.order.act(self.within.act(blocks))

    def inverse(self) -> ScrambledKey:
        """Of the same form: the order undone, and the key within blocks undone where its blocks have come to lie."""
        order = self.order.inverse()
        return ScrambledKey(self.within.inverse()._before(order), order)

    def dual(self) -> ScrambledKey:
        """The dual within, in the same order."""
        return ScrambledKey(self.within.dual(), self.order)


class KeySchedule:
    """A key per image: key number n comes from one secret and the public number n, by HKDF-SHA256 (RFC 5869).

    Whoever has the secret can make every key; whoever has some of the keys can, as far as anybody knows, only guess the
    others. The numbers may be known to all, but a number must not be used for two images.

    Args:
        secret: at least 16 bytes that nobody can guess, such as `generate` draws.
        patch_size: M.
        channels: C.

    Raises:
        TypeError: a secret that is no bytes, such as a passphrase.
        ValueError: a shorter secret.

    >>> schedule = KeySchedule(bytes(32), 4, 3)
    >>> schedule[7] == schedule[7], schedule[7] == schedule[8], schedule
    (True, False, KeySchedule(patch_size=4, channels=3, secret hidden))
    """

    def __init__(self, secret: bytes, patch_size: int, channels: int) -> None:
        block_size(patch_size, channels)
        if not isinstance(secret, bytes | bytearray | memoryview):
            raise TypeError(
                f"the secret must be bytes, such as KeySchedule.generate draws; got {type(secret).__name__}"
            )
        if len(secret) < 16:
            raise ValueError(
                f"the secret must have at least 16 bytes, got {len(secret)}; KeySchedule.generate draws one"
            )
        self._secret, self.patch_size, self.channels = bytes(secret), index(patch_size), index(channels)

    @classmethod
    def generate(cls, patch_size: int, channels: int) -> KeySchedule:
        """A schedule from 256 bits of the operating system's entropy."""
        return cls(secrets.token_bytes(32), patch_size, channels)

    __iter__ = None  # there are keys without end

    def __getitem__(self, number: int) -> Key:
        """The key of image `number`, 0 or larger."""
        number = integer(number, "the number of an image")
        if number < 0:
            raise ValueError(f"the number of an image must not be negative, got {number}")
        info = f"mixerkey Key {self.patch_size} {self.channels} {number}".encode()
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret).hex()
        return Key._draw(self.patch_size, self.channels, *(_randbelow(f"{name} {derived}") for name in ("K1", "K2")))

    def keys(self, numbers: Iterable[int]) -> list[Key]:
        """Those of several images: what `mixerkey.encrypt_images` takes for as many."""
        return [self[number] for number in numbers]

    def __repr__(self) -> str:
        return f"KeySchedule(patch_size={self.patch_size}, channels={self.channels}, secret hidden)"

    def __copy__(self) -> KeySchedule:
        return self

    def __deepcopy__(self, memo: dict) -> KeySchedule:
        return self

    def __reduce__(self) -> tuple:
        raise TypeError(
            "keys are never pickled; keep the secret instead. A DataLoader needs no pickling with num_workers=0, or "
            'with multiprocessing_context="fork"'
        )


def integer(value: Any, name: str) -> int:
    """A whole number of any integer type as an int, so that equal numbers make equal keys.

    Raises:
        TypeError: no integer; 7.0 is none.

    >>> integer(np.int64(7), "the seed")
    7
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def check_key(key: Any) -> None:
    """Refuse what is no key.

    >>> check_key(None)
    Traceback (most recent call last):
        ...
    TypeError: need a key, such as Key.generate makes; got NoneType
    """
    if not isinstance(key, BlockKey):
        raise TypeError(f"need a key, such as Key.generate makes; got {type(key).__name__}")


def block_size(patch_size: int, channels: int) -> int:
    """p_b = M² C, the number of pixels in a block.

    Raises:
        TypeError: a size that is no integer.
        ValueError: a size below 1, or more than 1,048,576 pixels.

    >>> block_size(4, 3)
    48
    """
    patch_size, channels = integer(patch_size, "patch_size"), integer(channels, "channels")
    if patch_size < 1 or channels < 1:
        raise ValueError(f"patch_size and channels must be at least 1, got {patch_size} and {channels}")
    size = patch_size**2 * channels
    if size > LARGEST_BLOCK:
        raise ValueError(f"a key is for blocks of up to {LARGEST_BLOCK:,} values, patch size squared times channels")
    return size


def key_space_bits(patch_size: int, channels: int) -> float:
    """log2 of the number of the paper's keys, p_b! · p_b! / ((p_b / 2)!)² (§4.3).

    >>> round(key_space_bits(4, 3), 2)
    247.82
    >>> round(2 ** key_space_bits(2, 1))
    144
    """
    size = block_size(patch_size, channels)
    return log2(factorial(size)) + log2(comb(size, size // 2))


class _Matrix:
    """A matrix that compares and hashes by its numbers."""

    def __init__(self, T: Tensor) -> None:
        self.T = T + 0.0  # no zero is negative, so that equal matrices have equal bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Matrix) and torch.equal(self.T, other.T)

    def __hash__(self) -> int:
        return hash(self.T.numpy().tobytes())


def _no_pixels(blocks: Tensor) -> TypeError:
    return TypeError(f"act takes normalised pixels, got {blocks.dtype}; encrypt_images takes pictures")


def _parts(key: BlockKey) -> tuple[BlockKey | None, BlockOrder | None]:
    """A key as what it does within blocks and to whole blocks."""
    if isinstance(key, ScrambledKey):
        return key.within, key.order
    return (None, key) if isinstance(key, BlockOrder) else (key, None)


def _within(a: BlockKey, b: BlockKey) -> BlockKey:
    """`a` and then `b`, neither of which moves whole blocks, as one key."""
    if isinstance(a, PatchKeys) or isinstance(b, PatchKeys):
        grid = a.grid if isinstance(a, PatchKeys) else b.grid  # type: ignore[attr-defined]
        _same_grid(grid, *(key.grid for key in (a, b) if isinstance(key, PatchKeys)))
        first, second = (key.keys if isinstance(key, PatchKeys) else [key] * (grid[0] * grid[1]) for key in (a, b))
        return PatchKeys((_within(x, y) for x, y in zip(first, second, strict=True)), grid)
    if isinstance(a, SignedPermutation) and isinstance(b, SignedPermutation):
        v = b.permutation
        return SignedPermutation(a.permutation[v], a.flips[v] ^ b.flips, a.patch_size, a.channels)
    return MatrixKey(b.act(a.matrix()), a.patch_size, a.channels)  # type: ignore[attr-defined]


def _permutation(values: Sequence[Any], name: str) -> tuple[int, ...]:
    numbers = tuple(integer(value, f"each entry of {name}") for value in values)
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{name} must hold each of 0..{len(numbers) - 1} once; an index is repeated or out of range")
    return numbers


def _grid(grid: tuple[int, int]) -> tuple[int, int]:
    try:
        down, across = grid
    except (TypeError, ValueError):
        raise TypeError(f"a grid is (h, w), blocks down and across; got {grid!r}") from None
    h, w = integer(down, "the grid's h"), integer(across, "the grid's w")
    if h < 1 or w < 1:
        raise ValueError(f"a grid needs at least one place down and across, got {h} x {w}")
    if h * w > LARGEST_GRID:
        raise ValueError(f"a key is for grids of up to {LARGEST_GRID:,} places")
    return h, w


def _same_grid(*grids: tuple[int, int]) -> None:
    if len(set(grids)) > 1:
        raise ValueError("the keys are for different grids of blocks: " + " and ".join(f"{h} x {w}" for h, w in grids))


def _check_grid(blocks: Tensor, grid: tuple[int, int]) -> None:
    if blocks.ndim < 3 or tuple(blocks.shape[-3:-1]) != grid:
        raise ValueError(
            f"the key is for {grid[0]} x {grid[1]} blocks, got {tuple(blocks.shape[-3:-1])}: images of another size"
        )


def _shuffled(items: list[int], below: Below) -> list[int]:
    """Fisher and Yates: uniform over all orders when below(n) is uniform over 0..n-1."""
    for i in range(len(items) - 1, 0, -1):
        j = below(i + 1)
        items[i], items[j] = items[j], items[i]
    return items


def _label(name: str, seed: int) -> str:
    seed = integer(seed, "the seed")
    if seed < 0:
        raise ValueError(f"the seed must not be negative, got {seed}")
    return f"mixerkey {name} {seed}"


def _digests(label: str) -> Iterator[bytes]:
    """Reproducible bytes, 32 at a time: SHA-256 of the label and a counter."""
    counter = 0
    while True:
        yield hashlib.sha256(f"{label} {counter}".encode()).digest()
        counter += 1


def _randbelow(label: str) -> Below:
    """A reproducible `secrets.randbelow`, unbiased by rejection."""
    digests = _digests(label)

    def below(n: int) -> int:
        limit = 2**64 - 2**64 % n
        return next(value % n for digest in digests if (value := int.from_bytes(digest[:8], "big")) < limit)

    return below


def _normal(size: int, seed: int | None) -> Tensor:
    """float64 (size, size) of standard normal numbers, each from 53 bits of the operating system or of a seed."""
    if size > LARGEST_MATRIX:
        raise ValueError(f"a matrix is drawn for blocks of up to {LARGEST_MATRIX:,} values")
    count = 8 * size * size
    if seed is None:
        data = secrets.token_bytes(count)
    else:
        digests = _digests(_label("matrix", seed))
        data = b"".join(next(digests) for _ in range(-(-count // 32)))[:count]
    uniform = ((np.frombuffer(data, ">u8") >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    return torch.from_numpy(ndtri(uniform).reshape(size, size))
