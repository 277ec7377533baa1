"""A run that was stopped, killed or moved ends as if nothing had happened."""

from __future__ import annotations

import random

import pytest

STEPS = 8
COMMON = [f"train.max_steps={STEPS}", "train.global_batch=8", "train.checkpoint_every=3",
          "encoder.layer_drop=0.3", "encoder.dropout=0.1", "augment.mixup_prob=0.5",
          "optim.head_only_steps=2", "optim.ema_decay=0.9"]  # fmt: skip
SSL = {
    "ssl_beats_tiny": [x for x in COMMON if "head_only" not in x and "mixup" not in x],
    "ssl_hubert_tiny": [*COMMON[:5], "optim.ema_decay=0.9", "objective.units.codes=8"],
    "ssl_eat_tiny": [*COMMON[:3], "encoder.drop_path=0.3", "optim.ema_decay=0.9"],
}


@pytest.fixture
def assert_same_run(same_state):
    """Two runs saw the same clips and ended with the same weights."""

    def check(a, b) -> None:
        assert a.steps() == b.steps()
        assert set(a.steps()) == set(range(STEPS))
        assert same_state(a.checkpoint(), b.checkpoint())

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "recipe"),
    [
        (0, "sl_beats_tiny"),
        (1, "ssl_beats_tiny"),
        (2, "sl_beats_tiny"),
        (0, "ssl_eat_tiny"),
        (1, "ssl_hubert_tiny"),
    ],
)
def test_stopped_and_killed_runs_end_bit_identical_on_one_rank(
    chorus_train, assert_same_run, workers, recipe
):
    common = SSL.get(recipe, COMMON)
    layout = [*common, "train.micro_batch=4", f"data.workers={workers}", "train.devices=1"]
    straight = chorus_train("straight", *layout, recipe=recipe)
    assert straight.code == 0, straight.stderr

    # SIGTERM between the two micro-steps of a step: that step is finished and saved.
    hurt = {"signal": "SIGTERM", "step": 4, "micro_step": 0, "rank": None}
    stopped = chorus_train("stopped", *layout, recipe=recipe, hurt=hurt)
    assert stopped.code == 75, stopped.stderr
    assert stopped.checkpoint()["dawnchorus"]["step"] == 5
    resumed = chorus_train("stopped", *layout, recipe=recipe)
    assert resumed.code == 0, resumed.stderr
    assert_same_run(straight, resumed)

    step = random.Random(6 + workers).randrange(1, STEPS)
    hurt = {"signal": "SIGKILL", "step": step, "micro_step": 1, "rank": None}
    killed = chorus_train("killed", *layout, recipe=recipe, hurt=hurt)
    assert killed.code == -9
    resumed = chorus_train("killed", *layout, recipe=recipe)
    assert resumed.code == 0, resumed.stderr
    assert_same_run(straight, resumed)
    # Lines after the checkpoint that the run came back from are marked, so each step stands once.
    standing = [
        x["step"] for x in resumed.metrics() if x["kind"] == "train" and not x.get("superseded")
    ]
    assert standing == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.ddp
def test_stopped_and_killed_runs_end_bit_identical_on_two_ranks(chorus_train, assert_same_run):
    layout = [*COMMON, "train.micro_batch=2", "data.workers=1", "train.devices=2"]
    straight = chorus_train("straight", *layout, cold=True)
    assert straight.code == 0, straight.stderr
    # Only rank 1 is asked to stop, and it is the slow one: all ranks must agree on the same step.
    hurt = {"signal": "SIGTERM", "step": 4, "micro_step": 0, "rank": 1}
    stopped = chorus_train("stopped", *layout, slow_s=0.05, hurt=hurt)
    assert stopped.code == 75, stopped.stderr
    resumed = chorus_train("stopped", *layout)
    assert resumed.code == 0, resumed.stderr
    assert_same_run(straight, resumed)
    hurt = {"signal": "SIGKILL", "step": 5, "micro_step": 1, "rank": None}
    killed = chorus_train("killed", *layout, hurt=hurt)
    assert killed.code != 0
    resumed = chorus_train("killed", *layout)
    assert resumed.code == 0, resumed.stderr
    assert_same_run(straight, resumed)


@pytest.mark.slow
@pytest.mark.ddp
def test_another_topology_sees_the_same_clips(chorus_train):
    before = ["train.micro_batch=2", "data.workers=1", "train.devices=2"]
    stop = {"signal": "SIGTERM", "step": 3, "micro_step": 1, "rank": None}
    straight = chorus_train("straight", *COMMON, *before)
    assert straight.code == 0, straight.stderr
    for name, after in {
        "fewer_ranks": ["train.micro_batch=2", "data.workers=2", "train.devices=1"],
        "larger_micro_batch": ["train.micro_batch=8", "data.workers=0", "train.devices=1"],
    }.items():
        stopped = chorus_train(name, *COMMON, *before, hurt=stop)
        assert stopped.code == 75, stopped.stderr
        resumed = chorus_train(name, *COMMON, *after)
        assert resumed.code == 0, resumed.stderr
        assert straight.steps() == resumed.steps()


@pytest.mark.slow
@pytest.mark.ddp
def test_asked_or_killed_in_a_validation_or_a_checkpoint(
    chorus_train, assert_same_run, tone_dataset
):
    """The moments in which a signal is most awkward; each run ends as if there had been none."""
    layout = [*COMMON, "train.micro_batch=4", "data.workers=0", "train.devices=2",
              f"data.valid.tones.path={tone_dataset}", "train.validate_every=2"]  # fmt: skip
    straight = chorus_train("straight", *layout)
    assert straight.code == 0, straight.stderr
    # It is validated on what it is trained on, and says so.
    (seen,) = [x["message"] for x in straight.metrics() if x.get("event") == "validation_seen"]
    assert seen.startswith("48 of 48 validation clips")

    def validations(run):
        return [(x["step"], x["map"]) for x in run.metrics() if x["kind"] == "valid"]

    for name, signal, where, rank, step, code, saved in (
        # One rank alone is asked; all break off, save where they are, and owe the validation.
        ("validating", "SIGUSR1", "validation", 1, 4, 75, 4),
        # Asked while the checkpoint of step 3 is written: the step after it is the boundary.
        ("saving", "SIGTERM", "checkpoint", None, 3, 75, 4),
        # The node's power fails with half of step 6 on the disk: the one before is used.
        ("half", "SIGKILL", "half a checkpoint", None, 6, -9, 3),
    ):
        hurt = {"signal": signal, "where": where, "rank": rank, "step": step}
        hurt_run = chorus_train(name, *layout, hurt=hurt)
        assert hurt_run.code == code, (name, hurt_run.stderr)
        assert hurt_run.checkpoint()["dawnchorus"]["step"] == saved, name
        resumed = chorus_train(name, *layout)
        assert resumed.code == 0, (name, resumed.stderr)
        assert_same_run(straight, resumed)
        assert dict(validations(resumed)) == dict(validations(straight)), name
        left = [path.name for path in (resumed.folder / "checkpoints").iterdir()]
        assert not [name for name in left if name.endswith(".tmp")], left
