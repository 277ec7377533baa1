"""One shard against its rows of the index: the tar, the hash, the records, the sound.

Shape legend: T samples, C channels.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dawnchorus.data_prep.audio.decoders import brief
from dawnchorus.data_prep.audio.processes import decoding
from dawnchorus.data_prep.dataset.places import finer_than
from dawnchorus.data_prep.dataset.verify_events import check_events
from dawnchorus.data_prep.errors import UnusableAudio
from dawnchorus.trainer.strong_labels import OverlapRule

_BUFFER = 1 << 20
_CLOSE_S = 1e-6


class RecordingFacts(NamedTuple):
    """The values of a recording in `recordings.parquet` that its clips are checked against."""

    pcm_sha1: str
    clips: int
    whole: bool
    """Whether `pcm_sha1` is the digest of its clips, joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheck:
    """All that a process needs to check one shard."""

    path: Path
    shard: str
    rows: list[dict[str, Any]]
    """The shard's rows of the index, in its order."""
    recordings: Mapping[str, RecordingFacts]
    label_names: list[str]
    licences: Mapping[int, tuple[str, str]]
    """Licence URL and recordist by `licence_id`."""
    sha256: str
    """Empty where none was recorded."""
    quick: bool
    rule: OverlapRule = field(default_factory=OverlapRule)
    """Which events count for a clip."""
    places: str = ""
    """How exactly the dataset's card says that it tells places and times."""

    @property
    def hours(self) -> float:
        """Of sound in it, by the index."""
        return float(sum(r["samples"] / max(1, r["sample_rate_hz"]) for r in self.rows)) / 3600


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def check_shard(check: ShardCheck) -> list[tuple[str, str]]:
    """Return what is wrong in a shard: the clip's key ("" for the whole tar), and what."""
    if not check.path.is_file():
        return [("", "the file is missing")]
    problems: list[tuple[str, str]] = []
    if check.sha256 and not check.quick and _sha256(check.path) != check.sha256:
        problems.append(("", "its SHA-256 is not the one in shards.sha256"))
    members: list[_Member] = []
    try:
        with tarfile.open(check.path) as tar:
            for member in tar:
                if not member.isfile():
                    problems.append(("", f"{member.name} is not a plain file"))
                members.append(_Member(member.name, member.offset_data, member.size))
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every header
    except (tarfile.TarError, OSError, EOFError) as err:
        problems.append(("", f"cannot be read to its end as a tar ({err})"))
    problems += _check_members(check, members)
    if not check.quick:
        with check.path.open("rb") as file:
            problems += _check_clips(check, file.fileno(), {m.name: m for m in members})
    return problems


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_members(check: ShardCheck, members: list[_Member]) -> Iterator[tuple[str, str]]:
    """Compare the tar's members with the rows: pairs of sound and record, in the same order."""
    expected = [
        name
        for row in check.rows
        for name in (f"{row['key']}.{row['codec']}", f"{row['key']}.json")
    ]
    found = [member.name for member in members]
    if found != expected:
        for name in sorted(set(expected) - set(found)):
            yield name.rpartition(".")[0], f"{name} is in the index, not in the tar"
        for name in sorted(set(found) - set(expected)):
            yield name.rpartition(".")[0], f"{name} is in the tar, not in the index"
        if sorted(found) == sorted(expected):
            yield "", "the order of the clips is not that of the index"
        elif len(set(found)) < len(found):
            yield "", "a name occurs twice"
    by_name = {member.name: member for member in members}
    for row in check.rows:
        member = by_name.get(f"{row['key']}.{row['codec']}")
        if member and (member.offset, member.size) != (row["offset"], row["size"]):
            yield (
                row["key"],
                f"the index has {row['size']} bytes at {row['offset']}, the tar has "
                f"{member.size} at {member.offset}",
            )


