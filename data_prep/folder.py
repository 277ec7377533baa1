"""Reader of the plainest archive: a folder of audio files and a table that describes them."""

from __future__ import annotations

import ast
import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.columns import FIELDS, Mapped, map_columns, plain_name
from data_prep.errors import PrepError
from data_prep.licences import licence_url
from data_prep.options import BuildOptions, FolderOptions
from data_prep.recordings import BACKGROUND, FOREGROUND, RANKS, Label, Recording, tidy_name

# Columns whose name says what rank their labels have.
SPECIES_COLUMNS = ("species", "scientific_name", "scientificname")
EXAMPLE = """\
    filename,label,recordist,licence
    audio/a.wav,Parus major,Ann,CC BY 4.0
    audio/b.mp3,Parus major;Turdus merula,Ben,CC0"""


@dataclass(frozen=True)
class FolderTable:
    """What was read: recordings (paths relative to `root` where below it) and how."""

    root: Path
    metadata: Path
    recordings: list[Recording]
    mapped: Mapped
    notes: list[str]


def read_folder(directory: Path, options: FolderOptions) -> FolderTable:
    """Read the table and turn its rows into recordings. No audio is opened.

    Rows that name the same file are one recording with all their labels. Raises PrepError when
    the table is missing or unreadable, a column is not there, or such rows contradict each other.
    """
    if not directory.is_dir():
        raise PrepError(f"{directory} is not a folder.")
    metadata = options.metadata or directory / "metadata.csv"
    header, rows = _read_table(metadata, directory)
    mapped = map_columns(header, options.columns)
    base = _base(directory, metadata, [_get(row, mapped, "path") for row in rows])
    source = options.source_name or tidy_name(directory.resolve().name) or "folder"
    merged: dict[str, Recording] = {}
    repeated = 0
    for number, row in enumerate(rows, start=2):
        if not any(row.values()):
            continue
        text = _get(row, mapped, "path")
        if not text:
            raise PrepError(
                f"{metadata}, row {number}: column {mapped.columns['path']!r} is empty."
            )
        path = _relative(_find(base, text), directory)
        recording = _recording(row, mapped, options, source=source, path=path)
        if path in merged:
            repeated += 1
            recording = _merge(merged[path], recording, f"{metadata}, row {number}")
        merged[path] = recording
    recordings = list(merged.values())
    notes = [f"{repeated} rows name a file that an earlier row names: labels merged"] * (
        repeated > 0
    )
    if options.make_folds and "fold" not in mapped.columns:
        from data_prep.folds import make_folds

        recordings = make_folds(recordings, options.make_folds)
        notes.append(f"{options.make_folds} folds were made, of whole groups")
    return FolderTable(directory, metadata, recordings, mapped, notes + _warnings(recordings))


def _warnings(recordings: Sequence[Recording]) -> list[str]:
    """Return what a person should know about the table before it is used."""
    notes = []
    unlicensed = sum(not recording.licence_url for recording in recordings)
    if unlicensed:
        notes.append(f"{unlicensed} recordings state no licence (--licence sets one)")
    for name in ("fold", "split"):
        parts: dict[str, set[str | None]] = {}
        for recording in recordings:
            parts.setdefault(recording.group_id, set()).add(getattr(recording, name))
        divided = sorted(group for group, places in parts.items() if len(places) > 1)
        if divided:
            notes.append(
                f"{len(divided)} groups lie in more than one {name}, for example {divided[0]!r}: "
                "a score on one of them is not a score on unknown sources"
            )
    return notes


