"""Writing shards: against a bare loop of the same libraries, on two cores, and its memory.

    python -m scripts.bench prep
    python -m scripts.bench.prep 1000 10000 100000     # memory only, for these numbers

Everything is made here: MP3 and FLAC of synthetic bird-like sound at 44.1 kHz.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench import Report, figure, print_table
from scripts.bench.data import bird_sound
from scripts.bench.paired import Sample, interleave, measure, report_ratio

REPO = Path(__file__).resolve().parents[2]
RATE_HZ = 44100
FILES = 32
SECONDS = 60
ROUNDS = 5
COPIES = 16  # of the archive, 8.5 hours, so that starting processes is no large part of it
SCALING_ROUNDS = 4
SIZES = (1_000, 10_000)
_POLL_S = 0.05


def write_archive(root: Path, copies: int) -> Path:
    """Write a folder of `FILES` recordings, half MP3, half FLAC, listed `copies` times over."""
    import soundfile

    (root / "audio").mkdir(parents=True)
    rng = np.random.default_rng(11)
    names = []
    for i in range(FILES):
        wav_T = bird_sound(rng, SECONDS * RATE_HZ // 16000 + 1)[: SECONDS * RATE_HZ]
        path = root / "audio" / f"{i:03d}.{('mp3', 'flac')[i % 2]}"
        soundfile.write(path, wav_T, RATE_HZ)
        names.append(path.name)
    lines = ["filename,id"]
    for copy in range(copies):
        for name in names:
            link = root / "audio" / f"c{copy}-{name}"
            link.hardlink_to(root / "audio" / name)
            lines.append(f"audio/{link.name},{copy}-{name}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def bare(root: Path, out: Path, part: int = 0, parts: int = 1) -> None:
    """Decode, resample and write as FLAC, and nothing else; every `parts`-th file."""
    import soundfile
    import soxr

    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((root / "audio").glob("c*"))[part::parts]:
        wav_T, rate_hz = soundfile.read(path, dtype="float32")
        wav_T = soxr.resample(wav_T, rate_hz, 16000, quality="HQ")
        soundfile.write(out / f"{path.name}.flac", wav_T, 16000, subtype="PCM_16")


def prepare(root: Path, out: Path, jobs: int) -> None:
    """The whole of `chorus prep folder`, without what it says."""
    from dawnchorus.data_prep.archives.own_folder import prepare_folder
    from dawnchorus.trainer.progress import Progress

    shutil.rmtree(out, ignore_errors=True)
    quiet = io.StringIO()
    original = Progress.__init__
    try:
        Progress.__init__ = lambda self, stream=None: original(self, quiet)  # type: ignore[method-assign]
        prepare_folder(root, out, jobs=jobs)
    finally:
        Progress.__init__ = original  # type: ignore[method-assign]


def bench_speed(folder: Path, report: Report) -> None:
    """One core against the bare loop, in processor time, and two cores against one."""
    root = write_archive(folder / "archive", 1)
    sides: list[Callable[[], Sample]] = [
        lambda: measure(lambda: bare(root, folder / "bare")),
        lambda: measure(lambda: prepare(root, folder / "one", 1)),
    ]
    loop, ours = interleave(sides, ROUNDS)
    hours = FILES * SECONDS / 3600
    name = "bare decode + soxr HQ + FLAC loop"
    report(figure(name, [hours / s.cpu_s for s in loop], "h/core-s"))
    report(figure("chorus prep, one process", [hours / s.cpu_s for s in ours], "h/core-s"))
    ratios = [a.cpu_s / b.cpu_s for a, b in zip(loop, ours, strict=True)]
    report(figure("  share of the bare loop's speed", ratios, "", ">= 0.8"))
    report_ratio(report, "  bare loop to ours", loop, ours, "")


def bench_scaling(folder: Path, report: Report) -> None:
    """Two processes against one: whole runs with their start, and the bare loop beside them.

    Two virtual cores may be one real one, or share its memory with neighbours: the bare loop,
    which shares nothing between its processes, says what the machine gives.
    """
    few = write_archive(folder / "few", COPIES // 4)
    many = write_archive(folder / "many", COPIES)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:

        def loop(processes: int) -> Sample:
            def work() -> None:
                started = [pool.submit(bare, few, folder / "bare", part, processes)
                           for part in range(processes)]  # fmt: skip
                for one in started:
                    one.result()

            return measure(work)

        loop(2)  # the processes start and import
        sides = [lambda: loop(1), lambda: loop(2)]
        sides += [lambda: measure(lambda: prepare(many, folder / "jobs1", 1)),
                  lambda: measure(lambda: prepare(many, folder / "jobs2", 2))]  # fmt: skip
        bare_one, bare_two, one, two = interleave(sides, SCALING_ROUNDS, warm_ups=0)
    ours = [a.wall_s / b.wall_s for a, b in zip(one, two, strict=True)]
    machine = [a.wall_s / b.wall_s for a, b in zip(bare_one, bare_two, strict=True)]
    report(figure("two processes against one, wall clock", ours, "x", ">= 1.8"))
    report(figure("  the bare loop in two processes against one", machine, "x"))
    shares = [a / b for a, b in zip(ours, machine, strict=True)]
    report(figure("  ours, as a share of what the bare loop gains", shares, "", ">= 0.9"))


# --------------------------------------------------------------------------- memory

_RUN = """
import sys
from dawnchorus.data_prep.dataset.prepare import prepare_shards
prepare_shards(sys.argv[1], sys.argv[2], audio=sys.argv[3], jobs=2, shard_size_mb=1)
"""


def write_many(folder: Path, count: int) -> Path:
    """Write a table of `count` recordings that all have the same short file."""
    import soundfile

    from dawnchorus.data_prep.table.recording import Label, Recording
    from dawnchorus.data_prep.table.recording_table import write_table

    audio = folder / "audio"
    audio.mkdir(parents=True)
    soundfile.write(audio / "x.flac", bird_sound(np.random.default_rng(3), 1)[:6400], 16000)

    def rows() -> Iterator[Recording]:
        for i in range(count):
            yield Recording(
                id=f"xc:{i}", source="xc", source_id=str(i), path="x.flac",
                url=f"https://example.org/{i}/download", recordist=f"Person {i % 997}",
                licence_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
                attribution=f"Person {i % 997}, XC{i}, example.org/{i}",
                labels=(Label(f"Genus species{i % 500}", "species", ids=(("gbif", str(i)),)),),
                datetime="2020-05-01T06:00", lat=52.5, lon=13.4, duration_s=0.4,
                group_id=f"Person {i % 997}|52.50,13.40|2020-05-{i % 28}",
            )  # fmt: skip

    write_table(rows(), folder / "table")
    return folder / "table"


def peaks_mb(count: int, folder: Path) -> tuple[float, float, float]:
    """Peak memory (VmHWM) of the run and of its largest worker, and its seconds."""
    table = write_many(folder, count)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(table), str(folder / "set"), str(folder / "audio")],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
    )
    parent = worker = 0.0
    while process.poll() is None:
        parent = max(parent, _peak_mb(process.pid))
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        except OSError:
            break
        worker = max([worker, *(_peak_mb(int(pid), b"spawn_main") for pid in children.split())])
        time.sleep(_POLL_S)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return parent, worker, time.perf_counter() - start


def _peak_mb(pid: int, program: bytes = b"") -> float:
    """Peak of a process that runs `program`: before its exec, a child's memory is its parent's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        if program not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return 0.0
    except OSError:
        return 0.0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) / 1e3 if found else 0.0


