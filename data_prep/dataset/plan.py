"""Which recording goes to which shard, in which order: decided before any shard is written, and
kept on disk.

The plan is a pure function of the recordings and the options. Shards can therefore be written by
any number of processes, on any machines, in any order, by a run that was killed and started again,
and come out byte for byte the same.

Shape legend: R recordings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.dataset.row_store import CHECKSUMS, OFFSETS, ROWS, write_rows
from dawnchorus.data_prep.errors import PrepError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dawnchorus.data_prep.table.recording import Recording

# A small dataset still gets this many shards where it has 8 recordings for each, so that several
# processes can write it and several workers can read it.
MIN_SHARDS = 16
MIN_RECORDINGS_PER_SHARD = 8
PLAN = "plan"  # folder within the work folder
_SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to write: its path in the dataset, and its range of the plan's members."""

    split: str
    number: int
    start: int
    stop: int
    seconds: float

    @property
    def path(self) -> str:
        """Path within the dataset: "train/000000.tar"."""
        return f"{self.split}/{self.number:06d}.tar"


@dataclass(frozen=True)
class Plan:
    """The plan of a dataset. `members_R` are recording numbers in the order of the shards."""

    folder: Path
    fingerprint: str
    options: dict[str, Any]
    recordings: int
    shards: tuple[ShardPlan, ...]
    strong: bool = False
    """Whether recordings have events."""
    request: Mapping[str, Any] | None = None
    """The request that it was made for, as far as it can be compared without reading the table."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the plan; for the rows their size, because each row has a checksum.
    """

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read what `write_plan` wrote. Raises PrepError where a file was changed."""
        try:
            state = json.loads((folder / "plan.json").read_text())
            shards = tuple(ShardPlan(*shard) for shard in state.pop("shards"))
            plan = cls(folder=folder, shards=shards, **state)
            changed = [name for name, told in plan.files.items() if _sum(folder / name) != told]
        except (OSError, ValueError, TypeError, KeyError) as err:
            changed = [f"plan.json cannot be read: {err}"]
        if changed:
            raise PrepError(
                f"The plan in {folder} was changed since it was made ({', '.join(changed)}). "
                "Delete that folder and run the same command again: what is written and fits is "
                "kept."
            )
        return plan


def members(folder: Path) -> NDArray[np.int64]:
    """Recording numbers in the order of the shards, mapped from the file."""
    found: NDArray[np.int64] = np.load(folder / "members.npy", mmap_mode="r")
    return found


def sizes_of(folder: Path) -> NDArray[np.int64] | None:
    """Bytes of every recording's file when the plan was made, -1: none; mapped from the file.

    None where the plan is from before this was kept.
    """
    path = folder / "sizes.npy"
    if not path.is_file():
        return None
    found: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return found


def _sum(path: Path) -> str:
    """SHA-256 of a small file; for the rows only their size, which costs no reading."""
    if path.name == ROWS:
        return str(path.stat().st_size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shared_keys_of(folder: Path) -> NDArray[np.bool_]:
    """For each recording: whether its key needs a digest to be unique; mapped from the file."""
    found: NDArray[np.bool_] = np.load(folder / "shared_keys.npy", mmap_mode="r")
    return found


def write_plan(
    recordings: Iterable[Recording],
    work: Path,
    *,
    fingerprint: str,
    options: dict[str, Any],
    shards: Sequence[ShardPlan],
    members_R: NDArray[np.int64],
    shared_R: NDArray[np.bool_],
    size_R: NDArray[np.int64],
    request: Mapping[str, Any] | None = None,
    strong: bool = False,
) -> None:
    """Put the plan and all rows into `work`, all at once.

    Several processes may do this at one time, on several machines: each writes a folder of its
    own, the first to rename it wins, and what the others made was the same.
    """
    mine = Path(tempfile.mkdtemp(prefix=f".plan-{socket.gethostname()}-", dir=work))
    try:
        write_rows(recordings, mine)
        arrays = {"members": members_R, "shared_keys": shared_R, "sizes": size_R}
        for name, array in arrays.items():
            with (mine / f"{name}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        state = {
            "fingerprint": fingerprint,
            "options": options,
            "recordings": len(members_R),
            "shards": [list(asdict(shard).values()) for shard in shards],
            "request": request,
            "strong": strong,
            "files": {
                name: _sum(mine / name)
                for name in (*(f"{name}.npy" for name in arrays), OFFSETS, CHECKSUMS, ROWS)
            },
        }
        with (mine / "plan.json").open("w") as text:
            json.dump(state, text)
            text.flush()
            os.fsync(text.fileno())
        mine.chmod(0o755)  # mkdtemp's folders are for one user; a group may share the work
        try:
            mine.rename(work / PLAN)
        except OSError:
            if not (work / PLAN / "plan.json").is_file():
                raise
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def plan_shards(
    splits: Sequence[str],
    split_R: NDArray[np.integer[Any]],
    group_R: NDArray[np.uint64],
    seconds_R: NDArray[np.float64],
    *,
    bytes_per_second: float,
    shard_bytes: float,
    seed: int,
) -> tuple[list[ShardPlan], NDArray[np.int64]]:
    """Cut every split into shards of about equal size, at most about `shard_bytes` each.

    Args:
        splits: their names; `split_R` counts them.
        split_R: the split of each recording.
        group_R: equal numbers for recordings of one group.
        seconds_R: estimates; a recording is never divided between shards.
        bytes_per_second: of the stored audio.
        shard_bytes: the size to aim at.
        seed: of the order.

    Returns:
        The shards, and the recording numbers in their order.
    """
    shards: list[ShardPlan] = []
    parts: list[NDArray[np.int64]] = []
    at = 0
    for name in sorted(splits):
        here_M = np.flatnonzero(split_R == splits.index(name))
        order_M = spread(group_R[here_M], generator(seed, name))
        ordered_M = here_M[order_M]
        weight_M = np.maximum(seconds_R[ordered_M], _SHORTEST_S)
        total_bytes = float(weight_M.sum()) * bytes_per_second
        fewest = max(1, min(MIN_SHARDS, len(ordered_M) // MIN_RECORDINGS_PER_SHARD))
        count = min(max(int(np.ceil(total_bytes / shard_bytes)), fewest), len(ordered_M))
        middle_M = np.cumsum(weight_M) - weight_M / 2
        shard_M = np.minimum((middle_M / weight_M.sum() * count).astype(int), count - 1)
        bounds = np.searchsorted(shard_M, np.arange(count + 1)).tolist()
        filled = [(a, b) for a, b in pairwise(bounds) if b > a]
        for number, (start, stop) in enumerate(filled):
            estimate_s = float(weight_M[start:stop].sum())
            shards.append(ShardPlan(name, number, at + start, at + stop, estimate_s))
        parts.append(ordered_M)
        at += len(ordered_M)
    return shards, np.concatenate(parts)


def generator(seed: int, *where: str | int) -> np.random.Generator:
    """Return the random generator of one place (a split, a shard): the same in every process."""
    words = [item if isinstance(item, int) else zlib.crc32(item.encode()) for item in where]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def spread(
    groups: Sequence[str] | NDArray[np.uint64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return a random order in which the members of each group lie evenly apart.

    Member k of the n of a group falls at a random place in the k-th n-th of the order. A plain
    shuffle leaves runs of one recordist; keeping groups together would leave only such runs.
    """
    _, first_G, group_N = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    order_N = np.argsort(group_N, kind="stable")
    bounds_G1 = np.append(0, np.cumsum(np.bincount(group_N)))
    place_N = np.empty(len(group_N))
    for g in np.argsort(first_G).tolist():
        members_K = order_N[bounds_G1[g] : bounds_G1[g + 1]]
        count = len(members_K)
        place_N[rng.permutation(members_K)] = (np.arange(count) + rng.random(count)) / count
    return np.argsort(place_N, kind="stable")
