"""What a value on the command line means: the field decides, and text stays as it stands."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.compose import compose
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.overrides import (
    alternatives,
    annotations_at,
    apply,
    read_override,
    read_value,
)
from dawnchorus.trainer.recipe import Recipe, load_recipe

ODD = (
    "runs/jörg/v=2/x,y.ckpt", "Jane Doe", "it's", 'say "hi"', "#1", "a #b", "[z]", "[a", "{k}",
    "$HOME/x", "a:b", "a: b", "!tag", "*star", "&anchor", "back\\slash\\", "`tick`", "@at", "%",
    "~x", "- item", "? q", "> fold", "| bar", "2024", "007", "1e-4", "true", "off", "no", "12:30",
    "2026-01-01", "=", "<<", " lead", "trail ", "c:\\new\\table", "(a)", "x'y'z", "'a' and 'b'",
)  # fmt: skip


def value(key: str, text: str) -> Any:
    tree: dict[str, Any] = {}
    apply(tree, read_override(f"{key}={text}"), Recipe)
    for part in key.split("."):
        tree = tree[part]
    return tree


@pytest.mark.parametrize("text", ODD)
def test_text_is_taken_as_it_stands(text: str) -> None:
    for key in ("name", "init_from", "data.train.mine.path", "card.author", "log.wandb_project"):
        assert value(key, text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text(text: str) -> None:
    if "${" in text or text[:1] in "'\"" or text in ("", "~", "null", "Null", "NULL"):
        return
    assert value("init_from", text) == text
    document = plain_yaml.dump({"a": text, text: [text]})
    if not any(ord(c) < 32 or 126 < ord(c) < 160 for c in text):
        assert plain_yaml.load(document) == {"a": text, text: [text]}
        assert yaml.safe_load(document) == {"a": text, text: [text]}


def test_what_a_field_of_another_kind_wants_is_yaml() -> None:
    for key, text, wanted in (
        ("optim.lr", "1e-4", 1e-4), ("optim.lr", "5", 5), ("optim.clip_norm", "null", None),
        ("optim.betas", "[.9, 0.98]", [0.9, 0.98]), ("train.compile", "true", True),
        ("train.devices", "auto", "auto"), ("train.devices", "2", 2), ("init_from", "null", None),
        ("init_from", "'null'", "null"), ("name", '"a b"', "a b"), ("name", "'it''s'", "it's"),
        ("data.train.mine.folds", "[01, 2, a b]", ["01", "2", "a b"]),
        ("data.train.mine.folds", "null", None), ("data.train.mine.splits", "[]", []),
        ("data.train", "{mine: {path: x, weight: 2}}", {"mine": {"path": "x", "weight": 2}}),
        ("card.tags", "['a, b', c]", ["a, b", "c"]), ("augment.snr_db", "[-5,20]", [-5, 20]),
        ("encoder.frontend", "eat", "eat"), ("no.such.key", "3", 3), ("no.such.key", "x", "x"),
        ("seed", "1_000", 1000), ("seed", " 7 ", 7), ("optim.eps", ".5e-3", 5e-4),
    ):  # fmt: skip
        found = value(key, text)
        assert found == wanted and type(found) is type(wanted), (key, text, found)


def test_the_field_is_found_below_unions_and_mappings() -> None:
    assert annotations_at(Recipe, ("objective", "loss"))
    (seed,) = annotations_at(Recipe, ("objective", "tokenizer", "seed"))
    assert alternatives(seed) == [int]
    assert annotations_at(Recipe, ("data", "train", "anything", "path")) == [str]
    assert annotations_at(Recipe, ("nothing",)) == []


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("optim.lr", "overrides are key=value"), ("=3", "overrides are key=value"),
        ("a..b=3", "overrides are key=value"), ("optim.betas=[1, 2", "begins like a list"),
        ("init_from=${oc.env:HOME}", "Let the shell fill in"), ("~data.gone", "no such key"),
        ("seed.x=1", "seed has no keys below it"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(word: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why) as caught:
        apply({"seed": 1, "data": {}}, read_override(word), Recipe)
    assert word in str(caught.value)


def test_signs_before_a_key_and_names_in_any_script() -> None:
    recipe = load_recipe(
        "ssl_beats_tiny",
        ["+data.train.vögel=null", "++data.train.鳥 1.path=x=1,2", "~data.train.vögel"],
    )
    assert recipe.data.train["鳥 1"].path == "x=1,2"


def test_a_group_is_chosen_and_a_field_of_the_same_name_is_set(tmp_path) -> None:
    """A folder `runs` or `data` beside the recipe makes no group of the keys called so."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "it's mine.yaml").write_text("name: beats\nlayers: 3\n")
    (tmp_path / "mine.yaml").write_text("defaults: [ssl_beats_tiny]\n")
    mine = str(tmp_path / "mine.yaml")
    recipe = load_recipe(mine, ["runs=elsewhere", "encoder=it's mine", "data=folder"])
    assert (recipe.runs, recipe.encoder.layers) == ("elsewhere", 3)
    with pytest.raises(RecipeError, match="beats_lage"):
        load_recipe(mine, ["encoder=beats_lage"])


def test_references_in_files_see_what_was_overridden(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\nname: run${seed}\nruns: '\\${seed}'\n")
    assert compose(str(tmp_path / "mine.yaml"), ["seed=7"]) == {
        "seed": 7, "name": "run7", "runs": "${seed}",
    }  # fmt: skip


def test_read_value_without_a_schema_is_yaml() -> None:
    assert read_value("[1, b]", [], "w") == [1, "b"]
    assert read_value("x, y", [], "w") == "x, y"


# --------------------------------------------------------------------------- YAML


def test_yaml_means_what_people_mean() -> None:
    text = (
        "a: off\nb: no\nc: 12:00:00\nd: 010\ne: 2026-01-01\nf: 1e-4\ng: true\nh: ~\ni:\nj: .5\n"
        "k: 400_000\nl: -.inf\nm: 0x10\nn: '1'\no: &x {q: 1}\np: {<<: *x, r: 2}\n"
    )
    assert plain_yaml.load(text) == {
        "a": "off", "b": "no", "c": "12:00:00", "d": "010", "e": "2026-01-01", "f": 1e-4,
        "g": True, "h": None, "i": None, "j": 0.5, "k": 400000, "l": float("-inf"), "m": "0x10",
        "n": "1", "o": {"q": 1}, "p": {"q": 1, "r": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a: [", "? [1]\n: 2", "a: !!int x", "a: !!python/name:os.system"]
)
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load(text)
