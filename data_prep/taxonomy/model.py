"""Taxa, and the part of a taxonomy that a set of names needs.

A backbone has seven million rows; a table of recordings a few thousand names. So a file is read
two or three times as a stream, and only the rows of those names, what they are synonyms of, and
the taxa above them are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.taxonomy.names import parse_name
from dawnchorus.data_prep.taxonomy.shapes import COLUMNS, RANK_COLUMNS
from dawnchorus.data_prep.taxonomy.taxonomy_files import SMALL, Source, frames

if TYPE_CHECKING:
    import polars as pl

# Names of one group: archives and taxonomies spell the kingdom of animals in two ways, and divide
# what others call reptiles or fishes into several classes.
_SAME = {
    "metazoa": "animalia",
    **dict.fromkeys(("squamata", "testudines", "crocodylia", "sphenodontia"), "reptilia"),
    **dict.fromkeys(("actinopteri", "teleostei"), "actinopterygii"),
    **dict.fromkeys(("chondrichthyes", "holocephali"), "elasmobranchii"),
}
_DEEPEST = 80  # steps from a taxon to the root; more is a circle in the file


@dataclass(frozen=True, slots=True)
class Taxon:
    """An accepted taxon of a taxonomy, with the names of the taxa above it ("" unknown)."""

    name: str
    rank: str
    taxonomy: str
    key: str = ""
    kingdom: str = ""
    phylum: str = ""
    klass: str = ""
    order: str = ""
    family: str = ""
    genus: str = ""
    english: str = ""
    parent: str = ""
    doubtful: bool = False

    def higher(self, rank: str) -> str:
        """Return the name of its kingdom, phylum, class, order, family or genus; "" unknown."""
        return str(getattr(self, "klass" if rank == "class" else rank))

    @property
    def lineage(self) -> dict[str, str]:
        """Rank -> name of the taxa above, those that are known."""
        return {rank: name for rank in RANK_COLUMNS if (name := self.higher(rank))}


def same_group(first: str, second: str) -> bool:
    """Return whether two names of higher taxa mean the same; unknown ('') agrees with all."""
    first, second = first.casefold(), second.casefold()
    return not first or not second or _SAME.get(first, first) == _SAME.get(second, second)


@dataclass
class Taxonomy:
    """The part of one taxonomy that was kept."""

    label: str
    id_key: str = ""
    kind: str = ""
    accepted: dict[str, list[Taxon]] = field(default_factory=lambda: defaultdict(list))
    """Canonical name -> the accepted (or doubtful) taxa of that name: several are homonyms."""
    synonyms: dict[str, list[Taxon]] = field(default_factory=lambda: defaultdict(list))
    """Canonical name -> the accepted taxa it is a synonym of."""
    by_key: dict[str, Taxon] = field(default_factory=dict)
    rows: int = 0
    bad_rows: int = 0

    def add(self, taxon: Taxon) -> None:
        """Keep a taxon, once."""
        if taxon.key not in self.by_key:
            self.by_key[taxon.key] = taxon
            self.accepted[taxon.name].append(taxon)

    def add_synonym(self, name: str, taxon: Taxon) -> None:
        """Keep that `name` is a synonym of `taxon`."""
        known = self.synonyms[name]
        if name != taxon.name and taxon not in known:
            known.append(taxon)

    def named(self, name: str) -> list[Taxon]:
        """Return the accepted taxa of this name; doubtful ones only where there are no others."""
        found = self.accepted.get(name, [])
        return [taxon for taxon in found if not taxon.doubtful] or found

    def qualifier(self, taxon: Taxon) -> str:
        """Return what distinguishes a homonym from others of its name: "Aves"; "" for a unique
        name.
        """
        others = [
            other
            for other in self.named(taxon.name)
            if other.key != taxon.key and not _one_group(other, taxon)
        ]
        if not others:
            return ""
        for rank in ("class", "order", "family", "phylum", "kingdom"):
            mine = taxon.higher(rank)
            if mine and all(other.higher(rank) != mine for other in others):
                return mine
        return taxon.rank if all(o.rank != taxon.rank for o in others) else taxon.key

    def names_for(self, wanted: Iterable[str], codes: Iterable[str]) -> set[str]:
        """Return the accepted names that these names and codes stand for here."""
        found = {taxon.name for name in wanted for taxon in self.synonyms.get(name, [])}
        found |= {self.by_key[code].name for code in codes if code in self.by_key}
        parsed = map(parse_name, found)
        return {part for name in parsed for part in (name.canonical, name.species, name.genus)}

    def species(self) -> Iterable[Taxon]:
        """Return every taxon that was kept."""
        return self.by_key.values()


def _one_group(first: Taxon, second: Taxon) -> bool:
    return first.rank == second.rank and all(
        same_group(first.higher(rank), second.higher(rank)) for rank in RANK_COLUMNS
    )


def load_taxonomy(source: Source, wanted: Iterable[str], keys: Iterable[str] = ()) -> Taxonomy:
    """Read what `wanted` (canonical names) and `keys` need of a taxonomy; small ones whole.

    Memory: the rows kept, and one block of the file. Raises PrepError when it cannot be read.
    """
    import polars as pl

    made = Taxonomy(source.label, source.id_key, source.kind)
    names = pl.Series(sorted(set(wanted)), dtype=pl.String).implode()
    numbers = pl.Series(sorted(set(keys)), dtype=pl.String).implode()
    asked = pl.col("name").is_in(names) | pl.col("key").is_in(numbers)
    whole = source.kind in SMALL
    ladder = not whole and "kingdom" not in source.columns
    kept: list[pl.DataFrame] = []
    above: list[pl.DataFrame] = []
    for frame in frames(source):
        made.rows += frame.height
        kept.append(frame if whole else frame.filter(asked))
        if ladder and source.kind != "inat":  # parents only: every taxon that has others below it
            one_word = frame.filter(~pl.col("name").str.contains(" ", literal=True))
            above.append(one_word.select("key", "name", "rank", "parent"))
    made.bad_rows = source.bad_rows[0]
    rows = _joined(kept)
    parents = _Parents(_joined(above, ("key", "name", "rank", "parent")))
    if not whole:
        rows = _with_related(source, rows, parents).sort("key")
    _fill(made, rows.to_dicts(), parents)
    return made


def _joined(parts: Sequence[pl.DataFrame], columns: Sequence[str] = COLUMNS) -> pl.DataFrame:
    import polars as pl

    return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))


def _with_related(source: Source, rows: pl.DataFrame, parents: _Parents) -> pl.DataFrame:
    """Add the taxa of synonyms, the species of subspecies, and the taxa above all of them.

    Each pass over the file adds what the pass before has made known: usually one, at most three.
    """
    import polars as pl

    asked: set[str] = set()
    for _ in range(3):
        keys, names = _related(source.kind, rows, parents)
        keys, names = keys - asked, names - asked
        if not keys and not names:
            break
        asked |= keys | names
        by_key = pl.col("key").is_in(pl.Series(sorted(keys), dtype=pl.String).implode())
        by_name = pl.col("name").is_in(pl.Series(sorted(names), dtype=pl.String).implode())
        wanted = by_key | (by_name & pl.col("rank").is_in(list(RANK_COLUMNS)))
        more = [frame.filter(wanted) for frame in frames(source)]
        rows = pl.concat([rows, *more]).unique("key", keep="first", maintain_order=True)
    return rows


def _related(kind: str, rows: pl.DataFrame, parents: _Parents) -> tuple[set[str], set[str]]:
    """Return the keys and the names that rows point to and that are not among them."""
    import polars as pl

    below_species = rows.filter(pl.col("name").str.count_matches(" ", literal=True) >= 2)
    keys = set(rows["accepted"]) | set(below_species["parent"])
    if kind == "inat":  # "48460/1/2/355675"
        keys = {key for text in rows["parent"] for key in text.split("/")}
    names = {name for rank in RANK_COLUMNS for name in rows[rank]} | parents.names(rows)
    return keys - set(rows["key"]) - {""}, names - set(rows["name"]) - {""}


class _Parents:
    """The chains of parents, for files that do not repeat them in every row."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.cache: dict[str, tuple[str, str, str]] = {}
        self.asked: set[str] = set()

    def _fetch(self, keys: set[str]) -> None:
        import polars as pl

        missing = keys - self.asked - {""}
        self.asked |= missing
        while missing and self.frame.height:
            rows = self.frame.filter(pl.col("key").is_in(pl.Series(sorted(missing)).implode()))
            for key, name, rank, parent in rows.iter_rows():
                self.cache[key] = (name, rank, parent)
            missing = {parent for _, _, parent in self.cache.values()} - self.asked - {""}
            self.asked |= missing

    def names(self, rows: pl.DataFrame) -> set[str]:
        """Return the names of all taxa above these rows."""
        self._fetch(set(rows["parent"]))
        return {
            name
            for parent in set(rows["parent"])
            for rank, name in self.lineage(parent).items()
            if rank in RANK_COLUMNS
        }

    def lineage(self, key: str) -> dict[str, str]:
        """Return {rank: name} from the taxon `key` upwards."""
        self._fetch({key})
        found: dict[str, str] = {}
        for _ in range(_DEEPEST):
            if key not in self.cache:
                break
            name, rank, key = self.cache[key]
            found.setdefault(rank, name)
        return found


