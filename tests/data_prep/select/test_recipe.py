"""The recipe: every mistake at once, overrides, environment, shipped recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dawnchorus.data_prep.select.recipe_file import describe_keys, load_recipe
from dawnchorus.trainer.compose import shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.kinds import SELECT


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_all_mistakes_at_once_with_their_paths(tmp_path: Path) -> None:
    text = """
tables: {a: {table: x, hours: 1, share: 0.5}}
filter: {}
caps: {per_clas: 3, per_recordist: 0}
filters: {licences: {deny: [foo]}, quality: {at_least: F}, duration: {min_s: 9, max_s: 3}}
split: {parts: {train: 0.5}, folds: 1, cover: dev}
"""
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path / "r.yaml", text), ["caps.min_per_class=-1", "nonsense"])
    told = str(caught.value)
    for part in (
        "tables.a: hours and share contradict",
        "filter: there is no such key; did you mean 'filters'",
        "caps.per_clas: there is no such key; did you mean 'per_class'",
        "caps.per_recordist",
        "caps.min_per_class",
        "filters.licences.deny: foo: not one of",
        "filters.quality.at_least",
        "filters.duration: max_s (3) is below min_s (9)",
        "split.parts: shares",
        "split.folds",
        "nonsense: overrides are key=value",
    ):
        assert part in told, part


def test_overrides_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(
        tmp_path / "r.yaml",
        "tables: {a: {table: '${oc.env:SOME_PLACE}/t'}, b: {table: '${oc.env:NO_PLACE,here}/u'}}",
    )
    with pytest.raises(RecipeError, match=r"tables\.a\.table: the environment variable SOME_PLACE"):
        load_recipe(recipe)
    monkeypatch.setenv("SOME_PLACE", "/there")
    made = load_recipe(
        recipe, ["filters.licences.deny=[nc, nd]", "caps.per_class=7", "tables.c.table=z"]
    )
    assert made.tables["a"].table == Path("/there/t")
    recorded = made.resolved()["tables"]
    assert recorded["a"]["table"] == "${oc.env:SOME_PLACE}/t" and recorded["c"]["table"] == "z"
    assert made.tables["b"].table == Path("here/u")
    assert made.tables["c"].table == Path("z")
    assert made.filters.licences.deny == ["nc", "nd"]
    assert made.caps.per_class == 7
    assert list(load_recipe(recipe, ["tables.b=null"]).tables) == ["a"]
    assert list(load_recipe(recipe, ["~tables.a"]).tables) == ["b"]
    # A selection's recipe is published in the dataset's card.
    leak = write(
        tmp_path / "leak.yaml",
        "tables: {a: {table: x}}\n"
        "filters: {sources: ['${oc.env:SOME_PLACE}', '${oc.env:SOME_PLACE,x}']}",
    )
    with pytest.raises(RecipeError) as told:
        load_recipe(leak)
    assert str(told.value).count("read in paths only") == 2
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    secret = write(tmp_path / "secret.yaml", "tables: {a: {table: '${oc.env:SOME_TOKEN}'}}")
    with pytest.raises(RecipeError, match=r"tables\.a\.table: SOME_TOKEN looks like a secret"):
        load_recipe(secret)


def test_shares_are_given_to_all_tables(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="shares must be given to all tables and sum to 1"):
        load_recipe(
            write(tmp_path / "r.yaml", "tables: {a: {table: x, share: 0.5}, b: {table: y}}")
        )


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "tables: {}", "tables: 3", ""])
def test_what_is_no_recipe(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path / "r.yaml", text))


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'example'"):
        load_recipe("exampel")


@pytest.mark.parametrize("name", shipped_recipes(SELECT))
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_recipe(name).tables


def test_every_key_is_explained() -> None:
    keys = list(describe_keys())
    assert len(keys) > 40
    assert all(text for _, _, text in keys)


def test_the_guide_explains_every_key() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "archives" / "select.md"
    told = guide.read_text()
    assert [key for key, _, _ in describe_keys() if f"`{key}`" not in told] == []
