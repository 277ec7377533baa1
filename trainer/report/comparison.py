"""The evaluation table: baselines and encoders side by side, and the sentence that sums them up.

Input: `evaluation/<dataset>.json` of each run,

    {"dataset": name, "rows": [{"name": "log-mel" | "random-init" | "model",
                                "probe": {"metric": "accuracy" | "map", "mean": .., "std": ..},
                                "retrieval": {"roc_auc": ..}, "clustering": {"nmi": ..}}, ...]}

read leniently: a figure may be a bare number or {"mean", "std"}, unknown keys are passed over, a
row without figures is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.report.reading import Run

_BASELINES = ("log-mel", "random-init")
_METRIC_TITLES = {
    "accuracy": "accuracy", "top1": "accuracy", "acc": "accuracy", "map": "mAP", "cmap": "mAP",
    "auroc": "AUROC",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A measured value, 0 to 1, with its spread over seeds or folds where it has one."""

    mean: float
    std: float | None = None
    interval: tuple[float, float] | None = None
    """95 % confidence interval."""

    @property
    def text(self) -> str:
        """Three decimals, as the tables of the field have them."""
        return f"{self.mean:.3f}"

    @property
    def spread(self) -> str:
        """How sure it is, or nothing."""
        if self.interval is not None:
            return f"{self.interval[0]:.3f}–{self.interval[1]:.3f}"
        return f"± {self.std:.3f}" if self.std is not None else ""

    @property
    def whisker(self) -> tuple[float, float] | None:
        """Where the whisker of its bar begins and how long it is, in per cent of the bar."""
        if self.interval is None and not self.std:
            return None
        low, high = self.interval or (self.mean - (self.std or 0), self.mean + (self.std or 0))
        low, high = min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
        return 100 * low, 100 * (high - low)


@dataclass(frozen=True)
class Column:
    """A measure: its title, where its bar begins to mean something, and how to read it."""

    key: str
    title: str
    section: str
    names: tuple[str, ...]
    chance: float | None = None
    note: str = ""


COLUMNS = (
    Column("probe", "Linear probe", "probe", ("mean", "accuracy", "map"),
           note="a linear classifier on frozen embeddings"),
    Column("roc_auc", "Retrieval ROC-AUC", "retrieval", ("roc_auc", "rocauc", "auc"), 0.5,
           "each clip queries all others by cosine similarity; chance is 0.5"),
    Column("nmi", "Clustering NMI", "clustering", ("nmi",),
           note="K-means clusters against labels, normalised mutual information"),
)  # fmt: skip


@dataclass
class Row:
    """One thing that was measured."""

    title: str
    detail: str
    baseline: bool
    figures: dict[str, Figure]
    best: set[str] = field(default_factory=set)


@dataclass
class Table:
    """All rows measured on one dataset."""

    dataset: str
    metric: str
    """What the probe column holds: accuracy, mAP."""
    rows: list[Row]
    columns: list[Column]
    facts: str = ""

    @property
    def models(self) -> list[Row]:
        """The rows that are not baselines."""
        return [row for row in self.rows if not row.baseline]

    def baseline(self, name: str = "log-mel") -> Row | None:
        """A baseline by name."""
        return next((r for r in self.rows if r.baseline and r.title.startswith(name)), None)


def tables(runs: Sequence[Run]) -> list[Table]:
    """One table per dataset, in order of first mention; baselines first, then the runs in order."""
    found: dict[str, Table] = {}
    for run in runs:
        for stem, content in run.evaluations.items():
            dataset = str(content.get("dataset") or content.get("name") or stem)
            table = found.setdefault(dataset, Table(dataset, "", [], []))
            rows = content.get("rows")
            for raw in rows if isinstance(rows, list) else []:
                if isinstance(raw, Mapping):
                    _add_row(table, raw, run)
            table.facts = table.facts or _facts(content)
    complete = [t for t in found.values() if t.rows]
    for table in complete:
        _finish(table)
    return complete


