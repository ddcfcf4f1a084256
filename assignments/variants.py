"""What differs from class to class: the numbers and conventions that a seed draws for each assignment."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

BOOK = ("channel", "row", "column")  # the order in which the book flattens a block
ORDERS = [order for order in permutations(BOOK) if order != BOOK]


def variant(name: str, seed: int) -> dict[str, Any]:
    """The values that the source of an assignment is filled in with.

    Args:
        name: of the assignment.
        seed: any integer; the same seed gives the same values everywhere.

    >>> variant("3-break", 0)["keys"] in (2, 3, 4)
    True
    """
    return {"seed": seed} | DRAW[name](Random(f"{name} {seed}"))


def _cipher(draw: Random) -> dict[str, Any]:
    rows, columns = draw.choice([(2, 3), (3, 2), (2, 4), (4, 2), (3, 4), (4, 3)])
    return {
        "rows": rows,
        "columns": columns,
        "top": draw.randint(1, 3),
        "left": draw.randint(1, 3),
        "order": draw.choice(ORDERS),
        "flips": draw.choice(["plain", "encrypted"]),
    }


def _proof(draw: Random) -> dict[str, Any]:
    return {
        "depth": draw.choice([3, 4, 5]),
        "hold": draw.choice([2, 3]),  # at most the depth, which the proof needs
        "frames": draw.choice(["first", "last"]),
    }


def _break(draw: Random) -> dict[str, Any]:
    keys, side = draw.choice([2, 3, 4]), draw.choice([24, 32])
    places = (side // 4) ** 2
    return {"keys": keys, "side": side, "places": places, "bits": int(247.8 * keys)}


DRAW = {"1-cipher": _cipher, "2-proof": _proof, "3-break": _break}
NAMES = tuple(DRAW)
