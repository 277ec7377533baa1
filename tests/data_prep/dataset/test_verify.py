"""`chorus data verify`: a good dataset has no problem, and each kind of damage is named."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.dataset.verify import Report, verify_dataset
from dawnchorus.data_prep.errors import PrepError

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def good(make_folder: Callable, make_rows: Callable, tmp_path_factory: pytest.TempPathFactory):
    """24 recordings in 48 pieces, three shards, two splits."""
    rows = make_rows(24)
    for i, row in enumerate(rows):
        row |= {"background": "Strix aluco" if i % 5 == 0 else ""}
        row["split"] = "test" if row["group_id"] == "person 3" else "train"
    root = make_folder(tmp_path_factory.mktemp("verify") / "birds", rows)
    prepare_folder(root, root.parent / "set", jobs=1, max_piece_s=1.0, shard_size_mb=1)
    return root.parent / "set"


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "set"))


def rows_of(dataset: Path, name: str = "index") -> list[dict[str, Any]]:
    return pq.read_table(dataset / f"{name}.parquet").to_pylist()


def write_rows(dataset: Path, rows: list[dict[str, Any]], name: str = "index") -> None:
    schema = pq.read_schema(dataset / f"{name}.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), dataset / f"{name}.parquet")


def problems(dataset: Path, **options: Any) -> list[str]:
    report = verify_dataset(dataset, **{"jobs": 1} | options)
    assert report.count == len(report.problems)
    return [str(problem) for problem in report.problems]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("quick", [False, True])
def test_a_good_dataset_has_no_problem(good: Path, jobs: int, quick: bool) -> None:
    report = verify_dataset(good, jobs=jobs, quick=quick)
    assert (report.count, report.warnings, report.notes) == (0, [], [])
    stats = json.loads((good / "stats.json").read_text())
    assert (report.clips, report.shards) == (stats["clips"], stats["shards"])
    assert report.hours == pytest.approx(stats["hours"])


@pytest.mark.parametrize("options", [{"codec": "wav"}, {"trim_silence_s": 1.0, "peak_dbfs": -3.0}])
def test_other_options_too(archive: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    prepare_folder(archive, tmp_path / "set", jobs=1, max_piece_s=1.0, **options)
    assert problems(tmp_path / "set") == []


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_rotten_bytes_name_shard_and_clip(copy: Path) -> None:
    row = rows_of(copy)[7]
    overwrite(copy / row["shard"], row["offset"] + row["size"] // 2, b"rot" * 9)
    found = problems(copy)
    assert len(found) == 2
    assert any(f"{row['shard']}: its SHA-256" in text for text in found)
    assert any(f"{row['shard']}: {row['key']}: " in text for text in found)
    assert problems(copy, quick=True) == []  # it reads no sound


def test_samples_that_are_not_those_of_the_recording(archive: Path, tmp_path: Path) -> None:
    """One sample of a WAV, which has no digest of its own."""
    out = tmp_path / "set"
    prepare_folder(archive, out, jobs=1, codec="wav")
    row = rows_of(out)[5]
    overwrite(out / row["shard"], row["offset"] + 4000, b"\x55")
    found = problems(out)
    assert len(found) == 2 and "SHA-256" in found[0] and f": {row['key']}: " in found[1]
    (out / "shards.sha256").unlink()
    report = verify_dataset(out, jobs=1)
    assert [problem.key for problem in report.problems] == [row["key"]]
    assert "pcm_sha1" in report.problems[0].what and "no shards.sha256" in report.notes[0]


def test_lost_and_truncated_and_strange_tars(copy: Path) -> None:
    names = sorted({row["shard"] for row in rows_of(copy)})
    (copy / names[0]).unlink()
    data = (copy / names[1]).read_bytes()
    (copy / names[1]).write_bytes(data[: len(data) // 2])
    shutil.copy(copy / names[2], copy / "train" / "000099.tar")
    found = problems(copy, quick=True)
    assert f"{names[0]}: the file is missing" in found
    assert "train/000099.tar: the tar is not in the index" in found
    assert any(text.startswith(f"{names[1]}: ") and "is in the index, not in the tar" in text
               for text in found)  # fmt: skip


def rewrite_tar(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a tar anew with other contents."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            new = change(name, data)
            if new is not None:
                info = tarfile.TarInfo(name)
                info.size = len(new)
                tar.addfile(info, io.BytesIO(new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "labels is set() in its JSON"),
        ({"licence_url": "https://other.example"}, "licence and recordist is"),
        ({"start_s": 3.5}, "start_s is 3.5"),
        ({"group_id": "x"}, "group_id is 'x'"),
        ({"key": "y"}, "key is 'y'"),
        (None, "is not a record of a clip"),
    ],
)
def test_records_that_say_something_else(copy: Path, change: Any, message: str) -> None:
    row = rows_of(copy)[3]

    def edit(name: str, data: bytes) -> bytes:
        if name != f"{row['key']}.json":
            return data
        text = json.dumps(json.loads(data) | change) if change else "[]"
        return text.encode().ljust(len(data))[: max(len(data), len(text))]

    rewrite_tar(copy / row["shard"], edit)
    (copy / "shards.sha256").unlink()
    found = [text for text in problems(copy) if f": {row['key']}: " in text]
    assert any(message in text for text in found), found


def test_a_member_that_is_gone_and_offsets_that_moved(copy: Path) -> None:
    rows = [row for row in rows_of(copy) if row["shard"] == rows_of(copy)[0]["shard"]]
    gone = rows[1]["key"]
    rewrite_tar(copy / rows[0]["shard"], lambda n, d: None if n == f"{gone}.json" else d)
    found = problems(copy, quick=True)
    assert any(f"{gone}.json is in the index, not in the tar" in text for text in found)
    assert sum("the tar has" in text for text in found) == len(rows) - 2


def change_index(field: str, value: Any) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        rows = rows_of(dataset)
        rows[2][field] = value
        write_rows(dataset, rows)

    return change


def change_stats(**new: Any) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        stats = json.loads((dataset / "stats.json").read_text()) | new
        (dataset / "stats.json").write_text(json.dumps(stats))

    return change


def change_table(name: str, field: str, value: Any) -> Callable[[Path], None]:
    def change(dataset: Path) -> None:
        rows = rows_of(dataset, name)
        rows[1][field] = value
        write_rows(dataset, rows, name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_index("label_ids", [99]), "label_ids [99] do not fit labels.json"),
        (change_index("licence_id", -1), "licence_id -1 is not in licences.parquet"),
        (change_index("recording_id", "x:1"), "'x:1' is not in recordings.parquet"),
        (change_index("group_id", "x"), "group_id 'x' is not that of its recording"),
        (change_index("fold", None), "fold None is not that of its recording"),
        (change_index("key", "rec000_0000"), "the key occurs 2 times"),
        (change_index("samples", 5), "hours"),
        (change_index("shard", "elsewhere/000000.tar"), "is not in the folder of split"),
        (change_stats(clips=7), "clips is 7, the tables have"),
        (change_stats(rejected=1), "rejected is 1, the tables have 0"),
        (change_stats(clips_per_label={}), "clips_per_label differs from the index for Bubo"),
        (change_stats(splits={}), "clips of the splits"),
        (change_stats(hours=1.0), "hours  are 1.0"),
        (change_table("recordings", "clips", 9), "has 9 clips, the index has"),
        (change_table("recordings", "id", "birds:audio/rec000.wav"), "an id occurs twice"),
        (change_table("licences", "hours", 1.0), "licence 1 has"),
        (change_table("licences", "licence_id", 5), "does not count the rows"),
    ],
)
def test_tables_that_contradict_each_other(
    copy: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copy)
    found = problems(copy, quick=True)
    assert any(message in text for text in found), found


def test_groups_in_two_splits_are_a_warning(
    make_folder: Callable, make_rows: Callable, tmp_path: Path
) -> None:
    rows = make_rows(8, ["wav"])
    for i, row in enumerate(rows):
        row |= {"split": ("train", "test")[i // 4], "fold": ""}
    root = make_folder(tmp_path / "birds", rows)
    prepare_folder(root, tmp_path / "set", jobs=1)
    report = verify_dataset(tmp_path / "set", jobs=1)
    assert report.count == 0
    assert "4 groups lie in more than one split, for example 'person" in report.warnings[0]


def test_what_is_no_dataset(good: Path, copy: Path, archive: Path, tmp_path: Path) -> None:
    from dawnchorus.data_prep.dataset.prepare import prepare_shards
    from dawnchorus.data_prep.table.recording import Recording
    from dawnchorus.data_prep.table.recording_table import write_table

    with pytest.raises(PrepError, match="not a dataset"):
        verify_dataset(tmp_path)
    write_table(
        [Recording(id=f"x:{i}", source="x", source_id=str(i), path=f"audio/rec{i:03d}.{kind}",
                   group_id="g") for i, kind in enumerate(["wav", "flac"] * 8) if i % 4 < 2],
        tmp_path / "t",
    )  # fmt: skip
    prepare_shards(tmp_path / "t", tmp_path / "half", audio=archive, part="2/2", jobs=1)
    with pytest.raises(PrepError, match="0 of 1 shards are there"):
        verify_dataset(tmp_path / "half")
    (copy / "licences.parquet").write_bytes(b"PAR1")
    with pytest.raises(PrepError, match="cannot be read"):
        verify_dataset(copy)


def test_only_so_many_problems_are_kept_and_all_are_counted(copy: Path) -> None:
    write_rows(copy, [row | {"licence_id": 50} for row in rows_of(copy)])
    report = verify_dataset(copy, quick=True, jobs=1, limit=5)
    assert len(report.problems) == 5 and report.count >= 24
    lines = list(report.lines())
    assert f"... and {report.count - 5} more problems" in lines and "50" in lines[0]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from dawnchorus.data_prep.cli import data_app; data_app()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=REPO,
                          capture_output=True, text=True)  # fmt: skip


def test_the_command_ends_with_2_when_anything_is_wrong(good: Path, copy: Path) -> None:
    done = run("verify", good, "--jobs", "2")
    assert done.returncode == 0 and "no problem in" in done.stdout, done.stderr
    row = rows_of(copy)[0]
    overwrite(copy / row["shard"], row["offset"] + 60, b"rot" * 9)
    done = run("verify", copy, "--jobs", "2")
    assert done.returncode == 2 and f"problem: {row['shard']}: {row['key']}: " in done.stdout
    assert "Traceback" not in done.stderr


def test_a_report_prints_warnings_and_notes(tmp_path: Path) -> None:
    report = Report(tmp_path, quick=False, limit=1, warnings=["w"], notes=["n"])
    report.add("train/000000.tar", "what", "key")
    assert list(report.lines())[:3] == [
        "problem: train/000000.tar: key: what", "warning: w", "note: n",
    ]  # fmt: skip
