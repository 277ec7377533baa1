"""Labels of parts of recordings are refused, whatever the columns are called; others are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dawnchorus.data_prep.archives.animal_sound_archive import read_animal_sound_archive
from dawnchorus.data_prep.archives.gbif import Asked
from dawnchorus.data_prep.archives.inatsounds import read_inatsounds
from dawnchorus.data_prep.archives.json_files import documents
from dawnchorus.data_prep.archives.own_folder import FolderTable, read_folder
from dawnchorus.data_prep.archives.times import time_columns
from dawnchorus.data_prep.archives.watkins import read_watkins
from dawnchorus.data_prep.archives.xeno_canto import read_dump
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError

SECONDS = 5.0


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sounds of five seconds."""
    folder = tmp_path_factory.mktemp("sounds")
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, 0.1 * np.ones(int(SECONDS * 8000)), 8000)
    return folder


def read(sounds: Path, text: str, name: str = "t.csv", **options: object) -> FolderTable:
    (sounds / name).write_text(text, encoding="utf-8")
    return read_folder(sounds, FolderOptions(metadata=sounds / name, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "times"),
    [
        ("start,end", "0.1,0.2"), ("start_s,end_s", "0.1,0.2"), ("onset,offset", "0.1,0.2"),
        ("onset_ms,offset_ms", "100,200"), ("Begin Time (s),End Time (s)", "0.1,0.2"),
        ("start_time,end_time", "0.1,0.2"), ("time_min,time_max", "0.1,0.2"),
        ("st,ed", "0.1,0.2"), ("tmin,tmax", "0.1,0.2"), ("startTime,endTime", "0.1,0.2"),
        ("Start (s),End (s)", "0.1,0.2"), ("start,duration", "0.1,0.1"),
        ("OFFSET,DURATION", "0.1,0.1"), ("start_sample,end_sample", "800,1600"),
        ("from,to", "0.1,0.2"), ("Anfang,Ende", "0.1,0.2"), ("d\u00e9but,fin", "0.1,0.2"),
        ("start,stop", "0.1,0.2"), ("start,end", "00:00:00.1,00:00:00.2"),
        ("start,end", "0:0.1,0:0.2"), ("start,end", "0.1 s,0.2 s"),
        ("event_start_s,event_end_s", "0.1,0.2"), ("s_start,s_end", "0.1,0.2"),
        ("start_time,start_s,end_s", "2023-05-01,0.1,0.2"), ("start,end", "\"0,1\",\"0,2\""),
    ],
)  # fmt: skip
def test_times_become_events(sounds: Path, columns: str, times: str) -> None:
    text = f"filename,{columns},label\na.wav,{times},x\nb.wav,{times},y\n"
    table = read(sounds, text)
    assert [r.names("foreground") for r in table.recordings] == [["x"], ["y"]]
    for recording in table.recordings:
        (event,) = recording.events or ()
        assert (event.start_s, event.end_s) == pytest.approx((0.1, 0.2))
    table = read(sounds, text, ignore_times=True)
    assert [(len(r.labels), r.events) for r in table.recordings] == [(1, None), (1, None)]


@pytest.mark.parametrize(
    ("columns", "times"),
    [
        ("offset_s,x", "2,"), ("start,x", "0.5,"), ("comienzo,x", "0.5,"),
        ("Start_Offset,x", "0.5,"), ("Startpunkt,x", "0.5,"), ("sample_offset,x", "2,"),
        ("end,x", "2,"), ("time_s,x", "2,"), ("Peak Time (s),x", "2,"),
    ],
)  # fmt: skip
def test_half_a_time_is_refused(sounds: Path, columns: str, times: str) -> None:
    text = f"filename,{columns},label\na.wav,{times},x\nb.wav,{times},y\n"
    with pytest.raises(PrepError, match=r"row 2.*begin and end.*--ignore-times"):
        read(sounds, text)
    table = read(sounds, text, ignore_times=True)
    assert [len(r.labels) for r in table.recordings] == [1, 1]


