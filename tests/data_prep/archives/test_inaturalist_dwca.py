"""iNaturalist's research-grade archive in its real shape: 48 quoted columns, mostly photos."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.core_media import JOIN_FILE
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.table.recording_table import read_recordings


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["inaturalist", *map(str, arguments)])


def rejected(out: Path) -> dict[str, str]:
    """{reason: a recording id} of a table."""
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["reason"]: row["recording_id"] for row in rows}


def words(text: str) -> list[str]:
    return text.split()


OBSERVATION_COLUMNS = words(
    "id occurrenceID basisOfRecord modified institutionCode collectionCode datasetName "
    "informationWithheld catalogNumber references occurrenceRemarks recordedBy recordedByID "
    "identifiedBy identifiedByID captive eventDate eventTime verbatimEventDate verbatimLocality "
    "decimalLatitude decimalLongitude coordinateUncertaintyInMeters countryCode stateProvince "
    "identificationID dateIdentified identificationRemarks taxonID scientificName taxonRank "
    "kingdom phylum class order family genus license rightsHolder inaturalistLogin "
    "publishingCountry projectId sex lifeStage reproductiveCondition annotations vitality "
    "dynamicProperties"
)
MEDIA_COLUMNS = words(
    "id type format identifier references created creator publisher license rightsHolder "
    "catalogNumber"
)


def research_row(number: int, **changed: str) -> dict[str, str]:
    return {
        "id": str(number),
        "occurrenceID": f"https://www.inaturalist.org/observations/{number}",
        "occurrenceRemarks": 'heard first,\nthen "seen"',
        "recordedBy": "Ann Person",
        "eventDate": "2021-06-27T07:17:05-06:00",
        "eventTime": "07:17:05-06:00",
        "decimalLatitude": "43.6571",
        "decimalLongitude": "-103.4143",
        "countryCode": "US",
        "taxonID": "10276",
        "scientificName": "Passerina amoena",
        "taxonRank": "species",
        "kingdom": "Animalia",
        "class": "Aves",
        "license": "http://creativecommons.org/publicdomain/zero/1.0/",
        "inaturalistLogin": "aperson",
    } | changed


def media_row(number: int, key: int, kind: str = "Sound", **changed: str) -> dict[str, str]:
    image = kind == "StillImage"
    host = "https://inaturalist-open-data.s3.amazonaws.com/photos" if image else (
        "https://static.inaturalist.org/sounds"
    )  # fmt: skip
    return {
        "id": str(number),
        "type": kind,
        "format": "image/jpeg" if image else "audio/mp4",
        "identifier": f"{host}/{key}/original.jpg" if image else f"{host}/{key}.m4a?1624793769",
        "creator": "Ann Person",
        "publisher": "iNaturalist",
        "license": "http://creativecommons.org/licenses/by-nc/4.0/",
        "rightsHolder": "Ann Person",
        "catalogNumber": str(number),
    } | changed


def csv_text(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", quoting=csv.QUOTE_ALL, lineterminator="\n")
    text.write(",".join(columns) + "\n")
    table.writerows(rows)
    return text.getvalue()


@pytest.fixture
def research() -> dict[str, bytes]:
    """The files of a small archive: photos, sounds, a duplicate, a sound without observation."""
    observations = [research_row(n) for n in range(1, 8)]
    observations[4]["informationWithheld"] = "Coordinate uncertainty increased to 28000m"
    observations[5]["scientificName"] = ""
    media = [
        media_row(1, 900, "StillImage"), media_row(1, 101), media_row(1, 102),
        media_row(2, 901, "StillImage"), media_row(3, 103), media_row(3, 103),
        media_row(5, 105), media_row(6, 106), media_row(77, 107),
        media_row(7, 0, identifier=""),
    ]  # fmt: skip
    return {
        "observations.csv": csv_text(OBSERVATION_COLUMNS, observations).encode(),
        "media.csv": csv_text(MEDIA_COLUMNS, media).encode(),
        "meta.xml": b"<archive/>",
        "eml.xml": b"<eml/>",
    }


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_research_grade_archive(tmp_path: Path, research: dict[str, bytes]) -> None:
    assert len(OBSERVATION_COLUMNS) == 48
    sources = [
        write_zip(tmp_path / "gbif-observations-dwca.zip", research),
        write_files(tmp_path / "unpacked", research),
    ]
    for source in sources:
        out = tmp_path / f"out-{source.name}"
        result = run(source, "--out", out)
        assert result.exit_code == 0, result.output
        table = {row.id: row for row in read_recordings(out)}
        assert list(table) == ["inat:101", "inat:102", "inat:103", "inat:105"]
        row = table["inat:101"]
        assert row.url == "https://static.inaturalist.org/sounds/101.m4a"
        # The record is CC0, the audio is not.
        assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
        assert row.group_id == table["inat:102"].group_id == "aperson|43.66,-103.41|2021-06-27"
        assert table["inat:105"].group_id == "aperson||2021-06-27"
        assert (row.datetime, row.country, row.recordist) == (
            "2021-06-27T07:17", "US", "Ann Person",
        )  # fmt: skip
        (label,) = row.labels
        assert (label.name, label.rank) == ("Passerina amoena", "species")
        assert dict(label.ids) == {"inat": "10276", "kingdom": "Animalia", "class": "Aves"}
        assert rejected(out) == {
            "repeated_id": "inat:103",
            "no_observation": "inat:107",
            "unidentified": "inat:106",
            "no_audio": "inat:observation/7",
        }
        assert not (out / JOIN_FILE).exists()


def test_bad_rows_of_the_archive_are_listed(tmp_path: Path, research: dict[str, bytes]) -> None:
    good = [media_row(1, n) for n in range(200, 400)]
    media = csv_text(MEDIA_COLUMNS, good).encode()
    media += b'"1","Sound","only three"\n'
    media += b'"2","StillImage","image/jpeg","caf\xe9",,,,,,,\n'  # a photo: no harm
    media += b'"2","Sound","audio/mpeg","https://x/500.mp3",,"caf\xe9",,,,,\n'
    media += b'"x","Sound","audio/mpeg","https://x/501.mp3",,,,,,,\n'
    media += b'"3","Sound","audio/mpeg","https://x/502.mp3",,"a\0b",,,,,\n'
    source = write_zip(tmp_path / "a.zip", research | {"media.csv": media})
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["recordings"] == 201  # the NUL is in a column that is not used
    assert summary["rejected"] == {"bad_row": 2, "wrong_encoding": 1}


def test_rows_whose_type_is_spelt_otherwise_are_rejected_by_name(
    tmp_path: Path, research: dict[str, bytes]
) -> None:
    kinds = {"Sound": 200, "sound": 201, "http://purl.org/dc/dcmitype/Sound": 202, "": 203}
    rows = [media_row(1, key, kind) for kind, key in kinds.items()]
    rows += [media_row(1, 300, "StillImage"), media_row(1, 301, "MovingImage")]
    media = csv_text(MEDIA_COLUMNS, rows).encode()
    source = write_zip(tmp_path / "a.zip", research | {"media.csv": media})
    assert run(source, "--out", tmp_path / "out").exit_code == 0
    assert [row.id for row in read_recordings(tmp_path / "out")] == ["inat:200"]
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    lost = [row for row in rows if row["reason"] == "unknown_type"]
    assert [row["recording_id"] for row in lost] == ["inat:201", "inat:202", "inat:203"]
    assert "type 'sound' instead of 'Sound'" in lost[0]["detail"]


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("case", ["quote", "long", "cut", "columns", "mostly", "outside", "nul"])
def test_a_broken_archive_is_an_error(
    tmp_path: Path, research: dict[str, bytes], case: str
) -> None:
    media = research["media.csv"]
    source, says = tmp_path / "a.zip", ""
    if case == "quote":
        says = "inside a quoted field"
        write_zip(source, research | {"media.csv": media + b'"9","Sound","never closed\n'})
    elif case == "long":
        says = "row of more than"
        row = b'"9","Sound","' + b"x" * 20_000_000 + b'",,,,,,,,\n'
        write_zip(source, research | {"media.csv": media + row})
    elif case == "cut":
        says = "zip"
        source.write_bytes(_cut(write_zip(source, research).read_bytes(), 0.7))
    elif case == "columns":
        says = "no column type"
        write_zip(source, research | {"media.csv": media.replace(b"type", b"kind", 1)})
    elif case == "mostly":
        says = "wrong number of columns"
        write_zip(source, research | {"media.csv": media + b'"1","Sound"\n' * 5000})
    elif case == "outside":
        says = "outside"
        write_zip(source, research | {"../../evil.csv": b"x"})
    else:
        says = "column"
        write_zip(source, research | {"media.csv": bytes(5000)})
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.zip"]


MEMORY = """
import io, re, sys
from pathlib import Path
from dawnchorus.data_prep.archives import inaturalist_dwca as dwca

