"""Fuzz the audio opener: broken files by the hundred thousand, each decoded in a watched child.

    python -m scripts.fuzz_audio --count 100000 --out findings
    python -m scripts.fuzz_audio --replay findings/000123-crash.bin

An input is a pure function of (seed, index), so every finding can be reproduced. A child process
decodes them one after the other as `data_prep.audio.decode` would in a preparation; the parent
notices when it dies (a decoder's segmentation fault), hangs, or takes memory out of proportion.
Anything but a recording or `UnusableAudio` is a finding: it is written to --out, and the exit code
is 1.

Coverage-guided fuzzers are no help here: the parsers are libsndfile and FFmpeg, compiled without
their instruments, and all they could see is our own few lines of Python.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from scripts.fuzz_inputs import make_input, seeds

HANG_S = 10.0
STUCK_S = 120.0
GROWTH_MB = 500.0
ADDRESS_SPACE_GB = 4.0  # the child's limit: 1.5 GB are libraries; beyond it malloc fails
RATE_HZ = 16000
# As `data_prep.audio.decoders.brief` names what is neither RuntimeError nor OSError nor ValueError.
RAISED = re.compile(r"\b([A-Z]\w*(?:Error|Exception))(?=:|$)")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one input. `kind`: ok, a reason of UnusableAudio, or the fault."""

    index: int
    kind: str
    detail: str
    seconds: float
    growth_mb: float
    wrong: bool


