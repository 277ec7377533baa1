"""The CSV files of iNaturalist's research-grade archive, in blocks of rows."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from dawnchorus.data_prep.archives.containers import Files
from dawnchorus.data_prep.archives.delimited import read_blocks, sniff
from dawnchorus.data_prep.archives.json_files import broken_file
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.progress import LINE_EVERY_S, Progress

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_BYTES = 8 << 20
_MANY_BAD, _BAD_SHARE = 100, 0.05
_END = "end-of-file"


class CsvFile:
    """A CSV file of the archive in blocks of rows, with progress and its bad rows."""

    def __init__(
        self,
        files: Files,
        path: Path,
        name: str,
        columns: Sequence[str],
        needed: Sequence[str],
        progress: Progress | None,
    ) -> None:
        self.files, self.path, self.name, self.columns = files, path, name, columns
        self.progress = progress
        self.bad: list[Rejected] = []
        self.rows = self.bad_rows = self.kept = 0
        self.spoken = time.monotonic()
        with broken_file(f"{path}, {name}"), files.open(name) as stream:
            header, self.dialect = sniff(stream, f"{name} in {path}")
        missing = [column for column in needed if column not in header]
        if missing:
            raise PrepError(
                f"{name} in {path} has no column {', '.join(missing)}; it has "
                f"{', '.join(header)[:200]}. Is it iNaturalist's research-grade archive "
                "(gbif-observations-dwca.zip)?"
            )
        self.header = header

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the wanted columns as bytes; those that the file lacks are empty."""
        import pyarrow as pa

        whole = False
        where = f"{self.path}, {self.name}"
        with broken_file(where), self.files.open(self.name) as stream:
            try:
                ended = _Ended(stream, self.dialect.separator, len(self.header))
                reader = read_blocks(
                    cast(BinaryIO, ended), self.header, self.dialect, self.columns,
                    self._skip, block_bytes=_BLOCK_BYTES, as_bytes=True,
                )  # fmt: skip
                for batch in reader:
                    if batch.num_rows and batch.column("id")[-1].as_py() == _END.encode():
                        whole, batch = True, batch.slice(0, batch.num_rows - 1)
                    self.rows += batch.num_rows
                    yield batch
            except pa.ArrowInvalid as err:
                text = " ".join(str(err).split())[:200]
                raise PrepError(
                    f"{where} cannot be read after row {self.rows + self.bad_rows + 1:,}: {text}. "
                    f"A quote that is not closed, or a row of more than {_BLOCK_BYTES >> 20} MB? "
                    "Download it again."
                ) from err
        if not whole:
            raise PrepError(
                f"{where} ends inside a quoted field, somewhere after row {self.rows:,}: it is cut "
                "off, or a quote is not closed. Download it again."
            )

    def _skip(self, row: Any) -> None:
        self.bad_rows += 1
        if len(self.bad) <= _MANY_BAD:
            number = f"row {row.number}" if row.number else f"after row {self.rows:,}"
            self.bad.append(
                Rejected(
                    recording_id="",
                    reason="bad_row",
                    detail=f"{self.name}, {number}: {row.actual_columns} columns instead of "
                    f"{row.expected_columns}: {row.text[:120]}",
                    path=self.name,
                )
            )

    def take_bad(self) -> Iterator[Rejected]:
        """Yield the rows of the wrong length since the last call. Raises PrepError when they are
        too many.
        """
        seen = self.rows + self.bad_rows
        if self.bad_rows > _MANY_BAD and self.bad_rows > _BAD_SHARE * seen:
            raise PrepError(
                f"{self.bad_rows} of the first {seen} rows of {self.name} have the wrong number "
                f"of columns; the first: {self.bad[0].detail}. Is the file whole?"
            )
        found, self.bad = self.bad, []
        yield from found

    def note(self, kept: int) -> None:
        """Count the sounds of a block; say where it is every ten seconds."""
        self.kept += kept
        now = time.monotonic()
        if self.progress is not None and now - self.spoken >= LINE_EVERY_S:
            self.spoken = now
            self.progress.say(f"{self.name}: {self.rows:,} rows, {self.kept:,} of sounds")


class _Ended(io.RawIOBase):
    """A stream with one more row at its end: without it, a file that ends inside quotes would
    lose its last rows unnoticed.
    """

    def __init__(self, stream: IO[bytes], separator: str, width: int) -> None:
        self.stream = stream
        self.tail = ("\n" + separator.join([_END] * width) + "\n").encode()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        chunk = self.stream.read(size)
        if not chunk and size:
            chunk, self.tail = self.tail, b""
        return chunk
