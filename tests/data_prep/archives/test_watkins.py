"""Watkins in its three circulating shapes; audio made here, names as the releases spell them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.table_rows import write_audio
from dawnchorus.data_prep.archives.watkins import (
    LICENCE,
    NAMES,
    group_of_cut,
    label_of,
    name_table,
    nearest,
    plain_name,
)
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.table.recording_table import read_recordings

# The 32 species of the "best of" cuts, as BEANS and Hugging Face spell them.
BEST_OF = [
    "Atlantic_Spotted_Dolphin", "Bearded_Seal", "Beluga,_White_Whale", "Bottlenose_Dolphin",
    "Bowhead_Whale", "Clymene_Dolphin", "Common_Dolphin", "False_Killer_Whale",
    "Fin,_Finback_Whale", "Frasers_Dolphin", "Grampus,_Rissos_Dolphin", "Harp_Seal",
    "Humpback_Whale", "Killer_Whale", "Leopard_Seal", "Long-Finned_Pilot_Whale",
    "Melon_Headed_Whale", "Minke_Whale", "Narwhal", "Northern_Right_Whale",
    "Pantropical_Spotted_Dolphin", "Ross_Seal", "Rough-Toothed_Dolphin",
    "Short-Finned_Pacific_Pilot_Whale", "Southern_Right_Whale", "Sperm_Whale", "Spinner_Dolphin",
    "Striped_Dolphin", "Walrus", "Weddell_Seal", "White-beaked_Dolphin", "White-sided_Dolphin",
]  # fmt: skip


def wav_bytes(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(2000)
    soundfile.write(buffer, noise, 16000, format="WAV")
    return buffer.getvalue()


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["watkins", *map(str, arguments)])


def rejected(out: Path) -> dict[str, dict[str, str]]:
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["recording_id"]: row for row in rows}


def test_all_names_of_the_best_of_cuts_are_species() -> None:
    labels = [label_of(name) for name in BEST_OF]
    assert all(label is not None and label.rank == "species" for label in labels)
    assert len({label.name for label in labels if label}) == 32


@pytest.mark.parametrize(
    ("name", "scientific"),
    [
        ("Beluga,_White_Whale", "Delphinapterus leucas"),
        ("Fin, Finback Whale", "Balaenoptera physalus"),
        ("Grampus, Risso’s Dolphin", "Grampus griseus"),
        ("Risso's dolphin", "Grampus griseus"),
        ("Short-Finned (Pacific) Pilot Whale", "Globicephala macrorhynchus"),
        ("Melon-headed whale", "Peponocephala electra"),
        ("Grey_Whale", "Eschrichtius robustus"),
        ("Harbour Porpoise", "Phocoena phocoena"),
        ("Boutu,_Amazon_River_Dolphin", "Inia geoffrensis"),
        ("Orcinus orca", "Orcinus orca"),
        ("Commersons_Dolphin", "Cephalorhynchus commersonii"),
    ],
)
def test_spellings(name: str, scientific: str) -> None:
    label = label_of(name)
    assert label is not None and label.name == scientific


def test_the_table_is_sound() -> None:
    with NAMES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 100
    for row in rows:
        words = row["scientific_name"].split()
        assert {"species": 2, "genus": 1, "family": 1}[row["rank"]] == len(words), row
        assert words[0][0].isupper() and words[-1][1:].islower()
        assert row["family"].endswith("idae")
        assert (row["rank"] == "family") == (row["scientific_name"] == row["family"])
    names = [row["scientific_name"] for row in rows]
    assert len(set(names)) == len(names)
    genus_family = {row["scientific_name"].split()[0]: row["family"] for row in rows}
    assert all(genus_family[r["scientific_name"].split()[0]] == r["family"] for r in rows)
    assert name_table()  # raises when a spelling means two things


def test_a_name_of_several_species_stays_a_genus_and_unknown_ones_are_not_guessed() -> None:
    pilot = label_of("Pilot Whale")
    assert pilot is not None and (pilot.name, pilot.rank) == ("Globicephala", "genus")
    assert label_of("Grampus") is not None and label_of("_Rissos_Dolphins") is None
    assert label_of("Whale") is None and label_of("") is None
    assert nearest("Humpbak_Wale")[0] == "humpback whale"
    assert nearest("Crocodile") == []
    assert plain_name("Fin,_Finback_Whale") == "fin finback whale"


@pytest.mark.parametrize(
    ("cut", "group"),
    [
        ("59030023", "watkins:tape 59030"),
        ("9220100Q", "watkins:tape 92201"),
        ("5903", "watkins:5903"),
        ("sound_1", "watkins:sound_1"),
    ],
)
def test_cuts_are_grouped_by_tape(cut: str, group: str) -> None:
    assert group_of_cut(cut) == group


def test_beans_table(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    rows = [
        ("wav/59030023.wav", "Beluga,_White_Whale"),
        ("wav/59030024.wav", "Beluga,_White_Whale"),
        ("wav/61064006.wav", "Fin,_Finback_Whale"),
        ("wav/61064006.wav", "Humpback_Whale"),  # heard on the same cut
        ("wav/72001001.wav", "Sea_Serpent"),
        ("wav/72001002.wav", "Walrus"),
    ]
    for path, _ in rows[:-1]:
        (tmp_path / path).write_bytes(wav_bytes())
    with (tmp_path / "annotations.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("", "path", "species"))
        table.writerows((i, *row) for i, row in enumerate(rows))
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "personal or academic use" in result.output
    found = list(read_recordings(tmp_path / "out"))
    assert [row.id for row in found] == [
        "watkins:59030023", "watkins:59030024", "watkins:61064006",
    ]  # fmt: skip
    assert found[0].group_id == found[1].group_id == "watkins:tape 59030"
    assert found[0].names("foreground") == ["Delphinapterus leucas"]
    assert found[2].names("foreground") == ["Balaenoptera physalus", "Megaptera novaeangliae"]
    assert found[0].licence_url == LICENCE and "Woods Hole" in found[0].attribution
    assert dict(found[0].labels[0].ids)["class"] == "Mammalia"
    out = rejected(tmp_path / "out")
    assert out["watkins:72001001"]["reason"] == "unknown_name"
    assert out["watkins:72001002"]["reason"] == "missing_file"
    # The same with the audio elsewhere and the file named itself.
    result = run(tmp_path / "annotations.csv", "--audio", tmp_path / "wav", "--out",
                 tmp_path / "two")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert list(read_recordings(tmp_path / "two")) == found


def test_a_folder_per_species(tmp_path: Path) -> None:
    for name, cut in (
        ("Grampus,_Rissos_Dolphin", "63015001"),
        ("Sperm_Whale", "63015002"),
        ("notes", "63015003"),
    ):
        folder = tmp_path / "watkins" / name
        folder.mkdir(parents=True)
        (folder / f"{cut}.wav").write_bytes(wav_bytes())
        (folder / "readme.txt").write_text("x")
    result = run(tmp_path / "watkins", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = list(read_recordings(tmp_path / "out"))
    assert [row.names("foreground") for row in found] == [
        ["Grampus griseus"], ["Physeter macrocephalus"],
    ]  # fmt: skip
    assert {row.group_id for row in found} == {"watkins:tape 63015"}
    assert all(Path(row.path).is_file() for row in found)
    assert rejected(tmp_path / "out")["watkins:63015003"]["reason"] == "unknown_name"


def hugging_face(path: Path, rows: list[dict[str, Any]], *, names: list[str] | None) -> None:
    """Write a parquet file as the `datasets` package does."""
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("file", pa.string()), ("audio", audio), ("species", pa.string()), ("label", pa.int64())]
    )
    features = {"label": {"names": names, "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)), path)


def test_parquet_with_the_audio_inside(tmp_path: Path) -> None:
    names = ["Fin,_Finback_Whale", "Walrus"]
    rows = [
        {"file": f"{cut}.wav", "audio": {"bytes": wav_bytes(i), "path": inside},
         "species": species, "label": i % 2}
        for i, (cut, inside, species) in enumerate(
            [("59030023", "59030023.wav", names[0]), ("59030024", "../../evil.wav", None),
             ("59030025", "a b/59030025.wav", names[0]), ("59030026", "same.wav", names[1]),
             ("59030027", "same.wav", names[0])]
        )
    ]  # fmt: skip
    hugging_face(tmp_path / "data" / "train-00000-of-00001.parquet", rows[:3], names=names)
    hugging_face(tmp_path / "data" / "test-00000-of-00001.parquet", rows[3:], names=names)
    out = tmp_path / "out"
    result = run(tmp_path / "data", "--out", out)
    assert result.exit_code == 0, result.output
    found = {row.source_id: row for row in read_recordings(out)}
    assert set(found) == {row["file"][:-4] for row in rows}
    assert found["59030024"].names("foreground") == ["Odobenus rosmarus"]  # by its class label
    assert {row.split for row in found.values()} == {"train"}  # the random split is not kept
    for row in rows:
        path = Path(found[row["file"][:-4]].path)
        assert path.read_bytes() == row["audio"]["bytes"]
        assert path.parent == out / "audio"
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.parent.glob("evil*"))
    before = {p: p.stat().st_mtime_ns for p in (out / "audio").iterdir()}
    assert run(tmp_path / "data", "--out", out).exit_code == 0  # again: nothing written anew
    assert {p: p.stat().st_mtime_ns for p in (out / "audio").iterdir()} == before


def test_a_half_written_file_of_a_stopped_run_is_mended(tmp_path: Path) -> None:
    content = wav_bytes()
    first = write_audio(content, "x/59030023.wav", tmp_path)
    assert write_audio(content, "59030023.wav", tmp_path) == first
    assert write_audio(content, "...", tmp_path).name == "recording"
    (tmp_path / ".59030023.wav.1.part").write_bytes(content[:10])
    assert first.read_bytes() == content and first.name == "59030023.wav"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("annotations.csv", b"a,b\n1,2\n", "path and species"),
        ("annotations.csv", b"\xff\xfe\x00path", "UTF-8"),
        ("x.parquet", b"PAR1" + b"x" * 100, "no parquet"),
        ("notes/x.txt", b"", "a folder per species"),
    ],
)
def test_what_is_not_watkins_is_an_error(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    result = run(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output.replace("\n", " ")
    assert not (tmp_path / "out" / "recordings.parquet").exists()


def test_bad_rows_of_a_table_are_listed(tmp_path: Path) -> None:
    (tmp_path / "59030023.wav").write_bytes(wav_bytes())
    (tmp_path / "annotations.csv").write_bytes(
        b"path,species\n59030023.wav,Walrus\n59030024.wav\nx.wav,caf\xe9\n"
        b"n\0.wav,Walrus\n" + b"y" * 10_000_000 + b",Walrus\n,Walrus\n"
    )
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["recordings"] == 1
    assert sum(summary["rejected"].values()) == 5
    assert {"line_too_long", "nul_byte", "wrong_encoding", "no_id"} <= summary["rejected"].keys()
