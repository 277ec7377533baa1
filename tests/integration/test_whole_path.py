"""From a folder of sound to a model that others load, with the commands that a person types."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

PROGRAM = "import sys; sys.argv[0] = 'chorus'; from dawnchorus.trainer.cli import main; main()"
SMALL = ["encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64", "encoder.heads=2",
         "data.window_s=2.0", "data.workers=0", "train.global_batch=8", "train.micro_batch=8",
         "train.accelerator=cpu", "log.wandb=disabled", "optim.warmup_steps=1"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 recordings of 3 kinds at mixed rates, some stereo, with recordists and licences."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "sound"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "species", "recordist", "licence", "group_id", "fold"])
        for i in range(30):
            rate = (16000, 22050, 44100)[i % 3]
            time = np.arange(3 * rate) / rate
            pitch = 700.0 * (1 + i % 3) * (1 + 0.3 * np.sin(2 * np.pi * 3 * time))
            wav = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
            wav = wav + 0.01 * rng.standard_normal(len(wav))
            name = f"{i:02d}.{('wav', 'flac', 'ogg')[i % 3]}"
            sf.write(folder / name, np.stack([wav, wav], 1) if i % 4 == 0 else wav, rate)
            licence = "https://creativecommons.org/licenses/by-nc/4.0/"
            table.writerow(
                [name, f"species {i % 3}", f"person {i % 5}", licence, f"{i % 5}", i % 5]
            )
    return folder


@pytest.mark.slow
def test_the_whole_path(folder: Path, tmp_path: Path) -> None:
    def chorus(*arguments: str) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True, text=True, timeout=500, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    chorus("prep", "folder", str(folder), "--out", "data")
    chorus("train", "ssl_beats_tiny", "data.train.main.path=data", "name=pre", *SMALL,
           "data.train.main.exclude_folds=[4]", "train.max_steps=6",
           "objective.min_perplexity=1", "data.valid.main.path=data",
           "data.valid.main.folds=[3]")  # fmt: skip
    chorus("train", "sl_beats_tiny", "data.train.main.path=data", "name=post", *SMALL,
           "data.train.main.folds=[0,1,2]", "init_from=runs/pre", "train.max_steps=12",
           "optim.head_only_steps=4", "data.valid.main.path=data",
           "data.valid.main.folds=[3]")  # fmt: skip
    table = chorus("evaluate", "runs/post", "data=data", "test_folds=[4]", "--preset", "fast",
                   "probe.epochs=5")  # fmt: skip
    for row in ("log-mel", "random-init", "model"):
        assert row in table
    result = json.loads((tmp_path / "runs/post/evaluation/data.json").read_text())
    assert [r["name"] for r in result["rows"]] == ["log-mel", "random-init", "model"]
    out = chorus("export", "runs/post", "--out", "mine", "--author", "A. Tester")
    assert "AutoModel.from_pretrained" in out
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "person 3" in card and "by-nc" in card and "Untrained encoder" in card
    again = chorus("evaluate", "mine", "data=data", "test_folds=[4]", "--preset", "fast",
                   "probe.epochs=5", "--out", "again.json")  # fmt: skip
    assert "model" in again
    same = json.loads((tmp_path / "again.json").read_text())["rows"][-1]
    assert same["probe"]["mean"] == pytest.approx(result["rows"][-1]["probe"]["mean"], abs=1e-6)
    chorus("report", "runs/pre", "runs/post", "--out", "report.html")
    assert "random-init" in (tmp_path / "report.html").read_text()
