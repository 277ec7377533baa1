"""The clips of a run as figures: the sound, and below it whatever panels the objective gave.

Shape legend: X times, F bands.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dawnchorus.trainer.page.charts import Axis, drawing, text_at
from dawnchorus.trainer.page.pictures import code_picture, sound_picture
from dawnchorus.trainer.panels import Example, ImagePanel, ScoresPanel, TokenPanel

_WIDTH, _LEFT, _RIGHT = 410.0, 44.0, 402.0
_TOP, _SOUND, _MAP, _GAP = 8.0, 112.0, 40.0, 24.0
_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def drawn(example: Example) -> dict[str, Any]:
    """Return a clip for the page: title, facts, drawing, labels, and answers with their scores."""
    sound = example.sound
    strip = _Strip(sound.duration_s)
    strip.row("Spectrogram", sound_picture(sound.level_XF), _SOUND, sound.duration_s)
    strip.frequencies(np.asarray(sound.band_hz))
    facts = [f"{sound.duration_s:.1f} s"]
    shown = [panel for panel in example.panels if isinstance(panel, ScoresPanel)]
    for panel in example.panels:
        if isinstance(panel, TokenPanel):
            facts += strip.tokens(panel)
        elif isinstance(panel, ImagePanel):
            end_s = len(panel.image_XF) * panel.step_s
            strip.row(panel.title, sound_picture(panel.image_XF), _SOUND, end_s)
    named = {name for panel in shown for name, _ in panel.scores}
    late = f"not among the {sum(len(panel.scores) for panel in shown)} highest"
    return {
        "title": example.key or "example",
        "facts": (f"{example.source} · " if example.source else "") + "; ".join(facts),
        "svg": strip.svg(),
        "labels": [(n, late if shown and n not in named else "") for n in example.labels],
        "answers": [_scores(panel, example.labels) for panel in shown],
    }


def _scores(panel: ScoresPanel, labels: tuple[str, ...]) -> list[tuple[str, float, bool, str]]:
    """(class, score, whether it is right, what is said of a label that came too late).

    An answer names as many classes as the clip has labels: those among the first are right.
    """
    finite = sorted((p for p in panel.scores if math.isfinite(p[1])), key=lambda pair: -pair[1])
    first = len(set(labels))
    return [
        (name, score, name in labels and rank <= first,
         f"label, rank {rank}" if name in labels else "")
        for rank, (name, score) in enumerate(finite, 1)
    ]  # fmt: skip


class _Strip:
    """A drawing of rows over one time axis, the sound at the top."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.time = Axis(0.0, seconds)
        self.titles: list[str] = []
        self.parts: list[str] = []
        self.bottom = _TOP

    def _x(self, seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * float(self.time.place(seconds))

    def row(self, title: str, source: str, height: float, end_s: float, css: str = "") -> None:
        """Add a row below, and its picture; the first needs no title."""
        if self.titles:
            self.parts.append(text_at(_LEFT, self.bottom + 17, title, "start", "title"))
            self.bottom += _GAP
        self.titles.append(title.lower())
        if source:
            self.parts.append(
                f'<image class="{css}" x="{_LEFT:g}" y="{self.bottom:g}" height="{height:g}" '
                f'width="{self._x(end_s) - _LEFT:.1f}" preserveAspectRatio="none" href="{source}"/>'
            )
        self.bottom += height

    def frequencies(self, band_hz: NDArray[Any]) -> None:
        """Name frequencies beside the sound."""
        edge_hz = 2 * band_hz[-1] - band_hz[-2:][0]  # the upper edge, half a band above its centre
        last = math.inf
        for khz in _KHZ:
            if not band_hz[0] <= 1000 * khz <= edge_hz * 1.001:
                continue
            band = float(np.interp(1000 * khz, band_hz, np.arange(len(band_hz)) + 0.5))
            band = len(band_hz) if 1000 * khz > band_hz[-1] else band
            y = _TOP + _SOUND * (1 - band / len(band_hz))
            if last - y >= 11:  # one label does not stand on another
                self.parts.append(text_at(_LEFT - 5, y + 3.5, f"{khz:g}", "end"))
                last = y
        turned = f"translate(11 {_TOP + _SOUND / 2:g}) rotate(-90)"
        self.parts.append(f'<text transform="{turned}" text-anchor="middle">kHz</text>')

    def tokens(self, panel: TokenPanel) -> list[str]:
        """Draw the veil over the sound, codes, hits and misses; return what there is to say."""
        end_s = panel.times * panel.token_s
        arrays: list[NDArray[Any] | None] = [
            panel.mask_N, panel.code_N, panel.predicted_N, panel.hits_N
        ]  # fmt: skip
        mask, code, predicted, hits = (
            None if n is None else n.reshape(panel.times, panel.bands) for n in arrays
        )
        if mask is not None:
            self._marks(mask, "veil", "h1v1h-1z", _TOP, _SOUND, end_s)
        if code is not None:
            self.row("Target codes", code_picture(code), _MAP, end_s, "codes")
        if predicted is not None:
            picture = code_picture(predicted, mask)
            self.row("Predicted codes at masked places", picture, _MAP, end_s, "codes")
        if hits is None:
            return [] if mask is None else [f"{mask.sum()} of {mask.size} tokens masked"]
        self.row("Right (filled) and wrong (dot)", "", _MAP, end_s)
        for value, css, form in ((1, "hit", "m.04 .08h.92v.84h-.92z"), (0, "miss", "m.5 .5h0")):
            self._marks(hits == value, css, form, self.bottom - _MAP, _MAP, end_s)
        masked, right = int((hits >= 0).sum()), int((hits == 1).sum())
        share = f", {right / masked:.0%} of them predicted right" if masked else ""
        return [f"{masked} of {hits.size} tokens masked{share}"]

    def _marks(
        self, which_XF: NDArray[np.bool_], css: str, form: str, y: float, height: float,
        end_s: float,
    ) -> None:  # fmt: skip
        """Draw `form` at all marked tokens, one unit of which is a token."""
        (times, bands), wide = which_XF.shape, self._x(end_s) - _LEFT
        path = "".join(f"M{t} {bands - 1 - f}{form}" for t, f in np.argwhere(which_XF).tolist())
        self.parts.append(
            f'<svg class="clip" x="{_LEFT:g}" y="{y:g}" width="{wide:.1f}" height="{height:g}" '
            f'viewBox="0 0 {times} {bands}" preserveAspectRatio="none">'
            f'<path class="{css}" d="{path}"/></svg>'
        )

    def svg(self) -> Markup:
        """The drawing."""
        ticks = [(self._x(t), f"{t:g}") for t in self.time.ticks(6)]
        parts = [text_at(x, self.bottom + 15, text) for x, text in ticks]
        parts.append(text_at(_RIGHT, self.bottom + 30, "time (s)", "end"))
        label = f"{', '.join(self.titles).capitalize()}; {self.seconds:.1f} s"
        return drawing(_WIDTH, self.bottom + 34, self.parts + parts, label)
