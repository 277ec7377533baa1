"""Taxonomy files are found by their content, streamed, and reduced to what is needed."""

from __future__ import annotations

import csv
import gzip
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.taxonomy.builtin import BUILTIN, builtin_source, read_overrides
from dawnchorus.data_prep.taxonomy.model import load_taxonomy
from dawnchorus.data_prep.taxonomy.shapes import COLUMNS
from dawnchorus.data_prep.taxonomy.taxonomy_files import find_source, frames

REPO = Path(__file__).resolve().parents[3]


def test_every_kind_is_found_by_its_heading(
    gbif_zip: Path, col_dwca: Path, coldp: Path, inat_taxa: Path, ebird: dict[int, Path]
) -> None:
    found = {
        path: (source.kind, source.label, source.id_key)
        for path in (gbif_zip, col_dwca, coldp, inat_taxa, ebird[2021], ebird[2025])
        for source in [find_source(str(path))]
    }
    assert found == {
        gbif_zip: ("gbif", "gbif-backbone-2023-08", "gbif"),
        col_dwca: ("colxr", "colxr", "colxr"),
        coldp: ("colxr", "colxr-2026-05", "colxr"),
        inat_taxa: ("inat", "inaturalist", "inat"),
        ebird[2021]: ("ebird", "ebird-2021", "ebird-2021"),
        ebird[2025]: ("ebird", "ebird-2025", "ebird-2025"),
    }
    assert find_source(f"my-backbone-1={gbif_zip}").label == "my-backbone-1"
    assert find_source(str(ebird[2021])).dialect.encoding == "cp1252"


def test_gbif_keeps_what_is_asked_and_what_it_points_to(gbif_zip: Path) -> None:
    made = load_taxonomy(find_source(str(gbif_zip)), ["Parus caeruleus", "Parus major newtoni"])
    assert made.rows == 14
    assert [t.name for t in made.synonyms["Parus caeruleus"]] == ["Cyanistes caeruleus"]
    (tit,) = made.named("Cyanistes caeruleus")
    assert (tit.key, tit.rank, tit.klass, tit.genus) == ("2487879", "species", "Aves", "Cyanistes")
    assert made.named("Parus major")[0].key == "9705453"  # the species of the subspecies
    assert made.named("Paridae")[0].key == "9327" and made.named("Aves")[0].key == "212"
    assert not made.named("Accipiter gentilis")


def test_col_climbs_its_parents(col_dwca: Path) -> None:
    made = load_taxonomy(find_source(str(col_dwca)), ["Parus fringillago"])
    (tit,) = made.synonyms["Parus fringillago"]
    assert (tit.name, tit.key) == ("Parus major", "Q2M4")
    assert tit.lineage == {
        "kingdom": "Animalia", "class": "Aves", "family": "Paridae", "genus": "Parus",
    }  # fmt: skip


def test_coldp_synonyms_point_to_their_parent(coldp: Path) -> None:
    made = load_taxonomy(find_source(str(coldp)), ["Parus fringillago"])
    assert [(t.name, t.key) for t in made.synonyms["Parus fringillago"]] == [
        ("Parus major", "Q2M4")
    ]


def test_inaturalist_climbs_its_ancestry_and_leaves_out_inactive(inat_taxa: Path) -> None:
    made = load_taxonomy(find_source(str(inat_taxa)), ["Parus minor"], ["203153"])
    tit = made.by_key["203153"]
    assert tit.lineage == {
        "kingdom": "Animalia", "phylum": "Chordata", "class": "Aves", "order": "Passeriformes",
        "family": "Paridae", "genus": "Parus",
    }  # fmt: skip
    assert not made.named("Parus minor")


def test_ebird_is_read_whole_with_its_families(ebird: dict[int, Path]) -> None:
    made = load_taxonomy(find_source(str(ebird[2021])), [])
    goshawk = made.by_key["norgos"]
    assert (goshawk.name, goshawk.family, goshawk.klass) == (
        "Accipiter gentilis", "Accipitridae", "Aves",
    )  # fmt: skip
    assert made.by_key["rueppe"].english == "Rüppell's Warbler"
    assert made.by_key["myrwar"].rank == "subspecies"
    assert made.named("Accipiter")[0].rank == "genus"


def test_the_built_in_table_holds_together() -> None:
    made = load_taxonomy(builtin_source(), [])
    assert made.label == BUILTIN and made.rows > 700
    assert [t.name for t in made.synonyms["Astur gentilis"]] == ["Accipiter gentilis"]
    for taxon in made.species():
        assert taxon.kingdom == "Animalia"
        if taxon.rank == "species":
            assert taxon.name.split()[0] == taxon.genus
            for rank in ("genus", "family", "order", "class", "phylum"):
                (above,) = made.named(taxon.higher(rank))
                assert above.rank == rank
                assert all(taxon.higher(r) == n for r, n in above.lineage.items())
    assert all(made.synonyms[name] for name in made.synonyms)


