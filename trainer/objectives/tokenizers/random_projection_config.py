"""The numbers of the random-projection tokenizer; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dawnchorus.trainer.encoders.ranges import Range, Share
from dawnchorus.trainer.objectives.tokenizers.base_config import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class RandomProjectionConfig(TokenizerConfig):
    """A random-projection tokenizer, as BEATs uses for its first iteration."""

    name: Literal["random_projection"] = "random_projection"
    """Which tokenizer this is."""
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
