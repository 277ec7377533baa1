"""metrics.jsonl is the truth, also after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

from trainer.runtime.logging import MetricsFile, read_metrics


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
    assert [x["step"] for x in read_metrics(path)] == [1, 2, 3]


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write("train", 1, 8, loss=math.nan, grad_norm=math.inf, lr=1e-4)
    metrics.close()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line["loss"] is None and line["grad_norm"] is None and line["lr"] == 1e-4


def test_wall_time_goes_on_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1, "samples_seen": 8, "wall_s": 100.0}\n')
    metrics = MetricsFile(path, resume_step=1)
    assert metrics.wall_s >= 100.0
    metrics.close()
