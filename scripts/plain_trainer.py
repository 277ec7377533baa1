"""Trains the small MAE and EAT in plain torch, to see whether ours reaches the same loss.

    python -m scripts.plain_trainer mae DATASET --steps 300
    chorus train ssl_mae_tiny encoder=eat_tiny encoder.norm=pre data.train.a.path=DATASET ...

It shares no code with `trainer`: torchaudio's Kaldi filter bank, attention of timm, a loop.
DATASET is a prepared dataset whose clips are at least as long as the window. Numbers are those of
`ssl_mae_tiny` (in AudioMAE's form: encoder `eat_tiny` with norms in front) and `ssl_eat_tiny`.

Shape legend: B clips, M masked views, F mel bins, N tokens, K kept, J masked, D width, P pixels.
"""

from __future__ import annotations

import argparse
import io
import math
import tarfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torchaudio.compliance.kaldi import fbank

RATE, BINS, PATCH, DIM, HEADS, LAYERS = 16000, 128, 16, 128, 4, 4
BANDS = BINS // PATCH


def sounds(dataset: Path, folds: set[str]) -> list[Tensor]:
    """All clips of the shards whose fold is not in `folds`, as waveforms."""
    import pyarrow.parquet as pq

    index = pq.read_table(dataset / "index.parquet", columns=["key", "fold"]).to_pylist()
    left_out = {row["key"] for row in index if row["fold"] in folds}
    found = []
    for shard in sorted(dataset.rglob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                stem, _, kind = member.name.partition(".")
                if kind == "flac" and Path(stem).name not in left_out:
                    file = tar.extractfile(member)
                    assert file is not None
                    wav, _ = soundfile.read(io.BytesIO(file.read()), dtype="float32")
                    found.append(torch.from_numpy(wav))
    return found


def log_mel(wav: Tensor) -> Tensor:
    """EAT's spectrogram: [frames, bins]."""
    wav = wav - wav.mean()
    mel = fbank(wav[None], htk_compat=True, sample_frequency=RATE, use_energy=False,
                window_type="hanning", num_mel_bins=BINS, dither=0.0, frame_shift=10)  # fmt: skip
    scaled: Tensor = (mel + 4.268) / (2 * 4.569)
    return scaled


def patches(mel_BTF: Tensor) -> Tensor:
    """[B, N, P], one column of bands after the other."""
    times = mel_BTF.shape[1] // PATCH
    cut = mel_BTF[:, : times * PATCH].reshape(-1, times, PATCH, BANDS, PATCH)
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)


