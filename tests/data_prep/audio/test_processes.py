"""The processes that decode: what they keep, what kills them, how they end."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from dawnchorus.data_prep.archives.own_folder import prepare_folder
from dawnchorus.data_prep.audio.processes import decoding, each
from dawnchorus.data_prep.dataset.verify import verify_dataset
from dawnchorus.data_prep.errors import PrepError, UnusableAudio
from dawnchorus.data_prep.select.sound import Audio, take_prints
from dawnchorus.trainer.progress import Progress

FAULTS = """
import resource, sys
import numpy as np
from dawnchorus.data_prep.audio.processes import start_worker
if sys.argv[1] == "worker":
    start_worker()
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    kept = [np.ones(1 << 20) for _ in range(4)]  # 8 MB each, as blocks of sound come and go
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_worker_pays_once_for_its_memory() -> None:
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", FAULTS, kind]))
        for kind in ("worker", "plain")
    }
    assert faults["worker"] < 0.3 * faults["plain"]


def end_once(folder: Path, name: str, how: int = signal.SIGKILL) -> None:
    """Die at the first time."""
    if not (folder / name).exists():
        (folder / name).touch()
        os.kill(os.getpid(), how)
        time.sleep(60)


def under_hands(name: str, *, folder: Path) -> str:
    """A task that does what the item's name says while it decodes."""
    try:
        with decoding(name, 0):
            if name == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif name == "once":
                end_once(folder, name)
            elif name == "endless":
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # never comes back to Python
    except UnusableAudio as err:
        return f"{name}: {err}"
    return f"{name}: fine"


def outside(name: str, *, folder: Path) -> str:
    if name == "once":
        end_once(folder, name)
    elif name == "asked":
        end_once(folder, name, signal.SIGTERM)
    elif name == "always":
        os.kill(os.getpid(), signal.SIGSEGV)
    return name


def run(
    task: Callable[..., str], names: list[str], folder: Path, **options: object
) -> tuple[list[str], list[str]]:
    said: list[str] = []
    work = each(
        functools.partial(task, folder=folder), names, jobs=2, log=folder / "decoder.log",
        say=said.append, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    with closing(work):
        return sorted(work), said


def short_limit() -> None:
    import dawnchorus.data_prep.audio.processes

    dawnchorus.data_prep.audio.processes.START_S = 0.3


def test_what_kills_a_decoder_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    good = [f"good{k}" for k in range(20)]
    names = [*good[:5], "segfault", *good[5:10], "endless", *good[10:], "once"]
    found, said = run(under_hands, names, tmp_path, setup=short_limit)
    assert found == sorted(
        [
            *(f"{name}: fine" for name in good),
            "once: fine",
            "segfault: crashes: 2 processes died while decoding it (SIGSEGV)",
            "endless: hangs: decoding it does not end",
        ]
    )
    assert sorted(said) == [
        "endless: decoding does not end; left out.",
        "once: the process that decoded it died (SIGKILL, perhaps out of memory); another one "
        "tries.",
        "segfault: 2 processes died while decoding it (SIGSEGV); left out.",
        "segfault: the process that decoded it died (SIGSEGV); another one tries.",
    ]
    log = (tmp_path / "decoder.log").read_text()
    assert "Segmentation fault" in log and "pbkdf2" not in log and "under_hands" in log


def test_a_death_outside_decoding_is_mended_once(tmp_path: Path) -> None:
    found, said = run(outside, ["a", "once", "b", "asked"], tmp_path)
    assert found == ["a", "asked", "b", "once"]
    assert sorted(said) == [
        "A process died (SIGKILL, perhaps out of memory); another one takes up its work.",
        "A process died (exit code 143); another one takes up its work.",
    ]
    with pytest.raises(PrepError, match=r"Two processes died .SIGSEGV. at the same work"):
        run(outside, ["a", "always", "b"], tmp_path)


def no_start() -> None:
    raise RuntimeError("nothing works")


def test_processes_that_cannot_start_are_told(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match=r"do not start; see .*decoder.log"):
        run(outside, ["a"], tmp_path, setup=no_start)
    assert "nothing works" in (tmp_path / "decoder.log").read_text()


def sleeper(name: str, *, folder: Path) -> str:
    try:
        (folder / "half").touch()
        (folder / f"{name}.pid").write_text(str(os.getpid()))
        if name == "waits":
            time.sleep(600)
        while not (folder / "waits.pid").exists():
            time.sleep(0.01)
        return name
    finally:
        (folder / "half").unlink(missing_ok=True)


def test_processes_end_with_the_generator_and_tidy_up(tmp_path: Path) -> None:
    task = functools.partial(sleeper, folder=tmp_path)
    started = time.monotonic()
    with closing(each(task, ["waits", "b"], jobs=2, log=tmp_path / "log", say=print)) as work:
        assert next(work) == "b"
    assert time.monotonic() - started < 300
    assert not (tmp_path / "half").exists()
    for name in ("waits", "b"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"{name}.pid").read_text()), 0)


