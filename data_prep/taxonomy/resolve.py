"""A label as an archive gives it -> an accepted taxon, or the reason why there is none.

The order: the user's own table; the exact canonical name in the taxonomies, in the order given;
an accepted name through a synonym; below species, the species; what is not certain ("sp.", "cf.",
hybrids), the genus. A name with several meanings is told apart by what the label says of its
kingdom ... family; where that does not decide, the name stays unresolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dawnchorus.data_prep.taxonomy.ebird import code_in_year, moved_within
from dawnchorus.data_prep.taxonomy.model import Taxon, Taxonomy, higher_taxon, same_group
from dawnchorus.data_prep.taxonomy.names import ScientificName, parse_name
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS

_SPECIFIC = ("species", "subspecies", "variety", "form", "genus")
_HARD = (
    "kingdom",
    "phylum",
    "class",
)  # a label that disagrees here is another taxon
_CODE = re.compile(r"[a-z][a-z0-9-]{2,11}")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, order=True)
class Given:
    """A label as the archive gives it, with the fields by which it is resolved."""

    name: str
    rank: str = ""
    taxonomy: str = ""
    ids: tuple[tuple[str, str], ...] = ()

    @property
    def hints(self) -> dict[str, str]:
        """Rank -> name of the higher taxa that the archive states."""
        return {key: value for key, value in self.ids if key in RANK_COLUMNS and value}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result. `taxon` is None where there is none; `how` is the way or the reason.

    Ways: "exact", "synonym", "override", "ebird code", "inat id", "species of subspecies",
    "higher rank". Reasons: "unknown", "ambiguous", "no name", "no file", "no year",
    "another group".
    """

    taxon: Taxon | None
    how: str
    detail: str = ""
    qualifier: str = ""


@dataclass
class Resolver:
    """Looks names up in taxonomies, the first of which comes first.

    overrides: name as given -> name to use. keep_subspecies: do not go from subspecies to species.
    higher_rank: a species that no taxonomy knows becomes its genus. kingdom: the kingdom assumed
    for a label that states none ("": no assumption).
    """

    taxonomies: Sequence[Taxonomy]
    overrides: Mapping[str, str] = field(default_factory=dict)
    keep_subspecies: bool = False
    higher_rank: bool = False
    kingdom: str = ""
    _english: dict[str, set[str]] = field(default_factory=dict, init=False, repr=False)

    def resolve(self, given: Given) -> Resolved:
        """Return the taxon that a label means."""
        if (own := self.overrides.get(given.name)) is not None:
            found = self._by_name(replace(given, name=own, rank=""))
            if found.taxon is None:
                return replace(found, detail=f"override {own!r}: {found.detail or found.how}")
            return replace(found, how="override")
        if given.taxonomy.startswith("ebird") and _CODE.fullmatch(given.name):
            return self._by_code(given)
        if given.taxonomy.startswith("inat") and _NUMBER.fullmatch(given.name):
            return self._by_number(given)
        return self._by_name(given)

    def _by_code(self, given: Given) -> Resolved:
        """Resolve an eBird code, which has its meaning only in its year."""
        found, why = code_in_year(self.taxonomies, given.taxonomy, given.name)
        if found is None:
            return Resolved(None, why[0], why[1])
        named = self._by_name(Given(found.name, "", given.taxonomy, tuple(found.lineage.items())))
        if named.taxon is None:
            return named
        return replace(named, how="ebird code", detail=f"{given.taxonomy}: {found.name}")

    def _by_number(self, given: Given) -> Resolved:
        for taxonomy in self.taxonomies:
            if taxonomy.kind == "inat" and (taxon := taxonomy.by_key.get(given.name)):
                found = self._by_name(
                    Given(taxon.name, taxon.rank, "", tuple(taxon.lineage.items()))
                )
                return replace(found, how="inat id") if found.taxon else found
        return Resolved(None, "no file", "its number needs iNaturalist's taxa.csv.gz")

    def _by_name(self, given: Given) -> Resolved:
        name = parse_name(given.name)
        if not name.canonical:
            return Resolved(None, "no name")
        hints = given.hints
        if self.kingdom:
            hints.setdefault("kingdom", self.kingdom)
        rank = "" if name.doubt else given.rank
        worst = Resolved(None, "unknown")
        for step in self._steps(name):
            found = self._look_up(step[0], step[1] or rank, hints, name.qualifier, given)
            if found.taxon is not None:
                return self._settled(found, step[2], name, hints)
            if worst.how == "unknown":
                worst = found
            if found.how == "ambiguous":
                break
        return worst

    def _steps(self, name: ScientificName) -> list[tuple[str, str, str]]:
        """Return what to look for: (canonical name, rank it must have, how to call it)."""
        if name.doubt:
            return [(name.canonical, "", "higher rank")]
        steps = [(name.canonical, "", "")]
        if name.words == 3:
            steps.append((name.species, "species", "species of subspecies"))
        if self.higher_rank and name.words >= 2:
            steps.append((name.genus, "genus", "higher rank"))
        return steps

    def _look_up(
        self, name: str, rank: str, hints: Mapping[str, str], qualifier: str, given: Given
    ) -> Resolved:
        """The exact name in a taxonomy, then its synonyms, then the next taxonomy."""
        worst = Resolved(None, "unknown")
        for taxonomy in self.taxonomies:
            for how in ("exact", "synonym"):
                known = taxonomy.named(name) if how == "exact" else taxonomy.synonyms.get(name, [])
                found = _choose(known, rank if how == "exact" else "", hints, qualifier, given)
                if found.taxon is not None:
                    taxon = self._preferred(found.taxon, taxonomy)
                    return Resolved(taxon, how if taxon.name == name else "synonym")
                if found.how == "ambiguous":
                    return found
                if worst.how == "unknown":
                    worst = found
        return worst

    def _preferred(self, taxon: Taxon, taxonomy: Taxonomy) -> Taxon:
        """Return the same taxon in an earlier taxonomy, where that has it under this name."""
        for earlier in self.taxonomies:
            if earlier is taxonomy:
                break
            for known in (earlier.named(taxon.name), earlier.synonyms.get(taxon.name, [])):
                found = _choose(known, taxon.rank, taxon.lineage, "", None).taxon
                if found is not None:
                    return found
            if moved := moved_within(earlier, taxonomy, taxon):
                return moved
        return taxon

    def _settled(
        self, found: Resolved, how: str, name: ScientificName, hints: Mapping[str, str]
    ) -> Resolved:
        """Go from subspecies to species, and find the qualifier of a homonym."""
        assert found.taxon is not None
        taxon = found.taxon
        if not self.keep_subspecies and len(taxon.name.split()) == 3:
            species = " ".join(taxon.name.split()[:2])
            above = self._look_up(species, "species", {**hints, **taxon.lineage}, "", Given(""))
            if above.taxon is not None:
                taxon, how = above.taxon, "species of subspecies"
        home = next(t for t in self.taxonomies if t.label == taxon.taxonomy)
        return Resolved(taxon, how or found.how, qualifier=home.qualifier(taxon))

    def elsewhere(self, taxon: Taxon) -> list[tuple[str, str]]:
        """Return the ids of the same taxon in every taxonomy: [("gbif", "9705453"), ...]."""
        ids = []
        for taxonomy in self.taxonomies:
            if taxonomy.label == taxon.taxonomy:
                same: Taxon | None = taxon
            else:
                known = taxonomy.named(taxon.name)
                same = _choose(known, taxon.rank, taxon.lineage, "", None).taxon
            if same is not None and taxonomy.id_key and ":" not in same.key:
                ids.append((taxonomy.id_key, same.key))
        return ids

    def above(self, taxon: Taxon, rank: str) -> Taxon | None:
        """Return the taxon of this rank above (or the same), with its own ids where known."""
        name = taxon.higher(rank) if rank in RANK_COLUMNS else ""
        if not name:
            return None
        home = next(t for t in self.taxonomies if t.label == taxon.taxonomy)
        lineage = {r: n for r, n in taxon.lineage.items() if _at_or_above(r, rank)}
        found = _choose(home.named(name), rank, lineage, "", None).taxon
        if found is not None:
            return found
        return higher_taxon(name, rank, taxon.taxonomy, lineage)

    def english(self, name: str) -> list[str]:
        """Return the scientific names that an English one stands for."""
        if not self._english:
            for taxonomy in self.taxonomies:
                for taxon in taxonomy.species():
                    if taxon.english:
                        self._english.setdefault(taxon.english.casefold(), set()).add(taxon.name)
        return sorted(self._english.get(name.replace("_", " ").casefold(), ()))


