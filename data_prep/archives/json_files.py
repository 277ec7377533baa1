"""JSON of unknown origin, as a stream: compressed or in a tar, with NaN, of limited depth.

ijson does the parsing. It keeps the path to every open bracket, so a file of 200,000 brackets
would fill the machine's memory: depth and distance between items are limited here.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from dawnchorus.data_prep.audio.pointers import pointer_at
from dawnchorus.data_prep.errors import PrepError

MAX_DEPTH = 60
"""Brackets inside brackets; an observation of iNaturalist has about 10."""
_CHUNK = 1 << 16
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# The same, or the part of it that the chunk holds.
_STRING_OR_START = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z))', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)', re.DOTALL)
_NOT_JSON = re.compile(rb"-?\b(?:NaN|nan|Infinity)\b")
_WORD_AT_END = re.compile(rb"[A-Za-z-]{1,9}\Z")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SUFFIXES = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Document:
    """A JSON text; `open` gives its bytes, uncompressed, as often as asked."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[BinaryIO]]


def looks_like_json_file(path: Path) -> bool:
    """Return whether the name is that of JSON or of JSON in a .gz, .tar.gz, .tgz or .zip."""
    stem = re.sub(r"(\.tar)?\.gz$|\.tgz$|\.tar$|\.zip$", "", path.name.lower())
    return stem.endswith(_SUFFIXES)


def documents(path: Path) -> list[Document]:
    """Return the JSON texts of a file: itself, or those in a gzip, tar or zip; by its content.

    Nothing is unpacked to the disk. Raises PrepError when the file cannot be read or has none.
    """
    if pointer := pointer_at(path):
        raise PrepError(f"{path} is {pointer}.")
    with broken_file(path), path.open("rb") as file:
        start = file.read(4)
        if start[:2] == b"PK":
            with zipfile.ZipFile(path) as whole:
                found = [m.filename for m in whole.infolist() if m.filename.endswith(_SUFFIXES)]
            return _documents(path, found, _zip_member)
        if _is_tar(path):
            with tarfile.open(path, "r|*") as tar:
                found = [m.name for m in tar if m.isfile() and m.name.endswith(_SUFFIXES)]
            return _documents(path, found, _tar_member)
    return [Document(str(path), lambda: _plain(path))]


def _documents(
    path: Path, names: list[str], opener: Callable[[Path, str], Iterator[BinaryIO]]
) -> list[Document]:
    """Return the members of an archive; macOS's "._" twins are not among them."""
    opened = contextlib.contextmanager(opener)

    def document(name: str) -> Document:
        return Document(f"{path}:{name}", lambda: opened(path, name))

    found = [document(n) for n in names if not PurePosixPath(n).name.startswith(".")]
    if not found:
        raise PrepError(f"{path} holds no .json file.")
    return found


def _is_tar(path: Path) -> bool:
    with _plain(path) as stream:
        return stream.read(512)[257:262] == b"ustar"


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file


def _zip_member(path: Path, name: str) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(path) as whole, whole.open(name) as stream:
        yield cast(BinaryIO, stream)


def _tar_member(path: Path, name: str) -> Iterator[BinaryIO]:
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            if member.name == name and member.isfile():
                yield cast(BinaryIO, tar.extractfile(member))
                return
    raise PrepError(f"{path} no longer holds {name}.")


@contextlib.contextmanager
def broken_file(path: Path | str) -> Iterator[None]:
    """Turn what a truncated or mislabelled file raises while it is read into PrepError."""
    try:
        yield
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as err:
        raise PrepError(
            f"{path} cannot be read to its end: {err}. Is it whole? Download it again."
        ) from err
    except (NotImplementedError, RuntimeError) as err:  # zip: unknown method, password
        raise PrepError(f"{path} cannot be read: {err}.") from err


