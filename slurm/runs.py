"""`chorus runs`: the state of every run, read from its folder and, where there is one, SLURM."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.slurm import scheduler
from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.submit import read_record
from dawnchorus.trainer.training.layout import total_steps

_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class RunState:
    """One line of the list."""

    folder: Path
    state: str
    """running, waiting, held, pre-empted, done, failed, hung, stopped, or new."""
    step: int
    total_steps: int | None
    loss: float | None
    metric: str
    clips_per_s: float | None
    job_id: str
    reason: str
    """Why the run failed or does not start, in one line."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.name


def list_runs(runs: Path) -> list[RunState]:
    """All runs below a folder, newest last. Raises SubmitError if there is no such folder."""
    if not runs.is_dir():
        raise SubmitError(f"there is no folder {runs}: name the one with your runs (--runs)")
    folders = [f for f in runs.iterdir() if f.is_dir() and _is_run(f)]
    folders.sort(key=lambda f: (f / "recipe.yaml").stat().st_mtime if (f / "recipe.yaml").exists()
                 else f.stat().st_mtime)  # fmt: skip
    records = {folder: read_record(folder) for folder in folders}
    known = scheduler.states([r["job_id"] for r in records.values() if r.get("job_id")])
    return [state_of(folder, known) for folder in folders]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("recipe.yaml", "submission.json"))


def find_run(name: str, runs: Path) -> Path:
    """The folder of a run by its name or path. Raises SubmitError."""
    for folder in (runs / name, Path(name)):
        if folder.is_dir() and _is_run(folder):
            return folder
    raise SubmitError(f"there is no run {name!r} in {runs}: `chorus runs` lists what there is")


def state_of(folder: Path, known: dict[str, str] | None = None) -> RunState:
    """Read the state of a run from its folder and from SLURM's states (`known`) of its job."""
    from dawnchorus.trainer.metrics_log import standing_lines
    from dawnchorus.trainer.session.attempts import read_attempts
    from dawnchorus.trainer.session.failures import first_failure

    lines = standing_lines(folder / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    valid = [line for line in lines if line["kind"] == "valid"]
    events = [line["event"] for line in lines if line["kind"] == "event"]
    last = train[-1] if train else {}
    owner = _owner(folder)
    job_id = str(read_record(folder).get("job_id") or "")
    attempts = read_attempts(folder)
    if not job_id:
        job_id = str((owner or {}).get("job_id") or (attempts[-1].get("job") if attempts else ""))
    if known is None:
        known = scheduler.states([job_id]) if job_id else {}
    note = first_failure(folder)
    state = _state(folder, events, owner, known.get(job_id, ""), note, bool(attempts))
    reason = ""
    if state in ("failed", "hung") and note:
        reason = next((x for x in note.splitlines()[1:] if x.strip()), "")
    if state == "held":
        reason = f"SLURM holds job {job_id}: `scontrol release {job_id}` lets it start"
    return RunState(
        folder, state, int(last.get("step", 0)), _total(folder), last.get("loss"),
        _metric(valid), last.get("clips_per_s"), job_id, reason,
    )  # fmt: skip


def _owner(folder: Path) -> dict[str, Any] | None:
    """The lease of the process that works in the folder now; None if no valid one is there."""
    from dawnchorus.trainer.session.lease import LEASE_S, leases

    for path, owner in leases(folder).items():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEASE_S:
                continue
        here = owner["host"] == socket.gethostname()
        if not here or Path(f"/proc/{owner['pid']}").exists():
            return owner
    return None


def _state(
    folder: Path, events: list[str], owner: object, slurm: str, note: str | None, begun: bool
) -> str:
    if events and events[-1] == "finished":
        return "done"
    if owner is not None or slurm in ("RUNNING", "COMPLETING"):
        return "running"
    if slurm == "HELD":
        return "held"
    if slurm in _WAITING:
        return "pre-empted" if begun else "waiting"
    marker = (folder / "requeue.json").is_file()
    if note is not None and (not marker or note.splitlines()[1].startswith("Hung")):
        newest = max(p.stat().st_mtime for p in (folder / "failures").iterdir())
        metrics = folder / "metrics.jsonl"
        if not metrics.is_file() or newest >= metrics.stat().st_mtime - 1:
            return "hung" if note.splitlines()[1].startswith("Hung") else "failed"
    if marker or (events and events[-1] == "preempted"):
        return "pre-empted"
    if slurm in ("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"):
        return "failed"
    return "stopped" if begun else "new"


def _total(folder: Path) -> int | None:
    import yaml

    for name in ("recipe.yaml", "submitted.yaml"):
        try:
            train = yaml.safe_load((folder / name).read_text(encoding="utf-8"))["train"]
            if found := total_steps(train):
                return found
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
            continue
    return None


def _metric(valid: Sequence[dict[str, Any]]) -> str:
    for name in ("map", "loss"):
        if valid and valid[-1].get(name) is not None:
            return f"{name} {valid[-1][name]:.4g}"
    return ""


def table(states: Sequence[RunState]) -> str:
    """The list as a table in plain text (and in Markdown)."""
    head = ("run", "state", "step", "loss", "validation", "clips/s", "job")
    rows = [
        (
            state.name, state.state, f"{state.step}/{state.total_steps or '?'}",
            "" if state.loss is None else f"{state.loss:.4g}", state.metric,
            "" if state.clips_per_s is None else f"{state.clips_per_s:.1f}", state.job_id,
        )
        for state in states
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, rule, *rows]
    )


