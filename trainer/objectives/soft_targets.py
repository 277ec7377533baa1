"""What an earlier model thinks of a clip, as targets beside or in place of labels.

On labelled clips this is self-distillation (Furlanello et al., Born-again neural networks, ICML
2018); on clips of datasets that have no labels at all it is the noisy student (Xie et al., CVPR
2020): the teacher hears the clean sound, the student hears it with noise.

Shape legend: B clips, C classes of the student, K classes of the teacher, S sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.objectives.frozen import same_hearing
from dawnchorus.trainer.pooling import pool

if TYPE_CHECKING:
    from dawnchorus.trainer.objectives.base import Context, FeatureBatch, Model


class SoftTargets(nn.Module):
    """A frozen model with a head, whose probabilities are targets.

    Args:
        teacher: the model; its encoder hears what the student's does.
        labels: names of the student's classes.
    """

    class_K: Tensor
    known_C: Tensor

    def __init__(self, teacher: Model, labels: tuple[str, ...]) -> None:
        super().__init__()
        assert teacher.head is not None and teacher.labels is not None
        # Parts of the state, so that a checkpoint has them.
        self.encoder = teacher.encoder.eval().requires_grad_(False)
        self.head = teacher.head.requires_grad_(False)
        self.pooling = teacher.pooling
        number = {name: i for i, name in enumerate(labels)}
        class_K = torch.tensor([number.get(name, -1) for name in teacher.labels])
        known_C = torch.zeros(len(labels), dtype=torch.bool)
        known_C[class_K[class_K >= 0]] = True
        # They follow from the names of the classes.
        self.register_buffer("class_K", class_K, persistent=False)
        self.register_buffer("known_C", known_C, persistent=False)

    @classmethod
    def read(cls, path: str, model: Model, context: Context) -> SoftTargets:
        """Read the teacher.

        Raises:
            RecipeError: it has no head, none of its classes is among the student's, or the front
                ends differ.
            CheckpointError: it cannot be read.
        """
        assert context.load_model is not None and model.labels is not None
        teacher = context.load_model(path)
        same_hearing(teacher.encoder, model.encoder, f"objective.teacher={path}")
        if teacher.head is None or teacher.labels is None:
            raise RecipeError(f"objective.teacher={path}: it was never trained on labels")
        if not set(teacher.labels) & set(model.labels):
            raise RecipeError(
                f"objective.teacher={path}: none of its {len(teacher.labels)} classes is among the "
                f"{len(model.labels)} of these datasets"
            )
        return cls(teacher, model.labels)

    def train(self, mode: bool = True) -> SoftTargets:
        """The teacher drops nothing, whatever the mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def forward(self, batch: FeatureBatch) -> Tensor:
        """The teacher's probability of each class, float32 [B, C]; 0 where it knows no such class.

        A class is taken for independent of the others, as the head of a multi-label model is.
        """
        heard = batch.x if batch.clean is None else batch.clean
        out = self.encoder(heard, batch.steps_B)
        pooled_BE = pool(out.tokens_BND, out.valid_BN, self.pooling)
        with torch.autocast(pooled_BE.device.type, enabled=False):
            probability_BK = self.head(pooled_BE.float()).sigmoid()
        target_BC: Tensor = probability_BK.new_zeros(len(probability_BK), len(self.known_C))
        mine = self.class_K >= 0
        target_BC[:, self.class_K[mine]] = probability_BK[:, mine]
        return target_BC
