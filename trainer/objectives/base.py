"""What an objective is, what it gets and what it gives back.

Objectives know nothing of Lightning, recipes or files.

Shape legend: B clips, T frames, F mel bins, P label pairs, C classes, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dawnchorus.trainer.encoders.base import Encoder, Grid
    from dawnchorus.trainer.objectives.base_config import ObjectiveConfig
    from dawnchorus.trainer.panels import Panel
    from dawnchorus.trainer.pooling import Pooling


@dataclass
class FeatureBatch:
    """A batch after the front end, on the device."""

    x: Tensor
    """What the encoder takes, float32: log-mel [B, T, F], or the waveform [B, T]."""
    steps_B: Tensor
    """Steps of the front end that stand for sound, per clip, int64."""
    labels_P2: Tensor | None = None
    """Sparse labels, int64: each row is (clip in this batch, class)."""
    source_B: Tensor | None = None
    """Index of the dataset each clip came from, int64."""
    key_B: Tensor | None = None
    """Key of each clip's random numbers, int64: it follows from the recipe's seed and the clip's
    position alone, and what is drawn from it (`trainer.seeds`) is the same in every batch."""
    clean: Tensor | None = None
    """As `x`, of the sound without noise, for targets that are to be made of it; None: none."""
    real_B: Tensor | None = None
    """False in rows that only fill up the batch, bool: no figure may count them. None: all real."""

    def keys(self) -> Tensor:
        """`key_B`, which must be there.

        Raises:
            ValueError: the batch has no keys.
        """
        if self.key_B is None:
            raise ValueError("this batch has no key_B, which random choices per clip need")
        return self.key_B


@dataclass
class StepOutput:
    """The loss as a sum and the number of terms in it.

    So the mean can be taken over the *global* batch (ranks x accumulation), whatever the
    micro-batch.
    """

    loss_sum: Tensor
    """Scalar, differentiable."""
    count: Tensor
    """Scalar: how many terms `loss_sum` adds up."""
    logs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name -> (sum, count), detached scalars; the logger reduces both, then divides."""
    scores_BC: Tensor | None = None
    """What ranks clips and classes, where the objective has classes, detached: a class's scores
    of any two clips can be compared (raw logits of a softmax cannot)."""
    code_count_V: Tensor | None = None
    """How often each code was chosen, where the objective chooses codes, int64."""


class Scorer(Protocol):
    """Gathers figures over a validation set that are no means of sums (average precision, say)."""

    def update(self, output: StepOutput, batch: FeatureBatch) -> None:
        """Take a batch in; nothing may wait for the device."""
        ...

    def sync(self) -> None:
        """Add up what the ranks have; all ranks call it."""
        ...

    def finish(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures of the validation: the given means, and its own."""
        ...


class Model(Protocol):
    """What an objective sees of the model that is trained (`trainer.model.BioEncoder`)."""

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        ...

    @property
    def head(self) -> nn.Linear | None:
        """Maps pooled tokens to classes; None where the objective needs no labels."""
        ...

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the head's outputs."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How the tokens are pooled for the head."""
        ...


@dataclass(frozen=True)
class Context:
    """What an objective may ask for while it is built."""

    labels: tuple[str, ...] | None = None
    """Names of all classes; None where the objective needs no labels."""
    presence: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Gives bool [C], classes with a positive clip in the training data, and bool [S, C], the
    classes that each source labels at all."""
    load_model: Callable[[str], Model] | None = None
    """Reads a model with its head and its labels, where it has them; else as `load_encoder`."""
    load_encoder: Callable[[str], Encoder] | None = None
    """Reads an encoder with its weights from a run, a checkpoint or an export: a frozen teacher."""
    load_part: Callable[[str, str], dict[str, Tensor]] | None = None
    """Reads what an objective trained besides the encoder, `load_part(path, "quantizer")`: the
    tensors of that part, of the same step and average as `load_encoder(path)`."""


class Objective(nn.Module):
    """Turns a batch and a model into a loss; its own parameters (a predictor, say) are trained too.

    The head lives in the model, is trained there and exported from there.
    """

    config: ObjectiveConfig

    @classmethod
    def build(cls, config: Any, model: Model, context: Context) -> Self:
        """The objective for a model.

        Args:
            config: the `objective` section of the recipe.
            model: the model that will be trained; a head may be initialised here.
            context: what else may be asked for.

        Raises:
            RecipeError: the numbers of objective and encoder do not go together.
        """
        raise NotImplementedError

    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Look at the first clips before the first step of a run (not when it is continued).

        What is found is kept in buffers, so that the checkpoint has it. All ranks get the same
        batches, and read as many of them as they want.

        Args:
            model: the model, as it will begin.
            batches: the first clips of the run, without noise and mixup.

        Returns:
            Figures for the log; none: nothing was looked at.

        Raises:
            RecipeError: training would be of no use.
        """
        del model, batches
        return {}

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """The loss of a batch.

        Args:
            batch: features, and keys from which everything random follows.
            model: the model being trained.
            frozen: only the head learns: the encoder runs without gradients, in eval mode.
        """
        raise NotImplementedError

    def after_step(self, model: Model, step: int, total: int) -> None:
        """The optimiser has moved: follow it, where something does (a teacher, a codebook).

        Args:
            model: the model.
            step: which optimiser step it was; the first is 0.
            total: steps of the whole run.
        """
        del model, step, total

    def scorer(self, model: Model) -> Scorer | None:
        """What gathers figures over a validation set; None: the means of `step` are all."""
        del model
        return None

    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """What people may want to see of each clip of a batch, in the order of the clips."""
        return [[] for _ in batch.steps_B]

    def terms(self, grid: Grid) -> float:
        """About how many terms the loss of a clip that fills `grid` has; it scales gradients."""
        del grid
        return 1.0

    def flops(self, model: Model, grid: Grid) -> float:
        """Floating-point operations of a training step per clip that fills `grid`.

        Forward and backward, which costs twice the forward (Kaplan et al. 2020, section 2.1); two
        per multiply-add.
        """
        return 3.0 * model.encoder.clip_flops(grid)
