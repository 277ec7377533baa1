"""The work at a step boundary, in a fixed order: check, log, validate, save, stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from dawnchorus.trainer.checkpoints.checkpoint import CheckpointFolder
from dawnchorus.trainer.errors import CheckpointError, DataError, NonFiniteLoss
from dawnchorus.trainer.session.meeting import meet
from dawnchorus.trainer.training.checkpoint_io import AtomicCheckpointIO
from dawnchorus.trainer.training.throughput import slowest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dawnchorus.trainer.session.session import Session
    from dawnchorus.trainer.session.signals import StopRequest
    from dawnchorus.trainer.training.logging import MetricsFile, ProgressSink
    from dawnchorus.trainer.training.module import StepHealth, TrainingModule
    from dawnchorus.trainer.training.throughput import Throughput
    from dawnchorus.trainer.training.validation import Validation

MAX_BAD_STEPS = 3
SLOW = 1.5
"""A rank that needs this many times the median time is named in the metrics."""


class StepBoundary(pl.Callback):
    """Acts after each optimiser step, in the same order on all ranks.

    Lightning's own validation loop and ModelCheckpoint are not used: they count micro-batches, and
    after a resume ModelCheckpoint can overwrite a good file in the middle of an accumulation.

    Args:
        checkpoints: the folder of the checkpoints.
        metrics: the metrics file, on rank 0 only.
        progress: the bar, on rank 0 only.
        throughput: the meter of speed.
        validation: the validation; None without a validation set.
        broken: ledger of broken clips, with `add(names)` and `check()`.
        session: the session; its watchdog hears of every piece of work that is done.
        facts: the facts that must be equal on all ranks (see `meeting.meet`).
        epochs: gives, for a number of clips, how often each training dataset was gone through.
    """

    def __init__(
        self,
        *,
        checkpoints: CheckpointFolder,
        checkpoint_io: AtomicCheckpointIO,
        metrics: MetricsFile | None,
        progress: ProgressSink | None,
        throughput: Throughput,
        validation: Validation | None,
        broken: Any,
        session: Session,
        facts: dict[str, object],
        epochs: Callable[[int], Mapping[str, float]],
        stop: StopRequest | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.checkpoint_io = checkpoint_io
        self.metrics = metrics
        self.progress = progress
        self.throughput = throughput
        self.validation = validation
        self.broken = broken
        self.session = session
        self.facts = facts
        self.epochs = epochs
        self.stop = stop
        self.stopped = False
        """All ranks agreed to stop before the last step."""
        self._bad_steps = 0
        self._best: float | None = None
        self._grad_norm = float("nan")
        self._validation_due = False
        self._hosts: list[str] = []
        self._named: set[int] = set()
        self._slow: int | None = None

    # ------------------------------------------------------------------ Lightning's hooks

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Make sure that the ranks, which are connected by now, belong to one run."""
        self._hosts = meet(self.facts, self.session.folder)
        self.session.beat("meeting the other ranks")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Drop Lightning's broadcast per batch: it waits for the GPU, and our flag replaces it."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if self._validation_due:
            # The session before was stopped in the middle of this validation.
            self._validation_due = False
            self._validate(trainer, module, trainer.global_step)  # type: ignore[arg-type]
        self.session.beat("starting to train")
        self.throughput.reset()

    def on_before_backward(
        self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Note the time: up to here a rank does not wait for others."""
        self.throughput.forward_ends()

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: pl.Trainer, module: TrainingModule, batch: Any, batch_idx: int
    ) -> None:
        """Note when the batch arrived, and which of its clips could not be read."""
        if "fatal" in batch:
            raise DataError(batch["fatal"])
        self.throughput.batch_starts()
        if batch["broken"]:
            fresh = self.broken.add(batch["broken"])
            for name in fresh if self.metrics else ():
                self._event(module, "broken_clip", f"{name}; replaced by the next position's clip")

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        module: TrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Run the boundary after the last micro-step of a step."""
        self.throughput.batch_ends(len(batch["wav_BT"]))
        self.session.beat(f"micro-step {batch_idx} of step {trainer.global_step}")
        if (batch_idx + 1) % module.topology.accumulate:
            return
        step, train = trainer.global_step, module.recipe.train
        last = step >= train.total_steps
        module.after_step(step - 1)
        stop = self._check(module, last)
        if step % train.log_every == 0 or last or stop:
            self._log(module, step)
        began = time.perf_counter()
        if self.validation is not None and (
            last or (train.validate_every and step % train.validate_every == 0)
        ):
            stop |= self._validate(trainer, module, step, may_stop=not last)
        if last or stop or step % train.checkpoint_every == 0:
            self._save(trainer, step)
        self.throughput.exclude(time.perf_counter() - began)
        if self.progress is not None:
            self.progress.advance(step)
        if last:
            self._event(module, "finished", f"all {train.total_steps} steps are done")
        elif stop:
            by_hand = self.stop is not None and self.stop.by_hand
            self._event(
                module, "interrupted" if by_hand else "preempted",
                f"{'Ctrl-C' if by_hand else 'asked to stop'}; saved: the same command continues",
            )  # fmt: skip
            self.stopped = True
            trainer.should_stop = True

    # ------------------------------------------------------------------ its parts

    def _check(self, module: TrainingModule, last: bool) -> bool:
        """Check the health of the last steps; returns whether to stop."""
        stop = False
        while (health := module.health(drain=last)) is not None:
            stop |= self._act_on(health, module)
        return stop

    def _act_on(self, health: StepHealth, module: TrainingModule) -> bool:
        self._grad_norm = health.grad_norm
        if health.bad:
            self._bad_steps += 1
            self._event(module, "non_finite", _describe(health, module))
            if self._bad_steps >= MAX_BAD_STEPS:
                raise NonFiniteLoss(
                    f"{MAX_BAD_STEPS} steps in a row were not finite, the last of them step "
                    f"{health.step}: {_describe(health, module)}. They did not change the weights. "
                    "Lower optim.lr, set optim.clip_norm, or look at the clips named above"
                )
        else:
            self._bad_steps = 0
        if health.broken:
            self.broken.check()  # raises on the rank that counted them
            raise DataError("another rank met too many broken clips; its message says which")
        return health.stop

    def _log(self, module: TrainingModule, step: int) -> None:
        figures = module.window_figures()
        # A frozen encoder only runs forward, which is a third of a full step.
        share = 1 / 3 if module.head_only else 1.0
        figures |= self.throughput.figures(module.topology.ranks, share)
        figures["grad_norm"] = self._grad_norm
        figures["lr"] = max(g["lr"] for g in module.optimizers().param_groups)  # type: ignore[union-attr]
        if module.topology.ranks > 1:
            figures |= self._compare_ranks(module)
        if self.metrics is not None:
            seen = step * module.topology.global_batch
            figures |= {f"epochs/{name}": round(n, 4) for name, n in self.epochs(seen).items()}
            self.metrics.write("train", step, seen, **figures)
        self.throughput.reset()

    def _compare_ranks(self, module: TrainingModule) -> dict[str, float]:
        """Find the rank that keeps the others waiting; costs one small gather per log line."""
        own = torch.tensor([self.throughput.own_s()], device=module.device)
        everybody = torch.zeros(module.topology.ranks, device=module.device)
        dist.all_gather_into_tensor(everybody, own)
        rank, ratio = slowest(everybody.tolist())
        # The rank must be slow twice in a row: first steps and short disturbances prove nothing.
        again, self._slow = self._slow == rank, rank if ratio > SLOW else None
        if ratio > SLOW and again and rank not in self._named:
            self._named.add(rank)
            self._event(
                module, "slow_rank", f"rank {rank} on {self._hosts[rank]} needs {ratio:.1f} times "
                "the median for data and forward pass; all others wait for it",
            )  # fmt: skip
        return {"slowest_rank": rank, "slowest_rank_ratio": ratio}

    def _validate(
        self, trainer: pl.Trainer, module: TrainingModule, step: int, *, may_stop: bool = True
    ) -> bool:
        """Validate; returns whether it was interrupted because a rank was asked to stop."""
        assert self.validation is not None
        figures = self.validation.run(
            module, beat=self.session.beat, stop=module.stop_asked if may_stop else None
        )
        if figures is None:
            self._validation_due = True
            return True
        if self.metrics is not None:
            self.metrics.write("valid", step, step * module.topology.global_batch, **figures)
        value, sign = self.validation.score(figures)
        if value is not None and (self._best is None or sign * value > sign * self._best):
            self._best = value
            self._write(trainer, self.checkpoints.best)
        return False

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        self._write(trainer, self.checkpoints.at_step(step))
        if trainer.is_global_zero:
            self.checkpoints.tidy()

    def _write(self, trainer: pl.Trainer, path: Any) -> None:
        trainer.save_checkpoint(path, weights_only=False)
        self.session.beat(f"writing {path.name}")
        error = self.checkpoint_io.error
        if trainer.world_size > 1:
            failed = torch.tensor(float(error is not None), device=trainer.strategy.root_device)
            dist.all_reduce(failed)
            if failed.item() and error is None:
                raise CheckpointError(
                    "another rank could not write its part of the checkpoint; its message says why"
                )
        if error is not None:
            raise error

    def _event(self, module: TrainingModule, event: str, message: str) -> None:
        if self.metrics is not None:
            step = module.global_step
            seen = step * module.topology.global_batch
            self.metrics.write("event", step, seen, event=event, message=message)

    def state_dict(self) -> dict[str, Any]:
        """The state in a checkpoint: the best score so far, and whether a validation is due."""
        return {"best": self._best, "validation_due": self._validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore that state."""
        self._best = state_dict["best"]
        self._validation_due = state_dict.get("validation_due", False)


def _describe(health: StepHealth, module: TrainingModule) -> str:
    """Name the ranks, positions and parameter groups that made a step non-finite."""
    layout, parts = module.topology, []
    for rank, micro_step in health.bad_micro_batches:
        first = layout.first_position(health.step, micro_step, rank)
        parts.append(f"loss of rank {rank}, positions {first}-{first + layout.micro - 1}")
    groups = module.optimizers().param_groups  # type: ignore[union-attr]
    names = [
        str(group.get("name", i))
        for i, (group, norm) in enumerate(zip(groups, health.group_norms, strict=True))
        if not norm < float("inf")
    ]
    if names:
        parts.append(f"gradient of parameter group {', '.join(names)}")
    return "non-finite " + "; ".join(parts) + "; the optimiser did not move"
