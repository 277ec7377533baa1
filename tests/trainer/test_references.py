"""The environment gets into paths of a recipe, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dawnchorus.trainer.compose import shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.recipe import load_recipe


def compose_mine(folder: Path, text: str) -> str:
    """What is said of a recipe with these lines; empty where nothing is wrong."""
    (folder / "mine.yaml").write_text("defaults: [sl_beats_tiny, _self_]\nname: mine\n" + text)
    try:
        load_recipe(str(folder / "mine.yaml"))
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "text",
    [
        "log: {wandb_project: '${oc.env:SECRET}'}",
        "card: {title: 'a ${oc.env:SECRET,x} b'}",
        "card: {title: '${ oc.env:SECRET}'}",
        "card: {title: '${oc.decode:${oc.env:SECRET}}'}",
        "card: {title: '${oc.env:${oc.env:SECRET}}'}",
        "init_from: '${oc.env:SECRET}'\ncard: {title: '${init_from}'}",
        "data: {train: {a: {path: '${oc.env:SECRET}'}}}\ncard: {title: '${data.train.a.path}'}",
        "card: {title: '${oc.create:1}'}",
        "init_from: '${hydra:runtime.cwd}'",
        "data: {train: {a: {path: x, splits: ['${oc.env:SECRET}']}}}",
    ],
)
def test_secrets_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    said = compose_mine(tmp_path, text)
    assert "does not compose" in said and "hunter2" not in said


def test_paths_read_the_environment_and_keys_refer_to_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "/data")
    text = (
        "init_from: '${oc.env:PLACE}/start'\nseed: 3\nlog: {wandb_project: 'seed ${seed}'}\n"
        "data: {train: {a: {path: '${oc.env:PLACE}/a'}, b: {path: '${data.train.a.path}/b'}}}"
    )
    assert compose_mine(tmp_path, text) == ""
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert (recipe.init_from, recipe.log.wandb_project) == ("/data/start", "seed 3")
    assert recipe.data.train["b"].path == "/data/a/b"
    for name in shipped_recipes():
        load_recipe(name)
