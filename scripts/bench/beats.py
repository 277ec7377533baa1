"""Training steps of BEATs base: `python -m scripts.bench.beats`.

On the CPU: 4 clips of 10 s with a head of 1000 classes, forward, backward and fused AdamW, no
dropout, beside avex's BEATs with the same optimiser (needs `.venv-avex`; `scripts/avex_env.sh`).

On a CUDA device the position convolution by FFT beside cuDNN's; the steps there are measured by
`scripts.bench.training`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.allocation import keep_freed_memory
from dawnchorus.trainer.encoders.beats import Beats
from dawnchorus.trainer.encoders.beats_config import BeatsConfig
from dawnchorus.trainer.encoders.beats_cpu import overlap_save, quicken
from dawnchorus.trainer.model import BioEncoder
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
ROUNDS = 5
NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "input_dropout": 0.0,
    "layer_drop": 0.0,
}


def optimiser_for(*modules: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW over all parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def sound(clips: int) -> Tensor:
    """Seeded noise."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(clips, SAMPLES, generator=generator)


def supervised_step(clips: int, *, autocast: bool) -> Callable[[], None]:
    """One step of supervised training."""
    torch.manual_seed(0)
    encoder = Beats(BeatsConfig.base(**NO_DROPOUT))
    quicken(encoder)  # as the trainer does
    head = nn.Linear(encoder.config.dim, CLASSES)
    front_end = BioEncoder(encoder).frontend
    optimiser = optimiser_for(encoder, head)
    wav_BT = sound(clips)
    target_BC = (torch.rand(clips, CLASSES) < 0.01).float()

    def step() -> None:
        mel_BTF, _ = front_end(wav_BT)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits_BC = head(encoder(mel_BTF).tokens_BND.mean(1))
        loss = F.binary_cross_entropy_with_logits(logits_BC.float(), target_BC)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


def on_cpu(report: Report, precision: str, rounds: int = ROUNDS, warm_ups: int = 1) -> None:
    """Time over avex's time, in "fp32" or, under autocast, "bf16"."""
    step = supervised_step(4, autocast=precision == "bf16")
    if not AVEX_PYTHON.exists():
        alone = interleave([lambda: measure(step)], rounds)[0]
        report(figure(f"BEATs step, {precision}", [s.wall_s for s in alone], "s"))
        return
    with AvexWorker(torch.get_num_threads()) as avex:
        sides = [lambda: measure(step), lambda: avex.run(f"step {precision}")]
        ours, theirs = interleave(sides, rounds, warm_ups)
    report_ratio(report, f"BEATs step / avex, {precision}", ours, theirs, "<= 0.80")
    report(figure(f"BEATs step, {precision}", [s.wall_s for s in ours], "s"))


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
    """Report the CPU's ratios, and on a machine with a CUDA device first its convolutions."""
    if torch.cuda.is_available():
        position_convolution(report)
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
