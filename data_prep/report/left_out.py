"""What is not in a dataset and why, and how it was made: two sections of its page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from dawnchorus.data_prep.dataset.same_audio import same_audio_words
from dawnchorus.data_prep.report.findings import Findings, flat, grids
from dawnchorus.data_prep.report.gather import Facts
from dawnchorus.trainer.page import (
    Number,
    Section,
    card,
    details,
    grid,
    items,
    note,
    section,
    table,
    tag,
)

SHOWN = 12


def counts(name: str, count: str, rows: Iterable[tuple[Any, int]]) -> Markup:
    """Return a table of names and how many there are."""
    said = [(n if isinstance(n, int) else n.replace("_", " "), c) for n, c in rows]
    return table([name, Number(count)], said)


def left_out(facts: Facts) -> Section:
    """Show what was rejected, which duplicates were dropped, what evaluation sets hold too."""
    found = facts.findings
    rows = []
    for r in found.rejected:
        meaning = [tag("br"), tag("span", r.meaning, css="none")] if r.meaning else None
        some = [f"{name}: {detail}" if detail else name for name, detail in r.examples]
        rows.append(([r.name.replace("_", " "), meaning], r.count, items(some, "plain facts")))
    nothing = note("No recording was rejected.", css="none")
    rejected = table(["Reason", Number("Recordings"), "Some of them"], rows) if rows else nothing
    return section(
        "left-out",
        "Left out, and what was looked for",
        card(rejected, title="Rejected"),
        grid(
            card(_duplicates(facts), title="Duplicates"),
            card(_overlap(found), title="Overlap with evaluation sets"),
            css="two",
        ),
        nav="Left out",
    )


def _looked_for(file: str, found: Any) -> Markup | None:
    """What there is to say where nothing was found: that is not the same as not looked for."""
    if found is None:
        return note(f"There is no {file}: nobody looked (chorus prep select does).", css="none")
    return None if found.total() else note("Looked for; none was found.", css="good")


def _duplicates(facts: Facts) -> list[Markup | None]:
    found, kinds = facts.findings, facts.findings.duplicates
    told = [_looked_for("duplicates.parquet", kinds)]
    if kinds:
        head = ["Kept", "Dropped", "Kind", Number("Score")]
        some = details("Some of them", table(head, found.duplicate_examples))
        told = [counts("Kind", "Dropped", kinds.most_common()), some]
    if facts.stats.get("same_audio_recordings") and (same := same_audio_words(facts.stats)):
        told.append(
            note(f"Recordings in the shards that have the very samples of another: {same}.")
        )
    return told


def _overlap(found: Findings) -> list[Markup | None]:
    sets = found.leakage
    if sets is not None and not found.compared:
        said = "The selection was given no evaluation set to compare with."
        return [note(said, css="none")]
    if not sets:
        return [_looked_for("leakage.parquet", sets)]
    head = ["Recording", "Evaluation set", "Found by"]
    rows = [(name, rule, n) for (name, rule), n in sets.most_common()]
    return [
        table(["Evaluation set", "Found by", Number("Found")], rows),
        note(f"{found.leaked:,} recordings were removed; one may be found in several ways."),
        details("Some of them", table(head, found.leakage_examples)),
    ]


def made(facts: Facts) -> Section | None:
    """Show the selection's recipe and the shards' options; None where neither is known."""
    tables, rest = grids(facts.findings.selection)
    settings, options = flat(rest), facts.stats.get("options") or {}
    if not tables and not settings and not options:
        return None
    parts = []
    for found in tables:
        head = [found.columns[0], *map(Number, found.columns[1:])]
        parts.append(
            card(table(head, found.rows[:100], caption=found.title.capitalize(), css="words"))
        )
    if settings:
        shown = details(
            f"{len(settings)} settings", table([], settings[:200]), opened=len(settings) <= SHOWN
        )
        parts.append(card(shown, title="Recipe of the selection"))
    if options:
        rows = [(n.replace("_", " "), None if v is None else str(v)) for n, v in options.items()]
        parts.append(card(table([], rows), title="Shards"))
    return section("made", "How it was made", parts)