def test_the_built_in_table_knows_the_birds_of_the_real_sounds(real_sound: Path) -> None:
    with (real_sound / "xc_birds" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        names = {row["scientific_name"] for row in csv.DictReader(file)}
    made = load_taxonomy(builtin_source(), [])
    assert len(names) > 150
    assert {name for name in names if not made.named(name)} == set()


def test_rows_that_do_not_fit_are_counted(tmp_path: Path, gbif_zip: Path) -> None:
    with zipfile.ZipFile(gbif_zip) as archive:
        text = archive.read("backbone/Taxon.tsv").decode()
    lines = text.splitlines()
    lines[3:3] = ["cut\toff", "\x00\t" * 30]
    path = tmp_path / "Taxon.tsv"
    path.write_text("\n".join(lines) + "\n")
    made = load_taxonomy(find_source(str(path)), ["Parus major"])
    assert made.bad_rows == 2 and made.named("Parus major")


def zip_with(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"colour,size\nred,1\n", "no taxonomy that is known"),
        ("a.csv", b"", "no taxonomy that is known"),
        ("a.zip", b"PK\x03\x04 broken", "cannot be read"),
        ("taxa.csv.gz", b"\x1f\x8b\x08\x00 broken", "cannot be read"),
        ("ebird.csv", b"SPECIES_CODE,CATEGORY,SCI_NAME\nnorgos,species,X y\n", "which year"),
        ("a.tsv", b"\x00\xff\xfe" * 2000, "no taxonomy that is known"),
    ],
)
def test_what_is_no_taxonomy_is_refused(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PrepError, match=message):
        find_source(str(tmp_path / name))
    with pytest.raises(PrepError, match="no taxonomy file"):
        find_source(str(tmp_path / "nowhere"))


def test_a_file_that_ends_early_or_is_not_utf8_is_an_error(
    tmp_path: Path, inat_taxa: Path, gbif_zip: Path
) -> None:
    names = "".join(f"{i}\t48460\t10\tspecies\tAus {random.Random(i).random()}\ttrue\n"
                    for i in range(60_000))  # fmt: skip
    whole = gzip.compress(("taxon_id\tancestry\trank_level\trank\tname\tactive\n" + names).encode())
    cut = tmp_path / "taxa.csv.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrepError, match="cannot be read"):
        load_taxonomy(find_source(str(cut)), ["Aus bus"])
    with zipfile.ZipFile(gbif_zip) as archive:
        text = archive.read("backbone/Taxon.tsv")
    latin = tmp_path / "Taxon.tsv"
    latin.write_bytes(text.replace(b"Parus major Linn", b"Parus m\xe9jor Linn"))
    with pytest.raises(PrepError, match="UTF8"):
        load_taxonomy(find_source(str(latin)), ["Parus major"])


def test_nothing_is_unpacked(tmp_path: Path, gbif_zip: Path) -> None:
    with zipfile.ZipFile(gbif_zip) as archive:
        data = archive.read("backbone/Taxon.tsv")
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    zip_with(path, "../../Taxon.tsv", data)
    assert load_taxonomy(find_source(str(path)), ["Parus major"]).named("Parus major")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("\ufeffname,use,remark\nGreat Tit,Parus major,\n norpin ,Anas acuta,x\n")
    assert read_overrides(path) == {"Great Tit": "Parus major", "norpin": "Anas acuta"}
    path.write_text("name;use\nGreat Tit;Parus major\n", encoding="utf-16")
    assert read_overrides(path) == {"Great Tit": "Parus major"}
    path.write_text("name,use\nA,\nB,x\nB,y\n")
    with pytest.raises(PrepError, match=r"2 mistakes.*\n.*row 2.*\n.*row 4"):
        read_overrides(path)
    path.write_text("from,to\nA,B\n")
    with pytest.raises(PrepError, match="needs the columns name and use"):
        read_overrides(path)
    path.write_bytes(b"name,use\n\xff\xfe,x\n")
    with pytest.raises(PrepError, match="cannot be read"):
        read_overrides(path)


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from dawnchorus.data_prep.taxonomy.shapes import COLUMNS
from dawnchorus.data_prep.taxonomy.taxonomy_files import find_source, frames
from dawnchorus.data_prep.taxonomy.model import load_taxonomy
source = find_source(sys.argv[1])
next(iter(frames(source)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = load_taxonomy(source, ["Aus bus7", "Aus bus9"])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(made.rows, len(made.by_key), (after - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    head = "taxonID\tacceptedNameUsageID\tscientificName\tcanonicalName\ttaxonRank\ttaxonomicStatus"
    tail = "\tProc. Zool. Soc. London 1890, pages and pages and pages of remarks\tAnimalia"
    rows = 400_000
    path = tmp_path / "Taxon.tsv"
    with path.open("w") as file:
        file.write(head + "\tnamePublishedIn\tkingdom\n")
        for i in range(rows):
            file.write(f"{i}\t\tAus bus{i} Smith\tAus bus{i}\tspecies\taccepted{tail}\n")
    assert path.stat().st_size > 45e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(REPO)], capture_output=True, text=True,
        env={"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read, kept, grown_mb = map(int, done.stdout.split())
    assert (read, kept) == (rows, 2)
    assert grown_mb < 40, "a file of 50 MB must not be held"


def test_frames_have_the_same_shape_for_all(
    gbif_zip: Path, col_dwca: Path, coldp: Path, inat_taxa: Path, ebird: dict[int, Path]
) -> None:
    for path in (gbif_zip, col_dwca, coldp, inat_taxa, *ebird.values()):
        for frame in frames(find_source(str(path))):
            assert tuple(frame.columns) == COLUMNS and frame.height
            assert not any(column.null_count() for column in frame)
