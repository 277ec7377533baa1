"""AudioSet's side of the label space: sounds, the sounds above them, and bridges from taxa.

A sound and a taxon are never the same label: AudioSet's "Crow" is what people hear as a crow, not a
species. A bridge goes one way only, from a taxon to a sound that it always makes: every bird's
recording is also a "Bird"; no "Bird" is also a species.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dawnchorus.data_prep.archives.audioset_labels import Ontology
from dawnchorus.data_prep.taxonomy.model import Taxon
from dawnchorus.data_prep.taxonomy.resolve import Given

SOUND = "sound"
AUDIOSET = "audioset"
BRIDGES = Path(__file__).with_name("bridges.csv")


@dataclass(frozen=True, slots=True)
class Sound:
    """A class of AudioSet."""

    mid: str
    name: str


def sounds_above(mid: str, ontology: Ontology) -> list[Sound]:
    """Return every sound above one, without the abstract ones, in the order of their names."""
    found = (
        Sound(one, ontology.names[one])
        for one in ontology.ancestors(mid)
        if one in ontology.names and "abstract" not in ontology.restrictions.get(one, ())
    )
    return sorted(found, key=lambda sound: sound.name)


def is_sound(given: Given) -> bool:
    """Return whether a label is a sound and not a taxon."""
    return given.rank == SOUND or bool(mid_of(given))


def mid_of(given: Given) -> str:
    """Return AudioSet's id of a label, "" where it has none."""
    return dict(given.ids).get(AUDIOSET, "")


class Bridges:
    """The sounds that every recording of a taxon has, by the nearest taxon with a bridge."""

    def __init__(self, path: Path = BRIDGES) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.sounds = {row["taxon"]: Sound(row["mid"], row["sound"]) for row in rows}

    def of(self, taxon: Taxon) -> list[Sound]:
        """Return the sounds of a taxon: those of itself and of everything above it."""
        chain = [taxon.name, taxon.genus, taxon.family, taxon.order, taxon.klass, taxon.kingdom]
        return list({self.sounds[n]: None for n in chain if n in self.sounds})


def usual_names(counts: Mapping[Given, int], ontology: Ontology | None) -> dict[str, str]:
    """Return {mid: name}: one name for a sound that files call by several.

    The ontology's name; without an ontology the one that occurs most often.
    """
    seen: dict[str, dict[str, int]] = {}
    for given, count in counts.items():
        if mid := mid_of(given):
            names = seen.setdefault(mid, {})
            names[given.name] = names.get(given.name, 0) + count
    best = {mid: min(names, key=lambda n: (-names[n], n)) for mid, names in seen.items()}
    known = ontology.names if ontology else {}
    return {mid: known.get(mid, name) for mid, name in best.items()}
