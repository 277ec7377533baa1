"""Trains probes on pooled features: all seeds and folds in one tensor program.

A job is one probe: one fold, one seed. Jobs share every tensor operation but no number, so a
job's result does not depend on which jobs it runs beside (up to floating-point rounding).

Shape legend: N clips, L layers, D channels, C classes, J jobs, B clips of a step, V validation
clips, T test clips, S seeds, F folds.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.evaluation.probes.base import Probe, ProbeResult
from dawnchorus.trainer.evaluation.probes.trained_config import TrainedConfig
from dawnchorus.trainer.evaluation.scores import accuracy, macro_average_precision
from dawnchorus.trainer.evaluation.splits import Fold

MEMORY_BYTES = 2**30
"""Jobs are trained at once as long as their copies of the validation part and their weights
(with gradients, moments, best copy) fit in this."""


@dataclass(frozen=True)
class Job:
    """One probe."""

    fold: int
    seed: int
    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]


class JobBatch:
    """The weights of J probes, and what they have in common.

    Args:
        jobs: the probes.
        feature: [N, D], or [N, L, D].
        classes: number of classes.
        config: of the probe.
    """

    config: Any

    def __init__(
        self, jobs: Sequence[Job], feature: Tensor, classes: int, config: TrainedConfig
    ) -> None:
        self.jobs, self.feature, self.config = jobs, feature, config
        self.draws = [torch.Generator().manual_seed(job_seed(j)) for j in jobs]
        self.training = False
        self.parameters: list[Tensor] = []
        self.mean: Tensor | None = None
        self.inverse_scale: Tensor | None = None
        if config.standardise:
            self._standardise()
        self.build(classes)

    @staticmethod
    def weights(dim: int, classes: int, config: Any) -> int:
        """About how many numbers one job's parameters have."""
        del config
        return dim * classes

    @abstractmethod
    def build(self, classes: int) -> None:
        """Make the parameters, each [J, ...], and list them in `parameters`."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """[J, B, C] from what `inputs` gave."""

    def drawn(self, *shape: int, fan_in: int) -> Tensor:
        """A parameter with the start of torch.nn.Linear's, from each job's own generator."""
        rows = [torch.rand(shape, generator=g) for g in self.draws]
        bound = 1 / math.sqrt(fan_in)
        drawn = (torch.stack(rows) * 2 - 1).mul(bound).to(self.feature.device).requires_grad_()
        self.parameters.append(drawn)
        return drawn

    def _standardise(self) -> None:
        mean, inverse = [], []
        for job in self.jobs:
            part = self.feature[torch.from_numpy(job.train).to(self.feature.device)]
            std, average = torch.std_mean(part, dim=0, correction=0)
            mean.append(average)
            # A constant feature tells nothing: leave it centred instead of dividing by zero.
            varies = std > 1e-6 * average.abs().clamp(min=1e-6)
            inverse.append(torch.where(varies, 1 / std, 1.0))
        self.mean = torch.stack(mean).unsqueeze(-2)
        self.inverse_scale = torch.stack(inverse).unsqueeze(-2)

    def inputs(self, index_JB: Tensor) -> Tensor:
        """Features of the chosen clips, [J, B, D]; with several layers, [J, L, B, D]."""
        table = self.feature
        if table.dim() == 3:
            layers = table.shape[1]
            index_JB = index_JB.unsqueeze(1) * layers + torch.arange(
                layers, device=table.device
            ).unsqueeze(1)
            table = table.flatten(0, 1)
        x = table.index_select(0, index_JB.flatten()).view(*index_JB.shape, table.shape[-1])
        if self.mean is not None and self.inverse_scale is not None:
            x.sub_(self.mean).mul_(self.inverse_scale)
        return x

    @torch.no_grad()
    def scores(self, parts: Sequence[npt.NDArray[np.int64]]) -> list[Tensor]:
        """What each job says of its own clips, [T, C] each, a few thousand clips at a time."""
        index_JT, _ = padded(parts, self.feature.device)
        columns = torch.split(index_JT, max(1, 4096 // len(self.jobs)), dim=1)
        logit_JTC = torch.cat([self.logits(self.inputs(index)) for index in columns], dim=1)
        return [logit_TC[: len(part)] for logit_TC, part in zip(logit_JTC, parts, strict=True)]

    def copy(self) -> list[Tensor]:
        """The present parameters."""
        return [p.detach().clone() for p in self.parameters]

    def keep_better(self, best: list[Tensor], better_J: Tensor) -> None:
        """Put the present parameters of the jobs that are better now into `best`."""
        for kept, now in zip(best, self.parameters, strict=True):
            kept.copy_(torch.where(better_J.view(-1, *[1] * (now.dim() - 1)), now.detach(), kept))

    @torch.no_grad()
    def restore(self, best: list[Tensor]) -> None:
        """Take parameters back."""
        for now, kept in zip(self.parameters, best, strict=True):
            now.copy_(kept)

    def limit_gradients(self, longest: float) -> None:
        """Shorten each job's gradient, of all its parameters together, to `longest`."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        length_J = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
        # As torch.nn.utils.clip_grad_norm_.
        factor_J = (longest / (length_J + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factor_J.view(-1, *[1] * (grad.dim() - 1)))


def job_seed(job: Job) -> int:
    """What a job's random numbers start from."""
    return int(np.random.SeedSequence([job.seed, job.fold]).generate_state(1)[0])


def padded(rows: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack index lists of different length: indices (0 where padded) and the mask of real ones."""
    width = max(len(r) for r in rows)
    index = np.zeros((len(rows), width), dtype=np.int64)
    real = np.zeros((len(rows), width), dtype=bool)
    for j, row in enumerate(rows):
        index[j, : len(row)] = row
        real[j, : len(row)] = True
    return torch.from_numpy(index).to(device), torch.from_numpy(real).to(device)


def _loss(logit_JBC: Tensor, target: Tensor, real_JB: Tensor) -> Tensor:
    """Mean loss of each job over its real rows: cross-entropy for class numbers [J, B], binary
    cross-entropy (mean over classes) for multi-hot targets [J, B, C].
    """
    if target.dim() == 2:
        term_JB = F.cross_entropy(logit_JBC.flatten(0, 1), target.flatten(), reduction="none")
        term_JB = term_JB.view_as(target)
    else:
        term_JB = F.binary_cross_entropy_with_logits(logit_JBC, target, reduction="none").mean(-1)
    return (term_JB * real_JB).sum(1) / real_JB.sum(1).clamp(min=1)


def rates(config: TrainedConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Learning rate of each step: a linear rise, then a cosine to `config.falls_to`."""
    warm = config.warmup_steps(steps_per_epoch)
    total = config.total_steps(steps_per_epoch)
    low, high = config.falls_to, config.learning_rate

    def rate(step: int) -> float:
        if step < warm:
            return high * (step + 1) / warm
        turn = math.pi * (step - warm) / max(1, total - warm)
        return low + (high - low) * 0.5 * (1 + math.cos(turn))

    return rate


def _epoch_orders(probes: JobBatch, steps: int) -> tuple[Tensor, Tensor]:
    """Clip numbers [steps, J, B] of one pass in a new random order per job, and real-row masks."""
    rows = [
        job.train[torch.randperm(len(job.train), generator=g).numpy()]
        for job, g in zip(probes.jobs, probes.draws, strict=True)
    ]
    index, real = padded(rows, probes.feature.device)
    width = steps * probes.config.batch_size
    index = F.pad(index, (0, width - index.shape[1]))
    real = F.pad(real, (0, width - real.shape[1]))
    shape = (len(rows), steps, probes.config.batch_size)
    return index.view(shape).transpose(0, 1), real.view(shape).transpose(0, 1)


class _Selection:
    """Keeps each job's weights of its best validation epoch."""

    def __init__(self, probes: JobBatch, target: Tensor) -> None:
        self.probes = probes
        jobs, device = len(probes.jobs), probes.feature.device
        self.best = probes.copy()
        self.score_J = torch.full((jobs,), -torch.inf, device=device)
        self.loss_J = torch.full((jobs,), torch.inf, device=device)
        self.epoch_J = torch.zeros(jobs, dtype=torch.int64, device=device)
        index_JV, self.real_JV = padded([j.valid for j in probes.jobs], device)
        self.input = probes.inputs(index_JV)
        self.target = target[index_JV]

    @torch.no_grad()
    def look(self, epoch: int) -> None:
        """Compare the present weights with the best so far.

        The paper keeps the first epoch with the highest score; on small validation parts many
        epochs tie, so that of the lowest loss is kept here.
        """
        logit_JVC = self.probes.logits(self.input)
        loss_J = _loss(logit_JVC, self.target, self.real_JV)
        score = accuracy if self.target.dim() == 2 else macro_average_precision
        score_J = score(logit_JVC, self.target, self.real_JV)
        better_J = (score_J > self.score_J) | ((score_J == self.score_J) & (loss_J < self.loss_J))
        self.probes.keep_better(self.best, better_J)
        self.score_J = torch.where(better_J, score_J, self.score_J)
        self.loss_J = torch.where(better_J, loss_J, self.loss_J)
        self.epoch_J = torch.where(better_J, epoch, self.epoch_J)


def _fit(probes: JobBatch, target: Tensor, advance: Callable[[int], None]) -> _Selection | None:
    """Train all jobs; leaves the chosen weights in place."""
    config = probes.config
    steps = -(-len(probes.jobs[0].train) // config.batch_size)
    rate = rates(config, steps)
    optimiser = torch.optim.AdamW(
        probes.parameters, lr=config.learning_rate, betas=config.betas,
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    selection = _Selection(probes, target) if len(probes.jobs[0].valid) else None
    for epoch in range(config.total_steps(steps) // steps):
        index_SJB, real_SJB = _epoch_orders(probes, steps)
        probes.training = True
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate(epoch * steps + step)
            logit_JBC = probes.logits(probes.inputs(index_SJB[step]))
            loss_J = _loss(logit_JBC, target[index_SJB[step]], real_SJB[step])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss_J.sum())
            if config.clip:
                probes.limit_gradients(config.clip)
            optimiser.step()
        probes.training = False
        if selection is not None:
            selection.look(epoch + 1)
        advance(len(probes.jobs))
    if selection is not None:
        probes.restore(selection.best)
    return selection


_THREADED_STEP = 1e8
"""Multiplications per step from which threads pay. Below it they cost: measured with 400 x 768
features on two busy cores, 102 s with two threads and 7 s with one."""


@contextmanager
def _fitting_threads(
    jobs: int, feature: Tensor, weights: int, config: TrainedConfig
) -> Iterator[None]:
    """One thread for small problems on a CPU; torch's own choice for the rest."""
    step = jobs * config.batch_size * (feature[0].numel() + weights)
    before = torch.get_num_threads()
    if feature.device.type == "cpu" and step < _THREADED_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _programs(
    folds: Sequence[Fold], config: TrainedConfig, feature: Tensor, weights: int
) -> Iterator[list[Job]]:
    """Jobs that can run as one program: the same number of steps per epoch (a job that waited for
    others would decay its weights meanwhile), and small enough together.
    """
    by_steps: dict[int, list[Job]] = {}
    for seed in range(config.seeds):
        for f, fold in enumerate(folds):
            job = Job(f, seed, fold.train, fold.valid)
            by_steps.setdefault(-(-len(fold.train) // config.batch_size), []).append(job)
    row = math.prod(feature.shape[1:])
    for jobs in by_steps.values():
        widest = max(len(j.valid) for j in jobs)
        cost = 4 * (row * (widest + 3 * config.batch_size) + 6 * weights)
        at_once = max(1, MEMORY_BYTES // cost)
        for i in range(0, len(jobs), at_once):
            yield jobs[i : i + at_once]


class PooledProbe(Probe[npt.NDArray[Any]]):
    """A probe on [N, D] or [N, L, D] whose jobs are trained together as a `JobBatch`."""

    config: Any
    batch: type[JobBatch]

    def measure(
        self,
        feature: npt.NDArray[Any],
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        *,
        multi_label: bool,
        device: torch.device | str = "cpu",
        advance: Callable[[int], None] = lambda epochs: None,
    ) -> ProbeResult:
        """See `Probe.measure`: cross-entropy, or binary cross-entropy where `multi_label`; folds
        choose the epoch.
        """
        config, classes = self.config, label_NC.shape[1]
        x = torch.from_numpy(np.array(feature, dtype=np.float32)).to(device)
        hot = torch.from_numpy(np.asarray(label_NC)).to(device)
        target = hot.float() if multi_label else hot.float().argmax(1)
        result = ProbeResult.empty(label_NC, folds, config.seeds, multi_label=multi_label)
        result.epoch_SF = np.full((config.seeds, len(folds)), config.epochs, dtype=np.int64)
        weights = []
        size = self.batch.weights(x.shape[-1], classes, config)
        for jobs in _programs(folds, config, x, size):
            probes = self.batch(jobs, x, classes, config)
            with _fitting_threads(len(jobs), x, size, config):
                selection = _fit(probes, target, advance)
            tests = [folds[job.fold].test for job in jobs]
            for j, (job, score_TC) in enumerate(zip(jobs, probes.scores(tests), strict=True)):
                fold = folds[job.fold]
                result.record(job.seed, job.fold, fold, score_TC, hot[fold.test])
                if selection is not None:
                    result.valid_SF[job.seed, job.fold] = float(selection.score_J[j])
                    result.epoch_SF[job.seed, job.fold] = int(selection.epoch_J[j])
            if (mix_JL := getattr(probes, "mix_JL", None)) is not None:
                weights.append(mix_JL.detach().softmax(1).double().cpu())
        if weights:
            result.layer_weights = torch.cat(weights).mean(0).tolist()
        return result
