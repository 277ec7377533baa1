"""avex's side of the benchmarks; runs inside `.venv-avex`, one task per line of stdin."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn


def train_step(autocast: bool, fused: bool) -> Callable[[], None]:
    """BEATs base, 4 clips of 10 s, 1000 classes: forward, backward, AdamW."""
    from avex.models.beats.beats import BEATs, BEATsConfig

    torch.manual_seed(0)
    encoder = BEATs(
        BEATsConfig(
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            dropout_input=0.0,
            encoder_layerdrop=0.0,
        )
    )
    head = nn.Linear(768, 1000)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, fused=fused)
    wav = torch.randn(4, 160000) * 0.1
    target = (torch.rand(4, 1000) < 0.01).float()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            tokens, _ = encoder(wav)
            logits = head(tokens.mean(1))
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


def frontend() -> Callable[[], None]:
    """BEATs' log-mel of 32 clips of 10 s."""
    from avex.models.beats.beats import BEATs, BEATsConfig

    encoder = BEATs(BEATsConfig(encoder_layers=1))
    wav = torch.randn(32, 160000) * 0.1

    def run() -> None:
        with torch.no_grad():
            encoder.preprocess(wav)

    return run


TASKS: dict[str, Callable[[], Callable[[], None]]] = {
    "step fp32": lambda: train_step(autocast=False, fused=True),
    "step bf16": lambda: train_step(autocast=True, fused=True),
    "frontend": frontend,
}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    ready: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        task = line.strip()
        if task not in ready:
            ready.clear()
            ready[task] = TASKS[task]()
        wall, cpu = time.perf_counter(), time.process_time()
        ready[task]()
        sample = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps(sample), flush=True)


if __name__ == "__main__":
    main()
