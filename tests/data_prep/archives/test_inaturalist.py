"""iNaturalist's formats in their real shapes; the API is a local server that misbehaves."""

from __future__ import annotations

import copy
import csv
import gzip
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from data_prep.archives import inaturalist_api, inaturalist_dwca
from data_prep.archives.inaturalist import (
    bare_url,
    licence_of_code,
    observation_rows,
    sound_key,
    sound_number,
)
from data_prep.archives.inaturalist_api import ApiOptions, parse_query, walk
from data_prep.archives.json_files import MAX_DEPTH, Document, StrictJson, documents, items
from data_prep.cli import prep_app
from data_prep.errors import PrepError
from data_prep.progress import Progress
from data_prep.recording_table import Rejected, read_recordings
from data_prep.recordings import Recording

ANCESTORS = [
    {"id": 1, "name": "Animalia", "rank": "kingdom"},
    {"id": 2, "name": "Chordata", "rank": "phylum"},
    {"id": 3, "name": "Aves", "rank": "class"},
    {"id": 7251, "name": "Passeriformes", "rank": "order"},
    {"id": 71339, "name": "Cardinalidae", "rank": "family"},
    {"id": 10274, "name": "Passerina", "rank": "genus"},
]


def sound(number: int, ext: str = "wav", **changed: Any) -> dict[str, Any]:
    """A sound as v1 gives it."""
    return {
        "id": number,
        "license_code": "cc-by-nc",
        "attribution": "(c) A. Person, some rights reserved (CC BY-NC)",
        "native_sound_id": None,
        "secret_token": None,
        "file_url": f"https://static.inaturalist.org/sounds/{number}.{ext}?1624793769",
        "file_content_type": "audio/x-wav",
        "play_local": True,
        "subtype": None,
        "flags": [],
    } | changed


