"""The plan: every recording once, groups far apart, keys that WebDataset reads as they are."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.plan import generator, key_stems, plan_shards, spread
from data_prep.recordings import Recording
from data_prep.shards import piece_bounds


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
    recordings = [recording(i, split=("train", "valid")[i % 10 == 0]) for i in range(1000)]
    seconds = np.random.default_rng(0).uniform(1, 120, 1000).tolist()
    options = {"bytes_per_second": 32000.0, "shard_bytes": 50e6, "seed": 3}
    shards = plan_shards(recordings, seconds, **options)
    assert sorted(i for shard in shards for i in shard.members) == list(range(1000))
    assert all(recordings[i].split == shard.split for shard in shards for i in shard.members)
    train = [shard for shard in shards if shard.split == "train"]
    assert [shard.path for shard in train] == [f"train/{k:06d}.tar" for k in range(len(train))]
    sizes = [sum(seconds[i] for i in shard.members) * 32000 for shard in train]
    assert max(sizes) < 60e6 and min(sizes) > 40e6
    assert shards == plan_shards(recordings, seconds, **options)
    assert shards != plan_shards(recordings, seconds, **options | {"seed": 4})


def test_small_datasets_still_have_several_shards() -> None:
    shards = plan_shards(
        [recording(i) for i in range(80)], [1.0] * 80, bytes_per_second=1, shard_bytes=1e9, seed=0
    )
    assert len(shards) == 10
    one = plan_shards([recording(0)], [1e6], bytes_per_second=1e6, shard_bytes=1, seed=0)
    assert len(one) == 1


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


def test_keys_have_no_dots_and_differ_whatever_the_names() -> None:
    paths = ["a/XC1.v2.mp3", "b/XC1.v2.mp3", "a/xc1_v2.wav", "ærø.wav", "日本.wav", "东京.wav",
             "a b.wav", "x" * 200 + "1.wav", "x" * 200 + "2.wav"]  # fmt: skip
    recordings = [recording(0, path=path) for path in paths]
    keys = key_stems(recordings)
    assert len({key.lower() for key in keys}) == len(paths)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,83}", key) for key in keys)
    assert keys == key_stems(recordings)
    assert key_stems([recording(0, path="audio/XC1.v2.mp3")]) == ["XC1_v2"]


def test_pieces_are_the_fewest_and_equal() -> None:
    assert piece_bounds(960_000, 960_000) == [0, 960_000]
    assert piece_bounds(960_001, 960_000) == [0, 480_000, 960_001]
    for samples in (1, 7, 999_999, 12_345_678):
        bounds = piece_bounds(samples, 960_000)
        lengths = np.diff(bounds)
        assert bounds[0] == 0 and bounds[-1] == samples
        assert lengths.max() <= 960_000 and lengths.max() - lengths.min() <= 1
