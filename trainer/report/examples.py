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
_SOUND, _MAP, _GAP = 112.0, 40.0, 24.0
_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def drawn(example: Example) -> dict[str, Any]:
    """Return a clip for the page: title, facts, drawing, labels, and answers with their scores."""
    strip = _Strip(example)
    facts = [f"{strip.seconds:.1f} s"]
    shown = [panel for panel in example.panels if isinstance(panel, ScoresPanel)]
    for panel in example.panels:
        if isinstance(panel, TokenPanel):
            facts += strip.add_tokens(panel)
        elif isinstance(panel, ImagePanel):
            strip.row(panel.title)
            strip.image(
                sound_picture(panel.image_XF), _SOUND, "", len(panel.image_XF) * panel.step_s
            )
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

    def __init__(self, example: Example) -> None:
        self.seconds = example.sound.duration_s
        self.time = Axis(0.0, self.seconds)
        self.titles: list[str] = ["Spectrogram"]
        self.parts: list[str] = []
        self.bottom = 8.0
        self.image(sound_picture(example.sound.level_XF), _SOUND)
        band_hz = np.asarray(example.sound.band_hz)
        edge_hz = 2 * band_hz[-1] - band_hz[-2:][0]  # the upper edge, half a band above its centre
        last = math.inf
        for khz in _KHZ:
            if not band_hz[0] <= 1000 * khz <= edge_hz * 1.001:
                continue
            band = float(np.interp(1000 * khz, band_hz, np.arange(len(band_hz)) + 0.5))
            band = len(band_hz) if 1000 * khz > band_hz[-1] else band
            y = self.bottom - _SOUND * band / len(band_hz)
            if last - y >= 11:  # one label does not stand on another
                self.parts.append(text_at(_LEFT - 5, y + 3.5, f"{khz:g}", "end"))
                last = y
        turned = f"translate(11 {self.bottom - _SOUND / 2:g}) rotate(-90)"
        self.parts.append(f'<text transform="{turned}" text-anchor="middle">kHz</text>')

    def image(self, source: str, height: float, css: str = "", end_s: float | None = None) -> None:
        width = self._x(self.seconds if end_s is None else end_s) - _LEFT
        self.parts.append(
            f'<image class="{css}" x="{_LEFT:g}" y="{self.bottom:g}" width="{width:.1f}" '
            f'height="{height:g}" preserveAspectRatio="none" href="{source}"/>'
        )
        self.bottom += height

    def row(self, title: str) -> None:
        self.titles.append(title.lower())
        self.parts.append(text_at(_LEFT, self.bottom + 17, title, "start", "title"))
        self.bottom += _GAP

    def _x(self, seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * float(self.time.place(seconds))

    def add_tokens(self, panel: TokenPanel) -> list[str]:
        """The veil over the sound, the codes, hits and misses; what there is to say of them."""
        shape, end_s = (panel.times, panel.bands), panel.times * panel.token_s
        mask = None if panel.mask_N is None else panel.mask_N.reshape(shape)
        if mask is not None:
            self._squares(mask, panel, 8.0, _SOUND, "veil", (0.0, 0.0))
        if panel.code_N is not None:
            self.row("Target codes")
            self.image(code_picture(panel.code_N.reshape(shape)), _MAP, "codes", end_s)
        if panel.predicted_N is not None:
            self.row("Predicted codes at masked places")
            picture = code_picture(panel.predicted_N.reshape(shape), mask)
            self.image(picture, _MAP, "codes", end_s)
        hits_N = panel.hits_N
        if hits_N is None:
            return [] if mask is None else [f"{mask.sum()} of {mask.size} tokens masked"]
        self.row("Right (filled) and wrong (dot)")
        wide = self._x(panel.token_s) - _LEFT
        high = _MAP / panel.bands
        dot = 0.36 * min(wide, high)
        hits = hits_N.reshape(shape)
        self._squares(hits == 1, panel, self.bottom, _MAP, "hit", (0.4, 0.4))
        around = (wide - dot) / 2, (high - dot) / 2
        self._squares(hits == 0, panel, self.bottom, _MAP, "miss", around)
        self.bottom += _MAP
        masked, right = int((hits_N >= 0).sum()), int((hits_N == 1).sum())
        share = f", {right / masked:.0%} of them predicted right" if masked else ""
        return [f"{masked} of {hits_N.size} tokens masked{share}"]

    def _squares(
        self, which: NDArray[np.bool_], panel: TokenPanel, top: float, height: float, css: str,
        margin: tuple[float, float],
    ) -> None:  # fmt: skip
        """All marked tokens as one path; `margin` in pixels is left free inside each."""
        wide, high = self._x(panel.token_s) - _LEFT - 2 * margin[0], height / panel.bands
        path = "".join(
            f"M{self._x(t * panel.token_s) + margin[0]:.1f} "
            f"{top + height - (f + 1) * high + margin[1]:.1f}h{wide:.1f}v{high - 2 * margin[1]:.1f}"
            f"h-{wide:.1f}z"
            for t, f in np.argwhere(which).tolist()
        )
        self.parts.append(f'<path class="{css}" d="{path}"/>')

    def svg(self) -> Markup:
        """The drawing."""
        times = self.time.ticks(6)
        parts = [text_at(self._x(t), self.bottom + 15, f"{t:g}", "middle") for t in times]
        parts.append(text_at(_RIGHT, self.bottom + 30, "time (s)", "end"))
        label = f"{', '.join(self.titles)}; {self.seconds:.1f} s"
        return drawing(_WIDTH, self.bottom + 34, self.parts + parts, label)
