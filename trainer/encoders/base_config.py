"""What every encoder's config says, beside its own numbers; imports neither torch nor pydantic.

Shipped inside exported models, beside the config that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Numbers of an encoder and of the front end that feeds it.

    A subclass is a frozen dataclass with a docstring under each field, its `name` among them
    (`name: Literal["mine"] = "mine"`), and `frontend`, a name of `trainer.frontends`.
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
    """Whether `forward` takes `fed`, a list that it fills with what the feed-forward part of each
    block gives before it is added, [B, N, D]."""
    frontend_fields: ClassVar[tuple[str, ...]] = ("frontend", "sample_rate_hz")
    """Fields that are numbers of the front end."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the encoder is trained, not what it computes."""

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
            """Side of a square patch, in steps and mel bins; of encoders that are maskable."""

        @property
        def dim(self) -> int:
            """Channels of a token."""

    @property
    def prefix(self) -> int:
        """Tokens in front that stand for the whole clip."""
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
        """Parameters of the largest block: what a device gathers at once where they are sharded."""
        raise NotImplementedError

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all blocks together."""
        raise NotImplementedError

    @property
    def tokens_text(self) -> str:
        """How many tokens stand for how much time, in a few words."""
        raise NotImplementedError

    def summary(self) -> dict[str, str]:
        """What cards and reports say of the architecture: name of a row -> text."""
        raise NotImplementedError

    def stack_parameters(self, layers: int, dim: int, heads: int | None = None) -> int:
        """Parameters of a stack of such layers at another width (`base.Maskable.stack`)."""
        del layers, dim, heads
        raise NotImplementedError(f"{self.title} has no stack of layers for a predictor")
