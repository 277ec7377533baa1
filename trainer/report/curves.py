"""Training curves: which metrics make which chart, thinning, smoothing, drawing.

A chart is at most a few kilobytes whatever the length of the run: beyond `_BINS` points the raw
curve becomes a band from the smallest to the largest value of each bin, and the smoothed one is
sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dawnchorus.trainer.report.log import Event, Log, Series
from dawnchorus.trainer.report.svg import GRID, INK, MARK, SERIES, data_box, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 240
_WIDTH, _HEIGHT = 350.0, 216.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 20.0, 36.0
_MAX_MARKS = 40

# Events that are drawn into the charts: symbol (matplotlib), and its twin in the page's text.
MARKS = {"resume": ("^", "▲"), "pre-emption": ("s", "■"), "non-finite": ("X", "✖"),
         "broken clip": ("o", "●")}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One metric in a chart."""

    title: str
    names: tuple[str, ...]
    """Its names in the log; the first that was logged is taken."""
    kind: str = "train"
    dashed: bool = False
    """A baseline."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows and in which unit."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: float = 1.0
    log: str = "never"
    """"never", or "auto": logarithmic where the values span more than 1.5 decades."""
    zero: bool = False
    """Whether the axis begins at nought."""


UNIGRAM_LOSS = ("unigram_loss", "unigram_entropy", "unigram_nll", "loss_unigram")
CHARTS = (
    Chart("Loss", "nats", (
        Line("training", ("loss",)), Line("validation", ("loss",), "valid"),
        Line("unigram baseline", UNIGRAM_LOSS, dashed=True))),
    Chart("Masked-token accuracy", "%", (
        Line("training", ("masked_accuracy",)),
        Line("validation", ("masked_accuracy",), "valid"),
        Line("most frequent code", ("unigram_accuracy",), dashed=True)), 100.0, zero=True),
    Chart("Validation", "score, 0 to 1", (
        Line("macro mAP", ("map", "mAP", "macro_map"), "valid"),
        Line("macro AUROC", ("auroc", "macro_auroc"), "valid"),
        Line("top-1", ("top1", "top_1", "accuracy"), "valid"))),
    Chart("Learning rate", "", (
        Line("highest of all groups", ("lr",)), Line("encoder", ("lr_encoder",)),
        Line("head", ("lr_head",)))),
    Chart("Gradient norm", "L2, before clipping", (
        Line("all parameters", ("grad_norm",)),), log="auto"),
    Chart("Throughput", "clips/s", (Line("all devices", ("clips_per_s",)),), zero=True),
    Chart("Waiting for data", "% of time", (Line("rank 0", ("data_wait",)),), 100.0, zero=True),
    Chart("MFU", "% of peak FLOP/s", (Line("model FLOPs used", ("mfu",)),), 100.0, zero=True),
)  # fmt: skip


@dataclass
class Drawn:
    """A chart ready for the page."""

    title: str
    unit: str
    svg: Markup
    legend: list[dict[str, Any]]
    box: dict[str, float]
    points: list[dict[str, Any]] = field(default_factory=list)


def charts_of(log: Log, events: Sequence[Event]) -> list[Drawn]:
    """The standard charts that this log has figures for."""
    used = [(c, found) for c in CHARTS if (found := _found(log, c))]
    return [_draw(chart, found, events, _span(log)) for chart, found in used]


def other_charts(log: Log, limit: int = 12) -> list[Drawn]:
    """One chart for each further metric that was logged and moved, at most `limit`."""
    taken = {(line.kind, n) for chart in CHARTS for line in chart.lines for n in line.names}
    rest: list[tuple[Chart, list[tuple[Line, Series]]]] = []
    for kind, table in (("train", log.train), ("valid", log.valid)):
        for name, series in sorted(table.items()):
            finite = series.value[np.isfinite(series.value)]
            if (kind, name) in taken or finite.size == 0 or np.ptp(finite) == 0:
                continue
            line = Line("training" if kind == "train" else "validation", (name,), kind)
            rest.append((Chart(name.replace("_", " "), "", (line,), log="auto"), [(line, series)]))
    return [_draw(chart, found, (), _span(log)) for chart, found in rest[:limit]]


def _found(log: Log, chart: Chart) -> list[tuple[Line, Series]]:
    found = []
    for line in chart.lines:
        series = log.series(*line.names, kind=line.kind)
        if series is not None and np.isfinite(series.value).any():
            found.append((line, series))
            continue
        # Validation on several sets: "map · esc10".
        for name, series in log.valid.items() if line.kind == "valid" else ():
            bare, _, owner = name.partition(" · ")
            if owner and bare in line.names and np.isfinite(series.value).any():
                found.append((Line(f"{line.title}, {owner}", (name,), "valid"), series))
    # A baseline by itself says nothing.
    return found[:6] if any(not line.dashed for line, _ in found) else []


def _span(log: Log) -> tuple[float, float]:
    """Common range of steps, so that the charts of a run can be compared by eye."""
    steps = [s.step for table in (log.train, log.valid) for s in table.values()]
    low = min((float(s[0]) for s in steps), default=0.0)
    high = max((float(s[-1]) for s in steps), default=1.0)
    return (0.0 if low < 0.2 * high else low), (high if high > low else low + 1.0)


# --------------------------------------------------------------------------- thinning


def smooth(value: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Moving mean over `window` points, centred, skipping what is not finite.

    Near the start, where a loss falls steeply, the window shrinks on both sides alike and so does
    not lag; near the end it is cut off, so that the newest value is still an average.
    """
    if window <= 1 or value.size < 3:
        return value
    good = np.isfinite(value)
    total = np.concatenate([[0.0], np.cumsum(np.where(good, value, 0.0))])
    number = np.concatenate([[0.0], np.cumsum(good)])
    half = window // 2
    index = np.arange(value.size)
    reach = np.minimum(index, half)
    low, high = index - reach, np.minimum(index + reach + 1, value.size)
    inside = number[high] - number[low]
    mean = (total[high] - total[low]) / np.maximum(inside, 1.0)
    return np.where(inside > 0, mean, np.nan)


