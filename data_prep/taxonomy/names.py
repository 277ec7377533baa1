"""A label's text -> a canonical scientific name: "Parus major Linnaeus, 1758" -> "Parus major".

The reading of authors, years, ranks and hybrids is GBIF's own name parser (`gbif-name-parser`, the
Rust core that GBIF's and Catalogue of Life's indexes are built with). It does not know the habits
of sound archives: "Empidonax traillii/alnorum", "[coronata Group]", "(Domestic type)", "Corvus
ssp.", and our own qualified homonyms, "Prunella (Aves)". These are handled here before it is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dawnchorus.data_prep.table.recording import tidy_name

# Reasons why only the genus of a name is certain.
CERTAIN = ""
HYBRID = "hybrid"
SEVERAL = "several species"
UNCERTAIN = "uncertain"
UNDETERMINED = "undetermined"

_LONGEST = 500
_WORD = "[^\\W\\d_]+(?:-[^\\W\\d_]+)*"
_CANONICAL = re.compile(rf"{_WORD}(?: {_WORD}){{0,2}}")
_QUALIFIED = re.compile(rf"({_WORD}(?: {_WORD}){{0,2}}) \(({_WORD})\)")
_BRACKETS = re.compile(r"\s*[\[{<][^\]}>]*[\]}>]?")
_GROUP = re.compile(
    r"\s*\((?:[^()]*\b(?:group|type|feral [^()]*|domestic[^()]*|hybrid|undescribed form))\)\s*$",
    re.IGNORECASE,
)
# "sp", "ssp." and the like in the place of an epithet; "cf" and "aff" before one.
_NO_EPITHET = frozenset(
    ("sp", "spp", "spec", "species", "ssp", "subsp", "subspecies", "indet", "indeterminate",
     "undet", "undetermined", "undefined", "unknown", "unidentified", "incertae", "gen", "genus",
     "nov", "var", "complex", "group", "agg", "superspecies")
)  # fmt: skip
_DOUBT = frozenset(("cf", "aff", "nr", "near", "prope", "conf"))
# Words between the parts that say nothing about the name: the klepton of edible frogs, "s. l.".
_SILENT = re.compile(r"\b(?:kl|klepton|synklepton)\.?\s+(?=[^\W\d_])")
_HYBRID = re.compile(r"\s[×xX]\s")


@dataclass(frozen=True, slots=True)
class ScientificName:
    """A label's text, parsed.

    `canonical` has no author, no year, no marks: one to three words, the first with a capital. It
    is empty where the text is not a scientific name. `doubt` (one of the constants above) says why
    it is less than the text's words: then it is the genus. `qualifier` is the group of a homonym:
    "Aves" of "Prunella (Aves)".
    """

    canonical: str
    doubt: str = CERTAIN
    qualifier: str = ""

    @property
    def words(self) -> int:
        """How many words it has: 1 genus or higher, 2 species, 3 below species, 0 no name."""
        return len(self.canonical.split())

    @property
    def species(self) -> str:
        """The first two words, where there are as many; else ""."""
        words = self.canonical.split()
        return " ".join(words[:2]) if len(words) >= 2 else ""

    @property
    def genus(self) -> str:
        """The first word."""
        return self.canonical.split(" ")[0]


NO_NAME = ScientificName("")


def parse_name(text: str) -> ScientificName:
    """Parse a label's text. It never raises; a text that is not a name has an empty canonical name.

    The canonical name of a canonical name is itself.
    """
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character
    text = tidy_name(text.replace("_", " ").replace("\x00", " "))[:_LONGEST].strip()
    if found := _QUALIFIED.fullmatch(text):
        name, group = found.groups()
        simple = _simple(name) if group[0].isupper() else None
        if simple and simple.canonical and not simple.doubt:
            return ScientificName(simple.canonical, qualifier=group)
    if simple := _simple(text):
        return simple
    text = _GROUP.sub("", _BRACKETS.sub("", text)).strip(" ,;")
    if simple := _simple(text):
        return simple
    return _marked(text)


def _simple(text: str) -> ScientificName | None:
    """Read one to three plain words, the usual case; None for anything else.

    "Turdus Merula" and "TURDUS MERULA" are taken as names; a third word with a capital is not.
    """
    if not _CANONICAL.fullmatch(text):
        return None
    first, *epithets = text.split(" ")
    if first.casefold() in _NO_EPITHET:
        return NO_NAME
    if len(epithets) == 2 and epithets[1] != epithets[1].lower() and not text.isupper():
        return None  # an author
    for place, word in enumerate(epithets):
        plain = word.casefold()
        if plain in _NO_EPITHET:
            kept = epithets[:place]
            return _canonical(first, *kept, doubt=CERTAIN if kept else UNDETERMINED)
        if plain in _DOUBT:
            return _canonical(first, doubt=UNCERTAIN)
        if plain == "x":
            return None
        if len(word) == 1:
            return NO_NAME  # "Parus m. major"
    return _canonical(first, *epithets)


def _canonical(first: str, *epithets: str, doubt: str = CERTAIN) -> ScientificName:
    name = _cased(" ".join((first, *epithets)))
    # A few letters become several with another case ("ŉ"), and the second of them has a case too.
    name = _cased(name)
    if not _CANONICAL.fullmatch(name) or _cased(name) != name:
        return NO_NAME
    return ScientificName(name, doubt)


def _cased(name: str) -> str:
    first, *epithets = name.split(" ")
    return tidy_name(" ".join((first.capitalize(), *(word.lower() for word in epithets))))


def _marked(text: str) -> ScientificName:
    """Read a name with marks: hybrids, alternatives, "cf.", authors."""
    text = _SILENT.sub("", text)
    if "/" in text:
        return _what_both_share(text.split("/", 1), SEVERAL)
    if parts := _HYBRID.split(text, maxsplit=1):
        named = len(parts) == 2 and _simple(parts[0])
        if named and named.words == 1 and parts[1].split(" ")[0].islower():
            text = " ".join(parts)  # "Passer × italiae", a hybrid with a name of its own
        elif len(parts) == 2:
            return _what_both_share(parts, HYBRID)
    text = text.replace("×", "")
    return _simple(text) or _parsed(text)


def _what_both_share(parts: list[str], doubt: str) -> ScientificName:
    """Return the species of two subspecies, the genus of two species, nothing of two genera."""
    left, right = parts
    words = [word.strip("?.,") for word in left.split(" ")]
    other = _simple(right.strip().split(" ")[0].strip("?.,"))
    genus = _simple(words[0])
    if not genus or not genus.canonical:
        return NO_NAME
    if right.strip()[:1].isupper() and (not other or other.canonical != genus.canonical):
        return NO_NAME
    if len(words) == 3 and right.strip().islower() and len(right.split()) == 1:
        return _simple(" ".join(words[:2])) or NO_NAME
    return ScientificName(genus.canonical, doubt)


def _genus_only(first: str, doubt: str) -> ScientificName:
    found = _simple(first)
    return ScientificName(found.canonical, doubt if found.canonical else "") if found else NO_NAME


def _parsed(text: str) -> ScientificName:
    """Ask GBIF's parser."""
    import nameparser

    try:
        found = nameparser.parse(text)
    except nameparser.UnparsableNameError as err:
        is_formula = err.name_type == "FORMULA"
        return _genus_only(text.split(" ")[0], HYBRID) if is_formula else NO_NAME
    if isinstance(found, nameparser.Informal):
        return _genus_only(found.taxon, UNDETERMINED)
    genus = found.uninomial or found.genus or ""
    if genus.endswith("."):
        return NO_NAME  # "P. major" could be anything
    author = found.combination_authorship
    if found.uninomial and author.authors and not author.year:
        return NO_NAME  # "Grampus, Risso's Dolphin": English after a word that is a genus too
    if found.doubtful or found.epithet_qualifier or found.rank == "SPECIES_AGGREGATE":
        species = found.specific_epithet if found.rank == "SPECIES_AGGREGATE" else None
        if not species or found.epithet_qualifier:
            return _genus_only(genus, UNCERTAIN)
    epithets = [found.specific_epithet, found.infraspecific_epithet]
    name = _simple(" ".join(word for word in (genus, *epithets) if word))
    return name or NO_NAME
