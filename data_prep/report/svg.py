"""The page's three drawings as inline SVG: columns, the long tail, the map.

Drawn by hand, since they are small: colours are the page's CSS variables (one drawing serves light,
dark and print), text is text, and a map of any number of recordings takes 20 kB.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from importlib import resources

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 360, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 4, 14, 24
_LEVELS = (1, 3, 10, 100, 1000)


def columns(values: Sequence[float], names: Sequence[str], *, unit: str, label: str) -> Markup:
    """A column for each value, named below (as many names as there is room for).

    `unit` stands above the axis, `label` describes the drawing to those who do not see it.
    """
    top = _nice(max(values, default=0) or 1)
    inner, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = inner / max(len(values), 1)
    gap = min(2.0, 0.2 * step)
    parts = _grid([top * i / 4 for i in range(5)], lambda v: v / top, unit)
    every = max(1, math.ceil((max(map(len, names), default=1) * 6.5 + 6) / step))
    wide = min(step - gap, 44.0)
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        x, h = _LEFT + i * step, height * value / top
        if value > 0:
            h = max(h, 1.0)  # what is there is seen
            parts.append(
                f'<rect class="fill" x="{x + (step - wide) / 2:.1f}" y="{_TOP + height - h:.1f}" '
                f'width="{wide:.1f}" height="{h:.1f}"><title>{escape(name)}: '
                f"{value:,.4g}</title></rect>"
            )
        if i % every == 0 and (i + every <= len(values) or i == len(values) - 1 or every == 1):
            parts.append(_text(x + step / 2, _HEIGHT - 8, name, "middle"))
    return _svg(_WIDTH, _HEIGHT, parts, label)


def tail(counts: Sequence[int], *, label: str) -> Markup:
    """Recordings over the rank of the class, both logarithmic: `counts` falls."""
    most, ranks = max(counts, default=1), max(len(counts), 1)
    decades = max(1, math.ceil(math.log10(max(most, 2)) - 1e-9))
    width = max(math.log10(max(ranks, 2)), 0.3)
    inner, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = _grid(
        [10.0**k for k in range(decades + 1)], lambda v: math.log10(v) / decades, "recordings"
    )
    chosen = sorted({round(10 ** (width * i / 240)) for i in range(241)} | {1, ranks})
    points = [
        f"{_LEFT + inner * math.log10(rank) / width:.1f},"
        f"{_TOP + height * (1 - math.log10(max(counts[rank - 1], 1)) / decades):.1f}"
        for rank in chosen
        if rank <= len(counts)
    ]
    floor = f"{_TOP + height}"
    if points:
        last = points[-1].partition(",")[0]
        parts.append(
            f'<polygon class="area" points="{_LEFT},{floor} {" ".join(points)} {last},{floor}"/>'
            f'<polyline class="line" points="{" ".join(points)}"/>'
        )
    for k in range(math.floor(width) + 1):
        x = _LEFT + inner * k / width
        parts.append(_text(x, _HEIGHT - 8, short(10**k), "middle" if k else "start"))
    parts.append(_text(_WIDTH, _HEIGHT + 4, "rank of the class", "end"))
    return _svg(_WIDTH, _HEIGHT + 8, parts, label)


def world(places: Sequence[tuple[float, float, int]], *, label: str) -> Markup:
    """Recordings by place on a plain (equirectangular) map: two units of drawing a degree."""
    south = -90.0 if any(lat < -60 for lat, _, _ in places) else -60.0
    north = 84.0
    width, height = 720, round(2 * (north - south))
    frame = f"0 0 {width} {height}"
    parts = [f'<rect class="sea" width="{width}" height="{height}"/>']
    lines = "".join(f"M{2 * x} 0v{height}" for x in range(30, 360, 30))
    lines += "".join(f"M0 {2 * (north - y):g}h{width}" for y in range(-60, 90, 30) if y > south)
    parts.append(f'<path class="graticule" d="{lines}"/>')
    parts.append(f'<path class="land" d="{_land(north)}"/>')
    levels: list[list[str]] = [[] for _ in _LEVELS]
    for lat, lon, count in places:
        level = max(i for i, least in enumerate(_LEVELS) if count >= least)
        levels[level].append(f"M{2 * (lon + 180):g} {2 * (north - lat):g}h0")
    parts += [
        f'<path class="places p{i}" d="{"".join(dots)}"/>' for i, dots in enumerate(levels) if dots
    ]
    head = f'<svg class="map" role="img" aria-label="{escape(label)}" viewBox="{frame}">'
    return Markup(head + "".join(parts) + "</svg>")


def map_levels() -> list[tuple[int, str]]:
    """(class of the style sheet, meaning) of the map's five kinds of dot."""
    ends = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in itertools.pairwise(_LEVELS)]
    return list(enumerate([*ends, f"{_LEVELS[-1]:,} or more"]))


@functools.cache
def _land(north: float) -> str:
    """The outlines as one path, relative (that is half the size)."""
    text = (resources.files("dawnchorus.data_prep.report") / "land.txt").read_text("utf-8")
    rings = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        points = [tuple(map(int, pair.split(","))) for pair in line.split()]
        at = [(round(2 * (x + 900) / 5, 1), round(2 * (5 * north - y) / 5, 1)) for x, y in points]
        steps = [
            f"{round(b[0] - a[0], 1):g} {round(b[1] - a[1], 1):g}"
            for a, b in itertools.pairwise(at)
        ]
        rings.append(f"M{at[0][0]:g} {at[0][1]:g}l{' '.join(steps)}z")
    return "".join(rings)


def short(value: float) -> str:
    """1,200 -> "1.2k", 3,000,000 -> "3M"."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _nice(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten: its quarters are short numbers."""
    power = 10 ** math.floor(math.log10(value))
    steps = (1, 2, 4, 6, 8, 10)
    return float(next(step * power for step in steps if step * power >= value * (1 - 1e-9)))


def _grid(values: Sequence[float], place: Callable[[float], float], unit: str) -> list[str]:
    height = _HEIGHT - _TOP - _BOTTOM
    parts = []
    for value in values:
        y = _TOP + height * (1 - place(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 5, y + 3.5, short(value), "end"))
    parts.append(_text(_LEFT, 6, unit, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> Markup:
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}">'
    return Markup(head + "".join(parts) + "</svg>")
