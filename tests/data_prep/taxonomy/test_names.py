"""Names as archives write them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dawnchorus.data_prep.taxonomy.names import (
    HYBRID,
    SEVERAL,
    UNCERTAIN,
    UNDETERMINED,
    ScientificName,
    parse_name,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Parus major", "Parus major"),
        ("Parus major Linnaeus, 1758", "Parus major"),
        ("Cettia cetti (Temminck, 1820)", "Cettia cetti"),
        ("Gryllus bimaculatus De Geer, 1773", "Gryllus bimaculatus"),
        ("Anas crecca carolinensis Gmelin", "Anas crecca carolinensis"),
        ("Vulpes vulpes silaceus Miller, 1907", "Vulpes vulpes silaceus"),
        ("  parus\u00a0 MAJOR ", "Parus major"),
        ("PARUS MAJOR", "Parus major"),
        ("Turdus Merula", "Turdus merula"),
        ("Parus_major", "Parus major"),
        ("Parus major subsp. newtoni", "Parus major newtoni"),
        ("Parus major ssp. newtoni", "Parus major newtoni"),
        ("Microtus (Terricola) subterraneus", "Microtus subterraneus"),
        ("Parus major [song]", "Parus major"),
        ("Setophaga coronata [coronata Group]", "Setophaga coronata"),
        ("Turdus migratorius (migratorius Group)", "Turdus migratorius"),
        ("Gallus gallus (Domestic type)", "Gallus gallus"),
        ("Passer × italiae", "Passer italiae"),
        ("Pelophylax kl. esculentus", "Pelophylax esculentus"),
        ("Hyla arborea s.l.", "Hyla arborea"),
        ("Larus argentatus agg.", "Larus argentatus"),
        ("Rana esculenta complex", "Rana esculenta"),
        ("Junco hyemalis hyemalis/carolinensis", "Junco hyemalis"),
        ("Mu\u0308llerius franc\u0327oisi", "Müllerius françoisi"),
        ("AVES", "Aves"),
    ],
)
def test_authors_and_marks_go(text: str, canonical: str) -> None:
    assert parse_name(text) == ScientificName(canonical)


@pytest.mark.parametrize(
    ("text", "genus", "doubt"),
    [
        ("Parus sp.", "Parus", UNDETERMINED),
        ("Parus sp", "Parus", UNDETERMINED),
        ("Corvus spp.", "Corvus", UNDETERMINED),
        ("Aves indet.", "Aves", UNDETERMINED),
        ("Parus cf. major", "Parus", UNCERTAIN),
        ("Parus aff. major", "Parus", UNCERTAIN),
        ("Parus major?", "Parus", UNCERTAIN),
        ("Empidonax traillii/alnorum", "Empidonax", SEVERAL),
        ("Anas platyrhynchos × rubripes", "Anas", HYBRID),
        ("Anas platyrhynchos x Anas rubripes", "Anas", HYBRID),
    ],
)
def test_what_is_not_certain_is_the_genus(text: str, genus: str, doubt: str) -> None:
    assert parse_name(text) == ScientificName(genus, doubt)


@pytest.mark.parametrize(
    "text",
    ["", " ", "?", "Unknown", "P. major", "Parus m. major", "Tobacco mosaic virus 1", "12345",
     "Anas sp. / Aythya sp.", "Anas × Aythya", "Grampus,_Rissos_Dolphin", "BOLD:AAA1234",
     "sp.", "incertae sedis"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    assert parse_name(text).canonical == ""


def test_a_qualified_homonym_keeps_its_group() -> None:
    name = parse_name("Prunella (Aves)")
    assert (name.canonical, name.qualifier) == ("Prunella", "Aves")
    assert (name.words, name.species, name.genus) == (1, "", "Prunella")
    assert parse_name("Parus major newtoni").species == "Parus major"


WORDS = st.sampled_from(
    ["Parus", "major", "×", "x", "sp.", "cf.", "aff.", "(Parus)", "Linnaeus,", "1758", "[song]",
     "/", "?", "subsp.", "L.", "&", "et", "al.", "ex", "var.", "Müll.", "d'Orbigny", "de", "la",
     "ssp", "hyemalis/cismontanus", "f.", "'Alba'", '"', ";", ":", "kl.", "group", "Group)"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(WORDS, max_size=8).map(" ".join))
@example("SP (A)")
def test_any_text_gives_a_name_that_is_its_own(text: str) -> None:
    found = parse_name(text)
    if found.canonical:
        again = parse_name(found.canonical)
        assert again.canonical == found.canonical and not again.doubt
        assert 1 <= found.words <= 3 and found.canonical[0] == found.canonical[0].upper()
    else:
        assert not found.doubt and not found.qualifier
