"""Keys of §3.2: the permutation v (from K1, step A1) and the flips r (from K2, step B2), and the group they live in."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, permutations
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor

FORMAT_VERSION = 1
Self = TypeVar("Self", bound="SignedPermutation")


class KeyFileError(ValueError):
    """A key file that can't be used; the message says what is wrong with it and what to do."""


class SignedPermutation:
    """What the cipher does to the p_b = M² C pixels of a block: x'(k) = ± x(v_k). Immutable, hashable.

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

    __slots__ = ("_flips", "_permutation", "channels", "patch_size")
    channels: int
    patch_size: int
    _permutation: tuple[int, ...]
    _flips: tuple[bool, ...]

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
        if sorted(v) != list(range(size)):
            raise ValueError(f"permutation must hold each of 0..{size - 1} once; an index is repeated or out of range")
        if any(bit not in (0, 1) for bit in r):
            raise ValueError("flips must be booleans, or 0 and 1")
        for name, value in (
            ("_permutation", tuple(int(k) for k in v)),
            ("_flips", tuple(bool(bit) for bit in r)),
            ("patch_size", patch_size),
            ("channels", channels),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple:
        raise TypeError("keys are never pickled; use save and load, which write JSON")

    def __copy__(self: Self) -> Self:
        return self

    def __deepcopy__(self: Self, memo: dict) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        """Equal when they do the same to the same block shape, whether or not one of them is a `Key`."""
        if not isinstance(other, SignedPermutation):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(patch_size={self.patch_size}, channels={self.channels}, secret hidden)"

    def _content(self) -> tuple:
        return self.patch_size, self.channels, self._permutation, self._flips

    @property
    def permutation(self) -> Tensor:
        """v, int64 (p_b,): x'(k) = x(permutation[k]) (Eq. 4). A fresh tensor."""
        return torch.tensor(self._permutation, dtype=torch.int64)

    @property
    def flips(self) -> Tensor:
        """r, bool (p_b,), indexed by ciphertext position (Eq. 5). A fresh tensor."""
        return torch.tensor(self._flips, dtype=torch.bool)

    def matrix(self) -> Tensor:
        """T, float64 (p_b, p_b): a row vector of *normalised* pixels is encrypted by x' = x @ T.

        Column k holds ±1 in row v_k. T is orthogonal: ``T @ T.T`` is the identity. On pixels in [0, 1] or 0..255 a
        flip is not linear, so T does not apply to them.
        """
        T = torch.zeros(len(self._permutation), len(self._permutation), dtype=torch.float64)
        T[self.permutation, torch.arange(len(self._permutation))] = 1 - 2 * self.flips.double()
        return T

    def inverse(self: Self) -> Self:
        """What undoes this one; of a `Key`, a `Key`.

        >>> key = Key.generate(4, 3)
        >>> key.then(key.inverse()) == SignedPermutation.identity(4, 3)
        True
        """
        back = self.permutation.argsort()
        return type(self)(back, self.flips[back], self.patch_size, self.channels)

    def then(self, other: SignedPermutation) -> SignedPermutation:
        """This one first, `other` after it, as one: ``a.then(b).matrix()`` is ``a.matrix() @ b.matrix()``.

        The flips of two keys do not add up to balanced flips, so the result is a `SignedPermutation`, not a `Key`.
        The relative key ``old.inverse().then(new)`` takes what `old` encrypted to what `new` encrypts.

        Raises:
            ValueError: `other` is for another block shape.
        """
        if (self.patch_size, self.channels) != (other.patch_size, other.channels):
            raise ValueError(
                f"block shapes differ: M = {self.patch_size}, C = {self.channels} "
                f"and M = {other.patch_size}, C = {other.channels}"
            )
        v = other.permutation
        return SignedPermutation(self.permutation[v], self.flips[v] ^ other.flips, self.patch_size, self.channels)

    @classmethod
    def identity(cls, patch_size: int, channels: int) -> SignedPermutation:
        """The one that changes nothing.

        >>> bool(SignedPermutation.identity(2, 1).flips.any())
        False
        """
        size = block_size(patch_size, channels)
        return SignedPermutation(range(size), [False] * size, patch_size, channels)

    def save(self, path: str | Path) -> None:
        """Write JSON with a version and a checksum, readable by its owner only (mode 0600), all or nothing.

        Raises:
            FileExistsError: the file exists and holds something else: a key overwritten is a key lost.
        """
        path = Path(path)
        text = json.dumps(self._document(), indent=1) + "\n"
        if path.exists() and path.read_bytes() != text.encode():
            raise FileExistsError(f"{path} exists and holds something else; move it away or choose another name")
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp creates with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls: type[Self], path: str | Path, *, patch_size: int | None = None, channels: int | None = None) -> Self:
        """Read what `save` wrote, checking everything.

        Args:
            path: the file.
            patch_size: the M that is expected, if it is known.
            channels: the C that is expected, if it is known.

        Raises:
            FileNotFoundError: there is no such file.
            KeyFileError: truncated or not JSON, another format, a newer version, an altered file, another block
                shape, a wrong length, a repeated index, unbalanced flips.

        >>> import tempfile
        >>> key = Key.generate(4, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     key.save(folder + "/key.json")
        ...     Key.load(folder + "/key.json") == key
        True
        """
        name = Path(path).name
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise KeyFileError(f"{name} is not a complete JSON file; it may be truncated: copy it again") from error
        if not isinstance(document, dict) or document.get("format") != f"mixerkey {cls.__name__}":
            raise KeyFileError(f"{name} is not a mixerkey {cls.__name__} file")
        if document.get("version") != FORMAT_VERSION:
            raise KeyFileError(
                f"{name} has format version {document.get('version')!r}, this mixerkey reads version {FORMAT_VERSION}; "
                "upgrade mixerkey"
            )
        v, r, M, C = (document.get(field) for field in ("permutation", "flips", "patch_size", "channels"))
        if not (_integers(v) and _integers(r) and isinstance(M, int) and isinstance(C, int)):
            raise KeyFileError(f"{name} must hold integers: permutation and flips as lists, patch_size and channels")
        for field, stored, expected in (("patch_size", M, patch_size), ("channels", C, channels)):
            if expected is not None and stored != expected:
                raise KeyFileError(f"{name} is for {field} {stored}, expected {expected}: it is another block shape's")
        try:
            key = cls(v, r, M, C)
        except ValueError as error:
            raise KeyFileError(f"{name}: {error}") from error
        if document.get("checksum") != key._document()["checksum"]:
            raise KeyFileError(f"{name} does not match its checksum: it was altered or damaged; copy it again")
        return key

    def _document(self) -> dict:
        document = {
            "format": f"mixerkey {type(self).__name__}",
            "version": FORMAT_VERSION,
            "patch_size": self.patch_size,
            "channels": self.channels,
            "permutation": list(self._permutation),
            "flips": [int(bit) for bit in self._flips],
        }
        canonical = json.dumps(document, sort_keys=True).encode()
        return document | {"checksum": hashlib.sha256(canonical).hexdigest()}


