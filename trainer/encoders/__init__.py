"""Encoders by name. Each lives in one self-contained file that exported models carry along."""

from __future__ import annotations

from typing import Any

from trainer.encoders.beats import Beats
from trainer.encoders.beats_config import BeatsConfig

ENCODERS: dict[str, tuple[type[BeatsConfig], type[Beats]]] = {"beats": (BeatsConfig, Beats)}


def build_encoder(name: str, config: BeatsConfig | dict[str, Any]) -> Beats:
    """Build an encoder from its name and its config (or the fields of it).

    Raises:
        ValueError: unknown name, or a config of another encoder.
    """
    if name not in ENCODERS:
        raise ValueError(f"no encoder {name!r}; there are: {', '.join(sorted(ENCODERS))}")
    config_class, encoder_class = ENCODERS[name]
    if isinstance(config, dict):
        config = config_class(**config)
    return encoder_class(config)
