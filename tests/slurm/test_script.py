"""What is checked, written and decided before and after SLURM: no cluster needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dawnchorus.slurm.chain import submit_chain
from dawnchorus.slurm.chain_recipe import read_chain
from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.profile import ClusterProfile, load_profile, seconds
from dawnchorus.slurm.scheduler import clean_environment
from dawnchorus.slurm.script import JobScript, write_script
from dawnchorus.slurm.submit import prepare_recipe, split_overrides, submit
from dawnchorus.slurm.sweep import read_sweep, sweep_name
from dawnchorus.trainer.compose import recipes_folder
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.session.job import Job

JOB = Job("7", 0, "0", "n1", 1)


def script(**changes: Any) -> JobScript:
    values: dict[str, Any] = {
        "name": "x", "title": "a run", "run": Path("/data/runs/it's x"),
        "command": ("chorus", "train", "/data/runs/it's x/submitted.yaml"),
        "profile": ClusterProfile(nodes=2, gpus_per_node=4), "code": Path("/data/code"),
    }  # fmt: skip
    return JobScript(**(values | changes))


# --------------------------------------------------------------------------- profiles


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 1800), ("10:30", 630), ("1:00:00", 3600), ("2-0", 172800), ("1-02:03:04", 93784)],
)
def test_time_limits_as_slurm_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("path", sorted((recipes_folder() / "cluster").glob("*.yaml")))
def test_every_shipped_profile_loads_and_renders_bash(path: Path, tmp_path: Path) -> None:
    profile = load_profile(path.stem, [])
    text = script(profile=profile).text()
    file = tmp_path / "job.sh"
    file.write_text(text)
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert f"#SBATCH --nodes={profile.nodes}\n" in text
    assert f"#SBATCH --ntasks-per-node={profile.tasks}\n" in text


def test_all_mistakes_of_a_profile_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("nodes: 0\ngpu_per_node: 4\ntime: soon\n")
    with pytest.raises(RecipeError) as told:
        load_profile(str(path), ["cluster.cpus_per_task=none"])
    for part in ("nodes: ", "did you mean 'gpus_per_node'", "not a time limit", "cpus_per_task"):
        assert part in str(told.value), told.value
    with pytest.raises(RecipeError, match=r"Shipped are large, small, test"):
        load_profile("huge", [])
    with pytest.raises(RecipeError, match="one process drives one GPU"):
        load_profile("small", ["cluster.tasks_per_node=2"])


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "my_password",
     "APIKEY", "GCP_CREDENTIALS", "GH_PAT", "DB_PWD", "BASIC_AUTH"],
)  # fmt: skip
def test_a_secret_does_not_go_into_a_job_script(name: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text(f"environment: {{{name}: abc123}}\n")
    with pytest.raises(RecipeError, match=f"{name} looks like a secret") as told:
        load_profile(str(place), [])
    assert "abc123" not in str(told.value)


def test_a_login_in_an_address_does_not_either_and_the_rest_does(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY looks like a secret"):
        ClusterProfile(environment={"HTTPS_PROXY": "http://me:abc123@proxy:3128"})
    fine = {"TOKENIZERS_PARALLELISM": "false", "HF_TOKEN_PATH": "/home/me/token",
            "KEYBOARD": "de", "HTTPS_PROXY": "http://proxy:3128"}  # fmt: skip
    assert ClusterProfile(environment=fine).environment == fine


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_only_its_owner_may_read_a_job_script(umask: int, tmp_path: Path) -> None:
    job = script(run=tmp_path / "run")
    before = os.umask(umask)
    try:
        for _ in range(2):
            path = write_script(job)
            assert path.stat().st_mode & 0o777 == 0o700
            path.chmod(0o755)  # as an earlier version left it
    finally:
        os.umask(before)
    assert path.read_text() == job.text()


def test_what_goes_into_the_script() -> None:
    profile = ClusterProfile(
        partition="gpu", account="me", nodes=2, gpus_per_node=4, gpu_type="a100", memory_gb=100,
        modules=("cuda/12",), environment={"A": "b c"}, sbatch_extra=("--exclusive",),
        srun_extra=("--cpu-bind=cores",), network_interface="ib0", scratch="/scratch/$SLURM_JOB_ID",
    )  # fmt: skip
    text = script(profile=profile).text()
    for line in (
        "#SBATCH --partition=gpu", "#SBATCH --gres=gpu:a100:4", "#SBATCH --mem=100G",
        "#SBATCH --requeue", "#SBATCH --signal=USR1@180", "#SBATCH --exclusive",
        "#SBATCH --open-mode=append", "module load cuda/12", "export A='b c'",
        "export NCCL_SOCKET_IFNAME=ib0", 'export TMPDIR="/scratch/$SLURM_JOB_ID"',
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", "export PYTHONPATH=/data/code",
    ):  # fmt: skip
        assert f"{line}\n" in text, text
    assert "--kill-on-bad-exit=1" in text and "--block-signal=USR1" in text
    assert "--cpu-bind=cores" in text
    assert "MASTER_PORT=" not in text
    after = script(train=False).text()
    assert "--signal" not in after and "--no-requeue" in after and "srun --" not in after


def test_the_exit_code_of_srun_is_kept_though_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    """The script runs with a stand-in for srun that is asked to stop and takes its time."""
    text = script(run=tmp_path, profile=ClusterProfile()).text()
    place = tmp_path / "bin"
    place.mkdir()
    for name, body in {
        "srun": "trap '' TERM\nkill -TERM $PPID\nsleep 0.5\nexit 75",
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol; echo n1',
        "squeue": "echo RUNNING",
        "sleep": "exec /bin/sleep 0.5",
    }.items():
        (place / name).write_text(f"#!/bin/bash\n{body}\n")
        (place / name).chmod(0o755)
    (tmp_path / "requeue.json").write_text(json.dumps({"job": "7", "restart": 0, "reason": "time"}))
    (tmp_path / "job.sh").write_text(text)
    env = os.environ | {
        "PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1",
        "SLURM_CPUS_PER_TASK": "1", "MASTER_PORT": "1",
        # The stand-in for the snapshot.
        "PYTHONPATH": "",
    }  # fmt: skip
    code = text.replace("export PYTHONPATH=/data/code", f"export PYTHONPATH={Path.cwd()}")
    (tmp_path / "job.sh").write_text(code)
    done = subprocess.run(
        ["bash", str(tmp_path / "job.sh")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 75, done.stderr
    assert "queued again: time" in done.stderr
    assert "requeue 7" in (tmp_path / "scontrol").read_text()


def test_left_overs_of_an_allocation_are_not_handed_on() -> None:
    env = {
        "SLURM_JOB_ID": "1", "SBATCH_EXPORT": "x", "SRUN_X": "1", "MASTER_PORT": "29500",
        "MASTER_ADDR": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "PMI_RANK": "1",
        "SLURM_CONF": "/etc/x", "HOME": "/root", "FRANK": "y", "MASTER_KEY": "z",
    }  # fmt: skip
    assert clean_environment(env) == {
        "SLURM_CONF": "/etc/x", "HOME": "/root", "FRANK": "y", "MASTER_KEY": "z",
    }  # fmt: skip


# --------------------------------------------------------------------------- recipes


def test_what_is_missing_is_told_before_anything_is_submitted(tone_dataset: Path) -> None:
    profile = ClusterProfile(nodes=2, tasks_per_node=3)
    with pytest.raises(SubmitError) as told:
        prepare_recipe(
            "sl_beats_tiny",
            ["data.train.main.path=/nowhere", "init_from=/no/run", "train.global_batch=32"],
            profile,
        )
    for part in (
        "/nowhere does not exist",
        "init_from: /no/run",
        "on 6 ranks",
        "Use train.global_batch=30",
    ):
        assert part in str(told.value)
    with pytest.raises(RecipeError, match="did you mean 'lr'"):
        prepare_recipe("sl_beats_tiny", ["optim.lrr=1"], profile)
    loaded = prepare_recipe(
        "sl_beats_tiny", [f"data.train.main.path={tone_dataset}", "train.global_batch=30"], profile
    )
    assert (loaded.train.nodes, loaded.train.devices) == (2, 3)
    assert Path(loaded.runs).is_absolute()


def test_overrides_of_the_profile_and_of_the_recipe_part() -> None:
    words = ["cluster=small", "cluster.time=1:00:00", "optim.lr=1", "seed=2"]
    assert split_overrides(words) == ("small", ["cluster.time=1:00:00"], ["optim.lr=1", "seed=2"])


def test_chains_and_sweeps_are_read() -> None:
    chain, own, common = read_chain(
        ["pretrain=a", "posttrain=b", "posttrain.optim.lr=1e-4", "evaluate=/d", "export", "seed=1"]
    )
    pre, post, measured, exported = chain.steps
    assert (pre.train, post.train, measured.evaluate, exported.export) == ("a", "b", "/d", "")
    assert post.takes == {"init_from": "pretrain"} and not pre.takes
    assert own["posttrain"] == ["optim.lr=1e-4"] and common == ["seed=1"]
    for wrong, why in (
        (["evaluate=/d"], "training step"), (["pretrain"], "which recipe"),
        (["pretrain=a", "evaluate"], "which dataset"),
    ):  # fmt: skip
        with pytest.raises(SubmitError, match=why):
            read_chain(wrong)
    runs = read_sweep("optim.lr=1e-4,3e-4 data.train.x.folds=[1,2],[3]")
    assert len(runs) == 4
    assert runs[0] == ["optim.lr=1e-4", "data.train.x.folds=[1,2]"]
    assert sweep_name("base", runs[0]) == "base-lr_1e-4-folds_1_2"
    with pytest.raises(SubmitError, match="key=value"):
        read_sweep("optim.lr")


LONG = """
steps:
  - {name: first, train: ssl_beats_tiny}
  - {name: second, train: ssl_beats_tiny, takes: {init_from: first}, overrides: [seed=2]}
  - {name: early, evaluate: DATA, of: first, preset: fast, cluster: ["time=5:00"]}
  - {name: post, train: sl_beats_tiny, takes: {init_from: second}}
  - {name: late, evaluate: DATA, overrides: [probe.seeds=4]}
  - {name: out, export: "", overrides: [author=me]}
