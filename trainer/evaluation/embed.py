"""Embeddings of every clip of a dataset: pooled over time, any layer or all in one pass.

Shape legend: N clips, W windows, B windows of a batch, T samples or frames, F mel bins, D
channels, L layers.
"""

from __future__ import annotations

import hashlib
import os
import typing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import Grid
from dawnchorus.trainer.errors import CheckpointError, DataError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.splits import some
from dawnchorus.trainer.files import whole_path
from dawnchorus.trainer.frontends.kaldi import BeatsLogMel
from dawnchorus.trainer.pooling import Pooling, pool
from dawnchorus.trainer.progress import Bar

IntArray = npt.NDArray[np.int64]
Layer = int | Literal["last", "all"]


class Embedder(typing.Protocol):
    """The interface of an evaluated model: `trainer.model.BioEncoder`, or any other."""

    def embed(
        self,
        wav_BT: Tensor,
        length_B: Tensor,
        layer: int | Literal["all"] = -1,
        pooling: Pooling = "mean",
    ) -> Tensor:
        """Pool one layer over the valid tokens, [B, K D], or all layers, [B, L, K D]."""
        ...


class LogMelStatistics(nn.Module):
    """The baseline without learning: each log-mel band over the clip's own frames, pooled as the
    model's tokens are.
    """

    def __init__(self, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.frontend = BeatsLogMel(sample_rate_hz)

    def embed(
        self,
        wav_BT: Tensor,
        length_B: Tensor,
        layer: int | Literal["all"] = -1,
        pooling: Pooling = "mean",
    ) -> Tensor:
        """[B, K x 128]: see `trainer.pooling.pool`. There are no layers to choose."""
        del layer
        (mel_BTF,), valid_BT, _ = self.tokens(wav_BT, length_B)
        return pool(mel_BTF.double(), valid_BT, pooling).float()

    def tokens(
        self, wav_BT: Tensor, length_B: Tensor, layers: object = "last"
    ) -> tuple[list[Tensor], Tensor, Grid]:
        """The frames, as tokens of one layer; see `BioEncoder.tokens`."""
        del layers
        mel_BTF, frames_B = self.frontend(wav_BT, length_B)
        frame_T = torch.arange(mel_BTF.shape[1], device=mel_BTF.device)
        return [mel_BTF], frame_T < frames_B[:, None], Grid(mel_BTF.shape[1])


@dataclass(frozen=True)
class Windows:
    """The pieces of clips that go through the model."""

    clip_W: IntArray
    """Number of the clip of each window."""
    start_W: IntArray
    """First sample."""
    samples_W: IntArray
    """Length; never more than the window."""

    def __len__(self) -> int:
        return len(self.clip_W)


def plan_windows(samples_N: IntArray, window: int, long_clips: Literal["first", "mean"]) -> Windows:
    """Cut clips into windows, longest first, so that a batch holds windows of similar length.

    Args:
        samples_N: length of each clip.
        window: longest window, in samples.
        long_clips: `first`: only the first window; `mean`: consecutive ones to the end (a
            remainder shorter than a tenth of a window is left out).
    """
    clips, starts, lengths = [], [], []
    for clip, samples in enumerate(samples_N.tolist()):
        stop = samples if long_clips == "mean" else min(samples, window)
        for start in range(0, max(stop, 1), window):
            length = min(window, stop - start)
            if start and length * 10 < window:
                continue
            clips.append(clip)
            starts.append(start)
            lengths.append(length)
    order = np.argsort(-np.array(lengths, dtype=np.int64), kind="stable")
    as_array = (np.array(x, dtype=np.int64)[order] for x in (clips, starts, lengths))
    return Windows(*as_array)


def read_batches(
    clips: Clips, windows: Windows, batch_size: int, workers: int = 2
) -> Iterator[tuple[slice, npt.NDArray[np.int16]]]:
    """Read batches of windows in threads, a little ahead of the model; decoding frees the GIL."""

    def read(rows: slice) -> tuple[slice, npt.NDArray[np.int16]]:
        # The first window of a batch is its longest.
        wav_BT = np.zeros((rows.stop - rows.start, int(windows.samples_W[rows.start])), np.int16)
        for i in range(rows.start, rows.stop):
            clip, start, samples = windows.clip_W[i], windows.start_W[i], windows.samples_W[i]
            wav = clips.read(int(clip), int(start), int(samples))
            wav_BT[i - rows.start, : len(wav)] = wav
        return rows, wav_BT

    starts = range(0, len(windows), batch_size)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[tuple[slice, npt.NDArray[np.int16]]]] = deque()
        for start in starts:
            ahead.append(pool.submit(read, slice(start, min(start + batch_size, len(windows)))))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _embed_batch(
    model: Embedder,
    wav_BT: npt.NDArray[np.int16],
    samples_B: IntArray,
    layer: Layer,
    pooling: Pooling,
    device: Any,
) -> npt.NDArray[np.float32]:
    wav = torch.from_numpy(wav_BT).to(device).float() / 32768.0
    length = torch.from_numpy(samples_B).to(device)
    number: int | Literal["all"] = -1 if layer == "last" else layer
    emb_BD = model.embed(wav, length, number, pooling).float()
    emb: npt.NDArray[np.float32] = emb_BD.cpu().numpy()
    return emb


