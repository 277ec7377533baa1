"""`chorus prep labels`: tables of recordings -> one table with one label space.

The tables are read twice as streams: once for their distinct labels, which are resolved once each,
and once to write. Memory grows with the number of distinct labels, not of recordings (but for the
8 bytes per id of `recording_table`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.dataset.work_folder import disk_errors
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND, Event, Label, Recording
from dawnchorus.data_prep.table.recording_table import (
    REJECTED,
    SUMMARY,
    Rejected,
    Summary,
    read_recordings,
    table_path,
    write_table,
)
from dawnchorus.data_prep.taxonomy.builtin import builtin_source, read_overrides
from dawnchorus.data_prep.taxonomy.candidates import nearest_names
from dawnchorus.data_prep.taxonomy.label_options import LabelOptions
from dawnchorus.data_prep.taxonomy.model import Taxonomy, load_taxonomy
from dawnchorus.data_prep.taxonomy.names import parse_name
from dawnchorus.data_prep.taxonomy.naming import Lost, Named, Naming, unresolved
from dawnchorus.data_prep.taxonomy.outputs import (
    changes_csv,
    names_csv,
    summary_lines,
    taxa_parquet,
    unresolved_csv,
)
from dawnchorus.data_prep.taxonomy.resolve import Given, Resolver
from dawnchorus.data_prep.taxonomy.sounds import Bridges
from dawnchorus.data_prep.taxonomy.taxonomy_files import SMALL, Source, find_source
from dawnchorus.trainer.files import write_whole
from dawnchorus.trainer.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from dawnchorus.data_prep.archives.audioset_labels import Ontology

COMMAND = "labels"
CHANGES = "ebird_changes.csv"


@dataclass
class Collected:
    """The distinct labels of the tables."""

    counts: Counter[Given] = field(default_factory=Counter)
    sources: dict[Given, Counter[str]] = field(default_factory=dict)
    kept: set[Given] = field(default_factory=set)
    recordings: int = 0


def relabel(
    tables: Sequence[Path], out: Path, options: LabelOptions, progress: Progress | None = None
) -> list[str]:
    """Write the table with resolved labels into `out`; return the lines of the summary.

    Writes recordings.parquet, rejected.parquet, summary.json, taxa.parquet, names.csv,
    unresolved.csv and, with several eBird files, ebird_changes.csv. Raises PrepError for what the
    user can mend; with `strict` also when a name stays unresolved: then unresolved.csv and
    names.csv are written and the table is not.
    """
    progress = progress or Progress()
    paths = [table_path(table) for table in tables]
    roots = _audio_roots(paths, options.audio)
    sources = [find_source(text) for text in options.taxonomies]
    _check_labels(sources)
    overrides = read_overrides(options.overrides) if options.overrides else {}
    ontology = _ontology(options.ontology)
    collected = _collect(paths, progress)
    taxonomies = _load(sources, collected.counts, overrides, progress)
    resolver = Resolver(
        taxonomies, overrides, options.keep_subspecies, options.higher_rank, options.kingdom
    )
    bridges = Bridges() if options.bridges else None
    naming = Naming(resolver, options.ancestors, ontology, bridges)
    named = naming.name_all(collected.counts, frozenset(collected.kept))

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lost = unresolved(named.values(), collected.counts, collected.sources)
        near = nearest_names([one.name for one in lost], sources, taxonomies)
        write_whole(out / "unresolved.csv", unresolved_csv(lost, near, resolver))
        write_whole(out / "names.csv", names_csv(named.values(), collected, naming.space))
        _refuse_unresolved(lost, out, options)
        changes, changed = changes_csv(taxonomies, collected.counts)
        if changes:
            write_whole(out / CHANGES, changes)
        else:
            (out / CHANGES).unlink(missing_ok=True)
        used: dict[str, Counter[str]] = {FOREGROUND: Counter(), BACKGROUND: Counter()}
        rows = _rows(paths, roots, named, naming, used)
        made_by = _made_by(paths, [*sources, builtin_source()], options, len(lost))
        summary = write_table(rows, out, made_by=made_by)
        write_whole(out / "taxa.parquet", taxa_parquet(naming.space, used))
    return _text(summary, taxonomies, named, collected, naming, lost, near, changed)


def _refuse_unresolved(lost: Sequence[Lost], out: Path, options: LabelOptions) -> None:
    if options.strict and lost:
        raise PrepError(
            f"{len(lost):,} names are not resolved; {out / 'unresolved.csv'} lists them with the "
            "nearest names. Add a taxonomy (--taxonomy), or say what they are in a table "
            "(--overrides). No table was written (--strict)."
        )


def _made_by(
    paths: Sequence[Path], sources: Sequence[Source], options: LabelOptions, lost: int
) -> dict[str, Any]:
    return {
        "command": COMMAND,
        "tables": [str(path) for path in paths],
        "taxonomies": {source.label: source.path.name for source in sources},
        "overrides": str(options.overrides or ""),
        "ancestors": list(options.ancestors),
        "ontology": str(options.ontology or ""),
        "bridges": options.bridges,
        "keep_subspecies": options.keep_subspecies,
        "higher_rank": options.higher_rank,
        "kingdom": options.kingdom,
        "unresolved": lost,
    }


def _text(
    summary: Summary,
    taxonomies: Sequence[Taxonomy],
    named: dict[Given, Named],
    collected: Collected,
    naming: Naming,
    lost: Sequence[Lost],
    near: dict[str, list[tuple[str, float]]],
    changed: Sequence[str],
) -> list[str]:
    return [
        summary.text,
        *summary_lines(taxonomies, named.values(), collected.counts, naming.space, lost, near),
        *changed,
    ]


def _audio_roots(paths: Sequence[Path], given: Sequence[Path]) -> list[Path | None]:
    """Return the folder that each table's relative paths start from; None: they are kept.

    Relative paths of several tables would mean several folders: they become absolute, from the
    folder of their table or the one given with --audio.
    """
    if given and len(given) not in (1, len(paths)):
        raise PrepError(
            f"--audio was given {len(given)} times for {len(paths)} tables: give it once, once per "
            "table in their order, or leave it out (then it is each table's own folder)."
        )
    if given:
        return [root.absolute() for root in (list(given) * len(paths))[: len(paths)]]
    return [None] if len(paths) == 1 else [path.parent.absolute() for path in paths]


def _check_labels(sources: Sequence[Source]) -> None:
    twice = [label for label, n in Counter(s.label for s in sources).items() if n > 1]
    if twice:
        raise PrepError(
            f"Two taxonomies have the name {twice[0]!r}. Say which is which: "
            "--taxonomy gbif-backbone-2023-08=FILE."
        )


def _ontology(path: Path | None) -> Ontology | None:
    from dawnchorus.data_prep.archives.audioset_labels import read_ontology

    return read_ontology(path) if path else None


def _collect(paths: Sequence[Path], progress: Progress) -> Collected:
    """Count the distinct labels of all tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = Collected()
    for path in paths:
        again = _made_by_this(path)
        try:
            with pq.ParquetFile(path) as file:
                if missing := {"id", "source", "labels"} - set(file.schema_arrow.names):
                    raise PrepError(f"{path} is no recording table: no column {sorted(missing)}.")
                for batch in file.iter_batches(1 << 13, columns=["source", "labels"]):
                    found.recordings += batch.num_rows
                    _count(batch.column("source").to_pylist(), batch.column("labels"), found, again)
        except (pa.ArrowInvalid, OSError) as err:
            raise PrepError(f"{path} cannot be read: {err}. Make it again.") from err
    progress.say(f"{found.recordings:,} recordings, {len(found.counts):,} distinct labels")
    return found


