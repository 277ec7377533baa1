"""Rows of a table in parquet (with audio inside it), CSV or JSON lines, one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from dawnchorus.data_prep.archives.delimited import BadRow, Dialect, numbered_rows, read_rows, sniff
from dawnchorus.data_prep.archives.json_files import Document, broken_file, items
from dawnchorus.data_prep.archives.text_files import TextForm, as_utf8, text_form
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.files import write_whole

_BATCH_ROWS = 16  # a row may hold a whole recording
_MAX_CELL_BYTES = 1 << 30
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_JSON_ROW = 16 << 20
Row = dict[str, Any]
_UTF8, _COMMAS = TextForm(), Dialect()


@dataclass(frozen=True)
class RowTable:
    """A table, its columns, and how it is read.

    `classes` are the names behind numbers, by column: Hugging Face writes class labels as
    numbers and their names into the file's metadata. `notes` are sentences that a person should
    read.
    """

    path: Path
    columns: tuple[str, ...]
    classes: dict[str, list[str]]
    kind: str
    form: TextForm = _UTF8
    dialect: Dialect = _COMMAS
    notes: Sequence[str] = field(default=())

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows; raises PrepError where the file breaks off."""
        if self.kind == "csv":
            with _text(self.path, self.form) as stream:
                name = str(self.path)
                for fields in read_rows(stream, name, self.dialect, len(self.columns)):
                    yield self._named(fields)
        else:
            for _, row in self.numbered():
                yield row

    def numbered(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Yield (row, its cells); the header of a CSV is row 1. Rows of a CSV may lack their last
        cells, and any number of rows may be bad.
        """
        name = str(self.path)
        if self.kind == "parquet":
            yield from enumerate(_parquet_rows(self.path), start=1)
        elif self.kind == "jsonl":
            document = Document(name, lambda: self.path.open("rb"))
            for number, item in enumerate(items(document, "", _MAX_JSON_ROW), start=1):
                yield (
                    number,
                    item
                    if isinstance(item, dict)
                    else BadRow(
                        "bad_row", f"{name}: {type(item).__name__} instead of an object", name
                    ),
                )
        else:
            with _text(self.path, self.form) as stream:
                width = len(self.columns)
                for number, fields in numbered_rows(stream, name, self.dialect, width, ragged=True):
                    yield number, self._named(fields)

    def _named(self, fields: list[str] | BadRow) -> Row | BadRow:
        if isinstance(fields, BadRow):
            return fields
        return dict(zip(self.columns, fields, strict=False))


def open_table(path: Path, *, encoding: str = "", guess: bool = False) -> RowTable:
    """Return a table, by its content. Raises PrepError when it is not parquet, CSV or JSON lines.

    `encoding` and `guess` are those of `data_prep.archives.text_files.text_form`.
    """
    with broken_file(path), path.open("rb") as file:
        start = file.read(512)
    if start[:4] == b"PAR1":
        return _open_parquet(path)
    if start.lstrip()[:1] == b"[" and start.lstrip()[1:].lstrip()[:1] == b"{":
        raise PrepError(
            f"{path} is one JSON array. JSON lines are read: one object per line, without "
            "brackets around all of them and without commas between them (in pandas: "
            "`to_json(path, orient='records', lines=True)`)."
        )
    if start.lstrip()[:1] == b"{":
        for first in RowTable(path, (), {}, "jsonl").rows():
            return RowTable(path, tuple(first) if isinstance(first, dict) else (), {}, "jsonl")
    with broken_file(path), path.open("rb") as file:
        form = text_form(file, str(path), encoding=encoding, guess=guess)
    with _text(path, form) as stream:
        header, dialect = sniff(stream, str(path))
    if dialect.separator == "\t" and not dialect.quote:
        dialect = _tabs(path, form, dialect, len(header))
    notes = (form.note,) if form.note else ()
    return RowTable(path, tuple(_distinct(header)), {}, "csv", form, dialect, notes)


def _tabs(path: Path, form: TextForm, plain: Dialect, width: int) -> Dialect:
    """Return how a table with tabs quotes: as CSV does, unless that leaves rows unreadable."""
    quoted = replace(plain, quote='"')
    with _text(path, form) as stream:
        rows = numbered_rows(stream, str(path), quoted, width)
        return plain if any(isinstance(row, BadRow) for _, row in rows) else quoted


@contextmanager
def _text(path: Path, form: TextForm) -> Iterator[BinaryIO]:
    """Open the text of a table as UTF-8."""
    with broken_file(path), path.open("rb") as file:
        yield as_utf8(file, str(path), form)


def _distinct(header: Sequence[str]) -> list[str]:
    """Return the columns' names, each once: "label", "label (2)"; "column 3" without one."""
    found: dict[str, None] = {}
    for place, name in enumerate(header, start=1):
        name = name or f"column {place}"
        number = 1
        other = name
        while other in found:
            number += 1
            other = f"{name} ({number})"
        found[other] = None
    return list(found)


def _open_parquet(path: Path) -> RowTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with broken_file(path):
            schema = pq.read_schema(path)
    except (pa.ArrowException, ValueError) as err:
        raise PrepError(f"{path} is no parquet file: {err}. Download it again.") from err
    return RowTable(path, tuple(schema.names), class_names(schema.metadata or {}), "parquet")


def class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return {column: names} of the class labels in Hugging Face's metadata of a table."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: found for name, f in features.items() if (found := _names(f))}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _names(feature: Any) -> list[str]:
    if isinstance(feature, list):  # a sequence, in one of its two spellings
        return _names(feature[0]) if feature else []
    if not isinstance(feature, dict):
        return []
    if isinstance(feature.get("names"), list):
        return [str(name) for name in feature["names"]]
    return _names(feature.get("feature"))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            broken_file(path),
            pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file,
        ):
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, ValueError) as err:
        raise PrepError(f"{path} cannot be read: {err}. Download it again.") from err


def audio_in(cell: Any) -> tuple[bytes, str]:
    """Return (content, name) of a cell with audio as Hugging Face stores it, or (b"", "")."""
    if not isinstance(cell, dict):
        return b"", ""
    content, name = cell.get("bytes"), cell.get("path")
    return (
        content if isinstance(content, bytes) else b"",
        name if isinstance(name, str) else "",
    )


def write_audio(content: bytes, name: str, folder: Path) -> Path:
    """Write audio that came inside a table as a file of `folder`; return its absolute path.

    The name keeps letters, digits, '.', '_' and '-' of the last part of `name`; another recording
    under the same name gets a name of its own. A file with this content is not written again.
    Raises PrepError when the disk refuses.
    """
    plain = _UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-120:]
    target = folder / (plain or "recording")
    try:
        if target.exists() and not _holds(target, content):
            digest = blake2b(content, digest_size=6).hexdigest()
            target = target.with_name(f"{target.stem}-{digest}{target.suffix}")
        if not target.exists() or not _holds(target, content):
            write_whole(target, content, durable=False)
    except OSError as err:
        raise PrepError(
            f"Writing {target} failed: {err}. Make room; the same command continues."
        ) from err
    return target.absolute()


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content
