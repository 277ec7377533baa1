"""The evaluation on real sound, where it is at hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dawnchorus.trainer.evaluation.config import EvaluateConfig
from dawnchorus.trainer.evaluation.probes.linear_config import LinearConfig
from dawnchorus.trainer.evaluation.task import prepare_task

FAST = LinearConfig(learning_rate=1e-2, epochs=100, schedule="cosine")


@pytest.mark.slow
def test_esc10_log_mel_probe_is_what_logistic_regression_gets(
    real_sound: Path, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Official folds; scikit-learn's logistic regression on the same features and division."""
    import soundfile as sf
    import soxr
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from dawnchorus.trainer.evaluation.embed import LogMelStatistics, embed_clips
    from dawnchorus.trainer.evaluation.probes.linear import Linear

    clips = []
    with (real_sound / "esc10" / "metadata.csv").open() as file:
        for row in csv.DictReader(file):
            wav, rate = sf.read(real_sound / "esc10" / row["filename"], dtype="float32")
            wav = soxr.resample(wav, rate, 16_000, quality="QQ")
            clips.append(
                {"wav": (wav.clip(-1, 1) * 32767).astype(np.int16), "labels": [row["label"]],
                 "group": row["group_id"], "fold": row["fold"]}
            )  # fmt: skip
    labels = sorted({str(c["labels"][0]) for c in clips})
    path = make_dataset(tmp_path / "esc10", clips, labels, per_shard=100, codec="wav")
    task = prepare_task(EvaluateConfig(data=str(path), probe=FAST, device="cpu"))
    assert task.protocol.kind == "folds" and len(task.clips) == 400 and not task.dropped
    emb = embed_clips(LogMelStatistics(), task.clips, window=160_000, pooling="mean_std")
    probe = (
        Linear(FAST)
        .measure(emb, task.clips.label_NC, task.protocol.folds, multi_label=False)
        .summary()
    )
    truth = task.clips.label_NC.argmax(1)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = np.mean([
        regression.fit(emb[f.train], truth[f.train]).score(emb[f.test], truth[f.test])
        for f in task.protocol.folds
    ])  # fmt: skip
    assert expected > 0.7
    assert probe["mean"] == pytest.approx(expected, abs=0.06)