def _check_clips(
    check: ShardCheck, descriptor: int, members: Mapping[str, _Member]
) -> Iterator[tuple[str, str]]:
    """Check records and sound, the pieces of a recording one after the other."""
    order = sorted(check.rows, key=lambda row: (row["recording_id"], row["start_s"]))
    sha1 = hashlib.sha1(usedforsecurity=False)
    good = count = 0
    for place, row in enumerate(order):
        key = row["key"]
        record = members.get(f"{key}.json")
        if record:
            data = os.pread(descriptor, record.size, record.offset)
            yield from ((key, what) for what in _check_record(check, row, data))
        sound = members.get(f"{key}.{row['codec']}")
        if sound:
            data = os.pread(descriptor, sound.size, sound.offset)
            try:
                with decoding(key, len(data)):
                    pcm, what = _decode(row, data)
            except UnusableAudio as err:
                pcm, what = b"", f"does not decode ({err.detail})"
            if what:
                yield key, what
            sha1.update(pcm)
            good += not what
            count += 1
        if place + 1 < len(order) and order[place + 1]["recording_id"] == row["recording_id"]:
            continue
        facts = check.recordings.get(row["recording_id"])
        # The digest of a recording is only checked where no clip has a problem of its own.
        told = facts is not None and facts.whole and good == count == facts.clips
        if facts and told and sha1.hexdigest() != facts.pcm_sha1:
            yield key, f"the samples of {row['recording_id']} are not those of its pcm_sha1"
        sha1 = hashlib.sha1(usedforsecurity=False)
        good = count = 0


def _decode(row: Mapping[str, Any], data: bytes) -> tuple[bytes, str]:
    """Decode a clip to its end; return its samples' bytes, and what is wrong."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            found = (file.format.lower(), file.samplerate, file.channels, file.subtype)
            pcm_T = file.read(dtype="int16")
    except Exception as err:  # whatever is raised, this clip is the cause
        return b"", f"does not decode ({brief(err)})"
    wanted = (row["codec"], row["sample_rate_hz"], 1, "PCM_16")
    if found != wanted:
        return b"", f"is {found}, not {wanted}"
    if len(pcm_T) != row["samples"]:
        return b"", f"has {len(pcm_T)} samples, the index says {row['samples']}"
    pcm = pcm_T.astype("<i2").tobytes()
    # RFC 9639 §8.2: the MD5 of the samples lies at bytes 18 to 33 of STREAMINFO, which begins at 8.
    if row["codec"] == "flac":
        md5 = hashlib.md5(pcm, usedforsecurity=False).digest()
        if data[26:42] not in (md5, bytes(16)):
            return b"", "decodes to other samples than its own MD5 says"
    return pcm, ""


def _check_record(check: ShardCheck, row: Mapping[str, Any], data: bytes) -> Iterator[str]:
    """Compare a clip's JSON with its row."""
    try:
        record = json.loads(data)
        labels = {"foreground": set(), "background": set()}  # type: dict[str, set[str]]
        for label in record["labels"]:
            labels[label["role"]].add(label["name"])
        licence = (record["licence_url"], record["recordist"])
        pairs = [
            ("key", record["key"], row["key"]),
            ("id", record["id"], row["recording_id"]),
            ("split", record["split"], row["split"]),
            ("group_id", record["group_id"], row["group_id"]),
            ("fold", record["fold"], row["fold"] or ""),
            ("sample_rate_hz", record["sample_rate_hz"], row["sample_rate_hz"]),
            ("licence and recordist", licence, check.licences.get(row["licence_id"])),
            ("labels", labels["foreground"], _names(check, row["label_ids"])),
            ("background labels", labels["background"], _names(check, row["background_ids"])),
        ]
        times = [
            ("start_s", record["start_s"], row["start_s"]),
            ("duration_s", record["duration_s"], row["samples"] / row["sample_rate_hz"]),
        ]
        pairs += [(name, a, b) for name, a, b in times if abs(a - b) > _CLOSE_S]
        finer = finer_than(record, check.places)
        wrong = list(check_events(record, row, check.label_names, check.rule))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as err:
        yield f"its JSON is not a record of a clip ({type(err).__name__}: {err})"
        return
    if finer:
        yield f"its JSON tells more than places={check.places} of the card: {finer}"
    yield from wrong
    for name, theirs, ours in pairs:
        if theirs != ours:
            yield f"{name} is {theirs!r} in its JSON and {ours!r} in the tables"


def _names(check: ShardCheck, ids: list[int]) -> set[str]:
    count = len(check.label_names)
    return {check.label_names[i] if 0 <= i < count else f"label {i}" for i in ids}
