"""`chorus prep shards --slurm`: what is submitted, and what it makes on a real SLURM."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import digests
from typer.testing import CliRunner

from dawnchorus.data_prep.archives.own_folder import read_folder
from dawnchorus.data_prep.cli import prep_app
from dawnchorus.data_prep.dataset.options import FolderOptions
from dawnchorus.data_prep.dataset.prepare import prepare_shards
from dawnchorus.data_prep.table.recording_table import write_table

BROKEN = 2


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short recordings, two of them no audio, beside their table."""
    root = tmp_path_factory.mktemp("prep") / "birds"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = ["filename,label,licence"]
    for i in range(40):
        name = f"r{i:02d}.wav"
        soundfile.write(root / name, 0.1 * rng.standard_normal(16000), 16000)
        rows.append(f"{name},species {i % 3},CC0")
    for i in range(BROKEN):
        (root / f"r{7 * i:02d}.wav").write_text("<html>")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    write_table(read_folder(root, FolderOptions()).recordings, root)
    return root


def prep(*words: object) -> Any:
    return CliRunner().invoke(prep_app, ["shards", *map(str, words)])


def test_the_scripts_are_bash_with_a_part_for_each_task(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "the set"
    given = [table, "--out", out, "--slurm", "small", "--codec", "wav", "--allow-broken"]
    done = prep(*given, "--parts", 5, "--cluster", "time=1:00:00", "--dry-run")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "the set-jobs").exists()
    scripts = [f"#!/bin/bash\n{text}" for text in done.output.split("#!/bin/bash\n")[1:]]
    plan, array, merge = scripts
    for text in scripts:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        for word in ("--gpus-per-node", "--gres", "--mem=", "--signal", "srun "):
            assert word not in text
        assert "#SBATCH --time=1:00:00\n" in text and "#SBATCH --ntasks-per-node=1\n" in text
    assert "#SBATCH --array=0-4\n" in array and "#SBATCH --requeue\n" in array
    assert "--array" not in merge and "--array" not in plan
    assert "--codec wav --allow-broken --plan" in plan and "--part " not in plan
    command = next(x for x in array.splitlines() if " prep shards " in x)
    assert f"--out '{out}'" in command and "--codec wav --allow-broken" in command
    assert '--jobs "$SLURM_CPUS_PER_TASK"' in command
    assert '--part "$((SLURM_ARRAY_TASK_ID + 1))/5"' in command
    assert f"prep merge '{out}' --allow-broken" in merge


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "huge"], "Shipped are large, small, test"),
        (["--slurm", "small", "--part", "1/2"], "every task has its own"),
        (["--slurm", "small", "--cluster", "tim=1"], "did you mean 'time'"),
        (["--slurm", "small", "--codec", "mp3"], "codec must be one of"),
        (["--slurm", "small", "--audio", "/nowhere"], "/nowhere is not a folder"),
        (["--dry-run"], "go with --slurm"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(
    table: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    done = prep(table, "--out", tmp_path / "set", *words)
    assert done.exit_code == 2 and message in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slurm
@pytest.mark.slow
def test_the_jobs_make_the_dataset_of_one_run(
    chorus: Any, cluster: Any, table: Path, tmp_path: Path
) -> None:
    given = ["--shard-size-mb", "1", "--name", "set"]
    prepare_shards(table, tmp_path / "set", jobs=1, shard_size_mb=1, name="set", allow_broken=True)
    out = cluster.here / "prep" / "set"

    def submit(*words: str) -> tuple[str, str]:
        done = chorus("prep", "shards", str(table), "--out", str(out), "--slurm", "test",
                      "--parts", "3", *given, *words)  # fmt: skip
        jobs = next(x for x in done.stdout.splitlines() if x.startswith("job ")).split()
        return jobs[1].rstrip(","), jobs[4]

    # Two of 40 recordings are broken: the part that has them ends, and nothing is joined.
    array, merge = submit()
    cluster.wait_for_job(merge, "CANCELLED", timeout_s=240)
    logs = out.with_name("set-jobs") / "logs"
    said = "".join(path.read_text() for path in logs.glob(f"slurm-{array}_*.log"))
    assert "2 of 40 recordings are unusable" in said and "r07.wav" in said
    assert not (logs / f"slurm-{merge}.log").exists() and not (out / "index.parquet").exists()
    again = submit("--allow-broken")
    assert set(again).isdisjoint({array, merge})
    cluster.wait_for_job(again[1], "COMPLETED", timeout_s=240)
    assert digests(out) == digests(tmp_path / "set")
    finished = chorus("prep", "shards", str(table), "--out", str(out), "--slurm", "test",
                      *given, check=False)  # fmt: skip
    assert finished.returncode == 2 and "is finished" in finished.stderr
