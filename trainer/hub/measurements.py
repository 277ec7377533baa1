"""The figures of `<run>/evaluation/<dataset>.json` as the model card wants them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.hub.reading import load_json

BASELINES = ("log-mel", "random-init")
# Where a figure is in a row, what people call it, its metric id on the Hub.
_FIGURES = (
    ("retrieval", "roc_auc", "Retrieval ROC-AUC", "roc_auc"),
    ("clustering", "nmi", "Clustering NMI", "nmi"),
    ("clustering", "ari", "Clustering ARI", "ari"),
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


def read_measurements(run: Path) -> list[Measurement]:
    """All figures of a run, dataset by dataset.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found: list[Measurement] = []
    for path in sorted((run / "evaluation").glob("*.json")):
        content = load_json(path)
        dataset = str(content.get("dataset") or path.stem)
        rows = [row for row in content.get("rows") or () if isinstance(row, Mapping)]
        figures = [(str(row.get("name") or "model"), _row(row)) for row in rows]
        baselines = {name: row for name, row in figures if name in BASELINES}
        own = [(name, row) for name, row in figures if name not in BASELINES]
        for name, row in own:
            prefix = "" if len(own) == 1 else f"{name}: "
            found += [
                Measurement(
                    dataset=dataset,
                    what=prefix + what,
                    metric=metric,
                    value=value,
                    spread=spread,
                    baselines={
                        base: table[what, metric][0]
                        for base, table in baselines.items()
                        if (what, metric) in table
                    },
                )
                for (what, metric), (value, spread) in row.items()
            ]
    return found


def _row(row: Mapping[str, Any]) -> dict[tuple[str, str], tuple[float, float | None]]:
    """(what, metric) -> (value, spread) of one row."""
    figures: dict[tuple[str, str], tuple[float, float | None]] = {}
    probe = row.get("probe")
    if isinstance(probe, Mapping) and (figure := _figure(probe)) is not None:
        name = str(probe.get("metric", "accuracy"))
        title, metric = _PROBE.get(name.lower(), (name, name))
        figures[f"Linear probe, {title}", metric] = figure
    for section, key, title, metric in _FIGURES:
        part = row.get(section)
        if isinstance(part, Mapping) and (figure := _figure(part.get(key))) is not None:
            figures[title, metric] = figure
    return figures


def _figure(raw: Any) -> tuple[float, float | None] | None:
    """A bare number, or {"mean", "std"}."""
    value, spread = (raw.get("mean"), raw.get("std")) if isinstance(raw, Mapping) else (raw, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value), float(spread) if isinstance(spread, int | float) else None


def _text(value: float) -> str:
    return f"{value:.3f}"
