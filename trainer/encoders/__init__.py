"""Encoders by name. Each lives in one self-contained file that exported models carry along.

Importing this package imports no torch: an encoder's module is loaded when its class is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.beats import Beats
    from dawnchorus.trainer.encoders.beats_config import BeatsConfig

ENCODERS: dict[str, tuple[str, str]] = {"beats": ("BeatsConfig", "Beats")}
"""Name -> its config class, in the module `NAME_config`, and its class, in the module `NAME`."""


def config_class(name: str) -> type[BeatsConfig]:
    """The config of an encoder. Raises ValueError for an unknown name."""
    found: type[BeatsConfig] = getattr(_module(name, f"{name}_config"), ENCODERS[name][0])
    return found


def encoder_class(name: str) -> type[Beats]:
    """The module class of an encoder. Raises ValueError for an unknown name."""
    found: type[Beats] = getattr(_module(name, name), ENCODERS[name][1])
    return found


def _module(name: str, module: str) -> Any:
    if name not in ENCODERS:
        raise ValueError(f"no encoder {name!r}; there are: {', '.join(sorted(ENCODERS))}")
    return import_module(f"{__name__}.{module}")


def build_encoder(name: str, config: BeatsConfig | dict[str, Any]) -> Beats:
    """Build an encoder from its name and its config (or the fields of it).

    Raises:
        ValueError: unknown name, or a config of another encoder.
    """
    if isinstance(config, dict):
        config = config_class(name)(**config)
    return encoder_class(name)(config)
