"""What the runs were trained on: sources, licences, recordists, how many clips each class has."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page import bars, card, grid, note, tag, taxon
from dawnchorus.trainer.page.charts import tail
from dawnchorus.trainer.report.reading import FOLDER, Run
from dawnchorus.trainer.training.recorded_paths import recorded_path

_FEW_CLASSES = 40


@dataclass
class Source:
    """One dataset as a run used it."""

    name: str
    clips: int | None
    hours: float | None
    weight: float | None
    recordists: int | None
    labels: int | None = None
    used_by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LicenceShare:
    """How much of the sound is under one licence."""

    name: str
    link: str
    clips: int
    hours: float
    percent: float


def sources(
    runs: Sequence[Run], stats: Sequence[Mapping[str, Any]], problems: list[str] | None = None
) -> list[Source]:
    """List all datasets that data.json of any run names, once each, then those that none names.

    Two runs may use different parts of one dataset. Its clips and hours are those of the whole, as
    the licences are; what a run took of it stands beside the run's name. A dataset that
    has another size by now becomes one of the `problems`.
    """
    at_hand = {str(s.get(FOLDER) or s.get("name")): s for s in stats}
    found: dict[str, Source] = {}
    for run in runs:
        for raw in _rows(run.data.get("sources")):
            name, path = str(raw.get("name", "")), str(raw.get("path", ""))
            place = recorded_path(path, run.folder)
            key = str(place.resolve()) if place is not None else path or name
            known = at_hand.get(key) or at_hand.get(Path(path).name) or {}
            source = found.setdefault(key, _whole(name or Path(path).name, raw, known))
            now = _count(known.get("clips"))
            if problems is not None and now is not None and source.clips not in (None, now):
                told = (
                    f"{path} has {now:,} clips now; it had {source.clips:,} when {run.name} began"
                )
                problems += [told] * (told not in problems)
            part = _count(raw.get("clips"))
            used = run.name
            if part is not None and source.clips is not None and part < source.clips:
                hours = _amount(raw.get("hours"))
                used += f" ({part:,} clips" + (f", {hours:.2f} h)" if hours is not None else ")")
            if used not in source.used_by:
                source.used_by.append(used)
    named = {*found, *(Path(key).name for key in found)}
    for folder, s in at_hand.items():
        if folder not in named and str(s.get("name")) not in named:
            found[folder] = _whole(str(s.get("name")), {}, s)
    return list(found.values())


def _whole(name: str, raw: Mapping[str, Any], stats: Mapping[str, Any]) -> Source:
    """A dataset as a whole: by its licence ledger when a run started, by its own statistics now, or
    by what the run took of it.
    """
    ledger = _rows(raw.get("licences"))
    clips = sum(_count(r.get("clips")) or 0 for r in ledger) or _count(stats.get("clips"))
    hours = sum(_amount(r.get("hours")) or 0.0 for r in ledger) or _amount(stats.get("hours"))
    # Nobody is named in a row without a recordist.
    people = {str(r["recordist"]) for r in _rows(raw.get("recordists")) if r.get("recordist")}
    return Source(
        name=name,
        clips=clips or _count(raw.get("clips")),
        hours=hours or _amount(raw.get("hours")),
        weight=_amount(raw.get("weight")),
        recordists=len(people) or _count(stats.get("recordists")) or None,
        labels=_count(stats.get("labels")),
    )


def licence_shares(runs: Sequence[Run]) -> list[LicenceShare]:
    """Share out the hours of all distinct sources by licence, largest first."""
    clips: dict[str, int] = defaultdict(int)
    hours: dict[str, float] = defaultdict(float)
    links: dict[str, str] = {}
    ledgers = {
        (str(raw.get("name", "")), str(raw.get("path", ""))): _rows(raw.get("licences"))
        for run in reversed(runs)
        for raw in reversed(_rows(run.data.get("sources")))
    }
    for ledger in reversed(ledgers.values()):
        for row in ledger:
            url = str(row.get("licence_url") or "")
            licence = read_licence(url).name or "not stated"
            clips[licence] += _count(row.get("clips")) or 0
            hours[licence] += _amount(row.get("hours")) or 0.0
            links.setdefault(licence, url)
    # Sources that count clips only are still shared out.
    measure: Mapping[str, float] = hours if sum(hours.values()) > 0 else clips
    total = sum(measure.values()) or 1.0
    order = sorted(measure, key=lambda name: -measure[name])
    return [LicenceShare(n, links[n], clips[n], hours[n], 100 * measure[n] / total) for n in order]


def clips_per_class(stats: Mapping[str, Any], ranks: Mapping[str, str]) -> Markup | None:
    """Draw the clips per class of a dataset's stats.json; None where it has none.

    Few classes are a list of bars; many are the long tail with a list at both ends.
    """
    raw = stats.get("clips_per_label")
    counted = raw.items() if isinstance(raw, Mapping) else ()
    counts = {str(n): c for n, v in counted if (c := _count(v)) is not None}
    if not counts:
        return None
    order = sorted(counts, key=lambda n: (-counts[n], n))
    value = [counts[n] for n in order]
    few, spread = len(order) <= _FEW_CLASSES, value[0] / max(value[-1], 1)
    log_scale = few and spread > 50
    middle = (value[(len(value) - 1) // 2] + value[len(value) // 2]) // 2
    facts = (
        f"{len(order):,} classes; median {middle:,} clips, most {value[0]:,}, fewest {value[-1]:,}"
    )
    if thin := sum(count < 10 for count in value):
        facts += f"; {thin:,} with fewer than 10"
    facts += "; bars on a logarithmic scale" if log_scale else ""

    def rows(names: Sequence[str]) -> Markup:
        size = math.log1p if log_scale else float
        share = 100 / (size(value[0]) or 1.0)
        return bars(
            (taxon(n, ranks.get(n)), share * size(counts[n]), f"{counts[n]:,}") for n in names
        )

    name = str(stats.get("name", ""))
    head = note(facts, css="facts")
    if few:
        return card(head, rows(order), title="Clips per class", of=name, css="wide")
    drawn = tail(value, unit="clips", label=f"Clips per class of {name}, both axes logarithmic")
    ends = grid(
        tag("div", tag("h4", "Most frequent"), rows(order[:12])),
        tag("div", tag("h4", "Rarest"), rows(order[-12:])),
    )
    return card(head, drawn, ends, title="Clips per class", of=name, css="chart")


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [r for r in value if isinstance(r, Mapping)] if isinstance(value, list) else []


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _count(value: object) -> int | None:
    number = _amount(value)
    return None if number is None else int(number)
