"""Supervised post-training on many labels: a linear head on the pooled tokens.

AVEX (Miron et al., arXiv 2508.11845), "supervised post-training": masked mean over all tokens, one
linear layer, binary cross-entropy over the union of the label spaces of all sources.

Shape legend: B clips, N tokens, D channels, E pooled numbers (D times 1, 2 or 3), C classes,
P label pairs, S sources, T columns of time, F bands.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dawnchorus.trainer.objectives.base import (
    Context,
    FeatureBatch,
    Model,
    Objective,
    Scorer,
    StepOutput,
)
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig
from dawnchorus.trainer.objectives.soft_targets import SoftTargets
from dawnchorus.trainer.panels import Panel, ScoresPanel
from dawnchorus.trainer.pooling import pool
from dawnchorus.trainer.ranking_metrics import ScoreHistogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dawnchorus.trainer.encoders.base import EncoderOutput, Grid

_NEVER = -20.0
"""Logit of a class that has no positive clip: a probability of 2e-9."""
_SHOWN = 5
"""Classes that people are shown of a clip."""
_IMPOSSIBLE = -200.0
"""Log-probability of such a class under a softmax; logit of a column that holds no sound."""
_TINY = 1e-8


def asymmetric_terms(
    logit_BC: Tensor,
    target_BC: Tensor,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> Tensor:
    """The asymmetric loss of each class (Ridnik et al., ICCV 2021, equations 4 to 6), [B, C].

    For a label -(1 - p)^gamma_positive ln p, else -(1 - q)^gamma_negative ln q, where
    q = min(1, 1 - p + margin). The defaults are Bird-MAE's (arXiv 2504.12880). `target_BC` is bool.
    """
    present_BC = logit_BC.sigmoid()
    absent_BC = (1.0 - present_BC + margin).clamp(max=1.0)
    # 1 - p rounds to 0 long before its logarithm is out of range.
    log_absent_BC = absent_BC.log() if margin else F.logsigmoid(-logit_BC)
    # A power below 1 has no finite slope at 0.
    easy_BC = (1.0 - present_BC).clamp(min=_TINY).pow(gamma_positive)
    easy_absent_BC = (1.0 - absent_BC).clamp(min=_TINY).pow(gamma_negative)
    return -torch.where(target_BC, easy_BC * F.logsigmoid(logit_BC), easy_absent_BC * log_absent_BC)


class MultiLabel(Objective):
    """Computes the loss of the model's head.

    Args:
        config: which loss, and the head's details.
        classes: number of classes C of the union label space.
    """

    config: MultiLabelConfig
    active_C: Tensor
    source_classes_SC: Tensor | None
    labelled_S: Tensor | None

    def __init__(self, config: MultiLabelConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.head_dropout)
        # Facts about the data, which are not learnt: `set_active` sets them at every start.
        self.register_buffer("active_C", torch.ones(classes, dtype=torch.bool), persistent=False)
        self.register_buffer("source_classes_SC", None, persistent=False)
        self.register_buffer("labelled_S", None, persistent=False)
        self.soft_targets: SoftTargets | None = None

    @classmethod
    def build(cls, config: MultiLabelConfig, model: Model, context: Context) -> Self:
        """See `Objective.build`; sets the first values of the model's head."""
        head = _head(model)
        if config.head_bias == "prior":
            # ln(p / (1 - p)) for p = 1 / classes
            rarity = torch.tensor(max(head.out_features - 1.0, 1.0)).log().item()
            nn.init.constant_(head.bias, -rarity)
        objective = cls(config, head.out_features)
        if config.teacher is not None:
            objective.soft_targets = SoftTargets.read(config.teacher, model, context)
        if context.presence is not None:
            objective.set_active(head, *context.presence())
        return objective

    def set_active(
        self, head: nn.Linear, active_C: Tensor, source_classes_SC: Tensor | None = None
    ) -> None:
        """Say which classes take part in the loss; before weights are loaded from a checkpoint.

        The other classes get a constant logit of -20. Untrained, they would score near 0, above
        nearly all trained classes, and so win every ranking.

        Args:
            head: the model's.
            active_C: bool, classes with at least one positive clip in the training data.
            source_classes_SC: bool, the classes that each source labels at all; wanted by
                `ignore_cross_source_negatives`.

        Raises:
            ValueError: wrong shapes, no active class, or the sources are wanted and missing.
        """
        if active_C.shape != self.active_C.shape:
            raise ValueError(f"{len(active_C)} active flags for {len(self.active_C)} classes")
        if not bool(active_C.any()):
            raise ValueError("no class has a positive clip: there is nothing to learn")
        if self.config.ignore_cross_source_negatives:
            if source_classes_SC is None:
                raise ValueError("ignore_cross_source_negatives needs the classes of each source")
            if source_classes_SC.ndim != 2 or source_classes_SC.shape[1] != len(active_C):
                raise ValueError(
                    f"classes per source of shape {tuple(source_classes_SC.shape)}; expected "
                    f"[sources, {len(active_C)}]"
                )
            self.source_classes_SC = source_classes_SC.to(self.active_C.device, torch.bool)
        self.active_C = active_C.to(self.active_C.device, torch.bool)
        if self.soft_targets is not None and source_classes_SC is not None:
            self.labelled_S = source_classes_SC.any(1).to(self.active_C.device)
        with torch.no_grad():
            head.weight[~self.active_C] = 0.0
            head.bias[~self.active_C] = _NEVER

    def logits(self, out: EncoderOutput, head: nn.Linear) -> Tensor:
        """Class logits [B, C] of the encoder's tokens, in fp32.

        The head is cheap, and bf16 scores would tie: it runs in fp32 under autocast too.
        """
        pooled_BE = self.dropout(pool(out.tokens_BND, out.valid_BN, self.config.pooling))
        with torch.autocast(pooled_BE.device.type, enabled=False):
            logit_BC: Tensor = head(pooled_BE.to(head.weight.dtype))
        return logit_BC.float()

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Loss per clip, summed over clips, and the number of clips.

        The loss of a clip is a sum over classes divided by the number of *active* classes, a
        constant: ignoring some of a clip's negatives takes their terms away and gives the others
        no more weight. Logs: `loss`, and `top1` (clips whose best class is one of their labels).

        Args:
            batch: features and `labels_P2`, and `source_B` where cross-source negatives are
                ignored.
            model: encoder and head.
            frozen: run the encoder without gradients and in eval mode, as an extractor of fixed
                features (the head-only phase).
        """
        assert batch.labels_P2 is not None
        if frozen:
            with torch.no_grad(), _evaluating(model.encoder):
                out = model.encoder(batch.x, batch.steps_B)
        else:
            out = model.encoder(batch.x, batch.steps_B)
        logit_BC = self.logits(out, _head(model))
        target_BC = dense_labels(batch.labels_P2, logit_BC)
        real_B = batch.real_B
        real_B = torch.ones_like(target_BC[:, 0]) if real_B is None else real_B
        labelled_B = (target_BC & self.active_C).any(1) & real_B
        soft = self._soft(batch, target_BC)
        loss_B = self._loss(logit_BC, target_BC, batch.source_B, soft)
        count = labelled_B.sum() if self.config.loss == "softmax" else real_B.sum()
        loss_sum = loss_B.masked_fill(~real_B, 0.0).sum()
        hit_B = target_BC.gather(1, logit_BC.detach().argmax(1, keepdim=True)).any(1) & real_B
        logs = {
            "loss": (loss_sum.detach(), count),
            "top1": (hit_B.sum(), labelled_B.sum()),
        }
        if self.config.frame_max_weight:
            grid = model.encoder.grid(batch.x.shape[1])
            highest_BC = self._frame_max(out, grid, _head(model))
            frames_B = self._loss(highest_BC, target_BC, batch.source_B, soft)
            frames_sum = frames_B.masked_fill(~real_B, 0.0).sum()
            loss_sum = loss_sum + self.config.frame_max_weight * frames_sum
            logs |= {"loss": (loss_sum.detach(), count), "frame_loss": (frames_sum.detach(), count)}
        score_BC = ranking_scores(logit_BC.detach(), self.active_C, self.config.loss)
        return StepOutput(loss_sum, count, logs, score_BC)

    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """Show the likeliest classes of each clip."""
        assert model.labels is not None
        logit_BC = self.logits(model.encoder(batch.x, batch.steps_B), _head(model))
        score_BC = probabilities(logit_BC, self.active_C, self.config.loss)
        top = score_BC.topk(min(_SHOWN, score_BC.shape[1]), dim=1)
        return [
            [ScoresPanel(tuple((model.labels[c], round(s, 4)) for s, c in zip(*row, strict=True)))]
            for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]

    def scorer(self, model: Model) -> Scorer:
        """Return a scorer of average precision and AUROC over the clips of all ranks."""
        assert model.labels is not None
        return _RankingScorer(len(model.labels), self.active_C)

    def _frame_max(self, out: EncoderOutput, grid: Grid, head: nn.Linear) -> Tensor:
        """The highest logit that each class has in any column of sound, [B, C] in fp32."""
        there_BTF = rearrange(out.valid_BN[:, grid.prefix :], "b (t f) -> b t f", f=grid.bands)
        tokens_BND = out.tokens_BND[:, grid.prefix :].float()
        tokens_BTFD = rearrange(tokens_BND, "b (t f) d -> b t f d", f=grid.bands)
        sum_BTD = tokens_BTFD.masked_fill(~there_BTF[..., None], 0.0).sum(2)
        mean_BTD = sum_BTD / there_BTF.sum(2).clamp(min=1)[..., None]
        with torch.autocast(mean_BTD.device.type, enabled=False):
            logit_BTC: Tensor = head(self.dropout(mean_BTD).to(head.weight.dtype)).float()
        # Not infinity: a clip without any column of sound would have no gradient but NaN.
        return logit_BTC.masked_fill(~there_BTF.any(2)[..., None], _IMPOSSIBLE).amax(1)

    def _soft(self, batch: FeatureBatch, target_BC: Tensor) -> tuple[Tensor, Tensor] | None:
        """The share of each class in a clip, [B, C], and which classes count, bool [B, C]."""
        if self.soft_targets is None or not self.training:
            return None  # a validation judges by labels
        told_BC, known_C = self.soft_targets(batch), self.soft_targets.known_C
        weight_B1 = torch.full_like(told_BC[:, :1], self.config.teacher_weight)
        alone_B1 = torch.zeros_like(target_BC[:, :1])
        if self.labelled_S is not None and batch.source_B is not None:
            alone_B1 = ~self.labelled_S[batch.source_B][:, None]
        weight_BC = torch.where(known_C, weight_B1.masked_fill(alone_B1, 1.0), 0.0)
        return target_BC.float().lerp(told_BC, weight_BC), known_C | ~alone_B1

    def _loss(
        self,
        logit_BC: Tensor,
        target_BC: Tensor,
        source_B: Tensor | None,
        soft: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        if self.config.loss == "softmax":
            return self._softmax(logit_BC, target_BC)
        weight = self.active_C.to(logit_BC.dtype) / self.active_C.sum()
        share_BC = target_BC.to(logit_BC.dtype)
        if soft is not None:
            share_BC, weight = soft[0], weight * soft[1]
        # Validation sets have numbers of their own, and are judged by all classes.
        if self.source_classes_SC is not None and self.training:
            assert source_B is not None
            # A positive always counts, because mixup brings in labels of another source.
            weight = weight * (self.source_classes_SC[source_B] | target_BC)
        if self.config.loss == "asymmetric":
            c = self.config
            term_BC = asymmetric_terms(
                logit_BC, target_BC, c.gamma_positive, c.gamma_negative, c.margin
            )
            return (weight * term_BC).sum(1)
        return F.binary_cross_entropy_with_logits(
            logit_BC, share_BC, weight.expand_as(logit_BC), reduction="none"
        ).sum(1)

    def _softmax(self, logit_BC: Tensor, target_BC: Tensor) -> Tensor:
        log_share_BC = logit_BC.masked_fill(~self.active_C, -torch.inf).log_softmax(1)
        target_BC = target_BC & self.active_C
        # Multiplying would give 0 x -inf at the classes that are left out.
        labels_B = target_BC.sum(1).clamp(min=1)
        return -log_share_BC.masked_fill(~target_BC, 0.0).sum(1) / labels_B


def dense_labels(labels_P2: Tensor, like_BC: Tensor) -> Tensor:
    """Bool [B, C] from (row, class) pairs; nothing waits for the device."""
    target_BC = torch.zeros_like(like_BC, dtype=torch.bool)
    row_P, class_P = labels_P2.unbind(1)
    return target_BC.index_put_((row_P, class_P), torch.ones_like(row_P, dtype=torch.bool))


def ranking_scores(logit_BC: Tensor, active_C: Tensor, loss: str) -> Tensor:
    """What ranks clips for a class, and classes for a clip.

    A softmax is blind to a constant added to all of a clip's logits, so raw logits of two clips
    cannot be compared: its scores are log-probabilities over the active classes. The logits of
    other losses are comparable as they are.

    Args:
        logit_BC: what the head gives.
        active_C: bool, classes with a positive clip in the training data.
        loss: the objective's.

    Returns:
        [B, C] in fp32 at least, finite; a class that is not active has the same score everywhere.
    """
    if loss != "softmax":
        return logit_BC
    logit_BC = logit_BC.to(torch.promote_types(logit_BC.dtype, torch.float32))
    log_share_BC = logit_BC.masked_fill(~active_C, -torch.inf).log_softmax(1)
    # Finite, and below every probability that a float32 softmax can tell from zero.
    return log_share_BC.masked_fill(~active_C, _IMPOSSIBLE)


def probabilities(logit_BC: Tensor, active_C: Tensor, loss: str) -> Tensor:
    """The head's probability of each class, [B, C]; those of a softmax sum to 1 over a clip."""
    score_BC = ranking_scores(logit_BC, active_C, loss)
    return score_BC.exp() if loss == "softmax" else score_BC.sigmoid()