class StrictJson:
    """Bytes of a JSON text, checked on the way: NaN and Infinity become null, depth is limited.

    `read` raises PrepError when brackets lie deeper than MAX_DEPTH, or when more than
    `max_item_bytes` are read without a call of `item_done`.
    """

    def __init__(self, stream: IO[bytes], name: str, max_item_bytes: int | None = None) -> None:
        self.stream, self.name, self.max_item_bytes = stream, name, max_item_bytes
        self.in_string, self.held, self.depth = False, b"", 0
        self.position = self.last_item = 0

    def item_done(self) -> None:
        """Note that an item was parsed; the distance to the next one is counted from here."""
        self.last_item = self.position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, not more than about 64 kB; b'' at the end."""
        while size:  # ijson reads nothing first, to see whether it gets bytes
            fresh = self.stream.read(_CHUNK)
            if self.position == 0:
                fresh = fresh.removeprefix(b"\xef\xbb\xbf")
            self.position += len(fresh)
            limit = self.max_item_bytes
            if limit is not None and self.position - self.last_item > limit + _CHUNK:
                raise PrepError(
                    f"{self.name}: an item of more than {limit >> 20} MB near byte "
                    f"{self.last_item:,}. No archive writes that: is it the right file?"
                )
            chunk, self.held = self.held + fresh, b""
            if not chunk:
                return b""
            if fresh:
                chunk = self._hold_back(chunk)
            if chunk:
                return self._clean(chunk)
        return b""

    def _hold_back(self, chunk: bytes) -> bytes:
        """Keep the end of the chunk for the next one: it may be half a word or half an escape."""
        kept = _WORD_AT_END.search(chunk[-16:])
        cut = len(chunk) - len(kept.group() if kept else b"")
        # Two backslashes are a whole escape.
        cut -= (cut - len(chunk[:cut].rstrip(b"\\"))) % 2
        self.held = chunk[cut:]
        return chunk[:cut]

    def _clean(self, chunk: bytes) -> bytes:
        start = 0
        if self.in_string:
            end = _REST_OF_STRING.match(chunk)
            if end is None or end.group(1) != b'"':
                return chunk
            start, self.in_string = end.end(), False
        inside, outside = chunk[:start], chunk[start:]
        bare, quote, _ = _STRING.sub(b"", outside).partition(b'"')
        self.in_string = bool(quote)
        self._count_depth(bare)
        if _may_lack(bare):
            outside = _with_nulls(outside)
        return inside + outside

    def _count_depth(self, bare: bytes) -> None:
        brackets = bare.translate(None, _NOT_BRACKETS)
        opened = brackets.count(b"[") + brackets.count(b"{")
        if self.depth + opened > MAX_DEPTH:
            depth = self.depth
            for byte in brackets:
                depth += 1 if byte in b"[{" else -1
                if depth > MAX_DEPTH:
                    raise PrepError(
                        f"{self.name}: brackets more than {MAX_DEPTH} deep near byte "
                        f"{self.position:,}. No archive writes that: is it the right file?"
                    )
        self.depth += 2 * opened - len(brackets)


def _may_lack(text: bytes) -> bool:
    """Return whether a text may hold NaN or Infinity, by a quick test."""
    return b"NaN" in text or b"nan" in text or b"Infinity" in text


def _with_nulls(text: bytes) -> bytes:
    """Replace NaN and Infinity by null outside strings; the text starts outside one."""
    parts = _STRING_OR_START.split(text)
    parts[::2] = [_NOT_JSON.sub(b"null", part) if _may_lack(part) else part for part in parts[::2]]
    return b"".join(parts)


def items(document: Document, prefix: str, max_item_bytes: int | None = None) -> Iterator[Any]:
    """Yield the items at `prefix` (ijson's notation, "results.item") of one or more JSON texts.

    Raises PrepError, with the file's name, when it is no JSON, breaks off, nests too deep or has
    an item of more than `max_item_bytes`.
    """
    import ijson

    with broken_file(document.name), document.open() as stream:
        strict = StrictJson(stream, document.name, max_item_bytes)
        try:
            for item in ijson.items(strict, prefix, multiple_values=True, use_float=True):
                yield item
                strict.item_done()
        except (ijson.JSONError, UnicodeDecodeError, ValueError) as err:
            text = " ".join(str(err).split())[:200]
            raise PrepError(
                f"{document.name} is no JSON, near byte {strict.position:,}: {text}. "
                "Is it whole? Download it again."
            ) from err


def top_level_keys(document: Document) -> set[str]:
    """Return the keys of the object that a JSON text begins with, seen in its first 4 MB.

    An array is looked into: the keys are those of its first object, preceded by "[".
    """
    import ijson

    keys: set[str] = set()
    with broken_file(document.name), document.open() as stream:
        head = io.BytesIO(stream.read(4 << 20))
        strict = StrictJson(head, document.name)
        # The head of a large file ends in the middle; the keys seen so far are used.
        with contextlib.suppress(ijson.JSONError, UnicodeDecodeError, ValueError):
            for prefix, event, value in ijson.parse(strict, multiple_values=True):
                if event == "start_array" and prefix == "":
                    keys.add("[")
                if event == "map_key" and prefix in ("", "item"):
                    keys.add(value)
                if event == "end_map" and prefix in ("", "item"):
                    break
    return keys
