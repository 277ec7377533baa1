"""The numbers of masked prediction of units; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    Whole,
    check_ranges,
)
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class UnitsConfig:
    """What the units are clusters of. The first clips decide them; the checkpoint has them."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    codes: Annotated[int, Range(ge=2)] = 100
    """Number of clusters. HuBERT, torchaudio's recipe: 100 of MFCC, 500 of an earlier encoder."""
    path: str | None = None
    """A run, checkpoint or export whose frozen encoder computes the features. null: 13 MFCC with
    their first and second differences (HuBERT's first iteration)."""
    layer: Whole = 6
    """Which layer of that encoder; 0 is the input of the first. HuBERT's second iteration: 6."""
    seed: Annotated[int, Range(ge=0, lt=2**32)] = 0
    """Seed of the clusters' first centres."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class MaskedUnitsConfig(ObjectiveConfig):
    """Masked prediction of units (HuBERT): hide spans of tokens, predict the cluster of each."""

    metrics: ClassVar[dict[str, str]] = {"loss": "min", "masked_accuracy": "max"}

    name: Literal["masked_units"] = "masked_units"
    """Which objective this is."""
    units: UnitsConfig = field(default_factory=UnitsConfig)
    """The units that are predicted."""
    mask_prob: Annotated[float, Range(gt=0, le=1)] = 0.8
    """Spans per token times their length. With HuBERT's 0.8 about half of the tokens are hidden,
    because spans overlap."""
    mask_span: Count = 10
    """Length of a span, in tokens. HuBERT: 10. In a clip of fewer than two spans, half of it."""
    temperature: Positive = 0.1
    """The cosines of token and unit are divided by this. HuBERT: 0.1."""
    width: Count = 256
    """Width in which token and unit are compared. HuBERT: 256."""
    unmasked_weight: NotNegative = 0.0
    """Weight of the loss of the tokens that were not hidden. HuBERT: 0."""
    stem_penalty: NotNegative = 10.0
    """Weight of the mean square of the output of the convolutions over samples. HuBERT: 10."""
    clean_targets: bool = True
    """Make the units from the sound without the noise of `augment`, as HuBERT, whose units were
    made from the recordings beforehand. false: make them from the encoder's input."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def hears_clean(self) -> bool:
        """See `ObjectiveConfig.hears_clean`."""
        return self.clean_targets

    @property
    def reads(self) -> dict[str, str]:
        """See `ObjectiveConfig.reads`."""
        return {"units.path": self.units.path} if self.units.path is not None else {}

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """Count the projection, the units and the vector that hides a token."""
        return encoder.dim + (encoder.dim + 1) * self.width + self.units.codes * self.width

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """See `ObjectiveConfig.refuses`."""
        problems = super().refuses(encoder)
        if not encoder.coverable:
            problems.append(
                f"objective {self.name} hides spans of tokens behind a learned vector, and encoder "
                f"{encoder.name} ({encoder.title}) cannot: choose "
                "encoder=hubert_base or another objective"
            )
        return problems
