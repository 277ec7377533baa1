"""The recording table: one row per recording, whatever archive it came from.

An archive reader produces a list of `Recording`; everything after it (`dataset.build`) needs
nothing else. The fields are those of the project's data contract; `split` and `fold` are added
because they decide where the clips of a recording go.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.public import without_login

if TYPE_CHECKING:
    import pyarrow as pa

FOREGROUND = "foreground"
BACKGROUND = "background"
ROLES = (FOREGROUND, BACKGROUND)

# A prefix "rank:" in a label cell counts as a rank only when it is one of these: a colon also
# occurs inside names ("call: alarm").
RANKS = frozenset(
    ("domain", "kingdom", "phylum", "class", "order", "superfamily", "family", "subfamily",
     "tribe", "genus", "species", "subspecies", "form", "variety", "sound")
)  # fmt: skip

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Label:
    """What is heard in a recording: a scientific name with its rank, or the name of a sound."""

    name: str
    rank: str = ""
    role: str = FOREGROUND
    taxonomy: str = ""
    ids: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of a recording, in seconds from its start, in which something is heard."""

    start_s: float
    end_s: float
    low_hz: float | None = None
    """None where the annotation has no frequencies."""
    high_hz: float | None = None
    label: str = ""
    """Name of one of the recording's labels; empty where the annotation names nothing."""
    role: str = FOREGROUND
    source: str = ""
    """The annotation that it is from, such as the name of a selection table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording of an archive. Unknown text is the empty string.

    `path` is where the audio lies, absolute or relative to the folder given to the builder; empty
    where it has not been downloaded from `url` (the audio file, where the archive names one).
    `sample_rate_hz`, `channels`, `codec` and `duration_s` describe the original file; a reader may
    leave them 0 or empty, the decoder fills them in. `uncertainty_m`: the true place lies within so
    many metres, where the archive says so (obscured and generalised places).
    `events` says when the labels are heard: None where that is not known (labels hold for the whole
    recording), () for an annotated recording in which nothing is heard.
    """

    id: str
    source: str
    source_id: str
    path: str
    url: str = ""
    licence_url: str = ""
    attribution: str = ""
    recordist: str = ""
    labels: tuple[Label, ...] = ()
    audioset_mids: tuple[str, ...] = ()
    quality: str = ""
    sound_type: str = ""
    datetime: str = ""
    lat: float | None = None
    lon: float | None = None
    uncertainty_m: float | None = None
    country: str = ""
    sample_rate_hz: int = 0
    channels: int = 0
    codec: str = ""
    duration_s: float = 0.0
    group_id: str = ""
    split: str = "train"
    fold: str | None = None
    events: tuple[Event, ...] | None = None

    def __post_init__(self) -> None:
        # Tables, tars and credits are passed on, so passwords in addresses are removed.
        for name in ("url", "licence_url", "attribution"):
            text = getattr(self, name)
            if "@" in text and (safe := without_login(text)) != text:
                object.__setattr__(self, name, safe)

    def names(self, role: str) -> list[str]:
        """Return the names of the labels with this role, in their order."""
        return [label.name for label in self.labels if label.role == role]


