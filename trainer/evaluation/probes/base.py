"""What every probe is: it learns from frozen features, and is scored on clips it has not seen.

Shape legend: N clips, L layers, D channels, C classes, S seeds, F folds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dawnchorus.trainer.evaluation.clustering import spread

if TYPE_CHECKING:
    import torch

    from dawnchorus.trainer.evaluation.probes.base_config import ProbeConfig
    from dawnchorus.trainer.evaluation.splits import Fold


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
    hit_N: npt.NDArray[np.float64] | None = None
    """Share of the seeds whose probe was right on each clip, NaN where it was not tested; None
    where the metric is no mean over clips."""
    epoch_SF: npt.NDArray[np.int64] | None = None
    """The epoch that was chosen, from 1; None for a probe without epochs."""
    layer_weights: list[float] | None = None
    """Of the learned layer mix: mean over the jobs of the softmax weights."""
    penalty_F: list[float] | None = None
    """The penalty that was chosen in each fold, of a probe that chooses one."""

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
            "fold_std": spread(by_fold.tolist())["std"],
            "per_fold": dict(zip(self.folds, by_fold.tolist(), strict=True)),
            "test_clips_per_fold": list(self.clips_F),
            "test_classes_per_fold": list(self.classes_F),
            "valid_mean": None if np.isnan(self.valid_SF).any() else float(self.valid_SF.mean()),
        }
        if self.epoch_SF is not None:
            result["best_epoch_median"] = float(np.median(self.epoch_SF))
        if self.penalty_F is not None:
            result["penalty_per_fold"] = dict(zip(self.folds, self.penalty_F, strict=True))
        if self.layer_weights is not None:
            result["layer_weights"] = self.layer_weights
        return result


class Probe(ABC):
    """Made from its config; fitted and tested by `measure`."""

    def __init__(self, config: Any) -> None:
        self.config: ProbeConfig = config

    @abstractmethod
    def measure(
        self,
        feature: npt.NDArray[Any],
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        *,
        multi_label: bool,
        device: torch.device | str = "cpu",
        advance: Callable[[int], None] = lambda ticks: None,
    ) -> ProbeResult:
        """Fit and test the probe for every fold and seed.

        Args:
            feature: [N, D]; also [N, L, D] where `config.mixes_layers`.
            label_NC: bool, multi-hot; exactly one true per row unless `multi_label`.
            folds: who trains, who decides what is to be chosen, who tests.
            multi_label: score by macro mAP instead of accuracy.
            device: where to compute.
            advance: called with the number of ticks of `config.work` just done.
        """
