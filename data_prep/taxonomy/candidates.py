"""What an unknown name may have meant: the nearest names of the taxonomies, with scores.

Every unknown name against seven million others would take hours. So only names that share the first
three letters or the whole epithet are compared (a typing error in both is rare), in one pass over
each file, in blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from dawnchorus.data_prep.taxonomy.model import Taxonomy
from dawnchorus.data_prep.taxonomy.names import parse_name
from dawnchorus.data_prep.taxonomy.taxonomy_files import SMALL, Source, frames

BEST = 3
MOST_NAMES = 500
"""How many unknown names get candidates: those that occur most often."""
_LOWEST_SCORE = 70.0


def nearest_names(
    names: Sequence[str], sources: Iterable[Source], taxonomies: Iterable[Taxonomy]
) -> dict[str, list[tuple[str, float]]]:
    """Return {name: [(candidate, score of 100), ...]}, the best first, at most `BEST` each.

    `names` as given, the most frequent first; only the first `MOST_NAMES` are looked up.
    """
    asked = {name: parse_name(name).canonical for name in names[:MOST_NAMES]}
    wanted = {canonical for canonical in asked.values() if canonical}
    best: dict[str, dict[str, float]] = {canonical: {} for canonical in wanted}
    if wanted:
        for taxonomy in taxonomies:
            _compare(best, list(taxonomy.accepted) + list(taxonomy.synonyms))
        heads = sorted({name[:3] for name in wanted})
        tails = sorted({tail for name in wanted if (tail := name.partition(" ")[2])})
        for source in sources:
            if source.kind not in SMALL:
                _compare_file(best, source, heads, tails)
    ranked = {
        name: sorted(found.items(), key=lambda item: (-item[1], item[0]))[:BEST]
        for name, found in best.items()
    }
    return {name: ranked.get(canonical, []) for name, canonical in asked.items()}


def _compare_file(
    best: dict[str, dict[str, float]], source: Source, heads: list[str], tails: list[str]
) -> None:
    import polars as pl

    head, tail = pl.Series(heads).implode(), pl.Series(tails, dtype=pl.String).implode()
    epithet = pl.col("name").str.extract(r"^\S+ (.+)$").fill_null("")
    near = pl.col("name").str.slice(0, 3).is_in(head) | epithet.is_in(tail)
    for frame in frames(source):
        _compare(best, frame.filter(near)["name"].unique().to_list())


def _compare(best: dict[str, dict[str, float]], choices: list[str]) -> None:
    """Bring `choices` into the best of every name."""
    from rapidfuzz import fuzz, process

    by_head: dict[str, list[str]] = defaultdict(list)
    by_tail: dict[str, list[str]] = defaultdict(list)
    for choice in choices:
        by_head[choice[:3]].append(choice)
        if tail := choice.partition(" ")[2]:
            by_tail[tail].append(choice)
    for name, found in best.items():
        tail = name.partition(" ")[2]
        near = by_head.get(name[:3], []) + (by_tail.get(tail, []) if tail else [])
        if not near:
            continue
        for choice, score, _ in process.extract(
            name, near, scorer=fuzz.ratio, limit=2 * BEST, score_cutoff=_LOWEST_SCORE
        ):
            found[choice] = round(score, 1)
        for worse in sorted(found, key=lambda n: (-found[n], n))[BEST:]:
            del found[worse]