def details(folder: Path) -> list[str]:
    """Lines for the screen about one run: state, speed, log, sessions, events, failure."""
    from dawnchorus.trainer.metrics_log import standing_lines
    from dawnchorus.trainer.session.attempts import read_attempts
    from dawnchorus.trainer.session.failures import first_failure

    state = state_of(folder)
    record = read_record(folder)
    lines = [
        f"run       {folder.resolve()}",
        f"state     {state.state}" + (f" (job {state.job_id})" if state.job_id else ""),
        f"step      {state.step}/{state.total_steps or '?'}",
    ]
    if state.loss is not None:
        lines.append(f"loss      {state.loss:.5g}   {state.metric}")
    if state.clips_per_s and state.total_steps and state.state == "running":
        lines.append(f"speed     {state.clips_per_s:.1f} clips/s")
    if record:
        lines.append(f"script    {record['script']}")
    logs = sorted((folder / "logs").glob("*.log"), key=lambda p: p.stat().st_mtime)
    if logs:
        lines.append(f"log       {logs[-1]}")
    attempts = read_attempts(folder)
    if attempts:
        starts = ", ".join(
            f"{a['job'] or a['host']}{'.' + str(a['restart']) if a.get('restart') else ''} at step "
            f"{a['first_step']}" for a in attempts[-6:]
        )  # fmt: skip
        lines.append(f"sessions  {len(attempts)}: {starts}")
    events = [x for x in standing_lines(folder / "metrics.jsonl") if x["kind"] == "event"]
    lines += [f"event     step {x['step']}: {x['event']}: {x['message']}" for x in events[-5:]]
    note = first_failure(folder)
    if note and state.state in ("failed", "hung"):
        lines += ["", "the first rank that failed:", note[-3000:].rstrip()]
    return lines


def cancel_run(folder: Path) -> str:
    """Ask a run to save and stop; returns a sentence. Raises SubmitError if it cannot be asked."""
    record = read_record(folder)
    job_id = str(record.get("job_id") or "")
    if job_id and scheduler.states([job_id]).get(job_id) not in (None, "COMPLETED", "CANCELLED",
                                                               "FAILED", "TIMEOUT"):  # fmt: skip
        scheduler.cancel(job_id)
        return f"job {job_id} is cancelled; it saves before it ends"
    owner = _owner(folder)
    if owner and owner.get("job_id"):
        scheduler.cancel(str(owner["job_id"]))
        return f"job {owner['job_id']} is cancelled; it saves before it ends"
    if owner and owner.get("host") == socket.gethostname():
        os.kill(int(owner["pid"]), signal.SIGTERM)
        return f"process {owner['pid']} was asked to stop; it saves before it ends"
    if owner:
        raise SubmitError(f"{folder.name} runs as {owner['name']}: stop it there")
    raise SubmitError(f"{folder.name} is not running")
