"""Which file of a folder holds which recording: the folder is read once, then asked by key."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dawnchorus.data_prep.errors import PrepError

# Endings that are never audio: tables, pictures, archives, unfinished downloads. For all others the
# content decides, not the name.
_NOT_AUDIO = frozenset(
    (".aria2", ".crdownload", ".csv", ".db", ".gz", ".html", ".jpeg", ".jpg", ".json", ".jsonl",
     ".log", ".md", ".md5", ".parquet", ".part", ".pdf", ".png", ".py", ".sqlite", ".tar", ".tmp",
     ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip")
)  # fmt: skip
_XC_ID = re.compile(r"(?<![A-Za-z0-9])XC0*(\d{1,9})(?!\d)", re.IGNORECASE)

Keys = Callable[[str], Iterable[str]]


def stem_key(name: str) -> list[str]:
    """Return the base name without its extension, as the key of a file. Case is kept."""
    return [Path(name).stem]


def xeno_canto_key(name: str) -> list[str]:
    """Return the Xeno-canto number in a name: "XC254462-JMJ-….mp3" -> "XC254462".

    Names of digits alone ("254462.mp3") are taken as the number.
    """
    found = _XC_ID.search(name)
    if found:
        return [f"XC{found[1]}"]
    stem = Path(name).stem
    return [f"XC{stem.lstrip(chr(48))}"] if stem.isdecimal() and stem.isascii() else []


def asa_key(name: str) -> list[str]:
    """Return the Animal Sound Archive's keys of a file, surest first.

    The base name, without "_short" (an excerpt of the recording), and what catalogue numbers and
    file names share: "Anas_acuta_DIG_195_3_0" and "Anas_acuta_DIG0195_03_short.mp3" are both
    "anas_acuta_dig 195 3" (a last 0 says nothing).
    """
    stem = re.sub(r"\.[A-Za-z0-9]{2,4}$", "", name)
    bare = stem.removesuffix("_short")
    found = re.fullmatch(r"(.*?[A-Za-z])_?0*(\d+)_0*(\d+)(?:_0)?", bare)
    loose = [f"{found[1].lower()} {found[2]} {found[3]}"] if found else []
    return list(dict.fromkeys([stem, bare, *loose]))


def any_key(name: str) -> list[str]:
    """Return the keys of a file that may be from any archive: "XC254462", base names."""
    found = _XC_ID.search(name)
    return [*([f"XC{found[1]}"] if found else []), *asa_key(name)]


class FileIndex:
    """The files below a folder, found by key.

    `keys` gives the keys of a file's name: any number, also none. Case is kept throughout:
    YouTube's ids differ by it. Links are followed, each folder once. It takes 16 bytes per key and
    the length of its path per file: about 70 MB for a million files.
    """

    def __init__(self, folder: Path, keys: Keys = stem_key) -> None:
        """Read the folder. Raises PrepError when it is not a folder or cannot be listed."""
        if not folder.is_dir():
            raise PrepError(f"There is no folder of audio at {folder}.")
        self.folder, self._keys = folder.absolute(), keys
        self.count = 0
        self.unnamable: list[str] = []
        """Files whose names are no UTF-8 and cannot be written into a table; up to 20."""
        self._names = bytearray()
        hashes, places = array("Q"), array("Q")
        for name in self._walk():
            place = len(self._names)
            self.count += 1
            self._names += name.encode() + b"\0"
            for key in keys(os.path.basename(name)):  # noqa: PTH119 (a million times)
                hashes.append(_hash(key))
                places.append(place)
        # The order of the places breaks ties, so the first file found stays the first.
        order = np.lexsort((np.frombuffer(places, np.uint64), np.frombuffer(hashes, np.uint64)))
        self._hashes = np.frombuffer(hashes, np.uint64)[order]
        self._places = np.frombuffer(places, np.uint64)[order]

    def find_all(self, key: str) -> list[Path]:
        """Return the absolute paths of all files with this key, in the order of their names."""
        wanted = _hash(key)
        at = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        found = []
        while at < len(self._hashes) and int(self._hashes[at]) == wanted:
            place = int(self._places[at])
            name = self._names[place : self._names.index(0, place)].decode()
            if key in self._keys(Path(name).name):  # not another key with this hash
                found.append(self.folder / name)
            at += 1
        return found

    def find(self, key: str) -> str:
        """Return the absolute path of the first file with this key, or an empty text."""
        found = self.find_all(key) if key else []
        return str(found[0]) if found else ""

    def names(self) -> list[str]:
        """Return the paths of all files, relative to the folder."""
        return self._names.decode().split("\0")[:-1]

    def _walk(self) -> Iterator[str]:
        """Yield the paths of files relative to the folder, sorted within each folder."""
        waiting = [""]
        seen: set[tuple[int, int]] = set()
        while waiting:
            relative = waiting.pop()
            here = self.folder / relative
            try:
                status = here.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(here) as entries:
                    found = [
                        (entry.name, entry.is_dir(), entry.is_file())
                        for entry in entries
                        if not entry.name.startswith(".")
                    ]
            except OSError as err:
                raise PrepError(f"The folder {here} cannot be listed: {err}.") from err
            below = []
            for name, is_dir, is_file in sorted(found):
                path = f"{relative}/{name}" if relative else name
                if is_dir:
                    below.append(path)
                elif is_file and self._is_wanted(path):
                    yield path
            waiting.extend(reversed(below))

    def _is_wanted(self, path: str) -> bool:
        if os.path.splitext(path)[1].lower() in _NOT_AUDIO:  # noqa: PTH122
            return False
        try:
            path.encode()
        except UnicodeEncodeError:
            if len(self.unnamable) < 20:
                self.unnamable.append(ascii(path))
            return False
        return True


def _hash(key: str) -> int:
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
