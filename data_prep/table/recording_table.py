"""`recordings.parquet` and `rejected.parquet`: written as rows come, read row by row.

Every archive reader is a generator of `Recording` and `Rejected`; `write_table` turns it into a
folder. Memory does not grow with the number of rows (but for 8 bytes per id, to find repeated
ones), and a folder holds a finished table or none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording, from_row, recording_schema, to_row
from dawnchorus.trainer.files import whole_path, write_whole
from dawnchorus.trainer.sound_folders import what_to_do_with

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

RECORDINGS = "recordings.parquet"
REJECTED = "rejected.parquet"
SUMMARY = "summary.json"
_ROWS = 1 << 14  # rows kept before they are written: about 20 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row of an archive that does not become a recording. `reason` is a short code, `detail`
    explains it; `path` is the file or the address, where the row names one.
    """

    recording_id: str
    reason: str
    detail: str = ""
    path: str = ""


@dataclass(frozen=True)
class Summary:
    """The counts of a table."""

    recordings: int
    hours: float
    """Hours of the recordings whose duration the archive states."""
    rejected: dict[str, int]
    """Number of rejected rows by reason."""

    @property
    def text(self) -> str:
        """One line for the screen."""
        hours = f", {self.hours:,.1f} h stated" if self.hours else ""
        reasons = ", ".join(f"{name} {count:,}" for name, count in self.rejected.items())
        left_out = f"; left out: {reasons}" if reasons else ""
        return f"{self.recordings:,} recordings{hours}{left_out}"


def write_table(
    rows: Iterable[Recording | Rejected], out: Path, *, made_by: dict[str, Any] | None = None
) -> Summary:
    """Write `recordings.parquet`, `rejected.parquet` and `summary.json` into the folder `out`.

    Of several recordings with one id the first stands, the others are rejected as
    `repeated_id`. `made_by` (what the table was made of: command, options, versions) goes into the
    summary. An existing table is replaced at the end, as a whole. Raises PrepError when the rows
    hold no recording or the disk refuses; whatever ends it, no half-written file stays.
    """
    seen: set[int] = set()
    reasons: Counter[str] = Counter()
    seconds = 0.0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            whole_path(out / RECORDINGS) as good_path,
            whole_path(out / REJECTED) as bad_path,
            _Rows(good_path, recording_schema()) as good,
            _Rows(bad_path, rejected_schema()) as bad,
        ):
            for row in rows:
                if isinstance(row, Recording):
                    digest = hashlib.blake2b(row.id.encode(), digest_size=8).digest()
                    number = int.from_bytes(digest, "little")
                    if number not in seen:
                        seen.add(number)
                        seconds += row.duration_s
                        good.add(to_row(row))
                        continue
                    row = Rejected(
                        recording_id=row.id, reason="repeated_id", path=row.path or row.url
                    )
                reasons[row.reason] += 1
                bad.add(dataclasses.asdict(row))
            if not seen:
                why = ", ".join(f"{name} {count}" for name, count in reasons.most_common())
                raise PrepError(f"No recording was found (left out: {why or 'nothing either'}).")
            summary = Summary(len(seen), seconds / 3600, dict(sorted(reasons.items())))
        text = json.dumps(dataclasses.asdict(summary) | {"made_by": made_by or {}}, indent=1)
        write_whole(out / SUMMARY, text + "\n")
    except OSError as err:
        raise PrepError(f"Writing {out} failed: {err}. Make room, then run it again.") from err
    return summary


def rejected_schema() -> pa.Schema:
    """Return the Arrow schema of `rejected.parquet`."""
    import pyarrow as pa

    return pa.schema([(n, pa.string()) for n in ("recording_id", "path", "reason", "detail")])


class _Rows:
    """A parquet file that takes rows one by one."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row; write when there are enough."""
        self.rows.append(row)
        if len(self.rows) == _ROWS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []

    def __enter__(self) -> _Rows:
        import pyarrow.parquet as pq

        self.writer: pq.ParquetWriter = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
        self.writer.close()


def table_path(path: Path) -> Path:
    """Return the table at `path`: the file itself, or `recordings.parquet` in that folder.

    Raises PrepError where there is none.
    """
    found = path / RECORDINGS if path.is_dir() else path
    if not found.is_file():
        if told := what_to_do_with(path):
            raise PrepError(f"{told}.")
        raise PrepError(
            f"There is no recording table at {found}. `chorus prep --help` lists the commands "
            "that make one."
        )
    return found


def read_recordings(path: Path) -> Iterator[Recording]:
    """Yield the recordings of a table (file or folder), in its order, in bounded memory.

    Raises PrepError when it is not a recording table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = table_path(path)
    try:
        with pq.ParquetFile(found) as file:
            missing = {"id", "source", "source_id", "labels"} - set(file.schema_arrow.names)
            if missing:
                raise PrepError(f"{found} is no recording table: no column {sorted(missing)}.")
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield from_row(row)
    except pa.ArrowInvalid as err:
        raise PrepError(f"{found} cannot be read: {err}. Make it again.") from err


def count_recordings(path: Path) -> int:
    """Return how many rows a table has, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(table_path(path)).num_rows)
