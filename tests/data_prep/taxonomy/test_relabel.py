"""Tables in, one table with one label space out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording, label_ranks
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings, write_table
from dawnchorus.data_prep.taxonomy.label_options import LabelOptions, ranks_of
from dawnchorus.data_prep.taxonomy.relabel import relabel
from dawnchorus.data_prep.taxonomy.space import Entry, LabelSpace

REPO = Path(__file__).resolve().parents[3]
XC = "xeno-canto"


def bird(name: str, role: str = "foreground", taxonomy: str = XC, **ids: str) -> Label:
    rank = {1: "genus", 2: "species", 3: "subspecies"}.get(len(name.split()), "")
    return Label(name, rank, role, taxonomy, tuple(ids.items()))


def sound(name: str, mid: str, role: str = "foreground") -> Label:
    return Label(name, "sound", role, "audioset", (("audioset", mid),) if mid else ())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def taxa(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in pq.read_table(out / "taxa.parquet").to_pylist()}


def names(out: Path) -> list[list[str]]:
    return [[label.name for label in r.labels] for r in read_recordings(out)]


def test_a_table_gets_canonical_names(
    tmp_path: Path, gbif_zip: Path, make_table: Callable[..., Path]
) -> None:
    labels = [
        bird("Parus major Linnaeus, 1758"),
        [bird("Parus caeruleus"), bird("Parus major newtoni", "background", gbif="1")],
        [bird("Cyanistes caeruleus", "background"), bird("Parus caeruleus")],
        bird("Nemo nullus"),
        bird("Prunella", **{"class": "Aves"}),
        bird("Prunella", kingdom="Plantae"),
        bird("Prunella"),
        (),
    ]
    table = make_table(tmp_path / "in", labels)
    lines = relabel([table], tmp_path / "out", LabelOptions(taxonomies=(str(gbif_zip),)))
    assert names(tmp_path / "out") == [
        ["Parus major"], ["Cyanistes caeruleus", "Parus major"], ["Cyanistes caeruleus"],
        ["Nemo nullus"], ["Prunella (Aves)"], ["Prunella (Magnoliopsida)"], ["Prunella"], [],
    ]  # fmt: skip
    made = list(read_recordings(tmp_path / "out"))
    assert label_ranks(made)["Parus major"] == ("species", "gbif-backbone-2023-08")
    assert label_ranks(made)["Nemo nullus"] == ("species", "")
    assert [label.role for label in made[1].labels] == ["foreground", "background"]
    assert made[2].labels[0].role == "foreground"
    tit = dict(made[0].labels[0].ids)
    assert (tit["gbif"], tit["family"], tit["class"]) == ("9705453", "Paridae", "Aves")

    unresolved = rows(tmp_path / "out" / "unresolved.csv")
    assert [(r["name"], r["labels"], r["reason"]) for r in unresolved] == [
        ("Nemo nullus", "1", "unknown"), ("Prunella", "1", "ambiguous"),
    ]  # fmt: skip
    given_names = {r["given"]: r for r in rows(tmp_path / "out" / "names.csv")}
    assert given_names["Parus caeruleus"]["how"] == "synonym"
    assert given_names["Parus caeruleus"]["labels"] == "2"
    described = taxa(tmp_path / "out")
    assert described["Cyanistes caeruleus"]["foreground"] == 2
    assert described["Parus major"] | {"ids": None} == {
        "name": "Parus major", "rank": "species", "taxonomy": "gbif-backbone-2023-08",
        "kingdom": "Animalia", "phylum": "Chordata", "class": "Aves", "order": "Passeriformes",
        "family": "Paridae", "genus": "Parus", "ids": None, "english": "",
        "foreground": 1, "background": 1,
    }  # fmt: skip
    text = "\n".join(lines)
    assert "not resolved, kept as they are: 2 names" in text and "Nemo nullus x 1" in text


def test_what_was_left_out_before_is_not_lost(
    tmp_path: Path, make_table: Callable[..., Path]
) -> None:
    first = Recording(id="xc:1", source="xc", source_id="1", path="", group_id="g")
    write_table([first, Rejected(recording_id="xc:2", reason="restricted")], tmp_path / "in")
    relabel([tmp_path / "in"], tmp_path / "out", LabelOptions())
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [(r["recording_id"], r["reason"]) for r in rejected] == [("xc:2", "restricted")]


def test_ancestors_are_labels_of_their_own(
    tmp_path: Path, gbif_zip: Path, make_table: Callable[..., Path]
) -> None:
    labels = [[bird("Parus major"), bird("Prunella modularis", "background")], bird("Parus")]
    table = make_table(tmp_path / "in", labels)
    options = LabelOptions(taxonomies=(str(gbif_zip),), ancestors=ranks_of("genus, Family"))
    relabel([table], tmp_path / "out", options)
    made = list(read_recordings(tmp_path / "out"))
    assert [(label.name, label.rank, label.role) for label in made[0].labels] == [
        ("Parus major", "species", "foreground"), ("Parus", "genus", "foreground"),
        ("Paridae", "family", "foreground"), ("Prunella modularis", "species", "background"),
        ("Prunella (Aves)", "genus", "background"), ("Prunellidae", "family", "background"),
    ]  # fmt: skip
    assert [label.name for label in made[1].labels] == ["Parus", "Paridae"]
    label_ranks(made)
    assert dict(made[0].labels[2].ids)["gbif"] == "9327"
    with pytest.raises(PrepError, match="tribe"):
        ranks_of("genus,tribe")


NODES = [
    {"id": "/m/0jbk", "name": "Animal", "child_ids": ["/m/wild"], "restrictions": []},
    {"id": "/m/wild", "name": "Wild animals", "child_ids": ["/m/015p6"], "restrictions": []},
    {"id": "/m/015p6", "name": "Bird", "child_ids": ["/m/04s8yn"], "restrictions": []},
    {"id": "/m/04s8yn", "name": "Crow", "child_ids": [], "restrictions": []},
    {"id": "/t/root", "name": "Everything", "child_ids": ["/m/0jbk"], "restrictions": ["abstract"]},
]


@pytest.fixture
def ontology(tmp_path: Path) -> Path:
    path = tmp_path / "ontology.json"
    path.write_text(json.dumps([n | {"description": "", "citation_uri": "",
                                     "positive_examples": []} for n in NODES]))  # fmt: skip
    return path


def test_sounds_and_taxa_are_one_space_and_never_one_label(
    tmp_path: Path, ontology: Path, make_table: Callable[..., Path]
) -> None:
    labels = [
        sound("Crow", "/m/04s8yn"),
        [sound("Crow, raven", "/m/04s8yn"), bird("Corvus corax")],
        [sound("Prunella", "/m/none"), bird("Prunella", **{"class": "Aves"})],
    ]
    table = make_table(tmp_path / "in", labels)
    relabel([table], tmp_path / "out", LabelOptions(ontology=ontology, bridges=True))
    crow = ["Crow", "Animal", "Bird", "Wild animals"]
    assert names(tmp_path / "out") == [
        crow, [*crow, "Corvus corax"],
        ["Prunella (sound)", "Prunella", "Bird", "Animal", "Wild animals"],
    ]  # fmt: skip
    described = taxa(tmp_path / "out")
    assert described["Crow"]["rank"] == "sound" and described["Crow"]["taxonomy"] == "audioset"
    assert dict(described["Crow"]["ids"]) == {"audioset": "/m/04s8yn"}
    assert described["Prunella"]["rank"] == "genus"
    assert "Everything" not in described
    relabel([table], tmp_path / "plain", LabelOptions())
    assert names(tmp_path / "plain")[0] == ["Crow"]
    assert names(tmp_path / "plain")[1] == ["Crow", "Corvus corax"]


def test_several_tables_become_one(
    tmp_path: Path, gbif_zip: Path, make_table: Callable[..., Path]
) -> None:
    """Resolved apart, with and without the backbone, and then merged: one name, one meaning."""
    gbif = LabelOptions(taxonomies=(str(gbif_zip),))
    first = make_table(tmp_path / "a", [bird("Parus major"), bird("Prunella", kingdom="Plantae"),
                                        Label("Odd", "genus", "foreground", "x")])  # fmt: skip
    odd = Label("Odd", "family", "foreground", "y")
    second = make_table(tmp_path / "b", [bird("Parus major"), bird("Prunella"), odd], "asa")
    relabel([first], tmp_path / "a1", gbif)
    relabel([second], tmp_path / "b1", LabelOptions())
    for options in (gbif, LabelOptions()):
        relabel([tmp_path / "a1", tmp_path / "b1"], tmp_path / "both", options)
        made = list(read_recordings(tmp_path / "both"))
        ranks = label_ranks(made)
        assert len(made) == 6
        assert "Parus major" in ranks
        assert {"Odd", "Odd (genus)"} & set(ranks) and {"Odd", "Odd (family)"} & set(ranks)
        assert [r.path for r in made] == [
            str(tmp_path / f / "audio" / f"{i}.mp3") for f in ("a1", "b1") for i in range(3)
        ]
    again = list(read_recordings(tmp_path / "both"))
    assert "Prunella (Magnoliopsida)" in {label.name for r in again for label in r.labels}
    relabel([tmp_path / "a1", tmp_path / "b1"], tmp_path / "audio",
            LabelOptions(audio=(tmp_path / "x", tmp_path / "y")))  # fmt: skip
    assert [r.path for r in read_recordings(tmp_path / "audio")][::3] == [
        str(tmp_path / "x" / "audio" / "0.mp3"), str(tmp_path / "y" / "audio" / "0.mp3"),
    ]  # fmt: skip
    with pytest.raises(PrepError, match="3 times for 2 tables"):
        relabel([first, second], tmp_path / "no", LabelOptions(audio=(tmp_path,) * 3))


def test_a_second_run_changes_nothing_and_keeps_what_the_first_resolved(
    tmp_path: Path, gbif_zip: Path, make_table: Callable[..., Path]
) -> None:
    labels = [bird("Parus caeruleus"), bird("Prunella", kingdom="Plantae"), bird("Nemo nullus"),
              sound("Crow", "/m/04s8yn")]  # fmt: skip
    table = make_table(tmp_path / "in", labels)
    options = LabelOptions(taxonomies=(str(gbif_zip),))
    relabel([table], tmp_path / "one", options)
    relabel([tmp_path / "one"], tmp_path / "two", options)
    assert list(read_recordings(tmp_path / "one")) == list(read_recordings(tmp_path / "two"))
    relabel([tmp_path / "one"], tmp_path / "three", LabelOptions())
    kept = {label.name: label for r in read_recordings(tmp_path / "three") for label in r.labels}
    assert kept["Prunella (Magnoliopsida)"].taxonomy == "gbif-backbone-2023-08"
    assert kept["Nemo nullus"].taxonomy == ""
    # In place, over its own input.
    relabel([table], table, options)
    assert names(table) == names(tmp_path / "one")


def test_ebird_codes_and_what_changed(
    tmp_path: Path, ebird: dict[int, Path], make_table: Callable[..., Path]
) -> None:
    def code(text: str, year: str) -> Label:
        return Label(text, "species", "foreground", year, (("ebird", text),))

    labels = [code("norgos", "ebird-2021"), code("norgos", "ebird-2025"),
              code("houwre", "ebird-2021"), code("norgos", "ebird-2019")]  # fmt: skip
    table = make_table(tmp_path / "in", labels, "birdset")
    files = (str(ebird[2025]), str(ebird[2021]))
    lines = relabel([table], tmp_path / "out", LabelOptions(taxonomies=files))
    assert names(tmp_path / "out") == [
        ["Astur gentilis"], ["Astur gentilis"], ["Troglodytes aedon"], ["norgos"],
    ]  # fmt: skip
    made = list(read_recordings(tmp_path / "out"))
    assert dict(made[2].labels[0].ids)["ebird-2021"] == "houwre"
    assert "ebird" not in dict(made[2].labels[0].ids)
    changes = {r["code"]: r for r in rows(tmp_path / "out" / "ebird_changes.csv")}
    assert (changes["norgos"]["mapped"], changes["norgos"]["labels"]) == ("yes", "2")
    assert changes["houwre"]["change"] == "another name" and not changes["houwre"]["mapped"]
    (lost,) = rows(tmp_path / "out" / "unresolved.csv")
    assert (lost["name"], lost["reason"]) == ("norgos", "no file")
    assert any(line.startswith("ebird-2021 -> ebird-2025: ") for line in lines)


def test_strict_writes_the_list_and_no_table(
    tmp_path: Path, make_table: Callable[..., Path]
) -> None:
    table = make_table(tmp_path / "in", [bird("Nemo nullus"), bird("Parus majr")])
    with pytest.raises(PrepError, match="2 names are not resolved"):
        relabel([table], tmp_path / "out", LabelOptions(strict=True))
    lost = rows(tmp_path / "out" / "unresolved.csv")
    assert lost[1]["candidate_1"] == "Parus major" and float(lost[1]["score_1"]) > 90
    assert not (tmp_path / "out" / "recordings.parquet").exists()
    fixes = tmp_path / "names.csv"
    fixes.write_text("name,use\nParus majr,Parus major\nNemo nullus,Parus\n")
    relabel([table], tmp_path / "out", LabelOptions(strict=True, overrides=fixes))
    assert names(tmp_path / "out") == [["Parus"], ["Parus major"]]


def test_what_is_no_table_is_refused(
    tmp_path: Path, gbif_zip: Path, make_table: Callable[..., Path]
) -> None:
    table = make_table(tmp_path / "in", [bird("Parus major")])
    with pytest.raises(PrepError, match="no recording table"):
        relabel([tmp_path / "nowhere"], tmp_path / "out", LabelOptions())
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((table / "recordings.parquet").read_bytes()[:300])
    with pytest.raises(PrepError, match="cannot be read"):
        relabel([broken], tmp_path / "out", LabelOptions())
    twice = (str(gbif_zip), str(gbif_zip))
    with pytest.raises(PrepError, match="Two taxonomies have the name"):
        relabel([table], tmp_path / "out", LabelOptions(taxonomies=twice))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PrepError, match=r"Writing .* failed"):
        relabel([table], tmp_path / "out", LabelOptions())


def test_the_command(tmp_path: Path, make_table: Callable[..., Path]) -> None:
    table = make_table(tmp_path / "in", [bird("Parus major"), bird("Nemo nullus")])

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dawnchorus.data_prep.cli", "labels", str(table), *more]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True)

    done = run("--out", str(tmp_path / "out"), "--ancestors", "family")
    assert done.returncode == 0, done.stderr
    assert "2 labels as given -> 2 names" in done.stdout
    assert done.stdout.rstrip().endswith(str(tmp_path / "out" / "recordings.parquet"))
    strict = run("--out", str(tmp_path / "strict"), "--strict")
    assert strict.returncode == 2 and "error: 1 names are not resolved" in strict.stderr
    assert "Traceback" not in strict.stderr


ENTRIES = st.builds(
    Entry,
    name=st.sampled_from(["Prunella", "Prunella (Aves)", "Crow", "Parus major"]),
    rank=st.sampled_from(["genus", "species", "sound", ""]),
    taxonomy=st.sampled_from(["", "gbif", "col"]),
    lineage=st.sampled_from([(), (("class", "Aves"),), (("kingdom", "Plantae"),)]),
    ids=st.sampled_from([(), (("audioset", "/m/1"),), (("audioset", "/m/2"),)]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ENTRIES, max_size=12))
def test_a_name_means_one_thing_whatever_comes(entries: list[Entry]) -> None:
    space = LabelSpace()
    given_names = [space.add(entry) for entry in entries]
    labels = space.labels(tuple(given_names))["foreground"]
    made = Recording(id="a", source="x", source_id="a", path="a", labels=labels)
    assert set(label_ranks([made])) == set(given_names) or not entries
    for name, entry in zip(given_names, entries, strict=True):
        kept = space.entries[name]
        assert kept.name == name and name.startswith(entry.name)
        assert not entry.rank or kept.rank == entry.rank
