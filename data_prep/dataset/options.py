"""All options of the preparation: the Python call and the command line are made from these classes.

A column option exists for each field of `data_prep.archives.columns`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dawnchorus.data_prep.dataset.places import CHOICES, COARSE
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.tasks import TASKS

LABELS = "Labels and origin"
AUDIO = "Audio and shards"
EVENTS = "Events (recordings whose labels have times)"
RUNNING = "Running"

CODECS = ("flac", "wav")
CHANNELS = ("mean", "first")
CLIPS_AT = ("windows", "events")
TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0}
# Options that do not change the dataset, so they may differ when a run is continued.
EVENT_OPTIONS = (
    "clip_s", "hop_s", "clips_at", "least_overlap", "least_overlap_s", "empty_share"
)  # fmt: skip
FREE_OPTIONS = ("jobs", "max_broken", "allow_broken")


# ruff: noqa: RUF009 (the defaults that `_option` makes are field descriptions, not shared values)
def _option(default: Any, panel: str, text: str) -> Any:
    """Declare a field with the group and the help it has on the command line."""
    return dataclasses.field(default=default, metadata={"panel": panel, "help": text})


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How a folder of audio and its table are read. `columns`: field -> column name or "none"."""

    columns: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    metadata: Path | None = _option(
        None,
        LABELS,
        "Table of the recordings: CSV (comma, semicolon or tab), Parquet or JSON lines. "
        "Default: DIR/metadata.csv.",
    )
    encoding: str = _option(
        "",
        LABELS,
        "Encoding of a CSV that is neither UTF-8 nor UTF-16. Default: Windows-1252 (cp1252).",
    )
    label_separator: str | None = _option(
        None,
        LABELS,
        "Separator of several labels in one cell; '' takes every cell as one label. Lists as "
        "Python, "
        "NumPy or JSON write them (\"['a', 'b']\") are understood as well. Default: ';', and where "
        "labels look like several with another separator, it asks.",
    )
    ignore_times: bool = _option(
        False,
        LABELS,
        "Take labels for their whole files although the table gives times (columns such as start "
        "and end): where these mean something else.",
    )
    annotations: Path | None = _option(
        None,
        EVENTS,
        "Tables of events: a file, or a folder of them. Raven selection tables, labels of Audacity "
        "(with frequency lines), results of BirdNET, CSV, TSV, Parquet or JSON lines with start "
        "and end. Without a table of recordings, all sound files of DIR are taken.",
    )
    event_label: str = _option("", EVENTS, "Label of every event, where no column has labels.")
    min_confidence: float | None = _option(
        None, EVENTS, "Events of a detector with less confidence than this are left out (0 to 1)."
    )
    time_unit: str = _option(
        "", EVENTS, "Unit of times where their columns do not say it: s (the default), ms or min."
    )
    unannotated: str = _option(
        "leave",
        EVENTS,
        "Recordings without any annotation: leave (out; whether anybody listened is not known), or "
        "negative (nothing is heard in them).",
    )
    allow_outside: bool = _option(
        False,
        LABELS,
        "Also take files that lie outside of DIR, by a path such as ../x.wav or a link: where you "
        "know who wrote the table.",
    )
    rank: str = _option(
        "",
        LABELS,
        "Rank of labels without one (species, genus ...). A label can carry its own: "
        "'species:Parus major;genus:Parus'.",
    )
    taxonomy: str = _option(
        "", LABELS, "Name and version of the names' taxonomy, such as 'ebird-2021'."
    )
    licence: str = _option("", LABELS, "Licence of recordings that state none, URL or name.")
    split: str = _option("train", LABELS, "Split of recordings without one.")
    split_map: str = _option(
        "",
        LABELS,
        "Other names for the table's splits, such as 'data=train,dev=valid': recipes ask for "
        "train, valid and test.",
    )
    make_folds: int = _option(
        0,
        LABELS,
        "Where the table has no folds: divide the groups into this many, each label evenly.",
    )
    source_name: str = _option(
        "", LABELS, "Name of the archive, the first part of every id. Default: DIR's name."
    )

    def __post_init__(self) -> None:
        """Raise PrepError that names every invalid value."""
        if self.make_folds < 0 or self.make_folds == 1:
            raise PrepError("make_folds must be 0 (none) or at least 2.")
        if self.time_unit not in TIME_UNITS:
            raise PrepError("time_unit must be s, ms or min.")
        if self.unannotated not in ("leave", "negative"):
            raise PrepError("unannotated must be leave or negative.")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How recordings become a dataset."""

    task: str = _option(
        "",
        LABELS,
        "What the labels are for, as `chorus evaluate` scores them: single (one per clip), multi "
        "(any number), detection (clips without a label are negatives). Default: not declared; "
        "then the labels decide.",
    )
    name: str = _option("", AUDIO, "Name of the dataset in its card. Default: DATASET's name.")
    codec: str = _option(
        "flac",
        AUDIO,
        "Format of the stored clips: flac, or wav (twice the size, faster to decode).",
    )
    sample_rate_hz: int = _option(16000, AUDIO, "Sample rate of the stored clips.")
    max_piece_s: float = _option(
        60.0, AUDIO, "Longer recordings are stored in equal pieces of at most this many seconds."
    )
    clip_s: float = _option(
        5.0, EVENTS, "Length of the clips of a recording with events, in seconds."
    )
    hop_s: float = _option(
        0.0, EVENTS, "Seconds from one window to the next; 0: windows follow one another."
    )
    clips_at: str = _option(
        "windows",
        EVENTS,
        "windows: all windows of a recording; events: a clip around each event, and the windows "
        "without any.",
    )
    least_overlap: float = _option(
        0.2,
        EVENTS,
        "A clip has the label of an event if they share at least this part of the shorter of the "
        "two.",
    )
    least_overlap_s: float | None = _option(
        None,
        EVENTS,
        "Instead of --least-overlap: if they share so many seconds, or all of the shorter.",
    )
    empty_share: float = _option(
        1.0,
        EVENTS,
        "Share of the windows without any event that is kept as negatives, drawn at random; 0: "
        "none.",
    )
    channels: str = _option(
        "mean",
        AUDIO,
        "How several channels become one: their mean, or the first one (for channels of opposite "
        "phase, whose mean is silence).",
    )
    min_s: float = _option(
        0.01,
        AUDIO,
        "Recordings shorter than this many seconds are left out; they do not count as broken.",
    )
    max_hours: float = _option(24.0, AUDIO, "Recordings longer than this are left out.")
    shard_size_mb: float = _option(256.0, AUDIO, "Approximate size of the largest tar.")
    seed: int = _option(0, AUDIO, "Seed of the order of the clips.")
    places: str = _option(
        COARSE,
        LABELS,
        "What the dataset tells of where and when: exact; coarse (0.1 degrees, the day; names of "
        "files and groups that tell more become numbers); none (of the time, the year). Obscured "
        "places stay so in all of them.",
    )
    trim_silence_s: float = _option(
        0.0,
        AUDIO,
        "Cut out silences that last this many seconds or more (except a quarter of a second "
        "beside a sound); 0 cuts nothing.",
    )
    trim_below_db: float = _option(
        60.0,
        AUDIO,
        "What counts as silence: 0.1 s whose level is this far below the recording's loudest.",
    )
    peak_dbfs: float | None = _option(
        None,
        AUDIO,
        "Bring the largest sample of every recording to this level (such as -1). Default: levels "
        "are not touched.",
    )
    max_lost_db: float = _option(
        40.0,
        AUDIO,
        "Leave out recordings of which mixing and resampling lose more than this: what is left is "
        "not what the labels say.",
    )
    min_peak_dbfs: float = _option(
        -80.0,
        AUDIO,
        "Leave out recordings whose peak is lower than this (16 bit end at -90). With --peak-dbfs "
        "only those that have no more than 16 bit themselves.",
    )
    jobs: int = _option(0, RUNNING, "Number of processes; 0: one per CPU core.")
    max_broken: float = _option(
        0.01, RUNNING, "Stop when more than this share of the recordings is unusable."
    )
    allow_broken: bool = _option(
        False,
        RUNNING,
        "Never stop for unusable recordings (rejected.parquet lists them with the reason).",
    )

    def __post_init__(self) -> None:
        """Raise PrepError that names every invalid value."""
        for item in dataclasses.fields(self):  # 1 and 1.0 make the same dataset
            if isinstance(item.default, float):
                object.__setattr__(self, item.name, float(getattr(self, item.name)))
        rules = {
            f"task must be one of {', '.join(TASKS)}": self.task in ("", *TASKS),
            f"codec must be one of {', '.join(CODECS)}": self.codec in CODECS,
            "sample_rate_hz must be 1000 to 655350 (FLAC's limit)": (
                1000 <= self.sample_rate_hz <= 655350
            ),
            "max_piece_s must be 1 to 3600": 1 <= self.max_piece_s <= 3600,
            "shard_size_mb must be at least 1": self.shard_size_mb >= 1,
            "seed must not be negative": self.seed >= 0,
            f"places must be one of {', '.join(CHOICES)}": self.places in CHOICES,
            f"channels must be one of {', '.join(CHANNELS)}": self.channels in CHANNELS,
            "min_s must be 0 to 60": 0 <= self.min_s <= 60,
            "max_lost_db must be 0 to 200": 0 <= self.max_lost_db <= 200,
            "min_peak_dbfs must be -200 to 0": -200 <= self.min_peak_dbfs <= 0,
            "max_hours must be positive": self.max_hours > 0,
            "max_broken must be 0 to 1": 0 <= self.max_broken <= 1,
            "clip_s must be above 0, hop_s at least 0": self.clip_s > 0 and self.hop_s >= 0,
            f"clips_at must be one of {', '.join(CLIPS_AT)}": self.clips_at in CLIPS_AT,
            "least_overlap and empty_share must be 0 to 1": (
                0 <= self.least_overlap <= 1 and 0 <= self.empty_share <= 1
            ),
            "least_overlap_s must be above 0": (
                self.least_overlap_s is None or self.least_overlap_s > 0
            ),
            "jobs must not be negative": self.jobs >= 0,
            "trim_silence_s must be 0 (cut nothing) or at least 1": (
                self.trim_silence_s == 0 or self.trim_silence_s >= 1
            ),
            "trim_below_db must be 20 to 120": 20 <= self.trim_below_db <= 120,
            "peak_dbfs must be -60 to 0": self.peak_dbfs is None or -60 <= self.peak_dbfs <= 0,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise PrepError("These options are not valid: " + "; ".join(broken) + ".")


def settings_of(options: BuildOptions, out: Path) -> dict[str, Any]:
    """Return the options that decide what is in the dataset.

    Options that came later are left out where they have their default, so that a dataset from
    before is still the same.
    """
    settings = {k: v for k, v in dataclasses.asdict(options).items() if k not in FREE_OPTIONS}
    settings["name"] = options.name or out.resolve().name
    defaults = {item.name: item.default for item in dataclasses.fields(options)}
    for name in ("task", *EVENT_OPTIONS):
        if settings[name] == defaults[name]:
            del settings[name]
    return settings


def event_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule from events to clips that `settings_of` stands for, with its defaults."""
    defaults = {item.name: item.default for item in dataclasses.fields(BuildOptions)}
    return {name: settings.get(name, defaults[name]) for name in EVENT_OPTIONS}


@dataclass(frozen=True)
class Part:
    """One of several runs that share the work: every `count`-th shard, from the `number`-th on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "3/16"; parts count from 1. Raises PrepError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found.group(1)) <= int(found.group(2)):
            raise PrepError(f"--part {text} is no part: write i/n, from 1/n to n/n (such as 3/16).")
        return cls(int(found.group(1)), int(found.group(2)))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
