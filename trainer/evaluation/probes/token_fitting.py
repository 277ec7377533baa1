"""Trains a probe that reads tokens: one fold and seed after the other, a few clips at a time.

Memory grows with the clips that are read at once, not with their number: a step's clips go through
the probe in portions, whose gradients add up to that of the step.

Shape legend: B clips, L layers, T tokens, D channels, C classes, S seeds, F folds.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.evaluation.probes.base import Probe, ProbeResult
from dawnchorus.trainer.evaluation.probes.fitting import Job, job_seed, rates
from dawnchorus.trainer.evaluation.probes.trained_config import TokenProbeConfig
from dawnchorus.trainer.evaluation.scores import class_scores
from dawnchorus.trainer.evaluation.splits import Fold
from dawnchorus.trainer.evaluation.tokens import TokenShape, TokenSource
from dawnchorus.trainer.objectives.multilabel import asymmetric_terms

IntArray = npt.NDArray[np.int64]
PORTION_BYTES = 2**27
"""Size in float32 of the tokens that go through a probe at once. A probe needs a few times that."""


@dataclass(frozen=True)
class _Scale:
    """What is taken off each channel, and what it is multiplied by, [L, 1, D]."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, source: TokenSource, rows: IntArray) -> _Scale:
        """Of the valid tokens of some clips; one pass over them."""
        shape = source.shape
        count = 0
        total = torch.zeros(2, shape.layers, shape.dim, dtype=torch.float64)
        for part in portions(shape, rows):
            tok_BLTD, valid_BT = source.read(part)
            tokens_LMD = tok_BLTD.transpose(1, 2)[valid_BT].transpose(0, 1).double()
            total += torch.stack([tokens_LMD.sum(1), tokens_LMD.square().sum(1)])
            count += int(valid_BT.sum())
        mean_LD, square_LD = total / max(count, 1)
        std_LD = (square_LD - mean_LD.square()).clamp(min=0).sqrt()
        # A constant channel tells nothing: leave it centred instead of dividing by zero.
        varies_LD = std_LD > 1e-5 * mean_LD.abs().clamp(min=1e-6)
        factor_LD = torch.where(varies_LD, 1 / std_LD, 1.0)
        return cls(mean_LD.float().unsqueeze(1), factor_LD.float().unsqueeze(1))


