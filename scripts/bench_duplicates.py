"""Measures how well and how fast copies of a sound are found (figures: docs/archives/select.md).

    python scripts/bench_duplicates.py accuracy FOLDER [--every 1] [--hard]
    python scripts/bench_duplicates.py scale FOLDER [FOLDER ...] --clips 20000 --work DIR

`accuracy` encodes every file of a folder anew in several ways and looks for all pairs. `scale`
makes distinct clips out of real sound (cut, mixed, resampled, filtered) and a tenth of copies.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dawnchorus.data_prep.select.evaluation import SUFFIXES
from dawnchorus.data_prep.select.same_sound import find_same
from dawnchorus.data_prep.select.sound import Audio, take_prints
from dawnchorus.trainer.progress import Progress

Wave = npt.NDArray[np.float32]
MAX_S = 600.0


def encode_av(
    wav_T: Wave, rate_hz: int, path: Path, *, codec: str, container: str, bit_rate: int, to_hz: int
) -> None:
    """Encode mono with FFmpeg at a bit rate."""
    import av
    import soxr

    if to_hz != rate_hz:
        wav_T = soxr.resample(wav_T, rate_hz, to_hz)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=to_hz, layout="mono")
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name, layout="mono", rate=to_hz
        )
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wav_T[None, :], np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = to_hz
        fifo = av.AudioFifo()
        for part in resampler.resample(frame):
            part.pts = None
            fifo.write(part)
        size = stream.codec_context.frame_size or 1024
        while fifo.samples:
            piece = fifo.read(min(size, fifo.samples))
            for packet in stream.encode(piece):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)


def _av(codec: str, container: str, bit_rate: int, to_hz: int) -> Callable[..., None]:
    def write(wav_T: Wave, rate_hz: int, path: Path) -> None:
        encode_av(wav_T, rate_hz, path, codec=codec, container=container, bit_rate=bit_rate,
                  to_hz=to_hz)  # fmt: skip

    return write


def _wav(change: Callable[[Wave, int], Wave], to_hz: int = 0) -> Callable[..., None]:
    def write(wav_T: Wave, rate_hz: int, path: Path) -> None:
        import soundfile
        import soxr

        wav_T = change(wav_T, rate_hz)
        if to_hz and to_hz != rate_hz:
            wav_T = soxr.resample(wav_T, rate_hz, to_hz)
        soundfile.write(path, wav_T, to_hz or rate_hz, format="WAV")

    return write


def _delay(seconds: float) -> Callable[[Wave, int], Wave]:
    def change(wav_T: Wave, rate_hz: int) -> Wave:
        n = int(seconds * rate_hz)
        return np.concatenate([np.zeros(n, np.float32), wav_T[:-n]])

    return change


ASKED = {
    "mp3 64k": _av("libmp3lame", "mp3", 64000, 44100),
    "opus 24k": _av("libopus", "ogg", 24000, 48000),
    "22.05 kHz": _wav(lambda x, _: x, 22050),
    "-12 dB": _wav(lambda x, _: x * np.float32(10 ** (-12 / 20))),
    "50 ms later": _wav(_delay(0.05)),
}
HARD = {
    "100 ms cut off": _wav(lambda x, rate: x[int(0.1 * rate) :]),
    "mp3 32k": _av("libmp3lame", "mp3", 32000, 22050),
    "opus 12k": _av("libopus", "ogg", 12000, 48000),
    "aac 32k": _av("aac", "adts", 32000, 44100),
    "wma 48k": _av("wmav2", "asf", 48000, 44100),
    "100 ms later, -20 dB, 11.025 kHz": _wav(lambda x, r: _delay(0.1)(x, r) * 0.1, 11025),
    "noise at 20 dB": _wav(
        lambda x, _: x + 0.1 * x.std() * np.random.default_rng(0).standard_normal(
            x.size).astype(np.float32)
    ),
}  # fmt: skip


def read(path: Path) -> tuple[Wave, int]:
    """Decode a file, mean of its channels."""
    import soundfile

    wav_TC, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return wav_TC.mean(1), rate_hz


def sounds(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def accuracy(folder: Path, every: int, hard: bool, jobs: int) -> dict[str, Any]:
    """Encode the files, find pairs, and compare them with the known pairs."""
    ways = ASKED | (HARD if hard else {})
    clips: list[tuple[int, str, Path]] = []
    originals = sounds(folder)[::every]
    with tempfile.TemporaryDirectory() as work:
        for i, path in enumerate(originals):
            clips.append((i, "original", path))
            wav_T, rate_hz = read(path)
            for k, (name, write) in enumerate(ways.items()):
                copy = Path(work) / f"{i}-{k}"
                write(wav_T, rate_hz, copy)
                clips.append((i, name, copy))
        paths = [path for _, _, path in clips]
        found, reasons, length_s = _find(paths, Path(work) / "cache", jobs)
    readable = [not reason for reason in reasons]
    result: dict[str, Any] = {"originals": len(originals), "clips": len(clips)}
    result["unreadable"] = len(clips) - sum(readable)
    # This is the default of `chorus prep select`: half of the shorter clip is the same.
    near = {
        (a, b) for a, b, m in found if m.overlap_s * m.shared >= 0.5 * min(length_s[a], length_s[b])
    }
    whole = {p for p in near if clips[p[0]][0] == clips[p[1]][0]}
    for name in ways:
        pairs = [
            (i * (len(ways) + 1), i * (len(ways) + 1) + 1 + list(ways).index(name))
            for i in range(len(originals))
        ]
        pairs = [p for p in pairs if readable[p[0]] and readable[p[1]]]
        hits = sum(p in whole for p in pairs)
        result[f"recall, {name}"] = f"{hits}/{len(pairs)}"
    others = Counter(
        tuple(sorted((clips[a][0], clips[b][0]))) for a, b in near if clips[a][0] != clips[b][0]
    )
    result["pairs found"], result["of other clips"] = len(near), sum(others.values())
    pairs_of_one = len(originals) * len(ways) * (len(ways) + 1) // 2
    result["recall, all pairs of one sound"] = f"{len(whole)}/{pairs_of_one}"
    result["precision"] = round(len(whole) / max(1, len(near)), 5)
    result["other clips"] = [
        f"{originals[a].name} = {originals[b].name}: {n} pairs" for (a, b), n in others.items()
    ]
    parts = {
        tuple(sorted((clips[a][0], clips[b][0])))
        for a, b, _ in found
        if (a, b) not in near and clips[a][0] != clips[b][0]
    }
    result["clips that share a part"] = [
        f"{originals[a].name} ~ {originals[b].name}" for a, b in sorted(parts)
    ]
    return result


def _find(
    paths: list[Path], cache: Path, jobs: int, times: dict[str, float] | None = None
) -> tuple[list[tuple[int, int, Any]], list[str], npt.NDArray[np.float64]]:
    audios = [Audio(str(path)) for path in paths]
    marks = [time.perf_counter()]
    prints = take_prints(audios, cache, max_s=MAX_S, jobs=jobs, progress=Progress())
    marks.append(time.perf_counter())
    vectors = prints.vectors()
    same = find_same(audios, vectors, prints.duration_s_R, cache, jobs=jobs, progress=Progress())
    marks.append(time.perf_counter())
    if times is not None:
        times |= dict(zip(("fingerprints_s", "pairs_s"), np.diff(marks).round(1), strict=True))
        compared = sum(len(pl.read_parquet(f, columns=["key"])) for f in cache.glob("*-pairs/*"))
        times |= {"vectors": len(vectors.at_V), "pairs_compared": compared}
    return same, prints.reason_R, prints.duration_s_R


Source = tuple[int, float]


def synthetic(pool: list[Wave], count: int, seconds: float) -> Iterator[tuple[list[Source], Wave]]:
    """Yield (sources, 16 kHz clip); every tenth clip is a copy of the one before.

    A clip is two pieces of real sound at other speeds, one over the other, through a random filter.
    """
    import soxr

    rng = np.random.default_rng(0)
    size = int(seconds * 16000)

    def piece() -> tuple[Source, Wave]:
        source = int(rng.integers(len(pool)))
        speed = rng.uniform(0.7, 1.4)
        need = int(size * speed) + 32
        start = int(rng.integers(max(1, pool[source].size - need)))
        cut_T = np.resize(pool[source][start : start + need], need)
        wav_T = np.asarray(soxr.resample(cut_T, 16000 * speed, 16000)[:size], np.float32)
        return (source, speed), wav_T

    one, wav_T = piece()
    made_of = [one]
    for i in range(count):
        if i % 10 == 9:
            n = int(rng.integers(1, 1600))
            copy_T = np.concatenate([np.zeros(n, np.float32), wav_T[:-n]]) * rng.uniform(0.2, 1)
            noise_T = rng.standard_normal(size) * 0.02 * copy_T.std()
            yield made_of, (copy_T + noise_T).astype(np.float32)
            continue
        (one, wav_T), (two, other_T) = piece(), piece()
        made_of = [one, two]
        wav_T = wav_T + rng.uniform(0.3, 1) * other_T
        wav_T = np.convolve(wav_T, rng.standard_normal(8).astype(np.float32))[:size]
        wav_T = (wav_T * (0.3 / (np.abs(wav_T).max() + 1e-6))).astype(np.float32)
        yield made_of, wav_T


def related(one: list[Source], two: list[Source]) -> bool:
    """Whether two clips share a piece of a recording at nearly the same speed (a few do)."""
    return any(a == b and abs(x - y) < 0.02 for a, x in one for b, y in two)


def scale(folders: list[Path], count: int, work: Path, jobs: int) -> dict[str, Any]:
    """Measure time and memory on `count` clips of 5 s."""
    import soundfile
    import soxr

    audio = work / f"clips-{count}"
    audio.mkdir(parents=True, exist_ok=True)
    paths = [audio / f"{i:06d}.wav" for i in range(count)]
    truth = {i: i - 1 for i in range(9, count, 10)}
    if not paths[-1].exists():
        pool = []
        for path in (p for folder in folders for p in sounds(folder)):
            wav_T, rate_hz = read(path)
            pool.append(soxr.resample(wav_T, rate_hz, 16000)[: 20 * 16000])
        made_of = []
        for path, (sources, wav_T) in zip(paths, synthetic(pool, count, 5.0), strict=True):
            made_of.append(sources)
            soundfile.write(path, wav_T, 16000, subtype="PCM_16")
        (audio / "made_of.json").write_text(json.dumps(made_of))
    made_of = json.loads((audio / "made_of.json").read_text())
    result: dict[str, Any] = {"clips": count, "jobs": jobs or "all"}
    found, _, _ = _find(paths, work / f"cache-{count}", jobs, result)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result["cpu_s"] = round(sum(u.ru_utime + u.ru_stime for u in usage), 1)
    pairs = {(a, b) for a, b, _ in found}
    hits = sum((b, a) in pairs for a, b in truth.items())
    result["copies found"] = f"{hits}/{len(truth)}"
    others = [p for p in pairs if truth.get(p[1]) != p[0]]
    kin = sum(related(made_of[a], made_of[b]) for a, b in others)
    result["pairs with a piece in common"], result["other pairs"] = kin, len(others) - kin
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("accuracy")
    one.add_argument("folder", type=Path)
    one.add_argument("--every", type=int, default=1)
    one.add_argument("--hard", action="store_true")
    two = commands.add_parser("scale")
    two.add_argument("folders", type=Path, nargs="+")
    two.add_argument("--clips", type=int, default=20000)
    two.add_argument("--work", type=Path, required=True)
    for command in (one, two):
        command.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.command == "accuracy":
        result = accuracy(given.folder, given.every, given.hard, given.jobs)
    else:
        result = scale(given.folders, given.clips, given.work, given.jobs)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
