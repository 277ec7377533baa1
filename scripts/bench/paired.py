"""Our programs and avex's in turn, in one run: a ratio of neighbours survives a busy machine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench import Report, figure

REPO = Path(__file__).resolve().parents[2]
AVEX_PYTHON = REPO / ".venv-avex" / "bin" / "python"
NO_AVEX = "(comparison with avex skipped: no .venv-avex; scripts/avex_env.sh makes it)"


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    wall_s: float
    cpu_s: float
    """Processor seconds of all threads; waiting for a core does not count."""


def measure(work: Callable[[], object]) -> Sample:
    """Run `work` once and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


class AvexWorker:
    """avex in an environment of its own, asked over a pipe so that its runs alternate with ours."""

    def __init__(self, threads: int) -> None:
        self._process = subprocess.Popen(
            [str(AVEX_PYTHON), str(Path(__file__).with_name("avex_worker.py")), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def __enter__(self) -> AvexWorker:
        return self

    def run(self, task: str) -> Sample:
        """Let it do a task of `avex_worker.TASKS` once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the avex worker ended while it ran {task!r}")
        return Sample(**json.loads(answer))

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interleave(
    sides: Sequence[Callable[[], Sample]], rounds: int, warm_ups: int = 1
) -> list[list[Sample]]:
    """`rounds` samples of each side, taken in turn; every other round runs backwards."""
    samples: list[list[Sample]] = [[] for _ in sides]
    for turn in range(-warm_ups, rounds):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            sample = sides[side]()
            if turn >= 0:
                samples[side].append(sample)
    return samples


def report_ratio(
    report: Report, name: str, ours: Sequence[Sample], theirs: Sequence[Sample], target: str
) -> None:
    """Report time over time, round by round, and the same for processor time."""
    pairs = list(zip(ours, theirs, strict=True))
    report(figure(f"{name}: time", [a.wall_s / b.wall_s for a, b in pairs], "", target))
    report(figure(f"{name}: processor time", [a.cpu_s / b.cpu_s for a, b in pairs], ""))
