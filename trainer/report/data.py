"""What the runs were trained on: sources, licences, recordists, how many clips each class has."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page import taxon
from dawnchorus.trainer.page.charts import tail
from dawnchorus.trainer.report.reading import FOLDER, Run, mappings
from dawnchorus.trainer.training.recorded_paths import recorded_path

_FEW_CLASSES = 40


@dataclass
class Source:
    """One dataset as the runs used it."""

    name: str
    clips: int | None
    hours: float | None
    weight: float | None
    recordists: int | None
    labels: int | None
    used_by: list[str] = field(default_factory=list)


class LicenceShare(NamedTuple):
    """How much of the sound is under one licence."""

    name: str
    link: str
    clips: int
    hours: float
    percent: float


def sources(
    runs: Sequence[Run], stats: Sequence[Mapping[str, Any]], problems: list[str]
) -> list[Source]:
    """List all datasets that data.json of any run names, once each, then those that none names.

    Two runs may use different parts of one dataset. Its clips and hours are those of the whole, as
    the licences are; what a run took of it stands beside the run's name. A dataset that
    has another size by now becomes one of the `problems`.
    """
    at_hand = {str(s.get(FOLDER) or s.get("name")): s for s in stats}
    found: dict[str, Source] = {}
    for run in runs:
        for raw in run.sources():
            name, path = str(raw.get("name", "")), str(raw.get("path", ""))
            place = recorded_path(path, run.folder)
            key = str(place.resolve()) if place is not None else path or name
            known = at_hand.get(key) or at_hand.get(Path(path).name) or {}
            source = found.setdefault(key, _whole(name or Path(path).name, raw, known))
            now, part = _count(known.get("clips")), _count(raw.get("clips"))
            if now is not None and source.clips not in (None, now):
                had = f"it had {source.clips:,} when {run.name} began"
                problems.append(f"{path} has {now:,} clips now; {had}")
            used = run.name
            if part is not None and source.clips is not None and part < source.clips:
                hours = _amount(raw.get("hours"))
                used += f" ({part:,} clips" + (f", {hours:.2f} h)" if hours is not None else ")")
            source.used_by += [used] if used not in source.used_by else []
    named = {*found, *(Path(key).name for key in found)}
    rest = [s for folder, s in at_hand.items() if not {folder, str(s.get("name"))} & named]
    return [*found.values(), *(_whole(str(s.get("name")), {}, s) for s in rest)]


def hours(value: float) -> str:
    """Write 1,234.5 or 6.10."""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def _whole(name: str, raw: Mapping[str, Any], stats: Mapping[str, Any]) -> Source:
    """A dataset as a whole: by its licence ledger when a run started, by its own statistics now, or
    by what the run took of it.
    """
    ledger = mappings(raw.get("licences"))
    clips = sum(_count(r.get("clips")) or 0 for r in ledger) or _count(stats.get("clips"))
    length = sum(_amount(r.get("hours")) or 0.0 for r in ledger) or _amount(stats.get("hours"))
    # Nobody is named in a row without a recordist.
    people = {str(r["recordist"]) for r in mappings(raw.get("recordists")) if r.get("recordist")}
    return Source(
        name,
        clips or _count(raw.get("clips")),
        length or _amount(raw.get("hours")),
        _amount(raw.get("weight")),
        len(people) or _count(stats.get("recordists")) or None,
        _count(stats.get("labels")) or None,
    )


def licence_shares(runs: Sequence[Run]) -> list[LicenceShare]:
    """Share out the hours of all distinct sources by licence, largest first."""
    ledgers: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for raw in (raw for run in runs for raw in run.sources()):
        key = str(raw.get("name", "")), str(raw.get("path", ""))
        ledgers.setdefault(key, mappings(raw.get("licences")))
    sums: dict[str, list[Any]] = defaultdict(lambda: ["", 0, 0.0])  # link, clips, hours
    for row in (row for ledger in ledgers.values() for row in ledger):
        url = str(row.get("licence_url") or "")
        entry = sums[read_licence(url).name or "not stated"]
        entry[0] = entry[0] or url
        entry[1] += _count(row.get("clips")) or 0
        entry[2] += _amount(row.get("hours")) or 0.0
    # Sources that count clips only are still shared out.
    measure = 2 if any(entry[2] for entry in sums.values()) else 1
    total = sum(entry[measure] for entry in sums.values()) or 1.0
    order = sorted(sums, key=lambda name: -sums[name][measure])
    return [LicenceShare._make((n, *sums[n], 100 * sums[n][measure] / total)) for n in order]


def clips_per_class(stats: Mapping[str, Any], ranks: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the clips per class of a dataset's stats.json for the page; None where it has none.

    Few classes are a list of bars; many are the long tail (`tail`) with a list at both ends.
    """
    raw = stats.get("clips_per_label")
    counted = raw.items() if isinstance(raw, Mapping) else ()
    counts = [(str(n), c) for n, v in counted if (c := _count(v)) is not None]
    if not counts:
        return None
    counts.sort(key=lambda pair: (-pair[1], pair[0]))
    value = [count for _, count in counts]
    few = len(counts) <= _FEW_CLASSES
    log_scale = few and value[0] / max(value[-1], 1) > 50
    thin = sum(count < 10 for count in value)
    size = math.log1p if log_scale else float
    share, name = 100 / (size(value[0]) or 1.0), str(stats.get("name", ""))
    described = f"Clips per class of {name}, both axes logarithmic"
    return {
        "name": name,
        "facts": f"{len(counts):,} classes; median {int(statistics.median(value)):,} clips, "
        f"most {value[0]:,}, fewest {value[-1]:,}"
        + (f"; {thin:,} with fewer than 10" if thin else "")
        + ("; bars on a logarithmic scale" if log_scale else ""),
        "rows": [
            (taxon(n, ranks.get(n)), share * size(count), f"{count:,}")
            for n, count in (counts if few else counts[:12] + counts[-12:])
        ],
        "tail": None if few else tail(value, unit="clips", label=described),
    }


def _amount(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]


def _count(value: object) -> int | None:
    number = _amount(value)
    return None if number is None else int(number)
