"""A few clips to listen to: chosen by licence and variety, cut, compressed, with spectrograms."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dawnchorus.data_prep.report.credits import recording_link
from dawnchorus.data_prep.table.recording import BACKGROUND
from dawnchorus.trainer.licences import read_licence
from dawnchorus.trainer.page.pictures import PIXELS, data_url, sound_picture
from dawnchorus.trainer.panels import spectrogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP_S = 8.0
MOST_BYTES = 3_000_000  # of sound and pictures on one page, before base64 adds a third
_CANDIDATES = 48  # of each source, of which the page takes a few
_TABLE_RATE_HZ = 24_000
_MP3_RATES_HZ = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_LONGEST_S, _LARGEST = 900.0, 60_000_000  # what is decoded whole for eight seconds of it
_COLUMNS = ("id", "source", "source_id", "path", "url", "licence_url", "attribution", "recordist",
            "labels", "duration_s")  # fmt: skip
_HEIGHT = 160
_KEPT_BACK = frozenset(
    {"inatsounds"}
)  # its terms forbid passing recordings on, whatever a licence says


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as the page shows it."""

    title: str
    rank: str
    source: str
    credit: str
    link: str
    licence_url: str
    seconds: float
    top_khz: float
    audio: str
    """data: URL, MP3."""
    picture: str
    """data: URL, WebP."""


def clips(
    table: Path,
    *,
    index: Path | None,
    audio_root: Path,
    count: int,
    problems: list[str],
    private: bool = False,
) -> list[Clip]:
    """Return up to `count` clips of different sources, labels and recordists.

    From the shards of a dataset (`index` is its index.parquet), else from the recordings' own files
    below `audio_root`. Only recordings whose licence lets a changed copy be passed on: public
    domain and Creative Commons without ND; with `private`, every one: the page is then for those
    who have the recordings anyway. What hinders is told in `problems`.
    """
    if count <= 0:
        return []
    candidates = _candidates(table, private)
    if not candidates:
        problems.append(
            "No clip to listen to: there is no recording with its label in the table."
            if private
            else "No clip to listen to: no recording has a licence that lets one be passed on. "
            "`chorus data report --private` makes a page for yourself, with sound of any licence."
        )
        return []
    members = _members(index, {str(row["id"]) for row in candidates}) if index else {}
    found: list[Clip] = []
    size = 0
    failed = 0
    for row in _varied(candidates):
        if len(found) == count or size > MOST_BYTES or failed > 10 * count:
            break
        try:
            if index:
                wav_T, rate_hz = _from_shard(index.parent, members[str(row["id"])])
            else:
                wav_T, rate_hz = _from_file(audio_root, row)
            clip = _clip(row, wav_T, rate_hz)
        except Exception:  # whatever a decoder raises costs the page this clip only
            failed += 1
            continue
        size += 3 * (len(clip.audio) + len(clip.picture)) // 4
        found.append(clip)
    if not found:
        where = f"in the shards beside {index}" if index else f"below {audio_root} (--audio DIR)"
        problems.append(f"No clip to listen to: none of {failed} recordings could be read {where}.")
    return found


def _candidates(table: Path, private: bool) -> list[dict[str, Any]]:
    """Some recordings of every source, drawn by a hash of the id: the same ones every time."""
    import polars as pl

    frame = pl.scan_parquet(table).with_row_index("row")
    there = frame.collect_schema().names()
    if not {"id", "source", "licence_url", "labels"} <= set(there):
        return []
    lean = frame.select("row", "source", "licence_url", draw=pl.col("id").hash(seed=7))
    if not private:
        urls = lean.select(pl.col("licence_url").unique()).collect().to_series().to_list()
        allowed = [url for url in urls if url and _may_be_shown(url)]
        lean = lean.filter(pl.col("licence_url").is_in(allowed))
        lean = lean.filter(~pl.col("source").is_in(list(_KEPT_BACK)))
        # One's own recordings may have no labels yet; others would have no title.
        named = frame.filter(pl.col("labels").list.len() > 0).select("row")
        lean = lean.join(named, on="row", how="semi")
    chosen = lean.select("row", "source", "draw").collect(engine="streaming")
    chosen = chosen.sort("draw").group_by("source", maintain_order=True).head(_CANDIDATES)
    columns = ["row", *(n for n in _COLUMNS if n in there)]
    wanted = frame.select(columns).filter(pl.col("row").is_in(chosen.get_column("row").implode()))
    drawn = wanted.join(chosen.lazy().select("row", "draw"), on="row").sort("source", "draw")
    rows = drawn.collect(engine="streaming").to_dicts()
    for row in rows:
        front = [v for v in row.pop("labels") or () if v.get("role") != BACKGROUND]
        named_so = front[0] if front else {"name": row["id"] if private else ""}
        row["title"], row["rank"] = str(named_so.get("name") or ""), str(named_so.get("rank") or "")
    return [row for row in rows if row["title"]]


