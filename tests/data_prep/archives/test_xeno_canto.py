from __future__ import annotations

import gzip
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from data_prep.archives.checked import checked
from data_prep.archives.files import FileIndex, xeno_canto_key
from data_prep.archives.xeno_canto import from_api, read_dump
from data_prep.archives.xeno_canto_api import XenoCanto, retry_after_s
from data_prep.archives.xeno_canto_query import check_queries
from data_prep.archives.xeno_canto_sources import read_sources
from data_prep.cli import prep_app
from data_prep.errors import PrepError
from data_prep.recording_table import Rejected, read_recordings
from data_prep.recordings import BACKGROUND, Label, Recording

KEY = "0123456789abcdef0123456789abcdef01234567"
QUERY = 'grp:birds cnt:"Sri Lanka"'


def v3(number: int = 254462, **changes: Any) -> dict[str, Any]:
    """A recording in the shape of API v3; every scalar is text."""
    return {
        "id": str(number), "gen": "Passerina", "sp": "amoena", "ssp": "", "grp": "birds",
        "en": "Lazuli Bunting", "rec": "Ada Lovelace", "cnt": "United States",
        "loc": "Prairie Trail, South Dakota", "lat": "43.6571", "lon": "-103.4143", "alt": "1300",
        "type": "song", "sex": "male, female", "stage": "", "method": "field recording",
        "url": f"https://xeno-canto.org/{number}",
        "file": f"https://xeno-canto.org/{number}/download",
        "file-name": f"XC{number}-JMJ-Lazuli.mp3",
        "sono": {"small": "…", "full": None}, "osci": {"small": None},
        "lic": "https://creativecommons.org/licenses/by-sa/4.0/", "q": "A", "length": "4:13",
        "time": "07:17", "date": "2015-06-23", "uploaded": "2015-06-29",
        "also": ["Pipilo maculatus"], "rmk": "…", "animal-seen": "yes", "playback-used": "no",
        "temp": None, "regnr": "", "auto": "no", "dvc": "", "mic": "", "smp": "48000",
        "annotation-set": [],
    } | changes  # fmt: skip


def v2(number: int = 254462, **changes: Any) -> dict[str, Any]:
    """The same as API v2 gave it: `lng`, `group`, addresses without a scheme."""
    row = v3(number)
    for key in ("lon", "grp", "animal-seen", "temp", "annotation-set"):
        del row[key]
    return row | {
        "group": "birds", "lng": "-103.4143", "bird-seen": "yes",
        "url": f"//www.xeno-canto.org/{number}",
        "file": f"//www.xeno-canto.org/{number}/download", "also": [""],
        "lic": "//creativecommons.org/licenses/by-sa/4.0/",
    } | changes  # fmt: skip


def page(rows: list[dict[str, Any]], number: int = 1, total: int = 1, count: int = 0) -> dict:
    return {
        "numRecordings": str(count or len(rows)),
        "numSpecies": "1",
        "page": number,
        "numPages": total,
        "recordings": rows,
    }


def good(rows: Iterator[Recording | Rejected]) -> list[Recording]:
    found = list(rows)
    assert not [row for row in found if isinstance(row, Rejected)]
    return [row for row in found if isinstance(row, Recording)]


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


# --- queries ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["grp:birds q:A", 'sp:"larus fuscus" q:">C"', 'len:"10-20"', 'year:">2014" year:"<2021"',
     "nr:1-500", "id?:no", "box:1.5,2,3,4", 'en:"=barn owl"'],
)  # fmt: skip
def test_good_queries(query):
    check_queries([query])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("larus fuscus", 'write sp:"larus fuscus"'),
        ("cnt:United States", 'cnt:"United States"'),
        ('"barn owl" q:A', 'en:"barn owl"'),
        ("year:2015-2020", 'write year:">2014" year:"<2021"'),
        ('month:"3-5"', 'month:">2" month:"<6"'),
        ("smp:44100-48000", 'smp:">44099" smp:"<48001"'),
        ("temp:-5-10", 'temp:">-6" temp:"<11"'),
        ("genus:Larus", "did you mean gen:"),
        ("lng:10", "did you mean lon:"),
        ("q:", "no value"),
        ("nr:>5", "number or range"),
        ('cnt:"Sri Lanka', "not closed"),
        ("  ", "empty"),
    ],
)
def test_bad_queries_say_how_to_write_them(query, says):
    with pytest.raises(PrepError) as caught:
        check_queries(["grp:birds", query])
    assert says in str(caught.value)


