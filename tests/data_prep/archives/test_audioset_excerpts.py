"""A whole video where a segment was expected: cut to the segment, or refused with the reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import soundfile

from dawnchorus.data_prep.archives.audioset import AudioSet, AudioSetOptions
from dawnchorus.data_prep.audio.excerpts import segment_of
from dawnchorus.data_prep.dataset.prepare import prepare_shards
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.select.sound import Audio, take_prints
from dawnchorus.data_prep.table.recording_table import write_table
from dawnchorus.trainer.progress import Progress

RATE = 16000
HEAD = "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"
CUT, VIDEO, LATE, SHORT, NAMED = (f"{name:_<11}" for name in ("cut", "video", "late", "end", "nam"))


def steps(seconds: int, rate_hz: int) -> np.ndarray:
    """A tone whose level tells the second: 1, 2, 3 ... thousandths."""
    time_T = np.arange(seconds * rate_hz) / rate_hz
    return 0.001 * (1 + time_T.astype(int)) * np.sin(2 * np.pi * 1000 * time_T)


def test_a_whole_video_is_cut_to_its_segment(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    files = {
        f"{CUT}.wav": (10, RATE), f"Y{VIDEO}.flac": (50, 44100), f"title [{LATE}].wav": (38, RATE),
        f"{SHORT}.wav": (20, RATE), f"{NAMED}_30_40.wav": (50, RATE),
    }  # fmt: skip
    for name, (seconds, rate_hz) in files.items():
        soundfile.write(audio / name, steps(seconds, rate_hz), rate_hz)
    segments = tmp_path / "eval_segments.csv"
    rows = [(CUT, 30), (VIDEO, 30), (VIDEO, 10), (LATE, 30), (SHORT, 30), (NAMED, 30)]
    segments.write_text(HEAD + "".join(f"{i},{s},{s + 10},/m/0bt9lr\n" for i, s in rows))
    names = tmp_path / "class_labels_indices.csv"
    names.write_text('index,mid,display_name\n0,/m/0bt9lr,"Dog"\n')
    options = AudioSetOptions(segments=[segments], audio=[audio], labels=names, out=tmp_path / "t")
    archive = AudioSet(options)
    write_table(archive.rows(), tmp_path / "t")
    out = tmp_path / "out"
    prepare_shards(tmp_path / "t", out, jobs=1, allow_broken=True, max_piece_s=10)

    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    reasons = {(Path(row["path"]).name, row["reason"]) for row in rejected}
    # One second before the stated end is how videos end; eight seconds of ten are another thing.
    assert reasons == {
        (f"{name}.wav", "not_the_segment") for name in (f"title [{LATE}]", SHORT, f"{NAMED}_30_40")
    }
    assert any("from 30 to 40 s of its video" in row["detail"] for row in rejected)
    kept = {row["id"]: row for row in pq.read_table(out / "recordings.parquet").to_pylist()}
    assert set(kept) == {f"audioset:{CUT}@30", f"audioset:{VIDEO}@30", f"audioset:{VIDEO}@10"}
    assert {row["duration_s"] for row in kept.values()} == {10.0}
    clips = list(pl.read_parquet(out / "index.parquet").iter_rows(named=True))
    assert len(clips) == 3
    for clip in clips:
        with (out / clip["shard"]).open("rb") as tar:
            data = os.pread(tar.fileno(), clip["size"], clip["offset"])
        found_T, _ = soundfile.read(io.BytesIO(data))
        levels = found_T.reshape(10, RATE).std(axis=1)
        start = {f"audioset:{VIDEO}@30": 30, f"audioset:{VIDEO}@10": 10}.get(
            clip["recording_id"], 0
        )
        expected = np.arange(start + 1, start + 11)
        np.testing.assert_allclose(levels, 0.001 * expected / 2**0.5, rtol=0.01)
    assert verify_dataset(out, jobs=1).count == 0


def test_two_segments_of_one_video_are_not_the_same_sound(tmp_path: Path) -> None:
    path = tmp_path / f"{VIDEO}.flac"
    soundfile.write(path, steps(50, RATE), RATE)
    audios = [
        Audio(str(path), segment=segment_of(f"audioset:{VIDEO}@{start}", 10.0, str(path)))
        for start in (10, 30)
    ]
    prints = take_prints(audios, tmp_path / "cache", max_s=60, jobs=1, progress=Progress())
    assert len(set(prints.pcm_sha1_R)) == 2 and prints.duration_s_R.tolist() == [10.0, 10.0]
