"""Results of several models side by side: baselines once, then the models; for page and screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dawnchorus.trainer.evaluation.results import (
    BASELINES,
    MEASURES,
    METRIC_NAMES,
    Figure,
    Measure,
    Result,
    ResultRow,
)

# P@1 and ARI stand in the result and on the terminal; here they would only crowd the table.
COLUMNS = tuple(m for m in MEASURES if m.key not in ("p_at_1", "ari"))


@dataclass
class Row:
    """One thing that was measured."""

    title: str
    detail: str
    run: str
    """The name of the run whose evaluation measured it."""
    figures: dict[str, Figure]
    baseline: bool = False
    best: set[str] = field(default_factory=set)
    """Keys of the measures in which no other row is better, as printed."""
    seen: tuple[int, int] = (0, 0)
    """(tested recordings that it was trained on with their labels, tested recordings)."""


@dataclass
class Comparison:
    """All rows measured on one dataset in one way."""

    dataset: str
    facts: str
    metric: str = ""
    """What the probe column holds: accuracy, macro mAP."""
    rows: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    """One row per layer, where all were measured."""
    columns: list[Measure] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(run, what a reader must know)."""
    wins: str = ""
    """A sentence where log-mel is ahead of all models, with the measures."""

    def baseline(self, name: str = "log-mel") -> Row | None:
        """Return the row of a baseline."""
        return next((r for r in self.rows if r.baseline and r.title.startswith(name)), None)


def side_by_side(results: Iterable[tuple[str, str, Result]]) -> list[Comparison]:
    """Make one comparison per dataset and protocol, in order of first mention.

    In it baselines come first, then the models in order. What was measured on other clips or
    splits never shares one.

    Args:
        results: (what the model is called, name of its run or "", evaluation).
    """
    found: dict[tuple[str, str], Comparison] = {}
    for title, run, result in results:
        table = found.setdefault(
            (result.dataset, result.comparable), Comparison(result.dataset, _facts(result))
        )
        for measured in result.rows:
            row = _row(measured, result, title, run)
            # Every run measures the baselines again: they are shown once unless they differ, as
            # untrained encoders of another architecture do.
            same = [r for r in table.rows if row.baseline and r.title == row.title]
            row.detail = f"measured with {run or title}" if same else row.detail
            if all(r.figures != row.figures for r in same):
                table.rows.append(row)
            if "probe" in measured.figures:
                metric = METRIC_NAMES.get(measured.metric, measured.metric)
                table.metric = table.metric or metric
        for r in result.layers:
            name = f"layer {'?' if r.layer is None else r.layer}"
            table.layers.append(Row(name, run, run, r.figures))
        table.warnings += [(run, text) for text in result.warnings]
    complete = [table for table in found.values() if table.rows]
    for table in complete:
        _finish(table)
    return complete


def _row(measured: ResultRow, result: Result, title: str, run: str) -> Row:
    name = measured.name
    if name.lower().replace("_", "-").startswith(BASELINES):
        return Row(name.replace("_", "-"), "", run, measured.figures, baseline=True)
    if not name.startswith("model"):
        return Row(name, run, run, measured.figures)
    # "model (best)" is the encoder as one of the run's checkpoints has it.
    which = name.removeprefix("model").strip(" ,()")
    layer = "" if measured.layer in (None, "", -1, "last") else f"layer {measured.layer}"
    at = f"step {result.step:,}" if result.step is not None else ""
    detail = ", ".join(filter(None, (run, which or layer, at)))
    return Row(title, detail, run, measured.figures, seen=result.seen)


def _facts(result: Result) -> str:
    """Clips, classes, groups, folds and seeds, as far as the file tells."""
    singles = {"clips": "clip", "classes": "class", "groups": "group", "folds": "fold",
               "seeds": "seed"}  # fmt: skip
    counts = [(result.counts.get(word), word) for word in singles]
    known = [f"{n:,} {word if n > 1 else singles[word]}" for n, word in counts if n]
    if result.pooling:
        known.append(f"{result.pooling} over time in every row")
    tested = result.counts.get("tested_clips")
    if tested and tested != result.counts.get("clips"):
        known.append(f"{tested:,} clips tested")
    return ", ".join(known)


def _finish(table: Comparison) -> None:
    def place(row: Row) -> int:
        names = (i for i, name in enumerate(BASELINES) if row.title.startswith(name))
        return next(names, len(BASELINES)) if row.baseline else len(BASELINES)

    table.rows.sort(key=place)
    table.columns = [c for c in COLUMNS if any(c.key in r.figures for r in table.rows)]
    if base := table.baseline():
        models = [_said(r.figures, table.metric) for r in table.rows if not r.baseline]
        table.wins = _log_mel_ahead(_said(base.figures, table.metric), models)
    for key in (column.key for column in table.columns):
        measured = [row for row in table.rows if key in row.figures]
        best = max(row.figures[key].text for row in measured)
        for row in measured:
            row.best |= {key} if row.figures[key].text == best else set()


def _log_mel_ahead(baseline: Mapping[str, float], models: Sequence[Mapping[str, float]]) -> str:
    """Return a sentence that names the measures in which no model reaches log-mel; "" if none.

    Figures are compared as they are printed, with three decimals.

    Args:
        baseline: the figures of log-mel, by the name of the measure.
        models: the figures of each model, by the name of the measure.
    """
    ahead = []
    for what, value in baseline.items():
        theirs = [model[what] for model in models if what in model]
        if theirs and round(value, 3) > round(max(theirs), 3):
            ahead.append(f"{what} ({value:.3f} against {max(theirs):.3f})")
    if not ahead:
        return ""
    who = "the model" if len(models) == 1 else "every model"
    *first, last = ahead
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"Log-mel, which has learned nothing, is ahead of {who} in {listed}."


def _said(figures: Mapping[str, Figure], metric: str) -> dict[str, float]:
    """Return the figures of a row by the names that a sentence has for them."""
    return {c.said(metric): figures[c.key].mean for c in COLUMNS if c.key in figures}
