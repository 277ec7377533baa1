"""Taxonomy files in the shapes that GBIF, Catalogue of Life, eBird and iNaturalist publish."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.data_prep.table.recording_table import write_table

GBIF_COLUMNS = (
    "taxonID", "datasetID", "parentNameUsageID", "acceptedNameUsageID", "originalNameUsageID",
    "scientificName", "scientificNameAuthorship", "canonicalName", "genericName",
    "specificEpithet", "infraspecificEpithet", "taxonRank", "nameAccordingTo", "namePublishedIn",
    "taxonomicStatus", "nomenclaturalStatus", "taxonRemarks", "kingdom", "phylum", "class",
    "order", "family", "genus",
)  # fmt: skip
ANIMAL = {"kingdom": "Animalia", "phylum": "Chordata", "class": "Aves"}
PARIDAE = {**ANIMAL, "order": "Passeriformes", "family": "Paridae"}
HAWKS = {**ANIMAL, "order": "Accipitriformes", "family": "Accipitridae"}
MINT = {"kingdom": "Plantae", "phylum": "Tracheophyta", "class": "Magnoliopsida",
        "order": "Lamiales", "family": "Lamiaceae"}  # fmt: skip


def gbif_row(key: int, name: str, author: str, rank: str, above: dict, **more: str) -> dict:
    words = name.split()
    return {
        "taxonID": str(key), "datasetID": "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c",
        "scientificName": f"{name} {author}".strip(), "scientificNameAuthorship": author,
        "canonicalName": name, "genericName": words[0],
        "specificEpithet": words[1] if len(words) > 1 else "",
        "infraspecificEpithet": words[2] if len(words) > 2 else "",
        "taxonRank": rank, "taxonomicStatus": "accepted", **above, **more,
    }  # fmt: skip


GBIF_ROWS = [
    gbif_row(1, "Animalia", "", "kingdom", {"kingdom": "Animalia"}),
    gbif_row(212, "Aves", "", "class", ANIMAL),
    gbif_row(9327, "Paridae", "", "family", PARIDAE),
    gbif_row(2487863, "Parus", "Linnaeus, 1758", "genus", {**PARIDAE, "genus": "Parus"}),
    gbif_row(9705453, "Parus major", "Linnaeus, 1758", "species", {**PARIDAE, "genus": "Parus"}),
    gbif_row(7341, "Parus major newtoni", "Prazak, 1894", "subspecies",
             {**PARIDAE, "genus": "Parus"}, parentNameUsageID="9705453"),
    gbif_row(2487879, "Cyanistes caeruleus", "(Linnaeus, 1758)", "species",
             {**PARIDAE, "genus": "Cyanistes"}),
    gbif_row(2487880, "Parus caeruleus", "Linnaeus, 1758", "species",
             {**PARIDAE, "genus": "Cyanistes"}, taxonomicStatus="synonym",
             acceptedNameUsageID="2487879"),
    gbif_row(2480589, "Accipiter gentilis", "(Linnaeus, 1758)", "species",
             {**HAWKS, "genus": "Accipiter"}),
    gbif_row(2495000, "Prunella", "Vieillot, 1816", "genus",
             {**ANIMAL, "order": "Passeriformes", "family": "Prunellidae", "genus": "Prunella"}),
    gbif_row(2927000, "Prunella", "L.", "genus", {**MINT, "genus": "Prunella"}),
    gbif_row(2927096, "Prunella vulgaris", "L.", "species", {**MINT, "genus": "Prunella"}),
    gbif_row(2495001, "Prunella modularis", "(Linnaeus, 1758)", "species",
             {**ANIMAL, "order": "Passeriformes", "family": "Prunellidae", "genus": "Prunella"}),
    gbif_row(77, "Parus dubius", "Anon", "species", {**PARIDAE, "genus": "Parus"},
             taxonomicStatus="doubtful"),
]  # fmt: skip


def tsv(columns: Sequence[str], rows: Sequence[dict], prefix: str = "") -> str:
    lines = ["\t".join(prefix + column for column in columns)]
    lines += ["\t".join(str(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def gbif_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """backbone.zip: Taxon.tsv, another table before it, eml.xml."""
    path = tmp_path_factory.mktemp("gbif") / "backbone.zip"
    eml = '<?xml version="1.0"?><eml:eml xmlns:eml="eml://x"><dataset><title>GBIF</title>'
    eml += "<pubDate>2023-08-28</pubDate></dataset></eml:eml>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("backbone/Distribution.tsv", "taxonID\tlocationID\n1\tDE\n")
        archive.writestr("backbone/Taxon.tsv", tsv(GBIF_COLUMNS, GBIF_ROWS))
        archive.writestr("backbone/eml.xml", eml)
    return path


COL_ROWS = [
    {"taxonID": "N", "taxonomicStatus": "accepted", "taxonRank": "kingdom",
     "scientificName": "Animalia"},
    {"taxonID": "V2", "parentNameUsageID": "N", "taxonomicStatus": "accepted",
     "taxonRank": "class", "scientificName": "Aves"},
    {"taxonID": "6LX", "parentNameUsageID": "V2", "taxonomicStatus": "accepted",
     "taxonRank": "family", "scientificName": "Paridae"},
    {"taxonID": "Q2", "parentNameUsageID": "6LX", "taxonomicStatus": "accepted",
     "taxonRank": "genus", "scientificName": "Parus Linnaeus, 1758",
     "scientificNameAuthorship": "Linnaeus, 1758", "genericName": "Parus"},
    {"taxonID": "Q2M4", "parentNameUsageID": "Q2", "taxonomicStatus": "accepted",
     "taxonRank": "species", "scientificName": "Parus major Linnaeus, 1758",
     "scientificNameAuthorship": "Linnaeus, 1758", "genericName": "Parus",
     "specificEpithet": "major"},
    {"taxonID": "5K7RB", "acceptedNameUsageID": "Q2M4", "taxonomicStatus": "synonym",
     "taxonRank": "species", "scientificName": "Parus fringillago Pallas, 1811",
     "scientificNameAuthorship": "Pallas, 1811", "genericName": "Parus",
     "specificEpithet": "fringillago"},
]  # fmt: skip
COL_COLUMNS = (
    "taxonID", "parentNameUsageID", "acceptedNameUsageID", "taxonomicStatus", "taxonRank",
    "scientificName", "scientificNameAuthorship", "genericName", "specificEpithet",
    "infraspecificEpithet",
)  # fmt: skip


@pytest.fixture(scope="session")
def col_dwca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogue of Life as a Darwin Core table: prefixes, alphanumeric ids, parents only."""
    path = tmp_path_factory.mktemp("col") / "Taxon.tsv"
    path.write_text(tsv(COL_COLUMNS, COL_ROWS, "dwc:"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def coldp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ColDP: NameUsage.tsv, a synonym's parent is its taxon, flat higher taxa."""
    rows = [
        {"ID": r["taxonID"], "parentID": r.get("acceptedNameUsageID") or r.get("parentNameUsageID"),
         "status": r["taxonomicStatus"], "rank": r["taxonRank"],
         "scientificName": r["scientificName"].split(" Lin")[0].split(" Pal")[0],
         "authorship": r.get("scientificNameAuthorship", ""), "kingdom": "Animalia",
         "class": "Aves", "family": "Paridae", "genus": "Parus"}
        for r in COL_ROWS
    ]  # fmt: skip
    columns = (
        "ID", "parentID", "status", "scientificName", "authorship", "rank", "genus", "family",
        "class", "kingdom",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("coldp")
    (folder / "metadata.yaml").write_text('title: "COL"\nissued: 2026-05-10\nversion: "XR"\n')
    (folder / "NameUsage.tsv").write_text(tsv(columns, rows, "col:"), encoding="utf-8")
    return folder / "NameUsage.tsv"


@pytest.fixture(scope="session")
def inat_taxa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """iNaturalist's open data taxa.csv.gz: tabs, no quoting, ancestry."""
    rows = [
        (48460, "", 100, "stateofmatter", "Life", "true"),
        (1, "48460", 70, "kingdom", "Animalia", "true"),
        (2, "48460/1", 60, "phylum", "Chordata", "true"),
        (3, "48460/1/2/355675", 50, "class", "Aves", "true"),
        (355675, "48460/1/2", 57, "subphylum", "Vertebrata", "true"),
        (7251, "48460/1/2/355675/3", 40, "order", "Passeriformes", "true"),
        (7640, "48460/1/2/355675/3/7251", 30, "family", "Paridae", "true"),
        (145364, "48460/1/2/355675/3/7251/7640", 20, "genus", "Parus", "true"),
        (203153, "48460/1/2/355675/3/7251/7640/145364", 10, "species", "Parus major", "true"),
        (999, "48460/1/2/355675/3/7251/7640/145364", 10, "species", "Parus minor", "false"),
        (1000, "48460", 10, "hybrid", 'Canna "Red × King', "true"),
    ]
    path = tmp_path_factory.mktemp("inat") / "taxa.csv.gz"
    head = "taxon_id\tancestry\trank_level\trank\tname\tactive\n"
    body = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress((head + body).encode()))
    return path


HEAD_2021 = (
    "TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER1,FAMILY,SPECIES_GROUP,"
    "REPORT_AS"
)
HEAD_2025 = (
    "TAXON_ORDER,CATEGORY,SPECIES_CODE,TAXON_CONCEPT_ID,PRIMARY_COM_NAME,SCI_NAME,ORDER,FAMILY,"
    "SPECIES_GROUP,REPORT_AS"
)
EBIRD_2021 = (
    HEAD_2021
    + """
100,species,norgos,Northern Goshawk,Accipiter gentilis,Accipitriformes,"Accipitridae (A, B)",,
200,species,hergul,Herring Gull,Larus argentatus,Charadriiformes,"Laridae (A, B)",,
300,species,gretit1,Great Tit,Parus major,Passeriformes,"Paridae (A, B)",,
310,species,cattyr,Cattle Tyrant,Machetornis rixosa,Passeriformes,Tyrannidae,,
320,species,houwre,House Wren,Troglodytes aedon,Passeriformes,Troglodytidae,,
330,issf,myrwar,Myrtle Warbler,Setophaga coronata coronata,Passeriformes,Parulidae,,yerwar
340,species,yerwar,Yellow-rumped Warbler,Setophaga coronata,Passeriformes,Parulidae,,
350,slash,y00324,Willow/Alder Flycatcher,Empidonax traillii/alnorum,Passeriformes,Tyrannidae,,
360,species,rueppe,Rüppell's Warbler,Curruca ruppeli,Passeriformes,"Sylviidae (A, B)",,
"""
)
EBIRD_2025 = (
    HEAD_2025
    + """
100,species,norgos,avibase-1,Goshawk,Astur gentilis,Accipitriformes,"Accipitridae (A, B)",,
200,species,euhgul1,avibase-2,Herring Gull,Larus argentatus,Charadriiformes,"Laridae (A, B)",,
300,species,gretit1,avibase-3,Great Tit,Parus major,Passeriformes,"Paridae (A, B)",,
320,species,houwre,avibase-4,Northern House Wren,Troglodytes musculus,Passeriformes,Troglodytidae,,
"""
)


@pytest.fixture(scope="session")
def ebird(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two years: 2021 as Windows writes it (Latin 1, CRLF), 2025 in UTF-8."""
    folder = tmp_path_factory.mktemp("ebird")
    paths = {2021: folder / "eBird_Taxonomy_v2021.csv", 2025: folder / "eBird_taxonomy_v2025.csv"}
    paths[2021].write_bytes(EBIRD_2021.replace("\n", "\r\n").encode("cp1252"))
    paths[2025].write_text("\ufeff" + EBIRD_2025, encoding="utf-8")
    return paths


def table(folder: Path, labels: Sequence[Label | Sequence[Label]], source: str = "xc") -> Path:
    """A recording table with one recording per label (or list of labels)."""
    rows = [
        Recording(
            id=f"{source}:{i}", source=source, source_id=str(i), path=f"audio/{i}.mp3",
            labels=(item,) if isinstance(item, Label) else tuple(item), group_id=f"g{i}",
        )
        for i, item in enumerate(labels)
    ]  # fmt: skip
    write_table(rows, folder)
    return folder


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Path]:
    """`table`, as a fixture."""
    return table
