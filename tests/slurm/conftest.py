"""One throw-away cluster for all tests here, and runs submitted to it as a person would."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

REPO = Path(__file__).resolve().parents[2]
CHORUS = Path(sys.executable).with_name("chorus")
# Small enough that starting python is most of the time.
TINY = [
    "encoder=beats_tiny", "encoder.layers=2", "encoder.dim=32", "encoder.ffn_dim=64",
    "encoder.heads=2", "encoder.patch_dim=16", "encoder.conv_pos=16", "encoder.conv_pos_groups=4",
    "encoder.layer_drop=0.2", "data.window_s=2.0", "data.workers=0", "train.compile=false",
    "train.precision=fp32", "log.wandb=disabled", "train.log_every=1", "train.global_batch=8",
    "train.micro_batch=4", "train.checkpoint_every=5", "optim.head_only_steps=2",
    "optim.ema_decay=0.9", "optim.warmup_steps=2", "optim.head_warmup_steps=0",
]  # fmt: skip


def _cluster_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "chorus_cluster", Path(__file__).with_name("cluster.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _throwaway(**options: Any) -> Iterator[Any]:
    module = _cluster_module()
    # munge refuses a socket below a closed folder such as pytest's own; its path must be short.
    here = Path(tempfile.mkdtemp(prefix="chs"))
    here.chmod(0o755)
    cluster = module.Cluster(here, **options)
    try:
        cluster.__enter__()
    except (module.NoSlurm, subprocess.CalledProcessError) as error:
        cluster.__exit__()
        shutil.rmtree(here, ignore_errors=True)
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"REQUIRE_SLURM is set: {error}")
        pytest.skip(f"{error}; `make test-slurm` installs it on Debian")
    yield cluster
    cluster.__exit__()
    if not os.environ.get("KEEP_SLURM"):
        shutil.rmtree(here, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes, n1 and n2."""
    yield from _throwaway()


@pytest.fixture(scope="module")
def cabled_cluster() -> Iterator[Any]:
    """Two nodes, each with a cable of its own that can be pulled."""
    if os.geteuid() != 0:
        pytest.skip("making networks needs root")
    yield from _throwaway(network=True)


@pytest.fixture(autouse=True)
def well_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test leaves behind must not make the ones after it fail."""
    yield
    if "cluster" not in request.fixturenames:
        return
    cluster = request.getfixturevalue("cluster")
    with contextlib.suppress(RuntimeError):
        cluster.run("scancel", "--state=PENDING")
        cluster.run("scancel", "--state=RUNNING")
    for node in cluster.names:
        with contextlib.suppress(RuntimeError):  # it is well
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


@pytest.fixture(scope="session")
def tones(cluster: Any, make_dataset: Callable[..., Path], make_tones: Callable[..., Any]) -> Path:
    """A dataset of tones where all nodes see it."""
    clips, labels = make_tones(48, seconds=2.0)
    return make_dataset(cluster.here / "data" / "tones", clips, labels)


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make any recipe small."""
    return TINY


