"""Starts real runs of the real program as real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import ENCODERS, tiny_encoder

from dawnchorus.trainer.checkpoints.checkpoint import load

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # of test processes alone; `warm` is forked there
import warm  # noqa: E402

DRIVER = warm.DRIVER
TINY = [
    "data.window_s=2.0", "train.accelerator=cpu", "train.precision=fp32", "train.compile=false",
    "log.wandb=disabled", "train.log_every=1", "optim.warmup_steps=0",
]  # fmt: skip


@dataclass
class Outcome:
    """How a process ended."""

    code: int
    stderr: str
    folder: Path
    ledger: Path

    def steps(self) -> dict[int, list[tuple[int, int]]]:
        """Step -> the clips of its global batch in order of position, over all ranks.

        A step that was begun and lost is overwritten by the one that counted.
        """
        rows: dict[tuple[int, int], tuple[int, tuple[int, int]]] = {}
        for path in sorted(self.ledger.parent.glob(f"{self.ledger.name}.*")):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                for position, clip in zip(row["positions"], row["clips"], strict=True):
                    rows[(row["step"], position)] = (position, tuple(clip))
        by_step: dict[int, list[tuple[int, int]]] = {}
        for (step, _), (_, clip) in sorted(rows.items()):
            by_step.setdefault(step, []).append(clip)
        return by_step

    def checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint, loaded the safe way."""
        path = self.folder / "checkpoints" / "last.ckpt"
        return load(path)

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        text = (self.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def devices_of(overrides: tuple[str, ...]) -> int:
    """Ranks that a run with these overrides has."""
    asked = [x.removeprefix("train.devices=") for x in overrides if x.startswith("train.devices=")]
    return int(asked[-1]) if asked else 1


def run_cold(
    argv: list[str], environment: dict[str, str], folder: Path, timeout_s: float
) -> tuple[int, str]:
    """As from a shell: one process, which starts the other ranks itself."""
    done = subprocess.run([sys.executable, str(DRIVER), *argv], env=environment, cwd=folder,
                          capture_output=True, text=True, timeout=timeout_s)  # fmt: skip
    return done.returncode, done.stderr


def run_warm(
    argv: list[str], environment: dict[str, str], folder: Path, timeout_s: float, ranks: int
) -> tuple[int, str]:
    """As a launcher does: one process per rank, each with its place in the environment."""
    output = Path(tempfile.mkstemp(dir=folder, suffix=".log")[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
               "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}  # fmt: skip
    processes = [
        warm.start(
            argv,
            environment | (meeting | {"LOCAL_RANK": str(rank)} if ranks > 1 else {}),
            folder,
            output,
        )
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + timeout_s
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                raise TimeoutError(f"no end after {timeout_s} s: {output.read_text()[-2000:]}")
    finally:
        for process in processes:
            process.kill()
    code = processes[0].exitcode
    assert code is not None
    return code, output.read_text()


@pytest.fixture
def chorus_train(tmp_path: Path, tone_dataset: Path):
    """Run `chorus train` in processes of its own: chorus_train(name, *overrides, **driver).

    `encoder`: a row of `tiny.ENCODERS`, for a recipe that is not shipped.
    """

    def run(
        name: str,
        *overrides: str,
        recipe: str = "sl_beats_tiny",
        hurt: dict[str, Any] | None = None,
        nan: dict[str, Any] | None = None,
        slow_s: float = 0.0,
        data: Path = tone_dataset,
        timeout_s: float = 400,
        cold: bool = False,
        encoder: str | None = None,
    ) -> Outcome:
        ledger = tmp_path / f"{name}.ledger"
        environment = os.environ | {
            "DRIVER_LEDGER": str(ledger), "DRIVER_HURT": json.dumps(hurt), "OMP_NUM_THREADS": "1",
            "DRIVER_NAN": json.dumps(nan), "DRIVER_SLOW_S": str(slow_s),
            "PYTHONPATH": f"{REPO}:{REPO / 'tests'}",
        }  # fmt: skip
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "NODE_RANK"):
            environment.pop(variable, None)
        small = tiny_encoder(recipe) if encoder is None else ENCODERS[encoder]
        argv = [
            "train", recipe, *small, *TINY, f"data.train.main.path={data}",
            f"runs={tmp_path / 'runs'}", f"name={name}", *overrides,
        ]  # fmt: skip
        if cold:
            code, printed = run_cold(argv, environment, tmp_path, timeout_s)
        else:
            ranks = devices_of(overrides)
            code, printed = run_warm(argv, environment, tmp_path, timeout_s, ranks)
        return Outcome(code, printed, tmp_path / "runs" / name, ledger)

    return run
