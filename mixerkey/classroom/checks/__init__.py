"""Checkers for the book's exercises.

``from mixerkey.classroom.checks import check``, then ``check.shuffle(my_shuffle)``: the answer says what was
right, or names the likely mistake. Numbers count, not their form: tensors, arrays and lists will do.

>>> check.shuffle(lambda blocks, v: blocks[..., v])
Right: pixel k of each block is x(v_k), for blocks of every size, and the input is as it was.
>>> check.shuffle(lambda blocks, v: blocks.numpy()[..., v.numpy()]).right
True
>>> check.key_count(24)
Not right: these are the 4! permutations alone. Each goes with every choice of flips.
"""

from mixerkey.classroom.checks import check
from mixerkey.classroom.checks.checker import Checker, Result, Value

__all__ = ["Checker", "Result", "Value", "check"]
