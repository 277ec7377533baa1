"""Training steps of BEATs base: `python -m scripts.bench.beats`.

On the CPU: 4 clips of 10 s with a head of 1000 classes, forward, backward and fused AdamW, no
dropout, beside avex's BEATs with the same optimiser (needs `.venv-avex`; `scripts/avex_env.sh`).

On a CUDA device: clips/s, TFLOP/s and share of a measured bf16 matrix product, supervised (496
tokens) and masked-token pre-training (128 visible, predictor on 496), eager and compiled, with the
clips already in the device's memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.allocation import keep_freed_memory
from dawnchorus.trainer.encoders.base import Stack
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.encoders.beats_cpu import overlap_save, quicken
from dawnchorus.trainer.model import BioEncoder
from dawnchorus.trainer.objectives.base import FeatureBatch
from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig
from scripts.bench import Report, figure, print_table
from scripts.bench.paired import (
    AVEX_PYTHON,
    NO_AVEX,
    AvexWorker,
    interleave,
    measure,
    report_ratio,
)

SAMPLES, CLASSES = 160000, 1000
FRAMES = 998
ROUNDS = 5
NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "input_dropout": 0.0,
    "layer_drop": 0.0,
}
GPU_CLIPS = {"supervised": 128, "masked": 256}
GPU_TARGETS = {"supervised": ">= 0.50", "masked": ">= 0.40"}


def optimiser_for(*modules: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW over all parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def sound(clips: int, device: str) -> Tensor:
    """Seeded noise."""
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(clips, SAMPLES, generator=generator)).to(device)


def supervised_step(clips: int, device: str, *, autocast: bool) -> tuple[Callable[[], None], Beats]:
    """One step of supervised training, and its encoder."""
    torch.manual_seed(0)
    encoder = Beats(BeatsConfig.base(**NO_DROPOUT)).to(device)
    if device == "cpu":
        quicken(encoder)  # as the trainer does
    head = nn.Linear(encoder.config.dim, CLASSES).to(device)
    front_end = BioEncoder(encoder).frontend.to(device)
    optimiser = optimiser_for(encoder, head)
    wav_BT = sound(clips, device)
    target_BC = (torch.rand(clips, CLASSES, device=device) < 0.01).float()

    def step() -> None:
        mel_BTF, _ = front_end(wav_BT)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logits_BC = head(encoder(mel_BTF).tokens_BND.mean(1))
        loss = F.binary_cross_entropy_with_logits(logits_BC.float(), target_BC)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step, encoder


def masked_step(clips: int, device: str) -> tuple[Callable[[], None], BioEncoder, MaskedTokens]:
    """One step of masked-token pre-training in bf16, its model and its objective."""
    torch.manual_seed(0)
    encoder = Beats(BeatsConfig.base(**NO_DROPOUT)).to(device)
    objective = MaskedTokens(MaskedTokensConfig(), encoder).to(device)
    model = BioEncoder(encoder).to(device)
    optimiser = optimiser_for(encoder, objective)
    wav_BT = sound(clips, device)
    length_B = torch.full((clips,), SAMPLES, device=device)
    key_B = torch.arange(clips, device=device)

    def step() -> None:
        x, steps_B = model.frontend(wav_BT, length_B)
        batch = FeatureBatch(x, steps_B, key_B=key_B)
        with torch.autocast(device, torch.bfloat16):
            out = objective.step(batch, model)
            loss = out.loss_sum / out.count
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step, model, objective


def on_cpu(report: Report, precision: str, rounds: int = ROUNDS, warm_ups: int = 1) -> None:
    """Time over avex's time, in "fp32" or, under autocast, "bf16"."""
    step, _ = supervised_step(4, "cpu", autocast=precision == "bf16")
    if not AVEX_PYTHON.exists():
        alone = interleave([lambda: measure(step)], rounds)[0]
        report(figure(f"BEATs step, {precision}", [s.wall_s for s in alone], "s"))
        return
    with AvexWorker(torch.get_num_threads()) as avex:
        sides = [lambda: measure(step), lambda: avex.run(f"step {precision}")]
        ours, theirs = interleave(sides, rounds, warm_ups)
    report_ratio(report, f"BEATs step / avex, {precision}", ours, theirs, "<= 0.80")
    report(figure(f"BEATs step, {precision}", [s.wall_s for s in ours], "s"))


