"""Models that do not fit on one device: FSDP2, one layer gathered at a time.

Every rank keeps its rows of each parameter (see `trainer.sharded`), with their gradients and
optimiser state. Three kinds of units are gathered on their own: a block of a stack; what a stack
uses before the block that holds it runs (`Stack.gathered_alone`); and the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from dawnchorus.trainer.checkpoints.checkpoint import load_mapped
from dawnchorus.trainer.checkpoints.sharded_tensors import fill, shard_like
from dawnchorus.trainer.encoders.base import Stack
from dawnchorus.trainer.training.checkpoint_io import AtomicCheckpointIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

    from dawnchorus.trainer.training.module import TrainingModule


def shard_module(module: TrainingModule, mesh: DeviceMesh) -> None:
    """Cut the parameters of a training module over the ranks of `mesh`, in place.

    Master weights stay in fp32 and gradients are summed in fp32. With bf16 on a GPU, blocks are
    gathered as bf16, which is what autocast makes of their matrices anyway; the rest stays in
    fp32, because the head and the losses must.

    Everything is given back to its owner after the forward pass. Torch's default would keep the
    outermost unit until the backward pass: after a validation, in which there is none, the next
    step would run with the weights of that validation, which may be the moving average.
    """
    whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    train = module.recipe.train
    inner = whole
    if train.precision == "bf16" and train.accelerator == "gpu":
        # Inputs are not cast: the sum of a block's input and output stays in fp32, as without.
        inner = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    stacks = [part for part in module.modules() if isinstance(part, Stack)]
    for alone in _once(part.gathered_alone() for part in stacks):
        fully_shard(alone, mesh=mesh, reshard_after_forward=True, mp_policy=whole)
    for block in _once(part.blocks() for part in stacks):
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=inner)
    fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=whole)
    if mesh.device_type == "cpu":
        # Asked for an average, gloo of torch 2.8 gives the sum. So it is asked for the sum, and
        # torch divides.
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)
    for method in ("run_objective", "look"):
        register_fsdp_forward_method(module, method)


def _once(groups: Iterable[list[nn.Module]]) -> list[nn.Module]:
    """Each module once, in order: an encoder and the stack inside it name the same blocks."""
    return list({id(part): part for group in groups for part in group}.values())


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy around `shard_module`, with our checkpoints.

    Lightning's own checkpoints are not used: `torch.distributed.checkpoint` unpickles its metadata
    without restriction, has no checksums, and Lightning writes in place.
    """

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning calls `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights and buffers; sharded ones as they are."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state; parameters are numbered as without sharding."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        return optimizer.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Each rank writes its part; a failure is kept in the checkpoint IO."""
        io = self.checkpoint_io
        assert isinstance(io, AtomicCheckpointIO)
        rank, ranks = self.global_rank, self.world_size
        io.save_sharded(checkpoint, Path(filepath), rank=rank, ranks=ranks, agree=self._agree)

    def _agree(self, well: bool) -> bool:
        """Whether all ranks say yes."""
        failed = torch.tensor(float(not well), device=self.root_device)
        dist.all_reduce(failed)
        return not failed.item()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Map a checkpoint, a file or a folder; reading it waits for the two methods below."""
        return load_mapped(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill weights and buffers.

        Raises:
            ValueError: other names or shapes.
        """
        own, given = self.lightning_module_state_dict(), checkpoint["state_dict"]
        if own.keys() != given.keys():
            odd = sorted(own.keys() ^ given.keys())
            raise ValueError(f"the checkpoint is of another model; they differ in {odd[:5]}")
        for name, tensor in own.items():
            fill(tensor, given[name])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give the optimiser its rows of the state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            rows = {
                index: {
                    name: shard_like(value, parameters[index])
                    if getattr(value, "shape", ())
                    else value
                    for name, value in slots.items()
                }
                for index, slots in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": rows})
