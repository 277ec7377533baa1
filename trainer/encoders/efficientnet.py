"""EfficientNet: inverted residual blocks with squeeze-and-excitation, over a log-mel.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv
1905.11946). The file needs only torch, its config and `base.py`, because exported models have a
copy of it. (timm's blocks cannot handle padding.) State-dict names are timm's, with `stages` for
`blocks`; the last convolution, timm's `conv_head` and `bn2`, is the last of the stages here. The
log-mel is one channel. A network with three channels that gets the log-mel three times
(torchvision's, AVEX's) computes the same if its first weights are summed over the channels.

**Padding.** Behind the end of a clip every feature map is 0, so a convolution sees zeros there, as
at the end of a batch. The squeeze and, in training, the batch statistics are taken over the clip's
own columns. So in eval mode a clip has the same tokens in a padded batch as alone. In training mode
the statistics depend on the other clips, as in every batch norm.

Shape legend: B clips, T frames or columns, F mel bins or rows, C channels of a feature map, N
tokens (n = bands t + f), D width of a token.
"""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from .base import Encoder, EncoderOutput, Grid, eager_cpu, useful_autocast
from .efficientnet_config import STEM, EfficientNetConfig, squeezed
from .efficientnet_config import Stage as StageNumbers


def _conv(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias. With stride 1 it does not change the size."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


def _own(own_B: Tensor | None, x_BCFT: Tensor) -> Tensor | None:
    """Return which columns are a clip's own, [B, 1, 1, T]; None: all columns."""
    if own_B is None:
        return None
    column_T = torch.arange(x_BCFT.shape[-1], device=x_BCFT.device)
    return (column_T < own_B[:, None])[:, None, None]


class Norm(nn.BatchNorm2d):
    """Batch norm and, with `act`, SiLU. Only a clip's own columns count; the others become 0."""

    def __init__(self, channels: int, *, act: bool = True) -> None:
        super().__init__(channels)
        self.act = act
        # The number of updates depends on the accumulation, and nothing uses it.
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, *args: object) -> None:
        # torch's method would add the number of updates to a file that lacks it.
        nn.Module._load_from_state_dict(self, *args)

    def forward(self, x_BCFT: Tensor, own_B11T: Tensor | None = None) -> Tensor:
        """Return the normalised map. `own_B11T`: a clip's own columns (None: all)."""
        assert self.running_mean is not None and self.running_var is not None
        if own_B11T is None or not self.training:
            # Weights and statistics may differ in dtype: FSDP gathers weights as bfloat16, say.
            kind = self.running_mean.dtype
            y_BCFT = F.batch_norm(
                x_BCFT,
                self.running_mean,
                self.running_var,
                self.weight.to(kind),
                self.bias.to(kind),
                self.training,
                self.momentum or 0.0,
                self.eps,
            )
        else:
            y_BCFT = self._over_own(x_BCFT, own_B11T)
        if own_B11T is not None:
            y_BCFT = y_BCFT.masked_fill(~own_B11T, 0.0)
        return F.silu(y_BCFT) if self.act else y_BCFT

    def _over_own(self, x_BCFT: Tensor, own_B11T: Tensor) -> Tensor:
        """Normalise by the statistics of the clips' own columns, and update the running ones."""
        assert self.running_mean is not None and self.running_var is not None
        count = own_B11T.sum() * x_BCFT.shape[2]

        def mean(z_BCFT: Tensor) -> Tensor:
            return z_BCFT.masked_fill(~own_B11T, 0.0).sum((0, 2, 3), keepdim=True) / count

        wide_BCFT = x_BCFT.float()
        mean_1C11 = mean(wide_BCFT)
        wide_BCFT = wide_BCFT - mean_1C11
        variance_1C11 = mean(wide_BCFT.square())
        with torch.no_grad():
            share, unbiased = self.momentum or 0.0, count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean_1C11.flatten().to(self.running_mean.dtype), share)
            found_C = (variance_1C11 * unbiased).flatten()
            self.running_var.lerp_(found_C.to(self.running_var.dtype), share)
        scale_C = self.weight.float() * (variance_1C11.flatten() + self.eps).rsqrt()
        y_BCFT = wide_BCFT * scale_C[:, None, None] + self.bias.float()[:, None, None]
        return y_BCFT.to(x_BCFT.dtype)


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a factor that follows from the means of all channels."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, inner, 1)
        self.conv_expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x_BCFT: Tensor, own_B11T: Tensor | None) -> Tensor:
        """Return the map times the factors. It must be 0 outside a clip's own columns."""
        if own_B11T is None:
            mean_BC11 = x_BCFT.mean((2, 3), keepdim=True)
        else:
            count_B111 = own_B11T.sum(-1, keepdim=True) * x_BCFT.shape[2]
            mean_BC11 = x_BCFT.sum((2, 3), keepdim=True) / count_B111
            mean_BC11 = mean_BC11.to(x_BCFT.dtype)
        factor_BC11 = self.conv_expand(F.silu(self.conv_reduce(mean_BC11))).sigmoid()
        return cast("Tensor", x_BCFT * factor_BC11)


