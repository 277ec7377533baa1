"""The charts of all pages, as inline SVG: curves, columns, the long tail, the map of the world.

Colours are the page's CSS variables, so one drawing serves the light, the dark and the printed
page, and text is text. Measured against libraries in docs/decisions/009.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from dawnchorus.trainer.page import readable

Values = NDArray[np.float64]
WIDTH, HEIGHT = 350.0, 216.0
_DOTS = (1, 3, 10, 100, 1000)
"""Recordings from which on a dot of the map is of the next kind."""


@dataclass(frozen=True)
class Axis:
    """What an axis spans."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    """Its ticks are whole numbers."""

    def place(self, value: Any) -> Values:
        """Where values lie: 0 at `low`, 1 at `high`; what a logarithm does not know is NaN."""
        low, high, at = (np.asarray(v, np.float64) for v in (self.low, self.high, value))
        if self.log:
            low, high, at = (np.log10(np.where(v > 0, v, np.nan)) for v in (low, high, at))
        return np.asarray((at - low) / (high - low))

    def ticks(self, most: int) -> list[float]:
        """Round numbers inside, at most about `most` of them."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = math.log10(self.high / self.low) >= 2
            found = [d * 10.0**k for k in powers for d in ((1,) if wide else (1, 2, 5))]
        else:
            step = rounded((self.high - self.low) / most, (1, 2, 2.5, 5, 10))
            step = max(round(step), 1) if self.whole else step
            found = [i * step for i in range(math.ceil(self.low / step), int(self.high / step) + 2)]
        margin = 1e-9 * abs(self.high)
        return [t for t in found if self.low - margin <= t <= self.high + margin]

    def tick(self, value: float) -> str:
        """Write a number at the axis: all of an even axis in thousands or millions, or none."""
        for limit, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
            if self.high >= limit and not self.log:
                return f"{value / unit:.4g}{suffix}" if value else "0"
        return readable(value)


def rounded(value: float, steps: Sequence[float]) -> float:
    """Return the next number from `value` on that is one of the steps times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(s * power for s in steps if s * power >= value * (1 - 1e-9))


def text_at(x: float, y: float, text: str, anchor: str = "middle", css: str = "") -> str:
    """Words in a drawing."""
    named = f'class="{css}" ' if css else ""
    return f'<text {named}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def drawing(width: float, height: float, parts: Iterable[str], label: str, css: str = "") -> Markup:
    """An SVG of these parts, which are markup; `label` tells it to those who do not see it."""
    named = f'class="{css}" ' if css else ""
    head = (
        f'<svg {named}role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}">'
    )
    return Markup("".join([head, *parts, "</svg>"]))


class Plot:
    """A drawing with two axes; one unit of it is a CSS pixel at natural size."""

    def __init__(
        self, x: Axis, y: Axis, *, size: tuple[float, float] = (WIDTH, HEIGHT), top: float = 20.0
    ) -> None:
        self.x, self.y = x, y
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = 40.0, size[0] - 8, top, size[1] - 36
        self.inside: list[str] = []
        """What is cut off at the axes' edges."""
        self.around: list[str] = []

    def at(self, x: Any, y: Any) -> list[tuple[float, float]]:
        """Pixels of points."""
        across = self.left + (self.right - self.left) * np.atleast_1d(self.x.place(x))
        up = self.bottom - (self.bottom - self.top) * self.y.place(y)
        return list(zip(*(v.tolist() for v in np.broadcast_arrays(across, up)), strict=True))

    def line(self, x: Any, y: Any, css: str, end: str = "") -> None:
        """Draw a curve through points, interrupted where one is not a number."""
        words, pen = [], "M"
        for a, b in self.at(x, y):
            known = math.isfinite(a) and math.isfinite(b)
            words.append(f"{pen}{a:.1f} {b:.1f}" if known else "")
            pen = "L" if known else "M"
        self.inside.append(f'<path class="{css}" d="{"".join(words)}{end}"/>')

    def area(self, x: Values, low: Values, high: Values, css: str) -> None:
        """Fill what lies between two curves."""
        x, low, high = (v[np.isfinite(low) & np.isfinite(high)] for v in (x, low, high))
        there_and_back = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
        self.line(*there_and_back, f"area {css}", "Z")

    def svg(self, label: str, x_name: str = "", y_name: str = "", *, x_ticks: int = 5) -> Markup:
        """The finished drawing."""
        lines, words = "", list(self.around)
        for value in self.y.ticks(4):
            [(_, y)] = self.at(self.x.low, value)
            lines += f"M{self.left:g} {y:.1f}H{self.right:g}"
            words.append(text_at(self.left - 5, y + 3.5, self.y.tick(value), "end"))
        for value in self.x.ticks(x_ticks) if x_ticks else ():
            [(x, _)] = self.at(value, self.y.low)
            words.append(text_at(x, self.bottom + 15, self.x.tick(value)))
        words.append(text_at(self.right, self.bottom + 30, x_name, "end"))
        words.append(text_at(0, 9, y_name, "start"))
        x, y, wide, high = self.left, self.top, self.right - self.left, self.bottom - self.top
        clip = (f'<svg class="clip" x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" '
                f'viewBox="{x:g} {y:g} {wide:g} {high:g}">')  # fmt: skip
        parts = [f'<path class="grid-line" d="{lines}"/>', clip, *self.inside, "</svg>", *words]
        return drawing(self.width, self.height, parts, label)


