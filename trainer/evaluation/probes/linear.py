"""Linear probes on frozen embeddings: all seeds and folds are trained in one tensor program.

A job is one probe: one fold, one seed. Jobs share every tensor operation but no number, so a
job's result does not depend on which jobs it runs beside (up to floating-point rounding).

Shape legend: N clips, L layers, D channels, C classes, J jobs, B clips of a step, V validation
clips, S seeds, F folds.
"""

from __future__ import annotations

import math
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
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.scores import accuracy, macro_average_precision
from dawnchorus.trainer.evaluation.splits import Fold

_MEMORY_BYTES = 2**30
"""Jobs are trained at once as long as their copies of the validation part and their weights
(with gradients, moments, best copy) fit in this."""


@dataclass(frozen=True)
class _Job:
    fold: int
    seed: int
    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]


class _Probes:
    """The weights of J probes, and what they have in common."""

    def __init__(
        self, jobs: Sequence[_Job], feature: Tensor, classes: int, config: LinearConfig, mix: bool
    ) -> None:
        self.jobs, self.feature, self.config, self.mix = jobs, feature, config, mix
        device, dim = feature.device, feature.shape[-1]
        self.draws = [torch.Generator().manual_seed(_job_seed(j)) for j in jobs]
        bound = 1 / math.sqrt(dim)

        def drawn(*shape: int) -> Tensor:
            # The same start as torch.nn.Linear's.
            rows = [torch.rand(shape, generator=g) for g in self.draws]
            return (torch.stack(rows) * 2 - 1).mul(bound).to(device).requires_grad_()

        self.weight_JCD = drawn(classes, dim)
        self.bias_JC1 = drawn(classes, 1)
        self.parameters = [self.weight_JCD, self.bias_JC1]
        if mix:
            self.mix_JL = torch.zeros(len(jobs), feature.shape[1], device=device).requires_grad_()
            self.parameters.append(self.mix_JL)
        self.mean: Tensor | None = None
        self.inverse_scale: Tensor | None = None
        if config.standardise:
            self._standardise()

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
        if self.mix:
            layers = table.shape[1]
            index_JB = index_JB.unsqueeze(1) * layers + torch.arange(
                layers, device=table.device
            ).unsqueeze(1)
            table = table.flatten(0, 1)
        x = table.index_select(0, index_JB.flatten()).view(*index_JB.shape, table.shape[-1])
        if self.mean is not None and self.inverse_scale is not None:
            x.sub_(self.mean).mul_(self.inverse_scale)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """[J, B, C] from what `inputs` gave."""
        if self.mix:
            mix_J1L = self.mix_JL.softmax(1).unsqueeze(1)
            x = torch.bmm(mix_J1L, x.flatten(2)).view(x.shape[0], x.shape[2], x.shape[3])
        # This order of the factors makes the weights' gradient a product of contiguous matrices,
        # five times as fast on a CPU as x @ w.
        logit_JCB = torch.baddbmm(self.bias_JC1, self.weight_JCD, x.transpose(1, 2))
        return logit_JCB.transpose(1, 2)

    def copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    def keep_better(self, best: list[Tensor], better_J: Tensor) -> None:
        for kept, now in zip(best, self.parameters, strict=True):
            kept.copy_(torch.where(better_J.view(-1, *[1] * (now.dim() - 1)), now.detach(), kept))

    @torch.no_grad()
    def restore(self, best: list[Tensor]) -> None:
        for now, kept in zip(self.parameters, best, strict=True):
            now.copy_(kept)


def _job_seed(job: _Job) -> int:
    return int(np.random.SeedSequence([job.seed, job.fold]).generate_state(1)[0])


