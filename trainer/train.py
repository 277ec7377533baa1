"""One training run, from a validated recipe to a finished run folder."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import yaml
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from trainer.data.module import BrokenLedger, TrainStream, train_loader, valid_loader
from trainer.errors import ChorusError, Preempted, RecipeError
from trainer.model import BioEncoder
from trainer.module import Topology, TrainingModule, mix_seed
from trainer.runtime.checkpoint import AtomicCheckpointIO, CheckpointFolder, atomic_write, load
from trainer.runtime.environment import describe_environment
from trainer.runtime.logging import MetricsFile, ProgressSink, WandbSink
from trainer.runtime.loop import StepBoundary
from trainer.runtime.preemption import StopRequest, watch_signals
from trainer.runtime.throughput import Throughput, peak_flops
from trainer.validation import Validation

if TYPE_CHECKING:
    from torch import nn

    from trainer.recipe import Recipe

_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
# What may differ when a run folder is continued: nothing of it changes what is learned.
_FREE_TO_CHANGE = {
    "runs", "log", "card", "train.max_steps", "train.max_clips", "train.micro_batch",
    "train.accelerator", "train.devices", "train.nodes", "train.compile", "train.log_every",
    "train.validate_every", "train.checkpoint_every", "train.keep_last", "train.keep_every",
    "train.best_metric", "data.workers", "init_from",
}  # fmt: skip


def early_rank() -> int:
    """This process's global rank, from the launcher's environment, before torch.distributed runs."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            if name == "SLURM_PROCID" and not SLURMEnvironment.detect():
                continue
            return int(os.environ[name])
    return 0


def resolve(recipe: Recipe) -> tuple[Recipe, int]:
    """Replace every "auto" by what it means on this machine.

    Returns:
        The recipe without "auto", and the number of ranks.

    Raises:
        RecipeError: a GPU was asked for and there is none; the ranks do not divide the batch.
    """
    train = recipe.train
    gpus = torch.cuda.device_count()
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and not gpus:
        raise RecipeError("train.accelerator=gpu, but torch sees no CUDA device: use cpu or auto")
    devices = train.devices
    if devices == "auto":
        devices = gpus if accelerator == "gpu" else 1
    if accelerator == "gpu" and devices > gpus:
        raise RecipeError(f"train.devices={devices}, but there are {gpus} CUDA devices")
    precision = train.precision
    if precision == "auto":
        precision = "bf16" if accelerator == "gpu" else "fp32"
    ranks = devices * train.nodes
    if train.global_batch % ranks:
        raise RecipeError(
            f"train.global_batch={train.global_batch} cannot be shared evenly by {ranks} ranks "
            f"({train.nodes} nodes x {devices} devices): use a multiple of {ranks}"
        )
    per_rank = train.global_batch // ranks
    micro = next(m for m in range(min(train.micro_batch, per_rank), 0, -1) if per_rank % m == 0)
    resolved = replace(
        train, accelerator=accelerator, devices=devices, precision=precision, micro_batch=micro
    )
    return recipe.model_copy(update={"train": resolved}), ranks


# --------------------------------------------------------------------------- the run folder


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys in which two resolved recipes differ so that one cannot continue the other's run."""
    a, b = _flat(old), _flat(new)
    return [
        f"{key}: {a.get(key)!r} there, {b.get(key)!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _FREE_TO_CHANGE)
    ]


