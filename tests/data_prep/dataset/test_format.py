"""The dataset on disk: the format to the letter, and reading it with other libraries."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.audio.decode import decode

REPO = Path(__file__).resolve().parents[3]


def read_index(dataset: Path) -> list[dict[str, Any]]:
    return pq.read_table(dataset / "index.parquet").to_pylist()


def member(dataset: Path, row: dict[str, Any]) -> bytes:
    with (dataset / row["shard"]).open("rb") as file:
        return os.pread(file.fileno(), row["size"], row["offset"])


def test_the_index_points_at_the_audio(dataset: Path, archive: Path) -> None:
    rows = read_index(dataset)
    recordings = {
        row["id"]: row for row in pq.read_table(dataset / "recordings.parquet").to_pylist()
    }
    names = [label["name"] for label in json.loads((dataset / "labels.json").read_text())["labels"]]
    assert len(rows) == len(recordings) == 24
    for row in rows:
        wav_T, rate_hz = soundfile.read(io.BytesIO(member(dataset, row)), dtype="int16")
        assert (len(wav_T), rate_hz) == (row["samples"], row["sample_rate_hz"])
        recording = recordings[row["recording_id"]]
        pcm, _ = decode(archive / recording["path"], 16000)
        np.testing.assert_array_equal(wav_T, pcm.read(0, pcm.samples))
        assert [names[i] for i in row["label_ids"]] == [x["name"] for x in recording["labels"]]
        assert row["group_id"] == recording["group_id"] == recording["recordist"]
        assert row["fold"] == recording["fold"] and row["background_ids"] == []
        assert row["codec"] == "flac" and row["split"] == "train" and row["start_s"] == 0


def test_the_index_has_the_columns_and_types_of_the_format(dataset: Path) -> None:
    schema = pq.read_schema(dataset / "index.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "key": "string", "split": "string", "shard": "string", "offset": "int64", "size": "int64",
        "codec": "string", "sample_rate_hz": "int32", "samples": "int64",
        "label_ids": "list<element: int32>", "background_ids": "list<element: int32>",
        "recording_id": "string", "start_s": "double", "group_id": "string", "fold": "string",
        "licence_id": "int32",
    }  # fmt: skip


def test_the_tars_hold_pairs_in_the_order_of_the_index(dataset: Path) -> None:
    rows = read_index(dataset)
    shards = sorted(str(path.relative_to(dataset)) for path in dataset.glob("train/*"))
    assert shards == sorted({row["shard"] for row in rows})
    for shard in shards:
        with tarfile.open(dataset / shard) as tar:
            members = tar.getmembers()
        keys = [row["key"] for row in rows if row["shard"] == shard]
        assert [m.name for m in members] == [f"{key}.{x}" for key in keys for x in ("flac", "json")]
        offsets = [m.offset_data for m in members[::2]]
        assert offsets == [row["offset"] for row in rows if row["shard"] == shard]
        assert all((m.mtime, m.uid, m.uname) == (0, 0, "") for m in members)


def test_labels_licences_stats(dataset: Path) -> None:
    labels = json.loads((dataset / "labels.json").read_text())
    assert labels == {
        "version": 1,
        "labels": [
            {"id": i, "name": name, "rank": "", "taxonomy": ""}
            for i, name in enumerate(["Bubo bubo", "Parus major", "Turdus merula"])
        ],
    }
    licences = pq.read_table(dataset / "licences.parquet").to_pylist()
    rows = read_index(dataset)
    assert [row["licence_id"] for row in licences] == list(range(len(licences)))
    assert sum(row["clips"] for row in licences) == 24
    hours = sum(row["samples"] for row in rows) / 16000 / 3600
    assert sum(row["hours"] for row in licences) == pytest.approx(hours)
    assert {row["licence_url"] for row in licences} == {
        "https://creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/publicdomain/zero/1.0/",
    }
    assert len({(row["licence_url"], row["recordist"]) for row in licences}) == len(licences) == 4
    stats = json.loads((dataset / "stats.json").read_text())
    assert stats["clips"] == stats["recordings"] == 24 and stats["labels"] == 3
    assert stats["hours"] == pytest.approx(hours) and stats["rejected"] == 0
    assert stats["splits"] == {"train": {"clips": 24, "hours": stats["hours"]}}
    assert stats["clips_per_label"] == {"Bubo bubo": 8, "Parus major": 8, "Turdus merula": 8}
    assert stats["folds"] == {"0": 12, "1": 12} and stats["groups"] == 4
    assert pq.read_table(dataset / "rejected.parquet").num_rows == 0


def test_the_card(dataset: Path) -> None:
    text = (dataset / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["license"] == "other" and meta["size_categories"] == ["n<1K"]
    assert meta["configs"][0]["data_files"] == [{"split": "train", "path": "train/*.tar"}]
    for part in ("# birds", "CC BY 4.0", "CC0 1.0", "Parus major", "webdataset", "soxr"):
        assert part in body
    # The loading code of the card must work as it stands, in the dataset's folder.
    code = body.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + "\nprint(rate, names)"],
        cwd=dataset, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("16000 ['"), done.stderr


def test_the_code_of_the_guide_runs(archive: Path, dataset: Path, tmp_path: Path) -> None:
    """Every Python block of docs/data.md, in a folder where the names it uses exist."""
    blocks = (REPO / "docs" / "data.md").read_text().split("```python\n")[1:]
    code = [block.split("```")[0] for block in blocks]
    assert len(code) == 4
    (tmp_path / "datasets").mkdir()
    (tmp_path / "my_birds").symlink_to(archive)
    prepare_folder(tmp_path / "my_birds", tmp_path / "datasets" / "my_birds", jobs=1)
    checks = "\nassert len(clips) == stats['clips'] == 24 and len(wav) and sample_rate_hz == 16000"
    program = tmp_path / "guide.py"
    program.write_text("\n".join(code) + "    " + checks.strip())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPO), "HF_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_webdataset_reads_it(dataset: Path) -> None:
    import webdataset

    shards = [str(path) for path in sorted(dataset.glob("train/*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    rows = read_index(dataset)
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        record = json.loads(sample["json"])
        assert record["id"] == row["recording_id"] and record["key"] == row["key"]
        assert record["duration_s"] == row["samples"] / 16000
        assert sample["flac"][:4] == b"fLaC" and len(sample["flac"]) == row["size"]


def load_with_datasets(files: list[Path], cache: Path) -> list[dict[str, Any]]:
    """Load without decoding audio, which would need FFmpeg's libraries on the machine."""
    import datasets

    streamed = datasets.load_dataset(
        "webdataset", data_files={"train": [str(f) for f in files]}, split="train", streaming=True
    )
    assert isinstance(streamed.features["flac"], datasets.Audio)
    features = datasets.Features(streamed.features | {"flac": datasets.Value("binary")})
    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(f) for f in files]},
        split="train",
        features=features,
        cache_dir=str(cache),
    )
    return [dict(row) for row in loaded]


