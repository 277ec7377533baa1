"""The files beside the shards: index, labels, licences, recordings, rejects, stats, card.

Every table is written as its rows come. Pass 1 (`sums`) goes over the shards' results,
pass 2 over the recordings, pass 3 over the results again, for the index.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.audio.levels import NAMED_DB
from dawnchorus.data_prep.dataset.options import event_settings
from dawnchorus.data_prep.dataset.places import EXACT, shown_path
from dawnchorus.data_prep.dataset.plan import Plan
from dawnchorus.data_prep.dataset.row_store import RowStore
from dawnchorus.data_prep.dataset.same_audio import TABLE as SAME_AUDIO
from dawnchorus.data_prep.dataset.same_audio import SameAudio, copies_table, same_audio
from dawnchorus.data_prep.dataset.sums import Gathered, LicenceKey, gather, licence_key, results
from dawnchorus.data_prep.dataset.write_all import NAMED, name_rejects
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.card import card
from dawnchorus.data_prep.table.recording import Recording, label_ranks, recording_schema, to_row
from dawnchorus.trainer.files import whole_file, write_whole
from dawnchorus.trainer.strong_labels import KEY, OverlapRule

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_ROWS = 1 << 14  # in a row group of the index
RECORDING_ROWS = 1 << 13
_ROWS = 1 << 11  # that are Python objects at a time
SHARD_SUMS = "shards.sha256"
# More than 0.1 % of the samples at full scale.
SATURATED = 1e-3


def write_tables(plan: Plan, out: Path) -> dict[str, Any]:
    """Write every table, `index.parquet` last: its presence means that the dataset is finished.

    Returns the stats. Raises PrepError when no recording was usable.
    """
    found = gather(plan, out)
    if not found.kept_R.any():
        shown = name_rejects(plan.folder, found.rejected.slice(0, NAMED).to_pylist())
        raise PrepError(f"None of the {plan.recordings} recordings is usable:\n{shown}".rstrip())
    settings = plan.options
    with RowStore(plan.folder) as rows:
        labels = _write_recordings(rows, found, out, settings.get("places", EXACT))
    label_ids = {name: i for i, name in enumerate(labels)}
    licence_ids = {key: i for i, key in enumerate(sorted(found.ledger))}
    copies = same_audio(out / "recordings.parquet")
    if copies.sets:
        write_whole(out / SAME_AUDIO, _parquet(copies_table(copies)))
    else:
        (out / SAME_AUDIO).unlink(missing_ok=True)
    stats = _stats(found, settings, labels, copies) | {
        "options": settings,
        "fingerprint": plan.fingerprint,
    }
    licences = _licences(found, licence_ids, settings["sample_rate_hz"])
    write_whole(out / "labels.json", _labels_json(labels, settings, found))
    write_whole(out / "licences.parquet", _parquet(licences))
    sums = [f"{s.sha256}  {s.shard}\n" for s in found.summaries if s.clips]
    write_whole(out / SHARD_SUMS, "".join(sums).encode())
    write_whole(out / "stats.json", _json(stats))
    write_whole(out / "README.md", card(stats, licences.to_pylist()).encode())
    with whole_file(out / "index.parquet") as file:
        _write_index(file, plan, out, settings, label_ids, licence_ids)
    return stats


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


class _Rows:
    """Writes rows to a parquet file, a group of them at a time.

    Rows wait as Arrow columns: as Python objects, 16,384 of them would take 10 MB.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, group: int) -> None:
        import pyarrow.parquet as pq

        self.schema, self.group = schema, group
        self.writer = pq.ParquetWriter(file, schema, compression="zstd")
        self.columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self.count = 0
        self.waiting: list[pa.Table] = []

    def add(self, row: Mapping[str, Any]) -> None:
        for name, column in self.columns.items():
            column.append(row[name])
        self.count += 1
        if self.count % _ROWS == 0 or self.count == self.group:
            self._pack()
        if self.count == self.group:
            self._write()

    def _pack(self) -> None:
        import pyarrow as pa

        arrays = [pa.array(self.columns[field.name], field.type) for field in self.schema]
        self.waiting.append(pa.Table.from_arrays(arrays, schema=self.schema))
        for column in self.columns.values():
            column.clear()

    def _write(self) -> None:
        import pyarrow as pa

        # One chunk, so that the bytes do not depend on how the rows were packed.
        self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks(), self.group)
        self.waiting = []
        self.count = 0

    def close(self) -> None:
        if self.count:
            self._pack()
            self._write()
        self.writer.close()


# --- recordings, rejects, labels -------------------------------------------------------------


