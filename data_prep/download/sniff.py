"""Whether a file is audio, judged by its bytes: servers send pages with status 200, and audio as
text/html.

Sources of the signatures: RIFF/RF64 (EBU Tech 3306), FLAC (RFC 9639 §8.1), Ogg (RFC 3533 §6), MP4
(ISO 14496-12 §4.3), AIFF, CAF, Sun/NeXT .snd, ID3v2 §3.1, WavPack, Monkey's Audio, ASF, AMR
(RFC 4867 §5), Matroska (EBML).
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

HEAD_BYTES = 4096

# (offset, bytes, ending of the file name)
_AUDIO: tuple[tuple[int, bytes, str], ...] = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"caff", "caf"),
    (0, b".snd", "au"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"#!AMR", "amr"),
    (0, b"\x1aE\xdf\xa3", "mka"),
    (0, bytes.fromhex("3026b2758e66cf11"), "wma"),
    (0, bytes.fromhex("726966662e91cf11"), "w64"),
)
_INNER = {  # (container, its kind at byte 8)
    (b"RIFF", b"WAVE"): "wav", (b"RIFX", b"WAVE"): "wav", (b"RF64", b"WAVE"): "wav",
    (b"BW64", b"WAVE"): "wav", (b"FORM", b"AIFF"): "aiff", (b"FORM", b"AIFC"): "aiff",
}  # fmt: skip
_OTHER: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"\x7fELF", "a program"),
)
_IMAGES_IN_MP4 = (b"avif", b"heic", b"heif", b"mif1", b"crx ")
_TITLE = re.compile(rb"<title[^>]*>(.{1,200}?)</title", re.IGNORECASE | re.DOTALL)


def not_audio(head: bytes) -> str:
    """Return what the beginning of a file shows it to be, if that is not audio; else ''.

    `head` may be short: an answer can be judged as soon as its first bytes are here.
    """
    if not head:
        return "an empty file"
    for offset, magic, name in _OTHER:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[4:8] == b"ftyp" and head[8:12] in _IMAGES_IN_MP4:
        return "an image (HEIF)"
    return _text(head) if not _container(head) else ""


def _text(head: bytes) -> str:
    """Return which kind of text it is, or '' where it has bytes that no text has."""
    if b"\0" in head[:512] and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    title = _TITLE.search(head)
    said = " ".join(title.group(1).decode("utf-8", "replace").split())[:100] if title else ""
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start or said:
        return f"an HTML page{f' ({said!r})' if said else ''}"
    if start.startswith((b"<?xml", b"<svg", b"<error")):
        return "an XML document"
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head[:512])
    try:
        # A character may be cut at the end of the head.
        head[:512].decode("utf-8")
    except UnicodeDecodeError as err:
        if err.start < min(len(head), 512) - 3:
            return ""
    if odd:
        return ""
    shown = " ".join(start.decode("utf-8", "replace").split())[:60]
    kind = "JSON" if start[:1] in (b"{", b"[") else "text"
    return f"{kind} ({shown!r})" if shown else "white space"


def _container(head: bytes) -> str:
    """Return the ending for a file that begins like an audio file, or ''."""
    for offset, magic, ending in _AUDIO:
        if head[offset : offset + len(magic)] == magic:
            return ending
    if head[4:8] == b"ftyp":
        return "m4a"
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        return "mp3"
    return _INNER.get((head[:4], head[8:12]), "")


def audio_ending(path: Path) -> tuple[str, str]:
    """Return (file name ending, '') of an audio file, or ('', what it is instead).

    A file without a signature (MP3 and AAC without a tag) must open as audio.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    other = not_audio(head)
    if other:
        return "", other
    ending = _container(head)
    # An ID3 tag may stand before other formats, and MP3 frames have only 11 bits to know them by.
    if ending and ending != "mp3":
        return ending, ""
    return _opened(path)


def _opened(path: Path) -> tuple[str, str]:
    from dawnchorus.data_prep.audio.decoders import open_ffmpeg, open_soundfile
    from dawnchorus.data_prep.errors import CannotRead, UnusableAudio

    problem = ""
    for opener in (open_soundfile, open_ffmpeg):
        with ExitStack() as stack:
            try:
                opened = opener(path, stack)
            except (CannotRead, UnusableAudio) as err:
                problem = str(err)
                continue
            if opened.sample_rate_hz > 0 and opened.channels > 0:
                return _ENDINGS.get(opened.codec, "audio"), ""
    return "", f"no audio that libsndfile or FFmpeg can open ({problem})"


# By the codec names of data_prep.audio.decoders; what is not here is called ".audio".
_ENDINGS = {
    "mp3": "mp3", "mp3float": "mp3", "mpeg": "mp3", "aac": "aac", "flac": "flac", "wav": "wav",
    "wavex": "wav", "aiff": "aiff", "vorbis": "ogg", "opus": "ogg", "ac3": "ac3", "mp2": "mp2",
}  # fmt: skip
# Every ending that a file of ours can have, to find what a killed run left without an entry.
ENDINGS = tuple(
    dict.fromkeys(
        [*_ENDINGS.values(), *(e for _, _, e in _AUDIO), *_INNER.values(), "m4a", "audio"]
    )
)
