"""What every objective's config says, beside its own numbers; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig
    from dawnchorus.trainer.pooling import Pooling
    from dawnchorus.trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What an encoder is trained for.

    A subclass is a frozen dataclass with a docstring under each field, its `name` among them
    (`name: Literal["mine"] = "mine"`).
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    needs_labels: ClassVar[bool] = False
    """Whether it learns from labels; the model then has a head for them."""
    needs_masking: ClassVar[bool] = False
    """Whether the encoder must be able to encode visible tokens alone."""
    metrics: ClassVar[dict[str, str]] = {"loss": "min"}
    """Figures of a validation that may choose the best checkpoint, the usual one first, and whether
    more ("max") or less ("min") is better."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Which objective."""

    @property
    def hears_clean(self) -> bool:
        """Whether targets are made of the sound without the noise of `augment`."""
        return False

    @property
    def reads(self) -> dict[str, str]:
        """Earlier runs or files that it is built from: key within the section -> path."""
        return {}

    @property
    def head_pooling(self) -> Pooling:
        """What the model's head sees of a clip's tokens, where there is a head."""
        return "mean"

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder, the head among it. `classes`: outputs of the head."""
        raise NotImplementedError

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """What is kept beside the encoder and not trained (a teacher), in float32."""
        del encoder
        return 0

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """Why it does not go with an encoder: a sentence each; none: it does."""
        if self.needs_masking and not encoder.maskable:
            return [
                f"objective {self.name} hides tokens from the encoder, and encoder {encoder.name} "
                f"({encoder.title}) cannot encode a part of a clip: choose another encoder or "
                "another objective"
            ]
        return []

    def forbids(self, recipe: Recipe) -> list[str]:
        """What else in the recipe does not go with this objective: a sentence each."""
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
