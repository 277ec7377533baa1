"""Which column of a metadata table holds what: given by option, or found by its usual name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.errors import PrepError

NOT_USED = "none"  # as an option's value: do not use a column for this, not even a usual name


@dataclass(frozen=True, slots=True)
class Field:
    """A field that a column may fill."""

    name: str
    usual: tuple[str, ...]
    absent: str  # what happens without a column, shown to the user

    @property
    def option(self) -> str:
        """The command-line option that names the column."""
        return f"--{self.name.replace('_', '-')}-column"


def _field(name: str, usual: str, absent: str) -> Field:
    return Field(name, tuple(usual.split()), absent)


# In the order in which they are shown; within a field, the first usual name that exists wins.
FIELDS: tuple[Field, ...] = (
    _field("path", "filename file_name file path filepath file_path audio wav_path", "needed"),
    _field(
        "label",
        "label labels species scientific_name scientificname primary_label category class",
        "no labels: an unlabelled dataset",
    ),
    _field("rank", "rank ranks label_rank taxon_rank taxonrank", "from --rank"),
    _field(
        "background",
        "background background_labels background_species secondary_labels also",
        "no background labels",
    ),
    _field("group", "group group_id", "every recording is a group of its own"),
    _field("fold", "fold", "no folds"),
    _field("split", "split subset_split", "everything goes to --split"),
    _field(
        "licence",
        "licence_url license_url licence license lic rights",
        "--licence, or not stated",
    ),
    _field("recordist", "recordist recorder author rec recorded_by recordedby creator", "unknown"),
    _field("attribution", "attribution credit", "none"),
    _field("id", "id recording_id source_id", "the file's path"),
    _field("url", "url source_url source references link", "none"),
    _field("datetime", "datetime date_time date event_date eventdate recorded_at", "none"),
    _field("lat", "lat latitude decimal_latitude decimallatitude", "none"),
    _field("lon", "lon lng long longitude decimal_longitude decimallongitude", "none"),
    _field("quality", "quality q rating", "none"),
    _field("sound_type", "sound_type soundtype type behavior", "none"),
    _field("duration", "duration_s duration_seconds", "read from the file headers"),
)
BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


@dataclass(frozen=True, slots=True)
class Mapped:
    """The result: field -> column, and the columns that nothing uses."""

    columns: Mapping[str, str]
    given: frozenset[str]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return one readable line per field, saying where its values come from."""
        lines = []
        for field in FIELDS:
            column = self.columns.get(field.name)
            if column is None:
                lines.append(f"{field.name:<12} {'-':<20} {field.absent}  ({field.option})")
            else:
                how = "as given" if field.name in self.given else "by its usual name"
                lines.append(f"{field.name:<12} {column:<20} {how}")
        if self.unused:
            lines.append(f"{'not used':<12} {', '.join(self.unused)}")
        return lines


def map_columns(header: Sequence[str], options: Mapping[str, str | None]) -> Mapped:
    """Decide which column fills which field.

    `options` holds what the user gave per field: a column name, "none", or None for "find it".
    Raises PrepError for a column that is not there (all of them at once) and when no column holds
    the paths.
    """
    columns: dict[str, str] = {}
    problems = []
    lowered = {_plain(name): name for name in reversed(header)}
    for field in FIELDS:
        wanted = options.get(field.name)
        if wanted == NOT_USED:
            continue
        if wanted is not None:
            if wanted in header:
                columns[field.name] = wanted
            else:
                problems.append(f"{field.option} {wanted}: there is no such column")
            continue
        # A column given for one field still fills the field it is named after (--group-column
        # recordist), but no column is found for two fields.
        found = {column for name, column in columns.items() if options.get(name) is None}
        for usual in field.usual:
            column = lowered.get(usual)
            if column is not None and column not in found:
                columns[field.name] = column
                break
    if "path" not in columns and not problems:
        problems.append("no column holds the file paths: name it with --path-column")
    if problems:
        raise PrepError(
            "The metadata's columns do not fit.\n  "
            + "\n  ".join(problems)
            + f"\n  columns: {', '.join(header)}"
        )
    given = frozenset(name for name, column in options.items() if column and column != NOT_USED)
    used = set(columns.values())
    return Mapped(columns, given, tuple(name for name in header if name not in used))


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
