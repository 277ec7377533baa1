"""The evaluation's config and its recipes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.config import (
    ClusteringConfig,
    EvaluateConfig,
    ProbeConfig,
    load_config,
)

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "evaluate"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", EvaluateConfig(data="x")),
        ("fast", EvaluateConfig(data="x", probe=ProbeConfig.fast())),
        (
            "paper",
            EvaluateConfig(
                data="x",
                pooling="mean",
                probe=ProbeConfig.paper(),
                clustering=ClusteringConfig(seeds=1),
            ),
        ),
    ],
)
def test_recipes_compose_to_the_presets(preset: str, expected: EvaluateConfig) -> None:
    assert load_config(["data=x"], preset) == expected


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_key_is_there_and_has_a_comment(path: Path) -> None:
    import yaml

    def keys(schema: dict[str, Any], tree: dict[str, Any], definitions: dict[str, Any]) -> None:
        for name, value in tree.items():
            field = schema["properties"][name]
            assert field["description"]
            reference = field.get("$ref")
            if reference:
                inner = definitions[reference.rsplit("/", 1)[1]]
                assert set(inner["properties"]) == set(value)
                keys(inner, value, definitions)

    tree = yaml.safe_load(path.read_text())
    schema = TypeAdapter(EvaluateConfig).json_schema()
    assert set(schema["properties"]) == set(tree) | {"data"}
    keys(schema, tree, schema["$defs"])
    lines = path.read_text().splitlines()
    for previous, line in itertools.pairwise(lines):
        if ":" in line and not line.lstrip().startswith("#") and not line.endswith(":"):
            assert previous.lstrip().startswith("#") or ":" in previous, line


def test_overrides_reach_every_level() -> None:
    config = load_config(
        ["data=sets/a", "layer=3", "test_folds=[4]", "probe.seeds=5", "retrieval.enabled=false"]
    )
    assert (config.data, config.layer, config.probe.seeds) == ("sets/a", 3, 5)
    assert [str(f) for f in config.test_folds or ()] == ["4"]
    assert not config.retrieval.enabled
    assert load_config(["data=x", "layer=all"]).layer == "all"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "data: is required"),
        (["data="], "data is empty"),
        (["data=x", "probe.epoch=3"], r"probe\.epoch: there is no such key; did you mean 'epochs'"),
        (["data=x", "probe.seeds=2"], "seeds must be at least 3, not 2"),
        (["data=x", "layer=-1"], "layer must be 'last', 'all' or at least 0"),
        (["data=x", "layer=first"], "layer"),
        (["data=x", "protocol=random"], "protocol"),
        (["data=x", "valid_fraction=1"], r"valid_fraction must be in \[0, 1\)"),
        (["data=x", "test_folds=[]"], "test_folds is empty"),
        (["data=x", "test_folds=[1]", "protocol=groups"], "test_folds needs protocol folds"),
        (["data=x", "probe.warmup_epochs=900"], "must be below epochs"),
    ],
)
def test_mistakes_are_told(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_config(overrides)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        load_config(["data=x", "window=3", "clustering.n_init=many"])
    assert "window" in str(error.value) and "clustering.n_init" in str(error.value)


def test_an_unknown_preset_is_told() -> None:
    with pytest.raises(RecipeError, match="evaluate/slow"):
        load_config(["data=x"], "slow")
