"""A tokenizer of one's own: one module, its config, one line in the registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor

from dawnchorus.trainer.encoders.base import Grid
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.encoders.ranges import Range
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
from dawnchorus.trainer.objectives.tokenizers.base import Tokenizer
from dawnchorus.trainer.objectives.tokenizers.base_config import TokenizerConfig
from dawnchorus.trainer.recipe import load_recipe, rebuild
from dawnchorus.trainer.registry import TOKENIZERS
from dawnchorus.trainer.training.run_folder import recipe_differences

DATA = ["data.train.toy.path=/toy", "objective.tokenizer.name=loudness"]


@dataclass(frozen=True, kw_only=True)
class LoudnessConfig(TokenizerConfig):
    """A code per step of a patch's mean level."""

    name: Literal["loudness"] = "loudness"
    step: Annotated[float, Range(gt=0)] = 0.1
    """Width of a step."""


class Loudness(Tokenizer):
    config: LoudnessConfig

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        pass

    def forward(self, mel_BTF: Tensor, steps_B: Tensor | None = None) -> Tensor:
        side = self.patch
        patches = mel_BTF.unfold(1, side, side).unfold(2, side, side)
        level_BN = patches.mean((-1, -2)).flatten(1)
        return (level_BN / self.config.step).long().clamp(0, self.config.codebook_size - 1)

    def flops(self, grid: Grid) -> float:
        return float(grid.places * self.patch**2)

    @property
    def remedy(self) -> str:
        return "Change objective.tokenizer.step"


@pytest.fixture
def loudness() -> Iterator[None]:
    TOKENIZERS.add("loudness", f"{__name__}:LoudnessConfig", f"{__name__}:Loudness")
    try:
        rebuild()
        yield
    finally:
        TOKENIZERS.remove("loudness")
        rebuild()


@pytest.mark.usefixtures("loudness")
def test_a_recipe_takes_it_and_the_objective_builds_it() -> None:
    objective = load_recipe("ssl_beats_base", [*DATA, "objective.tokenizer.step=0.5"]).objective
    assert isinstance(objective, MaskedTokensConfig)
    sizes = objective.tokenizer
    assert isinstance(sizes, LoudnessConfig)
    assert sizes.step == 0.5
    built = MaskedTokens(objective, Beats(BeatsConfig(layers=1, dim=48, ffn_dim=96, heads=4)))
    assert built.tokenizer(torch.full((1, 32, 128), 1.2)).tolist() == [[2] * 16]


@pytest.mark.usefixtures("loudness")
def test_its_ranges_are_checked() -> None:
    with pytest.raises(RecipeError, match="step"):
        load_recipe("ssl_beats_base", [*DATA, "objective.tokenizer.step=0"])


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(RecipeError, match="tokenizer"):
        load_recipe("ssl_beats_base", DATA)


@pytest.mark.usefixtures("loudness")
def test_a_run_from_before_tokenizers_had_names_continues_with_the_random_projection_only() -> None:
    written = load_recipe("ssl_beats_base", DATA[:1]).resolved()
    now = load_recipe("ssl_beats_base", DATA[:1]).resolved()
    del written["objective"]["tokenizer"]["name"]
    assert recipe_differences(written, now) == []
    other = load_recipe("ssl_beats_base", DATA).resolved()
    assert any("objective.tokenizer.name" in line for line in recipe_differences(written, other))
