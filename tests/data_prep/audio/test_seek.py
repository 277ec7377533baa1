"""An excerpt is what the whole file has there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.audio.decode import decode
from dawnchorus.data_prep.audio.seek import read_excerpt


@pytest.mark.parametrize(
    ("ending", "kind", "rate_hz", "least"),
    [("wav", {}, 44100, 0.99999), ("flac", {}, 22050, 0.99999), ("wav", {}, 16000, 0.99999),
     ("ogg", {}, 48000, 0.999), ("mp3", {"format": "MP3"}, 44100, 0.999)],
)  # fmt: skip
def test_an_excerpt_is_the_part_of_the_whole(
    tmp_path: Path, ending: str, kind: dict[str, str], rate_hz: int, least: float
) -> None:
    rng = np.random.default_rng(0)
    wav_T = np.cumsum(rng.standard_normal(rate_hz * 30)).astype(np.float32)
    wav_T -= np.convolve(wav_T, np.ones(500) / 500, mode="same")
    path = tmp_path / f"x.{ending}"
    soundfile.write(path, 0.3 * np.stack([wav_T, wav_T], 1) / np.abs(wav_T).max(), rate_hz, **kind)
    pcm, _ = decode(path, 16000)
    with pcm:
        for start, stop in ((0, 16000), (160_123, 200_001), (470_000, 500_000)):
            whole_T = pcm.read(start, min(stop, pcm.samples)).astype(float)
            part_T = read_excerpt(path, 16000, start, stop).astype(float)
            assert abs(len(part_T) - len(whole_T)) <= (2500 if ending == "mp3" else 1)
            n = min(len(part_T), len(whole_T))
            assert np.corrcoef(part_T[:n], whole_T[:n])[0, 1] > least
    assert len(read_excerpt(path, 16000, 1_000_000, 1_010_000)) == 0


def test_what_cannot_be_sought_is_decoded(tmp_path: Path) -> None:
    """Bytes that libsndfile does not open, PyAV does."""
    import av

    path = tmp_path / "x.m4a"
    tone_T = (8000 * np.sin(np.arange(16000 * 4) * np.linspace(0.1, 0.9, 16000 * 4))).astype("<i2")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone_T[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    pcm, _ = decode(path, 16000)
    with pcm:
        np.testing.assert_array_equal(
            read_excerpt(path, 16000, 16000, 32000), pcm.read(16000, 32000)
        )
