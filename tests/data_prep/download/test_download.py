"""Servers that misbehave, and what comes of it."""

from __future__ import annotations

import email.utils
import itertools
import socket
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings


def keep_one(bench, server, row, make_sound, *more, **options):
    """A table needs one recording that comes; the others are those of the test."""
    good = row("xc:1", server.file("/good", make_sound(99)))
    bench.run([good, *more], **options)
    assert "xc:1" in bench.fetched()


def test_files_come_as_they_are_under_names_from_their_ids(bench, server, row, make_sound):
    kinds = {"WAV": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}
    sent = {f"xc:{i}": make_sound(i, kind=kind) for i, kind in enumerate(kinds)}
    sent["audioset:-AbC_d@30"] = make_sound(7)
    sent["audioset:-abc_d@30"] = make_sound(8)
    sent["asa:../../etc/passwd\u2028 x"] = make_sound(9)
    rows = [
        # The name and type that the server gives play no part.
        row(key, server.file(f"/f{i}", body, kind="text/html",
                             Content_Disposition='attachment; filename="../../evil.exe"'))
        for i, (key, body) in enumerate(sent.items())
    ]  # fmt: skip
    bench.run(rows)
    assert bench.fetched() == sent
    paths = {r.id: r.path for r in read_recordings(bench.out)}
    assert [paths[f"xc:{i}"].rpartition(".")[2] for i in range(4)] == list(kinds.values())
    assert paths["xc:0"].startswith("audio/xc/") and paths["xc:0"].endswith("/xc_0.wav")
    assert len({p.lower() for p in paths.values()}) == len(sent)
    assert all(p.resolve().is_relative_to(bench.out.resolve()) for p in bench.files())
    assert len(bench.files()) == len(sent) and not bench.parts()
    agent = server.log[0].headers["User-Agent"]
    assert "dawnchorus/" in agent and "tests@example.org" in agent


def test_answers_that_are_no_audio(bench, server, row, make_sound):
    page = b"<!DOCTYPE html><html><head><title>Log in, please</title></head></html>" * 40
    cases = {
        "html": (server.status("/html", 200, page, Content_Type="audio/mpeg"), "not_audio"),
        "json": (server.status("/json", 200, b'{"error": "client_error"}'), "not_audio"),
        "empty": (server.status("/empty", 200, b""), "empty"),
        "png": (server.status("/png", 200, b"\x89PNG\r\n\x1a\n" + bytes(5000)), "not_audio"),
        "noise": (server.status("/noise", 200, bytes(range(256)) * 40), "not_audio"),
        "404": (server.url("/nowhere"), "http_404"),
        "410": (server.status("/410", 410), "http_410"),
        "403": (server.status("/403", 403), "http_403"),
        "big": (server.file("/big", make_sound() + bytes(6_000_000)), "too_large"),
        "bigger": (server.does("/endless", endless), "too_large"),
        "cut": (server.status("/cut", 200, make_sound(3)[:3000]), "truncated"),
        "port": ("http://127.0.0.1:1/x", "no_connection"),
        "file": ("file:///etc/passwd", "bad_url"),
        "user": ("http://me:secret@127.0.0.1/x", "bad_url"),
        "none": ("", "no_url"),
    }
    rows = [row(f"t:{name}", url) for name, (url, _) in cases.items()]
    keep_one(bench, server, row, make_sound, *rows)
    found = bench.rejected()
    assert {i: reason for i, (reason, _) in found.items()} == {
        f"t:{name}": reason for name, (_, reason) in cases.items()
    }
    assert "Log in, please" in found["t:html"][1] and "JSON" in found["t:json"][1]
    assert len(bench.files()) == 1 and not bench.parts()
    assert "secret" not in "".join(bench.said + bench.printed) + str(found)
    # What is an answer is asked once; what may pass is tried again.
    assert [len(server.asked(f"/{n}")) for n in ("html", "410", "403", "big")] == [1, 1, 1, 1]
    # An oversized body is not read to its end.
    assert len(server.asked("/endless")) == 1


