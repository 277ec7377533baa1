"""The files beside the shards: index, labels, licences, recordings, rejects, stats, card."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.card import card
from data_prep.errors import PrepError
from data_prep.recordings import (
    BACKGROUND,
    FOREGROUND,
    Recording,
    label_ranks,
    recording_schema,
    to_row,
)
from data_prep.shards import ShardResult, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1 << 16  # rows written at a time


@dataclass(frozen=True, slots=True)
class _Kept:
    """A recording that made it, with what the decoder found."""

    recording: Recording
    clips: int
    silent_pieces: int
    saturated: float
    pcm_sha1: str


def write_tables(
    recordings: Sequence[Recording],
    results: Sequence[ShardResult],
    out: Path,
    settings: dict[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Write every table, `index.parquet` last: its presence means that the dataset is finished.

    Returns the stats. Raises PrepError when no recording was usable.
    """
    kept = _kept(recordings, results)
    if not kept:
        raise PrepError("None of the recordings is usable; see the reasons with --jobs 1.")
    labels = label_ranks(item.recording for item in kept.values())
    label_ids = {name: i for i, name in enumerate(labels)}
    licence_ids = {key: i for i, key in enumerate(sorted({_licence(k) for k in kept.values()}))}
    stats = _stats(kept, results, settings, label_ids) | {
        "options": settings,
        "fingerprint": fingerprint,
    }
    licences = _licences(kept, results, licence_ids, settings["sample_rate_hz"])
    write_whole(out / "labels.json", _labels_json(labels))
    write_whole(out / "licences.parquet", _parquet(licences))
    write_whole(out / "recordings.parquet", _parquet(_recordings(kept)))
    write_whole(out / "rejected.parquet", _parquet(_rejected(recordings, results)))
    write_whole(out / "stats.json", _json(stats))
    write_whole(out / "README.md", card(stats, licences.to_pylist()).encode())
    write_whole(out / "index.parquet", _index(kept, results, settings, label_ids, licence_ids))
    return stats


def _kept(recordings: Sequence[Recording], results: Sequence[ShardResult]) -> dict[int, _Kept]:
    """Return the usable recordings by their number, with the facts of the original files."""
    found = {}
    for result in results:
        for original in result.originals:
            number = original["recording"]
            recording = dataclasses.replace(
                recordings[number],
                sample_rate_hz=original["sample_rate_hz"],
                channels=original["channels"],
                codec=original["codec"],
                duration_s=original["duration_s"],
            )
            found[number] = _Kept(
                recording,
                original["clips"],
                original["silent_pieces"],
                original["saturated"],
                original["pcm_sha1"],
            )
    return dict(sorted(found.items()))


def _licence(item: _Kept) -> tuple[str, str, str]:
    recording = item.recording
    return recording.licence_url, recording.recordist, recording.attribution


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _labels_json(labels: dict[str, tuple[str, str]]) -> bytes:
    rows = [
        {"id": i, "name": name, "rank": rank, "taxonomy": taxonomy}
        for i, (name, (rank, taxonomy)) in enumerate(labels.items())
    ]
    return _json({"version": 1, "labels": rows})


def _licences(
    kept: dict[int, _Kept],
    results: Sequence[ShardResult],
    licence_ids: dict[tuple[str, str, str], int],
    sample_rate_hz: int,
) -> pa.Table:
    """Return the ledger: who recorded how much under which licence."""
    import pyarrow as pa

    clips: Counter[int] = Counter()
    samples: Counter[int] = Counter()
    for result in results:
        for clip in result.clips:
            number = licence_ids[_licence(kept[clip["recording"]])]
            clips[number] += 1
            samples[number] += clip["samples"]
    keys = list(licence_ids)
    ids = range(len(keys))
    return pa.table(
        {
            "licence_id": pa.array(ids, pa.int32()),
            "licence_url": pa.array([key[0] for key in keys], pa.string()),
            "recordist": pa.array([key[1] for key in keys], pa.string()),
            "attribution": pa.array([key[2] for key in keys], pa.string()),
            "clips": pa.array([clips[i] for i in ids], pa.int64()),
            "hours": pa.array([samples[i] / sample_rate_hz / 3600 for i in ids], pa.float64()),
        }
    )


