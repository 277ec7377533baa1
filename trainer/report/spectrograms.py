"""Examples as pictures: log-mel, the mask over it, target and predicted codes, hits and misses.

Shape legend: T frames, F mel bins, N tokens; token n = columns * t + f, f from low to high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dawnchorus.trainer.report.reading import Example, Run
from dawnchorus.trainer.report.svg import BAD, GOOD, GRID, VEIL, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 410.0
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 44.0, 8.0, 8.0, 34.0, 24.0
_MEL_HEIGHT, _MAP_HEIGHT = 112.0, 40.0
_KHZ = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_LOW_HZ = 20.0


@dataclass(frozen=True)
class Scales:
    """What frames, bins and tokens are in seconds and hertz."""

    hop_s: float = 0.010
    bins: int = 128
    high_hz: float = 8000.0
    patch: int = 16

    @property
    def columns(self) -> int:
        """Tokens per patch of time."""
        return max(self.bins // self.patch, 1)

    @staticmethod
    def of(run: Run, bins: int) -> Scales:
        """From the recipe's encoder; the BEATs numbers where it does not say."""
        rate = run.number("encoder", "sample_rate_hz", default=16000)
        patch = int(run.number("encoder", "patch", default=16))
        return Scales(bins=bins, high_hz=rate / 2, patch=patch if 0 < patch <= bins else bins)

    def bin_of(self, hz: float) -> float:
        """Mel bin (0 = centre of the lowest triangle) of a frequency.

        Kaldi: m(f) = 1127 ln(1 + f/700); `bins` triangles whose edges divide m(20 Hz) .. m(high)
        into bins + 1 equal parts (reference: Kaldi's mel-computations.cc).
        """
        low, high = mel(_LOW_HZ), mel(self.high_hz)
        return (mel(hz) - low) / ((high - low) / (self.bins + 1)) - 1


def mel(hz: float) -> float:
    """Mel of a frequency in Hz, Kaldi's formula."""
    return 1127.0 * math.log1p(hz / 700.0)


@dataclass(frozen=True)
class Picture:
    """An example ready for the page."""

    example: Example
    svg: Markup
    facts: str
    predictions: list[dict[str, Any]]

    @property
    def masked(self) -> bool:
        """Whether a mask is drawn over it."""
        return self.example.mask_N is not None


def picture(run: Run, example: Example) -> Picture:
    """Draw one example, as far as its arrays go."""
    scales = Scales.of(run, example.mel_TF.shape[1])
    grid = _Grid.of(example, scales)
    maps = _maps(grid) if grid else []
    height = _TOP + _MEL_HEIGHT + _BOTTOM + len(maps) * (_MAP_HEIGHT + _GAP)
    duration_s = example.mel_TF.shape[0] * scales.hop_s

    def paint(figure: Figure) -> None:
        top = _TOP
        axes = _panel(figure, top, _MEL_HEIGHT, height)
        _paint_mel(axes, example.mel_TF, scales)
        if grid is not None and grid.mask is not None:
            _paint_squares(axes, grid.mask, grid, VEIL, "veil", margin=(0.0, 0.0))
        for title, kind, values in maps:
            _bare_axis(axes)
            top += (_MEL_HEIGHT if axes is figure.axes[0] else _MAP_HEIGHT) + _GAP
            axes = _panel(figure, top, _MAP_HEIGHT, height)
            _paint_map(axes, kind, values, grid, scales, duration_s)
            axes.text(0, 1.06, title, transform=axes.transAxes, ha="left", va="bottom")
        axes.set_xlabel("time (s)", loc="right", labelpad=2)

    what = "Log-mel spectrogram with mask, codes and hits" if maps else "Log-mel spectrogram"
    svg = draw(_WIDTH, height, paint, font_px=11.0, label=f"{what}, {duration_s:.1f} s")
    return Picture(example, svg, _facts(example, grid, duration_s), _scores(example))


