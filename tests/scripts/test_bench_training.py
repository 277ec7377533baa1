"""The benchmark that trains from shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.bench import Figure
from scripts.bench.data import bird_sound, write_dataset
from scripts.bench.training import Scale, report_run, train


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["supervised", "masked"])
def test_it_reports_what_a_run_logs(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    wavs = [bird_sound(rng, 5) for _ in range(16)]
    dataset = write_dataset(tmp_path / "dataset", wavs, "flac", classes=3)
    size = Scale(encoder="beats_tiny", window_s=2.0, clips={kind: 4}, clips_in_dataset=16,
                 workers=1, log_every=1, lines=2, skip=1)  # fmt: skip
    lines = train(tmp_path, dataset, kind, size, compiled=False)
    assert [line["step"] for line in lines] == [2, 3]
    told: list[Figure] = []
    report_run(told.append, "here", lines, rate=1e12, target=">= 0.40")
    speed, rate, share, wait = told
    assert speed.low <= speed.value <= speed.high and speed.value > 0
    assert share.value == pytest.approx(rate.value) and share.passed is False
    assert wait.target == "<= 0.03" and 0 <= wait.value <= 1
