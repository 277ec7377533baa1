"""Which column of a metadata table holds what: given by option, or found by its usual name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dawnchorus.data_prep.errors import PrepError

NOT_USED = "none"  # an option's value: no column fills this field, not even one with a usual name


@dataclass(frozen=True, slots=True)
class Field:
    """A field that a column may fill."""

    name: str
    help: str
    usual: tuple[str, ...]
    absent: str  # what happens without such a column, where that needs to be said

    @property
    def parameter(self) -> str:
        """The Python name of the option that names the column: "path_column"."""
        return f"{self.name}_column"

    @property
    def option(self) -> str:
        """The command-line option: "--path-column"."""
        return f"--{self.parameter.replace('_', '-')}"

    @property
    def option_help(self) -> str:
        """Help of the option, with the names that are looked for."""
        shown = ", ".join(self.usual[:3]) + (" ..." if len(self.usual) > 3 else "")
        return f"{self.help} ({shown})."


def _field(name: str, help_text: str, usual: str, absent: str) -> Field:
    return Field(name, help_text, tuple(usual.split()), absent)


# In the order in which they are shown; within a field, the first usual name that exists wins.
FIELDS: tuple[Field, ...] = (
    _field(
        "path",
        "Audio file, relative to DIR or to the table",
        "filename file path file_name filepath file_path audio wav_path",
        "needed",
    ),
    _field(
        "label",
        "What is heard; several labels with --label-separator between them",
        "label labels species scientific_name scientificname primary_label category class",
        "no labels: an unlabelled dataset",
    ),
    _field(
        "rank",
        "Rank of each label, in parallel with the labels",
        "rank ranks label_rank taxon_rank taxonrank",
        "from --rank",
    ),
    _field(
        "background",
        "What else is heard, faintly",
        "background background_labels background_species secondary_labels also",
        "",
    ),
    _field(
        "group",
        "What must stay together when the data is divided, such as the recordist or the site",
        "group group_id",
        "every recording is a group of its own",
    ),
    _field("fold", "Fold for cross-validation", "fold", "no folds (or --make-folds)"),
    _field("split", "Part of the dataset: train, valid ...", "split", "all go to --split"),
    _field(
        "licence",
        "Licence of the audio, URL or name",
        "licence_url license_url licence license lic rights",
        "--licence, or not stated",
    ),
    _field(
        "recordist",
        "Who recorded it",
        "recordist recorder author rec recorded_by recordedby creator",
        "unknown",
    ),
    _field("attribution", "Credit line the licence asks for", "attribution credit", ""),
    _field(
        "id",
        "The archive's own number of the recording",
        "id recording_id source_id",
        "the file's path",
    ),
    _field("url", "Page of the recording", "url source_url source references link", ""),
    _field(
        "datetime",
        "When it was recorded",
        "datetime date_time date event_date eventdate recorded_at",
        "",
    ),
    _field("lat", "Latitude in degrees", "lat latitude decimal_latitude decimallatitude", ""),
    _field(
        "lon",
        "Longitude in degrees",
        "lon lng longitude long decimal_longitude decimallongitude",
        "",
    ),
    _field("quality", "The archive's rating", "quality q rating", ""),
    _field("sound_type", "Song, call ...", "sound_type soundtype type behavior", ""),
    _field(
        "duration",
        "Length in seconds, only to plan with",
        "duration_s duration_seconds",
        "read from the file headers",
    ),
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """The result: which column fills each field, and the columns that are not used."""

    columns: Mapping[str, str]
    given: frozenset[str]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return readable lines that say where the values of every field come from."""
        lines = []
        for field in FIELDS:
            column = self.columns.get(field.name)
            if column is not None:
                how = "as given" if field.name in self.given else "by its usual name"
                lines.append(f"{field.name:<12} {column:<20} {how}")
            elif field.absent:
                lines.append(f"{field.name:<12} {'-':<20} {field.absent} ({field.option})")
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
    lowered = {plain_name(name): name for name in reversed(header)}
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


def plain_name(name: str) -> str:
    """Return a column's name as the usual names are written: "File Name" -> "file_name"."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