@dataclass
class Tally:
    """All outcomes so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str, str]] = field(default_factory=list)
    raised: Counter[str] = field(default_factory=Counter)
    """Exceptions of decoders that became rejections, except the usual three kinds."""
    slowest_s: float = 0.0  # of the processor
    slowest: int = -1
    largest_mb: float = 0.0
    rss_mb: float = 0.0


def decode_all(seed: int, first: int, last: int, folder: Path, results: Connection) -> None:
    """Child: decode inputs first ... last - 1 and send an `Outcome` for each."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 comments on every frame
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = int(ADDRESS_SPACE_GB * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    path = folder / "input.bin"
    warm_up(path, spool)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(first, last):
        name, data = make_input(seed, index)
        path.write_bytes(data)
        results.send(judge(index, name, path, spool, open_files))


def warm_up(path: Path, spool: Path) -> None:
    """Load every library, so that the first inputs are not charged for them."""
    for _, data in seeds():
        path.write_bytes(data)
        judge(0, "", path, spool, 1 << 20)


def judge(index: int, name: str, path: Path, spool: Path, open_files: int) -> Outcome:
    """Decode one file and return its outcome."""
    from dawnchorus.data_prep.audio.decode import decode
    from dawnchorus.data_prep.errors import UnusableAudio

    before_mb = reset_peak_mb()
    started = time.process_time()  # a busy machine is no finding; the parent watches the clock
    wrong = False
    try:
        pcm, original = decode(path, RATE_HZ, spool_dir=spool)
        kind, detail = "ok", original.codec
        if abs(pcm.duration_s - original.duration_s) > 0.01 or len(pcm.read(0, 9)) != min(
            9, pcm.samples
        ):
            kind, detail, wrong = "inconsistent", f"{pcm.duration_s} s, {original}", True
        pcm.close()
    except UnusableAudio as err:
        kind, detail = err.reason, err.detail
    except BaseException as err:
        kind, detail, wrong = f"exception {type(err).__name__}", str(err)[:300], True
    seconds = time.process_time() - started
    growth_mb = peak_mb() - before_mb
    if len(list(Path("/proc/self/fd").iterdir())) > open_files:
        kind, wrong = "open file left", True
    if any(spool.iterdir()):
        kind, wrong = "spool file left", True
    if growth_mb > GROWTH_MB:
        kind, wrong = "memory", True
    return Outcome(index, kind, f"{name}: {detail}", seconds, growth_mb, wrong)


def reset_peak_mb() -> float:
    """Reset this process's peak memory to the present value; return it (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Peak resident memory since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def fuzz(seed: int, first: int, count: int, minutes: float, out: Path) -> Tally:
    """Run `count` inputs from index `first` on, or as many as fit into `minutes`."""
    tally = Tally()
    stop = time.monotonic() + 60 * minutes
    spoken = time.monotonic()
    done, last = first, first + count
    # In memory where there is such a file system: each input is written, read and forgotten.
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    context = multiprocessing.get_context("spawn")
    while done < last and time.monotonic() < stop:
        with tempfile.TemporaryDirectory(dir=shm) as folder:
            receive, send = context.Pipe(duplex=False)
            child = context.Process(target=decode_all, args=(seed, done, last, Path(folder), send))
            child.start()
            send.close()
            done, ended = listen(receive, child.pid or 0, tally, done, last, stop, seed, out)
            if ended:
                child.kill()
                child.join()
                if ended != "stop":
                    if ended == "crash":
                        ended = f"crash {child.exitcode}"
                    note(tally, out, seed, done, ended, "")
                    done += 1
            child.join()
        if time.monotonic() - spoken > 30:
            spoken = time.monotonic()
            print(f"{done - first} inputs, {len(tally.findings)} findings", flush=True)
    tally.rss_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return tally


def listen(
    receive: Connection, pid: int, tally: Tally, done: int, last: int, stop: float, seed: int,
    out: Path,
) -> tuple[int, str]:  # fmt: skip
    """Take outcomes until the child ends; return (next index, how it ended or '' at the end)."""
    while done < last:
        if time.monotonic() > stop:
            return done, "stop"
        if not answers(receive, pid):
            return done, "hang"
        try:
            outcome: Outcome = receive.recv()
        except EOFError:
            return done, "crash"
        tally.kinds[outcome.kind] += 1
        tally.raised.update(RAISED.findall(outcome.detail))
        if outcome.seconds > tally.slowest_s:
            tally.slowest_s, tally.slowest = outcome.seconds, outcome.index
        tally.largest_mb = max(tally.largest_mb, outcome.growth_mb)
        if outcome.wrong:
            note(tally, out, seed, outcome.index, outcome.kind, outcome.detail)
        done = outcome.index + 1
        if done % 10000 == 0:
            print(f"input {done}: {len(tally.findings)} findings, pid {pid}", flush=True)
    return done, ""


def answers(receive: Connection, pid: int) -> bool:
    """Wait for the next outcome; False after 10 s of the child's processor time, or 2 minutes.

    Not 10 s by the clock: on a busy machine a child may wait that long for its turn.
    """
    started, used = time.monotonic(), processor_s(pid)
    while not receive.poll(1.0):
        waited = time.monotonic() - started
        if processor_s(pid) - used > HANG_S or waited > STUCK_S:
            return False
    return True


def processor_s(pid: int) -> float:
    """Processor time of a process (proc(5), stat: utime and stime), 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def note(tally: Tally, out: Path, seed: int, index: int, kind: str, detail: str) -> None:
    """Keep a finding with its bytes."""
    name, data = make_input(seed, index)
    detail = detail or name
    tally.findings.append((index, kind, detail))
    if kind.startswith(("crash", "hang")):
        tally.kinds[kind] += 1
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{seed}-{index:06d}-{kind.split()[0]}.bin").write_bytes(data)
    print(f"FINDING {index} {kind}: {detail}", flush=True)


def replay(path: Path) -> Outcome:
    """Decode one kept finding in this process."""
    with tempfile.TemporaryDirectory() as spool:
        return judge(0, path.name, path, Path(spool), 1 << 20)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, fuzz, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this long")
    parser.add_argument("--out", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--replay", type=Path, help="decode this one file instead")
    options = parser.parse_args(argv)
    if options.replay:
        print(replay(options.replay))
        return 0
    started = time.monotonic()
    tally = fuzz(options.seed, options.first, options.count, options.minutes, options.out)
    seconds = time.monotonic() - started
    total = sum(tally.kinds.values())
    for kind, count in tally.kinds.most_common():
        print(f"{count:9,}  {kind}")
    for kind, count in tally.raised.most_common():
        print(f"{count:9,}  rejected for a decoder's {kind}")
    print(
        f"{total:,} inputs from {len(seeds())} seeds in {seconds:.0f} s "
        f"({total / max(seconds, 1e-9):.0f}/s); slowest {tally.slowest_s:.2f} s "
        f"of processor time (input {tally.slowest}), largest growth "
        f"{tally.largest_mb:.0f} MB, child's peak {tally.rss_mb:.0f} MB; "
        f"{len(tally.findings)} findings"
    )
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
