"""Training steps of EAT base: `python -m scripts.bench.vit`.

Two clips of 10 s (496 tokens and CLS), forward, backward and fused AdamW, beside timm's
VisionTransformer of the same shape on the same patches; on the CPU or the CUDA device that torch
finds. And the step of EAT's pre-training, whose figure is the rate of its floating-point operations
over that of the supervised step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dawnchorus.trainer.allocation import keep_freed_memory
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.utterance_frame import UtteranceFrame
from dawnchorus.trainer.objectives.utterance_frame_config import UtteranceFrameConfig
from dawnchorus.trainer.registry import build_encoder
from scripts.bench import Report, figure, print_table
from scripts.bench.beats import optimiser_for
from scripts.bench.paired import interleave, measure, report_ratio

CLIPS, FRAMES, BINS = 2, 992, 128


def step_of(module: nn.Module, encode: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward, update."""
    optimiser = optimiser_for(module)

    def step() -> None:
        encode().square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step


def run(report: Report) -> None:
    """Report the ratios."""
    from timm.models.vision_transformer import VisionTransformer

    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    mel_BTF = torch.randn(CLIPS, FRAMES, BINS, device=device)
    steps_B = torch.full((CLIPS,), FRAMES, device=device)
    ours = build_encoder({"name": "vit"}).to(device)
    theirs = VisionTransformer(
        img_size=(FRAMES, BINS), patch_size=16, in_chans=1, num_classes=0, global_pool=""
    ).to(device)
    steps = [
        step_of(ours, lambda: ours(mel_BTF, steps_B).tokens_BND),
        step_of(theirs, lambda: theirs(mel_BTF[:, None])),
    ]
    mine, timms = interleave([lambda: measure(steps[0]), lambda: measure(steps[1])], 4)
    report_ratio(report, "EAT base, step of 2 x 10 s / timm's ViT-B", mine, timms, "<= 1.0")

    views = 4
    model = BioEncoder(ours)
    objective = UtteranceFrame(UtteranceFrameConfig(masks_per_clip=views), ours).to(device)
    batch = FeatureBatch(mel_BTF, steps_B, key_B=torch.arange(CLIPS, device=device))
    both = nn.ModuleList([ours, objective])
    pretrain = step_of(both, lambda: objective.step(batch, model).loss_sum)
    slow = interleave([lambda: measure(pretrain)], 2)[0]
    grid = ours.grid(FRAMES)
    rates = [
        (flops / sample.cpu_s) / (3.0 * ours.clip_flops(grid) / base.cpu_s)
        for sample, base in zip(slow, mine, strict=False)
        for flops in [objective.flops(model, grid)]
    ]
    report(figure(f"EAT pre-training, {views} views: FLOP/s of a core / that step", rates, ""))


if __name__ == "__main__":
    sys.exit(0 if print_table(run) else 1)