def tidy_name(text: str) -> str:
    """Return `text` composed (NFC) and with single spaces, so that equal names compare equal."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def recording_schema() -> pa.Schema:
    """Return the Arrow schema of `recordings.parquet` (without the columns the decoder adds)."""
    import pyarrow as pa

    label = pa.struct(
        [
            ("name", pa.string()),
            ("rank", pa.string()),
            ("role", pa.string()),
            ("taxonomy", pa.string()),
            ("ids", pa.map_(pa.string(), pa.string())),
        ]
    )
    text = pa.string()
    event = pa.struct(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("low_hz", pa.float64()),
            ("high_hz", pa.float64()),
            ("label", text),
            ("role", text),
            ("source", text),
        ]
    )
    return pa.schema(
        [
            ("id", text),
            ("source", text),
            ("source_id", text),
            ("path", text),
            ("url", text),
            ("licence_url", text),
            ("attribution", text),
            ("recordist", text),
            ("labels", pa.list_(label)),
            ("audioset_mids", pa.list_(text)),
            ("quality", text),
            ("sound_type", text),
            ("datetime", text),
            ("lat", pa.float64()),
            ("lon", pa.float64()),
            ("uncertainty_m", pa.float64()),
            ("country", text),
            ("sample_rate_hz", pa.int32()),
            ("channels", pa.int32()),
            ("codec", text),
            ("duration_s", pa.float64()),
            ("group_id", text),
            ("split", text),
            ("fold", text),
            ("events", pa.list_(event)),
        ]
    )


def to_row(recording: Recording) -> dict[str, Any]:
    """Return the recording as a row of `recordings.parquet`."""
    row = {
        field.name: getattr(recording, field.name)
        for field in dataclasses.fields(recording)
        if field.name not in ("labels", "audioset_mids", "events")
    }
    row["labels"] = [
        {
            "name": label.name,
            "rank": label.rank,
            "role": label.role,
            "taxonomy": label.taxonomy,
            "ids": list(label.ids),
        }
        for label in recording.labels
    ]
    row["audioset_mids"] = list(recording.audioset_mids)
    events = recording.events
    row["events"] = None if events is None else [dataclasses.asdict(event) for event in events]
    return row


def from_row(row: Mapping[str, Any]) -> Recording:
    """Return the recording of a row of `recordings.parquet`; columns it does not know are ignored.

    Columns that are missing or null have the field's default.
    """
    known = {
        field.name: row[field.name]
        for field in dataclasses.fields(Recording)
        if row.get(field.name) is not None
    }
    known["audioset_mids"] = tuple(row.get("audioset_mids") or ())
    if row.get("events") is not None:
        known["events"] = tuple(Event(**event) for event in row["events"])
    known["labels"] = tuple(
        Label(
            label["name"],
            label["rank"] or "",
            label["role"] or FOREGROUND,
            label["taxonomy"] or "",
            tuple((key, value) for key, value in label["ids"] or ()),
        )
        for label in row.get("labels") or ()
    )
    return Recording(**known)


def canonical_json(recordings: Iterable[Recording]) -> Iterable[bytes]:
    """Yield one line of JSON per recording, the same for equal recordings (for fingerprints)."""
    for recording in recordings:
        row = to_row(recording)
        if row["events"] is None:  # as before there were events
            del row["events"]
        yield json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def validate(recordings: Sequence[Recording]) -> None:
    """Check the guarantees that every reader has to give.

    Raises PrepError that names up to five of the offending recordings: empty or repeated ids,
    labels without a name, one name with two ranks, impossible coordinates, split names that
    cannot be folder names.
    """
    if not recordings:
        raise PrepError("There is no recording to prepare: the metadata lists none.")
    problems: list[str] = []
    repeated = [key for key, count in Counter(r.id for r in recordings).items() if count > 1]
    if repeated:
        problems.append(f"ids that occur more than once: {_some(repeated)}")
    for title, bad in _field_problems(recordings).items():
        if bad:
            problems.append(f"{title}: {_some(bad)}")
    if problems:
        raise PrepError("The recording table is not valid.\n  " + "\n  ".join(problems))
    label_ranks(recordings)


def _field_problems(recordings: Sequence[Recording]) -> dict[str, list[str]]:
    """Return the ids of recordings with bad fields, by kind of problem."""

    def where(test: Any) -> list[str]:
        return [r.id for r in recordings if test(r)]

    return {
        "recordings without an id or a path": where(lambda r: not r.id or not r.path),
        "recordings with an empty label name": where(
            lambda r: any(not label.name for label in r.labels)
        ),
        f"label roles other than {ROLES}": where(
            lambda r: any(label.role not in ROLES for label in r.labels)
        ),
        "events that end before they begin, or are not among the labels": where(_has_bad_events),
        "recordings without a group": where(lambda r: not r.group_id),
        "split names that are not letters, digits, '_' and '-'": where(
            lambda r: not _SPLIT_NAME.fullmatch(r.split)
        ),
        "latitude beyond ±90 or longitude beyond ±180": where(
            lambda r: not (_within(r.lat, 90.0) and _within(r.lon, 180.0))
        ),
    }


def _has_bad_events(recording: Recording) -> bool:
    names = {label.name for label in recording.labels} | {""}
    return any(
        not 0 <= event.start_s <= event.end_s < math.inf
        or event.label not in names
        or event.role not in ROLES
        for event in recording.events or ()
    )


def _within(value: float | None, limit: float) -> bool:
    return value is None or (math.isfinite(value) and abs(value) <= limit)


def _some(items: Sequence[str], count: int = 5) -> str:
    rest = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(repr(item) for item in items[:count]) + rest


def label_ranks(recordings: Iterable[Recording]) -> dict[str, tuple[str, str]]:
    """Return {name: (rank, taxonomy)} of all labels, in order of the name.

    A name is the key of the label space, so it must have one rank and one taxonomy; PrepError
    otherwise (a homonym needs a qualified name such as "Prunella (Aves)").
    """
    found: dict[str, Label] = {}
    for recording in recordings:
        for label in recording.labels:
            known = found.setdefault(label.name, label)
            rank = _agree(known.rank, label.rank)
            taxonomy = _agree(known.taxonomy, label.taxonomy)
            if rank is None or taxonomy is None:
                raise PrepError(
                    f"The label {label.name!r} occurs with rank and taxonomy "
                    f"({known.rank!r}, {known.taxonomy!r}) and with "
                    f"({label.rank!r}, {label.taxonomy!r}) at {recording.id!r}. One name must mean "
                    "one thing: qualify one of them, for example 'Prunella (Aves)'."
                )
            if (rank, taxonomy) != (known.rank, known.taxonomy):
                found[label.name] = dataclasses.replace(known, rank=rank, taxonomy=taxonomy)
    return {name: (label.rank, label.taxonomy) for name, label in sorted(found.items())}


def _agree(first: str, second: str) -> str | None:
    """Return the known one of two values, or None where both are known and differ."""
    if first and second and first != second:
        return None
    return first or second
