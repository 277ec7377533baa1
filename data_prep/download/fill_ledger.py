"""From the table to the ledger, with estimates of size and time; streamed, whatever its size."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from dawnchorus.data_prep.download.addresses import ending_of, host_of, redact
from dawnchorus.data_prep.download.choice import Choice, Chooser
from dawnchorus.data_prep.download.download_recipe import GB, DownloadRecipe
from dawnchorus.data_prep.download.ledger import DONE, FAILED, Ledger, Result
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected, read_recordings, table_path

_ROWS = 1 << 14


class PlanRow(NamedTuple):
    """The fields of a recording that the plan needs."""

    id: str
    url: str
    path: str
    licence_url: str
    duration_s: float


def plan_rows(table: Path) -> Iterator[PlanRow]:
    """Yield these columns of a recording table, in its order. Raises PrepError for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = table_path(table)
    try:
        with pq.ParquetFile(found) as file:
            missing = set(PlanRow._fields) - set(file.schema_arrow.names)
            if missing:
                raise PrepError(f"{found} is no recording table: no column {sorted(missing)}.")
            for batch in file.iter_batches(_ROWS, columns=list(PlanRow._fields)):
                columns = [batch.column(name).to_pylist() for name in PlanRow._fields]
                for key, url, path, licence, duration in zip(*columns, strict=True):
                    yield PlanRow(key, url or "", path or "", licence or "", duration or 0.0)
    except pa.ArrowInvalid as err:
        raise PrepError(f"{found} cannot be read: {err}. Make it again.") from err


def plan_key(table: Path, choice: Choice) -> str:
    """Return what identifies this table and choice, without reading the table."""
    path = table_path(table)
    stat = path.stat()
    with path.open("rb") as file:
        file.seek(max(0, stat.st_size - (1 << 16)))
        footer = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
    return json.dumps([stat.st_size, stat.st_mtime_ns, footer, choice.made_of])


def fill(ledger: Ledger, table: Path, choice: Choice, *, say: Callable[[str], None]) -> None:
    """Put this table and choice into the ledger as its plan, unless they are it already. A plan
    counts only when it is complete, so an interrupted one is made again.
    """
    key = plan_key(table, choice)
    if ledger.fact("plan_key") == key:
        return
    plan = ledger.plan + 1
    ledger.set_fact("plan_key", "")
    ledger.set_fact("plan", str(plan))
    chooser = Chooser(choice)
    count = 0
    rows = plan_rows(table)
    while some := list(itertools.islice(rows, _ROWS)):
        ledger.add(
            plan,
            [(row.id, host_of(row.url), row.url) for row in some if not chooser.reason(row)[0]],
        )
        count += len(some)
        if count % (16 * _ROWS) == 0:
            say(f"planning: {count:,} recordings read")
    ledger.set_fact("plan_key", key)


@dataclass
class HostEstimate:
    """The estimate for one host."""

    files: int = 0
    size_bytes: float = 0.0
    hours: float = 0.0
    unknown: int = 0
    """Recordings whose duration the table does not state."""

    def days(self, host: str, recipe: DownloadRecipe) -> float:
        """Return the time at the polite rate, if the line and the server are fast enough."""
        _, limits = recipe.limits(host)
        seconds = [self.size_bytes / (recipe.estimate.megabytes_per_s * 1e6)]
        if limits.requests_per_s:
            seconds.append(self.files / limits.requests_per_s)
        for window_s, size in limits.windows():
            # The first window's worth goes at once, each further one after a window.
            seconds.append(max(0.0, self.size_bytes / size - 1) * window_s)
        return max(seconds) / 86400