def trained_classes(head: nn.Linear) -> Tensor:
    """Bool [C]: the classes that were active when this head was trained.

    `MultiLabel.set_active` gives the others weights of zero and a constant bias, which travel with
    the checkpoint; the flags themselves do not.
    """
    weight_CD, bias_C = head.weight.detach(), head.bias.detach()
    trained_C: Tensor = weight_CD.ne(0).any(1) | bias_C.ne(_NEVER)
    return trained_C if bool(trained_C.any()) else torch.ones_like(trained_C)


def _head(model: Model) -> nn.Linear:
    if model.head is None:
        raise ValueError("this objective trains a head, and the model has none")
    return model.head


class _RankingScorer:
    """See `Scorer`; `active_C`: classes that are trained."""

    def __init__(self, classes: int, active_C: Tensor) -> None:
        self.active_C = active_C
        self.histogram = ScoreHistogram(classes, device=active_C.device)

    def update(self, output: StepOutput, batch: FeatureBatch) -> None:
        """See `Scorer.update`."""
        assert output.scores_BC is not None and batch.labels_P2 is not None
        self.histogram.update(output.scores_BC, batch.labels_P2, batch.real_B)

    def sync(self) -> None:
        """See `Scorer.sync`."""
        self.histogram.sync()

    def finish(self, figures: dict[str, float]) -> dict[str, float]:
        """See `Scorer.finish`."""
        # The objective's own count is of clips with a label that it was trained on.
        figures["top1_trained"] = figures.pop("top1", float("nan"))
        return figures | self.histogram.compute(self.active_C)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
