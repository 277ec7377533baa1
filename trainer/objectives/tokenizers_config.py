"""The numbers of the tokenizers of masked pre-training; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from dawnchorus.trainer.encoders.ranges import Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True)
class RandomProjectionConfig:
    """A random-projection tokenizer, as BEATs uses for its first iteration."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    codebook_size: Annotated[int, Range(ge=2)] = 1024
    """Number of codes. BEATs: 1024."""
    codebook_dim: Annotated[int, Range(ge=2)] = 256
    """Width of a code. BEATs: 256."""
    patch_dim: Annotated[int, Range(ge=2)] = 512
    """Channels of the patch projection before it is projected to `codebook_dim`. BEATs: 512."""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 45
    """Seed of all weights. ESPnet's first-iteration BEATs has 45. Another seed is the remedy when
    the codebook is badly used."""

    whiten: Share = 0.0
    """How far the patches are decorrelated before they are projected: each principal direction of
    the corpus' patches, centred, is divided by its standard deviation to this power. 0: as
    published. 1: all directions count alike. On real sound the level of a patch holds 75 to 90 % of
    the variance, so without it most codes say little else (see docs/results.md)."""

    def __post_init__(self) -> None:
        check_ranges(self)
