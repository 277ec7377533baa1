"""Starts real runs of the real program as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trainer.runtime.checkpoint import load

REPO = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")
TINY = [
    "encoder=beats_tiny", "encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64",
    "encoder.heads=2", "encoder.patch_dim=16", "encoder.conv_pos=16", "encoder.conv_pos_groups=4",
    "data.window_s=2.0", "train.accelerator=cpu", "train.precision=fp32", "train.compile=false",
    "log.wandb=disabled", "train.log_every=1",
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


@pytest.fixture
def chorus_train(tmp_path: Path, tone_dataset: Path):
    """Run `chorus train` in a process of its own: chorus_train(name, *overrides, **driver)."""

    def run(
        name: str,
        *overrides: str,
        recipe: str = "sl_beats_tiny",
        hurt: dict[str, Any] | None = None,
        nan: dict[str, Any] | None = None,
        slow_s: float = 0.0,
        data: Path = tone_dataset,
        timeout_s: float = 180,
    ) -> Outcome:
        ledger = tmp_path / f"{name}.ledger"
        environment = os.environ | {
            "DRIVER_LEDGER": str(ledger), "DRIVER_HURT": json.dumps(hurt), "OMP_NUM_THREADS": "1",
            "DRIVER_NAN": json.dumps(nan), "DRIVER_SLOW_S": str(slow_s), "PYTHONPATH": str(REPO),
        }  # fmt: skip
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "NODE_RANK"):
            environment.pop(variable, None)
        command = [
            sys.executable, str(DRIVER), "train", recipe, *TINY, f"data.train.main.path={data}",
            f"runs={tmp_path / 'runs'}", f"name={name}", *overrides,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=tmp_path,
        )
        return Outcome(done.returncode, done.stderr, tmp_path / "runs" / name, ledger)

    return run
