"""Every mistake in a recipe is told, all at once, with its path and what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.compose import compose, recipes_folder, shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.recipe import Recipe, load_recipe
from dawnchorus.trainer.recipe_data import missing_inputs
from dawnchorus.trainer.recipe_files import read_mapping
from dawnchorus.trainer.recipe_schema import json_schema
from dawnchorus.trainer.training.optim_config import OptimConfig

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


def test_objectives_say_what_they_cannot_be_with() -> None:
    with pytest.raises(RecipeError, match="set it to block"):
        load_recipe("ssl_eat_tiny", [*DATA, "encoder=beats_tiny"])
    with pytest.raises(RecipeError, match="decoder_groups is 24"):
        load_recipe("ssl_eat_tiny", [*DATA, "objective.decoder_groups=24"])
    with pytest.raises(RecipeError, match="pooling=cls needs a token"):
        load_recipe("sl_beats_tiny", [*DATA, "objective.pooling=cls"])


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
    with pytest.raises(RecipeError, match="mixup_prob must be 0 with objective"):
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
    with pytest.raises(RecipeError, match="did you mean 'ssl_beats_base"):
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


def test_wandb_may_be_off(tmp_path: Path) -> None:
    for word in ("off", "Off", "no", "none", "false"):
        assert load_recipe("ssl_beats_tiny", [f"log.wandb={word}"]).log.wandb == "disabled"
        (tmp_path / "x.yaml").write_text(f"defaults: [ssl_beats_tiny]\nlog: {{wandb: {word}}}\n")
        assert load_recipe(str(tmp_path / "x.yaml")).log.wandb == "disabled"
    with pytest.raises(RecipeError, match=r"log\.wandb: Input should be 'disabled'"):
        load_recipe("ssl_beats_tiny", ["log.wandb=maybe"])


@pytest.mark.parametrize(
    ("name", "metric", "why"),
    [
        ("sl_beats_tiny", "mapp", "did you mean 'map'"),
        ("ssl_beats_tiny", "map", "there are: loss, masked_accuracy"),
        ("ssl_beats_tiny", "unigram_nll", "no figure by which masked_tokens can choose"),
        ("sl_beats_tiny", "auroc", "name a dataset in data.valid"),
    ],
)
def test_the_best_metric_is_one_that_the_objective_has(name: str, metric: str, why: str) -> None:
    given = [*DATA, f"train.best_metric={metric}", "~data.valid"]
    if "data.valid" not in why:
        given[-1] = "data.valid.v.path=x"
    with pytest.raises(RecipeError, match=why):
        load_recipe(name, given)


def test_whether_more_is_better_is_the_objectives_to_say() -> None:
    valid = [*DATA, "data.valid.v.path=x"]
    assert load_recipe("sl_beats_tiny", valid).best == ("map", "max")
    assert load_recipe("sl_beats_tiny", [*valid, "train.best_metric=loss"]).best == ("loss", "min")
    assert load_recipe("ssl_beats_tiny", valid).best == ("loss", "min")
    given = [*valid, "train.best_metric=masked_accuracy"]
    assert load_recipe("ssl_beats_tiny", given).best == ("masked_accuracy", "max")


def test_mistakes_of_every_layer_are_told_at_once(tmp_path: Path) -> None:
    """A misspelt key hides no impossible number, and neither hides what does not fit together."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(
            "ssl_beats_tiny",
            ["optim.lerning_rate=1", "train.global_batch=0", "data.train.mine.path=x",
             "data.train.mine.weight=-1", "train.max_clips=10", "augment.mixup_prob=0.5",
             "encoder.dim=33", "encoder.layer=1", "encoder=beats_hug", "nonsense", "seed=x",
             "optim.head_warmup_steps=7", "objective.mask_ratio=1.5"],
        )  # fmt: skip
    message = str(caught.value)
    for part in ("optim.lerning_rate: there is no such key", "train.global_batch",
                 "data.train.mine.weight", "exactly one of max_steps and max_clips",
                 "mixup_prob must be 0", "dim (33) must be a multiple", "encoder.layer: there is",
                 "beats_hug", "nonsense: overrides are", "seed", "head_warmup_steps",
                 "objective.mask_ratio"):  # fmt: skip
        assert part in message, (part, message)
    assert "is required" not in message


def test_the_schema_knows_the_ranges() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["TrainConfig"]["properties"]["global_batch"]["minimum"] == 1
    assert definitions["OptimConfig"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert definitions["AugmentConfig"]["properties"]["noise_prob"]["maximum"] == 1
    weight = definitions["SourceConfig"]["properties"]["weight"]["anyOf"]
    assert {"type": "number", "exclusiveMinimum": 0} in weight


def test_a_config_made_in_python_checks_its_ranges() -> None:
    with pytest.raises(ValueError, match=r"lr is 0; it must be above 0\nbetas is .*in \[0, 1\)"):
        OptimConfig(lr=0, betas=(0.9, 1.0))


NUMBERS = [  # (section, field, a value outside of its range)
    ("OptimConfig", "lr", -3),
    ("AugmentConfig", "mixup_prob", 7),
    ("TrainConfig", "micro_batch", 0),
    ("BeatsConfig", "layers", 0),
    ("BeatsConfig", "dropout", 1),
    ("BeatsConfig", "num_buckets", 6),
    ("BeatsConfig", "mel_std", 0),
    ("RandomProjectionConfig", "codebook_size", 1),
]


@pytest.mark.parametrize(("section", "field", "value"), NUMBERS)
def test_the_schema_refuses_what_the_recipe_refuses(section: str, field: str, value: float) -> None:
    schema = json_schema()
    part = {"$ref": f"#/$defs/{section}", "$defs": schema["$defs"]}
    validator = jsonschema.Draft202012Validator(part)
    problems = [x for x in validator.iter_errors({field: value}) if field in x.path]
    assert problems, f"{section}.{field}: {value} passes"


def test_the_schema_accepts_what_the_recipe_accepts() -> None:
    """Folds are often numbers, as people write them in YAML."""
    validator = jsonschema.Draft202012Validator(json_schema())
    source = {"path": "x", "folds": [4], "exclude_folds": ["5"]}
    assert not list(validator.iter_errors({"data": {"train": {"mine": source}}}))
    for name in shipped_recipes():
        assert not list(validator.iter_errors(load_recipe(name, DATA).resolved())), name


def leaves(
    tree: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.mark.parametrize(
    "path",
    [p for g in ("encoder", "objective", "augment", "evaluate")
     for p in sorted((recipes_folder() / g).glob("*.yaml"))],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)  # fmt: skip
def test_a_file_of_a_group_says_only_what_differs(path: Path) -> None:
    """From the defaults of its class, or from the file that it starts from."""
    group = path.parent.name
    field = Recipe.model_fields[group].rebuild_annotation() if group != "evaluate" else None
    adapter = TypeAdapter(EvaluateConfig if field is None else field)

    def below(file: Path) -> dict[str, Any]:
        tree = read_mapping(file)[1]
        bases = [below(file.with_name(f"{base}.yaml")) for base in tree.pop("defaults", [])]
        return reduce(plain_yaml.merged, [*bases, tree], {})

    own = read_mapping(path)[1]
    bases = [below(path.with_name(f"{base}.yaml")) for base in own.pop("defaults", [])]
    given = {"data": "x"} if group == "evaluate" else {}
    if "name" in own:
        given["name"] = own["name"]
    start = adapter.dump_python(adapter.validate_python(reduce(plain_yaml.merged, bases, given)))
    for keys, value in leaves(own):
        if keys != ("name",):
            assert reduce(lambda tree, key: tree[key], keys, start) != value, keys