@dataclass
class _Feed:
    """The tokens of clips on the device, in float32."""

    source: TokenSource
    scale: _Scale | None
    device: torch.device | str

    def __call__(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        tok_BLTD, valid_BT = self.source.read(rows)
        tokens, valid = tok_BLTD.to(self.device).float(), valid_BT.to(self.device)
        if self.scale is not None:
            tokens.sub_(self.scale.mean.to(self.device)).mul_(self.scale.factor.to(self.device))
            # What is zero because it is padding stays zero.
            tokens.masked_fill_(~valid[:, None, :, None], 0.0)
        return tokens, valid


def portions(shape: TokenShape, rows: IntArray) -> Iterator[IntArray]:
    """Clip numbers, so many at a time as `PORTION_BYTES` allows."""
    at_once = max(1, PORTION_BYTES // (4 * shape.clip_values))
    for start in range(0, len(rows), at_once):
        yield rows[start : start + at_once]


class TokenProbe(Probe[TokenSource]):
    """A probe that is a module on tokens."""

    config: TokenProbeConfig

    @abstractmethod
    def build(self, shape: TokenShape, classes: int) -> nn.Module:
        """The module, with its initial weights from torch's generator.

        It maps tok_BLTD, float32, and valid_BT, bool, to logits [B, C]. Where padding stands there
        are zeros. A module with a `mix_L` has learned weights of the layers.
        """

    def measure(
        self,
        feature: TokenSource,
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        *,
        multi_label: bool,
        device: torch.device | str = "cpu",
        advance: Callable[[int], None] = lambda parts: None,
    ) -> ProbeResult:
        """See `Probe.measure`; folds choose the epoch."""
        config, source = self.config, feature
        hot_NC = torch.from_numpy(np.asarray(label_NC)).to(device)
        result = ProbeResult.empty(label_NC, folds, config.seeds, multi_label=multi_label)
        result.epoch_SF = np.zeros((config.seeds, len(folds)), dtype=np.int64)
        weights = []
        for f, fold in enumerate(folds):
            scale = _Scale.of(source, fold.train) if config.standardise else None
            feed = _Feed(source, scale, device)
            for seed in range(config.seeds):
                fit = _Fit(self, feed, hot_NC, Job(f, seed, fold.train, fold.valid), multi_label)
                fit.run(advance)
                result.epoch_SF[seed, f] = fit.best_epoch
                if len(fold.valid):
                    result.valid_SF[seed, f] = fit.best[0]
                result.record(seed, f, fold, fit.scores(fold.test), hot_NC[fold.test])
                if (mix_L := getattr(fit.module, "mix_L", None)) is not None:
                    weights.append(mix_L.detach().softmax(0).double().cpu())
        if weights:
            result.layer_weights = torch.stack(weights).mean(0).tolist()
        return result


class _Fit:
    """One fold and seed."""

    def __init__(
        self, probe: TokenProbe, feed: _Feed, hot_NC: Tensor, job: Job, multi_label: bool
    ) -> None:
        self.config, self.feed, self.hot_NC, self.job = probe.config, feed, hot_NC, job
        self.multi_label, self.shape = multi_label, feed.source.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job_seed(job))
            self.module = probe.build(self.shape, hot_NC.shape[1]).to(feed.device)
        self.best = (-torch.inf, -torch.inf)
        """Score and negative loss of the best epoch on the validation part."""
        self.best_epoch = 0

    def run(self, advance: Callable[[int], None]) -> None:
        """Train; leaves the chosen weights in place."""
        # Dropout draws from torch's generators: they are as they were when this is done.
        cuda = torch.device(self.feed.device).type == "cuda"
        with torch.random.fork_rng(devices=[self.feed.device] if cuda else []):
            torch.manual_seed(job_seed(self.job) + 1)
            self._run(advance)

    def _run(self, advance: Callable[[int], None]) -> None:
        config, train = self.config, self.job.train
        generator = torch.Generator().manual_seed(job_seed(self.job))
        optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=config.learning_rate, betas=config.betas,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        steps = -(-len(train) // config.batch_size)
        rate, epochs = rates(config, steps), config.total_steps(steps) // steps
        kept, told = None, 0
        for epoch in range(epochs):
            self.module.train()
            order = train[torch.randperm(len(train), generator=generator).numpy()]
            for step in range(steps):
                optimiser.param_groups[0]["lr"] = rate(epoch * steps + step)
                optimiser.zero_grad(set_to_none=True)
                self._add_gradients(order[step * config.batch_size :][: config.batch_size])
                if config.clip:
                    nn.utils.clip_grad_norm_(self.module.parameters(), config.clip)
                optimiser.step()
            if len(self.job.valid) == 0:
                self.best_epoch = epoch + 1
            elif (now := self._look()) > self.best:
                self.best, self.best_epoch = now, epoch + 1
                kept = copy.deepcopy(self.module.state_dict())
            advance(100 * (epoch + 1) // epochs - told)
            told = 100 * (epoch + 1) // epochs
        if kept is not None:
            self.module.load_state_dict(kept)
        self.module.eval()

    def _add_gradients(self, rows: IntArray) -> None:
        for part in portions(self.shape, rows):
            loss_B = self._loss(self.module(*self.feed(part)), self.hot_NC[part])
            torch.autograd.backward(loss_B.sum() / len(rows))

    def _loss(self, logit_BC: Tensor, hot_BC: Tensor) -> Tensor:
        """Loss of each clip."""
        if self.config.loss == "asymmetric":
            return asymmetric_terms(logit_BC, hot_BC).mean(1)
        if self.multi_label:
            term_BC = F.binary_cross_entropy_with_logits(logit_BC, hot_BC.float(), reduction="none")
            return term_BC.mean(1)
        return F.cross_entropy(logit_BC, hot_BC.int().argmax(1), reduction="none")

    def _look(self) -> tuple[float, float]:
        """Score and negative loss on the validation part; the greater, the better."""
        score_NC, hot_NC = self.scores(self.job.valid), self.hot_NC[self.job.valid]
        loss = float(self._loss(score_NC, hot_NC).mean())
        if self.multi_label:
            return float(class_scores(score_NC, hot_NC)[0].nanmean().nan_to_num(0.0)), -loss
        hit_N = score_NC.argmax(1) == hot_NC.int().argmax(1)
        return float(hit_N.double().mean()), -loss

    @torch.no_grad()
    def scores(self, rows: IntArray) -> Tensor:
        """Logits [N, C] of some clips."""
        self.module.eval()
        return torch.cat([self.module(*self.feed(part)) for part in portions(self.shape, rows)])


def place_tokens(tok_BTD: Tensor, valid_BT: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """The tokens that stand for a place in the sound, without those in front.

    A clip without any keeps its first one, so that there is something to attend to.
    """
    tok_BTD, valid_BT = tok_BTD[:, prefix:], valid_BT[:, prefix:].clone()
    valid_BT[:, 0] |= ~valid_BT.any(1)
    return tok_BTD, valid_BT
