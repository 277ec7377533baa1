"""A model that is sharded over two ranks (FSDP) trains as one that is not, and is saved as well."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dawnchorus.slurm.estimate import estimate
from dawnchorus.trainer.checkpoints.checkpoint import load
from dawnchorus.trainer.evaluation.benchmark import evaluate
from dawnchorus.trainer.evaluation.config import load_config
from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.timeout(3000)]

STEPS = 20
NAN = {"steps": [12], "rank": 1}
TWO, FSDP = "train.devices=2", "train.strategy=fsdp"
# Everything that could go wrong at once: micro-steps, frozen encoder, dropped layers, clipping that
# bites, a moving average that validation swaps in, and a rank without a clip in that validation.
LAYOUT = [f"train.max_steps={STEPS}", "train.global_batch=8", "train.micro_batch=2",
          "data.workers=0", "train.checkpoint_every=5", "train.keep_last=10", "encoder.layers=3",
          "encoder.layer_drop=0.2", "encoder.dropout=0.1", "augment.mixup_prob=0.5",
          "optim.head_only_steps=3", "optim.ema_decay=0.9", "optim.clip_norm=0.5",
          "optim.warmup_steps=2", "train.validate_every=10",
          # The key biases have no gradient but rounding, of which Adam makes steps of this size.
          "optim.lr=1e-3", "optim.head_lr=2e-3"]  # fmt: skip


def figures(outcome: Any, kind: str, name: str) -> list[float]:
    lines = [x for x in outcome.metrics() if x["kind"] == kind and not x.get("superseded")]
    return [float("nan") if x[name] is None else x[name] for x in lines]


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Weights and moving average of two checkpoints agree, but for the order of sums."""
    parts = ((x["state_dict"], x["dawnchorus"]["ema"]) for x in (a, b))
    for left, right in zip(*parts, strict=True):
        assert left and left.keys() == right.keys()
        for name, tensor in left.items():
            torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=1e-5, msg=name)


def assert_estimated(done: Any, folder: Path) -> None:
    """What `chorus submit` says of memory is what the two ranks hold, within 3 %."""
    said = estimate(load_recipe(str(done.folder / "recipe.yaml")), 2)
    held = [int((folder / f"{done.folder.name}.held.{rank}").read_text()) for rank in (0, 1)]
    # Of a tensor with an odd number of rows the first rank has one more.
    assert sum(held) / 2 == pytest.approx(1e9 * said.state_gb, rel=0.005)
    assert held == pytest.approx([1e9 * said.state_gb] * 2, rel=0.03)


def again(kept: Path, run: Any) -> None:
    """The run as it was, with nothing of what came after."""
    shutil.rmtree(run.folder)
    shutil.copytree(kept, run.folder, symlinks=True)
    for ledger in run.ledger.parent.glob(f"{run.ledger.name}.*"):
        ledger.unlink()


