"""metrics.jsonl is the truth, also after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dawnchorus.trainer.metrics_log import standing_lines
from dawnchorus.trainer.training.loggers.base import LoggedRun
from dawnchorus.trainer.training.loggers.tensorboard import TensorBoard
from dawnchorus.trainer.training.logging import MetricsFile, ProgressSink


def test_lines_after_the_resume_step_are_marked_and_torn_lines_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in (1, 2, 3, 4):
        first.write("train", step, step * 8, loss=1.0 / step)
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 5, "lo')
    again = MetricsFile(path, resume_step=2)
    again.write("train", 3, 24, loss=0.5)
    again.close()
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["step"], x.get("superseded", False)) for x in raw] == [
        (1, False), (2, False), (3, True), (4, True), (3, False),
    ]  # fmt: skip
    assert [x["step"] for x in standing_lines(path)] == [1, 2, 3]


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write("train", 1, 8, loss=math.nan, grad_norm=math.inf, lr=1e-4)
    metrics.close()
    (line,) = standing_lines(tmp_path / "metrics.jsonl")
    assert line["loss"] is None and line["grad_norm"] is None and line["lr"] == 1e-4


def test_wall_time_goes_on_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1, "samples_seen": 8, "wall_s": 100.0}\n')
    metrics = MetricsFile(path, resume_step=1)
    assert metrics.wall_s >= 100.0
    metrics.close()


def tensorboard(folder: Path, first_step: int) -> TensorBoard:
    return TensorBoard(LoggedRun(folder=folder, name="run", recipe={}, first_step=first_step))


def test_tensorboard_shows_the_figures_and_takes_repeated_steps_back(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, sinks=(tensorboard(tmp_path, 0),))
    for step in (1, 2, 3):
        first.write("train", step, step * 8, loss=float(step), grad_norm=math.nan)
    first.write("event", 3, 24, event="preempted", message="stopped")
    first.close()
    again = MetricsFile(path, resume_step=2, sinks=(tensorboard(tmp_path, 2),))
    again.write("train", 3, 24, loss=30.0)
    again.write("valid", 3, 24, map=0.5)
    again.close()
    seen = events.EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    loss = [(x.step, x.value) for x in seen.Scalars("train/loss")]
    assert loss == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [x.value for x in seen.Scalars("valid/map")] == [0.5]
    assert "train/grad_norm" not in seen.Tags()["scalars"]


def test_the_log_says_when_the_run_will_end(capsys: pytest.CaptureFixture[str]) -> None:
    log = ProgressSink(100, 0, "run")
    for step, wall_s in ((10, 50.0), (20, 70.0), (30, 130.0)):
        log.write({"kind": "train", "step": step, "wall_s": wall_s, "loss": 1.0})
    log.write({"kind": "train", "step": 100, "wall_s": 300.0, "loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    # 10 steps in 20 s: 80 steps in 160 s; then 20 steps in 80 s: 70 steps in 280 s.
    assert ["eta" in line for line in lines] == [False, True, True, False]
    assert lines[1].endswith("eta 0:02:40") and lines[2].endswith("eta 0:04:40")
