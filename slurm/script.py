"""Job scripts: directives for SLURM, and bash that a person can read."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dawnchorus.slurm.errors import SubmitError
from dawnchorus.slurm.profile import ClusterProfile, quoted
from dawnchorus.trainer.names import control_characters


class Expanded(str):
    """A word of a command that bash expands, "$NAME" with its quotes. All others are quoted.

    What a word is decides, and not how it begins: words of strangers may begin in any way.
    """

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """One job: its command, its folder and its resources."""

    name: str
    title: str
    run: Path
    """The run folder (absolute), in which the script and the logs are written."""
    command: tuple[str, ...]
    """The command that each task runs. Bash expands those of its words that are `Expanded`."""
    profile: ClusterProfile
    code: Path
    """Snapshot of the code."""
    train: bool = True
    """Whether this is a training job, with one task per device, signals and requeue. Other jobs
    have one task and a smaller profile (`ClusterProfile.light`, `.one_gpu`)."""
    array_runs: tuple[Path, ...] = ()
    """Run folder of each task of a job array."""
    array_size: int = 0
    """Tasks of a job array without run folders."""
    array_limit: int | None = None
    """Most tasks of the array that run at the same time."""
    extra: tuple[str, ...] = ()
    """More directives for sbatch."""
    requeue: bool | None = None
    """Whether SLURM restarts the job after a node failure or pre-emption. None: only training."""
    file: str = "job.sh"

    @property
    def path(self) -> Path:
        """The file of the script."""
        return self.run / self.file

    def text(self) -> str:
        """The script."""
        import jinja2

        self._refuse_control_characters()
        loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
        env = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined,
                                 trim_blocks=True, lstrip_blocks=True)  # fmt: skip
        env.filters["q"] = lambda value: shlex.quote(str(value))
        env.filters["expand"] = expandable
        profile = self.profile
        return env.get_template("job.sh.j2").render(
            title=self.title, run=self.run, script=self.path, options=self.options(),
            array_runs=self.array_runs, profile=profile, environment=self._environment(),
            code=self.code, keep_path="PYTHONPATH" in profile.environment, cwd=Path.cwd(),
            train=self.train, command=self._command(), srun=self._srun(), python=self._python(),
        )  # fmt: skip

    def options(self) -> list[str]:
        """The directives of sbatch."""
        profile, gpus = self.profile, self.profile.gpus_per_node
        tasks_of_array = len(self.array_runs) or self.array_size
        log = "logs/slurm-%A_%a.log" if tasks_of_array else "logs/slurm-%j.log"
        # sbatch replaces %-patterns in a file name.
        output = f"{str(self.run).replace('%', '%%')}/{log}"
        wanted = {
            "job-name": self.name,
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "nodes": profile.nodes,
            "ntasks-per-node": profile.tasks,
            "cpus-per-task": profile.cpus_per_task,
            "mem": f"{profile.memory_gb}G" if profile.memory_gb else None,
            "gres": f"gpu:{profile.gpu_type}:{gpus}" if profile.gpu_type and gpus else None,
            "gpus-per-node": gpus if gpus and not profile.gpu_type else None,
            "time": profile.time,
            "output": output,
            "open-mode": "append",
        }
        if self.train:
            wanted["signal"] = f"USR1@{profile.signal_s}"
        given = {key: value for key, value in wanted.items() if value is not None}
        lines = [f"--{key}={directive(value)}" for key, value in given.items()]
        requeue = self.train if self.requeue is None else self.requeue
        lines.append("--requeue" if requeue else "--no-requeue")
        if tasks_of_array:
            limit = f"%{self.array_limit}" if self.array_limit else ""
            lines.append(f"--array=0-{tasks_of_array - 1}{limit}")
        return [*lines, *profile.sbatch_extra, *self.extra]

    def _refuse_control_characters(self) -> None:
        """Raise SubmitError for line breaks and the like: each would begin a line in the script."""
        texts = {
            "name": [self.name], "title": [self.title], "code": [str(self.code)],
            "run folder": [str(self.path), *map(str, self.array_runs)], "command": self.command,
            "working folder": [str(Path.cwd())], "further directives": self.extra,
        }  # fmt: skip
        problems = [
            f"{what} {text!r} holds the control character {found}"
            for what, several in texts.items()
            for text in several
            if (found := control_characters(text))
        ]
        if "\\" in str(self.run):
            problems.append(f"SLURM writes no log to a path with a backslash: rename {self.run}")
        if problems:
            raise SubmitError("nothing was submitted:\n  " + "\n  ".join(problems))

    def _environment(self) -> dict[str, str]:
        profile = self.profile
        found = {key: shlex.quote(value) for key, value in profile.environment.items()}
        # From 22.05 on, srun does not pass the --cpus-per-task of sbatch on to its tasks.
        found["SRUN_CPUS_PER_TASK"] = "$SLURM_CPUS_PER_TASK"
        if profile.network_interface:
            for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
                found.setdefault(name, shlex.quote(profile.network_interface))
        found.setdefault("OMP_NUM_THREADS", str(max(1, profile.cpus_per_task // 2)))
        return found

    def _srun(self) -> str:
        words = ["--kill-on-bad-exit=1", f"--cpus-per-task={self.profile.cpus_per_task}"]
        if self.profile.container:
            words.append(f"--container-image={self.profile.container}")
        if self.profile.container_mounts:
            words.append(f"--container-mounts={','.join(self.profile.container_mounts)}")
        return quoted([*words, *self.profile.srun_extra])

    def _bin(self, name: str) -> str:
        if self.profile.container:
            return name
        folder = Path(self.profile.venv) / "bin" if self.profile.venv else Path(sys.prefix) / "bin"
        return str(folder / name)

    def _python(self) -> str:
        return shlex.quote(self._bin("python3" if self.profile.container else "python"))

    def _command(self) -> str:
        words = [self._bin(self.command[0]), *self.command[1:]]
        return " ".join(w if isinstance(w, Expanded) else shlex.quote(w) for w in words)


def directive(value: object) -> str:
    """Quote a value for a `#SBATCH` line, where a blank ends a value and `#` begins a comment."""
    text = str(value)
    if re.fullmatch(r"[\w%+,./:=@^-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def expandable(text: str) -> str:
    """Quote a word for bash so that it expands `$NAME` and `${NAME}` and nothing else."""
    parts = re.split(r"(\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\}))", text, flags=re.ASCII)
    escaped = [p if i % 2 else re.sub(r'(["\\$`])', r"\\\1", p) for i, p in enumerate(parts)]
    return '"' + "".join(escaped) + '"'


def write_script(script: JobScript) -> Path:
    """Write the executable script, and make the folder of the logs (sbatch does not make it).

    Only the owner may read the script, because it names folders, accounts and variables.
    """
    (script.run / "logs").mkdir(parents=True, exist_ok=True)
    script.path.unlink(missing_ok=True)
    script.path.touch(mode=0o700)
    script.path.write_text(script.text(), encoding="utf-8")
    return script.path


def dependency(kind: str, job_ids: Sequence[str]) -> tuple[str, ...]:
    """Options of sbatch: start the job after these jobs, or never if they fail."""
    return (f"--dependency={kind}:{':'.join(job_ids)}", "--kill-on-invalid-dep=yes")
