"""CSV whose cells spreadsheet programs show and never run.

A cell of unknown origin that begins with `=` is a formula to them: it can fetch an address with the
rest of the row in it, or start a program. A quote before it makes it text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_RUNS = tuple("=+-@\t\r\n＝＋－＠")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV with a line feed after each; a text that would be run gets a quote before
    it.
    """
    text = io.StringIO()
    cells = ([_one_kind_of_line(escaped(cell)) for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def escaped(cell: object) -> object:
    """Return a cell for a CSV file: unchanged, or with a quote before it where it would be run."""
    if not isinstance(cell, str) or not cell.lstrip(" ").startswith(_RUNS) or _is_number(cell):
        return cell
    return f"'{cell}"


def unescaped(text: str) -> str:
    """Return the text of a cell before `escaped` added a quote."""
    quoted = text.startswith("'") and text[1:].lstrip(" ").startswith(_RUNS)
    return text[1:] if quoted else text


def _one_kind_of_line(cell: object) -> object:
    # The writer leaves a bare carriage return without quotes, and readers then end the row there.
    return cell.replace("\r\n", "\n").replace("\r", "\n") if isinstance(cell, str) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
