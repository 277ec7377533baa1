"""One training run, from a validated recipe to a finished run folder."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from dawnchorus.trainer.allocation import keep_freed_memory
from dawnchorus.trainer.checkpoints.checkpoint import CheckpointFolder
from dawnchorus.trainer.data.broken import BrokenLedger
from dawnchorus.trainer.data.module import TrainStream, train_loader, valid_loader
from dawnchorus.trainer.errors import DataError, Interrupted, Preempted, RecipeError
from dawnchorus.trainer.public import public_recipe
from dawnchorus.trainer.registry import LOGGERS
from dawnchorus.trainer.session.job import early_rank, in_slurm_step
from dawnchorus.trainer.session.session import Session
from dawnchorus.trainer.session.signals import StopRequest, watch_signals
from dawnchorus.trainer.training.assembly import build_model, first_batches, resolve
from dawnchorus.trainer.training.checkpoint_io import AtomicCheckpointIO
from dawnchorus.trainer.training.examples import write_examples
from dawnchorus.trainer.training.layout import Topology
from dawnchorus.trainer.training.loggers.base import LoggedRun
from dawnchorus.trainer.training.logging import MetricsFile, ProgressSink, Sink
from dawnchorus.trainer.training.module import TrainingModule
from dawnchorus.trainer.training.run_folder import check_folder, write_folder
from dawnchorus.trainer.training.step_boundary import StepBoundary
from dawnchorus.trainer.training.throughput import Throughput, peak_flops
from dawnchorus.trainer.training.validation import Validation

if TYPE_CHECKING:
    from dawnchorus.trainer.recipe import Recipe

EXAMPLES = 8
"""Clips kept with their predictions for the report."""

_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


def _lightning(
    recipe: Recipe, ranks: int, callback: StepBoundary, io: AtomicCheckpointIO
) -> pl.Trainer:
    train = recipe.train
    plugins: list[Any] = [io]
    if in_slurm_step():
        # Lightning's own requeue dead-locks when one rank is slow and loses the batch in flight.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return pl.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        num_nodes=train.nodes,
        strategy=_strategy(recipe, ranks),
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


def _strategy(recipe: Recipe, ranks: int) -> Any:
    train = recipe.train
    backend = "nccl" if train.accelerator == "gpu" else "gloo"
    # Longer than our watchdog waits, so that the watchdog is the first to report a hang.
    timeout = timedelta(minutes=max(30.0, 2 * (train.watchdog_minutes or 60.0)))
    if ranks == 1:
        return "auto"
    if train.strategy == "fsdp":
        from dawnchorus.trainer.training.fsdp import ShardedStrategy

        return ShardedStrategy(
            data_parallel_size=ranks,
            tensor_parallel_size=1,
            process_group_backend=backend,
            timeout=timeout,
        )
    return DDPStrategy(
        process_group_backend=backend,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        timeout=timeout,
    )


def _sinks(recipe: Recipe, first_step: int) -> tuple[MetricsFile, ProgressSink]:
    progress = ProgressSink(recipe.train.total_steps, first_step, recipe.name)
    run = LoggedRun(
        folder=recipe.folder,
        name=recipe.name,
        recipe=public_recipe(recipe.resolved()),
        first_step=first_step,
    )
    started = [LOGGERS.thing(name).start(recipe.log, run) for name in LOGGERS.names()]
    sinks: tuple[Sink, ...] = (progress, *(logger for logger in started if logger is not None))
    path = recipe.folder / "metrics.jsonl"
    return MetricsFile(path, resume_step=first_step, sinks=sinks), progress


# --------------------------------------------------------------------------- the run


def run(recipe: Recipe, stop: StopRequest | None = None) -> Path:
    """Train until the last step or until asked to stop. A run that the folder holds is continued.

    Returns:
        The run folder, holding a finished run.

    Raises:
        RecipeError, DataError, CheckpointError: the run cannot be trained (exit code 2).
        Preempted: the run was asked to stop. Its state is saved, and the same call continues it
            (exit code 75).
        NonFiniteLoss: the loss or gradient was not finite three steps in a row (exit code 76).
        RunBusy: another job works in the run folder (exit code 2).
        NoProgress: SLURM has started this job three times at this step (exit code 78).
    """
    stop = stop or watch_signals()
    _quieten_lightning()
    recipe, ranks = resolve(recipe)
    rank = early_rank()
    minutes = recipe.train.watchdog_minutes
    hang_after_s = None if minutes is None else 60 * minutes
    with Session(recipe.folder, rank, hang_after_s=hang_after_s) as session:
        return _run(recipe, rank, ranks, stop, session)


def _run(recipe: Recipe, rank: int, ranks: int, stop: StopRequest, session: Session) -> Path:
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
    first_step = checkpoints.step_of(resume) if resume else 0
    check_folder(recipe, stream)
    if first_step >= recipe.train.total_steps:
        return recipe.folder
    session.begin(first_step)
    found: dict[str, float] = {}
    if resume is None:
        found = objective.prepare(model, first_batches(recipe, module, stream))
    metrics, progress = None, None
    if rank == 0:
        overlap = write_folder(recipe, stream)
        metrics, progress = _sinks(recipe, first_step)
        _opening_lines(metrics, first_step, layout, resume, complaints, found)
        if overlap.trained_on and resume is None:
            metrics.write("event", 0, 0, event="validation_seen", message=overlap.sentence)
    try:
        stopped = _fit(module, stream, checkpoints, resume, metrics, progress, stop, session)
    finally:
        if metrics is not None:
            metrics.close()
    if stopped:
        kind = Interrupted if stop.by_hand else Preempted
        raise kind(
            f"stopped by {stop.signal_name or 'another rank'} and saved in {checkpoints.path}; the "
            "same command continues this run"
        )
    return recipe.folder


def _quieten_lightning() -> None:
    """Leave out what Lightning says about itself; our own lines say what a run does."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # "Initializing distributed", from every rank.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*`srun` command is available on your system.*",
        # A teacher is always in eval mode.
        r"Found \d+ module\(s\) in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _opening_lines(
    metrics: MetricsFile,
    first_step: int,
    layout: Topology,
    resume: Path | None,
    complaints: list[str],
    found: dict[str, float],
) -> None:
    """Write into the metrics how this session of the run began."""
    seen = first_step * layout.global_batch
    for complaint in complaints:
        metrics.write("event", first_step, seen, event="damaged_checkpoint", message=complaint)
    what = f"continued from {resume.name}" if resume else "started"
    if metrics.repeated:
        what += f" (repeats the {metrics.repeated} steps up to {first_step + metrics.repeated})"
    metrics.write(
        "event", first_step, seen, event="resumed" if resume else "started",
        message=f"{what} on {layout.ranks} rank(s), {layout.accumulate} micro-step(s) of "
        f"{layout.micro} clips", ranks=layout.ranks, accumulate=layout.accumulate,
        micro_batch=layout.micro,
    )  # fmt: skip
    if found:
        message = ", ".join(f"{k} {v:.4g}" for k, v in found.items())
        metrics.write("event", first_step, seen, event="prepared", message=message, **found)