def test_sharded_trains_as_unsharded_and_each_continues_the_other(
    chorus_train,
    tone_dataset,
    make_tones,
    make_dataset,
    same_state,
    damage_tensor,
    tmp_path,
    monkeypatch,
):
    # The second batch of the validation has one clip for rank 0 and none for rank 1.
    few = make_dataset(tmp_path / "few", *make_tones(5))
    layout = [*LAYOUT, f"data.valid.main.path={few}"]

    def run(name: str, *overrides: str, **driver: Any) -> Any:
        done = chorus_train(name, *layout, *overrides, nan=NAN, timeout_s=500, **driver)
        assert done.code == (75 if "hurt" in driver else 0), done.stderr
        assert "could not be written" not in done.stderr
        return done

    monkeypatch.setenv("DRIVER_HELD", str(tmp_path / "ddp.held"))
    ddp = run("ddp", TWO)
    monkeypatch.setenv("DRIVER_HELD", str(tmp_path / "fsdp.held"))
    fsdp = run("fsdp", TWO, FSDP)
    monkeypatch.delenv("DRIVER_HELD")
    for done in (ddp, fsdp):
        assert_estimated(done, tmp_path)
    for name in ("loss", "grad_norm"):
        there, here = figures(ddp, "train", name), figures(fsdp, "train", name)
        assert len(here) == STEPS
        assert here == pytest.approx(there, abs=1e-5, rel=1e-5, nan_ok=True)
    assert sum(norm > 0.5 for norm in there) > 5  # the clipping bites
    for name in ("loss", "map"):
        there, here = (figures(x, "valid", name) for x in (ddp, fsdp))
        assert len(here) == 2 and here == pytest.approx(there, abs=1e-5)
    assert figures(fsdp, "valid", "clips") == [5, 5]
    bad, worse = (
        [x["message"] for x in done.metrics() if x.get("event") == "non_finite"]
        for done in (ddp, fsdp)
    )
    assert len(worse) == 1 and bad == worse
    assert_close(ddp.checkpoint(), fsdp.checkpoint())
    assert (fsdp.folder / "examples.npz").is_file()
    folder = fsdp.folder / "checkpoints"
    assert (folder / "last.ckpt" / "shard_00001.pt").is_file()
    assert (folder / "best.ckpt").is_symlink() and not list(folder.glob(".*"))

    # Stopped at step 10; the newest checkpoint rots; from the one before, bit for bit the same.
    hurt = {"signal": "SIGTERM", "step": 9, "micro_step": 0, "rank": 1}
    stopped = run("stopped", TWO, FSDP, hurt=hurt)
    assert stopped.checkpoint()["dawnchorus"]["step"] == 10
    kept = shutil.copytree(stopped.folder, tmp_path / "kept", symlinks=True)
    damage_tensor(stopped.folder / "checkpoints" / "step_000000010.ckpt" / "shard_00001.pt")
    resumed = run("stopped", TWO, FSDP)
    events = {x["event"]: x["message"] for x in resumed.metrics() if x["kind"] == "event"}
    assert "shard_00001.pt" in events["damaged_checkpoint"]
    assert "step_000000005.ckpt" in events["resumed"]
    assert same_state(fsdp.checkpoint(), resumed.checkpoint())
    assert fsdp.steps() == resumed.steps()

    # The same run goes on without sharding, and on one rank; the unsharded one goes on with it.
    again(kept, stopped)
    other = run("stopped", TWO)
    assert (other.folder / "checkpoints" / "last.ckpt").is_file()
    assert_close(other.checkpoint(), ddp.checkpoint())
    again(kept, stopped)
    fewer = run("stopped", "train.devices=1", FSDP)
    assert fewer.steps() == {s: clips for s, clips in fsdp.steps().items() if s >= 10}
    for step in (15, 20):
        (ddp.folder / "checkpoints" / f"step_{step:09d}.ckpt").unlink()
    back = run("ddp", TWO, FSDP)
    assert_close(back.checkpoint(), fsdp.checkpoint())

    # What others get of a sharded run is what is in its checkpoints.
    given = load(folder / "last.ckpt")
    for ema in (True, False):
        model = load_model(folder / "last.ckpt", ema=ema).model.state_dict()
        tensors = given["state_dict"] | (given["dawnchorus"]["ema"] if ema else {})
        for name, tensor in model.items():
            assert torch.equal(tensor, tensors["model." + name]), name
    options = [f"data={tone_dataset}", "test_folds=[3]", "probe.epochs=1"]
    result = evaluate(fsdp.folder, load_config(options, "fast"))
    assert result["rows"][-1]["name"].startswith("model")
    export(fsdp.folder, tmp_path / "exported", card={"author": "A. Tester"})
    exported = load_model(tmp_path / "exported").model.state_dict()
    best = load_model(fsdp.folder).model.state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in exported.items())


def test_sharded_pre_training_with_recomputed_layers(chorus_train):
    layout = ["train.max_steps=6", "train.global_batch=4", "train.micro_batch=2", TWO,
              "data.workers=0", "encoder.layer_drop=0.2", "encoder.grad_checkpoint=true",
              "objective.min_perplexity=1"]  # fmt: skip
    runs = [
        chorus_train(
            name, *layout, f"train.strategy={name}", recipe="ssl_beats_tiny", timeout_s=500
        )
        for name in ("ddp", "fsdp")
    ]
    for done in runs:
        assert done.code == 0, done.stderr
        assert "could not be written" not in done.stderr
    for name in ("loss", "grad_norm", "masked_accuracy"):
        there, here = (figures(done, "train", name) for done in runs)
        assert len(here) == 6 and here == pytest.approx(there, abs=1e-5, rel=1e-5)
