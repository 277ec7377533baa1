"""Sums over the results of all shards, in one pass, with a few bytes per recording.

Shape legend: R recordings of the table.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.dataset.event_clips import Counts
from dawnchorus.data_prep.dataset.plan import Plan
from dawnchorus.data_prep.dataset.row_store import hash64
from dawnchorus.data_prep.dataset.work_folder import WORK
from dawnchorus.data_prep.dataset.write_shard import ShardResult, ShardSummary, result_name

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

LicenceKey = tuple[str, str]  # licence URL, recordist
_SHA1_BYTES = 20
# The columns that the decoder adds to a recording's row, and their types here.
FACTS = {
    "sample_rate_hz": np.int32,
    "channels": np.int32,
    "duration_s": np.float64,
    "clips": np.int32,
    "silent_pieces": np.int32,
    "saturated": np.float32,
    "level_dbfs": np.float32,
    "peak_dbfs": np.float32,
    "mix_lost_db": np.float32,
    "resample_lost_db": np.float32,
    "trimmed_s": np.float64,
    "gain_db": np.float32,
}


@dataclass
class LedgerRow:
    """One person's recordings under one licence."""

    attribution: str | None
    """The credit line that all share; None when they have several."""
    clips: int = 0
    samples: int = 0


@dataclass
class Gathered:
    """Sums over the dataset, and the decoder's findings for each recording."""

    kept_R: NDArray[np.bool_]
    codec_R: NDArray[np.int16]
    """Position in `codecs`."""
    sha1_R: NDArray[np.uint8]
    """20 bytes each."""
    facts: dict[str, NDArray[Any]]
    rejected: pa.Table
    """`recording`, `reason`, `detail`, by recording."""
    codecs: list[str] = field(default_factory=list)
    ledger: dict[LicenceKey, LedgerRow] = field(default_factory=dict)
    summaries: list[ShardSummary] = field(default_factory=list)
    """The summary of each shard, without its rejects."""
    split_clips: Counter[str] = field(default_factory=Counter)
    split_samples: Counter[str] = field(default_factory=Counter)
    clips_per_label: Counter[str] = field(default_factory=Counter)
    folds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    strong: Counts | None = None
    """Of the recordings with events; None where there are none."""
    groups: int = 0
    recordists: int = 0


def results(plan: Plan, out: Path) -> Iterator[tuple[str, ShardResult]]:
    """Yield split and result of every shard, in the order of the shards' paths."""
    for shard in plan.shards:
        yield shard.split, ShardResult.read(out / WORK / result_name(shard.path))


def gather(plan: Plan, out: Path) -> Gathered:
    """Go over all results once."""
    count = plan.recordings
    found = Gathered(
        kept_R=np.zeros(count, bool),
        codec_R=np.zeros(count, np.int16),
        sha1_R=np.zeros((count, _SHA1_BYTES), np.uint8),
        facts={name: np.zeros(count, kind) for name, kind in FACTS.items()},
        rejected=None,
    )
    groups: array[int] = array("Q")
    recordists: array[int] = array("Q")
    rejects = _Rejects()
    codecs: dict[str, int] = {}
    for split, result in results(plan, out):
        samples: Counter[int] = Counter()
        for clip in result.clips:
            samples[clip["recording"]] += clip["samples"]
            found.clips_per_label.update(clip.get("foreground", ()))  # of a recording with events
        for item in result.kept:
            number = item["recording"]
            found.kept_R[number] = True
            found.codec_R[number] = codecs.setdefault(item["codec"], len(codecs))
            found.sha1_R[number] = np.frombuffer(bytes.fromhex(item["pcm_sha1"]), np.uint8)
            for name, column in found.facts.items():
                column[number] = item[name]
            _add_to_ledger(found.ledger, item, samples[number])
            found.split_samples[split] += samples[number]
            if "strong" in item:
                found.strong = found.strong or Counts()
                found.strong.add(item["strong"])
            else:
                for name in item["foreground"]:
                    found.clips_per_label[name] += item["clips"]
            if item["fold"] is not None:
                found.folds[item["fold"]] += 1
            if item["recordist"]:
                recordists.append(hash64(item["recordist"]))
        groups.extend({hash64(item["group_id"]) for item in result.kept})
        found.split_clips[split] += len(result.clips)
        found.reasons.update(item["reason"] for item in result.summary.rejected)
        rejects.add(result.summary.rejected)
        result.summary.rejected, result.summary.weaker = [], []
        found.summaries.append(result.summary)
    found.codecs = list(codecs)
    found.rejected = rejects.table()
    found.groups = len(np.unique(np.frombuffer(groups, np.uint64)))
    found.recordists = len(np.unique(np.frombuffer(recordists, np.uint64)))
    return found


def _add_to_ledger(ledger: dict[LicenceKey, LedgerRow], item: dict[str, Any], samples: int) -> None:
    row = ledger.setdefault(licence_key(item), LedgerRow(item["attribution"]))
    if row.attribution != item["attribution"]:
        row.attribution = None
    row.clips += item["clips"]
    row.samples += samples


def licence_key(item: dict[str, Any]) -> LicenceKey:
    """Return the licence and recordist that a line of the ledger is for."""
    return item["licence_url"], item["recordist"]


class _Rejects:
    """The rejected recordings, as Arrow columns from the start: they may be half of all."""

    def __init__(self) -> None:
        import pyarrow as pa

        self.schema = pa.schema(
            [("recording", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
        )
        self.parts: list[pa.Table] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        if rows:
            self.parts.append(pa.Table.from_pylist(rows, schema=self.schema))

    def table(self) -> pa.Table:
        import pyarrow as pa

        if not self.parts:
            return self.schema.empty_table()
        return pa.concat_tables(self.parts).sort_by("recording")
