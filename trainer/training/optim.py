"""Parameter groups, learning rates as a function of the step, and the moving average of weights.

Nothing here has a state of its own beyond tensors: the learning rate and the decay of the average
follow from the step, so a resumed run cannot get them wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dawnchorus.trainer.checkpoints.sharded_tensors import fill, local
from dawnchorus.trainer.training.optim_config import OptimConfig
from dawnchorus.trainer.training.running_statistics import averages

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base import Encoder

# --------------------------------------------------------------------------- parameter groups


def param_groups(
    model: nn.Module, config: OptimConfig, encoder: Encoder | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, in a fixed order; every trainable parameter is in one of them.

    Besides torch's own keys, a group has `name`, `kind` and `scale`. The head-only phase moves the
    groups of kind "head", not those of kind "body"; `scale` is the group's factor of the learning
    rate (see `layer_decay`). Parameters with a part `head` in their dotted name are the head's.

    Args:
        model: the module that is trained.
        config: the optimiser's numbers.
        encoder: the part of the model whose early layers may learn more slowly than later ones.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    scales = _layer_scales(encoder, config.layer_decay) if encoder is not None else {}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parent = owners[name.rpartition(".")[0]]
        kind = "head" if "head" in name.split(".") else "body"
        label, scale = scales.get(id(parameter), (kind, 1.0))
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


def _layer_scales(encoder: Encoder, decay: float) -> dict[int, tuple[str, float]]:
    """Label and factor of the learning rate of an encoder's parameters, by their identity.

    Each block learns at `decay` times the rate of the block after it. Parameters before the first
    block count as one more block; those after the last block (`Encoder.tail`) belong to it.
    """
    if decay == 1:
        return {}
    blocks = encoder.blocks()
    found = {id(p): ("input", decay ** len(blocks)) for p in encoder.parameters()}
    for index, block in enumerate(blocks):
        scale = decay ** (len(blocks) - 1 - index)
        found |= {id(p): (f"layer{index:02d}", scale) for p in block.parameters()}
    last = f"layer{len(blocks) - 1:02d}"
    return found | {id(p): (last, 1.0) for part in encoder.tail() for p in part.parameters()}


def _is_vector(parameter: Tensor) -> bool:
    """Whether a parameter has one real axis: biases, norms, the mask token, factors per head."""
    return parameter.numel() == max(parameter.shape, default=1)


def build_optimizer(
    groups: list[dict[str, Any]], config: OptimConfig, *, fused: bool | None = None
) -> torch.optim.AdamW:
    """AdamW over `param_groups`.

    Args:
        groups: the result of `param_groups`.
        config: the optimiser's numbers.
        fused: whether one kernel does the whole update; None: if every parameter's device has it.
            Must be false with an fp16 gradient scaler, because the kernel unscales after clipping.
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


def touch(parameters: Iterable[nn.Parameter]) -> Tensor:
    """A zero that depends on all `parameters`; added to a loss, it gives each a gradient of zeros.

    DistributedDataParallel without `find_unused_parameters` waits for a gradient of every
    parameter. Zero gradients differ from none: AdamW would still decay the weights and age their
    moments, so remove them (`p.grad = None`) before the optimiser steps.
    """
    return 0.0 * torch.stack([p.flatten()[0].float() for p in parameters if p.requires_grad]).sum()


# --------------------------------------------------------------------------- moving average


class ParameterEma:
    """Exponential moving average of a module's trainable parameters, kept in fp32.

    The running statistics of batch norms are averaged too, because they belong to the weights.

    In bf16 the average would never change: with a decay of 0.9999 a step moves it by less than half
    of the last bit. If parameters are sharded over ranks, each rank averages its rows.

    Args:
        module: the module whose parameters are averaged; names are those of its `state_dict`.
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
            ValueError: its parameters have other names or shapes.
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


def _trainable(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    yield from averages(module)