class Block(nn.Module):
    """Widen, convolve each channel by itself, squeeze and excite, narrow, add the input.

    Args:
        stage: the numbers of the block's stage.
        before: channels of the input.
        stride: stride of the convolution.
        drop_path: probability that the block is skipped for a clip in training.
    """

    def __init__(self, stage: StageNumbers, before: int, stride: int, drop_path: float) -> None:
        super().__init__()
        wide = before * stage.expansion
        self.stride = stride
        self.expands = stage.expansion > 1
        self.residual = stride == 1 and before == stage.channels
        self.se = SqueezeExcite(wide, squeezed(before))
        self.drop_path = drop_path
        depthwise = _conv(wide, wide, stage.kernel, stride, groups=wide)
        # timm's names, which number the norms of the convolutions that the block has.
        if self.expands:
            self.conv_pw, self.bn1 = _conv(before, wide), Norm(wide)
            self.conv_dw, self.bn2 = depthwise, Norm(wide)
            self.conv_pwl = _conv(wide, stage.channels)
            self.bn3 = Norm(stage.channels, act=False)
        else:
            self.conv_dw, self.bn1 = depthwise, Norm(wide)
            self.conv_pw = _conv(wide, stage.channels)
            self.bn2 = Norm(stage.channels, act=False)

    def forward(self, x_BCFT: Tensor, own_B: Tensor | None) -> Tensor:
        """Return the next map, 0 outside a clip's own columns. `own_B`: columns of the input."""
        y_BCFT: Tensor = x_BCFT
        if self.expands:
            y_BCFT = self.bn1(self.conv_pw(y_BCFT), _own(own_B, y_BCFT))
        y_BCFT = self.conv_dw(y_BCFT)
        own_B11T = _own(_after(own_B, self.stride), y_BCFT)
        y_BCFT = (self.bn2 if self.expands else self.bn1)(y_BCFT, own_B11T)
        y_BCFT = self.se(y_BCFT, own_B11T)
        if self.expands:
            y_BCFT = self.bn3(self.conv_pwl(y_BCFT), own_B11T)
        else:
            y_BCFT = self.bn2(self.conv_pw(y_BCFT), own_B11T)
        if self.residual and self.training and self.drop_path:
            # Stochastic depth (Huang et al. 2016), drawn for each clip, as dropout.
            kept_B111 = torch.rand(len(y_BCFT), 1, 1, 1, device=y_BCFT.device) >= self.drop_path
            y_BCFT = y_BCFT * kept_B111 / (1 - self.drop_path)
        return y_BCFT + x_BCFT if self.residual else y_BCFT


def _after(own_B: Tensor | None, stride: int) -> Tensor | None:
    """Return the number of a clip's own columns after a convolution of that stride."""
    return None if own_B is None else (own_B + stride - 1) // stride


class Stage(nn.Sequential):
    """The blocks between two sizes of the map."""

    def forward(self, x_BCFT: Tensor, own_B: Tensor | None) -> Tensor:  # type: ignore[override]
        """See `Block.forward`."""
        for block in self:
            x_BCFT = block(x_BCFT, own_B)
            own_B = _after(own_B, cast("Block", block).stride)
        return x_BCFT


