"""A sentence that sums up how good the encoders of the runs are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dawnchorus.trainer.evaluation.comparison import Comparison
from dawnchorus.trainer.evaluation.results import Figure
from dawnchorus.trainer.report.reading import Run

# Without an evaluation: what the log has, the first of these that was logged.
_NEWEST = (
    ("Masked-token accuracy {:.1%}", "masked_accuracy", "valid"),
    ("Masked-token accuracy {:.1%}", "masked_accuracy", "train"),
    ("Validation mAP {:.2f}", "map", "valid"),
    ("Validation AUROC {:.2f}", "auroc", "valid"),
    ("Validation top-1 {:.2f}", "top1", "valid"),
    ("Training loss {:.3g}", "loss", "train"),
)


def verdict(runs: Sequence[Run], compared: Sequence[Comparison]) -> str:
    """Say how good it is, and against what: of the last run that was evaluated, else from the
    newest log.
    """
    said = [_table_verdict(table, run) for run in reversed(runs) for table in compared]
    said += [_log_verdict(run) for run in reversed(runs)]
    return next(filter(None, said), "No result yet.")


def _table_verdict(table: Comparison, run: Run) -> str:
    row = next((r for r in table.rows if not r.baseline and r.run == run.name), None)
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
