"""Embeddings: padding changes nothing, windows, layers, the log-mel baseline, the cache."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from dawnchorus.trainer.errors import CheckpointError, DataError
from dawnchorus.trainer.evaluation.benchmark import random_encoder
from dawnchorus.trainer.evaluation.clips import Clips, open_clips
from dawnchorus.trainer.evaluation.embed import (
    LogMelStatistics,
    cached,
    embed_clips,
    plan_windows,
    weights_digest,
)
from dawnchorus.trainer.pooling import Pooling, pool

LENGTHS_S = (0.1, 1.0, 2.3, 3.0, 3.01, 5.7, 2.3, 0.0, 4.0)


@pytest.fixture(scope="module")
def uneven(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Clips of very different lengths."""
    rng = np.random.default_rng(0)
    clips = [
        {"wav": (3000 * rng.standard_normal(round(s * 16000))).astype(np.int16), "labels": ["a"]}
        for s in LENGTHS_S
    ]
    root = tmp_path_factory.mktemp("u") / "uneven"
    # An empty FLAC has no bytes at all; an empty WAV has its header.
    return open_clips(make_dataset(root, clips, ["a"], codec="wav"))


def wav_of(clips: Clips, i: int) -> npt.NDArray[np.int16]:
    return clips.read(i, 0, int(clips.samples_N[i]))


class Sum(nn.Module):
    """An embedding that can be computed by hand: mean and length of the valid samples."""

    def embed(
        self, wav_BT: Tensor, length_B: Tensor, layer: Any = -1, pooling: Pooling = "mean"
    ) -> Tensor:
        total_B = wav_BT.sum(1)
        return torch.stack([total_B / length_B.clamp(min=1), length_B.float()], dim=1)


@pytest.mark.parametrize("layer", ["last", 1, "all"])
def test_a_clip_has_the_embedding_that_it_has_alone(
    uneven: Clips, layer: Any, tiny_encoder: dict[str, Any]
) -> None:
    model = random_encoder(tiny_encoder, 3)
    emb = embed_clips(model, uneven, window=160_000, layer=layer, batch_size=4)
    assert emb.shape == ((9, 3, 32) if layer == "all" else (9, 32))
    number = -1 if layer == "last" else layer
    for i in range(len(uneven)):
        wav = torch.from_numpy(wav_of(uneven, i)).float()[None] / 32768
        with torch.inference_mode():
            alone = model.embed(wav, torch.tensor([wav.shape[1]]), number)[0]  # type: ignore[operator]
        np.testing.assert_allclose(emb[i], alone, atol=2e-5)
    batches = embed_clips(model, uneven, window=160_000, layer=layer, batch_size=1, workers=1)
    np.testing.assert_allclose(emb, batches, atol=2e-5)


def test_all_layers_hold_each_layer(uneven: Clips, tiny_encoder: dict[str, Any]) -> None:
    model = random_encoder(tiny_encoder, 3)
    everything = embed_clips(model, uneven, window=160_000, layer="all")
    for i in range(3):
        one = embed_clips(model, uneven, window=160_000, layer=i)
        np.testing.assert_allclose(everything[:, i], one, atol=1e-5)
    last = embed_clips(model, uneven, window=160_000, layer="last")
    np.testing.assert_allclose(everything[:, -1], last, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "mean_std_max"])
def test_the_tokens_of_a_clip_alone_are_what_is_pooled(
    uneven: Clips, tiny_encoder: dict[str, Any], pooling: Pooling
) -> None:
    model = random_encoder(tiny_encoder, 3)
    emb = embed_clips(model, uneven, window=160_000, pooling=pooling, batch_size=4)
    layers = embed_clips(model, uneven, window=160_000, layer="all", pooling=pooling, batch_size=4)
    np.testing.assert_allclose(layers[:, -1], emb, atol=1e-5)
    for i in range(len(uneven)):
        wav = torch.from_numpy(wav_of(uneven, i)).float()[None] / 32768
        with torch.inference_mode():
            out = model(wav, torch.tensor([wav.shape[1]]))
        alone = pool(out.tokens_BND, out.valid_BN, pooling)[0]
        np.testing.assert_allclose(emb[i], alone, atol=5e-5)


def test_first_window_or_the_mean_over_windows(uneven: Clips) -> None:
    second = 16_000
    first = embed_clips(Sum(), uneven, window=second, long_clips="first", batch_size=2)
    mean = embed_clips(Sum(), uneven, window=second, long_clips="mean", batch_size=2)
    for i, seconds in enumerate(LENGTHS_S):
        wav = wav_of(uneven, i).astype(np.float64) / 32768
        if not len(wav):
            assert not first[i].any() and not mean[i].any()
            continue
        assert first[i, 0] == pytest.approx(wav[:second].mean(), abs=1e-6)
        assert first[i, 1] == min(len(wav), second)
        # 3.01 s: the last 0.01 s is too short to count.
        whole = wav[: 3 * second] if seconds == 3.01 else wav
        assert mean[i, 0] == pytest.approx(whole.mean(), abs=1e-6)


