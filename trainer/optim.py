"""Parameter groups, learning rates as a function of the step, and the moving average of weights.

Nothing here has a state of its own beyond tensors: the learning rate and the decay of the average
follow from the step, so a resumed run cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dawnchorus.trainer.optim_config import OptimConfig
from dawnchorus.trainer.sharded import fill, local

# --------------------------------------------------------------------------- parameter groups


def param_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, in a fixed order; every trainable parameter is in one of them.

    A group has, beside torch's own keys, `name`, `kind` ("head" or "body": what the head-only phase
    moves, and the rest) and `scale` (its factor of the learning rate, see `layer_decay`). A
    parameter is the head's if a part of its dotted name is `head`; its layer is the number after
    `encoder.layers` (or `blocks`).
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    depth = 1 + max((_layer(name) or 0 for name, _ in model.named_parameters()), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parent = owners[name.rpartition(".")[0]]
        kind = "head" if "head" in name.split(".") else "body"
        label, scale = kind, 1.0
        if kind == "body" and config.layer_decay < 1 and "encoder" in name.split("."):
            layer = _layer(name)
            label = "input" if layer is None else f"layer{layer:02d}"
            scale = config.layer_decay ** (depth if layer is None else depth - 1 - layer)
        decays = not isinstance(parent, nn.Embedding) and not _is_vector(parameter)
        label += "" if decays else ".no_decay"
        group = groups.setdefault(
            label,
            {
                "params": [],
                "lr": config.lr * scale,
                "weight_decay": config.weight_decay if decays else 0.0,
                "name": label,
                "kind": kind,
                "scale": scale,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _layer(name: str) -> int | None:
    """Index of the encoder layer that a parameter belongs to; None outside the layers."""
    parts = name.split(".")
    for i in range(1, len(parts) - 1):
        inside = parts[i] in ("layers", "blocks") and "encoder" in parts[:i]
        if inside and parts[i + 1].isdigit():
            return int(parts[i + 1])
    return None


def _is_vector(parameter: Tensor) -> bool:
    """Biases, norms, the mask token, per-head factors: one axis, whatever the shape says."""
    return parameter.numel() == max(parameter.shape, default=1)


def build_optimizer(
    groups: list[dict[str, Any]], config: OptimConfig, *, fused: bool | None = None
) -> torch.optim.AdamW:
    """AdamW over `param_groups`.

    Args:
        groups: what `param_groups` returned.
        config: the optimiser's numbers.
        fused: one kernel for the whole update; None: where every parameter's device has it. Not
            under an fp16 gradient scaler, which it would unscale for, after the clipping.
    """
    if fused is None:
        fused = all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point()
            for group in groups
            for p in group["params"]
        )
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


# --------------------------------------------------------------------------- moving average


class ParameterEma:
    """Exponential moving average of a module's trainable parameters, kept in fp32.

    In bf16 it would stand still: with a decay of 0.9999 a step moves it by less than half of the
    last bit. Of parameters that are sharded over ranks each rank averages its rows.

    Args:
        module: whose parameters are averaged; names are those of its `state_dict`.
        decay: weight of the past per step, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {
            name: p.detach().to(torch.float32, copy=True) for name, p in _trainable(module)
        }

    def decay_at(self, step: int | None) -> float:
        """Decay of the update after optimiser step `step` (the first is 0)."""
        if step is None:
            return self.decay
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, module: nn.Module, step: int | None = None) -> None:
        """Move the average towards the current weights; call it after each optimiser step.

        Args:
            module: the one given at first.
            step: warms the decay up (see `decay_at`); None: the full decay from the start.
        """
        named = dict(_trainable(module))
        new = [local(named[name].detach()).float() for name in self._weights]
        mine = [local(weight) for weight in self._weights.values()]
        torch._foreach_lerp_(mine, new, 1.0 - self.decay_at(step))

    def to(self, device: torch.device | str) -> None:
        """Move the average, as its module moved."""
        self._weights = {name: weight.to(device) for name, weight in self._weights.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The average: name -> fp32 tensor. There is no other state."""
        return dict(self._weights)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over an average, whole or in `Pieces`.

        Raises:
            ValueError: it has other parameters, or of other shapes.
        """
        if set(state) != set(self._weights):
            odd = sorted(set(state) ^ set(self._weights))
            raise ValueError(f"the average is of another model; they differ in {odd[:5]}")
        for name, mine in self._weights.items():
            fill(mine, state[name])

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Within the context `module` has the averaged weights; afterwards its own, bit for bit."""
        named = {name: p for name, p in _trainable(module) if name in self._weights}
        own = {name: local(p.detach()).clone() for name, p in named.items()}
        with torch.no_grad():
            for name, parameter in named.items():
                local(parameter).copy_(local(self._weights[name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in named.items():
                    local(parameter).copy_(own[name])


def _trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)