def _count(sources: list[str], labels: pa.Array, found: Collected, again: bool) -> None:
    for source, row in zip(sources, labels.to_pylist(), strict=True):
        for label in row or ():
            ids = tuple((key, value or "") for key, value in label["ids"] or ())
            given = Given(label["name"], label["rank"] or "", label["taxonomy"] or "", ids)
            found.counts[given] += 1
            found.sources.setdefault(given, Counter())[source or ""] += 1
            if again:
                found.kept.add(given)


def _made_by_this(path: Path) -> bool:
    """Return whether a table went through this step before."""
    try:
        summary = json.loads((path.parent / SUMMARY).read_text())
        return bool(summary["made_by"]["command"] == COMMAND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _load(
    sources: Sequence[Source],
    counts: Counter[Given],
    overrides: dict[str, str],
    progress: Progress,
) -> list[Taxonomy]:
    """Load what the labels need of every taxonomy, the built-in table last.

    The last is loaded first: what its synonyms stand for is looked up in those before it. Small
    ones come before all of them, because their codes are names to look up.
    """
    wanted: set[str] = set()
    numbers: set[str] = set()
    for text in [*(given.name for given in counts), *overrides.values()]:
        name = parse_name(text)
        wanted |= {name.canonical, name.species, name.genus}
        if text.isdigit():
            numbers.add(text)
    wanted.discard("")
    every = [*sources, builtin_source()]
    made: dict[str, Taxonomy] = {}
    in_turn = [source for source in every if source.kind not in SMALL]
    in_turn += [source for source in every if source.kind in SMALL]
    for source in reversed(in_turn):
        known = load_taxonomy(source, wanted, numbers if source.kind == "inat" else ())
        made[source.label] = known
        wanted |= known.names_for(wanted, {given.name for given in counts})
        skipped = f", {known.bad_rows:,} broken rows passed over" if known.bad_rows else ""
        if source.path != every[-1].path:
            progress.say(f"{source.label}: {known.rows:,} rows of {source.path}{skipped}")
    return [made[source.label] for source in every]


def _rows(
    paths: Sequence[Path],
    roots: Sequence[Path | None],
    named: dict[Given, Named],
    naming: Naming,
    used: dict[str, Counter[str]],
) -> Iterator[Recording | Rejected]:
    """Yield all tables with their new labels; count how often each name is used."""
    ready = {given: naming.space.labels((one.name, *one.more)) for given, one in named.items()}
    for path, root in zip(paths, roots, strict=True):
        for recording in read_recordings(path):
            labels = _new_labels(recording, ready)
            for label in labels:
                used[label.role][label.name] += 1
            where = recording.path
            if where and root is not None and not Path(where).is_absolute():
                where = str(root / where)
            events = _new_events(recording, ready)
            yield replace(recording, labels=labels, path=where, events=events)
        yield from _rejected_before(path)


def _new_labels(
    recording: Recording, ready: dict[Given, dict[str, tuple[Label, ...]]]
) -> tuple[Label, ...]:
    """Return the labels of a recording, each name once: a label in the foreground is not repeated
    in the background.
    """
    chosen: dict[str, Label] = {}
    for role in (FOREGROUND, BACKGROUND):
        for label in recording.labels:
            if label.role == role:
                key = Given(label.name, label.rank, label.taxonomy, label.ids)
                for made in ready[key][role]:
                    chosen.setdefault(made.name, made)
    return tuple(chosen.values())


def _new_events(
    recording: Recording, ready: dict[Given, dict[str, tuple[Label, ...]]]
) -> tuple[Event, ...] | None:
    """Return the events of a recording under the new names of their labels."""
    if recording.events is None:
        return None
    given = {label.name: Given(label.name, label.rank, label.taxonomy, label.ids)
             for label in recording.labels}  # fmt: skip
    found: list[Event] = []
    for event in recording.events:
        made = ready[given[event.label]][event.role] if event.label else ()
        # An event whose name is dropped is one of which nothing is known.
        names = [label.name for label in made] or [""]
        found += [replace(event, label=name) for name in names]
    return tuple(found)


def _rejected_before(path: Path) -> Iterator[Rejected]:
    """Yield the rows that the previous step rejected, so that they are not lost."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    before = path.with_name(REJECTED)
    if not before.is_file():
        return
    try:
        with pq.ParquetFile(before) as file:
            for batch in file.iter_batches(1 << 14):
                for row in batch.to_pylist():
                    yield Rejected(
                        recording_id=row.get("recording_id") or "",
                        reason=row.get("reason") or "",
                        detail=row.get("detail") or "",
                        path=row.get("path") or "",
                    )
    except pa.ArrowInvalid as err:
        raise PrepError(f"{before} cannot be read: {err}. Make it again.") from err