class Key(SignedPermutation):
    """A secret key of the paper: a permutation v (K1) and flips r (K2), exactly p_b // 2 of which are True.

    Raises:
        ValueError: also when the flips are not balanced.

    >>> key = Key.from_seed(7, patch_size=4, channels=3)
    >>> key
    Key(patch_size=4, channels=3, secret hidden)
    >>> int(key.flips.sum()), len(key.permutation)
    (24, 48)
    """

    __slots__ = ()

    def __init__(
        self, permutation: Iterable[int] | Tensor, flips: Iterable[int] | Tensor, patch_size: int, channels: int
    ) -> None:
        super().__init__(permutation, flips, patch_size, channels)
        half, count = len(self._flips) // 2, sum(self._flips)
        if count != half:
            raise ValueError(f"a key flips exactly {half} of {len(self._flips)} pixels (step B2), got {count}")

    @classmethod
    def generate(cls, patch_size: int, channels: int) -> Key:
        """A key from the operating system's entropy: each of the p_b! · C(p_b, p_b // 2) is equally likely.

        >>> Key.generate(4, 3) == Key.generate(4, 3)  # 247.8 bits say no
        False
        """
        return cls._draw(patch_size, channels, secrets.randbelow, secrets.randbelow)

    @classmethod
    def from_seed(cls, seed: int, patch_size: int, channels: int) -> Key:
        """A reproducible key for lessons, the same on every platform and version; K1 and K2 are independent.

        A seed is not a key: whoever can try all seeds has the key, however large the key space is.

        Raises:
            ValueError: the seed is negative.

        >>> Key.from_seed(7, 2, 1).permutation
        tensor([2, 0, 1, 3])
        """
        if seed < 0:
            raise ValueError(f"the seed must not be negative, got {seed}")
        return cls._draw(patch_size, channels, _randbelow(f"mixerkey K1 {seed}"), _randbelow(f"mixerkey K2 {seed}"))

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
    def _draw(cls, patch_size: int, channels: int, below1: Callable[[int], int], below2: Callable[[int], int]) -> Key:
        size = block_size(patch_size, channels)
        half = size // 2
        v = _shuffled(list(range(size)), below1)
        r = _shuffled([1] * half + [0] * (size - half), below2)
        return cls(v, r, patch_size, channels)


def block_size(patch_size: int, channels: int) -> int:
    """p_b = M² C, the number of pixels in a block.

    Raises:
        ValueError: a size below 1.

    >>> block_size(4, 3)
    48
    """
    if patch_size < 1 or channels < 1:
        raise ValueError(f"patch_size and channels must be at least 1, got {patch_size} and {channels}")
    return patch_size**2 * channels


def _shuffled(items: list[int], below: Callable[[int], int]) -> list[int]:
    """Fisher and Yates: uniform over all orders when below(n) is uniform over 0..n-1."""
    for i in range(len(items) - 1, 0, -1):
        j = below(i + 1)
        items[i], items[j] = items[j], items[i]
    return items


def _randbelow(label: str) -> Callable[[int], int]:
    """A reproducible `secrets.randbelow`: SHA-256 of the label and a counter, unbiased by rejection."""
    counter = 0

    def below(n: int) -> int:
        nonlocal counter
        limit = 2**64 - 2**64 % n
        while True:
            digest = hashlib.sha256(f"{label} {counter}".encode()).digest()
            counter += 1
            value = int.from_bytes(digest[:8], "big")
            if value < limit:
                return value % n

    return below


def _integers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)
