"""What the JSON beside a clip says."""

from __future__ import annotations

from typing import Any

from dawnchorus.data_prep.dataset.event_clips import Cut, event_record
from dawnchorus.data_prep.download.addresses import redact
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Recording


def clip_record(recording: Recording, key: str, cut: Cut, strong: bool) -> dict[str, Any]:
    """Return the content of a clip's JSON member.

    Every value has one type throughout a dataset ("" where nothing is known, never null), because
    readers that build a table guess the types from the first few clips. In a dataset with events
    (`strong`), `strong` says whether the recording has them, and `events` lists the clip's.
    """
    times: dict[str, Any] = {}
    if strong:
        events = [event_record(event) for event in cut.events or ()]
        times = {"strong": cut.events is not None, "events": events}
    return times | {
        "key": key,
        "id": recording.id,
        "source": recording.source,
        "source_id": recording.source_id,
        "url": redact(recording.url),
        "licence_url": recording.licence_url,
        "attribution": recording.attribution,
        "recordist": recording.recordist,
        "labels": [
            {part: getattr(label, part) for part in ("name", "rank", "role", "taxonomy")}
            for label in sorted(cut.labels, key=lambda item: item.role != FOREGROUND)
        ],
        "quality": recording.quality,
        "sound_type": recording.sound_type,
        "datetime": recording.datetime,
        "lat": "" if recording.lat is None else str(recording.lat),
        "lon": "" if recording.lon is None else str(recording.lon),
        "uncertainty_m": "" if recording.uncertainty_m is None else str(recording.uncertainty_m),
        "country": recording.country,
        "group_id": recording.group_id,
        "split": recording.split,
        "fold": recording.fold or "",
    }


def index_facts(cut: Cut) -> dict[str, Any]:
    """What the index needs of a clip whose labels are not those of its recording: their names, and
    (label, start_s, end_s) of the events in the foreground.
    """
    if cut.events is None:
        return {}
    return {
        "foreground": [label.name for label in cut.labels if label.role == FOREGROUND],
        "background": [label.name for label in cut.labels if label.role == BACKGROUND],
        "events": [[e.label, e.start_s, e.end_s] for e in cut.events if e.role == FOREGROUND],
    }
