"""How fast a run is: clips, tokens and FLOPs per second, share of the peak, time spent on data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

# Dense bf16 tensor-core peak in TFLOP/s, from the makers' data sheets (SXM parts unless named).
_PEAK_BF16_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOP/s that MFU refers to: the data sheet's on a GPU, a measured matmul on a CPU.

    Args:
        device: where the model is.
        precision: "bf16", "fp16" or "fp32".

    Returns:
        FLOP/s, or None for a GPU that is not in the table: no figure beats a wrong one.
    """
    if device.type == "cuda":
        if precision == "fp32":
            return None
        name = torch.cuda.get_device_name(device)
        return next((v * 1e12 for k, v in _PEAK_BF16_TFLOPS.items() if k in name), None)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(768, 768, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 768**3 / best


class Throughput:
    """Counts what a rank does between two log lines.

    The data wait is the time from the end of one micro-step to the start of the next: with a loader
    that keeps up it is the few milliseconds that the loop itself takes.
    """

    def __init__(
        self,
        flops_per_clip: float,
        tokens_per_clip: int,
        peak: float | None,
        *,
        on_gpu: bool = False,
    ) -> None:
        self.flops_per_clip = flops_per_clip
        self.tokens_per_clip = tokens_per_clip
        self.peak = peak
        self._on_gpu = on_gpu
        self._idle_since = time.perf_counter()
        self.reset()

    def reset(self) -> None:
        """Begin a new window."""
        self._start = time.perf_counter()
        self._clips = 0
        self._waited_s = 0.0
        self._forward_s = 0.0
        self._micro_steps = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def batch_starts(self) -> None:
        """A batch is on the device."""
        now = time.perf_counter()
        self._waited_s += now - self._idle_since
        self._began = now
        self._began_event = _now_on_gpu(self._on_gpu)

    def forward_ends(self) -> None:
        """The loss is there; what follows waits for the other ranks too."""
        self._micro_steps += 1
        self._forward_s += time.perf_counter() - self._began
        ended = _now_on_gpu(self._on_gpu)
        if self._began_event is not None and ended is not None:
            self._events.append((self._began_event, ended))

    def own_s(self) -> float:
        """Seconds per micro-step that this rank needs by itself: data wait and forward pass.

        On a GPU the forward pass is what the device took; it waits for the device.
        """
        forward_s = self._forward_s
        if self._events:
            self._events[-1][1].synchronize()
            forward_s = sum(a.elapsed_time(b) for a, b in self._events) / 1000
        return (self._waited_s + forward_s) / max(self._micro_steps, 1)

    def batch_ends(self, clips: int) -> None:
        """A micro-step of `clips` clips is done."""
        self._clips += clips
        self._idle_since = time.perf_counter()

    def exclude(self, seconds: float) -> None:
        """Leave validation and checkpoints out of the window."""
        self._start += seconds
        self._idle_since += seconds

    def figures(self, world_size: int, work: float = 1.0) -> dict[str, float]:
        """Figures since `reset`; `clips_per_s` and `tokens_per_s` over all ranks.

        `work`: share of the FLOPs of a full step that the steps of this window do.
        """
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = self._clips / seconds
        figures = {
            "clips_per_s": rate * world_size,
            "tokens_per_s": rate * world_size * self.tokens_per_clip,
            "tflops_per_device": rate * work * self.flops_per_clip / 1e12,
            "data_wait": min(self._waited_s / seconds, 1.0),
        }
        if self.peak:
            figures["mfu"] = rate * work * self.flops_per_clip / self.peak
        return figures


def _now_on_gpu(on_gpu: bool) -> torch.cuda.Event | None:
    if not on_gpu:
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def slowest(own_s: Sequence[float]) -> tuple[int, float]:
    """The slowest rank, and how many times the median it needs."""
    median = statistics.median(own_s)
    rank = max(range(len(own_s)), key=own_s.__getitem__)
    return rank, own_s[rank] / median if median > 0 else 1.0
