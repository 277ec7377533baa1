"""A few clips to listen to: chosen by licence and variety, cut, compressed, with spectrograms."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dawnchorus.data_prep.report.credits import recording_link
from dawnchorus.data_prep.table.recording import BACKGROUND
from dawnchorus.data_prep.table.scan import scan
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
_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("id", "source", "source_id", "path", "url", "licence_url", "attribution",
                     "recordist"), ""), "labels": None, "duration_s": 0.0,
}  # fmt: skip
_HEIGHT = 160
_KEPT_BACK = ("inatsounds",)  # its terms forbid passing recordings on, whatever a licence says


class Clip(NamedTuple):
    """A clip as the page shows it; `audio` (MP3) and `picture` (WebP) are data: URLs."""

    title: str
    rank: str
    source: str
    credit: str
    link: str
    licence_url: str
    seconds: float
    top_khz: float
    audio: str
    picture: str


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
    candidates = _candidates(table, index, private) if count > 0 else []
    found: list[Clip] = []
    failed = 0
    for row in _varied(candidates):
        size = sum(3 * (len(clip.audio) + len(clip.picture)) // 4 for clip in found)
        if len(found) == count or size > MOST_BYTES or failed > 10 * count:
            break
        try:
            wav_T, rate_hz = _stored(index.parent, row) if index else _original(audio_root, row)
            found.append(_clip(row, wav_T, rate_hz))
        except Exception:  # whatever a decoder raises costs the page this clip only
            failed += 1
    if count > 0 and not candidates:
        problems.append(
            "No clip to listen to: there is no recording with its label in the table."
            if private
            else "No clip to listen to: no recording has a licence that lets one be passed on. "
            "`chorus data report --private` makes a page for yourself, with sound of any licence."
        )
    elif count > 0 and not found:
        where = f"in the shards beside {index}" if index else f"below {audio_root} (--audio DIR)"
        problems.append(f"No clip to listen to: none of {failed} recordings could be read {where}.")
    return found


def _candidates(table: Path, index: Path | None, private: bool) -> list[dict[str, Any]]:
    """Some recordings of every source in turn, by a hash of the id: the same ones every time."""
    import polars as pl

    frame = scan(table, **_COLUMNS)
    lean = frame.select("row", "source", "licence_url", draw=pl.col("id").hash(seed=7))
    if not private:
        urls = lean.select(pl.col("licence_url").unique()).collect().to_series()
        kinds = {url: read_licence(url) for url in urls}
        allowed = [url for url, kind in kinds.items() if kind.creative_commons and not kind.nd]
        # One's own recordings may have no labels yet; others would have no title.
        named = frame.filter(pl.col("labels").list.len() > 0).select("row")
        lean = lean.filter(
            pl.col("licence_url").is_in(allowed), ~pl.col("source").is_in(_KEPT_BACK)
        ).join(named, on="row", how="semi")
    turns = lean.select("row", turn=pl.col("draw").rank("ordinal").over("source"))
    chosen = turns.filter(pl.col("turn") <= _CANDIDATES).collect(engine="streaming")
    wanted = frame.filter(pl.col("row").is_in(chosen["row"].implode())).collect(engine="streaming")
    wanted = wanted.join(chosen, on="row").sort("turn", "source")
    if index:
        members = pl.scan_parquet(index).select("shard", "offset", "size", id="recording_id")
        members = members.filter(pl.col("id").is_in(wanted["id"].implode()))
        first = members.unique("id", keep="first", maintain_order=True).collect()
        wanted = wanted.join(first, on="id", maintain_order="left")
    rows = wanted.to_dicts()
    for row in rows:
        front = [label for label in row["labels"] or () if label.get("role") != BACKGROUND]
        label = front[0] if front else {"name": row["id"] if private else ""}
        row["title"], row["rank"] = label["name"] or "", label.get("rank") or ""
    return [row for row in rows if row["title"]]


def _varied(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """First those with a label and a recordist that were not yet there."""
    seen: set[tuple[str, str]] = set()
    later = []
    for row in rows:
        marks = {("label", row["title"]), ("person", row["recordist"] or row["id"])}
        if marks & seen:
            later.append(row)
        else:
            seen |= marks
            yield row
    yield from later


def _stored(folder: Path, row: dict[str, Any]) -> tuple[NDArray[np.float32], int]:
    """A clip of a shard, and its sample rate."""
    import soundfile

    path = (folder / row["shard"]).resolve()
    if folder.resolve() not in path.parents:
        raise OSError(f"{path} is outside the dataset")
    with path.open("rb") as tar:
        data = os.pread(tar.fileno(), row["size"], row["offset"])
    wav_T, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return (wav_T if wav_T.ndim == 1 else wav_T.mean(axis=1)), int(rate_hz)


def _original(root: Path, row: dict[str, Any]) -> tuple[NDArray[np.float32], int]:
    """A recording's own file at a rate that serves the page, and that rate."""
    from dawnchorus.data_prep.audio.decode import decode

    if not row["path"]:
        raise OSError("not downloaded")
    path = root / row["path"]
    if row["duration_s"] > _LONGEST_S or path.stat().st_size > _LARGEST:
        raise OSError("too long for a few seconds of it")
    pcm, _ = decode(path, _TABLE_RATE_HZ, max_hours=_LONGEST_S / 3600)
    with pcm:
        return pcm.read(0, pcm.samples).astype(np.float32) / np.float32(32768), _TABLE_RATE_HZ


