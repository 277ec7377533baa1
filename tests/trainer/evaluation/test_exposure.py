"""Which tested recordings a model was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dawnchorus.trainer.evaluation.clips import open_clips
from dawnchorus.trainer.evaluation.exposure import exposure
from dawnchorus.trainer.registry import OBJECTIVES


def recipe(path: Path, objective: str, **source: Any) -> dict[str, Any]:
    return {
        "name": objective, "objective": {"name": objective},
        "data": {"train": {"tones": {"path": str(path), **source}}},
    }  # fmt: skip


def test_clips_trained_on_with_labels_are_counted(tone_dataset: Path) -> None:
    clips = open_clips(tone_dataset)
    fold_3 = [i for i, f in enumerate(clips.fold_N) if f == "3"]
    tested = clips.recordings(fold_3)  # type: ignore[arg-type]
    assert len(tested) == 12
    seen = exposure(recipe(tone_dataset, "multilabel"), tested)
    assert (seen["known"], seen["labelled"], seen["unlabelled"]) == (True, 12, 0)
    held_out = exposure(recipe(tone_dataset, "multilabel", exclude_folds=["3"]), tested)
    assert (held_out["known"], held_out["labelled"]) == (True, 0)
    others = exposure(recipe(tone_dataset, "multilabel", folds=["0", "1"]), tested)
    assert others["labelled"] == 0
    assert exposure(recipe(tone_dataset, "multilabel", splits=["valid"]), tested)["labelled"] == 0


def test_earlier_stages_are_followed(tone_dataset: Path, tmp_path: Path) -> None:
    clips = open_clips(tone_dataset)
    tested = clips.recordings([0, 1, 2])  # type: ignore[arg-type]
    run = tmp_path / "pre"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe(tone_dataset, "masked_tokens")))
    later = recipe(tone_dataset, "multilabel", folds=["3"]) | {"init_from": str(run)}
    seen = exposure(later, tested)
    assert (seen["known"], seen["labelled"], seen["unlabelled"]) == (True, 0, 3)
    later["init_from"] = str(run / "checkpoints" / "last.ckpt")
    assert exposure(later, tested)["unlabelled"] == 3


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "tokenizer_distillation", "teacher": "PRE"},
        {"name": "masked_tokens", "tokenizer": {"name": "learned", "path": "PRE"}},
        {"name": "masked_units", "units": {"path": "PRE", "codes": 8}},
        {"name": "multilabel", "teacher": "PRE"},
    ],
)
def test_what_an_objective_listens_to_has_heard_something_too(
    tone_dataset: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    tested = open_clips(tone_dataset).recordings([0, 1, 2])  # type: ignore[arg-type]
    (tmp_path / "pre").mkdir()
    (tmp_path / "pre/recipe.yaml").write_text(yaml.safe_dump(recipe(tone_dataset, "masked_tokens")))
    plain = json.dumps(objective).replace("PRE", str(tmp_path / "pre"))
    later = recipe(tone_dataset, "x", folds=["3"]) | {"objective": json.loads(plain)}
    seen = exposure(later, tested)
    assert (seen["known"], seen["labelled"], seen["unlabelled"]) == (True, 0, 3)
    (tmp_path / "pre/recipe.yaml").unlink()
    (missing,) = exposure(later, tested)["missing"]
    assert missing.startswith("objective.") and missing.endswith(str(tmp_path / "pre"))


def test_what_cannot_be_looked_at_is_named(tmp_path: Path) -> None:
    assert exposure(None, ["a"])["missing"] == ["the file carries no recipe"]
    gone = recipe(tmp_path / "gone", "multilabel") | {"init_from": "runs/gone"}
    seen = exposure(gone, ["a"])
    assert not seen["known"]
    assert seen["missing"] == [f"multilabel: dataset {tmp_path / 'gone'}", "init_from runs/gone"]


def test_any_objective_that_learns_from_labels_counts(tone_dataset: Path) -> None:
    tested = open_clips(tone_dataset).recordings([0, 1])  # type: ignore[arg-type]
    for name in OBJECTIVES.names():
        config = OBJECTIVES.config(name)
        seen = exposure(recipe(tone_dataset, name), tested)
        assert config.name == name
        assert seen["labelled" if config.needs_labels else "unlabelled"] == 2
    # One of a later version: a score that may measure memory must not pass for one that does not.
    assert exposure(recipe(tone_dataset, "contrastive_with_labels"), tested)["labelled"] == 2


def test_relative_paths_are_found_from_any_folder(
    tone_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = open_clips(tone_dataset).recordings([0, 1, 2])  # type: ignore[arg-type]
    work = tmp_path / "work"
    (work / "datasets").mkdir(parents=True)
    (work / "datasets" / "tones").symlink_to(tone_dataset)
    for name, objective in (("pre", "masked_tokens"), ("post", "multilabel")):
        run = work / "runs" / name
        run.mkdir(parents=True)
        written = recipe(Path("datasets/tones"), objective)
        written |= {"init_from": "runs/pre"} if name == "post" else {}
        (run / "recipe.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.chdir(tmp_path)
    seen = exposure(written, tested, work / "runs" / "post")
    assert (seen["known"], seen["labelled"], seen["unlabelled"]) == (True, 3, 3)
    assert not exposure(written, tested)["known"]
    # Runs that lie elsewhere than what they were trained on, in one that says where it was started.
    away = tmp_path / "away" / "post"
    shutil.copytree(work / "runs" / "post", away)
    assert not exposure(written, tested, away)["known"]
    (away / "environment.json").write_text(json.dumps({"working_folder": str(work)}))
    assert exposure(written, tested, away)["known"]
