from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dawnchorus.trainer.data.index import LabelSpace, ShardIndex
from dawnchorus.trainer.errors import DataError


def edit_index(dataset: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    table = pq.read_table(dataset / "index.parquet")
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), dataset / "index.parquet")


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """12 clips; `valid` has every third; folds a, b and none."""
    clips = [
        {
            "wav": np.full(1600 + i, i, dtype=np.int16),
            "labels": ["wren"] if i % 2 else ["wren", "robin"],
            "split": "valid" if i % 3 == 0 else "train",
            "fold": [None, "a", "b"][(i // 3) % 3],
            "group": f"site{i % 4}",
        }
        for i in range(12)
    ]
    root = tmp_path_factory.mktemp("two") / "two"
    return make_dataset(root, clips, ["robin", "wren"], per_shard=3)


# ------------------------------------------------------------------ opening and choosing


def test_what_the_index_says_is_what_was_written(
    short_and_long: Path, mixed_wavs: list[np.ndarray]
) -> None:
    index = ShardIndex.open(short_and_long)
    assert len(index) == len(mixed_wavs)
    assert index.samples_N.tolist() == [len(w) for w in mixed_wavs]
    assert index.hours == pytest.approx(sum(map(len, mixed_wavs)) / 16000 / 3600)
    assert index.labels.names == tuple(f"species {i}" for i in range(5))
    for clip in range(len(index)):
        assert index.label_ids(clip).tolist() == [j for j in range(5) if clip % (j + 2) == 0]
        assert index.key(clip) == f"clip-{clip:06d}"
    assert index.label_counts().tolist() == [15, 10, 8, 6, 5]
    assert index.sample_rate_hz == 16000


@pytest.mark.parametrize(
    ("choice", "clips"),
    [
        ({}, range(12)),
        ({"splits": ["valid"]}, [0, 3, 6, 9]),
        ({"splits": ["train"]}, [1, 2, 4, 5, 7, 8, 10, 11]),
        ({"splits": ["train"], "folds": ["a"]}, [4, 5]),
        ({"folds": ["a", "b"]}, range(3, 9)),
        ({"exclude_folds": ["a"]}, [0, 1, 2, 6, 7, 8, 9, 10, 11]),
        ({"splits": ["valid"], "exclude_folds": ["a", "b"]}, [0, 9]),
    ],
)
def test_choosing_by_split_and_fold(
    two_splits: Path, choice: dict[str, list[str]], clips: list[int]
) -> None:
    index = ShardIndex.open(two_splits, **choice)  # type: ignore[arg-type]
    keys = [index.key(i) for i in range(len(index))]
    assert sorted(keys) == [f"clip-{i:06d}" for i in clips]
    assert index.column("key") == keys
    for i, key in enumerate(keys):
        number = int(key.removeprefix("clip-"))
        assert index.samples_N[i] == 1600 + number
        assert index.label_ids(i).tolist() == ([1] if number % 2 else [1, 0])
        assert index.column("group_id")[i] == f"site{number % 4}"
        member = index.member(i)
        head = Path(member.path).read_bytes()[member.offset : member.offset + 4]
        assert head == b"fLaC"


def test_an_index_in_many_row_groups_with_a_null_fold_column(
    short_and_long: Path, copy_of: Callable[[Path], Path]
) -> None:
    dataset = copy_of(short_and_long)
    table = pq.read_table(dataset / "index.parquet")
    position = table.schema.get_field_index("fold")
    table = table.set_column(position, "fold", pa.nulls(len(table)))
    pq.write_table(table, dataset / "index.parquet", row_group_size=7)
    index, original = ShardIndex.open(dataset), ShardIndex.open(short_and_long)
    assert index.column("key") == [index.key(i) for i in range(30)] == original.column("key")
    assert np.array_equal(index.offset_N, original.offset_N)
    assert np.array_equal(index.label_P, original.label_P)
    assert index.shards == original.shards


# ------------------------------------------------------------------ what can be wrong


def broken(dataset: Path, complaint: str, **choice: object) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        ShardIndex.open(dataset, **choice)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_missing_things(two_splits: Path, copy_of: Callable[[Path], Path], tmp_path: Path) -> None:
    broken(tmp_path / "nowhere", "there is no dataset folder .*nowhere")
    (tmp_path / "empty").mkdir()
    broken(tmp_path / "empty", r"has no index\.parquet.*chorus prep")
    broken(two_splits, "has no split 'test'; it has 'train', 'valid'", splits=["train", "test"])
    broken(two_splits, "has no fold '7'; it has 'a', 'b'", folds=["7"])
    broken(two_splits, "has no fold '7'", exclude_folds=["7"])
    broken(two_splits, "no clip is left", folds=["a"], exclude_folds=["a"])
    dataset = copy_of(two_splits)
    (dataset / "labels.json").unlink()
    broken(dataset, r"labels\.json is missing")
    (dataset / "index.parquet").write_bytes(b"PAR1 and nothing more")
    broken(dataset, "cannot be read")


def test_a_missing_shard_matters_only_where_it_is_used(
    two_splits: Path, copy_of: Callable[[Path], Path]
) -> None:
    dataset = copy_of(two_splits)
    shutil.rmtree(dataset / "valid")
    assert len(ShardIndex.open(dataset, splits=["train"])) == 8
    broken(dataset, r"shard .*valid/00000\d\.tar is missing", splits=["valid"])


@pytest.mark.parametrize("left", [0.0, 0.5, 0.95, "all but a byte", "all but the end mark"])
def test_a_truncated_tar_is_noticed_at_once(
    short_and_long: Path, copy_of: Callable[[Path], Path], left: float | str
) -> None:
    dataset = copy_of(short_and_long)
    shard = dataset / "train/000002.tar"
    size = shard.stat().st_size
    if left == "all but a byte":
        length = size - 1
    elif left == "all but the end mark":
        rows = pq.read_table(dataset / "index.parquet").to_pylist()
        last = max(r["offset"] + r["size"] for r in rows if r["shard"] == "train/000002.tar")
        length = -(-last // 512) * 512
    else:
        length = int(size * float(left)) // 512 * 512
    os.truncate(shard, length)
    broken(dataset, rf"shard .*000002\.tar has {length} bytes.*truncated")


def test_an_index_of_other_tars_is_noticed(
    short_and_long: Path, copy_of: Callable[[Path], Path]
) -> None:
    dataset = copy_of(short_and_long)

    def beyond(rows: list[dict[str, object]]) -> None:
        rows[4]["offset"] = 10**9

    edit_index(dataset, beyond)
    broken(dataset, "is not the one that was indexed")


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("label_ids", [0, 9], "label id 9, but .* has 5 labels"),
        ("codec", "mp3", r"unknown codec \['mp3'\]"),
        ("sample_rate_hz", 32000, r"clips at \[16000, 32000\] Hz"),
        ("offset", -5, "negative numbers"),
    ],
)
def test_rows_that_make_no_sense(
    short_and_long: Path,
    copy_of: Callable[[Path], Path],
    field: str,
    value: object,
    complaint: str,
) -> None:
    dataset = copy_of(short_and_long)

    def change(rows: list[dict[str, object]]) -> None:
        rows[3][field] = value

    edit_index(dataset, change)
    broken(dataset, complaint)


@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../other/000000.tar", "train/../../x.tar", "train/notes.txt", "", "./a.tar",
     "s3://elsewhere/x.tar", "train\\..\\x.tar"],
)  # fmt: skip
def test_an_index_of_a_stranger_names_tars_below_its_dataset_and_nothing_else(
    two_splits: Path, copy_of: Callable[[Path], Path], shard: str
) -> None:
    dataset = copy_of(two_splits)
    edit_index(dataset, lambda rows: rows[0].update(shard=shard))
    with pytest.raises(DataError, match="only tar files below the dataset"):
        ShardIndex.open(dataset)


