"""What all checkers do: run an answer on fresh inputs, compare it with the right and the classic wrong ones."""

from __future__ import annotations

import inspect
import math
import textwrap
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

NOT_DONE = "Not done yet: "
OF_SHAPES = (IndexError, RuntimeError, ValueError, torch.linalg.LinAlgError, np.linalg.LinAlgError)
NEAR = 1e-9  # to a number that was reckoned in another order
ROUNDED = " by rounding only; is float32 mixed in?"
LOST = " can't hold them"


@dataclass(frozen=True, repr=False)
class Result:
    """What a checker says: its truth value is whether the answer is right, its repr the sentence.

    >>> bool(Result(False, "Not done yet."))
    False
    """

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return textwrap.fill(self.message, 92, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Value:
    """A checker of a value: a number, True or False, or a list of these.

    Args:
        right: the value.
        praise: what is said of it.
        mistakes: classic wrong values, each with what is said of it.

    >>> two = Value(2, "1 and 1.", ((11, "digits are not joined"),))
    >>> two(2), two(11), two("2"), two(...)  # doctest: +NORMALIZE_WHITESPACE
    (Right: 1 and 1., Not right: digits are not joined., Not right: expected a number, got text; leave its quotes out.,
     Not done yet: put your answer in place of the dots.)
    """

    right: Any
    praise: str
    mistakes: tuple[tuple[Any, str], ...]

    def __call__(self, answer: object) -> Result:
        if answer is ...:
            return Result(False, f"{NOT_DONE}put your answer in place of the dots.")
        numbers = as_numbers(answer)
        if isinstance(self.right, list) and numbers is not None and numbers.numel() == len(self.right):
            answer = numbers.flatten().tolist()  # a row, a column or a block
        reason = difference(answer, self.right, NEAR)
        if not reason:
            return Result(True, f"Right: {self.praise}")
        for wrong, message in self.mistakes:
            if not difference(answer, wrong, NEAR):
                return _wrong(message)
        return _wrong("; ".join(self._made(answer)) or reason)

    def _made(self, answer: object) -> list[str]:
        """What is said of the mistakes that an answer of several values has made beside others."""
        if not isinstance(answer, list | tuple) or not isinstance(self.right, list) or len(answer) != len(self.right):
            return []
        return [
            message
            for wrong, message in self.mistakes
            if all(w == r or not difference(a, w, NEAR) for a, w, r in zip(answer, wrong, self.right, strict=True))
        ]


@dataclass(frozen=True)
class Checker:
    """A checker of a function. It believes nothing of the function that it is given.

    Args:
        reference: the right function, under the name and with the parameters that the exercise gives it.
        inputs: makes the arguments of several calls from a generator: the exercise's example first, then random ones.
        praise: what is said of a right answer.
        mistakes: classic wrong functions, each with what is said of it; a part of a result may be ..., which is any.
        tolerance: by how much a result may differ; 0 asks for equality.
        canonical: applied to results before they are compared, where several are right.
        axes: what an argument has on which axis, said after an error of an index, a shape or a rank.
        rule: what a right result must satisfy besides; gets the result and the arguments as the function left them,
            and returns a complaint, or nothing.

    >>> import torch
    >>> double = Checker(
    ...     lambda x: 2 * x,
    ...     lambda g: [(torch.ones(3),), (torch.rand(4, generator=g),)],
    ...     "twice as much.",
    ...     ((lambda x: x * x, "this squares"),),
    ... )
    >>> double(lambda x: x + x)
    Right: twice as much.
    >>> double(lambda x: x**2)
    Not right: this squares.
    """

    reference: Callable[..., Any]
    inputs: Callable[[Generator], list[tuple]]
    praise: str
    mistakes: tuple[tuple[Callable[..., Any], str], ...]
    tolerance: float = 1e-9
    canonical: Callable[[Any], Any] = lambda result: result
    axes: str = ""
    rule: Callable[[Any, tuple], str] = lambda result, arguments: ""

    def __call__(self, answer: object) -> Result:
        name = self.reference.__name__
        if not callable(answer):
            return _wrong(f"give the function itself, {name}, without calling it; this is {_kind(answer)}")
        generator = Generator()
        generator.seed()  # fresh numbers, so that an answer written down for one input fails on the next
        cases = self.inputs(generator)
        results, left, changed = [], [], ""
        for case in cases:
            arguments = deepcopy(case)
            try:
                results.append(answer(*arguments))
            except (Exception, SystemExit) as error:
                if type(error) is NotImplementedError and not error.args:
                    return Result(False, f"{NOT_DONE}write what {name} does in place of raise NotImplementedError.")
                what = traceback.format_exception_only(error)[-1].strip()
                hint = f"; {self.axes}" if self.axes and type(error) in OF_SHAPES else ""
                return _wrong(f"{self._call(case)} raised {what}{hint}")
            changed = changed or self._changed(arguments, case)
            left.append((results[-1], arguments))
        if all(result is None for result in results):
            return _wrong(f"{name} returns None; is there a return at its end?")
        reasons = [self._compare(result, self.reference(*case)) for result, case in zip(results, cases, strict=True)]
        if not any(reasons):
            if changed:
                return _wrong(f"the numbers are right, but {name} changed its input {changed}; work on a copy")
            broken = next(filter(None, (self.rule(result, arguments) for result, arguments in left)), "")
            return _wrong(broken) if broken else Result(True, f"Right: {self.praise}")
        typed = not any(
            self._compare(result, self.reference(*case), dtypes=False)
            for result, case in zip(results, cases, strict=True)
        )
        for wrong, message in () if typed else self.mistakes:
            pairs = zip(results, cases, strict=True)
            if not any(self._compare(result, wrong(*case), dtypes=False) for result, case in pairs):
                return _wrong(message)
        stopped = [
            self._stopped(result, case) for result, case, reason in zip(results, cases, reasons, strict=True) if reason
        ]
        if axes := set.intersection(*stopped):
            return _wrong(f"only index 0 of axis {min(axes)} is done; does the return stand inside the loop?")
        if not reasons[0] and all(reason and not reason.endswith((ROUNDED, LOST)) for reason in reasons[1:]):
            return _wrong("right on the example, by chance or written down there, and wrong on every other input")
        first = next(i for i, reason in enumerate(reasons) if reason)
        return _wrong(f"{self._call(cases[first])}: {reasons[first]}")

    def _compare(self, result: object, expected: object, dtypes: bool = True) -> str:
        try:
            numbers = as_numbers(result) if isinstance(expected, Tensor) else None
            comparable = self.canonical(result if numbers is None else numbers)
            return difference(comparable, self.canonical(expected), self.tolerance, dtypes)
        except Exception:  # an exotic tensor, or a result that `canonical` can't take
            return difference(result, expected, self.tolerance, dtypes)

    def _stopped(self, result: object, case: tuple) -> set[int]:
        """The axes along which a loop has returned in its first round, with 0, the input or nothing for the rest."""
        expected, axes = self.reference(*case), set()
        if isinstance(expected, Tensor):
            beside = [x for x in case if isinstance(x, Tensor) and x.shape == expected.shape]
            for axis, length in enumerate(expected.shape):
                first = expected.narrow(axis, 0, 1)
                rest = [blank.narrow(axis, 1, length - 1) for blank in (torch.zeros_like(expected), *beside)]
                begun = [first, first.squeeze(axis), *[torch.cat([first, blank], axis) for blank in rest]]
                if not all(difference(result, some, self.tolerance, dtypes=False) for some in begun):
                    axes.add(axis)
        return axes

    def _changed(self, arguments: tuple, case: tuple) -> str:
        """The name of the first argument that is no longer what it was."""
        names = inspect.signature(self.reference).parameters
        for name, now, before in zip(names, arguments, case, strict=True):
            if isinstance(before, Tensor) and not (now.shape == before.shape and torch.equal(now, before)):
                return name
        return ""

    def _call(self, case: tuple) -> str:
        """The call in words: shapes in place of tensors."""
        shown = []
        for name, value in zip(inspect.signature(self.reference).parameters, case, strict=True):
            if isinstance(value, Tensor):
                shown.append(f"{name} {tuple(value.shape)}")
            elif isinstance(value, Real):
                shown.append(f"{name} {value:g}")
            else:
                shown.append(name)
        return f"{self.reference.__name__}({', '.join(shown)})"


def checker(
    inputs: Callable[[Generator], list[tuple]],
    praise: str,
    mistakes: tuple[tuple[Callable[..., Any], str], ...],
    **options: Any,
) -> Callable[[Callable[..., Any]], Checker]:
    """Decorates the right function, which becomes a `Checker` of its name; arguments as there."""
    return lambda reference: Checker(reference, inputs, praise, mistakes, **options)


def difference(got: object, expected: object, tolerance: float = 0.0, dtypes: bool = True) -> str:
    """Why `got` is not `expected`, in words; empty if it is.

    What counts are the numbers: they may come as a tensor of any layout, an array, or lists, as integers of any width,
    and as float32, whatever holds them, which get the room of its rounding. True and False may be 1 and 0.

    Args:
        got: anything.
        expected: a tensor, a number, True or False, or a list or tuple of these; ... is equal to anything.
        tolerance: by how much numbers may differ.
        dtypes: whether fractions in place of whole numbers are different.

    >>> difference([1, 2], [1, 2, 3])
    'expected 3 values, got 2'
    >>> difference([[1, 2]], torch.tensor([[1, 2]], dtype=torch.uint8))
    ''
    """
    if expected is ...:
        return ""
    if isinstance(expected, Tensor):
        return _tensors_differ(got, expected, tolerance, dtypes)
    if isinstance(expected, list | tuple):
        if isinstance(got, Tensor | np.ndarray) and got.ndim:
            got = list(got)
        of = f"{len(expected)} values" + (", each True or False" if isinstance(expected[0], bool) else "")
        if not isinstance(got, list | tuple):
            return f"expected {of}, got {_kind(got)}"
        if len(got) != len(expected):
            return f"expected {of}, got {len(got)}"
        reasons = [difference(*pair, tolerance, dtypes) for pair in zip(got, expected, strict=True)]
        return next((f"value {i} of {len(got)}: {reason}" for i, reason in enumerate(reasons, 1) if reason), "")
    if isinstance(got, list | tuple) and len(got) == 1:
        (got,) = got
    if isinstance(got, Tensor | np.ndarray | np.generic) and math.prod(got.shape) == 1:
        if tolerance and str(got.dtype).removeprefix("torch.") == "float32":
            tolerance += float(_room(expected))
        got = got.item()
    if isinstance(expected, bool):
        if not isinstance(got, Real) or got not in (0, 1):
            return f"expected True or False (1 or 0), got {_kind(got)}"
        return "" if got == expected else f"here {int(expected)} is right"
    if isinstance(got, bool) or not isinstance(got, Real):
        return f"expected a number, got {_kind(got)}"
    try:
        gap = float(abs(got - expected))
    except OverflowError:  # a whole number that no float can hold, against a fraction
        return "this is not the number"
    if gap <= tolerance:
        return ""
    near = isinstance(got, float) and gap <= 1e-3 * max(1, abs(got))
    return "this is near the number, but not it: another formula, or rounded?" if near else "this is not the number"


def _tensors_differ(got: object, expected: Tensor, tolerance: float, dtypes: bool) -> str:
    numbers = as_numbers(got)
    if numbers is None:
        first = isinstance(got, tuple) and got and not difference(got[0], expected, tolerance)
        more = "; its first part is right, take [0]" if first else ""
        return f"expected a tensor of shape {tuple(expected.shape)}, got {_kind(got)}{more}"
    if numbers.shape != expected.shape:
        shapes = f"expected shape {tuple(expected.shape)}, got {tuple(numbers.shape)}"
        if numbers.shape == (1, *expected.shape):
            return f"{shapes}: a batch of one; [0] takes it out"
        turned = numbers.ndim == 2 and numbers.T.shape == expected.shape
        if turned and not _tensors_differ(numbers.T, expected, tolerance, dtypes):
            return f"{shapes}: this is the transpose"
        return shapes
    if numbers.is_complex():
        return f"expected {expected.dtype}, got {numbers.dtype}"
    try:
        gap = (numbers.cpu().double() - expected.double()).abs()
        single = numbers.is_floating_point() and torch.equal(numbers.double(), numbers.float().double())
        room = _room(expected) if tolerance and single else 0
        if not (gap <= tolerance + room).all():  # also if NaN
            near = ROUNDED if (gap <= 1e-5).all() else ""
            coarse = not numbers.is_floating_point() or numbers.element_size() < 4
            held = expected.to(numbers.dtype)
            if coarse and torch.equal(numbers.cpu(), held) and not torch.equal(held.to(expected.dtype), expected):
                near = f": {numbers.dtype}{LOST}"
            return f"the shape is right, the values differ{near}"
    except Exception:  # a tensor without values, such as one on the device "meta"
        return "these values can't be read"
    fractions = numbers.is_floating_point() and not expected.is_floating_point() and expected.dtype != torch.bool
    return f"the values are right, but of type {numbers.dtype}; give integers" if dtypes and fractions else ""


def _room(expected: Any) -> Tensor:
    """By how much float32 may differ."""
    return 1e-6 * torch.as_tensor(expected).double().abs().clamp(min=1)


def as_numbers(value: object) -> Tensor | None:
    """A tensor, an array, or lists of numbers as a tensor; None of anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        return torch.from_numpy(np.array(array, order="C")) if array.dtype.kind in "biufc" and array.ndim else None
    except Exception:  # lists of unequal lengths, say
        return None


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text; leave its quotes out"
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    return type(value).__name__


def _wrong(message: str) -> Result:
    return Result(False, f"Not right: {message}" if message.endswith("?") else f"Not right: {message.rstrip('.')}.")
