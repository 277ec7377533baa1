"""Addresses, file names, signatures, waits: each by itself."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dawnchorus.data_prep.download.addresses import (
    BadAddress,
    ending_of,
    file_folder,
    file_stem,
    follow,
    host_of,
    private_name,
    redact,
)
from dawnchorus.data_prep.download.fetch import validator_of
from dawnchorus.data_prep.download.gate import Volume
from dawnchorus.data_prep.download.partial_file import checksums_of
from dawnchorus.data_prep.download.sniff import audio_ending, not_audio
from dawnchorus.data_prep.tools.polite_http import retry_after_s


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Xeno-Canto.org/1/download", "xeno-canto.org"),
        ("http://a.example:80/x", "a.example"),
        ("https://a.example:8443/x", "a.example:8443"),
        ("http://[::1]:8000/x", "[::1]:8000"),
    ],
)
def test_hosts(url, host):
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    ["ftp://a/x", "file:///etc/passwd", "//a/x", "x", "", "http://", "https://u:p@a/x",
     "http://a/ x", "http://a/\r\nHost: b", "http://a:999999/x", "data:audio/wav;base64,AAAA"],
)  # fmt: skip
def test_addresses_that_are_not_asked(url):
    with pytest.raises(BadAddress):
        host_of(url)


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://a.example/x", "/y", "https://a.example/y"),
        ("http://a.example/x", "https://b.example/y", "https://b.example/y"),
        ("https://a.example/x", "http://a.example/y", None),
        ("https://a.example/x", "file:///etc/passwd", None),
        ("https://a.example/x", "//b.example/y", "https://b.example/y"),
    ],
)
def test_where_a_redirect_may_lead(url, location, target):
    if target is None:
        with pytest.raises(BadAddress):
            follow(url, location)
    else:
        assert follow(url, location) == target


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True), ("127.1", True), ("2130706433", True), ("0x7f000001", True),
        ("0177.0.0.1", True), ("10.1.2.3", True), ("192.168.0.1", True), ("172.31.0.1", True),
        ("169.254.169.254", True), ("100.64.0.1", True), ("0.0.0.0", True), ("localhost", True),
        ("localhost.", True), ("a.localhost", True), ("metadata.google.internal", True),
        ("[::1]", True), ("[::ffff:127.0.0.1]", True), ("[fe80::1]", True), ("[fd00::1]", True),
        ("[::ffff:7f00:1]", True), ("224.0.0.1", True), ("[2002:7f00:1::]", True),
        ("[64:ff9b::a00:1]", True), ("[::127.0.0.1]", True), ("[64:ff9b:1::808:808]", True),
        ("[64:ff9b::808:808]", False),
        ("8.8.8.8", False), ("134744072", False), ("[2001:4860:4860::8888]", False),
        ("a.example", False), ("localhost.example", False), ("10.example", False),
    ],
)  # fmt: skip
def test_names_of_ones_own_network(host, private):
    assert private_name(f"http://{host}:8000/x") is private


def test_secrets():
    url = "https://u:pw@a.example/x?key=K1&q=1&X-Amz-Credential=K2&sig=K3#token=K4"
    assert redact(url) == (
        "https://***@a.example/x?key=***&q=1&X-Amz-Credential=***&sig=***#token=K4"
    ) or "K4" not in redact(url)
    assert not any(secret in redact(url) for secret in ("K1", "K2", "K3", "pw"))
    assert redact("https://a.example/monkey/keys.mp3") == "https://a.example/monkey/keys.mp3"


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_are_safe_and_differ_where_ids_do(first, second):
    names = []
    for key in (first, second):
        stem, folder = file_stem(key), file_folder(key)
        assert len(stem) <= 120 and stem == stem.lower()
        assert all(c.isascii() and (c.isalnum() or c in "_-") for c in stem) and stem
        assert all(part and part.strip(".") for part in folder.split("/")), folder
        names.append(stem)
    assert (names[0] == names[1]) == (first == second)


def test_names_that_could_be_mistaken():
    digest = file_stem("xc:Ab")
    assert digest.startswith("xc_ab-")
    assert file_stem(digest.replace("_", ":", 1)) != digest
    assert file_stem("xc:254462") == "xc_254462"
    assert len({file_stem(k) for k in ("xc:a", "xc:A", "xc_a", "xc:a ", "xc:ä", "xc:a.")}) == 6


def test_endings():
    assert ending_of("https://static.inaturalist.org/sounds/263113.wav?1624793769") == "wav"
    assert ending_of("https://xeno-canto.org/254462/download") == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120), (" 0 ", 0), ("", None), ("soon", None), ("-5", None)]
)
def test_retry_after(text, seconds):
    assert retry_after_s(text) == seconds


def test_retry_after_as_a_date():
    then = datetime.now(UTC) + timedelta(seconds=90)
    assert 85 < retry_after_s(then.strftime("%a, %d %b %Y %H:%M:%S GMT")) < 91
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_what_tells_versions_apart():
    assert validator_of({"etag": '"a"', "last-modified": "x"}) == '"a"'
    assert validator_of({"etag": 'W/"a"', "last-modified": "x"}) == "x"
    assert validator_of({"etag": '"a"', "content-encoding": "gzip"}) == ""


def test_checksums():
    md5 = hashlib.md5(b"x").digest()
    text = base64.b64encode(md5).decode()
    assert checksums_of({"content-md5": text}, etag_is_md5=False) == {"md5": md5}
    assert checksums_of({"content-md5": text, "content-range": "bytes 1-2/3"},
                        etag_is_md5=False) == {}  # fmt: skip
    assert checksums_of({"x-goog-hash": f"crc32c=AAAAAA==,md5={text}"}, etag_is_md5=False)
    etag = {"etag": f'"{md5.hex()}"'}
    assert checksums_of(etag, etag_is_md5=False) == {}  # 32 digits may be anything
    assert checksums_of(etag, etag_is_md5=True) == {"md5": md5}
    s3 = etag | {"server": "AmazonS3"}
    assert checksums_of(s3, etag_is_md5=False) == {"md5": md5}
    assert checksums_of(s3 | {"x-amz-server-side-encryption": "aws:kms"}, etag_is_md5=False) == {}
    assert checksums_of({"content-md5": "not base64!"}, etag_is_md5=False) == {}


def test_volume():
    volume = Volume([(3600.0, 100.0), (86400.0, 150.0)])
    start = 1_000_000 * 60.0
    volume.add(start, 60)
    assert volume.wait_s(start + 60) == 0
    volume.add(start + 600, 40)
    assert volume.wait_s(start + 660) == pytest.approx(3600 + 60 - 660)
    later = start + 3700
    assert volume.wait_s(later) == 0
    volume.add(later, 50)  # 150 in the day
    assert volume.wait_s(later + 60) == pytest.approx(86460 - (later + 60 - start), abs=60)
    assert Volume([]).wait_s(start) == 0


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF"])
def test_audio_is_known_by_its_bytes(kind, make_sound, tmp_path):
    path = tmp_path / "x.html"
    body = make_sound(kind=kind)
    path.write_bytes(body)
    assert audio_ending(path)[0] == kind.lower()
    assert not_audio(body[:4096]) == ""
    path.write_bytes(b"ID3\x03\x00\x00\x00\x00\x00\x00" + make_sound(kind="MP3"))
    assert audio_ending(path)[0] == "mp3"


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "an empty file"),
        (b"\r\n\r\n", "white space"),
        (b"\xef\xbb\xbf<!doctype HTML><title>Rate \n limit</title>", "an HTML page ('Rate limit')"),
        (b'<?xml version="1.0"?><Error>', "an XML document"),
        ("Zugriff verweigert für Sie".encode(), "text ("),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"\0\0\0\x1cftypheic", "an image (HEIF)"),
    ],
)
def test_what_else_it_is(head, what):
    assert not_audio(head).startswith(what)


@given(st.binary(max_size=600))
def test_no_bytes_break_the_judgement(head):
    assert isinstance(not_audio(head), str)


@given(st.text(max_size=80) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} [A-Z][a-z]{2} [0-9:+ -]*"))
def test_no_header_breaks_the_wait(text):
    found = retry_after_s(text)
    assert found is None or found >= 0


@given(st.text(max_size=80))
def test_no_redirect_breaks_it(location):
    with contextlib.suppress(ValueError):
        assert host_of(follow("https://a.example/x", location))
