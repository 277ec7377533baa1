from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.overlap import Overlap, validation_overlap


def test_validation_clips_that_are_trained_on_are_counted(
    tone_dataset: Path, make_tones: Any, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    whole = ShardIndex.open(tone_dataset)
    three = ShardIndex.open(tone_dataset, exclude_folds=["3"])
    last = ShardIndex.open(tone_dataset, folds=["3"])
    assert validation_overlap([whole], [whole]) == Overlap(48, 48)
    assert validation_overlap([whole], [last]) == Overlap(12, 12)
    assert validation_overlap([three], [last]) == Overlap(12, 0)
    assert validation_overlap([three], [last, whole]) == Overlap(60, 36)
    assert validation_overlap([three, last], [last]) == Overlap(12, 12)
    assert validation_overlap([whole], []) == Overlap(0, 0)
    # Prepared again, and of that the first few recordings.
    again = ShardIndex.open(make_dataset(tmp_path / "again", *make_tones(8)))
    assert validation_overlap([again], [whole]) == Overlap(48, 8)
    assert Overlap(48, 8).sentence.startswith("8 of 48 validation clips")
