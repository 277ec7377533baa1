"""What a recipe says about the optimiser and the learning rate; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Positive,
    Range,
    Share,
    ShareAboveNone,
    ShareBelowOne,
    Whole,
    check_ranges,
)

Schedule = Literal["cosine", "wsd", "flat_cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule. Defaults are BEATs' pre-training as far as it is known (paper,
    appendix; ESPnet's `egs2/audioset/ssl1` where the paper is silent); the recipes set the rest.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    name: Literal["adamw"] = "adamw"
    """The optimiser: AdamW (BEATs, AVEX), fused where the device allows it."""
    lr: Positive = 5e-4
    """Peak learning rate. BEATs pre-training 5e-4; AVEX post-training 1e-4."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """AdamW's averaging factors. ESPnet's BEATs (.9, .98); AVEX leaves torch's (.9, .999)."""
    eps: Positive = 1e-8
    """AdamW's epsilon: torch's default. ESPnet has 1e-12, below what fp32 sums resolve."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay (ESPnet, AVEX: 0.01), on matrices only: never on biases, norms,
    embeddings, the position table or the mask token."""
    clip_norm: Positive | None = 1.0
    """Largest norm of the whole gradient (ESPnet: 1.0; AVEX does not clip). None: no clipping."""
    schedule: Schedule = "cosine"
    """Shape after warm-up. cosine: AVEX post-training; linear: ESPnet's BEATs; wsd: constant, then
    falling over the last `decay_fraction` of the run, as a square root; flat_cosine: the same, as a
    cosine (BirdCLEF+ 2026); constant: stays at `lr`."""
    warmup_steps: Whole = 1000
    """Steps from `warmup_from` x lr to lr, in a straight line. BEATs in ESPnet 32,000 of 400,000;
    AVEX 3,000 to 5,000. With a head-only phase this is the warm-up of the phase after it."""
    warmup_from: Share = 0.02
    """First learning rate as a fraction of `lr`. ESPnet 1e-5 of 5e-4; AVEX 0.1."""
    min_lr: NotNegative = 1e-6
    """Learning rate at the end of every schedule but `constant`, and ever after (AVEX: 1e-6)."""
    decay_fraction: ShareAboveNone = 0.2
    """wsd and flat_cosine: share of the steps in which the rate falls (Hägele et al. 2024, who let
    it fall as 1 - sqrt of the time, find 10 to 20 % enough)."""
    restarts: tuple[Count, ...] = ()
    """Steps, in ascending order, at which earlier ends of this run lay. From each on the rate
    climbs to `lr` again over `warmup_steps` and falls towards the next end: so a finished run is
    made longer (XenoMAE's warm restart). Empty: none."""
    head_only_steps: Whole = 0
    """Steps in which only the head learns and the encoder stands still (AVEX: two of ten
    epochs). Then all learn, with a new warm-up and the schedule over the steps that remain."""
    head_lr: Positive | None = None
    """Learning rate in the head-only phase (AVEX 5e-4), constant after its warm-up; None: `lr`."""
    head_warmup_steps: Whole = 0
    """Warm-up within the head-only phase (AVEX: 4,000 to 5,000 steps)."""
    layer_decay: ShareAboveNone = 1.0
    """Each encoder layer learns at this factor of the rate of the layer above it; the input part
    below the first layer as one more layer. 1: all alike (AVEX, BEATs pre-training)."""
    ema_decay: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of the weights, e.g. 0.9999; None: none (AVEX)."""
    ema_warmup: bool = True
    """Start the average with a small decay, min(ema_decay, (1 + s) / (10 + s)) at step s, so that a
    short run is not held back by its first weights."""

    def __post_init__(self) -> None:
        check_ranges(self)

        def need(good: bool, name: str, allowed: str) -> None:
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}")

        need(self.min_lr <= self.lr, "min_lr", f"in [0, lr = {self.lr}]")
        need(
            self.head_lr is None or self.head_only_steps > 0,
            "head_lr",
            "null where head_only_steps is 0: it holds in the head-only phase",
        )
        need(
            self.head_warmup_steps <= self.head_only_steps,
            "head_warmup_steps",
            f"at most head_only_steps = {self.head_only_steps}",
        )
        need(
            all(a < b for a, b in pairwise((self.head_only_steps, *self.restarts))),
            "restarts",
            f"ascending, and above head_only_steps = {self.head_only_steps}",
        )
