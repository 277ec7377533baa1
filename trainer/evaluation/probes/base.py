"""What every probe is: it learns from frozen features, and is scored on clips it has not seen.

Shape legend: N clips, L layers, D channels, C classes, S seeds, F folds.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.clustering import spread
from dawnchorus.trainer.evaluation.retrieval import group_bootstrap, group_weights
from dawnchorus.trainer.evaluation.scores import map_under_weights, multi_label_measures

if TYPE_CHECKING:
    from dawnchorus.trainer.evaluation.probes.base_config import ProbeConfig
    from dawnchorus.trainer.evaluation.splits import Fold


Feature = TypeVar("Feature")

KEPT_SCORES = 20_000_000
"""The scores of the test clips are kept for intervals up to so many numbers."""


@dataclass
class ProbeResult:
    """Scores of the probes, by seed and fold."""

    metric: str
    """`accuracy` or `map`."""
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    test_SF: npt.NDArray[np.float64]
    """Score on the test part."""
    valid_SF: npt.NDArray[np.float64]
    """The validation score by which a choice was made (an epoch, a penalty); NaN where there was no
    validation part."""
    clips_F: tuple[int, ...]
    """Test clips per fold."""
    classes_F: tuple[int, ...]
    """Classes with a positive in the test part, the ones a macro mean is over."""
    hit_SN: npt.NDArray[np.float64] | None = None
    """Whether each seed's probe was right on each clip, NaN where it was not tested; None where the
    metric is no mean over clips."""
    measures_SF: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """The metric and others by name, of clips with any number of labels: see
    `scores.multi_label_measures`."""
    score_SNC: npt.NDArray[np.float32] | None = None
    """Scores of the test clips, where the metric is no mean over clips and they are not too many
    to keep."""
    epoch_SF: npt.NDArray[np.int64] | None = None
    """The epoch that was chosen, from 1; None for a probe without epochs."""
    layer_weights: list[float] | None = None
    """Of the learned layer mix: mean over the jobs of the softmax weights."""
    penalty_F: list[float] | None = None
    """The penalty that was chosen in each fold, of a probe that chooses one."""

    @classmethod
    def empty(
        cls,
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        seeds: int,
        *,
        multi_label: bool,
    ) -> ProbeResult:
        """A result that `record` fills, for so many seeds."""
        shape, (clips, classes) = (seeds, len(folds)), label_NC.shape
        keeps = multi_label and seeds * label_NC.size <= KEPT_SCORES
        return cls(
            metric="map" if multi_label else "accuracy",
            seeds=tuple(range(seeds)),
            folds=tuple(fold.name for fold in folds),
            test_SF=np.full(shape, np.nan),
            valid_SF=np.full(shape, np.nan),
            clips_F=tuple(len(fold.test) for fold in folds),
            classes_F=tuple(int(label_NC[fold.test].any(0).sum()) for fold in folds),
            hit_SN=None if multi_label else np.full((seeds, clips), np.nan),
            score_SNC=np.zeros((seeds, clips, classes), np.float32) if keeps else None,
        )

    def record(self, seed: int, number: int, fold: Fold, score_NC: Tensor, hot_NC: Tensor) -> None:
        """Score what a probe said of the test part of fold `number`.

        Args:
            seed: of the probe.
            number: of the fold.
            fold: the fold.
            score_NC: scores of its test clips.
            hot_NC: their labels, bool.
        """
        score_NC, at = score_NC.detach(), (seed, number)
        if self.hit_SN is not None:
            hit_N = score_NC.argmax(1) == hot_NC.int().argmax(1)
            self.hit_SN[seed, fold.test] = hit_N.double().cpu().numpy()
            self.test_SF[at] = float(hit_N.double().mean())
            return
        for name, value in multi_label_measures(score_NC, hot_NC).items():
            blank = np.full(self.test_SF.shape, np.nan)
            self.measures_SF.setdefault(name, blank)[at] = value
        self.test_SF[at] = self.measures_SF["map"][at]
        if self.score_SNC is not None:
            self.score_SNC[seed, fold.test] = score_NC.float().cpu().numpy()

    @property
    def noise_floor(self) -> float | None:
        """How far two seeds are apart on the same features: the mean difference of their scores
        over all pairs of seeds. None for a probe without seeds.
        """
        by_seed = self.test_SF.mean(1)
        pairs = [abs(a - b) for a, b in itertools.combinations(by_seed.tolist(), 2)]
        return float(np.mean(pairs)) if pairs else None

    def interval(
        self,
        label_NC: npt.NDArray[np.bool_],
        group_N: npt.NDArray[np.int64],
        folds: Sequence[Fold],
        resamples: int,
    ) -> list[float] | None:
        """95 % interval of the mean over seeds and folds when whole groups of tested clips are
        drawn again. None for fewer than two groups, or where the scores were not kept.
        """
        if self.hit_SN is not None:
            return group_bootstrap(self.hit_SN.mean(0), group_N, resamples)
        if self.score_SNC is None:
            return None
        tested = np.unique(np.concatenate([fold.test for fold in folds]))
        weight_RN = group_weights(group_N, tested, resamples)
        if weight_RN is None:
            return None
        by_draw = torch.zeros(len(weight_RN), dtype=torch.float64)
        for score_NC in torch.from_numpy(self.score_SNC):
            for fold in folds:
                hot_NC = torch.from_numpy(label_NC[fold.test])
                weight = torch.from_numpy(weight_RN[:, fold.test])
                by_draw += map_under_weights(score_NC[fold.test], hot_NC, weight)
        by_draw /= len(self.seeds) * len(folds)
        return [float(q) for q in np.quantile(by_draw.numpy(), [0.025, 0.975])]

    def summary(self) -> dict[str, Any]:
        """Plain numbers: mean over seeds of the mean over folds, and both spreads."""
        by_seed = self.test_SF.mean(1)
        by_fold = self.test_SF.mean(0)
        result: dict[str, Any] = {
            "metric": self.metric,
            **spread(by_seed.tolist()),
            "n": sum(self.clips_F),
            "seeds": list(self.seeds),
            "per_seed": by_seed.tolist(),
            "noise_floor": self.noise_floor,
            "fold_std": spread(by_fold.tolist())["std"],
            "per_fold": dict(zip(self.folds, by_fold.tolist(), strict=True)),
            "test_clips_per_fold": list(self.clips_F),
            "test_classes_per_fold": list(self.classes_F),
            "valid_mean": None if np.isnan(self.valid_SF).any() else float(self.valid_SF.mean()),
        }
        if self.measures_SF:
            result["measures"] = {
                name: spread(value_SF.mean(1).tolist())
                for name, value_SF in self.measures_SF.items()
            }
        if self.epoch_SF is not None:
            result["best_epoch_median"] = float(np.median(self.epoch_SF))
        if self.penalty_F is not None:
            result["penalty_per_fold"] = dict(zip(self.folds, self.penalty_F, strict=True))
        if self.layer_weights is not None:
            result["layer_weights"] = self.layer_weights
        return result


class Probe(ABC, Generic[Feature]):
    """Made from its config; fitted and tested by `measure`."""

    def __init__(self, config: Any) -> None:
        self.config: ProbeConfig = config

    @abstractmethod
    def measure(
        self,
        feature: Feature,
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        *,
        multi_label: bool,
        device: torch.device | str = "cpu",
        advance: Callable[[int], None] = lambda ticks: None,
    ) -> ProbeResult:
        """Fit and test the probe for every fold and seed.

        Args:
            feature: what `config.needs` says; also [N, L, D] where `config.mixes_layers`.
            label_NC: bool, multi-hot; exactly one true per row unless `multi_label`.
            folds: who trains, who decides what is to be chosen, who tests.
            multi_label: score by macro mAP instead of accuracy.
            device: where to compute.
            advance: called with the number of ticks of `config.work` just done.
        """
