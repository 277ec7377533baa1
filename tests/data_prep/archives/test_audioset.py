"""AudioSet: every dialect, every layout, classes as a graph, clips that are not there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from audioset_small import (
    ANIMAL,
    DOG,
    HEADING,
    IDS,
    OFFICIAL,
    PETS,
    RAIN,
    SPEECH,
    STRONG_ONLY,
    lay,
    read,
    write_tables,
)
from typer.testing import CliRunner

import dawnchorus.data_prep.commands.prep_audioset  # noqa: F401 (adds the command to the app)
from dawnchorus.data_prep.archives.audioset import (
    AudioSet,
    AudioSetOptions,
    Segment,
    read_segments,
    split_of,
)
from dawnchorus.data_prep.archives.audioset_files import ClipFiles, parse_name
from dawnchorus.data_prep.archives.audioset_labels import Classes, read_ontology
from dawnchorus.data_prep.commands.apps import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "tables")


def test_both_dialects_are_read(tables: Path) -> None:
    official = list(read_segments(tables / "balanced_train_segments.csv"))
    assert official == [
        Segment("--4gqARaEJE", 0, 10_000, (PETS, DOG, ANIMAL)),
        Segment("_1kaN-iD_30", 30_000, 40_000, (SPEECH,)),
        Segment("AbCdEfGhIjK", 12_500, 22_500, (RAIN, SPEECH)),
    ]
    compact = list(read_segments(tables / "eval_segments.csv"))
    assert compact == [
        Segment("abcdefghijk", 0, 10_000, (DOG, ANIMAL)),
        Segment("Yout0ub-e_1", 20_000, 30_000, (SPEECH,)),
        Segment("id_45678_90", 5_000, 12_000, (RAIN,)),
    ]
    packed = tables / "x.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbfYTID,start_seconds\r\n" + OFFICIAL.encode()))
    assert list(read_segments(packed)) == official


def test_a_recording_says_what_is_known(tables: Path, tmp_path: Path) -> None:
    audio = lay(tmp_path / "audio", *(f"{ytid}.wav" for ytid in IDS))
    good, bad, archive = read(tables, audio)
    assert not bad and len(good) == 6
    first = good["audioset:--4gqARaEJE@0"]
    assert first.source == "audioset" and first.source_id == "--4gqARaEJE@0"
    assert first.group_id == "--4gqARaEJE" and first.path == str(audio / "--4gqARaEJE.wav")
    assert first.url == "" and first.licence_url == ""
    assert "youtube.com/watch?v=--4gqARaEJE" in first.attribution
    assert [label.name for label in first.labels] == ["Domestic animals, pets", "Dog", "Animal"]
    assert {(x.rank, x.taxonomy, x.role) for x in first.labels} == {
        ("sound", "audioset", "foreground")
    }
    assert first.labels[1].ids == (("audioset", DOG),)
    assert first.audioset_mids == (PETS, DOG, ANIMAL) and first.duration_s == 10.0
    assert "audioset:AbCdEfGhIjK@12.5" in good
    assert good["audioset:abcdefghijk@0"].split == "test" and first.split == "train"
    assert archive.notes() == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("unbalanced_train_segments/unbalanced_train_segments_part07/Y{id}.wav", True),
        ("audio_files/train/{id}.wav", True),
        ("audio/bal_train/{id}.flac", True),
        ("{id}_{s}_{e}.flac", True),
        ("{id}_{s}.000_{e}.000.wav", True),
        ("{id}_{ms}_{ems}.wav", True),
        ("{id}_{ms}.wav", True),
        ("{id}_{s}.mp3", True),
        ("Y{id}_{s}_{e}.wav", True),
        ("id_{id}.wav", True),
        ("A dog (2016) [{id}].m4a", True),
        ("{id}", True),
        ("{id}_77000.wav", False),
        ("{id}_77_87.wav", False),
        ("{id}.json", False),
        ("X{id}X.wav", False),
    ],
)
@pytest.mark.parametrize("ytid", ["--4gqARaEJE", "_1kaN-iD_30", "Yout0ub-e_1", "id_45678_90"])
def test_layouts(tmp_path: Path, ytid: str, name: str, found: bool) -> None:
    name = name.format(id=ytid, s=30, e=40, ms=30000, ems=40000)
    lay(tmp_path, name)
    path, instead = ClipFiles([tmp_path]).find(ytid, 30_000, 40_000)
    assert path == (str(tmp_path / name) if found else "")
    assert bool(instead) == ("_77" in name)


def test_names_with_two_readings() -> None:
    assert parse_name("id_abcdefgh_30.wav") == [("id_abcdefgh", ("30",)), ("abcdefgh_30", ())]
    assert parse_name("Yabcdefghijk.wav") == [("abcdefghijk", ())]
    assert parse_name("readme.wav") == [] and parse_name("") == []


def test_case_is_kept_and_the_stated_time_wins(tmp_path: Path) -> None:
    lay(tmp_path / "a", "AbCdEfGhIjK.wav", "abcdefghijk.wav")
    lay(tmp_path / "b", "AbCdEfGhIjK_0_10.wav", "AbCdEfGhIjK_60_70.wav")
    files = ClipFiles([tmp_path / "a", tmp_path / "b"])
    assert files.find("AbCdEfGhIjK", 60_000, 70_000)[0].endswith("AbCdEfGhIjK_60_70.wav")
    assert files.find("AbCdEfGhIjK", 20_000, 30_000)[0].endswith("a/AbCdEfGhIjK.wav")
    assert files.find("abcdefghijk", 0, 10_000)[0].endswith("a/abcdefghijk.wav")
    assert files.find("ABCDEFGHIJK", 0, 10_000) == ("", "") and files.count == 4


def test_clips_that_are_not_there_are_listed(tables: Path, tmp_path: Path) -> None:
    audio = lay(tmp_path / "audio", "Y--4gqARaEJE.wav", "abcdefghijk_60_70.wav", "spare.wav")
    good, bad, archive = read(tables, audio)
    assert list(good) == ["audioset:--4gqARaEJE@0"]
    assert {row.reason for row in bad} == {"missing_on_disk"} and len(bad) == 5
    details = {row.recording_id: row.detail for row in bad}
    assert "watch?v=_1kaN-iD_30&t=30s" in details["audioset:_1kaN-iD_30@30"]
    assert "abcdefghijk_60_70.wav" in details["audioset:abcdefghijk@0"]
    assert any("2 files on disk" in note for note in archive.notes())


STRONG = """\
segment_id\tstart_time_seconds\tend_time_seconds\tlabel
_1kaN-iD_30_30000\t0.0\t2.5\t/m/0bt9lr
_1kaN-iD_30_30000\t3.0\t4.0\t/m/07qcpgn
new__-clip__7_000\t0\t1\t/m/0bt9lr
-newer_clip_5000\t0\t1\t/m/0bt9lr
"""
FRAMED = """\
segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent
Yout0ub-e_1_20000\t0.0\t0.96\t/m/06mb1\tPRESENT
Yout0ub-e_1_20000\t0.96\t1.92\t/m/0bt9lr\tNOT_PRESENT
nothinghere_0\t0.0\t0.96\t/m/06mb1\tNOT_PRESENT
nothinghere_0\t0.0\t0.96\t/m/06mb1\tMAYBE
"""


def test_strong_labels_are_refused_unless_their_times_are_ignored(
    tables: Path, tmp_path: Path
) -> None:
    (tables / "audioset_train_strong.tsv").write_text(STRONG)
    with pytest.raises(PrepError, match=r"not supported yet.*--ignore-times"):
        read(tables, lay(tmp_path / "audio"), strong=[tables / "audioset_train_strong.tsv"])


def test_strong_labels(tables: Path, tmp_path: Path) -> None:
    (tables / "audioset_train_strong.tsv").write_text(STRONG)
    (tables / "audioset_eval_strong_framed_posneg.tsv").write_text(FRAMED)
    names = f"{STRONG_ONLY}\tBow-wow\n{DOG}\tDog, another spelling\n"
    (tables / "mid_to_display_name.tsv").write_text(names)
    audio = lay(tmp_path / "audio", *(f"{ytid}.wav" for ytid in [*IDS, "-newer_clip"]))
    good, bad, archive = read(
        tables, audio, strong=sorted(tables.glob("*strong*.tsv")), ignore_times=True,
        mid_names=tables / "mid_to_display_name.tsv",
    )  # fmt: skip
    joined = good["audioset:_1kaN-iD_30@30"]
    assert joined.audioset_mids == (SPEECH, STRONG_ONLY, DOG)
    assert [label.name for label in joined.labels] == ["Speech", "Bow-wow", "Dog"]
    assert good["audioset:Yout0ub-e_1@20"].audioset_mids == (SPEECH, RAIN)
    own = good["audioset:-newer_clip@5"]  # in no segment list
    assert own.audioset_mids == (DOG,) and own.split == "train" and own.duration_s == 10
    reasons = {row.reason: row for row in bad}
    assert set(reasons) == {"bad_row", "no_label"} and len(bad) == 3
    assert reasons["no_label"].recording_id == "audioset:nothinghere@0"
    assert {row.detail.split(":")[0] for row in bad if row.reason == "bad_row"} == {
        "audioset_train_strong.tsv", "audioset_eval_strong_framed_posneg.tsv",
    }  # fmt: skip
    notes = "\n".join(archive.notes())
    assert "outside the class list, kept: 1 labels of 1 classes (Bow-wow 1)" in notes
    assert "2 rows say that a sound is not there" in notes
    strong_alone, _, _ = read(
        tables,
        audio,
        segments=[],
        strong=[tables / "audioset_train_strong.tsv"],
        ignore_times=True,
    )
    assert set(strong_alone) == {"audioset:_1kaN-iD_30@30", "audioset:-newer_clip@5"}


def test_the_ontology_is_a_graph(tables: Path) -> None:
    ontology = read_ontology(tables / "ontology.json")
    assert ontology.descendants(ANIMAL) == {PETS, "/m/wild", DOG}
    assert ontology.ancestors(DOG) == {PETS, "/m/wild", ANIMAL}
    assert ontology.descendants(DOG) == ontology.ancestors(ANIMAL) == set()
    assert ontology.restrictions[HEADING] == {"abstract"}
    loop = [{"id": x, "name": x, "child_ids": [y]} for x, y in ("ab", "bc", "ca")]
    (tables / "loop.json").write_text(json.dumps(loop))
    assert read_ontology(tables / "loop.json").descendants("a") == {"b", "c"}


def test_only_below_takes_the_animal_subset(tables: Path, tmp_path: Path) -> None:
    audio = lay(tmp_path / "audio", *(f"{ytid}.wav" for ytid in IDS))
    options = {"labels": None, "ontology": tables / "ontology.json"}
    for name in ("/m/0jbk", "animal"):
        good, bad, _ = read(tables, audio, only_below=[name], **options)
        assert set(good) == {"audioset:--4gqARaEJE@0", "audioset:abcdefghijk@0"}
        assert {row.reason for row in bad} == {"not_selected"} and len(bad) == 4
    assert good["audioset:abcdefghijk@0"].labels[0].name == "Dog (ontology)"
    with pytest.raises(PrepError, match="no such class"):
        read(tables, audio, only_below=["Dragon"], **options)
    with pytest.raises(PrepError, match="--ontology"):
        read(tables, audio, only_below=["Animal"])


def test_names_of_classes(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"class_labels_indices\.csv"):
        Classes(None, None, None)
    twice = tmp_path / "twice.csv"
    twice.write_text(f"index,mid,display_name\n0,{DOG},Bark\n1,{RAIN},Bark\n")
    classes = Classes(twice, None, read_ontology(tables / "ontology.json"))
    assert classes.label(DOG).name == f"Bark ({DOG})"  # one name, one class
    assert classes.label("/m/unknown").name == "/m/unknown"
    classes.label(HEADING)
    notes = "\n".join(classes.notes())
    assert "without a name, kept by their mid: 1 labels" in notes
    assert "abstract or blacklisted in the ontology, kept: 1 labels of 1 classes" in notes


def test_what_is_no_list_is_refused(tables: Path, tmp_path: Path) -> None:
    audio = lay(tmp_path / "audio", "--4gqARaEJE.wav")
    path = tmp_path / "x_segments.csv"
    for data in (
        b"", b"\0" * 10_000, b"<!DOCTYPE html><html>\n" * 500, bytes(range(256)) * 100,
        b"# only\n# comments\n", b"filename,label\na.wav,dog\n" * 200, b"\x1f\x8b not gzip",
        gzip.compress(OFFICIAL.encode() * 9, mtime=0)[:-30],
        OFFICIAL.encode("utf-16"), b"a" * 11 + b",0,10," + b"x" * 20_000_000,
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(PrepError, match="x_segments"):
            read(tables, audio, segments=[path])
    bad_rows = [
        "toolongforanid,0,10,/m/a", "--4gqARaEJE,10,0,/m/a", "--4gqARaEJE,nan,inf,/m/a",
        "--4gqARaEJE,1e300,2e300,/m/a", "--4gqARaEJE,0,10,", "--4gqARaEJE,0,10,dog",
        "--4gqARaEJE,0", "../../../et,0,10,/m/a", "-\0-4gqARaEJE,0,10,/m/a",
    ]  # fmt: skip
    path.write_text(OFFICIAL + "\n".join(bad_rows))
    good, bad, _ = read(tables, audio, segments=[path])
    assert list(good) == ["audioset:--4gqARaEJE@0"]
    reasons = [row.reason for row in bad]
    assert reasons.count("bad_row") == 8 and reasons.count("nul_byte") == 1
    assert all("x_segments.csv" in row.detail for row in bad if row.reason == "bad_row")


@pytest.mark.parametrize(
    ("option", "content"),
    [
        ("labels", b"index;name\n1;a\n"),
        ("labels", b"\xff\xfe\0"),
        ("labels", b"index,mid,display_name\n0,notamid,Speech\n"),
        ("ontology", b"[1, 2"),
        ("ontology", b'{"id": "/m/a"}'),
        ("ontology", b"[" * 100_000),
        ("ontology", b'[{"id": "/m/a", "name": "A", "child_ids": "xyz"}]'),
        ("mid_names", b"<html>"),
        ("mid_names", b""),
    ],
)
def test_wrong_tables_are_refused(
    tables: Path, tmp_path: Path, option: str, content: bytes
) -> None:
    (tmp_path / "wrong").write_bytes(content)
    with pytest.raises(PrepError, match="wrong"):
        read(tables, lay(tmp_path / "audio", "a.wav"), **{option: tmp_path / "wrong"})


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    options = AudioSetOptions(
        segments=[tmp_path / "a.csv"], audio=[tmp_path / "no"], out=tmp_path / "out",
        labels=tmp_path / "b.csv", only_below=["Animal"],
    )  # fmt: skip
    with pytest.raises(PrepError) as caught:
        AudioSet(options)
    for part in ("a.csv", "b.csv", "no folder", "--only-below"):
        assert part in str(caught.value)


def test_the_splits_of_the_published_names() -> None:
    assert split_of(Path("eval_segments.csv")) == "test"
    assert split_of(Path("audioset_eval_strong.tsv")) == "test"
    for name in ("balanced_train_segments.csv", "unbalanced_train_segments.csv", "medieval.csv"):
        assert split_of(Path(name)) == "train"


def test_the_command(tables: Path, tmp_path: Path) -> None:
    audio = lay(tmp_path / "audio", *(f"Y{ytid}.wav" for ytid in IDS[:4]))
    arguments = [
        "audioset", str(tables / "balanced_train_segments.csv"), str(tables / "eval_segments.csv"),
        "--audio", str(audio), "--labels", str(tables / "class_labels_indices.csv"),
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(prep_app, arguments)
    assert done.exit_code == 0, done.output
    assert "4 recordings" in done.stdout and "missing_on_disk 2" in done.stdout
    rows = list(read_recordings(tmp_path / "out"))
    assert {row.group_id for row in rows} == set(IDS[:4])
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {row["recording_id"] for row in rejected} == {
        "audioset:Yout0ub-e_1@20", "audioset:id_45678_90@5",
    }  # fmt: skip
    done = CliRunner().invoke(prep_app, ["audioset", "none.csv", "--out", str(tmp_path / "x")])
    assert done.exit_code == 2 and "none.csv" in done.stderr and "Traceback" not in done.stderr
