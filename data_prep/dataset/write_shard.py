"""One shard: decode its recordings, cut them into pieces, write the tar whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dawnchorus.data_prep.audio.decode import Original, decode
from dawnchorus.data_prep.audio.excerpts import decode_segment, segment_of
from dawnchorus.data_prep.audio.levels import NAMED_DB, check_levels, explain_loss
from dawnchorus.data_prep.audio.pcm import FULL_SCALE, Pcm
from dawnchorus.data_prep.audio.processes import decoding
from dawnchorus.data_prep.audio.trim import sounding
from dawnchorus.data_prep.dataset.clip_record import clip_record, index_facts
from dawnchorus.data_prep.dataset.event_clips import Cut, event_cuts
from dawnchorus.data_prep.dataset.plan import (
    ShardPlan,
    generator,
    members,
    shared_keys_of,
    sizes_of,
    spread,
)
from dawnchorus.data_prep.dataset.row_store import RowStore, file_size, hash64, key_stem
from dawnchorus.data_prep.errors import PrepError, UnusableAudio
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Recording
from dawnchorus.trainer.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dawnchorus.data_prep.dataset.options import BuildOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """All that a process needs to write one shard; it reads the recordings from the plan."""

    out: Path
    root: Path
    work: Path
    plan: Path
    shard: ShardPlan
    options: BuildOptions
    fingerprint: str = ""
    """Fingerprint of the plan, which the result states."""
    strong: bool = False
    """Whether recordings of the dataset have events."""


@dataclass(slots=True)
class ShardSummary:
    """The first line of a shard's result: what a run needs to continue the work."""

    shard: str
    sha256: str = ""
    bytes: int = 0
    clips: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """Of each: `recording` (its number in the table), `reason`, `detail`."""
    plan: str = ""
    """Fingerprint of the plan that it was written for."""
    weaker: list[dict[str, Any]] = field(default_factory=list)
    """Kept recordings that lost more than 20 dB in conversion: `recording`, `detail`."""


