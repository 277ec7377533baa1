"""iNaturalist's formats in their real shapes; the API is a local server that misbehaves."""

from __future__ import annotations

import copy
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from inaturalist_rows import ANCESTORS, observation, sound
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.inaturalist import (
    bare_url,
    licence_of_code,
    observation_rows,
    sound_key,
    sound_number,
)
from dawnchorus.data_prep.archives.json_files import MAX_DEPTH, StrictJson, documents, items
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings


def rows_of(observed: Any) -> list[Recording | Rejected]:
    return list(observation_rows(observed, None))


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["inaturalist", *map(str, arguments)])


def rejected(out: Path) -> dict[str, str]:
    """{reason: a recording id} of a table."""
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["reason"]: row["recording_id"] for row in rows}


def test_a_sound_becomes_a_recording() -> None:
    (row,) = rows_of(observation(88, [sound(263113)]))
    assert isinstance(row, Recording)
    assert (row.id, row.source, row.source_id) == ("inat:263113", "inat", "263113")
    assert row.url == "https://static.inaturalist.org/sounds/263113.wav"
    assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
    assert row.attribution == (
        "Ann Person, iNaturalist sound 263113, inaturalist.org/observations/88"
    )
    assert (row.datetime, row.lat, row.lon) == ("2021-06-27T07:17", 43.6571, -103.4143)
    assert row.group_id == "aperson|43.66,-103.41|2021-06-27"
    (label,) = row.labels
    assert (label.name, label.rank, label.taxonomy) == (
        "Passerina amoena", "species", "inaturalist",
    )  # fmt: skip
    assert dict(label.ids) == {
        "inat": "10276", "kingdom": "Animalia", "phylum": "Chordata", "class": "Aves",
        "order": "Passeriformes", "family": "Cardinalidae",
    }  # fmt: skip


def test_the_sounds_of_an_observation_share_its_group() -> None:
    first, second = rows_of(observation(88, [sound(1), sound(2, "m4a")], user=None))
    assert isinstance(first, Recording) and isinstance(second, Recording)
    assert first.id != second.id and first.group_id == second.group_id
    bare = observation(88, [sound(1), sound(2)], user=None, location=None, geojson=None)
    groups = {row.group_id for row in rows_of(bare) if isinstance(row, Recording)}
    assert groups == {"inat:observation/88"}


def test_an_obscured_place_does_not_split_what_belongs_together() -> None:
    here = observation(1, [sound(1)], obscured=True)
    there = observation(2, [sound(2)], obscured=True, location="43.80,-103.30")
    (first,), (second,) = rows_of(here), rows_of(there)
    assert isinstance(first, Recording) and isinstance(second, Recording)
    assert first.group_id == second.group_id and first.lat != second.lat


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"hidden": True}, "hidden"),
        ({"moderator_actions": [{"action": "hide"}]}, "moderated"),
        ({"moderator_actions": [{"action": "hide"}, {"action": "unhide"}]}, None),
        ({"flags": [{"flag": "copyright infringement", "resolved": False}]}, "flagged"),
        ({"flags": [{"flag": "spam", "resolved": True}]}, None),
    ],
)
def test_what_moderators_took_out_of_sight_is_left_out(
    changed: dict[str, Any], reason: str | None
) -> None:
    (row,) = rows_of(observation(1, [sound(7, **changed)]))
    assert (row.reason if isinstance(row, Rejected) else None) == reason


def test_licences() -> None:
    def licence(**changed: Any) -> str:
        (row,) = rows_of(observation(1, [sound(7, **changed)]))
        assert isinstance(row, Recording)
        return row.licence_url

    assert licence(license_code=None) == "all rights reserved"
    assert licence(license_code="cc0") == "https://creativecommons.org/publicdomain/zero/1.0/"
    bare = sound(7)
    del bare["license_code"]  # v2, not asked for: not stated, which is another thing
    (row,) = rows_of(observation(1, [bare]))
    assert isinstance(row, Recording) and row.licence_url == ""
    assert licence_of_code("gfdl") == "gfdl"


def test_taxa_of_other_ranks() -> None:
    def row(**taxon: Any) -> Recording | Rejected:
        return rows_of(observation(1, [sound(7)], taxon=taxon or None))[0]

    genus = row(id=10274, name="Passerina", rank="genus")
    assert isinstance(genus, Recording) and genus.labels[0].rank == "genus"
    life = row(id=48460, name="Life", rank="stateofmatter")
    assert isinstance(life, Rejected) and life.reason == "unidentified"
    nothing = row()
    assert isinstance(nothing, Rejected) and nothing.reason == "unidentified"
    iconic = row(id=5, name="Hyla", rank="genus", iconic_taxon_name="Amphibia")
    assert isinstance(iconic, Recording)
    assert dict(iconic.labels[0].ids)["class"] == "Amphibia"


def test_names_and_addresses() -> None:
    assert sound_number("https://static.inaturalist.org/sounds/12.mpga?99") == "12"
    assert sound_number("https://static.inaturalist.org/sounds/") == ""
    assert sound_number("https://[broken/sounds/1.wav") == ""
    assert bare_url("//static.inaturalist.org/sounds/1.mp3?2").startswith("https://static")
    assert [sound_key(n) for n in ("263113.m4a", "inat_0012.wav", "notes12b.wav")] == [
        ["263113"], ["12"], [],
    ]  # fmt: skip


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"sounds": "x"}, {"sounds": [3]},
    {"id": 1, "sounds": [{"id": 2}], "taxon": [], "user": 5, "location": 7}])  # fmt: skip