@dataclass
class Run:
    """A submitted run."""

    cluster: Any
    folder: Path
    job_id: str
    printed: str

    def metrics(self, *, superseded: bool = False) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, torn ones left out."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for text in path.read_text().splitlines() if path.is_file() else ():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if superseded or not line.get("superseded"):
                lines.append(line)
        return lines

    def steps(self) -> list[int]:
        """Steps of the training lines that stand."""
        return [line["step"] for line in self.metrics() if line["kind"] == "train"]

    def repeated(self) -> int:
        """Training lines that were superseded."""
        lines = self.metrics(superseded=True)
        return sum(x["kind"] == "train" and bool(x.get("superseded")) for x in lines)

    def wait_for_step(self, step: int, timeout_s: float = 240) -> None:
        """Wait until the run has logged a step."""
        end = time.monotonic() + timeout_s
        while max(self.steps(), default=0) < step:
            if time.monotonic() > end:
                raise AssertionError(f"no step {step} in time\n{self.situation()}")
            time.sleep(0.05)

    def wait(self, *states: str, timeout_s: float = 300) -> dict[str, str]:
        """Wait for a state of the job; its log is shown where another one comes."""
        try:
            job: dict[str, str] = self.cluster.wait_for_job(
                self.job_id, *states, timeout_s=timeout_s
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-6000:]}") from None
        return job

    def restarts(self) -> int:
        """How often SLURM has started the job again."""
        return int(self.cluster.job(self.job_id).get("Restarts", 0))

    def wait_for_restart(self, count: int, timeout_s: float = 240) -> None:
        """Wait until SLURM has started the job again so many times."""
        end = time.monotonic() + timeout_s
        while self.restarts() < count:
            if time.monotonic() > end:
                raise AssertionError(f"not restarted {count} times\n{self.situation()}")
            time.sleep(0.2)

    def checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint."""
        path = self.folder / "checkpoints" / "last.ckpt"
        return torch.load(path, map_location="cpu", weights_only=True)

    def stacks(self, rank: int) -> str:
        """Where the threads of a rank stood when its watchdog barked."""
        found = (self.folder / "failures").glob(f"*-rank{rank}.stacks")
        return "\n".join(p.read_text() for p in found)

    def situation(self) -> str:
        """What the job wrote last, and what SLURM says of it and of the nodes."""
        controller = self.cluster.here / "log" / "slurmctld.log"
        return "\n".join(
            [
                self.log()[-3000:],
                self.cluster.run("scontrol", "show", "job", self.job_id),
                self.cluster.run("scontrol", "show", "node"),
                "\n".join(controller.read_text(errors="replace").splitlines()[-60:]),
            ]
        )

    def log(self) -> str:
        """The job's log."""
        logs = sorted((self.folder / "logs").glob("slurm-*.log"))
        return "\n".join(p.read_text(errors="replace") for p in logs)


@pytest.fixture
def chorus(cluster: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`chorus …` on the submitting machine."""

    def call(*words: str, env: dict[str, str] | None = None, on: Any = cluster, check: bool = True):
        done = subprocess.run(
            [str(CHORUS), *words], env=on.env | (env or {}), capture_output=True, text=True,
            timeout=240, check=False, cwd=on.here,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def submit(cluster: Any, chorus: Callable[..., Any], tones: Path) -> Callable[..., Run]:
    """submit(name, *overrides) -> Run: one process on each of the two nodes, 24 steps."""

    def start(
        name: str, *overrides: str, recipe: str = "sl_beats_tiny", on: Any = cluster,
        steps: int = 24, runs: Path | None = None,
        shape: tuple[str, ...] = ("cluster.nodes=2", "cluster.tasks_per_node=1"),
        env: dict[str, str] | None = None,
    ) -> Run:  # fmt: skip
        runs = runs or on.here / "runs"
        done = chorus(
            "submit", recipe, "cluster=test", *shape, *TINY, f"data.train.main.path={tones}",
            f"train.max_steps={steps}", f"runs={runs}", f"name={name}", *overrides, on=on, env=env,
        )  # fmt: skip
        job_id = next(x for x in done.stdout.splitlines() if x.startswith("job ")).split()[1]
        return Run(on, runs / name, job_id, done.stdout)

    return start


@pytest.fixture(scope="session")
def straight_runs() -> dict[str, dict[str, Any]]:
    """Final states of uninterrupted runs, by what decides them."""
    return {}


@pytest.fixture
def uninterrupted(
    submit: Callable[..., Run], straight_runs: dict[str, dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """The final state of the same run without any fault (made once per length)."""

    def state(steps: int = 24) -> dict[str, Any]:
        key = str(steps)
        if key not in straight_runs:
            run = submit(f"straight-{steps}", steps=steps)
            run.wait("COMPLETED")
            assert run.steps() == list(range(1, steps + 1))
            straight_runs[key] = run.checkpoint()
        return straight_runs[key]

    return state


@pytest.fixture
def outcome(
    record_property: Callable[[str, object], None],
) -> Callable[[str, int, int, int], None]:
    """outcome(fault, injected, ended_right, steps_repeated): a line of the table at the end."""

    def note(fault: str, injected: int, right: int, repeated: int) -> None:
        record_property("fault", (fault, injected, right, repeated))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of faults."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    outcomes = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if not outcomes:
        return
    terminalreporter.section("faults on a real SLURM")
    head = f"{'fault':<44} {'injected':>8} {'ended right':>11} {'steps repeated':>14}"
    terminalreporter.write_line(head)
    for fault, injected, right, repeated in outcomes:
        terminalreporter.write_line(f"{fault:<44} {injected:>8} {right:>11} {repeated:>14}")
