"""The file that grows: `parts/<name>.part` until it is whole, then renamed into its place.

No incomplete file has a final name: the bytes are secured (fsync) before the rename. Only bytes
that are known to be secured are kept for later, so neither a kill nor a power cut leaves a hole in
a file that is continued.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dawnchorus.data_prep.audio.extents import extent
from dawnchorus.data_prep.download.addresses import file_folder, file_stem
from dawnchorus.data_prep.download.sniff import ENDINGS, audio_ending

PARTS = "parts"
_BUFFER_BYTES = 1 << 18


class Unusable(Exception):
    """The fetched file cannot be used. `reason` is a short code; `again`: another try may help."""

    def __init__(self, reason: str, detail: str, *, again: bool) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.again = reason, detail, again


@dataclass(frozen=True, slots=True)
class Finished:
    """A file in its place, relative to the output folder."""

    path: str
    size: int
    sha256: bytes


class Part:
    """A file that is being fetched. Its methods block; `full` says when `flush` should run in a
    thread.
    """

    def __init__(self, folder: Path, recording_id: str, known_bytes: int = 0) -> None:
        self.folder, self.recording_id = folder, recording_id
        self.stem = file_stem(recording_id)
        self.path = folder / PARTS / f"{self.stem}.part"
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._on_disk = 0
        self.secured = 0
        if known_bytes:
            try:
                if self.path.stat().st_size >= known_bytes:
                    self._on_disk = self.secured = known_bytes
            except OSError:
                pass

    @property
    def size(self) -> int:
        """Bytes that have arrived so far."""
        return self._on_disk + len(self._buffer)

    @property
    def full(self) -> bool:
        """Whether there is enough in memory to be written."""
        return len(self._buffer) >= _BUFFER_BYTES

    def add(self, data: bytes) -> None:
        """Take bytes into memory."""
        self._buffer += data

    def head(self) -> bytes:
        """Return the beginning, while it is in memory."""
        return b"" if self._on_disk else bytes(self._buffer[:4096])

    def flush(self, *, secure: bool = False) -> None:
        """Write what is in memory; with `secure` see it on disk."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self._on_disk else "wb")
            self._file.truncate(self._on_disk)
            self._file.seek(self._on_disk)
        self._file.write(self._buffer)
        self._file.flush()
        self._on_disk += len(self._buffer)
        self._buffer = bytearray()
        if secure:
            os.fsync(self._file.fileno())
            self.secured = self._on_disk

    def reset(self) -> None:
        """Discard the bytes and begin anew."""
        self._buffer = bytearray()
        self._on_disk = self.secured = 0
        if self._file is not None:
            self._file.truncate(0)
            self._file.seek(0)

    def close(self, *, remove: bool) -> None:
        """Close the file; `remove` it, or leave it to be continued."""
        self._buffer = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self.path.unlink(missing_ok=True)

    def finish(self, *, total: int | None, checksums: Mapping[str, bytes]) -> Finished:
        """Check the whole file and put it in its place.

        `total` is its size where the server said it, `checksums` its digests by name ("md5",
        "sha256"). Raises Unusable; OSError when the disk is full.
        """
        self.flush(secure=True)
        size = self._on_disk
        if total is not None and size != total:
            raise Unusable("truncated", f"{size} of {total} bytes", again=True)
        if not size:
            raise Unusable("empty", "the server sent no byte", again=False)
        ending, other = audio_ending(self.path)
        if not ending:
            raise Unusable("not_audio", other, again=False)
        cut = extent(self.path).cut
        if cut:
            # If its size is the stated one, the file is truncated on the server: no other try.
            raise Unusable("truncated", cut, again=total is None)
        digests = _digests(self.path, {"sha256", *checksums})
        for name, digest in checksums.items():
            if digests[name] != digest:
                said = f"the server says {name} {digest.hex()}, the file has {digests[name].hex()}"
                raise Unusable("checksum", said, again=True)
        final = place(self.recording_id, ending)
        (self.folder / final).parent.mkdir(parents=True, exist_ok=True)
        self.close(remove=False)
        self.path.rename(self.folder / final)
        return Finished(final, size, digests["sha256"])


def place(recording_id: str, ending: str) -> str:
    """Return where the file of a recording lies, relative to the output folder."""
    return f"{file_folder(recording_id)}/{file_stem(recording_id)}.{ending}"


def already_there(folder: Path, recording_id: str) -> Finished | None:
    """Return the finished file of a recording, if it is there.

    A run that was killed between the rename and the next entry in the ledger leaves one.
    """
    for ending in ENDINGS:
        path = place(recording_id, ending)
        if (folder / path).is_file():
            digest = _digests(folder / path, {"sha256"})["sha256"]
            return Finished(path, (folder / path).stat().st_size, digest)
    return None


def _digests(path: Path, names: set[str]) -> dict[str, bytes]:
    """Return the digests of a file, read once."""
    found = {name: hashlib.new(name, usedforsecurity=False) for name in sorted(names)}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in found.values():
                digest.update(block)
    return {name: digest.digest() for name, digest in found.items()}


def checksums_of(headers: Mapping[str, str], *, etag_is_md5: bool) -> dict[str, bytes]:
    """Return the digests of the whole file that an answer states.

    Content-MD5 (RFC 1864), Repr-Digest (RFC 9530 §3), x-goog-hash of Google Cloud Storage, and an
    ETag of 32 hexadecimal digits where the recipe says so or Amazon S3 answers without its own
    key management (then it is no MD5: docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html).
    """
    said: dict[str, bytes] = {}
    if "content-range" not in headers:  # else it is the digest of the part
        _take(said, "md5", headers.get("content-md5", ""), 16)
    for item in headers.get("x-goog-hash", "").split(","):
        name, _, value = item.strip().partition("=")
        if name == "md5":
            _take(said, "md5", value, 16)
    found = re.search(r"\bsha-256=:([A-Za-z0-9+/=]+):", headers.get("repr-digest", ""))
    if found:
        _take(said, "sha256", found.group(1), 32)
    s3 = headers.get("server") == "AmazonS3" and "kms" not in headers.get(
        "x-amz-server-side-encryption", ""
    )
    tag = re.fullmatch(r'"([0-9a-fA-F]{32})"', headers.get("etag", ""))
    if tag and (s3 or etag_is_md5):
        said.setdefault("md5", bytes.fromhex(tag.group(1)))
    return said


def _take(said: dict[str, bytes], name: str, text: str, size: int) -> None:
    """Keep a base64 digest of the right size; anything else is not a digest."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return
    if len(digest) == size:
        said[name] = digest
