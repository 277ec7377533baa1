"""What a stranger's recipe, profile or folder is called runs nothing at `chorus submit`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.profile import ClusterProfile, load_profile
from dawnchorus.slurm.script import Expanded, JobScript, directive, expandable
from dawnchorus.slurm.submit import prepare_recipe, training_script
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.names import check_name
from dawnchorus.trainer.recipe import load_recipe

# Each would leave a file called F where it is executed.
BREAKS = ("x\ntouch F\n#", "x\rtouch F", "x\x1b[2Jy", "x\u2028touch F", "x\x00y")
ODD = (
    "$(touch F)", "`touch F`", "a; touch F", "a b", "50%", "it's", 'say "hi"', "'$(touch F)'", "~",
    '"; touch F; "', "a\\' ; touch F #", "#x", "a & touch F", "${F:=$(touch F)}", "*",
)  # fmt: skip


def run_it(script: JobScript, folder: Path) -> str:
    """Check the script with bash, run it without SLURM, and look that nothing else ran."""
    text = script.text()
    (folder / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", "job.sh"], cwd=folder, check=True)
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name in ("srun", "scontrol", "squeue", "sleep", "module", "chorus", "env", "python"):
        (place / name).write_text("#!/bin/bash\nexit 0\n")
        (place / name).chmod(0o755)
    env = {"PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1",
           "SLURM_JOB_NODELIST": "n1", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7",
           "SLURM_RESTART_COUNT": "0", "USER": "me"}  # fmt: skip
    done = subprocess.run(["bash", "job.sh"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("F*")), text
    return text


def script(folder: Path, **changes: Any) -> JobScript:
    values: dict[str, Any] = {
        "name": "x", "title": "a run", "run": folder / "run", "profile": ClusterProfile(),
        "command": ("chorus", "train", "x"), "code": folder / "code",
    }  # fmt: skip
    return JobScript(**(values | changes))


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a", "lr_1e-4", "my.run+x", "v=2", "jörg", "2024", "_x", "鳥"])
def test_what_may_name_a_run(name: str) -> None:
    assert load_recipe("ssl_beats_tiny", [f"name={name}"]).name == name


@pytest.mark.parametrize(
    "name",
    [*BREAKS, *ODD, "", " ", "my run", "../../escape", "/abs", "a/b", ".hidden", "..", "-x", "x\n",
     "a" * 151, "x --account=other"],
)  # fmt: skip
def test_what_may_not(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        check_name(name)
    with pytest.raises(RecipeError, match=r"name[:=]"):
        load_recipe("ssl_beats_tiny", [f"name={name}"])


def test_a_name_that_would_do_is_told() -> None:
    with pytest.raises(RecipeError, match="'my_run' would do"):
        load_recipe("ssl_beats_tiny", ["name=my run"])


@pytest.mark.parametrize("text", BREAKS)
@pytest.mark.parametrize("key", ["runs", "init_from", "data.train.m.path", "log.wandb_project"])
def test_no_path_holds_a_line_break(key: str, text: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: holds the control character"):
        load_recipe("ssl_beats_tiny", [f"{key}={text}"])


# --------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("odd", ODD)
def test_folders_of_any_name(
    tone_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    here = tmp_path / odd
    here.mkdir()
    monkeypatch.chdir(here)
    runs = "runs='" + odd.replace("'", "''") + "'"
    given, asked = [f"data.train.main.path={tone_dataset}", runs, "name=n"], ClusterProfile()
    if "${" in odd or "\\" in odd:
        with pytest.raises((RecipeError, SubmitError), match=r"reference|backslash"):
            training_script(prepare_recipe("ssl_beats_tiny", given, asked), asked).text()
        return
    recipe = prepare_recipe("ssl_beats_tiny", given, asked)
    text = run_it(training_script(recipe, asked), here)
    output = next(line for line in text.splitlines() if line.startswith("#SBATCH --output="))
    wanted = f"{here}/{odd}/n/logs/".replace("%", "%%") + "slurm-%j.log"
    assert shlex.split(output.removeprefix("#SBATCH "))[0] == f"--output={wanted}"


@pytest.mark.parametrize("text", BREAKS)
def test_no_part_of_a_script_holds_a_line_break(tmp_path: Path, text: str) -> None:
    for field in ("name", "title", "run", "code", "command", "array_runs", "extra", "file"):
        values: dict[str, Any] = {
            "run": Path(text), "code": Path(text), "command": ("chorus", text),
            "array_runs": (Path(text),), "extra": (f"--x={text}",),
        }  # fmt: skip
        value = values.get(field, text)
        with pytest.raises(SubmitError, match="holds the control character"):
            script(tmp_path, **{field: value}).text()


@pytest.mark.parametrize("text", ['"$(touch F)"', '"$RUN`touch F`"', '"${F:=$(touch F)}"', *ODD])
def test_a_word_of_a_command_is_not_expanded_by_how_it_begins(tmp_path: Path, text: str) -> None:
    """A chain's overrides become words of a command; only this program's own are `Expanded`."""
    command = ("chorus", "export", "x", "--card", text, Expanded('"$RUN"'))
    told = run_it(script(tmp_path, command=command), tmp_path)
    assert f'--card {shlex.quote(text)} "$RUN"' in told


FIELDS = [
    name for name, field in ClusterProfile.model_fields.items()
    if field.annotation in (str, str | None, tuple[str, ...], dict[str, str])
]  # fmt: skip


def profile(text: str, *fields: str) -> ClusterProfile:
    values: dict[str, Any] = {"gpus_per_node": 1}
    for field in fields:
        kind = ClusterProfile.model_fields[field].annotation
        values[field] = text
        if kind == dict[str, str]:
            values[field] = {"A": text}
        elif kind == tuple[str, ...]:
            values[field] = [f"--x={text}" if field.endswith("_extra") else text]
    return ClusterProfile.model_validate(values)


def test_all_fields_of_a_profile_are_tried() -> None:
    assert {"partition", "account", "gpu_type", "scratch", "environment", "modules", "time",
            "sbatch_extra", "srun_extra", "container", "venv", "setup"} <= set(FIELDS)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_every_field_of_a_profile(tmp_path: Path, text: str) -> None:
    """`setup` is bash by intention; venv and container exclude one another."""
    for without in ("venv", "container"):
        fields = [field for field in FIELDS if field not in ("setup", "time", without)]
        folder = tmp_path / without
        folder.mkdir()
        run_it(script(folder, profile=profile(text, *fields)), folder)


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("setup", "time")])
def test_no_field_of_a_profile_holds_a_line_break(field: str) -> None:
    for text in BREAKS:
        with pytest.raises(ValueError, match=rf"{field}.*holds the control character"):
            profile(text, field)


@pytest.mark.parametrize("text", [*BREAKS, *ODD])
def test_times_and_names_of_variables(text: str) -> None:
    with pytest.raises(ValueError, match=r"time limit|control character"):
        ClusterProfile(time=text)
    with pytest.raises(ValueError, match=r"environment variable|control character"):
        ClusterProfile(environment={text: "x"})


def test_options_are_options() -> None:
    with pytest.raises(ValueError, match="is not an option"):
        ClusterProfile(sbatch_extra=("exclusive",))


@pytest.mark.parametrize("text", ODD)
def test_scratch_fills_in_variables_and_no_more(tmp_path: Path, text: str) -> None:
    command = f"printf %s {expandable(f'/s/$USER/${{USER}}/{text}')}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env={"USER": "me"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == f"/s/me/me/{text}"
    assert not (tmp_path / "F").exists()


@pytest.mark.parametrize("text", ODD)
def test_a_directive_is_one_word(text: str) -> None:
    assert shlex.split(directive(text), comments=True) == [text]


def test_a_sweep_with_a_line_break_in_it(tone_dataset: Path, tmp_path: Path) -> None:
    sweep = "optim.lr=1e-3,1e-4\ncard.author=$(touch)"
    program = "import sys; from dawnchorus.trainer.cli import main; sys.argv[0] = 'chorus'; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "submit", "sl_beats_tiny", "cluster=test", "--dry-run",
         f"data.train.main.path={tone_dataset}", "--sweep", sweep],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "# sweep of 2 runs: optim.lr=1e-3,1e-4 card.author=$(touch)\n" in done.stdout


# --------------------------------------------------------------------------- profiles


def test_a_profile_starts_from_others(tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(
        "defaults: [large, _self_]\naccount: us\nenvironment: {A: b}\nmodules: []\n"
    )
    (tmp_path / "mine.yaml").write_text("defaults: site.yml\nnodes: 2\ntime: 01:00:00\n")
    made = load_profile(str(tmp_path / "mine.yaml"), ["cluster.environment.C=d"])
    assert (made.account, made.nodes, made.gpus_per_node, made.time) == ("us", 2, 8, "01:00:00")
    assert made.environment == {"NCCL_DEBUG": "WARN", "A": "b", "C": "d"}
    assert made.modules == ()
    (tmp_path / "site.yml").write_text("defaults: [mine.yaml]\n")
    with pytest.raises(RecipeError, match="starts from itself"):
        load_profile(str(tmp_path / "mine.yaml"), [])
    (tmp_path / "site.yml").write_text("defaults: {a: b}\n")
    with pytest.raises(RecipeError, match="a list of names"):
        load_profile(str(tmp_path / "mine.yaml"), [])


def test_jobs_beside_the_training_ask_for_what_they_need() -> None:
    big = ClusterProfile(
        partition="gpu", cpu_partition="cpu", nodes=8, gpus_per_node=8, gpu_type="h200",
        cpus_per_task=12, memory_gb=900, time="1-00:00:00", constraint="h200",
        sbatch_extra=("--exclusive", "--reservation=r", "--mem-per-gpu=3G"),
    )  # fmt: skip
    light = script(Path("/x"), profile=big.light(cpus=1, memory_gb=2, time="15:00"), train=False)
    assert set(light.options()) >= {
        "--partition=cpu", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=2G",
        "--time=15:00", "--reservation=r",
    }  # fmt: skip
    assert not any("gpu" in x or "exclusive" in x or "constraint" in x for x in light.options())
    one = script(Path("/x"), profile=big.one_gpu(), train=False).options()
    assert {"--gres=gpu:h200:1", "--mem=113G", "--nodes=1", "--cpus-per-task=12"} <= set(one)
    short = ClusterProfile(time="5:00").light(cpus=8, memory_gb=2, time="15:00")
    assert (short.time, short.memory_gb, short.cpus_per_task) == ("5:00", None, 4)
