"""From every distinct label of the tables to the labels that it becomes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dawnchorus.data_prep.archives.audioset_labels import Ontology
from dawnchorus.data_prep.taxonomy.model import Taxon
from dawnchorus.data_prep.taxonomy.names import parse_name
from dawnchorus.data_prep.taxonomy.resolve import Given, Resolved, Resolver
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS
from dawnchorus.data_prep.taxonomy.sounds import (
    AUDIOSET,
    SOUND,
    Bridges,
    Sound,
    is_sound,
    mid_of,
    sounds_above,
    usual_names,
)
from dawnchorus.data_prep.taxonomy.space import Entry, LabelSpace

_YEAR = re.compile(r"ebird-\d{4}")
KEPT = "kept"
A_SOUND = "sound"


@dataclass(frozen=True, slots=True)
class Named:
    """The result for one distinct label: its name in the label space, and the added names."""

    given: Given
    how: str
    name: str
    detail: str = ""
    more: tuple[str, ...] = ()

    @property
    def resolved(self) -> bool:
        """Say whether it is a taxon or a sound that is known."""
        return self.how not in _REASONS


_REASONS = frozenset(
    ("unknown", "ambiguous", "no name", "no file", "no year", "another group", "another rank")
)


@dataclass
class Naming:
    """Turns labels into entries of a label space.

    ancestors: ranks whose taxa are added as labels. bridges: sounds that taxa make, or None.
    """

    resolver: Resolver
    ancestors: Sequence[str] = ()
    ontology: Ontology | None = None
    bridges: Bridges | None = None
    space: LabelSpace = field(default_factory=LabelSpace)

    def name_all(self, counts: Mapping[Given, int], kept: frozenset[Given]) -> dict[Given, Named]:
        """Resolve all, then give out names in the fixed order.

        counts: how often each distinct label occurs. kept: those of tables that went through
        this step before.
        """
        sounds = usual_names(counts, self.ontology)
        ordered = sorted(counts)
        found = {g: self.resolver.resolve(g) for g in ordered if not is_sound(g)}
        made = self._taxa(found)
        for given in filter(is_sound, ordered):
            made[given] = self._sound(given, sounds)
        for given, outcome in found.items():
            if outcome.taxon is None:
                made[given] = self._unresolved(given, outcome, given in kept)
        return made

    def _taxa(self, found: Mapping[Given, Resolved]) -> dict[Given, Named]:
        place = {t.label: i for i, t in enumerate(self.resolver.taxonomies)}
        taxa = [(g, r, r.taxon) for g, r in found.items() if r.taxon is not None]
        taxa.sort(key=lambda item: (place[item[2].taxonomy], item[2].name, item[2].key))
        names = {g: self.space.add(self._entry(g, r, taxon)) for g, r, taxon in taxa}
        return {
            g: Named(g, r.how, names[g], r.detail, self._added(taxon, names[g]))
            for g, r, taxon in taxa
        }

    def _entry(self, given: Given, outcome: Resolved, taxon: Taxon) -> Entry:
        ids = _own_ids(given) | dict(self.resolver.elsewhere(taxon))
        name = f"{taxon.name} ({outcome.qualifier})" if outcome.qualifier else taxon.name
        return _taxon_entry(taxon, name, ids)

    def _added(self, taxon: Taxon, name: str) -> tuple[str, ...]:
        """Return the names of the taxa above and of the sounds it makes."""
        names = []
        for rank in self.ancestors:
            above = self.resolver.above(taxon, rank)
            if above is not None and above.name != taxon.name:
                qualifier = self._qualifier(above)
                shown = f"{above.name} ({qualifier})" if qualifier else above.name
                ids = dict(self.resolver.elsewhere(above)) if above.key else {}
                names.append(self.space.add(_taxon_entry(above, shown, ids)))
        if self.bridges is not None:
            for sound in self.bridges.of(taxon):
                names += self._sound_names(sound)
        return tuple(dict.fromkeys(n for n in names if n != name))

    def _qualifier(self, taxon: Taxon) -> str:
        home = next(t for t in self.resolver.taxonomies if t.label == taxon.taxonomy)
        return home.qualifier(taxon)

    def _sound_names(self, sound: Sound) -> list[str]:
        """Return the names of a sound and of those above it."""
        above = sounds_above(sound.mid, self.ontology) if self.ontology and sound.mid else []
        return [self.space.add(_sound_entry(one.name, one.mid)) for one in (sound, *above)]

    def _sound(self, given: Given, usual: Mapping[str, str]) -> Named:
        mid = mid_of(given)
        name, *more = self._sound_names(Sound(mid, usual.get(mid, given.name)))
        return Named(given, A_SOUND, name, "", tuple(more))

    def _unresolved(self, given: Given, outcome: Resolved, kept: bool) -> Named:
        """Keep a name unchanged; its taxonomy is kept only where an earlier run has resolved it."""
        known = kept and given.taxonomy and outcome.how in ("unknown", "no file", "no name")
        rank = given.rank
        if not known and given.rank in ("", "species", "subspecies"):
            # Archives disagree on the rank of one name; two words are a species all the same.
            name = parse_name(given.name)
            if name.canonical == given.name and name.words > 1:
                rank = "species" if name.words == 2 else "subspecies"
        lineage = tuple((r, given.hints[r]) for r in RANK_COLUMNS if r in given.hints)
        ids = tuple(sorted(_own_ids(given).items()))
        entry = Entry(given.name, rank, given.taxonomy if known else "", lineage, ids)
        return Named(given, KEPT if known else outcome.how, self.space.add(entry), outcome.detail)


def _taxon_entry(taxon: Taxon, name: str, ids: Mapping[str, str]) -> Entry:
    return Entry(
        name,
        taxon.rank,
        taxon.taxonomy,
        tuple(taxon.lineage.items()),
        tuple(sorted(ids.items())),
        taxon.english,
    )


def _sound_entry(name: str, mid: str) -> Entry:
    return Entry(name, SOUND, AUDIOSET if mid else "", (), ((AUDIOSET, mid),) if mid else ())


def _own_ids(given: Given) -> dict[str, str]:
    """Return the archive's ids; an eBird code goes under its year, or it could mean two birds."""
    ids = {key: value for key, value in given.ids if key not in RANK_COLUMNS}
    if _YEAR.fullmatch(given.taxonomy):
        code = ids.pop("ebird", "") or ("" if " " in given.name else given.name)
        if code and code == code.lower():
            ids[given.taxonomy] = code
    return ids


