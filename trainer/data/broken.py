"""The broken clips of a run: counted, and too many end it."""

from __future__ import annotations

from collections.abc import Iterable

from dawnchorus.trainer.data.batches import broken_name
from dawnchorus.trainer.data.module import TrainStream
from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.sound_folders import PREPARE_AGAIN


class BrokenLedger:
    """Counts the distinct broken clips of a run, and ends the run when there are too many.

    Args:
        stream: the training clips; their number is the whole.
        max_broken: the share of them that may be broken.
    """

    def __init__(self, stream: TrainStream, max_broken: float | None = None) -> None:
        self.clips = stream.clips
        self.max_broken = stream.config.max_broken if max_broken is None else max_broken
        self.seen: dict[str, str] = {}
        """Entry (name and reason) of each broken clip, by its name."""

    def add(self, entries: Iterable[str]) -> list[str]:
        """Count broken clips (`broken` of a batch); returns those that were not counted yet."""
        fresh = {broken_name(entry): entry for entry in entries}
        fresh = {name: entry for name, entry in fresh.items() if name not in self.seen}
        self.seen.update(fresh)
        return list(fresh.values())

    def too_many(self) -> bool:
        """Whether the run must stop: more than the allowed share, and at least two clips."""
        return len(self.seen) >= 2 and len(self.seen) > self.max_broken * self.clips

    def check(self) -> None:
        """Stop the run if too many clips are broken.

        Raises:
            DataError: too many broken clips; the message names them.
        """
        if not self.too_many():
            return
        named = list(self.seen.values())
        listed = "".join(f"\n  {name}" for name in named[:10])
        more = f"\n  and {len(named) - 10} more" if len(named) > 10 else ""
        raise DataError(
            f"{len(named)} of {self.clips} clips cannot be decoded, more than data.max_broken="
            f"{self.max_broken:g} allows:{listed}{more}\n"
            f"Restore the shards from a good copy, raise data.max_broken, or {PREPARE_AGAIN}"
        )
