"""Runs `chorus …` while writing down every clip that is trained on, and hurting itself on demand.

Environment:
    DRIVER_LEDGER   file prefix; each rank appends step, micro_step, positions, clips as JSON lines
    DRIVER_HURT     JSON {"signal": "SIGTERM", "step": 3, "micro_step": 1, "rank": 0 or null}, or
                    "where": "validation", "checkpoint" (as it begins) or "half a checkpoint" (it is
                    half on the disk) in the place of "micro_step"
    DRIVER_NAN      JSON {"steps": [2], "rank": 0}: that rank's loss is NaN in those steps
    DRIVER_NEWCOMERS  if set, the toy encoder and objective of tests/contract are known
    DRIVER_SLOW_S   seconds that rank 1 sleeps in every micro-step
    DRIVER_HELD     file prefix; each rank writes how many bytes of weights, gradients, optimiser
                    state and moving average it holds after a step
"""

from __future__ import annotations

import json
import os
import signal
import time

from dawnchorus.trainer.session.signals import watch_signals

_stop = watch_signals()

import torch  # noqa: E402

from dawnchorus.trainer.cli import main  # noqa: E402
from dawnchorus.trainer.training.checkpoint_io import AtomicCheckpointIO  # noqa: E402
from dawnchorus.trainer.training.module import TrainingModule  # noqa: E402
from dawnchorus.trainer.training.validation import Validation  # noqa: E402

if os.environ.get("DRIVER_NEWCOMERS"):
    from contract.newcomers import register

    register()

_hurt = json.loads(os.environ.get("DRIVER_HURT", "null"))
_nan = json.loads(os.environ.get("DRIVER_NAN", "null"))
_slow_s = float(os.environ.get("DRIVER_SLOW_S", "0"))
_real_step = TrainingModule.training_step
_real_validation, _real_save = Validation.run, AtomicCheckpointIO.save_checkpoint
_real_torch_save = torch.save


def _hurt_here(where: str | int, step: int, rank: int) -> None:
    if not _hurt or (_hurt.get("where", _hurt.get("micro_step")), _hurt["step"]) != (where, step):
        return
    if _hurt["rank"] in (None, rank):
        os.kill(os.getpid(), getattr(signal, _hurt["signal"]))
        # The thread that waits for signals may wake later than the moment that is meant.
        end = time.monotonic() + 60
        while not _stop.is_set():
            assert time.monotonic() < end, "the signal was not noticed"
            time.sleep(0.001)


def _step(self: TrainingModule, batch: dict, batch_idx: int) -> object:
    layout, step = self.topology, self.global_step
    micro_step = batch_idx % layout.accumulate
    first = layout.first_position(step, micro_step)
    assert batch["position_B"].tolist() == list(range(first, first + layout.micro))
    with open(f"{os.environ['DRIVER_LEDGER']}.{layout.rank}", "a") as file:  # noqa: PTH123
        clips = list(zip(batch["source_B"].tolist(), batch["clip_B"].tolist(), strict=True))
        line = {"step": step, "micro_step": micro_step, "clips": clips}
        file.write(json.dumps(line | {"positions": batch["position_B"].tolist()}) + "\n")
    _hurt_here(micro_step, step, layout.rank)
    if _slow_s and layout.rank == 1:
        time.sleep(_slow_s)
    loss = _real_step(self, batch, batch_idx)
    if _nan and step in _nan["steps"] and layout.rank == _nan["rank"]:
        self._bad_losses[layout.rank * layout.accumulate + micro_step] = 1.0
        loss = loss * float("nan")
    return loss


def _validate(self: Validation, module: TrainingModule, **options: object) -> object:
    _hurt_here("validation", module.global_step, module.topology.rank)
    return _real_validation(self, module, **options)  # type: ignore[arg-type]


def _save(self: AtomicCheckpointIO, checkpoint: dict, *rest: object, **options: object) -> None:
    _hurt_here("checkpoint", checkpoint["dawnchorus"]["step"], 0)
    _real_save(self, checkpoint, *rest, **options)


def _torch_save(state: object, path: str, *rest: object, **options: object) -> None:
    _real_torch_save(state, path, *rest, **options)
    step = state["dawnchorus"]["step"] if isinstance(state, dict) and "dawnchorus" in state else -1
    if _hurt and (_hurt.get("where"), _hurt["step"]) == ("half a checkpoint", step):
        os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202
    _hurt_here("half a checkpoint", step, 0)


def _held(self: TrainingModule, *arguments: object, **options: object) -> None:
    """After the optimiser's step and the average's, while gradients are still there."""
    from dawnchorus.trainer.checkpoints.sharded_tensors import local

    optimizer = self.trainer.optimizers[0]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    tensors += [x for slots in optimizer.state.values() for x in slots.values()]
    tensors += self.ema.state_dict().values() if self.ema is not None else []
    size = sum(local(x.detach()).nbytes for x in tensors)
    path = f"{os.environ['DRIVER_HELD']}.{self.topology.rank}"
    with open(path, "w") as file:  # noqa: PTH123
        file.write(str(size))
    _real_end(self, *arguments, **options)


if "DRIVER_HELD" in os.environ:
    _real_end = TrainingModule.on_before_zero_grad
    TrainingModule.on_before_zero_grad = _held  # type: ignore[method-assign]
TrainingModule.training_step = _step  # type: ignore[method-assign]
Validation.run = _validate  # type: ignore[method-assign]
AtomicCheckpointIO.save_checkpoint = _save  # type: ignore[method-assign]
torch.save = _torch_save

if __name__ == "__main__":
    main()
