from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.file_index import FileIndex, any_key
from dawnchorus.data_prep.archives.gbif import Asked, read_gbif
from dawnchorus.data_prep.archives.xeno_canto_sources import read_sources
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, Recording
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings

XC_BIRDS = "b1047888-ae52-4179-9dd5-5448ea342a24"
XC_ORTHOPTERA = "ecce3417-d4fd-4fab-9009-09ad3f3f62b3"
INAT = "50c9509d-22c7-4a22-a47d-8c48425ef4a7"
NC_SA = "https://creativecommons.org/licenses/by-nc-sa/3.0/"
DWC, AC = "http://rs.tdwg.org/dwc/terms/", "http://rs.tdwg.org/ac/terms/"

LOON = {
    "gbifID": "2243612868", "license": "CC_BY_NC_4_0", "datasetKey": XC_BIRDS,
    "references": "https://xeno-canto.org/254462", "recordedBy": "Ada Lovelace",
    "occurrenceID": "https://data.biodiversitydata.nl/xeno-canto/observation/XC254462",
    "catalogNumber": "XC254462", "behavior": "song",
    "associatedTaxa": "has background sounds: Crypturellus soui|Pipilo maculatus",
    "eventDate": "2015-06-23", "eventTime": "07:17", "countryCode": "US",
    "fieldNotes": 'heard "twice", animal seen:no; playback used:no', "locality": "Custer",
    "decimalLatitude": "43.6571", "decimalLongitude": "-103.4143",
    "scientificName": "Passerina amoena (Say, 1822)", "kingdom": "Animalia",
    "phylum": "Chordata", "class": "Aves", "order": "Passeriformes", "family": "Cardinalidae",
    "genus": "Passerina", "specificEpithet": "amoena", "taxonRank": "SPECIES",
    "taxonKey": "2491123", "acceptedTaxonKey": "2491123", "species": "Passerina amoena",
    "acceptedScientificName": "Passerina amoena (Say, 1822)",
    "verbatimScientificName": "Passerina amoena", "mediaType": "StillImage;Sound;StillImage",
}  # fmt: skip


def media(number: str, **changes: str) -> dict[str, str]:
    sound = {
        "gbifID": number, "type": "Sound", "format": "audio/mpeg",
        "identifier": "https://xeno-canto.org/sounds/uploaded/OH38YHK/citrine_warbler_song.mp3",
        "description": "24 s", "creator": "Ada Lovelace", "license":
        "http://creativecommons.org/licenses/by-nc-sa/3.0/", "rightsHolder": "Ada Lovelace",
    }  # fmt: skip
    return sound | changes


def image(number: str) -> dict[str, str]:
    return media(
        number, type="StillImage", format="image/png", identifier="https://xeno-canto.org/a.png"
    )


def read(path: Path, **asked) -> list[Recording | Rejected]:
    return list(read_gbif(path, scratch=path.parent / "scratch", asked=Asked(**asked)))


def one(path: Path, **asked) -> Recording:
    (row,) = read(path, **asked)
    assert isinstance(row, Recording), row
    return row


