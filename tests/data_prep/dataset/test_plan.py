"""The plan: every recording once, groups far apart, keys that WebDataset reads as they are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dawnchorus.data_prep.dataset.plan import generator, plan_shards, spread
from dawnchorus.data_prep.dataset.row_store import RowStore, key_stem, scan, shared_keys, write_rows
from dawnchorus.data_prep.dataset.write_shard import piece_bounds
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Label, Recording
from dawnchorus.trainer.progress import Progress


def recording(i: int, *, path: str = "", group: str = "", split: str = "train") -> Recording:
    path = path or f"audio/{i}.wav"
    return Recording(
        id=f"x:{path}",
        source="x",
        source_id=path,
        path=path,
        group_id=group or f"g{i}",
        split=split,
    )


def test_shards_hold_every_recording_once_and_are_of_one_size() -> None:
    split_R = (np.arange(1000) % 10 == 0).astype(int)
    group_R = np.random.default_rng(1).integers(0, 50, 1000).astype(np.uint64)
    seconds_R = np.random.default_rng(0).uniform(1, 120, 1000)
    options = {"bytes_per_second": 32000.0, "shard_bytes": 50e6, "seed": 3}
    shards, members_R = plan_shards(["train", "valid"], split_R, group_R, seconds_R, **options)
    assert sorted(members_R.tolist()) == list(range(1000))
    assert [s.start for s in shards] == [0, *(s.stop for s in shards[:-1])]
    assert shards[-1].stop == 1000
    for shard in shards:
        names = {("train", "valid")[k] for k in split_R[members_R[shard.start : shard.stop]]}
        assert names == {shard.split}
    train = [shard for shard in shards if shard.split == "train"]
    assert [shard.path for shard in train] == [f"train/{k:06d}.tar" for k in range(len(train))]
    sizes = [seconds_R[members_R[s.start : s.stop]].sum() * 32000 for s in train]
    assert max(sizes) < 60e6 and min(sizes) > 40e6
    again, same_R = plan_shards(["train", "valid"], split_R, group_R, seconds_R, **options)
    assert again == shards and (same_R == members_R).all()
    _, other_R = plan_shards(
        ["train", "valid"], split_R, group_R, seconds_R, **options | {"seed": 4}
    )
    assert (other_R != members_R).any()


def test_small_datasets_still_have_several_shards() -> None:
    def count(recordings: int, seconds: float, **options: float) -> int:
        zeros = np.zeros(recordings, int)
        groups = np.arange(recordings).astype(np.uint64)
        lengths_s = np.full(recordings, seconds)
        return len(plan_shards(["train"], zeros, groups, lengths_s, seed=0, **options)[0])

    assert count(80, 1.0, bytes_per_second=1, shard_bytes=1e9) == 10
    assert count(1, 1e6, bytes_per_second=1e6, shard_bytes=1) == 1
    assert count(40, 1e6, bytes_per_second=1e6, shard_bytes=1) == 40


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 100))
def test_spread_is_a_permutation_with_groups_apart(groups: list[int], seed: int) -> None:
    names = [str(g) for g in groups]
    order = spread(names, generator(seed, "x"))
    assert sorted(order) == list(range(len(groups)))


def test_spread_leaves_no_runs_of_one_group() -> None:
    names = [f"g{i // 100}" for i in range(1000)]
    order = spread(names, generator(0, "x"))
    for tenth in range(10):
        here = [names[i] for i in order[100 * tenth : 100 * (tenth + 1)]]
        assert max(here.count(name) for name in set(here)) <= 12  # a plain shuffle reaches 18


def key_stems(recordings: list[Recording]) -> list[str]:
    shared = shared_keys(scan(recordings, Path("nowhere"), b"", Progress()))
    return [key_stem(r, bool(again)) for r, again in zip(recordings, shared, strict=True)]


def test_keys_have_no_dots_and_differ_whatever_the_names() -> None:
    paths = ["a/XC1.v2.mp3", "b/XC1.v2.mp3", "a/xc1_v2.wav", "ærø.wav", "日本.wav", "东京.wav",
             "a b.wav", "x" * 200 + "1.wav", "x" * 200 + "2.wav"]  # fmt: skip
    recordings = [recording(0, path=path) for path in paths]
    keys = key_stems(recordings)
    assert len({key.lower() for key in keys}) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,83}", key) for key in keys)
    assert keys == key_stems(recordings)
    assert key_stems([recording(0, path="audio/XC1.v2.mp3")]) == ["XC1_v2"]


def test_rows_are_read_by_number_and_in_order(tmp_path: Path) -> None:
    recordings = [
        dataclasses.replace(
            recording(i, path=f"a\n{i}\u2028.wav"),
            labels=(Label("Parus major", ids=(("gbif", "9705453"),)),),
            audioset_mids=("/m/1",),
            lat=None if i % 2 else 52.5,
            fold=None if i % 3 else "2",
        )
        for i in range(2500)
    ]
    write_rows(iter(recordings), tmp_path)
    with RowStore(tmp_path) as rows:
        assert len(rows) == 2500 and list(rows) == recordings
        assert [rows[i] for i in (2499, 0, 1300)] == [recordings[i] for i in (2499, 0, 1300)]


def test_the_scan_looks_over_all_whatever_their_number(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "3.wav").write_bytes(b"1234")
    recordings = [recording(i) for i in range(2500)]
    found = scan((r for r in recordings), tmp_path, b"x", Progress())
    assert len(found) == 2500 and list(found.size)[2:5] == [-1, 4, -1]
    assert found.some_missing[:2] == ["audio/0.wav", "audio/1.wav"] and not found.not_downloaded
    assert found.digest == scan(recordings, tmp_path, b"x", Progress()).digest
    assert found.digest != scan(recordings, tmp_path, b"y", Progress()).digest
    assert found.digest != scan(recordings[::-1], tmp_path, b"x", Progress()).digest
    with pytest.raises(PrepError, match=r"more than once: 'x:audio/7\.wav'"):
        scan([*recordings, recording(7)], tmp_path, b"", Progress())
    ranks = [dataclasses.replace(recordings[i], labels=(Label("Prunella", rank),))
             for i, rank in ((3, "genus"), (2400, "species"))]  # fmt: skip
    with pytest.raises(PrepError, match="One name must mean one thing"):
        scan([ranks[0], *recordings[4:2400], ranks[1]], tmp_path, b"", Progress())
    with pytest.raises(PrepError, match="no recording to prepare"):
        scan([], tmp_path, b"", Progress())


def test_pieces_are_the_fewest_and_equal() -> None:
    assert piece_bounds(960_000, 960_000) == [0, 960_000]
    assert piece_bounds(960_001, 960_000) == [0, 480_000, 960_001]
    for samples in (1, 7, 999_999, 12_345_678):
        bounds = piece_bounds(samples, 960_000)
        lengths = np.diff(bounds)
        assert bounds[0] == 0 and bounds[-1] == samples
        assert lengths.max() <= 960_000 and lengths.max() - lengths.min() <= 1
