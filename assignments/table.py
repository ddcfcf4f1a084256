"""grades.xlsx: a sheet for each assignment, a line for each student, and columns in which marks by hand are entered.

A spreadsheet file and no CSV, as it opens the same under every language's separators and encodings, and a name that
starts with "=" stays a name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from openpyxl import Workbook, load_workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter

from assignments.inbox import plain

FILE = "grades.xlsx"
COMMENT = "comment"
ENTER = PatternFill("solid", fgColor="FFF2CC")  # behind the cells that the teacher fills in
Row = dict[str, Any]


def save(path: Path, sheets: dict[str, list[Row]], entered: set[str]) -> None:
    """Write the table, whole or not at all.

    Args:
        sheets: the rows of each sheet, by its name; all rows of a sheet have the same columns.
        entered: the columns that the teacher fills in.

    Raises:
        PermissionError: the file is open in a program that locks it.
    """
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        columns = list(rows[0])
        for number, row in enumerate([dict(zip(columns, columns, strict=True)), *rows], 1):
            for column, title in enumerate(columns, 1):
                cell = sheet.cell(number, column)
                _put(cell, row[title])
                cell.alignment = Alignment(wrap_text=title in ("note", COMMENT), vertical="top")
                cell.font = Font(bold=number == 1)
                if title in entered and number > 1:
                    cell.fill = ENTER
        sheet.freeze_panes = "B2"
        for column, title in enumerate(columns, 1):
            widest = max(len(str(row[title])) for row in [*rows, {title: title}])
            sheet.column_dimensions[get_column_letter(column)].width = min(widest + 2, 60)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        book.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, list[Row]]:
    """What `save` wrote, with what was entered since; empty if there is no such file.

    Raises:
        ValueError: it is no such table.
    """
    if not path.exists():
        return {}
    try:
        book = load_workbook(path, data_only=True)
        sheets = {}
        for sheet in book:
            titles, *rows = sheet.iter_rows(values_only=True)
            sheets[sheet.title] = [dict(zip(titles, row, strict=True)) for row in rows]
        return sheets
    except Exception as error:
        raise ValueError(f"{path} can't be read as a table of marks ({error}); move it away, or restore it") from error


def _put(cell: Any, value: Any) -> None:
    if isinstance(value, str):
        cell.value = ILLEGAL_CHARACTERS_RE.sub("�", plain(value))[:32_000]  # the format's limit is 32,767
        cell.data_type = "s"  # also where it starts with =
    else:
        cell.value = value
