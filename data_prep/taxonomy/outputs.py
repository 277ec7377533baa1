"""The files that `chorus prep labels` writes beside the table, and its summary."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.table.recording import BACKGROUND, FOREGROUND
from dawnchorus.data_prep.taxonomy.ebird import GENUS_MOVED, compare_years, years
from dawnchorus.data_prep.taxonomy.model import Taxonomy
from dawnchorus.data_prep.taxonomy.naming import Lost, Named, ways
from dawnchorus.data_prep.taxonomy.resolve import Given, Resolver
from dawnchorus.data_prep.taxonomy.shapes import RANK_COLUMNS
from dawnchorus.data_prep.taxonomy.space import LabelSpace
from dawnchorus.data_prep.tools.spreadsheets import csv_text

if TYPE_CHECKING:
    from dawnchorus.data_prep.taxonomy.relabel import Collected

Near = Mapping[str, list[tuple[str, float]]]
_SHOWN = 10


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    return csv_text([header, *rows]).encode()


def names_csv(named: Iterable[Named], collected: Collected, space: LabelSpace) -> bytes:
    """Return the table of every name as given and what it became."""
    rows = [
        (one.given.name, one.given.rank, one.given.taxonomy, collected.counts[one.given], one.how,
         one.name, space.entries[one.name].rank, space.entries[one.name].taxonomy, one.detail)
        for one in named
    ]  # fmt: skip
    return _csv(
        ("given", "given_rank", "given_taxonomy", "labels", "how", "name", "rank", "taxonomy",
         "detail"),
        sorted(rows),
    )  # fmt: skip


def unresolved_csv(lost: Sequence[Lost], near: Near, resolver: Resolver) -> bytes:
    """Return the table of the names that stay as they are, the most frequent first."""
    header = ["name", "sources", "labels", "rank", "taxonomy", "reason", "detail", "label_name"]
    header += [f"{word}_{i}" for i in (1, 2, 3) for word in ("candidate", "score")]
    rows = []
    for one in lost:
        meant = [(name, 100.0) for name in resolver.english(one.name)]
        nearest = [*meant, *near.get(one.name, [])][:3]
        rows.append(
            [one.name, ";".join(one.sources), one.labels, one.rank, one.taxonomy, one.how,
             one.detail, one.label_name, *(cell for pair in nearest for cell in pair)]
        )  # fmt: skip
    return _csv(header, [row + [""] * (len(header) - len(row)) for row in rows])


def changes_csv(
    taxonomies: Sequence[Taxonomy], counts: Mapping[Given, int]
) -> tuple[bytes, list[str]]:
    """Return the table of codes that changed between eBird's years, and lines about it.

    Empty where fewer than two years were given.
    """
    used: Counter[tuple[str, str]] = Counter()
    for given, count in counts.items():
        used[given.taxonomy, given.name] += count
    known = years(taxonomies)
    rows: list[tuple[object, ...]] = []
    lines = []
    for first, second in pairwise(known):
        changes = compare_years(first, second)
        kinds = Counter(change.kind for change in changes)
        shown = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
        lines.append(f"{first.label} -> {second.label}: {shown or 'no change'}")
        for change in changes:
            labels = used[first.label, change.code] + used[second.label, change.code]
            mapped = "yes" if change.kind == GENUS_MOVED else ""
            rows.append(
                (first.label, second.label, change.code, change.kind, change.first, change.second,
                 change.new_code, mapped, labels)
            )  # fmt: skip
    if len(known) < 2:
        return b"", []
    header = ("from", "to", "code", "change", "name_from", "name_to", "new_code", "mapped",
              "labels")  # fmt: skip
    return _csv(header, rows), lines


def taxa_parquet(space: LabelSpace, used: Mapping[str, Counter[str]]) -> bytes:
    """Return `taxa.parquet`: one row per name that a label has, with what is above it.

    `foreground` and `background` count recordings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        [("name", text), ("rank", text), ("taxonomy", text)]
        + [(rank, text) for rank in RANK_COLUMNS]
        + [("ids", pa.map_(text, text)), ("english", text)]
        + [(role, pa.int64()) for role in (FOREGROUND, BACKGROUND)]
    )
    rows: list[dict[str, Any]] = []
    for name, entry in sorted(space.entries.items()):
        if not used[FOREGROUND][name] and not used[BACKGROUND][name]:
            continue
        above = dict(entry.lineage)
        rows.append(
            {"name": name, "rank": entry.rank, "taxonomy": entry.taxonomy,
             "ids": list(entry.ids), "english": entry.english,
             FOREGROUND: used[FOREGROUND][name], BACKGROUND: used[BACKGROUND][name]}
            | {rank: above.get(rank, "") for rank in RANK_COLUMNS}
        )  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def summary_lines(
    taxonomies: Sequence[Taxonomy],
    named: Iterable[Named],
    counts: Mapping[Given, int],
    space: LabelSpace,
    lost: Sequence[Lost],
    near: Near,
) -> list[str]:
    """Return what is printed at the end."""
    named = list(named)
    lines = ["taxonomies: " + ", ".join(t.label for t in taxonomies)]
    lines.append(f"{len(named):,} labels as given -> {len({one.name for one in named}):,} names")
    lines += [
        f"  {how:<22} {names:>8,} names {labels:>12,} labels"
        for how, (names, labels) in ways(named, counts).items()
    ]
    if space.qualified:
        some = ", ".join(sorted(space.qualified)[:5])
        lines.append(f"names of two things, told apart: {len(space.qualified):,} ({some})")
    if lost:
        lines.append(f"not resolved, kept as they are: {len(lost):,} names (unresolved.csv)")
        for one in lost[:_SHOWN]:
            best = near.get(one.name) or []
            like = f"; nearest {best[0][0]} ({best[0][1]:.0f})" if best else ""
            lines.append(f"  {one.name} x {one.labels:,}: {one.how}{like}")
    return lines
