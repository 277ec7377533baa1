"""The evaluation table: baselines and encoders side by side, and the sentence that sums them up.

Input: `evaluation/<dataset>.json` of each run,

    {"dataset": name, "rows": [{"name": "log-mel" | "random-init" | "model",
                                "probe": {"metric": "accuracy" | "map", "mean": .., "std": ..},
                                "retrieval": {"roc_auc": ..}, "clustering": {"nmi": ..}}, ...]}

and more, described in docs/evaluation.md. It is read leniently: a figure may be a bare number or
{"mean", "std"}, unknown keys are passed over, a row without figures is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dawnchorus.trainer.evaluation.tables import POOLING_NAMES, log_mel_ahead
from dawnchorus.trainer.report.reading import Run

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
    note: str = ""
    """Why there is no interval."""

    @property
    def text(self) -> str:
        """Three decimals, as the tables of the field have them."""
        return f"{self.mean:.3f}"

    @property
    def spread(self) -> str:
        """How sure it is, or nothing."""
        if self.interval is not None:
            return f"{self.interval[0]:.3f}–{self.interval[1]:.3f}"
        spread = f"± {self.std:.3f}" if self.std is not None else ""
        return "; ".join(text for text in (spread, self.note) if text)

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
    """A measure: its title, where it stands in a row, what chance gives, and how to read it."""

    key: str
    title: str
    section: tuple[str, ...]
    names: tuple[str, ...]
    chance: float | None = None
    note: str = ""


COLUMNS = (
    Column("probe", "Linear probe", ("probe",), ("mean", "accuracy", "map"),
           note="a linear classifier on frozen embeddings"),
    Column("roc_auc", "Retrieval ROC-AUC", ("retrieval",), ("roc_auc",), 0.5,
           "each clip queries all others by cosine similarity; chance is 0.5"),
    Column("roc_auc_groups", "Retrieval, other groups", ("retrieval", "same_group_excluded"),
           ("roc_auc",), 0.5, "the same without clips of the query's own recording or site"),
    Column("roc_auc_across", "Retrieval across sets", ("retrieval", "across"), ("roc_auc",), 0.5,
           "tested clips query the training part"),
    Column("nmi", "Clustering NMI", ("clustering",), ("nmi",),
           note="K-means clusters against labels, normalised mutual information"),
)  # fmt: skip


@dataclass
class Row:
    """One thing that was measured."""

    title: str
    detail: str
    baseline: bool
    run: str
    figures: dict[str, Figure]
    best: set[str] = field(default_factory=set)
    seen: str = ""
    """Of the tested recordings, how many it was trained on with their labels."""


@dataclass
class Table:
    """All rows measured on one dataset in one way."""

    dataset: str
    metric: str = ""
    """What the probe column holds: accuracy, mAP."""
    facts: str = ""
    rows: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    """One row per layer, where all were measured."""
    columns: list[Column] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(run, what a reader must know)."""
    wins: str = ""
    """A sentence where log-mel is ahead of all models, with the measures."""

    def model(self, run: str) -> Row | None:
        """The row of a run's encoder."""
        return next((r for r in self.rows if not r.baseline and r.run == run), None)

    def baseline(self, name: str = "log-mel") -> Row | None:
        """A baseline by name."""
        return next((r for r in self.rows if r.baseline and r.title.startswith(name)), None)


def tables(runs: Sequence[Run]) -> list[Table]:
    """One table per dataset and protocol, in order of first mention; baselines first, then the
    runs in order. What was measured on other clips or splits never shares a table.
    """
    found: dict[str, Table] = {}
    for run in runs:
        for stem, content in run.evaluations.items():
            dataset = str(content.get("dataset") or content.get("name") or stem)
            table = found.setdefault(dataset + _protocol(content), Table(dataset))
            table.facts = table.facts or _facts(content)
            model = content.get("model")
            step = model.get("step") if isinstance(model, Mapping) else None
            for raw in _objects(content.get("rows")):
                _add_row(table, raw, run, step if isinstance(step, int) else None)
            if row := table.model(run.name):
                row.seen = _seen(content)
            for raw in _objects(content.get("layers")):
                figures = {c.key: f for c in COLUMNS if (f := _figure(raw, c)) is not None}
                title = f"layer {raw.get('layer', '?')}"
                table.layers += [Row(title, run.name, False, run.name, figures)] if figures else []
            warnings = content.get("warnings")
            for text in warnings if isinstance(warnings, list) else []:
                table.warnings.append((run.name, str(text)))
    complete = [t for t in found.values() if t.rows]
    for table in complete:
        _finish(table)
    return complete


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [r for r in value if isinstance(r, Mapping)] if isinstance(value, list) else []


def _seen(content: Mapping[str, Any]) -> str:
    exposure = content.get("exposure")
    if not isinstance(exposure, Mapping) or not exposure.get("labelled"):
        return ""
    return f"{exposure['labelled']} of the {exposure.get('tested_recordings', '?')}"


def _protocol(content: Mapping[str, Any]) -> str:
    """What must agree for two evaluations to be compared."""
    data = content.get("data")
    digest = data.get("digest") if isinstance(data, Mapping) else None
    parts = [
        content.get("format"),
        content.get("metric"),
        content.get("clips"),
        content.get("protocol"),
        digest,
    ]
    return json.dumps(parts, sort_keys=True, default=str)


