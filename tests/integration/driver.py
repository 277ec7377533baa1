"""Runs `chorus …` while writing down every clip that is trained on, and hurting itself on demand.

Environment:
    DRIVER_LEDGER   file prefix; each rank appends step, micro_step, positions, clips as JSON lines
    DRIVER_HURT     JSON {"signal": "SIGTERM", "step": 3, "micro_step": 1, "rank": 0 or null}
    DRIVER_NAN      JSON {"steps": [2], "rank": 0}: that rank's loss is NaN in those steps
    DRIVER_SLOW_S   seconds that rank 1 sleeps in every micro-step
"""

from __future__ import annotations

import json
import os
import signal
import time

from trainer.runtime.preemption import watch_signals

watch_signals()

from trainer.cli import main  # noqa: E402
from trainer.module import TrainingModule  # noqa: E402

_hurt = json.loads(os.environ.get("DRIVER_HURT", "null"))
_nan = json.loads(os.environ.get("DRIVER_NAN", "null"))
_slow_s = float(os.environ.get("DRIVER_SLOW_S", "0"))
_real_step = TrainingModule.training_step


def _step(self: TrainingModule, batch: dict, batch_idx: int) -> object:
    layout, step = self.topology, self.global_step
    micro_step = batch_idx % layout.accumulate
    first = layout.first_position(step, micro_step)
    assert batch["position_B"].tolist() == list(range(first, first + layout.micro))
    with open(f"{os.environ['DRIVER_LEDGER']}.{layout.rank}", "a") as file:  # noqa: PTH123
        clips = list(zip(batch["source_B"].tolist(), batch["clip_B"].tolist(), strict=True))
        line = {"step": step, "micro_step": micro_step, "clips": clips}
        file.write(json.dumps(line | {"positions": batch["position_B"].tolist()}) + "\n")
    here = _hurt and (step, micro_step) == (_hurt["step"], _hurt["micro_step"])
    if here and _hurt["rank"] in (None, layout.rank):
        os.kill(os.getpid(), getattr(signal, _hurt["signal"]))
    if _slow_s and layout.rank == 1:
        time.sleep(_slow_s)
    loss = _real_step(self, batch, batch_idx)
    if _nan and step in _nan["steps"] and layout.rank == _nan["rank"]:
        self._bad_losses[layout.rank * layout.accumulate + micro_step] = 1.0
        loss = loss * float("nan")
    return loss


TrainingModule.training_step = _step  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
