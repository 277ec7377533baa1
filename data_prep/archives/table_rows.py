"""Rows of a table in parquet (with audio inside it), CSV or JSON lines, one by one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from data_prep.archives.delimited import BadRow, read_rows, sniff
from data_prep.archives.json_files import Document, broken_file, items
from data_prep.errors import PrepError

_BATCH_ROWS = 16  # a row may hold a whole recording
_MAX_CELL_BYTES = 1 << 30
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_JSON_ROW = 16 << 20
Row = dict[str, Any]


@dataclass(frozen=True)
class RowTable:
    """A table and what it says about itself.

    `classes` are the names behind numbers, by column: Hugging Face writes class labels as
    numbers and their names into the file's metadata.
    """

    path: Path
    columns: tuple[str, ...]
    classes: dict[str, list[str]]
    kind: str

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows; raises PrepError where the file breaks off."""
        if self.kind == "parquet":
            yield from _parquet_rows(self.path)
        elif self.kind == "jsonl":
            for item in items(Document(str(self.path), lambda: self.path.open("rb")), "",
                              _MAX_JSON_ROW):  # fmt: skip
                yield item if isinstance(item, dict) else BadRow(
                    "bad_row", f"{self.path}: {type(item).__name__} instead of an object",
                    str(self.path),
                )  # fmt: skip
        else:
            yield from _csv_rows(self.path)


def open_table(path: Path) -> RowTable:
    """Return a table, by its content. Raises PrepError when it is none of the three."""
    with broken_file(path), path.open("rb") as file:
        start = file.read(512)
    if start[:4] == b"PAR1":
        return _open_parquet(path)
    if start.lstrip()[:1] == b"{":
        for first in RowTable(path, (), {}, "jsonl").rows():
            return RowTable(path, tuple(first) if isinstance(first, dict) else (), {}, "jsonl")
    with broken_file(path), path.open("rb") as file:
        header, _ = sniff(file, str(path))
    return RowTable(path, tuple(header), {}, "csv")


def _csv_rows(path: Path) -> Iterator[Row | BadRow]:
    with broken_file(path), path.open("rb") as file:
        header, dialect = sniff(file, str(path))
        file.seek(0)
        for fields in read_rows(file, str(path), dialect, len(header)):
            yield fields if isinstance(fields, BadRow) else dict(zip(header, fields, strict=False))


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
    under the same name gets a name of its own. What is there already is not written again. Raises
    PrepError when the disk refuses.
    """
    plain = _UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-120:]
    target = folder / (plain or "recording")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and not _holds(target, content):
            digest = blake2b(content, digest_size=6).hexdigest()
            target = target.with_name(f"{target.stem}-{digest}{target.suffix}")
        if not target.exists() or not _holds(target, content):
            partial = folder / f".{target.name}.{os.getpid()}.part"
            try:
                partial.write_bytes(content)
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as err:
        raise PrepError(
            f"Writing {target} failed: {err}. Make room; the same command continues."
        ) from err
    return target.absolute()


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content
