"""Keys of Weights & Biases in the section `log` of a recipe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

_OFF = ("off", "no", "none", "false")


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Whether and how the run is shown on Weights & Biases."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"use_attribute_docstrings": True}

    wandb: Annotated[
        Literal["disabled", "offline", "online"],
        BeforeValidator(lambda given: "disabled" if str(given).lower() in _OFF else given),
    ] = "offline"
    """How Weights & Biases is used. `offline` writes into the run folder, and `wandb sync` sends it
    later; `online` sends it at once. `off`, `no`, `none` and `false` mean `disabled`."""
    wandb_project: str = "dawnchorus"
    """Name of the project on Weights & Biases."""