@pytest.mark.parametrize("name", ["0012345-260601.zip", "unpacked"])
def test_xeno_canto_by_gbif(gbif_download, tmp_path, name):
    number = LOON["gbifID"]
    path = gbif_download(tmp_path / name, [LOON], [image(number), media(number), image(number)])
    row = one(path)
    assert (row.id, row.source, row.source_id) == ("xc:254462", "xc", "254462")
    assert row.licence_url == NC_SA, "the licence of the sound, not that of the occurrence"
    assert row.url.endswith("/citrine_warbler_song.mp3")
    assert row.attribution == "Ada Lovelace, XC254462, xeno-canto.org/254462"
    assert (row.sound_type, row.duration_s, row.country) == ("song", 24.0, "US")
    assert (row.datetime, row.lat, row.lon) == ("2015-06-23T07:17", 43.6571, -103.4143)
    assert row.group_id == "Ada Lovelace|43.66,-103.41|2015-06-23"
    assert row.names(BACKGROUND) == ["Crypturellus soui", "Pipilo maculatus"]
    label = row.labels[0]
    assert (label.name, label.rank, label.taxonomy) == ("Passerina amoena", "species", "xeno-canto")
    assert dict(label.ids) == {
        "gbif": "2491123", "kingdom": "Animalia", "phylum": "Chordata", "class": "Aves",
        "order": "Passeriformes", "family": "Cardinalidae",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"catalogNumber": "", "references": "", "occurrenceID": "x/XC254462"},
        {"catalogNumber": "", "occurrenceID": "", "references": "https://xeno-canto.org/254462"},
        {"catalogNumber": "", "occurrenceID": "254462@XC", "references": ""},
        {"datasetKey": ""},
        {"datasetKey": XC_ORTHOPTERA},
    ],
)
def test_the_number_is_found_wherever_it_stands(gbif_download, tmp_path, changes):
    path = gbif_download(tmp_path / "a.zip", [LOON | changes], [media(LOON["gbifID"])])
    assert one(path).id == "xc:254462"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verbatimScientificName": "Mystery mystery"}, "unidentified"),
        ({"verbatimScientificName": "Sonus naturalis"}, "soundscape"),
        ({"fieldNotes": "id?:yes; animal seen:no"}, "identity_questioned"),
        ({"catalogNumber": "", "occurrenceID": "", "references": ""}, "no_id"),
        ({"locality": "x" * 20_000}, "field_too_long"),
    ],
)
def test_what_of_xeno_canto_is_left_out(gbif_download, tmp_path, changes, reason):
    path = gbif_download(tmp_path / "a.zip", [LOON | changes], [media(LOON["gbifID"])])
    (row,) = read(path)
    assert isinstance(row, Rejected) and row.reason == reason


def test_the_publishers_archive(dwca_table, dwca_meta, dwca_files, tmp_path):
    """Commas, quotes, names of columns that are no terms, Audubon Core for the media."""
    terms = ["", DWC + "occurrenceID", DWC + "catalogNumber", DWC + "genus",
             DWC + "specificEpithet", DWC + "infraspecificEpithet",
             DWC + "scientificName"]  # fmt: skip
    titles = ["id", "occurrenceID", "catalogNumber", "genus", "specificEpithet",
              "infraspecificEpithet", "scientificName", "longitudeDecimal", "latitudeDecimal",
              "recordedBy", "eventDate", "eventTime", "fieldNotes", "behavior", "Associated Taxa",
              "license"]  # fmt: skip
    values = ["9@XC", "9@XC", "XC9", "Motacilla", "alba", "yarrellii",
              "Motacilla alba yarrellii Gould, 1837", "10.7", "59.9", 'Bob "B." Planqué',
              "1999-05-02", "06:30", "said: a, b", "call, song",
              "has background sounds: Crypturellus soui", "CC_BY_NC_4_0"]  # fmt: skip
    sound_titles = ["CoreId", "associatedObservationReference", "Identifier", "type", "Rating",
                    "creator", "accessURI", "format", "description", "license"]  # fmt: skip
    sound = ["9@XC", "x", "9@XC-1", "Sound", "4.0", "Bob", "https://xeno-canto.org/s/song.mp3",
             "audio/mpeg", "8 s", "http://creativecommons.org/licenses/by-nc-nd/2.5/"]  # fmt: skip
    still = ["9@XC", "x", "9@XC-2", "StillImage", "", "Bob", "https://x/y.png", "image/png", "", ""]

    def line(cells: list[str]) -> str:
        return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"

    sound_terms = ["", *(AC + title for title in sound_titles[1:])]
    meta = dwca_meta(
        dwca_table("core", DWC + "Occurrence", ["Occurrence.txt"], terms, separator=",", quote='"'),
        dwca_table(
            "extension", AC + "Multimedia", ["Multimedia.txt"], sound_terms, separator=",",
            quote='"',
        ),
    )  # fmt: skip
    files = {
        "meta.xml": meta,
        "Occurrence.txt": line(titles) + line(values),
        "Multimedia.txt": line(sound_titles) + line(still) + line(sound),
    }
    path = dwca_files(tmp_path / "wildlife-sounds-birds.dwca", files)
    (row,) = read_sources([path], scratch=tmp_path / "s")
    assert isinstance(row, Recording)
    assert (row.id, row.quality, row.duration_s) == ("xc:9", "B", 8.0)
    assert row.url == "https://xeno-canto.org/s/song.mp3"
    assert row.licence_url == "https://creativecommons.org/licenses/by-nc-nd/2.5/"
    assert row.recordist == 'Bob "B." Planqué' and row.sound_type == "call, song"
    assert (row.lat, row.lon, row.datetime) == (59.9, 10.7, "1999-05-02T06:30")
    assert [(x.name, x.rank, x.role) for x in row.labels] == [
        ("Motacilla alba yarrellii", "subspecies", "foreground"),
        ("Crypturellus soui", "species", "background"),
    ]


