"""Submitting as a person does, on a real SLURM: one run, a chain, a sweep, a failure."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_two_nodes_with_two_processes_each(submit, chorus, cluster):
    left_over = {"MASTER_PORT": "29500", "MASTER_ADDR": "nowhere", "RANK": "3", "SLURM_NTASKS": "9"}
    run = submit("square", shape=("cluster.nodes=2", "cluster.tasks_per_node=2"), env=left_over,
                 steps=6)  # fmt: skip
    assert "watch" in run.printed and "chorus cancel square" in run.printed
    run.wait("COMPLETED")
    assert run.steps() == list(range(1, 7))
    started = next(x for x in run.metrics() if x.get("event") == "started")
    assert started["ranks"] == 4
    assert (run.folder / "report.html").is_file()
    # It can be read and run by hand, and the source of today is not needed.
    text = (run.folder / "job.sh").read_text()
    assert f"export PYTHONPATH={run.folder}/code" in text
    assert (run.folder / "code" / "dawnchorus" / "trainer" / "training" / "run.py").is_file()
    revision = json.loads((run.folder / "code" / "revision.json").read_text())
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["source_revision"] == revision["revision"]
    runs = str(cluster.here / "runs")
    listed = chorus("runs", "--runs", runs).stdout
    line = next(x for x in listed.splitlines() if "square" in x)
    assert "done" in line and "6/6" in line and run.job_id in line
    assert "event     step 6: finished" in chorus("runs", "show", "square", "--runs", runs).stdout


def test_a_job_that_fails_in_its_first_minute_says_why_in_one_place(submit, chorus, cluster):
    run = submit("broken", "cluster.sbatch_extra=[--hold]")
    # The dataset goes away between submission and start.
    recipe = run.folder / "submitted.yaml"
    recipe.write_text(recipe.read_text().replace("/data/tones", "/data/gone"))
    runs = ["--runs", str(cluster.here / "runs")]
    assert (
        f"broken: SLURM holds job {run.job_id}: `scontrol release" in chorus("runs", *runs).stdout
    )
    cluster.run("scontrol", "release", run.job_id)
    job = run.wait("FAILED", timeout_s=300)
    assert job["ExitCode"] == "2:0"
    assert job["Restarts"] == "0"
    shown = chorus("runs", "show", "broken", *runs).stdout
    assert "failed" in shown and "there is no dataset folder" in shown
    assert "there is no dataset folder" in run.log()


def test_a_dry_run_submits_nothing(chorus, cluster, tones):
    before = cluster.run("squeue", "-h", "-t", "all", "-o", "%A")
    done = chorus("submit", "sl_beats_tiny", "cluster=test", f"data.train.main.path={tones}",
                  f"runs={cluster.here}/runs", "name=dry", "--dry-run")  # fmt: skip
    assert "#SBATCH --nodes=2" in done.stdout and "M parameters" in done.stdout
    assert not (cluster.here / "runs" / "dry").exists()
    assert cluster.run("squeue", "-h", "-t", "all", "-o", "%A") == before
    wrong = chorus("submit", "sl_beats_tiny", "cluster=test", "data.train.main.path=/gone",
                   check=False)  # fmt: skip
    assert wrong.returncode == 2 and "nothing was submitted" in wrong.stderr
    assert "Traceback" not in wrong.stderr


CHAIN = """
steps:
  - {name: first, train: ssl_beats_tiny, overrides: [objective.min_perplexity=1]}
  - name: second
    train: ssl_beats_tiny
    takes: {init_from: first}
    overrides: [objective.min_perplexity=1]
  - name: post
    train: sl_beats_tiny
    takes: {init_from: second}
    overrides: [optim.head_only_steps=1, optim.head_warmup_steps=0]
  - {name: measure, evaluate: DATA, preset: fast}
  - {name: publish, export: OUT}
"""


def test_a_chain_goes_from_step_to_step(chorus, cluster, tones, tiny):
    runs, out = cluster.here / "runs", cluster.here / "exported"
    file = cluster.here / "road.yaml"
    file.write_text(CHAIN.replace("DATA", str(tones)).replace("OUT", str(out)))
    done = chorus(
        "submit", "--chain", str(file), "cluster=test", "cluster.nodes=1",
        "cluster.tasks_per_node=1", f"data.train.main.path={tones}", f"runs={runs}",
        *[x for x in tiny if "head" not in x], "train.max_steps=3",
        "measure.probe.epochs=20", "publish.author=The Testers",
    )  # fmt: skip
    ids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("job ")]
    assert len(ids) == 5
    for job_id in ids:
        cluster.wait_for_job(job_id, "COMPLETED", timeout_s=400)
    for name, source in (("second", "first"), ("post", "second")):
        recipe = (runs / f"road-{name}" / "recipe.yaml").read_text()
        assert f"init_from: {runs}/road-{source}\n" in recipe
    assert list((runs / "road-post" / "evaluation").glob("*.json"))
    assert (out / "model.safetensors").is_file()


def test_a_chain_is_checked_to_its_end_before_anything_starts(chorus, cluster, tones):
    before = cluster.run("squeue", "-h", "-t", "all", "-o", "%A")
    words = ["submit", "--chain", "posttrain=sl_beats_tiny", "cluster=test", "name=never",
             f"data.train.main.path={tones}", f"runs={cluster.here}/runs"]  # fmt: skip
    for more, why in (
        (
            [f"evaluate={tones}", "evaluate.probe.seeds=1"],
            "probe.seeds: Input should be greater than or equal to 3",
        ),
        (["evaluate=/gone"], "no finished dataset"),
        (["export=/tmp/x"], "export.author"),
        (["export=/tmp/x", "export.autor=me"], "no such field"),
    ):
        done = chorus(*words, *more, check=False)
        assert done.returncode == 2 and why in done.stderr, done.stderr
    assert cluster.run("squeue", "-h", "-t", "all", "-o", "%A") == before
    assert not (cluster.here / "runs" / "never").exists()


def test_what_follows_a_failed_stage_never_starts(chorus, cluster, submit):
    run = submit("first", steps=3000)
    after = cluster.run(
        "sbatch", "--parsable", f"--dependency=afterok:{run.job_id}", "--kill-on-invalid-dep=yes",
        "--wrap", "true", "--output", f"{cluster.here}/never",
    )  # fmt: skip
    run.wait_for_step(1)
    chorus("cancel", "first", "--runs", str(cluster.here / "runs"))
    run.wait("CANCELLED")
    assert cluster.wait_for_job(after, "CANCELLED")["JobState"] == "CANCELLED"


def test_a_sweep_is_an_array_with_a_table(chorus, cluster, tones, tiny):
    from_shape = ["cluster.nodes=1", "cluster.tasks_per_node=1"]
    runs = cluster.here / "runs"
    done = chorus(
        "submit", "sl_beats_tiny", "cluster=test", *from_shape, *tiny,
        f"data.train.main.path={tones}", "train.max_steps=4", f"runs={runs}", "name=swept",
        "--sweep", "optim.lr=1e-3,1e-4", "--at-once", "2",
    )  # fmt: skip
    ids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("job ")]
    assert len(ids) == 3 and ids[0].endswith("_0") and ids[1].endswith("_1")
    cluster.wait_for_job(ids[2], "COMPLETED", timeout_s=300)
    table = (runs / "swept-sweep" / "table.md").read_text()
    assert table.count("done") == 2 and "swept-lr_1e-3" in table and "swept-lr_1e-4" in table
