from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dawnchorus.trainer.data.batches import BatchLoader, PositionBatches
from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.index import LabelSpace, ShardIndex
from dawnchorus.trainer.data.module import TrainStream, train_loader, valid_loader
from dawnchorus.trainer.errors import DataError

Batch = dict[str, Any]
Same = Callable[[Batch, Batch], bool]


@pytest.fixture(scope="module")
def config(tone_dataset: Path, short_and_long: Path, configure: Callable[..., DataConfig]) -> Any:
    """Two training sets, one of them also for validation, noise from the other; 2 s windows."""
    return configure(
        {"tones": tone_dataset, "mixed": short_and_long},
        valid={"tones": tone_dataset, "mixed": short_and_long},
        noise={"mixed": short_and_long},
        window_s=2.0,
    )


@pytest.fixture(scope="module")
def stream(config: DataConfig) -> TrainStream:
    return TrainStream(config, seed=9, noise_prob=0.5, snr_db=(-5.0, 5.0))


def stack(batches: list[Batch]) -> Batch:
    """One batch of several, with the rows in the order of their positions."""
    offsets = np.cumsum([0, *(len(b["wav_BT"]) for b in batches)])
    whole: Batch = {"broken": [name for b in batches for name in b["broken"]]}
    labels = [
        b["labels_P2"] + torch.tensor([offset, 0])
        for b, offset in zip(batches, offsets, strict=False)
    ]
    for name in batches[0].keys() - {"broken", "labels_P2"}:
        whole[name] = torch.cat([b[name] for b in batches])
    order = whole["position_B"].argsort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    for name in batches[0].keys() - {"broken", "labels_P2"}:
        whole[name] = whole[name][order]
    labels_P2 = torch.cat(labels)
    labels_P2[:, 0] = place[labels_P2[:, 0]]
    whole["labels_P2"] = torch.tensor(sorted(labels_P2.tolist()))
    return whole


# ------------------------------------------------------------------ what a batch holds


def test_rows_are_windows_of_the_clips_that_the_order_names(
    stream: TrainStream, mixed_wavs: list[np.ndarray]
) -> None:
    batch = stream[range(40)]
    assert batch["wav_BT"].shape == (40, 32000)
    assert {k: v.dtype for k, v in batch.items() if k != "broken"} == {
        "wav_BT": torch.int16, "noise_BT": torch.int16, "length_B": torch.int32,
        "labels_P2": torch.int64, "snr_db_B": torch.float32, "position_B": torch.int64,
        "source_B": torch.int64, "clip_B": torch.int64,
    }  # fmt: skip
    assert batch["position_B"].tolist() == list(range(40))
    labels = {tuple(pair) for pair in batch["labels_P2"].tolist()}
    for row in range(40):
        draw = stream.order[row]
        name, key = stream.clip_name(draw.source, draw.clip)
        number = int(key.removeprefix("clip-"))
        assert (int(batch["source_B"][row]), int(batch["clip_B"][row])) == draw[1:3]
        got = {stream.labels.names[c] for r, c in labels if r == row}
        if name == "tones":
            assert got == {f"tone_{number % 4}"}
            assert batch["length_B"][row] == 32000
            continue
        assert got == {f"species {j}" for j in range(5) if number % (j + 2) == 0}
        wav, length = mixed_wavs[number], int(batch["length_B"][row])
        assert length == min(len(wav), 32000)
        start = int(draw.window_u * (len(wav) - length + 1))
        assert np.array_equal(batch["wav_BT"][row, :length].numpy(), wav[start : start + length])
        assert not batch["wav_BT"][row, length:].any()
    assert {int(s) for s in batch["source_B"]} == {0, 1}


def test_noise_is_a_window_of_a_noise_clip_repeated_where_it_is_short(
    stream: TrainStream, mixed_wavs: list[np.ndarray]
) -> None:
    batch, seen = stream[range(60)], set()
    for row in range(60):
        draw, noise = stream.order[row], batch["noise_BT"][row].numpy()
        assert torch.isinf(batch["snr_db_B"][row]) == (not draw.noisy)
        if not draw.noisy:
            assert not noise.any()
            continue
        assert -5 <= batch["snr_db_B"][row] <= 5
        wav = mixed_wavs[draw.noise_clip]
        seen.add(len(wav) < 32000)
        if len(wav) < 32000:
            start = int(draw.noise_u * len(wav))
            assert np.array_equal(noise, np.resize(np.roll(wav, -start), 32000))
            assert noise[0] == wav[start]
        else:
            start = int(draw.noise_u * (len(wav) - 32000 + 1))
            assert np.array_equal(noise, wav[start : start + 32000])
    assert seen == {True, False}


