"""Writes TensorBoard's event files into the folder `tensorboard` of the run."""

from __future__ import annotations

from typing import Any, Self

from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.training.loggers.base import LoggedRun, Logger, numbers
from dawnchorus.trainer.training.loggers.tensorboard_config import TensorBoardConfig


class TensorBoard(Logger):
    """Shows the run in TensorBoard.

    It withdraws the figures of steps after `first_step`: an earlier session logged them after its
    last checkpoint, and this session repeats those steps.
    """

    def __init__(self, run: LoggedRun) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RecipeError(
                "log.tensorboard needs the package tensorboard, which is not installed: "
                "pip install 'dawnchorus[tensorboard]', or set log.tensorboard=false"
            ) from None
        self._writer = SummaryWriter(
            str(run.folder / "tensorboard"),
            purge_step=run.first_step + 1 if run.first_step else None,
        )

    @classmethod
    def start(cls, log: TensorBoardConfig, run: LoggedRun) -> Self | None:
        """See `Logger.start`."""
        return cls(run) if log.tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """Add the numbers of a line at its step, as `train/loss` and the like."""
        for name, value in numbers(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write everything that is still in memory."""
        self._writer.close()
