"""Checkers for the book's exercises.

``from mixerkey.classroom.checks import check``, then ``check.shuffle(my_shuffle)``: the answer says what was
right, or names the likely mistake.

>>> check.shuffle(lambda blocks, v: blocks[..., v])
Right: pixel k of each block is x(v_k), for blocks of every size, and the input is as it was.
>>> check.key_count(24)
Not right: these are the 4! permutations alone. Each goes with every choice of flips.
"""

from types import SimpleNamespace

from mixerkey.classroom.checks import chapters
from mixerkey.classroom.checks.checker import Checker, Result, Value

__all__ = ["Checker", "Result", "Value", "check"]

check = SimpleNamespace(
    **{name: entry for name, entry in vars(chapters).items() if isinstance(entry, Checker | Value)},
)
