"""A probe with hidden layers on frozen embeddings.

Shape legend: D channels, H hidden, C classes, J jobs, B clips of a step.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.probes.fitting import JobBatch, PooledProbe
from dawnchorus.trainer.evaluation.probes.mlp_config import MlpConfig


class _MlpBatch(JobBatch):
    config: MlpConfig

    @staticmethod
    def weights(dim: int, classes: int, config: MlpConfig) -> int:
        widths = (dim, *config.hidden, classes)
        return sum(a * b for a, b in itertools.pairwise(widths))

    def build(self, classes: int) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        width = self.feature.shape[-1]
        for wide in (*self.config.hidden, classes):
            weight = self.drawn(wide, width, fan_in=width)
            self.layers.append((weight, self.drawn(wide, 1, fan_in=width)))
            width = wide

    def logits(self, x: Tensor) -> Tensor:
        hidden_JHB = x.transpose(1, 2)
        for number, (weight_JHD, bias_JH1) in enumerate(self.layers):
            if number:
                hidden_JHB = self._dropped(hidden_JHB.relu())
            hidden_JHB = torch.baddbmm(bias_JH1, weight_JHD, hidden_JHB)
        return hidden_JHB.transpose(1, 2)

    def _dropped(self, hidden_JHB: Tensor) -> Tensor:
        """Dropout, from each job's own generator."""
        share = self.config.dropout
        if not self.training or share == 0:
            return hidden_JHB
        drawn = [torch.rand(hidden_JHB.shape[1:], generator=g) for g in self.draws]
        kept = (torch.stack(drawn) >= share).to(hidden_JHB.device)
        return hidden_JHB * kept / (1 - share)


class Mlp(PooledProbe):
    """Hidden layers and a classifier on [N, D]."""

    batch = _MlpBatch