def _write_recordings(
    rows: RowStore, found: Gathered, out: Path, places: str
) -> dict[str, tuple[str, str]]:
    """Write `recordings.parquet` and `rejected.parquet`; return the labels of what was kept."""
    import pyarrow as pa

    from dawnchorus.data_prep.table.recording_table import rejected_schema

    schema = recording_schema()
    if found.strong is None:
        schema = schema.remove(schema.get_field_index("events"))
    for name, kind in (("clips", pa.int32()), ("silent_pieces", pa.int32()),
                       ("saturated", pa.float64()),
                       ("level_dbfs", pa.float64()), ("peak_dbfs", pa.float64()),
                       ("mix_lost_db", pa.float64()), ("resample_lost_db", pa.float64()),
                       ("trimmed_s", pa.float64()), ("gain_db", pa.float64()),
                       ("pcm_sha1", pa.string())):  # fmt: skip
        schema = schema.append(pa.field(name, kind))
    with (
        whole_file(out / "recordings.parquet") as kept_file,
        whole_file(out / "rejected.parquet") as rejected_file,
    ):
        kept = _Rows(kept_file, schema, RECORDING_ROWS)
        rejected = _Rows(rejected_file, rejected_schema(), RECORDING_ROWS)
        labels = label_ranks(_split_rows(rows, found, kept, rejected, places))
        kept.close()
        rejected.close()
    return labels


def _split_rows(
    rows: RowStore, found: Gathered, kept: _Rows, rejected: _Rows, places: str
) -> Iterator[Recording]:
    """Write every recording to one of the two tables; yield the kept ones."""
    rejects = found.rejected.to_reader(max_chunksize=RECORDING_ROWS)
    reasons = (row for batch in rejects for row in batch.to_pylist())
    for number, recording in enumerate(rows):
        if not found.kept_R[number]:
            reason = next(reasons)
            path = shown_path(recording, places)
            if path != recording.path:
                reason["detail"] = reason["detail"].replace(recording.path, path)
            rejected.add(reason | {"recording_id": recording.id, "path": path})
            continue
        facts = {name: column[number].item() for name, column in found.facts.items()}
        # It is stored with 32 bits, which hold 6 digits.
        facts["saturated"] = round(facts["saturated"], 6)
        facts["gain_db"] = round(facts["gain_db"], 3)
        for name in ("level_dbfs", "peak_dbfs", "mix_lost_db", "resample_lost_db"):
            facts[name] = round(facts[name], 2)
        recording = dataclasses.replace(
            recording,
            path=shown_path(recording, places),
            codec=found.codecs[found.codec_R[number]],
            **{name: facts[name] for name in ("sample_rate_hz", "channels", "duration_s")},
        )
        kept.add(to_row(recording) | facts | {"pcm_sha1": found.sha1_R[number].tobytes().hex()})
        yield recording


def _labels_json(
    labels: dict[str, tuple[str, str]], settings: Mapping[str, Any], found: Gathered
) -> bytes:
    rows = [
        {"id": i, "name": name, "rank": rank, "taxonomy": taxonomy}
        for i, (name, (rank, taxonomy)) in enumerate(labels.items())
    ]
    task, strong = settings.get("task"), found.strong
    if strong and strong.recordings == found.kept_R.sum():
        # Where all recordings have events, a clip without a label is one without a sound.
        task = task or "detection"
    declared: dict[str, Any] = {"task": task} if task else {}
    if strong is not None:
        rule = event_settings(settings)
        declared[KEY] = OverlapRule(rule["least_overlap"], rule["least_overlap_s"]).to_json()
    return _json({"version": 1, **declared, "labels": rows})


# --- licences, index, stats ------------------------------------------------------------------


def _licences(found: Gathered, licence_ids: dict[LicenceKey, int], sample_rate_hz: int) -> pa.Table:
    """Return the licence ledger: who recorded how much under which licence."""
    import pyarrow as pa

    keys = list(licence_ids)
    rows = [found.ledger[key] for key in keys]
    hours = [row.samples / sample_rate_hz / 3600 for row in rows]
    return pa.table(
        {
            "licence_id": pa.array(range(len(keys)), pa.int32()),
            "licence_url": pa.array([key[0] for key in keys], pa.string()),
            "recordist": pa.array([key[1] for key in keys], pa.string()),
            "attribution": pa.array([row.attribution or "" for row in rows], pa.string()),
            "clips": pa.array([row.clips for row in rows], pa.int64()),
            "hours": pa.array(hours, pa.float64()),
        }
    )


