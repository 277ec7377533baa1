"""What every objective keeps with every encoder: it trains, continues, is measured and leaves."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from contract.newcomers import forget, register
from contract.recipes import contract_recipe
from dawnchorus.trainer.checkpoints.checkpoint import load
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.hub.exporting import export
from dawnchorus.trainer.hub.importing import load_model
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.panels import load_examples
from dawnchorus.trainer.registry import ENCODERS, OBJECTIVES
from dawnchorus.trainer.training.assembly import assemble
from dawnchorus.trainer.training.run import run

PAIRS = list(itertools.product(sorted(tiny.ENCODERS), sorted(tiny.OBJECTIVES)))
STRANGER = Path(__file__).with_name("stranger.py")


@pytest.fixture(autouse=True, scope="module")
def newcomers() -> Iterator[None]:
    register()
    yield
    forget()


def refused(encoder: str, objective: str) -> list[str]:
    """Why the two do not go together."""
    return OBJECTIVES.config(objective)().refuses(ENCODERS.config(encoder)())


def test_there_is_a_row_for_every_objective() -> None:
    assert set(tiny.OBJECTIVES) == set(OBJECTIVES.names())


@pytest.mark.parametrize(("encoder", "objective"), PAIRS)
def test_what_does_not_go_together_is_refused_with_the_reason(encoder: str, objective: str) -> None:
    if reasons := refused(encoder, objective):
        with pytest.raises(RecipeError) as told:
            contract_recipe(encoder, objective)
        assert all(reason in str(told.value) for reason in reasons)
    else:
        contract_recipe(encoder, objective)


@pytest.mark.parametrize(("encoder", "objective"), PAIRS)
def test_it_trains_and_continues_bit_by_bit(
    encoder: str,
    objective: str,
    tone_dataset: Path,
    tmp_path: Path,
    same_state: Callable[[dict[str, Any], dict[str, Any]], bool],
) -> None:
    if refused(encoder, objective):
        pytest.skip("these two do not go together, and a recipe with both is refused")
    recipe = contract_recipe(
        encoder, objective, f"runs={tmp_path}", "name=run", "train.validate_clips=6",
        data=tone_dataset,
    )  # fmt: skip
    folder = run(recipe)
    checkpoints = folder / "checkpoints"
    straight = load(checkpoints / "step_000000004.ckpt")
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    first = {x["step"]: x["loss"] for x in lines if x["kind"] == "train"}
    figures = next(x for x in lines if x["kind"] == "valid")
    assert set(recipe.objective.metrics) <= set(figures), "what may choose the best is measured"
    assert len(load_examples(folder)) == 8
    assert (folder / "report.html").stat().st_size > 10_000
    # As if it had been killed after its second step.
    for name in ("step_000000004.ckpt", "last.ckpt", "best.ckpt"):
        (checkpoints / name).unlink()
    (folder / "examples.npz").unlink()
    run(recipe)
    assert same_state(straight, load(checkpoints / "step_000000004.ckpt"))
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    again = {x["step"]: x["loss"] for x in lines if x["kind"] == "train"}
    assert again == first and sorted(first) == [1, 2, 3, 4]


@pytest.mark.parametrize(("encoder", "objective"), PAIRS)
def test_a_clip_counts_the_same_in_any_batch(
    encoder: str, objective: str, tone_dataset: Path
) -> None:
    """Sums and counts of a batch are those of its parts: the micro-batch decides nothing."""
    if refused(encoder, objective):
        pytest.skip("these two do not go together, and a recipe with both is refused")
    torch.manual_seed(0)
    labels = ("a", "b", "c") if OBJECTIVES.config(objective).needs_labels else None
    model, part = assemble(contract_recipe(encoder, objective), labels)
    model.eval(), part.eval()
    wav_BT = 0.1 * torch.randn(4, 32000)
    length_B = torch.tensor([32000, 20000, 32000, 9000])
    x, steps_B = model.frontend(wav_BT, length_B)
    label_P2 = torch.tensor([[0, 1], [1, 0], [3, 2]])
    key_B, source_B = torch.arange(4) * 977 + 5, torch.zeros(4, dtype=torch.int64)
    whole = FeatureBatch(x, steps_B, label_P2, source_B, key_B)
    part.prepare(model, [whole])
    together = part.step(whole, model)
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in together.logs}
    loss, count = 0.0, 0.0
    for row in range(4):
        mine = label_P2[label_P2[:, 0] == row] - torch.tensor([row, 0])
        one = slice(row, row + 1)
        alone = FeatureBatch(x[one], steps_B[one], mine, source_B[one], key_B[one])
        out = part.step(alone, model)
        loss, count = loss + float(out.loss_sum), count + float(out.count)
        for name, pair in out.logs.items():
            sums[name] += torch.stack([value.double() for value in pair])
    assert float(together.count) == pytest.approx(count)
    assert float(together.loss_sum) == pytest.approx(loss, rel=1e-4)
    for name, pair in together.logs.items():
        mine = torch.stack([value.double() for value in pair])
        torch.testing.assert_close(sums[name], mine, rtol=1e-4, atol=1e-4)
    assert part.flops(model, model.encoder.grid(x.shape[1])) > 0


def test_every_encoder_leaves_and_is_loaded_where_this_project_is_not(
    tone_dataset: Path, tmp_path: Path
) -> None:
    wav_BT, length_B = 0.1 * torch.randn(2, 32000), torch.tensor([32000, 18000])
    save_file({"wav_BT": wav_BT, "length_B": length_B}, tmp_path / "sound.safetensors")
    expected = {}
    for encoder in sorted(tiny.ENCODERS):
        recipe = contract_recipe(
            encoder, "multilabel", f"runs={tmp_path / 'runs'}", f"name={encoder}",
            "train.max_steps=1", data=tone_dataset,
        )  # fmt: skip
        folder = export(run(recipe), tmp_path / "out" / encoder, private=True)
        assert "Layers" in (folder / "README.md").read_text() or encoder != "beats"
        model = load_model(folder).model
        shutil.rmtree(recipe.folder)
        with torch.no_grad():
            expected[encoder] = model.embed(wav_BT, length_B), model.logits(wav_BT, length_B)
    done = subprocess.run(
        [sys.executable, "-I", str(STRANGER), str(tmp_path)], capture_output=True, text=True,
        timeout=500, env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = load_file(tmp_path / "answers.safetensors")
    for encoder, (embedding_BD, logit_BC) in expected.items():
        for name, mine in (("embedding", embedding_BD), ("logits", logit_BC)):
            theirs = answers[f"{encoder}.{name}"]
            torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-4)
