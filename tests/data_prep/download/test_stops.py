"""Stopped at any moment: nothing is lost, nothing half lies under a final name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dawnchorus.data_prep.download.ledger import Ledger
from dawnchorus.data_prep.errors import PrepError


def start(bench, recipe: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dawnchorus.data_prep.cli", "download",
               str(bench.folder / "table"), "--out", str(bench.out), "--recipe",
               str(recipe), *options]  # fmt: skip
    # As started by a program that waits for signals in a thread of its own.
    kinds = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kinds)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for(true, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize("round_", range(2))
def test_killed_and_continued(bench, server, row, make_sound, round_):
    sent = {f"xc:{i}": make_sound(i, kind=("WAV", "FLAC")[i % 2]) for i in range(60)}
    rows = [row(key, server.file(f"/{key[3:]}", body)) for key, body in sent.items()]
    bench.table(rows)
    paced = {"default": {"requests_per_s": 60, "concurrency": 4}}
    process = start(bench, bench.recipe_file(**paced))
    wait_for(lambda: len(server.log) >= 12 + 25 * round_)
    process.kill()
    process.wait()
    complete = {f"xc:{path.stem.removeprefix('xc_')}": path.read_bytes() for path in bench.files()}
    assert all(sent[key] == body for key, body in complete.items())  # no half file
    assert 0 < len(complete) < len(sent)
    bench.run(recipe=paced)
    assert bench.fetched() == sent and not bench.parts()
    # The server may note a request of the killed run later than the first of the next one.
    asked = Counter(f"xc:{asked.path[1:]}" for asked in server.log)
    assert asked.keys() == sent.keys() and max(asked.values()) <= 2
    assert {asked[key] for key in complete} == {1}  # no second request for what was complete


def test_a_killed_run_continues_a_long_file_where_it_is_safe(
    bench, server, row, make_sound, http_reply
):
    body = make_sound(5, 10.0)  # 320 kB

    def slowly(handler, before):
        if before:
            handler.headers  # noqa: B018
            from_ = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
            http_reply(handler, 206, body[from_:], ETag='"v1"',
                       Content_Range=f"bytes {from_}-{len(body) - 1}/{len(body)}")  # fmt: skip
            return
        handler.send_response(200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:200_000])
        handler.wfile.flush()
        time.sleep(400)

    bench.table([row("xc:1", server.does("/long", slowly))])
    process = start(bench, bench.recipe_file(timeout={"read_s": 400, "slow_after_s": 400}))
    wait_for(lambda: any(p.stat().st_size >= 100_000 for p in bench.parts()))
    time.sleep(3)  # the ledger commits twice a second
    process.kill()
    process.wait()
    assert not bench.files()
    (part,) = bench.parts()
    # What a power cut might leave of the unsecured end: right length, wrong bytes.
    secured = int(part.stat().st_size)
    with part.open("ab") as file:
        file.write(b"\0" * 5000)
    bench.run()
    assert bench.fetched() == {"xc:1": body}
    continued_at = int(server.asked("/long")[1].headers["Range"][6:-1])
    assert 50_000 <= continued_at <= secured
    assert server.asked("/long")[1].headers["If-Range"] == '"v1"'


@pytest.mark.parametrize(
    ("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_stopped_in_order_and_continued(
    bench, server, row, make_sound, http_file, http_reply, kind, code
):
    body = make_sound(5, 3.0)

    def slowly(handler, before):
        if before:
            http_file(handler, body)
            return
        handler.send_response(200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:30_000])
        handler.wfile.flush()
        time.sleep(400)

    rows = [row(f"xc:{i}", server.file(f"/{i}", make_sound(i))) for i in range(10)]
    bench.table([*rows, row("xc:77", server.does("/long", slowly))])
    process = start(bench, bench.recipe_file(timeout={"read_s": 400, "slow_after_s": 400}))
    wait_for(lambda: len(server.log) == 11 and len(bench.files()) == 10)
    time.sleep(2)
    process.send_signal(kind)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "the same command continues" in said and "Traceback" not in said
    assert not (bench.out / "recordings.parquet").exists()
    assert [part.stat().st_size for part in bench.parts()] == [30_000]
    bench.run()
    assert bench.fetched()["xc:77"] == body and len(bench.fetched()) == 11
    assert len(server.log) == 12 and server.log[-1].headers["Range"] == "bytes=30000-"


def test_files_that_went_missing_are_fetched_again(bench, server, row, make_sound):
    bench.run([row(f"xc:{i}", server.file(f"/{i}", make_sound(i))) for i in range(5)])
    sent = bench.fetched()
    first, second, *_ = bench.files()
    first.unlink()
    second.write_bytes(b"cut")
    bench.run()
    # What somebody changed is not replaced, and not passed on either.
    changed = f"xc:{second.stem.removeprefix('xc_')}"
    assert bench.rejected()[changed][0] == "changed_on_disk" and len(bench.fetched()) == 4
    second.unlink()
    bench.run()
    assert bench.fetched() == sent and len(server.log) == 7


def test_a_lost_ledger_costs_no_request(bench, server, row, make_sound):
    bench.run([row(f"xc:{i}", server.file(f"/{i}", make_sound(i))) for i in range(5)])
    sent = bench.fetched()
    (bench.out / "download.sqlite").unlink()
    bench.run()
    assert bench.fetched() == sent and len(server.log) == 5


def test_two_downloads_into_one_folder(bench, server, row, make_sound):
    bench.table([row("xc:1", server.file("/1", make_sound()))])
    bench.out.mkdir()
    ledger = Ledger(bench.out)
    with pytest.raises(PrepError, match="Another download is at work"):
        bench.run()
    ledger.close()
    bench.run()
    assert "xc:1" in bench.fetched()


def test_a_ledger_that_is_none(bench, server, row, make_sound):
    bench.table([row("xc:1", server.file("/1", make_sound()))])
    bench.out.mkdir()
    (bench.out / "download.sqlite").write_bytes(b"what is a database?" * 100)
    with pytest.raises(PrepError, match="Move it away"):
        bench.run()


@pytest.fixture
def small_disk(bench):
    """1 MB of file system at the output folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    bench.out.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(bench.out)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a file system")
    yield bench.out
    subprocess.run(["umount", str(bench.out)], check=True)


