"""Micro-batch, accumulation and ranks change nothing but the order of sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.ddp]

STEPS = 20
# All that is random, dropout aside; rates at which rounding does not grow (see test_sharded).
COMMON = [f"train.max_steps={STEPS}", "train.global_batch=16", "train.checkpoint_every=100",
          "train.validate_every=10", "data.workers=0", "encoder.layers=3",
          "augment.noise_prob=0.5", "optim.ema_decay=0.9", "optim.clip_norm=0.5",
          "optim.lr=1e-3"]  # fmt: skip
POST = ["encoder.layer_drop=0.3", "augment.mixup_prob=0.6", "augment.mixup_alpha=0.4",
        "optim.head_only_steps=3", "optim.head_lr=2e-3"]  # fmt: skip
MORE = {
    "sl_beats_tiny": POST,
    "ssl_beats_tiny": ["encoder.layer_drop=0.3", "objective.masks_per_clip=2",
                       "objective.min_perplexity=1"],
    "ssl_hubert_tiny": ["encoder.layer_drop=0.3", "objective.units.codes=8",
                        "train.max_steps=4", "train.validate_every=2"],
    "ssl_eat_tiny": ["encoder.drop_path=0.3", "objective.masks_per_clip=2",
                     "objective.clean_targets=true", "train.max_steps=4", "train.validate_every=2"],
    "ssl_mae_tiny": ["encoder.drop_path=0.3", "encoder.sample_rate_hz=16000",
                     "objective.masker=block", "objective.masks_per_clip=2",
                     "objective.clean_targets=true", "train.max_steps=4", "train.validate_every=2"],
}  # fmt: skip
ONE, TWO = "train.devices=1", "train.devices=2"
FSDP = "train.strategy=fsdp"


@pytest.fixture
def uneven(make_dataset, make_tones, tmp_path) -> list[str]:
    """Clips of 0.3 to 3 s; a validation set that no micro-batch divides; noise."""
    rng = np.random.default_rng(1)
    clips, labels = make_tones(45)
    for clip, seconds in zip(clips, rng.uniform(0.3, 3.0, len(clips)), strict=True):
        clip["wav"] = clip["wav"][: int(16000 * seconds)]
    for clip in clips[32:]:
        clip["split"] = "valid"
    data = make_dataset(tmp_path / "uneven", clips, labels)
    noise = [{"wav": (rng.standard_normal(20000) * 900).astype(np.int16), "labels": []}] * 3
    make_dataset(tmp_path / "noise", noise, ["none"])
    return [
        f"data.train.main.path={data}",
        f"data.valid.main.path={data}",
        "data.valid.main.splits=[valid]",
        f"data.noise.some.path={tmp_path / 'noise'}",
    ]


def figures(run: Any, kind: str) -> list[dict[str, float]]:
    """What a run learnt and how well, line by line, without what the clock and the layout say."""
    own = {"loss", "grad_norm", "map", "auroc", "top1", "clips", "classes", "masked_accuracy",
           "unigram_accuracy", "unigram_nll", "codes_per_clip", "lr", "frame_loss",
           "utterance_loss", "target_std", "prediction_std", "masked_nll",
           "stem_square", "flat_loss"}  # fmt: skip
    lines = [x for x in run.metrics() if x["kind"] == kind]
    return [{k: v for k, v in line.items() if k in own} for line in lines]


@pytest.mark.parametrize(
    ("recipe", "layouts"),
    [
        ("sl_beats_tiny", [(16, ONE), (6, ONE), (4, TWO), (2, TWO, FSDP)]),
        ("ssl_beats_tiny", [(16, ONE), (5, ONE), (4, TWO, FSDP)]),
        ("ssl_hubert_tiny", [(16, ONE), (8, TWO, FSDP)]),
        ("ssl_eat_tiny", [(16, ONE), (4, TWO), (8, TWO, FSDP)]),
        ("ssl_mae_tiny", [(16, ONE), (4, TWO, FSDP)]),
    ],
)
def test_any_layout_trains_alike(chorus_train, uneven, recipe: str, layouts: list[Any]) -> None:
    runs = {}
    for number, (micro, *where) in enumerate(layouts):
        layout = [*COMMON, *MORE[recipe], *uneven, f"train.micro_batch={micro}", *where]
        done = chorus_train(f"layout{number}", *layout, recipe=recipe)
        assert done.code == 0, done.stderr
        runs[(micro, *where)] = done
    first, *others = runs.values()
    assert [len(figures(first, kind)) for kind in ("train", "valid")] == [
        4 if "train.max_steps=4" in MORE[recipe] else STEPS,
        2,
    ]
    assert figures(first, "valid")[0].keys() >= {"loss"}
    for layout, other in zip(list(runs)[1:], others, strict=True):
        for kind in ("train", "valid"):
            for mine, theirs in zip(figures(first, kind), figures(other, kind), strict=True):
                # Norms add up the rounding of all gradients: 5e-6 was seen, the rest was equal.
                norms = [x.pop("grad_norm", 0.0) for x in (mine, theirs)]
                assert norms[1] == pytest.approx(norms[0], rel=5e-5), (layout, kind)
                assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-6), (layout, kind)


def test_batch_norms_end_alike_wherever_their_micro_batches_ran(chorus_train, uneven) -> None:
    """Each micro-batch is normalised by itself; what is remembered is the mean over all of them."""
    layout = ["train.max_steps=4", "train.global_batch=8", "train.micro_batch=4",
              "train.checkpoint_every=100", "data.workers=0", "optim.head_only_steps=1",
              "augment.mixup_prob=0.5", "optim.ema_decay=0.9", "optim.lr=1e-3"]  # fmt: skip
    ends = []
    for name, where in (("one", [ONE]), ("two", [TWO]), ("sharded", [TWO, FSDP])):
        done = chorus_train(name, *layout, *uneven, *where, recipe="sl_effnet_tiny")
        assert done.code == 0, done.stderr
        end = done.checkpoint()
        ends.append({"own": end["state_dict"], "mean": end["dawnchorus"]["ema"]})
    statistics = [name for name in ends[0]["own"] if name.endswith("running_var")]
    assert len(statistics) > 20 and set(statistics) < set(ends[0]["mean"])
    assert all(not torch.equal(ends[0]["own"][n], torch.ones(())) for n in statistics)
    for other in ends[1:]:
        for part, state in other.items():
            assert state.keys() == ends[0][part].keys()
            for name, tensor in state.items():
                torch.testing.assert_close(
                    tensor, ends[0][part][name], rtol=1e-3, atol=2e-4, msg=f"{part} {name}"
                )
