"""Builds the parts of a recipe: values for "auto", encoder, objective, first weights."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import Context
from dawnchorus.trainer.registry import OBJECTIVES, quicken_on_cpu
from dawnchorus.trainer.seeds import Purpose, mix_seed
from dawnchorus.trainer.training.layout import fit_micro_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from dawnchorus.trainer.data.module import TrainStream
    from dawnchorus.trainer.encoders.base import Encoder
    from dawnchorus.trainer.objectives.base import FeatureBatch, Objective
    from dawnchorus.trainer.recipe import Recipe
    from dawnchorus.trainer.training.module import TrainingModule


def resolve(recipe: Recipe) -> tuple[Recipe, int]:
    """Replace every "auto" by its value on this machine.

    Returns:
        The recipe without "auto", and the number of ranks.

    Raises:
        RecipeError: the recipe asks for a GPU and there is none; or the ranks and micro-batches do
            not divide the batch.
    """
    train = recipe.train
    gpus = torch.cuda.device_count()
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and not gpus:
        raise RecipeError("train.accelerator=gpu, but torch sees no CUDA device: use cpu or auto")
    if accelerator == "cpu" and train.precision == "fp16":
        raise RecipeError("train.precision=fp16 needs a GPU; on CPUs use bf16, fp32 or auto")
    devices = train.devices
    if devices == "auto":
        devices = gpus if accelerator == "gpu" else 1
    if accelerator == "gpu" and devices > gpus:
        raise RecipeError(f"train.devices={devices}, but there are {gpus} CUDA devices")
    precision = train.precision
    if precision == "auto":
        precision = "bf16" if accelerator == "gpu" else "fp32"
    ranks = devices * train.nodes
    pairs = recipe.augment.mixup_prob > 0
    micro = fit_micro_batch(train.global_batch, ranks, train.micro_batch, pairs=pairs)
    resolved = replace(
        train, accelerator=accelerator, devices=devices, precision=precision, micro_batch=micro
    )
    return recipe.model_copy(update={"train": resolved}), ranks


def build_model(recipe: Recipe, stream: TrainStream) -> tuple[BioEncoder, Objective]:
    """Build the seeded encoder, head and objective, and load the weights of `init_from` if given.

    Raises:
        RecipeError: the data has no labels to learn from, or numbers contradict each other.
        CheckpointError: `init_from`, or a checkpoint that the objective needs, does not fit.
    """
    torch.manual_seed(mix_seed(recipe.seed, Purpose.INIT))
    labels = stream.labels.names if recipe.objective.needs_labels else None
    if recipe.objective.needs_labels and not labels:
        raise RecipeError(
            f"the training datasets have no labels, and objective {recipe.objective.name} learns "
            "from labels"
        )
    return assemble(recipe, labels, stream.class_presence)


def assemble(
    recipe: Recipe,
    labels: tuple[str, ...] | None = None,
    presence: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> tuple[BioEncoder, Objective]:
    """Build the encoder, head and objective of a recipe, without its data.

    Args:
        recipe: the validated recipe.
        labels: names of the classes, for an objective that learns from labels.
        presence: see `Context.presence`.
    """
    model = BioEncoder.from_config(
        dataclasses.asdict(recipe.encoder), labels, recipe.objective.head_pooling
    )
    if recipe.init_from is not None:
        from dawnchorus.trainer.hub.importing import initialise_from

        initialise_from(model.encoder, recipe.init_from)
    elif which := getattr(recipe.encoder, "pretrained", None):
        from dawnchorus.trainer.hub.importing import initialise_pretrained

        initialise_pretrained(model.encoder, which)
    context = Context(
        labels=labels, presence=presence, load_model=_load_model, load_encoder=_load_encoder,
        load_part=_load_part,
    )  # fmt: skip
    objective = OBJECTIVES.thing(recipe.objective.name).build(recipe.objective, model, context)
    if recipe.train.accelerator != "gpu":
        quicken_on_cpu(recipe.encoder.name, model, objective)
    return model, objective


def _load_model(path: str) -> BioEncoder:
    from dawnchorus.trainer.hub.importing import load_model

    return load_model(path).model


def _load_encoder(path: str) -> Encoder:
    return _load_model(path).encoder


def _load_part(path: str, name: str) -> dict[str, Tensor]:
    from dawnchorus.trainer.hub.objective_parts import read_part

    return read_part(path, name)


def first_batches(
    recipe: Recipe, module: TrainingModule, stream: TrainStream
) -> Iterator[FeatureBatch]:
    """The first clips of the run, for an objective that looks at data before the first step.

    They are the same on all ranks, and are read only when they are needed.
    """
    size = min(recipe.train.global_batch, 32)
    for index in range(recipe.train.prepare_batches):
        batch = stream[list(range(index * size, (index + 1) * size))]
        yield module.features(batch, augment=False)
