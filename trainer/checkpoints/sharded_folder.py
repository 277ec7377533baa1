"""A checkpoint as a folder: one file per rank with its rows, one with everything else.

    step_000001000.ckpt/
        shard_00000.pt, shard_00001.pt, …   a list of tensors each: the rows that a rank held
        meta.pt                             the checkpoint, with a place holder for each such tensor

All are zip files with checksums that load with `weights_only=True`. Put together again they are the
checkpoint that a run without sharding writes, so whatever reads one reads the other, on any number
of ranks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dawnchorus.trainer.checkpoints.sharded_tensors import Pieces, is_sharded, local
from dawnchorus.trainer.files import sync_folder, whole_path

META = "meta.pt"
_PLACE = "__shard__"


def is_folder(path: Path) -> bool:
    """Whether a checkpoint is (or was meant to be) one of these folders."""
    return path.is_dir() and ((path / META).is_file() or any(path.glob("shard_*.pt")))


def files_of(path: Path) -> list[Path]:
    """The files that a folder must have, by what its `meta.pt` says.

    Raises:
        OSError, RuntimeError, KeyError, …: whatever reading a missing or damaged `meta.pt` meets.
    """
    ranks = torch.load(path / META, map_location="cpu", weights_only=True, mmap=True)["ranks"]
    return [path / META, *(path / _shard(rank) for rank in range(ranks))]


def _shard(rank: int) -> str:
    return f"shard_{rank:05d}.pt"


# --------------------------------------------------------------------------- writing


def write(
    path: Path,
    state: dict[str, Any],
    *,
    step: int,
    rank: int,
    ranks: int,
    agree: Callable[[bool], bool],
) -> bool:
    """Write a checkpoint beside its place; every rank calls this.

    Args:
        path: where the checkpoint will stand.
        state: the checkpoint; its sharded tensors go to this rank's file.
        step: the optimiser step it is of.
        rank: this rank.
        ranks: how many there are.
        agree: whether all ranks say yes. Asked as often on every rank, whatever failed where.

    Returns:
        Whether all ranks have written theirs, so that rank 0 may `publish` the folder.

    Raises:
        OSError, RuntimeError: this rank could not (no space left, say). Nothing is left behind.
    """
    error: Exception | None = None
    folder = temporary_of(path, step)
    try:
        if rank == 0:
            remove(folder)
            folder.mkdir(parents=True)
    except OSError as failure:
        error = failure
    if agree(error is None):
        try:
            _write_own(folder, state, rank, ranks)
        except (OSError, RuntimeError) as failure:
            error = failure
    done = agree(error is None)
    if not done and rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    if error is not None:
        raise error
    return done


def _write_own(folder: Path, state: dict[str, Any], rank: int, ranks: int) -> None:
    rows: list[Tensor] = []
    skeleton = _take_apart(state, rows)
    with whole_path(folder / _shard(rank)) as beside:
        torch.save(rows, beside)
    if rank == 0:
        meta = {"ranks": ranks, "tensors": len(rows), "state": skeleton}
        with whole_path(folder / META) as beside:
            torch.save(meta, beside)


def _take_apart(tree: Any, rows: list[Tensor]) -> Any:
    """The tree with a place holder for each sharded tensor, whose rows are added to `rows`."""
    if isinstance(tree, dict):
        return {key: _take_apart(value, rows) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_take_apart(value, rows) for value in tree])
    if isinstance(tree, Tensor) and is_sharded(tree):
        # A copy, because saving a view saves all of the memory that it looks into.
        rows.append(local(tree).to("cpu", copy=True))
        return {_PLACE: len(rows) - 1}
    return tree


def temporary_of(path: Path, step: int) -> Path:
    """Where a folder is written, on all ranks, until it is whole.

    The step is in the name, so that a node whose view of a network file system is old cannot write
    into the folder that had this name before.
    """
    return path.with_name(f".{path.name}.{step}.tmp")


def publish(path: Path, step: int) -> None:
    """Put a written folder in its place, by renaming. Rank 0 only.

    A folder cannot replace another at once. The name of a step is free unless what stands there
    could not be read; `best.ckpt` becomes a link to a folder of its own, and the link is swapped.

    Raises:
        OSError: it could not; whatever readable stood at `path` before still stands.
    """
    place, count = path, 0
    if not path.name.startswith("step_"):
        place = path.with_name(f"{path.stem}_{step:09d}.ckpt")
        while place.exists():
            count += 1
            place = path.with_name(f"{path.stem}_{step:09d}_{count}.ckpt")
    remove(place)
    temporary_of(path, step).rename(place)
    if place != path:
        relink(path, place.name)
        for former in path.parent.glob(f"{path.stem}_*.ckpt"):
            if former != place:
                remove(former)
    sync_folder(path.parent)


def relink(link: Path, target: str) -> None:
    """Let a symbolic link point elsewhere, in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    remove(temporary)
    temporary.symlink_to(target)
    temporary.replace(link)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        # Out of sight first: a folder that is half deleted must not look like a checkpoint.
        away = path.with_name(f".{path.name.lstrip('.')}.old.tmp")
        shutil.rmtree(away, ignore_errors=True)
        path.rename(away)
        shutil.rmtree(away)
    else:
        path.unlink(missing_ok=True)


# --------------------------------------------------------------------------- reading


def read(path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """The checkpoint in a folder; a sharded tensor is `Pieces` that are mapped, not yet read.

    Args:
        path: the folder.
        only: leave out all other parts of the checkpoint.

    Raises:
        OSError, RuntimeError, ValueError, …: whatever reading missing or damaged files meets.
    """
    meta, *shards = (
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for file in files_of(path)
    )
    for rank, rows in enumerate(shards):
        if len(rows) != meta["tensors"]:
            raise ValueError(f"{_shard(rank)} has {len(rows)} tensors, not {meta['tensors']}")
    state = meta["state"]
    if only is not None:
        state = {key: value for key, value in state.items() if key in only}
    joined: dict[str, Any] = _join(state, shards)
    return joined


def _join(tree: Any, shards: list[list[Tensor]]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {_PLACE}:
            return Pieces([rows[tree[_PLACE]] for rows in shards])
        return {key: _join(value, shards) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_join(value, shards) for value in tree])
    return tree


def whole(tree: Any) -> Any:
    """The same tree with every tensor in one piece."""
    if isinstance(tree, Pieces):
        return tree.whole()
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([whole(value) for value in tree])
    return tree