def test_nothing_is_sent_into_ones_own_network(bench, server, row, make_sound, monkeypatch):
    real = socket.getaddrinfo

    def lookup(host, *rest, **more):
        name = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if name == "inside.example" else name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    there = f":{server.port}/secret"
    hosts = ["localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "inside.example"]
    rows = [row(f"t:{i}", f"http://{host}{there}") for i, host in enumerate(hosts)]
    for i, host in enumerate(hosts):
        url = server.status(f"/to{i}", 302, b"", Location=f"http://{host}{there}")
        rows.append(row(f"t:to{i}", url))
    # One host is allowed by its name and port: a mirror of one's own.
    allowed = {"private_hosts": [f"127.0.0.1:{server.port}"]}
    keep_one(bench, server, row, make_sound, *rows, recipe=allowed)
    found = bench.rejected()
    assert {reason for reason, _ in found.values()} == {"private_network"}
    assert len(found) == 2 * len(hosts)
    assert "127.0.0.1" in found["t:5"][1] and "private_hosts" in found["t:5"][1]
    assert not server.asked("/secret")


def endless(handler, _n) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"fLaC")
    for _ in range(200):
        handler.wfile.write(bytes(100_000))


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(
    bench, server, row, make_sound, http_reply, http_file, code
):
    body = make_sound()

    def wait(handler, before):
        if before:
            http_file(handler, body)
        else:
            # A date has whole seconds: two from now is at least one.
            date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), True)
            http_reply(handler, code, b"slow", Retry_After="1" if code == 429 else date)

    bench.run([row("xc:1", server.does("/a", wait))])
    assert bench.fetched() == {"xc:1": body}
    first, second = server.asked("/a")
    assert 0.95 <= second.at_s - first.at_s < 25


def test_a_host_that_asks_for_too_long_is_left_alone(bench, server, row, make_sound):
    rows = [row(f"xc:{i}", server.status(f"/{i}", 503, Retry_After="86400")) for i in range(30)]
    other = server.file("/good", make_sound())
    bench.run([*rows, row("inat:1", other.replace("127.0.0.1", "localhost"))])
    assert list(bench.fetched()) == ["inat:1"]
    assert len([a for a in server.log if a.status == 503]) <= 4  # those under way
    reason, detail = bench.rejected()["xc:29"]
    assert reason == "not_fetched" and "24.0 h" in detail
    assert any("left alone until the next run" in line for line in bench.said)


def test_errors_that_pass(bench, server, row, make_sound, http_reply, http_file, http_hang_up):
    body = make_sound(1, 2.0)

    def after(first):
        return lambda handler, before: http_file(handler, body) if before else first(handler)

    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        time.sleep(30)

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(300):
            handler.wfile.write(b"R")
            time.sleep(0.1)

    first = {
        "500": lambda h: http_reply(h, 500),
        "503": lambda h: http_reply(h, 503),
        "reset": http_hang_up,
        "reset_later": lambda h: http_file(h, body, stop_after=20_000),
        "truncated": lambda h: http_reply(h, 200, body[:5000], length=len(body)),
        "no_length_cut": lambda h: http_reply(h, 200, body[:5000], length=-1),
        "stall": stall,
        "drip": drip,
        "garbage": lambda h: h.wfile.write(b"what is HTTP?\r\n\r\n"),
        "md5": lambda h: http_reply(h, 200, make_sound(2), Content_MD5="1B2M2Y8AsgTpgAmY7PhCfg=="),
    }
    rows = [row(f"t:{k}", server.does(f"/{k}", after(f))) for k, f in first.items()]
    bench.run(rows, recipe={"default": {"concurrency": 10},
                            "timeout": {"read_s": 8, "slow_after_s": 8}})  # fmt: skip
    assert bench.fetched() == {f"t:{k}": body for k in first}
    assert {k: len(server.asked(f"/{k}")) for k in first} == dict.fromkeys(first, 2)
    # What was there was not fetched again.
    later = server.asked("/reset_later")[1].headers
    assert later["Range"] == "bytes=20000-" and later["If-Range"] == '"v1"'
    assert server.asked("/reset_later")[1].status == 206


