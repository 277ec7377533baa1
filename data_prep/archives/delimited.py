"""Delimited text of unknown origin: bounded memory, and a bad row never ends the reading.

Two engines read it. `read_rows` is for tables whose every row counts: the `csv` module does the
quoting; what it lacks is added here: a limit to the length of a line, a check of the encoding, of
NUL bytes and of the number of columns, each with the line's number. `read_blocks` is for files of
many millions of rows of which few are wanted: pyarrow parses a million rows per second and names
rows of the wrong length. polars repairs or drops such rows without saying which.
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from dawnchorus.data_prep.errors import PrepError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LINE_BYTES = 1 << 20
"""Longer lines are bad rows. GBIF's rows of 223 columns have about 2 kB."""
_MANY_BAD, _BAD_SHARE = 100, 0.05
_BOM = b"\xef\xbb\xbf"
_SEPARATORS = "\t,;"
_STATED = re.compile(r"sep=(.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file separates its fields. `quote` is empty where quotes are text, as in GBIF's."""

    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header_lines: int = 1


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read. `problem` is a short code, `detail` says file, line and what."""

    problem: str
    detail: str
    file: str


def read_rows(
    stream: BinaryIO, name: str, dialect: Dialect, columns: int = 0
) -> Iterator[list[str] | BadRow]:
    """Yield the fields of each row after the header lines; for a bad row, a `BadRow` that says what
    is wrong.

    `name` is what messages call the file. Rows must have at least `columns` fields and, where
    there is a header, not more than it has. Blank lines are skipped. Raises PrepError when the
    file breaks off, or when more than 5 % of the rows (and more than 100) are bad: then the file or
    its description is wrong, not single rows.
    """
    good = bad = 0
    for _, row in numbered_rows(stream, name, dialect, columns):
        if isinstance(row, BadRow):
            bad += 1
            if bad > _MANY_BAD and bad > _BAD_SHARE * (good + bad):
                raise PrepError(
                    f"{bad} of the first {good + bad} rows of {name} cannot be read; the last one: "
                    f"{row.detail}. Is the file whole, and as its description (meta.xml, header) "
                    "says?"
                )
        else:
            good += 1
        yield row


def numbered_rows(
    stream: BinaryIO, name: str, dialect: Dialect, columns: int = 0, *, ragged: bool = False
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (row, fields) as `read_rows` does, with the number that a spreadsheet shows.

    The first row is 1, header and blank rows count. With `ragged`, a row may lack its last fields,
    which are empty then, and have empty fields too many. Raises PrepError when the file breaks off.
    """
    source = _Lines(stream, name, dialect.encoding)
    rows = _quoted(source, dialect) if dialect.quote else _plain(source, dialect)
    at_most = 0
    for number, (first_line, fields) in enumerate(rows):
        problem, detail = source.take_problem()
        if number < dialect.header_lines:
            at_most = len(fields)
            continue
        if not problem:
            if not fields or fields == [""]:
                continue
            if ragged:
                fields = _fitted(fields, at_most)
            if len(fields) < columns or (dialect.header_lines and len(fields) > at_most):
                wanted = at_most if dialect.header_lines else f"at least {columns}"
                problem = "wrong_number_of_columns"
                detail = f"{len(fields)} columns instead of {wanted}"
        if problem:
            detail = f"{name}, line {first_line}: {detail}"
            yield number + 1, BadRow(problem, detail, name)
        else:
            yield number + 1, fields


def read_blocks(
    stream: IO[bytes],
    header: Sequence[str],
    dialect: Dialect,
    columns: Sequence[str],
    bad: Callable[[Any], None],
    *,
    block_bytes: int,
    as_bytes: bool = False,
    nulls: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield blocks of rows with some of the columns, by pyarrow's parser.

    Args:
        stream: the file from its first byte.
        header: the names of all columns, as `sniff` returns them.
        dialect: how the fields are separated.
        columns: the wanted ones; a column that `header` lacks is empty.
        bad: gets pyarrow's `InvalidRow` of a row with too few or too many fields.
        block_bytes: how much is parsed at a time; no row may be longer.
        as_bytes: leave the cells as they are, so that a wrong byte in one costs that one alone.
        nulls: texts that stand for a missing value.

    Raises:
        pyarrow.ArrowInvalid: a row is longer than a block, or a cell is not in the encoding.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    def skip(row: Any) -> str:
        bad(row)
        return "skip"

    yield from arrow_csv.open_csv(
        stream,
        arrow_csv.ReadOptions(
            block_size=block_bytes,
            encoding="utf8" if as_bytes else dialect.encoding,
            column_names=list(header),
            skip_rows=dialect.header_lines,
            use_threads=as_bytes,
        ),
        arrow_csv.ParseOptions(
            delimiter=dialect.separator,
            quote_char=dialect.quote or False,
            newlines_in_values=bool(dialect.quote),
            invalid_row_handler=skip,
        ),
        arrow_csv.ConvertOptions(
            check_utf8=not as_bytes,
            include_columns=list(columns),
            include_missing_columns=True,
            column_types=dict.fromkeys(columns, pa.binary() if as_bytes else pa.string()),
            strings_can_be_null=bool(nulls),
            quoted_strings_can_be_null=bool(nulls),
            null_values=list(nulls),
        ),
    )


def _fitted(fields: list[str], width: int) -> list[str]:
    """Return the fields with empty ones added, or surplus empty ones taken away."""
    while len(fields) > width and not fields[-1].strip():
        fields.pop()
    return fields + [""] * (width - len(fields))


def _quoted(source: _Lines, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of rows whose fields may be quoted and hold line ends."""
    reader = csv.reader(source, delimiter=dialect.separator, quotechar=dialect.quote, strict=True)
    while True:
        first = source.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            source.problem = (
                "unreadable_row",
                (f"{err}; a quote is not closed? Lines {first} to {source.number} are lost"),
            )
            fields = []
        yield first, fields


def _plain(source: _Lines, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of rows in which quotes are text."""
    for line in source:
        yield source.number, line.rstrip("\r\n").split(dialect.separator)


class _Lines:
    """Lines of a byte stream as text. A problem with a line is kept until `take_problem` asks for
    it.
    """

    def __init__(self, stream: BinaryIO, name: str, encoding: str) -> None:
        self.stream, self.name, self.encoding = stream, name, encoding
        self.number = 0
        self.problem = ("", "")

    def take_problem(self) -> tuple[str, str]:
        """Return (code, detail) of the lines since the last call, or empty texts."""
        problem, self.problem = self.problem, ("", "")
        return problem

    def __iter__(self) -> Iterator[str]:
        try:
            while raw := self.stream.readline(MAX_LINE_BYTES):
                self.number += 1
                if self.number == 1 and raw.startswith(_BOM):
                    raw = raw[len(_BOM) :]
                yield self._text(raw)
        except (EOFError, OSError, zipfile.BadZipFile, zlib.error) as err:
            raise PrepError(
                f"{self.name} breaks off after line {self.number}: {err}. Download it again."
            ) from err

    def _text(self, raw: bytes) -> str:
        if len(raw) >= MAX_LINE_BYTES and not raw.endswith(b"\n"):
            size = len(raw)
            while raw := self.stream.readline(MAX_LINE_BYTES):
                size += len(raw)
                if raw.endswith(b"\n"):
                    break
            self.problem = "line_too_long", f"a line of {size:,} bytes"
            return "\n"
        if b"\0" in raw:
            self.problem = "nul_byte", "a NUL byte"
            return "\n"
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError as err:
            self.problem = (
                "wrong_encoding",
                f"not {self.encoding}: {err.reason} ({err.object[err.start : err.start + 1]!r})",
            )
            return raw.decode(self.encoding, "replace")


def sniff(stream: BinaryIO, name: str) -> tuple[list[str], Dialect]:
    """Return the header of a table that nothing describes, and its dialect.

    A first line "sep=;" (Excel's) is obeyed. Else the separator is what divides the header most;
    tabs mean that quotes are text unless the header itself is quoted. Raises PrepError when the
    file does not begin with a line of text.
    """
    text = _first_line(stream, name)
    stated = _STATED.fullmatch(text.strip(" \r\n").strip('"'))
    if stated:
        text = _first_line(stream, name)
    if not text.strip():
        raise PrepError(f"{name} does not begin with a line of column names.")
    separator = stated[1] if stated else max(_SEPARATORS, key=text.count)
    quote = "" if separator == "\t" and not text.startswith('"') else '"'
    dialect = Dialect(separator, quote, header_lines=2 if stated else 1)
    line = text.rstrip("\r\n")
    try:
        header = next(csv.reader([line], delimiter=separator)) if quote else line.split(separator)
    except csv.Error as err:
        raise PrepError(f"{name} does not begin with a line of column names: {err}.") from err
    return [column.strip() for column in header], dialect


def _first_line(stream: BinaryIO, name: str) -> str:
    raw = stream.readline(MAX_LINE_BYTES).removeprefix(_BOM)
    try:
        text = raw.decode()
    except UnicodeDecodeError as err:
        raise PrepError(f"{name} does not begin with a line of UTF-8 text: {err}.") from err
    if "\0" in text:
        raise PrepError(f"{name} does not begin with a line of column names.")
    return text


def plain_key(name: str) -> str:
    """Return a column or term as readers ask for it: letters and digits, lower case.

    "http://rs.tdwg.org/dwc/terms/recordedBy", "recordedBy" and "Recorded By" are "recordedby".
    """
    last = name.rsplit("/", 1)[-1].rsplit("#", 1)[-1].rsplit(":", 1)[-1]
    return "".join(c for c in last.lower() if c.isalnum())


def picker(keys: Sequence[tuple[str, int | None, str]]) -> _Picker:
    """Return a function that makes {key: value} of a row's fields.

    `keys` are (key, index or None, default). Of several with one key the first that is not empty
    counts.
    """
    return _Picker(keys)


class _Picker:
    def __init__(self, keys: Sequence[tuple[str, int | None, str]]) -> None:
        self.first: dict[str, int] = {}
        self.others: list[tuple[str, int]] = []
        for key, index, default in keys:
            if index is None:
                continue
            if key in self.first:
                self.others.append((key, index))
            else:
                self.first[key] = index
            if default:
                self.others.append((key, -1))
        self.constants = {
            key: default for key, index, default in keys if index is None and key not in self.first
        }
        self.defaults = {key: default for key, index, default in keys if default}

    def __call__(self, fields: list[str]) -> dict[str, str]:
        row = {key: fields[index].strip() for key, index in self.first.items()}
        for key, index in self.others:
            if not row[key]:
                row[key] = self.defaults[key] if index < 0 else fields[index].strip()
        if self.constants:
            row.update(self.constants)
        return row
