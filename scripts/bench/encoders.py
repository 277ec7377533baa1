"""Training steps beside others' encoders of the same shape: `python -m scripts.bench.encoders`.

Forward, backward and fused AdamW, on the CPU or the CUDA device that torch finds, two clips of
10 s: EAT base beside timm's VisionTransformer on the same patches, EfficientNet-B0 beside
torchvision's on the same spectrogram, HuBERT base beside that of transformers on the same waveform
(4 s). And the step of EAT's pre-training, whose figure is the rate of its floating-point operations
over that of the supervised step. BEATs is measured beside avex (`scripts.bench.beats`).
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
from dawnchorus.trainer.registry import build_encoder, quicken_on_cpu
from scripts.bench import Report, figure, print_table
from scripts.bench.beats import optimiser_for
from scripts.bench.paired import Sample, interleave, measure, report_ratio

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


def compare(
    report: Report, name: str, ours: Callable[[], None], theirs: Callable[[], None]
) -> list[Sample]:
    """Report the ratio of two steps, made in turn; return the samples of ours."""
    mine, others = interleave([lambda: measure(ours), lambda: measure(theirs)], 4)
    report_ratio(report, name, mine, others, "<= 1.0")
    return mine


def compare_efficientnet(report: Report, mel_BTF: Tensor, steps_B: Tensor) -> None:
    """EfficientNet-B0; both get three equal channels."""
    from torchvision.models import efficientnet_b0

    ours = build_encoder({"name": "efficientnet"}).to(mel_BTF.device).train()
    theirs = efficientnet_b0(weights=None).features.to(mel_BTF.device).train()
    compare(
        report, "EfficientNet-B0, step of 2 x 10 s / torchvision's",
        step_of(ours, lambda: ours(mel_BTF, steps_B).tokens_BND),
        step_of(theirs, lambda: theirs(mel_BTF.mT[:, None].repeat(1, 3, 1, 1))),
    )  # fmt: skip


def compare_hubert(report: Report, device: str) -> None:
    """HuBERT base without any dropout or masking, whose attention torch computes in both."""
    from transformers import HubertConfig, HubertModel

    still = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout",
             "layerdrop", "mask_time_prob")  # fmt: skip
    config = HubertConfig(**dict.fromkeys(still, 0.0), attn_implementation="sdpa")
    theirs = HubertModel(config).to(device).train()
    ours_still = dict.fromkeys(("dropout", "attention_dropout", "input_dropout", "layer_drop"), 0.0)
    ours = build_encoder({"name": "hubert", **ours_still}).to(device).train()
    quicken_on_cpu("hubert", ours)
    wav_BT = 0.1 * torch.randn(CLIPS, 4 * 16000, device=device)
    steps_B = torch.full((CLIPS,), wav_BT.shape[1], device=device)
    compare(
        report, "HuBERT base, step of 2 x 4 s / transformers'",
        step_of(ours, lambda: ours(wav_BT, steps_B).tokens_BND),
        step_of(theirs, lambda: theirs(wav_BT).last_hidden_state),
    )  # fmt: skip


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
    mine = compare(
        report, "EAT base, step of 2 x 10 s / timm's ViT-B",
        step_of(ours, lambda: ours(mel_BTF, steps_B).tokens_BND),
        step_of(theirs, lambda: theirs(mel_BTF[:, None])),
    )  # fmt: skip
    compare_efficientnet(report, mel_BTF, steps_B)
    compare_hubert(report, device)

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