def _at_or_above(rank: str, limit: str) -> bool:
    return RANK_COLUMNS.index(rank) <= RANK_COLUMNS.index(limit)


def _choose(
    known: Iterable[Taxon],
    rank: str,
    hints: Mapping[str, str],
    qualifier: str,
    given: Given | None,
) -> Resolved:
    """Return the one taxon that fits; "unknown", "another group" or "ambiguous" where none does."""
    known = list(known)
    if qualifier:
        known = [
            taxon
            for taxon in known
            if qualifier in (taxon.key, taxon.rank) or qualifier in taxon.lineage.values()
        ]
    if rank in _SPECIFIC and any(taxon.rank == rank for taxon in known):
        known = [taxon for taxon in known if taxon.rank == rank]
    fits = [t for t in known if all(same_group(t.higher(r), hints.get(r, "")) for r in _HARD)]
    if known and not fits:
        group = ", ".join(f"{r} {hints[r]}" for r in _HARD if r in hints)
        return Resolved(None, "another group", f"known, but not in {group}: {_shown(known)}")
    if len(fits) > 1:
        fits = _nearest(fits, rank, hints, given)
    if not fits:
        return Resolved(None, "unknown")
    if len(fits) > 1:
        return Resolved(None, "ambiguous", _shown(fits))
    return Resolved(fits[0], "")


def _nearest(
    fits: list[Taxon], rank: str, hints: Mapping[str, str], given: Given | None
) -> list[Taxon]:
    """Of several, keep those that agree most: the rank, the id, then order, family, genus."""
    if rank and any(taxon.rank == rank for taxon in fits):
        fits = [taxon for taxon in fits if taxon.rank == rank]
    if given is not None:
        numbers = {value for key, value in given.ids if key in ("gbif", "colxr", "inat")}
        if own := [taxon for taxon in fits if taxon.key in numbers]:
            return own
    for level in (*_HARD, "order", "family", "genus"):
        if hint := hints.get(level, "").casefold():
            agree = [t for t in fits if t.higher(level) and same_group(t.higher(level), hint)]
            fits = agree or fits
    return fits


def _shown(taxa: Sequence[Taxon]) -> str:
    """Name up to four taxa by where they belong."""
    return "; ".join(
        f"{t.name} ({t.klass or t.order or t.family or t.kingdom or t.rank}, {t.taxonomy} {t.key})"
        for t in taxa[:4]
    )
