"""The page about a dataset or a recording table: what it shows, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dawnchorus.data_prep.report.citations import source_name
from dawnchorus.data_prep.report.clips import Clip, clips
from dawnchorus.data_prep.report.credits import licence_name, permissions, strictest
from dawnchorus.data_prep.report.gather import DURATIONS_S, RECORDINGS, Facts, Share, gather
from dawnchorus.data_prep.report.left_out import counts, left_out, made
from dawnchorus.data_prep.report.writing import write_lines
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page import (
    Number,
    Row,
    Section,
    bar,
    card,
    details,
    figure,
    figures,
    grid,
    items,
    link,
    note,
    page,
    section,
    table,
    tag,
    taxon,
)
from dawnchorus.trainer.page.charts import columns, map_legend, tail, world

_BANDS = (1000, 100, 10, 2, 1)
_MOST_YEARS = 60
_SHOWN = 12


def write_report(
    path: Path,
    out: Path,
    *,
    selection: Path | None = None,
    audio: Path | None = None,
    count: int = 8,
    private: bool = False,
) -> Path:
    """Write one HTML page about a finished dataset or a recording table; return the file.

    The page asks for nothing from anywhere: style, drawings, pictures and sound are in it.

    Args:
        path: dataset folder, or folder or file of a recording table.
        out: the file, or a folder, which then gets `report.html`.
        selection: folder of `chorus prep select`, where duplicates.parquet, leakage.parquet and
            selection.json do not lie beside the table.
        audio: folder that the paths of a recording table start from; its own folder by default.
        count: clips to listen to.
        private: play clips whatever their licence. Such a page is not to be passed on, and says so.

    Raises:
        PrepError: there is no such table, it is damaged, or `out` cannot be written.
    """
    facts = gather(path, selection)
    problems: list[str] = []
    found = clips(
        path / RECORDINGS if path.is_dir() else path,
        index=facts.folder / "index.parquet" if facts.finished else None,
        audio_root=audio or facts.folder,
        count=count,
        problems=problems,
        private=private,
    )
    html = page(
        "dataset" if facts.finished else "recording table",
        facts.name,
        verdict(facts),
        _sources(facts),
        _listen(found, private) if found else None,
        *[note(problem) for problem in problems],
        _taxa(facts),
        _classes(facts),
        _licences(facts),
        _where(facts),
        _sound(facts),
        left_out(facts),
        made(facts),
        top=figures(tiles(facts), css="tiles"),
    )
    target = out / "report.html" if out.is_dir() else out
    write_lines(target, [html.rstrip()])
    return target


# --------------------------------------------------------------------------- words and numbers


def hours(value: float) -> str:
    """Write 1,234 h, 56.7 h, 1.23 h, or 0.24 min."""
    if value >= 1000:
        return f"{value:,.0f} h"
    if value >= 10:
        return f"{value:.1f} h"
    return f"{value:.2f} h" if value >= 0.1 or not value else f"{60 * value:.2g} min"


def verdict(facts: Facts) -> str:
    """Say what it is, in a sentence or two."""
    what = f"{facts.recordings:,} recordings"
    if facts.recordists:
        what += f" by {facts.recordists:,} recordists"
    if facts.hours:
        what += f", {hours(facts.hours).replace(' h', ' hours')}"
    kinds = [f"{facts.species:,} species"] if facts.species else []
    others = sum(label.rank not in ("species", "subspecies") for label in facts.labels)
    if others:
        kinds.append(f"{others:,} other labels" if kinds else f"{others:,} labels")
    sentence = what + (f": {' and '.join(kinds)}." if kinds else ".")
    left_out = sum(reason.count for reason in facts.findings.rejected)
    were = "was" if left_out == 1 else "were"
    return sentence + (f" {left_out:,} more {were} left out." if left_out else "")


def tiles(facts: Facts) -> list[tuple[str, str]]:
    """The figures at the top."""
    named = [share.name for share in facts.licences]
    unclear = not all(read_licence(url).creative_commons for url in named)
    # A licence's name is not broken at its hyphens.
    rule = (strictest(named) or "no licence known").replace("-", "\N{NON-BREAKING HYPHEN}")
    rows = [
        ("recordings", f"{facts.recordings:,}"),
        ("clips", f"{facts.clips:,}" if facts.clips else ""),
        ("sound", hours(facts.hours) if facts.hours else "not stated"),
        ("species", f"{facts.species:,}" if facts.species else ""),
        ("labels", f"{len(facts.labels):,}"),
        ("recordists", f"{facts.recordists:,}"),
        ("countries", f"{n:,}" if (n := sum(bool(s.name) for s in facts.countries)) else ""),
        ("as strict as, in part unclear" if unclear else "as strict as", rule),
    ]
    return [row for row in rows if row[1]]


def bands(counts: Sequence[int]) -> list[tuple[str, int, int]]:
    """(recordings of a class, how many classes, their recordings), from many to one."""
    rows = []
    above = None
    for least in _BANDS:
        inside = [n for n in counts if n >= least and (above is None or n < above)]
        name = (
            f"{least:,} or more"
            if above is None
            else (str(least) if above - least == 1 else f"{least:,} to {above - 1:,}")
        )
        rows.append((name, len(inside), sum(inside)))
        above = least
    return rows


# --------------------------------------------------------------------------- tables of shares


def _shares(
    facts: Facts, title: str, rows: Sequence[Share], name: Callable[[str], Any] = str, *,
    people: bool = True, all_rows: Sequence[Share] = (), parts: int = 0,
) -> Markup:  # fmt: skip
    """A table of shares with bars; the longest bar is that of `all_rows`. `parts`: at most so many
    parts of each share follow it.
    """
    measure = "hours" if facts.hours else "recordings"
    most = max((getattr(share, measure) for share in all_rows or rows), default=0) or 1

    def row(share: Share, css: str = "") -> Row:
        said = name(share.name) if share.name else tag("span", "not stated", css="none")
        length = hours(share.hours) if share.hours else None
        numbers = [share.recordings, length, share.species or None, share.recordists or None]
        first = [said, bar(100 * getattr(share, measure) / most)]
        return Row(css, [first, *numbers[: 4 if people else 3]])

    shown = []
    for share in rows:
        shown += [row(share), *(row(part, "child") for part in share.parts[:parts])]
        if parts and len(share.parts) > parts:
            shown.append(Row("child", [f"{len(share.parts) - parts} more orders, see below"]))
    head = ("Recordings", "Hours", "Species", *(["Recordists"] if people else []))
    return table([title, *map(Number, head)], shown, css="people" if people else "")


def _more(
    title: str, of: str, drawing: Markup, name: str, rows: Iterable[tuple[Any, int]]
) -> Markup:
    """A drawing with its numbers."""
    return figure(title, drawing, details("Numbers", counts(name, "Recordings", rows)), of=of)


# --------------------------------------------------------------------------- sections


def _sources(facts: Facts) -> Section:
    told = f"Bars: {'hours' if facts.hours else 'recordings'}. "
    told += (
        "Hours are those stored: stretches of digital silence are not."
        if facts.finished
        else "Hours are those that the archives state."
    )
    if facts.unknown_length:
        stored = "stored" if facts.finished else "stated"
        told += f" The length of {facts.unknown_length:,} recordings is not {stored}."
    splits = card(_shares(facts, "Split", facts.splits)) if len(facts.splits) > 1 else None
    shares = card(_shares(facts, "Source", facts.sources, source_name))
    return section("sources", "Sources", shares, splits, note(told))


def _listen(found: Sequence[Clip], private: bool) -> Section:
    warning = note(
        tag("strong", "For private use: do not publish this page."),
        " It holds sound whatever its licence.",
    )
    among = (
        "all recordings" if private else "recordings whose licence lets a changed copy be passed on"
    )
    how = (
        f"The clips are chosen by chance among {among}, from different sources, classes and "
        "recordists. They are cut to the liveliest seconds, brought to one level and compressed "
        "for this page; each excerpt stays under the licence named beside it."
    )
    cards = grid([_clip(clip) for clip in found], css="grid sounds")
    return section("listen", "Listen", warning if private else None, cards, note(how))


def _clip(clip: Clip) -> Markup:
    described = (
        f"Spectrogram of {clip.title}: {clip.seconds:.1f} seconds, 0 to {clip.top_khz:g} kilohertz"
    )
    picture = tag(
        "span",
        tag("img", alt=described, src=clip.picture),
        tag("span", f"{clip.top_khz:g} kHz", css="khz"),
        tag("span", f"{clip.seconds:.1f} s", css="s"),
        css="sound",
    )
    named = f"{clip.title}, {clip.credit}"
    player = tag("audio", controls=True, preload="metadata", src=clip.audio, aria_label=named)
    licence = link(licence_name(clip.licence_url), clip.licence_url, "noreferrer license")
    credit = tag("p", link(clip.credit, clip.link), " · ", licence, css="credit")
    return figure(
        taxon(clip.title, clip.rank),
        picture,
        player,
        credit,
        of=source_name(clip.source),
        css="clip",
    )


def _taxa(facts: Facts) -> Section:
    everything = None
    if any(len(share.parts) > 4 for share in facts.classes):
        rows = [
            (o.name, s.name, o.recordings, hours(o.hours) if o.hours else None, o.species or None)
            for s in facts.classes
            for o in s.parts
        ]
        head = ["Order", "Class", *map(Number, ("Recordings", "Hours", "Species"))]
        everything = details("All orders", card(table(head, rows)))
    told = "By the labels in the foreground. A recording with labels of two classes counts in both."
    if facts.background[0]:
        labels, mentions = facts.background
        told += f" In the background {mentions:,} more mentions of {labels:,} labels."
    shares = _shares(facts, "Class", facts.classes, people=False, parts=4)
    return section("taxa", "Taxa", card(shares), everything, note(told))


def _classes(facts: Facts) -> Section:
    labels = facts.labels
    if not labels:
        nothing = note("No recording has a label in the foreground.", css="none")
        return section("classes", "Classes", nothing, of="0")
    falling = [label.recordings for label in labels]
    described = (
        f"Recordings of each of {len(labels):,} classes, the most frequent first, both axes "
        "logarithmic; the table beside it has the numbers"
    )
    drawn = figure("The long tail", tail(falling, unit="recordings", label=described))
    head = ["Recordings of a class", Number("Classes"), Number("Recordings")]

    def named(title: str, some: Sequence[Any]) -> Markup:
        rows = [(taxon(label.name, label.rank), label.recordings) for label in some]
        return card(table(["Label", Number("Recordings")], rows), title=title)

    rarest = labels[_SHOWN:][-_SHOWN:][::-1]
    return section(
        "classes",
        "Classes",
        grid(drawn if len(labels) > 1 else None, card(table(head, bands(falling))), css="two"),
        grid(
            named("Most frequent", labels[:_SHOWN]),
            named("Rarest", rarest) if rarest else None,
            css="two",
        ),
        of=f"{len(labels):,}",
    )


def _licences(facts: Facts) -> Section:
    # By recordings where no length is known.
    named = (
        permissions({s.name: s.hours for s in facts.licences})
        if facts.hours
        else permissions({s.name: s.recordings for s in facts.licences}, "recordings")
    )
    first, *others = [tag("b", named[0]), *named[1:]]
    told = (
        "This is read from the licences' names and is no advice of a lawyer. `chorus data credits` "
        "lists the credits of every recordist."
    )

    def name(url: str) -> Markup:
        return link(licence_name(url), url, "noreferrer license")

    shares = _shares(facts, "Licence of the sound", facts.licences, name)
    return section(
        "licences", "Licences", card(first, items(others, "told")), card(shares), note(told)
    )


def _where(facts: Facts) -> Section:
    where = note("No recording has coordinates.", css="none")
    if facts.places:
        described = f"Map of the world with the places of {facts.placed:,} recordings"
        told = f"{facts.placed:,} of {facts.recordings:,} recordings have coordinates."
        legend = map_legend(f"recordings within {2}°:")
        where = tag("figure", world(facts.places, label=described), legend, note(told), css="card")
    some, rest = facts.countries[:_SHOWN], facts.countries[_SHOWN:300]

    def shares(rows: Sequence[Share]) -> Markup:
        return _shares(facts, "Country", rows, people=False, all_rows=facts.countries)

    more = details(f"{len(rest)} more", shares(rest)) if rest else None
    years, drawn = dict(facts.years), None
    if years:
        last = max(years)
        shown = range(max(min(years), last - _MOST_YEARS + 1), last + 1)
        drawn = columns(
            [years.get(year, 0) for year in shown], [str(year) for year in shown],
            unit="recordings by year",
            label=f"Recordings by year, {shown[0]} to {last}; the table below has the numbers",
        )  # fmt: skip
    numbers = details("Numbers", counts("Year", "Recordings", facts.years)) if years else None
    undated = note(f"{facts.no_year:,} recordings have no date.")
    by_year = figure("Year of recording", drawn, numbers, undated)
    return section(
        "where", "Where and when", where, grid(card(shares(some), more), by_year, css="two")
    )


def _sound(facts: Facts) -> Section:
    def name(seconds: int) -> str:
        return f"{seconds}+" if seconds < 60 else f"{seconds // 60}m+"

    parts = []
    if any(facts.durations):
        names = [f"<{DURATIONS_S[0]}", *map(name, DURATIONS_S)]
        described = "Histogram of the recordings' lengths; the table below has the numbers"
        drawn = columns(facts.durations, names, unit="recordings", label=described)
        pairs = zip(names, facts.durations, strict=True)
        parts.append(_more("Length of the recordings", "seconds, minutes", drawn, "From", pairs))
    if facts.rates:
        described = "Histogram of the original sample rates; the table below has the numbers"
        drawn = columns(
            [n for _, n in facts.rates], [f"{rate / 1000:.3g}" for rate, _ in facts.rates],
            unit="recordings by kHz", label=described,
        )  # fmt: skip
        parts.append(_more("Sample rate", "kHz", drawn, "Hz", facts.rates))
    kinds = (("Codec", facts.codecs), ("Channels", facts.channels))
    formats = [counts(name, "Recordings", rows) for name, rows in kinds if rows]
    if formats:
        parts.append(card(formats, title="Format"))
    unknown = (
        note(
            "Rates and formats are known once the files were read (chorus prep shards).", css="none"
        )
        if not facts.rates and not facts.codecs
        else None
    )
    return section(
        "sound", "Sound", grid(parts, css="three"), unknown, of="as the archives have it"
    )
