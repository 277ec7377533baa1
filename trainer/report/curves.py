"""Training curves: which figures make which chart, and how a long run becomes a small drawing.

A chart is at most a few kilobytes whatever the length of the run: beyond `_BINS` points the single
values become a band from the smallest to the largest of each bin, and the smooth curve is sampled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dawnchorus.trainer.metrics_log import Log, Series
from dawnchorus.trainer.page.charts import Axis, Chart, Curve, curves

Values = NDArray[np.float64]
_BINS = 240
_MAX_MARKS = 40
_MOST_OTHERS = 12
MARKS = {"resume": "▲", "pre-emption": "■", "non-finite": "✖", "broken clip": "●"}
"""Events that are drawn into the charts, and their symbols."""


class Line(NamedTuple):
    """One figure in a chart."""

    title: str
    names: tuple[str, ...]
    """Its names in the log; the first that was logged is taken."""
    kind: str = "train"
    dashed: bool = False
    """It is a baseline."""


class Plan(NamedTuple):
    """What a chart shows and in which unit."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: float = 1.0
    log: bool = False
    """Logarithmic where the values span more than 1.5 decades."""
    zero: bool = False
    """Whether the axis begins at nought."""


CHARTS = (
    Plan("Loss", "nats", (
        Line("training", ("loss",)), Line("validation", ("loss",), "valid"),
        Line("unigram baseline", ("unigram_loss", "unigram_entropy", "unigram_nll"), dashed=True))),
    Plan("Masked-token accuracy", "%", (
        Line("training", ("masked_accuracy",)),
        Line("validation", ("masked_accuracy",), "valid"),
        Line("most frequent code", ("unigram_accuracy",), dashed=True)), 100.0, zero=True),
    Plan("Validation", "score, 0 to 1", (
        Line("macro mAP", ("map", "mAP", "macro_map"), "valid"),
        Line("macro AUROC", ("auroc", "macro_auroc"), "valid"),
        Line("top-1", ("top1", "top_1", "accuracy"), "valid"))),
    Plan("Learning rate", "", (
        Line("highest of all groups", ("lr",)), Line("encoder", ("lr_encoder",)),
        Line("head", ("lr_head",)))),
    Plan("Gradient norm", "L2, before clipping", (
        Line("all parameters", ("grad_norm",)),), log=True),
    Plan("Throughput", "clips/s", (Line("all devices", ("clips_per_s",)),), zero=True),
    Plan("Waiting for data", "% of time", (Line("rank 0", ("data_wait",)),), 100.0, zero=True),
    Plan("MFU", "% of peak FLOP/s", (Line("model FLOPs used", ("mfu",)),), 100.0, zero=True),
)  # fmt: skip


def charts_of(log: Log) -> list[Chart]:
    """Draw the standard charts that this log has figures for."""
    return [_draw(plan, found, log) for plan in CHARTS if (found := _found(log, plan))]


def other_charts(log: Log) -> list[Chart]:
    """Draw a chart of each further figure that was logged and moved, twelve at most."""
    taken = {(line.kind, n) for plan in CHARTS for line in plan.lines for n in line.names}
    rest = [
        (Plan(name.replace("_", " "), "", (), log=True), [(Line(title, (), kind), series)])
        for kind, title, logged in (("train", "training", log.train),
                                    ("valid", "validation", log.valid))
        for name, series in sorted(logged.items())
        if (kind, name) not in taken and (n := _finite(series.value)).size and np.ptp(n) > 0
    ]  # fmt: skip
    return [_draw(plan, found, log, marked=False) for plan, found in rest[:_MOST_OTHERS]]


def _finite(value: Values) -> Values:
    return value[np.isfinite(value)]


def _found(log: Log, plan: Plan) -> list[tuple[Line, Series]]:
    found = []
    for line in plan.lines:
        series = log.series(*line.names, kind=line.kind)
        owned = {line.title: series} if series is not None and _finite(series.value).size else {}
        if not owned and line.kind == "valid":  # validation on several sets: "map · esc10"
            parts = ((*name.partition(" · "), series) for name, series in log.valid.items())
            owned = {
                f"{line.title}, {owner}": series
                for bare, _, owner, series in parts
                if owner and bare in line.names and _finite(series.value).size
            }
        found += [(line._replace(title=title), series) for title, series in owned.items()]
    # A baseline by itself says nothing.
    return found[:6] if any(not line.dashed for line, _ in found) else []


