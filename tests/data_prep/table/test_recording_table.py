"""The recording table: streamed, whole or not there, the same after reading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import (
    Rejected,
    count_recordings,
    read_recordings,
    write_table,
)

FULL = Recording(
    id="xc:1", source="xc", source_id="1", path="a/XC1.mp3", url="https://example.org/1.mp3",
    licence_url="https://creativecommons.org/licenses/by/4.0/", attribution="Ann, XC1",
    recordist="Ann", labels=(
        Label("Parus major", "species", "foreground", "gbif-2023-08", (("gbif", "9705453"),)),
        Label("Turdus merula", "species", "background"),
    ), audioset_mids=("/m/015p6",), quality="A", sound_type="song", datetime="2020-05-01T06:00",
    lat=52.5, lon=13.4, country="Germany", sample_rate_hz=44100, channels=2, codec="mp3",
    duration_s=3600.0, group_id="Ann", split="valid", fold="2",
)  # fmt: skip


def bare(number: int) -> Recording:
    return Recording(id=f"xc:{number}", source="xc", source_id=str(number), path="", group_id="g")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    summary = write_table([FULL, bare(2)], tmp_path / "t", made_by={"command": "test"})
    assert list(read_recordings(tmp_path / "t")) == [FULL, bare(2)]
    assert count_recordings(tmp_path / "t") == 2
    assert (summary.recordings, summary.hours) == (2, 1.0)
    written = json.loads((tmp_path / "t" / "summary.json").read_text())
    assert written["made_by"] == {"command": "test"}
    assert "1.0 h" in summary.text


def test_rejects_and_repeated_ids_are_counted(tmp_path: Path) -> None:
    other = dataclasses.replace(FULL, recordist="Ben")
    rows = [FULL, Rejected(recording_id="xc:9", reason="restricted", detail="file is null"), other]
    summary = write_table(rows, tmp_path)
    assert summary.rejected == {"repeated_id": 1, "restricted": 1}
    assert [r.recordist for r in read_recordings(tmp_path)] == ["Ann"]
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [(r["recording_id"], r["reason"]) for r in rejected] == [
        ("xc:9", "restricted"), ("xc:1", "repeated_id"),
    ]  # fmt: skip


def test_a_reader_that_fails_leaves_the_table_that_was_there(tmp_path: Path) -> None:
    write_table([FULL], tmp_path)

    def broken():
        for number in range(40_000):
            yield bare(number)
        raise PrepError("the archive ends in the middle")

    with pytest.raises(PrepError, match="in the middle"):
        write_table(broken(), tmp_path)
    assert list(read_recordings(tmp_path)) == [FULL]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "recordings.parquet", "rejected.parquet", "summary.json",
    ]  # fmt: skip


def test_no_recording_is_an_error_that_says_why(tmp_path: Path) -> None:
    rows = [Rejected(recording_id="x", reason="no_sound")] * 3
    with pytest.raises(PrepError, match="no_sound 3"):
        write_table(rows, tmp_path)
    with pytest.raises(PrepError, match="no recording table"):
        list(read_recordings(tmp_path))
