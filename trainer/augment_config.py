"""The section of a recipe for noise and mixup; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from dawnchorus.trainer.encoders.ranges import Positive, Range, Share, check_ranges

Decibels = Annotated[float, Range(ge=-100, le=100)]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Changes to training clips. The defaults are from AVEX, section 3 and model cards."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    noise_prob: Share = 0.5
    """Share of clips that get noise from the `data.noise` datasets."""
    snr_db: tuple[Decibels, Decibels] = (-10.0, 20.0)
    """Bounds of the uniform signal-to-noise ratio in dB. The paper says [-10, 20], all published
    configs [-5, 20]."""
    mixup_prob: Share = 0.5
    """Share of clips that are mixed with their partner; labels are united. Partners are the
    neighbours 2k and 2k + 1 of the shuffled stream, whatever the micro-batch. The paper says 0.5;
    the published code mixes one pair in half of the batches."""
    mixup_alpha: Positive = 0.4
    """The clip's own share is drawn from Beta(alpha, alpha): 0.4 in the published code, none given
    in the paper."""

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.snr_db
        if low > high:
            raise ValueError(f"snr_db is [{low}, {high}]; the first must not be above the second")
