"""Put the page together and write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dawnchorus.data_prep.dataset.same_audio import same_audio_words
from dawnchorus.data_prep.report import svg
from dawnchorus.data_prep.report.citations import source_name
from dawnchorus.data_prep.report.clips import clips
from dawnchorus.data_prep.report.credits import licence_name, permissions, strictest
from dawnchorus.data_prep.report.findings import flat, grids
from dawnchorus.data_prep.report.gather import DURATIONS_S, RECORDINGS, Facts, gather
from dawnchorus.data_prep.report.tally import NOT_STATED
from dawnchorus.data_prep.report.writing import write_lines
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page import render_page

_LATIN = ("species", "subspecies", "genus", "form", "variety")
_BANDS = (1000, 100, 10, 2, 1)
_MOST_YEARS = 60


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
    page = render(path, selection=selection, audio=audio, count=count, private=private)
    target = out / "report.html" if out.is_dir() else out
    write_lines(target, [page.rstrip()])
    return target


def render(
    path: Path,
    *,
    selection: Path | None = None,
    audio: Path | None = None,
    count: int = 8,
    private: bool = False,
) -> str:
    """Return the page as text; arguments as of `write_report`."""
    facts = gather(path, selection)
    problems: list[str] = []
    table = path / RECORDINGS if path.is_dir() else path
    index = facts.folder / "index.parquet" if facts.finished else None
    found = clips(
        table,
        index=index,
        audio_root=audio or facts.folder,
        count=count,
        problems=problems,
        private=private,
    )
    tables, settings = grids(facts.findings.selection)
    shown = {
        "facts": facts,
        "found": facts.findings,
        "verdict": verdict(facts),
        "tiles": tiles(facts),
        "measure": "hours" if facts.hours else "recordings",
        "permissions": _permissions(facts),
        "drawings": drawings(facts),
        "durations": list(zip(_duration_names(), facts.durations, strict=True)),
        "years": [(year, n) for year, n, _ in facts.years],
        "bands": bands([label.recordings for label in facts.labels]),
        "clips": found,
        "private": private and bool(found),
        "problems": problems,
        "options": facts.stats.get("options") or {},
        "same_audio": facts.stats.get("same_audio_recordings") and same_audio_words(facts.stats),
        "levels": svg.map_levels(),
        "grids": tables,
        "selection": flat(settings),
    }
    filters: dict[str, Callable[..., Any]] = {
        "hours": hours,
        "count": count_text,
        "source": source_name,
        "licence": licence_name,
        "latin": lambda rank: rank in _LATIN,
    }
    return render_page("dawnchorus.data_prep.report", shown, filters)


# --------------------------------------------------------------------------- words and numbers


def hours(value: float) -> str:
    """1,234 / 56.7 / 1.23 / 0.004, with the unit."""
    if value >= 1000:
        return f"{value:,.0f} h"
    if value >= 10:
        return f"{value:.1f} h"
    return f"{value:.2f} h" if value >= 0.1 or not value else f"{60 * value:.2g} min"


def count_text(value: int) -> str:
    """With thousands set apart."""
    return f"{value:,}"


def verdict(facts: Facts) -> str:
    """What it is, in a sentence or two."""
    what = f"{facts.recordings:,} recordings"
    if facts.recordists:
        what += f" by {facts.recordists:,} recordists"
    if facts.hours:
        what += f", {hours(facts.hours).replace(' h', ' hours')}"
    kinds = []
    if facts.species:
        kinds.append(f"{facts.species:,} species")
    others = sum(label.rank not in ("species", "subspecies") for label in facts.labels)
    if others:
        kinds.append(f"{others:,} other labels" if kinds else f"{others:,} labels")
    sentence = what + (f": {' and '.join(kinds)}." if kinds else ".")
    left_out = sum(reason.count for reason in facts.findings.rejected)
    were = "was" if left_out == 1 else "were"
    return sentence + (f" {left_out:,} more {were} left out." if left_out else "")


def tiles(facts: Facts) -> list[tuple[str, str]]:
    """The figures at the top."""
    rows = [("recordings", f"{facts.recordings:,}")]
    if facts.clips:
        rows.append(("clips", f"{facts.clips:,}"))
    rows.append(("sound", hours(facts.hours) if facts.hours else NOT_STATED))
    if facts.species:
        rows.append(("species", f"{facts.species:,}"))
    rows.append(("labels", f"{len(facts.labels):,}"))
    rows.append(("recordists", f"{facts.recordists:,}"))
    known = sum(bool(share.name) for share in facts.countries)
    if known:
        rows.append(("countries", f"{known:,}"))
    named = [share.name for share in facts.licences]
    unclear = not all(read_licence(url).creative_commons for url in named)
    rule = strictest(named) or "no licence known"
    # A licence's name is not broken at its hyphens.
    rule = rule.replace("-", "\N{NON-BREAKING HYPHEN}")
    rows.append(("as strict as, in part unclear" if unclear else "as strict as", rule))
    return rows


def _permissions(facts: Facts) -> list[str]:
    """By recordings where no length is known."""
    if facts.hours:
        return permissions({share.name: share.hours for share in facts.licences})
    return permissions({s.name: s.recordings for s in facts.licences}, "recordings")


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


# --------------------------------------------------------------------------- drawings


def drawings(facts: Facts) -> dict[str, Markup]:
    """The SVGs by name; empty where there is nothing to draw."""
    found = dict.fromkeys(("durations", "rates", "years", "tail", "map"), Markup(""))
    if any(facts.durations):
        found["durations"] = svg.columns(
            facts.durations,
            _duration_names(),
            unit="recordings",
            label="Histogram of the recordings' lengths; the table below has the numbers",
        )
    if facts.rates:
        found["rates"] = svg.columns(
            [n for _, n in facts.rates],
            [f"{rate / 1000:.3g}" for rate, _ in facts.rates],
            unit="recordings by kHz",
            label="Histogram of the original sample rates; the table below has the numbers",
        )
    years = {year: n for year, n, _ in facts.years}
    if years:
        last = max(years)
        shown = range(max(min(years), last - _MOST_YEARS + 1), last + 1)
        found["years"] = svg.columns(
            [years.get(year, 0) for year in shown],
            [str(year) for year in shown],
            unit="recordings by year",
            label=f"Recordings by year, {shown[0]} to {last}; the table below has the numbers",
        )
    if len(facts.labels) > 1:
        found["tail"] = svg.tail(
            [label.recordings for label in facts.labels],
            label=f"Recordings of each of {len(facts.labels):,} classes, the most frequent first, "
            "both axes logarithmic; the table beside it has the numbers",
        )
    if facts.places:
        found["map"] = svg.world(
            facts.places,
            label=f"Map of the world with the places of {facts.placed:,} recordings",
        )
    return found


def _duration_names() -> list[str]:
    def name(seconds: int) -> str:
        return f"{seconds}" if seconds < 60 else f"{seconds // 60}m"

    names = [f"<{DURATIONS_S[0]}"]
    names += [f"{name(a)}+" for a in DURATIONS_S]
    return names
