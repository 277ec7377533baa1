"""The data path against bare decoding of the same bytes: `python -m scripts.bench.data`.

All sound is made from a seed in a temporary folder and read from the page cache, so this measures
processing, not a disk. Compared things alternate; each ratio is taken within one round.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scripts.bench import Report, figure, print_table

RATE_HZ = 16000
WINDOW_S = 10
ROUNDS = 9
CLIPS = 96
BATCH = 32


def bird_sound(
    rng: np.random.Generator, seconds: float, rate_hz: int = RATE_HZ
) -> npt.NDArray[np.int16]:
    """Chirps over a background: compresses about as well as field recordings (0.54)."""
    time_T = np.arange(round(seconds * rate_hz)) / rate_hz
    wav_T = 80 * (1 + np.sin(time_T / 2)) * rng.standard_normal(time_T.size)
    for second in range(int(seconds)):
        begin = second * rate_hz + int(rng.integers(0, 8000))
        part_T = time_T[begin : begin + int(rng.integers(1000, 8000))]
        phase = 2 * np.pi * rng.uniform(800, 7000) * part_T + 20 * np.sin(2 * np.pi * 9 * part_T)
        wav_T[begin : begin + part_T.size] += 3000 * np.sin(phase)
    return np.clip(wav_T, -32768, 32767).astype(np.int16)


def write_dataset(
    root: Path,
    wavs: list[npt.NDArray[np.int16]],
    codec: str,
    classes: int = 1,
    rate_hz: int = RATE_HZ,
) -> Path:
    """One shard with these clips, and its index; each clip has one of `classes` labels."""
    import soundfile as sf

    (root / "train").mkdir(parents=True)
    rows = []
    with tarfile.open(root / "train/000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, wav_T in enumerate(wavs):
            buffer = io.BytesIO()
            sf.write(buffer, wav_T, rate_hz, format=codec.upper(), subtype="PCM_16")
            member = tarfile.TarInfo(f"clip-{i:06d}.{codec}")
            member.size = len(buffer.getvalue())
            offset = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
            rows.append((offset, member.size, len(wav_T)))
    offsets, sizes, samples = np.array(rows, dtype=np.int64).T
    write_index(
        root, offsets, sizes, samples, np.zeros(len(rows), dtype=np.int32), codec, classes, rate_hz
    )
    return root


def write_index(
    root: Path,
    offsets: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    samples: npt.NDArray[np.int64],
    shards: npt.NDArray[np.int32],
    codec: str,
    classes: int = 1,
    rate_hz: int = RATE_HZ,
) -> None:
    """Write `index.parquet` and `labels.json`; each clip has one of `classes` labels."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(offsets)
    ids = pa.array(np.arange(n, dtype=np.int32) % classes)
    text = {
        "key": [f"clip-{i:08d}" for i in range(n)],
        "recording_id": [f"xc:{i}" for i in range(n)],
        "group_id": [f"recordist-{i % 5003}" for i in range(n)],
    }
    table = {
        **text,
        "split": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), ["train"]).cast("string"),
        "shard": [f"train/{s:06d}.tar" for s in shards.tolist()],
        "codec": pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [codec]).cast("string"),
        "fold": pa.nulls(n, "string"),
        "offset": offsets,
        "size": sizes,
        "samples": samples,
        "sample_rate_hz": np.full(n, rate_hz, np.int32),
        "start_s": np.zeros(n),
        "licence_id": np.zeros(n, np.int32),
        "label_ids": pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32), ids),
        "background_ids": pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), ids[:0]),
    }
    pq.write_table(pa.table(table), root / "index.parquet")
    labels = [{"id": i, "name": f"species {i:05d}"} for i in range(classes)]
    (root / "labels.json").write_text(json.dumps({"version": 1, "labels": labels}))


