"""What all checkers do: run an answer on fresh inputs, compare it with the right and the classic wrong ones."""

from __future__ import annotations

import inspect
import textwrap
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor

NOT_DONE = "Not done yet: "


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
    """A checker of a value: a number, or a list of numbers.

    Args:
        right: the value.
        praise: what is said of it.
        mistakes: classic wrong values, each with what is said of it.

    >>> two = Value(2, "1 and 1.", ((11, "digits are not joined"),))
    >>> two(2), two(11), two("2"), two(...)  # doctest: +NORMALIZE_WHITESPACE
    (Right: 1 and 1., Not right: digits are not joined., Not right: expected a number, got str.,
     Not done yet: put your answer in place of the dots.)
    """

    right: Any
    praise: str
    mistakes: tuple[tuple[Any, str], ...]

    def __call__(self, answer: object) -> Result:
        if answer is ...:
            return Result(False, f"{NOT_DONE}put your answer in place of the dots.")
        reason = difference(answer, self.right)
        if not reason:
            return Result(True, f"Right: {self.praise}")
        for wrong, message in self.mistakes:
            if not difference(answer, wrong):
                return _wrong(message)
        return _wrong(reason)


@dataclass(frozen=True)
class Checker:
    """A checker of a function. It believes nothing of the function that it is given.

    Args:
        reference: the right function, under the name and with the parameters that the exercise gives it.
        inputs: makes the arguments of several calls from a generator: the exercise's example first, then random ones.
        praise: what is said of a right answer.
        mistakes: classic wrong functions, each with what is said of it.
        tolerance: by how much a result may differ; 0 asks for equality.
        canonical: applied to results before they are compared, where several are right.

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

    def __call__(self, answer: object) -> Result:
        name = self.reference.__name__
        if not callable(answer):
            return _wrong(f"give the function itself, {name}, without calling it; this is {_kind(answer)}")
        generator = Generator()
        generator.seed()  # fresh numbers, so that an answer written down for one input fails on the next
        cases = self.inputs(generator)
        results, changed = [], ""
        for case in cases:
            arguments = deepcopy(case)
            try:
                results.append(answer(*arguments))
            except (Exception, SystemExit) as error:
                if type(error) is NotImplementedError and not error.args:
                    return Result(False, f"{NOT_DONE}write what {name} does in place of raise NotImplementedError.")
                what = traceback.format_exception_only(error)[-1].strip()
                return _wrong(f"{self._call(case)} raised {what}")
            changed = changed or self._changed(arguments, case)
        if all(result is None for result in results):
            return _wrong(f"{name} returns None; is there a return at its end?")
        reasons = [self._compare(result, self.reference(*case)) for result, case in zip(results, cases, strict=True)]
        if not any(reasons):
            if changed:
                return _wrong(f"the result is, but {name} changed its input {changed}; work on a copy")
            return Result(True, f"Right: {self.praise}")
        for wrong, message in self.mistakes:
            pairs = zip(results, cases, strict=True)
            if not any(self._compare(result, wrong(*case), dtypes=False) for result, case in pairs):
                return _wrong(message)
        if not reasons[0] and all(reasons[1:]):
            return _wrong("right on the example, wrong on every other input; compute the result from the arguments")
        first = next(i for i, reason in enumerate(reasons) if reason)
        return _wrong(f"{self._call(cases[first])}: {reasons[first]}")

    def _compare(self, result: object, expected: object, dtypes: bool = True) -> str:
        try:
            return difference(self.canonical(result), self.canonical(expected), self.tolerance, dtypes)
        except Exception:  # an exotic tensor, or a result that `canonical` can't take
            return difference(result, expected, self.tolerance, dtypes)

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

    Args:
        got: anything.
        expected: a tensor, a number, or a list or tuple of these.
        tolerance: by how much numbers may differ.
        dtypes: whether a tensor of another dtype is different.

    >>> difference([1, 2], [1, 2, 3])
    'expected 3 values, got 2'
    """
    if isinstance(expected, list | tuple):
        if isinstance(got, Tensor) and got.ndim == 1:
            got = got.tolist()
        if not isinstance(got, list | tuple):
            return f"expected {len(expected)} values, got {_kind(got)}"
        if len(got) != len(expected):
            return f"expected {len(expected)} values, got {len(got)}"
        reasons = [difference(*pair, tolerance, dtypes) for pair in zip(got, expected, strict=True)]
        return next((f"value {i}: {reason}" for i, reason in enumerate(reasons) if reason), "")
    if isinstance(expected, Tensor):
        return _tensors_differ(got, expected, tolerance, dtypes)
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, Real):
        return f"expected a number, got {_kind(got)}"
    return "" if abs(float(got) - expected) <= tolerance else "this is not the number"  # type: ignore[operator]


def _tensors_differ(got: object, expected: Tensor, tolerance: float, dtypes: bool) -> str:
    if not isinstance(got, Tensor):
        return f"expected a tensor of shape {tuple(expected.shape)}, got {_kind(got)}"
    if got.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    wrong_dtype = f"expected {expected.dtype}, got {got.dtype}"
    if got.is_complex():
        return wrong_dtype
    try:
        gap = (got.detach().cpu().double() - expected.double()).abs()
        if not (gap <= tolerance).all():  # also if NaN
            near = " by rounding only" if (gap <= 1e-5).all() else ""
            return f"the shape is right, the values differ{near}"
    except Exception:  # a tensor without values, such as one on the device "meta"
        return "these values can't be read"
    return f"the values are right; {wrong_dtype}" if dtypes and got.dtype != expected.dtype else ""


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _wrong(message: str) -> Result:
    return Result(False, f"Not right: {message.rstrip('.')}.")
