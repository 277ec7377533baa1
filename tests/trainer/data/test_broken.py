"""Clips that cannot be decoded: counted, named, replaced, and too many of them end the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dawnchorus.trainer.data.batches import broken_name
from dawnchorus.trainer.data.broken import BrokenLedger
from dawnchorus.trainer.data.config import DataConfig
from dawnchorus.trainer.data.module import TrainStream, train_loader, valid_loader
from dawnchorus.trainer.errors import DataError


@pytest.fixture(scope="module")
def stream(
    tone_dataset: Path, short_and_long: Path, configure: Callable[..., DataConfig]
) -> TrainStream:
    noise = {"mixed": short_and_long}
    return TrainStream(configure({"tones": tone_dataset, "mixed": short_and_long}, noise=noise))


@pytest.fixture
def damaged(
    tone_dataset: Path, copy_of: Callable[[Path], Path], damage: Callable[[Path, int], str]
) -> tuple[Path, list[str]]:
    dataset = copy_of(tone_dataset)
    return dataset, [damage(dataset, clip) for clip in (3, 30)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_is_named_and_replaced_by_the_next_positions(
    damaged: tuple[Path, list[str]], tone_dataset: Path,
    configure: Callable[..., DataConfig], workers: int,
) -> None:  # fmt: skip
    dataset, names = damaged
    good = TrainStream(configure({"t": tone_dataset}, window_s=3.0), seed=4)
    bad = TrainStream(configure({"t": dataset}, window_s=3.0), seed=4)
    loader = train_loader(bad, first_position=0, micro_batch=8, workers=workers)
    broken: list[str] = []
    for step, batch in enumerate(islice(loader, 6)):
        positions = range(8 * step, 8 * step + 8)
        broken += batch["broken"]
        assert batch["position_B"].tolist() == list(positions)
        for row, position in enumerate(positions):
            while good.order[position].clip in (3, 30):
                position += 1
            expected = good[[position]]
            assert torch.equal(batch["wav_BT"][row], expected["wav_BT"][0])
            assert batch["clip_B"][row] == expected["clip_B"][0]
            mine = batch["labels_P2"][batch["labels_P2"][:, 0] == row, 1]
            assert mine.tolist() == expected["labels_P2"][:, 1].tolist()
    assert sorted(map(broken_name, broken)) == sorted(names)
    assert all("cannot be decoded" in entry for entry in broken)


def test_broken_noise_is_replaced_too(
    damaged: tuple[Path, list[str]], tone_dataset: Path, configure: Callable[..., DataConfig]
) -> None:
    dataset, names = damaged
    settings: dict[str, Any] = {"window_s": 3.0}
    stream = TrainStream(
        configure({"t": tone_dataset}, noise={"n": dataset}, **settings), seed=4, noise_prob=1.0
    )
    batch = stream[range(200)]
    assert set(map(broken_name, batch["broken"])) == set(names)
    assert batch["noise_BT"].any(1).all()
    assert torch.isfinite(batch["snr_db_B"]).all()
    assert torch.equal(batch["clip_B"], torch.tensor([d.clip for d in stream.order.draws(0, 200)]))


def test_too_many_broken_clips_end_the_run(stream: TrainStream) -> None:
    ledger = BrokenLedger(stream, 0.02)
    assert ledger.clips == 48 + 30 + 30
    assert ledger.add(["a -- lost sync", "a -- lost sync"]) == ["a -- lost sync"]
    assert ledger.add(["a -- ends early"]) == []
    ledger.check()
    ledger.add(["b -- lost sync"])
    ledger.check()  # 2 of 108 are under 2 %
    assert not ledger.too_many()
    ledger.add(["c -- lost sync"])
    assert ledger.too_many()
    with pytest.raises(
        DataError, match=r"(?s)3 of 108 clips.*max_broken=0\.02.*a -- lost.*c -- .*prepare it again"
    ):
        ledger.check()


def test_one_broken_clip_never_ends_a_run(stream: TrainStream) -> None:
    ledger = BrokenLedger(stream, 0.0)
    ledger.add(["a -- x"])
    ledger.check()
    ledger.add(["b -- x"])
    with pytest.raises(DataError):
        ledger.check()


@pytest.mark.parametrize("workers", [0, 1])
def test_when_the_data_is_gone_the_message_is_plain(
    tone_dataset: Path, copy_of: Callable[[Path], Path],
    configure: Callable[..., DataConfig], workers: int,
) -> None:  # fmt: skip
    dataset = copy_of(tone_dataset)
    stream = TrainStream(configure({"t": dataset}), seed=4)
    shutil.rmtree(dataset / "train")
    loader = train_loader(stream, first_position=0, micro_batch=8, workers=workers)
    with pytest.raises(DataError, match=r"^cannot read .*\.tar: .*No such file") as caught:
        next(iter(loader))
    assert "Traceback" not in str(caught.value)


def test_when_the_data_was_made_anew_the_run_ends(
    tone_dataset: Path, copy_of: Callable[[Path], Path], configure: Callable[..., DataConfig]
) -> None:
    dataset = copy_of(tone_dataset)
    stream = TrainStream(configure({"t": dataset}), seed=4)
    for shard in (dataset / "train").iterdir():
        content = shard.read_bytes()
        shard.write_bytes(os.urandom(700) + content[:-700])
    with pytest.raises(DataError, match="50 clips in a row cannot be decoded"):
        stream[range(4)]


def test_a_broken_validation_clip_is_left_out(
    damaged: tuple[Path, list[str]], configure: Callable[..., DataConfig]
) -> None:
    dataset, names = damaged
    loader = valid_loader(
        TrainStream(configure({"t": dataset}, valid={"t": dataset}, window_s=3.0)), micro_batch=48
    )
    assert loader is not None
    (batch,) = loader
    assert sorted(map(broken_name, batch["broken"])) == sorted(names)
    kept = [i for i in range(48) if i not in (3, 30)]
    assert batch["position_B"].tolist() == [*kept, -1, -1]
    assert batch["labels_P2"].tolist() == [[row, clip % 4] for row, clip in enumerate(kept)]
