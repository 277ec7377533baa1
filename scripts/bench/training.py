"""Training from shards, all of it: `python -m scripts.bench training`.

`chorus train` on a dataset that is made here, in a process of its own: reading, decoding, handing
over, front end, noise and mixup, forward, backward, clipping, optimiser. The figures are those that
a run logs, without its first lines (start, compilation, warm-up of the loader).

On a CUDA device BEATs base in bf16, supervised (496 tokens) and masked-token pre-training (128
visible), eager and compiled, with a loader process for every core but two; the share is of a bf16
matrix product measured in the same run. Elsewhere the small BEATs, to show what the loop costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dawnchorus.trainer.metrics_log import standing_lines
from scripts.bench import Report, figure, print_table
from scripts.bench.beats import CLASSES, GPU_CLIPS, GPU_TARGETS, matrix_rate, report_speed
from scripts.bench.data import WINDOW_S, bird_sound, write_dataset

REPO = Path(__file__).resolve().parents[2]
DIFFERENT = 64  # clips that are synthesised; the dataset has each of them several times
RECIPE = """\
defaults:
  - encoder: {encoder}
  - objective: {objective}
  - augment: {augment}
  - data: folder
  - _self_
data:
  window_s: {window_s}
  workers: {workers}
  train: {{bench: {{path: {dataset}}}}}
  noise: {{bench: {{path: {dataset}}}}}
optim: {{lr: 1.0e-4, clip_norm: 1.0, warmup_steps: 0}}
train:
  max_steps: {steps}
  global_batch: {clips}
  micro_batch: {clips}
  precision: auto
  compile: {compiled}
  log_every: {log_every}
  checkpoint_every: 1000000
log: {{wandb: disabled}}
"""
OBJECTIVES = {"supervised": ("multilabel", "noise_mixup"), "masked": ("masked_tokens", "noise")}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained."""

    encoder: str
    window_s: float
    clips: dict[str, int]
    """Per step, by kind of training."""
    clips_in_dataset: int
    workers: int
    log_every: int
    lines: int
    """That are looked at, after `skip`."""
    skip: int


def scale() -> Scale:
    """Return what the machine at hand can do in minutes."""
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        return Scale(encoder="beats_base", window_s=10.0, clips=GPU_CLIPS, clips_in_dataset=2048,
                     workers=max(2, cores - 2), log_every=10, lines=5, skip=3)  # fmt: skip
    return Scale(encoder="beats_tiny", window_s=5.0, clips={"supervised": 16, "masked": 16},
                 clips_in_dataset=256, workers=1, log_every=5, lines=4, skip=1)  # fmt: skip


def train(folder: Path, dataset: Path, kind: str, size: Scale, *, compiled: bool) -> list[Any]:
    """Train from shards; return the lines of the log that count."""
    name = f"{kind}_{'compiled' if compiled else 'eager'}"
    objective, augment = OBJECTIVES[kind]
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        RECIPE.format(
            encoder=size.encoder, objective=objective, augment=augment, dataset=dataset,
            window_s=size.window_s, workers=size.workers, clips=size.clips[kind],
            steps=size.log_every * (size.skip + size.lines), log_every=size.log_every,
            compiled=str(compiled).lower(),
        )
    )  # fmt: skip
    chorus = [sys.executable, "-m", "dawnchorus.trainer.cli"]
    command = [*chorus, "train", str(recipe), f"runs={folder}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = standing_lines(folder / name / "metrics.jsonl")
    return [line for line in lines if line["kind"] == "train"][size.skip :]


def report_run(
    report: Report, how: str, lines: list[Any], *, rate: float | None, target: str
) -> None:
    """Report the figures of a run; `rate` is the matrix product's, in FLOP/s."""
    speeds = [line["clips_per_s"] for line in lines]
    rates = [1e12 * line["tflops_per_device"] for line in lines]
    report_speed(report, how, speeds, rates, of=rate, target=target)
    waits = [line["data_wait"] for line in lines]
    report(figure(f"{how}: waiting for data", waits, "", "<= 0.03" if rate else ""))


def run(report: Report) -> None:
    """Train from shards, supervised and masked; on a CUDA device compiled as well."""
    size = scale()
    on_gpu = torch.cuda.is_available()
    rate = matrix_rate(report) if on_gpu else None
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        rng = np.random.default_rng(0)
        wavs = [bird_sound(rng, WINDOW_S) for _ in range(DIFFERENT)]
        wavs *= size.clips_in_dataset // DIFFERENT
        dataset = write_dataset(Path(folder) / "dataset", wavs, "flac", CLASSES)
        for compiled in (False, True) if on_gpu else (False,):
            for kind, clips in size.clips.items():
                lines = train(Path(folder), dataset, kind, size, compiled=compiled)
                how = f"{kind}, {'compiled' if compiled else 'eager'}, {clips} clips"
                report_run(report, how, lines, rate=rate, target=GPU_TARGETS[kind])


if __name__ == "__main__":
    sys.exit(0 if print_table(run) else 1)