def test_what_does_not_pass_is_tried_as_often_as_the_recipe_says(bench, server, row, make_sound):
    keep_one(bench, server, row, make_sound, row("xc:2", server.status("/2", 500)))
    assert len(server.asked("/2")) == 3
    assert bench.rejected()["xc:2"][0] == "http_500"
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(server.asked("/2"))]
    assert gaps[0] >= 0.025 and gaps[1] >= 0.05


def test_ranges_that_are_wrong(bench, server, row, make_sound, http_reply, http_file):
    old, new = make_sound(1, 4.0), make_sound(2, 4.0)

    def break_first(then):
        def answer(handler, before):
            if before == 0:
                http_file(handler, old, stop_after=60_000)
            else:
                then(handler, before)

        return answer

    def wrong_place(handler, before):
        if before == 1:
            http_reply(handler, 206, old[10:], Content_Range=f"bytes 10-{len(old) - 1}/{len(old)}")
        else:
            http_file(handler, old)

    def new_file_old_range(handler, before):  # ignores If-Range
        del handler.headers["If-Range"]
        http_file(handler, new, etag='"v2"')

    cases = {
        "ignored": (lambda h, n: http_reply(h, 200, old, ETag='"v1"'), old, 2),
        "changed": (lambda h, n: http_file(h, new, etag='"v2"'), new, 2),
        "wrong_place": (wrong_place, old, 3),
        "if_range_ignored": (new_file_old_range, new, 3),
        "shorter_now": (lambda h, n: http_reply(h, 416) if n == 1 else http_file(h, new), new, 3),
    }
    rows = [row(f"t:{k}", server.does(f"/{k}", break_first(v[0]))) for k, v in cases.items()]
    bench.run(rows)
    assert bench.fetched() == {f"t:{k}": body for k, (_, body, _) in cases.items()}
    for name, (_, _, times) in cases.items():
        asked = server.asked(f"/{name}")
        assert len(asked) == times, name
        assert asked[1].headers["Range"] == "bytes=60000-", name
        assert times == 2 or "Range" not in asked[2].headers, name


def test_redirects(bench, server, other_server, row, make_sound):
    body = make_sound()
    far = other_server.file("/far", body).replace("127.0.0.1", "localhost")
    server.status("/to_far", 302, Location=far)
    server.status("/loop_a", 301, Location="/loop_b")
    server.status("/loop_b", 301, Location="/loop_a")
    for i in range(9):
        server.status(f"/long{i}", 307, Location=f"/long{i + 1}")
    server.status("/file", 302, Location="file:///etc/passwd")
    server.status("/nowhere", 302)
    server.status("/odd", 302, Location="http://[::1")
    bench.run([row(f"t:{n}", server.url(f"/{n}"))
               for n in ("to_far", "loop_a", "long0", "file", "nowhere", "odd")])  # fmt: skip
    assert bench.fetched() == {"t:to_far": body}
    assert {k: v[0] for k, v in bench.rejected().items()} == {
        "t:loop_a": "redirect_loop", "t:long0": "redirect_loop", "t:file": "bad_redirect",
        "t:nowhere": "http_302", "t:odd": "bad_redirect",
    }  # fmt: skip
    assert len(server.asked("/loop_a")) == 1


def test_the_pace_holds_for_the_hosts_redirected_to(bench, server, other_server, row, make_sound):
    body = make_sound()
    count, rate = 14, 10.0
    other_server.file("/file", body)
    for i in range(count):
        server.status(f"/{i}", 302, Location=other_server.url("/file"))
    limits = {"requests_per_s": rate, "concurrency": 4}
    bench.run(
        [row(f"t:{i}", server.url(f"/{i}")) for i in range(count)],
        recipe={"hosts": {f"127.0.0.1:{other_server.port}": limits}},
    )
    times = [asked.at_s for asked in other_server.log]
    assert len(times) == count
    # As the server sees it: a request that it notes late, on busy cores, seems nearer to the next.
    assert (count - 1) / (times[-1] - times[0]) <= rate * 1.4
    assert np.median(np.diff(times)) >= 0.8 / rate
    # The host that redirects has no limit in this recipe: the test can tell.
    assert server.log[-1].at_s - server.log[0].at_s < (count - 1) / rate


