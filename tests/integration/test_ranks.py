"""Two ranks train every kind of encoder as one does: losses, weights, batch norms, the average."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

pytestmark = [pytest.mark.slow, pytest.mark.ddp]

RECIPE = str(Path(__file__).parents[1] / "contract" / "recipe.yaml")
ONE, TWO, FSDP = "train.devices=1", "train.devices=2", "train.strategy=fsdp"
# BEATs and the ViT are in test_topology.
ROWS = [
    ("toy", "multilabel", [[ONE], [TWO], [TWO, FSDP]]),
    ("toy", "level", [[ONE], [TWO]]),
    ("efficientnet", "multilabel", [[ONE], [TWO, FSDP]]),
    ("hubert", "multilabel", [[ONE], [TWO, FSDP]]),
    ("beats", "tokenizer_distillation", [[ONE], [TWO], [TWO, FSDP]]),
]


@pytest.mark.parametrize(("encoder", "objective", "layouts"), ROWS)
def test_ranks_train_as_one(
    chorus_train, monkeypatch, tone_dataset, encoder: str, objective: str, layouts: list[list[str]]
) -> None:
    monkeypatch.setenv("DRIVER_NEWCOMERS", "1")
    runs = []
    for number, where in enumerate(layouts):
        done = chorus_train(
            f"layout{number}", *tiny.OBJECTIVES[objective], *where,
            f"data.valid.main.path={tone_dataset}", "train.validate_clips=7",
            recipe=RECIPE, encoder=encoder,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        runs.append(done)
    first, *others = runs
    losses = [
        [(x["step"], x["loss"]) for x in run.metrics() if x["kind"] in ("train", "valid")]
        for run in runs
    ]
    assert len(losses[0]) == 5
    mine = first.checkpoint()
    norms = [name for name in mine["state_dict"] if name.endswith("running_var")]
    assert bool(norms) == (encoder in ("toy", "efficientnet"))
    for run, lines in zip(others, losses[1:], strict=True):
        for (step, loss), (_, theirs) in zip(losses[0], lines, strict=True):
            assert theirs == pytest.approx(loss, rel=2e-5), step
        other = run.checkpoint()
        for part, a, b in (
            ("weights", mine["state_dict"], other["state_dict"]),
            ("average", mine["dawnchorus"]["ema"] or {}, other["dawnchorus"]["ema"] or {}),
        ):
            assert a.keys() == b.keys() and set(norms) <= set(b)
            for name, tensor in a.items():
                difference = (b[name].double() - tensor.double()).abs().max()
                assert difference <= 1e-4 * (1 + tensor.abs().max()), f"{part}: {name}"
    # The statistics have left where they begin.
    for name in norms:
        assert not torch.equal(mine["state_dict"][name], torch.ones_like(mine["state_dict"][name]))
