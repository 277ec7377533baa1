"""The summaries before and after a download: per host the estimate, the result, the failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from dawnchorus.data_prep.download.download_recipe import DownloadRecipe
from dawnchorus.data_prep.download.fill_ledger import Estimate, gb, reasons
from dawnchorus.data_prep.download.ledger import DONE, TODO, Ledger
from dawnchorus.trainer.progress import time_text

_HOSTS = 40  # shown; a table of links to everywhere has thousands


def estimate_text(found: Estimate, recipe: DownloadRecipe) -> str:
    """Return the estimate for each host, and the time at the polite rate."""
    rows = []
    hosts = sorted(found.hosts.items(), key=lambda pair: -pair[1].files)
    for host, part in hosts[:_HOSTS]:
        name, limits = recipe.limits(host)
        rate = f"{limits.requests_per_s:g}/s" if limits.requests_per_s else "no limit"
        rows.append(
            (host, f"{part.files:,}", f"{part.hours:,.1f}", gb(part.size_bytes),
             f"{part.days(host, recipe):,.1f}", rate if name == host else f"{rate} ({name})")
        )  # fmt: skip
    lines = table(("host", "files", "hours", "about", "days", "polite rate"), rows)
    lines += _more(len(hosts))
    for reason, count in found.skipped.most_common():
        lines.append(f"not asked for: {reason} {count:,}")
    if found.have:
        lines.append(f"on disk already: {found.have:,}")
    unknown = sum(host.unknown for host in found.hosts.values())
    if unknown:
        lines.append(
            f"{unknown:,} state no duration: counted as {recipe.estimate.unknown_duration_s:g} s"
        )
    lines.append(
        f"to fetch: {found.files:,} files, about {gb(found.size_bytes)}, "
        f"{time_text(found.days(recipe) * 86400)} at the polite rate"
    )
    return "\n".join(lines)


def outcome_text(ledger: Ledger, left: Callable[[str], str]) -> str:
    """Return the state of the ledger's plan, by host and reason."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    why: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for host, state, reason, count, size in ledger.outcome():
        place = 0 if state == DONE else 2 if state == TODO else 1
        sums[host][place] += count
        sums[host][3] += size
        if place == 1:
            why[host].append((reason, count))
    rows, notes = [], []
    for host, (done, failed, todo, size) in sorted(sums.items(), key=lambda pair: -sum(pair[1]))[
        :_HOSTS
    ]:
        rows.append((host, f"{done:,}", gb(size), f"{failed:,}", f"{todo:,}", reasons(why[host])))
        if todo:
            notes.append(f"{host}: {todo:,} are left ({left(host)}); the same command continues")
    lines = table(("host", "fetched", "size", "failed", "left", "failures"), rows)
    return "\n".join([*lines, *_more(len(sums)), *notes])


def _more(count: int) -> list[str]:
    return [f"... and {count - _HOSTS:,} more hosts"] if count > _HOSTS else []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns: the first and the last to the left, numbers right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    last = len(header) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
