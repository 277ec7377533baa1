"""The files of an archive, in a folder or in a zip that is never unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from dawnchorus.data_prep.audio.pointers import pointer_at
from dawnchorus.data_prep.errors import PrepError

META = "meta.xml"
_MAX_META_BYTES = 4 << 20


class FolderFiles:
    """The files of an unpacked archive."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise PrepError(f"There is no archive at {path}: neither a file nor a folder.")
        self.path = path
        self.names = {item.name for item in path.iterdir() if item.is_file()}

    def open(self, name: str) -> BinaryIO:
        """Open a file to read its bytes. Raises PrepError when it is not there or not inside."""
        try:
            return (self.path / safe_name(name, self.path)).open("rb")
        except OSError as err:
            raise PrepError(f"{name} in {self.path} cannot be opened: {err}.") from err

    def read(self, name: str) -> bytes:
        """Return the content of a small file, at most 4 MiB of it."""
        with self.open(name) as stream:
            return stream.read(_MAX_META_BYTES)


class ZipFiles:
    """The files of a zip, read where they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if pointer := pointer_at(path):
            raise PrepError(f"{path} is {pointer}.")
        try:
            with zipfile.ZipFile(path) as whole:
                members = [m.filename for m in whole.infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError) as err:
            raise PrepError(
                f"{path} is no zip file or a truncated one: {err}. Download it again."
            ) from err
        for name in members:
            safe_name(name, path)
        metas = sorted((m for m in members if PurePosixPath(m).name == META), key=len)
        self.base = PurePosixPath(metas[0]).parent if metas else PurePosixPath()
        self.names = {
            str(PurePosixPath(m).relative_to(self.base))
            for m in members
            if PurePosixPath(m).is_relative_to(self.base)
        }

    def open(self, name: str) -> BinaryIO:
        """Open a file to read its bytes. Raises PrepError when it is not there or not inside."""
        member = str(self.base / safe_name(name, self.path))
        try:
            return cast(BinaryIO, _Member(zipfile.ZipFile(self.path), member))
        except KeyError as err:
            raise PrepError(f"{self.path} lacks {name}, which its {META} lists.") from err
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as err:
            raise PrepError(f"{name} in {self.path} cannot be opened: {err}.") from err

    def read(self, name: str) -> bytes:
        """Return the content of a small file, at most 4 MiB of it."""
        with self.open(name) as stream:
            return stream.read(_MAX_META_BYTES)


Files = FolderFiles | ZipFiles


class _Member(io.BufferedReader):
    """A member of a zip; closing it closes the zip."""

    def __init__(self, whole: zipfile.ZipFile, name: str) -> None:
        self.whole = whole
        try:
            # ZipExtFile reads lines slowly; a buffer of its own is six times faster.
            super().__init__(cast(io.RawIOBase, whole.open(name)), 1 << 20)
        except BaseException:
            whole.close()
            raise

    def close(self) -> None:
        super().close()
        self.whole.close()


def safe_name(name: str, where: Path) -> str:
    """Return `name` when it stays inside its archive; PrepError otherwise.

    Such an archive was made to read or write other files: all of it is refused.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise PrepError(f"{where} names a file outside itself ({name!r}): it is not safe to read.")
    return name
