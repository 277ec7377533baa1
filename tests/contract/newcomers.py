"""Makes the toy encoder and the toy objective known, as two lines in the registry would."""

from __future__ import annotations

from dawnchorus.trainer.recipe import rebuild
from dawnchorus.trainer.registry import ENCODERS, OBJECTIVES


def register() -> None:
    """Add both; may be called again."""
    ENCODERS.add("toy", "contract.toy_encoder_config:ToyConfig", "contract.toy_encoder:Toy")
    OBJECTIVES.add("level", "contract.toy_objective:LevelConfig", "contract.toy_objective:Level")
    rebuild()


def forget() -> None:
    """Take both away again."""
    ENCODERS.remove("toy")
    OBJECTIVES.remove("level")
    rebuild()
