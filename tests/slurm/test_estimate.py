"""What `chorus submit` says of memory: counted from the recipe, equal to the model that trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dawnchorus.slurm.estimate import estimate
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.training.assembly import assemble

CASES = [
    ("ssl_beats_tiny", []),
    ("ssl_beats_tiny", ["objective.predictor_dim=64", "objective.predictor_layers=1"]),
    ("ssl_beats_tiny", ["encoder.patch_dim=128", "encoder.dim=128", "encoder.conv_pos=32"]),
    ("ssl_beats_base", []),
    ("ssl_beats_base", ["encoder=beats_large", "objective.tokenizer.codebook_size=256"]),
    ("sl_beats_tiny", []),
    ("sl_beats_all", []),
]


@pytest.mark.parametrize(("name", "more"), CASES)
def test_parameters_are_those_of_the_model(name: str, more: list[str]) -> None:
    recipe = load_recipe(name, [*more, "init_from=null"])
    with torch.device("meta"):
        labels = tuple(map(str, range(77))) if recipe.objective.needs_labels else None
        model, objective = assemble(recipe, labels)
    encoder = model.encoder
    assert recipe.encoder.parameters == sum(p.numel() for p in encoder.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in encoder.blocks()]
    assert (recipe.encoder.blocks_parameters, recipe.encoder.largest_block) == (
        sum(blocks), max(blocks),
    )  # fmt: skip
    parameters = [*model.parameters(), *objective.parameters()]
    beside = recipe.objective.parameters(recipe.encoder, 77)
    assert beside == sum(p.numel() for p in parameters) - recipe.encoder.parameters


def test_fsdp_divides_what_ddp_repeats() -> None:
    large = ["encoder=beats_large", "optim.ema_decay=null"]
    ddp = estimate(load_recipe("ssl_beats_base", large), 8)
    fsdp = estimate(load_recipe("ssl_beats_base", [*large, "train.strategy=fsdp"]), 8)
    assert ddp.parameters == fsdp.parameters
    assert ddp.state_gb == pytest.approx(16 * ddp.parameters / 1e9) and ddp.gathered_gb == 0
    assert fsdp.state_gb == pytest.approx(ddp.state_gb / 8)
    assert 0 < fsdp.gathered_gb < ddp.state_gb / 3
    assert fsdp.checkpoint_gb == ddp.checkpoint_gb == pytest.approx(12 * ddp.parameters / 1e9)
    alone = estimate(load_recipe("ssl_beats_base", [*large, "train.strategy=fsdp"]), 1)
    assert (alone.state_gb, alone.gathered_gb) == (ddp.state_gb, 0)
    averaged = estimate(load_recipe("ssl_beats_base", ["optim.ema_decay=0.999"]), 1)
    assert averaged.state_gb == pytest.approx(20 * averaged.parameters / 1e9)
    eat = estimate(load_recipe("ssl_eat_all"), 1)
    teacher = load_recipe("ssl_eat_all").encoder.parameters
    assert eat.state_gb == pytest.approx((16 * eat.parameters + 4 * teacher) / 1e9)
    assert eat.checkpoint_gb == pytest.approx((12 * eat.parameters + 4 * teacher) / 1e9)
    assert "M parameters" in averaged.lines[0] and "on each device" in averaged.lines[1]


def test_the_head_has_the_labels_of_the_datasets(tone_dataset: Path, tmp_path: Path) -> None:
    labels = json.loads((tone_dataset / "labels.json").read_text())["labels"]
    assert labels
    recipe = load_recipe("sl_beats_tiny", [f"data.train.a.path={tone_dataset}"])
    made = estimate(recipe, 1)
    assert made.classes == len(labels)
    assert made.parameters == recipe.encoder.parameters + (recipe.encoder.dim + 1) * len(labels)
    gone = load_recipe("sl_beats_tiny", [f"data.train.a.path={tmp_path}/gone"])
    assert estimate(gone, 1).classes is None
