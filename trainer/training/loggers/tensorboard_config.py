"""Keys of TensorBoard in the section `log` of a recipe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig:
    """Whether the run is shown in TensorBoard."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"use_attribute_docstrings": True}

    tensorboard: bool = False
    """Write TensorBoard's event files into the run folder too (`tensorboard --logdir runs`)."""