def observation(number: int, sounds: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """An observation as v1 gives it: the taxon without ancestors, the identifications with."""
    taxon = {
        "id": 10276,
        "name": "Passerina amoena",
        "rank": "species",
        "iconic_taxon_name": "Aves",
        "ancestor_ids": [48460, 1, 2, 3, 7251, 71339, 10274, 10276],
    }
    return {
        "id": number,
        "uuid": f"00000000-0000-0000-0000-{number:012d}",
        "quality_grade": "research",
        "observed_on": "2021-06-27",
        "time_observed_at": "2021-06-27T07:17:05-06:00",
        "location": "43.6571,-103.4143",
        "geojson": {"type": "Point", "coordinates": [-103.4143, 43.6571]},
        "obscured": False,
        "place_guess": "Custer State Park, SD, US",
        "user": {"id": 5, "login": "aperson", "name": "Ann Person"},
        "taxon": taxon,
        "identifications": [{"id": 1, "taxon": {**taxon, "ancestors": ANCESTORS}}],
        "flags": [],
        "sounds": sounds,
    } | changed


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
        ("other.json", b'{"hello": 1}', "nothing of iNaturalist"),
        ("cut.json.gz", gzip.compress(b'{"results": [' + b" " * 100_000)[:60], "whole"),
        ("cut.zip", b"PK\x03\x04nothing", "zip"),
        ("zeros.json", bytes(1000), "nothing of iNaturalist"),
        ("empty.json", b"", "nothing of iNaturalist"),
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


# ---- the API -----------------------------------------------------------------------------------


class Api:
    """A server with observations 1..count that can be told to fail."""

    def __init__(self) -> None:
        self.found = [
            observation(n, [sound(1000 + n, hidden=n == 3)]) for n in (1, 2, 3, 5, 8, 13, 21)
        ]
        self.trouble: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[dict[str, str]] = []
        self.times: list[float] = []
        self.stop_after = 10**9
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        address = urllib.parse.urlsplit(handler.path)
        asked = dict(urllib.parse.parse_qsl(address.query))
        self.requests.append(asked | {"path": address.path})
        self.times.append(time.monotonic())
        if len(self.requests) > self.stop_after:
            self.send(handler, 503, {}, b"stopped")
            return
        if self.trouble:
            self.send(handler, *self.trouble.pop(0))
            return
        above, per_page = int(asked["id_above"]), int(asked["per_page"])
        rest = [item for item in self.found if item["id"] > above]
        results: list[dict[str, Any]] = copy.deepcopy(rest[:per_page])
        if address.path == "/v2/observations":
            results = [
                item if "sounds:(" in asked.get("fields", "") else {"uuid": item["uuid"]}
                for item in results
            ]
        page = {"total_results": len(rest), "page": 1, "per_page": per_page, "results": results}
        self.send(handler, 200, {"Content-Type": "application/json"}, json.dumps(page).encode())

    def send(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def options(api: Api) -> Callable[..., ApiOptions]:
    def make(**changed: Any) -> ApiOptions:
        given = {"base_url": api.url, "per_page": 2, "pause_s": 0.0, "backoff_s": 0.001}
        return ApiOptions(**(given | changed))

    return make


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_api_is_walked_to_its_end(api: Api, tmp_path: Path, version: str) -> None:
    arguments = ["--query", "taxon_id=3", "--api", version, "--base-url", api.url,
                 "--per-page", "2", "--pause-s", "0", "--out", tmp_path]  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert [row.id for row in read_recordings(tmp_path)] == [
        f"inat:{1000 + n}" for n in (1, 2, 5, 8, 13, 21)
    ]
    assert rejected(tmp_path) == {"hidden": "inat:1003"}
    assert [asked["id_above"] for asked in api.requests] == ["0", "2", "5", "13"]
    first = api.requests[0]
    assert first["path"] == f"/{version}/observations"
    assert first["sounds"] == "true" and first["taxon_id"] == "3"
    assert first["order_by"] == "id" and first["order"] == "asc"
    assert first["sound_license"] == inaturalist_api.LICENCES
    assert ("fields" in first) == (version == "v2")
    assert len(list((tmp_path / "pages").glob("*.json"))) == 4
    # Finished: the same command asks nothing again; the pages are a source of their own.
    assert run(*arguments).exit_code == 0
    assert len(api.requests) == 4
    assert run(tmp_path, "--out", tmp_path / "again").exit_code == 0
    assert list(read_recordings(tmp_path / "again")) == list(read_recordings(tmp_path))


def test_failures_that_pass_are_waited_for(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions]
) -> None:
    api.trouble = [
        (429, {"Retry-After": "1"}, b"{}"),
        (503, {}, b"<html>"),
        (200, {"Content-Type": "text/html"}, b"<html>a proxy's page</html>"),
        (200, {"Content-Length": "5000"}, b'{"total_results": 7, "results": [{"id"'),
        (200, {}, b'{"error": "no results"}'),
        (500, {}, b""),
    ]
    pages = walk({}, tmp_path, options(), Progress())
    assert len(pages) == 4 and len(api.requests) == 10
    assert api.times[1] - api.times[0] >= 0.95  # Retry-After was kept


def test_a_stopped_query_continues(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions]
) -> None:
    api.stop_after = 2
    with pytest.raises(PrepError, match="same command continues"):
        walk({"taxon_id": "3"}, tmp_path, options(retries=1), Progress())
    assert len(list((tmp_path / "pages").glob("*.json"))) == 2
    api.stop_after = 10**9
    before = len(api.requests)
    with pytest.raises(PrepError, match=r"another query.*taxon_id"):
        walk({"taxon_id": "4"}, tmp_path, options(), Progress())
    pages = walk({"taxon_id": "3"}, tmp_path, options(per_page=200), Progress())
    assert [r["id_above"] for r in api.requests[before:]] == ["5"]
    assert len(pages) == 3


def test_the_pace_is_kept(api: Api, tmp_path: Path, options: Callable[..., ApiOptions]) -> None:
    api.trouble = [(503, {}, b"")]
    walk({}, tmp_path, options(pause_s=0.2), Progress())
    assert np.diff(api.times).min() >= 0.15  # retries count too; arrivals jitter
    assert len(api.times) == 5


def test_ten_thousand_requests_a_day(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inaturalist_api, "DAY_LIMIT", 2)
    monkeypatch.setattr(inaturalist_api, "DAY_S", 1.0)
    walk({}, tmp_path, options(), Progress())
    assert api.times[2] - api.times[0] >= 0.95 and api.times[3] - api.times[1] >= 0.95


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": "Unknown parameter", "status": 422}', "Unknown parameter"),
        (b'{"errors": [{"errorCode": "422", "message": "Unknown taxon_id"}]}', "Unknown taxon_id"),
        (b"<html>", "<html>"),
    ],
)
def test_what_the_api_refuses_is_passed_on(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions], body: bytes, says: str
) -> None:
    api.trouble = [(422, {}, body)]
    with pytest.raises(PrepError, match=says):
        walk({"taxon_id": "x"}, tmp_path, options(), Progress())
    assert len(api.requests) == 1


