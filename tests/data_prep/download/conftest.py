"""A local HTTP server that misbehaves as told, and tables that point to it."""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from dawnchorus.data_prep.download.choice import Choice, make_choice
from dawnchorus.data_prep.download.download_recipe import DownloadRecipe, load_recipe
from dawnchorus.data_prep.download.run_download import download
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import read_recordings, write_table
from dawnchorus.trainer.progress import Progress

BY = "https://creativecommons.org/licenses/by/4.0/"


def sound(seed: int = 0, seconds: float = 0.2, kind: str = "WAV") -> bytes:
    """The bytes of an audio file: noise."""
    wav = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, 16000, format=kind)
    return buffer.getvalue()


@dataclass
class Asked:
    """One request, as the server saw it."""

    at_s: float
    path: str
    headers: dict[str, str]
    status: int = 0


@dataclass
class Server:
    """The server's side: what it answers on each path, and what it was asked."""

    port: int
    answers: dict[str, Callable[[Any, int], None]] = field(default_factory=dict)
    log: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, path: str) -> list[Asked]:
        return [a for a in self.log if a.path == path]

    def file(self, path: str, body: bytes, **options: Any) -> str:
        """Serve a file as a good server does: with ETag, ranges, If-Range."""
        self.answers[path] = lambda handler, _n: serve_file(handler, body, **options)
        return self.url(path)

    def does(self, path: str, answer: Callable[[Any, int], None]) -> str:
        """Answer as this function does; it gets the handler and how often it was asked before."""
        self.answers[path] = answer
        return self.url(path)

    def status(self, path: str, code: int, body: bytes = b"no", **headers: str) -> str:
        return self.does(path, lambda handler, _n: reply(handler, code, body, **headers))


def reply(handler: Any, code: int, body: bytes = b"", *, length: int | None = None,
          **headers: str) -> None:  # fmt: skip
    """Answer; `length` is what Content-Length says instead of the truth (-1: it says nothing)."""
    handler.asked.status = code
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if length != -1:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    else:
        handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body)
    if length is not None:
        handler.close_connection = True


def serve_file(handler: Any, body: bytes, *, etag: str = '"v1"', kind: str = "audio/x-wav",
               stop_after: int | None = None, **headers: str) -> None:  # fmt: skip
    """Answer with a file or the range asked for; `stop_after` bytes the connection breaks."""
    start = 0
    wanted = handler.headers.get("Range")
    if wanted and handler.headers.get("If-Range") in (etag, None):
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    rest = body[start:]
    if start >= len(body):
        reply(handler, 416)
        return
    named = {"ETag": etag} if etag else {}
    named |= {"Content_Type": kind}
    if stop_after is None or stop_after >= len(rest):
        reply(handler, 206 if start else 200, rest, **named, **headers)
        return
    handler.asked.status = 206 if start else 200
    handler.send_response(handler.asked.status)
    for name, value in (named | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(rest)))
    handler.end_headers()
    handler.wfile.write(rest[:stop_after])
    handler.wfile.flush()
    time.sleep(0.1)  # what was sent arrives before the reset does
    hang_up(handler)


