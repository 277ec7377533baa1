"""Step time and efficiency on many GPUs, on paper: `python -m scripts.scaling`.

From the byte and operation counts of the model, one measured (or assumed) speed of a single device,
and the speeds of links and disks. Symbols as in the collective-communication literature: a ring
all-reduce of S bytes over n moves 2 (n - 1) / n x S through each link (Patarasuk and Yuan 2009);
across nodes each GPU reduces its own 1/g of the gradient, as NCCL does with one adapter per GPU.

Nothing here was measured on more than one machine; docs/scaling.md says what is what.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

GPUS = (1, 8, 64, 512)
PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Speeds, in bytes and seconds."""

    peak_flops: float = 989e12
    """H200, dense bf16 (NVIDIA data sheet)."""
    utilisation: float = 0.40
    """Share of the peak that one device reaches: assumed until measured on one."""
    nvlink_bytes_s: float = 450e9
    """Per GPU and direction (NVLink 4, data sheet: 900 GB/s both ways)."""
    adapter_bytes_s: float = 400e9 / 8
    """Of the network, per GPU: 400 Gbit/s."""
    link_efficiency: float = 0.8
    """What a collective gets of a link (NCCL's bus bandwidth against the wire)."""
    latency_s: float = 20e-6
    """Of one step of a ring between nodes."""
    overlap: float = 0.9
    """Share of the backward pass behind which communication can hide."""
    write_bytes_s: float = 2e9
    """One writer on a parallel file system."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One training recipe on one device."""

    name: str
    parameters: int
    flops_per_clip: float
    """Forward and backward."""
    clips: int
    """Per device and step."""
    decode_s: float = 1.36e-3
    """One core, 10 s of FLAC (docs/benchmarks.md)."""
    stored_bytes_per_clip: float = 260e3
    """Read for a 10 s window of a 60 s FLAC piece (trainer/data/reader.py)."""
    bytes_per_parameter: int = 16
    """In a checkpoint, with a moving average: weights, two moments, average."""


@dataclass(frozen=True)
class Prediction:
    """One row."""

    gpus: int
    step_s: float
    efficiency: float
    clips_s: float
    exposed_s: float
    read_bytes_s_node: float
    requests_s_node: float
    decode_cores_node: float


def all_reduce_s(machine: Machine, size: float, gpus: int) -> float:
    """Seconds of a gradient all-reduce, first within nodes, then between them."""
    if gpus == 1:
        return 0.0
    inside = min(gpus, PER_NODE)
    wire = machine.link_efficiency
    seconds = 2 * (inside - 1) / inside * size / (machine.nvlink_bytes_s * wire)
    nodes = -(-gpus // PER_NODE)
    if nodes > 1:
        own = size / PER_NODE
        seconds += 2 * (nodes - 1) / nodes * own / (machine.adapter_bytes_s * wire)
        seconds += 2 * (nodes - 1) * machine.latency_s
    return seconds


def predict(machine: Machine, work: Work, gpus: int, clips_s: float | None = None) -> Prediction:
    """Predict one step on so many GPUs.

    Args:
        machine: speeds.
        work: the recipe.
        gpus: devices, 8 per node.
        clips_s: measured clips per second of one device; None: from `utilisation`.
    """
    rate = clips_s or machine.peak_flops * machine.utilisation / work.flops_per_clip
    compute_s = work.clips / rate
    size = 4.0 * work.parameters  # gradients are float32
    hidden_s = machine.overlap * compute_s * 2 / 3  # backward is two thirds of a step
    exposed_s = max(0.0, all_reduce_s(machine, size, gpus) - hidden_s)
    step_s = compute_s + exposed_s
    on_node = min(gpus, PER_NODE) * work.clips / step_s
    return Prediction(
        gpus, step_s, compute_s / step_s, gpus * work.clips / step_s, exposed_s,
        on_node * work.stored_bytes_per_clip, on_node, on_node * work.decode_s,
    )  # fmt: skip


def recipes() -> list[Work]:
    """BEATs base and large, supervised and masked, from the models' own counts."""
    import torch

    from dawnchorus.trainer.encoders.beats import Beats
    from dawnchorus.trainer.encoders.beats_config import BeatsConfig
    from dawnchorus.trainer.model import BioEncoder
    from dawnchorus.trainer.objectives.masked_tokens import MaskedTokens
    from dawnchorus.trainer.objectives.masked_tokens_config import MaskedTokensConfig

    found = []
    for size, supervised, masked in (("base", 128, 256), ("large", 64, 128)):
        with torch.device("meta"):
            encoder = Beats(getattr(BeatsConfig, size)())
            model = BioEncoder(encoder)
            objective = MaskedTokens(MaskedTokensConfig(), encoder)
        grid = encoder.grid(998)  # frames of 10 s
        count = sum(p.numel() for p in encoder.parameters())
        more = sum(p.numel() for p in objective.parameters())
        forward = float(encoder.clip_flops(grid))
        found.append(Work(name=f"{size}, supervised", parameters=count,
                          flops_per_clip=3 * forward, clips=supervised))  # fmt: skip
        flops = objective.flops(model, grid)
        found.append(Work(name=f"{size}, masked", parameters=count + more,
                          flops_per_clip=flops, clips=masked))  # fmt: skip
    return found


def table(
    machine: Machine,
    works: list[Work],
    clips_s: float | None = None,
    global_batch: int | None = None,
) -> str:
    """All predictions as Markdown; a fixed global batch is divided by the devices."""
    lines = [
        "| model | GPUs | step | efficiency | clips/s | waiting for gradients | read per node | "
        "requests/s per node | decoding cores per node | checkpoint |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for work in works:
        size = work.parameters * work.bytes_per_parameter
        for gpus in GPUS:
            if global_batch is not None:
                if global_batch < gpus:
                    continue
                work = replace(work, clips=global_batch // gpus)
            p = predict(machine, work, gpus, clips_s)
            lines.append(
                f"| {work.name} | {gpus} | {1000 * p.step_s:.0f} ms | {100 * p.efficiency:.1f} % | "
                f"{p.clips_s:,.0f} | {1000 * p.exposed_s:.1f} ms | "
                f"{p.read_bytes_s_node / 1e6:,.0f} MB/s | {p.requests_s_node:,.0f} | "
                f"{p.decode_cores_node:.1f} | "
                f"{size / 1e9:.1f} GB, {size / machine.write_bytes_s:.1f} s |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Machine()
    parser.add_argument("--clips-s", type=float, help="measured clips/s of one device")
    parser.add_argument("--utilisation", type=float, default=default.utilisation)
    parser.add_argument("--network-gbit", type=float, default=400.0, help="per GPU")
    parser.add_argument("--global-batch", type=int, help="the same for any number of devices")
    given = parser.parse_args()
    machine = Machine(utilisation=given.utilisation, adapter_bytes_s=given.network_gbit * 1e9 / 8)
    print(table(machine, recipes(), given.clips_s, given.global_batch))


if __name__ == "__main__":
    main()
