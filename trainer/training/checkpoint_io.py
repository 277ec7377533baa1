"""Checkpoints as Lightning asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import CheckpointIO

from dawnchorus.trainer.checkpoints.checkpoint import load, not_written, save
from dawnchorus.trainer.checkpoints.sharded_folder import publish, remove, write
from dawnchorus.trainer.errors import CheckpointError


class AtomicCheckpointIO(CheckpointIO):
    """Lets Lightning use `save` and `load` of `checkpoint`.

    A failed save does not raise here, because an exception on one rank would leave the others
    waiting in a barrier. The error is kept, and `StepBoundary` ends the run on all ranks.
    """

    def __init__(self) -> None:
        self.error: CheckpointError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a file atomically; a failure is kept in `error`."""
        self.error = None
        try:
            save(Path(path), checkpoint)
        except CheckpointError as error:
            self.error = error

    def save_sharded(
        self,
        checkpoint: dict[str, Any],
        path: Path,
        *,
        rank: int,
        ranks: int,
        agree: Callable[[bool], bool],
    ) -> None:
        """Write a folder, on all ranks (see `write`); a failure is kept in `error`."""
        self.error = None
        try:
            step = checkpoint["dawnchorus"]["step"]
            done = write(path, checkpoint, step=step, rank=rank, ranks=ranks, agree=agree)
            if done and rank == 0:
                publish(path, step)
        except (OSError, RuntimeError) as error:
            self.error = not_written(path, error)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU. Raises CheckpointError."""
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        remove(Path(path))
