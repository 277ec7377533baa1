"""Recordings of a dataset with exactly the samples of another one, and whether that does harm.

The same sound under other labels teaches two answers to one question; the same sound in two splits
is both trained on and tested on. Copies that differ by a codec or a cut have other samples:
`chorus prep select` finds those by a fingerprint.

Shape legend: R recordings of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.table.recording import FOREGROUND

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "same_audio.parquet"
_BATCH = 1 << 14
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several recordings with the same samples."""

    digest: str
    id: str
    split: str
    fold: str
    labels: tuple[str, ...]
    """In the foreground, sorted."""


@dataclass
class SameAudio:
    """All sets of recordings that share their samples, each in the order of the table."""

    sets: list[list[Copy]] = field(default_factory=list)

    @property
    def extra(self) -> int:
        """Number of recordings that have the samples of an earlier one."""
        return sum(len(copies) - 1 for copies in self.sets)

    @property
    def other_labels(self) -> list[list[Copy]]:
        """Sets whose recordings do not all have the same labels."""
        return [copies for copies in self.sets if differ(c.labels for c in copies)]

    @property
    def other_parts(self) -> list[list[Copy]]:
        """Sets that lie in more than one split or fold."""
        return [copies for copies in self.sets if _divided(copies)]

    def lines(self) -> list[str]:
        """Return a sentence with examples for each of the two faults that occurs."""
        said = []
        for sets, where in (
            (self.other_labels, "under other labels"),
            (self.other_parts, "in another split or fold"),
        ):
            if sets:
                count = sum(map(len, sets))
                examples = "; ".join(" = ".join(map(_shown, some[:2])) for some in sets[:_NAMED])
                said.append(
                    f"{count:,} recordings have the very samples of another one {where}: "
                    f"{examples}{' ...' if len(sets) > _NAMED else ''}"
                )
        return said


def same_audio(table: Path) -> SameAudio:
    """Return the recordings of a dataset's `recordings.parquet` that share a `pcm_sha1`.

    It reads the digests once, 20 bytes each, and the rows again where any occurs twice. A table
    without digests has no copies.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as file:
        if "pcm_sha1" not in file.schema_arrow.names:
            return SameAudio()
        parts = [
            np.frombuffer(bytes.fromhex("".join(batch.column(0).to_pylist())), "V20")
            for batch in file.iter_batches(_BATCH, columns=["pcm_sha1"])
        ]
        digest_R = np.sort(np.concatenate(parts)) if parts else np.empty(0, "V20")
        twice = {d.tobytes().hex() for d in np.unique(digest_R[1:][digest_R[1:] == digest_R[:-1]])}
        if not twice:
            return SameAudio()
        columns = ["pcm_sha1", "id", "split", "fold", "labels"]
        copies = [
            _copy(row)
            for batch in file.iter_batches(_BATCH, columns=columns)
            for row in _rows(batch, twice)
        ]
    copies.sort(key=lambda copy: copy.digest)  # stable: the order of the table within each
    sets = [list(same) for _, same in groupby(copies, key=lambda copy: copy.digest)]
    return SameAudio(sets)


def _rows(batch: pa.RecordBatch, twice: set[str]) -> list[dict[str, Any]]:
    import pyarrow as pa

    wanted = [digest in twice for digest in batch.column(0).to_pylist()]
    rows: list[dict[str, Any]] = batch.filter(pa.array(wanted)).to_pylist()
    return rows


def _copy(row: dict[str, Any]) -> Copy:
    names = {
        label["name"]
        for label in row["labels"] or ()
        if (label.get("role") or FOREGROUND) == FOREGROUND
    }
    return Copy(
        row["pcm_sha1"], row["id"], row["split"] or "", row["fold"] or "", tuple(sorted(names))
    )


def differ(values: Iterable[Any]) -> bool:
    """Return whether not all values are equal."""
    return len(set(values)) > 1


def _divided(copies: Sequence[Copy]) -> bool:
    return differ((copy.split, copy.fold) for copy in copies)


def _shown(copy: Copy) -> str:
    place = "/".join(filter(None, (copy.split, copy.fold and f"fold {copy.fold}")))
    return f"{copy.id} ({', '.join(copy.labels) or 'no label'}; {place})"


def same_audio_words(stats: Mapping[str, Any]) -> str:
    """Return what a dataset's stats tell about copies: "2 (2 under other labels; see ...)"."""
    faults = (
        ("same_audio_other_labels", "under other labels"),
        ("same_audio_other_part", "in another split or fold"),
    )
    said = [f"{stats[name]:,} {what}" for name, what in faults if stats.get(name)]
    more = f" ({', '.join(said)}; see `{TABLE}`)" if said else ""
    return f"{stats.get('same_audio_recordings') or 0:,}{more}"


def copies_table(found: SameAudio) -> pa.Table:
    """Return the sets as a table, a row per recording."""
    import pyarrow as pa

    rows = [
        {
            "pcm_sha1": copy.digest,
            "recording_id": copy.id,
            "split": copy.split,
            "fold": copy.fold or None,
            "labels": list(copy.labels),
            "other_labels": differ(c.labels for c in copies),
            "other_part": _divided(copies),
        }
        for copies in found.sets
        for copy in copies
    ]
    text, flag = pa.string(), pa.bool_()
    schema = pa.schema(
        [("pcm_sha1", text), ("recording_id", text), ("split", text), ("fold", text),
         ("labels", pa.list_(text)), ("other_labels", flag), ("other_part", flag)]
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)
