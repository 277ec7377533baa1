"""Xeno-canto: saved answers of either version, tables, and the command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from xeno_canto_rows import good, page, v2, v3

from dawnchorus.data_prep.archives.checked import checked
from dawnchorus.data_prep.archives.file_index import FileIndex, xeno_canto_key
from dawnchorus.data_prep.archives.xeno_canto import from_api, read_dump
from dawnchorus.data_prep.archives.xeno_canto_sources import read_sources
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, Label, Recording
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings


def test_every_field_of_a_recording():
    label = Label(
        "Passerina amoena", "species", taxonomy="xeno-canto",
        ids=(("kingdom", "Animalia"), ("class", "Aves")),
    )  # fmt: skip
    assert from_api(v3()) == Recording(
        id="xc:254462", source="xc", source_id="254462", path="",
        url="https://xeno-canto.org/254462/download",
        licence_url="https://creativecommons.org/licenses/by-sa/4.0/",
        attribution="Ada Lovelace, XC254462, xeno-canto.org/254462", recordist="Ada Lovelace",
        labels=(label, Label("Pipilo maculatus", "species", BACKGROUND, "xeno-canto")),
        quality="A", sound_type="song", datetime="2015-06-23T07:17", lat=43.6571, lon=-103.4143,
        country="United States", sample_rate_hz=48000, duration_s=253.0,
        group_id="Ada Lovelace|43.66,-103.41|2015-06-23",
    )  # fmt: skip


def test_v2_gives_the_same_but_for_the_host():
    old, new = from_api(v2()), from_api(v3(also=[]))
    assert isinstance(old, Recording) and isinstance(new, Recording)
    assert old.url == "https://www.xeno-canto.org/254462/download"
    assert (old.lon, old.licence_url, old.labels) == (new.lon, new.licence_url, new.labels)
    assert old.group_id == new.group_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file": None}, "restricted"),
        ({"file": "restricted_species"}, "restricted"),
        ({"file": "", "_meta": {"redacted_fields": ["file", "lat"]}}, "restricted"),
        ({"gen": "Mystery", "sp": "mystery", "en": "Identity unknown"}, "unidentified"),
        ({"gen": "Sonus", "sp": "naturalis", "en": "Soundscape"}, "soundscape"),
        ({"id?": "yes"}, "identity_questioned"),
        ({"gen": "", "sp": ""}, "no_name"),
        ({"id": "../x"}, "no_id"),
        ({"rec": "half a \ud800"}, "bad_text"),
        ({"gen": "\ud800"}, "bad_text"),
        ({"file": "http://[::1", "rec": "\0"}, "bad_text"),
        ({"rec": "x" * 20_000}, "field_too_long"),
        ({"also": ["x" * 20_000]}, "field_too_long"),
    ],
)
def test_what_is_left_out_and_why(changes, reason):
    (row,) = checked([from_api(v3(**changes))])
    assert isinstance(row, Rejected) and row.reason == reason


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"length": "1:02:03"}, "duration_s", 3723.0),
        ({"length": "0:07"}, "duration_s", 7.0),
        ({"length": "long"}, "duration_s", 0.0),
        ({"q": "no score"}, "quality", ""),
        ({"time": "?"}, "datetime", "2015-06-23"),
        ({"time": "7:05"}, "datetime", "2015-06-23T07:05"),
        ({"date": "2015-06-00"}, "datetime", "2015-06"),
        ({"date": "2015-00-00"}, "datetime", "2015"),
        ({"date": "0000-00-00"}, "datetime", ""),
        ({"lat": "0", "lon": "0.0"}, "lat", None),
        ({"lat": "95", "lon": "3"}, "lon", None),
        ({"lat": None, "lon": None}, "group_id",
         "Ada Lovelace|Prairie Trail, South Dakota|2015-06-23"),
        ({"smp": ""}, "sample_rate_hz", 0),
        ({"smp": "-5"}, "sample_rate_hz", 0),
        ({"rec": "", "lat": "", "lon": "", "loc": ""}, "group_id", "xc:254462"),
    ],
)  # fmt: skip
def test_odd_values(changes, field, value):
    row = from_api(v3(**changes))
    assert isinstance(row, Recording)
    assert getattr(row, field) == value


@pytest.mark.parametrize(
    ("gen", "sp", "ssp", "name", "rank"),
    [
        ("Motacilla", "alba", "yarrellii", "Motacilla alba yarrellii", "subspecies"),
        ("Motacilla", "alba", "alba/yarrellii", "Motacilla alba", "species"),
        ("Motacilla", "alba", "cf. alba", "Motacilla alba", "species"),
        ("Gryllus", "sp.", "", "Gryllus", "genus"),
        ("Gryllus", "", "", "Gryllus", "genus"),
        ("Larus", "argentatus x fuscus", "", "Larus argentatus x fuscus", ""),
    ],
)
def test_names(gen, sp, ssp, name, rank):
    row = from_api(
        v3(gen=gen, sp=sp, ssp=ssp, also=[name, "", "Identity unknown", "Sonus naturalis"])
    )
    assert isinstance(row, Recording)
    (label,) = row.labels
    assert (label.name, label.rank) == (name, rank)


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: json.dumps(page(rows)),
        lambda rows: "\ufeff" + json.dumps(page(rows)),
        lambda rows: json.dumps([page(rows[:1], 1, 2), page(rows[1:], 2, 2)]),
        lambda rows: json.dumps(rows),
        lambda rows: json.dumps(page(rows[:1])) + "\n" + json.dumps(page(rows[1:])),
        as_lines,
    ],
    ids=["page", "page with BOM", "pages", "bare list", "page after page", "lines"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_shapes_of_saved_answers(shape, packed, tmp_path):
    text = shape([v3(1), v2(2), v3(3)]).encode()
    path = tmp_path / "saved"  # content decides, not the name
    path.write_bytes(gzip.compress(text) if packed else text)
    assert [row.id for row in good(read_dump(path))] == ["xc:1", "xc:2", "xc:3"]


CSV_V3 = """\
id,gen,sp,ssp,grp,en,rec,cnt,loc,lat,lon,type,url,file,file-name,lic,q,length,time,date,also,smp
1,Parus,major,,birds,Great Tit,"Ann, B.",Norway,Oslo,59.9,10.7,"call, song",u,https://x.org/1/download,XC1.mp3,\
//creativecommons.org/licenses/by/4.0/,B,0:10,06:00,2020-01-02,"['Turdus merula', 'Pica pica']",\
44100
2,Mystery,mystery,,,Identity unknown,A,,,,,,u,f,,,,0:10,,,,
"""
CSV_V2 = """\
id;gen;sp;group;rec;lat;lng;file;lic;length;also
3;Parus;major;birds;Ann;59.9;10.7;//xeno-canto.org/3/download;CC BY 4.0;\
1:00:01;Turdus merula|Pica pica
"""


@pytest.mark.parametrize("packed", [False, True])
def test_tables_of_either_version(packed, tmp_path):
    for name, text in (("a.csv", CSV_V3), ("b.csv", CSV_V2)):
        data = text.encode()
        (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    first, left_out, second = read_sources([tmp_path], scratch=tmp_path / "s")
    assert isinstance(first, Recording) and isinstance(second, Recording)
    assert first.recordist == "Ann, B." and first.sound_type == "call, song"
    assert first.names(BACKGROUND) == second.names(BACKGROUND) == ["Turdus merula", "Pica pica"]
    assert (second.lon, second.duration_s, second.url[:8]) == (10.7, 3601.0, "https://")
    assert isinstance(left_out, Rejected) and left_out.reason == "unidentified"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not begin"),
        (b"<!DOCTYPE html><title>Login</title>", "web page"),
        (b'{"error":{"code":"missing_parameter","message":"No query"}}', "No query"),
        (b'{"error":"client_error","message":"Missing or invalid"}', "client_error: Missing"),
        (b'{"hello": 1}', "no answer of Xeno-canto's API"),
        (b'{"recordings":[{"id":"1"', "no JSON|breaks off|Is it whole"),
        (b'{"recordings":' + b"[" * 100_000, "deep"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0truncated", "read"),
        (b"\0\0\0\0", "does not begin"),
        (b"gbifID\tspecies\n1\tA\n", "'Darwin Core Archive'"),
        (b"a,b\n1,2\n", "no column id, gen, sp"),
        (b"PK\x03\x04 not a zip", "no zip file or a truncated one"),
    ],
)
def test_hostile_and_foreign_files(content, says, tmp_path):
    path = tmp_path / "dump.json"
    path.write_bytes(content)
    with pytest.raises(PrepError, match=says) as caught:
        list(read_sources([path], scratch=tmp_path / "s"))
    assert "dump.json" in str(caught.value)


def test_json_in_a_zip_and_zips_of_something_else(dwca_files, tmp_path):
    saved = dwca_files(tmp_path / "a.zip", {"x/page1.json": json.dumps(page([v3(1)]))})
    assert [row.id for row in good(read_sources([saved], scratch=tmp_path))] == ["xc:1"]
    simple = dwca_files(tmp_path / "b.zip", {"0012.csv": "gbifID\tspecies\n"})
    with pytest.raises(PrepError, match="not 'Simple'"):
        list(read_sources([simple], scratch=tmp_path))
    evil = dwca_files(tmp_path / "c.zip", {"../x.json": "[]"})
    with pytest.raises(PrepError, match="outside itself"):
        list(read_sources([evil], scratch=tmp_path))


def test_a_huge_field_is_one_row_less(tmp_path):
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(page([v3(1), v3(2, loc="x" * (10 << 20)), v3(3)])))
    first, long, last = read_dump(path)
    assert isinstance(long, Rejected) and long.reason == "field_too_long"
    assert isinstance(first, Recording) and isinstance(last, Recording)


def test_audio_on_disk_is_found_by_number(tmp_path):
    (tmp_path / "XC254462-JMJ.mp3").write_bytes(b"x")
    row = from_api(v3(), FileIndex(tmp_path, xeno_canto_key))
    assert isinstance(row, Recording) and row.path == str(tmp_path / "XC254462-JMJ.mp3")
    other = from_api(v3(25446), FileIndex(tmp_path, xeno_canto_key))
    assert isinstance(other, Recording) and other.path == ""


# --- the command -----------------------------------------------------------------------------


def test_the_command_wants_a_source_or_a_query(tmp_path):
    result = CliRunner().invoke(prep_app, ["xeno-canto", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "SOURCE" in result.output
    result = CliRunner().invoke(
        prep_app, ["xeno-canto", "--out", str(tmp_path), "--query", "larus fuscus"]
    )
    assert result.exit_code == 2 and 'sp:"larus fuscus"' in result.output


def test_the_command_counts_what_it_leaves_out(tmp_path):
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(page([v3(1), v3(1), v3(2, file=None), v3(3, gen="Mystery")])))
    out = tmp_path / "out"
    result = CliRunner().invoke(prep_app, ["xeno-canto", str(dump), "--out", str(out)])
    assert result.exit_code == 0
    assert "1 recordings" in result.output and "recordings.parquet" in result.output
    for part in ("repeated_id 1", "restricted 1", "unidentified 1"):
        assert part in result.output


def test_real_sound_in_both_shapes_is_the_same(real_sound, tmp_path):
    from scripts.xc_birds_dump import write_gbif, write_v3

    metadata = real_sound / "xc_birds" / "metadata.csv"
    write_v3(metadata, tmp_path / "v3.json")
    write_gbif(metadata, tmp_path / "gbif")
    tables = []
    for name in ("v3.json", "gbif"):
        out = tmp_path / f"table-{name}"
        arguments = ["xeno-canto", str(tmp_path / name), "--out", str(out)]
        arguments += ["--audio", str(real_sound / "xc_birds" / "audio")]
        result = CliRunner().invoke(prep_app, arguments)
        assert result.exit_code == 0, result.output
        tables.append(list(read_recordings(out)))
    fields = ("id", "path", "licence_url", "attribution", "recordist", "group_id", "duration_s")
    first, second = ([[getattr(r, f) for f in fields] for r in table] for table in tables)
    assert first == second and len(first) == 271
    names = [[[(x.name, x.rank, x.taxonomy) for x in r.labels] for r in table] for table in tables]
    assert names[0] == names[1]
    assert all(Path(row.path).is_file() for row in tables[0])
