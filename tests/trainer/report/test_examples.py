from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dawnchorus.trainer.page.pictures import code_colours, sound_picture
from dawnchorus.trainer.panels import (
    Example,
    ImagePanel,
    Panel,
    ScoresPanel,
    Spectrogram,
    TokenPanel,
    mel_centres,
)
from dawnchorus.trainer.report.page import render
from dawnchorus.trainer.report.reading import Run


def shown(*panels: Panel, labels: tuple[str, ...] = ("a",), frames: int = 160) -> str:
    level = np.random.default_rng(0).normal(-60, 9, (frames, 128)).astype(np.float32)
    sound = Spectrogram(level, 0.01, mel_centres(128, 20.0, 8000.0))
    example = Example("s", "k", labels, sound, panels)
    return render([Run(Path("x"), examples=[example], ranks={"a": "species"})])


def tokens(**arrays: Any) -> TokenPanel:
    return TokenPanel(0.16, 8, **{f"{name}_N": value for name, value in arrays.items()})


def test_frequencies_lie_where_the_bands_have_them() -> None:
    text = shown()
    # Half way between m(20 Hz) and m(8 kHz) on Kaldi's scale the picture has its middle.
    ruler = dict(re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)</text>', text))
    places = {khz: float(y) - 3.5 for y, khz in ruler.items()}
    assert list(places) == ["0.25", "1", "2", "4", "8"]  # 0.5 has no room
    assert places["8"] == pytest.approx(8.0, abs=0.5)  # the upper edge
    low, high = (1127 * math.log(1 + hz / 700) for hz in (20, 8000))
    want = 8 + 112 * (1 - (1127 * math.log(1 + 2000 / 700) - low) / (high - low))
    assert places["2"] == pytest.approx(want, abs=1.0)


def test_hits_are_counted_and_drawn_over_masked_tokens_only() -> None:
    mask = np.zeros(80, bool)
    mask[[0, 1, 2, 3]] = True
    code = np.arange(80)
    text = shown(tokens(mask=mask, code=code, predicted=np.where(code < 3, code, code + 1)))
    assert "1.6 s; 4 of 80 tokens masked, 75% of them predicted right" in text
    drawn = {css: re.search(rf'class="{css}" d="([^"]*)"', text) for css in ("veil", "hit", "miss")}
    assert {css: found and found[1].count("M") for css, found in drawn.items()} == {
        "veil": 4, "hit": 3, "miss": 1,
    }  # fmt: skip
    for title in ("Target codes", "Predicted codes", "Right (filled)", "kHz", "time (s)"):
        assert title in text


def test_the_mask_lies_over_the_right_patch() -> None:
    mask = np.zeros(80, bool)
    mask[8 * 3 + 7] = True  # fourth column of time, highest band
    found = re.search(
        r'x="44" y="8" width="([\d.]+)" height="112" viewBox="0 0 10 8" '
        r'preserveAspectRatio="none"><path class="veil" d="([^"]*)"',
        shown(tokens(mask=mask)),
    )
    assert found is not None and found[2] == "M3 0h1v1h-1z"
    assert float(found[1]) == pytest.approx(358)


def test_every_kind_of_panel_is_drawn_and_a_clip_needs_none() -> None:
    assert "Target codes" not in shown() and "<h4>Labels</h4>" not in shown(labels=())
    assert "Target codes" in shown(tokens(code=np.arange(80)))
    image = ImagePanel("Reconstruction <b>", np.random.default_rng(0).random((10, 128)), 0.16)
    text = shown(image, ScoresPanel((("a", 0.5),)), tokens(mask=np.ones(80, bool)))
    assert "Reconstruction &lt;b&gt;" in text and text.count("<image") == 2
    assert "80 of 80 tokens masked" in text and "✓" in text


def test_flat_and_silent_clips_have_a_picture_and_long_ones_a_small_one() -> None:
    for level in (np.full((100, 128), -100.0), np.full((3, 9), np.nan), np.zeros((1, 1))):
        assert sound_picture(level).startswith("data:image/webp;base64,")
    assert len(shown(frames=6000)) < 120_000


def test_scores_are_sorted_and_the_true_label_is_known() -> None:
    scores = ScoresPanel((("a", 0.9), ("c", float("nan")), ("b", 0.2), ("d", 1.7)))

    def rows(*labels: str) -> list[tuple[str, str]]:
        text = shown(scores, labels=labels)
        return re.findall(r'<li class="(\w+)"><span class="name">(?:<i>)?(\w)', text)

    assert rows("a") == [("wrong", "d"), ("wrong", "a"), ("wrong", "b")]
    assert "label, rank 2" in shown(scores) and "width:100.0%" in shown(scores)
    # An answer names as many classes as the clip has labels: the second of two is one of them.
    assert rows("a", "z") == [("wrong", "d"), ("right", "a"), ("wrong", "b")]
    assert "not among the 4 highest" in shown(scores, labels=("z",))


def test_a_code_has_one_colour_and_neighbours_differ() -> None:
    colours = code_colours(np.arange(1024))
    assert colours.shape == (1024, 4) and colours.min() >= 0 and colours.max() <= 1
    np.testing.assert_allclose(code_colours(np.array([[7]]))[0, 0], colours[7])
    assert np.abs(np.diff(colours[:, :3], axis=0)).max(axis=1).min() > 0.1