def test_all_mistakes_at_once():
    with pytest.raises(PrepError) as caught:
        check_queries(["year:2015-2020 owl", "genus:x"])
    text = str(caught.value)
    assert all(part in text for part in ("range is lost", "'owl' has no tag", "'genus'"))


# --- the API ---------------------------------------------------------------------------------

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Api:
    """An API that answers as told: `answers[page]` first, one by one, then the page itself."""

    url: str = ""
    pages: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[float, dict[str, list[str]]]] = field(default_factory=list)

    def numbers(self) -> list[int]:
        return [int(query["page"][0]) for _, query in self.asked]


@pytest.fixture
def api() -> Iterator[Api]:
    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            state.asked.append((time.monotonic(), query))
            number = int(query["page"][0])
            waiting = state.answers.get(number)
            if waiting:
                status, headers, body = waiting.pop(0)
            elif query["key"] != [KEY]:
                text = {"error": "client_error", "message": "Missing or invalid 'key' parameter."}
                status, headers, body = 401, {}, json.dumps(text).encode()
            else:
                status, headers = 200, {}
                body = json.dumps(state.pages[number - 1]).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/api/3/recordings"
    state.pages = [page([v3(10 * n), v3(10 * n + 1)], n, 3, 6) for n in (1, 2, 3)]
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(api) -> Callable[..., XenoCanto]:
    said: list[str] = []

    def make(key: str = KEY) -> XenoCanto:
        return XenoCanto(key, url=api.url, pause_s=0.05, first_wait_s=0.01, say=said.append)

    make.said = said
    return make


def test_pages_are_fetched_once(api, client, tmp_path):
    with client() as xc:
        pages = list(xc.pages(QUERY, tmp_path))
    assert api.numbers() == [1, 2, 3]
    assert all(q["query"] == [QUERY] and q["per_page"] == ["500"] for _, q in api.asked)
    assert [row.source_id for row in good(read_sources(pages, scratch=tmp_path))] == [
        "10", "11", "20", "21", "30", "31",
    ]  # fmt: skip
    with client("") as xc:  # what is there needs no key
        assert list(xc.pages(QUERY, tmp_path)) == pages
        assert api.numbers() == [1, 2, 3]
        assert "complete since" in client.said[-1]
    with client() as xc:
        list(xc.pages("grp:bats", tmp_path))  # another query has pages of its own
    assert api.numbers() == [1, 2, 3] * 2


def test_stopped_and_continued(api, client, tmp_path):
    with client() as xc:
        walk = xc.pages(QUERY, tmp_path)
        assert [next(walk).name, next(walk).name] == ["000001.json", "000002.json"]
        walk.close()
    with client() as xc:
        assert len(list(xc.pages(QUERY, tmp_path))) == 3
    assert api.numbers() == [1, 2, 3]
    assert not list(tmp_path.rglob("*.part"))


def test_requests_keep_their_distance(api, tmp_path):
    with XenoCanto(KEY, url=api.url, pause_s=0.2, say=lambda _: None) as xc:
        list(xc.pages(QUERY, tmp_path))
    moments = [moment for moment, _ in api.asked]
    assert all(b - a >= 0.19 for a, b in itertools.pairwise(moments))
    assert XenoCanto(KEY).pause_s >= 1.0


def test_retry_after_is_kept(api, client, tmp_path):
    api.answers = {2: [(429, {"Retry-After": "1"}, b"slow down")]}
    with client() as xc:
        assert len(list(xc.pages(QUERY, tmp_path))) == 3
    assert api.numbers() == [1, 2, 2, 3]
    assert api.asked[2][0] - api.asked[1][0] >= 1.0
    assert any("HTTP 429" in line and "again in 1 s" in line for line in client.said)


def test_retry_after_of_an_hour_ends_the_run(api, client, tmp_path):
    api.answers = {2: [(429, {"Retry-After": "3600"}, b"")]}
    with client() as xc, pytest.raises(PrepError, match="asks to wait 3600 s"):
        list(xc.pages(QUERY, tmp_path))
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None and retry_after_s("") is None


