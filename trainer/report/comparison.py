"""The evaluation tables: baselines and encoders side by side, and a sentence that sums them up."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from dawnchorus.trainer.evaluation.tables import log_mel_ahead, said_measures
from dawnchorus.trainer.report.reading import Run

# P@1 and ARI stand in the result and on the terminal; here they would only crowd the table.
COLUMNS = tuple(m for m in MEASURES if m.key not in ("p_at_1", "ari"))
# Without an evaluation: what the log has, the first of these that was logged.
_NEWEST = (
    ("Masked-token accuracy {:.1%}", "masked_accuracy", "valid"),
    ("Masked-token accuracy {:.1%}", "masked_accuracy", "train"),
    ("Validation mAP {:.2f}", "map", "valid"),
    ("Validation AUROC {:.2f}", "auroc", "valid"),
    ("Validation top-1 {:.2f}", "top1", "valid"),
    ("Training loss {:.3g}", "loss", "train"),
)


@dataclass
class Row:
    """One thing that was measured."""

    title: str
    detail: str
    run: Run
    figures: dict[str, Figure]
    baseline: bool = False
    best: set[str] = field(default_factory=set)
    seen: tuple[int, int] = (0, 0)
    """(tested recordings that it was trained on with their labels, tested recordings)."""


@dataclass
class Table:
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


def tables(runs: Sequence[Run]) -> list[Table]:
    """Make one table per dataset and protocol, in order of first mention; in it baselines come
    first, then the runs in order. What was measured on other clips or splits never shares a table.
    """
    found: dict[tuple[str, str], Table] = {}
    for run in runs:
        for result in run.evaluations:
            key = result.dataset, result.comparable
            table = found.setdefault(key, Table(result.dataset, _facts(result)))
            for measured in result.rows:
                row = _row(measured, result, run)
                # Every run measures the baselines again: they are shown once unless they differ.
                same = [r for r in table.rows if row.baseline and r.title == row.title]
                row.detail = f"measured with {run.name}" if same else row.detail
                if all(r.figures != row.figures for r in same):
                    table.rows.append(row)
                if "probe" in measured.figures:
                    metric = METRIC_NAMES.get(measured.metric, measured.metric)
                    table.metric = table.metric or metric
            for r in result.layers:
                title = f"layer {'?' if r.layer is None else r.layer}"
                table.layers.append(Row(title, run.name, run, r.figures))
            table.warnings += [(run.name, text) for text in result.warnings]
    complete = [table for table in found.values() if table.rows]
    for table in complete:
        _finish(table)
    return complete


def _row(measured: ResultRow, result: Result, run: Run) -> Row:
    name = measured.name
    if name.lower().replace("_", "-").startswith(BASELINES):
        return Row(name.replace("_", "-"), "", run, measured.figures, baseline=True)
    if not name.startswith("model"):
        return Row(name, run.name, run, measured.figures)
    # "model (best)" is the encoder as one of the run's checkpoints has it.
    which = name.removeprefix("model").strip(" ,()")
    layer = "" if measured.layer in (None, "", -1, "last") else f"layer {measured.layer}"
    at = f"step {result.step:,}" if result.step is not None else ""
    detail = ", ".join(filter(None, (run.name, which or layer, at)))
    return Row(run.adjective, detail, run, measured.figures, seen=result.seen)


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


def _finish(table: Table) -> None:
    def place(row: Row) -> int:
        names = (i for i, name in enumerate(BASELINES) if row.title.startswith(name))
        return next(names, len(BASELINES)) if row.baseline else len(BASELINES)

    table.rows.sort(key=place)
    table.columns = [c for c in COLUMNS if any(c.key in r.figures for r in table.rows)]
    if base := table.baseline():
        models = [said_measures(r.figures, table.metric) for r in table.rows if not r.baseline]
        table.wins = log_mel_ahead(said_measures(base.figures, table.metric), models)
    for key in (column.key for column in table.columns):
        measured = [row for row in table.rows if key in row.figures]
        best = max(row.figures[key].text for row in measured)
        for row in measured:
            row.best |= {key} if row.figures[key].text == best else set()


def verdict(runs: Sequence[Run], compared: Sequence[Table]) -> str:
    """Say how good it is, and against what: of the last run that was evaluated, else from the
    newest log.
    """
    said = [_table_verdict(table, run) for run in reversed(runs) for table in compared]
    said += [_log_verdict(run) for run in reversed(runs)]
    return next(filter(None, said), "No result yet.")


def _table_verdict(table: Table, run: Run) -> str:
    row = next((r for r in table.rows if not r.baseline and r.run is run), None)
    column = next((c for c in table.columns if row and c.key in row.figures), None)
    if row is None or column is None:
        return ""

    def figure(name: str) -> Figure | None:
        """What this column has for a baseline."""
        base = table.baseline(name)
        return base.figures.get(column.key) if base else None

    ours, log_mel, untrained = row.figures[column.key], figure("log-mel"), figure("random-init")
    measure = column.said(table.metric) if column.key == "probe" else column.title
    said = f"{row.title[:1].upper()}{row.title[1:]} {measure} {ours.mean:.2f}"
    if log_mel is None:
        said += f" on {table.dataset}."
    else:
        spread, gap = math.hypot(ours.std or 0.0, log_mel.std or 0.0), ours.mean - log_mel.mean
        relation = "against" if gap > 0 else "below"
        if abs(gap) <= spread or f"{ours.mean:.2f}" == f"{log_mel.mean:.2f}":
            relation = "no clear difference from"
        said += f", {relation} the log-mel baseline's {log_mel.mean:.2f} ({table.dataset})."
    if untrained is not None and ours.mean <= untrained.mean:
        said += f" It does not beat an untrained encoder ({untrained.mean:.2f})."
    if row.seen[0]:
        said += (
            f" But it was trained with the labels of {row.seen[0]} of the {row.seen[1] or '?'} "
            "tested recordings: this measures memory too."
        )
    return said


def _log_verdict(run: Run) -> str:
    for said, name, kind in _NEWEST:
        series = run.log.series(name, kind=kind)
        if series is None or series.last is None:
            continue
        text = f"{said.format(series.last)} at step {int(series.step[-1]):,}"
        base = run.log.series("unigram_accuracy", kind=kind) or run.log.series("unigram_accuracy")
        if name == "masked_accuracy" and base is not None and base.last is not None:
            text += f", against {base.last:.1%} for always naming the most frequent code"
        return f"{text}. No evaluation yet."
    return ""