def test_inaturalist_has_the_number_of_the_sound(gbif_download, tmp_path):
    core = {
        "gbifID": "77", "datasetKey": INAT, "catalogNumber": "8291", "recordedBy": "Eve",
        "occurrenceID": "https://www.inaturalist.org/observations/8291", "taxonID": "24255",
        "scientificName": "Pseudacris regilla (Baird & Girard, 1852)", "taxonRank": "SPECIES",
        "verbatimScientificName": "Pseudacris regilla", "taxonKey": "Q2M4", "class": "Amphibia",
        "decimalLatitude": "37.1", "decimalLongitude": "-122.1", "eventDate": "2020-03-01T00:00:00",
        "informationWithheld": "Coordinate uncertainty increased; obscured at user request",
    }  # fmt: skip
    base = "https://static.inaturalist.org/sounds/"
    sounds = [
        media("77", identifier=f"{base}263113.wav?1624793769", format="audio/x-wav"),
        media("77", identifier=f"{base}263114.m4a?1624793770", description=""),
        media("77", identifier=f"{base}263114.m4a?1624793770"),
    ]
    path = gbif_download(tmp_path / "a.zip", [core], sounds)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "263114.m4a").write_bytes(b"x")
    first, second, again = read(path, audio=FileIndex(tmp_path / "audio", any_key))
    assert isinstance(first, Recording) and isinstance(second, Recording)
    assert (first.id, second.id) == ("inat:263113", "inat:263114")
    assert first.url == f"{base}263113.wav" and first.path == ""
    assert second.path.endswith("263114.m4a")
    assert first.group_id == second.group_id == "Eve||2020-03-01"
    label = first.labels[0]
    assert (label.name, label.taxonomy) == ("Pseudacris regilla", "inaturalist")
    assert dict(label.ids) == {"inat": "24255", "colxr": "Q2M4", "class": "Amphibia"}
    assert isinstance(again, Rejected) and again.reason == "repeated_sound"


def test_several_sounds_of_any_other_dataset(gbif_download, tmp_path):
    core = {
        "gbifID": "5", "datasetKey": "11111111-2222-3333-4444-555555555555",
        "recordedBy": "Finn|Greta", "scientificName": "Hyla viridis Laurenti, 1768",
        "acceptedScientificName": "Hyla arborea (Linnaeus, 1758)", "species": "Hyla arborea",
        "taxonRank": "SPECIES", "taxonomicStatus": "SYNONYM", "taxonKey": "1",
        "acceptedTaxonKey": "2427601", "eventDate": "2001-05-01/2001-05-09",
    }  # fmt: skip
    sounds = [
        media("5", identifier="http://museum.org/a.wav", license="", creator="Museum"),
        media("5", identifier="http://museum.org/b.wav", type="", format="audio/wav"),
        media("5", identifier="http://museum.org/c.mp4", type="MovingImage", format="video/mp4"),
        media("5", identifier="urn:catalog:9"),
    ]
    a, b, no_address = read(gbif_download(tmp_path / "a.zip", [core], sounds))
    assert isinstance(a, Recording) and isinstance(b, Recording)
    assert (a.id, b.id) == ("gbif:5", "gbif:5-2") and a.group_id == b.group_id
    assert a.licence_url == "", "the licence of the record is not that of the sound"
    assert a.attribution == "Museum, gbif.org/occurrence/5" and a.recordist == "Finn|Greta"
    assert a.datetime == "2001-05", "what both ends of the interval share"
    label = a.labels[0]
    assert (label.name, label.rank, label.taxonomy) == ("Hyla arborea", "species", "gbif-backbone")
    assert dict(label.ids) == {"gbif": "2427601"}
    assert isinstance(no_address, Rejected) and no_address.reason == "no_audio"