def test_a_full_disk_stops_it_and_more_room_continues_it(
    bench, server, row, make_sound, small_disk
):
    sent = {f"xc:{i}": make_sound(i, 2.0) for i in range(30)}  # 1.9 MB
    bench.table([row(key, server.file(f"/{key[3:]}", body)) for key, body in sent.items()])
    process = start(bench, bench.recipe_file())
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "is full" in said and "Make room" in said and "Traceback" not in said
    complete = {path.stem.removeprefix("xc_"): path.read_bytes() for path in bench.files()}
    assert complete and all(sent[f"xc:{key}"] == body for key, body in complete.items())
    # What another transfer had got by then may stay, to be continued.
    for part in bench.parts():
        assert sent[f"xc:{part.stem.removeprefix('xc_')}"].startswith(part.read_bytes())
    assert not (bench.out / "recordings.parquet").exists()
    before = len(server.log)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    bench.run()
    assert bench.fetched() == sent and not bench.parts()
    assert not {asked.path[1:] for asked in server.log[before:]} & set(complete)


def test_room_that_the_recipe_keeps_free(bench, server, row, make_sound):
    bench.table([row(f"xc:{i}", server.file(f"/{i}", make_sound(i))) for i in range(200)])
    paced = {"default": {"requests_per_s": 100}, "files": {"keep_free_gb": 1e9}}
    with pytest.raises(PrepError, match="kept free"):
        bench.run(recipe=paced)
    assert len(bench.files()) < 200