"""


def test_a_chain_is_any_steps_in_any_order(
    tone_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "road.yaml"
    file.write_text(LONG.replace("DATA", str(tone_dataset)))
    words = [str(file), "cluster=small", f"data.train.main.path={tone_dataset}",
             f"runs={tmp_path}/runs", "post.optim.lr=5e-4"]  # fmt: skip
    done = submit_chain(words, dry_run=True)
    runs = tmp_path / "runs"
    names = ["road-first", "road-second", "road-first", "road-post", "road-post", "road-post"]
    assert [one.run for one in done] == [runs / name for name in names]
    assert [one.script.name for one in done] == [
        "job.sh", "job.sh", "early.sh", "job.sh", "late.sh", "out.sh",
    ]  # fmt: skip
    told = capsys.readouterr().out
    for part in (
        f"train sl_beats_tiny   in {runs}/road-post   init_from from second",
        f"chorus evaluate {runs}/road-first data={tone_dataset} --preset fast",
        f"chorus evaluate {runs}/road-post data={tone_dataset} probe.seeds=4",
        f"chorus export {runs}/road-post --out {runs}/road-post/export --card author=me",
        "#SBATCH --time=5:00",
    ):
        assert part in told, (part, told)
    assert not runs.exists()


def test_the_iterations_of_beats_are_a_chain(
    tone_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each tokenizer learns from the encoder before it, each encoder from the tokenizer before."""
    for name in ("audioset", "noise"):
        shutil.copytree(tone_dataset, tmp_path / "datasets" / name)
    monkeypatch.setenv("CHORUS_DATA", str(tmp_path / "datasets"))
    runs = tmp_path / "runs"
    words = ["chain/beats_iterations", "cluster=small", f"runs={runs}", "publish.author=me"]
    done = submit_chain(words, dry_run=True)
    names = ["first", "tokenizer1", "second", "tokenizer2", "third"]
    assert [one.run.name for one in done[:5]] == [f"beats_iterations-{name}" for name in names]
    told = capsys.readouterr().out
    for name, key, source in (
        ("tokenizer1", "objective.teacher", "first"),
        ("second", "objective.tokenizer.path", "tokenizer1"),
        ("tokenizer2", "objective.teacher", "second"),
        ("third", "objective.tokenizer.path", "tokenizer2"),
    ):
        assert f"in {runs}/beats_iterations-{name}   {key} from {source}" in told
    # Alone, each wants what it starts from.
    with pytest.raises(SubmitError, match=r"objective.tokenizer.path: \S+ does not exist"):
        submit("ssl_beats_base_iter2", words[1:3], dry_run=True)
    with pytest.raises(SubmitError, match=r"objective.teacher: \S+ does not exist"):
        submit("tokenizer_beats_base", words[1:3], dry_run=True)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("{name: b, train: sl_beats_tiny, takes: {init_from: c}}", "'c' for init_from.* are: a"),
        ("{name: a, train: sl_beats_tiny}", "two are called 'a'"),
        ("{name: b, evaluate: x, of: b}", "no training step before it"),
        ("{name: b}", "must have one of train, evaluate and export .it has none"),
        ("{name: b, export: x, train: y}", "it has train and export"),
        ("{name: b, evaluate: x, takes: {init_from: a}}", "trains nothing"),
        ("{name: b, train: sl_beats_tiny, takes: {weights: a}}", "weights: there is no such key"),
        ("{name: b, evaluate: /gone}", "b: there is no finished dataset"),
        ("{name: b, evaluat: x}", "did you mean 'evaluate'"),
        ("{name: b, export: x, cluster: ['setup=[touch F]']}", "a chain sets resources only"),
        ("{name: b, export: x, cluster: ['srun_extra=[--task-prolog=/x]']}", "resources only"),
        ("{name: b, export: x, cluster: ['environment.LD_PRELOAD=/x']}", "resources only"),
        ("{name: b, export: x, overrides: [author=me, '\"$(touch F)\"']}", "are key=value"),
    ],
)
def test_mistakes_of_a_chain_are_told(
    tone_dataset: Path, tmp_path: Path, step: str, why: str
) -> None:
    file = tmp_path / "road.yaml"
    file.write_text(f"steps:\n  - {{name: a, train: ssl_beats_tiny}}\n  - {step}\n")
    words = [str(file), "cluster=small", f"data.train.main.path={tone_dataset}",
             f"runs={tmp_path}/runs"]  # fmt: skip
    with pytest.raises((SubmitError, RecipeError), match=why):
        submit_chain(words, dry_run=True)


def test_a_chain_of_which_a_step_is_refused_leaves_nothing_in_the_queue(
    tone_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an sbatch that takes two jobs and refuses the third, as at a limit of the cluster's."""
    sbatch, scancel = tmp_path / "sbatch", tmp_path / "scancel"
    sbatch.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho x >> taken\nN=$(wc -l < taken)\n"
        "if [ $N -gt 2 ]; then echo QOSMaxSubmitJobPerUserLimit >&2; exit 1; fi\necho 10$N\n"
    )
    scancel.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/cancelled\n")
    for program in (sbatch, scancel):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["pretrain=ssl_beats_tiny", "posttrain=sl_beats_tiny", f"evaluate={tone_dataset}",
             "cluster=test", f"data.train.main.path={tone_dataset}",
             f"runs={tmp_path}/runs"]  # fmt: skip
    with pytest.raises(SubmitError, match="QOSMaxSubmitJobPerUserLimit"):
        submit_chain(words)
    assert (tmp_path / "cancelled").read_text().split() == ["101", "102"]
