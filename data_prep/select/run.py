"""The selection from beginning to end: filters, evaluation, duplicates, limits, split, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.data_prep.audio.excerpts import segment_of
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.select import evaluation as keep
from dawnchorus.data_prep.select.caps import apply_caps
from dawnchorus.data_prep.select.duplicates import Link, Row, resolve, same_key
from dawnchorus.data_prep.select.filters import apply_filters, filter_duration, licence_costs
from dawnchorus.data_prep.select.identity import event_keys, youtube_key
from dawnchorus.data_prep.select.losses import why_nothing
from dawnchorus.data_prep.select.same_sound import find_same
from dawnchorus.data_prep.select.selection_rows import Rows, read_rows
from dawnchorus.data_prep.select.sound import Audio, Prints, take_prints
from dawnchorus.data_prep.select.split import describe, place_all
from dawnchorus.data_prep.select.write_selection import Leak, Result, write_all
from dawnchorus.data_prep.table.recording_table import RECORDINGS, table_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from dawnchorus.data_prep.select.selection_recipe import SelectRecipe
    from dawnchorus.trainer.progress import Progress

# Kinds of sounds: of the tables, of the evaluation sets, of sources that have no near copies.
OWN, HELD, DISTINCT = 0, 1, 2


@dataclass
class Findings:
    """What the steps found, besides the rows that they removed."""

    leaks: list[Leak] = field(default_factory=list)
    dropped: dict[int, Link] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)


def select(recipe: SelectRecipe, out: Path, progress: Progress) -> Result:
    """Make the selection and write it to `out`; return what the summary tells.

    A run that was stopped goes on from the fingerprints it has. Raises PrepError when nothing is
    left, a table or a set is not there, or `out` is the folder of one of them.
    """
    _check_out(recipe, out)
    rows = read_rows({name: (t.table, t.audio) for name, t in recipe.tables.items()})
    rows.step("all rows")
    tables = [table_path(t.table) for t in recipe.tables.values()]
    apply_filters(rows, recipe.filters, tables)
    rows.step("filters")

    found = Findings()
    known = keep.read_sets(recipe.evaluation)
    _drop_by_name(rows, recipe, known, found)
    rows.step("evaluation: names and numbers")
    _drop_same_id(rows, recipe, found)
    rows.step("duplicates: numbers")
    if recipe.hears:
        _hear(rows, recipe, known, found, out, progress)
    else:
        filter_duration(rows, recipe.filters.duration, unknown_may_change=False)
    labels = apply_caps(rows, recipe.caps, recipe.tables)
    if not rows.left().height:
        raise PrepError(
            f"Nothing is left of the {rows.frame.height:,} recordings of the tables:\n"
            + why_nothing(rows, recipe)
        )
    left = rows.left()
    placed = place_all(left, found.links, recipe.split)
    # Only now, for all rows: reading the audio has given the lengths that tables lack.
    costs = licence_costs(rows.frame, recipe.filters.licences)
    return write_all(
        out, recipe, rows, placed, leaks=found.leaks, dropped=found.dropped, links=found.links,
        labels=labels, licence_costs=costs, sets=known.recordings, parts=describe(left, placed),
    )  # fmt: skip


def _check_out(recipe: SelectRecipe, out: Path) -> None:
    for name, table in recipe.tables.items():
        if table_path(table.table).resolve() == (out / RECORDINGS).resolve():
            raise PrepError(f"--out {out} is the folder of tables.{name}; choose another.")


# --------------------------------------------------------------------- by what the rows say


def _drop_by_name(rows: Rows, recipe: SelectRecipe, known: keep.Known, found: Findings) -> None:
    """Drop held-out species, and rows that name a recording of an evaluation set."""
    species = keep.held_species(recipe.evaluation)
    if not (species or known.keys or known.events):
        return
    columns = ("n", "id", "source", "source_id", "url", "path", "names", "others", "datetime",
               "recordist")  # fmt: skip
    for row in rows.left().select(columns).iter_rows(named=True):
        n = row["n"]
        heard = [name for name in (*row["names"], *row["others"]) if keep.is_held(name, species)]
        if heard:
            found.leaks.append(Leak(n, "held_out_species", "", "", detail=heard[0]))
        if known.keys:
            tube = youtube_key(row["id"])
            keys = sorted(keep.row_keys(row) | ({tube} if tube else set()))
            _note(found, n, "id", keys, known.keys)
        if known.events:
            keys = sorted(event_keys(row["names"], row["datetime"], row["recordist"]))
            _note(found, n, "event", keys, known.events)
    _drop_leaks(rows, found.leaks)


def _note(
    found: Findings, n: int, rule: str, keys: Iterable[str], known: dict[str, tuple[str, str]]
) -> None:
    """Note a leak for the first of the keys of a row that each set has."""
    sets = set()
    for key in keys:
        if key in known and known[key][0] not in sets:
            sets.add(known[key][0])
            found.leaks.append(Leak(n, rule, *known[key], detail=key))


def _drop_leaks(rows: Rows, leaks: Sequence[Leak]) -> None:
    for leak in leaks:
        text = f"{leak.evaluation_set} {leak.evaluation_id} {leak.detail}".strip()
        rows.drop([leak.n], f"evaluation_{leak.rule}", text)


def _drop_same_id(rows: Rows, recipe: SelectRecipe, found: Findings) -> None:
    """Drop rows that repeat an id; by archive number as the recipe has it."""
    left = rows.left()
    _settle(rows, recipe, found, same_key(left.select("n", "id").iter_rows(), "id"), must=True)
    if recipe.duplicates.same_id:
        columns = ("n", "id", "source", "source_id", "url", "path")
        pairs = [
            (row["n"], key)
            for row in rows.left().select(columns).iter_rows(named=True)
            for key in sorted(keep.row_keys(row))
        ]
        _settle(rows, recipe, found, same_key(pairs, "id"))


def _settle(
    rows: Rows, recipe: SelectRecipe, found: Findings, links: Sequence[Link], *, must: bool = False
) -> None:
    """Drop all but one of each sound, or keep the links, as the recipe says."""
    if not links:
        return
    if recipe.duplicates.action == "keep" and not must:
        found.links += links
        return
    touched = sorted({n for link in links for n in (link.a, link.b)})
    about = rows.left().filter(rows.left()["n"].is_in(touched))
    columns = ("n", "id", "licence", "quality", "duration_s")
    mine = {row[0]: Row(*row) for row in about.select(columns).iter_rows()}
    gone = resolve(mine, links, recipe.duplicates.prefer)
    found.dropped |= gone
    ids = dict(rows.frame.filter(rows.frame["n"].is_in(touched)).select("n", "id").iter_rows())
    for n, link in gone.items():
        rows.drop([n], f"duplicate_{link.kind}", f"of {ids[link.a]}")
    # Recordings that share only a part stay, and are kept in one group.
    found.links += [link for link in links if link.a not in gone and link.b not in gone]


# --------------------------------------------------------------------------- by the sound


def _hear(
    rows: Rows,
    recipe: SelectRecipe,
    known: keep.Known,
    found: Findings,
    out: Path,
    progress: Progress,
) -> None:
    """Read the audio; drop broken recordings, those of evaluation sets, and duplicates."""
    left = rows.left()
    numbers = left["n"].to_list()
    audios = [
        Audio(path, segment=segment_of(key, duration_s, path))
        for path, key, duration_s in zip(left["audio"], left["id"], left["duration_s"], strict=True)
    ]
    audios += [sound.audio for sound in known.sounds]
    cache = recipe.run.cache or out / "cache"
    run = recipe.run
    prints = take_prints(
        audios, cache, max_s=run.max_fingerprint_s, jobs=run.jobs, progress=progress
    )
    own = len(numbers)
    _drop_broken(rows, left, prints.reason_R[:own], prints.detail_R[:own])
    _take_durations(rows, numbers, prints.duration_s_R[:own], progress)
    filter_duration(rows, recipe.filters.duration, unknown_may_change=False)
    rows.step("audio")

    alive = rows.reason_R[numbers] == ""
    sha1s = prints.pcm_sha1_R
    digests = dict(known.samples)
    for sound, digest in zip(known.sounds, sha1s[own:], strict=True):
        if digest and recipe.evaluation.sets[sound.set].same_samples:
            digests.setdefault(digest, (sound.set, sound.id))
    for n, digest, is_in in zip(numbers, sha1s[:own], alive, strict=True):
        if is_in:
            _note(found, n, "samples", [digest], digests)
    same = [(n, d) for n, d, is_in in zip(numbers, sha1s[:own], alive, strict=True) if is_in]
    links = same_key(same, "samples") if recipe.duplicates.same_samples else []

    kinds = _kinds(recipe, left["source"].to_list(), len(audios))
    use_R = _searched(sha1s, own, alive.tolist())
    matches = _matches(recipe, prints, use_R, audios, kinds, cache, progress)
    near, leaks = _read_matches(recipe, matches, numbers, known, prints.duration_s_R)
    found.leaks += leaks
    links += near
    _spread(rows, found, links)
    _drop_leaks(rows, found.leaks)
    rows.step("evaluation: sound")
    stay = set(rows.left()["n"])
    _settle(rows, recipe, found, [ln for ln in links if ln.a in stay and ln.b in stay])
    rows.step("duplicates: sound")


def _drop_broken(
    rows: Rows, left: pl.DataFrame, reasons: Sequence[str], details: Sequence[str]
) -> None:
    for n, path, reason, detail in zip(left["n"], left["audio"], reasons, details, strict=True):
        if not path:
            rows.drop([n], "missing", "the table has no path: download the audio first")
        elif reason:
            rows.drop([n], reason, detail)


def _take_durations(
    rows: Rows, numbers: Sequence[int], heard_s: NDArray[np.float64], progress: Progress
) -> None:
    """Take the lengths from the audio, so that amounts in hours are amounts of sound."""
    import numpy as np
    import polars as pl

    duration_s = rows.frame["duration_s"].to_numpy().copy()
    stated_s = duration_s[numbers]
    read_s = np.where(heard_s > 0, heard_s, stated_s)
    other = (stated_s > 0) & (abs(read_s - stated_s) > np.maximum(1.0, 0.05 * stated_s))
    if other.any():
        progress.say(
            f"recordings of another length than their tables say: {other.sum():,} "
            f"({stated_s[other].sum() / 3600:,.2f} h stated; {read_s[other].sum() / 3600:,.2f} h "
            "of sound, which counts)"
        )
    duration_s[numbers] = read_s
    rows.set_column("duration_s", pl.Series(duration_s))


def _searched(sha1s: Sequence[str], own: int, alive: Sequence[bool]) -> NDArray[np.bool_]:
    """Return the rows whose vectors are searched: those still in, one for equal samples."""
    import numpy as np

    seen: set[tuple[bool, str]] = set()
    use_R = np.zeros(len(sha1s), bool)
    for r, digest in enumerate(sha1s):
        key = (r < own, digest)
        if (r >= own or alive[r]) and digest and key not in seen:
            seen.add(key)
            use_R[r] = True
    return use_R


def _kinds(recipe: SelectRecipe, sources: Sequence[str], count: int) -> NDArray[np.int8]:
    """Return the kind of every sound: of the tables, of sources that have no near copies, held."""
    import numpy as np

    kind_R = np.full(count, HELD, np.int8)
    distinct = set(recipe.duplicates.distinct_sources)
    kind_R[: len(sources)] = [DISTINCT if source in distinct else OWN for source in sources]
    return kind_R


def _matches(
    recipe: SelectRecipe,
    prints: Prints,
    use_R: NDArray[np.bool_],
    audios: Sequence[Audio],
    kind_R: NDArray[np.int8],
    cache: Path,
    progress: Progress,
) -> list[tuple[int, int, Any]]:
    """Return (a, b, match) of all pairs of sounds that are the same, as places in `audios`."""
    mine = (OWN, DISTINCT)
    forbidden = {(HELD, HELD), (DISTINCT, DISTINCT)}
    if not recipe.duplicates.near:
        forbidden |= {(a, b) for a in mine for b in mine}
    if not any(choice.near for choice in recipe.evaluation.sets.values()):
        forbidden |= {pair for a in mine for pair in ((a, HELD), (HELD, a))}
    if len(forbidden) == 9:
        return []
    return find_same(
        audios, prints.vectors(use_R), prints.duration_s_R, cache, jobs=recipe.run.jobs,
        progress=progress, kind_R=kind_R, forbidden=sorted(forbidden), silent=DISTINCT,
    )  # fmt: skip


def _read_matches(
    recipe: SelectRecipe,
    matches: Sequence[tuple[int, int, Any]],
    numbers: Sequence[int],
    known: keep.Known,
    durations_s: Any,
) -> tuple[list[Link], list[Leak]]:
    """Sort matches into links between rows and leaks from the evaluation sets."""
    links, leaks = [], []
    own = len(numbers)
    for a, b, match in matches:
        common_s = match.overlap_s * match.shared
        whole = common_s >= recipe.duplicates.min_part * min(durations_s[a], durations_s[b])
        if b < own:
            kind = "near" if whole else "part"
            links.append(Link(numbers[a], numbers[b], kind, match.score, common_s, match.lag_s))
        elif recipe.evaluation.sets[known.sounds[b - own].set].near:
            sound = known.sounds[b - own]
            detail = f"{common_s:.2f} s in common"
            leaks.append(
                Leak(numbers[a], "fingerprint", sound.set, sound.id, match.score, common_s, detail)
            )
    return links, leaks


def _spread(rows: Rows, found: Findings, links: Sequence[Link]) -> None:
    """A copy of a recording that evaluation has is one, too."""
    leaked = {leak.n: leak for leak in found.leaks if leak.rule in ("samples", "fingerprint")}
    whole = [link for link in links if link.kind != "part"]
    again = True
    while again:
        again = False
        for link in whole:
            for a, b in ((link.a, link.b), (link.b, link.a)):
                if a in leaked and b not in leaked and not rows.reason_R[b]:
                    leak = leaked[a]
                    copy = dataclasses.replace(leak, n=b, rule="copy", score=link.score)
                    leaked[b] = copy
                    found.leaks.append(copy)
                    again = True
