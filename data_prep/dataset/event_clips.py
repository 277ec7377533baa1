"""From the events of a recording to its clips: one rule, for every archive.

A recording with events is cut into windows, or into clips around its events. A clip has the labels
of the events that count for it (`trainer.strong_labels.OverlapRule`); one that no event touches is
a negative; one that is touched, but by too little, has no certain label and is left out.

Shape legend: E events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Event, Label, Recording
from dawnchorus.trainer.strong_labels import OverlapRule, touches

if TYPE_CHECKING:
    from dawnchorus.data_prep.dataset.options import BuildOptions

MOST_ABOVE = 0.5
"""An event of which more than this share of its band lies above half the dataset's sample rate is
not heard in the dataset, so it gives no label."""


class Cut(NamedTuple):
    """A part of a recording that becomes a clip, in samples; its labels, and its events."""

    start: int
    stop: int
    labels: tuple[Label, ...]
    events: tuple[Event, ...] | None = None
    """With times relative to the clip: they may begin before it and end behind it. None: the
    recording has no events."""


@dataclass
class Counts:
    """What became of the windows and events of recordings."""

    recordings: int = 0
    negatives: int = 0
    """Clips that no event touches."""
    empty: int = 0
    """Windows that no event touches, kept or not."""
    unsure: int = 0
    """Windows left out: events touch them, but by too little, or unlabelled ones."""
    unlabelled: int = 0
    """Events without a label."""
    events: dict[str, list[float]] = field(default_factory=dict)
    """Of each label: its events, their seconds, those not heard at the dataset's rate."""

    def add(self, other: dict[str, Any]) -> None:
        """Add the counts of another recording."""
        for name in ("recordings", "negatives", "empty", "unsure", "unlabelled"):
            setattr(self, name, getattr(self, name) + other[name])
        for label, numbers in other["events"].items():
            mine = self.events.setdefault(label, [0, 0.0, 0])
            self.events[label] = [a + b for a, b in zip(mine, numbers, strict=True)]


def share_above(event: Event, limit_hz: float) -> float:
    """Return the share of an event's band that lies above a frequency; 0 where it has no band."""
    if event.low_hz is None or event.high_hz is None:
        return 0.0
    width = event.high_hz - event.low_hz
    if width <= 0:
        return float(event.low_hz >= limit_hz)
    return min(1.0, max(0.0, event.high_hz - max(event.low_hz, limit_hz)) / width)


def rule_of(options: BuildOptions) -> OverlapRule:
    """The overlap rule of the options."""
    return OverlapRule(options.least_overlap, options.least_overlap_s)


def event_cuts(
    recording: Recording, samples: int, options: BuildOptions
) -> tuple[list[Cut], Counts]:
    """Return the clips of a recording with events, by start, and what was counted."""
    rate, events = options.sample_rate_hz, recording.events or ()
    counts = Counts(recordings=1)
    heard = []
    for event in events:
        known = bool(event.label) and share_above(event, rate / 2) <= MOST_ABOVE
        heard.append(known)
        counts.unlabelled += not event.label
        if event.label:
            numbers = counts.events.setdefault(event.label, [0, 0.0, 0])
            numbers[0] += 1
            numbers[1] += event.end_s - event.start_s
            numbers[2] += not known
    start_E = np.array([event.start_s for event in events], np.float64)
    end_E = np.array([event.end_s for event in events], np.float64)
    heard_E = np.array(heard, bool)
    rule, labels = rule_of(options), {label.name: label for label in recording.labels}
    size = max(1, min(samples, round(options.clip_s * rate)))
    found: list[Cut] = []

    def cut(start: int) -> None:
        first_s, last_s = start / rate, (start + size) / rate
        near = np.flatnonzero(touches(start_E, end_E, first_s, last_s) & heard_E)
        these = [events[i] for i in near.tolist()]
        count = rule.counts(start_E[near], end_E[near], first_s, last_s).tolist()
        chosen = _labels([e for e, counted in zip(these, count, strict=True) if counted], labels)
        if any(label.role == FOREGROUND for label in chosen):
            moved = tuple(_moved(event, first_s) for event in these)
            found.append(Cut(start, start + size, chosen, moved))
        else:
            counts.unsure += 1

    if options.clips_at == "events":
        for start in _centred(events, heard, samples, size, rate):
            cut(start)
    for start in windows(samples, size, max(1, round((options.hop_s or options.clip_s) * rate))):
        if touches(start_E, end_E, start / rate, (start + size) / rate).any():
            if options.clips_at == "windows":
                cut(start)
            continue
        counts.empty += 1
        if _chance(options.seed, recording.id, start) < options.empty_share:
            counts.negatives += 1
            found.append(Cut(start, start + size, (), ()))
    return sorted(found, key=lambda item: item.start), counts


def windows(samples: int, size: int, hop: int) -> Iterator[int]:
    """Yield the first sample of each window; the last window ends with the recording."""
    last = samples - size
    yield from range(0, last, hop)
    yield last


def _centred(
    events: Sequence[Event], heard: Sequence[bool], samples: int, size: int, rate_hz: int
) -> list[int]:
    """First samples of the clips around the events, moved into the recording; each once."""
    starts = set()
    for event, known in zip(events, heard, strict=True):
        if known and event.role == FOREGROUND:
            middle = round((event.start_s + event.end_s) / 2 * rate_hz)
            starts.add(min(max(0, middle - size // 2), samples - size))
    return sorted(starts)


def _labels(events: Sequence[Event], known: dict[str, Label]) -> tuple[Label, ...]:
    """The labels of events, each once; one in the foreground is not in the background too."""
    found: dict[str, Label] = {}
    for role in (FOREGROUND, BACKGROUND):
        for event in events:
            if event.role == role and event.label not in found:
                given = known[event.label]
                found[event.label] = Label(given.name, given.rank, role, given.taxonomy, given.ids)
    return tuple(found.values())


def _moved(event: Event, by_s: float) -> Event:
    start_s, end_s = round(event.start_s - by_s, 9), round(event.end_s - by_s, 9)
    return Event(start_s, end_s, event.low_hz, event.high_hz, event.label, event.role, event.source)


def _chance(seed: int, identity: str, start: int) -> float:
    """A number in [0, 1) that is the same for a window in every run."""
    text = f"{seed}:{identity}:{start}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") / 2**64


def event_record(event: Event) -> dict[str, Any]:
    """An event as the JSON beside a clip has it; both frequencies are 0 where it has no band."""
    return {
        "start_s": event.start_s,
        "end_s": event.end_s,
        "low_hz": float(event.low_hz or 0.0) if event.high_hz is not None else 0.0,
        "high_hz": float(event.high_hz or 0.0),
        "label": event.label,
        "role": event.role,
        "source": event.source,
    }