def test_an_observation_of_another_shape_is_rejected_not_fatal(junk: Any) -> None:
    assert all(isinstance(row, Rejected) for row in rows_of(junk))


# ---- saved pages -------------------------------------------------------------------------------


def test_saved_pages_in_every_wrapping_give_the_same_table(tmp_path: Path) -> None:
    found = [
        observation(1, [sound(11), sound(12, "mp3")]),
        observation(2, [sound(13, file_url=None, id=13)]),
        observation(3, [sound(14)]),
    ]
    page = {"total_results": 3, "page": 1, "per_page": 200, "results": found}
    v2 = copy.deepcopy(page)
    for item in v2["results"]:  # type: ignore[attr-defined]
        item["taxon"]["ancestors"] = ANCESTORS
        item["observation_sounds"] = [{"id": 1, "sound": s} for s in item.pop("sounds")]
        del item["identifications"], item["geojson"]
    texts = {
        "page.json": json.dumps(page),
        "v2.json": json.dumps(v2),
        "two.json": json.dumps({**page, "results": found[:1]})
        + "\n"
        + json.dumps({**page, "results": found[1:]}),
        "array.json": json.dumps(found),
        "lines.jsonl": "\n".join(json.dumps(item) for item in found),
    }
    tables = []
    for name, text in texts.items():
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        result = run(tmp_path / name, "--out", tmp_path / f"out-{name}")
        assert result.exit_code == 0, (name, result.output)
        tables.append(list(read_recordings(tmp_path / f"out-{name}")))
        assert rejected(tmp_path / f"out-{name}") == {"no_audio": "inat:13"}
    assert len(tables[0]) == 3
    assert all(table == tables[0] for table in tables)
    with gzip.open(tmp_path / "page.bin", "wt") as file:  # the content decides, not the name
        file.write(texts["page.json"])
    assert run(tmp_path / "page.bin", "--out", tmp_path / "gz").exit_code == 0
    assert list(read_recordings(tmp_path / "gz")) == tables[0]


def test_sounds_on_disk_are_found_by_their_number(tmp_path: Path) -> None:
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"results": [observation(1, [sound(11), sound(12)])]}))
    (tmp_path / "audio" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "audio" / "deep" / "12.wav", np.zeros(800), 8000)
    result = run(page, "--audio", tmp_path / "audio", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    first, second = read_recordings(tmp_path / "out")
    assert first.path == "" and second.path.endswith("deep/12.wav")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.json", b'{"results": [{"id": 1, "sounds": [', "no JSON"),
        ("deep.json", b'{"results": ' + b"[" * 200_000, "deep"),
        ("latin.json", b'{"results": [{"id": 1, "name": "\xff"}]}', "no JSON"),
        ("other.json", b'{"hello": 1}', "of iNaturalist"),
        ("cut.json.gz", gzip.compress(b'{"results": [' + b" " * 100_000, mtime=0)[:60], "whole"),
        ("cut.zip", b"PK\x03\x04nothing", "zip"),
        ("zeros.json", bytes(1000), "of iNaturalist"),
        ("empty.json", b"", "of iNaturalist"),
    ],
)
def test_a_broken_file_is_an_error_and_leaves_no_table(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    result = run(tmp_path / name, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert not list(tmp_path.rglob("*.parquet*"))


def test_hostile_text_is_rejected_row_by_row(tmp_path: Path) -> None:
    found = [
        observation(1, [sound(1)]),
        observation(2, [sound(2)], user={"login": "x" * 10_000_000}),
        observation(3, [sound(3)], user={"login": "a\0b"}),
        observation(4, [sound(4)], user={"login": "\ud800"}),
        observation(5, [sound(5)], location="nan,inf"),
    ]
    (tmp_path / "page.json").write_text(json.dumps({"results": found}))
    result = run(tmp_path / "page.json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert {"field_too_long": "inat:2", "bad_text": "inat:3"}.items() <= rejected(
        tmp_path / "out"
    ).items()
    table = {row.id: row for row in read_recordings(tmp_path / "out")}
    assert table["inat:5"].lat is not None  # from geojson
    assert "inat:1" in table and "inat:2" not in table
    assert (tmp_path / "out" / "rejected.parquet").stat().st_size < 100_000


def test_an_item_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "endless.json"
    path.write_bytes(b'{"results": [{"a": "' + b"x" * 3_000_000 + b'"}]}')
    (document,) = documents(path)
    with pytest.raises(PrepError, match="an item of more than 1 MB"):
        list(items(document, "results.item", 1 << 20))


def test_strict_json_equals_python_for_any_cut() -> None:
    """NaN inside a string stays, outside it goes, wherever the chunks are cut."""
    value = {"a": ['NaN \\ " Infinity', {"b": "nan"}], "c": "\\\\", "d": "[[[["}
    text = json.dumps(value)[:-1] + ', "e": NaN, "f": [-Infinity, Infinity, nan], "g": 1}'

    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(step)

    for step in (1, 2, 3, 5, 7, 64):
        stream = StrictJson(Cut(text.encode()), "x")
        read = b"".join(iter(lambda: stream.read(65536), b""))  # noqa: B023
        assert json.loads(read) == value | {"e": None, "f": [None, None, None], "g": 1}, step
        assert stream.depth == 0
    assert MAX_DEPTH < 100
