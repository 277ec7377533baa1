"""Labels beside, or in place of, what an earlier model thinks of a clip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import Context, FeatureBatch
from dawnchorus.trainer.objectives.multilabel import MultiLabel, dense_labels
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.training.run import run

TINY = BeatsConfig(
    layers=2, dim=32, ffn_dim=64, heads=4, patch_dim=16, conv_pos=16, num_buckets=32,
    max_distance=64,
)  # fmt: skip
LABELS = torch.tensor([[0, 1], [0, 2], [1, 0]])  # clips 2 and 3 have none


def model(labels: tuple[str, ...] | None, seed: int, **changes: Any) -> BioEncoder:
    torch.manual_seed(seed)
    made = BioEncoder(Beats(replace(TINY, **changes)), labels)
    return made.eval()


def objective(student: BioEncoder, teacher: BioEncoder, **given: Any) -> MultiLabel:
    present_SC = torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()  # the second dataset has no labels
    context = Context(
        labels=student.labels,
        presence=lambda: (present_SC.any(0), present_SC),
        load_model=lambda path: teacher,
    )
    return MultiLabel.build(MultiLabelConfig(teacher="there", **given), student, context)


def batch() -> FeatureBatch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 96, 128, generator=generator)
    clean = torch.randn(4, 96, 128, generator=generator)
    steps_B = torch.tensor([96, 96, 48, 96])
    return FeatureBatch(x, steps_B, LABELS, torch.tensor([0, 0, 1, 0]), clean=clean)


def test_targets_are_labels_and_the_teacher_s_probabilities() -> None:
    student, teacher = model(("a", "b", "c"), 0), model(("c", "z", "a"), 1)
    part = objective(student, teacher, teacher_weight=0.3)
    given = batch()
    out = part.step(given, student)

    # The teacher hears the clean sound; it knows c and a, not b.
    heard = teacher.encoder(given.clean, given.steps_B)
    assert teacher.head is not None and student.head is not None
    valid_BN1 = heard.valid_BN[..., None]
    mean_BD = (heard.tokens_BND * valid_BN1).sum(1) / valid_BN1.sum(1)
    told_BK = teacher.head(mean_BD).sigmoid()
    encoded = student.encoder(given.x, given.steps_B)
    valid_BN1 = encoded.valid_BN[..., None]
    logit_BC = student.head((encoded.tokens_BND * valid_BN1).sum(1) / valid_BN1.sum(1))
    target_BC = dense_labels(LABELS, logit_BC).float()
    for clip in range(4):
        for c, k in ((2, 0), (0, 2)):
            share = 1.0 if clip == 2 else 0.3
            target_BC[clip, c] = (1 - share) * target_BC[clip, c] + share * told_BK[clip, k]
    loss_BC = F.binary_cross_entropy_with_logits(logit_BC, target_BC, reduction="none")
    loss_BC[2, 1] = 0.0  # nobody says whether b is in a clip without labels
    torch.testing.assert_close(out.loss_sum, loss_BC.sum() / 3)
    assert int(out.count) == 4


def test_nothing_of_the_teacher_learns_or_drops(tmp_path: Path) -> None:
    student, teacher = model(("a", "b", "c"), 0), model(("a", "b", "c"), 1, dropout=0.5)
    part = objective(student, teacher)
    part.train()
    first, again = part.step(batch(), student), part.step(batch(), student)
    assert torch.equal(first.loss_sum, again.loss_sum)
    first.loss_sum.backward()
    assert part.soft_targets is not None
    assert all(p.grad is None for p in part.soft_targets.parameters())
    assert any(name.startswith("soft_targets.head") for name in part.state_dict())


def test_a_validation_judges_by_labels() -> None:
    student, teacher = model(("a", "b", "c"), 0), model(("a", "b", "c"), 1)
    part = objective(student, teacher)
    part.eval()
    plain = MultiLabel.build(MultiLabelConfig(), student, Context(labels=student.labels))
    given = replace(batch(), source_B=torch.full((4,), 7))  # validation sets have their own numbers
    assert torch.equal(part.step(given, student).loss_sum, plain.step(given, student).loss_sum)


@pytest.mark.parametrize(
    ("labels", "changes", "said"),
    [
        (None, {}, "objective.teacher=there: it was never trained on labels"),
        (("x", "y"), {}, "none of its 2 classes is among the 3"),
        (("a",), {"mel_std": 5.0}, "objective.teacher=there: its encoder hears something else"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    labels: tuple[str, ...] | None, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        objective(model(("a", "b", "c"), 0), model(labels, 1, **changes))


def test_a_teacher_needs_single_clips_and_shares() -> None:
    with pytest.raises(ValueError, match="teacher needs loss bce"):
        MultiLabelConfig(teacher="x", loss="softmax")
    with pytest.raises(RecipeError, match=r"objective\.teacher hears clips as they are, and mixup"):
        load_recipe("sl_beats_tiny", ["objective.teacher=x", "augment=noise_mixup",
                                      "data.train.a.path=a", "data.noise.a.path=a"])  # fmt: skip


@pytest.mark.slow
def test_a_run_learns_from_an_earlier_run(tmp_path: Path, tone_dataset: Path) -> None:
    """The teacher is read from its run, is in the checkpoint, and the run continues."""
    common = [
        f"data.train.a.path={tone_dataset}", f"runs={tmp_path}", "encoder.layers=1",
        "encoder.dim=32", "encoder.heads=2", "encoder.ffn_dim=64", "encoder.conv_pos=16",
        "encoder.conv_pos_groups=4", "data.workers=0", "data.window_s=1.0", "log.wandb=disabled",
        "train.validate_every=null", "train.global_batch=4", "train.micro_batch=4",
        "train.checkpoint_every=2", "optim.warmup_steps=0", "optim.head_only_steps=0",
        "optim.head_lr=null", "train.log_every=1",
    ]  # fmt: skip
    first = run(load_recipe("sl_beats_tiny", [*common, "name=first", "train.max_steps=2"]))
    taught = [*common, "name=second", f"objective.teacher={first}", "train.max_steps=4"]
    second = run(load_recipe("sl_beats_tiny", taught))
    last = second / "checkpoints" / "step_000000004.ckpt"
    state = torch.load(last, weights_only=True)["state_dict"]
    assert "objective.soft_targets.head.weight" in state
    straight = {name: tensor.clone() for name, tensor in state.items()}
    for name in ("step_000000004.ckpt", "last.ckpt", "best.ckpt"):
        (second / "checkpoints" / name).unlink(missing_ok=True)
    run(load_recipe("sl_beats_tiny", taught))
    again = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    lines = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "train" for line in lines)
    # What the teacher has heard is owed credit too.
    (earlier,) = json.loads((second / "data.json").read_text())["earlier"]
    assert (earlier["name"], earlier["kind"]) == ("first", "supervised training")