def _add_row(table: Table, raw: Mapping[str, Any], run: Run, step: int | None) -> None:
    figures = {c.key: f for c in COLUMNS if (f := _figure(raw, c)) is not None}
    if not figures:
        return
    probe = raw.get("probe")
    if not table.metric and isinstance(probe, Mapping) and probe.get("metric"):
        metric = str(probe["metric"])
        table.metric = _METRIC_TITLES.get(metric.lower(), metric)
    name = str(raw.get("name", "")).strip() or "model"
    base = next((b for b in _BASELINES if name.lower().replace("_", "-").startswith(b)), None)
    if base is not None:
        row = Row(name.replace("_", "-"), "", True, run.name, figures)
        # Every run measures the baselines again: show them once unless they came out differently.
        same = [r for r in table.rows if r.baseline and r.title == row.title]
        if any(r.figures == figures for r in same):
            return
        row.detail = f"measured with {run.name}" if same else ""
    elif name.startswith("model"):
        # "model (best)" is the encoder as one of the run's checkpoints has it.
        which = name.removeprefix("model").strip(" ,()")
        layer = raw.get("layer")
        extra = which or (f"layer {layer}" if layer not in (None, "", -1, "last") else "")
        at = f"step {step:,}" if step is not None else ""
        detail = ", ".join(x for x in (run.name, extra, at) if x)
        row = Row(run.adjective, detail, False, run.name, figures)
    else:
        row = Row(name, run.name, False, run.name, figures)
    table.rows.append(row)


def _figure(raw: Mapping[str, Any], column: Column) -> Figure | None:
    section: Any = raw
    for key in column.section:
        section = section.get(key) if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping):
        mean = _finite(section if section is not None else raw.get(column.key))
        return None if mean is None else Figure(mean)
    value = next((section[n] for n in column.names if section.get(n) is not None), None)
    if isinstance(value, Mapping):
        section, value = value, value.get("mean")
    mean = _finite(value)
    spread = next((section[n] for n in (f"{column.names[0]}_std", "std") if n in section), None)
    pair = section.get(f"{column.names[0]}_ci95")
    ends = [_finite(v) for v in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
    interval = (ends[0], ends[1]) if None not in ends else None
    note = ""
    if section.get("groups") == 1:
        # Drawing one group again and again shows no spread, which says nothing of other groups.
        interval, note = None, "one group: no interval"
    return None if mean is None else Figure(mean, _finite(spread), interval, note)  # type: ignore[arg-type]


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _facts(content: Mapping[str, Any]) -> str:
    """Clips, classes, groups, folds and seeds, as far as the file tells."""
    known = []
    for word in ("clips", "classes", "groups", "folds", "seeds"):
        value = content.get(word, content.get(f"n_{word}"))
        count = len(value) if isinstance(value, list) else value
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            single = word.removesuffix("es" if word == "classes" else "s")
            known.append(f"{count:,} {word if count > 1 else single}")
    protocol = content.get("protocol")
    pooling = protocol.get("pooling") if isinstance(protocol, Mapping) else None
    if pooling in POOLING_NAMES:
        known.append(f"{POOLING_NAMES[pooling]} over time in every row")
    tested = protocol.get("tested_clips") if isinstance(protocol, Mapping) else None
    if isinstance(tested, int) and tested != content.get("clips"):
        known.append(f"{tested:,} clips tested")
    return ", ".join(known)


def _finish(table: Table) -> None:
    order = {name: i for i, name in enumerate(_BASELINES)}
    table.rows.sort(
        key=lambda r: next((i for n, i in order.items() if r.baseline and r.title.startswith(n)), 9)
    )
    base = table.baseline()
    if base is not None:
        table.wins = log_mel_ahead(
            _named(base, table), [_named(r, table) for r in table.rows if not r.baseline]
        )
    table.columns = [c for c in COLUMNS if any(c.key in r.figures for r in table.rows)]
    for column in table.columns:
        best = max(r.figures[column.key].mean for r in table.rows if column.key in r.figures)
        for row in table.rows:
            if column.key in row.figures and row.figures[column.key].text == Figure(best).text:
                row.best.add(column.key)


def _named(row: Row, table: Table) -> dict[str, float]:
    """The figures of a row by the names that a sentence has for them."""
    return {_measure(c, table): row.figures[c.key].mean for c in COLUMNS if c.key in row.figures}


def _measure(column: Column, table: Table) -> str:
    if column.key == "probe":
        return f"probe {table.metric or 'score'}"
    return column.title[:1].lower() + column.title[1:]


# --------------------------------------------------------------------------- the verdict


def verdict(runs: Sequence[Run], compared: Sequence[Table]) -> str:
    """One sentence: how good, against what. Of the last run that was evaluated, else from the
    newest log.
    """
    for run in reversed(runs):
        for table in compared:
            sentence = _table_verdict(table, run)
            if sentence:
                return sentence
    for run in reversed(runs):
        sentence = _log_verdict(run)
        if sentence:
            return sentence
    return "No result yet."


def _table_verdict(table: Table, run: Run) -> str:
    row, base = table.model(run.name), table.baseline()
    column = next((c for c in table.columns if row is not None and c.key in row.figures), None)
    if row is None or column is None:
        return ""
    figure = row.figures[column.key]
    measure = f"probe {table.metric or 'score'}" if column.key == "probe" else column.title
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


def _doubts(table: Table, row: Row, column: Column) -> str:
    """What a reader of the sentence must know as well."""
    doubts = ""
    untrained = table.baseline("random-init")
    if untrained is not None and column.key in untrained.figures:
        value = untrained.figures[column.key].mean
        if row.figures[column.key].mean <= value:
            doubts += f" It does not beat an untrained encoder ({value:.2f})."
    if row.seen:
        doubts += (
            f" But it was trained with the labels of {row.seen} tested recordings: this measures "
            "memory too."
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