def bench_memory(folder: Path, report: Report, sizes: tuple[int, ...] = SIZES) -> None:
    """Peak memory for ever more recordings."""
    found: list[tuple[Any, ...]] = []
    for count in sizes:
        parent, worker, seconds = peaks_mb(count, folder / str(count))
        report(figure(f"{count:,} recordings: peak memory of the run", [parent], "MB"))
        report(figure("  of its largest worker", [worker], "MB"))
        report(figure("  seconds", [seconds], "s"))
        found.append((count, parent, worker))
        shutil.rmtree(folder / str(count))
    (few, parent, worker), (many, parent_many, worker_many) = found[0], found[-1]
    grown = (parent_many - parent) * 1e6 / (many - few)
    report(figure("memory of the run, for each recording more", [grown], "bytes"))
    grown = (worker_many - worker) * 1e6 / (many - few)
    report(figure("  of a worker", [grown], "bytes"))


def run(report: Report) -> None:
    """Measure everything; takes about ten minutes."""
    with tempfile.TemporaryDirectory(prefix="bench-prep-") as name:
        folder = Path(name)
        bench_speed(folder / "speed", report)
        bench_scaling(folder / "scaling", report)
        bench_memory(folder / "memory", report)


def run_memory(report: Report, sizes: tuple[int, ...]) -> None:
    """Measure the memory for these numbers of recordings alone."""
    with tempfile.TemporaryDirectory(prefix="bench-prep-") as name:
        bench_memory(Path(name), report, sizes)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = tuple(int(word) for word in sys.argv[1:])
    sys.exit(0 if print_table((lambda r: run_memory(r, chosen)) if chosen else run) else 1)
