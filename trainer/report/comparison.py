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
)  # fmt: skip
from dawnchorus.trainer.evaluation.tables import log_mel_ahead
from dawnchorus.trainer.report.reading import Run

# P@1 and ARI stand in the result and on the terminal; here they would only crowd the table.
COLUMNS = tuple(m for m in MEASURES if m.key not in ("p_at_1", "ari"))


@dataclass
class Row:
    """One thing that was measured."""

    title: str
    detail: str
    baseline: bool
    run: str
    figures: dict[str, Figure]
    best: set[str] = field(default_factory=set)
    seen: tuple[int, int] = (0, 0)
    """(tested recordings that it was trained on with their labels, tested recordings)."""


@dataclass
class Table:
    """All rows measured on one dataset in one way."""

    dataset: str
    metric: str = ""
    """What the probe column holds: accuracy, macro mAP."""
    facts: str = ""
    rows: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    """One row per layer, where all were measured."""
    columns: list[Measure] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(run, what a reader must know)."""
    wins: str = ""
    """A sentence where log-mel is ahead of all models, with the measures."""

    def model(self, run: str) -> Row | None:
        """Return the row of a run's encoder."""
        return next((r for r in self.rows if not r.baseline and r.run == run), None)

    def layer_rows(self) -> list[tuple[str | None, ...]]:
        """The layers as rows of a table."""
        return [
            (row.title, row.detail, *[
                f"{f.text} {f.spread}" if (f := row.figures.get(c.key)) else None
                for c in self.columns
            ])
            for row in self.layers
        ]  # fmt: skip

    def baseline(self, name: str = "log-mel") -> Row | None:
        """Return the row of a baseline."""
        return next((r for r in self.rows if r.baseline and r.title.startswith(name)), None)


def tables(runs: Sequence[Run]) -> list[Table]:
    """Make one table per dataset and protocol, in order of first mention; in it baselines come
    first, then the runs in order. What was measured on other clips or splits never shares a table.
    """
    found: dict[tuple[str, str], Table] = {}
    for run in runs:
        for result in run.evaluations.values():
            table = found.setdefault((result.dataset, result.comparable), Table(result.dataset))
            table.facts = table.facts or _facts(result)
            _add_rows(table, result, run)
            for r in result.layers:
                title = f"layer {'?' if r.layer is None else r.layer}"
                table.layers.append(Row(title, run.name, False, run.name, r.figures))
            table.warnings += [(run.name, text) for text in result.warnings]
    complete = [t for t in found.values() if t.rows]
    for table in complete:
        _finish(table)
    return complete


def _add_rows(table: Table, result: Result, run: Run) -> None:
    for measured in result.rows:
        name, figures = measured.name, measured.figures
        if "probe" in figures:
            table.metric = table.metric or METRIC_NAMES.get(measured.metric, measured.metric)
        if name.lower().replace("_", "-").startswith(BASELINES):
            row = Row(name.replace("_", "-"), "", True, run.name, figures)
            # Every run measures the baselines again: they are shown once unless they differ.
            same = [r for r in table.rows if r.baseline and r.title == row.title]
            if any(r.figures == figures for r in same):
                continue
            row.detail = f"measured with {run.name}" if same else ""
        elif name.startswith("model"):
            # "model (best)" is the encoder as one of the run's checkpoints has it.
            which = name.removeprefix("model").strip(" ,()")
            layer = "" if measured.layer in (None, "", -1, "last") else f"layer {measured.layer}"
            at = f"step {result.step:,}" if result.step is not None else ""
            detail = ", ".join(x for x in (run.name, which or layer, at) if x)
            row = Row(run.adjective, detail, False, run.name, figures, seen=result.seen)
        else:
            row = Row(name, run.name, False, run.name, figures)
        table.rows.append(row)


def _facts(result: Result) -> str:
    """Clips, classes, groups, folds and seeds, as far as the file tells."""
    known = []
    for word in ("clips", "classes", "groups", "folds", "seeds"):
        if count := result.counts.get(word):
            single = word.removesuffix("es" if word == "classes" else "s")
            known.append(f"{count:,} {word if count > 1 else single}")
    if result.pooling:
        known.append(f"{result.pooling} over time in every row")
    tested = result.counts.get("tested_clips")
    if tested and tested != result.counts.get("clips"):
        known.append(f"{tested:,} clips tested")
    return ", ".join(known)


