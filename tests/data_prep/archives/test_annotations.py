"""Annotations of every form become the events that they say, or an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import FolderTable, prepare_folder, read_folder
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording

SECONDS = 10.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two sounds of ten seconds at 8 kHz."""
    for name in ("a.wav", "b.wav"):
        rng = np.random.default_rng(0)
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(int(SECONDS * 8000)), 8000)
    return tmp_path


def read(folder: Path, **options: object) -> FolderTable:
    return read_folder(folder, FolderOptions(annotations=folder / "ann", **options))  # type: ignore[arg-type]


def write(folder: Path, name: str, text: str) -> None:
    (folder / "ann").mkdir(exist_ok=True)
    (folder / "ann" / name).write_text(text, encoding="utf-8")


def told(recording: Recording) -> list[tuple[object, ...]]:
    """Begin, end, label and band of the events."""
    return [(e.start_s, e.end_s, e.label, e.low_hz, e.high_hz) for e in recording.events or ()]


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def test_raven_views_channels_and_several_tables(folder: Path) -> None:
    rows = [
        f"{RAVEN}\tMy Species",
        "1\tWaveform 1\t1\t1.0\t2.0\t0\t4000\tx",
        "1\tSpectrogram 1\t1\t1.0\t2.0\t500\t1500\tx",
        "2\tSpectrogram 1\t2\t1.0\t2.0\t500\t1500\tx",
        "3\tSpectrogram 1\t1\t1.5\t3.25\t500\t1500\ty",
    ]
    write(folder, "a.Table.1.selections.txt", "\n".join(rows))
    write(folder, "a.Table.2.selections.txt", f"{RAVEN}\tMy Species\n1\tS\t1\t8\t9\t1\t2\tz\n")
    write(folder, "b.selections.txt", f"{RAVEN}\tMy Species\n")
    with pytest.raises(PrepError, match=r"no column holds the labels.*--label-column"):
        read(folder)
    table = read(folder, columns={"label": "My Species"})
    a, b = table.recordings
    assert told(a) == [(1, 2, "x", 0, 4000), (1.5, 3.25, "y", 500, 1500), (8, 9, "z", 1, 2)]
    assert a.names("foreground") == ["x", "y", "z"] and b.events == () and b.labels == ()
    assert any("2 rows repeat an event" in note for note in table.notes)


def test_raven_tables_of_several_files(folder: Path) -> None:
    head = f"{RAVEN}\tBegin File\tAnnotation"
    rows = ["1\tS\t1\t1.0\t2.0\t0\t100\ta.wav\tx", "2\tS\t1\t13.0\t14.0\t0\t100\tb.wav\ty"]
    write(folder, "list.selections.txt", "\n".join([head, *rows]))
    with pytest.raises(PrepError, match=r"2 files.*File Offset \(s\)"):
        read(folder)
    rows = [f"{row}\t{offset}" for row, offset in zip(rows, ("1.0", "3.0"), strict=True)]
    write(folder, "list.selections.txt", "\n".join([f"{head}\tFile Offset (s)", *rows]))
    a, b = read(folder).recordings
    assert told(a) == [(1, 2, "x", 0, 100)] and told(b) == [(3, 4, "y", 0, 100)]


def test_audacity(folder: Path) -> None:
    lines = ["0.5\t1.5\tx", "\\\t1000\t2000.5", "2\t2\ty", "3,25\t4,5\tz", "\\\t-1\t-1"]
    write(folder, "a.txt", "\n".join(lines) + "\n")
    write(folder, "b.txt", "")
    a, b = read(folder).recordings
    assert told(a) == [
        (0.5, 1.5, "x", 1000, 2000.5), (2, 2, "y", None, None), (3.25, 4.5, "z", None, None),
    ]  # fmt: skip
    assert b.events == ()


def test_birdnet_asks_for_a_confidence(folder: Path) -> None:
    head = "Start (s),End (s),Scientific name,Common name,Confidence\n"
    write(folder, "a.BirdNET.results.csv", f"{head}0,3,Parus major,Tit,0.9\n3,6,Apus apus,S,0.2\n")
    with pytest.raises(PrepError, match=r"'Confidence'.*--min-confidence"):
        read(folder)
    table = read(folder, min_confidence=0.5)
    (a,) = table.recordings
    assert told(a) == [(0, 3, "Parus major", None, None)]
    assert any("1 recordings have no annotation and are left out" in n for n in table.notes)
    a, b = read(folder, min_confidence=0.5, unannotated="negative").recordings
    assert b.events == () and len(a.events or ()) == 1


def test_beans_birdset_opensoundscape_and_parquet(folder: Path) -> None:
    beans = [
        {"path": "a.wav", "length": 10, "annotations": [{"st": 1, "ed": 2, "label": "x"}]},
        {"path": "b.wav", "length": 10, "annotations": []},
    ]
    write(folder, "all.jsonl", "\n".join(map(json.dumps, beans)))
    a, b = read(folder).recordings
    assert told(a) == [(1, 2, "x", None, None)] and b.events == ()

    (folder / "ann" / "all.jsonl").unlink()
    columns = {"filepath": ["a.ogg"], "start_time": [1.0], "end_time": [2.5],
               "low_freq": [100], "high_freq": [900], "ebird_code": ["houspa"]}  # fmt: skip
    pq.write_table(pa.table(columns), folder / "ann" / "test.parquet")
    (a,) = read(folder).recordings
    assert told(a) == [(1, 2.5, "houspa", 100, 900)]

    (folder / "ann" / "test.parquet").unlink()
    head = "audio_file,annotation,start_time,end_time,low_f,high_f\n"
    write(folder, "o.csv", f"{head}x/a.wav,song,1,2,100,\nx/b.wav,,,,,\n")
    a, b = read(folder).recordings
    assert told(a) == [(1, 2, "song", None, None)] and b.events == ()