def _fill(made: Taxonomy, rows: list[dict[str, Any]], parents: _Parents) -> None:
    """Make taxa of the rows, then attach the synonyms."""
    by_key = {row["key"]: row for row in rows}
    for row in rows:
        if row["status"] != "synonym":
            made.add(_taxon(row, made.label, _lineage(row, by_key, parents)))
    if made.kind in SMALL:
        _add_higher(made)
    for row in rows:
        if row["status"] == "synonym" and (taxon := _accepted(row, by_key, made)):
            made.add_synonym(row["name"], taxon)


def _add_higher(made: Taxonomy) -> None:
    """Add the genera ... classes that a table names only in the rows of its species."""
    for taxon in list(made.species()):
        for place, rank in enumerate(RANK_COLUMNS):
            name = taxon.higher(rank)
            known = made.accepted.get(name, [])
            if name and not any(other.rank == rank for other in known):
                lineage = {r: taxon.higher(r) for r in RANK_COLUMNS[: place + 1]}
                made.add(higher_taxon(name, rank, made.label, lineage, key=f"{rank}:{name}"))


def higher_taxon(
    name: str, rank: str, taxonomy: str, lineage: Mapping[str, str], *, key: str = ""
) -> Taxon:
    """Return a taxon that a taxonomy names without giving it a row of its own."""
    row = dict.fromkeys(COLUMNS, "") | {"name": name, "rank": rank, "key": key}
    return _taxon(row, taxonomy, lineage)