# --------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class _Grid:
    """The token arrays of an example as (time, frequency) maps, valid tokens only."""

    times: int
    columns: int
    patch: int
    hop_s: float
    mask: NDArray[np.bool_] | None
    code: NDArray[np.int64] | None
    predicted: NDArray[np.int64] | None

    @staticmethod
    def of(example: Example, scales: Scales) -> _Grid | None:
        arrays = (example.mask_N, example.code_N, example.predicted_N)
        present = [a for a in arrays if a is not None]
        if not present:
            return None
        whole = example.mel_TF.shape[0] // scales.patch
        times = min(max(whole, 1), min(a.size for a in present) // scales.columns)
        if times < 1:
            return None
        shape = (times, scales.columns)
        cut = [None if a is None else a[: times * scales.columns].reshape(shape) for a in arrays]
        return _Grid(times, scales.columns, scales.patch, scales.hop_s, *cut)

    @property
    def hits(self) -> NDArray[np.int8] | None:
        """1 right, 0 wrong, -1 visible; None where an array is missing."""
        if self.mask is None or self.code is None or self.predicted is None:
            return None
        return np.where(self.mask, self.code == self.predicted, -1).astype(np.int8)


def _maps(grid: _Grid) -> list[tuple[str, str, Any]]:
    """(title, kind, values) of the panels below the spectrogram."""
    maps: list[tuple[str, str, Any]] = []
    if grid.code is not None:
        maps.append(("Target codes", "codes", (grid.code, None)))
    if grid.predicted is not None:
        maps.append(("Predicted codes at masked places", "codes", (grid.predicted, grid.mask)))
    if grid.hits is not None:
        maps.append(("Right (filled) and wrong (dot)", "hits", grid.hits))
    return maps


def _facts(example: Example, grid: _Grid | None, duration_s: float) -> str:
    hits = grid.hits if grid is not None else None
    if hits is None:
        return f"{duration_s:.1f} s"
    masked, right = int((hits >= 0).sum()), int((hits == 1).sum())
    share = f", {right / masked:.0%} of them predicted right" if masked else ""
    return f"{duration_s:.1f} s; {masked} of {hits.size} tokens masked{share}"


def _scores(example: Example, limit: int = 5) -> list[dict[str, Any]]:
    finite = [pair for pair in example.predictions if math.isfinite(pair[1])]
    best = sorted(finite, key=lambda pair: -pair[1])[:limit]
    true = set(example.labels)
    return [
        {
            "name": name,
            "score": score,
            "width": 100 * min(max(score, 0.0), 1.0),
            # An answer names as many classes as the clip has labels.
            "right": name in true and rank <= len(true),
            "label": name in true,
            "rank": rank,
        }
        for rank, (name, score) in enumerate(best, 1)
    ]


# --------------------------------------------------------------------------- painting


def _panel(figure: Figure, top: float, height: float, total: float) -> Axes:
    width = 1 - (_LEFT + _RIGHT) / _WIDTH
    return figure.add_axes((_LEFT / _WIDTH, 1 - (top + height) / total, width, height / total))


def _bare_axis(axes: Axes) -> None:
    axes.tick_params(labelbottom=False)


def _paint_mel(axes: Axes, mel_TF: NDArray[np.float32], scales: Scales) -> None:
    # Digital silence lies at the floor, far below any sound, and would take all the contrast.
    sound = mel_TF[mel_TF > mel_TF.min() + 0.01]
    low, high = np.percentile(sound if sound.size else mel_TF, [5, 99.8])
    axes.imshow(
        _narrower(mel_TF).T, origin="lower", aspect="auto", cmap="magma", interpolation="none",
        vmin=low, vmax=max(high, low + 1e-6),
        extent=_extent(mel_TF.shape[0] * scales.hop_s, scales),
    )  # fmt: skip
    shown = [k for k in _KHZ if k * 1000 <= scales.high_hz]
    # The lowest ones lie too close together on the mel scale.
    ticks = [k for k in shown if k >= 0.25]
    # The highest frequency is the upper edge of the highest triangle, half a bin above the picture.
    top = scales.bins - 0.5
    places = [min(scales.bin_of(k * 1000), top) for k in ticks]
    axes.set_yticks(places, [f"{k:g}" for k in ticks])
    axes.set_ylim(-0.5, top)
    axes.set_ylabel("kHz (mel scale)", labelpad=4)


def _narrower(mel_TF: NDArray[np.float32], most: int = 640) -> NDArray[np.float32]:
    """Neighbouring frames averaged until the picture is no wider than a screen shows it."""
    factor = -(-mel_TF.shape[0] // most)
    if factor < 2:
        return mel_TF
    starts = np.arange(0, mel_TF.shape[0], factor)
    sums = np.add.reduceat(mel_TF, starts, axis=0)
    counts = np.diff(np.append(starts, mel_TF.shape[0]))
    mean: NDArray[np.float32] = (sums / counts[:, None]).astype(np.float32)
    return mean


def _extent(duration_s: float, scales: Scales) -> tuple[float, float, float, float]:
    return (0.0, duration_s, -0.5, scales.bins - 0.5)


def _paint_map(
    axes: Axes, kind: str, values: Any, grid: _Grid | None, scales: Scales, duration_s: float
) -> None:
    assert grid is not None
    axes.set_xlim(0, duration_s)
    axes.set_ylim(-0.5, scales.bins - 0.5)
    axes.set_yticks([])
    if kind == "codes":
        codes, mask = values
        axes.set_gid("css-codes")
        colours = code_colours(codes)
        if mask is not None:
            colours[..., 3] = np.where(mask, 1.0, 0.0)
        end_s = grid.times * grid.patch * grid.hop_s
        axes.imshow(
            colours.transpose(1, 0, 2), origin="lower", aspect="auto", interpolation="none",
            extent=(0.0, end_s, -0.5, grid.columns * grid.patch - 0.5),
        )  # fmt: skip
        axes.set_xlim(0, duration_s)
        axes.set_ylim(-0.5, scales.bins - 0.5)
        return
    # Margins as shares of a patch, so that marks look alike on clips of any length.
    width_px = (_WIDTH - _LEFT - _RIGHT) * grid.patch * grid.hop_s / duration_s
    height_px = _MAP_HEIGHT * grid.patch / scales.bins
    dot_px = 0.36 * min(width_px, height_px)
    gap = (0.4 / width_px, 0.4 / height_px)
    around = (0.5 - 0.5 * dot_px / width_px, 0.5 - 0.5 * dot_px / height_px)
    _paint_squares(axes, values == 1, grid, GOOD, "hit", margin=gap)
    _paint_squares(axes, values == 0, grid, BAD, "miss", margin=around)
    axes.spines["bottom"].set_color(GRID)


def _paint_squares(
    axes: Axes,
    which: NDArray[np.bool_],
    grid: _Grid,
    colour: str,
    name: str,
    *,
    margin: tuple[float, float],
) -> None:
    """All marked patches as one path; `margin` is left free around each, as shares of a patch."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    vertices: list[tuple[float, float]] = []
    for t, low, high in _runs(which, merge=margin == (0.0, 0.0)):
        x0, x1 = (
            (t + margin[0]) * grid.patch * grid.hop_s,
            (t + 1 - margin[0]) * grid.patch * grid.hop_s,
        )
        y0, y1 = (low + margin[1]) * grid.patch - 0.5, (high - margin[1]) * grid.patch - 0.5
        vertices += [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    if not vertices:
        return
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    path = Path(vertices, codes * (len(vertices) // 5))
    axes.add_patch(PathPatch(path, facecolor=colour, lw=0, gid=f"css-{name}", snap=False))


def _runs(which: NDArray[np.bool_], *, merge: bool) -> Sequence[tuple[int, int, int]]:
    """(time, first row, end row) of the marked patches; neighbours in one column may be merged."""
    if not merge:
        return [(int(t), int(f), int(f) + 1) for t, f in np.argwhere(which)]
    found = []
    padded = np.pad(which.astype(np.int8), ((0, 0), (1, 1)))
    for t, row in enumerate(np.diff(padded, axis=1)):
        starts, ends = np.flatnonzero(row == 1), np.flatnonzero(row == -1)
        found += [(t, int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
    return found


def code_colours(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """RGBA of each code, the same code always in the same colour.

    Hues go round by the golden angle, so that near numbers, which mean nothing, do not look alike;
    lightness steps through three levels, which tells hues apart that a colour-blind eye confuses.
    The colours are OKLCH, converted with Ottosson's matrices (https://bottosson.github.io/posts/oklab).
    """
    hue = np.deg2rad((codes * 137.50776) % 360.0)
    light = 0.55 + 0.14 * (codes % 3)
    chroma = 0.11
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
         [1, -0.0894841775, -1.2914855480]]
    )  # fmt: skip
    to_rgb = np.array(
        [[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
         [-0.0041960863, -0.7034186147, 1.7076147010]]
    )  # fmt: skip
    linear = ((np.stack([light, a, b], axis=-1) @ to_lms.T) ** 3) @ to_rgb.T
    linear = np.clip(linear, 0.0, 1.0)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.concatenate([rgb, np.ones((*codes.shape, 1))], axis=-1)
