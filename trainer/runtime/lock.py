"""One job at a time works in a run folder.

A lease in a file: created exclusively, renewed every few seconds, taken over where its owner is
known to be gone. It holds on file systems that share no POSIX locks between nodes, and what a dead
node left behind needs nobody to tidy it up.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import RunBusy
from trainer.runtime.job import Job

RENEW_S = 10.0
LEASE_S = 90.0
"""A lease that was not renewed for so long is void: nine renewals missed."""


class RunLock:
    """The lease on a run folder; use as a context manager, on rank 0.

    Args:
        folder: the run folder; created if need be.
        job: who asks.
        lost: called in a thread when the lease turns out to belong to somebody else, which happens
            to a process that was frozen for longer than `LEASE_S`. By default the process ends at
            once: it must not write another byte into that folder.
    """

    def __init__(
        self, folder: Path, job: Job, lost: Callable[[], None] | None = None, *,
        renew_s: float = RENEW_S, lease_s: float = LEASE_S,
    ) -> None:  # fmt: skip
        self.path = folder / "lock.json"
        self.job = job
        self.token = secrets.token_hex(8)
        self._lost = lost or self._end
        self._renew_s, self._lease_s = renew_s, lease_s
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        """Take the lease.

        Raises:
            RunBusy: another job works in this folder; the message names it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            if self._create():
                threading.Thread(target=self._renew, name="run lock", daemon=True).start()
                return self
            owner = self._read()
            if owner is None:
                continue
            reason = self._gone(owner)
            if reason is None:
                raise RunBusy(self._busy(owner))
            if self._remove(owner):
                print(
                    f"{self.path.parent}: taking over from {owner['name']} ({reason})",
                    file=sys.stderr,
                    flush=True,
                )
        raise RunBusy(f"{self.path} changes hands all the time: look who starts jobs on this run")

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._released.set()
        owner = self._read()
        if owner is not None and owner.get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        owner = {
            "token": self.token, "name": self.job.name, "job_id": self.job.job_id,
            "restart": self.job.restart, "host": self.job.host, "pid": self.job.pid,
            "boot": _boot(), "pid_space": _pid_space(), "started": _start_time(self.job.pid),
        }  # fmt: skip
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(owner, file)
        return True

    def _read(self) -> dict[str, Any] | None:
        """The owner; an empty one where the file cannot be understood; None without a file."""
        try:
            owner = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            owner = None
        if not isinstance(owner, dict):
            # Perhaps its owner is just writing it; or the disk was full.
            return {"name": "somebody", "token": None, "job_id": "", "host": ""}
        return owner

    def _gone(self, owner: dict[str, Any]) -> str | None:
        """Why the owner does not count any more, or None."""
        same_job = self.job.job_id and owner["job_id"] == self.job.job_id
        if same_job and owner["restart"] < self.job.restart:
            return "SLURM has started this job again"
        if owner["host"] == self.job.host:
            if owner["boot"] != _boot():
                return "that machine has been started again"
            # A container may have its own process numbers under the same host name.
            same_space = owner["pid_space"] == _pid_space()
            if same_space and owner["started"] != _start_time(owner["pid"]):
                return "that process has ended"
        age_s = self._age_s()
        if age_s is not None and age_s > self._lease_s:
            return f"no sign of life for {age_s:.0f} s"
        return None

    def _age_s(self) -> float | None:
        """Seconds since the lease was renewed, by the file system's clock, not by this node's."""
        probe = self.path.with_name(f".{self.path.name}.{self.token}")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except OSError:
            return None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def _remove(self, owner: dict[str, Any]) -> bool:
        """Take the file away if it is still `owner`'s: two who see it void must not both win."""
        aside = self.path.with_name(f".{self.path.name}.{self.token}.void")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        try:
            taken = json.loads(aside.read_text()).get("token")
        except (OSError, ValueError, AttributeError):
            taken = None
        if taken != owner["token"]:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)  # it was the next owner's already: put it back
        aside.unlink()
        return bool(taken == owner["token"])

    def _busy(self, owner: dict[str, Any]) -> str:
        stop = f"`scancel {owner['job_id']}`" if owner["job_id"] else f"end {owner['name']}"
        return (
            f"{owner['name']} works in the run folder {self.path.parent}. Wait for it or stop it "
            f"({stop}), or give this run another name (name=...). If that machine is dead, its "
            f"claim ends {self._lease_s:.0f} s after its last sign of life"
        )

    def _renew(self) -> None:
        while not self._released.wait(self._renew_s):
            owner = self._read()
            if self._released.is_set():
                return
            if owner is None or owner["token"] not in (self.token, None):
                self._lost()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _end(self) -> None:
        print(
            f"{self.path.parent}: another job has taken over this run while this process stood "
            "still; ending at once",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def _boot() -> str:
    """Of this start of the machine (`man 4 random`, boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> int:
    """Number of the name space that process numbers belong to (`man 7 pid_namespaces`)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 (a link that must be followed)
    except OSError:
        return 0


def _start_time(pid: int) -> str | None:
    """When a process of this machine started (`man 5 proc`, stat, field 22); None if it is gone.

    With the pid it names a process for good; the pid alone is used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]
