"""What a cell of a table holds: labels, a number, or one of the many marks for a missing value.

Every reader of tables asks here, so that `['rbwoo1' 'amerob']` (as NumPy prints it), a JSON list,
a tuple and a Parquet list are the same two labels everywhere, and `nan` never becomes a class.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from dawnchorus.data_prep.errors import PrepError

MAX_LIST = 1 << 16
"""Longer texts are not parsed; readers reject them because of their length."""
_ABSENT = ("", "nan", "null", "nat", "<na>", "na", "n/a", "#n/a", "np.nan", "pd.na", "\\n")
ABSENT = frozenset(_ABSENT)
"""What programs write for a missing value (in lower case)."""
NOTHING = frozenset((*_ABSENT, "none", "nil", "-", "--", "\u2013", "\u2014", "''", '""'))
"""What a label cell may contain that is not a label (in lower case)."""

_CLOSES = {"[": "]", "(": ")", "{": "}"}
_CALL = re.compile(
    r"(?:[A-Za-z_]\w*\.)*"
    r"(?:array|list|tuple|set|frozenset|deque|Index|Series|Categorical|str_|bytes_|object_|"
    r"u?int\d+|float\d+)\("
)
_KEYWORD = re.compile(r"(?:dtype|name|shape|copy|order|ordered|categories|length)\s*=")
_SPACE = re.compile(r"[\s,]*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_BEFORE_QUOTE = re.compile(r"\s+(?=[\"'])")
_AFTER_QUOTE = ("", *",])}: \t\r\n")
_STRING_START = re.compile(r"[bruBRU]{0,2}(['\"])")


class UnreadableList(PrepError):
    """A cell that begins like a list and cannot be read as one, so its entries are not known."""


_NAMES = frozenset(("Nan", "Nat", "Na", "Nil"))
"""Names of people and animals that look like missing values, but that no program writes for one."""


def is_nothing(text: str) -> bool:
    """Return whether a label cell, or one entry of its list, names nothing ("nan", "N/A", "-")."""
    text = text.strip()
    return text.casefold() in NOTHING and text not in _NAMES


def is_absent(text: str) -> bool:
    """Return whether a program wrote this for a value that is missing ("nan", "<NA>", "NULL").

    Unlike `is_nothing` it lets "none" pass, which can be what a person says of a licence.
    """
    text = text.strip()
    return text.casefold() in ABSENT and text not in _NAMES


def values_of(cell: Any, *separators: str) -> list[str]:
    """Return the entries of a cell as tidy texts, in their order, without the missing ones.

    Args:
        cell: text, a number, None, or a list, tuple, set or array of such.
        separators: what divides the entries of a text that is not written as a list.

    A text is a list when it is written as Python, NumPy, pandas or JSON print one, in brackets of
    any kind; parentheses count when what they hold is quoted or a number, since names may stand in
    them. Raises UnreadableList where the end of a list is missing or NumPy left out its middle.
    """
    return [text for entry in _entries(cell, separators) if (text := _tidy(entry))]


def _entries(cell: Any, separators: tuple[str, ...]) -> Iterable[str]:
    if isinstance(cell, str):
        if len(cell) > MAX_LIST:
            return [cell]
        found = _read_list(cell.strip())
        return _split(cell, separators) if found is None else found
    if isinstance(cell, bytes):
        return _entries(cell.decode("utf-8", "replace"), separators)
    if hasattr(cell, "tolist"):  # NumPy and Arrow
        cell = cell.tolist()
    if isinstance(cell, (list, tuple, set, frozenset)):
        inside = sorted(cell, key=str) if isinstance(cell, (set, frozenset)) else cell
        return [text for item in inside for text in _entries(item, ())]
    if cell is None or isinstance(cell, (bool, dict)):
        return []
    if isinstance(cell, float):
        return [_plain_number(cell)] if math.isfinite(cell) else []
    return [str(cell)]


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    parts = [text]
    for separator in filter(None, separators):
        parts = [piece for part in parts for piece in part.split(separator)]
    return parts


def _tidy(text: str) -> str:
    """Return the text composed and with single spaces; '' where it says nothing."""
    if len(text) > MAX_LIST:  # normalising megabytes takes minutes; `checked` reports the length
        return text
    tidy = " ".join(unicodedata.normalize("NFC", text).split())
    return "" if is_nothing(tidy) else tidy


def _plain_number(value: float) -> str:
    return str(int(value)) if value.is_integer() else str(value)


def number_in(text: str) -> float | None:
    """Return the finite number that a text is, also with a decimal comma ("52,5"); else None."""
    text = text.strip().replace("\u2212", "-")
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


# ------------------------------------------------------------------------- lists written as text


def _read_list(text: str) -> list[str] | None:
    """Return the entries of a list that is written as text; None where the text is no list."""
    call = _CALL.match(text)
    if not call and text[:1] not in _CLOSES:
        return None
    if not any(c.isalnum() for c in text):
        return []  # "[]", "['']", "{}"
    if not call and text[0] == "(" and not _holds_values(text[1:].lstrip()):
        return None  # "(unknown) call": a name
    return _Parser(text).entries()


def _holds_values(text: str) -> bool:
    """Return whether what follows an opening parenthesis is quoted, a number or nothing."""
    if text[:1] in ("'", '"', "[", "("):
        return True
    first = re.split(r"[,)]", text, maxsplit=1)[0].strip()
    return bool(_NUMBER.fullmatch(first)) or is_nothing(first)


class _Parser:
    """Reads brackets, quoted texts and bare words, separated by commas, spaces or line breaks."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: list[str] = []
        self.open: list[str] = []

    def entries(self) -> list[str] | None:
        """Return the entries, or None where the brackets do not span the whole text."""
        text = self.text
        while self.at < len(text):
            self.at = match.end() if (match := _SPACE.match(text, self.at)) else self.at
            if self.at >= len(text):
                break
            if self.found and not self.open:
                return None  # "[a] b"
            if not self._step():
                return None
        if self.open:
            if _STRING_START.match(text[1:].lstrip("[({ ")):
                raise UnreadableList(
                    f"a list that does not end ({_shown(text)}); was the cell cut off?"
                )
            return None
        return self.found

    def _step(self) -> bool:
        """Read one thing; False where the text cannot be a list."""
        text, at = self.text, self.at
        if text[at] in "])}":
            if not self.open or self.open.pop() != text[at]:
                return False
            self.at += 1
            return bool(self.open) or not text[self.at :].strip()
        call = _CALL.match(text, at)
        if call or text[at] in _CLOSES:
            self.open.append(")" if call else _CLOSES[text[at]])
            self.at = call.end() if call else at + 1
            return True
        if self.open and self.open[-1] == ")" and _KEYWORD.match(text, at):
            return self._skip_keyword()
        start = _STRING_START.match(text, at)
        return self._quoted(start.end() - 1) if start else self._bare()

    def _skip_keyword(self) -> bool:
        """Skip `dtype=object`, the only thing that may come before the end of the call."""
        end = self.text.rfind(")")
        self.at = end
        return end >= 0

    def _quoted(self, start: int) -> bool:
        """Read a quoted text. A quote ends it when a separator or a bracket follows: unescaped
        apostrophes within words ("['Anna's hummingbird']") are part of the name.
        """
        text, quote, at = self.text, self.text[start], start + 1
        while at < len(text):
            if text[at] == "\\":
                at += 2
                continue
            if text[at] == quote and text[at + 1 : at + 2] in _AFTER_QUOTE:
                self.found.append(_unescaped(text[start : at + 1]))
                self.at = at + 1
                return self._what_follows()
            at += 1
        raise UnreadableList(f"a quote is not closed in {_shown(text)}; was the cell cut off?")

    def _what_follows(self) -> bool:
        """Look at what comes after a quoted text; False where this is a dictionary."""
        rest = _SPACE.match(self.text, self.at)
        after = self.text[rest.end() if rest else self.at :]
        if after.startswith(":"):
            return False
        comma = rest is not None and "," in rest.group()
        word = re.split(r"[\s,\])}]", after, maxsplit=1)[0]
        if comma or not after or after[0] in "])}'\"[({" or _KEYWORD.match(after):
            return True
        if _STRING_START.match(after) or _CALL.match(after):
            return True
        if _NUMBER.fullmatch(word) or is_nothing(word) or word == "...":
            return True
        raise UnreadableList(f"a quote within a name is not escaped: {_shown(self.text)}")

    def _bare(self) -> bool:
        """Read unquoted text up to a comma or the closing bracket."""
        text, at, depth = self.text, self.at, 0
        while at < len(text):
            c = text[at]
            if c in _CLOSES:
                depth += 1
            elif c in "])}":
                if depth == 0:
                    break
                depth -= 1
            elif (c == "," and depth == 0) or _BEFORE_QUOTE.match(text, at):
                break
            at += 1
        bare = text[self.at : at].strip()
        self.at = at
        words = bare.split()
        if "..." in words:
            raise UnreadableList(
                f"NumPy has left out the middle of a list ({_shown(text)}); write the table anew, "
                "for example with `.tolist()`"
            )
        if all(_NUMBER.fullmatch(word) or is_nothing(word) for word in words):
            self.found += [
                _plain_number(float(word)) if "." in word else word
                for word in words
                if not is_nothing(word)
            ]
            if not self.found:
                self.found.append("")
        else:
            self.found.append(bare)
        return True


def _unescaped(quoted: str) -> str:
    """Return what a quoted text says, read as Python or JSON where it is either."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(quoted)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, str):
            return found
    return quoted[1:-1]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
