"""Archives in the shapes of GBIF and of publishers, written by the tests."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from scripts.xc_birds_dump import MULTIMEDIA as TERMS

GBIF, DWC = "http://rs.gbif.org/terms/1.0/", "http://rs.tdwg.org/dwc/terms/"
DC = "http://purl.org/dc/terms/"
AC = "http://rs.tdwg.org/ac/terms/"
MULTIMEDIA = (*TERMS, AC + "startTime", AC + "endTime")  # as publishers' archives have them
# Some of the 223 columns of a GBIF download; the others are filled up without names of sense.
OCCURRENCE = (
    GBIF + "gbifID", DC + "license", DC + "references", DC + "rightsHolder",
    DWC + "basisOfRecord", DWC + "occurrenceID", DWC + "catalogNumber", DWC + "recordedBy",
    DWC + "behavior", DWC + "associatedTaxa", DWC + "occurrenceRemarks", DWC + "eventDate",
    DWC + "eventTime", DWC + "fieldNotes", DWC + "countryCode", DWC + "locality",
    DWC + "decimalLatitude", DWC + "decimalLongitude", DWC + "informationWithheld",
    DWC + "taxonID", DWC + "scientificName", DWC + "kingdom", DWC + "phylum", DWC + "class",
    DWC + "order", DWC + "family", DWC + "genus", DWC + "specificEpithet",
    DWC + "infraspecificEpithet", DWC + "taxonRank", DWC + "vernacularName",
    DWC + "taxonomicStatus", GBIF + "datasetKey", GBIF + "mediaType", GBIF + "taxonKey",
    GBIF + "acceptedTaxonKey", GBIF + "species", GBIF + "acceptedScientificName",
    GBIF + "verbatimScientificName",
)  # fmt: skip
OCCURRENCE += tuple(f"{DWC}other{i}" for i in range(223 - len(OCCURRENCE)))


def table_xml(
    tag: str,
    row_type: str,
    files: Sequence[str],
    terms: Sequence[str],
    *,
    separator: str = "\\t",
    quote: str = "",
    encoding: str = "UTF-8",
    headers: int = 1,
    more: str = "",
) -> str:
    """A <core> or <extension>; the id is column 0."""
    places = "".join(f"<location>{name}</location>" for name in files)
    key = "id" if tag == "core" else "coreid"
    fields = "\n".join(f'<field index="{i}" term="{t}"/>' for i, t in enumerate(terms) if t)
    return (
        f'<{tag} encoding="{encoding}" fieldsTerminatedBy="{separator}" linesTerminatedBy="\\n" '
        f'fieldsEnclosedBy=\'{quote}\' ignoreHeaderLines="{headers}" rowType="{row_type}">\n'
        f'<files>{places}</files>\n<{key} index="0"/>\n{fields}\n{more}\n</{tag}>\n'
    )


def meta_xml(*tables: str) -> str:
    return '<archive xmlns="http://rs.tdwg.org/dwc/text/">\n' + "".join(tables) + "</archive>\n"


def tabs(terms: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """A table as GBIF writes it: tabs, quotes are text."""
    names = [term.rsplit("/", 1)[-1] for term in terms]
    unknown = {key for row in rows for key in row} - set(names)
    assert not unknown, f"no such column: {unknown}"
    lines = ["\t".join(names), *("\t".join(row.get(n, "") for n in names) for row in rows)]
    return "\n".join(lines) + "\n"


def write_files(out: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write the files into a folder, or into a zip where `out` is one."""
    content = {n: t.encode() if isinstance(t, str) else t for n, t in files.items()}
    if out.suffix in (".zip", ".dwca"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as whole:
            for name, data in content.items():
                whole.writestr(name, data)
        return out
    for name, data in content.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return out


def write_gbif(
    out: Path, occurrences: Sequence[Mapping[str, str]], media: Sequence[Mapping[str, str]]
) -> Path:
    """Write a GBIF download."""
    meta = meta_xml(
        table_xml("core", DWC + "Occurrence", ["occurrence.txt"], OCCURRENCE),
        table_xml("extension", GBIF + "Multimedia", ["multimedia.txt"], MULTIMEDIA),
        table_xml("extension", DWC + "Occurrence", ["verbatim.txt"], OCCURRENCE[:5]),
    )
    return write_files(
        out,
        {
            "meta.xml": meta,
            "occurrence.txt": tabs(OCCURRENCE, occurrences),
            "multimedia.txt": tabs(MULTIMEDIA, media),
            "verbatim.txt": tabs(OCCURRENCE[:5], []),
            "rights.txt": "",
        },
    )


@pytest.fixture(scope="session")
def dwca_table() -> Callable[..., str]:
    """`table_xml`."""
    return table_xml


@pytest.fixture(scope="session")
def dwca_meta() -> Callable[..., str]:
    """`meta_xml`."""
    return meta_xml


@pytest.fixture(scope="session")
def dwca_files() -> Callable[..., Path]:
    """`write_files`."""
    return write_files


@pytest.fixture(scope="session")
def gbif_download() -> Callable[..., Path]:
    """`write_gbif`."""
    return write_gbif
