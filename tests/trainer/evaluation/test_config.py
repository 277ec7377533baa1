"""The evaluation's config and its recipes."""

from __future__ import annotations

import pytest

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.evaluation.config import (
    ClusteringConfig,
    EvaluateConfig,
    load_config,
)
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.probes.ridge_config import RidgeConfig

FAST = LinearConfig(learning_rate=1e-2, epochs=100, schedule="cosine")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", EvaluateConfig(data="x")),
        ("fast", EvaluateConfig(data="x", probe=FAST)),
        (
            "paper",
            EvaluateConfig(
                data="x",
                pooling="mean",
                probe=LinearConfig(standardise=False),
                clustering=ClusteringConfig(seeds=1),
            ),
        ),
    ],
)
def test_recipes_compose_to_the_presets(preset: str, expected: EvaluateConfig) -> None:
    assert load_config(["data=x"], preset) == expected


def test_overrides_reach_every_level() -> None:
    config = load_config(
        ["data=sets/a", "layer=3", "test_folds=[4]", "probe.seeds=5", "retrieval.enabled=false"]
    )
    assert (config.data, config.layer, config.probe.seeds) == ("sets/a", 3, 5)
    assert [str(f) for f in config.test_folds or ()] == ["4"]
    assert not config.retrieval.enabled
    assert load_config(["data=x", "layer=all"]).layer == "all"


@pytest.mark.parametrize("preset", ["default", "fast", "paper"])
def test_another_probe_takes_none_of_the_linear_probes_numbers(preset: str) -> None:
    chosen = load_config(["data=x", "probe.penalties=[2]", "probe.name=ridge"], preset)
    assert chosen.probe == RidgeConfig(penalties=(2.0,))
    # The same name changes nothing, whether or not the preset wrote it down.
    same = load_config(["data=x", "probe.name=linear"], preset)
    assert same.probe == load_config(["data=x"], preset).probe


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "data: is required"),
        (["data="], "data is empty"),
        (["data=x", "probe.epoch=3"], r"probe\.epoch: there is no such key; did you mean 'epochs'"),
        (["data=x", "probe.seeds=2"], r"probe\.seeds: Input should be greater than or equal to 3"),
        (
            ["data=x", "layer=-1"],
            r"layer: Input should be .* 0, or 'last' or 'all' \(got -1",
        ),
        (["data=x", "layer=first"], "layer"),
        (["data=x", "protocol=random"], "protocol"),
        (["data=x", "valid_fraction=1"], r"valid_fraction: Input should be less than 1"),
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
    with pytest.raises(RecipeError, match=r"no evaluation recipe .slow.*default, fast, paper"):
        load_config(["data=x"], "slow")