def write_million(root: Path, clips: int = 1_000_000, per_shard: int = 2000) -> Path:
    """An index of a million clips in 10,000 classes, over empty tar files of the right length."""
    size = 169_000
    step = size + 2 * tarfile.BLOCKSIZE
    places = np.arange(clips, dtype=np.int64)
    (root / "train").mkdir(parents=True)
    for shard in range(-(-clips // per_shard)):
        with (root / f"train/{shard:06d}.tar").open("wb") as file:
            length = per_shard * step + 2 * tarfile.BLOCKSIZE
            file.truncate(-(-length // tarfile.RECORDSIZE) * tarfile.RECORDSIZE)
    write_index(
        root,
        places % per_shard * step + tarfile.BLOCKSIZE,
        np.full(clips, size),
        np.full(clips, WINDOW_S * RATE_HZ),
        (places // per_shard).astype(np.int32),
        "flac",
        classes=10_000,
    )
    return root


# --------------------------------------------------------------------------- measuring


def cpu_seconds(work: Callable[[], None]) -> float:
    """Processor time of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def bench_windows(root: Path, report: Report) -> None:
    """Windows per second, and what a long piece costs."""
    import soundfile as sf

    from dawnchorus.trainer.data.config import DataConfig, SourceConfig
    from dawnchorus.trainer.data.index import ShardIndex
    from dawnchorus.trainer.data.module import TrainStream

    rng = np.random.default_rng(7)
    clips = [bird_sound(rng, WINDOW_S) for _ in range(CLIPS)]
    pieces = [bird_sound(rng, 60) for _ in range(CLIPS // 6)]
    streams, paths = {}, {}
    for codec in ("flac", "wav"):
        for length, wavs in (("10", clips), ("60", pieces)):
            name = codec + length
            paths[name] = write_dataset(root / name, wavs, codec)
            config = DataConfig(train={name: SourceConfig(path=str(paths[name]))}, workers=1)
            streams[name] = TrainStream(config, seed=1)
    raw = _member_bytes(paths["flac10"])

    def bare() -> None:
        for data in raw:
            sf.read(io.BytesIO(data), dtype="int16")

    def stream(name: str, windows: int = CLIPS) -> Callable[[], None]:
        def work() -> None:
            for first in range(0, windows, BATCH):
                streams[name][range(first, first + BATCH)]

        return work

    works = {"bare": bare, **{name: stream(name) for name in ("flac10", "flac60")}}
    # A WAV window takes microseconds: more of them, or the clock's grain shows.
    works |= {name: stream(name, 10 * CLIPS) for name in ("wav10", "wav60")}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(ROUNDS + 1):
        for name, work in works.items():
            seconds = cpu_seconds(work)
            if repetition:  # the first round warms up
                taken[name].append(seconds / (10 * CLIPS if name.startswith("wav") else CLIPS))
    rates = {name: [1 / s for s in values] for name, values in taken.items()}
    ratio = _ratios(taken["bare"], taken["flac10"])
    report(figure("bare soundfile loop, 10 s FLAC", rates["bare"], "/core-s"))
    report(figure("stream, 10 s FLAC clips", rates["flac10"], "/core-s"))
    report(figure("  ratio to the bare loop", ratio, "", ">= 0.85"))
    for codec, target in (("flac", "<= 1.5"), ("wav", "<= 1.1")):
        long, short = taken[f"{codec}60"], taken[f"{codec}10"]
        if codec == "wav":
            report(figure("stream, 10 s WAV clips", rates["wav10"], "/core-s"))
        report(figure(f"stream, 10 s of 60 s {codec.upper()}", rates[f"{codec}60"], "/core-s"))
        report(figure("  cost of a window, to a 10 s clip", _ratios(long, short), "x", target))
    for name, whole in (("flac60", "FLAC"), ("wav60", "WAV")):
        before = _bytes_read()
        stream(name)()
        share = (_bytes_read() - before) / CLIPS / np.mean(ShardIndex.open(paths[name]).size_N)
        report(figure(f"  bytes read of a 60 s {whole} piece, for 10 s", [float(share)], ""))
    _bench_draws(report)
    _bench_loader(streams["flac10"], taken["bare"], report)


def _member_bytes(dataset: Path) -> list[bytes]:
    from dawnchorus.trainer.data.index import ShardIndex

    index, raw = ShardIndex.open(dataset), []
    for clip in range(len(index)):
        member = index.member(clip)
        with Path(member.path).open("rb") as file:
            file.seek(member.offset)
            raw.append(file.read(member.size))
    return raw


def _bench_draws(report: Report) -> None:
    """Deciding what the positions of a batch take, from three sources with noise."""
    from dawnchorus.trainer.data.order import PositionOrder

    sizes = [1_000_000, 300_000, 777]
    order = PositionOrder(
        sizes, [float(n) for n in sizes], seed=1, noise_sizes=[5000], noise_weights=[1.0],
        noise_prob=0.5,
    )  # fmt: skip

    def work() -> None:
        for first in range(0, 100 * BATCH, BATCH):
            order.draws(first, BATCH)

    taken = [cpu_seconds(work) / (100 * BATCH) * 1e6 for _ in range(ROUNDS + 1)][1:]
    report(figure("draw of one position", taken, "us", "<= 30"))


def _bench_loader(stream: object, bare_s: list[float], report: Report) -> None:
    """One worker process behind the DataLoader: its processor time, handing over included."""
    import multiprocessing

    from dawnchorus.trainer.data.module import TrainStream, train_loader

    assert isinstance(stream, TrainStream)
    batches = iter(train_loader(stream, first_position=0, micro_batch=BATCH, workers=1))
    for _ in range(4):
        next(batches)
    (worker,) = multiprocessing.active_children()
    taken, ours = [], []
    for _ in range(ROUNDS):
        start, start_ours = _cpu_of(worker.pid or 0), time.process_time()
        for _ in range(12):
            next(batches)
        taken.append((_cpu_of(worker.pid or 0) - start) / (12 * BATCH))
        ours.append((time.process_time() - start_ours) / (12 * BATCH) * 1e6)
    report(figure("DataLoader with one worker, 10 s FLAC", [1 / t for t in taken], "/core-s"))
    report(figure("  ratio to the bare loop", _ratios(bare_s, taken), "", ">= 0.85"))
    report(figure("  time in the training process per window", ours, "us"))


def _cpu_of(pid: int) -> float:
    """Processor seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ratios(numerator: list[float], denominator: list[float]) -> list[float]:
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


# --------------------------------------------------------------------------- the index

_OPEN = """
import sys, time
import numpy, pyarrow.parquet
def rss_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
from dawnchorus.trainer.data.index import ShardIndex
before = rss_mb()
start, start_cpu = time.perf_counter(), time.process_time()
index = ShardIndex.open(sys.argv[1])
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
status = open("/proc/self/status").read()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e3
print(seconds, cpu, rss_mb() - before, rss_mb(), peak)
"""


def bench_index(root: Path, report: Report) -> None:
    """Time and memory of opening a million clips, each time in a new process."""
    write_million(root)
    results = []
    for _ in range(5):
        output = subprocess.run(
            [sys.executable, "-c", _OPEN, str(root)], check=True, capture_output=True, text=True
        ).stdout
        results.append([float(word) for word in output.split()])
    seconds, cpu, added, total, peak = (list(column) for column in zip(*results, strict=True))
    report(figure("open an index of 1,000,000 clips", seconds, "s", "<= 2"))
    report(figure("  processor time of it", cpu, "s"))
    report(figure("  memory that it adds to the process", added, "MB", "<= 300"))
    report(figure("  memory of the whole process", total, "MB", "<= 300"))
    report(figure("  the same, at its peak", peak, "MB", "<= 300"))


def run(report: Report) -> None:
    """Measure everything; takes about a minute."""
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        bench_windows(Path(folder) / "windows", report)
        bench_index(Path(folder) / "million", report)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(0 if print_table(run) else 1)
