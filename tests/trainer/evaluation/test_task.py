"""How the task is decided and measured: several labels, no label, one class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.benchmark import evaluate
from dawnchorus.trainer.evaluation.config import BaselineConfig, EvaluateConfig
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.task import prepare_task
from dawnchorus.trainer.hub.importing import load_model

QUICK = LinearConfig(learning_rate=1e-2, epochs=20, schedule="cosine")


def config(path: Path, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(data=str(path), probe=QUICK, device="cpu", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


def test_several_labels_per_clip(
    make_dataset: Callable[..., Path], run: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(24_000) / 16_000
    clips = []
    for i in range(60):
        kinds = [k for k in range(3) if rng.random() < 0.4]
        wav = 300 * rng.standard_normal(time.size)
        for k in kinds:
            wav += 4000 * np.sin(2 * np.pi * 800 * (k + 1) * time)
        clips.append({"wav": wav.astype(np.int16), "labels": [f"t{k}" for k in kinds],
                      "group": f"g{i}"})  # fmt: skip
    path = make_dataset(tmp_path / "chords", clips, ["t0", "t1", "t2"])
    options = {"baselines": BaselineConfig(random_init=False), "group_folds": 3}
    result = evaluate(run, config(path, **options), out=tmp_path / "chords.json")
    assert result["metric"] == "map" and result["clips"] == 60
    assert result["protocol"]["kind"] == "groups"
    logmel = result["rows"][0]
    assert logmel["probe"]["mean"] > 0.85
    assert logmel["clustering"]["left_out"] == sum(len(c["labels"]) != 1 for c in clips)  # type: ignore[arg-type]
    empty = sum(not c["labels"] for c in clips)
    assert empty > 0 and logmel["retrieval"]["n"] <= 60 - empty
    with pytest.raises(DataError, match="more than one label; use task=multi"):
        prepare_task(config(path, task="single"))


def declare(dataset: Path, task: str | None) -> None:
    """Write the task into a dataset's `labels.json`."""
    space = json.loads((dataset / "labels.json").read_text())
    (dataset / "labels.json").write_text(json.dumps(space | {"task": task}))


def test_clips_without_a_label_make_a_task_multi_label_unless_it_is_said_to_be_single(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    wav = np.zeros(1600, dtype=np.int16)
    clips = [{"wav": wav, "labels": [f"l{i % 2}"] if i < 20 else []} for i in range(25)]
    path = make_dataset(tmp_path / "some", clips, ["l0", "l1", "unused"])
    found = prepare_task(config(path))
    assert found.multi_label and len(found.clips) == 25
    assert found.decided_by == "5 clips have no label"
    single = prepare_task(config(path, task="single"))
    assert (len(single.clips), single.unlabelled, single.clips.classes) == (20, 5, ("l0", "l1"))
    declare(path, "single")
    assert not prepare_task(config(path)).multi_label
    assert prepare_task(config(path, task="multi")).multi_label
    for task in ("multi", "detection"):
        declare(path, task)
        found = prepare_task(config(path))
        assert found.multi_label and found.decided_by == f"the dataset declares task {task}"
    declare(path, "guess")
    with pytest.raises(DataError, match="task is 'guess'; it can be single, multi, detection"):
        prepare_task(config(path))


def test_one_class_among_negatives_is_a_detection_and_alone_it_is_no_task(
    make_dataset: Callable[..., Path], run: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    tone = 3000 * np.sin(2 * np.pi * 900 * np.arange(16_000) / 16_000)
    clips: list[dict[str, Any]] = [
        {"wav": (300 * rng.standard_normal(16_000) + tone * (i < 20)).astype(np.int16),
         "labels": ["whale"] * (i < 20), "group": f"g{i}", "fold": i % 2}
        for i in range(60)
    ]  # fmt: skip
    path = make_dataset(tmp_path / "whales", clips, ["whale"])
    options = {"baselines": BaselineConfig(random_init=False)}
    result = evaluate(run, config(path, **options), out=tmp_path / "whales.json")
    assert (result["metric"], result["clips"], result["classes"]) == ("map", 60, 1)
    assert result["task"]["kind"] == "multi" and result["task"]["unlabelled_clips"] == 40
    row = result["rows"][0]
    assert row["probe"]["mean"] > 0.9 and row["clustering"]["nmi"] is None
    assert row["retrieval"]["n"] == 20 and 0.5 < row["retrieval"]["roc_auc"] <= 1
    with pytest.raises(
        DataError, match=r"one class \(whale\) in a single-label task \(task=single\)"
    ):
        prepare_task(config(path, task="single"))
    alone = make_dataset(tmp_path / "alone", clips[:20], ["whale"])
    with pytest.raises(
        DataError, match=r"every answer would be correct\. Add clips of other classes"
    ):
        prepare_task(config(alone))
    with pytest.raises(DataError, match="every clip has every label"):
        prepare_task(config(alone, task="multi"))
    apart = [{**clip, "fold": 0 if clip["labels"] else 1 + i % 2} for i, clip in enumerate(clips)]
    apart[0]["fold"] = 1
    divided = make_dataset(tmp_path / "divided", apart, ["whale"])
    with pytest.raises(DataError, match="no class can be ranked in the test part 0, 2"):
        prepare_task(config(divided, valid_fraction=0))


def test_a_label_outside_the_label_space_is_told(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    wav = np.zeros(1600, dtype=np.int16)
    path = make_dataset(tmp_path / "d", [{"wav": wav, "labels": ["b"]}] * 4, ["a", "b"])
    (path / "labels.json").write_text('{"version": 1, "labels": [{"id": 0, "name": "a"}]}')
    with pytest.raises(DataError, match="label id 1"):
        prepare_task(config(path))


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_a_softmax_head_is_ranked_by_its_log_probabilities(
    tone_dataset: Path, tmp_path: Path, write_run: Callable[..., Path], loss: str
) -> None:
    labels = ["tone_3", "a bird", "tone_1", "tone_0", "tone_2"]
    objective = {"name": "multilabel", "loss": loss}
    run = write_run(tmp_path / "post", labels=labels, objective=objective)
    options = {"baselines": BaselineConfig(logmel=False, random_init=False), "task": "multi"}
    head = evaluate(run, config(tone_dataset, **options))["rows"][-1]["head"]
    clips, model = prepare_task(config(tone_dataset)).clips, load_model(run).model
    logits = []
    for i in range(len(clips)):
        wav = torch.from_numpy(clips.read(i, 0, int(clips.samples_N[i]))).float() / 32768
        logits.append(model.logits(wav[None], torch.tensor([len(wav)]))[0].detach())
    logit_NC = torch.stack(logits).double()
    found = {}
    for name, score_NC in (("bce", logit_NC), ("softmax", logit_NC.log_softmax(1))):
        found[name] = np.mean([
            average_precision_score(clips.label_NC[:, c], score_NC[:, labels.index(label)])
            for c, label in enumerate(clips.classes)
        ])  # fmt: skip
    assert abs(found["bce"] - found["softmax"]) > 0.01
    assert head["value"] == pytest.approx(found[loss], abs=1e-6)
    assert head["ranked_by"] == {"softmax": "log-probability", "bce": "logit"}[loss]
