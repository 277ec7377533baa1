"""What a run does with odd steps, odd data and odd commands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import named_in, tiny_objective

from dawnchorus.trainer.compose import compose, shipped_recipes
from dawnchorus.trainer.registry import OBJECTIVES

REFERENCES = Path(__file__).with_name("reference_losses.json")
"""Losses of the first two steps of every shipped recipe, made tiny. Who changes one says why."""
SHORT = ["train.max_steps=2", "train.global_batch=4", "train.micro_batch=4", "data.workers=0",
         "train.devices=1", "optim.head_only_steps=1", "optim.head_warmup_steps=0",
         "optim.warmup_steps=1", "train.validate_every=2", "train.max_clips=null",
         "init_from=null"]  # fmt: skip


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, make_dataset) -> Path:
    """A folder with every dataset that a shipped recipe names, each a few tones long."""
    root = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(0)
    clips = [
        {
            "wav": (rng.standard_normal(32000) * 3000).astype(np.int16),
            "labels": [f"kind_{i % 3}"],
            "split": "valid" if i % 4 == 3 else "train",
            "fold": i % 5,
        }
        for i in range(16)
    ]
    for name in ("audioset", "xeno_canto", "xeno_canto_32k", "inaturalist", "watkins",
                 "animal_sound_archive", "noise", "main", "main_32k"):  # fmt: skip
        rate = 32000 if name.endswith("_32k") else 16000
        make_dataset(root / name, clips, [f"kind_{k}" for k in range(3)], rate_hz=rate)
    return root


def earlier_tokenizer(chorus_train, data: Path) -> list[str]:
    """Train what a second iteration of BEATs takes its codes from; overrides that name it."""
    tiny = [x for x in SHORT if "head" not in x] + tiny_objective("tokenizer_beats_tiny")
    done = chorus_train("tokenizer", *tiny, recipe="tokenizer_beats_tiny", data=data)
    assert done.code == 0, done.stderr
    path = f"objective.tokenizer.path={done.folder}"
    return [path, "objective.tokenizer.codebook_size=16"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_shipped_recipe_runs_two_steps(chorus_train, corpora, recipe, monkeypatch):
    monkeypatch.setenv("CHORUS_DATA", str(corpora))
    labels = OBJECTIVES.config(named_in(recipe, "objective")).needs_labels
    only = SHORT if labels else [x for x in SHORT if "head" not in x]
    rate = compose(recipe)["encoder"].get("sample_rate_hz", 16000)
    main = corpora / ("main" if rate == 16000 else "main_32k")
    only = [*only, *tiny_objective(recipe)]
    if compose(recipe)["objective"].get("tokenizer", {}).get("name") == "learned":
        only += earlier_tokenizer(chorus_train, main)
    done = chorus_train("short", *only, recipe=recipe, data=main)
    assert done.code == 0, done.stderr
    lines = [line for line in done.metrics() if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    losses = [line["loss"] for line in lines]
    known = json.loads(REFERENCES.read_text()) if REFERENCES.is_file() else {}
    if os.environ.get("WRITE_REFERENCE_LOSSES"):
        known = dict(sorted((known | {recipe: losses}).items()))
        REFERENCES.write_text(json.dumps(known, indent=1) + "\n")
    assert recipe in known, f"no reference losses: WRITE_REFERENCE_LOSSES=1 pytest -k {recipe}"
    # Another processor's kernels differ in the last digits; another formula differs by far more.
    assert losses == pytest.approx(known[recipe], rel=1e-3)
    rounds = {key: value for key, value in lines[-1].items() if key.startswith("epochs/")}
    assert "epochs/main" in rounds and 0 < sum(rounds.values()) <= 1
    assert (done.folder / "report.html").stat().st_size > 10_000
    for name in ("recipe.yaml", "environment.json", "data.json", "labels.json", "examples.npz"):
        assert (done.folder / name).is_file(), name
    # What the recipe reads from the environment is recorded as it was written.
    others = (x for x in corpora.iterdir() if not x.name.startswith("main"))
    filled = [str(x).encode() for x in others]
    for path in done.folder.rglob("*"):
        if path.is_file():
            assert not [x for x in filled if x in path.read_bytes()], path


FEW = ["train.max_steps=5", "train.global_batch=8", "data.workers=0", "optim.head_only_steps=0",
       "optim.head_lr=null", "augment.mixup_prob=0", "train.devices=1"]  # fmt: skip


@pytest.mark.slow
def test_a_non_finite_step_is_skipped_named_and_three_in_a_row_end_the_run(chorus_train):
    layout = [*FEW, "train.micro_batch=4", "train.checkpoint_every=1", "train.keep_last=10"]
    once = chorus_train("once", *layout, nan={"steps": [2], "rank": 0})
    assert once.code == 0, once.stderr
    (event,) = [x for x in once.metrics() if x.get("event") == "non_finite"]
    assert event["step"] == 3  # the third optimiser step, counted from 1
    for part in ("rank 0", "positions 16-19", "parameter group"):
        assert part in event["message"], event["message"]
    files = once.folder / "checkpoints"
    before, after = (
        torch.load(files / f"step_{s:09d}.ckpt", weights_only=True)["state_dict"] for s in (2, 3)
    )
    assert all(torch.equal(before[k], after[k]) for k in before)
    later = torch.load(files / "step_000000004.ckpt", weights_only=True)["state_dict"]
    assert not all(torch.equal(later[k], after[k]) for k in after)
    assert all(torch.isfinite(v).all() for v in later.values() if v.is_floating_point())

    thrice = chorus_train("thrice", *layout, nan={"steps": [1, 2, 3], "rank": 0})
    assert thrice.code == 76
    assert "3 steps in a row" in thrice.stderr and "Traceback" not in thrice.stderr


@pytest.mark.slow
def test_the_loss_is_a_mean_over_the_global_batch_whatever_the_micro_batch(
    chorus_train, make_dataset, tmp_path
):
    rng = np.random.default_rng(1)
    clips = [
        {"wav": (rng.standard_normal(int(16000 * s)) * 3000).astype(np.int16), "labels": ["a"]}
        for s in rng.uniform(0.4, 2.0, 24)
    ]
    data = make_dataset(tmp_path / "uneven", clips, ["a"])
    losses = []
    for name, micro in (("whole", 8), ("parts", 2)):
        done = chorus_train(
            name, "train.max_steps=3", "train.global_batch=8", f"train.micro_batch={micro}",
            "data.workers=0", "train.devices=1", "augment.mixup_prob=0", "optim.head_only_steps=0",
            "optim.head_lr=null", data=data,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        losses.append([x["loss"] for x in done.metrics() if x["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


@pytest.mark.slow
def test_broken_clips_are_named_and_replaced_and_too_many_end_the_run(
    chorus_train, make_dataset, tmp_path
):
    import pyarrow.parquet as pq

    rng = np.random.default_rng(2)
    clips = [
        {"wav": (rng.standard_normal(16000) * 3000).astype(np.int16), "labels": ["a"]}
        for _ in range(24)
    ]
    data = make_dataset(tmp_path / "hurt", clips, ["a"])
    rows = pq.read_table(data / "index.parquet").to_pylist()

    def hurt(count: int) -> None:
        for row in rows[:count]:
            with (data / row["shard"]).open("r+b") as tar:
                tar.seek(row["offset"])
                tar.write(b"\0" * row["size"])

    hurt(1)
    layout = [*FEW, "train.micro_batch=8"]
    done = chorus_train("one", *layout, data=data)
    assert done.code == 0, done.stderr
    events = [x["message"] for x in done.metrics() if x.get("event") == "broken_clip"]
    assert len(events) == 1 and rows[0]["key"] in events[0]

    hurt(3)
    ended = chorus_train("three", *layout, data=data)
    assert ended.code == 2, ended.stderr
    assert "cannot be decoded" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_folder_belongs_to_one_recipe_and_wandb_keeps_one_id(chorus_train):
    layout = [*FEW, "train.micro_batch=8", "log.wandb=offline", "log.tensorboard=true"]
    first = chorus_train("mine", *layout, hurt={"signal": "SIGUSR1", "step": 1, "micro_step": 0,
                                                "rank": None})  # fmt: skip
    assert first.code == 75, first.stderr
    assert "SIGUSR1" in first.stderr
    wandb_id = (first.folder / "wandb_id.txt").read_text()
    other = chorus_train("mine", *layout, "optim.lr=0.123", "optim.min_lr=0")
    assert other.code == 2
    assert "optim.lr" in other.stderr and "another name" in other.stderr
    second = chorus_train("mine", *layout)
    assert second.code == 0, second.stderr
    assert (second.folder / "wandb_id.txt").read_text() == wandb_id
    folders = list((second.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(f.name.endswith(wandb_id) for f in folders)
    assert len(list((second.folder / "tensorboard").glob("events.out.tfevents.*"))) == 2
    kinds = [x.get("event") for x in second.metrics() if x["kind"] == "event"]
    assert kinds == ["started", "preempted", "resumed", "finished"]
    again = chorus_train("mine", *layout)
    assert again.code == 0
    # Finished or not: what is asked for is not what lies there.
    changed = chorus_train("mine", *layout, "optim.lr=0.123", "optim.min_lr=0")
    assert changed.code == 2 and "optim.lr" in changed.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(chorus_train, tmp_path):
    mount = tmp_path / "runs"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        # The first checkpoints fit; keeping them all fills the disk.
        layout = [*FEW, "train.micro_batch=8", "train.checkpoint_every=1", "train.keep_last=100",
                  "train.max_steps=40"]  # fmt: skip
        done = chorus_train("full", *[x for x in layout if x != "train.max_steps=5"])
        assert done.code == 2, done.stderr
        assert "make room" in done.stderr and "Traceback" not in done.stderr
        kept = sorted((done.folder / "checkpoints").glob("step_*.ckpt"))
        assert kept and not list((done.folder / "checkpoints").glob(".*.tmp"))
        for path in kept:
            assert torch.load(path, weights_only=True)["dawnchorus"]["format"] == 1
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_metrics_are_json_lines(chorus_train):
    done = chorus_train("lines", *FEW, "train.micro_batch=8")
    assert done.code == 0, done.stderr
    for line in (done.folder / "metrics.jsonl").read_text().splitlines():
        assert {"kind", "step", "samples_seen", "wall_s"} <= json.loads(line).keys()


@pytest.mark.slow
def test_ctrl_c_saves_and_is_no_pre_emption(chorus_train):
    layout = [*FEW, "train.micro_batch=8"]
    stopped = chorus_train("by_hand", *layout, hurt={"signal": "SIGINT", "step": 1,
                                                     "micro_step": 0, "rank": None})  # fmt: skip
    assert stopped.code == 75, stopped.stderr
    assert [x["event"] for x in stopped.metrics() if x["kind"] == "event"][-1] == "interrupted"
    assert not (stopped.folder / "requeue.json").exists()
    refused = chorus_train("by_hand", *layout, "train.global_batch=4", "train.micro_batch=4")
    assert refused.code == 2 and "init_from=" in refused.stderr and "name=" in refused.stderr
    assert not list((stopped.folder / "failures").glob("*-rank*.txt"))
