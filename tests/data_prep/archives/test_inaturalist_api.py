"""The walk through iNaturalist's API, against a local server that misbehaves."""

from __future__ import annotations

import copy
import functools
import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inaturalist_rows
import numpy as np
import pyarrow.parquet as pq
import pytest
from inaturalist_rows import sound
from typer.testing import CliRunner

from dawnchorus.data_prep.archives import inaturalist_api
from dawnchorus.data_prep.archives.inaturalist_api import ApiOptions, parse_query, walk
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings
from dawnchorus.trainer.progress import Progress

observation = functools.partial(inaturalist_rows.observation, identifications=[])


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["inaturalist", *map(str, arguments)])


def rejected(out: Path) -> dict[str, str]:
    """{reason: a recording id} of a table."""
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["reason"]: row["recording_id"] for row in rows}


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


def test_a_server_that_wants_hours_is_not_asked_before(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions]
) -> None:
    api.trouble = [(429, {"Retry-After": "7200"}, b"{}")]
    with pytest.raises(PrepError, match=r"iNaturalist asks to wait 7200 s.*same command then"):
        walk({}, tmp_path, options(), Progress())
    assert len(api.requests) == 1


def test_a_stopped_query_continues(
    api: Api, tmp_path: Path, options: Callable[..., ApiOptions]
) -> None:
    api.stop_after = 2
    with pytest.raises(PrepError, match="same command later"):
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
    walk({}, tmp_path, options(pause_s=0.6), Progress())
    assert np.diff(api.times).min() >= 0.3  # retries count too; arrivals jitter
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
