from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dawnchorus.trainer.report.reading import Example, Run
from dawnchorus.trainer.report.spectrograms import Scales, code_colours, picture


def example(frames: int = 160, **arrays: Any) -> Example:
    mel_TF = np.random.default_rng(0).standard_normal((frames, 128)).astype(np.float32)
    return Example("k", "s", ["a"], [], mel_TF, **arrays)


def test_frequencies_lie_where_the_front_end_has_them() -> None:
    scales = Scales()
    # The centre of bin b is at mel(20) + (b + 1) * step.
    step = (1127 * math.log(1 + 8000 / 700) - 1127 * math.log(1 + 20 / 700)) / 129
    for b in (0, 31, 64, 127):
        hz = 700 * (math.exp((1127 * math.log(1 + 20 / 700) + (b + 1) * step) / 1127) - 1)
        assert scales.bin_of(hz) == pytest.approx(b, abs=1e-6)


def test_the_ruler_agrees_with_the_front_end_itself() -> None:
    torch = pytest.importorskip("torch")
    from dawnchorus.trainer.frontends.kaldi import BeatsLogMel

    time = torch.arange(16_000) / 16_000
    for hz in (500.0, 1000.0, 3000.0):
        wav_BT = 0.5 * torch.sin(2 * math.pi * hz * time)[None]
        mel_BTF, _ = BeatsLogMel()(wav_BT, torch.tensor([16_000]))
        assert abs(int(mel_BTF[0, 50].argmax()) - Scales().bin_of(hz)) <= 1.0


def test_scales_follow_the_recipe() -> None:
    run = Run(Path("x"), recipe={"encoder": {"sample_rate_hz": 32_000, "patch": 8}})
    scales = Scales.of(run, 64)
    assert (scales.high_hz, scales.columns) == (16_000, 8)


def test_hits_are_counted_over_masked_valid_tokens_only() -> None:
    n = 20 * 8  # the arrays are padded to 20 columns of time, the clip has 10
    mask_N = np.zeros(n, bool)
    mask_N[[0, 1, 2, 3]] = True
    mask_N[100:] = True
    code_N = np.arange(n)
    predicted_N = np.where(np.arange(n) < 3, code_N, code_N + 1)
    drawn = picture(Run(Path("x")), example(160, mask_N=mask_N, code_N=code_N,
                                            predicted_N=predicted_N))  # fmt: skip
    assert drawn.facts == "1.6 s; 4 of 80 tokens masked, 75% of them predicted right"
    assert 'class="veil"' in drawn.svg
    for title in ("Target codes", "Predicted codes", "Right (filled)", "kHz", "time (s)"):
        assert title in drawn.svg


def test_the_mask_lies_over_the_right_patch() -> None:
    mask_N = np.zeros(80, bool)
    mask_N[8 * 3 + 7] = True  # fourth column of time, highest band
    drawn = picture(Run(Path("x")), example(160, mask_N=mask_N))
    veil = drawn.svg.split('class="veil"')[1].split('d="')[1].split('"')[0]
    xs, ys = (
        np.array(veil.replace("M", "").replace("L", "").replace("z", "").split(), float)
        .reshape(-1, 2)
        .T
    )
    left, width, top, height = 44.0, 410 - 52, 8.0, 112.0
    np.testing.assert_allclose([xs.min(), xs.max()], left + width * np.array([0.3, 0.4]), atol=0.1)
    np.testing.assert_allclose([ys.min(), ys.max()], top + height * np.array([0, 1 / 8]), atol=0.1)


def test_arrays_that_are_missing_or_too_short_are_no_reason_to_fail() -> None:
    run = Run(Path("x"))
    assert "Target codes" not in picture(run, example()).svg
    assert "Target codes" in picture(run, example(code_N=np.arange(80))).svg
    assert picture(run, example(mask_N=np.ones(3, bool))).svg
    assert picture(run, example(frames=3, mask_N=np.ones(8, bool))).svg


def test_flat_and_silent_clips_are_drawn() -> None:
    mel_TF = np.full((100, 128), -2.39, np.float32)
    assert "<image" in picture(Run(Path("x")), Example("k", "s", [], [], mel_TF)).svg


def test_long_clips_do_not_make_large_pictures() -> None:
    assert len(picture(Run(Path("x")), example(frames=6000)).svg) < 120_000


def test_scores_are_sorted_and_the_true_label_is_known() -> None:
    mel_TF = np.zeros((32, 128), np.float32)
    scores = [("a", 0.9), ("c", float("nan")), ("b", 0.2), ("d", 1.7)]
    shown = picture(Run(Path("x")), Example("k", "s", ["a"], scores, mel_TF)).predictions
    assert [(s["name"], s["right"], s["label"], s["rank"], s["width"]) for s in shown] == [
        ("d", False, False, 1, 100), ("a", False, True, 2, 90), ("b", False, False, 3, 20),
    ]  # fmt: skip
    # An answer names as many classes as the clip has labels: the second of two is one of them.
    both = picture(Run(Path("x")), Example("k", "s", ["a", "z"], scores, mel_TF)).predictions
    assert [(s["name"], s["right"]) for s in both] == [("d", False), ("a", True), ("b", False)]


def test_a_code_has_one_colour_and_neighbours_differ() -> None:
    colours = code_colours(np.arange(1024))
    assert colours.shape == (1024, 4) and colours.min() >= 0 and colours.max() <= 1
    np.testing.assert_allclose(code_colours(np.array([[7]]))[0, 0], colours[7])
    assert np.abs(np.diff(colours[:, :3], axis=0)).max(axis=1).min() > 0.1
