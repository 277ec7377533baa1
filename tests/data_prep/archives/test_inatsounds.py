"""iNatSounds 2024: COCO-like JSON with NaN, plain and packed, beside its audio."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.json_files import Document, documents
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording_table import read_recordings


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(prep_app, ["inaturalist", *map(str, arguments)])


def rejected(out: Path) -> dict[str, str]:
    """{reason: a recording id} of a table."""
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return {row["reason"]: row["recording_id"] for row in rows}


def inatsounds(split: str, count: int) -> dict[str, Any]:
    folder = "00042_Animalia_Chordata_Aves_Passeriformes_Cardinalidae_Passerina_amoena"
    return {
        "info": {"year": 2024, "version": "1"},
        "audio": [
            {
                "id": n,
                "duration": 12.5,
                "file_name": f"{split}/{folder}/{n:04d}.wav",
                "license": 1,
                "rights_holder": "Ann Person",
                "date": "2020-05-04 07:30:00+00:00",
                "latitude": 43.6571,
                "longitude": -103.4143 if n else float("nan"),
                "location_uncertainty": float("nan") if n % 2 else None,
            }
            for n in range(count)
        ],
        "categories": [
            {
                "id": 42,
                "name": "Passerina amoena",
                "common_name": "Lazuli Bunting",
                "supercategory": "Aves",
                "kingdom": "Animalia",
                "phylum": "Chordata",
                "class": "Aves",
                "order": "Passeriformes",
                "family": "Cardinalidae",
                "genus": "Passerina",
                "specific_epithet": "amoena",
                "audio_dir_name": folder,
                "evaluation": True,
            }
        ],
        "annotations": [{"id": n, "audio_id": n, "category_id": 42} for n in range(count - 1)],
        "licenses": [
            {"id": 1, "name": "CC BY-NC 4.0",
             "url": "http://creativecommons.org/licenses/by-nc/4.0/"}
        ],
    }  # fmt: skip


def test_inatsounds_keeps_its_split_and_says_its_terms(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 3)):
        data = inatsounds(split, count)
        text = json.dumps(data)
        assert "NaN" in text
        for item in data["audio"][:-2]:
            path = tmp_path / item["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(2205), 22050)
        if split == "train":
            (tmp_path / "train.json").write_text(text)
        with tarfile.open(tmp_path / f"{split}.json.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(f"{split}.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "no redistribution" in result.output
    assert "redistribution" in (tmp_path / "out" / "summary.json").read_text()
    table = list(read_recordings(tmp_path / "out"))
    assert [(row.id, row.split) for row in table] == [
        ("inatsounds:train/0", "train"), ("inatsounds:train/1", "train"),
        ("inatsounds:val/0", "val"),
    ]  # fmt: skip
    assert rejected(tmp_path / "out").keys() == {"missing_file", "unidentified"}
    row = table[1]
    assert (row.duration_s, row.datetime) == (12.5, "2020-05-04T07:30")
    assert row.licence_url == "https://creativecommons.org/licenses/by-nc/4.0/"
    assert (tmp_path / row.path).is_file()
    assert dict(row.labels[0].ids)["class"] == "Aves"
    assert table[0].lon is None  # NaN
    with pytest.raises(PrepError):
        Document("x", lambda: documents(tmp_path / "nothing")[0].open()).open()
