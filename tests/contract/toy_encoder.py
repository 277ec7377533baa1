"""The toy encoder: the whole of what a new encoder has to say.

Shape legend: B clips, T frames, F mel bins, N tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contract.toy_encoder_config import ToyConfig
from dawnchorus.trainer.encoders.base import Encoder, EncoderOutput, Grid, useful_autocast


class ToyBlock(nn.Module):
    """x + gelu(norm(W x)) on every token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """The same shape."""
        y_BND: Tensor = self.norm(self.linear(x_BND).mT).mT
        return x_BND + torch.nn.functional.gelu(y_BND)


class Toy(Encoder):
    """Log-mel in, a token per group of frames out."""

    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.frames * config.mel_bins, config.dim)
        self.layers = nn.ModuleList(ToyBlock(config.dim) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.dim)

    def blocks(self) -> list[nn.Module]:
        """The residual blocks."""
        return list(self.layers)

    def tail(self) -> list[nn.Module]:
        """The final norm."""
        return [self.final_norm]

    def grid(self, steps: int) -> Grid:
        """Whole groups of frames."""
        return Grid(max(steps // self.config.frames, 1), token_s=0.010 * self.config.frames)

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """Whole groups of each clip's own frames, one at least."""
        own_B = (steps_B // self.config.frames).clamp(min=1)
        return torch.arange(grid.tokens, device=steps_B.device) < own_B[:, None]

    @useful_autocast
    def forward(
        self, x: Tensor, steps_B: Tensor | None = None, *, layers: bool = False
    ) -> EncoderOutput:
        """See `Encoder.forward`."""
        grid = self.grid(x.shape[1])
        x = x[:, : grid.tokens * self.config.frames].unflatten(1, (grid.tokens, -1)).flatten(2)
        x_BND = self.project(x)
        collected = [x_BND]
        for block in self.layers:
            x_BND = block(x_BND)
            collected.append(x_BND)
        if steps_B is None:
            valid_BN = torch.ones(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        else:
            valid_BN = self.valid(steps_B, grid)
        return EncoderOutput(self.final_norm(x_BND), valid_BN, collected if layers else None)

    def flops(self, tokens: int) -> int:
        """Two per multiply-add."""
        return 2 * tokens * self.config.layers * self.config.dim**2

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """Projection and blocks."""
        assert kept is None
        c = self.config
        return self.flops(grid.tokens) + 2 * grid.tokens * c.frames * c.mel_bins * c.dim
