"""Cluster profiles in YAML: the resources that a job asks for, and how its environment is made.

A profile is `recipes/cluster/NAME.yaml` or a path; `cluster.key=value` on the command line changes
one value. A profile may start from others, for example `defaults: [large]`: each name is a shipped
profile or a path relative to the file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dawnchorus.trainer.compose import load
from dawnchorus.trainer.kinds import CLUSTER
from dawnchorus.trainer.names import control_characters, names_a_secret

_LOGIN = re.compile(r"://[^/@\s]+@")
_RESOURCES = re.compile(r"--(exclusive|gres|gpus|mem|nodes|ntasks|tasks|cpus|cores|exclude)\b")
"""Directives for a training job's resources. Exports and tables need less and leave them out."""
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


class ClusterProfile(BaseModel):
    """What every job of this cluster asks SLURM for."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    partition: str | None = None
    """Null: the cluster's default."""
    cpu_partition: str | None = None
    """Partition of the jobs that need no GPU (exports, tables). Null: the same as `partition`."""
    account: str | None = None
    """Account that the jobs are charged to."""
    qos: str | None = None
    """Quality of service (--qos)."""
    constraint: str | None = None
    """Features of the nodes, e.g. a100."""
    nodes: int = Field(1, ge=1)
    """Nodes of a training job."""
    tasks_per_node: int | None = Field(None, ge=1)
    """Processes per node; one per GPU. Null: `gpus_per_node`, or 1 without GPUs."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each node; 0 for a job on CPUs."""
    gpu_type: str | None = None
    """Type of GPU; if given, the job asks for --gres=gpu:TYPE:N."""
    cpus_per_task: int = Field(4, ge=1)
    """Cores per process: one for the step, the others for data workers."""
    memory_gb: int | None = Field(None, ge=1)
    """Memory of a node; null: the cluster's default."""
    time: str = "24:00:00"
    """Time limit, [days-]hours:minutes:seconds. A run that needs longer is queued again."""
    signal_s: int = Field(180, ge=1)
    """SLURM asks the run to save and stop this many seconds before the time limit (or up to a
    minute earlier). It must be longer than one step and one checkpoint together."""
    stuck_s: int = Field(120, ge=10)
    """Seconds that the job script waits for srun to end after a rank has failed or asked for a
    restart. It must be longer than the cluster's KillWait."""
    max_requeues: int = Field(50, ge=0)
    """Most automatic restarts of a job; after them it is not queued again."""
    modules: tuple[str, ...] = ()
    """Environment modules that the job loads (`module load`)."""
    venv: str | None = None
    """Folder of the virtual environment; null: the one from which you submit."""
    container: str | None = None
    """Image for `srun --container-image` (pyxis), in which `chorus` is installed."""
    container_mounts: tuple[str, ...] = ()
    """Folders of the host to show in the container, each HOST:INSIDE (`--container-mounts`)."""
    environment: dict[str, str] = {}
    """Environment variables that the job exports."""
    scratch: str | None = None
    """Node-local folder for temporary files (exported as TMPDIR); may hold $SLURM_JOB_ID."""
    network_interface: str | None = None
    """Network interface for NCCL and gloo, e.g. ib0 or hsn0."""
    setup: tuple[str, ...] = ()
    """Lines of bash to run before srun."""
    sbatch_extra: tuple[str, ...] = ()
    """More directives for sbatch, passed on unchanged, e.g. "--exclusive"."""
    srun_extra: tuple[str, ...] = ()
    """More options for srun, passed on unchanged."""

    @model_validator(mode="before")
    @classmethod
    def _no_control_characters(cls, values: Any) -> Any:
        """Refuse line breaks: each would begin a line in the job script. `setup` may have them."""
        problems = []

        def look(value: Any, key: str) -> None:
            if isinstance(value, dict):
                for name, inner in value.items():
                    look(name, key)
                    look(inner, f"{key}.{name}")
            elif isinstance(value, list | tuple):
                for inner in value:
                    look(inner, key)
            elif isinstance(value, str):
                plain = value.replace("\n", "").replace("\t", "") if key == "setup" else value
                if found := control_characters(plain):
                    problems.append(f"{key}: holds the control character {found}")

        if isinstance(values, dict):
            for key, value in values.items():
                look(value, str(key))
        if problems:
            raise ValueError("\n".join(problems))
        return values

    @field_validator("environment")
    @classmethod
    def _names_of_variables(cls, found: dict[str, str]) -> dict[str, str]:
        for name, value in found.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise ValueError(f"{name!r} is not a valid name of an environment variable")
            if names_a_secret(name) or _LOGIN.search(value):
                raise ValueError(
                    f"{name} looks like a secret, and these values are written into job scripts: "
                    "set it in the shell that submits (sbatch passes it on), or let its tool "
                    "read it from a file of yours (`wandb login`, `hf auth login`, ~/.aws)"
                )
        return found

    @field_validator("sbatch_extra", "srun_extra")
    @classmethod
    def _options(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word.startswith("-"):
                raise ValueError(f"{word!r} is not an option: write --{word.lstrip()}")
        return words

    @field_validator("time")
    @classmethod
    def _time_is_one(cls, text: str) -> str:
        seconds(text)
        return text

    @model_validator(mode="after")
    def _one_task_per_gpu(self) -> ClusterProfile:
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node is {self.tasks_per_node} but gpus_per_node is "
                f"{self.gpus_per_node}: one process drives one GPU; leave tasks_per_node out"
            )
        if self.venv and self.container:
            raise ValueError("give venv or container, not both")
        return self

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    def light(self, *, cpus: int, memory_gb: int, time: str) -> ClusterProfile:
        """The profile of a job of one process without a GPU, limited to this much of each."""
        return self.model_copy(
            update={
                "partition": self.cpu_partition or self.partition,
                # The profile's constraint and GPU type describe GPU nodes; this job needs none.
                "constraint": None, "gpu_type": None, "gpus_per_node": 0,
                "nodes": 1, "tasks_per_node": 1,
                "cpus_per_task": min(self.cpus_per_task, cpus),
                "memory_gb": self.memory_gb and min(self.memory_gb, memory_gb),
                "time": min(self.time, time, key=seconds),
                "sbatch_extra": tuple(w for w in self.sbatch_extra if not _RESOURCES.match(w)),
            }
        )  # fmt: skip

    def one_gpu(self) -> ClusterProfile:
        """The profile of a job of one process on one device, with that device's share of a node."""
        share = self.memory_gb and max(1, -(-self.memory_gb // self.tasks))
        return self.model_copy(
            update={
                "nodes": 1, "tasks_per_node": 1, "gpus_per_node": min(self.gpus_per_node, 1),
                "memory_gb": share,
                "sbatch_extra": tuple(w for w in self.sbatch_extra if not _RESOURCES.match(w)),
            }
        )  # fmt: skip

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return seconds(self.time)


def seconds(text: str) -> int:
    """Seconds of a SLURM time limit (`man sbatch`, --time). Raises ValueError."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a time limit: write [days-]hours:minutes:seconds")
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found.group(1) is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if found.group(4) is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second  # minutes, or minutes:seconds


def load_profile(name: str, overrides: Sequence[str] = ()) -> ClusterProfile:
    """Read a profile and apply overrides `cluster.key=value`.

    Args:
        name: name of a shipped profile, or path of a YAML file.
        overrides: "cluster.time=1:00:00" and the like, in the grammar of all recipes.

    Raises:
        RecipeError: there is no such profile, or it has mistakes; the message lists each of them
            with the values that are allowed.
    """
    plain = [word.removeprefix("cluster.") for word in overrides]
    loaded: ClusterProfile = load(CLUSTER, name, plain)
    return loaded


def quoted(words: Sequence[str]) -> str:
    """Quote words as one command line for bash."""
    return " ".join(shlex.quote(word) for word in words)


def as_plain(profile: ClusterProfile) -> dict[str, Any]:
    """Plain values, for records."""
    return profile.model_dump(mode="json")
