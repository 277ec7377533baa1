"""Who is to be credited, and what the licences of a mixture permit as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.report.citations import bibtex, citation
from dawnchorus.data_prep.table.recording_table import table_path
from dawnchorus.data_prep.table.scan import readable, scan
from dawnchorus.data_prep.tools.spreadsheets import csv_text
from dawnchorus.trainer.licences import Licence, read_licence
from dawnchorus.trainer.markdown import address, link, plain

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("text", "markdown", "csv", "bibtex")
_COLUMNS = ("source", "source_id", "url", "licence_url", "recordist", "attribution")
_ROWS = 10_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Where a recording's page is, for ids that look like this; else the address of its audio.
_PAGES = {
    "xc": (re.compile(r"(\d+)"), r"https://xeno-canto.org/\1"),
    "gbif": (re.compile(r"(\d+)"), r"https://www.gbif.org/occurrence/\1"),
    "audioset": (re.compile(r"([\w-]{11})@(\d+)(?:\.\d+)?", re.ASCII), r"https://youtu.be/\1?t=\2"),
}


# --------------------------------------------------------------------------- terms of licences


def strictest(licence_urls: Iterable[str]) -> str:
    """Return the licence that is as strict as a mixture of known licences: "CC BY-NC-SA", "CC0" ...

    Where share-alike and no-derivatives meet, both are named: no one licence says so. Licences
    that are not known are left aside; "" where none is known.
    """
    known = [asked for asked in map(read_licence, set(licence_urls)) if asked.creative_commons]
    if not known:
        return ""
    terms = frozenset().union(*(asked.terms for asked in known))
    if not terms:
        return "public domain"
    name = "CC BY" + ("-NC" if "nc" in terms else "")
    alike, fixed = "sa" in terms, "nd" in terms
    if alike and fixed:
        return f"{name}, parts SA, parts ND"
    return name + ("-SA" if alike else "") + ("-ND" if fixed else "")


def permissions(amounts: Mapping[str, float], unit: str = "h") -> list[str]:
    """Return sentences on what a mixture as a whole permits, the strictest part deciding.

    `amounts` are hours (or recordings, as `unit` says) by licence URL. It follows from the names of
    the licences; it is not legal advice.
    """
    total = sum(amounts.values())
    by_url = {url: (read_licence(url), n) for url, n in amounts.items()}
    found = [asked for asked, _ in by_url.values()]

    def part(test: Callable[[Licence], bool]) -> str:
        value = sum(n for asked, n in by_url.values() if test(asked))
        share = f" ({100 * value / total:.1f} %)" if total else ""
        if unit == "h" and value < 0.1:
            return f"{60 * value:.2g} min{share}"
        return f"{value:,.3g} {unit}{share}" if value < 100 else f"{value:,.0f} {unit}{share}"

    rule = strictest(amounts)
    unclear = any(not asked.creative_commons for asked in found)
    if rule and unclear:
        said = [f"As strict as {rule}, and a part comes under no licence that can be relied on."]
    elif rule:
        said = [f"As a whole it is as strict as {rule}."]
    else:
        said = ["It comes under no licence that can be relied on."]
    if unclear:
        said.append(
            f"{part(lambda t: not t.creative_commons)} state no licence, or one that is not read "
            "here with certainty: take all rights to be reserved, and do not pass that part on."
        )
    if any(asked.creative_commons and asked.terms for asked in found):
        said.append(f"Credit is due for {part(lambda t: t.creative_commons and bool(t.terms))}.")
    if any(asked.nc for asked in found):
        said.append(f"No commercial use of {part(lambda t: t.nc)} (NC).")
    if any(asked.nd for asked in found):
        said.append(
            f"Unchanged copies only of {part(lambda t: t.nd)} (ND). Clips are "
            "resampled, mixed to mono and cut: whether that is a change is disputed, so do not "
            "publish that part without asking."
        )
    alike = sorted({asked.name for asked in found if asked.sa})
    if alike:
        said.append(
            f"Changed copies of {part(lambda t: t.sa)} go on under the licence they came "
            f"with (SA: {', '.join(alike)})."
        )
    if len(alike) > 1:
        said.append(
            "One work adapted from recordings under several of these share-alike licences can "
            "hardly satisfy all of them: pass them on as separate clips."
        )
    return said


# --------------------------------------------------------------------------- credits


@dataclass(frozen=True, slots=True)
class _Person:
    """A recordist's recordings under one licence. `links` is empty where no credit is due."""

    recordist: str
    recordings: int
    hours: float
    links: list[str]


def write_credits(path: Path, format: str = "text") -> Iterator[str]:
    """Yield the lines (without newline) of the attribution for a dataset or recording table.

    `format`: "text", "markdown", "csv" (one row per licence and recordist), or "bibtex" (the
    sources alone: recordists are credited by name, not as publications). Memory holds the credit
    columns of one licence at a time. Raises PrepError where there is no table, or for another
    format.
    """
    if format not in FORMATS:
        raise PrepError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    table = table_path(path)
    lines = {"text": _text, "markdown": _markdown, "csv": _csv, "bibtex": _bibtex}[format]
    with readable(table):
        yield from lines(_Ledger(table))


def recording_link(source: str, source_id: str, url: str) -> str:
    """Return the address of a recording's page, or of its audio, or "" where neither is known."""
    if source in _PAGES:
        shape, page = _PAGES[source]
        found = shape.fullmatch(source_id)
        if found:
            return found.expand(page)
    return url if url.startswith(("https://", "http://")) else ""


