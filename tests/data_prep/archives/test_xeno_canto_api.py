"""Xeno-canto's API: queries, pages, trouble, and a key that is nowhere."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner
from xeno_canto_rows import good, page, v3

from dawnchorus.data_prep.archives.xeno_canto_api import XenoCanto
from dawnchorus.data_prep.archives.xeno_canto_query import check_queries
from dawnchorus.data_prep.archives.xeno_canto_sources import read_sources
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings

KEY = "0123456789abcdef0123456789abcdef01234567"
QUERY = 'grp:birds cnt:"Sri Lanka"'


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
        ("genus:Larus", "did you mean 'gen'"),
        ("lng:10", "did you mean 'lon'"),
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
    with XenoCanto(KEY, url=api.url, pause_s=0.6, say=lambda _: None) as xc:
        list(xc.pages(QUERY, tmp_path))
    moments = [moment for moment, _ in api.asked]
    # What the server notes late seems nearer to the next.
    assert all(b - a >= 0.3 for a, b in itertools.pairwise(moments))
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
    monkeypatch.setattr("dawnchorus.data_prep.archives.xeno_canto_api.PAUSE_S", 0.02)
    monkeypatch.setattr("dawnchorus.data_prep.archives.xeno_canto_api._TRIES", 2)
    monkeypatch.setenv("XENO_CANTO_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")  # `download` keeps it quiet from then on
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
