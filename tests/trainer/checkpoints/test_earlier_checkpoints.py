"""Runs and weights from before December 2026, whose head lay under the objective, still serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
import yaml

from dawnchorus.trainer.checkpoints.checkpoint import load
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.training.run import run


def as_before(path: Path) -> None:
    """Rewrite a checkpoint with the names of then."""
    content = load(path)
    for tensors in (content["state_dict"], content["dawnchorus"]["ema"]):
        for part in ("weight", "bias"):
            tensors[f"objective.head.{part}"] = tensors.pop(f"model.head.{part}")
    train = content["dawnchorus"]["recipe"]["train"]
    train["codebook_batches"] = train.pop("prepare_batches")
    torch.save(content, path)


def test_an_earlier_run_continues_and_its_weights_load(
    tone_dataset: Path, tmp_path: Path, same_state: Callable[[dict[str, Any], dict[str, Any]], bool]
) -> None:
    recipe = load_recipe(
        "sl_beats_tiny",
        [*tiny.ENCODERS["beats"], f"data.train.tones.path={tone_dataset}", f"runs={tmp_path}",
         "name=run", "train.max_steps=4", "train.checkpoint_every=2", "train.keep_every=2",
         "train.global_batch=4", "train.micro_batch=4", "train.accelerator=cpu",
         "data.window_s=1.0", "data.workers=0", "optim.warmup_steps=1", "optim.ema_decay=0.9",
         "optim.head_only_steps=1", "optim.head_warmup_steps=0", "log.wandb=off"],
    )  # fmt: skip
    folder = run(recipe)
    straight = load(folder / "checkpoints" / "step_000000004.ckpt")
    for name in ("step_000000004.ckpt", "last.ckpt"):
        (folder / "checkpoints" / name).unlink()
    half = folder / "checkpoints" / "step_000000002.ckpt"
    now = load_model(half).model.state_dict()
    as_before(half)
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    written["train"]["codebook_batches"] = written["train"].pop("prepare_batches")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    then = load_model(half).model.state_dict()
    assert now.keys() == then.keys() and "head.weight" in then
    assert all(torch.equal(tensor, then[name]) for name, tensor in now.items())
    run(recipe)
    assert same_state(straight, load(folder / "checkpoints" / "step_000000004.ckpt"))