@dataclass(slots=True)
class ShardResult:
    """What a shard holds. `recording` numbers are row numbers of the recording table.

    `kept`: a dict per usable recording, with all that the index, the ledger and the stats need of
    it. `clips`: a dict per clip in the order of the tar.
    """

    summary: ShardSummary
    kept: list[dict[str, Any]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the result file; a shard counts as done when it is there."""
        summary = {name: getattr(self.summary, name) for name in ShardSummary.__slots__}
        with whole_file(path) as file:
            for part in (summary, self.kept, self.clips):
                file.write(json.dumps(part, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> ShardResult:
        """Read what `write` wrote."""
        summary, kept, clips = (json.loads(line) for line in path.read_bytes().splitlines())
        return cls(ShardSummary(**summary), kept, clips)


def read_summary(path: Path) -> ShardSummary | None:
    """Return the first line of a result, or None where there is no result."""
    try:
        with path.open("rb") as file:
            return ShardSummary(**json.loads(file.readline()))
    except FileNotFoundError:
        return None


class _Piece(NamedTuple):
    """An encoded piece that waits in the spool, with its record behind it, to go into the tar."""

    recording: int
    group: int
    labelled: bool
    key: str
    start: int
    samples: int
    spool_at: int
    size: int
    record_size: int
    facts: dict[str, Any]
    """`index_facts`."""


def piece_bounds(samples: int, max_samples: int) -> list[int]:
    """Return the bounds of the fewest pieces of equal length that are at most `max_samples` long.

    Equal, because clips are drawn with equal probability: 61 s as 60 + 1 would spend half the
    draws of that recording on one second of sound and nine of padding; 30.5 + 30.5 spends none.
    """
    count = max(1, -(-samples // max_samples))
    return [round(i * samples / count) for i in range(count + 1)]


def write_shard(task: ShardTask, advance: Callable[[float], None]) -> ShardSummary:
    """Write one shard and its result file; return the first line of that file.

    `advance` is called with the seconds of original audio after every recording. The tar is
    renamed into place when it is complete and on disk; the result file follows, so a shard
    counts as done exactly when its result file exists.
    """
    result = ShardResult(ShardSummary(task.shard.path, plan=task.fingerprint))
    pieces: list[_Piece] = []
    numbers = members(task.plan)[task.shard.start : task.shard.stop].tolist()
    shared_R = shared_keys_of(task.plan)
    planned_R = sizes_of(task.plan)
    with RowStore(task.plan) as rows, tempfile.TemporaryFile(dir=task.work) as spool:
        for number in numbers:
            recording = rows[number]
            if planned_R is not None:
                _refuse_changed(recording, int(planned_R[number]), task)
            stem = key_stem(recording, bool(shared_R[number]))
            try:
                pcm, original = _decode(recording, task)
                with pcm:
                    _check(pcm, original, task.options)
                    new, facts = _encode(pcm, number, recording, stem, task, spool)
            except UnusableAudio as err:
                result.summary.rejected.append(
                    {"recording": number, "reason": err.reason, "detail": err.detail}
                )
                continue
            pieces.extend(new)
            result.kept.append(_kept(number, recording, original, pcm) | facts)
            if original.levels.lost_db > NAMED_DB:
                text = explain_loss(original.levels, original.sample_rate_hz, task.options)
                result.summary.weaker.append({"recording": number, "detail": text})
            advance(original.duration_s)
        if pieces:
            _write_tar(task, pieces, spool, result)
    result.write(task.work / result_name(task.shard.path))
    return result.summary


def _refuse_changed(recording: Recording, planned: int, task: ShardTask) -> None:
    """Raise PrepError where a file is not the one that the shards were planned with."""
    now = file_size(task.root / recording.path) if recording.path else -1
    if now != planned:
        sizes = ["no file" if size < 0 else f"{size} bytes" for size in (planned, now)]
        raise PrepError(
            f"{recording.path} has changed since the shards were planned: {sizes[0]} then, "
            f"{sizes[1]} now. Restore it, or delete {task.out} to make the dataset anew."
        )


def _decode(recording: Recording, task: ShardTask) -> tuple[Pcm, Original]:
    if not recording.path:
        raise UnusableAudio("missing", f"not downloaded (`chorus prep download`): {recording.url}")
    path, options = task.root / recording.path, task.options
    as_asked = partial(
        decode, path, options.sample_rate_hz, spool_dir=task.work, max_hours=options.max_hours,
        channels=options.channels, exact=options.peak_dbfs is not None,
    )  # fmt: skip
    segment = segment_of(recording.id, recording.duration_s, recording.path)
    with decoding(recording.path, file_size(path), max_hours=options.max_hours):
        return decode_segment(segment, as_asked)


def _check(pcm: Pcm, original: Original, options: BuildOptions) -> None:
    """Raise UnusableAudio for recordings that the dataset must not hold; set the others' gain."""
    if original.duration_s < options.min_s:
        text = f"{original.duration_s:.4f} s, less than --min-s {options.min_s:g}"
        raise UnusableAudio("too_short", text)
    check_levels(original.levels, original.sample_rate_hz, original.fine, options)
    if options.peak_dbfs is not None:
        gain = float(10 ** (options.peak_dbfs / 20) * FULL_SCALE / pcm.peak)
        # As many digits as the table has: what it calls 0 dB are the unchanged samples.
        pcm.gain = gain if round(20 * float(np.log10(gain)), 3) else 1.0


def result_name(shard: str) -> str:
    """Return the name of a shard's result file in the work folder."""
    return shard.removesuffix(".tar").replace("/", "-") + ".json"


def _kept(number: int, recording: Recording, original: Original, pcm: Pcm) -> dict[str, Any]:
    """Return the values of a recording in the tables, without its pieces."""
    return {
        "recording": number,
        "id": recording.id,
        "group_id": recording.group_id,
        "fold": recording.fold,
        "foreground": recording.names(FOREGROUND),
        "background": recording.names(BACKGROUND),
        "licence_url": recording.licence_url,
        "recordist": recording.recordist,
        "attribution": recording.attribution,
        "sample_rate_hz": original.sample_rate_hz,
        "channels": original.channels,
        "codec": original.codec,
        "duration_s": round(original.duration_s, 6),
        "saturated": round(pcm.saturated / pcm.samples, 6),
        "level_dbfs": round(original.levels.level_dbfs, 2),
        "peak_dbfs": round(original.levels.peak_dbfs, 2),
        "mix_lost_db": round(original.levels.mix_lost_db, 2),
        "resample_lost_db": round(original.levels.resample_lost_db, 2),
        "pcm_sha1": pcm.sha1,
    }


def _encode(
    pcm: Pcm,
    number: int,
    recording: Recording,
    stem: str,
    task: ShardTask,
    spool: IO[bytes],
) -> tuple[list[_Piece], dict[str, Any]]:
    """Cut a recording, encode its pieces into the spool; return them, and what was left out."""
    options = task.options
    rate_hz = options.sample_rate_hz
    cuts, facts = _cuts(pcm, recording, options)
    group = hash64(recording.group_id)
    pieces = []
    for place, cut in enumerate(cuts):
        start, stop = cut.start, cut.stop
        pcm_T = pcm.read(start, stop)
        # A stretch of digital silence (a paused recorder) contains nothing that the labels name.
        if not pcm_T.any():
            continue
        data = encode(pcm_T, rate_hz, options.codec)
        key = f"{stem}_{place:04d}"
        place_in_recording = {
            "piece": place,
            "pieces": len(cuts),
            "start_s": start / rate_hz,
            "duration_s": (stop - start) / rate_hz,
            "sample_rate_hz": rate_hz,
        }
        record = clip_record(recording, key, cut, task.strong) | place_in_recording
        text = json.dumps(record, ensure_ascii=False).encode()
        at = spool.seek(0, os.SEEK_END)
        spool.write(data)
        spool.write(text)
        pieces.append(
            _Piece(
                number, group, bool(cut.labels and (cut.events or not task.strong)), key, start,
                stop - start, at, len(data), len(text), index_facts(cut),
            )
        )  # fmt: skip
    if not pieces and cuts:
        raise UnusableAudio("faint", "all of it rounds to zero in 16 bit: --peak-dbfs -1 keeps it")
    if not pieces:
        raise UnusableAudio("no_clip", "no window has a certain label, none is kept as a negative")
    if "strong" in facts:  # silent windows are left out
        facts["strong"]["negatives"] = sum(not piece.facts["foreground"] for piece in pieces)
    return pieces, facts | {
        "clips": len(pieces),
        "silent_pieces": len(cuts) - len(pieces),
        "gain_db": round(20 * float(np.log10(pcm.gain)), 3),
    }


def _cuts(
    pcm: Pcm, recording: Recording, options: BuildOptions
) -> tuple[list[Cut], dict[str, Any]]:
    """Return the parts of a recording that become clips, and facts about them."""
    rate_hz = options.sample_rate_hz
    if recording.events is not None:
        found, counts = event_cuts(recording, pcm.samples, options)
        return found, {"trimmed_s": 0.0, "strong": asdict(counts)}
    stretches = sounding(pcm, options.trim_silence_s, options.trim_below_db)
    cuts = []
    for first, last in stretches:
        bounds = piece_bounds(last - first, int(options.max_piece_s * rate_hz))
        cuts += [Cut(first + a, first + b, recording.labels) for a, b in pairwise(bounds)]
    left_out = pcm.samples - sum(b - a for a, b in stretches)
    return cuts, {"trimmed_s": round(left_out / rate_hz, 6)}


def encode(pcm_T: NDArray[np.int16], sample_rate_hz: int, codec: str) -> bytes:
    """Encode mono int16 as the bytes of a FLAC (level 5) or WAV file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm_T, sample_rate_hz, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


class _Hashed:
    """A file that computes the digest of its bytes while it is written from front to back."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


def _write_tar(
    task: ShardTask, pieces: list[_Piece], spool: IO[bytes], result: ShardResult
) -> None:
    """Write the pieces to the tar, those of one group and one recording far apart."""
    rng = generator(task.options.seed, task.shard.path)
    order_N = spread(np.array([piece.group for piece in pieces], np.uint64), rng)
    target = task.out / task.shard.path
    target.parent.mkdir(parents=True, exist_ok=True)
    codec, rate_hz = task.options.codec, task.options.sample_rate_hz
    with whole_file(target) as file:
        hashed = _Hashed(file)
        with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for piece in _labelled_first([pieces[k] for k in order_N.tolist()]):
                spool.seek(piece.spool_at)
                offset = _add(tar, f"{piece.key}.{codec}", spool.read(piece.size))
                _add(tar, f"{piece.key}.json", spool.read(piece.record_size))
                tar.members.clear()  # tarfile remembers every header it wrote
                result.clips.append(
                    {
                        "recording": piece.recording,
                        "key": piece.key,
                        "offset": offset,
                        "size": piece.size,
                        "samples": piece.samples,
                        "start_s": piece.start / rate_hz,
                    }
                    | piece.facts
                )
    result.summary.sha256 = hashed.digest.hexdigest()
    result.summary.bytes = hashed.size
    result.summary.clips = len(result.clips)


def _labelled_first(pieces: list[_Piece]) -> list[_Piece]:
    """Move one labelled piece (with events, where there are any) to the front.

    `datasets` takes the types of all columns from the first members it sees, and an empty list
    tells it nothing about labels that come later.
    """
    for k, piece in enumerate(pieces):
        if piece.labelled:
            return [piece, *pieces[:k], *pieces[k + 1 :]]
    return pieces


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member without traces of the machine or the time; return the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
