"""The contract of an objective's config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig
    from dawnchorus.trainer.pooling import Pooling
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The numbers of an objective.

    A subclass is a frozen dataclass with a docstring under each field, its `name` among them
    (`name: Literal["mine"] = "mine"`).
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    needs_labels: ClassVar[bool] = False
    """Whether the objective learns from labels; the model then has a head for them."""
    needs_masking: ClassVar[bool] = False
    """Whether the encoder must be able to encode visible tokens alone."""
    metrics: ClassVar[dict[str, str]] = {"loss": "min"}
    """Figures of a validation that may choose the best checkpoint -> "max" if more is better, "min"
    if less is. The first is the default."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Which objective."""

    @property
    def hears_clean(self) -> bool:
        """Whether targets are made from the sound without the noise of `augment`."""
        return False

    @property
    def reads(self) -> dict[str, str]:
        """Earlier runs or files that it is built from: key within the section -> path."""
        return {}

    @property
    def head_pooling(self) -> Pooling:
        """How a clip's tokens are pooled for the model's head, if it has one."""
        return "mean"

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """Return the number of parameters that are trained beside the encoder, with the head's.

        `classes`: outputs of the head.
        """
        raise NotImplementedError

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """Return the number of float32 parameters that are not trained (of a teacher, say)."""
        del encoder
        return 0

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """Return why it cannot be combined with an encoder, a sentence each; empty: it can."""
        if self.needs_masking and not encoder.maskable:
            return [
                f"objective {self.name} hides tokens from the encoder, and encoder {encoder.name} "
                f"({encoder.title}) cannot encode a part of a clip: choose another encoder or "
                "another objective"
            ]
        return []

    def forbids(self, recipe: Recipe) -> list[str]:
        """Return everything in a recipe that contradicts this objective, a sentence each."""
        problems = self.refuses(recipe.encoder)
        if not self.needs_labels:
            if recipe.augment.mixup_prob > 0:
                problems.append(
                    f"augment.mixup_prob must be 0 with objective {self.name}: "
                    "mixed clips have no single target; choose augment=noise or augment=none"
                )
            if recipe.optim.head_only_steps:
                problems.append(
                    "optim.head_only_steps needs a head: set it to 0 with objective "
                    f"{self.name}, which learns without labels"
                )
        return problems
