from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dawnchorus.trainer.data.config import DataConfig, SourceConfig
from dawnchorus.trainer.data.module import TrainStream


def test_rare_classes_are_drawn_as_often_as_the_floor_says(
    tmp_path: Path, make_dataset: Callable[..., Path], configure: Callable[..., DataConfig]
) -> None:
    labels = [["common"]] * 7 + [["rare"], ["rare", "common"], []]
    clips = [
        {"wav": np.zeros(4000, dtype=np.float32), "labels": names, "recording": f"r{i}"}
        for i, names in enumerate(labels)
    ]
    folder = make_dataset(tmp_path / "x", clips, ["common", "rare"])

    def drawn(**floor: int) -> tuple[TrainStream, list[int]]:
        source = SourceConfig(path=str(folder), **floor)  # type: ignore[arg-type]
        stream = TrainStream(DataConfig(train={"x": source}, window_s=0.1), seed=1)
        length = stream.order.sizes[0]
        return stream, sorted(draw.clip for draw in stream.order.draws(0, length))

    _, plain = drawn()
    assert plain == list(range(10))
    stream, floored = drawn(class_floor=6)  # two clips of the rare class: each three times
    rare = {i for i in range(10) if stream.sources[0].index.labels.names.index("rare")
            in stream.sources[0].index.label_ids(i)}  # fmt: skip
    assert floored == sorted([*range(10), *rare, *rare])
    assert stream.sources[0].weight == 14
    assert stream[range(14)]["labels_P2"].shape[0] == 7 + 3 * 3


@pytest.mark.parametrize("kind", ["valid", "noise"])
def test_a_class_floor_is_for_training_only(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}: .* have a class_floor"):
        DataConfig(**{kind: {"x": SourceConfig(path="x", class_floor=3)}})