def _read_table(path: Path, directory: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read CSV (comma, semicolon or tab) or Parquet as text; empty cells are ''."""
    import polars as pl

    if not path.is_file():
        raise PrepError(
            f"There is no table at {path}. Describe the recordings of {directory} in a "
            f"metadata.csv such as\n{EXAMPLE}\nor name another table with --metadata."
        )
    try:
        if path.suffix.lower() == ".parquet":
            frame = pl.read_parquet(path).cast(pl.String, strict=False)
        else:
            frame = pl.read_csv(path, separator=_separator(path), infer_schema=False)
    except UnicodeDecodeError as err:
        raise PrepError(f"{path} is not UTF-8 text; save it as UTF-8.") from err
    except (pl.exceptions.PolarsError, OSError) as err:
        text = str(err).splitlines()[0]
        hint = " (save it as UTF-8)" if "utf-8" in text.lower() or "utf8" in text.lower() else ""
        raise PrepError(f"{path} cannot be read as a table: {text}{hint}.") from err
    frame = frame.rename({name: name.strip() for name in frame.columns}).fill_null("")
    frame = frame.with_columns(pl.all().str.strip_chars())
    if frame.height == 0:
        raise PrepError(f"{path} has a header but no rows.")
    return frame.columns, frame.to_dicts()


def _separator(path: Path) -> str:
    """Return the character that the header line is divided by."""
    with path.open("rb") as file:
        line = file.readline(1 << 16).decode("utf-8-sig")
    return max(",", "\t", ";", key=line.count)


def _get(row: Mapping[str, str], mapped: Mapped, name: str) -> str:
    column = mapped.columns.get(name)
    return row[column] if column is not None else ""


def _base(directory: Path, metadata: Path, paths: Sequence[str]) -> Path:
    """Return the folder that the table's paths start from: where most of a sample exist."""
    step = max(1, len(paths) // 50)
    sample = [text for text in paths[::step] if text]
    candidates = dict.fromkeys((directory, metadata.parent, directory / "audio"))
    return max(candidates, key=lambda base: sum(_find(base, text).exists() for text in sample))


def _find(base: Path, text: str) -> Path:
    """Return the file that `text` means: as written, in another Unicode form, with slashes."""
    spellings = dict.fromkeys(
        (
            text,
            unicodedata.normalize("NFC", text),
            unicodedata.normalize("NFD", text),
            text.replace("\\", "/"),
        )
    )
    for spelling in spellings:
        path = base / spelling
        if path.is_file():
            return path
    return base / text


def _relative(path: Path, directory: Path) -> str:
    try:
        return path.relative_to(directory).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _recording(
    row: Mapping[str, str], mapped: Mapped, options: FolderOptions, *, source: str, path: str
) -> Recording:
    """Turn one row into a recording."""

    def get(name: str) -> str:
        return _get(row, mapped, name)

    source_id = tidy_name(get("id")) or path
    identity = f"{source}:{source_id}"
    url = get("url")
    fold = get("fold")
    return Recording(
        id=identity,
        source=source,
        source_id=source_id,
        path=path,
        # A column called "source" may hold page addresses or the name of an archive.
        url=url if "://" in url or "url" in mapped.given else "",
        licence_url=licence_url(get("licence") or options.licence),
        attribution=tidy_name(get("attribution")),
        recordist=tidy_name(get("recordist")),
        labels=_labels(get("label"), get("rank"), get("background"), mapped, options, path),
        quality=get("quality"),
        sound_type=get("sound_type"),
        datetime=get("datetime"),
        lat=_number(get("lat"), 90.0),
        lon=_number(get("lon"), 180.0),
        duration_s=_number(get("duration"), math.inf) or 0.0,
        group_id=tidy_name(get("group")) or identity,
        split=get("split") or options.split,
        fold=fold or None,
    )


def _number(text: str, limit: float) -> float | None:
    """Return the number, or None where there is none or it cannot be true."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= limit else None


def _labels(
    names: str, ranks: str, background: str, mapped: Mapped, options: FolderOptions, path: str
) -> tuple[Label, ...]:
    """Return foreground labels with their ranks, then background labels that are not among them."""
    name_list = _cells(names, options.label_separator)
    rank_list = _cells(ranks, options.label_separator)
    if len(rank_list) == 1:
        rank_list *= len(name_list)
    if rank_list and len(rank_list) != len(name_list):
        raise PrepError(
            f"{path}: {len(name_list)} labels ({names!r}) but {len(rank_list)} ranks ({ranks!r}); "
            f"they must go in parallel, divided by {options.label_separator!r}."
        )
    default = options.rank
    if not default and plain_name(mapped.columns.get("label", "")) in SPECIES_COLUMNS:
        default = "species"
    found: dict[str, Label] = {}
    for i, text in enumerate(name_list):
        rank, name = _ranked(text, rank_list[i].lower() if rank_list else default)
        found.setdefault(name, Label(name, rank, FOREGROUND, options.taxonomy))
    for text in _cells(background, options.label_separator):
        rank, name = _ranked(text, default)
        found.setdefault(name, Label(name, rank, BACKGROUND, options.taxonomy))
    return tuple(found.values())


def _ranked(text: str, default: str) -> tuple[str, str]:
    """Split "genus:Parus" into rank and name; other text has the default rank."""
    rank, colon, name = text.partition(":")
    if colon and rank.strip().lower() in RANKS and name.strip():
        return rank.strip().lower(), tidy_name(name)
    return default, text


def _cells(text: str, separator: str) -> list[str]:
    """Return the values of one cell: a Python list ("['a', 'b']") or separated text."""
    if text.startswith("[") and text.endswith("]"):
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pass
        else:
            return [name for value in values if (name := tidy_name(str(value)))]
    parts = text.split(separator) if separator else [text]
    return [name for part in parts if (name := tidy_name(part))]


def _merge(first: Recording, second: Recording, where: str) -> Recording:
    """Join two rows of one file: all labels; everything else must be equal."""
    labels = {label.name: label for label in first.labels}
    for label in second.labels:
        known = labels.get(label.name)
        # Heard in the foreground by one row is heard in the foreground.
        if known is None or (known.role == BACKGROUND and label.role == FOREGROUND):
            labels[label.name] = label
    joined = dataclasses.replace(second, labels=tuple(labels.values()))
    expected = dataclasses.replace(first, labels=joined.labels)
    if joined != expected:
        differing = [
            f"{item.name}: {getattr(expected, item.name)!r} and {getattr(joined, item.name)!r}"
            for item in dataclasses.fields(Recording)
            if getattr(expected, item.name) != getattr(joined, item.name)
        ]
        raise PrepError(
            f"{where}: {second.path!r} has been described before, differently "
            f"({'; '.join(differing)}). Several rows may name one file only to give it several "
            "labels."
        )
    return joined


def prepare_folder(directory: Path | str, out: Path | str, **options: Any) -> dict[str, Any]:
    """Prepare a folder of audio and `metadata.csv` as a dataset of shards; return its stats.

    The Python form of `chorus prep folder DIRECTORY --out OUT`: options have the same names with
    underscores (`label_column="species"`, `codec="wav"`, `jobs=4`, ...). With `jobs` above 1 it
    starts processes, so a script needs the usual `if __name__ == "__main__":` guard. Raises
    PrepError, with nothing that looks finished left in `out`.
    """
    from data_prep.build import build_dataset

    report = options.pop("report", None)
    columns = {
        field.name: options.pop(field.parameter) for field in FIELDS if field.parameter in options
    }
    reading = {item.name for item in dataclasses.fields(FolderOptions)} - {"columns"}
    building = {item.name for item in dataclasses.fields(BuildOptions)}
    unknown = sorted(set(options) - reading - building)
    if unknown:
        raise PrepError(f"Unknown options: {', '.join(unknown)}.")
    if options.get("metadata") is not None:
        options["metadata"] = Path(options["metadata"])
    build = BuildOptions(**{k: v for k, v in options.items() if k in building})
    table = read_folder(
        Path(directory),
        FolderOptions(columns=columns, **{k: v for k, v in options.items() if k in reading}),
    )
    if report is not None:
        report(table)
    return build_dataset(table.recordings, table.root, Path(out), build)
