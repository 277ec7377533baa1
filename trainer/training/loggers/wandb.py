"""Shows the run on Weights & Biases."""

from __future__ import annotations

import os
import secrets
from typing import Any, Self

from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.training.loggers.base import LoggedRun, Logger, numbers
from dawnchorus.trainer.training.loggers.wandb_config import WandbConfig


class Wandb(Logger):
    """Shows the run on Weights & Biases. A run folder has one id there, however often it resumes.

    An offline resume writes a second `offline-run-*` folder, in which wandb's own step begins at 0
    again. So the optimiser step is a figure of its own, and the axis of all charts.
    """

    def __init__(self, log: WandbConfig, run: LoggedRun) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        id_file = run.folder / "wandb_id.txt"
        if not id_file.is_file():
            write_whole(id_file, secrets.token_hex(4))
        settings = wandb.Settings(
            console="off", x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
            disable_git=True, disable_code=True, x_save_requirements=False, host="", program="",
        )  # fmt: skip
        self._run = wandb.init(
            id=id_file.read_text().strip(), resume="allow", mode=log.wandb,
            project=log.wandb_project, name=run.name, dir=str(run.folder), config=run.recipe,
            settings=settings,
        )  # fmt: skip
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step")

    @classmethod
    def start(cls, log: WandbConfig, run: LoggedRun) -> Self | None:
        """See `Logger.start`."""
        return None if log.wandb == "disabled" else cls(log, run)

    def write(self, line: dict[str, Any]) -> None:
        """Send the numbers of a line under `<kind>/<figure>`."""
        self._run.log({"trainer/global_step": line["step"], **numbers(line)})

    def close(self) -> None:
        """Finish the run, which writes the offline files."""
        self._run.finish()
