"""What an encoder is trained for: each objective turns a batch and an encoder into a loss."""

from __future__ import annotations

from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
from dawnchorus.trainer.objectives.multilabel_config import MultiLabelConfig

OBJECTIVES: dict[str, type] = {
    "masked_tokens": MaskedTokensConfig,
    "multilabel": MultiLabelConfig,
}
"""Config of each objective, by the name that a recipe gives it."""


def needs_labels(objective: object) -> bool:
    """Whether an objective learns from labels, by its name in a recipe.

    One that is not known here, of a later version say, counts as one that does: a score that may
    measure memory must not pass for one that does not.
    """
    config = OBJECTIVES.get(str(objective))
    return True if config is None else bool(config.needs_labels)  # type: ignore[attr-defined]
