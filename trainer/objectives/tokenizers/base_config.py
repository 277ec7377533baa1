"""What the configs of all tokenizers have in common; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from dawnchorus.trainer.encoders.ranges import Range, check_ranges

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The numbers of a tokenizer. Each kind adds `name`, a `Literal` of its name with a default."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    codebook_size: Annotated[int, Range(ge=2)] = 1024
    """Number of codes. BEATs: 1024."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def reads(self) -> dict[str, str]:
        """Earlier runs or files that it is built from: key within the section -> path."""
        return {}

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """What it keeps beside small tables, in float32."""
        del encoder
        return 0
