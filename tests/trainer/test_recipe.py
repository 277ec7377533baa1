"""Every mistake in a recipe is told, all at once, with its path and what was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dawnchorus.trainer.compose import compose, recipes_folder, shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.recipe import json_schema, load_recipe
from dawnchorus.trainer.recipe_data import missing_inputs

DATA = ["data.train.mine.path=somewhere"]


def test_the_paper_s_recipes_and_small_ones_are_shipped() -> None:
    assert {
        "ssl_beats_base",
        "sl_beats_all",
        "sl_beats_bio",
        "ssl_beats_tiny",
        "sl_beats_tiny",
    } <= set(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_composes_and_validates(name: str) -> None:
    recipe = load_recipe(name, DATA)
    again = yaml.safe_load(yaml.safe_dump(recipe.resolved()))
    assert again == recipe.resolved()


def test_the_paper_s_numbers() -> None:
    ssl = load_recipe("ssl_beats_base")
    assert (ssl.encoder.layers, ssl.encoder.dim, ssl.train.global_batch) == (12, 768, 560)
    assert (ssl.optim.lr, ssl.train.max_steps, ssl.optim.betas) == (5e-4, 400_000, (0.9, 0.98))
    sl = load_recipe("sl_beats_all")
    assert (sl.optim.lr, sl.optim.head_lr, sl.train.global_batch) == (1e-4, 5e-4, 256)
    assert (sl.augment.noise_prob, sl.augment.snr_db, sl.augment.mixup_prob) == (
        0.5,
        (-10, 20),
        0.5,
    )
    bio = load_recipe("sl_beats_bio")
    assert "audioset" in sl.data.train and "audioset" not in bio.data.train
    assert set(bio.data.train) == {"xeno_canto", "inaturalist", "watkins", "animal_sound_archive"}


def test_all_problems_are_told_at_once_with_paths() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(
            "ssl_beats_base",
            ["optim.lerning_rate=1e-3", "+encoder.layer=3", "train.micro_batch=zero",
             "train.precision=int8", "objective.position_mode=wrong"],
        )  # fmt: skip
    message = str(caught.value)
    for part in ("optim.lerning_rate: there is no such key", "encoder.layer: there is no such key",
                 "did you mean 'layers'", "train.micro_batch", "train.precision", "'bf16'",
                 "objective.position_mode", "5 problems"):  # fmt: skip
        assert part in message, (part, message)


def test_contradictions_are_told() -> None:
    with pytest.raises(RecipeError, match="mixup_prob must be 0 when pre-training"):
        load_recipe("ssl_beats_base", ["augment=noise_mixup"])
    with pytest.raises(RecipeError, match=r"data\.noise names no dataset"):
        load_recipe("ssl_beats_base", ["~data.noise"])
    with pytest.raises(RecipeError, match="exactly one of max_steps and max_clips"):
        load_recipe("ssl_beats_base", ["train.max_clips=10"])
    with pytest.raises(RecipeError, match="leaves nothing"):
        load_recipe("sl_beats_all", ["train.max_steps=10"])


def test_a_warm_up_that_does_not_end_and_a_batch_that_does_not_fit_are_told() -> None:
    with pytest.raises(RecipeError, match=r"warmup_steps \(32000\) is longer than the 31999 steps"):
        load_recipe("ssl_beats_base", ["train.max_steps=31999"])
    assert load_recipe("ssl_beats_base", ["train.max_steps=32000"]).optim.warmup_steps == 32000
    with pytest.raises(RecipeError, match=r"the 2999 steps after optim\.head_only_steps"):
        load_recipe("sl_beats_all", ["train.max_steps=25599"])
    clips = ["train.max_steps=null", "train.max_clips=6000"]  # 3000 steps of 2
    with pytest.raises(RecipeError, match="is longer than the 3000 steps"):
        load_recipe("ssl_beats_base", [*clips, "train.global_batch=2"])
    with pytest.raises(RecipeError, match="global_batch=127") as caught:
        load_recipe("sl_beats_all", ["train.global_batch=127", "train.max_steps=30000",
                                     "optim.warmup_steps=30000"])  # fmt: skip
    assert "2 problems" in str(caught.value) and "train.global_batch=128" in str(caught.value)
    with pytest.raises(RecipeError, match="global_batch=562"):
        load_recipe("ssl_beats_base", ["train.global_batch=562", "train.devices=2"])


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(RecipeError, match="Did you mean ssl_beats_base"):
        load_recipe("ssl_beats_bas")
    with pytest.raises(RecipeError, match="beats_lage"):
        load_recipe("ssl_beats_base", ["encoder=beats_lage"])
    with pytest.raises(RecipeError, match="overrides are key=value"):
        load_recipe("ssl_beats_base", ["optim.lr"])


def test_a_file_of_one_s_own_may_use_the_shipped_groups(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - ssl_beats_tiny\n  - override encoder: beats_base\n  - _self_\n"
        "optim:\n  lr: 0.00012\n"
    )
    recipe = load_recipe(str(tmp_path / "mine.yaml"), DATA)
    assert (recipe.name, recipe.encoder.layers, recipe.optim.lr) == ("mine", 12, 0.00012)


def test_a_resolved_recipe_is_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("ssl_beats_tiny", DATA)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_numbers_may_name_folds() -> None:
    recipe = load_recipe("sl_beats_tiny", [*DATA, "data.train.mine.folds=[1,2]"])
    assert recipe.data.train["mine"].folds == ("1", "2")


def test_the_schema_explains_every_key() -> None:
    schema = json_schema()
    json.dumps(schema)
    definitions = schema["$defs"]
    for name, definition in definitions.items():
        for key, field in definition.get("properties", {}).items():
            assert "description" in field or key == "name", f"{name}.{key} has no description"
    assert "BeatsSection" in definitions


@pytest.mark.parametrize("path", sorted(recipes_folder().rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_begins_with_what_it_is_for(path: Path) -> None:
    lines = [x for x in path.read_text().splitlines() if "@package" not in x]
    assert lines[0].startswith("# ") and len(lines[0]) > 10


def test_no_import_paths_in_yaml() -> None:
    for path in recipes_folder().rglob("*.yaml"):
        assert "_target_" not in path.read_text()


def test_compose_leaves_hydra_free_for_the_next() -> None:
    assert compose("ssl_beats_tiny", DATA) == compose("ssl_beats_tiny", DATA)


def test_the_data_of_a_recipe_is_looked_at_on_request(tone_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    recipe = load_recipe(
        "sl_beats_tiny",
        [f"data.train.a.path={tone_dataset}", "data.train.b.path=nowhere",
         f"data.train.c.path={tmp_path}/empty", f"data.valid.d.path={tone_dataset}",
         "data.valid.d.splits=[dev]", "init_from=no/run"],
    )  # fmt: skip
    told = "\n".join(missing_inputs(recipe, opened=True))
    for part in ("data.train.b.path: nowhere does not exist", "c.path", "no finished dataset",
                 "data.valid.d: ", "dev", "init_from: no/run does not exist"):  # fmt: skip
        assert part in told, told
    good = load_recipe("sl_beats_tiny", [f"data.train.a.path={tone_dataset}"])
    assert missing_inputs(good, opened=True) == []