def smooth(value: Values, window: int) -> Values:
    """Moving mean over `window` points, centred, skipping what is not finite.

    Near the start, where a loss falls steeply, the window shrinks on both sides alike and so does
    not lag; near the end it is cut off, so that the newest value is still an average.
    """
    if window <= 1 or value.size < 3:
        return value
    good = np.isfinite(value)
    total, number = (
        np.concatenate([[0.0], np.cumsum(v)]) for v in (np.where(good, value, 0.0), good)
    )
    index = np.arange(value.size)
    reach = np.minimum(index, window // 2)
    low, high = index - reach, np.minimum(index + reach + 1, value.size)
    inside = number[high] - number[low]
    return np.where(inside > 0, (total[high] - total[low]) / np.maximum(inside, 1.0), np.nan)


def envelope(step: Values, value: Values) -> tuple[Values, Values, Values]:
    """(step, smallest, largest) of `_BINS` stretches of equal numbers of points."""
    edges = np.linspace(0, value.size, min(_BINS, value.size) + 1).astype(int)[:-1]
    good = np.isfinite(value)
    low = np.minimum.reduceat(np.where(good, value, np.inf), edges)
    high = np.maximum.reduceat(np.where(good, value, -np.inf), edges)
    low[low > high] = high[low > high] = np.nan
    return step[edges], low, high


def _curve(line: Line, series: Series, scale: float) -> Curve:
    """The strong line is a mean over a fortieth of the run. A baseline's is one over half of it: it
    differs from batch to batch, but stands for one number.
    """
    step, value = series.step, series.value * scale
    if line.dashed:
        window = max(1, value.size // 2) | 1
    else:
        window = 1 if line.kind == "valid" or value.size < 40 else max(3, value.size // 40) | 1
    index = np.unique(np.linspace(0, value.size - 1, min(value.size, _BINS)).astype(int))
    behind = window > 1 and not line.dashed
    return Curve(
        line.title, step[index], smooth(value, window)[index], line.dashed,
        pale=(step, value) if behind and value.size <= _BINS else None,
        band=envelope(step, value) if behind and value.size > _BINS else None,
    )  # fmt: skip


def _draw(plan: Plan, found: list[tuple[Line, Series]], log: Log, marked: bool = True) -> Chart:
    lines = [_curve(line, series, plan.scale) for line, series in found]
    # A lone spike must not flatten the curve: the axis shows the middle 98 % of the single values.
    single = [series.value * plan.scale for line, series in found if not line.dashed]
    middle = [np.percentile(_finite(value), [1, 99]) for value in single]
    marks = {}
    for kind, symbol in MARKS.items() if marked else ():
        steps = sorted({float(e.step) for e in log.events if e.kind == kind})
        if steps:
            few = np.linspace(0, len(steps) - 1, min(len(steps), _MAX_MARKS)).astype(int)
            marks[symbol] = [steps[i] for i in few]
    return curves(
        plan.title, plan.unit, lines, x=_steps(log), x_name="optimiser step", marks=marks,
        y=_axis(plan, _finite(np.concatenate([*(curve.y for curve in lines), *middle]))),
    )  # fmt: skip


def _steps(log: Log) -> Axis:
    """Common range of steps, so that the charts of a run can be compared by eye."""
    steps = [s.step for logged in (log.train, log.valid) for s in logged.values()]
    low, high = min(s[0] for s in steps), max(s[-1] for s in steps)
    low = 0.0 if low < 0.2 * high else low
    return Axis(low, high if high > low else low + 1.0, whole=True)


def _axis(plan: Plan, shown: Values) -> Axis:
    positive = shown[shown > 0]
    if plan.log and positive.size and math.log10(positive.max() / positive.min()) > 1.5:
        return Axis(float(positive.min()) / 1.3, float(positive.max()) * 1.3, log=True)
    low, high = float(shown.min()), float(shown.max())
    low = min(0.0, low) if plan.zero else low
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low if plan.zero else low - margin, high + margin)
