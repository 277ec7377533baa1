"""The contract of an encoder's config. Imports neither torch nor pydantic.

Exported models have a copy of this file, beside the config that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The numbers of an encoder and of its front end.

    A subclass is a frozen dataclass with a docstring under each field. Two fields are `name`
    (`name: Literal["mine"] = "mine"`) and `frontend`, a name of `trainer.frontends`.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    title: ClassVar[str] = ""
    """The encoder's name as people write it."""
    maskable: ClassVar[bool] = False
    """Whether it can encode the visible tokens of a clip alone (`base.Maskable`)."""
    coverable: ClassVar[bool] = False
    """Whether it can hide tokens behind a learned vector (`base.Coverable`)."""
    feed_forward_taps: ClassVar[bool] = False
    """Whether `forward` takes `fed`, a list to which it adds what the feed-forward part of each
    block gives before the residual is added, [B, N, D]."""
    frontend_fields: ClassVar[tuple[str, ...]] = ("frontend", "sample_rate_hz")
    """Fields that belong to the front end."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide how the encoder is trained, not what it computes."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Which encoder."""

        @property
        def frontend(self) -> str:
            """Which front end."""

        @property
        def sample_rate_hz(self) -> int:
            """Sampling rate of the waveform, in Hz."""

        @property
        def patch(self) -> int:
            """Side of a square patch, in steps and mel bins. Only maskable encoders have it."""

        @property
        def dim(self) -> int:
            """Channels of a token."""

    @property
    def prefix(self) -> int:
        """Number of tokens in front that stand for the whole clip."""
        return 0

    @property
    def hop_s(self) -> float:
        """Seconds from one step of the front end to the next."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, without building it."""
        raise NotImplementedError

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block. With FSDP a device gathers so many at once."""
        raise NotImplementedError

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all blocks together."""
        raise NotImplementedError

    @property
    def tokens_text(self) -> str:
        """The number of tokens per time, in a few words: `8 per 160 ms`."""
        raise NotImplementedError

    def summary(self) -> dict[str, str]:
        """Describe the architecture for cards and reports: name of a row -> text."""
        raise NotImplementedError

    def stack_parameters(self, layers: int, dim: int, heads: int | None = None) -> int:
        """Parameters of a stack of such layers at another width (`base.Maskable.stack`)."""
        del layers, dim, heads
        raise NotImplementedError(f"{self.title} has no stack of layers for a predictor")
