"""Taxonomy files -> one shape, streamed: GBIF backbone, Catalogue of Life, eBird, iNaturalist.

The heading decides the kind of a file, whatever its name is: `Taxon.tsv` of the GBIF backbone or of
Catalogue of Life (headings plain or with `dwc:`), `NameUsage.tsv` of a ColDP archive (`col:`),
eBird's taxonomy of any year, iNaturalist's `taxa.csv.gz`, or a plain table with `name` and `rank`.
Each may lie in a zip (nothing is unpacked to disk) or be gzipped.

Memory holds one block of text and what the caller keeps of it.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from dawnchorus.data_prep.archives.delimited import Dialect, read_blocks, sniff
from dawnchorus.data_prep.archives.text_files import text_form
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS, common_shape
from dawnchorus.data_prep.taxonomy.versions import version_of

if TYPE_CHECKING:
    import polars as pl

SMALL = frozenset(("ebird", "plain"))
"""Kinds of taxonomy that are kept whole: a few megabytes."""

# What zipfile and gzip raise for broken, encrypted or unknown members.
_UNREADABLE = (
    OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError
)  # fmt: skip
_BLOCK_BYTES = 2 << 20
_HEAD_BYTES = 1 << 16
# Column of the common shape -> headings, lower case and without prefix, the first that is there.
_KINDS: dict[str, tuple[frozenset[str], dict[str, tuple[str, ...]]]] = {
    "dwc": (
        frozenset(("taxonid", "scientificname", "taxonrank", "taxonomicstatus")),
        {
            "key": ("taxonid",), "canonical": ("canonicalname",), "full": ("scientificname",),
            "author": ("scientificnameauthorship",), "rank": ("taxonrank",),
            "status": ("taxonomicstatus",), "accepted": ("acceptednameusageid",),
            "parent": ("parentnameusageid",),
        },
    ),
    "coldp": (
        frozenset(("id", "scientificname", "rank", "status")),
        {
            "key": ("id",), "full": ("scientificname",), "author": ("authorship",),
            "rank": ("rank",), "status": ("status",), "parent": ("parentid",),
        },
    ),
    "inat": (
        frozenset(("taxon_id", "ancestry", "rank", "name", "active")),
        {
            "key": ("taxon_id",), "canonical": ("name",), "rank": ("rank",),
            "status": ("active",), "parent": ("ancestry",),
        },
    ),
    "ebird": (
        frozenset(("species_code", "category")),
        {
            "key": ("species_code",), "canonical": ("sci_name", "scientific_name"),
            "rank": ("category",), "parent": ("report_as",),
            "english": ("primary_com_name", "common_name", "english_name"),
            "order": ("order1", "order"), "family": ("family_sci_name", "family"),
        },
    ),
    "plain": (
        frozenset(("name", "rank")),
        {
            "key": ("id", "key"), "canonical": ("name",), "rank": ("rank",),
            "status": ("status",), "accepted": ("accepted",), "english": ("english",),
        },
    ),
}  # fmt: skip
_PARTS = {
    "genericname": ("genericname",),
    "specificepithet": ("specificepithet",),
    "infraspecificepithet": ("infraspecificepithet",),
    "uninomial": ("uninomial",),
}
# The key of a label's ids under which a file's own ids are kept.
_ID_KINDS = {"gbif": "gbif", "colxr": "colxr", "inat": "inat"}


@dataclass(frozen=True)
class Source:
    """A taxonomy file that was recognised. `label` is what labels say ("gbif-backbone-2023-08")."""

    path: Path
    kind: str
    label: str
    member: str = ""
    headings: tuple[str, ...] = ()
    dialect: Dialect = field(default_factory=Dialect)
    bad_rows: list[int] = field(default_factory=lambda: [0])
    """How many rows had too few or too many fields and were skipped (one number)."""

    @property
    def id_key(self) -> str:
        """The key in a label's ids: "gbif", "colxr", "inat", the year for eBird, "" for none."""
        return self.label if self.kind == "ebird" else _ID_KINDS.get(self.kind, "")

    @property
    def columns(self) -> dict[str, str]:
        """Common name of a column -> its heading in this file, for those that are there."""
        kind = "dwc" if self.kind in ("gbif", "colxr") else self.kind
        kind = "coldp" if self.kind == "colxr" and "taxonid" not in self._plain else kind
        wanted = {name: (name,) for name in RANK_COLUMNS} | _PARTS | _KINDS[kind][1]
        found = {}
        for name, usual in wanted.items():
            heading = next((self._plain[u] for u in usual if u in self._plain), None)
            if heading is not None:
                found[name] = heading
        return found

    @property
    def _plain(self) -> dict[str, str]:
        return {plain_heading(name): name for name in reversed(self.headings)}


def plain_heading(heading: str) -> str:
    """Return a heading as it is looked for: "dwc:taxonID" -> "taxonid"."""
    text = heading.strip().strip('"').lower().rsplit(":", 1)[-1].rsplit("/", 1)[-1]
    return text.replace(" ", "_")


