"""Tokens of every clip, for probes that pool for themselves: from a file, or encoded again.

A file holds the tokens of all clips in half precision. Reading it takes the memory of the clips
that are read, whatever the number of clips: the map of the file is given back after each batch.

Shape legend: N clips, B clips of a batch, L layers, T tokens, D channels, S samples.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dawnchorus.trainer.encoders.base import Grid
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.clips import Clips
from dawnchorus.trainer.evaluation.embed import check_finite, plan_windows, read_batches
from dawnchorus.trainer.files import whole_path
from dawnchorus.trainer.progress import Bar, Progress

IntArray = npt.NDArray[np.int64]
HalfArray = npt.NDArray[np.float16]
Layers = Literal["last", "blocks"] | tuple[int, ...]

GIB = 2**30
_SPARE_BYTES = GIB
"""Left free on a disk beside a new file of tokens."""


class Tokeniser(Protocol):
    """A model that gives its tokens: `BioEncoder`, the frames of log-mel, or any other."""

    def tokens(
        self, wav_BT: Tensor, length_B: Tensor, layers: Layers = "last"
    ) -> tuple[list[Tensor], Tensor, Grid]:
        """The tokens of the chosen layers, which of them are valid, and their grid."""
        ...


@dataclass(frozen=True)
class TokenShape:
    """How many tokens there are of what."""

    clips: int
    layers: int
    tokens: int
    """Of the longest clip, with the `prefix` tokens in front."""
    dim: int
    """Channels of the widest layer."""
    widths: tuple[int, ...]
    """Channels of each layer; behind those of a narrower one there are zeros."""
    prefix: int
    """Tokens in front that stand for the whole clip."""

    @property
    def bytes(self) -> int:
        """Size in half precision."""
        return 2 * self.clips * self.clip_values

    @property
    def clip_values(self) -> int:
        """Numbers of one clip."""
        return self.layers * self.tokens * self.dim


class TokenSource(ABC):
    """Tokens of N clips, read a few clips at a time."""

    shape: TokenShape

    @abstractmethod
    def read(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """Tokens of some clips, on the CPU.

        Returns:
            tok_BLTD in float16, as long as the longest of these clips and zero behind the others;
            valid_BT, bool: what is not padding.
        """


# --------------------------------------------------------------------------- from the encoder


class LiveTokens(TokenSource):
    """Runs the encoder for what is read.

    Args:
        model: in eval mode, on `device`.
        clips: the clips; of each, the first `window` samples count.
        window: in samples.
        layers: `last`, `blocks` (the output of every block) or layer numbers as in
            `BioEncoder.embed`.
        stride: every `stride`-th column of tokens in time is kept, with all its bands.
        batch_size: clips per forward pass.
        device: the device of the model.
        who: name for the progress bar and messages.
    """

    def __init__(
        self,
        model: Tokeniser,
        clips: Clips,
        *,
        window: int,
        layers: Layers = "last",
        stride: int = 1,
        batch_size: int = 16,
        device: torch.device | str = "cpu",
        who: str = "model",
    ) -> None:
        self.model, self.clips, self.layers, self.stride = model, clips, layers, stride
        self.batch_size, self.device, self.who = batch_size, device, who
        self.samples_N = np.minimum(clips.samples_N, window)
        self.windows = plan_windows(clips.samples_N, window, "first")
        if not len(clips):
            raise DataError(f"{clips.path}: there is no clip to embed")
        longest = self.windows.clip_W[:1]
        tokens, valid, grid, widths = self._encode(self._wav(longest), self.samples_N[longest])
        self.shape = TokenShape(
            len(clips), tokens.shape[1], valid.shape[1], tokens.shape[3], widths, grid.prefix
        )

    def read(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """See `TokenSource.read`."""
        # Clips of similar length go together, because padding costs time.
        order = np.argsort(-self.samples_N[rows], kind="stable")
        tokens, count_B = None, torch.zeros(len(rows), dtype=torch.int64)
        for start in range(0, len(rows), self.batch_size):
            chosen = order[start : start + self.batch_size]
            part, counts = self.encode(self._wav(rows[chosen]), self.samples_N[rows[chosen]])
            if tokens is None:
                tokens = torch.zeros(len(rows), *part.shape[1:], dtype=torch.float16)
            tokens[chosen, :, : part.shape[2]] = part
            count_B[chosen] = counts
        assert tokens is not None, "no clip was asked for"
        return _trimmed(tokens, count_B)

    def encode(self, wav_BS: npt.NDArray[np.int16], samples_B: IntArray) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, T, D] in float16 and the number of valid ones [B], which stand in front."""
        tokens, valid, _, _ = self._encode(wav_BS, samples_B)
        count_B = valid.sum(1)
        assert bool((valid == (torch.arange(valid.shape[1]) < count_B[:, None])).all())
        tokens = tokens.masked_fill(~valid[:, None, :, None], 0.0)
        return tokens.half(), count_B

    def _wav(self, rows: IntArray) -> npt.NDArray[np.int16]:
        wav_BS = np.zeros((len(rows), int(self.samples_N[rows].max())), np.int16)
        for i, row in enumerate(rows):
            wav = self.clips.read(int(row), 0, int(self.samples_N[row]))
            wav_BS[i, : len(wav)] = wav
        return wav_BS

    @torch.inference_mode()
    def _encode(
        self, wav_BS: npt.NDArray[np.int16], samples_B: IntArray
    ) -> tuple[Tensor, Tensor, Grid, tuple[int, ...]]:
        wav = torch.from_numpy(wav_BS).to(self.device).float() / 32768.0
        length = torch.from_numpy(samples_B).to(self.device)
        layers, valid_BT, grid = self.model.tokens(wav, length, self.layers)
        widths = tuple(layer.shape[-1] for layer in layers)
        kept = _kept(grid, self.stride).to(valid_BT.device)
        tokens = torch.stack(
            [F.pad(x[:, kept].float(), (0, max(widths) - x.shape[-1])) for x in layers], dim=1
        )
        return tokens.cpu(), valid_BT[:, kept].cpu(), grid, widths