def envelope(
    step: NDArray[np.float64], value: NDArray[np.float64], bins: int = _BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(step, smallest, largest) of `bins` stretches of equal numbers of points."""
    edges = np.linspace(0, value.size, min(bins, value.size) + 1).astype(int)[:-1]
    good = np.isfinite(value)
    low = np.minimum.reduceat(np.where(good, value, np.inf), edges)
    high = np.maximum.reduceat(np.where(good, value, -np.inf), edges)
    none = low > high
    low[none], high[none] = np.nan, np.nan
    return step[edges], low, high


def _sampled(series: Series, value: NDArray[np.float64]) -> Series:
    if value.size <= _BINS:
        return Series(series.step, value)
    index = np.unique(np.linspace(0, value.size - 1, _BINS).astype(int))
    return Series(series.step[index], value[index])


def _window(count: int, line: Line) -> int:
    """Points that the strong curve averages over: a fortieth of the run. Of a baseline half of it:
    it differs from batch to batch, but stands for one number.
    """
    if line.dashed:
        return max(1, count // 2) | 1
    return 1 if line.kind == "valid" or count < 40 else max(3, count // 40) | 1


# --------------------------------------------------------------------------- drawing


def _draw(
    chart: Chart,
    found: list[tuple[Line, Series]],
    events: Sequence[Event],
    span: tuple[float, float],
) -> Drawn:
    drawn = Drawn(chart.title, chart.unit, Markup(), [], {})
    logarithmic = chart.log == "auto" and _decades([s for _, s in found]) > 1.5

    def paint(figure: Figure) -> None:
        place = (_LEFT / _WIDTH, _BOTTOM / _HEIGHT, 1 - (_LEFT + _RIGHT) / _WIDTH,
                 1 - (_TOP + _BOTTOM) / _HEIGHT)  # fmt: skip
        axes = figure.add_axes(place)
        if logarithmic:
            axes.set_yscale("log")
        colour = 0
        limits: list[float] = []
        for line, series in found:
            value = series.value * chart.scale
            style = INK if line.dashed else SERIES[colour % len(SERIES)]
            limits += _plot(axes, line, Series(series.step, value), style)
            shown = _sampled(Series(series.step, value), smooth(value, _window(value.size, line)))
            drawn.points.append(_points(shown))
            drawn.legend.append(
                {"title": line.title, "value": readable(shown.last), "style": _swatch(line, colour)}
            )
            colour += not line.dashed
        _finish(axes, chart, span, limits, logarithmic)
        _mark_events(axes, events)
        drawn.box = data_box(figure, axes)

    label = f"{chart.title} ({chart.unit or 'no unit'}) over training steps"
    drawn.svg = draw(_WIDTH, _HEIGHT, paint, label=label)
    return drawn


def _plot(axes: Axes, line: Line, series: Series, colour: str) -> list[float]:
    """Draw raw and smoothed curve; returns values that the axis has to show."""
    step, value = series.step, series.value
    window = _window(value.size, line)
    if line.dashed:
        base = _sampled(series, smooth(value, window))
        axes.plot(base.step, base.value, color=colour, lw=1.1, ls=(0, (4, 3)), zorder=4)
        return _extent(base.value)
    curve = _sampled(series, smooth(value, window))
    if window > 1 and value.size > _BINS:
        at, low, high = envelope(step, value)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
    elif window > 1:
        axes.plot(step, value, color=colour, alpha=0.35, lw=0.8)
    dots = "o" if value.size <= 30 else ""
    axes.plot(curve.step, curve.value, color=colour, marker=dots, ms=3.2, zorder=3)
    finite = value[np.isfinite(value)]
    # A lone spike must not flatten the curve: the axis shows the middle 98 % of the raw values.
    inner = list(np.percentile(finite, [1, 99])) if finite.size else []
    return _extent(curve.value) + inner


def _extent(value: NDArray[np.float64]) -> list[float]:
    finite = value[np.isfinite(value)]
    return [float(finite.min()), float(finite.max())] if finite.size else []


def _finish(
    axes: Axes, chart: Chart, span: tuple[float, float], limits: list[float], logarithmic: bool
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(*span)
    low, high = min(limits), max(limits)
    if logarithmic:
        positive = [v for v in limits if v > 0]
        axes.set_ylim(min(positive) / 1.3, max(positive) * 1.3)
    else:
        low = min(0.0, low) if chart.zero else low
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low if chart.zero else low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v, high)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v, span[1])))
    axes.grid(axis="y", color=GRID)
    axes.set_xlabel("optimiser step", loc="right", labelpad=3)


def _mark_events(axes: Axes, events: Sequence[Event]) -> None:
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axes.transData, axes.transAxes)
    for kind, (symbol, _) in MARKS.items():
        steps = sorted({e.step for e in events if e.kind == kind})
        if len(steps) > _MAX_MARKS:
            steps = [steps[int(i)] for i in np.linspace(0, len(steps) - 1, _MAX_MARKS)]
        if not steps:
            continue
        axes.vlines(steps, 0, 1, transform=axes.get_xaxis_transform(), color=MARK, lw=0.7,
                    ls=(0, (1, 2)), zorder=1)  # fmt: skip
        # A resume usually follows a pre-emption at the same step.
        height = 1.075 if kind == "resume" else 1.0
        axes.plot(steps, [height] * len(steps), symbol, transform=place, color=MARK, ms=4.5,
                  clip_on=False, zorder=5)  # fmt: skip


def _decades(series: list[Series]) -> float:
    values = np.concatenate([s.value for s in series])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size < 2:
        return 0.0
    low, high = np.percentile(values, [1, 99])
    return math.log10(high / low)


def _swatch(line: Line, colour: int) -> str:
    return "base" if line.dashed else f"s{colour % len(SERIES) + 1}"


def _points(series: Series) -> dict[str, Any]:
    """Steps and values for the read-out under the pointer."""
    return {
        "x": [int(s) for s in series.step],
        "y": [readable(float(v)) if math.isfinite(v) else "–" for v in series.value],
    }


def tick(value: float, most: float) -> str:
    """A number at an axis: all of an axis in thousands or millions, or none."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if most >= 10 * limit / (10 if suffix == "M" else 1):
            return f"{value / limit:.4g}{suffix}" if value else "0"
    return readable(value)


def readable(value: float | None) -> str:
    """A number as a person writes it: 0.0512, 3.4, 12k, 1.2M, 3e-5."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    if size == 0 or size >= 1e-3:
        return f"{value:.4g}" if size < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
