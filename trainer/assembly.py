"""From a recipe to its parts: what "auto" means here, encoder, objective, first weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.layout import fit_micro_batch
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.seeds import Purpose, mix_seed

if TYPE_CHECKING:
    from torch import nn

    from dawnchorus.trainer.data.module import TrainStream
    from dawnchorus.trainer.encoders.beats import Beats
    from dawnchorus.trainer.module import TrainingModule
    from dawnchorus.trainer.recipe import Recipe


def resolve(recipe: Recipe) -> tuple[Recipe, int]:
    """Replace every "auto" by what it means on this machine.

    Returns:
        The recipe without "auto", and the number of ranks.

    Raises:
        RecipeError: a GPU was asked for and there is none; the ranks and micro-batches do not
            divide the batch.
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


def build_objective(recipe: Recipe, encoder: Beats, classes: int) -> nn.Module:
    """The objective that the recipe names."""
    from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
    from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
    from dawnchorus.trainer.objectives.multilabel import MultiLabel

    if isinstance(recipe.objective, MaskedTokensConfig):
        return MaskedTokens(recipe.objective, encoder)
    return MultiLabel(recipe.objective, encoder.config.dim, classes)


def build_model(recipe: Recipe, stream: TrainStream) -> tuple[BioEncoder, nn.Module]:
    """Seeded encoder, head and objective; weights of `init_from` where it is given."""
    torch.manual_seed(mix_seed(recipe.seed, Purpose.INIT))
    labels = stream.labels.names if recipe.stage == "posttrain" else None
    if recipe.stage == "posttrain" and not labels:
        raise RecipeError("the training datasets have no labels: there is nothing to post-train on")
    section = recipe.resolved()["encoder"]
    model = BioEncoder.from_config(section, labels)
    if recipe.init_from is not None:
        from dawnchorus.trainer.hub.importing import initialise_from

        initialise_from(model.encoder, recipe.init_from)
    objective = build_objective(recipe, model.encoder, len(labels or ()))
    if recipe.stage == "posttrain":
        # One head: the objective trains the one that the model predicts with.
        model.head = None
        active_C, sources_SC = stream.class_presence()
        objective.set_active(active_C, sources_SC)  # type: ignore[operator]
    return model, objective


def codebook_gate(recipe: Recipe, module: TrainingModule, stream: TrainStream) -> dict[str, Any]:
    """Look at the codes of the first clips before any step is trained on them."""
    batches = []
    for index in range(recipe.train.codebook_batches):
        size = min(recipe.train.global_batch, 32)
        batch = stream[list(range(index * size, (index + 1) * size))]
        batches.append(module.features(batch, augment=False))
    return dict(module.objective.check_codebook(batches))  # type: ignore[operator]
