"""Ridge regression as a probe: the whole path of penalties from one decomposition per fold.

Hastie, Tibshirani, Friedman, The Elements of Statistical Learning (2nd edition), section 3.4.1
(ridge by singular values) and 7.10 (leave-one-out errors of a linear fit: residual / (1 - h_ii)).
The targets are -1 and 1 and the intercept is not penalised, as in scikit-learn's `RidgeClassifier`.

Shape legend: N clips, M training clips, D channels, C classes, K singular values, F folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dawnchorus.trainer.evaluation.probes.base import Probe, ProbeResult
from dawnchorus.trainer.evaluation.probes.ridge_config import RidgeConfig
from dawnchorus.trainer.evaluation.scores import accuracy, macro_average_precision

if TYPE_CHECKING:
    from dawnchorus.trainer.evaluation.splits import Fold


@dataclass(frozen=True)
class _Path:
    """The fits of one training part, for any penalty."""

    mean_D: Tensor
    scale_D: Tensor
    left_MK: Tensor
    singular_K: Tensor
    right_KD: Tensor
    target_MC: Tensor

    @classmethod
    def of(cls, x_MD: Tensor, target_MC: Tensor, *, standardise: bool) -> _Path:
        std_D, mean_D = torch.std_mean(x_MD, dim=0, correction=0)
        # A constant feature tells nothing: leave it centred instead of dividing by zero.
        varies_D = std_D > 1e-6 * mean_D.abs().clamp(min=1e-6)
        wanted_D = varies_D if standardise else torch.zeros_like(varies_D)
        scale_D = torch.where(wanted_D, std_D, 1.0)
        left_MK, singular_K, right_KD = torch.linalg.svd(
            (x_MD - mean_D) / scale_D, full_matrices=False
        )
        return cls(mean_D, scale_D, left_MK, singular_K, right_KD, target_MC)

    def scores(self, x_ND: Tensor, penalty: float) -> Tensor:
        """[N, C]: what the fit with this penalty says of clips."""
        mean_C = self.target_MC.mean(0)
        shrunk_K = self.singular_K / (self.singular_K.square() + penalty)
        weight_DC = self.right_KD.T @ (
            shrunk_K[:, None] * (self.left_MK.T @ (self.target_MC - mean_C))
        )
        return (x_ND - self.mean_D) / self.scale_D @ weight_DC + mean_C

    def left_out_error(self, penalty: float) -> float:
        """Mean squared error on each training clip of the fit without it. The means that centre
        the features are part of the fit, their scales are not.
        """
        mean_C = self.target_MC.mean(0)
        kept_K = self.singular_K.square() / (self.singular_K.square() + penalty)
        fitted_MC = self.left_MK @ (kept_K[:, None] * (self.left_MK.T @ (self.target_MC - mean_C)))
        own_M = self.left_MK.square() @ kept_K + 1 / len(self.left_MK)
        error_MC = (self.target_MC - mean_C - fitted_MC) / (1 - own_M).clamp(min=1e-9)[:, None]
        return float(error_MC.square().mean())


class Ridge(Probe[npt.NDArray[Any]]):
    """One class against the rest on [N, D]; the fold's validation part chooses the penalty."""

    config: RidgeConfig

    def measure(
        self,
        feature: npt.NDArray[Any],
        label_NC: npt.NDArray[np.bool_],
        folds: Sequence[Fold],
        *,
        multi_label: bool,
        device: torch.device | str = "cpu",
        advance: Callable[[int], None] = lambda folds: None,
    ) -> ProbeResult:
        """See `Probe.measure`. Computed in float64.

        Raises:
            ValueError: the features are of several layers.
        """
        if feature.ndim != 2:
            raise ValueError(f"ridge takes features of one layer, [N, D], not {feature.shape}")
        x_ND = torch.from_numpy(np.array(feature, dtype=np.float64)).to(device)
        hot_NC = torch.from_numpy(np.asarray(label_NC)).to(device)
        target_NC = 2 * hot_NC.double() - 1

        result = ProbeResult.empty(label_NC, folds, 1, multi_label=multi_label)
        chosen = []
        for f, fold in enumerate(folds):
            train, valid, test = (
                torch.from_numpy(part).to(device) for part in (fold.train, fold.valid, fold.test)
            )
            path = _Path.of(x_ND[train], target_NC[train], standardise=self.config.standardise)
            merit = {
                penalty: _merit(path.scores(x_ND[valid], penalty), hot_NC[valid], multi_label)
                if len(valid)
                else -path.left_out_error(penalty)
                for penalty in self.config.penalties
            }
            # Of equal ones the largest: the simplest fit.
            best = max(merit, key=lambda penalty: (merit[penalty], penalty))
            chosen.append(best)
            result.record(0, f, fold, path.scores(x_ND[test], best), hot_NC[test])
            if len(valid):
                result.valid_SF[0, f] = merit[best]
            advance(1)
        result.penalty_F = chosen
        return result


def _merit(score_NC: Tensor, hot_NC: Tensor, multi_label: bool) -> float:
    """Average precision over classes, or accuracy, of the scores of some clips."""
    real_1N = torch.ones(1, len(hot_NC), dtype=torch.bool, device=hot_NC.device)
    if multi_label:
        return float(macro_average_precision(score_NC[None], hot_NC[None].double(), real_1N))
    return float(accuracy(score_NC[None], hot_NC.int().argmax(1)[None], real_1N))
