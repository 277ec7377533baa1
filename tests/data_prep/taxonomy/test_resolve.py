"""The way of a name: exact, synonym, override, subspecies, homonym, code; or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dawnchorus.data_prep.taxonomy.builtin import builtin_source
from dawnchorus.data_prep.taxonomy.candidates import nearest_names
from dawnchorus.data_prep.taxonomy.ebird import (
    CODE_CHANGED,
    GENUS_MOVED,
    GONE,
    RENAMED,
    compare_years,
)
from dawnchorus.data_prep.taxonomy.model import Taxonomy, load_taxonomy
from dawnchorus.data_prep.taxonomy.resolve import Given, Resolved, Resolver
from dawnchorus.data_prep.taxonomy.taxonomy_files import find_source

ASKED = (
    "Parus major", "Parus major newtoni", "Parus", "Parus caeruleus", "Parus dubius", "Prunella",
    "Prunella modularis", "Prunella vulgaris", "Accipiter gentilis", "Parus fringillago", "Paridae",
    "Aves",
)  # fmt: skip


@pytest.fixture(scope="module")
def gbif(gbif_zip: Path) -> Taxonomy:
    return load_taxonomy(find_source(str(gbif_zip)), ASKED)


@pytest.fixture(scope="module")
def years(ebird: dict[int, Path]) -> dict[int, Taxonomy]:
    return {year: load_taxonomy(find_source(str(path)), ()) for year, path in ebird.items()}


@pytest.fixture(scope="module")
def builtin() -> Taxonomy:
    return load_taxonomy(builtin_source(), ())


def outcome(found: Resolved) -> tuple[str, str, str]:
    assert found.taxon is not None, found
    return found.taxon.name, found.taxon.rank, found.how


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Parus major Linnaeus, 1758", ("Parus major", "species", "exact")),
        ("PARUS MAJOR", ("Parus major", "species", "exact")),
        ("Parus caeruleus", ("Cyanistes caeruleus", "species", "synonym")),
        ("Parus major newtoni", ("Parus major", "species", "species of subspecies")),
        ("Parus major excelsus", ("Parus major", "species", "species of subspecies")),
        ("Parus sp.", ("Parus", "genus", "higher rank")),
        ("Parus cf. major", ("Parus", "genus", "higher rank")),
        ("Parus", ("Parus", "genus", "exact")),
        ("Paridae", ("Paridae", "family", "exact")),
        ("Aves", ("Aves", "class", "exact")),
        ("Parus dubius", ("Parus dubius", "species", "exact")),
    ],
)
def test_the_ways(gbif: Taxonomy, name: str, expected: tuple[str, str, str]) -> None:
    assert outcome(Resolver([gbif]).resolve(Given(name))) == expected


def test_subspecies_are_kept_when_asked(gbif: Taxonomy) -> None:
    found = Resolver([gbif], keep_subspecies=True).resolve(Given("Parus major newtoni"))
    assert outcome(found) == ("Parus major newtoni", "subspecies", "exact")


def test_an_unknown_species_stays_unless_its_genus_is_wanted(gbif: Taxonomy) -> None:
    assert Resolver([gbif]).resolve(Given("Parus novus")) == Resolved(None, "unknown")
    found = Resolver([gbif], higher_rank=True).resolve(Given("Parus novus"))
    assert outcome(found) == ("Parus", "genus", "higher rank")


def test_homonyms_are_told_apart_by_what_the_label_says(gbif: Taxonomy) -> None:
    resolver = Resolver([gbif])
    found = resolver.resolve(Given("Prunella"))
    assert (found.taxon, found.how) == (None, "ambiguous")
    assert "Aves" in found.detail and "Magnoliopsida" in found.detail
    for ids, key, group in (
        ((("class", "Aves"),), "2495000", "Aves"),
        ((("kingdom", "Animalia"),), "2495000", "Aves"),
        ((("kingdom", "Plantae"),), "2927000", "Magnoliopsida"),
        ((("family", "Prunellidae"),), "2495000", "Aves"),
        ((("gbif", "2927000"),), "2927000", "Magnoliopsida"),
    ):
        found = resolver.resolve(Given("Prunella", ids=ids))
        assert found.taxon is not None
        assert (found.taxon.key, found.qualifier) == (key, group)
    again = resolver.resolve(Given("Prunella (Aves)"))
    assert again.taxon is not None and (again.taxon.key, again.qualifier) == ("2495000", "Aves")
    settled = Resolver([gbif], kingdom="Animalia").resolve(Given("Prunella"))
    assert settled.taxon is not None and settled.taxon.key == "2495000"
    assert resolver.resolve(Given("Prunella modularis")).qualifier == ""


def test_a_name_of_another_group_is_not_taken(gbif: Taxonomy) -> None:
    bird = Given("Prunella vulgaris", "species", ids=(("class", "Aves"),))
    found = Resolver([gbif]).resolve(bird)
    assert (found.taxon, found.how) == (None, "another group")
    assert "Magnoliopsida" in found.detail
    metazoa = Given("Parus major", ids=(("kingdom", "Metazoa"), ("family", "Sylviidae")))
    assert outcome(Resolver([gbif]).resolve(metazoa))[0] == "Parus major"


def test_overrides_come_first_and_are_resolved_themselves(gbif: Taxonomy) -> None:
    own = {"Great Tit": "Parus major", "Prunella": "Prunella (Aves)", "x y": "Nemo nullus"}
    resolver = Resolver([gbif], own | {"Parus major": "Parus caeruleus"})
    assert outcome(resolver.resolve(Given("Great Tit", "species"))) == (
        "Parus major", "species", "override",
    )  # fmt: skip
    assert resolver.resolve(Given("Prunella")).qualifier == "Aves"
    assert outcome(resolver.resolve(Given("Parus major")))[0] == "Cyanistes caeruleus"
    lost = resolver.resolve(Given("x y"))
    assert lost.taxon is None and "override 'Nemo nullus'" in lost.detail


def test_an_earlier_taxonomy_has_the_last_word(gbif: Taxonomy, builtin: Taxonomy) -> None:
    """The built-in table knows the synonym, GBIF the accepted name."""
    found = Resolver([gbif, builtin]).resolve(Given("Astur gentilis"))
    assert found.taxon is not None
    assert (found.taxon.name, found.taxon.taxonomy, found.how) == (
        "Accipiter gentilis", "gbif-backbone-2023-08", "synonym",
    )  # fmt: skip
    alone = Resolver([builtin]).resolve(Given("Astur gentilis"))
    assert alone.taxon is not None and alone.taxon.taxonomy == "dawnchorus-builtin-1"


def test_a_code_means_what_it_meant_in_its_year(years: dict[int, Taxonomy]) -> None:
    both = Resolver([years[2021], years[2025]])
    wren = both.resolve(Given("houwre", "species", "ebird-2021"))
    assert outcome(wren) == ("Troglodytes aedon", "species", "ebird code")
    assert outcome(both.resolve(Given("houwre", "", "ebird-2025")))[0] == "Troglodytes musculus"
    assert both.resolve(Given("houwre", "", "ebird")).how == "no year"
    assert both.resolve(Given("houwre", "", "ebird-2023")).how == "no file"
    assert both.resolve(Given("nosuch", "", "ebird-2021")).how == "unknown"
    assert outcome(both.resolve(Given("y00324", "", "ebird-2021"))) == (
        "Empidonax", "genus", "ebird code",
    )  # fmt: skip
    assert outcome(both.resolve(Given("myrwar", "", "ebird-2021")))[0] == "Setophaga coronata"


def test_only_a_move_of_genus_carries_a_code_to_another_year(years: dict[int, Taxonomy]) -> None:
    newest = Resolver([years[2025], years[2021]])
    moved = newest.resolve(Given("norgos", "", "ebird-2021"))
    assert moved.taxon is not None
    assert (moved.taxon.name, moved.taxon.taxonomy) == ("Astur gentilis", "ebird-2025")
    divided = newest.resolve(Given("houwre", "", "ebird-2021"))
    assert divided.taxon is not None
    assert (divided.taxon.name, divided.taxon.taxonomy) == ("Troglodytes aedon", "ebird-2021")
    assert dict(newest.elsewhere(divided.taxon)) == {"ebird-2021": "houwre"}
    same = newest.resolve(Given("gretit1", "", "ebird-2021"))
    assert same.taxon is not None
    assert dict(newest.elsewhere(same.taxon)) == {"ebird-2025": "gretit1", "ebird-2021": "gretit1"}


def test_changes_between_years(years: dict[int, Taxonomy]) -> None:
    changes = {c.code: c for c in compare_years(years[2021], years[2025])}
    assert changes["norgos"].kind == GENUS_MOVED
    assert changes["houwre"].kind == RENAMED and changes["houwre"].second == "Troglodytes musculus"
    assert changes["cattyr"].kind == GONE
    assert (changes["hergul"].kind, changes["hergul"].new_code) == (CODE_CHANGED, "euhgul1")
    assert "gretit1" not in changes


def test_inaturalist_numbers(inat_taxa: Path) -> None:
    taxa = load_taxonomy(find_source(str(inat_taxa)), ["Parus"], ["203153"])
    resolver = Resolver([taxa])
    assert outcome(resolver.resolve(Given("203153", "species", "inaturalist"))) == (
        "Parus major", "species", "inat id",
    )  # fmt: skip
    assert resolver.resolve(Given("5", "species", "inaturalist")).how == "no file"
    assert resolver.resolve(Given("203153", "species", "")).how == "no name"


def test_the_taxa_above_carry_their_own_ids(gbif: Taxonomy) -> None:
    resolver = Resolver([gbif])
    tit = resolver.resolve(Given("Parus major")).taxon
    assert tit is not None
    family, order = resolver.above(tit, "family"), resolver.above(tit, "order")
    assert family is not None and (family.name, family.key) == ("Paridae", "9327")
    assert order is not None and (order.name, order.rank, order.key) == (
        "Passeriformes",
        "order",
        "",
    )


def test_candidates_come_from_the_file_too(gbif_zip: Path, builtin: Taxonomy) -> None:
    source = find_source(str(gbif_zip))
    names = ["Parus majr", "Cyanstes caeruleus", "Prunela modularis", "Zzyzx", "???"]
    found = nearest_names(names, [source], [builtin])
    assert found["Parus majr"][0][0] == "Parus major" and found["Parus majr"][0][1] > 90
    assert found["Cyanstes caeruleus"][0][0] == "Cyanistes caeruleus"
    assert found["Prunela modularis"][0][0] == "Prunella modularis"
    assert "Prunella vulgaris" in {name for name, _ in found["Prunela modularis"]}
    assert found["Zzyzx"] == [] and found["???"] == []


def test_english_names_are_only_candidates(builtin: Taxonomy) -> None:
    resolver = Resolver([builtin])
    assert resolver.resolve(Given("Great Tit")).taxon is None
    assert resolver.english("great tit") == ["Parus major"]


def test_tables_of_any_order_choose_the_same(
    gbif: Taxonomy, builtin: Taxonomy, make_table: Callable[..., Path]
) -> None:
    for label in ("Parus major", "Cyanistes caeruleus", "Parus caeruleus"):
        first = Resolver([gbif, builtin]).resolve(Given(label)).taxon
        second = Resolver([builtin, gbif]).resolve(Given(label)).taxon
        assert first is not None and second is not None
        assert first.name == second.name and first.taxonomy != second.taxonomy