def _clip(row: dict[str, Any], wav_T: NDArray[np.float32], rate_hz: int) -> Clip:
    import soundfile

    if rate_hz not in _MP3_RATES_HZ:
        import soxr

        lower = max((rate for rate in _MP3_RATES_HZ if rate <= rate_hz), default=_MP3_RATES_HZ[0])
        wav_T = soxr.resample(wav_T, rate_hz, lower, quality="HQ").astype(np.float32)
        rate_hz = lower
    wav_T = _liveliest(wav_T, rate_hz)
    wav_T = wav_T * np.float32(0.7 / max(float(np.abs(wav_T).max(initial=0.0)), 1e-4))
    fade = min(len(wav_T) // 2, rate_hz // 50)
    ramp_T = np.linspace(0, 1, fade, dtype=np.float32)
    wav_T[:fade] *= ramp_T
    wav_T[len(wav_T) - fade :] *= ramp_T[::-1]
    bands = tuple(np.linspace(0, rate_hz / 2, _HEIGHT + 1)[1:].tolist())
    sound = spectrogram(wav_T, rate_hz, hop_s=len(wav_T) / rate_hz / PIXELS, band_hz=bands)
    mp3 = io.BytesIO()  # the one compressed format that every browser of a phone decodes
    soundfile.write(mp3, wav_T, rate_hz, format="MP3", subtype="MPEG_LAYER_III",
                    bitrate_mode="VARIABLE", compression_level=0.45)  # fmt: skip
    return Clip(
        row["title"], row["rank"], row["source"],
        credit=row["attribution"] or row["recordist"] or row["id"],
        link=recording_link(row["source"], row["source_id"], row["url"]),
        licence_url=row["licence_url"], seconds=len(wav_T) / rate_hz, top_khz=rate_hz / 2000,
        audio=data_url("audio/mpeg", mp3.getvalue()),
        picture=sound_picture(sound.level_XF, _HEIGHT),
    )  # fmt: skip


def _liveliest(wav_T: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The eight seconds with the most energy in high frequencies: wind and traffic are low."""
    want = int(CLIP_S * rate_hz)
    if len(wav_T) <= want:
        return wav_T
    energy_T = np.cumsum(np.square(np.diff(wav_T, prepend=wav_T[:1])), dtype=np.float64)
    starts = np.arange(0, len(wav_T) - want + 1, rate_hz // 4)
    start = int(starts[np.argmax(energy_T[starts + want - 1] - energy_T[starts])])
    return wav_T[start : start + want]
