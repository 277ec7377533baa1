"""The figures of `<run>/evaluation/<dataset>.json` as the model card wants them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.trainer.evaluation.tables import POOLING_NAMES
from dawnchorus.trainer.hub.reading import load_json

BASELINES = ("log-mel", "random-init")
# Where a figure is in a row, what people call it, its metric id on the Hub.
_FIGURES = (
    (("retrieval", "roc_auc"), "Retrieval ROC-AUC", "roc_auc"),
    (
        ("retrieval", "same_group_excluded", "roc_auc"),
        "Retrieval ROC-AUC, other recordings only",
        "roc_auc",
    ),
    (("clustering", "nmi"), "Clustering NMI", "nmi"),
    (("clustering", "ari"), "Clustering ARI", "ari"),
)
_PROBE = {"accuracy": ("accuracy", "accuracy"), "map": ("macro mAP", "mean_average_precision")}


@dataclass(frozen=True)
class Measurement:
    """One figure of one dataset."""

    dataset: str
    what: str
    """As people call it, "Linear probe, accuracy"."""
    metric: str
    """Id for the card's header."""
    value: float
    spread: float | None
    """Standard deviation over seeds (and folds), where it was measured."""
    baselines: dict[str, float]
    """The same figure of the log-mel statistics and of the untrained encoder."""

    @property
    def text(self) -> str:
        """Value and spread with three decimals."""
        return _text(self.value) + (f" ± {self.spread:.3f}" if self.spread is not None else "")

    def baseline(self, name: str) -> str:
        """A baseline with three decimals, or a dash."""
        return _text(self.baselines[name]) if name in self.baselines else "–"


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation file says about the model."""

    dataset: str
    measurements: tuple[Measurement, ...]
    pooling: str = ""
    """What an embedding is of a clip's tokens over time, in words; empty where it is not told."""
    warnings: tuple[str, ...] = ()
    """For example: tested recordings that the model was trained on."""


def read_evaluations(
    run: Path, digest: str, step: int | None
) -> tuple[list[Evaluation], list[str]]:
    """The evaluations of a run that measured these very weights, one per dataset, by file name.

    Args:
        run: the run folder.
        digest: of the weights, as evaluation writes it (`weights_digest`).
        step: of the weights; used where a file has no digest.

    Returns:
        The evaluations, and a sentence for each file that measured other weights.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found: dict[str, Evaluation] = {}
    others = []
    for path in sorted((run / "evaluation").glob("*.json")):
        content = load_json(path)
        model = content.get("model")
        model = model if isinstance(model, Mapping) else {}
        if (model.get("digest") or digest, model.get("step", step)) != (digest, step):
            others.append(f"{path} measured other weights (step {model.get('step')})")
            continue
        evaluation = _evaluation(path, content)
        if evaluation.measurements:
            found.setdefault(evaluation.dataset, evaluation)
    return list(found.values()), others


def _evaluation(path: Path, content: Mapping[str, Any]) -> Evaluation:
    dataset = str(content.get("dataset") or path.stem)
    metric = str(content.get("metric") or "accuracy")
    rows = [row for row in content.get("rows") or () if isinstance(row, Mapping)]
    figures = [(str(row.get("name") or "model"), _row(row, metric)) for row in rows]
    baselines = {name: row for name, row in figures if name in BASELINES}
    own = [(name, row) for name, row in figures if name not in BASELINES]
    found: list[Measurement] = []
    for name, row in own:
        prefix = "" if len(own) == 1 else f"{name}: "
        found += [
            Measurement(
                dataset=dataset,
                what=prefix + what,
                metric=metric_id,
                value=value,
                spread=spread,
                baselines={
                    base: table[what, metric_id][0]
                    for base, table in baselines.items()
                    if (what, metric_id) in table
                },
            )
            for (what, metric_id), (value, spread) in row.items()
        ]
    protocol = content.get("protocol")
    pooling = protocol.get("pooling") if isinstance(protocol, Mapping) else None
    return Evaluation(
        dataset=dataset,
        measurements=tuple(found),
        pooling=POOLING_NAMES.get(str(pooling), ""),
        warnings=tuple(map(str, content.get("warnings") or ())),
    )


def _row(row: Mapping[str, Any], metric: str) -> dict[tuple[str, str], tuple[float, float | None]]:
    """(what, metric) -> (value, spread) of one row."""
    figures: dict[tuple[str, str], tuple[float, float | None]] = {}
    probe = row.get("probe")
    if isinstance(probe, Mapping) and (figure := _figure(probe)) is not None:
        name = str(probe.get("metric", metric))
        title, metric_id = _PROBE.get(name.lower(), (name, name))
        figures[f"Linear probe, {title}", metric_id] = figure
    for keys, title, metric_id in _FIGURES:
        part: Any = row
        for key in keys:
            part = part.get(key) if isinstance(part, Mapping) else None
        if (figure := _figure(part)) is not None:
            figures[title, metric_id] = figure
    return figures


def _figure(raw: Any) -> tuple[float, float | None] | None:
    """A bare number, or {"mean", "std"}."""
    value, spread = (raw.get("mean"), raw.get("std")) if isinstance(raw, Mapping) else (raw, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value), float(spread) if isinstance(spread, int | float) else None


def _text(value: float) -> str:
    return f"{value:.3f}"
