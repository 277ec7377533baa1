"""The page about a dataset or a recording table: what `dataset.jinja` shows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dawnchorus.data_prep.dataset.same_audio import same_audio_words
from dawnchorus.data_prep.report.citations import source_name
from dawnchorus.data_prep.report.clips import clips
from dawnchorus.data_prep.report.credits import licence_name, permissions, strictest
from dawnchorus.data_prep.report.findings import grids
from dawnchorus.data_prep.report.gather import DURATIONS_S, Facts, gather
from dawnchorus.data_prep.table.recording_table import table_path
from dawnchorus.data_prep.tools.whole_text import write_lines
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page import link, page, taxon
from dawnchorus.trainer.page.charts import columns, tail, world

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
        table_path(path), index=facts.folder / "index.parquet" if facts.finished else None,
        audio_root=audio or facts.folder, count=count, problems=problems, private=private,
    )  # fmt: skip
    kind = "dataset" if facts.finished else "recording table"
    html = page(
        Path(__file__).with_name("dataset.jinja"), kind, facts.name, verdict(facts), f=facts,
        clips=found, problems=problems, private=private, hours=hours, source_name=source_name,
        licence_link=licence_link, **_values(facts), **_charts(facts),
    )  # fmt: skip
    target = out / "report.html" if out.is_dir() else out
    write_lines(target, [html.rstrip()])
    return target


def hours(value: float) -> str:
    """Write 1,234 h, 56.7 h, 1.23 h, or 0.24 min."""
    if value >= 10:
        return f"{value:,.0f} h" if value >= 1000 else f"{value:.1f} h"
    return f"{value:.2f} h" if value >= 0.1 or not value else f"{60 * value:.2g} min"


def licence_link(url: str) -> Markup:
    """Return a licence's name with a link to its text."""
    return link(licence_name(url), url, "noreferrer license")


def verdict(facts: Facts) -> str:
    """Say what it is, in a sentence or two."""
    what = f"{facts.recordings:,} recordings"
    what += f" by {facts.recordists:,} recordists" if facts.recordists else ""
    what += f", {hours(facts.hours).replace(' h', ' hours')}" if facts.hours else ""
    kinds = [f"{facts.species:,} species"] if facts.species else []
    if others := sum(label.rank not in ("species", "subspecies") for label in facts.labels):
        kinds.append(f"{others:,} {'other ' if kinds else ''}labels")
    sentence = what + (f": {' and '.join(kinds)}." if kinds else ".")
    left_out = sum(reason.number for reason in facts.findings.rejected)
    were = "was" if left_out == 1 else "were"
    return sentence + (f" {left_out:,} more {were} left out." if left_out else "")


def bands(counts: Sequence[int]) -> list[tuple[str, int, int]]:
    """(recordings of a class, how many classes, their recordings), from many to one."""
    rows = []
    for above, least in itertools.pairwise((0, 1000, 100, 10, 2, 1)):
        inside = [n for n in counts if n >= least and (not above or n < above)]
        name = f"{least:,} to {above - 1:,}" if above - least > 1 else str(least)
        rows.append((name if above else f"{least:,} or more", len(inside), sum(inside)))
    return rows


def _values(facts: Facts) -> dict[str, Any]:
    """The rows of the tables that are more than a field of the facts."""
    found, options = facts.findings, (facts.stats.get("options") or {}).items()
    tables, settings = grids(found.selection)
    measure = "hours" if facts.hours else "recordings"  # where no length is known
    amounts = {share.name: float(getattr(share, measure)) for share in facts.shares["licence_url"]}
    unclear = not all(read_licence(url).creative_commons for url in amounts)
    # A licence's name is not broken at its hyphens.
    rule = (strictest(amounts) or "no licence known").replace("-", "\N{NON-BREAKING HYPHEN}")
    tiles = {
        "recordings": facts.recordings, "clips": facts.clips,
        "sound": hours(facts.hours) if facts.hours else "not stated", "species": facts.species,
        "labels": f"{len(facts.labels):,}", "recordists": f"{facts.recordists:,}",
        "countries": sum(bool(share.name) for share in facts.shares["country"]),
        "as strict as, in part unclear" if unclear else "as strict as": rule,
    }  # fmt: skip
    orders = [
        (o.name, s.name, o.recordings, hours(o.hours) if o.hours else None, o.species or None)
        for s in facts.shares["class"]
        for o in s.parts
    ]
    return {
        "same_audio_words": same_audio_words,
        "tiles": [(k, f"{v:,}" if isinstance(v, int) else v) for k, v in tiles.items() if v],
        "measure": measure,
        "bands": bands([label.recordings for label in facts.labels]),
        "permissions": permissions(amounts, "h" if facts.hours else measure),
        "common": [(taxon(n, rank), count) for n, rank, count in facts.labels[:12]],
        "rarest": [(taxon(n, rank), count) for n, rank, count in facts.labels[:11:-1][:12]],
        "orders": orders if any(len(share.parts) > 4 for share in facts.shares["class"]) else [],
        "kinds": [
            (k.replace("_", " "), n) for k, n in (found.duplicates or Counter()).most_common()
        ],
        "overlap": [(*pair, n) for pair, n in (found.leakage or Counter()).most_common()],
        "options": [(k.replace("_", " "), None if v is None else str(v)) for k, v in options],
        "tables": tables,
        "settings": settings,
    }


def _charts(facts: Facts) -> dict[str, Any]:
    years = dict(facts.counts["year"])
    first, last = min(years, default=0), max(years, default=0)
    shown = range(max(first, last - _MOST_YEARS + 1), last + 1)
    names = [f"{s}+" if s < 60 else f"{s // 60}m+" for s in DURATIONS_S]
    lengths = list(zip([f"<{DURATIONS_S[0]}", *names], facts.durations, strict=True))
    beside = "; the table below has the numbers"
    rates = [(f"{rate / 1000:.3g}", n) for rate, n in facts.counts["sample_rate_hz"]]
    return {
        "long_tail": tail(
            [label.recordings for label in facts.labels], unit="recordings",
            label=f"Recordings of each of {len(facts.labels):,} classes, the most frequent first, "
            "both axes logarithmic; the table beside it has the numbers",
        ),
        "map": facts.places and world(
            facts.places, label=f"Map of the world with the places of {facts.placed:,} recordings"
        ),
        "years": columns(
            [(str(year), years.get(year, 0)) for year in shown], unit="recordings by year",
            label=f"Recordings by year, {shown[0]} to {last}{beside}",
        ),
        "histograms": [
            (title, unit, columns(rows, unit=over, label=f"Histogram of the {what}{beside}"), name,
             numbers)
            for title, unit, rows, over, what, name, numbers in (
                ("Length of the recordings", "seconds, minutes", lengths, "recordings",
                 "recordings' lengths", "From", lengths),
                ("Sample rate", "kHz", rates, "recordings by kHz", "original sample rates", "Hz",
                 facts.counts["sample_rate_hz"]),
            )
            if any(n for _, n in rows)
        ],
    }  # fmt: skip
