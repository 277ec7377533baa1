"""Makes sure that only one job at a time works in a run folder.

The lock is a lease in a file, `lock.<n>.json`. It is created exclusively, renewed every few
seconds, and taken over when its owner is known to be gone. It works on file systems that share no
POSIX locks between nodes, and nobody has to remove the lease of a dead node.

A process that wants the folder first creates its own file there, with the number after the highest
it sees, and then looks for other leases. Of two processes, the later one sees the earlier one's
file, however long it was suspended in between. If many see the same leases void, only one of them
can create the file with the next number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import RunBusy
from dawnchorus.trainer.session.job import Job

RENEW_S = 10.0
LEASE_S = 90.0
"""A lease is void if it was not renewed for this long: nine renewals are missing then."""
ATTEMPTS = 20
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of `link` on a file system without hard links (man 2 link)."""

Owner = dict[str, Any]
SOMEBODY: Owner = {
    "token": None, "name": "somebody", "job_id": "", "restart": 0, "host": "", "pid": 0,
    "boot": "", "pid_space": 0, "started": None,
}  # fmt: skip


class RunLock:
    """The lease on a run folder; use as a context manager, on rank 0.

    Args:
        folder: the run folder; created if it does not exist.
        job: the job that asks for the folder.
        lost: called in a thread when another process has taken over the lease, which can happen
            if this process was frozen for longer than `LEASE_S`. By default the process ends at
            once: it must not write another byte into that folder.
    """

    def __init__(
        self, folder: Path, job: Job, lost: Callable[[], None] | None = None, *,
        renew_s: float = RENEW_S, lease_s: float = LEASE_S,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.job = job
        self.token = secrets.token_hex(8)
        self.path: Path | None = None
        self._lost = lost or self._end
        self._renew_s, self._lease_s = renew_s, lease_s
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        """Take the lease.

        Raises:
            RunBusy: another job works in this folder; the message names it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            void = {}
            for path, owner in leases(self.folder).items():
                reason = self._gone(path, owner)
                if reason is None:
                    raise RunBusy(self._busy(owner))
                void[path] = owner, reason
            self.path = self._claim(void)
            if self.path is None:
                time.sleep(random.uniform(0, 0.1))
                continue
            for path, (owner, reason) in void.items():
                print(
                    f"{self.folder}: taking over from {owner['name']} ({reason})",
                    file=sys.stderr,
                    flush=True,
                )
                path.unlink(missing_ok=True)
            self._tidy(self.path)
            threading.Thread(target=self._renew, name="run lock", daemon=True).start()
            return self
        raise RunBusy(
            f"{self.folder}: one process after another takes over this run: look for what keeps "
            "starting it"
        )

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._released.set()
        if self.path is not None and self._mine(self.path):
            self.path.unlink(missing_ok=True)

    def _claim(self, void: Mapping[Path, tuple[Owner, str]]) -> Path | None:
        """Create our own lease beside the void ones; None if another process was quicker."""
        path = self.folder / f"lock.{1 + max(map(_number, void), default=0)}.json"
        if not self._create(path):
            return None
        known = {void_path: owner["token"] for void_path, (owner, _) in void.items()}
        known[path] = self.token
        now = {other: owner["token"] for other, owner in leases(self.folder).items()}
        if now.items() <= known.items():
            return path
        path.unlink(missing_ok=True)
        return None

    def _create(self, path: Path) -> bool:
        """Create the file with its whole content in one step; False if it exists already."""
        text = json.dumps({
            "token": self.token, "name": self.job.name, "job_id": self.job.job_id,
            "restart": self.job.restart, "host": self.job.host, "pid": self.job.pid,
            "boot": _boot(), "pid_space": _pid_space(), "started": _start_time(self.job.pid),
        })  # fmt: skip
        draft = self.folder / f".lock.{self.token}"
        try:
            draft.write_text(text)
            os.link(draft, path)
        except FileExistsError:
            # NFS reports this even after a success, if its first answer was lost (man 2 open,
            # O_EXCL).
            return self._mine(path)
        except OSError as err:
            if err.errno not in NO_LINKS:
                raise
            try:
                with path.open("x") as file:
                    file.write(text)
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _tidy(self, own: Path) -> None:
        """Remove the drafts of processes that were killed while they claimed the folder."""
        for draft in self.folder.glob(".lock.*"):
            with contextlib.suppress(OSError):
                if own.stat().st_mtime - draft.stat().st_mtime > self._lease_s:
                    draft.unlink()

    def _gone(self, path: Path, owner: Owner) -> str | None:
        """Why the owner's lease is void; None if it is valid."""
        same_job = self.job.job_id and owner["job_id"] == self.job.job_id
        if same_job and owner["restart"] < self.job.restart:
            return "SLURM has started this job again"
        if owner["host"] == self.job.host:
            if owner["boot"] != _boot():
                return "that machine has been restarted"
            # A container may have its own process numbers under the same host name.
            same_space = owner["pid_space"] == _pid_space()
            if same_space and owner["started"] != _start_time(owner["pid"]):
                return "that process has ended"
        age_s = self._age_s(path)
        if age_s is not None and age_s > self._lease_s:
            return f"no sign of life for {age_s:.0f} s"
        return None

    def _age_s(self, path: Path) -> float | None:
        """Seconds since the lease was renewed, by the clock of the file system."""
        probe = self.folder / f".lock.{self.token}"
        try:
            probe.touch()
            return probe.stat().st_mtime - path.stat().st_mtime
        except OSError:
            return None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def _mine(self, path: Path) -> bool:
        owner = _read(path)
        return owner is not None and owner["token"] == self.token

    def _busy(self, owner: Owner) -> str:
        stop = f"`scancel {owner['job_id']}`" if owner["job_id"] else f"end {owner['name']}"
        return (
            f"{owner['name']} works in the run folder {self.folder}. Wait for it or stop it "
            f"({stop}), or give this run another name (name=...). If that machine is dead, its "
            f"claim ends {self._lease_s:.0f} s after its last sign of life"
        )

    def _renew(self) -> None:
        assert self.path is not None
        while not self._released.wait(self._renew_s):
            owner = _read(self.path)
            if self._released.is_set():
                return
            if owner is None or owner["token"] not in (self.token, None):
                self._lost()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _end(self) -> None:
        print(
            f"{self.folder}: another job has taken over this run while this process was "
            "suspended; this process ends now",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def leases(folder: Path) -> dict[Path, Owner]:
    """Return the owner in each lease of a run folder. There is one lease or none, apart from the
    moments of a takeover.
    """
    found = {path: _read(path) for path in folder.glob("lock.*.json")}
    return {path: owner for path, owner in found.items() if owner is not None}


def _number(path: Path) -> int:
    text = path.name.split(".")[1]
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> Owner | None:
    """Read the owner in a lease: an unknown one if it cannot be understood, None without a file."""
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        owner = None
    if isinstance(owner, dict) and owner.keys() >= SOMEBODY.keys():
        return owner
    # Perhaps its owner is writing it right now, or the disk was full.
    return dict(SOMEBODY)


def _boot() -> str:
    """Id of this start of the machine (`man 4 random`, boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> int:
    """Number of the name space of our process numbers (`man 7 pid_namespaces`)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 (this link must be followed)
    except OSError:
        return 0


def _start_time(pid: int) -> str | None:
    """When a process of this machine started (`man 5 proc`, stat, field 22); None if it is gone.

    Start time and pid together identify a process; the kernel uses a pid again later.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]
