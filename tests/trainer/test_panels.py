from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.panels import (
    EXAMPLES,
    Example,
    ImagePanel,
    ScoresPanel,
    TokenPanel,
    load_examples,
    mel_centres,
    save_examples,
    spectrogram,
)


def test_every_kind_of_panel_comes_back_as_it_was(tmp_path: Path) -> None:
    wav_T = np.random.default_rng(0).normal(0, 3000, 16_000).astype(np.int16)
    tokens = TokenPanel(0.16, 2, np.arange(12) > 5, np.arange(12), np.arange(12) % 8)
    image = ImagePanel("Reconstruction", np.eye(4, dtype=np.float32), 0.25)
    scores = ScoresPanel((("Parus major <b>", 0.75), ("Rain", 0.125)))
    first = Example("xc", "xc-1", ("Parus major",), spectrogram(wav_T, 16_000), (tokens, image))
    second = Example("xc", "ü", (), spectrogram(wav_T, 16_000), (scores,))
    save_examples(tmp_path, [first, second])
    one, two = load_examples(tmp_path)
    assert (one.source, one.key, one.labels) == ("xc", "xc-1", ("Parus major",))
    np.testing.assert_array_equal(one.sound.level_XF, first.sound.level_XF)
    assert (one.sound.hop_s, one.sound.band_hz) == (0.010, first.sound.band_hz)
    back, picture = one.panels
    assert isinstance(back, TokenPanel) and (back.token_s, back.bands, back.times) == (0.16, 2, 6)
    assert back.hits_N is not None and back.hits_N.tolist() == [-1] * 6 + [1, 1] + [0] * 4
    assert isinstance(picture, ImagePanel) and picture.image_XF.tolist() == np.eye(4).tolist()
    assert (two.key, two.panels) == ("ü", (scores,))
    save_examples(tmp_path, [])
    assert load_examples(tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == [EXAMPLES]


def test_what_contradicts_itself_or_is_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a multiple of 8 bands"):
        TokenPanel(0.16, 8, np.zeros(12, bool))
    with pytest.raises(ValueError, match="one length"):
        TokenPanel(0.16, 2, np.zeros(12, bool), np.zeros(10, int))
    with pytest.raises(FileNotFoundError):
        load_examples(tmp_path)
    save_examples(tmp_path, [Example("a", "b", (), spectrogram(np.zeros(4000), 16_000))])
    whole = (tmp_path / EXAMPLES).read_bytes()
    bad = [b"", whole[: len(whole) // 2]]
    np.savez(tmp_path / EXAMPLES, examples=np.array([object()]))
    bad.append((tmp_path / EXAMPLES).read_bytes())
    for text in ("{", "3", '[{"kind": "Example"}]', '[{"sound": {"array": "no"}}]'):
        np.savez(tmp_path / EXAMPLES, examples=np.array(text))
        bad.append((tmp_path / EXAMPLES).read_bytes())
    for content in bad:
        (tmp_path / EXAMPLES).write_bytes(content)
        with pytest.raises(DataError, match=r"examples\.npz could not be read"):
            load_examples(tmp_path)


def test_a_tone_lies_in_its_band_whatever_the_front_end() -> None:
    time_T = np.arange(32_000) / 32_000
    for bands in (mel_centres(128, 20.0, 16_000.0), tuple(np.linspace(0, 16_000, 257)), None):
        for hz in (700.0, 3000.0, 9000.0):
            found = spectrogram(0.5 * np.sin(2 * math.pi * hz * time_T), 32_000, band_hz=bands)
            peak = found.band_hz[int(found.level_XF[20].argmax())]
            nearest = min(found.band_hz, key=lambda centre: abs(centre - hz))
            assert abs(peak - nearest) <= 0.04 * hz
            # A sine of amplitude 0.5 is at -6 dB, less what its band leaves to the neighbours.
            assert -22 < found.level_XF.max() < -5
    assert found.level_XF.shape == (98, 128) and found.duration_s == pytest.approx(0.98)


def test_the_mel_bands_are_those_of_the_front_end() -> None:
    torch = pytest.importorskip("torch")
    from dawnchorus.trainer.frontends.kaldi import BeatsLogMel

    centre_hz = mel_centres(128, 20.0, 8000.0)
    time = torch.arange(16_000) / 16_000
    for hz in (500.0, 1000.0, 3000.0):
        mel_BTF, _ = BeatsLogMel()(0.5 * torch.sin(2 * math.pi * hz * time)[None])
        peak = centre_hz[int(mel_BTF[0, 50].argmax())]
        assert abs(peak - hz) <= 0.03 * hz


def test_silence_and_clips_shorter_than_a_window_have_a_picture() -> None:
    for wav_T in (np.zeros(16_000, np.int16), np.ones(7, np.float32), np.zeros(0, np.float32)):
        found = spectrogram(wav_T, 16_000)
        assert np.isfinite(found.level_XF).all() and len(found.level_XF) >= 1
