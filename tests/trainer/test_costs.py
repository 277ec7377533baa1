"""Commands that train nothing answer on a login node: no torch, little time, little memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

PROGRAM = """
import atexit, resource, sys
def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = {"torch", "torchaudio", "torchvision", "pytorch_lightning", "lightning_fabric", "timm",
             "transformers", "sklearn", "wandb", "grain", "webdataset"} & set(sys.modules)
    # Not ru_maxrss: a child process inherits that of the process that started it.
    status = open("/proc/self/status").read()
    memory_kb = int(status.partition("VmHWM:")[2].split()[0])
    print("USED", used.ru_utime + used.ru_stime, memory_kb // 1024, *sorted(heavy))
atexit.register(tell)
sys.argv[0] = "chorus"
from dawnchorus.trainer.cli import main
main()
"""
DATA = "data.train.mine.path=data"
RIGHT = (
    "--help", "recipe list", "recipe show sl_beats_tiny", "recipe check", "recipe schema",
    "recipe show select/all", "recipe schema --kind chain",
    f"recipe check sl_beats_tiny {DATA} --data", "runs", "runs show there", "runs table runs/there",
    f"submit sl_beats_tiny cluster=small {DATA} --dry-run",
    f"submit sl_beats_tiny cluster=small {DATA} --dry-run --sweep optim.lr=1e-3,1e-4",
    f"submit --chain pretrain=ssl_beats_tiny posttrain=sl_beats_tiny evaluate=data export=e "
    f"export.author=me cluster=small {DATA} --dry-run",
    "prep --help", "prep folder --help", "prep folder sounds --out again", "data verify made",
    "data describe made", "data credits made",
)  # fmt: skip
REFUSED = ("recipe check sl_beats_tiny optim.lrr=1", "cancel there", "prep folder nowhere --out x",
           "submit sl_beats_tiny cluster=small data.train.mine.path=gone --dry-run")  # fmt: skip


@pytest.fixture(scope="module")
def place(tone_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a run."""
    here = tmp_path_factory.mktemp("login")
    shutil.copytree(tone_dataset, here / "data")
    (here / "runs" / "there").mkdir(parents=True)
    (here / "runs" / "there" / "recipe.yaml").write_text("train: {max_steps: 3}\n")
    (here / "sounds").mkdir()
    rows = ["file,label,recordist,licence"]
    for number in range(4):
        sound = np.random.default_rng(number).normal(0, 0.1, 8000)
        soundfile.write(here / "sounds" / f"{number}.wav", sound, 16000)
        rows.append(f"{number}.wav,tone {number % 2},someone,cc0")
    (here / "sounds" / "metadata.csv").write_text("\n".join(rows))
    done = run(here, "prep folder sounds --out made")
    assert done.returncode == 0, done.stderr
    return here


def run(here: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, *command.split()]
    return subprocess.run(words, cwd=here, capture_output=True, text=True)


@pytest.mark.parametrize("command", [*RIGHT, *REFUSED])
def test_a_command_that_trains_nothing_is_light(place: Path, command: str) -> None:
    """Target: 1.5 core-seconds and 200 MB; the bounds have room for slower machines."""
    done = run(place, command)
    assert (done.returncode == 0) == (command in RIGHT), done.stderr
    used = next(line for line in done.stdout.splitlines() if line.startswith("USED")).split()
    assert not used[3:], f"{command} imports {' '.join(used[3:])}"
    assert float(used[1]) < 3, f"{command} took {used[1]} core-seconds"
    assert int(used[2]) < 230, f"{command} took {used[2]} MB"


def test_training_imports_nothing_heavy_that_it_never_uses() -> None:
    """Each rank of every start pays for it. Target: 6 core-seconds to the first step."""
    program = (
        "import sys\n"
        "from dawnchorus.trainer.training.lightning_import import import_lightning\n"
        "import_lightning()\n"
        "from dawnchorus.trainer.training import run\n"
        "from torchmetrics import MetricCollection\n"
        "print(*sorted({'scipy', 'sklearn', 'transformers', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"imported: {done.stdout}"


def test_reading_a_checkpoint_needs_no_lightning() -> None:
    program = (
        "import sys\n"
        "from dawnchorus.trainer.checkpoints import checkpoint\n"
        "print(*sorted({'lightning_fabric', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"imported: {done.stdout}"


def test_a_page_about_a_small_dataset_takes_a_core_second_and_a_half(place: Path) -> None:
    """The best of three counts: another program on the core can only make a run dearer."""
    taken: list[float] = []
    while len(taken) < 3 and min(taken, default=9.0) > 1.5:
        done = run(place, "data report made")
        assert done.returncode == 0, done.stderr
        used = next(line for line in done.stdout.splitlines() if line.startswith("USED"))
        taken.append(float(used.split()[1]))
    assert min(taken) <= 1.5, f"the page took {taken} core-seconds"
