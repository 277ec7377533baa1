"""Which file a cell of a table means: the path as written, else a file of that name below the
folder.

Tables come from other machines: with backslashes, other Unicode forms, other case, without the
extension, with absolute paths of another disk.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dawnchorus.data_prep.archives.file_index import FileIndex


def _folded(text: str) -> str:
    """Return a name without differences of Unicode form and case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def spelling_keys(name: str) -> list[str]:
    """Return the keys of a file: its name, and its name without the extension, in any spelling."""
    whole = _folded(name)
    stem = os.path.splitext(whole)[0]  # noqa: PTH122 (as in FileIndex: a million times)
    return [f"name {whole}", f"stem {stem}"]


@dataclass
class Finder:
    """Finds the files of a table's cells."""

    directory: Path
    base: Path
    """The folder that the paths in cells start from."""
    found_otherwise: dict[str, str] = field(default_factory=dict)
    """Cells whose file has another spelling or lies in another place, with that file."""
    ambiguous: dict[str, list[str]] = field(default_factory=dict)
    """Cells that fit several files, of which none was taken."""
    _index: FileIndex | None = None

    def find(self, text: str) -> Path:
        """Return the file that a cell means; where there is none, the path as it is written."""
        exact = written(self.base, text)
        if exact is not None:
            return exact
        candidates = self._elsewhere(text)
        if len(candidates) == 1:
            self.found_otherwise[text] = str(candidates[0])
            return candidates[0]
        if candidates:
            self.ambiguous[text] = [str(path) for path in candidates]
        return self.base / text

    def _elsewhere(self, text: str) -> list[Path]:
        """Return the files below the folder that fit the cell best; several where it is unclear."""
        parts = [part for part in _folded(text.replace("\\", "/")).split("/") if part]
        if not parts or "\0" in text:
            return []
        if self._index is None:
            self._index = FileIndex(self.directory, spelling_keys)
        name = parts[-1]
        stem = PurePosixPath(name).stem
        # A dot may be part of the name ("XC1.v2" without its extension) or begin another one.
        for key in (f"name {name}", f"stem {name}", f"stem {stem}"):
            found = self._index.find_all(key)
            if found:
                return self._nearest(found, parts, text)
        return []

    def _nearest(self, found: Sequence[Path], parts: Sequence[str], text: str) -> list[Path]:
        """Return those that share the most folders with the cell, then its case."""

        def shared(path: Path) -> int:
            own = [_folded(part) for part in path.relative_to(self._root()).parts[:-1]]
            count = 0
            for mine, theirs in zip(reversed(own), reversed(parts[:-1]), strict=False):
                if mine != theirs:
                    break
                count += 1
            return count

        most = max(map(shared, found))
        best = [path for path in found if shared(path) == most]
        last = unicodedata.normalize("NFC", text.replace("\\", "/").rpartition("/")[2])
        same = [path for path in best if unicodedata.normalize("NFC", path.name) == last]
        return [self.directory / path.relative_to(self._root()) for path in same or best]

    def _root(self) -> Path:
        return self.directory.absolute()

    def notes(self) -> list[str]:
        """Return what a person should know about the files that were found or not."""
        notes = []
        if self.found_otherwise:
            text, path = next(iter(self.found_otherwise.items()))
            notes.append(
                f"{len(self.found_otherwise)} files are spelt otherwise than in the table or lie "
                f"elsewhere, such as {text!r}: {relative(Path(path), self.directory)!r}"
            )
        if self.ambiguous:
            text, paths = next(iter(self.ambiguous.items()))
            shown = " or ".join(repr(relative(Path(path), self.directory)) for path in paths[:3])
            notes.append(
                f"{len(self.ambiguous)} names may mean several files and are taken as missing, "
                f"such as {text!r}: {shown}"
            )
        return notes


def written(base: Path, text: str) -> Path | None:
    """Return the file at a path as it is written, in either Unicode form, with either slash."""
    for slashed in dict.fromkeys((text, text.replace("\\", "/"))):
        for form in ("", "NFC", "NFD"):
            path = base / (unicodedata.normalize(form, slashed) if form else slashed)  # type: ignore[arg-type]
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # a name too long, a NUL
                return None
    return None


def best_base(directory: Path, metadata: Path, paths: Sequence[str]) -> Path:
    """Return the folder that the table's paths start from: where most of a sample exist."""
    step = max(1, len(paths) // 50)
    sample = [text for text in paths[::step] if text]
    candidates = dict.fromkeys((directory, metadata.parent, directory / "audio"))
    return max(candidates, key=lambda base: sum(written(base, text) is not None for text in sample))


def relative(path: Path, directory: Path) -> str:
    """Return a path as the table keeps it: relative to the folder where it lies below it."""
    try:
        return path.relative_to(directory).as_posix()
    except ValueError:
        return path.absolute().as_posix()
