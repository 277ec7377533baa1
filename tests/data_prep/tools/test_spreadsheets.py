from __future__ import annotations

import csv
import io

import pytest

from dawnchorus.data_prep.tools.spreadsheets import csv_text, escaped, unescaped

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text: str) -> None:
    assert escaped(text) == f"'{text}"
    assert unescaped(f"'{text}") == text
    [row] = csv.reader(io.StringIO(csv_text([("a", text)]), newline=""))
    assert row == ["a", f"'{text}".replace("\r", "\n")]


@pytest.mark.parametrize(
    "cell", ["Ann", "", "-3.5", "+49", "1e-3", "a=b", "'quoted'", -3, 0.5, None]
)
def test_the_rest_stays_as_it_is(cell: object) -> None:
    assert escaped(cell) == cell
    if isinstance(cell, str):
        assert unescaped(cell) == cell