def _prepare_folder(recipe: Recipe) -> None:
    """Create the run folder, or make sure that it holds a run of this very recipe."""
    folder, plain = recipe.folder, recipe.resolved()
    if (folder / "recipe.yaml").is_file():
        before = yaml.safe_load((folder / "recipe.yaml").read_text())
        differences = recipe_differences(before, plain)
        if differences:
            listed = "\n".join(f"  {d}" for d in differences)
            raise RecipeError(
                f"the run folder {folder} holds a run of another recipe:\n{listed}\n"
                "Give this run another name (name=...), or delete that folder"
            )
    _write_text(folder / "recipe.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    _write_text(folder / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write)


# --------------------------------------------------------------------------- the parts


def build_objective(recipe: Recipe, encoder: nn.Module, classes: int) -> nn.Module:
    """The objective that the recipe names."""
    from trainer.objectives.masked_tokens import MaskedTokens, MaskedTokensConfig
    from trainer.objectives.multilabel import MultiLabel

    if isinstance(recipe.objective, MaskedTokensConfig):
        return MaskedTokens(recipe.objective, encoder)
    return MultiLabel(recipe.objective, encoder.config.dim, classes)  # type: ignore[union-attr, arg-type]


def build_model(recipe: Recipe, stream: TrainStream) -> tuple[BioEncoder, nn.Module]:
    """Seeded encoder, head and objective; weights of `init_from` where it is given."""
    torch.manual_seed(mix_seed(recipe.seed, 0))
    labels = stream.labels.names if recipe.stage == "posttrain" else None
    if recipe.stage == "posttrain" and not labels:
        raise RecipeError("the training datasets have no labels: there is nothing to post-train on")
    section = recipe.resolved()["encoder"]
    model = BioEncoder.from_config(section, labels)
    if recipe.init_from is not None:
        from trainer.hub.importing import initialise_from

        initialise_from(model.encoder, recipe.init_from)
    objective = build_objective(recipe, model.encoder, len(labels or ()))
    if recipe.stage == "posttrain":
        # One head: the objective trains the one that the model predicts with.
        model.head = None
        active_C, sources_SC = stream.class_presence()
        objective.set_active(active_C, sources_SC)  # type: ignore[operator]
    return model, objective


def _codebook_gate(recipe: Recipe, module: TrainingModule, stream: TrainStream) -> dict[str, Any]:
    """Look at the codes of the first clips before any step is trained on them."""
    batches = []
    for index in range(recipe.train.codebook_batches):
        size = min(recipe.train.global_batch, 32)
        batch = stream[list(range(index * size, (index + 1) * size))]
        batches.append(module.features(batch, augment=False))
    return dict(module.objective.check_codebook(batches))  # type: ignore[operator]


def _lightning(recipe: Recipe, ranks: int, callback: StepBoundary, io: AtomicCheckpointIO) -> pl.Trainer:
    train = recipe.train
    plugins: list[Any] = [io]
    if SLURMEnvironment.detect():
        # Lightning's own requeue dead-locks when one rank is slow and loses the batch in flight.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    strategy: Any = "auto"
    if ranks > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if train.accelerator == "gpu" else "gloo",
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
    return pl.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        num_nodes=train.nodes,
        strategy=strategy,
        precision=_PRECISION[train.precision],  # type: ignore[arg-type]
        max_steps=train.total_steps,
        max_epochs=-1,
        min_epochs=0,
        accumulate_grad_batches=train.global_batch // (ranks * train.micro_batch),
        callbacks=[callback],
        plugins=plugins,
        deterministic=train.deterministic,
        default_root_dir=str(recipe.folder),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )


def _sinks(recipe: Recipe, first_step: int) -> tuple[MetricsFile, ProgressSink]:
    progress = ProgressSink(recipe.train.total_steps, first_step, recipe.name)
    sinks: list[Any] = [progress]
    if recipe.log.wandb != "disabled":
        sinks.append(
            WandbSink(recipe.folder, name=recipe.name, project=recipe.log.wandb_project,
                      mode=recipe.log.wandb, config=recipe.resolved())  # fmt: skip
        )
    path = recipe.folder / "metrics.jsonl"
    return MetricsFile(path, resume_step=first_step, sinks=tuple(sinks)), progress


# --------------------------------------------------------------------------- the run


def run(recipe: Recipe, stop: StopRequest | None = None) -> Path:
    """Train until the last step, or until asked to stop; continues a run that its folder holds.

    Returns:
        The run folder, holding a finished run.

    Raises:
        RecipeError, DataError, CheckpointError: before anything was trained (exit code 2).
        Preempted: asked to stop; the state is saved and the same call continues (exit code 75).
        NonFiniteLoss: three bad steps in a row (exit code 76).
    """
    stop = stop or watch_signals()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    recipe, ranks = resolve(recipe)
    rank = early_rank()
    stream = TrainStream(
        recipe.data,
        sample_rate_hz=recipe.encoder.sample_rate_hz,
        seed=recipe.seed,
        noise_prob=recipe.augment.noise_prob,
        snr_db=recipe.augment.snr_db,
    )
    layout = Topology(
        rank=rank,
        ranks=ranks,
        accumulate=recipe.train.global_batch // (ranks * recipe.train.micro_batch),
        micro=recipe.train.micro_batch,
    )
    model, objective = build_model(recipe, stream)
    module = TrainingModule(recipe, model, objective, layout)
    checkpoints = CheckpointFolder(
        recipe.folder, keep_last=recipe.train.keep_last, keep_every=recipe.train.keep_every
    )
    resume, complaints = checkpoints.newest_readable()
    first_step = int(load(resume)["dawnchorus"]["step"]) if resume else 0
    if first_step >= recipe.train.total_steps:
        return recipe.folder
    gate = None
    if recipe.stage == "pretrain" and resume is None:
        gate = _codebook_gate(recipe, module, stream)
    if rank == 0:
        _prepare_folder(recipe)
        _describe_data(recipe, stream)
    metrics, progress = _sinks(recipe, first_step) if rank == 0 else (None, None)
    if metrics is not None:
        _opening_lines(metrics, first_step, layout, resume, complaints, gate)
    try:
        stopped = _fit(recipe, module, stream, layout, checkpoints, resume, metrics, progress, stop)
    finally:
        if metrics is not None:
            metrics.close()
    if stopped:
        raise Preempted(
            f"stopped by {stop.signal_name or 'another rank'} and saved in {checkpoints.path}; the "
            "same command continues this run"
        )
    return recipe.folder
