"""Whether a network still holds a copy of a matrix that was encrypted: in any tensor that can be reached from it."""

from __future__ import annotations

import gc
import math
import re
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO, StringIO
from itertools import permutations
from numbers import Real
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

DELAY = 5  # seconds before a bar is shown
CODE = 32  # neighbouring numbers that are looked up at once
SHORTEST = 8  # numbers in a row or column that can be told from chance
ALIKE = 64  # places of one code that are tried
LIKE = 0.6  # correlation from which on something is like a matrix
CHANCE = 6  # deviations that no place reaches by chance, of the many where a matrix is looked for
SMOOTH = 8  # neighbouring numbers of a filter that say as much as one by itself
LARGE = 1000  # times the median, of neighbouring numbers
SEVERAL, MOST, PARTS = 64, 6, 4  # matrices in one tensor, its axes, and parts of a matrix
ENOUGH = 2**13  # numbers of a part that tell whether all of it is there
PIECE = 2**20  # numbers of a tensor, or candidates, at a time
LARGEST = 2**28  # numbers of a sparse tensor that are written out
BYTES = (str, bytes, bytearray, memoryview, BytesIO, StringIO, torch.UntypedStorage)
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", re.ASCII)
ATOMS = (str, bytes, int, float, complex, ModuleType, type(None), FrameType)
CONTAINERS = (list, tuple, array, deque, dict)  # whose order is that of their numbers
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}  # whose classes hold nobody's weights, but for networks


def find_copy(matrices: list[tuple[Tensor, Tensor]], model: nn.Module, *, progress: bool = False) -> str | None:
    """The name of a tensor in the network that holds rows or columns of a matrix, wherever and however stored.

    A row or column counts as found up to a factor, an offset and rounding to 8 bits, at any place of a tensor of any
    type, also of one that the state dict alone has. The tensor is named by which a sixteenth of the rows, or of the
    columns, has been found. It is also named if a quarter of the matrix, its rows or columns in order, is merely like
    some place of it or of a row of small tensors, as a moving average is, signs or the weights of an earlier day: who
    matches what is like the matrix with what has become of it has the key. What has become of any of the matrices is
    left out.

    Args:
        matrices: pairs of a matrix (d, …), d > 1, and the tensor of the network that holds what it has become.
        model: the network.
        progress: show a bar if it takes more than some seconds.

    >>> layer = nn.Linear(64, 16)
    >>> plain, layer.history = layer.weight.detach().clone(), {"first": [layer.weight.detach().half()]}
    >>> layer.weight.data = -layer.weight.data.flip(1)
    >>> find_copy([(plain, layer.weight)], layer)
    'history.first.0'
    """
    states = model.state_dict(keep_vars=True)  # also what hooks and get_extra_state put into it
    held = {id(tensor): (name, tensor) for name, tensor in [*reachable(states), *reachable(model, numbers=True)]}
    new = [part for _, encrypted in matrices for part in _real(encrypted)]
    parts = [(name, part) for name, tensor in held.values() for part in _real(tensor)]
    parts = [(name, part) for name, part in parts if not any(_equal(part, encrypted) for encrypted in new)]
    for plain, _ in matrices:
        whole = _real(plain)[0]
        W = whole.flatten(1)
        for rows in _distinct(W):
            table, found = _Table(rows), set[int]()
            for name, part in tqdm(parts, "search for copies", leave=False, delay=DELAY, disable=not progress):
                found |= table.rows_in(part)
                if found and 16 * len(found) >= len(table.rows):
                    return name
        all_parts = [*parts, *_joined(parts, W)]
        for name, part in tqdm(all_parts, "search for the like", leave=False, delay=DELAY, disable=not progress):
            if _like(whole, part):
                return name
    return None


def _equal(part: Tensor, encrypted: Tensor) -> bool:
    """Whether this is an encrypted tensor, or a copy of one, rounded perhaps."""
    if part.numel() != encrypted.numel():
        return False
    return bool((part.flatten() - encrypted.flatten()).abs().max() <= 1e-2 * encrypted.abs().max())