def _may_be_shown(licence_url: str) -> bool:
    licence = read_licence(licence_url)
    return licence.creative_commons and not licence.nd


def _varied(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The sources in turn; first those with a label and a recordist that were not yet there."""
    queues: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        queues.setdefault(str(row["source"]), []).append(row)
    labels: set[str] = set()
    people: set[str] = set()
    later: list[dict[str, Any]] = []
    while any(queues.values()):
        for queue in queues.values():
            while queue:
                row = queue.pop(0)
                person = str(row.get("recordist") or row["id"])
                if row["title"] in labels or person in people:
                    later.append(row)
                    continue
                labels.add(row["title"])
                people.add(person)
                yield row
                break
    yield from later


def _members(index: Path, ids: set[str]) -> dict[str, dict[str, Any]]:
    """The first clip of each of the recordings in the index."""
    import polars as pl

    frame = pl.scan_parquet(index).select("recording_id", "shard", "offset", "size")
    rows = frame.filter(pl.col("recording_id").is_in(sorted(ids))).collect().to_dicts()
    return {row["recording_id"]: row for row in reversed(rows)}


def _from_shard(folder: Path, member: dict[str, Any]) -> tuple[NDArray[np.float32], int]:
    import soundfile

    path = (folder / member["shard"]).resolve()
    if folder.resolve() not in path.parents:
        raise OSError(f"{path} is outside the dataset")
    with path.open("rb") as tar:
        data = os.pread(tar.fileno(), member["size"], member["offset"])
    wav_T, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return (wav_T if wav_T.ndim == 1 else wav_T.mean(axis=1)), int(rate_hz)


def _from_file(root: Path, row: dict[str, Any]) -> tuple[NDArray[np.float32], int]:
    from dawnchorus.data_prep.audio.decode import decode

    if not row.get("path"):
        raise OSError("not downloaded")
    path = root / str(row["path"])
    if (row.get("duration_s") or 0) > _LONGEST_S or path.stat().st_size > _LARGEST:
        raise OSError("too long for a few seconds of it")
    pcm, _ = decode(path, _TABLE_RATE_HZ, max_hours=_LONGEST_S / 3600)
    with pcm:
        return pcm.read(0, pcm.samples).astype(np.float32) / np.float32(32768), _TABLE_RATE_HZ


def _clip(row: dict[str, Any], wav_T: NDArray[np.float32], rate_hz: int) -> Clip:
    if rate_hz not in _MP3_RATES_HZ:
        import soxr

        lower = [rate for rate in _MP3_RATES_HZ if rate <= rate_hz] or [_MP3_RATES_HZ[0]]
        wav_T = soxr.resample(wav_T, rate_hz, lower[-1], quality="HQ").astype(np.float32)
        rate_hz = lower[-1]
    wav_T = _loudest(wav_T, rate_hz)
    wav_T = wav_T * np.float32(0.7 / max(float(np.abs(wav_T).max(initial=0.0)), 1e-4))
    fade = min(len(wav_T) // 2, rate_hz // 50)
    ramp_T = np.linspace(0, 1, fade, dtype=np.float32)
    wav_T[:fade] *= ramp_T
    wav_T[len(wav_T) - fade :] *= ramp_T[::-1]
    bands = tuple(np.linspace(0, rate_hz / 2, _HEIGHT + 1)[1:].tolist())
    sound = spectrogram(wav_T, rate_hz, hop_s=len(wav_T) / rate_hz / PIXELS, band_hz=bands)
    credit = str(row.get("attribution") or row.get("recordist") or row["id"])
    return Clip(
        title=str(row["title"]),
        rank=str(row["rank"]),
        source=str(row["source"]),
        credit=credit,
        link=recording_link(
            str(row["source"]), str(row.get("source_id") or ""), str(row.get("url") or "")
        ),
        licence_url=str(row["licence_url"] or ""),
        seconds=len(wav_T) / rate_hz,
        top_khz=rate_hz / 2000,
        audio=data_url("audio/mpeg", _mp3(wav_T, rate_hz)),
        picture=sound_picture(sound.level_XF, _HEIGHT),
    )


def _loudest(wav_T: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The eight seconds with the most energy in high frequencies: wind and traffic are low."""
    want = int(CLIP_S * rate_hz)
    if len(wav_T) <= want:
        return wav_T.copy()
    energy_T = np.cumsum(np.square(np.diff(wav_T, prepend=wav_T[:1])), dtype=np.float64)
    step = rate_hz // 4
    starts = np.arange(0, len(wav_T) - want + 1, step)
    start = int(starts[np.argmax(energy_T[starts + want - 1] - energy_T[starts])])
    return wav_T[start : start + want].copy()


def _mp3(wav_T: NDArray[np.float32], rate_hz: int) -> bytes:
    """MP3: the one compressed format that every browser of a phone decodes."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(
        buffer, wav_T, rate_hz, format="MP3", subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE", compression_level=0.45,
    )  # fmt: skip
    return buffer.getvalue()