@pytest.mark.parametrize(
    ("taxon", "name", "rank", "taxonomy"),
    [
        ({"scientificName": "Anura", "taxonRank": "ORDER", "taxonKey": "952"},
         "Anura", "order", "gbif-backbone"),
        ({"scientificName": "Hyla Laurenti, 1768", "taxonRank": "GENUS", "genus": "Hyla",
          "taxonKey": "5BGQ"}, "Hyla", "genus", "colxr"),
        ({"scientificName": "Parus major major Linnaeus, 1758", "taxonRank": "SUBSPECIES",
          "species": "Parus major"}, "Parus major major", "subspecies", ""),
        ({"scientificName": "Parus major", "taxonRank": ""}, "Parus major", "species", ""),
        ({"scientificName": "BOLD:AAA1234", "taxonRank": "UNRANKED"}, None, None, None),
        ({"scientificName": "", "taxonRank": ""}, None, None, None),
    ],
)  # fmt: skip
def test_ranks_and_taxonomies(gbif_download, tmp_path, taxon, name, rank, taxonomy):
    path = gbif_download(tmp_path / "a.zip", [{"gbifID": "5"} | taxon],
                         [media("5", identifier="http://museum.org/a.wav")])  # fmt: skip
    (row,) = read(path)
    if name is None:
        assert isinstance(row, Rejected) and row.reason == "no_name"
    else:
        assert isinstance(row, Recording)
        label = row.labels[0]
        assert (label.name, label.rank, label.taxonomy) == (name, rank, taxonomy)


def test_regions_of_a_sound_are_no_labels_of_all_of_it(gbif_download, tmp_path):
    core = {"gbifID": "5", "scientificName": "Parus major", "species": "Parus major"}
    sounds = [
        media("5", identifier="http://museum.org/a.wav", startTime="0.5", endTime="2"),
        media("5", identifier="http://museum.org/b.wav"),
    ]
    timed, whole = read(gbif_download(tmp_path / "a.zip", [core], sounds))
    assert isinstance(whole, Recording) and isinstance(timed, Rejected)
    assert (timed.reason, timed.detail) == ("label_times", "from 0.5 s to 2 s")


def test_rows_that_meet_nothing_are_counted(gbif_download, tmp_path):
    silent = LOON | {"gbifID": "1", "catalogNumber": "XC1"}
    path = gbif_download(
        tmp_path / "a.zip", [LOON, silent], [media(LOON["gbifID"]), media("99"), image("1")]
    )
    rows = read(path)
    assert [row.reason for row in rows if isinstance(row, Rejected)] == [
        "no_sound", "no_occurrence",
    ]  # fmt: skip


def test_xeno_canto_takes_only_its_own_of_a_mixed_download(gbif_download, tmp_path):
    other = {"gbifID": "5", "datasetKey": INAT, "scientificName": "Hyla arborea"}
    path = gbif_download(
        tmp_path / "a.zip",
        [LOON, other],
        [media(LOON["gbifID"]), media("5", identifier="http://a/1.wav")],
    )
    mine, others = read_sources([path], scratch=tmp_path / "s")
    assert isinstance(mine, Recording) and mine.id == "xc:254462"
    assert isinstance(others, Rejected) and others.reason == "other_dataset"


def test_a_simple_download_gets_a_hint(dwca_table, dwca_meta, dwca_files, tmp_path):
    meta = dwca_meta(dwca_table("core", DWC + "Occurrence", ["occurrence.txt"], (DWC + "x",)))
    path = dwca_files(tmp_path / "a.zip", {"meta.xml": meta, "occurrence.txt": "x\n1\n"})
    with pytest.raises(PrepError, match=r"no multimedia table.*not 'Simple'"):
        read(path)


def test_the_command(gbif_download, tmp_path):
    path = gbif_download(tmp_path / "a.zip", [LOON], [media(LOON["gbifID"])])
    out = tmp_path / "table"
    result = CliRunner().invoke(prep_app, ["gbif", str(path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [row.id for row in read_recordings(out)] == ["xc:254462"]
    assert sorted(p.name for p in out.iterdir()) == [
        "recordings.parquet", "rejected.parquet", "summary.json",
    ]  # fmt: skip


def test_a_broken_download_leaves_no_table(gbif_download, tmp_path):
    path = gbif_download(tmp_path / "a.zip", [LOON], [media(LOON["gbifID"])])
    path.write_bytes(path.read_bytes()[:-100])
    out = tmp_path / "table"
    result = CliRunner().invoke(prep_app, ["gbif", str(path), "--out", str(out)])
    assert result.exit_code == 2 and "Download it again" in result.output
    assert not out.exists() or not list(out.iterdir())