def test_datasets_reads_it(dataset: Path, tmp_path: Path) -> None:
    rows = read_index(dataset)
    loaded = load_with_datasets(sorted(dataset.glob("train/*.tar")), tmp_path)
    assert [item["__key__"] for item in loaded] == [row["key"] for row in rows]
    wav_T, rate_hz = soundfile.read(io.BytesIO(loaded[0]["flac"]))
    assert (len(wav_T), rate_hz) == (rows[0]["samples"], 16000)
    assert loaded[0]["json"]["labels"][0]["role"] == "foreground"


def test_datasets_reads_a_mixture_of_labelled_and_not(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    """Types are guessed from the first five clips: no clip may differ in type from another."""
    rows = make_rows(12, ["wav"])
    for i, row in enumerate(rows):
        if i != 7:
            row["label"], row["fold"] = "", ""
        row |= {"lat": "52.5" if i > 8 else "", "background": "Bubo bubo" if i == 3 else ""}
    make_folder(tmp_path / "mixed", rows)
    prepare_folder(tmp_path / "mixed", tmp_path / "out", jobs=1, shard_size_mb=1000)
    loaded = load_with_datasets(sorted(tmp_path.glob("out/train/*.tar")), tmp_path / "cache")
    assert sorted(len(item["json"]["labels"]) for item in loaded) == [0] * 10 + [1] * 2
    assert sorted({item["json"]["lat"] for item in loaded}) == ["", "52.5"]


def test_others_read_clips_with_events(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    """Clips with events, negatives, and clips whose labels hold for all of them."""
    import webdataset

    make_folder(tmp_path / "long", make_rows(3, ["wav"]), seconds=20.0)
    names = [row["filename"] for row in make_rows(3, ["wav"])]
    (tmp_path / "ann.csv").write_text(f"file,start,end,label\n{names[0]},1,2,x\n{names[1]},,,\n")
    prepare_folder(tmp_path / "long", tmp_path / "out", jobs=1, annotations=tmp_path / "ann.csv")
    tars = sorted(tmp_path.glob("out/train/*.tar"))
    loaded = load_with_datasets(tars, tmp_path / "cache")
    assert sorted(len(item["json"]["events"]) for item in loaded) == [0] * 7 + [1]
    (event,) = next(item["json"]["events"] for item in loaded if item["json"]["events"])
    assert (event["start_s"], event["end_s"], event["label"]) == (1.0, 2.0, "x")
    found = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    assert len(list(found)) == 8


def test_pieces_cover_long_recordings(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    make_folder(tmp_path / "long", make_rows(8, ["wav"]), seconds=5.0)
    prepare_folder(tmp_path / "long", tmp_path / "out", jobs=1, max_piece_s=2.0, codec="wav")
    rows = read_index(tmp_path / "out")
    assert len(rows) == 24
    for recording in pq.read_table(tmp_path / "out" / "recordings.parquet").to_pylist():
        pieces = sorted(
            (row for row in rows if row["recording_id"] == recording["id"]),
            key=lambda row: row["start_s"],
        )
        assert [row["start_s"] for row in pieces] == pytest.approx([0, 5 / 3, 10 / 3], abs=1e-4)
        stored = [
            soundfile.read(io.BytesIO(member(tmp_path / "out", p)), dtype="int16")[0]
            for p in pieces
        ]
        pcm, _ = decode(tmp_path / "long" / recording["path"], 16000)
        np.testing.assert_array_equal(np.concatenate(stored), pcm.read(0, pcm.samples))
        assert recording["clips"] == 3
        assert [row["key"][-5:] for row in pieces] == ["_0000", "_0001", "_0002"]
    first_shard = [row["recording_id"] for row in rows]
    neighbours = sum(a == b for a, b in pairwise(first_shard))
    assert neighbours < 8  # 16 if the pieces of a recording were left together


def test_splits_folds_and_background(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    rows = make_rows(12, ["flac"])
    for i, row in enumerate(rows):
        row["split"] = ("train", "train", "test")[i % 3]
        row["background"] = "Strix aluco;Parus major" if i == 0 else ""
        row["fold"] = "" if i == 5 else row["fold"]
    make_folder(tmp_path / "a", rows)
    stats = prepare_folder(tmp_path / "a", tmp_path / "out", jobs=1)
    assert {k: v["clips"] for k, v in stats["splits"].items()} == {"test": 4, "train": 8}
    names = [x["name"] for x in json.loads((tmp_path / "out/labels.json").read_text())["labels"]]
    assert names == sorted([*{row["label"] for row in rows}, "Strix aluco"])
    index = {row["key"]: row for row in read_index(tmp_path / "out")}
    first = index["rec000_0000"]
    assert [names[i] for i in first["background_ids"]] == ["Strix aluco"]
    assert [names[i] for i in first["label_ids"]] == ["Parus major"]
    assert index["rec005_0000"]["fold"] is None
    assert all(row["shard"].startswith(row["split"] + "/") for row in index.values())


def test_real_recordings(real_sound: Path, tmp_path: Path) -> None:
    """All of xc_birds, grouped by recordist: every piece readable, every licence kept."""
    stats = prepare_folder(
        real_sound / "xc_birds", tmp_path / "xc", group_column="recordist", id_column="xc_id",
        source_name="xc", rank="species", jobs=2,
    )  # fmt: skip
    assert stats["recordings"] == 271 and stats["rejected"] == 0
    assert stats["hours"] == pytest.approx(0.98, abs=0.02)
    for row in read_index(tmp_path / "xc")[::40]:
        wav_T, _ = soundfile.read(io.BytesIO(member(tmp_path / "xc", row)), dtype="int16")
        assert len(wav_T) == row["samples"] and wav_T.any()
    licences = pq.read_table(tmp_path / "xc" / "licences.parquet").to_pylist()
    assert all("creativecommons.org" in row["licence_url"] and row["recordist"] for row in licences)
