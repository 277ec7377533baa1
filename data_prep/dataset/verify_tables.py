"""The tables of a dataset against each other, in a few bytes per recording and clip.

Shape legend: N clips, R recordings, L licences, C labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.dataset.row_store import hash64
from dawnchorus.data_prep.dataset.same_audio import same_audio
from dawnchorus.data_prep.dataset.verify_shard import RecordingFacts
from dawnchorus.data_prep.dataset.work_folder import WORK
from dawnchorus.data_prep.dataset.write_tables import SHARD_SUMS, index_schema
from dawnchorus.trainer.strong_labels import KEY, OverlapRule
from dawnchorus.trainer.tasks import TASKS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from dawnchorus.data_prep.dataset.verify import Report

_BATCH = 1 << 14
_HOURS = 1e-6
_SHA1 = "S40"
_NAMED = 3


@dataclass
class Expected:
    """The values in the tables that the check of every clip needs."""

    dataset: Path
    label_names: list[str]
    rule: OverlapRule
    licences: list[tuple[str, str]]
    sums: dict[str, str]
    """SHA-256 by shard; empty where none were recorded."""
    stats: dict[str, Any]
    shards: int
    hours: float
    id_R: NDArray[np.uint64]
    """`hash64` of the recordings' ids, ascending; the columns below go in parallel."""
    group_R: NDArray[np.uint64]
    fold_R: NDArray[np.uint64]
    split_R: NDArray[np.uint64]
    clips_R: NDArray[np.int32]
    whole_R: NDArray[np.bool_]
    sha1_R: NDArray[np.bytes_]

    @property
    def places(self) -> str:
        """How exactly the card says that places and times are told; "" where it does not say."""
        return str((self.stats.get("options") or {}).get("places") or "")

    def find(self, ids: list[str]) -> NDArray[np.int64]:
        """Return the row numbers of recordings, -1 for one that is not in the table."""
        wanted = np.array([hash64(text) for text in ids], np.uint64)
        if not len(self.id_R):
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self.id_R, wanted), len(self.id_R) - 1)
        return np.where(self.id_R[places] == wanted, places, -1)

    def index(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the index in batches."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.dataset / "index.parquet") as file:
            yield from file.iter_batches(_BATCH, columns=columns)

    def rows_by_shard(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each run of rows of one shard, in the order of the index."""
        rows = (row for batch in self.index() for row in batch.to_pylist())
        for shard, run in groupby(rows, key=lambda row: row["shard"]):
            yield shard, list(run)

    def recordings_of(self, rows: list[dict[str, Any]]) -> Mapping[str, RecordingFacts]:
        """Return the values that the clips of some rows are checked against."""
        ids = list({row["recording_id"] for row in rows})
        return {
            text: RecordingFacts(
                self.sha1_R[place].decode(), int(self.clips_R[place]), bool(self.whole_R[place])
            )
            for text, place in zip(ids, self.find(ids).tolist(), strict=True)
            if place >= 0
        }


def read_expected(dataset: Path, report: Report) -> Expected:
    """Read the small files; report what is wrong within them."""
    import pyarrow.parquet as pq

    stats = json.loads((dataset / "stats.json").read_text())
    space = json.loads((dataset / "labels.json").read_text())
    labels, task = space["labels"], space.get("task")
    if task is not None and task not in TASKS:
        report.add("labels.json", f"the task is {task!r}; it can be {', '.join(TASKS)}")
    if [label["id"] for label in labels] != list(range(len(labels))):
        report.add("labels.json", "ids are not 0 to n-1 in order")
    names = [str(label["name"]) for label in labels]
    for name, count in Counter(names).items():
        if count > 1:
            report.add("labels.json", f"the name {name!r} occurs {count} times")
    ledger = pq.read_table(dataset / "licences.parquet").to_pylist()
    if [row["licence_id"] for row in ledger] != list(range(len(ledger))):
        report.add("licences.parquet", "licence_id does not count the rows from 0")
    sums: dict[str, str] = {}
    if (dataset / SHARD_SUMS).is_file():
        lines = (dataset / SHARD_SUMS).read_text().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    else:
        report.notes.append(f"no {SHARD_SUMS}: the tars' bytes were not compared with anything")
    if (dataset / WORK).exists():
        report.warnings.append(f"{WORK} is left over from the preparation; it can be deleted")
    schema = pq.read_schema(dataset / "index.parquet")
    for wanted in index_schema():
        if wanted.name not in schema.names:
            raise KeyError(f"index.parquet has no column {wanted.name!r}")
    columns = _recording_columns(dataset, report)
    return Expected(
        dataset=dataset,
        label_names=names,
        rule=OverlapRule.from_json(space[KEY]) if KEY in space else OverlapRule(),
        licences=[(row["licence_url"], row["recordist"]) for row in ledger],
        sums=sums,
        stats=stats,
        shards=int(stats.get("shards", 1)),
        hours=float(stats.get("hours", 0.0)),
        **columns,
    )


_PEAK = "peak_dbfs"
_FAINT_DBFS = -78.0  # below four steps of 16 bit, pcm_sha1 may be that of floats


def _recording_columns(dataset: Path, report: Report) -> dict[str, Any]:
    """Return the columns of `Expected` that `recordings.parquet` fills."""
    import pyarrow.parquet as pq

    changes = ("trimmed_s", "gain_db", "silent_pieces")
    ours = ("id", "group", "fold", "split", "clips", "whole", "sha1")
    parts: dict[str, list[Any]] = {name: [] for name in ours}
    with pq.ParquetFile(dataset / "recordings.parquet") as file:
        there = set(file.schema_arrow.names)
        told = set(changes) <= there
        if not told:
            report.notes.append("recordings.parquet is older: pcm_sha1 was not compared")
        names = ["id", "group_id", "fold", "split", "clips", "pcm_sha1", *(changes if told else ())]
        names += [name for name in (_PEAK, "events") if name in there]
        for batch in file.iter_batches(_BATCH, columns=names):
            column = {name: batch.column(name) for name in names}
            for name, theirs in zip(ours, ("id", "group_id", "fold", "split"), strict=False):
                texts = column[theirs].to_pylist()
                parts[name].append(np.array([hash64(text or "") for text in texts], np.uint64))
            parts["clips"].append(np.array(column["clips"].to_pylist(), np.int32))
            changed_R = np.full(batch.num_rows, not told)
            for name in changes if told else ():
                changed_R |= np.array(column[name].to_pylist()) != 0
            if "events" in column:  # windows overlap, or leave parts out
                changed_R |= column["events"].is_valid().to_numpy(zero_copy_only=False)
            if _PEAK in column:
                changed_R |= np.array(column[_PEAK].to_pylist()) < _FAINT_DBFS
            parts["whole"].append(~changed_R)
            parts["sha1"].append(np.array(column["pcm_sha1"].to_pylist(), _SHA1))
    joined = {name: np.concatenate(part) for name, part in parts.items()}
    order = np.argsort(joined["id"], kind="stable")
    if len(np.unique(joined["id"])) < len(order):
        report.add("recordings.parquet", "an id occurs twice")
    return {f"{name}_R": column[order] for name, column in joined.items()}


@dataclass
class _Sums:
    """The sums over the index."""

    clips_L: NDArray[np.int64]
    samples_L: NDArray[np.int64]
    clips_C: NDArray[np.int64]
    clips_R: NDArray[np.int64]
    key_parts: list[NDArray[np.uint64]]
    split_clips: Counter[str]
    split_samples: Counter[str]
    shards: dict[str, None]
    samples: int = 0


def check_tables(dataset: Path, expected: Expected, report: Report) -> None:
    """Go over the index once and compare its sums with the other tables."""
    sums = _Sums(
        np.zeros(len(expected.licences), np.int64),
        np.zeros(len(expected.licences), np.int64),
        np.zeros(len(expected.label_names), np.int64),
        np.zeros(len(expected.id_R), np.int64),
        [], Counter(), Counter(), {},
    )  # fmt: skip
    last = ""
    for batch in expected.index():
        columns = {name: batch.column(name) for name in batch.schema.names}
        _add_batch(columns, expected, sums, report)
        for name in columns["shard"].to_pylist():
            if name != last and name in sums.shards:
                report.add("index.parquet", f"the rows of {name} are not together")
            sums.shards[name] = None
            last = name
    _check_keys(expected, sums, report)
    _check_recordings(expected, sums, report)
    _check_ledger(dataset, expected, sums, report)
    _check_stats(dataset, expected, sums, report)
    _check_files(dataset, expected, sums, report)
    _warn_of_divided_groups(expected, report)
    report.warnings += same_audio(dataset / "recordings.parquet").lines()


def _add_batch(columns: Mapping[str, Any], expected: Expected, sums: _Sums, report: Report) -> None:
    keys = columns["key"].to_pylist()
    samples_N = np.array(columns["samples"].to_pylist(), np.int64)
    licence_N = np.array(columns["licence_id"].to_pylist(), np.int64)
    sums.key_parts.append(np.array([hash64(key) for key in keys], np.uint64))
    good_N = (licence_N >= 0) & (licence_N < len(expected.licences))
    for i in np.flatnonzero(~good_N).tolist():
        report.add(
            "index.parquet", f"licence_id {licence_N[i]} is not in licences.parquet", keys[i]
        )
    np.add.at(sums.clips_L, licence_N[good_N], 1)
    np.add.at(sums.samples_L, licence_N[good_N], samples_N[good_N])
    count = len(expected.label_names)
    for name in ("label_ids", "background_ids"):
        for key, ids in zip(keys, columns[name].to_pylist(), strict=True):
            if any(not 0 <= i < count for i in ids) or len(set(ids)) < len(ids):
                report.add("index.parquet", f"{name} {ids} do not fit labels.json", key)
            elif name == "label_ids":
                sums.clips_C[ids] += 1
    found_N = expected.find(columns["recording_id"].to_pylist())
    for i in np.flatnonzero(found_N < 0).tolist():
        text = columns["recording_id"][i].as_py()
        report.add("index.parquet", f"{text!r} is not in recordings.parquet", keys[i])
    known_N = found_N >= 0
    np.add.at(sums.clips_R, found_N[known_N], 1)
    for name, theirs_R in (
        ("group_id", expected.group_R),
        ("fold", expected.fold_R),
        ("split", expected.split_R),
    ):
        texts = columns[name].to_pylist()
        ours_N = np.array([hash64(text or "") for text in texts], np.uint64)
        for i in np.flatnonzero(known_N & (ours_N != theirs_R[found_N])).tolist():
            report.add(
                "index.parquet", f"{name} {texts[i]!r} is not that of its recording", keys[i]
            )
    splits = columns["split"].to_pylist()
    sums.split_clips.update(splits)
    for split, shard, key, samples in zip(
        splits, columns["shard"].to_pylist(), keys, samples_N.tolist(), strict=True
    ):
        sums.split_samples[split] += samples
        if not shard.startswith(f"{split}/"):
            report.add("index.parquet", f"{shard} is not in the folder of split {split!r}", key)
    sums.samples += int(samples_N.sum())


def _check_keys(expected: Expected, sums: _Sums, report: Report) -> None:
    """Report keys that two clips share; only then is the index read again for their names."""
    hash_N = np.sort(np.concatenate(sums.key_parts)) if sums.key_parts else np.empty(0, np.uint64)
    twice = set(hash_N[1:][hash_N[1:] == hash_N[:-1]].tolist())
    if not twice:
        return
    keys = (key for batch in expected.index(["key"]) for key in batch.column(0).to_pylist())
    for key, count in Counter(key for key in keys if hash64(key) in twice).items():
        if count > 1:
            report.add("index.parquet", f"the key occurs {count} times", key)


def _check_recordings(expected: Expected, sums: _Sums, report: Report) -> None:
    """Compare the clips of every recording with its row."""
    import pyarrow.parquet as pq

    wrong = np.flatnonzero(sums.clips_R != expected.clips_R)
    if not len(wrong):
        return
    by_hash = {int(expected.id_R[place]): place for place in wrong.tolist()}
    with pq.ParquetFile(expected.dataset / "recordings.parquet") as file:
        for batch in file.iter_batches(_BATCH, columns=["id"]):
            for text in batch.column(0).to_pylist():
                place = by_hash.get(hash64(text))
                if place is not None:
                    report.add(
                        "recordings.parquet",
                        f"{text!r} has {expected.clips_R[place]} clips, the index has "
                        f"{sums.clips_R[place]}",
                    )


def _check_ledger(dataset: Path, expected: Expected, sums: _Sums, report: Report) -> None:
    import pyarrow.parquet as pq

    rate = expected.stats.get("sample_rate_hz") or 1
    table = pq.read_table(dataset / "licences.parquet", columns=["clips", "hours"]).to_pylist()
    for i, row in enumerate(table):
        hours = sums.samples_L[i] / rate / 3600
        if row["clips"] != sums.clips_L[i] or abs(row["hours"] - hours) > _HOURS:
            report.add(
                "licences.parquet",
                f"licence {i} has {row['clips']} clips and {row['hours']:.4f} h, the index has "
                f"{sums.clips_L[i]} and {hours:.4f}",
            )


def _check_stats(dataset: Path, expected: Expected, sums: _Sums, report: Report) -> None:
    """Compare every count of `stats.json` that the other tables hold, too."""
    import pyarrow.parquet as pq

    stats = expected.stats
    rate = stats.get("sample_rate_hz") or 1
    rejected = pq.read_metadata(dataset / "rejected.parquet").num_rows
    counted = {
        "clips": sum(sums.split_clips.values()),
        "recordings": len(expected.id_R),
        "labels": len(expected.label_names),
        "shards": len(sums.shards),
        "groups": len(np.unique(expected.group_R)),
        "rejected": rejected,
        "clips_per_label": dict(zip(expected.label_names, sums.clips_C.tolist(), strict=True)),
    }
    for name, count in counted.items():
        if stats.get(name) != count:
            if isinstance(count, dict):
                theirs = stats.get(name) or {}
                differing = [n for n in sorted({*count, *theirs}) if count.get(n) != theirs.get(n)]
                some = ", ".join(differing[:_NAMED])
                report.add("stats.json", f"{name} differs from the index for {some}")
            else:
                report.add("stats.json", f"{name} is {stats.get(name)}, the tables have {count}")
    splits = stats.get("splits", {})
    if {name: part["clips"] for name, part in splits.items()} != dict(sums.split_clips):
        report.add("stats.json", f"clips of the splits: the index has {dict(sums.split_clips)}")
    hours = {name: samples / rate / 3600 for name, samples in sums.split_samples.items()}
    hours_told = {name: part["hours"] for name, part in splits.items()} | {
        "": stats.get("hours", 0)
    }
    for name, found in (hours | {"": sums.samples / rate / 3600}).items():
        if abs(hours_told.get(name, 0.0) - found) > _HOURS:
            report.add("stats.json", f"hours {name} are {hours_told.get(name)}, found {found:.6f}")


def _check_files(dataset: Path, expected: Expected, sums: _Sums, report: Report) -> None:
    """Compare the tars on disk, those of the index and those with a hash."""
    on_disk = {path.relative_to(dataset).as_posix() for path in dataset.glob("*/*.tar")}
    for name in sorted(on_disk - set(sums.shards)):
        report.add(name, "the tar is not in the index")
    if expected.sums:
        for name in sorted(set(sums.shards) ^ set(expected.sums)):
            report.add(SHARD_SUMS, f"{name} is in one of it and the index, not in both")
    for path in (*dataset.glob("*/.*.tmp"), *dataset.glob(".*.tmp")):
        name = path.relative_to(dataset).as_posix()
        report.warnings.append(f"{name} is half-written and was left behind; it can be deleted")


def _warn_of_divided_groups(expected: Expected, report: Report) -> None:
    """Warn of groups in two splits or folds: a test there is not one on unknown sources."""
    for name, part_R in (("split", expected.split_R), ("fold", expected.fold_R)):
        pairs = np.unique(np.stack([expected.group_R, part_R], axis=1), axis=0)
        groups, counts = np.unique(pairs[:, 0], return_counts=True)
        divided = int((counts > 1).sum())
        if divided:
            example = _group_name(expected, int(groups[counts > 1][0]))
            report.warnings.append(
                f"{divided:,} groups lie in more than one {name}, for example {example!r}: a score "
                "on one of them is not a score on unknown sources"
            )


def _group_name(expected: Expected, wanted: int) -> str:
    """Return the group that a hash stands for."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(expected.dataset / "recordings.parquet") as file:
        for batch in file.iter_batches(_BATCH, columns=["group_id"]):
            for text in batch.column(0).to_pylist():
                if hash64(text or "") == wanted:
                    return str(text)
    return ""
