"""One shard: decode its recordings, cut them into pieces, write the tar whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from data_prep.audio import Original, Pcm, decode
from data_prep.errors import UnusableAudio
from data_prep.plan import generator, spread
from data_prep.recordings import FOREGROUND, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """All that a process needs to write one shard."""

    out: Path
    root: Path
    work: Path
    shard: str
    seed: int
    codec: str
    sample_rate_hz: int
    max_piece_s: float
    max_hours: float
    recordings: tuple[Recording, ...]
    members: tuple[int, ...]
    stems: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class ShardResult:
    """What a shard holds. `recording` numbers are places in the recording table."""

    shard: str
    clips: list[dict[str, Any]] = field(default_factory=list)
    originals: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Serialise, in a fixed form."""
        return json.dumps(
            {
                "shard": self.shard,
                "clips": self.clips,
                "originals": self.originals,
                "rejected": self.rejected,
            },
            ensure_ascii=False,
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ShardResult:
        """Read what `to_json` wrote."""
        return cls(**json.loads(data))


@dataclass(slots=True)
class _Piece:
    """An encoded piece that lies in the spool until its turn in the tar comes."""

    member: int
    number: int
    pieces: int
    start: int
    samples: int
    spool_at: int
    size: int


def piece_bounds(samples: int, max_samples: int) -> list[int]:
    """Return the bounds of the fewest pieces of equal length that are at most `max_samples` long.

    Equal, because clips are drawn with equal probability: 61 s as 60 + 1 would spend half the
    draws of that recording on one second of sound and nine of padding; 30.5 + 30.5 spends none.
    """
    count = max(1, -(-samples // max_samples))
    return [round(i * samples / count) for i in range(count + 1)]


def write_shard(task: ShardTask, advance: Callable[[float], None]) -> ShardResult:
    """Write one shard and the file that says what is in it; return the latter.

    `advance` is called with the seconds of original audio after every recording. The tar is
    renamed into place when it is complete and on disk; the result file follows, so a shard
    counts as done exactly when its result file exists.
    """
    result = ShardResult(task.shard)
    pieces: list[_Piece] = []
    with tempfile.TemporaryFile(dir=task.work) as spool:
        for i, recording in enumerate(task.recordings):
            path = task.root / recording.path
            try:
                pcm, original = decode(
                    path,
                    task.sample_rate_hz,
                    spool_dir=task.work,
                    max_hours=task.max_hours,
                )
            except UnusableAudio as err:
                result.rejected.append(
                    {"recording": task.members[i], "reason": err.reason, "detail": err.detail}
                )
                continue
            with pcm:
                new = list(_encode(pcm, i, task, spool))
                pieces.extend(new)
                silent = new[0].pieces - len(new)
                result.originals.append(_original(task.members[i], original, pcm, len(new), silent))
            advance(original.duration_s)
        if pieces:
            _write_tar(task, pieces, spool, result)
    write_whole(task.work / result_name(task.shard), result.to_json())
    return result


def result_name(shard: str) -> str:
    """Return the name of a shard's result file in the work folder."""
    return shard.removesuffix(".tar").replace("/", "-") + ".json"


def _original(
    number: int, original: Original, pcm: Pcm, clips: int, silent_pieces: int
) -> dict[str, Any]:
    return {
        "recording": number,
        "sample_rate_hz": original.sample_rate_hz,
        "channels": original.channels,
        "codec": original.codec,
        "duration_s": round(original.duration_s, 6),
        "clips": clips,
        "silent_pieces": silent_pieces,
        "saturated": round(pcm.saturated / pcm.samples, 6),
        "pcm_sha1": pcm.sha1,
    }


def _encode(pcm: Pcm, member: int, task: ShardTask, spool: IO[bytes]) -> Iterator[_Piece]:
    """Cut a recording, encode its pieces into the spool."""
    bounds = piece_bounds(pcm.samples, int(task.max_piece_s * task.sample_rate_hz))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        pcm_T = pcm.read(start, stop)
        # A stretch of digital silence (a paused recorder) has nothing of what the labels promise.
        if not pcm_T.any():
            continue
        data = encode(pcm_T, task.sample_rate_hz, task.codec)
        at = spool.seek(0, os.SEEK_END)
        spool.write(data)
        yield _Piece(member, number, len(bounds) - 1, start, stop - start, at, len(data))


def encode(pcm_T: NDArray[np.int16], sample_rate_hz: int, codec: str) -> bytes:
    """Encode mono int16 as the bytes of a FLAC (level 5) or WAV file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm_T, sample_rate_hz, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _write_tar(
    task: ShardTask, pieces: list[_Piece], spool: IO[bytes], result: ShardResult
) -> None:
    """Write the pieces to the tar, those of one group and one recording far apart."""
    rng = generator(task.seed, task.shard)
    order = spread([task.recordings[piece.member].group_id for piece in pieces], rng)
    ordered = _labelled_first([pieces[k] for k in order], task)
    target = task.out / task.shard
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(target) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for piece in ordered:
            key = f"{task.stems[piece.member]}_{piece.number:04d}"
            spool.seek(piece.spool_at)
            offset = _add(tar, f"{key}.{task.codec}", spool.read(piece.size))
            record = clip_record(task.recordings[piece.member], key, piece, task.sample_rate_hz)
            _add(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
            result.clips.append(
                {
                    "recording": task.members[piece.member],
                    "key": key,
                    "offset": offset,
                    "size": piece.size,
                    "samples": piece.samples,
                    "start_s": piece.start / task.sample_rate_hz,
                }
            )


def _labelled_first(pieces: list[_Piece], task: ShardTask) -> list[_Piece]:
    """Move one labelled piece to the front where the first has no labels.

    `datasets` takes the types of all columns from the first members it sees, and an empty list
    tells it nothing about labels that come later.
    """
    for k, piece in enumerate(pieces):
        if task.recordings[piece.member].labels:
            return [piece, *pieces[:k], *pieces[k + 1 :]]
    return pieces


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member that says nothing of the machine or the time; return where its data is."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def clip_record(
    recording: Recording, key: str, piece: _Piece, sample_rate_hz: int
) -> dict[str, Any]:
    """Return the JSON member of a clip.

    Every value has one type throughout a dataset ("" where nothing is known, never null), because
    readers that build a table guess the types from the first few clips.
    """
    return {
        "key": key,
        "id": recording.id,
        "source": recording.source,
        "source_id": recording.source_id,
        "url": recording.url,
        "licence_url": recording.licence_url,
        "attribution": recording.attribution,
        "recordist": recording.recordist,
        "labels": [
            {
                "name": label.name,
                "rank": label.rank,
                "role": label.role,
                "taxonomy": label.taxonomy,
            }
            for label in sorted(recording.labels, key=lambda item: item.role != FOREGROUND)
        ],
        "quality": recording.quality,
        "sound_type": recording.sound_type,
        "datetime": recording.datetime,
        "lat": "" if recording.lat is None else str(recording.lat),
        "lon": "" if recording.lon is None else str(recording.lon),
        "group_id": recording.group_id,
        "split": recording.split,
        "fold": recording.fold or "",
        "piece": piece.number,
        "pieces": piece.pieces,
        "start_s": piece.start / sample_rate_hz,
        "duration_s": piece.samples / sample_rate_hz,
        "sample_rate_hz": sample_rate_hz,
    }


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is complete and on disk."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_whole(target: Path, data: bytes) -> None:
    """Write bytes to a file that is there whole or not at all."""
    with whole_file(target) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse this; the data itself is on disk
    finally:
        os.close(descriptor)