def _fit(
    module: TrainingModule,
    stream: TrainStream,
    checkpoints: CheckpointFolder,
    resume: Path | None,
    metrics: MetricsFile | None,
    progress: ProgressSink | None,
    stop: StopRequest,
    session: Session,
) -> bool:
    """Run Lightning from the checkpoint `resume`. Return whether it stopped early."""
    recipe, layout = module.recipe, module.topology
    pin = recipe.train.accelerator == "gpu"
    if not pin:
        keep_freed_memory()
    first_step = checkpoints.step_of(resume) if resume else 0
    loader = train_loader(
        stream, first_position=first_step * layout.global_batch, micro_batch=layout.micro,
        accumulate=layout.accumulate, rank=layout.rank, world_size=layout.ranks,
        workers=recipe.data.workers, pin_memory=pin,
    )  # fmt: skip
    broken = BrokenLedger(stream, recipe.data.max_broken)
    module.stop_asked, module.too_many_broken = stop.is_set, broken.too_many
    io = AtomicCheckpointIO()
    boundary = StepBoundary(
        checkpoints=checkpoints, checkpoint_io=io, metrics=metrics, progress=progress,
        throughput=_throughput(module), broken=broken,
        validation=_validation(recipe, stream, layout, pin), session=session,
        facts={"session": session.job.session, "run folder": str(recipe.folder.resolve()),
               "first step": first_step},
        epochs=stream.epochs, stop=stop,
    )  # fmt: skip
    trainer = _lightning(recipe, layout.ranks, boundary, io)
    if recipe.train.compile:
        _compile(module)
    finished = False
    try:
        with session.watchdog or nullcontext():
            trainer.fit(module, train_dataloaders=loader, ckpt_path=resume, weights_only=True)
        finished = True
        if trainer.is_global_zero or module.sharded:
            _write_examples(module, stream)
        if trainer.is_global_zero:
            _write_report(recipe.folder)
    finally:
        _leave(finished)
    return boundary.stopped


