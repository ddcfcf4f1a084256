"""Tables of results, for notebooks: text in a terminal and in tests, a table on a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Table:
    """Rows under a header; a notebook shows it as a table, `print` as text in columns, those of numbers to the right.

    Args:
        header: the name of each column; none is empty, since a reader who listens needs one.
        rows: as many cells each; numbers are shown as they are given, so round and format them first.

    Raises:
        ValueError: a row has more or fewer cells than the header.

    >>> Table(["model", "accuracy"], [["plain", "91.2 %"], ["locked", "9.8 %"]])
    model   accuracy
    plain     91.2 %
    locked     9.8 %
    """

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        self.header = list(header)
        self.rows = [[str(cell) for cell in row] for row in rows]
        if wrong := [row for row in self.rows if len(row) != len(self.header)]:
            raise ValueError(f"expected {len(self.header)} cells a row, {', '.join(self.header)}; got {wrong[0]}")

    def __repr__(self) -> str:
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        sides = [">" if _of_numbers(column[1:]) else "<" for column in columns]
        lines = (
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
            for row in (self.header, *self.rows)
        )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        sides = ["right" if _of_numbers(column) else "left" for column in zip(*self.rows, strict=True)]

        def line(cells: Sequence[str], tag: str) -> str:
            parts = zip(cells, sides, strict=True)
            return "".join(f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in parts)

        body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        table = f"<thead><tr>{line(self.header, 'th')}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        return f'<div class="pst-scrollable-table-container"><table class="table">\n{table}\n</table></div>'


def _of_numbers(column: Sequence[str]) -> bool:
    """Whether most cells begin like a number; empty ones do not count."""
    filled = [cell.lstrip("+−-")[:1].isdigit() for cell in column if cell]
    return 2 * sum(filled) > len(filled)
