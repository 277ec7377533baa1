"""BirdSet and BirdCLEF in their real shapes: class labels, lists as text, digits as taxa."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.birdset import letter_of
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.table.recording import Label
from dawnchorus.data_prep.table.recording_table import read_recordings

CODES = ["gcrfin", "whcspa", "amepip"]


def ogg_bytes(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(3200)
    soundfile.write(buffer, noise, 32000, format="OGG")
    return buffer.getvalue()


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["birdset", *map(str, arguments)])


def reasons(out: Path) -> dict[str, int]:
    return dict(json.loads((out / "summary.json").read_text())["rejected"])


def birdset_row(filepath: str, **changed: Any) -> dict[str, Any]:
    return {
        "audio": {"bytes": None, "path": filepath},
        "filepath": filepath,
        "start_time": None,
        "end_time": None,
        "low_freq": None,
        "high_freq": None,
        "ebird_code": 0,
        "ebird_code_multilabel": [0, 2],
        "call_type": "song",
        "sex": None,
        "lat": 38.49,
        "long": -119.95,
        "length": 29,
        "microphone": "focal",
        "license": "//creativecommons.org/licenses/by-nc-sa/4.0/",
        "source": "xenocanto",
        "local_time": "07:30",
        "detected_events": [[0.4, 2.0], [3.1, 5.0]],
        "event_cluster": [0, -1],
        "peaks": [0.5],
        "quality": "A",
        "recordist": "Ann Person",
        "order": 0,
    } | changed


SCHEMA = pa.schema(
    [
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("filepath", pa.string()),
        ("start_time", pa.float64()),
        ("end_time", pa.float64()),
        ("low_freq", pa.int64()),
        ("high_freq", pa.int64()),
        ("ebird_code", pa.int64()),
        ("ebird_code_multilabel", pa.list_(pa.int64())),
        ("call_type", pa.string()),
        ("sex", pa.string()),
        ("lat", pa.float64()),
        ("long", pa.float64()),
        ("length", pa.int64()),
        ("microphone", pa.string()),
        ("license", pa.string()),
        ("source", pa.string()),
        ("local_time", pa.string()),
        ("detected_events", pa.list_(pa.list_(pa.float64()))),
        ("event_cluster", pa.list_(pa.int64())),
        ("peaks", pa.list_(pa.float64())),
        ("quality", pa.string()),
        ("recordist", pa.string()),
        ("order", pa.int64()),
    ]
)


def write_parquet(path: Path, rows: list[dict[str, Any]], *, named: bool = True) -> Path:
    features = {
        "ebird_code": {"names": CODES, "_type": "ClassLabel"},
        "ebird_code_multilabel": {
            "feature": {"names": CODES, "_type": "ClassLabel"},
            "_type": "Sequence",
        },
        "order": {"names": ["Passeriformes"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if named else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)), path)
    return path


def test_recordings_of_xeno_canto(tmp_path: Path) -> None:
    content = ogg_bytes()
    rows = [
        birdset_row("/cache/XCM/XC128013.ogg"),
        birdset_row("XC7.ogg", license=None, quality="no score", recordist=None, lat=None),
        birdset_row("XC8.ogg", audio={"bytes": content, "path": "XC8.ogg"}),
    ]
    source = write_parquet(tmp_path / "XCM" / "train-00000-of-00001.parquet", rows)
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second, third = read_recordings(tmp_path / "out")
    assert (first.id, first.source, first.source_id) == ("xc:128013", "xc", "128013")
    assert first.url == "https://xeno-canto.org/128013/download"
    assert first.licence_url == "https://creativecommons.org/licenses/by-nc-sa/4.0/"
    assert first.attribution == "Ann Person, XC128013, xeno-canto.org/128013"
    assert (first.quality, first.sound_type, first.duration_s) == ("A", "song", 29.0)
    assert first.group_id == "Ann Person|38.49,-119.95|"
    assert first.datetime == ""  # a time without a day
    assert first.labels == (
        Label("gcrfin", "species", "foreground", "ebird-2021",
              (("ebird", "gcrfin"), ("class", "Aves"), ("order", "Passeriformes"))),
        Label("amepip", "species", "background", "ebird-2021",
              (("ebird", "amepip"), ("class", "Aves"))),
    )  # fmt: skip
    assert (second.licence_url, second.quality, second.group_id) == (
        "", "", "birdset:XCM/XC7",
    )  # fmt: skip
    assert Path(third.path).read_bytes() == content
    assert Path(third.path).is_relative_to(tmp_path / "out" / "audio")


SOUNDSCAPE = "HSN_001_20150708_061805.ogg"
OF_A_SOUNDSCAPE = {
    "recordist": None, "license": "Creative Commons Attribution 4.0", "quality": None
}  # fmt: skip


def test_rows_of_a_soundscape_become_one_recording(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / SOUNDSCAPE).write_bytes(ogg_bytes())
    rows = [
        birdset_row(SOUNDSCAPE, ebird_code=code, ebird_code_multilabel=[code], **OF_A_SOUNDSCAPE)
        for code in (0, 1, 0)
    ]
    rows.append(birdset_row("HSN_009_nowhere.ogg", **OF_A_SOUNDSCAPE))
    rows.append(birdset_row("HSN_009_nowhere.ogg", **OF_A_SOUNDSCAPE))
    write_parquet(tmp_path / "HSN" / "test-00000-of-00001.parquet", rows)
    empty = birdset_row(SOUNDSCAPE, ebird_code=None, ebird_code_multilabel=[], **OF_A_SOUNDSCAPE)
    write_parquet(tmp_path / "HSN" / "test_5s-00000-of-00001.parquet", [empty])
    result = run(tmp_path / "HSN", "--audio", audio, "--out", tmp_path / "out",
                 "--ebird-year", "2022")  # fmt: skip
    assert result.exit_code == 0, result.output
    (row,) = read_recordings(tmp_path / "out")
    assert (row.id, row.source) == ("birdset:HSN/HSN_001_20150708_061805", "birdset")
    assert row.names("foreground") == ["gcrfin", "whcspa"]
    assert row.labels[0].taxonomy == "ebird-2022"
    assert row.split == "test"
    assert row.licence_url == "https://creativecommons.org/licenses/by/4.0/"
    assert reasons(tmp_path / "out") == {"no_audio": 1}


def test_events_of_a_soundscape_are_refused(tmp_path: Path) -> None:
    """Also the other labels of it: a recording that lacks some of its labels is wrong, too."""
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / SOUNDSCAPE).write_bytes(ogg_bytes())
    rows = [
        birdset_row(SOUNDSCAPE, start_time=start, end_time=start + 3.0, **OF_A_SOUNDSCAPE)
        for start in (3.0, 9.0)
    ]
    source = write_parquet(tmp_path / "HSN" / "test-00000-of-00001.parquet", rows)
    result = run(source, "--audio", audio, "--out", tmp_path / "none")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "from 3 s to 6 s; 2 rows" in said and "not supported yet" in said
    rows += [birdset_row(SOUNDSCAPE, **OF_A_SOUNDSCAPE), birdset_row("XC7.ogg")]
    write_parquet(source, rows)
    result = run(source, "--audio", audio, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "3 rows are left out (label_times)" in result.output
    assert [row.id for row in read_recordings(tmp_path / "out")] == ["xc:7"]


def test_a_row_that_spans_its_file_or_a_file_cut_to_it_is_taken(tmp_path: Path) -> None:
    rows = [
        birdset_row("XC8.ogg", start_time=0.0, end_time=29.0),
        birdset_row("XC9.ogg", start_time=15.0, end_time=20.0, length=5),
        birdset_row("XC10.ogg", start_time=15.0, end_time=20.0),
    ]
    source = write_parquet(tmp_path / "HSN" / "test_5s-00000-of-00001.parquet", rows)
    assert run(source, "--out", tmp_path / "out").exit_code == 0
    assert [row.id for row in read_recordings(tmp_path / "out")] == ["xc:8", "xc:9"]
    assert reasons(tmp_path / "out") == {"label_times": 1}


def test_soundscape_labels_of_birdclef_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train_soundscapes_labels.csv").write_text(
        "filename,start,end,primary_label\nA.ogg,00:00:00,00:00:05,rbwoo1\n"
    )
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "not supported yet" in " ".join(result.output.split())


def test_csv_and_json_lines_with_codes_and_scientific_names_beside(tmp_path: Path) -> None:
    rows = [
        birdset_row("XC5.ogg", ebird_code="whcspa", ebird_code_multilabel=["whcspa", "amepip"],
                    order="Passeriformes", local_time="2019-05-01T07:30:00")
    ]  # fmt: skip
    (tmp_path / "a").mkdir()
    lines = "\n".join(json.dumps(row | {"lat": float("nan")}) for row in rows)
    (tmp_path / "a" / "train.jsonl").write_text(lines)
    (tmp_path / "a" / "eBird_Taxonomy_v2021.csv").write_text(
        "TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER1,FAMILY\n"
        "32000,species,whcspa,White-crowned Sparrow,Zonotrichia leucophrys,Passeriformes,x\n"
    )
    assert run(tmp_path / "a", "--out", tmp_path / "out").exit_code == 0
    (row,) = read_recordings(tmp_path / "out")
    assert [label.name for label in row.labels] == ["Zonotrichia leucophrys", "amepip"]
    assert dict(row.labels[0].ids)["ebird"] == "whcspa"
    assert (row.datetime, row.lat) == ("2019-05-01T07:30", None)
    (tmp_path / "train.csv").write_text(
        "filepath,ebird_code,ebird_code_multilabel,lat,long,length,license,quality,recordist\n"
        "XC6.ogg,whcspa,\"['whcspa' 'amepip']\",38.49,-119.95,12,,B,Ann\n"
        'XC7.ogg,3,"[3, 4]",38.49,-119.95,12,,B,Ann\n'
    )
    assert run(tmp_path / "train.csv", "--out", tmp_path / "two").exit_code == 0
    (row,) = read_recordings(tmp_path / "two")
    assert [label.name for label in row.labels] == ["whcspa", "amepip"]
    assert reasons(tmp_path / "two") == {"unnamed_code": 1}


def test_numbers_without_names_are_not_codes(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "x.parquet", [birdset_row("XC1.ogg")], named=False)
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "unnamed_code" in result.output


def test_birdclef_2021_to_2024(tmp_path: Path) -> None:
    (tmp_path / "train_metadata.csv").write_text(
        "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
        "author,date,filename,license,rating,time,url\n"
        "abethr1,\"['rbwoo1', 'abethr1']\",\"['call', 'song']\",-1.12,36.85,Turdus tephronotus,"
        "African Bare-eyed Thrush,Ann Person,2013-05-18,abethr1/XC128013.ogg,"
        "Creative Commons Attribution-NonCommercial-ShareAlike 3.0,4.5,8:30,"
        "https://www.xeno-canto.org/128013\n"
        "rbwoo1,[''],[''],,,Melanerpes carolinus,Red-bellied Woodpecker,Ben,0000-00-00,"
        "XC99.ogg,,0.0,?,https://www.xeno-canto.org/99\n"
    )
    audio = tmp_path / "train_audio" / "abethr1"
    audio.mkdir(parents=True)
    (audio / "XC128013.ogg").write_bytes(ogg_bytes())
    result = run(tmp_path, "--audio", tmp_path / "train_audio", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second = read_recordings(tmp_path / "out")
    assert first.id == "xc:128013" and Path(first.path).name == "XC128013.ogg"
    assert [(label.name, label.role) for label in first.labels] == [
        ("Turdus tephronotus", "foreground"), ("Melanerpes carolinus", "background"),
    ]  # fmt: skip
    assert dict(first.labels[0].ids)["ebird"] == "abethr1"
    assert (first.quality, first.sound_type, first.datetime) == (
        "A", "call, song", "2013-05-18T08:30",
    )  # fmt: skip
    assert first.licence_url == "https://creativecommons.org/licenses/by-nc-sa/3.0/"
    assert first.group_id == "Ann Person|-1.12,36.85|2013-05-18"
    assert (second.licence_url, second.path, len(second.labels)) == ("", "", 1)
    assert second.url == "https://xeno-canto.org/99/download"


def test_birdclef_2025_digits_are_taxa_of_inaturalist(tmp_path: Path) -> None:
    (tmp_path / "taxonomy.csv").write_text(
        "primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"
        "1161364,1161364,Guyalna cuta,Guyalna cuta,Insecta\n"
        "bobfly1,9000,Tyrannus savana,Fork-tailed Flycatcher,Aves\n"
        "22976,22976,Leptodactylus insularum,Spotted Foam-nest Frog,Amphibia\n"
    )
    (tmp_path / "train.csv").write_text(
        "primary_label,secondary_labels,type,filename,collection,rating,url,latitude,longitude,"
        "scientific_name,common_name,author,license\n"
        "1161364,\"['bobfly1', '22976']\",[''],1161364/iNat1216197.ogg,iNat,0.0,"
        "https://static.inaturalist.org/sounds/1216197.wav?17,7.3,-73.9,Guyalna cuta,"
        "Guyalna cuta,Lucas,cc-by-nc 4.0\n"
        "bobfly1,[''],[''],bobfly1/CSA36385.ogg,CSA,0.0,http://colecciones.example/CSA36385,"
        "7.3,-73.9,Tyrannus savana,x,Fonoteca,cc-by-nc-sa 4.0\n"
    )
    (tmp_path / "train_audio" / "bobfly1").mkdir(parents=True)
    (tmp_path / "train_audio" / "bobfly1" / "CSA36385.ogg").write_bytes(ogg_bytes())
    result = run(tmp_path, "--audio", tmp_path / "train_audio", "--out", tmp_path / "out",
                 "--ebird-year", "2024")  # fmt: skip
    assert result.exit_code == 0, result.output
    table = {row.id: row for row in read_recordings(tmp_path / "out")}
    assert set(table) == {"inat:1216197", "birdset:CSA36385"}
    row = table["inat:1216197"]
    assert row.url == "https://static.inaturalist.org/sounds/1216197.wav"
    first, bird, frog = row.labels
    assert (first.name, first.taxonomy) == ("Guyalna cuta", "inaturalist")
    assert dict(first.ids) == {"inat": "1161364", "class": "Insecta"}
    assert (bird.name, bird.taxonomy, bird.role) == (
        "Tyrannus savana", "ebird-2024", "background",
    )  # fmt: skip
    assert (frog.name, dict(frog.ids)["inat"]) == ("Leptodactylus insularum", "22976")
    assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"


def test_ratings() -> None:
    assert [letter_of(r) for r in ("5.0", 4.5, 4, 3.5, 1, 0.5, 0, None, "nan", 9)] == [
        "A", "A", "B", "B", "E", "E", "", "", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"a,b\n1,2\n", "holds no table"),
        ("x.parquet", b"PAR1" + b"x" * 50, "no parquet"),
        ("x.jsonl", b'{"filepath": "XC1.ogg", "ebird_code": "a"}\n{"filepath', "no JSON"),
        ("x.jsonl", b'{"filepath": ' + b"[" * 200_000, "deep"),
    ],
)
def test_what_is_broken_is_an_error(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = run(tmp_path / name, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert not list(tmp_path.rglob("recordings.parquet*"))


def test_hostile_rows(tmp_path: Path) -> None:
    rows = [
        {"filepath": "XC1.ogg", "ebird_code": "a" * 10_000_000},
        {"filepath": "XC2.ogg", "ebird_code": "a", "recordist": "x\0y"},
        {"filepath": "", "ebird_code": "a"},
        {"filepath": "../../../etc/passwd", "ebird_code": "a"},
        {"filepath": "XC3.ogg", "ebird_code": {"a": 1}, "ebird_code_multilabel": "[" * 90},
        {"filepath": "XC5.ogg", "ebird_code": "a", "ebird_code_multilabel": "[" * 100_000},
        {"filepath": "XC4.ogg", "ebird_code": "whcspa", "lat": 1e300, "length": -5},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run(tmp_path / "x.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = {row.id: row for row in read_recordings(tmp_path / "out")}
    assert set(table) == {"xc:3", "xc:4"}
    assert table["xc:3"].labels == ()
    assert (table["xc:4"].lat, table["xc:4"].duration_s) == (None, 0.0)
    assert reasons(tmp_path / "out") == {
        "field_too_long": 2, "bad_text": 1, "no_id": 1, "no_audio": 1,
    }  # fmt: skip
