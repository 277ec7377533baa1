"""Write the metadata of the `xc_birds` sample in the shapes in which Xeno-canto gives it.

    python -m scripts.xc_birds_dump shared/data/xc_birds/metadata.csv OUT

writes OUT/xc_birds_v3.json (pages of API v3) and OUT/gbif/ (an unpacked GBIF download), so that
the readers can be tried on real sound: `chorus prep xeno-canto OUT/xc_birds_v3.json --audio
shared/data/xc_birds/audio --out TABLE`. What the sample does not know (place, date) stays empty.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PER_PAGE = 100
BIRDS_DATASET = "b1047888-ae52-4179-9dd5-5448ea342a24"
META = """\
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">
  <core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy=""
        ignoreHeaderLines="1" rowType="http://rs.tdwg.org/dwc/terms/Occurrence">
    <files><location>occurrence.txt</location></files>
    <id index="0"/>
{occurrence}
  </core>
  <extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy=""
        ignoreHeaderLines="1" rowType="http://rs.gbif.org/terms/1.0/Multimedia">
    <files><location>multimedia.txt</location></files>
    <coreid index="0"/>
{multimedia}
  </extension>
</archive>
"""
GBIF, DWC, DC = (
    "http://rs.gbif.org/terms/1.0/",
    "http://rs.tdwg.org/dwc/terms/",
    ("http://purl.org/dc/terms/"),
)
OCCURRENCE = (
    GBIF + "gbifID", DC + "license", DC + "publisher", DC + "references", DC + "rightsHolder",
    DWC + "basisOfRecord", DWC + "occurrenceID", DWC + "catalogNumber", DWC + "recordedBy",
    DWC + "behavior", DWC + "associatedTaxa", DWC + "eventDate", DWC + "eventTime",
    DWC + "fieldNotes", DWC + "countryCode", DWC + "locality", DWC + "decimalLatitude",
    DWC + "decimalLongitude", DWC + "scientificName", DWC + "kingdom", DWC + "phylum",
    DWC + "class", DWC + "order", DWC + "family", DWC + "genus", DWC + "specificEpithet",
    DWC + "infraspecificEpithet", DWC + "taxonRank", DWC + "vernacularName", DWC + "datasetKey",
    GBIF + "issue", GBIF + "mediaType", DWC + "taxonKey", GBIF + "acceptedTaxonKey",
    GBIF + "speciesKey", GBIF + "species", GBIF + "acceptedScientificName",
    GBIF + "verbatimScientificName",
)  # fmt: skip
MULTIMEDIA = (
    GBIF + "gbifID",
    *(
        DC + name
        for name in (
            "type", "format", "identifier", "references", "title", "description", "source",
            "audience", "created", "creator", "contributor", "publisher", "license",
            "rightsHolder",
        )
    ),
)  # fmt: skip


def write_v3(metadata_csv: Path, out_json: Path) -> None:
    """Write the sample as one file with a list of API v3 pages."""
    recordings = [_recording(row) for row in _rows(metadata_csv)]
    pages = [recordings[i : i + PER_PAGE] for i in range(0, len(recordings), PER_PAGE)]
    species = {(r["gen"], r["sp"]) for r in recordings}
    whole = [
        {
            "numRecordings": str(len(recordings)),
            "numSpecies": str(len(species)),
            "page": number,
            "numPages": len(pages),
            "recordings": page,
        }
        for number, page in enumerate(pages, start=1)
    ]
    out_json.parent.mkdir(parents=True, exist_ok=True)
    out_json.write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")


def write_gbif(metadata_csv: Path, out_dir: Path) -> None:
    """Write the sample as an unpacked GBIF download: meta.xml, occurrence.txt, multimedia.txt."""
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = _rows(metadata_csv)
    _write_tabs(out_dir / "occurrence.txt", OCCURRENCE, [_occurrence(row) for row in rows])
    media = [medium for row in rows for medium in _media(row)]
    _write_tabs(out_dir / "multimedia.txt", MULTIMEDIA, media)
    text = META.format(occurrence=_fields(OCCURRENCE), multimedia=_fields(MULTIMEDIA))
    (out_dir / "meta.xml").write_text(text, encoding="utf-8")


def _rows(metadata_csv: Path) -> list[dict[str, str]]:
    with metadata_csv.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _name(row: dict[str, str]) -> tuple[str, str, str]:
    """Return genus, species and subspecies."""
    genus, species, *rest = row["scientific_name"].split()
    return genus, species, " ".join(rest)


def _seconds(row: dict[str, str]) -> int:
    return max(1, round(float(row["duration_s"])))


def _recording(row: dict[str, str]) -> dict[str, Any]:
    genus, species, subspecies = _name(row)
    minutes, seconds = divmod(_seconds(row), 60)
    number = row["xc_id"]
    nothing = dict.fromkeys(
        ("cnt", "loc", "type", "sex", "stage", "method", "uploaded", "rmk", "regnr", "dvc", "mic",
         "time", "date"),
        "",
    )  # fmt: skip
    return nothing | {
        "id": number,
        "gen": genus,
        "sp": species,
        "ssp": subspecies,
        "grp": "birds",
        "en": row["common_name"],
        "rec": row["recordist"],
        "lat": None,
        "lon": None,
        "alt": "",
        "url": f"https://xeno-canto.org/{number}",
        "file": f"https://xeno-canto.org/{number}/download",
        "file-name": f"XC{number}-{genus}-{species}.mp3",
        "sono": {"small": "", "med": "", "large": "", "full": None},
        "osci": {"small": None, "med": None, "large": None},
        "lic": row["licence"],
        "q": "no score",
        "length": f"{minutes}:{seconds:02d}",
        "also": [""],
        "animal-seen": "no",
        "playback-used": "no",
        "temp": None,
        "auto": "no",
        "smp": row["sample_rate"],
        "annotation-set": [],
    }


def _gbif_id(row: dict[str, str]) -> str:
    return str(2_000_000_000 + int(row["xc_id"]))


def _occurrence(row: dict[str, str]) -> dict[str, str]:
    genus, species, subspecies = _name(row)
    binomial = f"{genus} {species}"
    # Keys must be stable; GBIF's own are not in the sample.
    key = str(9_000_000 + sum(ord(c) * 31**i for i, c in enumerate(binomial)) % 900_000)
    return {
        "gbifID": _gbif_id(row),
        "license": "CC_BY_NC_4_0",
        "publisher": "Stichting Xeno-canto voor natuurgeluiden",
        "references": f"https://xeno-canto.org/{row['xc_id']}",
        "rightsHolder": row["recordist"],
        "basisOfRecord": "HUMAN_OBSERVATION",
        "occurrenceID": f"https://data.biodiversitydata.nl/xeno-canto/observation/XC{row['xc_id']}",
        "catalogNumber": f"XC{row['xc_id']}",
        "recordedBy": row["recordist"],
        "fieldNotes": "animal seen:no; playback used:no",
        "scientificName": f"{binomial} (Author, 1800)",
        "kingdom": "Animalia",
        "phylum": "Chordata",
        "class": "Aves",
        "genus": genus,
        "specificEpithet": species,
        "infraspecificEpithet": subspecies,
        "taxonRank": "SUBSPECIES" if subspecies else "SPECIES",
        "vernacularName": row["common_name"],
        "datasetKey": BIRDS_DATASET,
        "mediaType": "StillImage;Sound;StillImage",
        "taxonKey": key,
        "acceptedTaxonKey": key,
        "speciesKey": key,
        "species": binomial,
        "acceptedScientificName": f"{binomial} (Author, 1800)",
        "verbatimScientificName": row["scientific_name"],
    }


def _media(row: dict[str, str]) -> list[dict[str, str]]:
    number = row["xc_id"]
    genus, species, _ = _name(row)
    base = {"gbifID": _gbif_id(row), "creator": row["recordist"], "license": row["licence"]}
    sound = f"https://xeno-canto.org/sounds/uploaded/AAAAAAAAAA/XC{number}-{genus}-{species}.mp3"
    image = f"https://xeno-canto.org/sounds/uploaded/AAAAAAAAAA/ffts/XC{number}"
    return [
        base
        | {
            "type": "StillImage",
            "format": "image/png",
            "identifier": f"{image}-large.png",
            "description": "Sonogram of the first ten seconds of the sound recording",
        },
        base
        | {
            "type": "Sound",
            "format": "audio/mpeg",
            "identifier": sound,
            "description": f"{_seconds(row)} s",
        },
        base
        | {
            "type": "StillImage",
            "format": "image/png",
            "identifier": f"{image}-full.png",
            "description": "Oscillogram of the sound recording",
        },
    ]


def _write_tabs(path: Path, terms: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write a table as GBIF does: tabs, no quoting, so no tab or line end inside a value."""
    names = [term.rsplit("/", 1)[-1] for term in terms]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(names) + "\n")
        for row in rows:
            values = (" ".join(row.get(name, "").split()) for name in names)
            file.write("\t".join(values) + "\n")


def _fields(terms: Sequence[str]) -> str:
    return "\n".join(f'    <field index="{i}" term="{term}"/>' for i, term in enumerate(terms))


def main() -> None:
    """Write both shapes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("metadata", type=Path, help="metadata.csv of xc_birds")
    parser.add_argument("out", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    write_v3(arguments.metadata, arguments.out / "xc_birds_v3.json")
    write_gbif(arguments.metadata, arguments.out / "gbif")
    print(f"{arguments.out}: xc_birds_v3.json, gbif/")


if __name__ == "__main__":
    main()
