"""Checkpoints: each is written whole or not at all, and old ones are deleted by a rule.

    <run>/checkpoints/step_000001000.ckpt   every `checkpoint_every` steps, at the end, when stopped
    <run>/checkpoints/best.ckpt             best validation metric so far
    <run>/checkpoints/last.ckpt             symbolic link to the newest step checkpoint

A checkpoint is a file, or a folder where the weights are sharded over ranks (see `shards`; then
`best.ckpt` is a link to `best_<step>.ckpt`). It is written beside its place, flushed to the disk,
and renamed; the temporary file lies in the same folder, because a rename across file systems is a
copy. Everything in it is plain (dicts, lists, numbers, tensors), so that it loads with
`weights_only=True`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from dawnchorus.trainer.checkpoints import sharded_folder as shards
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.files import whole_path

_STEP = re.compile(r"step_(\d{9})\.ckpt$")
FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        CheckpointError: it could not be written; whatever stood at `path` before still stands.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shards.remove(path)  # only an unreadable folder can stand at a step that is saved now
        with whole_path(path) as beside:
            torch.save(state, beside)
    # torch reports a full disk as RuntimeError from its zip writer.
    except (OSError, RuntimeError) as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: Exception) -> CheckpointError:
    """Say that a checkpoint could not be written, and that the earlier ones are there."""
    return CheckpointError(
        f"the checkpoint {path} could not be written ({error}). The checkpoints before it are "
        "untouched: make room on that disk and start the same command again; it continues from "
        "the newest one"
    )


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; one in a folder is joined to the same content as a file.

    Raises:
        CheckpointError: it is missing, truncated, or not a checkpoint of this format.
    """
    state: dict[str, Any] = shards.whole(_read(path))
    return state


def load_mapped(path: Path) -> dict[str, Any]:
    """Like `load`, but each tensor is read from the disk only when it is used.

    Sharded tensors of a folder are `Pieces`, so that a rank reads no more than its rows.
    """
    return _read(path, mmap=True)


def check(path: Path) -> None:
    """Raise CheckpointError, as `load` does, but without the memory that the tensors need.

    Every byte is read once, before anything is unpickled. The zip files' own checksums reveal
    changed bytes as well as truncation, and in which file they are.
    """
    for file in sorted(path.glob("*.pt")) if path.is_dir() else [path]:
        damage = _damage(file)
        if damage is not None:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read (damaged: {damage}): use another one"
            )
    _read(path, mmap=True)


def _damage(file: Path) -> str | None:
    """What is wrong with a zip file. None if it is absent: its reader reports that better."""
    try:
        with zipfile.ZipFile(file) as archive:
            member = archive.testzip()
    except FileNotFoundError:
        return None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return f"{file.name}: {error}"
    return None if member is None else f"{file.name}: {member}"


def _read(path: Path, **how: Any) -> dict[str, Any]:
    try:
        if path.is_dir():
            state: Any = shards.read(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, **how)
    except FileNotFoundError as error:
        if path.is_dir():
            missing = Path(error.filename or path).name
            raise CheckpointError(
                f"the checkpoint {path} cannot be read ({missing} is missing): use another one"
            ) from None
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch passes on any exception of its unpickler or zip reader
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). It is damaged or not a checkpoint: use another one"
        ) from error
    if not isinstance(state, dict) or "dawnchorus" not in state:
        raise CheckpointError(f"{path} is no checkpoint of this project: it has no 'dawnchorus'")
    return state


class CheckpointFolder:
    """The `checkpoints/` folder of a run: names, deletion of old ones, and where to resume."""

    def __init__(self, run: Path, *, keep_last: int = 2, keep_every: int | None = None) -> None:
        self.path = run / "checkpoints"
        self.keep_last = keep_last
        self.keep_every = keep_every

    def at_step(self, step: int) -> Path:
        """Path of the checkpoint at an optimiser step."""
        return self.path / f"step_{step:09d}.ckpt"

    @staticmethod
    def step_of(path: Path) -> int:
        """The optimiser step in the name of a step checkpoint."""
        match = _STEP.search(path.name)
        assert match is not None, path
        return int(match.group(1))

    @property
    def best(self) -> Path:
        """Path of the best checkpoint."""
        return self.path / "best.ckpt"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        found = (_STEP.search(p.name) for p in self.path.glob("step_*.ckpt"))
        return sorted(int(m.group(1)) for m in found if m)

    def tidy(self) -> None:
        """Point `last.ckpt` at the newest checkpoint, and delete those that need not be kept."""
        steps = self.steps()
        if not steps:
            return
        shards.relink(self.path / "last.ckpt", self.at_step(steps[-1]).name)
        for step in steps[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                shards.remove(self.at_step(step))
        for former in self.path.glob("best_*.ckpt"):
            if not self.best.exists() or not former.samefile(self.best):
                shards.remove(former)
        for orphan in self.path.glob(".*.tmp"):
            # A process that was killed while it wrote has left this.
            shards.remove(orphan)

    def newest_readable(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that can be read, and a sentence for each newer one that cannot."""
        complaints = []
        for step in reversed(self.steps()):
            path = self.at_step(step)
            try:
                check(path)
            except CheckpointError as error:
                complaints.append(str(error))
                continue
            return path, complaints
        return None, complaints
