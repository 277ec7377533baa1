"""The learning rate as a function of the step; imports no torch.

It has no state: a resumed run cannot get it wrong, and what another length of the run would have
meant for the steps that are done can be asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dawnchorus.trainer.training.optim_config import OptimConfig


def learning_rate(
    config: OptimConfig, step: int, max_steps: int, group: Mapping[str, Any] | None = None
) -> float:
    """Learning rate of the optimiser step `step` (the first is 0) in a run of `max_steps`.

    `group`: a group of `param_groups` (None: a body group at full scale). The rate at `max_steps`
    and later is `min_lr` (constant: `lr`). Between two restarts the schedule is that of a run which
    begins at the one and ends at the other.
    """
    kind = "body" if group is None else group["kind"]
    scale = 1.0 if group is None else float(group["scale"])
    if step < config.head_only_steps:
        if kind != "head":
            return 0.0
        peak = config.lr if config.head_lr is None else config.head_lr
        return scale * peak * _warmup(config, step, config.head_warmup_steps)
    begin = max((r for r in config.restarts if r <= step), default=config.head_only_steps)
    end = min((r for r in config.restarts if r > step), default=max_steps)
    step, max_steps = step - begin, end - begin
    if step < config.warmup_steps:
        return scale * config.lr * _warmup(config, step, config.warmup_steps)
    left = 1.0 - _progress(config, step, max_steps)
    return scale * (config.min_lr + (config.lr - config.min_lr) * left)


def _warmup(config: OptimConfig, step: int, steps: int) -> float:
    if step >= steps:
        return 1.0
    return config.warmup_from + (1 - config.warmup_from) * step / steps


def _progress(config: OptimConfig, step: int, max_steps: int) -> float:
    """How much of the way from lr to min_lr is done, in [0, 1]."""
    if config.schedule == "constant":
        return 0.0
    start = config.warmup_steps
    if config.schedule in ("wsd", "flat_cosine"):
        start = max(start, max_steps - round(config.decay_fraction * max_steps))
    time = min(max((step - start) / max(max_steps - start, 1), 0.0), 1.0)
    if config.schedule in ("cosine", "flat_cosine"):
        return 0.5 * (1 - math.cos(math.pi * time))
    return math.sqrt(time) if config.schedule == "wsd" else time
