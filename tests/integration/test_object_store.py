"""A run whose clips lie in an object store is the run from disk, and may move between the two."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STEPS = 6
LAYOUT = [f"train.max_steps={STEPS}", "train.global_batch=8", "train.checkpoint_every=2",
          "train.micro_batch=4", "train.devices=1", "data.workers=2", "encoder.dropout=0.1",
          "augment.mixup_prob=0.5", "optim.head_only_steps=2",
          "optim.schedule=constant"]  # fmt: skip  # so that the length may change


@pytest.mark.slow
def test_a_run_from_s3_stopped_and_continued_from_disk_ends_bit_identical(
    chorus_train, same_state, object_store, tone_dataset: Path, tmp_path: Path
) -> None:
    url = object_store.upload(tone_dataset, "tones")
    far = [*LAYOUT, f"data.remote.cache={tmp_path / 'cache'}"]
    straight = chorus_train("straight", *LAYOUT)
    assert straight.code == 0, straight.stderr
    hurt = {"signal": "SIGTERM", "step": 2, "micro_step": 0, "rank": None}
    stopped = chorus_train("moved", *far, data=url, hurt=hurt)
    assert stopped.code == 75, stopped.stderr
    assert stopped.checkpoint()["dawnchorus"]["step"] == 3
    resumed = [chorus_train("moved", *far, "train.max_steps=4", data=url)]
    asked = len(object_store.tars())
    assert 0 < asked <= 48, "no clip is fetched twice"
    # The data of that run now lies on disk, and the object store is switched off.
    object_store.stop()
    try:
        resumed.append(chorus_train("moved", *LAYOUT, data=tone_dataset))
    finally:
        object_store.start()
    for outcome in resumed:
        assert outcome.code == 0, outcome.stderr
    assert straight.steps() == resumed[-1].steps()
    assert same_state(straight.checkpoint(), resumed[-1].checkpoint())


@pytest.mark.slow
def test_another_dataset_in_its_place_is_refused(
    chorus_train, object_store, make_tones, make_dataset, tone_dataset: Path, tmp_path: Path
) -> None:
    url = object_store.upload(tone_dataset, "tones")
    far = [*LAYOUT, f"data.remote.cache={tmp_path / 'cache'}"]
    first = chorus_train("run", *far, "train.max_steps=3", data=url)
    assert first.code == 0, first.stderr
    other = make_dataset(tmp_path / "other", *make_tones(44))
    for data in (other, object_store.upload(other, "tones")):
        again = chorus_train("run", *far, data=data)
        assert again.code == 2
        told = re.sub(r"\s+", " ", again.stderr)
        assert "another recipe" in told
        assert "data.train.main: its index has the digest" in told
