"""What Weights & Biases is sent: names and figures."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from dawnchorus.trainer.public import public_recipe
from dawnchorus.trainer.training.loggers.base import LoggedRun
from dawnchorus.trainer.training.loggers.wandb import Wandb
from dawnchorus.trainer.training.loggers.wandb_config import WandbConfig


def test_it_gets_no_path_host_or_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "home-of-jane" / "runs" / "birds"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = {
        "name": "birds",
        "runs": str(run.parent),
        "data": {"train": {"main": {"path": "s3://museum-private/jane/garden"}}},
        "optim": {"lr": 0.125},
    }
    logged = LoggedRun(folder=run, name="birds", recipe=public_recipe(recipe), first_step=0)
    sink = Wandb.start(WandbConfig(wandb="offline", wandb_project="owls"), logged)
    assert sink is not None
    sink.write({"kind": "train", "step": 1, "samples_seen": 8, "loss": 0.5})
    sink.close()
    [sent] = run.glob("wandb/offline-run-*/*.wandb")
    # Its own process writes the file, and may do so after it has said that the run is finished.
    while b"train/loss" not in sent.read_bytes():
        time.sleep(0.05)
    files = [sent, *(path for path in sent.parent.glob("files/**/*") if path.is_file())]
    content = b"".join(path.read_bytes() for path in files)
    assert b"garden" in content and b"0.125" in content
    for secret in (
        "home-of-jane", "museum-private", str(tmp_path), str(Path.home()), str(Path.cwd()),
        sys.executable, sys.argv[0], "github.com", "git@", "wandb-metadata",
    ):  # fmt: skip
        assert secret.encode() not in content, secret
