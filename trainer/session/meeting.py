"""Checks, once the ranks are connected, that they belong to one run and may read its folder.

torch's rendezvous identifies nobody: any process that reaches the port of rank 0 takes part. So the
ranks exchange facts about their run, and each proves that it can read a secret in the run folder.
The facts are JSON in tensors, because unpickling an object would run the code of whoever sent it.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import RankMismatch

SECRET = ".rendezvous"
"""The secret's file name begins with this; it is in the run folder only while the ranks meet."""
_MOST_BYTES = 1 << 16
_WAIT_S = 60.0
"""Longest time until a shared file system shows a new file to all nodes."""


def meet(facts: Mapping[str, object], folder: Path) -> list[str]:
    """Make sure that all ranks of the process group belong to one run and have the same start.

    Without this check, two runs that meet on one port would train together and both report success;
    a rank whose file system showed an older checkpoint would train from other weights; and another
    user's process could read and send gradients.

    Args:
        facts: facts that must be equal on all ranks, by name; JSON.
        folder: the run folder, in which rank 0 writes a secret that only its user can read.

    Returns:
        The host of each rank.

    Raises:
        RankMismatch: raised on every rank; it names the ranks that differ, and the facts.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [socket.gethostname()]
    mine = {"host": socket.gethostname(), "facts": json.loads(json.dumps(dict(facts)))}
    everybody = _told_by_all(mine)
    _same_facts(everybody)
    _same_secret(folder)
    return [str(other["host"]) for other in everybody]


def _same_facts(everybody: list[dict[str, Any]]) -> None:
    first = everybody[0]["facts"]
    mismatches = [
        f"rank {rank} on {other['host']} has {name} {other['facts'].get(name)!r}, "
        f"rank 0 has {value!r}"
        for rank, other in enumerate(everybody)
        for name, value in first.items()
        if other["facts"].get(name) != value
    ]
    _raise_if(mismatches)


def _same_secret(folder: Path) -> None:
    """Every rank proves, with a hash of a fresh number and the secret, that it can read the secret.

    The secret itself is never sent.
    """
    import torch.distributed as dist

    rank, challenge = dist.get_rank(), secrets.token_hex(16)
    path = folder / f"{SECRET}-{challenge}"
    try:
        if rank == 0:
            _leave_secret(path)
        challenge = str(_told_by_all(challenge)[0])
        if not re.fullmatch(r"[0-9a-f]{32}", challenge):
            _raise_if(["rank 0 sent no number"])
        path = folder / f"{SECRET}-{challenge}"
        secret = _read_secret(path)
        shown = _told_by_all(_proof(secret, challenge, rank))
        if not secret:
            _raise_if([f"rank {rank} cannot read {path}, which rank 0 writes for it"])
        _raise_if(
            [
                f"rank {other} has not read the secret in the run folder {folder}"
                for other, proof in enumerate(shown)
                if not hmac.compare_digest(str(proof), _proof(secret, challenge, other))
            ]
        )
    finally:
        if rank == 0:
            path.unlink(missing_ok=True)


def _leave_secret(path: Path) -> None:
    for old in path.parent.glob(f"{SECRET}-*"):
        old.unlink(missing_ok=True)  # from a session that was killed while its ranks met
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(secrets.token_hex(32) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _read_secret(path: Path) -> str:
    """Read the secret of rank 0; empty if it stays unreadable."""
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        with suppress(OSError):
            text = path.read_text(encoding="ascii")
            if text.endswith("\n"):
                return text.strip()
        time.sleep(0.1)
    return ""


def _proof(secret: str, challenge: str, rank: int) -> str:
    return hmac.digest(secret.encode(), f"{challenge} {rank}".encode(), "sha256").hex()


def _told_by_all(value: object) -> list[Any]:
    """Gather the `value` of every rank, in the order of ranks: JSON, as bytes in tensors.

    Raises RankMismatch if a rank sends bytes that are not JSON, or too many of them.
    """
    import torch
    import torch.distributed as dist

    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    text = json.dumps(value).encode()
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(sizes, torch.tensor([len(text)], device=device))
    most = int(sizes.max())
    if not 0 < most <= _MOST_BYTES:
        _raise_if([f"a rank wants to send {most} bytes"])
    mine = torch.zeros(most, dtype=torch.uint8, device=device)
    mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    told = torch.zeros(len(sizes) * most, dtype=torch.uint8, device=device)
    dist.all_gather_into_tensor(told, mine)
    answers = []
    for rank, (row, size) in enumerate(
        zip(told.view(len(sizes), most).cpu(), sizes.tolist(), strict=True)
    ):
        try:
            answers.append(json.loads(bytes(row[:size].tolist())))
        except ValueError:
            _raise_if([f"rank {rank} sent bytes that are not JSON"])
    return answers


def _raise_if(mismatches: list[str]) -> None:
    if mismatches:
        raise RankMismatch(
            "the processes that met do not belong together: " + "; ".join(mismatches[:8]) + ". "
            "Start it again; if it happens again, look for another run with the same MASTER_PORT, "
            "or for a file system that shows different files on different nodes"
        )