HEAD = "file,start,end,low_hz,high_hz,label\n"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a.wav,20,21,,,x\n", "begins behind the file's end: 1, such as .*row 2"),
        ("a.wav,1500,2500,,,x\na.wav,3000,4000,,,x\n", "--time-unit ms"),
        ("a.wav,3,2,,,x\n", "ends before it begins: 1"),
        ("a.wav,-3,2,,,x\n", "begins before the file: 1"),
        ("a.wav,,,,,x\n", "no times that can be read: 1"),
        ("a.wav,one,two,,,x\n", "no times that can be read: 1"),
        ("a.wav,1,2,900,100,x\n", "low frequency above the high one: 1"),
        ("a.wav,1,2,45000,55000,x\n", "band above half the file's sample rate: 1.*in Hz"),
        (",1,2,,,x\n", "names no file"),
    ],
)
def test_impossible_events_are_an_error(folder: Path, rows: str, says: str) -> None:
    write(folder, "all.csv", HEAD + rows)
    with pytest.raises(PrepError, match=f"(?s){says}"):
        read(folder)


def test_few_impossible_events_are_left_out_and_counted(folder: Path) -> None:
    good = "".join(f"a.wav,{i / 10},{i / 10 + 1},,,x\n" for i in range(40))
    write(folder, "all.csv", f"{HEAD}{good}a.wav,20,21,,,y\na.wav,9,11,,,z\na.wav,2,3,,,\n")
    table = read(folder)
    (a,) = table.recordings
    assert a.names("foreground") == ["x", "z"], "no label of an event that cannot be"
    events = told(a)
    assert len(events) == 42 and events[-1] == (9, 10, "z", None, None)
    assert (2, 3, "", None, None) in events
    notes = "\n".join(table.notes)
    assert "1 events are left out: begins behind" in notes and "cut there" in notes
    assert "1 events have no label: windows that they touch are no negatives" in notes


def test_units_names_and_other_folders(folder: Path) -> None:
    write(folder, "all.csv", "file,start,end,label\na.wav,1500,2500,x\n")
    (a,) = read(folder, time_unit="ms").recordings
    assert told(a) == [(1.5, 2.5, "x", None, None)]
    write(folder, "all.csv", "file,start,end,label\nother.wav,1,2,x\nC:\\rec\\A.WAV,1,2,y\n")
    table = read(folder)
    (a,) = table.recordings
    assert told(a) == [(1, 2, "y", None, None)]
    assert any("1 files that are no recordings here" in note for note in table.notes)
    write(folder, "all.csv", "file,start,end\na.wav,1,2\n")
    (a,) = read(folder, event_label="call").recordings
    assert told(a) == [(1, 2, "call", None, None)]
    write(folder, "all.csv", "start,end,label\n1,2,x\n")
    with pytest.raises(PrepError, match="about no recording"):
        read(folder)


def test_a_dataset_beside_the_sound_is_no_annotation(folder: Path) -> None:
    write(folder, "a.txt", "0.5\t1.5\tx\n")
    options = {"annotations": folder, "jobs": 1}
    first = prepare_folder(folder, folder / "out", **options)
    assert prepare_folder(folder, folder / "out", **options) == first


def test_a_table_of_recordings_beside_annotations(folder: Path) -> None:
    (folder / "metadata.csv").write_text("filename,label,recordist\na.wav,birds,Ann\nb.wav,,Ben\n")
    write(folder, "a.txt", "0.5\t1.5\tx\n")
    (a,) = read(folder).recordings
    assert (a.recordist, a.names("foreground")) == ("Ann", ["x"]), "not what the whole file has"


def test_real_syllables_are_those_of_the_matlab_files(real_sound: Path) -> None:
    """The table of the finches against the .not.mat files that it was made of."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    folder = real_sound / "bengalese_finch"
    if not (folder / "syllables.csv").is_file():
        pytest.skip(f"no real sound at {folder}")
    found = read_folder(folder, FolderOptions(metadata=folder / "syllables.csv")).recordings
    total = 0
    for recording in found:
        stem = Path(recording.path).stem
        mat = loadmat(folder / "annotations" / f"{stem}.cbin.not.mat", squeeze_me=True)
        labels = [label if label != "-" else "" for label in str(mat["labels"])]
        truth = sorted(zip(mat["onsets"] / 1000, mat["offsets"] / 1000, labels, strict=True))
        events = [(e.start_s, e.end_s, e.label) for e in recording.events or ()]
        assert [e[2] for e in events] == [t[2] for t in truth]
        assert np.allclose([e[:2] for e in events], [t[:2] for t in truth], atol=2e-6)
        total += len(events)
    assert total == 4076
