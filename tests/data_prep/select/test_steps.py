"""Each step by itself: identity, who stays, limits, split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dawnchorus.data_prep.select.caps import apply_caps
from dawnchorus.data_prep.select.duplicates import Link, Row, Sets, resolve
from dawnchorus.data_prep.select.evaluation import is_held
from dawnchorus.data_prep.select.filters import apply_filters, licence_costs
from dawnchorus.data_prep.select.identity import archive_keys, event_keys, youtube_key
from dawnchorus.data_prep.select.selection_recipe import Caps, Filters, Licences, Split, TableChoice
from dawnchorus.data_prep.select.selection_rows import Rows, read_rows
from dawnchorus.data_prep.select.split import Place, choose, describe, place_all, unit
from dawnchorus.data_prep.table.recording import Label, Recording

Make = Callable[..., Recording]
Table = Callable[..., Path]
CC = "https://creativecommons.org/licenses"


# ------------------------------------------------------------------------------ identity


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (("xc:1", "xc", "254462"), "xc:254462"),
        (("birdset:a", "birdset", "XC254462"), "xc:254462"),
        (("gbif:9", "gbif", "9", "https://xeno-canto.org/254462/download"), "xc:254462"),
        (
            ("gbif:9", "gbif", "9", "https://xeno-canto.org/sounds/uploaded/OH38/XC254462-a.mp3"),
            "xc:254462",
        ),
        (("folder:a", "folder", "a", "", "audio/XC254462_phoebe.mp3"), "xc:254462"),
        (("folder:a", "folder", "a", "", "abethr1\\XC128013.ogg"), "xc:128013"),
        (
            ("gbif:8", "gbif", "8", "https://static.inaturalist.org/sounds/263113.wav?16247"),
            "inat:263113",
        ),
        (("x", "folder", "a", "", "1-100032-A-0.wav"), "freesound:100032"),
        (("x", "folder", "a", "", "001_5-9032-A.ogg"), "freesound:9032"),
        (("x", "folder", "a", "", "59030023.wav"), "watkins:59030023"),
    ],
)
def test_archive_numbers(given: tuple[str, ...], key: str) -> None:
    assert key in archive_keys(*given)


def test_numbers_that_are_none() -> None:
    assert archive_keys("a:1", "a", "1", "https://example.org/254462", "foo/EXC12.wav") == {"a:1"}
    assert youtube_key("audioset:--4gqARaEJE@0") == "youtube:--4gqARaEJE"
    assert youtube_key("xc:1") == ""


def test_events_need_species_day_and_person() -> None:
    assert event_keys(["Parus major"], "2015-06-23T07:17", " Ann  Lee ") == {
        "parus major|2015-06-23|ann lee"
    }
    assert event_keys(["Parus major"], "2015-06", "Ann") == set()
    assert event_keys(["Parus major"], "2015-06-23", "") == set()


def test_held_species_and_their_subspecies() -> None:
    species = {"strix aluco"}
    assert is_held("Strix aluco", species)
    assert is_held("Strix  aluco sylvatica", species)
    assert not is_held("Strix", species)
    assert not is_held("Strix uralensis", species)


# -------------------------------------------------------------------------- who stays


def row(n: int, licence: str = "by", quality: str = "A", seconds: float = 5.0) -> Row:
    return Row(n, f"id{n}", licence, quality, seconds)


PREFER = ("licence", "quality", "duration")


@pytest.mark.parametrize(
    ("one", "two", "prefer", "stays"),
    [
        (row(0, "by-nc"), row(1, "cc0", "E", 1.0), PREFER, 1),
        (row(0, quality="B"), row(1, quality="A"), PREFER, 1),
        (row(0, quality="no score"), row(1, quality="E"), PREFER, 1),
        (row(0, seconds=4.0), row(1, seconds=9.0), PREFER, 1),
        (row(0, seconds=5.01), row(1, seconds=5.04), PREFER, 0),
        (row(0), row(1), PREFER, 0),
        (row(0, "by-nc", seconds=9.0), row(1, "cc0"), ("duration", "licence"), 0),
    ],
)
def test_which_of_two_stays(one: Row, two: Row, prefer: tuple[str, ...], stays: int) -> None:
    gone = resolve({0: one, 1: two}, [Link(0, 1, "near", 0.9)], prefer)
    assert list(gone) == [1 - stays]
    assert gone[1 - stays].a == stays


def test_parts_stay_and_chains_go_only_to_what_stays() -> None:
    rows = {n: row(n) for n in range(4)}
    links = [Link(0, 1, "near"), Link(1, 2, "near"), Link(2, 3, "part")]
    gone = resolve(rows, links, PREFER)
    assert set(gone) == {1}  # 0 stays; 2 is like 1 only, which went
    assert gone[1].a == 0


def test_sets() -> None:
    sets = Sets()
    sets.join("a", "b")
    sets.join(3, "b")
    assert sets.find("a") == sets.find(3)
    assert sets.find("z") == "z"


# ------------------------------------------------------------------------------- filters


def rows_of(make_table: Table, folder: Path, recordings: list[Recording]) -> Rows:
    return read_rows({"t": (make_table(folder, recordings), None)})


def left(rows: Rows) -> list[str]:
    return rows.left()["id"].to_list()


def test_filters(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    def bird(n: int, **fields: object) -> Recording:
        return make_recording(n, **({"quality": "A", "sound_type": "song"} | fields))

    genus = Label("Parus", "genus")
    ids = (("family", "Paridae"), ("class", "Aves"))
    recordings = [
        bird(0),
        bird(1, licence_url=f"{CC}/by-nc-sa/4.0/"),
        bird(2, licence_url=f"{CC}/by-nd/4.0/"),
        bird(3, licence_url=""),
        bird(4, licence_url="All rights reserved"),
        bird(5, quality="D"),
        bird(6, quality=""),
        bird(7, duration_s=0.2),
        bird(8, duration_s=0.0),
        bird(9, sound_type="flight call, Call"),
        bird(10, labels=(genus,)),
        bird(11, labels=(Label("Parus major", "species", ids=ids),)),
        bird(12, labels=()),
        bird(13, labels=(Label("Parus major", "species", role="background"),)),
        bird(14, source="inat", id="inat:14"),
        bird(15, licence_url="Some terms of their own"),
    ]
    table = make_table(tmp_path, recordings)

    def kept(**filters: object) -> set[int]:
        rows = read_rows({"t": (table, None)})
        apply_filters(rows, Filters(**filters), [table / "recordings.parquet"])  # type: ignore[arg-type]
        return {int(i.partition(":")[2]) for i in left(rows)}

    labelled = set(range(16)) - {12, 13}
    everything = {"licences": {"deny": []}}
    assert kept(**everything) == labelled
    assert kept(**everything, labelled=False) == set(range(16))
    assert kept() == labelled - {4}
    assert kept(licences={"deny": ["nc"]}) == labelled - {1, 3, 4, 15}
    assert kept(licences={"deny": ["nc"], "keep_unknown": True}) == labelled - {1, 4}
    assert kept(licences={"allow": ["cc", "unknown"], "deny": ["nc"]}) == labelled - {1, 4}
    assert kept(licences={"deny": ["sa", "nd", "unknown"]}) == labelled - {1, 2, 3, 4, 15}
    assert kept(licences={"allow": ["by"], "deny": []}) == labelled - {1, 2, 3, 4, 15}
    assert kept(**everything, quality={"at_least": "C"}) == labelled - {5}
    assert kept(**everything, quality={"unknown": False}) == labelled - {6}
    assert kept(**everything, duration={"min_s": 1.0}) == labelled - {7}
    assert kept(**everything, duration={"max_s": 1.0}) == {7, 8}
    assert kept(**everything, sound_types=["call"]) == {9}
    assert kept(**everything, not_sound_types=["Song"]) == {9}
    assert kept(**everything, sources=["inat"]) == {14}
    assert kept(**everything, not_sources=["inat"]) == labelled - {14}
    assert kept(**everything, ranks=["genus"]) == {10}
    assert kept(**everything, taxa=["Paridae"]) == {11}
    assert kept(**everything, taxa=["Parus"]) == {0, 3, 6, 9, 10, 11, 15}
    assert kept(**everything, not_taxa=["Aves"]) == labelled - {11}


def test_licence_words_and_costs(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    urls = [f"{CC}/by/4.0/", f"{CC}/by-nc/4.0/", f"{CC}/by-nc-nd/4.0/", "", "(c)", "mine"]
    rows = rows_of(
        make_table,
        tmp_path,
        [make_recording(n, licence_url=url, duration_s=3600.0) for n, url in enumerate(urls)],
    )
    table = {c["choice"]: c for c in licence_costs(rows.frame, Licences(deny=["nc", "nd"]))}
    assert table["everything"]["hours"] == 6
    assert table["without nc"]["hours_lost"] == 3  # BY-NC, BY-NC-ND, (c)
    assert table["without nd"]["recordings_lost"] == 2
    assert table["without unknown"]["hours_lost"] == 3  # "", "mine", (c)
    assert table["this recipe"]["hours"] == 1
    assert table["only cc0, pd, by"]["recordings"] == 1


def test_a_licence_that_is_not_understood_passes_no_deny(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    texts = [
        "CC_BY_NC_4_0", "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "nan", "None",
        "unlicensed", "© 2019 J. Doe", "non-commercial use only",
        "Namensnennung - nicht kommerziell", "free for research", "By Nancy", "CC BY 4.0",
    ]  # fmt: skip
    rows = rows_of(
        make_table,
        tmp_path,
        [make_recording(n, licence_url=text) for n, text in enumerate(texts)],
    )
    filters = Filters.model_validate({"licences": {"deny": ["nc", "nd"]}})
    apply_filters(rows, filters, [])
    assert rows.left()["licence_url"].to_list() == ["CC BY 4.0"]
    # A selection says what it did, and reads as the same recipe.
    again = Filters.model_validate(filters.model_dump(mode="json"))
    assert again == filters and not again.licences.keep_unknown
    default = Filters()
    assert default.licences.keep_unknown and Filters.model_validate(default.model_dump()) == default


# -------------------------------------------------------------------------------- limits


def capped(
    make_table: Table, folder: Path, rows_given: list[Recording], caps: Caps, **amount: object
) -> set[str]:
    rows = rows_of(make_table, folder, rows_given)
    apply_caps(rows, caps, {"t": TableChoice(table=folder, **amount)})  # type: ignore[arg-type]
    return set(left(rows))


def test_caps_hold_and_do_not_move_when_data_is_added(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    rare = (Label("Rarus rarus", "species"),)
    some = [
        make_recording(n, labels=rare) if n % 50 == 0 else make_recording(n) for n in range(300)
    ]
    more = [*some, *(make_recording(n) for n in range(300, 330))]
    for caps in (Caps(per_class=40), Caps(per_recordist=20), Caps(per_class=40, per_recordist=25)):
        first = capped(make_table, tmp_path / "a", some, caps)
        second = capped(make_table, tmp_path / "b", more, caps)
        again = capped(make_table, tmp_path / "c", some[::-1], caps)
        assert first == again  # not the order of the table
        if caps.per_recordist is None:
            assert len(first) == 3 * 40 + 6
            assert {r.id for r in some if r.labels == rare} <= first & second
        # Only what new ones displaced went; nothing that was out came in.
        assert not (second - first) & {r.id for r in some}
        assert len(first - second) <= 30


def test_cap_keeps_a_recording_for_its_rarest_label(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    two = (Label("Parus major", "species"), Label("Rarus rarus", "species"))
    rows = [make_recording(n, labels=(two[0],)) for n in range(50)]
    rows += [make_recording(100 + n, labels=two) for n in range(5)]
    kept = capped(make_table, tmp_path, rows, Caps(per_class=5))
    assert {f"xc:{100 + n}" for n in range(5)} <= kept


def test_rare_classes(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    a, b = Label("Parus major", "species"), Label("Rarus rarus", "species")
    given = [make_recording(n, labels=(a,)) for n in range(5)]
    given += [make_recording(8, labels=(a, b)), make_recording(9, labels=(b,))]
    rows = rows_of(make_table, tmp_path, given)
    names = apply_caps(rows, Caps(min_per_class=3), {"t": TableChoice(table=tmp_path)})
    assert names == {"Parus major"}
    assert "xc:9" not in left(rows)
    assert "xc:8" in left(rows)


def test_amounts(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    many = [make_recording(n, duration_s=360.0) for n in range(100)]  # 10 h
    assert len(capped(make_table, tmp_path, many, Caps(), hours=3)) == 30
    assert len(capped(make_table, tmp_path, many, Caps(), recordings=7)) == 7
    assert len(capped(make_table, tmp_path, many, Caps(), hours=30)) == 100
    folders = {
        "a": make_table(tmp_path / "a", many),
        "b": make_table(
            tmp_path / "b", [make_recording(500 + n, duration_s=360.0) for n in range(20)]
        ),
    }
    rows = read_rows({name: (folder, None) for name, folder in folders.items()})
    choices = {
        name: TableChoice(table=folder, share=share)
        for (name, folder), share in zip(folders.items(), (0.75, 0.25), strict=True)
    }
    apply_caps(rows, Caps(), choices)
    assert dict(rows.left().group_by("table").len().iter_rows()) == {"a": 60, "b": 20}


# --------------------------------------------------------------------------------- split


def table(make_recording: Make, count: int, start: int = 0) -> list[Recording]:
    return [
        make_recording(n, group_id=f"g{n // 3}", recordist=f"p{n // 9}")
        for n in range(start, start + count)
    ]


PARTS = Split(parts={"train": 0.8, "valid": 0.1, "test": 0.1}, folds=5)


def placed(rows: Rows, split: Split, links: list[Link] | None = None) -> dict[str, Place]:
    places = place_all(rows.left(), links or [], split)
    return {i: places[n] for n, i in rows.left().select("n", "id").iter_rows()}


def test_split_is_by_group_stable_and_near_its_shares(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    some = table(make_recording, 3000)
    more = some + table(make_recording, 300, 3000)
    first = placed(rows_of(make_table, tmp_path / "a", some), PARTS)
    second = placed(rows_of(make_table, tmp_path / "b", more[::-1]), PARTS)
    assert all(second[i] == place for i, place in first.items())
    where: dict[str, set[tuple[str, str | None]]] = {}
    for recording in some:
        place = first[recording.id]
        where.setdefault(recording.group_id, set()).add((place.split, place.fold))
    assert all(len(places) == 1 for places in where.values())
    splits = [place.split for place in first.values()]
    assert splits.count("train") / 3000 == pytest.approx(0.8, abs=0.04)
    assert splits.count("test") / 3000 == pytest.approx(0.1, abs=0.03)
    folds = [place.fold for place in first.values()]
    assert all(folds.count(str(k)) / 3000 == pytest.approx(0.2, abs=0.04) for k in range(5))


def test_split_by_recordist(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    some = table(make_recording, 900)
    first = placed(
        rows_of(make_table, tmp_path, some), Split(parts={"a": 0.5, "b": 0.5}, by="recordist")
    )
    people: dict[str, set[str]] = {}
    for recording in some:
        people.setdefault(recording.recordist, set()).add(first[recording.id].split)
    assert all(len(parts) == 1 for parts in people.values())
    assert {part for parts in people.values() for part in parts} == {"a", "b"}


def test_links_join_groups(tmp_path: Path, make_table: Table, make_recording: Make) -> None:
    rows = rows_of(make_table, tmp_path, [make_recording(n) for n in range(100)])
    links = [Link(i, i + 1, "part") for i in range(0, 20)]
    first = placed(rows, PARTS, links)
    joined = {first[f"xc:{n}"] for n in range(21)}
    assert len(joined) == 1
    assert joined.pop().group_id in {f"g{n}" for n in range(21)}


def test_previous_selection_is_kept(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    old = [make_recording(n, split="test" if n % 2 else "train", fold="3") for n in range(10)]
    before = make_table(tmp_path / "old", old)
    rows = rows_of(make_table, tmp_path / "new", [make_recording(n) for n in range(20)])
    split = PARTS.model_copy(update={"previous": before})
    found = placed(rows, split, [Link(1, 15, "part")])
    assert all(found[r.id].split == r.split and found[r.id].fold == "3" for r in old)
    assert found["xc:15"].split == "test"


def test_cover_brings_every_class_to_train(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    each = [make_recording(n, labels=(Label(f"Rarus no{n // 2}", "species"),)) for n in range(200)]
    rows = rows_of(make_table, tmp_path, each)
    parts = {"train": 0.5, "valid": 0.5}
    plain = place_all(rows.left(), [], Split(parts=parts))
    assert describe(rows.left(), plain)["train"]["classes_missing"] > 0  # type: ignore[index]
    covered = place_all(rows.left(), [], Split(parts=parts, cover="train"))
    assert describe(rows.left(), covered)["train"]["classes_missing"] == 0  # type: ignore[index]
    moved = [n for n in plain if plain[n] != covered[n]]
    assert all(covered[n].split == "train" for n in moved)
    assert len(moved) < 40


def test_the_tables_own_split_is_kept(
    tmp_path: Path, make_table: Table, make_recording: Make
) -> None:
    rows = rows_of(make_table, tmp_path, [make_recording(1, split="dev", fold="2")])
    assert placed(rows, Split(parts={}))["xc:1"] == Place("dev", "2", "g1")


def test_choose_and_unit() -> None:
    parts = {"a": 0.0, "b": 0.3, "c": 0.7}
    assert choose(0.0, parts) == "b"
    assert choose(0.3, parts) == "c"
    assert choose(1.0, parts) == "c"
    values = [unit(str(i), "s") for i in range(4000)]
    assert 0 <= min(values) < max(values) < 1
    assert sum(values) / 4000 == pytest.approx(0.5, abs=0.02)
    assert unit("x", "s") == pytest.approx(unit("x", "s"), abs=0)
    assert unit("x", "s") != unit("x", "t")
