"""AudioSet in tars and parquet: unpacked once, into its place, and no further."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audioset_small import DOG, IDS, clip, read, write_tables

import dawnchorus.data_prep.commands.prep_audioset  # noqa: F401 (adds the command to the app)
from dawnchorus.data_prep.archives import audioset_files
from dawnchorus.data_prep.archives.audioset_files import UNREADABLE


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "tables")


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_parquet(path: Path, clips: dict[str, bytes | None]) -> Path:
    rows = [
        {
            "video_id": ytid, "audio": {"bytes": data, "path": f"{ytid}.flac"},
            "labels": [DOG], "human_labels": ["Dog"],
        }
        for ytid, data in clips.items()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def files_below(root: Path) -> Iterator[str]:
    return (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_clips_in_tars_and_parquet_are_unpacked_once(
    tables: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    clips = {ytid: clip(500 + 100 * i) for i, ytid in enumerate(IDS)}
    upper, lower = "AbCdEfGhIjK", "abcdefghijk"
    make_tar(
        packed / ("bal_train00.tar" if mode == "w" else "bal_train00.tar.gz"),
        {
            "audio/bal_train/--4gqARaEJE.flac": clips["--4gqARaEJE"],
            f"audio/bal_train/{upper}.flac": clips[upper],
            "audio/bal_train/Yout0ub-e_1_20_30.flac": clips["Yout0ub-e_1"],
            "audio/bal_train/notwantedid.flac": clip(),
        },
        mode,
    )
    make_parquet(
        packed / "00.parquet",
        {lower: clips[lower], "_1kaN-iD_30": None, "id_45678_90": clips["id_45678_90"]},
    )
    good, bad, archive = read(tables, packed)
    assert {row.group_id for row in good.values()} == set(IDS) - {"_1kaN-iD_30"}
    for row in good.values():
        assert Path(row.path).read_bytes() == clips[row.group_id]
    assert sorted(row.reason for row in bad) == ["missing_on_disk", "no_audio"]
    out = tmp_path / "out" / "audio"
    # Five clips and the ledger; on a file system that ignores case they must still be as many.
    assert len({name.lower() for name in files_below(out)}) == 6
    assert any("5 clips" in note for note in archive.notes())

    def not_again(path: Path) -> None:
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(audioset_files, "_clips", not_again)
        assert read(tables, packed)[0] == good
    # Without the ledger the packed files are read again, and nothing is written again.
    (out / "unpacked.jsonl").unlink()
    stamps = {name: (out / name).stat().st_mtime_ns for name in files_below(out)}
    assert read(tables, packed)[0] == good
    assert stamps.items() <= {n: (out / n).stat().st_mtime_ns for n in files_below(out)}.items()


def test_unpacking_goes_on_where_it_stopped(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for i, ytid in enumerate(IDS):
        make_tar(packed / f"{i}.tar", {f"{ytid}.flac": clip(600 + i)})
    note = audioset_files.Unpacker._note
    calls = []

    def stop_at_the_third(self: audioset_files.Unpacker, mark: str) -> None:
        calls.append(mark)
        if len(calls) == 3:
            raise KeyboardInterrupt
        note(self, mark)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(audioset_files.Unpacker, "_note", stop_at_the_third)
        read(tables, packed)
    good, _, archive = read(tables, packed)
    assert len(good) == 6 and archive.counts["unpacked"] == 3
    assert archive.counts["unpacked_before"] == 1  # written, but its tar was not yet noted
    assert not [n for n in files_below(tmp_path / "out" / "audio") if n.endswith(".part")]


def test_a_broken_tar_is_named_and_tried_again(tables: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    path = make_tar(packed / "a.tar", {f"{ytid}.wav": clip(700, "WAV") for ytid in IDS})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.45 * len(whole))])
    (packed / "b.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    make_parquet(packed / "c.parquet", {"abcdefghijk": clip()})
    pq.write_table(pa.table({"x": [1]}), packed / "d.parquet")
    good, bad, _ = read(tables, packed)
    assert 1 <= len(good) < 5 and "audioset:abcdefghijk@0" in good
    broken = {Path(row.path).name: row.reason for row in bad if row.path}
    assert broken == {"a.tar": UNREADABLE, "b.parquet": UNREADABLE, "d.parquet": "not_audioset"}
    path.write_bytes(whole)
    good, bad, _ = read(tables, packed)
    assert len(good) == 6 and {row.reason for row in bad} == {UNREADABLE}


def test_tar_members_never_decide_where_files_go(tables: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    outside = tmp_path / "outside"
    with tarfile.open(packed / "evil.tar", "w") as tar:
        for name in ("../../outside/--4gqARaEJE.flac", f"{outside}/_1kaN-iD_30.flac"):
            info = tarfile.TarInfo(name)
            info.size = len(clip())
            tar.addfile(info, io.BytesIO(clip()))
        link = tarfile.TarInfo("abcdefghijk.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    large = tarfile.TarInfo("id_45678_90.flac")
    large.size = 1 << 40
    (packed / "large.tar").write_bytes(large.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    before = set(files_below(tmp_path))
    good, bad, _ = read(tables, packed)
    assert set(good) == {"audioset:--4gqARaEJE@0", "audioset:_1kaN-iD_30@30"}
    assert all("out/audio/" in row.path for row in good.values())
    assert not outside.exists()
    assert all(name.startswith("out/audio/") for name in set(files_below(tmp_path)) - before)
    assert {row.reason for row in bad} >= {"too_large", "missing_on_disk"}
