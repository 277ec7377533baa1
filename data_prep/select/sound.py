"""Fingerprints of many files, kept on disk, and the comparison of the pairs they propose.

Shapes: R recordings, V vectors, P pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dawnchorus.data_prep.audio.excerpts import Segment, decode_segment
from dawnchorus.data_prep.audio.processes import decoding, each
from dawnchorus.data_prep.audio.seek import read_excerpt
from dawnchorus.data_prep.dataset.row_store import file_size
from dawnchorus.data_prep.errors import UnusableAudio
from dawnchorus.data_prep.select import fingerprints
from dawnchorus.data_prep.select.compare import NOTHING, Match, compare
from dawnchorus.data_prep.select.fingerprints import DIMENSIONS, RATE_HZ, STEP_S
from dawnchorus.data_prep.select.neighbours import Candidates, Vectors
from dawnchorus.data_prep.select.pieces import Parts

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from dawnchorus.trainer.progress import Bar, Progress

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
WHOLE_S = 20.0  # recordings up to here are compared as a whole
AROUND_S = 8.0  # of longer ones: this much before and after the places that are alike
# First this much: the windows that are alike are 4 s long, and lie within 1 s of each other.
GLANCE_S = 3.0
GLANCE_SCORE = 0.2  # copies reach 0.6 there, other pairs seldom this
_FILES, _PAIRS = 8, 32  # per task of a process


@dataclass(frozen=True, slots=True)
class Audio:
    """Where a sound lies: a file, or `size` bytes from `offset` on in one (a member of a tar)."""

    path: str
    offset: int = 0
    size: int = 0
    segment: Segment | None = None
    """Which part of the video it is, where the file may hold the whole."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.path}, byte {self.offset}" if self.size else self.path

    def key(self) -> bytes:
        """Return a digest that changes with the file (name, offset, size, time); b"" where there is
        no file.
        """
        try:
            stat = Path(self.path).stat()
        except OSError:
            return b""
        text = f"{self.path}\0{self.offset}\0{self.size}\0{stat.st_size}\0{stat.st_mtime_ns}"
        if self.segment:
            text += f"\0{self.segment.start_s}\0{self.segment.end_s}"
        return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Give a file that holds this sound alone."""
        if not self.size:
            yield Path(self.path)
            return
        with tempfile.NamedTemporaryFile() as part:
            try:
                with Path(self.path).open("rb") as file:
                    file.seek(self.offset)
                    part.write(file.read(self.size))
            except OSError as err:
                raise UnusableAudio("unreadable", f"{err.strerror or err}") from err
            part.flush()
            yield Path(part.name)


@dataclass(frozen=True, slots=True)
class Prints:
    """The fingerprints of R recordings. `reason_R` is "" where the sound could be read.

    The vectors stay on disk until they are asked for: at a million recordings they are gigabytes.
    """

    pcm_sha1_R: list[str]
    duration_s_R: NDArray[np.float64]
    reason_R: list[str]
    detail_R: list[str]
    keys: list[bytes]
    folder: Path

    def vectors(self, use_R: NDArray[np.bool_] | None = None) -> Vectors:
        """Return the vectors of all or some recordings, mapped from a file that goes with them."""
        use_R = np.ones(len(self.keys), bool) if use_R is None else use_R
        return _gather_vectors(self.folder, self.keys, use_R)


def _print_schema() -> pa.Schema:
    import pyarrow as pa

    text, data = pa.string(), pa.binary()
    return pa.schema(
        [("key", data), ("pcm_sha1", text), ("duration_s", pa.float64()), ("reason", text),
         ("detail", text), ("at", data), ("vectors", data)]
    )  # fmt: skip


def take_prints(
    audios: Sequence[Audio], cache: Path, *, max_s: float, jobs: int, progress: Progress
) -> Prints:
    """Return the fingerprints of all sounds, from the cache where they are there already.

    Files that are missing or broken have a reason, as `data_prep.audio.decode` names them. A run
    that was stopped goes on where it was.
    """
    folder = cache / f"v{fingerprints.VERSION}-{max_s:g}s"
    with Parts(folder / "prints", _print_schema()) as parts:
        keys = [audio.key() for audio in audios]
        done = set(parts.read(["key"])["key"].to_list())
        todo = {key: audio for key, audio in zip(keys, audios, strict=True) if key not in done}
        todo.pop(b"", None)
        tasks = _chunks(list(todo.items()), _FILES)
        took = functools.partial(_take, max_s=max_s)
        with progress.files(len(todo), "fingerprints") as bar:
            log = folder / "decoder.log"
            work = each(took, tasks, jobs=jobs, log=log, say=progress.say)
            _keep(work, parts, bar, f"{len(done):,} known")
    return _gather(parts, keys)


def _stored(folder: Path) -> Parts:
    return Parts(folder, _print_schema())


def _keep(
    work: Generator[list[dict[str, Any]], None, None], parts: Parts, bar: Bar, note: str
) -> None:
    """Keep the rows as they come."""
    count = 0
    with closing(work):
        for rows in work:
            for row in rows:
                parts.add(row)
            count += len(rows)
            bar.update(count, note)


def _take(items: Sequence[tuple[bytes, Audio]], *, max_s: float) -> list[dict[str, Any]]:
    """Fingerprint some files (in a process of the pool)."""
    rows: list[dict[str, Any]] = []
    for key, audio in items:
        row: dict[str, Any] = {"key": key, "reason": "", "detail": "", "pcm_sha1": ""}
        try:
            with audio.file() as path, decoding(audio.name, file_size(path)):
                found = fingerprints.fingerprint_file(path, max_s=max_s, segment=audio.segment)
            row |= {"pcm_sha1": found.pcm_sha1, "duration_s": found.duration_s}
            row |= {"at": found.at_V.tobytes(), "vectors": found.vector_VD.tobytes()}
        except UnusableAudio as err:
            row |= {"reason": err.reason, "detail": err.detail, "duration_s": 0.0}
            row |= {"at": b"", "vectors": b""}
        rows.append(row)
    return rows


def _gather(parts: Parts, keys: Sequence[bytes]) -> Prints:
    """Put the rows of the cache into the order of the recordings."""
    import polars as pl

    wanted = pl.DataFrame({"key": pl.Series(keys, dtype=pl.Binary)}).with_row_index("owner")
    names = ["key", "pcm_sha1", "duration_s", "reason", "detail"]
    stored = parts.read(names).unique("key", keep="first", maintain_order=True)
    frame = wanted.join(stored, on="key", how="left", maintain_order="left").with_columns(
        pl.col("reason").fill_null("missing"),
        pl.col("detail").fill_null("no such file"),
        pl.col("pcm_sha1").fill_null(""),
        pl.col("duration_s").fill_null(0.0),
    )
    return Prints(
        frame["pcm_sha1"].to_list(),
        frame["duration_s"].to_numpy(),
        frame["reason"].to_list(),
        frame["detail"].to_list(),
        list(keys),
        parts.folder,
    )


def _gather_vectors(folder: Path, keys: Sequence[bytes], use_R: NDArray[np.bool_]) -> Vectors:
    """Write the vectors of some recordings one after the other into a file, and map it.

    The cache is read a file at a time, twice: how many each has, then where they belong. The file
    has no name, so it goes with the last one who looks at it.
    """
    parts = _stored(folder)
    place: dict[bytes, list[int]] = defaultdict(list)  # two rows may name one file
    for r in np.flatnonzero(use_R).tolist():
        place[keys[r]].append(r)
    count_R = np.zeros(len(keys), np.int64)
    for frame in parts.each(["key", "at"]):
        for key, at in frame.iter_rows():
            count_R[place.get(key, [])] = len(at) // 4
    start_R = np.cumsum(count_R) - count_R
    total = int(count_R.sum())
    at_V = np.zeros(total, np.int32)
    owner_V = np.repeat(np.arange(len(keys)), count_R)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(max(1, 2 * DIMENSIONS * total))
        vector_VD = np.memmap(file, np.float16, "r+", shape=(total, DIMENSIONS)) if total else (
            np.zeros((0, DIMENSIONS), np.float16)
        )  # fmt: skip
    for frame in parts.each(["key", "at", "vectors"]):
        for key, at, vectors in frame.iter_rows():
            for r in place.get(key, ()):
                here = slice(int(start_R[r]), int(start_R[r] + count_R[r]))
                at_V[here] = np.frombuffer(at, np.int32)
                vector_VD[here] = np.frombuffer(vectors, np.float16).reshape(-1, DIMENSIONS)
    return Vectors(vector_VD, owner_V, at_V)


# ----------------------------------------------------------------------------- comparing pairs


def _match_schema() -> pa.Schema:
    import pyarrow as pa

    names = [field.name for field in dataclasses.fields(Match)]
    return pa.schema([("key", pa.binary()), *((name, pa.float64()) for name in names)])


def compare_pairs(
    audios: Sequence[Audio],
    pairs: Candidates,
    durations_s: NDArray[np.float64],
    cache: Path,
    *,
    jobs: int,
    progress: Progress,
) -> list[Match]:
    """Return the match of every candidate pair, in order, from the cache where it is known."""
    folder = cache / f"v{fingerprints.VERSION}-pairs"
    names = {r: audios[r].key() for r in {*pairs.a_P.tolist(), *pairs.b_P.tolist()}}
    rows = list(zip(*(c.tolist() for c in (pairs.a_P, pairs.b_P, pairs.at_a_P, pairs.at_b_P)),
                    strict=True))  # fmt: skip
    keys = [_pair_key(names[a], names[b], i, j) for a, b, i, j in rows]
    tasks_of: list[_Pair] = []
    with Parts(folder, _match_schema()) as parts:
        done = set(parts.read(["key"])["key"].to_list())
        for key, (a, b, i, j) in zip(keys, rows, strict=True):
            if key not in done:
                lengths = (float(durations_s[a]), float(durations_s[b]))
                tasks_of.append(_Pair(key, audios[a], audios[b], i * STEP_S, j * STEP_S, lengths))
        tasks = _chunks(tasks_of, _PAIRS)
        with progress.files(len(tasks_of), "comparing pairs") as bar:
            log = cache / "decoder.log"
            work = each(_compare, tasks, jobs=jobs, log=log, say=progress.say)
            _keep(work, parts, bar, f"{len(done):,} known")
    known = {row[0]: Match(*row[1:]) for row in parts.read(_match_schema().names).iter_rows()}
    return [known[key] for key in keys]


@dataclass(frozen=True, slots=True)
class _Pair:
    key: bytes
    a: Audio
    b: Audio
    at_a_s: float
    at_b_s: float
    lengths_s: tuple[float, float]


def _pair_key(a: bytes, b: bytes, at_a: int, at_b: int) -> bytes:
    return hashlib.blake2b(a + b + f"{at_a},{at_b}".encode(), digest_size=16).digest()


def _compare(pairs: Sequence[_Pair]) -> list[dict[str, Any]]:
    """Compare some pairs (in a process of the pool)."""
    rows = []
    for pair in pairs:
        rows.append({"key": pair.key} | dataclasses.asdict(_match(pair)))
    _piece.cache_clear()
    return rows


def _match(pair: _Pair) -> Match:
    try:
        if max(pair.lengths_s) > 2 * GLANCE_S:
            _, a_T = _excerpt(pair.a, pair.lengths_s[0], pair.at_a_s, GLANCE_S)
            _, b_T = _excerpt(pair.b, pair.lengths_s[1], pair.at_b_s, GLANCE_S)
            glance = compare(a_T, b_T)
            if glance.score < GLANCE_SCORE:
                return dataclasses.replace(NOTHING, score=glance.score)
        from_a_s, a_T = _excerpt(pair.a, pair.lengths_s[0], pair.at_a_s)
        from_b_s, b_T = _excerpt(pair.b, pair.lengths_s[1], pair.at_b_s)
    except UnusableAudio:  # read once, gone now
        return NOTHING
    match = compare(a_T, b_T)
    lag_s = match.lag_s + from_a_s - from_b_s
    # Of long recordings only an excerpt was compared; how far they lie over each other follows.
    overlap_s = min(pair.lengths_s[0], lag_s + pair.lengths_s[1]) - max(0.0, lag_s)
    return dataclasses.replace(match, lag_s=lag_s, overlap_s=max(match.overlap_s, overlap_s))


def _excerpt(
    audio: Audio, length_s: float, at_s: float, around_s: float = 0.0
) -> tuple[float, NDArray[np.int16]]:
    """Return (where it begins, samples) of what is compared.

    `around_s` 0: all of a short recording, else AROUND_S before and after `at_s`. A short recording
    is decoded whole in any case, and kept.
    """
    start_s = max(0.0, at_s - (around_s or AROUND_S))
    start, stop = int(start_s * RATE_HZ), int((at_s + (around_s or AROUND_S)) * RATE_HZ)
    if length_s > WHOLE_S:
        return start_s, _piece(audio, start, stop)
    whole_T = _piece(audio, 0, int(WHOLE_S * RATE_HZ) + RATE_HZ)
    return (start_s, whole_T[start:stop]) if around_s else (0.0, whole_T)


@functools.lru_cache(maxsize=64)
def _piece(audio: Audio, start: int, stop: int) -> NDArray[np.int16]:
    from dawnchorus.data_prep.audio.decode import decode

    with audio.file() as path, decoding(audio.name, file_size(path)):
        if audio.segment is None:
            return read_excerpt(path, RATE_HZ, start, stop)
        pcm, _ = decode_segment(audio.segment, functools.partial(decode, path, RATE_HZ))
    with pcm:
        return pcm.read(start, min(stop, pcm.samples))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))