def on_gpu(report: Report) -> None:
    """Speed and share of the measured matrix rate, supervised and masked, eager and compiled."""
    torch.set_float32_matmul_precision("high")
    rate = matrix_rate(report)
    position_convolution(report)
    for compiled in (False, True):
        for name, clips in GPU_CLIPS.items():
            if name == "supervised":
                step, encoder = supervised_step(clips, "cuda", autocast=True)
                flops = 3.0 * encoder.clip_flops(encoder.grid(FRAMES))
                stacks: list[Stack] = [encoder]
            else:
                step, model, objective = masked_step(clips, "cuda")
                flops = objective.flops(model, model.encoder.grid(FRAMES))
                stacks = [model.encoder, objective.predictor]
            if compiled:
                for stack in stacks:
                    for block in stack.blocks():
                        block.compile(dynamic=False)
            speeds = [clips / s for s in gpu_seconds(step)]
            memory_gb = torch.cuda.max_memory_allocated() / 1e9
            how = f"{name}, {'compiled' if compiled else 'eager'}, {clips} clips"
            rates = [s * flops for s in speeds]
            report_speed(report, how, speeds, rates, of=rate, target=GPU_TARGETS[name])
            report(figure(f"{how}: memory", [memory_gb], "GB"))
            del step, encoder, stacks
            torch.cuda.empty_cache()


def position_convolution(report: Report) -> None:
    """The position convolution of 128 clips, forward and backward: by FFT over cuDNN's."""
    conv = Beats(BeatsConfig.base()).encoder.pos_conv[0].cuda()
    assert isinstance(conv, nn.Conv1d) and conv.bias is not None
    bias = conv.bias
    x_BDN = torch.randn(128, conv.in_channels, 496, device="cuda", requires_grad=True)

    def direct() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            y_BDN = conv(x_BDN)
        y_BDN.float().sum().backward()

    def by_fft() -> None:
        y_BDN = overlap_save(x_BDN, conv.weight, bias, conv.groups)
        y_BDN.sum().backward()  # type: ignore[no-untyped-call]

    direct_s, fft_s = gpu_seconds(direct), gpu_seconds(by_fft)
    report(figure("position convolution by cuDNN", [1e3 * s for s in direct_s], "ms"))
    ratio = [a / b for a, b in zip(fft_s, direct_s, strict=True)]
    report(figure("position convolution by FFT / cuDNN", ratio, ""))


def report_speed(
    report: Report,
    how: str,
    speeds: list[float],
    rates: list[float],
    *,
    of: float | None,
    target: str,
) -> None:
    """Report clips/s, FLOP/s, and the latter's share `of` the matrix product's, where known."""
    report(figure(f"{how}: speed", speeds, "clips/s"))
    report(figure(f"{how}: rate", [rate / 1e12 for rate in rates], "TFLOP/s"))
    if of:
        share = [rate / of for rate in rates]
        report(figure(f"{how}: share of the matrix product", share, "", target))


def matrix_rate(report: Report) -> float:
    """Report and return the FLOP/s of a large bf16 matrix product."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / min(gpu_seconds(lambda: a @ a))
    report(figure("bf16 matrix product 8192^3", [rate / 1e12], "TFLOP/s"))
    return rate


def gpu_seconds(work: Callable[[], object], rounds: int = 5, steps: int = 10) -> list[float]:
    """Seconds per call, of `rounds` rounds of `steps` calls."""
    for _ in range(5):
        work()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            work()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / steps)
    return seconds


def run(report: Report) -> None:
    """Report the CPU's ratios, and on a machine with a CUDA device first that device's speeds."""
    if torch.cuda.is_available():
        on_gpu(report)
    keep_freed_memory()  # as `chorus train` does on a CPU
    if not AVEX_PYTHON.exists():
        print(NO_AVEX)
    on_cpu(report, "fp32")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        on_cpu(report, "bf16")
    else:
        print("(no bf16 kernels on this CPU: avex runs torch's plain loops, our encoder float32)")
        on_cpu(report, "bf16", rounds=1, warm_ups=0)  # a step of avex's takes minutes


if __name__ == "__main__":
    sys.exit(0 if print_table(run) else 1)
