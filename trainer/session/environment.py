"""The environment of a run: versions, machine, source revision."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dawnchorus.trainer.training.recorded_paths import WORKING_FOLDER

_PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "grain", "numpy", "soundfile", "pyarrow",
             "hydra-core", "pydantic")  # fmt: skip


def source_revision() -> str | None:
    """Commit of the checkout that this package was loaded from, with `+changes` if files differ.

    Inside a code snapshot: the revision it was taken from.
    """
    folder = Path(__file__).resolve().parent
    kept = folder.parents[2] / "revision.json"
    if kept.is_file():
        revision: str | None = json.loads(kept.read_text(encoding="utf-8"))["revision"]
        return revision

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor_name() -> str:
    """Model of the CPU, as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_environment() -> dict[str, Any]:
    """Plain facts for `environment.json`."""
    import torch

    from dawnchorus import trainer

    versions = {"dawnchorus": trainer.__version__, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "source_revision": source_revision(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": sys.argv,
        WORKING_FOLDER: str(Path.cwd()),
    }