@dataclass(frozen=True, slots=True)
class Lost:
    """A name that nothing resolved, however many labels with different ids have it."""

    name: str
    rank: str
    taxonomy: str
    how: str
    detail: str
    label_name: str
    labels: int
    sources: tuple[str, ...]


def unresolved(
    named: Iterable[Named], counts: Mapping[Given, int], sources: Mapping[Given, Iterable[str]]
) -> list[Lost]:
    """Return the names that stay as they are, the most frequent first."""
    together: dict[tuple[str, str, str, str], list[Named]] = {}
    for one in named:
        if not one.resolved:
            key = (one.given.name, one.given.rank, one.given.taxonomy, one.how)
            together.setdefault(key, []).append(one)
    lost = []
    for (name, rank, taxonomy, how), parts in together.items():
        given = [one.given for one in parts]
        seen = sorted({source for one in given for source in sources.get(one, ())})
        labels = sum(counts[one] for one in given)
        lost.append(
            Lost(name, rank, taxonomy, how, parts[0].detail, parts[0].name, labels, tuple(seen))
        )
    return sorted(lost, key=lambda one: (-one.labels, one.name, one.rank, one.taxonomy, one.how))


def ways(named: Iterable[Named], counts: Mapping[Given, int]) -> dict[str, tuple[int, int]]:
    """Return {way or reason: (names, labels)}, the most frequent first."""
    names: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for one in named:
        names[one.how] += 1
        labels[one.how] += counts[one.given]
    return {how: (names[how], count) for how, count in labels.most_common()}
