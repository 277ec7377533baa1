"""Reads the figures of `<run>/evaluation/<dataset>.json` for the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dawnchorus.trainer.errors import CheckpointError, DataError
from dawnchorus.trainer.evaluation.results import BASELINES, MEASURES, Figure, Result, ResultRow

_PROBE = {"accuracy": ("accuracy", "accuracy"), "map": ("macro mAP", "mean_average_precision")}
_GROUPS = "Retrieval ROC-AUC, other recordings only"
# The card leaves out retrieval across sets and P@1; the result file has them.
_SHOWN = {m.key: m for m in MEASURES if m.key not in ("roc_auc_across", "p_at_1")}


@dataclass(frozen=True)
class Measurement:
    """One figure of one dataset."""

    dataset: str
    what: str
    """Name for people, e.g. "Linear probe, accuracy"."""
    metric: str
    """Id for the card's header."""
    value: float
    spread: float | None
    """Standard deviation over seeds (and folds), where it was measured."""
    baselines: dict[str, float]
    """The same measurement of the log-mel statistics and of the untrained encoder."""

    @property
    def text(self) -> str:
        """Value and spread with three decimals."""
        return f"{self.value:.3f}" + (f" ± {self.spread:.3f}" if self.spread is not None else "")

    def baseline(self, name: str) -> str:
        """A baseline with three decimals, or a dash."""
        return f"{self.baselines[name]:.3f}" if name in self.baselines else "–"


@dataclass(frozen=True)
class Evaluation:
    """The content of one evaluation file about the model."""

    dataset: str
    measurements: tuple[Measurement, ...]
    pooling: str = ""
    """How a clip's tokens are pooled over time to an embedding, in words; empty if unknown."""
    warnings: tuple[str, ...] = ()
    """For example: tested recordings that the model was trained on."""


def read_evaluations(
    run: Path, digest: str, step: int | None
) -> tuple[list[Evaluation], list[str]]:
    """Return the evaluations that measured exactly these weights: one per dataset, by file name.

    Args:
        run: the run folder.
        digest: digest of the weights, as evaluation writes it (`weights_digest`).
        step: step of the weights; a file without a digest is compared by it.

    Returns:
        The evaluations, and a sentence for each file that measured other weights.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found: dict[str, Evaluation] = {}
    others = []
    for path in sorted((run / "evaluation").glob("*.json")):
        try:
            result = Result.read(path)
        except DataError as error:
            raise CheckpointError(f"{path.parent}/{error}") from None
        measured_step = step if result.step is None else result.step
        if (result.digest or digest, measured_step) != (digest, step):
            others.append(f"{path} measured other weights (step {result.step})")
            continue
        if measurements := _measurements(result):
            evaluation = Evaluation(
                result.dataset, measurements, pooling=result.pooling, warnings=result.warnings
            )
            found.setdefault(result.dataset, evaluation)
    return list(found.values()), others


def _measurements(result: Result) -> tuple[Measurement, ...]:
    """One per figure of each row that is no baseline, with the baselines' figures beside it."""
    probe = result.probe
    baselines = {row.name: _figures(row, probe) for row in result.rows if row.name in BASELINES}
    own = [row for row in result.rows if row.name not in BASELINES]
    return tuple(
        Measurement(
            dataset=result.dataset,
            what=("" if len(own) == 1 else f"{row.name}: ") + what,
            metric=metric,
            value=figure.mean,
            spread=figure.std,
            baselines={
                name: figures[what, metric].mean
                for name, figures in baselines.items()
                if (what, metric) in figures
            },
        )
        for row in own
        for (what, metric), figure in _figures(row, probe).items()
    )


def _figures(row: ResultRow, probe: str) -> dict[tuple[str, str], Figure]:
    """Return (name for people, id on the Hub) -> figure. `probe`: the probe as people name it."""
    found = {}
    for key, measure in _SHOWN.items():
        if key not in row.figures:
            continue
        what, metric = measure.title, measure.metric
        if key == "probe":
            said, metric = _PROBE.get(row.metric, (row.metric, row.metric))
            what = f"{probe}, {said}"
        found[_GROUPS if key == "roc_auc_groups" else what, metric] = row.figures[key]
    return found