@dataclass
class Estimate:
    """The estimate for a download."""

    hosts: dict[str, HostEstimate] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    """Recordings not asked for, by reason."""
    have: int = 0

    @property
    def files(self) -> int:
        """Files to fetch."""
        return sum(host.files for host in self.hosts.values())

    @property
    def size_bytes(self) -> float:
        """Their expected size."""
        return sum(host.size_bytes for host in self.hosts.values())

    def days(self, recipe: DownloadRecipe) -> float:
        """Return how long the slowest takes; hosts that share a gate wait for each other."""
        together: dict[str, HostEstimate] = {}
        for host, part in self.hosts.items():
            whole = together.setdefault(recipe.limits(host)[0], HostEstimate())
            whole.files += part.files
            whole.size_bytes += part.size_bytes
        line = self.size_bytes / (recipe.estimate.megabytes_per_s * 1e6) / 86400
        return max([line, *(part.days(host, recipe) for host, part in together.items())])


def estimate(
    table: Path, choice: Choice, recipe: DownloadRecipe, ledger: Ledger | None
) -> Estimate:
    """Return what a download would ask for, less what the ledger has; nobody is asked."""
    found = Estimate()
    chooser = Chooser(choice)
    rows = plan_rows(table)
    while some := list(itertools.islice(rows, _ROWS)):
        known = ledger.results([row.id for row in some], any_plan=True) if ledger else {}
        for row in some:
            reason, _ = chooser.reason(row)
            if reason:
                found.skipped[reason] += 1
            elif row.id in known and known[row.id].state == DONE:
                found.have += 1
            else:
                host = found.hosts.setdefault(host_of(row.url), HostEstimate())
                host.files += 1
                host.hours += (row.duration_s or recipe.estimate.unknown_duration_s) / 3600
                host.unknown += not row.duration_s
                host.size_bytes += recipe.estimate.size_bytes(row.duration_s, ending_of(row.url))
    return found


def gb(size_bytes: float) -> str:
    """Return a size in GB as text."""
    if size_bytes < 0.995 * GB:
        return f"{size_bytes / 1e6:,.1f} MB"
    return f"{size_bytes / GB:,.1f} GB"


def table_rows(
    table: Path, choice: Choice, ledger: Ledger, out: Path, left: Callable[[str], str]
) -> Iterator[Recording | Rejected]:
    """Yield the recordings that lie in `out`, with their path, and why the others do not.

    `left(host)` says why the remaining files of a host were not fetched.
    """
    chooser = Chooser(choice)
    recordings = read_recordings(table)
    while some := list(itertools.islice(recordings, 2000)):
        known = ledger.results([recording.id for recording in some])
        for recording in some:
            row = _row(recording, chooser.reason(recording), known.get(recording.id), left)
            if isinstance(row, Recording) and row is not recording:
                row = _checked(row, out, known[row.id].bytes)
            yield row


def _row(
    recording: Recording,
    chosen: tuple[str, str],
    result: Result | None,
    left: Callable[[str], str],
) -> Recording | Rejected:
    reason, detail = chosen
    if reason == "here":
        return recording
    if not reason and result is not None and result.state == DONE:
        return replace(recording, path=result.path)
    if not reason and result is not None:
        reason, detail = result.reason, result.detail
        if result.state < FAILED:
            reason, detail = "not_fetched", left(result.host)
    return Rejected(
        recording_id=recording.id,
        reason=reason or "not_fetched",
        detail=redact(detail),
        path=redact(recording.url or recording.path),
    )


def _checked(row: Recording, out: Path, size: int) -> Recording | Rejected:
    """Return the recording if its file is still what was fetched."""
    try:
        found = (out / row.path).stat().st_size
    except OSError:
        found = 0
    if found == size:
        return row
    detail = f"{found} bytes, {size} were fetched: remove it and run the command again"
    return Rejected(recording_id=row.id, reason="changed_on_disk", detail=detail, path=row.path)


def reasons(rows: Iterable[tuple[str, int]]) -> str:
    """Return "404 12, timeout 3" of (reason, count) pairs, the most frequent first."""
    counted: Counter[str] = Counter()
    for name, count in rows:
        counted[name] += count
    return ", ".join(f"{name} {count:,}" for name, count in counted.most_common())
