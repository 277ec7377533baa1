"""The LightningModule: connects encoder, objective and optimiser.

Shape legend: B clips, T samples, A micro-steps of a rank, W ranks, G parameter groups.

Three promises hold for every number of ranks and micro-steps:
* The loss is a mean over the *global* batch: micro-steps return sums, and the gradient is divided
  once by the number of terms of all ranks and micro-steps.
* Every random draw about a clip follows from (seed, position). So no generator state has to be
  saved, and the micro-batch has no effect. Only dropout is drawn per micro-batch.
* A step with a non-finite loss or gradient never reaches the optimiser.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from dawnchorus.trainer.augment import add_noise, mixup
from dawnchorus.trainer.checkpoints.sharded_tensors import local
from dawnchorus.trainer.objectives.base import FeatureBatch, StepOutput
from dawnchorus.trainer.seeds import Purpose, mix_seed, mix_seeds
from dawnchorus.trainer.training.host_copy import HostCopy
from dawnchorus.trainer.training.optim import ParameterEma, build_optimizer, param_groups, touch
from dawnchorus.trainer.training.running_statistics import RunningStatistics
from dawnchorus.trainer.training.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dawnchorus.trainer.model import BioEncoder
    from dawnchorus.trainer.objectives.base import Objective
    from dawnchorus.trainer.panels import Panel
    from dawnchorus.trainer.recipe import Recipe
    from dawnchorus.trainer.training.layout import Topology


@dataclass
class StepHealth:
    """Health of one optimiser step, the same on all ranks, as numbers on the host."""

    step: int
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    group_norms: list[float]
    bad_micro_batches: list[tuple[int, int]]
    """(rank, micro-step) of each non-finite loss."""
    stop: bool
    """At least one rank was asked to stop."""
    broken: bool
    """At least one rank met too many broken clips."""
    fatal_gradient: bool
    """The gradient was not finite, so the optimiser did not move."""

    @property
    def bad(self) -> bool:
        """Whether this step counts as non-finite."""
        return bool(self.bad_micro_batches) or self.fatal_gradient


class TrainingModule(pl.LightningModule):
    """One encoder, one objective, one optimiser.

    Args:
        recipe: the validated recipe.
        model: front end, encoder and, if the objective needs labels, the head.
        objective: makes the loss; its own parameters are trained too.
        topology: how the global batch is divided.
    """

    def __init__(
        self, recipe: Recipe, model: BioEncoder, objective: Objective, topology: Topology
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = model
        self.objective = objective
        self.topology = topology
        self.stop_asked: Callable[[], bool] = lambda: False
        self.too_many_broken: Callable[[], bool] = lambda: False
        self.window: dict[str, Tensor] = {}
        """Sums of the log figures since the last log line: name -> [sum, count]."""
        self.ema: ParameterEma | None = None
        self._pending: deque[tuple[int, HostCopy]] = deque()
        self._micro_step = 0
        samples = torch.tensor([round(recipe.data.window_s * model.sample_rate_hz)])
        self.grid = model.encoder.grid(int(model.frontend.steps_for(samples)))
        """The tokens of a full window."""
        # A constant that cancels out; it only keeps the loss near 1, which fp16 needs.
        self.nominal_count = topology.micro * objective.terms(self.grid)
        self.statistics = RunningStatistics(self)

    @property
    def sharded(self) -> bool:
        """Whether each rank holds only its rows of the parameters (FSDP)."""
        return self.recipe.train.strategy == "fsdp" and self.topology.ranks > 1

    def configure_model(self) -> None:
        """Shard the module and create the average. The ranks are connected, nothing is loaded."""
        if self.sharded:
            from dawnchorus.trainer.training.fsdp import shard_module

            assert self.device_mesh is not None
            shard_module(self, self.device_mesh["data_parallel"])
        if self.recipe.optim.ema_decay is not None:
            self.ema = ParameterEma(self, self.recipe.optim.ema_decay)

    # ------------------------------------------------------------------ the forward side

    def features(self, batch: Mapping[str, Any], *, augment: bool) -> FeatureBatch:
        """Turn an int16 batch on the device into encoder input, with noise and mixup if `augment`.

        Rows of length 0 fill up a validation batch; they are marked as not real.
        """
        wav_BT = batch["wav_BT"].float() / 32768.0
        purpose = Purpose.TRAIN if augment else Purpose.VALID
        key_B = mix_seeds(self.recipe.seed, purpose, batch["position_B"])
        length_B, labels_P2 = batch["length_B"].long(), batch["labels_P2"]
        clean = None
        if augment:
            if self.recipe.augment.noise_prob > 0 and "noise_BT" in batch:
                if self.objective.config.hears_clean:
                    clean, _ = self.model.frontend(wav_BT, length_B)
                noise_BT = batch["noise_BT"].float() / 32768.0
                wav_BT = add_noise(wav_BT, length_B, noise_BT, batch["snr_db_B"])
            if self.recipe.augment.mixup_prob > 0:
                wav_BT, length_B, labels_P2 = mixup(
                    wav_BT, length_B, labels_P2, key_B, config=self.recipe.augment
                )
        x, steps_B = self.model.frontend(wav_BT, length_B)
        real_B = None if augment else length_B > 0
        return FeatureBatch(x, steps_B, labels_P2, batch["source_B"], key_B, clean, real_B)

    @property
    def head_only(self) -> bool:
        """Whether only the head learns at the current step."""
        return self.global_step < self.recipe.optim.head_only_steps

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Run one micro-step. Return the summed loss divided by a constant, which
        `on_before_optimizer_step` corrects.
        """
        self._micro_step = batch_idx % self.topology.accumulate
        position = self.topology.first_position(self.global_step, self._micro_step)
        torch.manual_seed(mix_seed(self.recipe.seed, Purpose.DROPOUT, position))
        # The seed is the same on all ranks and in all micro-steps, so all drop the same layers.
        layers_seed = mix_seed(self.recipe.seed, Purpose.LAYERS, self.global_step)
        self.model.encoder.begin_step(layers_seed)
        if self._micro_step == 0:
            self.statistics.begin_step()
        features = self.features(batch, augment=True)
        output = self._objective_step(features)
        if not self.head_only:
            self.statistics.collect()
        self._collect(output)
        loss_sum = output.loss_sum
        if self.head_only and self.topology.ranks > 1 and not self.sharded:
            loss_sum = loss_sum + touch(self.model.encoder.parameters())
        return loss_sum / self.nominal_count

    def _objective_step(self, features: FeatureBatch) -> StepOutput:
        return StepOutput(*self.run_objective(features))

    def run_objective(self, features: FeatureBatch) -> tuple[Any, ...]:
        """Return the fields of the objective's `StepOutput` as a tuple: FSDP finds tensors there.

        FSDP treats this method and `look` as forward passes, so parameters are whole within them.
        """
        frozen = self.training and self.head_only
        out = self.objective.step(features, self.model, frozen=frozen)
        return out.loss_sum, out.count, out.logs, out.scores_BC, out.code_count_V

    @torch.no_grad()
    def look(self, features: FeatureBatch) -> list[list[Panel]]:
        """Return the panels of each clip of a batch, which show people the model's output."""
        return self.objective.look(features, self.model)

    def after_step(self, step: int) -> None:
        """Update everything that follows the weights, after the optimiser moved in `step`."""
        self.statistics.end_step(self.topology.ranks)
        self.objective.after_step(self.model, step, self.recipe.train.total_steps)
        if self.ema is not None:
            self.ema.update(self, step if self.recipe.optim.ema_warmup else None)

    def _collect(self, output: StepOutput) -> None:
        """Add up the figures for the step boundary and the next log line, on the device."""
        if self._micro_step == 0:
            layout = self.topology
            self._count = output.count.detach().float() * 0
            self._bad_losses = torch.zeros(layout.ranks * layout.accumulate, device=self.device)
        self._count = self._count + output.count.detach()
        slot = self.topology.rank * self.topology.accumulate + self._micro_step
        self._bad_losses[slot] = (~torch.isfinite(output.loss_sum.detach())).float()
        for name, (total, count) in output.logs.items():
            pair = torch.stack([total.detach().double(), count.detach().double()])
            self.window[name] = self.window.get(name, torch.zeros_like(pair)) + pair

    # ------------------------------------------------------------------ the optimiser side

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the parameter groups of the recipe."""
        # With a gradient scaler, fused AdamW unscales by itself, which is too late for clipping.
        fused = None if self.recipe.train.precision != "fp16" else False
        return build_optimizer(
            param_groups(self, self.recipe.optim, self.model.encoder),
            self.recipe.optim,
            fused=fused,
        )

    def on_fit_start(self) -> None:
        """Move the average to the device of the weights."""
        if self.ema is not None:
            self.ema.to(self.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the weights are replaced by their moving average, if there is one."""
        if self.ema is None:
            yield
        else:
            with self.ema.swapped(self):
                yield

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Normalise, check and clip the complete gradients, and set the learning rate.

        The gradients are averaged over ranks by now. This costs one all-reduce per step. On a GPU
        the host does not wait for it, and reads the figures one step later (`health`). The same
        all-reduce sums the squared norms of sharded gradients.
        """
        layout = self.topology
        if self.head_only:
            # The frozen encoder got zero gradients only because DDP needs some. Without gradients
            # the optimiser does not decay its weights.
            for parameter in self.model.encoder.parameters():
                parameter.grad = None
        # Filled on the device: a tensor made of a list is copied there, and the host waits for it.
        flags = [
            torch.full((1,), float(flag), device=self.device)
            for flag in (self.stop_asked(), self.too_many_broken())
        ]
        grads = [
            [local(p.grad) for p in group["params"] if p.grad is not None]
            for group in optimizer.param_groups
        ]
        norm_G = torch.stack(
            [
                torch.nn.utils.get_total_norm(g) if g else torch.zeros((), device=self.device)
                for g in grads
            ]
        )
        shared = torch.cat([self._count.reshape(1), *flags, self._bad_losses])
        if self.sharded:
            shared = torch.cat([shared, norm_G.square()])
        if layout.ranks > 1:
            dist.all_reduce(shared)
        if self.sharded:
            norm_G = shared[-len(norm_G) :].sqrt()
            shared = shared[: -len(norm_G)]
        # The loss was divided by nominal_count here, by `accumulate` in Lightning and by `ranks`
        # in DDP or FSDP.
        scale = self.nominal_count * layout.accumulate * layout.ranks / shared[0].clamp(min=1.0)
        norm_G = norm_G * scale
        norm = torch.linalg.vector_norm(norm_G)
        clip = self.recipe.optim.clip_norm
        factor = scale if clip is None else scale * (clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([g for group in grads for g in group], factor)
        fatal = ~torch.isfinite(norm)
        self._guard(optimizer, fatal)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                self.recipe.optim, self.global_step, self.recipe.train.total_steps, group
            )
        self._report(torch.cat([shared, fatal.float().reshape(1), norm.reshape(1), norm_G]))

    def _guard(self, optimizer: torch.optim.Optimizer, fatal: Tensor) -> None:
        """Make the optimiser skip the step where `fatal` is true."""
        if self.recipe.train.precision == "fp16":
            return  # the gradient scaler skips the step itself
        if optimizer.defaults.get("fused"):
            # The fused kernel reads this on the device, so the host need not wait.
            optimizer.found_inf = fatal.float()  # type: ignore[attr-defined]
        elif bool(fatal):
            optimizer.zero_grad(set_to_none=True)

    def _report(self, figures: Tensor) -> None:
        self._pending.append((self.global_step, HostCopy(figures)))

    def health(self, *, drain: bool = False) -> StepHealth | None:
        """Return the health of the oldest optimiser step that was not returned yet.

        On a GPU the newest step is left for the next call (unless `drain`), so that the host never
        waits for it. Every rank makes the same calls, so all ranks act on the same step.
        """
        if not self._pending or (
            self._pending[0][1].waits and len(self._pending) < 2 and not drain
        ):
            return None
        step, figures = self._pending.popleft()
        layout = self.topology
        slots = layout.ranks * layout.accumulate
        values = figures.read()
        bad = [divmod(i, layout.accumulate) for i, v in enumerate(values[3 : 3 + slots]) if v > 0]
        fatal, norm, *norms = values[3 + slots :]
        # With fp16 the gradient scaler provokes infinite gradients to find its scale, so only the
        # loss counts.
        counts = fatal > 0 and self.recipe.train.precision != "fp16"
        return StepHealth(step, norm, norms, bad, values[1] > 0, values[2] > 0, counts)

    def window_figures(self) -> dict[str, float]:
        """Return the figures since the last call, reduced over ranks, and begin a new window."""
        names = sorted(self.window)
        if not names:
            return {}
        table = torch.stack([self.window[n] for n in names])
        if self.topology.ranks > 1:
            dist.all_reduce(table)
        self.window = {}
        return {
            name: total / count if count else float("nan")
            for name, (total, count) in zip(names, table.tolist(), strict=True)
        }

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add our part, as plain values, so that the file loads with `weights_only=True`."""
        step = self.global_step
        checkpoint["dawnchorus"] = {
            "format": 1,
            "recipe": self.recipe.resolved(),
            "labels": list(self.model.labels) if self.model.labels else None,
            "step": step,
            "samples_seen": step * self.topology.global_batch,
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the average, and make Lightning's batch counters fit today's accumulation."""
        ours = checkpoint["dawnchorus"]
        for tensors in (checkpoint["state_dict"], ours["ema"] or {}):
            _rename_head(tensors)
        if self.ema is not None and ours["ema"] is not None:
            self.ema.load_state_dict(ours["ema"])
        done = ours["step"] * self.topology.accumulate
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for span in ("total", "current"):
            progress[span].update(ready=done, started=done, processed=done, completed=done - 1)


def _rename_head(tensors: dict[str, Any]) -> None:
    """Rename the head's tensors in place: before December 2026 the objective had the head."""
    for name in ("head.weight", "head.bias"):
        if f"objective.{name}" in tensors:
            tensors[f"model.{name}"] = tensors.pop(f"objective.{name}")