def _accepted(row: Mapping[str, Any], by_key: Mapping[str, Any], made: Taxonomy) -> Taxon | None:
    """Follow a synonym to its taxon; a plain table names it instead of giving its key."""
    key = row["accepted"]
    for _ in range(5):
        if key in made.by_key:
            return made.by_key[key]
        if key not in by_key:
            break
        key = by_key[key]["accepted"]
    return None


def _lineage(
    row: Mapping[str, Any], by_key: Mapping[str, Any], parents: _Parents
) -> dict[str, str]:
    found = {rank: row[rank] for rank in RANK_COLUMNS if row[rank]}
    if len(found) < 3 and row["parent"]:
        if "/" in row["parent"] or row["parent"] in by_key:
            above = [by_key[key] for key in row["parent"].split("/") if key in by_key]
            for taxon in above:
                if taxon["rank"] in RANK_COLUMNS:
                    found.setdefault(taxon["rank"], taxon["name"])
        for rank, name in parents.lineage(row["parent"]).items():
            if rank in RANK_COLUMNS:
                found.setdefault(rank, name)
    if row["rank"] in RANK_COLUMNS:
        found[row["rank"]] = row["name"]
        lower = RANK_COLUMNS[RANK_COLUMNS.index(row["rank"]) + 1 :]
        found = {rank: name for rank, name in found.items() if rank not in lower}
    return found


def _taxon(row: Mapping[str, Any], label: str, lineage: Mapping[str, str]) -> Taxon:
    ranks = {("klass" if rank == "class" else rank): lineage.get(rank, "") for rank in RANK_COLUMNS}
    return Taxon(
        name=row["name"],
        rank=row["rank"],
        taxonomy=label,
        key=row["key"],
        english=row["english"],
        parent=row["parent"],
        doubtful=row["status"] == "doubtful",
        **ranks,
    )