def _finish(table: Table) -> None:
    def place(row: Row) -> int:
        names = [i for i, name in enumerate(BASELINES) if row.title.startswith(name)]
        return names[0] if row.baseline and names else len(BASELINES)

    table.rows.sort(key=place)
    table.columns = [c for c in COLUMNS if any(c.key in r.figures for r in table.rows)]
    if (base := table.baseline()) is not None:
        models = [_named(r, table) for r in table.rows if not r.baseline]
        table.wins = log_mel_ahead(_named(base, table), models)
    for column in table.columns:
        measured = [row for row in table.rows if column.key in row.figures]
        best = Figure(max(row.figures[column.key].mean for row in measured)).text
        for row in measured:
            row.best |= {column.key} if row.figures[column.key].text == best else set()


def _named(row: Row, table: Table) -> dict[str, float]:
    """The figures of a row by the names that a sentence has for them."""
    columns = [c for c in table.columns if c.key in row.figures]
    return {c.said(table.metric): row.figures[c.key].mean for c in columns}


# --------------------------------------------------------------------------- the sentence


def verdict(runs: Sequence[Run], compared: Sequence[Table]) -> str:
    """Say how good it is, and against what: of the last run that was evaluated, else from the
    newest log.
    """
    said = [_table_verdict(table, run) for run in reversed(runs) for table in compared]
    said += [_log_verdict(run) for run in reversed(runs)]
    return next(filter(None, said), "No result yet.")


def _table_verdict(table: Table, run: Run) -> str:
    row, base = table.model(run.name), table.baseline()
    column = next((c for c in table.columns if row is not None and c.key in row.figures), None)
    if row is None or column is None:
        return ""
    figure = row.figures[column.key]
    measure = column.said(table.metric) if column.key == "probe" else column.title
    start = f"{row.title[:1].upper()}{row.title[1:]} {measure} {figure.mean:.2f}"
    if base is None or column.key not in base.figures:
        return f"{start} on {table.dataset}.{_doubts(table, row, column)}"
    other = base.figures[column.key]
    spread = math.hypot(figure.std or 0.0, other.std or 0.0)
    gap = figure.mean - other.mean
    if abs(gap) <= spread or f"{figure.mean:.2f}" == f"{other.mean:.2f}":
        relation = "no clear difference from the log-mel baseline's"
    else:
        relation = "against the log-mel baseline's" if gap > 0 else "below the log-mel baseline's"
    return f"{start}, {relation} {other.mean:.2f} ({table.dataset}).{_doubts(table, row, column)}"


def _doubts(table: Table, row: Row, column: Measure) -> str:
    """What a reader of the sentence must know as well."""
    doubts = ""
    untrained = table.baseline("random-init")
    if untrained is not None and column.key in untrained.figures:
        value = untrained.figures[column.key].mean
        if row.figures[column.key].mean <= value:
            doubts += f" It does not beat an untrained encoder ({value:.2f})."
    if row.seen[0]:
        doubts += (
            f" But it was trained with the labels of {row.seen[0]} of the {row.seen[1] or '?'} "
            "tested recordings: this measures memory too."
        )
    return doubts


def _log_verdict(run: Run) -> str:
    for kind in ("valid", "train"):
        accuracy = run.log.series("masked_accuracy", kind=kind)
        base = run.log.series("unigram_accuracy", kind=kind) or run.log.series("unigram_accuracy")
        if accuracy is None or accuracy.last is None:
            continue
        text = f"Masked-token accuracy {accuracy.last:.1%} at step {int(accuracy.step[-1]):,}"
        if base is not None and base.last is not None:
            text += f", against {base.last:.1%} for always naming the most frequent code"
        return f"{text}. No evaluation yet."
    named = [("Validation mAP", "map"), ("Validation AUROC", "auroc"), ("Validation top-1", "top1")]
    for title, name in named:
        series = run.log.series(name, kind="valid")
        if series is not None and series.last is not None:
            return f"{title} {series.last:.2f} at step {int(series.step[-1]):,}. No evaluation yet."
    loss = run.log.series("loss")
    if loss is not None and loss.last is not None:
        return f"Training loss {loss.last:.3g} at step {int(loss.step[-1]):,}. No evaluation yet."
    return ""