def test_without_noise_sources_a_batch_has_no_noise(
    tone_dataset: Path, configure: Callable[..., DataConfig]
) -> None:
    batch = TrainStream(configure({"t": tone_dataset}), seed=1, noise_prob=1.0)[range(4)]
    assert "noise_BT" not in batch
    assert torch.isinf(batch["snr_db_B"]).all()


def test_windows_lie_everywhere_and_differ_between_epochs(
    tone_dataset: Path, configure: Callable[..., DataConfig]
) -> None:
    stream = TrainStream(configure({"t": tone_dataset}, window_s=1.0), seed=1)
    draws = [d for d in stream.order.draws(0, 480) if d.clip == 7]
    assert len(draws) == 10
    starts = {int(d.window_u * (48000 - 16000 + 1)) for d in draws}
    assert len(starts) == 10
    assert max(starts) - min(starts) > 16000


# ------------------------------------------------------------------ one sequence for all


def collect(stream: TrainStream, first: int, steps: int, **layout: int) -> list[Batch]:
    """What all ranks consume in so many optimiser steps."""
    world, accumulate = layout.pop("world_size", 1), layout.get("accumulate", 1)
    batches = []
    for rank in range(world):
        loader = train_loader(stream, first_position=first, rank=rank, world_size=world, **layout)
        batches += list(islice(loader, steps * accumulate))
    return batches


