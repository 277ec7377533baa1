"""What the tables of a Darwin Core Archive look like: its `meta.xml`, or the files' headers.

Rules and defaults: Darwin Core text guide, https://dwc.tdwg.org/text/.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

from dawnchorus.data_prep.archives.containers import META, Files, safe_name
from dawnchorus.data_prep.archives.delimited import (
    BadRow,
    Dialect,
    picker,
    plain_key,
    read_rows,
    sniff,
)
from dawnchorus.data_prep.errors import PrepError

Row = dict[str, str]
# Pairs of files that can be read without a meta.xml: (core, extension) and the keys that join them.
KNOWN_PAIRS = {
    ("occurrence.txt", "multimedia.txt"): ("gbifid", "gbifid"),
    ("observations.csv", "media.csv"): ("id", "id"),
}


@dataclass(frozen=True)
class Table:
    """A table of an archive, in one file or several.

    `kind` is the row type ("occurrence", "multimedia"); `fields` are (key, index, default); an
    index of None means that all rows have the default.
    """

    kind: str
    files: tuple[str, ...]
    dialect: Dialect
    id_index: int
    fields: tuple[tuple[str, int | None, str], ...]
    open: Callable[[str], BinaryIO] = field(repr=False)

    @property
    def keys(self) -> set[str]:
        """The fields that the description lists, before any header is read."""
        return {"id", *(key for key, _, _ in self.fields)}

    def rows(self, only: Collection[str] = ()) -> Iterator[Row | BadRow]:
        """Yield the rows of all files in order, those that cannot be read as BadRow.

        `only` limits a row to these keys (what the archive does not have is absent), which saves
        time with wide tables. Raises PrepError when a file breaks off or is mostly unreadable.
        """
        listed = {index for _, index, _ in self.fields if index is not None}
        for name in self.files:
            fields: list[tuple[str, int | None, str]] = [("id", self.id_index, ""), *self.fields]
            if self.dialect.header_lines:
                known = {key for key, _, _ in fields}
                for index, title in enumerate(self._header(name)):
                    if index not in listed and (key := plain_key(title)) and key not in known:
                        fields.append((key, index, ""))
            needed = max(index for _, index, _ in fields if index is not None) + 1
            pick = picker([f for f in fields if not only or f[0] in only or f[0] == "id"])
            with self.open(name) as stream:
                for row in read_rows(stream, name, self.dialect, needed):
                    yield row if isinstance(row, BadRow) else pick(row)

    def _header(self, name: str) -> list[str]:
        with self.open(name) as stream:
            bare = Dialect(
                self.dialect.separator, self.dialect.quote, self.dialect.encoding, header_lines=0
            )
            skipped = islice(read_rows(stream, name, bare), self.dialect.header_lines - 1, None)
            first = next(skipped, [])
            return [] if isinstance(first, BadRow) else first


def described(text: bytes, files: Files) -> tuple[Table, list[Table]]:
    """Return the core and the extensions that a meta.xml describes."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    where = f"{META} of {files.path}"
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as err:
        raise PrepError(f"{where} cannot be read: {err!r}.") from err
    core = None
    extensions = []
    for element in root:
        tag = element.tag.rsplit("}", 1)[-1]
        if tag in ("core", "extension"):
            table = _table(element, files, where, is_core=tag == "core")
            if tag == "core":
                core = table
            else:
                extensions.append(table)
    if core is None:
        raise PrepError(f"{where} describes no core table.")
    return core, extensions


def _table(element: Any, files: Files, where: str, *, is_core: bool) -> Table:
    """Return the table of a <core> or <extension> element."""

    def number(text: str | None, what: str) -> int:
        if text is None or not text.strip().isdecimal():
            raise PrepError(f"{where}: {what} is {text!r} instead of a number.")
        return int(text)

    kind = plain_key(element.get("rowType", ""))
    fields: list[tuple[str, int | None, str]] = []
    names: list[str] = []
    id_index = None
    for child in element.iter():
        tag = child.tag.rsplit("}", 1)[-1]
        if tag == "location":
            names.append(safe_name((child.text or "").strip(), files.path))
        elif tag == "field":
            index = child.get("index")
            place = None if index is None else number(index, "the index of a field")
            fields.append((plain_key(child.get("term", "")), place, child.get("default", "")))
        elif tag == ("id" if is_core else "coreid"):
            id_index = number(child.get("index"), "the index of the id")
    if missing := [name for name in names if name not in files.names]:
        raise PrepError(f"{files.path} lacks {', '.join(missing)}, which its {META} lists.")
    if not names or id_index is None:
        lacks = "files" if not names else "id"
        raise PrepError(f"{where}: the {kind} table has no {lacks}, so it cannot be joined.")
    return Table(kind, tuple(names), _dialect(element, where), id_index, tuple(fields), files.open)


def _dialect(element: Any, where: str) -> Dialect:
    """Return the dialect that the attributes state; absent ones have the standard's defaults."""

    def character(name: str, default: str) -> str:
        text = str(element.get(name, default))
        text = {"\\t": "\t", "\\n": "\n", "\\r\\n": "\r\n", "\\r": "\r"}.get(text, text)
        if len(text) > 1 and text != "\r\n":
            raise PrepError(f"{where}: {name} is {text!r}; only single characters can be read.")
        return text

    if character("linesTerminatedBy", "\n") == "\r":
        raise PrepError(f"{where}: lines end with CR alone. Convert them to LF.")
    encoding = element.get("encoding") or "utf-8"
    try:
        newline = "\n".encode(encoding)
    except LookupError:
        newline = b""
    if newline != b"\n":
        raise PrepError(f"{where}: encoding {encoding!r} cannot be read. Convert to UTF-8.")
    headers = str(element.get("ignoreHeaderLines", "0")).strip() or "0"
    if not headers.isdecimal():
        raise PrepError(f"{where}: ignoreHeaderLines is {headers!r} instead of a number.")
    return Dialect(
        character("fieldsTerminatedBy", ",") or ",",
        character("fieldsEnclosedBy", '"'),
        encoding,
        int(headers),
    )


def undescribed(files: Files) -> tuple[Table, list[Table]]:
    """Return core and extension of a known pair of files without a meta.xml."""
    for names, keys in KNOWN_PAIRS.items():
        if files.names.issuperset(names):
            tables: list[Table] = []
            for name, key in zip(names, keys, strict=True):
                with files.open(name) as stream:
                    header, dialect = sniff(stream, name)
                plain = [plain_key(column) for column in header]
                if key not in plain:
                    raise PrepError(f"{name} in {files.path} has no column {key!r}.")
                fields = tuple((k, i, "") for i, k in enumerate(plain) if k and k != "id")
                kind = "multimedia" if tables else "occurrence"
                place = plain.index(key)
                tables.append(Table(kind, (name,), dialect, place, fields, files.open))
            return tables[0], tables[1:]
    pairs = " or ".join(" + ".join(pair) for pair in KNOWN_PAIRS)
    raise PrepError(
        f"{files.path} is no Darwin Core Archive: there is no {META} in it, nor {pairs}. "
        "On gbif.org choose the download 'Darwin Core Archive', not 'Simple'."
    )
