"""Signals set a flag, are not lost before torch is imported, and do not kill the process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import sys, time
    from dawnchorus.trainer.session.signals import watch_signals
    request = watch_signals()
    print("up", flush=True)
    end = time.monotonic() + 400
    while not request.is_set() and time.monotonic() < end:
        time.sleep(0.01)
    print(request.signal_name, flush=True)
    if "--again" in sys.argv:
        time.sleep(600)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_sets_the_flag_and_nothing_else(name: str) -> None:
    import signal

    process = start()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, f"{name}\n")
    assert "saving at the next step boundary" in err


def test_a_second_ctrl_c_ends_at_once() -> None:
    import signal

    process = start("--again")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130  # the program would sleep for ten minutes