@pytest.mark.parametrize(
    "layout",
    [
        {"micro_batch": 12, "workers": 0},
        {"micro_batch": 12, "workers": 1},
        {"micro_batch": 12, "workers": 2},
        {"micro_batch": 4, "accumulate": 3, "workers": 2},
        {"micro_batch": 3, "accumulate": 2, "world_size": 2, "workers": 0},
        {"micro_batch": 2, "accumulate": 1, "world_size": 6, "workers": 0},
        {"micro_batch": 6, "accumulate": 1, "world_size": 2, "workers": 3},
        {"micro_batch": 1, "accumulate": 4, "world_size": 3, "workers": 1},
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_layout_does_not_change_what_is_seen(
    stream: TrainStream, same_batch: Same, layout: dict[str, int]
) -> None:
    expected = stream[range(24, 72)]
    expected["labels_P2"] = torch.tensor(sorted(expected["labels_P2"].tolist()))
    assert same_batch(stack(collect(stream, 24, 4, **layout)), expected)


def test_a_step_takes_the_positions_of_the_design() -> None:
    """Micro-step a of rank r in step s: s G + a W B + r B + [0, B)."""
    world, accumulate, micro = 3, 2, 5
    size = world * accumulate * micro
    for rank in range(world):
        found = list(islice(PositionBatches(4 * size, micro, rank, world), 3 * accumulate))
        for step in range(3):
            for a in range(accumulate):
                first = (4 + step) * size + a * world * micro + rank * micro
                assert found[step * accumulate + a] == range(first, first + micro)


def test_resuming_continues_the_sequence(stream: TrainStream, same_batch: Same) -> None:
    whole = list(islice(train_loader(stream, first_position=0, micro_batch=4, workers=0), 12))
    for consumed, workers in ((5, 0), (7, 2)):
        loader = train_loader(stream, first_position=consumed * 4, micro_batch=4, workers=workers)
        for a, b in zip(loader, whole[consumed:], strict=False):
            assert same_batch(a, b)


def test_another_process_that_gets_the_stream_pickled_reads_the_same(
    stream: TrainStream, same_batch: Same
) -> None:
    copy = pickle.loads(pickle.dumps(stream))
    assert same_batch(copy[range(100, 108)], stream[range(100, 108)])
    # Whatever is asked in between: a stream has no state.
    copy[range(7, 20)]
    assert same_batch(copy[[3, 90, 12]], stack_rows(stream, [3, 90, 12]))


def stack_rows(stream: TrainStream, positions: list[int]) -> Batch:
    rows = [stream[[p]] for p in positions]
    whole: Batch = {k: torch.cat([r[k] for r in rows]) for k in rows[0] if k != "broken"}
    whole["broken"] = []
    for i, row in enumerate(rows):
        row["labels_P2"][:, 0] = i
    whole["labels_P2"] = torch.cat([r["labels_P2"] for r in rows])
    return whole


def test_batches_stay_the_callers_own(stream: TrainStream, same_batch: Same) -> None:
    """Workers fill shared memory again and again; what was handed out must not change."""
    loader = train_loader(stream, first_position=0, micro_batch=3, workers=2)
    kept = list(islice(loader, 40))
    for i, batch in enumerate(kept):
        assert same_batch(batch, stream[range(3 * i, 3 * i + 3)]), i
        assert not any(v.is_shared() for v in batch.values() if torch.is_tensor(v))


def test_a_loader_may_be_iterated_again(stream: TrainStream, same_batch: Same) -> None:
    loader = train_loader(stream, first_position=6, micro_batch=3, workers=1)
    first = list(islice(loader, 5))
    for a, b in zip(first, loader, strict=False):
        assert same_batch(a, b)
    with pytest.raises(TypeError):
        len(loader)


# ------------------------------------------------------------------ labels and sources


def test_labels_of_several_datasets_share_one_space(stream: TrainStream) -> None:
    assert stream.labels.names == (
        *(f"species {i}" for i in range(5)),
        *(f"tone_{i}" for i in range(4)),
    )
    assert stream.label_counts().tolist() == [
        [0, 0, 0, 0, 0, 12, 12, 12, 12], [15, 10, 8, 6, 5, 0, 0, 0, 0],
    ]  # fmt: skip
    active_C, present_SC = stream.class_presence()
    assert active_C.tolist() == [True] * 9
    assert present_SC.tolist() == [[False] * 5 + [True] * 4, [True] * 5 + [False] * 4]


def test_a_class_without_a_clip_is_inactive(
    tmp_path: Path, make_dataset: Callable[..., Path], configure: Callable[..., DataConfig]
) -> None:
    clips = [{"wav": np.ones(1600), "labels": ["b", "b"]}, {"wav": np.ones(1600), "labels": []}]
    stream = TrainStream(configure({"x": make_dataset(tmp_path / "x", clips, ["a", "b"])}))
    assert stream.class_presence()[0].tolist() == [False, True]
    # A clip that names a class twice has it once; one without labels has no rows.
    rows = {tuple(p) for p in stream[range(2)]["labels_P2"].tolist()}
    assert len(stream[range(2)]["labels_P2"]) == len(rows) == 1


def test_a_label_that_the_label_space_lacks_is_named(
    config: DataConfig, tone_dataset: Path, configure: Callable[..., DataConfig]
) -> None:
    known = LabelSpace(("tone_0", "tone_2"))
    with pytest.raises(DataError, match=r"dataset tones .* has 2 labels .*'tone_1', 'tone_3'\."):
        TrainStream(configure({"tones": tone_dataset}), labels=known)
    # More classes than the data has are fine, and keep their numbers.
    more = LabelSpace(("wren", "tone_3", "tone_2", "tone_1", "tone_0"))
    stream = TrainStream(configure({"tones": tone_dataset}), labels=more)
    assert stream.label_counts().tolist() == [[0, 12, 12, 12, 12]]


def test_folds_weights_and_the_description(tone_dataset: Path, short_and_long: Path) -> None:
    config = DataConfig(
        train={
            "a": SourceConfig(path=str(tone_dataset), exclude_folds=("1",), weight=3),
            "b": SourceConfig(path=str(short_and_long), weight=1),
        },
        valid={"a": SourceConfig(path=str(tone_dataset), folds=("1",))},
    )
    stream = TrainStream(config)
    assert (len(stream.sources[0].index), len(stream.valid)) == (36, 12)
    described = stream.describe_sources()
    assert [d["weight"] for d in described] == [0.75, 0.25]
    assert described[0] == {
        "name": "a", "path": str(tone_dataset), "clips": 36,
        "hours": pytest.approx(36 * 3 / 3600), "weight": 0.75,
    }  # fmt: skip
    assert stream.epochs(48) == {"a": 1.0, "b": 0.4}
    batch = stream[range(200)]
    trained = zip(batch["source_B"].tolist(), batch["clip_B"].tolist(), strict=True)
    keys = {stream.clip_name(s, c) for s, c in trained}
    folds = dict(
        zip(*(ShardIndex.open(tone_dataset).column(k) for k in ("key", "fold")), strict=True)
    )
    assert {folds[key] for name, key in keys if name == "a"} == {"0", "2", "3"}


@pytest.mark.parametrize("section", ["train", "valid", "noise"])
def test_a_wrong_dataset_is_named_before_anything_starts(
    tone_dataset: Path, configure: Callable[..., DataConfig], section: str, tmp_path: Path
) -> None:
    sections = {"train": {"good": tone_dataset}, section: {"bad": tmp_path / "nothing"}}
    with pytest.raises(DataError, match=rf"data\.{section}\.bad: there is no dataset folder"):
        TrainStream(configure(**sections))
    sections[section] = {"bad": tone_dataset}
    with pytest.raises(DataError, match=r"is at 16000 Hz, the encoder expects 32000"):
        TrainStream(configure(**sections), sample_rate_hz=32000)
    with pytest.raises(DataError, match=r"data\.train names no dataset"):
        TrainStream(DataConfig())


# ------------------------------------------------------------------ validation


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_validation_clip_is_on_exactly_one_rank(
    stream: TrainStream, mixed_wavs: list[np.ndarray], world_size: int, workers: int
) -> None:
    seen: list[int] = []
    counts = set()
    for rank in range(world_size):
        loader = valid_loader(
            stream, micro_batch=7, rank=rank, world_size=world_size, workers=workers
        )
        assert isinstance(loader, BatchLoader)
        batches = list(loader)
        counts.add(len(batches))
        assert len(loader) == len(batches)
        for batch in batches:
            assert batch["wav_BT"].shape == (7, 32000)
            padding = batch["position_B"] < 0
            assert torch.equal(batch["length_B"] == 0, padding)
            assert not batch["wav_BT"][padding].any()
            real = int((~padding).sum())
            assert not padding[:real].any()
            assert (batch["labels_P2"][:, 0] < real).all()
            seen += batch["position_B"][:real].tolist()
            for row in range(real):
                if batch["source_B"][row] == 1:
                    wav = mixed_wavs[int(batch["clip_B"][row])][:32000]
                    assert np.array_equal(batch["wav_BT"][row, : len(wav)].numpy(), wav)
    assert sorted(seen) == list(range(78))
    assert len(counts) == 1


def test_validation_repeats_itself(stream: TrainStream, same_batch: Same) -> None:
    loader = valid_loader(stream, micro_batch=10, workers=1)
    assert loader is not None
    first, second = list(loader), list(loader)
    assert len(first) == 8
    assert all(same_batch(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("clips", "seen"), [(11, 11), (10_000, 80)])
def test_validation_on_the_first_clips_only(stream: TrainStream, clips: int, seen: int) -> None:
    positions: list[int] = []
    for rank in range(2):
        loader = valid_loader(stream, micro_batch=4, rank=rank, world_size=2, clips=clips)
        assert loader is not None
        for batch in loader:
            positions += batch["position_B"][batch["position_B"] >= 0].tolist()
    assert sorted(positions) == list(range(min(seen, len(stream.valid))))


def test_no_validation_sets_no_loader(
    tone_dataset: Path, configure: Callable[..., DataConfig]
) -> None:
    assert valid_loader(TrainStream(configure({"t": tone_dataset})), micro_batch=4) is None


# ------------------------------------------------------------------ real sound


def test_real_recordings_through_the_whole_path(
    real_sound: Path, tmp_path: Path, make_dataset: Callable[..., Path],
    configure: Callable[..., DataConfig],
) -> None:  # fmt: skip
    import soundfile as sf

    def clips() -> Iterator[dict[str, object]]:
        for path in sorted((real_sound / "esc10").rglob("*.ogg"))[:12]:
            wav, _ = sf.read(path, dtype="int16")
            yield {"wav": wav, "labels": [path.stem.split("-")[-1]]}

    chosen = list(clips())
    labels = sorted({str(c["labels"][0]) for c in chosen})  # type: ignore[index]
    dataset = make_dataset(tmp_path / "esc", chosen, labels)
    batch = TrainStream(configure({"esc": dataset}, window_s=20.0))[range(12)]
    assert not batch["broken"]
    assert sorted(batch["clip_B"].tolist()) == list(range(12))
    for row, clip in enumerate(batch["clip_B"].tolist()):
        wav = np.asarray(chosen[clip]["wav"])
        assert np.array_equal(batch["wav_BT"][row, : len(wav)].numpy(), wav)