@dataclass(frozen=True)
class Curve:
    """A line of a chart, with what lies behind it."""

    title: str
    x: Values
    y: Values
    dashed: bool = False
    """A baseline: dashed, in the colour of the text."""
    pale: tuple[Values, Values] | None = None
    """(x, y) of the single values, of which `y` is the mean."""
    band: tuple[Values, Values, Values] | None = None
    """(x, smallest, largest), where there are too many single values to draw."""


class Chart(NamedTuple):
    """A chart for the page: the drawing, its legend, and what the pointer reads."""

    title: str
    unit: str
    svg: Markup
    legend: list[tuple[str, str, str]]
    """(class, name, newest value) of each curve."""
    pointer: dict[str, Any]


def curves(
    title: str, unit: str, lines: Sequence[Curve], *, x: Axis, y: Axis, x_name: str,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Chart:  # fmt: skip
    """Draw curves over one axis, with a read-out under the pointer.

    `marks` are symbols and where on the x axis they stand, each kind above the plot in its row.
    """
    plot = Plot(x, y)
    legend, read = [], []
    colours = itertools.cycle(("s1", "s2", "s3", "s4"))
    for curve in lines:
        css = "base" if curve.dashed else next(colours)
        if curve.band is not None:
            plot.area(*curve.band, css)
        if curve.pale is not None:
            plot.line(*curve.pale, f"line pale {css}")
        plot.line(curve.x, curve.y, f"line {css}")
        few = len(curve.x) <= 30 and not curve.dashed
        plot.inside += [
            f'<circle class="{css}" cx="{a:.1f}" cy="{b:.1f}" r="2"/>'
            for a, b in (plot.at(curve.x, curve.y) if few else ())
            if math.isfinite(b)
        ]
        values = [readable(v) for v in curve.y.tolist()]
        known = [v for v, n in zip(values, curve.y.tolist(), strict=True) if math.isfinite(n)]
        legend.append((css, curve.title, known[-1] if known else readable(None)))
        read.append({"x": [round(v, 4) for v in curve.x.tolist()], "y": values})
    for row, (symbol, places) in enumerate((marks or {}).items()):
        across = [a for a, _ in plot.at(list(places), y.high)]
        lines_up = "".join(f"M{a:.1f} {plot.top:g}V{plot.bottom:g}" for a in across)
        plot.around.append(f'<path class="mark-line" d="{lines_up}"/>')
        high = plot.top - 8 * (row % 2)
        plot.around += [text_at(a, high, symbol, css="mark") for a in across]
    box = {"w": plot.width, "x0": plot.left, "x1": plot.right, "y0": plot.top, "y1": plot.bottom,
           "low": x.low, "high": x.high, "name": x_name.split()[-1]}  # fmt: skip
    label = f"{title} ({unit or 'no unit'}) over {x_name}s"
    return Chart(title, unit, plot.svg(label, x_name), legend, {"box": box, "series": read})


def columns(rows: Sequence[tuple[str, float]], *, unit: str, label: str) -> Markup:
    """Draw a column for each (name, value), named below (as many names as there is room for).

    `unit` stands above the axis.
    """
    rows = rows or [("", 0.0)]
    top = rounded(max(v for _, v in rows) or 1, (1, 2, 4, 6, 8, 10))
    plot = Plot(Axis(0, len(rows)), Axis(0, top), size=(360, 186), top=16)
    step = (plot.right - plot.left) / len(rows)
    wide = min(step - min(2.0, 0.2 * step), 44.0)
    every = max(1, math.ceil((max(len(n) for n, _ in rows) * 6.5 + 6) / step))
    for i, (name, value) in enumerate(rows):
        x, height = plot.left + (i + 0.5) * step, (plot.bottom - plot.top) * value / top
        if value > 0:
            height = max(height, 1.0)  # what is there is seen
            plot.inside.append(
                f'<rect x="{x - wide / 2:.1f}" y="{plot.bottom - height:.1f}" width="{wide:.1f}" '
                f'height="{height:.1f}"><title>{escape(name)}: {value:,.4g}</title></rect>'
            )
        if i % every == 0 and (i + every <= len(rows) or i == len(rows) - 1):
            plot.around.append(text_at(x, plot.bottom + 15, name))
    return plot.svg(label, "", unit, x_ticks=0)


def tail(counts: Sequence[int], *, unit: str, label: str) -> Markup:
    """Draw the count of each class over its rank, both axes logarithmic; `counts` falls."""
    counts_C = np.maximum(np.asarray(counts or [1], np.float64), 1.0)
    x, y = Axis(1, max(len(counts_C), 2), log=True), Axis(1, max(10, counts_C[0]), log=True)
    plot = Plot(x, y, size=(360, 196), top=16)
    rank_X = np.unique(np.round(np.geomspace(1, len(counts_C), 240)))
    value_X = counts_C[rank_X.astype(int) - 1]
    plot.area(rank_X, np.ones_like(rank_X), value_X, "s1")
    plot.line(rank_X, value_X, "line s1")
    return plot.svg(label, "rank of the class", unit)


def world(places: Sequence[tuple[float, float, int]], *, label: str) -> Markup:
    """Draw (latitude, longitude, recordings) on a plain map: two units of drawing a degree."""
    south, north = -90 if any(lat < -60 for lat, _, _ in places) else -60, 84
    width, height = 720, 2 * (north - south)
    lines = "".join(f"M{2 * x} 0v{height}" for x in range(30, 360, 30))
    lines += "".join(f"M0 {2 * (north - y)}h{width}" for y in range(-60, 90, 30) if y > south)
    land = Path(__file__).with_name("land.txt").read_text("utf-8").splitlines()
    dots = [""] * len(_DOTS)
    for lat, lon, count in places:
        dots[bisect.bisect(_DOTS, count) - 1] += f"M{2 * (lon + 180):g} {2 * (north - lat):g}h0"
    parts = [
        f'<rect class="sea" width="{width}" height="{height}"/>',
        f'<path class="grid-line" d="{lines}"/>',
        f'<path class="land" d="{"".join(s for s in land if s[0] == "M")}"/>',
        *(f'<path class="places p{i}" d="{d}"/>' for i, d in enumerate(dots) if d),
    ]
    return drawing(width, height, parts, label, "map")
