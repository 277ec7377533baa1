"""The contract of an objective: its input, its output and its methods.

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
    """The encoder's input, float32: log-mel [B, T, F], or the waveform [B, T]."""
    steps_B: Tensor
    """Steps of the front end that stand for sound, per clip, int64."""
    labels_P2: Tensor | None = None
    """Sparse labels, int64: each row is (clip in this batch, class)."""
    source_B: Tensor | None = None
    """Index of the dataset each clip came from, int64."""
    key_B: Tensor | None = None
    """Key of each clip's random numbers, int64. It follows from the recipe's seed and the clip's
    position alone, so draws from it (`trainer.seeds`) do not depend on the batch."""
    clean: Tensor | None = None
    """`x` for the sound without noise, from which targets are made; None: targets use `x`."""
    real_B: Tensor | None = None
    """False in rows that only fill up the batch, which no figure may count; None: no such rows."""

    def keys(self) -> Tensor:
        """Return `key_B`, which the batch must have.

        Raises:
            ValueError: the batch has no keys.
        """
        if self.key_B is None:
            raise ValueError("this batch has no key_B, which random choices per clip need")
        return self.key_B


@dataclass
class StepOutput:
    """The loss as a sum and the number of terms in it.

    From these the trainer takes the mean over the *global* batch (ranks x accumulation), whatever
    the micro-batch.
    """

    loss_sum: Tensor
    """Scalar, differentiable."""
    count: Tensor
    """Scalar: how many terms `loss_sum` adds up."""
    logs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name -> (sum, count), detached scalars. The logger adds up both over ranks, then divides."""
    scores_BC: Tensor | None = None
    """Scores that rank clips and classes, detached; None if the objective has no classes. A class's
    scores of any two clips must be comparable, which raw logits of a softmax are not."""
    code_count_V: Tensor | None = None
    """How often each code was chosen, where the objective chooses codes, int64."""


class Scorer(Protocol):
    """Computes figures of a validation that are no mean over clips, such as average precision."""

    def update(self, output: StepOutput, batch: FeatureBatch) -> None:
        """Add a batch without waiting for the device."""
        ...

    def sync(self) -> None:
        """Add what the other ranks have; all ranks call it."""
        ...

    def finish(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the figures of the validation: the given means and the scorer's own."""
        ...


class Model(Protocol):
    """The part of the trained model (`trainer.model.BioEncoder`) that an objective uses."""

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
    """Returns bool [C], the classes with a positive clip in the training data, and bool [S, C], the
    classes that each source labels at all."""
    load_model: Callable[[str], Model] | None = None
    """Reads a model with its head and its labels, where it has them; else as `load_encoder`."""
    load_encoder: Callable[[str], Encoder] | None = None
    """Reads an encoder with its weights from a run, a checkpoint or an export: a frozen teacher."""
    load_part: Callable[[str, str], dict[str, Tensor]] | None = None
    """Reads what an objective trained besides the encoder, `load_part(path, "quantizer")`: the
    tensors of that part, of the same step and average as `load_encoder(path)`."""


class Objective(nn.Module):
    """Computes a loss from a batch and a model. Its own parameters (a predictor, say) learn too.

    The head lives in the model, is trained there and exported from there.
    """

    config: ObjectiveConfig

    @classmethod
    def build(cls, config: Any, model: Model, context: Context) -> Self:
        """Build the objective for a model.

        Args:
            config: the `objective` section of the recipe.
            model: the model that will be trained; a head may be initialised here.
            context: what else the objective may ask for.

        Raises:
            RecipeError: the objective cannot be combined with this encoder.
        """
        raise NotImplementedError

    def prepare(self, model: Model, batches: Iterable[FeatureBatch]) -> dict[str, float]:
        """Look at the first clips before the first step of a run (not when it is continued).

        Results belong in buffers, so that the checkpoint has them. All ranks get the same batches,
        and read as many of them as they want.

        Args:
            model: the model before its first step.
            batches: the first clips of the run, without noise and mixup.

        Returns:
            Figures for the log; empty if the clips were not needed.

        Raises:
            RecipeError: the clips show that training cannot work.
        """
        del model, batches
        return {}

    def step(self, batch: FeatureBatch, model: Model, *, frozen: bool = False) -> StepOutput:
        """Return the loss of a batch.

        Args:
            batch: features, and the keys from which all random draws follow.
            model: the model being trained.
            frozen: only the head learns: the encoder runs without gradients, in eval mode.
        """
        raise NotImplementedError

    def after_step(self, model: Model, step: int, total: int) -> None:
        """Update what follows the weights (a teacher, a codebook), after an optimiser step.

        Args:
            model: the model.
            step: number of the optimiser step; the first is 0.
            total: number of steps of the whole run.
        """
        del model, step, total

    def scorer(self, model: Model) -> Scorer | None:
        """Return a new scorer for a validation; None: the means of `step` are the only figures."""
        del model
        return None

    def look(self, batch: FeatureBatch, model: Model) -> list[list[Panel]]:
        """Return the panels that the report shows of each clip, in the order of the clips."""
        return [[] for _ in batch.steps_B]

    def terms(self, grid: Grid) -> float:
        """Return about how many terms the loss of a clip that fills `grid` has.

        It only keeps the numbers of the backward pass near 1.
        """
        del grid
        return 1.0

    def flops(self, model: Model, grid: Grid) -> float:
        """Return the floating-point operations of a training step per clip that fills `grid`.

        The backward pass costs twice the forward pass (Kaplan et al. 2020, section 2.1). A
        multiply-add counts as two.
        """
        return 3.0 * model.encoder.clip_flops(grid)