def test_a_server_that_ignores_id_above_does_not_loop(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions]
) -> None:
    page = json.dumps({"total_results": 99, "results": [observation(4, [])]}).encode()
    api.trouble = [(200, {}, page)] * 3
    with pytest.raises(PrepError, match="does not keep to id_above"):
        walk({}, tmp_path, options(), Progress())


def test_wrong_options_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"'taxon'.*'page' is set.*'a' is given twice"):
        parse_query(["taxon", "page=3", "a=1", "a=2"])
    result = run("--query", "a=1", "--api", "v3", "--per-page", "500", "--out", tmp_path)
    assert result.exit_code == 2 and "v3" in result.output and "500" in result.output
    assert run("--out", tmp_path).exit_code == 2


# ---- the research-grade archive ----------------------------------------------------------------


def words(text: str) -> list[str]:
    return text.split()


OBSERVATION_COLUMNS = words(
    "id occurrenceID basisOfRecord modified institutionCode collectionCode datasetName "
    "informationWithheld catalogNumber references occurrenceRemarks recordedBy recordedByID "
    "identifiedBy identifiedByID captive eventDate eventTime verbatimEventDate verbatimLocality "
    "decimalLatitude decimalLongitude coordinateUncertaintyInMeters countryCode stateProvince "
    "identificationID dateIdentified identificationRemarks taxonID scientificName taxonRank "
    "kingdom phylum class order family genus license rightsHolder inaturalistLogin "
    "publishingCountry projectId sex lifeStage reproductiveCondition annotations vitality "
    "dynamicProperties"
)
MEDIA_COLUMNS = words(
    "id type format identifier references created creator publisher license rightsHolder "
    "catalogNumber"
)


def research_row(number: int, **changed: str) -> dict[str, str]:
    return {
        "id": str(number),
        "occurrenceID": f"https://www.inaturalist.org/observations/{number}",
        "occurrenceRemarks": 'heard first,\nthen "seen"',
        "recordedBy": "Ann Person",
        "eventDate": "2021-06-27T07:17:05-06:00",
        "eventTime": "07:17:05-06:00",
        "decimalLatitude": "43.6571",
        "decimalLongitude": "-103.4143",
        "countryCode": "US",
        "taxonID": "10276",
        "scientificName": "Passerina amoena",
        "taxonRank": "species",
        "kingdom": "Animalia",
        "class": "Aves",
        "license": "http://creativecommons.org/publicdomain/zero/1.0/",
        "inaturalistLogin": "aperson",
    } | changed


def media_row(number: int, key: int, kind: str = "Sound", **changed: str) -> dict[str, str]:
    image = kind == "StillImage"
    host = "https://inaturalist-open-data.s3.amazonaws.com/photos" if image else (
        "https://static.inaturalist.org/sounds"
    )  # fmt: skip
    return {
        "id": str(number),
        "type": kind,
        "format": "image/jpeg" if image else "audio/mp4",
        "identifier": f"{host}/{key}/original.jpg" if image else f"{host}/{key}.m4a?1624793769",
        "creator": "Ann Person",
        "publisher": "iNaturalist",
        "license": "http://creativecommons.org/licenses/by-nc/4.0/",
        "rightsHolder": "Ann Person",
        "catalogNumber": str(number),
    } | changed