def positions(places: int, dim: int) -> Tensor:
    """Sines and cosines of time and of frequency, [N, D]."""
    rate = 10000 ** -(torch.arange(dim // 4) / (dim / 4))
    place = torch.arange(places)
    angles = torch.cat([(place // BANDS)[:, None] * rate, (place % BANDS)[:, None] * rate], 1)
    return torch.cat([angles.sin(), angles.cos()], 1)


class Block(nn.Module):
    """A transformer layer, norms before (MAE) or after (EAT)."""

    def __init__(self, *, pre: bool) -> None:
        super().__init__()
        self.pre = pre
        self.norm1, self.norm2 = nn.LayerNorm(DIM, 1e-6), nn.LayerNorm(DIM, 1e-6)
        self.attn, self.mlp = Attention(DIM, HEADS, qkv_bias=True), Mlp(DIM, 4 * DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and that of the feed-forward part alone."""
        if self.pre:
            x = x + self.attn(self.norm1(x))
            fed = self.mlp(self.norm2(x))
            return x + fed, fed
        x = self.norm1(x + self.attn(x))
        fed = self.mlp(x)
        return self.norm2(x + fed), fed


class Transformer(nn.Module):
    """The encoder."""

    def __init__(self, *, pre: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH**2, DIM)
        self.cls = nn.Parameter(torch.randn(1, 1, DIM) * (0.02 if pre else 1.0))
        self.first = nn.Identity() if pre else nn.LayerNorm(DIM, 1e-6)
        self.last = nn.LayerNorm(DIM, 1e-6) if pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(pre=pre) for _ in range(LAYERS))
        start(self.blocks, pre=pre)
        nn.init.xavier_uniform_(self.embed.weight)

    def forward(self, pixel_BNP: Tensor, keep_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens with CLS in front, and the mean over layers of EAT's targets."""
        x = self.embed(pixel_BNP) + positions(pixel_BNP.shape[1], DIM)
        if keep_BK is not None:
            x = x.gather(1, keep_BK[..., None].expand(-1, -1, DIM))
        x = self.first(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))
        total = torch.zeros_like(x[:, 1:])
        for block in self.blocks:
            x, fed = block(x)
            total = total + F.instance_norm(fed[:, 1:].mT).mT
        return self.last(x), total / LAYERS


def start(module: nn.Module, *, pre: bool) -> None:
    """First weights."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            if pre:
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


class Mae(nn.Module):
    """Masked autoencoder, two layers of decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Transformer(pre=True)
        self.project, self.norm = nn.Linear(DIM, DIM), nn.LayerNorm(DIM, 1e-6)
        self.mask = nn.Parameter(torch.randn(DIM) * 0.02)
        self.decoder = nn.ModuleList(Block(pre=True) for _ in range(2))
        self.draw = nn.Linear(DIM, PATCH**2)
        start(nn.ModuleList([self.project, self.decoder, self.draw]), pre=True)

    def forward(self, pixel_BNP: Tensor) -> Tensor:
        """The loss of a batch."""
        clips, places, _ = pixel_BNP.shape
        order = torch.rand(clips, places).argsort(1)
        kept = int(0.25 * places + 0.5)
        keep, hide = order[:, :kept], order[:, kept:]
        tok = self.project(self.encoder(pixel_BNP, keep)[0])
        full = self.mask.expand(clips, places, DIM)
        full = full.scatter(1, keep[..., None].expand(-1, -1, DIM), tok[:, 1:])
        x = torch.cat([tok[:, :1], full + positions(places, DIM)], 1)
        for block in self.decoder:
            x, _ = block(x)
        drawn = self.draw(self.norm(x[:, 1:]))
        variance, mean = torch.var_mean(pixel_BNP, -1, keepdim=True)
        error = (drawn - (pixel_BNP - mean) / (variance + 1e-4).sqrt()).square().mean(-1)
        loss: Tensor = error.gather(1, hide).mean()
        return loss

    def after_step(self, step: int) -> None:
        """Nothing moves but by gradients."""


class Eat(nn.Module):
    """Student, teacher, and a decoder of two convolutions; four views of a clip."""

    def __init__(self, views: int = 4) -> None:
        super().__init__()
        self.views, self.encoder = views, Transformer(pre=False)
        self.teacher = deepcopy(self.encoder).requires_grad_(False)
        self.convs = nn.ModuleList(nn.Conv2d(DIM, DIM, 3, padding=1, groups=16) for _ in range(2))
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, pixel_BNP: Tensor) -> Tensor:
        """The loss of a batch."""
        clips, places, _ = pixel_BNP.shape
        with torch.no_grad():
            target = F.layer_norm(self.teacher(pixel_BNP)[1], (DIM,))
        target = target.repeat_interleave(self.views, 0)
        # Squares of 5 stay visible; then single tokens until the count is right.
        rank = torch.rand(clips * self.views, places)
        row, column = torch.arange(places) // BANDS, torch.arange(places) % BANDS
        for _ in range(max(int(places * 0.27 / 25), 1)):
            centre = torch.randint(places, (len(rank), 1))
            near = ((row - centre // BANDS).abs() <= 2) & ((column - centre % BANDS).abs() <= 2)
            rank = torch.where(near & (rank < 1), rank + 1, rank)
        order, kept = rank.argsort(1, descending=True), int(0.2 * places + 0.5)
        keep, hide = order[:, :kept], order[:, kept:]
        tok = self.encoder(pixel_BNP.repeat_interleave(self.views, 0), keep)[0]
        full = 0.01 * torch.randn(len(rank), places, DIM)
        full = full.scatter(1, keep[..., None].expand(-1, -1, DIM), tok[:, 1:])
        x = full.mT.reshape(len(rank), DIM, -1, BANDS)
        for conv in self.convs:
            y = conv(x).movedim(1, 3)
            x = x + F.gelu(F.layer_norm(y, (DIM,))).movedim(3, 1)
        error = (self.proj(x.flatten(2).mT) - target).square().sum(-1) / math.sqrt(DIM)
        clip = (tok[:, 0] - target.mean(1)).square().sum(-1) / math.sqrt(DIM)
        loss: Tensor = error.gather(1, hide).mean() + clip.mean()
        return loss

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher."""
        decay = 0.99 + 0.009 * min((step + 1) / 300, 1)
        for old, new in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


def train(
    kind: str, wavs: list[Tensor], *, steps: int, batch: int, window: int, seed: int
) -> list[float]:
    """The loss of every step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, decay, clip = (Mae(), 1e-4, 1.0) if kind == "mae" else (Eat(), 0.05, 4.0)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    flat = [p for n, p in named if p.squeeze().dim() < 2]
    deep = [p for n, p in named if p.squeeze().dim() >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": deep, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95),
    )  # fmt: skip
    losses, order = list[float](), list[int]()
    for step in range(steps):
        if len(order) < batch:
            order = [*order, *rng.permutation(len(wavs)).tolist()]
        chosen, order = order[:batch], order[batch:]
        starts = [int(rng.integers(len(wavs[i]) - window + 1)) for i in chosen]
        mels = [log_mel(wavs[i][at : at + window]) for i, at in zip(chosen, starts, strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min((step + 1) / 40, 1)
        loss = model(patches(torch.stack(mels)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for _, p in named], clip)
        optimizer.step()
        model.after_step(step)
        losses.append(loss.item())
        if (step + 1) % 10 == 0:
            print(f"{step + 1}  loss {np.mean(losses[-10:]):.4f}", flush=True)
    return losses


def main() -> None:
    """Train one model and print its losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("mae", "eat"))
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--window-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", default="", help="folds, separated by commas")
    given = parser.parse_args()
    wavs = sounds(given.dataset, set(given.leave_out.split(",")))
    train(given.kind, wavs, steps=given.steps, batch=given.batch,
          window=round(given.window_s * RATE), seed=given.seed)  # fmt: skip


if __name__ == "__main__":
    main()
