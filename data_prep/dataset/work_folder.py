"""The folder in which a dataset is made: what it holds, who uses it, what runs left there."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.dataset.options import Part
from dawnchorus.data_prep.errors import PrepError

WORK = ".prep"  # folder within the dataset that exists only until it is finished
_PART_LOCK = re.compile(r"part-(\d+)-of-(\d+)\.lock")


@contextmanager
def disk_errors(out: Path, *, make: bool = False) -> Iterator[None]:
    """Turn errors of the disk into a PrepError; with `make`, create the work folder first."""
    try:
        if make:
            (out / WORK).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as err:
        raise PrepError(f"Writing {out} failed: {err}. The same command continues.") from err


def is_finished(out: Path, fingerprint: str, settings: dict[str, Any]) -> bool:
    """Return whether `out` is this dataset, finished; PrepError where it is another one."""
    if not (out / "index.parquet").exists():
        return False
    try:
        stats = json.loads((out / "stats.json").read_text())
        known, theirs = stats["fingerprint"], stats["options"]
    except (OSError, ValueError, KeyError) as err:
        raise PrepError(f"{out} holds a dataset that this program did not write.") from err
    if known == fingerprint:
        return True
    raise PrepError(f"{out} holds a finished dataset {difference(theirs, settings)}")


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return in which options the two differ, or that the input does."""
    changed = [
        f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}"
        for name in sorted(set(theirs) | set(ours))
        if theirs.get(name) != ours.get(name)
    ]
    what = "; ".join(changed) or "the metadata, the columns used, or the audio files changed"
    return f"made otherwise: {what}. Choose another --out, or delete the folder to make it anew."


def refuse_foreign_files(out: Path) -> None:
    """Refuse to write into a folder that holds anything this program did not put there."""
    if out.exists() and not out.is_dir():
        raise PrepError(f"{out} is a file; --out must be a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise PrepError(f"{out} is not empty and not a dataset. Choose another --out.")


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Lock the folder; a second run on it gets a PrepError. The lock ends with the process."""
    with _held(out / WORK / "lock", fcntl.LOCK_EX, f"Another run is preparing {out} right now."):
        yield


@contextmanager
def lock_part(out: Path, part: Part | None) -> Iterator[None]:
    """Lock one part of the folder; other parts may use the folder, a run over all may not. None: no
    part, only the plan.
    """
    whole = f"A run over all parts is preparing {out} right now."
    if part is None:
        with _held(out / WORK / "lock", fcntl.LOCK_SH, whole):
            yield
        return
    lock = out / WORK / f"part-{part.number}-of-{part.count}.lock"
    with (
        _held(out / WORK / "lock", fcntl.LOCK_SH, whole),
        _held(lock, fcntl.LOCK_EX, f"Another run is writing part {part} of {out} right now."),
    ):
        yield


@contextmanager
def lock_plan(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Lock the plan: of parts that start together, one makes it and the others wait. The lock ends
    with the process; on a file system without locks each part makes the plan and the first to
    finish wins.
    """
    with (out / WORK / "plan.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another part is making the plan; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


@contextmanager
def _held(path: Path, how: int, refusal: str) -> Iterator[None]:
    with path.open("a+") as file:  # readable and writable, because NFS needs both for some locks
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise PrepError(refusal) from err
        except OSError:
            pass  # a file system without locks: files are renamed into place whole all the same
        yield


def counts_of_parts(out: Path) -> set[int]:
    """Return into how many parts the work was divided, by all that have started."""
    found = (_PART_LOCK.fullmatch(path.name) for path in (out / WORK).glob("part-*.lock"))
    return {int(match.group(2)) for match in found if match}


def sweep(out: Path, shards: Sequence[str] | None = None) -> None:
    """Remove the half-written files of a killed run: those of some shards, or all."""
    if shards is None:
        left = [*out.glob("*/.*.tmp"), *out.glob(".*.tmp"), *(out / WORK).glob(".*.tmp")]
        for path in (out / WORK).glob(".plan-*"):
            shutil.rmtree(path, ignore_errors=True)
    else:
        left = [
            tmp
            for shard in shards
            for tmp in out.glob(f"{Path(shard).parent}/.{Path(shard).name}.*.tmp")
        ]
    for path in left:
        path.unlink(missing_ok=True)


def leave(out: Path) -> None:
    """Remove the work folder of a finished dataset."""
    shutil.rmtree(out / WORK, ignore_errors=True)