class Last(nn.Module):
    """The convolution that makes tokens of the last map."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.conv_head, self.bn2 = _conv(before, dim), Norm(dim)

    def forward(self, x_BCFT: Tensor, own_B: Tensor | None) -> Tensor:
        """See `Block.forward`."""
        return cast("Tensor", self.bn2(self.conv_head(x_BCFT), _own(own_B, x_BCFT)))


class EfficientNet(Encoder):
    """The EfficientNet encoder: it turns a log-mel into one token per cell of the last map."""

    config: EfficientNetConfig

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpoint = config.grad_checkpoint
        before = config.channels(STEM)
        self.conv_stem, self.bn1 = _conv(1, before, 3, 2), Norm(before)
        numbers = config.stages
        total, done = sum(stage.blocks for stage in numbers), 0
        stages: list[nn.Module] = []
        for stage in numbers:
            blocks = []
            for index in range(stage.blocks):
                drop_path = config.drop_path * done / total
                blocks.append(Block(stage, before, 1 if index else stage.stride, drop_path))
                before, done = stage.channels, done + 1
            stages.append(Stage(*blocks))
        self.stages = nn.ModuleList([*stages, Last(before, config.dim)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the released code: convolutions N(0, 2 / (kernel x outputs of a group)),
        norms 1 and 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Norm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
                nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
                nn.init.ones_(module.running_var)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ what runs in what order

    def blocks(self) -> list[nn.Module]:
        """Return the stages and the last convolution."""
        return list(self.stages)

    def grid(self, steps: int) -> Grid:
        """Return one token per cell of 32 frames and 32 mel bins; the last cell may be partial."""
        c = self.config
        # Not `-(-steps // reduction)`: other runtimes round a negative quotient towards 0.
        return Grid(
            (steps + c.reduction - 1) // c.reduction, c.bands, token_s=c.reduction * c.hop_s
        )

    def valid(self, steps_B: Tensor, grid: Grid) -> Tensor:
        """Return the tokens of columns with a frame of the clip; see `Encoder.valid`."""
        own_B1 = (steps_B[:, None] + self.config.reduction - 1) // self.config.reduction
        token_N = torch.arange(grid.tokens, device=steps_B.device)
        return token_N // grid.bands < own_B1

    @useful_autocast
    def forward(
        self, x: Tensor, steps_B: Tensor | None = None, *, layers: bool = False
    ) -> EncoderOutput:
        """Encode a batch; see `Encoder.forward`.

        A layer is a feature map averaged over the cells of the tokens, [B, N, C].

        Args:
            x: log-mel [B, T, F].
            steps_B: frames of each clip that stand for sound (None: all of them).
            layers: also return the input and output of every block.
        """
        grid = self.grid(x.shape[1])
        steps_all_B = torch.full(x.shape[:1], x.shape[1], device=x.device)
        own_B = steps_B
        if own_B is not None and eager_cpu(x):
            # Where reading values is cheap, leave the mask out if there is nothing to mask.
            own_B = None if bool((own_B >= x.shape[1]).all()) else own_B
        if torch.compiler.is_exporting():
            # Pad to three columns of every map: no axis may have length 1 for some clips only.
            own_B = steps_all_B if own_B is None else own_B
            x = F.pad(x, (0, 0, 0, 2 * self.config.reduction))
        x_BCFT = x.mT[:, None]
        if (own_B11T := _own(own_B, x_BCFT)) is not None:
            x_BCFT = x_BCFT.masked_fill(~own_B11T, 0.0)
        x_BCFT = self.conv_stem(x_BCFT)
        own_B, side = _after(own_B, 2), self.config.reduction // 2
        x_BCFT = self.bn1(x_BCFT, _own(own_B, x_BCFT))
        found = [_cells(x_BCFT, own_B, side, grid)] if layers else None
        strides = [stage.stride for stage in self.config.stages]
        for block, stride in zip(self.stages, [*strides, 1], strict=True):
            if self.grad_checkpoint and self.training:
                x_BCFT = checkpoint(block, x_BCFT, own_B, use_reentrant=False)
            else:
                x_BCFT = block(x_BCFT, own_B)
            own_B, side = _after(own_B, stride), side // stride
            if found is not None:
                found.append(_cells(x_BCFT, own_B, side, grid))
        tokens_BND = x_BCFT.permute(0, 3, 2, 1).flatten(1, 2)
        if torch.compiler.is_exporting():
            tokens_BND = tokens_BND[:, torch.arange(grid.tokens, device=x.device)]
        valid_BN = self.valid(steps_all_B if steps_B is None else steps_B, grid)
        return EncoderOutput(tokens_BND, valid_BN, found)

    # ------------------------------------------------------------------ what it costs

    def flops(self, tokens: int) -> int:
        """Return the operations of the whole network; see `Stack.flops`."""
        return self.clip_flops(Grid(-(-tokens // self.config.bands), self.config.bands))

    def clip_flops(self, grid: Grid, kept: int | None = None) -> int:
        """Let torch count on a network without memory (`meta`); see `Encoder.clip_flops`."""
        del kept
        return _counted(self.config, grid.times * self.config.reduction)


def _cells(x_BCFT: Tensor, own_B: Tensor | None, side: int, grid: Grid) -> Tensor:
    """Return the mean of a map over each token's cell and the clip's own columns, [B, N, C].

    `side`: rows and columns of a cell. The map must be 0 outside the clip's own columns.
    """
    rows, columns = x_BCFT.shape[2:]
    x_BCFT = F.pad(x_BCFT, (0, grid.times * side - columns, 0, grid.bands * side - rows))
    sums_BCFT = F.avg_pool2d(x_BCFT, side, divisor_override=1)
    start_T = side * torch.arange(grid.times, device=x_BCFT.device)
    start_F = side * torch.arange(grid.bands, device=x_BCFT.device)
    own_B = torch.full(x_BCFT.shape[:1], columns, device=x_BCFT.device) if own_B is None else own_B
    wide_BT = (own_B[:, None] - start_T).clamp(min=1, max=side)
    high_F = (rows - start_F).clamp(min=1, max=side)
    mean_BCFT = sums_BCFT / (wide_BT[:, None] * high_F[:, None])[:, None]
    return mean_BCFT.permute(0, 3, 2, 1).flatten(1, 2).to(x_BCFT.dtype)


@functools.cache
def _counted(config: EfficientNetConfig, steps: int) -> int:
    with torch.device("meta"):
        encoder = EfficientNet(config).eval()
        x = torch.empty(1, steps, config.mel_bins)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    return int(counter.get_total_flops())
