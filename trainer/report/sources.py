"""What the runs were trained on: sources, licences, recordists, how many clips each class has."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.report.curves import tick
from dawnchorus.trainer.report.reading import FOLDER, Run
from dawnchorus.trainer.report.svg import GRID, SERIES, draw
from dawnchorus.trainer.runtime.recorded_paths import recorded_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW_CLASSES = 40
_LATIN_RANKS = frozenset({"species", "subspecies", "genus"})


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
    """The licence's address where it is a web address, else empty."""
    clips: int
    hours: float
    percent: float


@dataclass(frozen=True)
class ClassCount:
    """A class and its clips."""

    name: str
    clips: int
    percent: float
    latin: bool


@dataclass
class Histogram:
    """Clips per class of one dataset, most frequent first."""

    dataset: str
    classes: list[ClassCount]
    facts: str
    svg: Markup | None = None
    """The whole tail as a curve, where there are too many classes for a list."""
    rare: list[ClassCount] = field(default_factory=list)
    left_out: int = 0


def sources(
    runs: Sequence[Run], stats: Sequence[Mapping[str, Any]], problems: list[str] | None = None
) -> list[Source]:
    """All datasets that data.json of any run names, once each, then those that none names.

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
    """Hours per licence over all distinct sources, largest first."""
    clips: dict[str, int] = defaultdict(int)
    hours: dict[str, float] = defaultdict(float)
    links: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for run in runs:
        for raw in _rows(run.data.get("sources")):
            key = (str(raw.get("name", "")), str(raw.get("path", "")))
            if key in seen:
                continue
            seen.add(key)
            for row in _rows(raw.get("licences")):
                licence = read_licence(str(row.get("licence_url") or "")).name or "not stated"
                clips[licence] += _count(row.get("clips")) or 0
                hours[licence] += _amount(row.get("hours")) or 0.0
                links.setdefault(licence, _web_address(str(row.get("licence_url") or "")))
    # Sources that count clips only are still shared out.
    measure: Mapping[str, float] = hours if sum(hours.values()) > 0 else clips
    total = sum(measure.values()) or 1.0
    order = sorted(measure, key=lambda name: -measure[name])
    return [LicenceShare(n, links[n], clips[n], hours[n], 100 * measure[n] / total) for n in order]


def histogram(stats: Mapping[str, Any], ranks: Mapping[str, str]) -> Histogram | None:
    """Clips per class of a dataset's stats.json, or None where it has none."""
    raw = stats.get("clips_per_label")
    if not isinstance(raw, Mapping):
        return None
    counts = {str(n): c for n, v in raw.items() if (c := _count(v)) is not None}
    if not counts:
        return None
    order = sorted(counts, key=lambda n: (-counts[n], n))
    value = np.array([counts[n] for n in order])
    spread = value.max() / max(int(value.min()), 1)
    few = len(order) <= _FEW_CLASSES
    log_scale = spread > 50
    classes = [
        ClassCount(n, counts[n], _bar(counts[n], int(value.max()), few and log_scale),
                   ranks.get(n, "") in _LATIN_RANKS) for n in order
    ]  # fmt: skip
    facts = (
        f"{len(order):,} classes; median {int(np.median(value)):,} clips, "
        f"most {value.max():,}, fewest {value.min():,}"
    )
    thin = int((value < 10).sum())
    facts += f"; {thin:,} with fewer than 10" if thin else ""
    if few:
        facts += "; bars on a logarithmic scale" if log_scale else ""
        return Histogram(str(stats.get("name", "")), classes, facts)
    svg = _tail(value, spread > 20, str(stats.get("name", "")))
    head, rare = classes[:12], classes[-12:]
    return Histogram(str(stats.get("name", "")), head, facts, svg, rare, len(order) - 24)


def _tail(value: np.ndarray[Any, Any], log_scale: bool, name: str) -> Markup:
    """Clips over rank of the class, most frequent first."""
    rank = np.arange(1, value.size + 1)

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes = figure.add_axes((0.08, 0.17, 0.9, 0.73))
        index = np.unique(np.linspace(0, value.size - 1, 600).astype(int))
        floor = 0.8 if log_scale else 0.0
        axes.fill_between(rank[index], np.maximum(value[index], floor), floor, step="mid",
                          color=SERIES[0], alpha=0.35, lw=0)  # fmt: skip
        axes.plot(rank[index], np.maximum(value[index], floor), color=SERIES[0], lw=1.4,
                  drawstyle="steps-mid")  # fmt: skip
        if log_scale:
            axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set_xlim(0.5, value.size + 0.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v, float(value.max()))))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: tick(v, value.size)))
        axes.grid(axis="y", color=GRID)
        axes.set_xlabel("classes, most frequent first", loc="right", labelpad=3)
        unit = "clips (logarithmic)" if log_scale else "clips"
        axes.text(0, 1.03, unit, transform=axes.transAxes, ha="left", va="bottom")

    return draw(560, 220, paint, label=f"Clips per class of {name}")


def _bar(clips: int, most: int, log_scale: bool) -> float:
    if most <= 0:
        return 0.0
    if log_scale:
        return 100 * math.log1p(clips) / math.log1p(most)
    return 100 * clips / most


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [r for r in value if isinstance(r, Mapping)] if isinstance(value, list) else []


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _count(value: object) -> int | None:
    number = _amount(value)
    return None if number is None else int(number)


def _web_address(url: str) -> str:
    """Only what leads to a web page: a link must never run a script."""
    if url.startswith("//"):
        url = f"https:{url}"
    return url if url.startswith(("https://", "http://")) else ""