def check_finite(
    clips: Clips, finite_N: npt.NDArray[np.bool_], who: str, what: str = "embeddings"
) -> None:
    """Make sure that what was computed of every clip is finite.

    Raises:
        CheckpointError: that of no clip is.
        DataError: that of some clips is not; they are named.
    """
    bad = np.flatnonzero(~finite_N)
    if not bad.size:
        return
    if bad.size == len(clips):
        raise CheckpointError(
            f"{who}: the {what} of all {len(clips)} clips are NaN or infinite: the weights "
            "are damaged or the training diverged"
        )
    raise DataError(
        f"{clips.path}: {who} gives NaN or infinite {what} for {bad.size} of {len(clips)} "
        f"clips: {some(clips.keys[i] for i in bad)}. Listen to them; leave them out or prepare "
        "them again"
    )


@torch.inference_mode()
def embed_clips(
    model: Embedder,
    clips: Clips,
    *,
    window: int,
    layer: Layer = "last",
    pooling: Pooling = "mean",
    long_clips: Literal["first", "mean"] = "first",
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    workers: int = 2,
    who: str = "model",
    make_store: Callable[[tuple[int, ...]], npt.NDArray[np.float32]] | None = None,
) -> npt.NDArray[np.float32]:
    """Embed every clip.

    Args:
        model: a model in eval mode, on `device`.
        clips: the clips to embed.
        window: longest piece that goes through the model at once, in samples.
        layer: `last`, a number as in `BioEncoder.embed`, or `all`.
        pooling: statistics over the tokens of a window.
        long_clips: treatment of clips longer than the window: see `plan_windows`.
        batch_size: windows per forward pass.
        device: the device of the model.
        workers: number of reading threads.
        who: name for the progress bar and messages.
        make_store: allocates the result (a memory map, say); None: plain memory.

    Returns:
        [N, K D], or [N, L, K D] for all layers; float32. Batching does not change a clip's
        embedding (beyond rounding): padding is masked out.

    Raises:
        DataError: NaN or infinite embeddings of some clips, or a clip that cannot be read.
        CheckpointError: NaN or infinite embeddings of all clips.
    """
    windows = plan_windows(clips.samples_N, window, long_clips)
    weight_N = np.bincount(windows.clip_W, windows.samples_W, minlength=len(clips))
    share_W = np.where(weight_N[windows.clip_W] > 0, windows.samples_W, 1) / np.maximum(
        weight_N[windows.clip_W], 1
    )
    store: npt.NDArray[np.float32] | None = None
    finite_N = np.ones(len(clips), dtype=bool)
    with Bar(len(windows), f"embedding with {who}", "windows", stays=False) as bar:
        for rows, wav_BT in read_batches(clips, windows, batch_size, workers):
            emb = _embed_batch(model, wav_BT, windows.samples_W[rows], layer, pooling, device)
            if store is None:
                shape = (len(clips), *emb.shape[1:])
                store = make_store(shape) if make_store else np.zeros(shape, np.float32)
            clip_B = windows.clip_W[rows]
            good_B = np.isfinite(emb).reshape(len(emb), -1).all(1)
            finite_N[clip_B[~good_B]] = False
            share = share_W[rows].astype(np.float32).reshape(-1, *[1] * (emb.ndim - 1))
            np.add.at(store, clip_B, emb * share)
            bar.advance(len(emb))
    if store is None:
        raise DataError(f"{clips.path}: there is no clip to embed")
    check_finite(clips, finite_N, who)
    return store


def weights_digest(model: nn.Module) -> str:
    """Digest that identifies a model by its tensors and the encoder's numbers."""
    digest = hashlib.blake2b(digest_size=16)
    encoder_config = getattr(getattr(model, "encoder", None), "config", None)
    digest.update(f"{type(model).__name__} {encoder_config}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def cached(
    path: Path | None,
    compute: Callable[[Callable[[tuple[int, ...]], npt.NDArray[np.float32]] | None], Any],
) -> npt.NDArray[np.float32]:
    """Read embeddings from a cache file; if it does not exist, compute them into it.

    The file appears whole or not at all, so two evaluations of one run can work at the same time.
    It is filled through a memory map, so memory never holds all embeddings of a large set.

    Args:
        path: cache file (`.npy`); None: no cache.
        compute: makes the embeddings, given a function that allocates them.
    """
    if path is None:
        return np.asarray(compute(None))
    if not path.is_file():
        try:
            with whole_path(path) as beside:
                compute(partial(_store_at, beside)).flush()
        except OSError as error:
            raise DataError(
                f"the embeddings could not be written to {path} ({error}). Make room there, or "
                "use cache=false"
            ) from error
    loaded: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return loaded


def _store_at(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return an array in a new file. Its space is reserved first, because a disk that fills up
    behind a memory map kills the process.
    """
    store = np.lib.format.open_memmap(path, "w+", np.dtype(np.float32), shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return store