def hang_up(handler: Any) -> None:
    """Reset the connection (RST, not FIN)."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            with server.lock:
                before = len(server.asked(path))
                self.asked = Asked(time.monotonic(), path, dict(self.headers))
                server.log.append(self.asked)
            answer = server.answers.get(path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if answer is None:
                    reply(self, 404, b"<html><title>Not found</title></html>")
                else:
                    answer(self, before)

        def log_message(self, *_: object) -> None:
            pass

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass

        def shutdown_request(self, request: Any) -> None:
            with contextlib.suppress(OSError):
                super().shutdown_request(request)

    listening = Quiet(("127.0.0.1", 0), Handler)
    server = Server(listening.server_address[1])
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as found:
        yield found


@pytest.fixture
def other_server() -> Iterator[Server]:
    with running_server() as found:
        yield found


def recording(key: str, url: str, **options: Any) -> Recording:
    source, _, number = key.partition(":")
    given: dict[str, Any] = {
        "id": key, "source": source, "source_id": number, "path": "", "url": url,
        "licence_url": BY, "labels": (Label("Parus major", "species"),), "group_id": key,
        "duration_s": 0.2,
    }  # fmt: skip
    return Recording(**(given | options))


FAST: dict[str, Any] = {
    "contact": "tests@example.org",
    "private_hosts": ["127.0.0.1", "localhost"],
    "default": {"requests_per_s": None, "concurrency": 4, "gb_per_hour": None, "gb_per_day": None},
    "retry": {"attempts": 3, "first_wait_s": 0.05, "longest_wait_s": 0.1,
              "longest_retry_after_s": 30},
    "breaker": {"failures_in_a_row": 10, "pause_s": 0.2, "give_up_after": 2},
    "timeout": {"connect_s": 20, "read_s": 20, "slow_bytes_per_s": 100, "slow_after_s": 20},
    "files": {"max_mb": 5, "max_redirects": 4, "checkpoint_mb": 0.05, "keep_free_gb": 0},
}  # fmt: skip


def write_recipe(path: Path, **changes: Any) -> Path:
    """A recipe without waiting times; a keyword replaces keys of one of its parts."""
    found = {key: dict(v) if isinstance(v, dict) else v for key, v in FAST.items()}
    for key, value in changes.items():
        found[key] = found.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(found))
    return path


@dataclass
class Bench:
    """A folder with a table and a recipe, and what comes of downloading it."""

    folder: Path
    said: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "audio"

    def table(self, rows: list[Recording]) -> Path:
        write_table(rows, self.folder / "table")
        return self.folder / "table"

    def recipe_file(self, **changes: Any) -> Path:
        return write_recipe(self.folder / "recipe.yaml", **changes)

    def recipe(self, **changes: Any) -> DownloadRecipe:
        return load_recipe(str(self.recipe_file(**changes)))

    def run(self, rows: list[Recording] | None = None, *, choice: Choice | None = None,
            recipe: dict[str, Any] | None = None, **options: Any) -> None:  # fmt: skip
        """Download `rows` (None: the table of before)."""
        if rows is not None:
            self.table(rows)
        stream = io.StringIO()
        try:
            download(
                self.folder / "table", self.out, self.recipe(**(recipe or {})),
                choice or make_choice(licences="all", deny=None), progress=Progress(stream),
                show=self.printed.append, **options,
            )  # fmt: skip
        finally:
            self.said += stream.getvalue().splitlines()

    def fetched(self) -> dict[str, bytes]:
        """{id: bytes} of the table that came out."""
        return {r.id: (self.out / r.path).read_bytes() for r in read_recordings(self.out)}

    def rejected(self) -> dict[str, tuple[str, str]]:
        """{id: (reason, detail)} of the table that came out."""
        import pyarrow.parquet as pq

        rows = pq.read_table(self.out / "rejected.parquet").to_pylist()
        return {row["recording_id"]: (row["reason"], row["detail"]) for row in rows}

    def files(self) -> list[Path]:
        return sorted(p for p in (self.out / "audio").rglob("*") if p.is_file())

    def parts(self) -> list[Path]:
        return sorted((self.out / "parts").glob("*")) if (self.out / "parts").is_dir() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def make_sound() -> Callable[..., bytes]:
    return sound


@pytest.fixture(scope="session")
def row() -> Callable[..., Recording]:
    return recording


@pytest.fixture(scope="session")
def http_reply() -> Callable[..., None]:
    return reply


@pytest.fixture(scope="session")
def http_file() -> Callable[..., None]:
    return serve_file


@pytest.fixture(scope="session")
def http_hang_up() -> Callable[[Any], None]:
    return hang_up