def csv_text(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", quoting=csv.QUOTE_ALL, lineterminator="\n")
    text.write(",".join(columns) + "\n")
    table.writerows(rows)
    return text.getvalue()


@pytest.fixture
def research() -> dict[str, bytes]:
    """The files of a small archive: photos, sounds, a duplicate, a sound without observation."""
    observations = [research_row(n) for n in range(1, 8)]
    observations[4]["informationWithheld"] = "Coordinate uncertainty increased to 28000m"
    observations[5]["scientificName"] = ""
    media = [
        media_row(1, 900, "StillImage"), media_row(1, 101), media_row(1, 102),
        media_row(2, 901, "StillImage"), media_row(3, 103), media_row(3, 103),
        media_row(5, 105), media_row(6, 106), media_row(77, 107),
        media_row(7, 0, identifier=""),
    ]  # fmt: skip
    return {
        "observations.csv": csv_text(OBSERVATION_COLUMNS, observations).encode(),
        "media.csv": csv_text(MEDIA_COLUMNS, media).encode(),
        "meta.xml": b"<archive/>",
        "eml.xml": b"<eml/>",
    }


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_research_grade_archive(tmp_path: Path, research: dict[str, bytes]) -> None:
    assert len(OBSERVATION_COLUMNS) == 48
    sources = [
        write_zip(tmp_path / "gbif-observations-dwca.zip", research),
        write_files(tmp_path / "unpacked", research),
    ]
    for source in sources:
        out = tmp_path / f"out-{source.name}"
        result = run(source, "--out", out)
        assert result.exit_code == 0, result.output
        table = {row.id: row for row in read_recordings(out)}
        assert list(table) == ["inat:101", "inat:102", "inat:103", "inat:105"]
        row = table["inat:101"]
        assert row.url == "https://static.inaturalist.org/sounds/101.m4a"
        # The record is CC0, the audio is not.
        assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
        assert row.group_id == table["inat:102"].group_id == "aperson|43.66,-103.41|2021-06-27"
        assert table["inat:105"].group_id == "aperson||2021-06-27"
        assert (row.datetime, row.country, row.recordist) == (
            "2021-06-27T07:17", "US", "Ann Person",
        )  # fmt: skip
        (label,) = row.labels
        assert (label.name, label.rank) == ("Passerina amoena", "species")
        assert dict(label.ids) == {"inat": "10276", "kingdom": "Animalia", "class": "Aves"}
        assert rejected(out) == {
            "repeated_id": "inat:103",
            "no_observation": "inat:107",
            "unidentified": "inat:106",
            "no_audio": "inat:observation/7",
        }
        assert not (out / inaturalist_dwca.JOIN_FILE).exists()


def test_bad_rows_of_the_archive_are_listed(tmp_path: Path, research: dict[str, bytes]) -> None:
    good = [media_row(1, n) for n in range(200, 400)]
    media = csv_text(MEDIA_COLUMNS, good).encode()
    media += b'"1","Sound","only three"\n'
    media += b'"2","StillImage","image/jpeg","caf\xe9",,,,,,,\n'  # a photo: no harm
    media += b'"2","Sound","audio/mpeg","https://x/500.mp3",,"caf\xe9",,,,,\n'
    media += b'"x","Sound","audio/mpeg","https://x/501.mp3",,,,,,,\n'
    media += b'"3","Sound","audio/mpeg","https://x/502.mp3",,"a\0b",,,,,\n'
    source = write_zip(tmp_path / "a.zip", research | {"media.csv": media})
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["recordings"] == 201  # the NUL is in a column that is not used
    assert summary["rejected"] == {"bad_row": 2, "wrong_encoding": 1}


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("case", ["quote", "long", "cut", "columns", "mostly", "outside", "nul"])
def test_a_broken_archive_is_an_error(
    tmp_path: Path, research: dict[str, bytes], case: str
) -> None:
    media = research["media.csv"]
    source, says = tmp_path / "a.zip", ""
    if case == "quote":
        says = "inside a quoted field"
        write_zip(source, research | {"media.csv": media + b'"9","Sound","never closed\n'})
    elif case == "long":
        says = "row of more than"
        row = b'"9","Sound","' + b"x" * 20_000_000 + b'",,,,,,,,\n'
        write_zip(source, research | {"media.csv": media + row})
    elif case == "cut":
        says = "zip"
        source.write_bytes(_cut(write_zip(source, research).read_bytes(), 0.7))
    elif case == "columns":
        says = "no column type"
        write_zip(source, research | {"media.csv": media.replace(b"type", b"kind", 1)})
    elif case == "mostly":
        says = "wrong number of columns"
        write_zip(source, research | {"media.csv": media + b'"1","Sound"\n' * 5000})
    elif case == "outside":
        says = "outside"
        write_zip(source, research | {"../../evil.csv": b"x"})
    else:
        says = "column"
        write_zip(source, research | {"media.csv": bytes(5000)})
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.zip"]


MEMORY = """
import io, re, sys
from pathlib import Path
from data_prep.archives import inaturalist_dwca as dwca

class Files:
    # media.csv of any length, made while it is read: {blocks} times 10,000 photos and a sound.
    names = {{"media.csv", "observations.csv"}}
    def open(self, name):
        header = Path(sys.argv[1], name).read_bytes().splitlines(True)
        block = header[1] * 10_000 + header[2] if name == "media.csv" else b"".join(header[1:])
        return Repeated(header[0], block, {blocks} if name == "media.csv" else 1)

class Repeated(io.RawIOBase):
    def __init__(self, head, block, count):
        self.parts, self.rest = iter([head] + [block] * count), b""
    def readable(self):
        return True
    def readinto(self, buffer):
        while not self.rest:
            self.rest = next(self.parts, None)
            if self.rest is None:
                self.rest = b""
                return 0
        n = min(len(buffer), len(self.rest))
        buffer[:n] = self.rest[:n]
        self.rest = self.rest[n:]
        return n

dwca._files = lambda path: Files()
rows = list(dwca.read_research_grade(Path("x"), None, Path(sys.argv[1])))
print(len(rows), re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    media = [media_row(1, 900, "StillImage"), media_row(1, 101)]
    (tmp_path / "media.csv").write_text(csv_text(MEDIA_COLUMNS, media))
    text = csv_text(OBSERVATION_COLUMNS, [research_row(1, occurrenceRemarks="")])
    (tmp_path / "observations.csv").write_text(text)
    peaks_kb = []
    for blocks in (10, 150):  # 100,000 and 1.5 million rows: 30 and 440 MB
        done = subprocess.run(
            [sys.executable, "-c", MEMORY.format(blocks=blocks), str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        count, peak_kb = map(int, done.stdout.split())
        assert count == blocks
        peaks_kb.append(peak_kb)
    assert peaks_kb[1] < peaks_kb[0] + 150_000, peaks_kb


# ---- iNatSounds --------------------------------------------------------------------------------


def inatsounds(split: str, count: int) -> dict[str, Any]:
    folder = "00042_Animalia_Chordata_Aves_Passeriformes_Cardinalidae_Passerina_amoena"
    return {
        "info": {"year": 2024, "version": "1"},
        "audio": [
            {
                "id": n,
                "duration": 12.5,
                "file_name": f"{split}/{folder}/{n:04d}.wav",
                "license": 1,
                "rights_holder": "Ann Person",
                "date": "2020-05-04 07:30:00+00:00",
                "latitude": 43.6571,
                "longitude": -103.4143 if n else float("nan"),
                "location_uncertainty": float("nan") if n % 2 else None,
            }
            for n in range(count)
        ],
        "categories": [
            {
                "id": 42,
                "name": "Passerina amoena",
                "common_name": "Lazuli Bunting",
                "supercategory": "Aves",
                "kingdom": "Animalia",
                "phylum": "Chordata",
                "class": "Aves",
                "order": "Passeriformes",
                "family": "Cardinalidae",
                "genus": "Passerina",
                "specific_epithet": "amoena",
                "audio_dir_name": folder,
                "evaluation": True,
            }
        ],
        "annotations": [{"id": n, "audio_id": n, "category_id": 42} for n in range(count - 1)],
        "licenses": [
            {"id": 1, "name": "CC BY-NC 4.0",
             "url": "http://creativecommons.org/licenses/by-nc/4.0/"}
        ],
    }  # fmt: skip


def test_inatsounds_keeps_its_split_and_says_its_terms(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 3)):
        data = inatsounds(split, count)
        text = json.dumps(data)
        assert "NaN" in text
        for item in data["audio"][:-2]:
            path = tmp_path / item["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(2205), 22050)
        if split == "train":
            (tmp_path / "train.json").write_text(text)
        with tarfile.open(tmp_path / f"{split}.json.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(f"{split}.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "no redistribution" in result.output
    assert "redistribution" in (tmp_path / "out" / "summary.json").read_text()
    table = list(read_recordings(tmp_path / "out"))
    assert [(row.id, row.split) for row in table] == [
        ("inatsounds:train/0", "train"), ("inatsounds:train/1", "train"),
        ("inatsounds:val/0", "val"),
    ]  # fmt: skip
    assert rejected(tmp_path / "out").keys() == {"missing_file", "unidentified"}
    row = table[1]
    assert (row.duration_s, row.datetime) == (12.5, "2020-05-04T07:30")
    assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
    assert (tmp_path / row.path).is_file()
    assert dict(row.labels[0].ids)["class"] == "Aves"
    assert table[0].lon is None  # NaN
    with pytest.raises(PrepError):
        Document("x", lambda: documents(tmp_path / "nothing")[0].open()).open()