def test_events_are_never_merged(sounds: Path) -> None:
    table = read(sounds, "filename,start,end,label\na.wav,0.1,0.2,x\na.wav,0.6,0.9,y\n")
    (recording,) = table.recordings
    assert [(e.start_s, e.end_s, e.label) for e in recording.events or ()] == [
        (0.1, 0.2, "x"), (0.6, 0.9, "y"),
    ]  # fmt: skip
    with pytest.raises(PrepError, match="'Q1' and 'Q2' look like times"):
        read(sounds, "filename,Q1,Q2,label\na.wav,0.1,0.2,x\na.wav,0.6,0.9,y\n")


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("start", "2023-05-01"), ("start,end", "2019,2021"), ("start_time,end_time", "06:30,06:50"),
        ("start", "06:30"), ("start,end", "0,5"), ("start_s,end_s", "0.0,4.98"), ("start", "0"),
        ("onset_ms,offset_ms", "0,5000"), ("start,end", "30,35"), ("start,end", ","),
        ("duration", "2.5"), ("start_time,end_time", "1684000000,1684003605"),
        ("from,to", "Oslo,Bergen"),
        ("low_freq,high_freq", "100,4000"), ("start,duration", "0,5"), ("stop", "Main Street"),
        ("length", "4"), ("offset_from_utc", "2"), ("seconds", "4"), ("time_s", "5"),
    ],
)  # fmt: skip
def test_innocent_columns_are_not(sounds: Path, columns: str, values: str) -> None:
    table = read(sounds, f"filename,{columns},label\na.wav,{values},x\n")
    assert [label.name for label in table.recordings[0].labels] == ["x"]


def test_a_file_is_the_cut_of_one_place_only(sounds: Path) -> None:
    with pytest.raises(PrepError, match="begins behind the file's end: 2"):
        read(sounds, "filename,start,end,label\na.wav,10,15,x\na.wav,20,25,y\n")


def test_tables_without_files_are_annotations(sounds: Path) -> None:
    raven = "Selection\tBegin Time (s)\tEnd Time (s)\tSpecies\n1\t0.5\t0.7\tx\n"
    with pytest.raises(PrepError, match=r"'Begin Time.*--annotations"):
        read(sounds, raven, "a.selections.txt")
    with pytest.raises(PrepError, match=r"Audacity.*--annotations"):
        read(sounds, "0.5\t0.7\tx\n1.5\t2.7\ty\n", "labels.txt")


def test_names_of_columns() -> None:
    assert not time_columns(["start_date", "Begin File", "n_syllables_past_end", "legend", "time"])
    found = time_columns(["onset", "offset", "duration"])
    assert (found.start, found.end, found.duration) == ("onset", "offset", "duration")


@pytest.mark.parametrize(
    ("dataset", "table", "events"),
    [("bats_boxes", "boxes.csv", 433), ("bengalese_finch", "syllables.csv", 4076),
     ("insects32", "segments_3s.csv", 957)],
)  # fmt: skip
def test_real_tables(real_sound: Path, dataset: str, table: str, events: int) -> None:
    folder = real_sound / dataset
    if not (folder / table).is_file():
        pytest.skip(f"no real sound at {folder}")
    found = read_folder(folder, FolderOptions(metadata=folder / table)).recordings
    assert sum(len(recording.events or ()) for recording in found) == events
    assert all(
        recording.events is None for recording in read_folder(folder, FolderOptions()).recordings
    )


def test_real_boxes_without_labels(real_sound: Path) -> None:
    folder = real_sound / "bats_boxes"
    if not (folder / "annotated_clips.csv").is_file():
        pytest.skip(f"no real sound at {folder}")
    with pytest.raises(PrepError, match="no column holds their labels"):
        read_folder(folder, FolderOptions(metadata=folder / "annotated_clips.csv"))


def test_tables_of_xeno_canto_with_times(tmp_path: Path) -> None:
    head = "id,gen,sp,file,length,begin,end\n"
    (tmp_path / "xc.csv").write_text(head + "7,Bubo,bubo,http://x/7,0:30,1,2\n")
    with pytest.raises(PrepError, match=r"from 1 s to 2 s; 1 rows"):
        list(read_dump(tmp_path / "xc.csv"))
    (tmp_path / "xc.csv").write_text(head + "7,Bubo,bubo,http://x/7,0:30,0,30\n")
    assert [type(row).__name__ for row in read_dump(tmp_path / "xc.csv")] == ["Recording"]


def test_other_readers(tmp_path: Path) -> None:
    table = tmp_path / "annotations.csv"
    table.write_text("path,species,start,end\n59030023.wav,Humpback_Whale,1,2\n")
    with pytest.raises(PrepError, match=r"from 1 s to 2 s; 1 rows"):
        list(read_watkins(table, None, tmp_path / "out"))
    asa = tmp_path / "asa.csv"
    asa.write_text("tsa_id,scientificName,url,begin,end\n7,Bubo bubo,http://x/7,1,2\n")
    with pytest.raises(PrepError, match="not supported yet"):
        list(read_animal_sound_archive(asa, scratch=tmp_path, asked=Asked()))
    content = {
        "audio": [{"id": 1, "file_name": "a.wav"}],
        "categories": [{"id": 1, "name": "Bubo bubo", "audio_dir_name": "x"}],
        "annotations": [{"id": 1, "audio_id": 1, "category_id": 1, "start_time": 1, "end_time": 2}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    (document,) = documents(tmp_path / "train.json")
    with pytest.raises(PrepError, match="not supported yet"):
        list(read_inatsounds(document, tmp_path))
