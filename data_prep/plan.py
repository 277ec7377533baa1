"""Which recording goes to which shard, in which order, under which key: decided before any work.

The plan is a pure function of the recordings and the options. Shards can therefore be written by
any number of processes, in any order, by a run that was killed and started again, and come out
byte for byte the same.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from data_prep.recordings import Recording

# A small dataset still gets this many shards where it has 8 recordings for each, so that several
# processes can write it and several workers can read it.
MIN_SHARDS = 16
MIN_RECORDINGS_PER_SHARD = 8
_KEY_LENGTH = 72  # with piece number and extension below the 100 characters of a plain tar header


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard to write: its place in the dataset and the recordings in it, in order."""

    split: str
    number: int
    members: tuple[int, ...]
    seconds: float

    @property
    def path(self) -> str:
        """Path within the dataset: "train/000000.tar"."""
        return f"{self.split}/{self.number:06d}.tar"


def plan_shards(
    recordings: Sequence[Recording],
    seconds: Sequence[float],
    *,
    bytes_per_second: float,
    shard_bytes: float,
    seed: int,
) -> list[ShardPlan]:
    """Cut every split into shards of about equal size, at most about `shard_bytes` each.

    `seconds` are estimates; a recording is never divided between shards.
    """
    by_split: dict[str, list[int]] = {}
    for i, recording in enumerate(recordings):
        by_split.setdefault(recording.split, []).append(i)
    shards = []
    for split in sorted(by_split):
        members = by_split[split]
        order = spread([recordings[i].group_id for i in members], generator(seed, split))
        ordered = [members[k] for k in order]
        weight_R = np.array([max(seconds[i], 0.1) for i in ordered])
        total_bytes = float(weight_R.sum()) * bytes_per_second
        fewest = max(1, min(MIN_SHARDS, len(ordered) // MIN_RECORDINGS_PER_SHARD))
        count = min(max(int(np.ceil(total_bytes / shard_bytes)), fewest), len(ordered))
        middle_R = np.cumsum(weight_R) - weight_R / 2
        shard_R = np.minimum((middle_R / weight_R.sum() * count).astype(int), count - 1)
        filled = 0
        for s in range(count):
            chosen_K = np.flatnonzero(shard_R == s)
            if len(chosen_K):
                members_of_shard = tuple(ordered[k] for k in chosen_K)
                estimate_s = float(weight_R[chosen_K].sum())
                shards.append(ShardPlan(split, filled, members_of_shard, estimate_s))
                filled += 1
    return shards


def generator(seed: int, *where: str | int) -> np.random.Generator:
    """Return the random generator of one place (a split, a shard): the same in every process."""
    words = [item if isinstance(item, int) else zlib.crc32(item.encode()) for item in where]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def spread(groups: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Return a random order in which the members of each group lie evenly apart.

    Member k of the n of a group falls at a random place in the k-th n-th of the order. A plain
    shuffle leaves runs of one recordist; keeping groups together would leave nothing but runs.
    """
    by_group: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        by_group.setdefault(group, []).append(i)
    place_N = np.empty(len(groups))
    for members in by_group.values():
        count = len(members)
        place_N[rng.permutation(members)] = (np.arange(count) + rng.random(count)) / count
    return [int(i) for i in np.argsort(place_N, kind="stable")]


def key_stems(recordings: Sequence[Recording]) -> list[str]:
    """Return a key for every recording: letters, digits, '-' and '_' only, unique ignoring case.

    From the archive's id, or the file's name where that is the id. WebDataset takes the name up
    to its first dot as the key, so dots go; a key that would occur twice gets a digest of the
    recording's id.
    """
    plain = [_plain(recording) for recording in recordings]
    count: dict[str, int] = {}
    for stem in plain:
        count[stem.lower()] = count.get(stem.lower(), 0) + 1
    return [
        stem
        if count[stem.lower()] == 1
        else f"{stem}-{hashlib.sha256(recording.id.encode()).hexdigest()[:10]}"
        for stem, recording in zip(plain, recordings, strict=True)
    ]


def _plain(recording: Recording) -> str:
    text = recording.source_id
    if text == recording.path:
        text = PurePosixPath(text).with_suffix("").name
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_text).strip("_-")[:_KEY_LENGTH] or "recording"
