from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.animal_sound_archive import read_animal_sound_archive
from dawnchorus.data_prep.archives.file_index import FileIndex, asa_key
from dawnchorus.data_prep.archives.gbif import ASA_LICENCE, Asked
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, Recording
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings

DATASET = "b7ec1bf8-819b-11e2-bad2-00145eb45e9a"
CSV = """\
,tsa_id,originals_path,scientificName,recordedBy,eventDate,soundType,soundQuality,duration_seconds,\
sex,lifeStage,backgroundSpecies,occurrenceRemarks,country,decimalLatitude,decimalLongitude,license
0,TSA:Anas_acuta_DIG_195_3_0,Y:\\Originale\\Anas_acuta_DIG0195_03.mp3,"Anas acuta Linnaeus, 1758",\
"Frommolt, K.-H.",1999-05-02,Ruf,gut,12.5,,,"Turdus merula, Wind","Zoo Berlin, Käfig",Germany,\
52.5,13.4,https://creativecommons.org/licenses/by-sa/4.0/
1,TSA:4711,D:\\alt\\Bufo_bufo_S0001_01.mp3,Bufo bufo,,1961,,,3,,,,,,,,
2,TSA:Canis_lupus_X_7,/mnt/originals/Canis_lupus_X7.mp3,Canis lupus,,,,,,,,,,,,,
3,TSA:unknown_X_8,/mnt/originals/unknown_X8.mp3,,,,,,,,,,,,,,
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "asa"
    for name in ("mp3/a/Anas_acuta_DIG0195_03_short.mp3", "mp3/Bufo_bufo_S0001_01.mp3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "metadata.csv").write_text(CSV, encoding="utf-8")
    return root


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_tables_of_other_programs(tmp_path: Path, encoding: str) -> None:
    """UTF-16 with old line ends and a stated separator, as a spreadsheet may save it."""
    text = "sep=;\rtsa_id;scientificName;url;lat;lon\r7;Bubo bubo;http://x/7;52,5;13,4\r"
    (tmp_path / "asa.csv").write_bytes(text.encode(encoding))
    (row,) = read_animal_sound_archive(tmp_path / "asa.csv", scratch=tmp_path, asked=Asked())
    assert isinstance(row, Recording) and (row.lat, row.lon) == (52.5, 13.4)


def test_folder_and_table(folder):
    asked = Asked(audio=FileIndex(folder, asa_key))
    duck, toad, wolf, unknown = read_animal_sound_archive(folder, scratch=folder, asked=asked)
    assert isinstance(duck, Recording) and isinstance(toad, Recording)
    assert duck.id == "asa:Anas_acuta_DIG_195_3_0"
    assert duck.path == str(folder / "mp3/a/Anas_acuta_DIG0195_03_short.mp3")
    assert [(x.name, x.rank, x.role) for x in duck.labels] == [
        ("Anas acuta", "species", "foreground"),
        ("Turdus merula", "species", BACKGROUND),
    ]
    assert duck.licence_url == "https://creativecommons.org/licenses/by-sa/4.0/"
    assert (duck.sound_type, duck.quality, duck.duration_s) == ("Ruf", "gut", 12.5)
    assert (duck.datetime, duck.lat, duck.country) == ("1999-05-02", 52.5, "Germany")
    assert duck.group_id == "Frommolt, K.-H.|52.50,13.40|1999-05-02"
    assert duck.attribution == (
        "Frommolt, K.-H., Tierstimmenarchiv Anas_acuta_DIG_195_3_0, Museum für Naturkunde Berlin"
    )
    assert (toad.datetime, toad.licence_url) == ("1961", ASA_LICENCE)
    assert toad.group_id == "asa:4711"
    assert asked.notes["no_licence"] == 1
    assert isinstance(wolf, Rejected) and (wolf.reason, wolf.recording_id) == (
        "no_audio", "asa:Canis_lupus_X_7",
    )  # fmt: skip
    assert isinstance(unknown, Rejected) and unknown.reason == "no_name"


@pytest.mark.parametrize("split", [False, True])
def test_the_command_finds_the_files_and_says_the_licence(folder, tmp_path, split):
    out = tmp_path / "out"
    command = ["animal-sound-archive", str(folder), "--out", str(out)]
    if split:
        command[1] = str(folder / "metadata.csv")
        command += ["--audio", str(folder / "mp3")]
    result = CliRunner().invoke(prep_app, command)
    assert result.exit_code == 0, result.output
    assert "1 recordings of the Animal Sound Archive state no licence" in result.output
    assert "BY-NC-SA 4.0" in result.output and "no_audio 1, no_name 1" in result.output
    assert all(Path(row.path).is_file() for row in read_recordings(out))


def test_gbif_download(gbif_download, tmp_path):
    base = {
        "datasetKey": DATASET, "taxonRank": "SPECIES",
        "scientificName": "Anas acuta Linnaeus, 1758",
        "verbatimScientificName": "Anas acuta Linnaeus, 1758", "license": "CC_BY_4_0",
        "class": "Aves",
    }  # fmt: skip
    cores = [
        base | {"gbifID": "1", "catalogNumber": "TSA:Anas_acuta_DIG_195_3_0"},
        base | {"gbifID": "2", "catalogNumber": "TSA:Anas_acuta_DIG_196_1_0"},
        base | {"gbifID": "3", "datasetKey": "11111111-2222-3333-4444-555555555555"},
    ]
    host = "http://www.tierstimmenarchiv.de/recordings/"
    sounds = [
        {"gbifID": "1", "type": "Sound", "identifier": f"{host}Anas_acuta_DIG0195_03_short.mp3",
         "license": "http://creativecommons.org/licenses/by-sa/4.0/", "creator": "Karl"},
        {"gbifID": "2", "type": "Sound", "identifier": f"{host}Anas_acuta_DIG0196_01_short.mp3"},
        {"gbifID": "2", "type": "Sound", "identifier": f"{host}other.mp3"},
        {"gbifID": "3", "type": "Sound", "identifier": "http://museum.org/a.mp3"},
    ]  # fmt: skip
    path = gbif_download(tmp_path / "a.zip", cores, sounds)
    (tmp_path / "mp3").mkdir()
    (tmp_path / "mp3" / "Anas_acuta_DIG0195_03.mp3").write_bytes(b"x")
    out = tmp_path / "out"
    command = ["animal-sound-archive", str(path), "--audio", str(tmp_path / "mp3")]
    result = CliRunner().invoke(prep_app, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "other_dataset 1" in result.output and "2 recordings of the Animal" in result.output
    first, second, third = read_recordings(out)
    assert first.id == "asa:Anas_acuta_DIG_195_3_0"
    assert first.path.endswith("DIG0195_03.mp3") and first.url.startswith(host)
    assert first.licence_url == "https://creativecommons.org/licenses/by-sa/4.0/"
    assert first.labels[0].name == "Anas acuta" and first.recordist == "Karl"
    assert (second.id, second.path) == ("asa:Anas_acuta_DIG_196_1_0", "")
    assert second.licence_url == ASA_LICENCE
    assert third.id == "asa:Anas_acuta_DIG_196_1_0-2" and third.group_id == second.group_id


def test_keys_of_catalogue_numbers_and_files():
    def shared(a: str, b: str) -> bool:
        return bool(set(asa_key(a)) & set(asa_key(b)))

    assert shared("Anas_acuta_DIG_195_3_0", "Anas_acuta_DIG0195_03_short.mp3")
    assert not shared("Anas_acuta_DIG_195_3_0", "Anas_acuta_DIG0195_04_short.mp3")
    assert not shared("Anas_acuta_DIG_195_3_1", "Anas_acuta_DIG0195_03_short.mp3")
    assert not shared("Anas_acuta_DIG_195_3_0", "Anas_crecca_DIG0195_03_short.mp3")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"a,b\n1,2\n", "no column for the recording"),
        ("a.csv", b"\xff\xfe\0", "cut off"),
        ("a.txt.bin", b"x", "neither a GBIF download"),
    ],
)
def test_foreign_folders(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepError, match=says):
        list(read_animal_sound_archive(tmp_path, scratch=tmp_path / "s", asked=Asked()))
