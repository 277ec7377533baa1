"""AudioSet: segment lists and strong labels -> recordings, for the clips that are on disk.

The published lists name videos; the audio comes from somebody's copy (`audioset_files`). A clip
without a file is rejected as `missing_on_disk`, with the address of its page.
"""

from __future__ import annotations

import gzip
import math
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from dawnchorus.data_prep.archives.audioset_files import YTID, ClipFiles, Unpacker, packed_files
from dawnchorus.data_prep.archives.audioset_labels import MID, Classes, Ontology, read_ontology
from dawnchorus.data_prep.archives.delimited import BadRow, Dialect, plain_key, read_rows
from dawnchorus.data_prep.archives.times import NOT_SUPPORTED
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import Rejected
from dawnchorus.trainer.progress import LINE_EVERY_S, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = TypeVar("Row")

SOURCE = "audioset"
CLIP_MS = 10_000  # strong labels state only where a clip begins
UNPACKED = "audio"
_CSV = Dialect(",", "", "utf-8", 0)
_TSV = Dialect("\t", "", "utf-8", 0)
_HEADS = ("ytid", "videoid", "segmentid")
_MANY_BAD, _BAD_SHARE = 100, 0.05
# audioset_eval_strong_framed_posneg.tsv says of each second whether a sound is there.
_PRESENT = {"present": True, "1": True, "true": True}
_PRESENT |= {"not_present": False, "absent": False, "0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Segment:
    """A row of a segment list: ten seconds of a video and the classes heard in them."""

    ytid: str
    start_ms: int
    end_ms: int
    mids: tuple[str, ...]

    @property
    def key(self) -> str:
        """The clip's stable number: "--4gqARaEJE@30", "…@30.5"."""
        return f"{self.ytid}@{self.start_ms / 1000:.3f}".rstrip("0").rstrip(".")

    @property
    def page(self) -> str:
        """The page where a person can listen to it; it is not the address of an audio file."""
        return f"https://www.youtube.com/watch?v={self.ytid}&t={self.start_ms // 1000}s"


@dataclass(frozen=True, kw_only=True)
class AudioSetOptions:
    """What `read_audioset` reads."""

    segments: Sequence[Path] = ()
    audio: Sequence[Path] = ()
    out: Path
    ontology: Path | None = None
    labels: Path | None = None
    mid_names: Path | None = None
    strong: Sequence[Path] = ()
    ignore_times: bool = False
    """Treat strong labels as labels of their whole clips. Without this option they are refused."""
    only_below: Sequence[str] = ()


class AudioSet:
    """An AudioSet copy. `rows` yields recordings and rejected rows; afterwards `notes` says what a
    person should know.
    """

    def __init__(self, options: AudioSetOptions, progress: Progress | None = None) -> None:
        """Read the small tables and look at the folders. Raises PrepError."""
        self.options, self.progress = options, progress or Progress()
        self._spoken = time.monotonic()
        _check(options)
        ontology = read_ontology(options.ontology) if options.ontology else None
        self.classes = Classes(options.labels, options.mid_names, ontology)
        self.selected = _selected(options.only_below, ontology)
        self.counts: Counter[str] = Counter()
        self._strong: dict[tuple[str, int], tuple[set[str], str]] = {}

    def rows(self) -> Iterator[Recording | Rejected]:
        """Yield all rows of the segment lists, then the strong clips that no list has."""
        for path in self.options.strong:
            yield from self._read_strong(path)
        folders = list(self.options.audio)
        packed = packed_files(folders)
        if packed:
            folder = self.options.out / UNPACKED
            wanted, key = self._wanted()
            unpacker = Unpacker(folder, wanted, key)
            yield from unpacker.unpack(packed, self._say)
            self.counts["unpacked"] = unpacker.written
            self.counts["unpacked_before"] = unpacker.there
        unpacked = self.options.out / UNPACKED
        if unpacked.is_dir() and not any(_within(unpacked, folder) for folder in folders):
            folders.append(unpacked)
        files = ClipFiles(folders)
        places = "1 folder" if len(folders) == 1 else f"{len(folders)} folders"
        self.progress.say(f"{files.count:,} files in {places}")
        for segment, split in self._segments(report=True):
            if isinstance(segment, Rejected):
                yield segment
            else:
                yield self._row(segment, split, files)
        self.counts["files"] = files.count

    def _segments(self, *, report: bool) -> Iterator[tuple[Segment | Rejected, str]]:
        """Yield (segment, split). Bad rows come only with `report`: each is reported once."""
        strong = set(self._strong)
        for path in self.options.segments:
            split = split_of(path)
            for item in read_segments(path):
                if isinstance(item, Rejected):
                    if report:
                        yield item, split
                    continue
                at = (item.ytid, item.start_ms)
                if at in strong:
                    strong.discard(at)
                    item = _with(item, self._strong[at][0])
                yield item, split
                if report:
                    self.counts["rows"] += 1
                    self._say(f"{self.counts['rows']:,} rows, {self.counts['found']:,} on disk")
        for ytid, start_ms in sorted(strong):
            mids, split = self._strong[ytid, start_ms]
            yield Segment(ytid, start_ms, start_ms + CLIP_MS, tuple(sorted(mids))), split

    def _row(self, segment: Segment, split: str, files: ClipFiles) -> Recording | Rejected:
        key = f"{SOURCE}:{segment.key}"
        if not segment.mids:
            return Rejected(recording_id=key, reason="no_label", detail="no class is present")
        if not self._takes(segment):
            return Rejected(recording_id=key, reason="not_selected", detail="no class asked for")
        path, instead = files.find(segment.ytid, segment.start_ms, segment.end_ms)
        if not path:
            detail = "; ".join(filter(None, (segment.page, instead)))
            return Rejected(recording_id=key, reason="missing_on_disk", detail=detail)
        self.counts["found"] += 1
        return Recording(
            id=key,
            source=SOURCE,
            source_id=segment.key,
            path=path,
            attribution=f"YouTube video {segment.ytid} ({segment.page}); labels: AudioSet, "
            "Google, CC BY 4.0",
            labels=tuple(self.classes.label(mid) for mid in segment.mids),
            audioset_mids=segment.mids,
            duration_s=(segment.end_ms - segment.start_ms) / 1000,
            group_id=segment.ytid,
            split=split,
        )

    def _takes(self, segment: Segment) -> bool:
        return not self.selected or not self.selected.isdisjoint(segment.mids)

    def _wanted(self) -> tuple[_Ids, str]:
        """Return the set of ids to unpack (8 bytes each) and a text that identifies this choice."""
        import numpy as np

        hashes = array("Q")
        for item, _ in self._segments(report=False):
            if isinstance(item, Segment) and self._takes(item):
                hashes.append(_hash(item.ytid))
        ids_R = np.unique(np.frombuffer(hashes, np.uint64))
        return _Ids(ids_R), sha256(ids_R.tobytes()).hexdigest()[:16]

    def _read_strong(self, path: Path) -> Iterator[Rejected]:
        """Collect the classes of each strongly labelled clip; yield the unreadable rows."""
        split = split_of(path)
        for row in _parsed(path, _TSV, _strong_row):
            if isinstance(row, Rejected):
                yield row
                continue
            ytid, start_ms, mid, present = row
            mids, _ = self._strong.setdefault((ytid, start_ms), (set(), split))
            if present:
                mids.add(mid)
            self.counts["strong_rows" if present else "strong_absent"] += 1

    def _say(self, text: str) -> None:
        if time.monotonic() - self._spoken >= LINE_EVERY_S:
            self._spoken = time.monotonic()
            self.progress.say(text)

    def notes(self) -> list[str]:
        """Return what a person should know, once `rows` has ended."""
        count = self.counts
        notes = self.classes.notes()
        if self._strong:
            notes.append(
                f"strong labels: {count['strong_rows']:,} rows of {len(self._strong):,} clips; "
                f"{count['strong_absent']:,} rows say that a sound is not there"
            )
        if count["unpacked"] or count["unpacked_before"]:
            notes.append(
                f"unpacked into {self.options.out / UNPACKED}: {count['unpacked']:,} clips, "
                f"{count['unpacked_before']:,} were there"
            )
        spare = count["files"] - count["found"]
        if spare > 0:
            notes.append(f"{spare:,} files on disk belong to no row that was taken")
        return notes


class _Ids:
    """A set of ids."""

    def __init__(self, ids_R: NDArray[np.uint64]) -> None:
        self.ids_R = ids_R

    def __call__(self, ytid: str) -> bool:
        import numpy as np

        wanted = np.uint64(_hash(ytid))
        at = int(np.searchsorted(self.ids_R, wanted))
        return at < len(self.ids_R) and bool(self.ids_R[at] == wanted)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _with(segment: Segment, mids: set[str]) -> Segment:
    more = tuple(sorted(mids.difference(segment.mids)))
    return Segment(segment.ytid, segment.start_ms, segment.end_ms, segment.mids + more)


def _check(options: AudioSetOptions) -> None:
    """Raise PrepError with everything in the options that cannot work."""
    problems = []
    if not (options.segments or options.strong):
        problems.append("no segment list: give eval_segments.csv and others, or --strong")
    if options.strong and not options.ignore_times:
        problems.append(
            f"--strong says when a sound begins and ends. {NOT_SUPPORTED}; --ignore-times takes "
            "every label for its whole clip of ten seconds"
        )
    tables = (*options.segments, *options.strong)
    others = (options.ontology, options.labels, options.mid_names)
    problems += [
        f"there is no file {path}" for path in (*tables, *others) if path and not path.is_file()
    ]
    problems += [f"there is no folder {path}" for path in options.audio if not path.is_dir()]
    if not options.audio:
        problems.append("no folder of audio: give --audio DIR")
    if options.only_below and not options.ontology:
        problems.append("--only-below needs --ontology ontology.json, which says what lies below")
    if problems:
        raise PrepError("AudioSet cannot be read.\n  " + "\n  ".join(problems))


def _selected(only_below: Sequence[str], ontology: Ontology | None) -> set[str]:
    """Return the classes asked for and all below them; classes may be given by mid or by name."""
    selected: set[str] = set()
    by_name = {name.lower(): mid for mid, name in (ontology.names if ontology else {}).items()}
    for text in only_below:
        mid = by_name.get(text.strip().lower(), text.strip())
        if ontology is None or mid not in ontology.names:
            raise PrepError(
                f"--only-below {text}: the ontology has no such class. Animals are /m/0jbk."
            )
        selected |= {mid} | ontology.descendants(mid)
    return selected


def split_of(path: Path) -> str:
    """Return "test" for the lists of the evaluation set (by their published names) or "train"."""
    return "test" if re.search(r"(?<![a-z])eval(?![a-z])", path.name.lower()) else "train"


def read_segments(path: Path) -> Iterator[Segment | Rejected]:
    """Yield the rows of a segment list (CSV, also gzipped), streamed.

    Both dialects in circulation: `id, 0.000, 10.000, "/m/a,/m/b"` after three comment lines and
    `id,0,10,/m/a` after two. Raises PrepError when the file is not such a list, and when more than
    5 % of the rows (and more than 100) are bad.
    """
    return _parsed(path, _CSV, _segment_row)


def _segment_row(fields: list[str]) -> Segment:
    """Raises ValueError that says what is wrong."""
    if len(fields) < 4:
        raise ValueError(f"{len(fields)} columns instead of id, start, end, classes")
    ytid, start_ms, end_ms = fields[0].strip().strip('"'), _ms(fields[1]), _ms(fields[2])
    # Quoted or not, the remaining cells are mids, and mids contain no commas.
    found = (field.strip(' "\t') for field in fields[3:])
    mids = tuple(dict.fromkeys(mid for mid in found if mid))
    _check_id(ytid)
    if not 0 <= start_ms < end_ms:
        raise ValueError(f"from {fields[1].strip()[:40]} to {fields[2].strip()[:40]} s")
    for mid in mids:
        _check_mid(mid)
    if not mids:
        raise ValueError("no class")
    return Segment(ytid, start_ms, end_ms, mids)


def _strong_row(fields: list[str]) -> tuple[str, int, str, bool]:
    """Return (id, start ms, mid, present). Raises ValueError that says what is wrong."""
    if len(fields) not in (4, 5):
        raise ValueError(f"{len(fields)} columns instead of segment_id, start, end, label")
    segment_id, mid = fields[0].strip(), fields[3].strip()
    ytid, _, start = segment_id.rpartition("_")  # ids hold "_" themselves
    _check_id(ytid)
    if not (start.isascii() and start.isdecimal()) or len(start) > 9:
        raise ValueError(f"segment_id {segment_id[:60]!r} does not end in milliseconds")
    _check_mid(mid)
    present = _PRESENT.get(fields[4].strip().lower()) if len(fields) == 5 else True
    if present is None:
        raise ValueError(f"present is {fields[4][:40]!r}")
    return ytid, int(start), mid, present


def _ms(text: str) -> int:
    seconds = float(text.strip().strip('"'))
    if not math.isfinite(seconds) or abs(seconds) > 1e6:
        raise ValueError(f"a time of {text.strip()[:40]} s")
    return round(1000 * seconds)


def _check_id(ytid: str) -> None:
    if not YTID.fullmatch(ytid):
        raise ValueError(f"{ytid[:40]!r} is no id of a video")


def _check_mid(mid: str) -> None:
    if not MID.fullmatch(mid):
        raise ValueError(f"{mid[:40]!r} is no id of a class")


def _parsed(
    path: Path, dialect: Dialect, parse: Callable[[list[str]], Row]
) -> Iterator[Row | Rejected]:
    """Yield what `parse` makes of each row. Comments (#) and a header are skipped."""
    good = bad = 0
    with _open(path) as stream:
        for fields in read_rows(stream, path.name, dialect):
            if isinstance(fields, BadRow):
                reason, detail = fields.problem, fields.detail
            elif fields[0].lstrip().startswith("#") or plain_key(fields[0]) in _HEADS:
                continue
            else:
                try:
                    row = parse(fields)
                except ValueError as err:
                    reason = "bad_row"
                    detail = f"{path.name}: {err} in {dialect.separator.join(fields)[:120]!r}"
                else:
                    good += 1
                    yield row
                    continue
            bad += 1
            if bad > _MANY_BAD and bad > _BAD_SHARE * (good + bad):
                break
            yield Rejected(recording_id=SOURCE, reason=reason, detail=detail, path=str(path))
    if not good or (bad > _MANY_BAD and bad > _BAD_SHARE * (good + bad)):
        last = f"; the last one: {detail}" if bad else ""
        raise PrepError(
            f"{path} is not a list of AudioSet's segments: {bad} of {good + bad} rows are not in "
            f"its form{last}. Expected are eval_segments.csv, balanced_train_segments.csv, "
            "unbalanced_train_segments.csv or, with --strong, audioset_train_strong.tsv and such."
        )


def _open(path: Path) -> BinaryIO:
    """Open a text file, gzipped or not. Raises PrepError."""
    try:
        file = path.open("rb")
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except OSError as err:
        raise PrepError(f"{path} cannot be read: {err.strerror or err}.") from err
    return cast(BinaryIO, gzip.open(file)) if zipped else file
