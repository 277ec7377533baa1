"""Recipes are found by their own path alone, wherever they and this package lie."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dawnchorus.trainer.compose import compose, recipes_folder
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.recipe import load_recipe

OWN = "defaults: [ssl_beats_tiny, _self_]\ndata: {train: {mine: {path: x}}}\n"
NAMES = ("jörg", "v=2", "x,y", "Jane Doe", "it's", 'a"b', "#1", "[z]", "$HOME", "100%", "b\\s", "~")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_lies_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "encoder").mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(OWN)
    (folder / "encoder" / "own.yaml").write_text("name: beats\nlayers: 5\n")
    file = str(folder / f"{name}.yaml")
    recipe = load_recipe(file, ["name=r", "encoder=own", f"init_from={folder}"])
    assert (recipe.encoder.layers, recipe.init_from) == (5, str(folder))


def test_the_package_lies_in_a_folder_of_any_name(tmp_path: Path) -> None:
    place = tmp_path / "v=2, it's [jörg] #1"
    place.mkdir()
    shutil.copytree(Path(__file__).parents[2] / "trainer", place / "dawnchorus" / "trainer")
    shutil.copytree(recipes_folder(), place / "dawnchorus" / "recipes")
    (tmp_path / "my.yaml").write_text(OWN)
    program = (
        "import dawnchorus.trainer.recipe as r, sys; assert sys.argv[1] in r.__file__; "
        "print(r.load_recipe('my.yaml', ['encoder=beats_base']).encoder.layers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)], cwd=tmp_path, env={"PYTHONPATH": str(place)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "12", done.stderr


def test_the_named_file_is_read_and_no_other(tmp_path: Path) -> None:
    for ending, seed in ((".yaml", 1), (".yml", 2), ("", 3)):
        (tmp_path / f"x{ending}").write_text(OWN + f"seed: {seed}\n")
    for ending, seed in ((".yaml", 1), (".yml", 2), ("", 3)):
        recipe = load_recipe(str(tmp_path / f"x{ending}"))
        assert (recipe.seed, recipe.name) == (seed, "x")
    (tmp_path / "x.yaml").unlink()
    assert load_recipe(str(tmp_path / "x.yml")).seed == 2
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load_recipe(str(tmp_path / "x.yaml"))
    (tmp_path / "x").unlink()
    with pytest.raises(RecipeError, match=r"did you mean .*x\.yml"):
        load_recipe(str(tmp_path / "x"))


def test_neighbours_of_either_ending(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text(OWN + "seed: 5\n")
    (tmp_path / "mine.yml").write_text("defaults: [base, _self_]\nname: m\n")
    mine = str(tmp_path / "mine.yml")
    assert load_recipe(mine).seed == 5
    (tmp_path / "base.yaml").write_text(OWN + "seed: 6\n")
    with pytest.raises(RecipeError, match=r"base\.yaml or .*base\.yml"):
        load_recipe(mine)
    (tmp_path / "mine.yml").write_text("defaults: [base.yml, _self_]\nname: m\n")
    assert load_recipe(mine).seed == 5


def test_a_shipped_name_means_the_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ssl_beats_tiny").write_text("seed: 9\n")
    assert compose("ssl_beats_tiny").get("seed") is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[1, 2]", "no YAML mapping"), (b"a: [", "cannot be read"), (b"a: 1\na: 2", "twice"),
        ("ö: 1".encode("latin-1"), "cannot be read"), (b"defaults: [gone]", "gone"),
        (b"a: ${nothing}", "nothing"), (b"a: &a [*a]", "stands within what it means"),
        (b"a: &a {<<: *a}", "stands within"), (b"a: " + b"[" * 3000, "nests deeper than 50"),
        (b"".join(b" " * i + b"k:\n" for i in range(1500)), "nests deeper than 50"),
        (b"a0: &a0 [" + b"x," * 9 + b"]\n" + b"".join(
            b"a%d: &a%d [" % (i, i) + b"*a%d," % (i - 1) * 9 + b"]\n" for i in range(1, 10)
        ), "repeat more than 10000"),
        (b"seed: " + b"9" * 5000, "is no number|seed"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_told_with_its_file(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "bad recipe.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=why) as caught:
        load_recipe(str(tmp_path / "bad recipe.yaml"))
    assert "bad recipe.yaml" in str(caught.value)


def test_comments_at_the_top_may_say_anything(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# @jane wrote this one\n# @package\n\ufeff"[:-1] + OWN)
    assert load_recipe(str(tmp_path / "x.yaml")).name == "x"


def test_a_number_of_any_length_is_told_with_its_key() -> None:
    words = [f"seed={2**53 + 1}", f"train.max_steps={10**30}", "data.workers=" + "9" * 5000]
    with pytest.raises(RecipeError) as caught:
        load_recipe("ssl_beats_tiny", [*words, "data.train.mine.path=x"])
    for key in ("seed", "train.max_steps", "data.workers"):
        assert f"  {key}: " in str(caught.value)


def test_a_choice_is_refused_in_the_recipes_words(tmp_path: Path) -> None:
    own = tmp_path / "flat.yaml"
    own.write_text("encoder: {name: beats}\n")
    with pytest.raises(RecipeError, match=r"set its keys one by one \(encoder\.KEY") as caught:
        load_recipe(str(own), ["encoder=beats_large"])
    assert "+encoder" not in str(caught.value)
    with pytest.raises(RecipeError, match="Could not find 'encoder/huge'") as caught:
        load_recipe("ssl_beats_tiny", ["encoder=huge"])
    assert "provider=" not in str(caught.value) and "beats_large" in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "word", "said"),
    [
        ("ssl_beats_tiny", "encoder.layers=1000000000000", "less than or equal to 100000"),
        ("ssl_beats_tiny", "encoder.sample_rate_hz=100000000000", "less than or equal"),
        ("ssl_beats_tiny", "objective.predictor_layers=1000000000", "more than any machine holds"),
        ("ssl_beats_tiny", "encoder.mel_mean=.nan", "finite"),
        ("ssl_beats_tiny", "encoder.mel_mean=nan", "must be a number"),
        ("ssl_beats_tiny", "optim.lr=inf", "finite"),
        ("ssl_beats_tiny", "data.window_s=1e12", "less than or equal to 3600"),
        ("sl_effnet_tiny", "encoder.depth=1e12", "less than or equal to 100"),
    ],
)
def test_absurd_numbers_are_refused_at_once(recipe: str, word: str, said: str) -> None:
    """An encoder's parameters are counted by its config, so even that must not take long."""
    started = time.process_time()
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe, [word])
    assert time.process_time() - started < 5
