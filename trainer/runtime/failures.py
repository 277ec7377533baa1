"""Why a run ended, in one place: a note per failed rank in the run folder, the first one first.

When one rank fails, all others fail soon after, with messages about lost connections; a cluster
scatters them over as many files. The note that was written first names the cause.
"""

from __future__ import annotations

import datetime
import re
import traceback
from contextlib import suppress
from pathlib import Path

from dawnchorus.trainer.runtime.job import Job

# What gloo, NCCL and the store say where the other end of a connection is gone or taken, and what
# we say where it is another run's: the next start of a job has another port.
_LOST = (
    "RankMismatch: ", "Strangers: ",  # the second is its name in notes of earlier versions
    "Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe",
    "DistBackendError", "DistNetworkError", "DistStoreError", "Socket closed",
    "failed to recv", "ncclRemoteError", "ncclSystemError",
)  # fmt: skip


def failure_path(run: Path, job: Job, rank: int) -> Path:
    """Where a rank's note goes."""
    return run / "failures" / f"{job.session}-rank{rank}.txt"


def note_failure(run: Path, job: Job, rank: int, error: BaseException | str) -> None:
    """Write the note; never raises (the disk may be the very thing that failed)."""
    path = failure_path(run, job, rank)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    head = f"{now} rank {rank}, {job.name}, host {job.host}"
    if isinstance(error, BaseException):
        head += f", exit code {getattr(error, 'exit_code', 1)}"
        what = f"{type(error).__name__}: {error}\n\n" + "".join(traceback.format_exception(error))
    else:
        what = error + "\n"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{head}\n{what}", encoding="utf-8")


def first_failure(run: Path, session: str | None = None) -> str | None:
    """Text of the earliest note (of the newest session, or of the given one); None without one."""
    notes = failure_notes(run, session)
    return notes[0] if notes else None


def failure_notes(run: Path, session: str | None = None) -> list[str]:
    """All notes of a session (None: the newest that has one), the earliest first."""
    notes = []
    for path in (run / "failures").glob("*-rank*.txt"):
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            notes.append((path.name.rsplit("-rank", 1)[0], text.partition(" ")[0], text))
    if session is None and notes:
        session = max(notes, key=lambda note: note[1])[0]
    return [text for _, text in sorted(note[1:] for note in notes if note[0] == session)]


def noted_exit_code(note: str) -> int | None:
    """The exit code that a rank ended with, where an error ended it."""
    found = re.search(r", exit code (\d+)$", note.partition("\n")[0])
    return int(found[1]) if found else None


def lost_a_peer(note: str) -> bool:
    """Whether a note says no more than that the other ranks could not be reached, or went away."""
    return any(sign in note for sign in _LOST)