def _compile(module: TrainingModule, **options: Any) -> None:
    """Compile block by block: one graph serves all layers, and state-dict keys stay as they are.

    Shapes are static, because every batch is full. Encoder and predictor share the code of a block
    but differ in length. Without `dynamic=False` torch would compile a slower graph for any length.
    """
    options = {"dynamic": False} | options
    from dawnchorus.trainer.data.cache import default_cache_folder
    from dawnchorus.trainer.encoders.base import Stack

    # By default torch loads compiled code from a folder in /tmp whose name anybody can guess.
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(default_cache_folder() / "compiled")
    stacks = [part for part in module.modules() if isinstance(part, Stack)]
    blocks = {id(block): block for part in stacks for block in part.blocks()}
    for block in blocks.values():
        if module.sharded:
            # Only `forward` is compiled: the hooks that gather the block's weights are not.
            block.forward = torch.compile(block.forward, **options)
        else:
            block.compile(**options)
    if not blocks:
        raise RecipeError(
            f"train.compile=true, but encoder {module.recipe.encoder.name} names no blocks to "
            "compile: set it to false"
        )


def _throughput(module: TrainingModule) -> Throughput:
    recipe = module.recipe
    flops = module.objective.flops(module.model, module.grid)
    device = torch.device("cuda" if recipe.train.accelerator == "gpu" else "cpu")
    peak = peak_flops(device, recipe.train.precision)
    return Throughput(flops, module.grid.tokens, peak, on_gpu=device.type == "cuda")


def _validation(
    recipe: Recipe, stream: TrainStream, layout: Topology, pin: bool
) -> Validation | None:
    clips = min(recipe.train.validate_clips or len(stream.valid), len(stream.valid))
    # With few clips the batch is smaller, because a full one would be mostly filling.
    micro = min(layout.micro, max(1, -(-clips // layout.ranks)))
    loader = valid_loader(
        stream, micro_batch=micro, rank=layout.rank, world_size=layout.ranks, pin_memory=pin,
        workers=recipe.data.workers if pin else 0, clips=recipe.train.validate_clips,
    )  # fmt: skip
    if loader is None:
        return None
    return Validation(loader, best=recipe.best)


def _write_examples(module: TrainingModule, stream: TrainStream) -> None:
    """Write the clips of the report. A failure here must not fail a finished run."""
    folder = module.recipe.folder
    batch, why = None, "another rank could not read them"
    valid = stream.valid
    source = valid if len(valid) else stream
    try:
        count = min(EXAMPLES, len(valid) or stream.clips)
        batch = source[_spread(len(valid), count) if len(valid) else list(range(count))]
    except Exception as error:
        why = str(error)
    everybody = torch.tensor(float(batch is not None), device=module.device)
    if module.sharded:
        dist.all_reduce(everybody, dist.ReduceOp.MIN)
    try:
        if batch is None or not everybody:
            raise DataError(why)
        with module.averaged():
            first = module.topology.rank == 0
            write_examples(folder if first else None, module, source, batch)
    except Exception as error:
        print(f"the examples of {folder} could not be written: {error}", file=sys.stderr)


def _write_report(folder: Path) -> None:
    """Write the page of the run. A failure here must not fail a finished run."""
    try:
        from dawnchorus.trainer.report import write_report

        write_report(folder / "report.html", [folder])
    except Exception as error:
        print(f"the report of {folder} could not be written: {error}", file=sys.stderr)


def _spread(total: int, count: int) -> list[int]:
    """`count` positions spread evenly over `total`."""
    return [i * total // count for i in range(count)]


def _leave(finished: bool) -> None:
    """Disconnect from the other ranks. Without this, gloo ranks sometimes abort at exit."""
    if dist.is_available() and dist.is_initialized():
        if finished:
            dist.barrier()
        dist.destroy_process_group()