def index_schema(strong: bool = False) -> pa.Schema:
    """Return the Arrow schema of `index.parquet`; `strong`: of a dataset with events.

    Then three lists go in parallel: class, begin and end of every event in the foreground of which
    a part lies in the clip, in seconds from the clip's start; null where the labels hold for the
    whole clip.
    """
    import pyarrow as pa

    events = [
        ("event_ids", pa.list_(pa.int32())),
        ("event_start_s", pa.list_(pa.float64())),
        ("event_end_s", pa.list_(pa.float64())),
    ]
    return pa.schema(
        [
            ("key", pa.string()),
            ("split", pa.string()),
            ("shard", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("codec", pa.string()),
            ("sample_rate_hz", pa.int32()),
            ("samples", pa.int64()),
            ("label_ids", pa.list_(pa.int32())),
            ("background_ids", pa.list_(pa.int32())),
            ("recording_id", pa.string()),
            ("start_s", pa.float64()),
            ("group_id", pa.string()),
            ("fold", pa.string()),
            ("licence_id", pa.int32()),
            *(events if strong else ()),
        ]
    )


def _write_index(
    file: IO[bytes],
    plan: Plan,
    out: Path,
    settings: dict[str, Any],
    label_ids: dict[str, int],
    licence_ids: dict[LicenceKey, int],
) -> None:
    """Write the rows of `index.parquet` in the order of the tars."""
    index = _Rows(file, index_schema(plan.strong), INDEX_ROWS)
    for split, result in results(plan, out):
        shared = {
            "split": split,
            "shard": result.summary.shard,
            "codec": settings["codec"],
            "sample_rate_hz": settings["sample_rate_hz"],
        }
        of_recording = {
            item["recording"]: {
                "label_ids": sorted(label_ids[name] for name in item["foreground"]),
                "background_ids": sorted(label_ids[name] for name in item["background"]),
                "recording_id": item["id"],
                "group_id": item["group_id"],
                "fold": item["fold"],
                "licence_id": licence_ids[licence_key(item)],
            }
            for item in result.kept
        }
        for clip in result.clips:
            own = _own_labels(clip, label_ids)
            index.add(shared | of_recording[clip["recording"]] | clip | own)
    index.close()


def _own_labels(clip: Mapping[str, Any], label_ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the labels and events of a clip of a recording with events."""
    if "events" not in clip:
        return dict.fromkeys(("event_ids", "event_start_s", "event_end_s"))
    return {
        "label_ids": sorted(label_ids[name] for name in clip["foreground"]),
        "background_ids": sorted(label_ids[name] for name in clip["background"]),
        "event_ids": [label_ids[label] for label, _, _ in clip["events"]],
        "event_start_s": [start_s for _, start_s, _ in clip["events"]],
        "event_end_s": [end_s for _, _, end_s in clip["events"]],
    }


def _stats(
    found: Gathered,
    settings: dict[str, Any],
    labels: dict[str, tuple[str, str]],
    copies: SameAudio,
) -> dict[str, Any]:
    """Return the stats. They do not depend on the machine or the time."""
    rate = settings["sample_rate_hz"]
    kept, facts = found.kept_R, found.facts
    per_label: Counter[str] = Counter(dict.fromkeys(labels, 0))
    per_label.update(found.clips_per_label)
    codecs = np.bincount(found.codec_R[kept], minlength=len(found.codecs)).tolist()
    return {
        "format": 1,
        "name": settings["name"],
        "clips": sum(found.split_clips.values()),
        "recordings": int(kept.sum()),
        "hours": sum(found.split_samples.values()) / rate / 3600,
        "sample_rate_hz": rate,
        "codec": settings["codec"],
        "labels": len(labels),
        "splits": {
            split: {"clips": clips, "hours": found.split_samples[split] / rate / 3600}
            for split, clips in sorted(found.split_clips.items())
            if clips
        },
        "folds": dict(sorted(found.folds.items())),
        "groups": found.groups,
        "recordists": found.recordists,
        "shards": sum(bool(summary.clips) for summary in found.summaries),
        "bytes": sum(summary.bytes for summary in found.summaries),
        "clips_per_label": dict(sorted(per_label.items())),
        "rejected": sum(found.reasons.values()),
        "rejected_reasons": dict(sorted(found.reasons.items())),
        "silent_pieces": int(facts["silent_pieces"].sum()),
        "trimmed_hours": float(facts["trimmed_s"].sum()) / 3600,
        "trimmed_recordings": int((facts["trimmed_s"] > 0).sum()),
        "weaker_recordings": int(
            (facts["mix_lost_db"] + facts["resample_lost_db"] > NAMED_DB).sum()
        ),
        "saturated_recordings": int((facts["saturated"] > SATURATED).sum()),
        "same_audio_recordings": copies.extra,
        "same_audio_other_labels": sum(map(len, copies.other_labels)),
        "same_audio_other_part": sum(map(len, copies.other_parts)),
        "original_codecs": dict(sorted(zip(found.codecs, codecs, strict=True))),
        "original_sample_rates_hz": _counts(facts["sample_rate_hz"][kept]),
        "original_channels": _counts(facts["channels"][kept]),
        **_strong_stats(found, settings),
    }


def _strong_stats(found: Gathered, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the stats say of events and negatives; nothing where no recording has events."""
    if found.strong is None:
        return {}
    counts = dataclasses.asdict(found.strong)
    events = {
        label: {"events": int(n), "seconds": round(seconds, 3), "above_nyquist": int(above)}
        for label, (n, seconds, above) in sorted(counts["events"].items())
    }
    return {KEY: {"rule": event_settings(settings), **counts, "events": events}}


def _counts(values: Any) -> dict[str, int]:
    """Return {value: how often}, in ascending order."""
    found, counts = np.unique(values, return_counts=True)
    return {str(value): count for value, count in zip(found.tolist(), counts.tolist(), strict=True)}
