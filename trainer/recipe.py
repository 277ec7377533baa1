"""The typed recipe: Hydra composes YAML, pydantic checks it, all mistakes are reported at once.

A recipe names things and the registries find them; no YAML key holds an import path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic import model_validator as _model_validator

from dawnchorus.trainer.augment_config import AugmentConfig
from dawnchorus.trainer.compose import load
from dawnchorus.trainer.data.config import DataConfig
from dawnchorus.trainer.encoders.base_config import EncoderConfig
from dawnchorus.trainer.encoders.ranges import Count, Positive, check_ranges
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.explain import did_you_mean
from dawnchorus.trainer.hub.card_config import CardConfig
from dawnchorus.trainer.kinds import TRAIN
from dawnchorus.trainer.names import check_name, control_characters
from dawnchorus.trainer.objectives import masked_tokens_config
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig
from dawnchorus.trainer.recorded import Recorded
from dawnchorus.trainer.registry import ENCODERS, LOGGERS, OBJECTIVES, TOKENIZERS
from dawnchorus.trainer.training.layout import fit_micro_batch, total_steps
from dawnchorus.trainer.training.optim_config import OptimConfig

_MOST_PARAMETERS = 10**12
_STRICT: dict[str, object] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and devices of the training."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    max_steps: Count | None = None
    """Optimiser steps to run. Give this or `max_clips`."""
    max_clips: Count | None = None
    """Number of clips to train on, in place of `max_steps`. It is divided by `global_batch` and
    rounded up to whole steps."""
    global_batch: Count = 128
    """Clips per optimiser step, over all ranks and accumulation. It affects the result; the
    micro-batch and the number of devices do not."""
    micro_batch: Count = 32
    """Most clips that a device works on at once. If a device's share of `global_batch` is not a
    multiple of it, the largest smaller divisor is used, down to half of this number (an even one
    with mixup, which takes clips in pairs). The number of accumulated micro-batches follows."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type; weights, optimiser and front end stay in fp32. `auto`: bf16 on a GPU, fp32
    on a CPU."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes a CUDA device where there is one."""
    devices: Count | Literal["auto"] = "auto"
    """Processes per node, one per device. `auto`: all GPUs, or one process on a CPU."""
    nodes: Count = 1
    """Nodes; under SLURM one task per device must have been started with srun."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How much of the model each device holds. `ddp`: all of it, which is fastest if it fits.
    `fsdp`: its share of weights, gradients, optimiser state and moving average; layers are gathered
    when they are computed. The result is the same; a run may be continued with the other one."""
    compile: bool = False
    """Compile the encoder's blocks (worth it on a GPU for runs of more than a few minutes)."""
    deterministic: bool = False
    """Ask torch for deterministic kernels (slower on a GPU; a CPU run is deterministic anyway)."""
    log_every: Count = 10
    """Steps between lines in `metrics.jsonl`."""
    validate_every: Count | None = None
    """Steps between validations; also after the last step. Null: only after the last."""
    validate_clips: Count | None = None
    """Validate on only this many clips, always the first ones. Null: all."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints; one is also written at the end and on pre-emption."""
    keep_last: Count = 2
    """Number of the newest step checkpoints to keep."""
    keep_every: Count | None = None
    """Keep every checkpoint at a multiple of this step for ever."""
    watchdog_minutes: Positive | None = 30.0
    """End the run when nothing was finished for this many minutes: it writes the stack of every
    thread of every rank, and exits with code 77 so that it is queued again. Null: wait for ever."""
    best_metric: str | None = None
    """Validation metric that chooses `best.ckpt`. Null: the objective's own (`map` of `multilabel`,
    `loss` of those without labels). The objective knows whether a higher value is better."""
    prepare_batches: Count = 8
    """Batches (of at most 32 clips) that an objective may use before the first step, for example
    to start a tokenizer's codes."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.max_steps is None) == (self.max_clips is None):
            raise ValueError("give exactly one of max_steps and max_clips")
        if self.strategy == "fsdp" and self.precision == "fp16":
            raise ValueError(
                "strategy 'fsdp' needs precision bf16 or fp32: the gradient scaler of fp16 checks "
                "only the rows of its own rank"
            )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        steps = total_steps(vars(self))
        assert steps is not None
        return steps


def _log_config() -> Any:
    return _log_config_of(*LOGGERS.names())


@cache
def _log_config_of(*names: str) -> Any:
    """The section `log`: the keys of all loggers."""
    words = "Loggers besides `metrics.jsonl`, which is always written and is authoritative."
    return LOGGERS.together(
        "LogConfig", {"__doc__": words, "__module__": __name__, "__pydantic_config__": _STRICT}
    )


if TYPE_CHECKING:
    AnyEncoder = EncoderConfig
    AnyObjective = ObjectiveConfig
    LogConfig = Any
else:
    AnyEncoder, AnyObjective = ENCODERS.union(), OBJECTIVES.union()
    LogConfig = _log_config()


class Recipe(Recorded):
    """Everything that decides a run. Re-running the resolved recipe repeats the run."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    name: Annotated[str, AfterValidator(check_name)]
    """Name of the run: its folder is `<runs>/<name>`. Never taken from the clock, so that a
    requeued job finds its run."""
    runs: str = "runs"
    """Folder that holds all runs."""
    seed: int = 0
    """Decides the order of clips, windows, noise, masks, dropout and initial weights."""
    init_from: str | None = None
    """Weights from which the encoder starts: a run folder, a checkpoint, an exported folder, a
    Microsoft BEATs `.pt`. Null: from scratch."""
    encoder: AnyEncoder
    """The encoder and the numbers of its front end."""
    objective: AnyObjective
    """The objective: without labels (e.g. `masked_tokens`) or from labels (`multilabel`)."""
    data: DataConfig
    """Datasets to train on, to validate on, and to take noise from."""
    augment: AugmentConfig
    """Noise and mixup, on the device."""
    optim: OptimConfig
    """Optimiser and learning-rate schedule."""
    train: TrainConfig
    """Length, batch, precision, devices, checkpoints."""
    log: LogConfig = Field(default_factory=lambda: _log_config()())
    """Weights & Biases, TensorBoard."""
    card: CardConfig = CardConfig()
    """Entries of the model card, for the export."""

    @_model_validator(mode="after")
    def _choices_fit(self) -> Recipe:
        problems = [*odd_texts(self), *self.objective.forbids(self)]
        size = self.encoder.parameters
        if not self.objective.refuses(self.encoder):  # else it may not be countable
            size += self.objective.parameters(self.encoder, 1)
        if size > _MOST_PARAMETERS:
            problems.append(
                f"encoder, objective: {size:.1e} parameters, more than any machine holds: look at "
                "layers and widths"
            )
        head_only = self.optim.head_only_steps
        if head_only >= self.train.total_steps:
            problems.append(
                f"optim.head_only_steps ({head_only}) leaves nothing of the "
                f"{self.train.total_steps} steps for the encoder"
            )
        warmup, steps = self.optim.warmup_steps, self.train.total_steps - head_only
        if warmup > steps > 0:
            phase = f"the {steps} steps" + (" after optim.head_only_steps" if head_only else "")
            problems.append(
                f"optim.warmup_steps ({warmup}) is longer than {phase}: the rate would never reach "
                "optim.lr. Use fewer, say a tenth of the steps"
            )
        if self.optim.restarts and self.optim.restarts[-1] >= self.train.total_steps:
            problems.append(
                f"optim.restarts ends at {self.optim.restarts[-1]}, and the run has "
                f"{self.train.total_steps} steps: make it longer (train.max_steps)"
            )
        problems += self._batch_problems()
        metric, known = self.best[0], list(self.objective.metrics)
        if metric not in known:
            hint = did_you_mean(metric, known) or ";"
            problems.append(
                f"train.best_metric: {metric!r} is no figure by which {self.objective.name} can "
                f"choose{hint} there are: {', '.join(known)}"
            )
        if self.train.best_metric is not None and not self.data.valid:
            problems.append(
                "train.best_metric chooses by a validation: name a dataset in data.valid"
            )
        if self.augment.noise_prob > 0 and not self.data.noise:
            problems.append(
                "augment.noise_prob is above 0 but data.noise names no dataset: add "
                "data.noise.NAME.path=DATASET or set augment.noise_prob=0"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _batch_problems(self) -> list[str]:
        """Mistakes in the batch that show before the machine is known."""
        train, pairs = self.train, self.augment.mixup_prob > 0
        devices: int | str = train.devices
        if devices == "auto" and train.accelerator == "cpu":
            devices = 1
        if isinstance(devices, str):
            # The number of ranks is unknown: the batch is valid if some number of them works.
            devices = 1 if pairs and train.global_batch % 2 else 0
        if not devices:
            return []
        try:
            fit_micro_batch(
                train.global_batch, devices * train.nodes, train.micro_batch, pairs=pairs
            )
        except RecipeError as error:
            return [str(error)]
        return []

    @property
    def best(self) -> tuple[str, str]:
        """The figure that chooses the best checkpoint, and "max" or "min"."""
        metric = self.train.best_metric or next(iter(self.objective.metrics))
        return metric, self.objective.metrics.get(metric, "max")

    @property
    def earlier(self) -> dict[str, str]:
        """Runs and files whose weights it starts from or listens to: key -> path."""
        start = {} if self.init_from is None else {"init_from": self.init_from}
        return start | {f"objective.{key}": path for key, path in self.objective.reads.items()}

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name


def odd_texts(recipe: Recipe) -> list[str]:
    """Texts that a job script or a written recipe would misread, each with its key.

    The card's texts are for people and may have several lines.
    """
    problems = []

    def look(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(key, f"{path}.{key!r}")
                look(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                look(inner, path)
        elif not isinstance(value, str):
            return
        elif not path.startswith(".card.") and (found := control_characters(value)):
            problems.append(f"{path[1:]}: holds the control character {found}")
        elif "${" in value:
            problems.append(
                f"{path[1:]}: holds ${{, which a job that reads the written recipe would take for "
                "a reference: rename what is called so"
            )

    look(recipe.values(), "")
    return problems


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Compose and validate.

    Raises:
        RecipeError: lists every problem, each with its key and the allowed values.
    """
    loaded: Recipe = load(TRAIN, recipe, overrides)
    return loaded


def earlier_weights(recorded: Mapping[str, Any]) -> dict[str, str]:
    """`Recipe.earlier` of a recipe that a run or a checkpoint has recorded.

    Of an objective that is not known here (any more), only `init_from` is.
    """
    start = recorded.get("init_from")
    found = {"init_from": str(start)} if start else {}
    try:
        objective = TypeAdapter(OBJECTIVES.union()).validate_python(recorded.get("objective"))
    except ValidationError:
        return found
    return found | {f"objective.{key}": path for key, path in objective.reads.items()}


def rebuild() -> None:
    """Update the recipe's sections with later additions to the registries."""
    # Its dataclass looks the name up when the recipe is rebuilt.
    vars(masked_tokens_config)["AnyTokenizer"] = TOKENIZERS.union("random_projection")
    for name, registry in (("encoder", ENCODERS), ("objective", OBJECTIVES)):
        Recipe.model_fields[name].annotation = registry.union()
    Recipe.model_fields["log"].annotation = _log_config()
    Recipe.model_rebuild(force=True)
