"""The environment gets into paths of a recipe, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.compose import shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.public import public_recipe
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.references import filled


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
        # Two backslashes are a backslash, and a reference after it.
        r"card: {title: 'a\\${oc.env:SECRET}'}",
        r"card: {title: '\\\\${oc.env:SECRET}'}",
        "init_from: '${oc.env:SECRET}'\ncard: {title: '${[init_from]}'}",
        "data: {train: {a: {path: '${oc.env:SECRET}'}}}\ncard: {title: '${data[train].a[path]}'}",
        "log: {wandb_project: oc.env}\ncard: {title: '${${log.wandb_project}:SECRET}'}",
        "data: {train: {a: {path: '${oc.env:WANDB_API_KEY}'}}}",
        "data: {train: {a: {path: 's3://x/${oc.env:HOME,${oc.env:MY_TOKEN}}'}}}",
    ],
)
def test_secrets_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for name in ("SECRET", "WANDB_API_KEY", "MY_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
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


def test_paths_are_recorded_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "/home/jane/private")
    written = {
        "a": "${oc.env:PLACE}/a",
        "b.c": "${data.train.a.path}/b/${seed}",
        "d": "${oc.env:OTHER,'/x y, z'}",
        "e": "${oc.env:OTHER,${oc.env:PLACE}/e}",
        "f": "/plain/${seed}",
    }
    sources = {name: {"path": text, "weight": 1.0} for name, text in written.items()}
    text = plain_yaml.dump({"seed": 3, "runs": "${oc.env:PLACE}/runs", "data": {"train": sources}})
    assert compose_mine(tmp_path, text) == ""
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    values = {name: source.path for name, source in recipe.data.train.items()}
    home = "/home/jane/private"
    assert values == {
        "a": f"{home}/a", "b.c": f"{home}/a/b/3", "d": "/x y, z", "e": f"{home}/e", "f": "/plain/3",
    }  # fmt: skip
    recorded = recipe.resolved()
    assert {name: source["path"] for name, source in recorded["data"]["train"].items()} == {
        "a": "${oc.env:PLACE}/a", "b.c": "${oc.env:PLACE}/a/b/3",
        "d": "${oc.env:OTHER,'/x y, z'}", "e": "${oc.env:OTHER,${oc.env:PLACE}/e}", "f": "/plain/3",
    }  # fmt: skip
    assert recorded["runs"] == "${oc.env:PLACE}/runs"
    moved = recipe.model_copy(update={"runs": "/elsewhere"})
    assert moved.resolved()["runs"] == "/elsewhere"
    # A job that is queued again reads the record, with the environment of that day.
    (tmp_path / "recipe.yaml").write_text(plain_yaml.dump(recorded))
    again = load_recipe(str(tmp_path / "recipe.yaml"))
    assert again.values() == recipe.values() and again.resolved() == recorded
    monkeypatch.setenv("PLACE", "/there")
    assert load_recipe(str(tmp_path / "recipe.yaml")).data.train["b.c"].path == "/there/a/b/3"
    assert filled(recorded["data"]["train"]["e"]["path"]) == "/there/e"
    monkeypatch.delenv("PLACE")
    with pytest.raises(RecipeError, match="the environment variable PLACE is not set here"):
        load_recipe(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("${oc.env:BIRDS}", "BIRDS"), ("${oc.env:D,/data}/owls/", "owls"),
        ("s3://${oc.env:A,${oc.env:B,c/d}}/x", "x"), ("${oc.env:A,${oc.env:B,c/d}}", "A"),
    ],
)  # fmt: skip
def test_what_leaves_the_machine_has_a_name_for_it(recorded: str, name: str) -> None:
    assert public_recipe({"init_from": recorded}) == {"init_from": name}


@pytest.mark.parametrize(
    "defaults",
    ['["${oc.env:NAME}"]', "'${oc.env:NAME}'",
     "[ssl_beats_tiny, {override encoder: '${oc.env:NAME}'}]",
     "[ssl_beats_tiny, {override encoder: 'x${runs}'}]"],
)  # fmt: skip
def test_defaults_hold_no_references(
    defaults: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra fills them in itself: the value would stand in its message."""
    monkeypatch.setenv("NAME", "hush-hush")
    (tmp_path / "x.yaml").write_text(f"defaults: {defaults}\n")
    with pytest.raises(RecipeError, match="defaults are written out") as told:
        load_recipe(str(tmp_path / "x.yaml"))
    assert "hush" not in str(told.value)
    with pytest.raises(RecipeError, match="a choice is written out") as told:
        load_recipe("ssl_beats_tiny", ["encoder=${oc.env:NAME}"])
    assert "hush" not in str(told.value)