def test_missing_columns_are_named(short_and_long: Path, copy_of: Callable[[Path], Path]) -> None:
    dataset = copy_of(short_and_long)
    table = pq.read_table(dataset / "index.parquet").drop_columns(["samples", "fold"])
    pq.write_table(table, dataset / "index.parquet")
    broken(dataset, re.escape("lacks the columns ['fold', 'samples']"))


# ------------------------------------------------------------------ label spaces


def space(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_label_spaces_join_whatever_their_order() -> None:
    a, b = LabelSpace(("wren", "robin")), LabelSpace(("blackbird", "robin"))
    union = LabelSpace.union([a, b])
    assert union == LabelSpace.union([b, a])
    assert union.names == ("blackbird", "robin", "wren")
    assert union.remap(a).tolist() == [2, 1]
    assert a.remap(union).tolist() == [-1, 1, 0]
    assert union.index["wren"] == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not a label space"),
        ({"classes": []}, "is not a label space"),
        ({"labels": [{"id": 1, "name": "a"}]}, r"ids must be 0\.\.n-1"),
        ({"labels": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}]}, "names unique"),
        ({"labels": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, r"ids must be 0\.\.n-1"),
    ],
)
def test_a_label_file_that_makes_no_sense(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        LabelSpace.read(space(tmp_path, content))