def find_source(text: str) -> Source:
    """Recognise a taxonomy file. `text` is its path, or `LABEL=path` to state name and version.

    Raises PrepError, with the heading, when the file is missing or of an unknown kind.
    """
    label, _, rest = text.partition("=")
    stated = bool(rest) and not Path(text).exists() and "/" not in label
    path = Path(rest if stated else text)
    if not path.is_file():
        raise PrepError(f"There is no taxonomy file at {path}. Give the file, or LABEL=FILE.")
    try:
        members = _members(path)
        for member in members:
            head = _head(path, member)
            if found := _recognise(path, member, head, label if stated else ""):
                return found
    except _UNREADABLE as err:
        raise PrepError(f"{path} cannot be read: {err}. Get it again.") from err
    head_text = _head(path, members[0])[:200].decode("utf-8", "replace") if members else ""
    raise PrepError(
        f"{path} is no taxonomy that is known: the GBIF backbone or Catalogue of Life (Taxon.tsv, "
        "NameUsage.tsv, or the zip around it), an eBird taxonomy as CSV, iNaturalist's "
        f"taxa.csv.gz, or a CSV with name and rank. It begins with {head_text!r}."
    )


def _members(path: Path) -> list[str]:
    """Return the tables in a zip, or one nameless member."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return [""]
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.lower().endswith((".tsv", ".txt", ".csv"))]
    # The taxa before vernacular names and distributions that have a taxonID too.
    return sorted(names, key=lambda n: (not re.search(r"(?i)taxon|nameusage|taxa", n), n))


@contextmanager
def _opened(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open the table: plain, gzipped, or in a zip."""
    with path.open("rb") as file:
        magic = file.read(2)
        file.seek(0)
        if member:
            with zipfile.ZipFile(file) as archive, archive.open(member) as inner:
                yield inner
        elif magic == b"\x1f\x8b":
            with gzip.open(file) as inner:
                yield io.BufferedReader(inner, _BLOCK_BYTES)
        else:
            yield file


def _head(path: Path, member: str) -> bytes:
    with _opened(path, member) as file:
        return file.read(_HEAD_BYTES)


def _recognise(path: Path, member: str, head: bytes, label: str) -> Source | None:
    start = io.BytesIO(head)
    try:
        names, dialect = sniff(start, str(path))
    except PrepError:  # no line of text: another member may be a table
        return None
    headings, rest = tuple(names), start.read().decode("utf-8", "replace")
    plain = {plain_heading(name) for name in headings}
    kind = next((kind for kind, (needed, _) in _KINDS.items() if needed <= plain), "")
    if not kind or (kind == "ebird" and not plain & {"sci_name", "scientific_name"}):
        return None
    if kind in ("dwc", "coldp"):
        kind = "colxr" if kind == "coldp" or not _numeric_keys(rest, headings) else "gbif"
    if kind == "ebird":  # some years are in Windows' Latin 1
        with _opened(path, member) as file:
            form = text_form(cast(BinaryIO, file), str(path), guess=True)
        dialect = replace(dialect, encoding=form.encoding)
    label = label or version_of(path, kind, headings)
    return Source(path, kind, label, member, headings, dialect)


def _numeric_keys(rows: str, headings: tuple[str, ...]) -> bool:
    """Return whether taxon ids are numbers (GBIF's backbone), not those of Catalogue of Life."""
    place = [plain_heading(name) for name in headings].index("taxonid")
    cells = [line.split("\t")[place] for line in rows.splitlines()[:50] if line.count("\t") > place]
    return bool(cells) and all(cell.isascii() and cell.isdigit() for cell in cells)


def frames(source: Source) -> Iterator[pl.DataFrame]:
    """Yield the rows of a taxonomy in the columns `shapes.COLUMNS`, all text, "" for missing.

    `status` is "accepted", "doubtful" or "synonym"; rows that are neither are left out. `accepted`
    is the key of a synonym's taxon; `parent` the parent's key (iNaturalist: all, with "/").
    Raises PrepError when the file cannot be read to its end.
    """
    import polars as pl
    import pyarrow as pa

    def pass_over(_: object) -> None:
        source.bad_rows[0] += 1

    columns, source.bad_rows[0] = source.columns, 0
    wanted = list(dict.fromkeys(columns.values()))
    try:
        with _opened(source.path, source.member) as file:
            for batch in read_blocks(
                file, source.headings, source.dialect, wanted, pass_over,
                block_bytes=_BLOCK_BYTES, nulls=("", "\\N"),
            ):  # fmt: skip
                frame = pl.DataFrame(pl.from_arrow(batch))
                yield common_shape(frame, columns, source.kind)
    except (pa.ArrowInvalid, UnicodeError, *_UNREADABLE) as err:
        raise PrepError(
            f"{source.path} cannot be read to its end: {err}. Is the download complete?"
        ) from err