class _Ledger:
    """The credit columns of a table, one licence at a time."""

    def __init__(self, table: Path) -> None:
        import polars as pl

        if "source" not in pl.scan_parquet(table).collect_schema().names():
            raise PrepError(f"{table} is no recording table: no column 'source'.")
        frame = scan(table, duration_s=0.0, **dict.fromkeys(_COLUMNS, ""))
        self.scan = frame.select(*_COLUMNS, hours=pl.col("duration_s") / 3600)

    def licences(self) -> list[tuple[str, int, float]]:
        """(licence URL, recordings, hours), the most recordings first."""
        import polars as pl

        query = self.scan.group_by("licence_url").agg(pl.len().alias("n"), pl.col("hours").sum())
        rows = query.collect(engine="streaming").iter_rows()
        return sorted(rows, key=lambda row: (-row[1], row[0]))

    def sources(self) -> list[tuple[str, int, float]]:
        """(source, recordings, hours)."""
        import polars as pl

        query = self.scan.group_by("source").agg(pl.len().alias("n"), pl.col("hours").sum())
        return sorted(query.collect(engine="streaming").iter_rows())

    def people(self, licence_url: str) -> Iterator[_Person]:
        """Yield the recordists of a licence by name."""
        import polars as pl

        asks = not _is_free(read_licence(licence_url))
        wanted = self.scan.filter(pl.col("licence_url") == licence_url).drop("licence_url")
        who = pl.when(pl.col("recordist") != "").then("recordist").otherwise("attribution")
        frame = wanted.with_columns(who=who).drop("recordist", "attribution")
        frame = frame.sort("who", "source", "source_id")
        yield from _grouped(frame.collect(engine="streaming"), asks)


def _grouped(frame: pl.DataFrame, asks: bool) -> Iterator[_Person]:
    """Join the rows (sorted by `who`) of each person."""
    name: str | None = None
    count, hours, links = 0, 0.0, list[str]()
    for part in frame.iter_slices(_ROWS):
        for row in part.iter_rows(named=True):
            if row["who"] != name:
                if name is not None:
                    yield _Person(_clean(name), count, hours, links)
                name, count, hours, links = row["who"], 0, 0.0, []
            count += 1
            hours += row["hours"]
            if asks:
                link = recording_link(row["source"], row["source_id"], row["url"])
                if link and (not links or links[-1] != link):
                    links.append(_clean(link).replace(" ", "%20"))
    if name is not None:
        yield _Person(_clean(name), count, hours, links)


def _clean(text: str) -> str:
    """Return a text as one line, whatever the archive contains."""
    return " ".join(_CONTROL.sub(" ", text).split())


def _many(count: int, hours: float) -> str:
    noun = "recording" if count == 1 else "recordings"
    if not hours:
        return f"{count:,} {noun}"
    return f"{count:,} {noun}, " + (f"{hours:,.2f} h" if hours >= 0.1 else f"{3600 * hours:.0f} s")


def licence_name(licence_url: str) -> str:
    """Return what to print for a licence: "CC BY-NC 4.0", its text, or "not stated"."""
    return read_licence(licence_url).name or "not stated"


def _is_free(licence: Licence) -> bool:
    """Return whether the licence does not even ask for credit."""
    return licence.creative_commons and not licence.terms


def _duty(licence_url: str) -> str:
    asked = read_licence(licence_url)
    if not asked.creative_commons:
        return "No licence that can be relied on: ask the recordist before you pass these on."
    return "" if not _is_free(asked) else "No credit is asked for; it is given all the same."


def _text(ledger: _Ledger) -> Iterator[str]:
    yield "Sources"
    for source, count, hours in ledger.sources():
        yield f"  {source}: {_many(count, hours)}. {citation(source)}".rstrip(" .") + "."
    for url, count, hours in ledger.licences():
        yield ""
        address = f" <{_clean(url)}>" if url.startswith("http") else ""
        yield f"{_clean(licence_name(url))}{address}: {_many(count, hours)}"
        if _duty(url):
            yield f"  {_duty(url)}"
        for person in ledger.people(url):
            who = person.recordist or "recordist not stated"
            links = ": " + " ".join(person.links) if person.links else ""
            yield f"  {who}, {_many(person.recordings, person.hours)}{links}"


def _markdown(ledger: _Ledger) -> Iterator[str]:
    yield "# Credits"
    yield ""
    yield "## Sources"
    yield ""
    for source, count, hours in ledger.sources():
        text = f"* **{plain(source)}**, {_many(count, hours)}. {citation(source)}"
        yield text.rstrip(" .") + "."
    for url, count, hours in ledger.licences():
        yield ""
        yield f"## {link(licence_name(url), url)}"
        yield ""
        yield f"{_many(count, hours)}. {_duty(url)}".rstrip()
        yield ""
        for person in ledger.people(url):
            who = plain(person.recordist) or "recordist not stated"
            pages = ", ".join(map(address, person.links))
            links = f": {pages}" if pages else ""
            yield f"* {who}, {_many(person.recordings, person.hours)}{links}"


def _csv(ledger: _Ledger) -> Iterator[str]:
    yield _csv_line("licence", "licence_url", "recordist", "recordings", "hours", "links")
    for url, _, _ in ledger.licences():
        for person in ledger.people(url):
            yield _csv_line(
                licence_name(url),
                url,
                person.recordist,
                person.recordings,
                f"{person.hours:.4f}",
                " ".join(person.links),
            )


def _csv_line(*cells: Any) -> str:
    return csv_text([cells]).removesuffix("\n")


def _bibtex(ledger: _Ledger) -> Iterator[str]:
    for source, _, _ in ledger.sources():
        entry = bibtex(source)
        if entry:
            yield entry
            yield ""