def test_passing_trouble_is_outlasted(api, client, tmp_path):
    api.answers = {
        1: [
            (503, {}, b"busy"),
            (200, {}, b"<html>maintenance</html>"),
            (200, {"Content-Length": "5000"}, b'{"recordings'),  # cut off
            (500, {}, b""),
        ]
    }
    with client() as xc:
        assert len(list(xc.pages(QUERY, tmp_path))) == 3
    assert api.numbers() == [1, 1, 1, 1, 1, 2, 3]


def test_lasting_trouble_keeps_what_was_fetched(api, client, tmp_path):
    api.answers = {3: [(503, {}, b"busy")] * 50}
    with client() as xc, pytest.raises(PrepError, match=r"HTTP 503.*run the same command later"):
        list(xc.pages(QUERY, tmp_path))
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert len(api.asked) == 10


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": "invalid_parameter", "message": "unknown tag zzz"}},
        {"error": "client_error", "message": "unknown tag zzz"},
    ],
)
@pytest.mark.parametrize("status", [400, 200])
def test_both_shapes_of_errors(api, client, tmp_path, error, status):
    api.answers = {1: [(status, {}, json.dumps(error).encode())]}
    with client() as xc, pytest.raises(PrepError, match="unknown tag zzz"):
        list(xc.pages(QUERY, tmp_path))
    assert len(api.asked) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_wrong_key_is_not_tried_again(api, client, tmp_path):
    wrong = "f" * 40
    with client(wrong) as xc, pytest.raises(PrepError, match="does not accept the key") as caught:
        list(xc.pages(QUERY, tmp_path))
    assert len(api.asked) == 1 and wrong not in str(caught.value)


def test_the_key_travels_by_https_alone(api, client, tmp_path):
    with pytest.raises(PrepError, match="is not https"):
        XenoCanto(KEY, url="http://xeno-canto.org/api/3/recordings")
    with client(" ") as xc, pytest.raises(PrepError, match="export XENO_CANTO_KEY"):
        list(xc.pages(QUERY, tmp_path))
    assert not api.asked


def test_the_key_is_nowhere(api, tmp_path, caplog, monkeypatch):
    """Not in logs at any level, errors and their causes, output, files, even if it is repeated."""
    monkeypatch.setattr("data_prep.archives.xeno_canto_api.PAUSE_S", 0.02)
    monkeypatch.setattr("data_prep.archives.xeno_canto_api._TRIES", 2)
    monkeypatch.setenv("XENO_CANTO_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    api.pages[0]["_links"] = {"self": f"{api.url}?key={KEY}&page=1", "key": KEY}
    api.pages[0]["recordings"][0]["rmk"] = f"seen with {KEY}"
    echo = f"/api?key={KEY}"
    api.answers = {
        2: [(302, {"Location": echo}, echo.encode())],
        3: [(503, {}, echo.encode())] * 2,
    }
    out = tmp_path / "out"
    command = ["xeno-canto", "--query", QUERY, "--out", str(out), "--api", api.url]
    texts = []
    for expected in ("302", "503"):
        result = CliRunner().invoke(prep_app, command)
        assert result.exit_code == 2 and expected in result.output
        texts.append(result.output)
        error: BaseException | None = result.exception
        while error is not None:
            texts.append(repr(error) + str(error))
            error = error.__cause__ or error.__context__
    result = CliRunner().invoke(prep_app, command)
    assert result.exit_code == 0, result.output
    texts += [result.output, repr(XenoCanto(KEY, url=api.url))]
    assert any("HTTP Request" in record.getMessage() for record in caplog.records)
    texts += [record.getMessage() for record in caplog.records]
    texts += [file.read_bytes().decode("latin-1") for file in out.rglob("*") if file.is_file()]
    texts += [file.name for file in out.rglob("*")]
    assert len(list(read_recordings(out))) == 6
    assert all(query["key"] == [KEY] for _, query in api.asked)
    assert not [text for text in texts if KEY in text]


def test_a_key_that_is_a_word_does_not_spoil_the_remarks(api, tmp_path):
    api.pages = [page([v3(1, rmk="demo of a demo")]) | {"next": "/recordings?key=demo&page=2"}]
    api.answers = {1: [(200, {}, json.dumps(api.pages[0]).encode())]}
    with XenoCanto("demo", url=api.url, pause_s=0.0, say=lambda _: None) as xc:
        (file,) = xc.pages(QUERY, tmp_path)
    saved = json.loads(file.read_text())
    assert saved["recordings"][0]["rmk"] == "demo of a demo"
    assert saved["next"] == "/recordings?key=…&page=2"


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