def _add_row(table: Table, raw: Mapping[str, Any], run: Run) -> None:
    figures = {c.key: f for c in COLUMNS if (f := _figure(raw, c)) is not None}
    if not figures:
        return
    probe = raw.get("probe")
    if not table.metric and isinstance(probe, Mapping) and probe.get("metric"):
        metric = str(probe["metric"])
        table.metric = _METRIC_TITLES.get(metric.lower(), metric)
    name = str(raw.get("name", "")).strip() or "model"
    base = next((b for b in _BASELINES if name.lower().replace("_", "-").startswith(b)), None)
    title, detail = (name.replace("_", "-"), "") if base else (run.adjective, run.name)
    if not base and name != "model" and not name.startswith("model"):
        title, detail = name, run.name
    layer = raw.get("layer")
    suffix = name.removeprefix("model").strip(" ,()") if name.startswith("model") else ""
    extra = suffix or (f"layer {layer}" if layer not in (None, "", -1, "last") else "")
    detail = ", ".join(x for x in (detail, extra) if x)
    row = Row(title, detail, base is not None, figures)
    # Every run measures the baselines again: show them once unless they came out differently.
    if base and any(r.baseline and r.title == title and r.figures == figures for r in table.rows):
        return
    if base and any(r.baseline and r.title == title for r in table.rows):
        row.detail = f"measured with {run.name}"
    table.rows.append(row)


def _figure(raw: Mapping[str, Any], column: Column) -> Figure | None:
    section = raw.get(column.section)
    if not isinstance(section, Mapping):
        mean = _finite(section if section is not None else raw.get(column.key))
        return None if mean is None else Figure(mean)
    value = next((section[n] for n in column.names if section.get(n) is not None), None)
    if isinstance(value, Mapping):
        section, value = value, value.get("mean")
    mean = _finite(value)
    spread = next((section[n] for n in (f"{column.key}_std", "std") if n in section), None)
    pair = section.get(f"{column.key}_ci95")
    ends = [_finite(v) for v in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
    interval = (ends[0], ends[1]) if None not in ends else None
    return None if mean is None else Figure(mean, _finite(spread), interval)  # type: ignore[arg-type]


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _facts(content: Mapping[str, Any]) -> str:
    """Clips, classes, folds and seeds, as far as the file tells."""
    known = []
    for word in ("clips", "classes", "folds", "seeds"):
        value = content.get(word, content.get(f"n_{word}"))
        count = len(value) if isinstance(value, list) else value
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            known.append(f"{count:,} {word if count > 1 else word.removesuffix('s')}")
    return ", ".join(known)


def _finish(table: Table) -> None:
    order = {name: i for i, name in enumerate(_BASELINES)}
    table.rows.sort(
        key=lambda r: next((i for n, i in order.items() if r.baseline and r.title.startswith(n)), 9)
    )
    table.columns = [c for c in COLUMNS if any(c.key in r.figures for r in table.rows)]
    for column in table.columns:
        best = max(r.figures[column.key].mean for r in table.rows if column.key in r.figures)
        for row in table.rows:
            if column.key in row.figures and row.figures[column.key].text == Figure(best).text:
                row.best.add(column.key)


# --------------------------------------------------------------------------- the verdict


def verdict(runs: Sequence[Run], compared: Sequence[Table]) -> str:
    """One sentence: how good, against what. From the evaluation, else from the newest log."""
    for table in compared:
        sentence = _table_verdict(table)
        if sentence:
            return sentence
    for run in reversed(runs):
        sentence = _log_verdict(run)
        if sentence:
            return sentence
    return "No result yet."


def _table_verdict(table: Table) -> str:
    models, base = table.models, table.baseline()
    column = next((c for c in table.columns if models and c.key in models[-1].figures), None)
    if column is None:
        return ""
    row = models[-1]
    figure = row.figures[column.key]
    measure = f"probe {table.metric or 'score'}" if column.key == "probe" else column.title
    start = f"{row.title[:1].upper()}{row.title[1:]} {measure} {figure.mean:.2f}"
    if base is None or column.key not in base.figures:
        return f"{start} on {table.dataset}."
    other = base.figures[column.key]
    spread = math.hypot(figure.std or 0.0, other.std or 0.0)
    gap = figure.mean - other.mean
    if abs(gap) <= spread or f"{figure.mean:.2f}" == f"{other.mean:.2f}":
        relation = "no clear difference from the log-mel baseline's"
    else:
        relation = "against the log-mel baseline's" if gap > 0 else "below the log-mel baseline's"
    return f"{start}, {relation} {other.mean:.2f} ({table.dataset})."


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
    for names, title in ((("map", "mAP"), "mAP"), (("auroc",), "AUROC"), (("top1",), "top-1")):
        series = run.log.series(*names, kind="valid")
        if series is not None and series.last is not None:
            return (
                f"Validation {title} {series.last:.2f} at step {int(series.step[-1]):,}. "
                "No evaluation yet."
            )
    loss = run.log.series("loss")
    if loss is not None and loss.last is not None:
        return f"Training loss {loss.last:.3g} at step {int(loss.step[-1]):,}. No evaluation yet."
    return ""
