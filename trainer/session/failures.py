"""Notes on why a run ended: one per failed rank, all in one place in the run folder.

When one rank fails, all others fail soon after with messages about lost connections, and a cluster
scatters these over as many files. The note that was written first names the cause.
"""

from __future__ import annotations

import datetime
import re
import traceback
from contextlib import suppress
from pathlib import Path

from dawnchorus.trainer.session.job import Job

# Messages of gloo, NCCL and the store when the other end of a connection is gone or the port is
# taken, and ours when a process of another run answers. The next start of a job has another port.
_LOST = (
    "RankMismatch: ", "Strangers: ",  # earlier versions called RankMismatch by the second name
    "Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe",
    "DistBackendError", "DistNetworkError", "DistStoreError", "Socket closed",
    "failed to recv", "ncclRemoteError", "ncclSystemError",
)  # fmt: skip


def failure_path(run: Path, job: Job, rank: int) -> Path:
    """Path of a rank's note."""
    return run / "failures" / f"{job.session}-rank{rank}.txt"


def note_failure(run: Path, job: Job, rank: int, error: BaseException | str) -> None:
    """Write the note of a rank. Never raises, because the disk itself may be what failed."""
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
    """Text of a session's earliest note, or None. `session`: None for the newest with a note."""
    notes = failure_notes(run, session)
    return notes[0] if notes else None


def failure_notes(run: Path, session: str | None = None) -> list[str]:
    """All notes of a session, the earliest first. `session`: None for the newest with a note."""
    notes = []
    for path in (run / "failures").glob("*-rank*.txt"):
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            notes.append((path.name.rsplit("-rank", 1)[0], text.partition(" ")[0], text))
    if session is None and notes:
        session = max(notes, key=lambda note: note[1])[0]
    return [text for _, text in sorted(note[1:] for note in notes if note[0] == session)]


def noted_exit_code(note: str) -> int | None:
    """The exit code in a rank's note; None if no error ended that rank."""
    found = re.search(r", exit code (\d+)$", note.partition("\n")[0])
    return int(found[1]) if found else None


def lost_a_peer(note: str) -> bool:
    """Whether a note only says that other ranks could not be reached or went away."""
    return any(sign in note for sign in _LOST)
