"""The numbers of supervised post-training on many labels; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import NotNegative, Share, ShareBelowOne, check_ranges
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig
    from dawnchorus.trainer.pooling import Pooling
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MultiLabelConfig(ObjectiveConfig):
    """Multi-label classification with a linear head."""

    needs_labels: ClassVar[bool] = True
    metrics: ClassVar[dict[str, str]] = {
        "map": "max", "map_trained": "max", "auroc": "max", "auroc_trained": "max", "top1": "max",
        "loss": "min",
    }  # fmt: skip
    """Figures of a validation that may choose the best checkpoint, the usual one first, and whether
    more is better."""

    name: Literal["multilabel"] = "multilabel"
    """Which objective this is."""
    loss: Literal["bce", "softmax", "asymmetric"] = "bce"
    """bce: an independent yes or no per class (AVEX). softmax: one distribution over the classes,
    with 1/k on each of a clip's k labels (Perch 2); clips without a label then do not count.
    asymmetric: bce in which classes that are already right count less (Ridnik et al. 2021)."""
    gamma_positive: NotNegative = 1.0
    """asymmetric only: exponent of (1 - p) that multiplies the term of a label (Bird-MAE: 1).
    0: none."""
    gamma_negative: NotNegative = 4.0
    """asymmetric only: the same for classes that are absent (Bird-MAE: 4). With the same number as
    `gamma_positive` and a margin of 0 this is the focal loss (Lin et al. 2017)."""
    margin: ShareBelowOne = 0.05
    """asymmetric only: absent classes below this probability count nothing (Bird-MAE: 0.05)."""
    frame_max_weight: NotNegative = 0.0
    """Weight of the same loss on the highest logit that each class reaches in any column of time,
    beside the loss on the pooled clip: for calls that are short (BirdCLEF+ 2026: 0.5). 0: none.
    With `pooling: mean` only."""
    ignore_cross_source_negatives: bool = False
    """Leave out the classes that a clip's source never labels: a bird may well sing in an AudioSet
    clip that lists no species. false: their absence counts as a negative (AVEX). Not with
    softmax."""
    pooling: Literal["mean", "mean_std", "mean_std_max", "cls"] = "mean"
    """What the head sees of a clip's tokens: their mean (AVEX), also their standard deviation, also
    their maximum; cls: the token that stands for the clip, where the encoder has one (AVEX's EAT).
    It travels with the checkpoint and the export."""
    head_dropout: ShareBelowOne = 0.0
    """Dropout on the pooled tokens (AVEX: none)."""
    head_bias: Literal["default", "prior"] = "default"
    """Start of the head's bias. default: torch's own (AVEX). prior: every class at a probability of
    1 / classes, so that the first steps are not spent on learning that most labels are absent."""

    teacher: str | None = None
    """A run, checkpoint or export with a head, whose probabilities are targets too: on labelled
    clips with `teacher_weight` (self-distillation, Furlanello et al. 2018), on clips of datasets
    that have no label at all alone (noisy student, Xie et al. 2020). It hears clips without noise.
    Null: none; clips without labels then count as negatives of every class."""
    teacher_weight: Share = 0.5
    """Share of the teacher in the target of a labelled clip, for the classes that it knows."""

    @property
    def hears_clean(self) -> bool:
        """The teacher hears no noise."""
        return self.teacher is not None

    @property
    def reads(self) -> dict[str, str]:
        """See `ObjectiveConfig.reads`."""
        return {} if self.teacher is None else {"teacher": self.teacher}

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """The teacher, which is taken for as large as the encoder."""
        return 0 if self.teacher is None else encoder.parameters

    def forbids(self, recipe: Recipe) -> list[str]:
        """See `ObjectiveConfig.forbids`."""
        problems = super().forbids(recipe)
        if self.teacher is not None and recipe.augment.mixup_prob > 0:
            problems.append(
                "objective.teacher hears clips as they are, and mixup makes other clips of them: "
                "choose augment=noise or augment=none"
            )
        return problems

    @property
    def head_pooling(self) -> Pooling:
        """See `ObjectiveConfig.head_pooling`."""
        return self.pooling

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder: the linear head."""
        statistics = {"mean": 1, "mean_std": 2, "mean_std_max": 3, "cls": 1}[self.pooling]
        return (statistics * encoder.dim + 1) * classes

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """See `ObjectiveConfig.refuses`."""
        problems = super().refuses(encoder)
        if self.pooling == "cls" and not encoder.prefix:
            problems.append(
                f"objective.pooling=cls needs a token that stands for the clip, and encoder "
                f"{encoder.name} ({encoder.title}) has none here: set it to mean"
            )
        return problems

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.ignore_cross_source_negatives and self.loss == "softmax":
            raise ValueError(
                "ignore_cross_source_negatives is true; with loss softmax it must be false"
            )
        if self.teacher is not None and self.loss != "bce":
            raise ValueError(
                f"teacher needs loss bce, whose targets may be shares; not {self.loss}"
            )
        usual = vars(MultiLabelConfig)
        idle = [k for k in ("gamma_positive", "gamma_negative", "margin")
                if self.loss != "asymmetric" and getattr(self, k) != usual[k]]  # fmt: skip
        if idle:
            raise ValueError(
                f"{idle[0]} is of no use with loss {self.loss}: set loss to asymmetric"
            )
        if self.frame_max_weight and self.pooling != "mean":
            raise ValueError(
                f"frame_max_weight is {self.frame_max_weight}; it must be 0 with pooling "
                f"{self.pooling}, whose head takes no single tokens"
            )