class Files:
    # media.csv of any length, made while it is read: {blocks} times 10,000 photos and a sound.
    names = {{"media.csv", "observations.csv"}}
    def open(self, name):
        header = Path(sys.argv[1], name).read_bytes().splitlines(True)
        block = header[1] * 10_000 + header[2] if name == "media.csv" else b"".join(header[1:])
        return Repeated(header[0], block, {blocks} if name == "media.csv" else 1)

class Repeated(io.RawIOBase):
    def __init__(self, head, block, count):
        self.parts, self.rest = iter([head] + [block] * count), b""
    def readable(self):
        return True
    def readinto(self, buffer):
        while not self.rest:
            self.rest = next(self.parts, None)
            if self.rest is None:
                self.rest = b""
                return 0
        n = min(len(buffer), len(self.rest))
        buffer[:n] = self.rest[:n]
        self.rest = self.rest[n:]
        return n

dwca._files = lambda path: Files()
rows = list(dwca.read_research_grade(Path("x"), None, Path(sys.argv[1])))
print(len(rows), re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    media = [media_row(1, 900, "StillImage"), media_row(1, 101)]
    (tmp_path / "media.csv").write_text(csv_text(MEDIA_COLUMNS, media))
    text = csv_text(OBSERVATION_COLUMNS, [research_row(1, occurrenceRemarks="")])
    (tmp_path / "observations.csv").write_text(text)
    peaks_kb = []
    for blocks in (10, 150):  # 100,000 and 1.5 million rows: 30 and 440 MB
        done = subprocess.run(
            [sys.executable, "-c", MEMORY.format(blocks=blocks), str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        count, peak_kb = map(int, done.stdout.split())
        assert count == blocks
        peaks_kb.append(peak_kb)
    assert peaks_kb[1] < peaks_kb[0] + 150_000, peaks_kb