def _kept(grid: Grid, stride: int) -> Tensor:
    """Numbers of the tokens in front and of every `stride`-th column."""
    column_N = torch.arange(grid.places) // grid.bands
    places = torch.arange(grid.places)[column_N % stride == 0]
    return torch.cat([torch.arange(grid.prefix), grid.prefix + places])


def _trimmed(tok_BLTD: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
    longest = max(int(count_B.max()), 1)
    valid_BT = torch.arange(longest) < count_B[:, None]
    return tok_BLTD[:, :, :longest], valid_BT


# --------------------------------------------------------------------------- from a file


class TokenFile(TokenSource):
    """Reads what `write_tokens` wrote. The file may be deleted meanwhile."""

    def __init__(self, path: Path) -> None:
        with np.load(_beside(path)) as about:
            self.count_N = about["count_N"]
            widths, prefix = tuple(about["widths"].tolist()), int(about["prefix"])
        self.file = path.open("rb")
        with np.errstate(all="raise"):
            version = np.lib.format.read_magic(self.file)
            assert version == (1, 0)
            shape, _, _ = np.lib.format.read_array_header_1_0(self.file)
        self.offset = self.file.tell()
        clips, layers, tokens, dim = shape
        self.shape = TokenShape(clips, layers, tokens, dim, widths, prefix)
        os.utime(path)  # the file that was used last is deleted last

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def read(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """See `TokenSource.read`."""
        s, count_B = self.shape, self.count_N[rows]
        longest = max(int(count_B.max()), 1)
        # Mapped anew each time: pages of a map that is kept would count as memory of the process.
        whole: HalfArray = np.memmap(
            self.file, np.float16, "r", self.offset, (s.clips, s.layers, s.tokens, s.dim)
        )
        found = np.empty((len(rows), s.layers, longest, s.dim), np.float16)
        for i, row in enumerate(rows):
            found[i] = whole[row, :, :longest]
        return _trimmed(torch.from_numpy(found), torch.from_numpy(count_B))


def write_tokens(path: Path, live: LiveTokens) -> None:
    """Encode every clip into a file, which appears whole or not at all.

    Raises:
        OSError: no room. The space is reserved first.
        DataError, CheckpointError: NaN, infinite or (in half precision) too large tokens.
    """
    s = live.shape
    count_N = np.zeros(s.clips, np.int64)
    finite_N = np.ones(s.clips, dtype=bool)
    with whole_path(path) as beside:
        header = {"descr": "<f2", "fortran_order": False,
                  "shape": (s.clips, s.layers, s.tokens, s.dim)}  # fmt: skip
        with beside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            file.flush()
            os.posix_fallocate(file.fileno(), start, s.bytes)
            with Bar(s.clips, f"tokens of {live.who}", "clips", stays=False) as bar:
                batches = read_batches(live.clips, live.windows, live.batch_size)
                for rows, wav_BS in batches:
                    clip_B = live.windows.clip_W[rows]
                    tokens, counts = live.encode(wav_BS, live.windows.samples_W[rows])
                    finite_N[clip_B] = tokens.isfinite().flatten(1).all(1).numpy()
                    count_N[clip_B] = counts.numpy()
                    for clip, one in zip(clip_B, _full(tokens, s), strict=True):
                        os.pwrite(file.fileno(), one, start + int(clip) * 2 * s.clip_values)
                    bar.advance(len(clip_B))
        check_finite(live.clips, finite_N, live.who, "tokens")
        with whole_path(_beside(path)) as about, about.open("wb") as file:
            np.savez(file, count_N=count_N, widths=np.array(s.widths), prefix=np.array(s.prefix))


def _full(tok_BLTD: Tensor, shape: TokenShape) -> list[bytes]:
    """The bytes of each clip, with zeros up to the longest one's tokens."""
    padded = F.pad(tok_BLTD, (0, 0, 0, shape.tokens - tok_BLTD.shape[2]))
    return [clip.tobytes() for clip in padded.numpy()]


def _beside(path: Path) -> Path:
    """What goes with a file of tokens: how many are valid, widths, tokens in front."""
    return path.with_suffix(".npz")


# --------------------------------------------------------------------------- which of the two


def open_tokens(
    make_live: Callable[[], LiveTokens],
    path: Path | None,
    *,
    limit_gib: float,
    say: Callable[[str], None] | None = None,
) -> TokenSource:
    """Tokens from a file, which is made if it does not exist; without room for it, encoded again.

    Args:
        make_live: makes the source that encodes.
        path: the file (`NAME.tokens.npy`); None: a temporary one, gone when it is no longer used.
        limit_gib: the most that the files of tokens beside `path` may take together; the ones
            that were not used for longest are deleted. Nothing is written where one alone is
            larger, or where the disk is too full.
        say: gets one line: how large the file will be, or why there is none; left out: it is
            printed on standard error.
    """
    say = say or Progress().say
    if path is not None and path.is_file() and _beside(path).is_file():
        return TokenFile(path)
    live = make_live()
    s = live.shape
    folder = Path(tempfile.gettempdir()) if path is None else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    size = (f"tokens of {live.who}: {s.clips:,} clips x {s.layers} layers x {s.tokens} tokens x "
            f"{s.dim} channels, {s.bytes / GIB:.2f} GiB in half precision")  # fmt: skip
    again = "they are encoded again whenever the probe reads them, which takes longer"
    if s.bytes > limit_gib * GIB:
        say(f"{size}, more than tokens.limit_gib ({limit_gib:g}): {again}")
        return live
    if path is not None:
        make_room(folder, s.bytes, limit_gib)
    free = shutil.disk_usage(folder).free - _SPARE_BYTES
    if s.bytes > free:
        say(f"{size}, but {folder} has room for {max(free, 0) / GIB:.2f} GiB: {again}")
        return live
    say(f"{size}, in {path or folder}")
    try:
        if path is None:
            with tempfile.TemporaryDirectory(prefix="tokens-", dir=folder) as temporary:
                file = Path(temporary) / "some.tokens.npy"
                write_tokens(file, live)
                return TokenFile(file)
        write_tokens(path, live)
        return TokenFile(path)
    except OSError as error:
        say(f"the tokens could not be written ({error}): {again}")
        return live


def make_room(folder: Path, wanted: int, limit_gib: float) -> None:
    """Delete files of tokens, those first that were not used for longest, until `wanted` bytes
    more are within the limit.
    """
    files = sorted(folder.glob("*.tokens.npy"), key=lambda file: file.stat().st_mtime)
    taken = sum(file.stat().st_size for file in files)
    for file in files:
        if taken + wanted <= limit_gib * GIB:
            return
        taken -= file.stat().st_size
        file.unlink(missing_ok=True)
        _beside(file).unlink(missing_ok=True)
