"""What may continue a run folder: its length above all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.recipe import Recipe, load_recipe
from dawnchorus.trainer.training.run_folder import check_folder
from dawnchorus.trainer.training.schedule import learning_rate


def recipe(tmp_path: Path, *overrides: str) -> Recipe:
    given = [f"runs={tmp_path}", "name=mine", "data.train.mine.path=tones", "optim.warmup_steps=10",
             "optim.lr=1e-3", "optim.min_lr=1e-5", "train.global_batch=16"]  # fmt: skip
    return load_recipe("ssl_beats_tiny", [*given, *overrides])


def began(first: Recipe, steps: int) -> None:
    """A run folder as it is after so many steps of 100."""
    (first.folder / "checkpoints").mkdir(parents=True)
    (first.folder / "recipe.yaml").write_text(yaml.safe_dump(first.resolved()))
    for step in (steps // 2, steps):
        (first.folder / "checkpoints" / f"step_{step:09d}.ckpt").touch()


@pytest.mark.parametrize(
    ("schedule", "steps", "allowed"),
    [
        ("cosine", 100, False),
        ("cosine", 40, False),
        ("cosine", 10, True),  # still warming up
        ("linear", 40, False),
        ("constant", 100, True),
        ("wsd", 80, True),  # the last fifth falls
        ("wsd", 90, False),
    ],
)
def test_a_run_is_made_longer_where_its_rates_stay_what_they_were(
    tmp_path: Path, schedule: str, steps: int, allowed: bool
) -> None:
    same = [f"optim.schedule={schedule}"]
    began(recipe(tmp_path, *same, "train.max_steps=100"), steps)
    longer = recipe(tmp_path, *same, "train.max_steps=200")
    rates = [[learning_rate(longer.optim, s, total) for s in range(steps)] for total in (100, 200)]
    assert allowed == (rates[0] == rates[1])
    if allowed:
        check_folder(longer)
        return
    with pytest.raises(RecipeError, match="100 steps there, 200 now") as caught:
        check_folder(longer)
    told = str(caught.value)
    jump = f"{rates[0][-1]:.3g} to {rates[1][-1]:.3g}"
    for part in (jump, "name=...", f"init_from={longer.folder}"):
        assert part in told, (part, told)


def test_a_finished_run_is_made_longer_by_a_restart(tmp_path: Path) -> None:
    same = "optim.schedule=cosine"
    first = recipe(tmp_path, same, "train.max_steps=100")
    began(first, 100)
    with pytest.raises(RecipeError, match=r"optim\.restarts=\[100\]"):
        check_folder(recipe(tmp_path, same, "train.max_steps=200"))
    longer = recipe(tmp_path, same, "train.max_steps=200", "optim.restarts=[100]")
    check_folder(longer)
    # What was done stays, and the new steps are those of a run that begins at the old end.
    old, new = (
        [learning_rate(r.optim, s, r.train.total_steps) for s in range(r.train.total_steps)]
        for r in (first, longer)
    )
    assert new[:100] == old and new[100:] == old

    # Its own recipe is in the folder now; it is made longer once more.
    (first.folder / "recipe.yaml").write_text(yaml.safe_dump(longer.resolved()))
    (first.folder / "checkpoints" / f"step_{200:09d}.ckpt").touch()
    check_folder(recipe(tmp_path, same, "train.max_steps=500", "optim.restarts=[100,200]"))
    for wrong in ("[]", "[200]", "[50,100,200]", "[150,200]"):
        with pytest.raises(RecipeError, match="the learning rate would jump"):
            check_folder(recipe(tmp_path, same, "train.max_steps=500", f"optim.restarts={wrong}"))


def test_a_key_that_is_newer_than_the_run_stands_for_its_default(tmp_path: Path) -> None:
    first = recipe(tmp_path, "train.max_steps=100")
    began(first, 60)
    there = first.resolved()
    del there["optim"]["decay_fraction"]
    (first.folder / "recipe.yaml").write_text(yaml.safe_dump(there))
    check_folder(first)
    with pytest.raises(RecipeError, match=r"optim\.decay_fraction: None there, 0\.5 now"):
        check_folder(recipe(tmp_path, "train.max_steps=100", "optim.decay_fraction=0.5"))


def test_the_same_length_may_be_said_otherwise_and_none_is_too_short(tmp_path: Path) -> None:
    began(recipe(tmp_path, "train.max_steps=100", "optim.schedule=constant"), 60)
    clips = ["train.max_steps=null", "train.max_clips=1595"]  # of 16 a step
    check_folder(recipe(tmp_path, *clips, "optim.schedule=constant"))
    check_folder(recipe(tmp_path, "train.max_steps=60", "optim.schedule=constant"))
    with pytest.raises(RecipeError, match="it has done 60 steps"):
        check_folder(recipe(tmp_path, "train.max_steps=59", "optim.schedule=constant"))