def test_windows_cover_clips_longest_first() -> None:
    windows = plan_windows(np.array([5, 25, 0, 10, 21]), 10, "mean")
    assert windows.samples_W.tolist() == sorted(windows.samples_W, reverse=True)
    found = sorted(zip(windows.clip_W, windows.start_W, windows.samples_W, strict=True))
    assert found == [(0, 0, 5), (1, 0, 10), (1, 10, 10), (1, 20, 5), (2, 0, 0), (3, 0, 10),
                     (4, 0, 10), (4, 10, 10), (4, 20, 1)]  # fmt: skip
    first = plan_windows(np.array([5, 25, 0]), 10, "first")
    assert sorted(zip(first.clip_W, first.samples_W, strict=True)) == [(0, 5), (1, 10), (2, 0)]
    short = plan_windows(np.array([1005]), 100, "mean")
    assert len(short) == 10  # a twentieth of a window is left out


def test_log_mel_statistics_are_those_of_kaldis_filter_bank(uneven: Clips) -> None:
    emb = embed_clips(
        LogMelStatistics(), uneven, window=160_000, pooling="mean_std_max", batch_size=9
    )
    assert emb.shape == (9, 384)
    for i in (1, 2, 5):
        wav = torch.from_numpy(wav_of(uneven, i)).float()[None]
        mel = torchaudio.compliance.kaldi.fbank(
            wav, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10
        )
        mel = (mel - 15.41663) / (2 * 6.55582)
        np.testing.assert_allclose(emb[i, :128], mel.mean(0), atol=1e-4)
        np.testing.assert_allclose(emb[i, 128:256], mel.std(0, correction=0), atol=1e-4)
        np.testing.assert_allclose(emb[i, 256:], mel.amax(0), atol=1e-3)


class Broken(Sum):
    """NaN for clips longer than a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def embed(
        self, wav_BT: Tensor, length_B: Tensor, layer: Any = -1, pooling: Pooling = "mean"
    ) -> Tensor:
        emb = super().embed(wav_BT, length_B)
        return torch.where(length_B[:, None] > self.limit, torch.nan, emb)


def test_nan_embeddings_name_the_clips_or_blame_the_model(uneven: Clips, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.npy"
    with pytest.raises(DataError, match=r"NaN or infinite embeddings for 2 of 9 clips: clip-0000"):
        cached(path, lambda store: embed_clips(
            Broken(60_000), uneven, window=160_000, make_store=store))  # fmt: skip
    assert list(path.parent.iterdir()) == []
    with pytest.raises(CheckpointError, match="all 9 clips"):
        embed_clips(Broken(-1), uneven, window=160_000)


def test_a_damaged_clip_is_an_error(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, 16000).astype(np.int16)
    path = make_dataset(tmp_path / "d", [{"wav": noise, "labels": ["a"]}] * 3, ["a"])
    clips = open_clips(path)
    member = clips.index.member(1)
    with Path(member.path).open("r+b") as file:
        file.seek(member.offset)
        file.write(b"\0" * member.size)
    with pytest.raises(DataError, match=r"clip-000001\.flac cannot be decoded"):
        embed_clips(Sum(), clips, window=160_000)


def test_the_cache_is_used_and_holds_the_same_numbers(uneven: Clips, tmp_path: Path) -> None:
    calls = []

    def compute(store: Any) -> npt.NDArray[np.float32]:
        calls.append(1)
        return embed_clips(Sum(), uneven, window=160_000, make_store=store)

    path = tmp_path / "cache" / "model.npy"
    first = np.array(cached(path, compute))
    second = np.array(cached(path, compute))
    plain = cached(None, compute)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, plain)
    assert len(calls) == 2
    assert [p.name for p in path.parent.iterdir()] == ["model.npy"]


def test_a_full_disk_is_told_before_the_work(
    uneven: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        assert length >= 9 * 2 * 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    path = tmp_path / "cache" / "model.npy"
    with pytest.raises(DataError, match=r"could not be written to .*cache=false"):
        cached(path, lambda store: embed_clips(Sum(), uneven, window=160_000, make_store=store))
    assert list(path.parent.iterdir()) == []


def test_two_evaluations_can_fill_the_cache_at_once(uneven: Clips, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.npy"
    fork = multiprocessing.get_context("fork")
    meet = fork.Barrier(2)

    def compute(store: Any) -> npt.NDArray[np.float32]:
        emb = embed_clips(Sum(), uneven, window=160_000, make_store=store, workers=1)
        meet.wait(20)
        return emb

    expected = embed_clips(Sum(), uneven, window=160_000)

    def work() -> None:
        sys.exit(0 if np.array_equal(cached(path, compute), expected) else 3)

    processes = [fork.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0]
    assert [p.name for p in path.parent.iterdir()] == ["model.npy"]


def test_the_digest_follows_weights_and_config(tiny_encoder: dict[str, Any]) -> None:
    one, same = random_encoder(tiny_encoder, 0), random_encoder(tiny_encoder, 0)
    assert weights_digest(one) == weights_digest(same)
    assert weights_digest(one) != weights_digest(random_encoder(tiny_encoder, 1))
    other = random_encoder({**tiny_encoder, "max_distance": 50}, 0)
    assert weights_digest(one) != weights_digest(other)
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-3
    assert weights_digest(one) != weights_digest(same)