def test_without_processes_it_has_no_effect() -> None:
    with decoding("anything", 0):
        assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


# A decoder that crashes on one length and never ends on another, in every process of the command.
BAD_DECODER = """
import os, signal
import soundfile
import dawnchorus.data_prep.audio.processes

dawnchorus.data_prep.audio.processes.START_S = 1.0
honest = soundfile.SoundFile.read

def read(self, *args, **options):
    if self.frames == 12345:
        os.kill(os.getpid(), signal.SIGSEGV)
    while self.frames == 23456:
        pass
    return honest(self, *args, **options)

soundfile.SoundFile.read = read
"""


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 200 recordings, two of which no decoder survives."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BAD_DECODER)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    root = tmp_path / "sounds"
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["path,species"]
    for k in range(200):
        frames = {77: 12345, 150: 23456}.get(k, 16000)
        soundfile.write(root / f"{k:03d}.wav", rng.uniform(-0.5, 0.5, frames), 16000)
        lines.append(f"{k:03d}.wav,bird {k % 3}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_shards_of_an_archive_with_poison_in_it(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = prepare_folder(poisoned, tmp_path / "set", jobs=2, shard_size_mb=1)
    assert (stats["recordings"], stats["rejected"]) == (198, 2)
    rejected = pl.read_parquet(tmp_path / "set" / "rejected.parquet").sort("path")
    assert rejected.select("path", "reason").rows() == [
        ("077.wav", "crashes"), ("150.wav", "hangs"),
    ]  # fmt: skip
    assert "left out: 077.wav: crashes: 2 processes died" in capsys.readouterr().err
    assert not list((tmp_path / "set").rglob("*.tmp"))
    assert not verify_dataset(tmp_path / "set", jobs=1).count


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_crash_among_three_recordings_costs_one_of_them(
    poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr("dawnchorus.data_prep.audio.processes.IN_THIS_PROCESS", False)
    names = ("076.wav", "077.wav", "078.wav")
    (poisoned / "metadata.csv").write_text("path,species\n" + "".join(f"{n},b\n" for n in names))
    stats = prepare_folder(poisoned, tmp_path / "set", jobs=jobs, allow_broken=True)
    assert (stats["recordings"], stats["rejected_reasons"]) == (2, {"crashes": 1})
    assert not verify_dataset(tmp_path / "set", jobs=jobs).count
    audios = [Audio(str(poisoned / name)) for name in names]
    prints = take_prints(audios, tmp_path / "cache", max_s=60, jobs=jobs, progress=Progress())
    assert prints.reason_R == ["", "crashes", ""]


def test_fingerprints_of_an_archive_with_poison_in_it(poisoned: Path, tmp_path: Path) -> None:
    audios = [Audio(str(path)) for path in sorted(poisoned.glob("*.wav"))]
    prints = take_prints(audios, tmp_path / "cache", max_s=60, jobs=2, progress=Progress())
    assert {k: why for k, why in enumerate(prints.reason_R) if why} == {77: "crashes", 150: "hangs"}
    assert {len(prints.pcm_sha1_R[k]) for k in range(200) if k not in (77, 150)} == {40}


def test_verification_of_a_dataset_with_poison_in_it(poisoned: Path, tmp_path: Path) -> None:
    prepare_folder(poisoned, tmp_path / "set", jobs=1, shard_size_mb=1)
    report = verify_dataset(tmp_path / "set", jobs=2)
    assert sorted((problem.key.split("_")[0], problem.what) for problem in report.problems) == [
        ("077", "does not decode (2 processes died while decoding it (SIGSEGV))"),
        ("150", "does not decode (decoding it does not end)"),
    ]


def test_the_processes_of_a_killed_run_end(tmp_path: Path) -> None:
    code = (
        "import functools, sys; from pathlib import Path\n"
        "from dawnchorus.data_prep.audio.processes import each\n"
        "from tests.data_prep.audio.test_processes import sleeper\n"
        "folder = Path(sys.argv[1])\n"
        "task = functools.partial(sleeper, folder=folder)\n"
        "if __name__ == '__main__':\n"
        "    list(each(task, ['waits'], jobs=1, log=folder / 'log', say=print))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "waits.pid").exists() or not (tmp_path / "waits.pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    worker = int((tmp_path / "waits.pid").read_text())
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