def _padded(rows: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
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


def _rates(config: LinearConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Learning rate of each step."""
    warm = config.warmup_epochs * steps_per_epoch
    total = config.epochs * steps_per_epoch

    def rate(step: int) -> float:
        if step < warm:
            return config.learning_rate * (step + 1) / warm
        if config.schedule == "constant":
            return config.learning_rate
        turn = math.pi * (step - warm) / max(1, total - warm)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(turn)))

    return rate


def _epoch_orders(probes: _Probes, steps: int) -> tuple[Tensor, Tensor]:
    """Clip numbers [steps, J, B] of one pass in a new random order per job, and real-row masks."""
    rows = [
        job.train[torch.randperm(len(job.train), generator=g).numpy()]
        for job, g in zip(probes.jobs, probes.draws, strict=True)
    ]
    index, real = _padded(rows, probes.feature.device)
    width = steps * probes.config.batch_size
    index = F.pad(index, (0, width - index.shape[1]))
    real = F.pad(real, (0, width - real.shape[1]))
    shape = (len(rows), steps, probes.config.batch_size)
    return index.view(shape).transpose(0, 1), real.view(shape).transpose(0, 1)


class _Selection:
    """Keeps each job's weights of its best validation epoch."""

    def __init__(self, probes: _Probes, target: Tensor) -> None:
        self.probes = probes
        jobs, device = len(probes.jobs), probes.feature.device
        self.best = probes.copy()
        self.score_J = torch.full((jobs,), -torch.inf, device=device)
        self.loss_J = torch.full((jobs,), torch.inf, device=device)
        self.epoch_J = torch.zeros(jobs, dtype=torch.int64, device=device)
        index_JV, self.real_JV = _padded([j.valid for j in probes.jobs], device)
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


def _fit(probes: _Probes, target: Tensor, advance: Callable[[int], None]) -> _Selection | None:
    """Train all jobs; leaves the chosen weights in place."""
    config = probes.config
    steps = -(-len(probes.jobs[0].train) // config.batch_size)
    rate = _rates(config, steps)
    optimiser = torch.optim.AdamW(
        probes.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    selection = _Selection(probes, target) if len(probes.jobs[0].valid) else None
    for epoch in range(config.epochs):
        index_SJB, real_SJB = _epoch_orders(probes, steps)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate(epoch * steps + step)
            logit_JBC = probes.logits(probes.inputs(index_SJB[step]))
            loss_J = _loss(logit_JBC, target[index_SJB[step]], real_SJB[step])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss_J.sum())
            optimiser.step()
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
    jobs: int, feature: Tensor, classes: int, config: LinearConfig
) -> Iterator[None]:
    """One thread for small problems on a CPU; torch's own choice for the rest."""
    step = jobs * config.batch_size * (feature[0].numel() + feature.shape[-1] * classes)
    before = torch.get_num_threads()
    if feature.device.type == "cpu" and step < _THREADED_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _programs(
    folds: Sequence[Fold], config: LinearConfig, feature: Tensor, classes: int
) -> Iterator[list[_Job]]:
    """Jobs that can run as one program: the same number of steps per epoch (a job that waited for
    others would decay its weights meanwhile), and small enough together.
    """
    by_steps: dict[int, list[_Job]] = {}
    for seed in range(config.seeds):
        for f, fold in enumerate(folds):
            job = _Job(f, seed, fold.train, fold.valid)
            by_steps.setdefault(-(-len(fold.train) // config.batch_size), []).append(job)
    row = math.prod(feature.shape[1:])
    for jobs in by_steps.values():
        widest = max(len(j.valid) for j in jobs)
        cost = 4 * (row * (widest + 3 * config.batch_size) + 6 * feature.shape[-1] * classes)
        at_once = max(1, _MEMORY_BYTES // cost)
        for i in range(0, len(jobs), at_once):
            yield jobs[i : i + at_once]


@torch.no_grad()
def _test(
    probes: _Probes, j: int, test: npt.NDArray[np.int64], target: Tensor
) -> tuple[float, npt.NDArray[np.float64] | None]:
    """Score of job `j` on its test part, a few thousand clips at a time; for accuracy also which
    clips it got right.
    """
    parts = []
    index = torch.from_numpy(test).to(probes.feature.device)
    for rows in torch.split(index, 4096):
        x = probes.feature[rows]
        if probes.mean is not None and probes.inverse_scale is not None:
            x = (x - probes.mean[j].squeeze(-2)) * probes.inverse_scale[j].squeeze(-2)
        if probes.mix:
            x = torch.einsum("l,nld->nd", probes.mix_JL[j].softmax(0), x)
        parts.append(torch.addmm(probes.bias_JC1[j].T, x, probes.weight_JCD[j].T))
    logit_1NC = torch.cat(parts)[None]
    real_1N = torch.ones(1, len(test), dtype=torch.bool, device=index.device)
    if target.dim() > 1:
        return float(macro_average_precision(logit_1NC, target[index][None], real_1N)), None
    hits_N = (logit_1NC[0].argmax(-1) == target[index]).double().cpu().numpy()
    return float(accuracy(logit_1NC, target[index][None], real_1N)), hits_N


class Linear(Probe):
    """Of [N, L, D], a probe on a learned softmax-weighted mean of the layers."""

    config: LinearConfig

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
        config = self.config
        x = torch.from_numpy(np.array(feature, dtype=np.float32)).to(device)
        hot = torch.from_numpy(np.asarray(label_NC)).to(device)
        target = hot.float() if multi_label else hot.float().argmax(1)
        mix = x.dim() == 3
        shape = (config.seeds, len(folds))
        epoch_SF = np.full(shape, config.epochs, dtype=np.int64)
        result = ProbeResult(
            metric="map" if multi_label else "accuracy",
            seeds=tuple(range(config.seeds)),
            folds=tuple(f.name for f in folds),
            test_SF=np.full(shape, np.nan),
            valid_SF=np.full(shape, np.nan),
            epoch_SF=epoch_SF,
            clips_F=tuple(len(f.test) for f in folds),
            classes_F=tuple(int(label_NC[f.test].any(0).sum()) for f in folds),
        )
        hit_SN = np.full((config.seeds, len(hot)), np.nan)
        weights = []
        for jobs in _programs(folds, config, x, label_NC.shape[1]):
            probes = _Probes(jobs, x, label_NC.shape[1], config, mix)
            with _fitting_threads(len(jobs), x, label_NC.shape[1], config):
                selection = _fit(probes, target, advance)
            for j, job in enumerate(jobs):
                at = (job.seed, job.fold)
                result.test_SF[at], hits = _test(probes, j, folds[job.fold].test, target)
                if hits is not None:
                    hit_SN[job.seed, folds[job.fold].test] = hits
                if selection is not None:
                    result.valid_SF[at] = float(selection.score_J[j])
                    epoch_SF[at] = int(selection.epoch_J[j])
            if mix:
                weights.append(probes.mix_JL.detach().softmax(1).double().cpu())
        if not multi_label:
            result.hit_N = hit_SN.mean(0)
        if mix:
            result.layer_weights = torch.cat(weights).mean(0).tolist()
        return result