def test_a_host_that_fails_is_paused_and_the_others_go_on(bench, server, row, make_sound):
    bad = [row(f"xc:{i}", server.status(f"/bad{i}", 403)) for i in range(60)]
    good = [
        row(f"inat:{i}", server.file(f"/ok{i}", make_sound(i)).replace("127.0.0.1", "localhost"))
        for i in range(20)
    ]
    bench.run([*bad, *good], recipe={"default": {"concurrency": 1}})
    assert len(bench.fetched()) == 20
    assert any("paused" in line for line in bench.said)
    assert any("pauses did not help" in line for line in bench.said)
    refused = [asked for asked in server.log if asked.status == 403]
    assert len(refused) == 20  # ten, a pause, ten more
    assert {reason for reason, _ in bench.rejected().values()} == {"not_fetched"}
    # It was the host, not the files: when it is well again they all come, without --retry-failed.
    for i in range(60):
        server.file(f"/bad{i}", make_sound(i))
    bench.run()
    assert len(bench.fetched()) == 80


def test_single_refusals_are_the_files_own(bench, server, row, make_sound):
    rows = [row(f"xc:{i}", server.file(f"/{i}", make_sound(i))) for i in range(40)]
    rows += [row(f"xc:{i}", server.status(f"/{i}", 403)) for i in range(40, 45)]
    bench.run(rows, recipe={"default": {"concurrency": 1}, "breaker": {"failures_in_a_row": 6}})
    assert len(bench.fetched()) == 40 and not any("paused" in line for line in bench.said)
    assert {v[0] for v in bench.rejected().values()} == {"http_403"}
    before = len(server.log)
    bench.run()
    assert len(server.log) == before  # for good
    for i in range(40, 45):
        server.file(f"/{i}", make_sound(i))
    bench.run(retry_failed=True)
    assert len(bench.fetched()) == 45 and len(server.log) == before + 5


def test_what_may_pass_is_tried_again_by_the_next_run(bench, server, row, make_sound):
    keep_one(bench, server, row, make_sound, row("xc:2", server.status("/2", 503)))
    server.file("/2", make_sound(2))
    bench.run()
    assert set(bench.fetched()) == {"xc:1", "xc:2"} and len(server.asked("/good")) == 1


def test_the_volume_per_hour_stops_a_host_over_runs(bench, server, row, make_sound):
    body = make_sound(1, 2.0)
    url = server.file("/a", body)
    tight = {"default": {"gb_per_hour": 2.5 * len(body) / 1e9, "concurrency": 1}}
    bench.run([row(f"xc:{i}", url) for i in range(2)], recipe=tight)
    # The third exceeds it: a run now would wait for most of an hour, so only look at the wait.
    from dawnchorus.data_prep.download.gate import Volume
    from dawnchorus.data_prep.download.ledger import Ledger

    ledger = Ledger(bench.out)
    minutes = ledger.traffic_of_the_day(f"127.0.0.1:{server.port}")
    ledger.close()
    assert sum(size for _, size in minutes) == 2 * len(body)
    volume = Volume(bench.recipe(**tight).default.windows())
    for minute, size in minutes:
        volume.add(minute * 60, size)
    assert volume.wait_s(time.time()) == 0
    volume.add(time.time(), len(body))
    assert 3000 < volume.wait_s(time.time()) <= 3661
    assert volume.wait_s(time.time() + 3700) == 0


def test_no_contact_no_request(bench, server, row, make_sound):
    with pytest.raises(PrepError, match="--contact"):
        bench.run([row("xc:1", server.file("/1", make_sound()))], recipe={"contact": ""})
    assert not server.log
