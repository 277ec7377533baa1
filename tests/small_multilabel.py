"""A small model with the post-training objective, and a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import Context, FeatureBatch
from dawnchorus.trainer.objectives.multilabel import MultiLabel, dense_labels
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig

TINY = BeatsConfig(
    layers=2, dim=32, ffn_dim=64, heads=4, patch_dim=16, conv_pos=16, num_buckets=32,
    max_distance=64, layer_drop=0.5,
)  # fmt: skip
CLASSES = 6
LABELS = torch.tensor([[0, 1], [0, 4], [1, 0], [3, 4]])  # clip 2 has none


def build(seed: int = 0, **changes: Any) -> tuple[BioEncoder, MultiLabel]:
    torch.manual_seed(seed)
    config = MultiLabelConfig(**changes)
    model = BioEncoder(Beats(TINY), tuple("abcdef"), config.head_pooling)
    return model, MultiLabel.build(config, model, Context(labels=model.labels))


def head(model: BioEncoder) -> nn.Linear:
    assert model.head is not None
    return model.head


def batch(labels_P2: Tensor = LABELS, clips: int = 4, seed: int = 0) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    return FeatureBatch(
        torch.randn(clips, 96, 128, generator=generator),
        torch.full((clips,), 96),
        labels_P2,
        torch.tensor([0, 1, 1, 0])[:clips],
    )


def logits_and_targets(model: BioEncoder, objective: MultiLabel) -> tuple[Tensor, Tensor]:
    out = model.encoder(batch().x, batch().steps_B)
    logit_BC = objective.logits(out, head(model))
    return logit_BC, dense_labels(LABELS, logit_BC).float()
