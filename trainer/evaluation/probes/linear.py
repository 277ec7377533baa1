"""Linear probes on frozen embeddings, also on a learned mix of layers.

Shape legend: L layers, D channels, C classes, J jobs, B clips of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.probes.fitting import JobBatch, PooledProbe


class _LinearBatch(JobBatch):
    def build(self, classes: int) -> None:
        dim = self.feature.shape[-1]
        self.weight_JCD = self.drawn(classes, dim, fan_in=dim)
        self.bias_JC1 = self.drawn(classes, 1, fan_in=dim)
        if self.feature.dim() == 3:
            shape = (len(self.jobs), self.feature.shape[1])
            self.mix_JL = torch.zeros(shape, device=self.feature.device).requires_grad_()
            self.parameters.append(self.mix_JL)

    def logits(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            mix_J1L = self.mix_JL.softmax(1).unsqueeze(1)
            x = torch.bmm(mix_J1L, x.flatten(2)).view(x.shape[0], x.shape[2], x.shape[3])
        # This order of the factors makes the weights' gradient a product of contiguous matrices,
        # five times as fast on a CPU as x @ w.
        logit_JCB = torch.baddbmm(self.bias_JC1, self.weight_JCD, x.transpose(1, 2))
        return logit_JCB.transpose(1, 2)


class Linear(PooledProbe):
    """Of [N, D] a linear classifier; of [N, L, D] one on a learned softmax-weighted mean of the
    layers.
    """

    batch = _LinearBatch