def _joined(parts: list[tuple[str, Tensor]], W: Tensor) -> list[tuple[str, Tensor]]:
    """All tensors of some rows, and all of some columns, but of less than a part of the matrix, in one."""
    joined = []
    for n in W.shape:
        small = [(name, part.flatten()) for name, part in parts if part.numel() * PARTS < W.numel()]
        small = [(name, part) for name, part in small if len(part) and len(part) % n == 0]
        if small:
            joined.append((f"{small[0][0]} … {small[-1][0]}", torch.cat([part for _, part in small]).reshape(-1, n)))
    return joined


def _like(plain: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor, or some place of it, goes with a matrix or a part of it far more than chance has it."""
    W = plain.flatten(1)
    several, rest = divmod(tensor.numel(), W.numel() or 1)
    if W.numel() >= SHORTEST and not rest and 0 < several <= SEVERAL and tensor.ndim <= MOST:
        w, least = _standard(W.reshape(1, -1)), _least(W.numel())
        orders = (tensor.permute(axes).reshape(-1, W.numel()) for axes in permutations(range(tensor.ndim)))
        if any(((_standard(x) * w).sum(1).abs() > least).any() for x in orders):
            return True
    views = [tensor.flatten(1), tensor.flatten(1).T] if tensor.ndim > 1 else [tensor.reshape(1, -1)]
    parts = [part for rows in (W, W.T) for part in _parts_of(rows)]
    if any(_in_rows([part for part in parts if part.shape[1] == x.shape[1]], x) for x in views):
        return True
    vectors = [x.flatten() for x in views if tensor.ndim < 2 or x.shape[1] >= W.numel()]
    axes = (plain.flatten(2) if plain.ndim > 2 else plain).squeeze()  # filters, channels, pixels
    orders = (axes.permute(order).reshape(W.shape) for order in permutations(range(axes.ndim)))
    return any(_anywhere(part, x) for rows in (orders if vectors else ()) for part in _parts_of(rows) for x in vectors)


def _least(numbers: float) -> float:
    """The correlation of so many numbers that is no chance, by Fisher's transformation; 1 where any may be."""
    return max(LIKE, math.tanh(CHANCE / math.sqrt(numbers - 3))) if numbers > 4 else 1


def _parts_of(rows: Tensor) -> list[Tensor]:
    """The beginnings of the quarters of a matrix, and of all of it: vectors that are not constant, with length 1."""
    quarters = rows.split(max(1, len(rows) // PARTS))[:PARTS]
    return [
        _standard(part[: max(1, ENOUGH // rows.shape[1])].reshape(1, -1)).reshape(-1, rows.shape[1])
        for part in (*quarters, rows)
    ]


def _in_rows(parts: list[Tensor], x: Tensor) -> bool:
    """Whether neighbouring rows of x go with one of the parts, of rows as long, more than chance has it."""
    parts = [part for part in parts if len(x) >= len(part) and _least(part.numel() / min(SMOOTH, x.shape[1])) < 1]
    longest = max(map(len, parts), default=1)
    step = max(1, PIECE // max(longest, x.shape[1]))
    for first in range(0, len(x) if parts else 0, step):
        piece = x[first : first + step + longest - 1]
        rows = [y.sum(1) for y in (piece.double(), piece.double() ** 2)]
        for part in parts:
            k, places = len(part), len(piece) - len(part) + 1
            if places < 1:
                continue
            product = (piece @ part.T).as_strided((places, k), (k, k + 1)).sum(1)
            sums, squares = (y.unfold(0, k, 1).sum(1) for y in rows)
            spread = (squares - sums**2 / part.numel()).clamp(min=1e-9 * squares)
            if (product.abs() > _least(part.numel() / min(SMOOTH, x.shape[1])) * spread.sqrt()).any():
                return True
    return False


def _anywhere(part: Tensor, x: Tensor) -> bool:
    """Whether a window of the vector x goes with a part more than chance has it, by Fourier transform."""
    n = part.numel()
    least = _least(n / min(SMOOTH, part.shape[1]))
    if len(x) < n or least == 1:
        return False
    size = 1 << min(max(14, (4 * n - 1).bit_length()), (len(x) - 1).bit_length())
    w = torch.fft.rfft(part.double().flatten(), size).conj()
    for first in range(0, len(x) - n + 1, size - n + 1):
        piece = torch.nan_to_num(x[first : first + size].double(), 0, 0, 0)
        if middle := piece.abs().median().item():
            piece = piece.clamp(-LARGE * middle, LARGE * middle)  # a large number beside them hides no weights
        piece = piece / piece.abs().max().clamp(min=1e-300)
        product = torch.fft.irfft(torch.fft.rfft(piece, size) * w, size)[: len(piece) - n + 1]
        sums, squares = (nn.functional.pad(y.cumsum(0), (1, 0)) for y in (piece, piece**2))
        spread = (squares[n:] - squares[:-n]) - (sums[n:] - sums[:-n]) ** 2 / n
        if (product.abs() > least * spread.clamp(min=1e-9).sqrt()).any():
            return True
    return False


def _distinct(W: Tensor) -> list[Tensor]:
    """What to look for of a matrix: its rows and its columns, or all of it in one where both are short."""
    long = [rows for rows in (W, W.T) if rows.shape[1] >= SHORTEST]
    return long or ([W.reshape(1, -1)] if W.numel() >= SHORTEST else [])


class _Table:
    """Rows, found by the pattern of rise and fall in some of their neighbouring numbers."""

    def __init__(self, rows: Tensor) -> None:
        rows = rows[rows.std(1) > 0]
        self.rows, self.n = _standard(rows), rows.shape[1]
        self.width = min(self.n, CODE)
        self.starts = self.n - self.width + 1  # of windows in a row
        pieces = rows.split(max(1, PIECE // (self.starts * self.width)))
        each = [_codes(piece.unfold(1, self.width, 1).flatten(0, 1)) for piece in pieces]
        codes, varied = (torch.cat(part) for part in zip(*each, strict=True))
        self.codes, order = codes[varied].sort()
        self.entries = varied.nonzero()[order, 0]  # row * starts + start

    def rows_in(self, tensor: Tensor) -> set[int]:
        """The numbers of the rows that lie in a tensor, as it is stored or in the order of its transpose."""
        if tensor.numel() < self.n or not len(self.codes):
            return set()
        orders = [tensor, tensor.flatten(1).T] if tensor.ndim > 1 else [tensor]
        return {row for x in orders for row in self._found(x.flatten())}

    def _found(self, x: Tensor) -> set[int]:
        """The numbers of the rows that lie in a vector."""
        found: set[int] = set()
        stride = max(1, PIECE // self.starts) * self.starts
        for first in range(0, len(x) - self.width + 1, stride):
            # One window in as many places as a row has: of each row that is there, one window is among them.
            piece = x[first : first + stride + self.width - 1]
            codes, varied = _codes(piece.unfold(0, self.width, self.starts))
            places = first + varied.nonzero()[:, 0] * self.starts
            low, high = (torch.searchsorted(self.codes, codes[varied], right=right) for right in (False, True))
            for turn in range(min(ALIKE, int((high - low).max())) if len(low) else 0):
                hit = low + turn < high
                entry = self.entries[(low + turn)[hit]]
                found |= self._confirmed(x, entry // self.starts, places[hit] - entry % self.starts)
        return found

    def _confirmed(self, x: Tensor, rows: Tensor, begins: Tensor) -> set[int]:
        inside = (begins >= 0) & (begins + self.n <= len(x))
        found: set[int] = set()
        for row, begin in zip(*(part[inside].split(PIECE // self.n + 1) for part in (rows, begins)), strict=True):
            windows = _standard(x[begin[:, None] + torch.arange(self.n)])
            same = (windows * self.rows[row]).sum(1).abs() > 1 - (1e-3 if self.n >= 16 else 1e-5)
            found.update(row[same].tolist())
        return found


def _standard(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)


def _codes(windows: Tensor) -> tuple[Tensor, Tensor]:
    """int64 (k,), where windows (k, width) turn from rise to fall: the same for all multiples; and which say much."""
    steps = windows.diff(dim=1)
    turns = (steps[:, 1:] > 0) ^ (steps[:, :-1] > 0)
    powers = 2.0 ** torch.arange(turns.shape[1], dtype=torch.float64)
    return (turns.double() @ powers).long(), (steps != 0).sum(1) * 2 > steps.shape[1]


def reachable(thing: Any, *, numbers: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that can be reached from a network or an answer: in attributes, containers, hooks and closures.

    Args:
        thing: it.
        numbers: whether the plain numbers of a container count as a tensor, and bytes as one of each floating dtype.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> model.seen = {"first": (torch.ones(1),)}
    >>> [name for name, _ in reachable(model)]
    ['0.weight', 'seen.first.0']
    """
    todo: list[tuple[str, Any]] = [("", thing)]
    known: dict[int, Any] = {}  # holds on to what was seen, so that no identity is used twice
    while todo:
        name, thing = todo.pop()
        if numbers and isinstance(thing, BYTES):
            yield from ((name, tensor) for tensor in _spelt(thing))
        if isinstance(thing, ATOMS) or id(thing) in known or (isinstance(thing, type) and _of_library(thing)):
            continue
        known[id(thing)] = thing
        tensor = _array(thing) if isinstance(thing, np.ndarray) else thing
        if isinstance(tensor, Tensor):
            yield name, tensor
            if numbers:
                yield from ((name, other) for other in _behind(tensor))
        elif numbers:
            yield from ((name or type(thing).__name__, tensor) for tensor in _gathered(thing))
        todo += reversed([(f"{name}.{key}".lstrip(".") if key else name, part) for key, part in _parts(thing)])


def _spelt(thing: Any) -> Iterator[Tensor]:
    """What text or bytes may mean: the numbers that are written out in it, or those of each floating dtype."""
    if isinstance(thing, torch.UntypedStorage):
        thing = torch.empty(0, dtype=torch.uint8, device=thing.device).set_(thing).cpu().numpy()
    elif isinstance(thing, BytesIO | StringIO):
        thing = b"" if thing.closed else thing.getvalue()
    if not isinstance(thing, str):
        thing = bytearray(thing)
        spelt = torch.frombuffer(thing or bytearray(8), dtype=torch.uint8)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            yield spelt[: len(spelt) // 8 * 8].view(dtype)
    if thing.isascii():
        found = NUMBER.findall(thing if isinstance(thing, str) else thing.decode())
        if len(found) >= SHORTEST:
            yield torch.tensor([float(number) for number in found], dtype=torch.float64)


def _entries(thing: Any) -> list[Any]:
    """What stands in a container, or in the attributes of a thing, in order."""
    if isinstance(thing, CONTAINERS) and not isinstance(thing, dict):
        return list(thing)
    return list((thing if isinstance(thing, dict) else getattr(thing, "__dict__", {})).values())


def _gathered(thing: Any) -> Iterator[Tensor]:
    """All numbers in a container, or among attributes, in one; in columns, if each entry has as many."""
    seen, depth = {id(thing)}, MOST - 1 if isinstance(thing, CONTAINERS) else 0
    rows = [row for part in _entries(thing) if (row := list(_loose(part, seen, depth)))]
    even = len({len(row) for row in rows}) == 1
    if rows:
        yield torch.tensor(rows if even else [x for row in rows for x in row], dtype=torch.float64)


def _loose(thing: Any, seen: set[int], depth: int) -> Iterator[float]:
    """The numbers in a container, and in those in it, in order; also where each is text, or a tensor of its own."""
    if isinstance(thing, Real):
        with suppress(OverflowError):
            yield float(thing)
    elif isinstance(thing, str):
        if NUMBER.fullmatch(thing.strip()):
            yield float(thing)
    elif isinstance(thing, Tensor):
        if thing.numel() == 1:
            yield from (float(part) for part in _real(thing))
    elif depth and isinstance(thing, CONTAINERS) and id(thing) not in seen:
        seen.add(id(thing))  # a list may hold itself
        for part in _entries(thing):
            yield from _loose(part, seen, depth - 1)


def _array(thing: np.ndarray) -> Tensor | None:
    """The numbers of an array, in a dtype that PyTorch has; None if they are objects."""
    kind, size = thing.dtype.kind, thing.dtype.itemsize
    if kind not in "biufc":
        return None
    if (kind == "u" and size > 1) or size > {"c": 16}.get(kind, 8):
        thing = thing.astype(complex if kind == "c" else float)
    return torch.from_numpy(np.ascontiguousarray(thing.astype(thing.dtype.newbyteorder("="))))


def _behind(tensor: Tensor) -> Iterator[Tensor]:
    """All numbers of a storage of which a tensor shows a part, and what bytes mean."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return
    storage = tensor.untyped_storage()
    if storage.nbytes() > tensor.numel() * tensor.element_size():
        yield torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
    if tensor.dtype == torch.uint8:
        yield from _spelt(storage)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing holds, by name; "" where the name says nothing. No iterator is moved."""
    if isinstance(thing, type):
        yield "", _of_class(thing)
        return
    yield "", type(thing)
    if isinstance(thing, FunctionType):  # and not what else its module holds
        yield from (("", part) for part in (thing.__closure__, thing.__defaults__, thing.__kwdefaults__))
    if isinstance(thing, dict):
        yield from (("", key) for key in thing)
        yield from ((str(key), part) for key, part in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset | deque) or (
        isinstance(thing, np.ndarray) and thing.dtype == object
    ):
        yield from ((str(key), part) for key, part in enumerate(list(thing)))
    elif isinstance(thing, np.ndarray):
        yield "", thing.base
    elif isinstance(thing, Tensor) and thing.is_leaf:
        yield "grad", thing.grad
    elif isinstance(thing, weakref.ref):
        yield "", thing()
    elif isinstance(thing, torch.jit.ScriptModule):
        yield "", thing.state_dict()
    for key, part in getattr(thing, "__dict__", {}).items():
        yield "" if isinstance(thing, nn.Module) and key in ("_parameters", "_buffers", "_modules") else key, part
    if not isinstance(thing, FunctionType):  # iterators, generators, slots, bound and partial functions, caches
        yield from (("", part) for part in gc.get_referents(thing) if not isinstance(part, type))


def _of_class(kind: type) -> dict[str, Any]:
    """What a class, and those that it is made from, hold for all of their kind."""
    kinds = (Tensor, np.ndarray, list, tuple, dict, set, deque, nn.Module, FunctionType, Real, *BYTES)
    return {
        key: part
        for each in reversed(kind.__mro__)
        for key, part in vars(each).items()
        if isinstance(part, kinds) and not (key.startswith("__") or _of_library(each))
    }


def _of_library(kind: type) -> bool:
    """Whether a class is no network's, and PyTorch's, NumPy's or Python's own."""
    return not issubclass(kind, nn.Module) and str(kind.__module__).partition(".")[0] in LIBRARIES


def _real(tensor: Tensor) -> list[Tensor]:
    """float32 tensors on the CPU with the numbers of one of any kind; none of what holds no numbers."""
    if tensor.is_meta or tensor.is_nested:
        return []
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        for axis in (axis for axis in range(tensor.ndim) if tensor.stride(axis) == 0):
            tensor = tensor.narrow(axis, 0, min(1, tensor.shape[axis]))  # what is expanded is there once
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense() if tensor.numel() <= LARGEST else tensor.to_sparse_coo().coalesce().values()
    parts = [tensor.real, tensor.imag] if tensor.is_complex() else [tensor]
    return [part.to("cpu", torch.float32).as_subclass(Tensor) for part in parts]