def _recordings(kept: dict[int, _Kept]) -> pa.Table:
    import pyarrow as pa

    schema = recording_schema().append(pa.field("clips", pa.int32()))
    schema = schema.append(pa.field("saturated", pa.float64()))
    schema = schema.append(pa.field("pcm_sha1", pa.string()))
    rows = [
        to_row(item.recording)
        | {"clips": item.clips, "saturated": item.saturated, "pcm_sha1": item.pcm_sha1}
        for item in kept.values()
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _rejected(recordings: Sequence[Recording], results: Sequence[ShardResult]) -> pa.Table:
    import pyarrow as pa

    rows = sorted(
        (item for result in results for item in result.rejected),
        key=lambda item: int(item["recording"]),
    )
    text = pa.string()
    return pa.Table.from_pylist(
        [
            {
                "recording_id": recordings[row["recording"]].id,
                "path": recordings[row["recording"]].path,
                "reason": row["reason"],
                "detail": row["detail"],
            }
            for row in rows
        ],
        schema=pa.schema([(n, text) for n in ("recording_id", "path", "reason", "detail")]),
    )


def index_schema() -> pa.Schema:
    """Return the Arrow schema of `index.parquet`."""
    import pyarrow as pa

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
        ]
    )


def _index(
    kept: dict[int, _Kept],
    results: Sequence[ShardResult],
    settings: dict[str, Any],
    label_ids: dict[str, int],
    licence_ids: dict[tuple[str, str, str], int],
) -> bytes:
    """Return the bytes of `index.parquet`, rows in the order of the tars."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = index_schema()
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for row in _index_rows(kept, results, settings, label_ids, licence_ids):
            rows.append(row)
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return buffer.getvalue()


def _index_rows(
    kept: dict[int, _Kept],
    results: Sequence[ShardResult],
    settings: dict[str, Any],
    label_ids: dict[str, int],
    licence_ids: dict[tuple[str, str, str], int],
) -> Iterator[dict[str, Any]]:
    for result in results:
        for clip in result.clips:
            item = kept[clip["recording"]]
            recording = item.recording
            yield {
                "key": clip["key"],
                "split": recording.split,
                "shard": result.shard,
                "offset": clip["offset"],
                "size": clip["size"],
                "codec": settings["codec"],
                "sample_rate_hz": settings["sample_rate_hz"],
                "samples": clip["samples"],
                "label_ids": sorted(label_ids[n] for n in recording.names(FOREGROUND)),
                "background_ids": sorted(label_ids[n] for n in recording.names(BACKGROUND)),
                "recording_id": recording.id,
                "start_s": clip["start_s"],
                "group_id": recording.group_id,
                "fold": recording.fold,
                "licence_id": licence_ids[_licence(item)],
            }


def _stats(
    kept: dict[int, _Kept],
    results: Sequence[ShardResult],
    settings: dict[str, Any],
    label_ids: dict[str, int],
) -> dict[str, Any]:
    """Count what there is. Nothing here depends on the machine or the time."""
    rate = settings["sample_rate_hz"]
    clips = [clip for result in results for clip in result.clips]
    per_label: Counter[str] = Counter(dict.fromkeys(label_ids, 0))
    split_clips: Counter[str] = Counter()
    split_samples: Counter[str] = Counter()
    for clip in clips:
        recording = kept[clip["recording"]].recording
        per_label.update(recording.names(FOREGROUND))
        split_clips[recording.split] += 1
        split_samples[recording.split] += clip["samples"]
    shas = Counter(item.pcm_sha1 for item in kept.values())
    reasons = Counter(item["reason"] for result in results for item in result.rejected)
    records = [item.recording for item in kept.values()]
    return {
        "format": 1,
        "name": settings["name"],
        "clips": len(clips),
        "recordings": len(kept),
        "hours": sum(split_samples.values()) / rate / 3600,
        "sample_rate_hz": rate,
        "codec": settings["codec"],
        "labels": len(label_ids),
        "splits": {
            split: {"clips": split_clips[split], "hours": split_samples[split] / rate / 3600}
            for split in sorted(split_clips)
        },
        "folds": dict(sorted(Counter(r.fold for r in records if r.fold is not None).items())),
        "groups": len({r.group_id for r in records}),
        "recordists": len({r.recordist for r in records if r.recordist}),
        "shards": sum(bool(result.clips) for result in results),
        "clips_per_label": dict(sorted(per_label.items())),
        "rejected": sum(reasons.values()),
        "rejected_reasons": dict(sorted(reasons.items())),
        "silent_pieces": sum(item.silent_pieces for item in kept.values()),
        "saturated_recordings": sum(item.saturated > 1e-3 for item in kept.values()),
        "same_audio_recordings": sum(count - 1 for count in shas.values()),
        "original_codecs": dict(sorted(Counter(r.codec for r in records).items())),
        "original_sample_rates_hz": {
            str(k): v for k, v in sorted(Counter(r.sample_rate_hz for r in records).items())
        },
        "original_channels": {
            str(k): v for k, v in sorted(Counter(r.channels for r in records).items())
        },
    }
