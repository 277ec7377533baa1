"""Which shards of a plan are written, and which parts still have to write the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dawnchorus.data_prep.dataset.plan import Plan, ShardPlan
from dawnchorus.data_prep.dataset.work_folder import WORK, counts_of_parts
from dawnchorus.data_prep.dataset.write_shard import ShardSummary, read_summary, result_name

_NAMED = 20


def summary_of(plan: Plan, shard: ShardPlan, out: Path) -> ShardSummary | None:
    """Return the summary of a written shard; None where the summary or the tar is missing, or where
    it was written for another plan.
    """
    summary = read_summary(out / WORK / result_name(shard.path))
    if summary is not None and summary.plan not in ("", plan.fingerprint):
        return None
    if summary is None or not summary.clips:
        return summary
    try:
        return summary if (out / shard.path).stat().st_size == summary.bytes else None
    except FileNotFoundError:
        return None


def missing_shards(plan: Plan, out: Path) -> list[int]:
    """Return the numbers of the shards that are still to be written."""
    return [k for k, shard in enumerate(plan.shards) if summary_of(plan, shard, out) is None]


def missing_message(plan: Plan, out: Path, missing: Sequence[int]) -> str:
    """Return a message on the missing shards, and on the parts that have to write them."""
    counts = counts_of_parts(out)
    names = ", ".join(plan.shards[k].path for k in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    text = f"{len(missing)} of {len(plan.shards)} shards of {out} are not written: {names}{more}.\n"
    if len(counts) == 1:
        (count,) = counts
        parts = sorted({k % count + 1 for k in missing})
        return text + (
            f"Parts that have not finished: {', '.join(f'{n}/{count}' for n in parts)}. Run them "
            "(again), then merge."
        )
    return text + "`chorus prep shards` with the same table and options, without --part, ends it."
