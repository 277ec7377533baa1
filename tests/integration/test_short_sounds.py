"""Sounds shorter than a patch of the encoder: prepared, read by the trainer, embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.trainer.data.index import ShardIndex
from dawnchorus.trainer.data.reader import ClipReader
from dawnchorus.trainer.evaluation.benchmark import random_encoder
from dawnchorus.trainer.evaluation.clips import open_clips
from dawnchorus.trainer.evaluation.embed import LogMelStatistics, embed_clips

RATE = 16000
LENGTHS_S = (0.005, 0.02, 0.1, 1.0)
TINY = {
    "name": "beats", "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2, "patch_dim": 32,
    "conv_pos": 16, "conv_pos_groups": 4, "num_buckets": 32, "max_distance": 100,
}  # fmt: skip


def test_a_click_of_5_ms_is_a_clip_like_others(tmp_path: Path) -> None:
    root = tmp_path / "clicks"
    root.mkdir()
    rng = np.random.default_rng(0)
    wavs = {}
    for seconds in LENGTHS_S:
        wav_T = (6000 * rng.standard_normal(round(seconds * RATE))).astype(np.int16)
        soundfile.write(root / f"{seconds}.wav", wav_T, RATE)
        wavs[f"{seconds}.wav"] = wav_T
    rows = "".join(f"{name},click\n" for name in wavs)
    (root / "metadata.csv").write_text("filename,label\n" + rows)
    stats = prepare_folder(root, tmp_path / "out", jobs=1, min_s=0, max_broken=0)
    assert stats["clips"] == len(LENGTHS_S)

    index = ShardIndex.open(tmp_path / "out")
    reader = ClipReader()
    by_length = {len(wav_T): wav_T for wav_T in wavs.values()}
    for clip in range(len(LENGTHS_S)):
        out_T = np.full(2 * RATE, 77, np.int16)
        got = reader.read_window(index.member(clip), 0, out_T)
        np.testing.assert_array_equal(out_T[:got], by_length[got])
        assert not out_T[got:].any()

    clips = open_clips(tmp_path / "out")
    model = random_encoder(dict(TINY), 3)
    for embedder in (model, LogMelStatistics()):
        found_ND = embed_clips(embedder, clips, window=10 * RATE, batch_size=4)
        assert np.isfinite(found_ND).all()
        for clip in range(len(clips)):
            wav_T = clips.read(clip, 0, int(clips.samples_N[clip]))
            wav_BT = torch.from_numpy(wav_T).float()[None] / 32768
            with torch.inference_mode():
                alone_D = embedder.embed(wav_BT, torch.tensor([len(wav_T)]))[0]
            np.testing.assert_allclose(found_ND[clip], alone_D, atol=2e-5)
        # They are told apart: padding alone is not what is embedded.
        assert len(np.unique(found_ND.round(4), axis=0)) == len(LENGTHS_S)
