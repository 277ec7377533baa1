"""`chorus prep shards`: from a recording table, as `prep folder` does it from a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dawnchorus.data_prep.archives.own_folder import prepare_folder, read_folder
from dawnchorus.data_prep.dataset.options import FolderOptions, Part
from dawnchorus.data_prep.dataset.prepare import merge, prepare_shards
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.table.recording import Recording
from dawnchorus.data_prep.table.recording_table import read_recordings, write_table

REPO = Path(__file__).resolve().parents[3]


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def recordings(archive: Path) -> list[Recording]:
    return read_folder(archive, FolderOptions()).recordings


@pytest.fixture
def table(recordings: list[Recording], tmp_path: Path) -> Path:
    write_table(recordings, tmp_path / "table")
    return tmp_path / "table"


def test_it_writes_what_prep_folder_writes(
    table: Path, archive: Path, dataset: Path, tmp_path: Path
) -> None:
    stats = prepare_shards(table, tmp_path / "birds", audio=archive, jobs=1)
    assert stats["clips"] == 24
    assert digests(tmp_path / "birds") == digests(dataset)


def test_the_audio_is_beside_the_table_unless_it_is_said(
    recordings: list[Recording], archive: Path, tmp_path: Path
) -> None:
    write_table(recordings, tmp_path / "t")
    (tmp_path / "t" / "audio").symlink_to(archive / "audio")
    stats = prepare_shards(tmp_path / "t" / "recordings.parquet", tmp_path / "out", jobs=1)
    assert stats["clips"] == 24
    with pytest.raises(PrepError, match="--audio"):
        prepare_shards(tmp_path / "t", tmp_path / "out2", audio=tmp_path / "nowhere")
    with pytest.raises(PrepError, match="folder of audio: use `chorus prep folder"):
        prepare_shards(archive, tmp_path / "out2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrepError, match="recording table"):
        prepare_shards(tmp_path / "empty", tmp_path / "out2")


@pytest.mark.parametrize("rate_hz", [32000, 48000])
def test_other_rates(table: Path, archive: Path, tmp_path: Path, rate_hz: int) -> None:
    stats = prepare_shards(
        table, tmp_path / "out", audio=archive, jobs=1, sample_rate_hz=rate_hz, codec="wav"
    )
    rows = pq.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert {row["sample_rate_hz"] for row in rows} == {rate_hz}
    assert all(abs(row["samples"] - rate_hz) < 0.06 * rate_hz for row in rows)
    assert stats["hours"] == pytest.approx(24 / 3600, rel=0.06)


def test_what_is_not_downloaded_is_left_out_and_counted(
    recordings: list[Recording], archive: Path, tmp_path: Path
) -> None:
    url = "https://example.org/XC1.mp3"
    absent = [dataclasses.replace(r, path="", url=url) if i < 3 else r
              for i, r in enumerate(recordings)]  # fmt: skip
    write_table(absent, tmp_path / "t")
    with pytest.raises(PrepError, match=r"3 of 24 recordings have no file yet: `chorus prep down"):
        prepare_shards(tmp_path / "t", tmp_path / "out", audio=archive, jobs=1)
    stats = prepare_shards(
        tmp_path / "t", tmp_path / "out", audio=archive, jobs=1, allow_broken=True
    )
    assert stats["rejected_reasons"] == {"missing": 3} and stats["recordings"] == 21
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["recording_id"] for row in rejected] == [r.id for r in recordings[:3]]
    assert all("chorus prep download" in row["detail"] and url in row["detail"] for row in rejected)


def test_tables_of_the_dataset_are_in_the_order_of_the_table(
    table: Path, archive: Path, recordings: list[Recording], tmp_path: Path
) -> None:
    prepare_shards(table, tmp_path / "out", audio=archive, jobs=1)
    kept = list(read_recordings(tmp_path / "out"))
    assert [r.id for r in kept] == [r.id for r in recordings]
    assert {r.country for r in kept} == {""} and all(r.duration_s > 0.9 for r in kept)


def test_a_credit_line_that_all_share_is_in_the_ledger(
    recordings: list[Recording], archive: Path, tmp_path: Path
) -> None:
    lines = [dataclasses.replace(r, attribution=f"{r.recordist}, {r.recordist != 'person 1' or i}")
             for i, r in enumerate(recordings)]  # fmt: skip
    write_table(lines, tmp_path / "t")
    prepare_shards(tmp_path / "t", tmp_path / "out", audio=archive, jobs=1)
    ledger = pq.read_table(tmp_path / "out" / "licences.parquet").to_pylist()
    assert {(row["recordist"], row["attribution"]) for row in ledger} == {
        ("person 0", "person 0, True"), ("person 1", ""), ("person 2", "person 2, True"),
        ("person 3", "person 3, True"),
    }  # fmt: skip
    records = pq.read_table(tmp_path / "out" / "recordings.parquet").to_pylist()
    assert all(row["attribution"] for row in records)


def test_sums_are_those_of_sha256sum(dataset: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "shards.sha256"], cwd=dataset,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout.count(": OK") == 3


def test_parts_are_read_with_care() -> None:
    assert Part.parse("3/16") == Part(3, 16) and str(Part(3, 16)) == "3/16"
    for text in ("0/4", "5/4", "x", "1/0", "-1/4", "1/4/2", ""):
        with pytest.raises(PrepError, match="1/n to n/n"):
            Part.parse(text)


def test_the_command(table: Path, archive: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dawnchorus.data_prep.cli", *map(str, arguments)],
            cwd=REPO, capture_output=True, text=True,
        )  # fmt: skip

    out = tmp_path / "out"
    done = run("shards", table, "--audio", archive, "--out", out, "--jobs", "1", "--part", "2/2")
    assert done.returncode == 0, done.stderr
    assert "Part 2/2 is done, 1 shards; 2 of 3 shards are still to write" in done.stderr
    done = run("merge", out)
    assert done.returncode == 2 and "have not finished: 1/2" in done.stderr
    done = run("shards", table, "--audio", archive, "--out", out, "--jobs", "1", "--part", "1/2")
    assert done.returncode == 0 and f"`chorus prep merge {out}` finishes" in done.stderr
    done = run("merge", out)
    assert done.returncode == 0 and "24 clips of 24 recordings" in done.stderr
    assert json.loads((out / "stats.json").read_text())["clips"] == 24
    assert not (out / ".prep").exists()


def test_a_finished_dataset_of_a_folder_is_known_by_its_table(
    archive: Path, dataset: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_folder(archive, tmp_path / "birds", jobs=1)
    prepare_shards(table, tmp_path / "birds", audio=archive, part="1/2")
    assert "Nothing to do" in capsys.readouterr().err


def test_what_the_selection_found_goes_with_the_dataset(
    table: Path, archive: Path, tmp_path: Path
) -> None:
    funnel = {"steps": [{"name": "all rows", "recordings": 30, "hours": 1.0, "dropped": {}}]}
    (table / "selection.json").write_text(json.dumps(funnel))
    for how, out in (("at once", tmp_path / "a"), ("in parts", tmp_path / "b")):
        if how == "at once":
            prepare_shards(table, out, audio=archive, jobs=1, name="x")
        else:
            for number in (1, 2):
                prepare_shards(table, out, audio=archive, part=Part(number, 2), jobs=1, name="x")
            merge(out)
        assert json.loads((out / "selection.json").read_text()) == funnel
        assert not (out / ".prep").exists()
        text = (out / "README.md").read_text()
        assert "## Sources" in text and "all rows" in text
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
