"""Processes that decode, and a run that survives their crashes.

A damaged file can crash a decoder or keep it busy for ever (fuzzing found both in libsndfile 1.2.2
and PyAV). One such file among a million must cost that file, not the run: each process records the
file that it decodes and has a limit of processor time for it. When it dies, another process repeats
the task, without a file that killed two processes or that did not end.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from dawnchorus.data_prep.errors import PrepError, SpoolError, UnusableAudio
from dawnchorus.trainer.allocation import keep_freed_memory

In = TypeVar("In")
Out = TypeVar("Out")
POLL_S = 0.2
DEATHS = 2  # deaths over one recording before it is left out: the first may be chance
START_S = 60.0  # processor time that any recording may take
PER_S = 1 / 20  # Xeno-canto's MP3s take 1/740 of their duration (docs/benchmarks.md)
MIN_BYTES_PER_S = 500.0  # of compressed sound: 4 kbit/s
ASKED_TO_END = 128 + signal.SIGTERM
ENDS_S = 5.0  # for a process to tidy up and end
IN_THIS_PROCESS = False
"""Where one process is asked for, this one does the work: for a debugger, and for tests that
replace parts of a decoder. What crashes a decoder then crashes everything."""


@dataclass
class _Hands:
    """What this process is decoding, where it is one of a pool."""

    note: int = -1
    """Descriptor of the file that tells the parent; -1: not a process of a pool."""
    without: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Recordings that must not be decoded again, with reason and detail."""


_hands = _Hands()


@contextmanager
def decoding(what: str, size: int, *, max_hours: float = 24.0) -> Iterator[None]:
    """Record what is being decoded, and stop this process where it does not end.

    `what` names the recording among those of the task, `size` is that of its file in bytes. Raises
    UnusableAudio with reason `crashes` or `hangs` where it has ended processes before, and
    `corrupt` for any other exception within it. Outside the processes of `each` it only translates
    exceptions.
    """
    if _hands.note < 0:
        with _faults():
            yield
        return
    if what in _hands.without:
        raise UnusableAudio(*_hands.without[what])
    os.pwrite(_hands.note, json.dumps(what).encode(), 0)
    # The default action of SIGPROF ends the process, also one that never leaves the decoder.
    signal.setitimer(signal.ITIMER_PROF, _limit_s(size, max_hours))
    try:
        with _faults():
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.ftruncate(_hands.note, 0)


@contextmanager
def _faults() -> Iterator[None]:
    """Turn every exception over a recording into its rejection, except errors of the disk.

    One recording of a million must not end the run, whatever a decoder raises.
    """
    try:
        yield
    except (UnusableAudio, PrepError, SpoolError):
        raise
    except Exception as err:
        what = " ".join(f"{type(err).__name__}: {err}".split())
        raise UnusableAudio("corrupt", f"decoding it fails ({what[:160]})") from err


def _limit_s(size: int, max_hours: float) -> float:
    """Return how much processor time decoding so many bytes may take, in seconds."""
    return START_S + PER_S * min(size / MIN_BYTES_PER_S, 3600 * max_hours)


def each(
    task: Callable[[In], Out],
    items: Iterable[In],
    *,
    jobs: int,
    log: Path | None,
    say: Callable[[str], None],
    idle: Callable[[], None] | None = None,
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
) -> Generator[Out, None, None]:
    """Yield `task(item)` of all items, in any order, from `jobs` processes.

    Close it (`contextlib.closing`) where it may not come to its end: the processes end with it.

    Args:
        task: decodes within `decoding`. It runs again from its beginning where a process died.
        items: taken as they are needed.
        jobs: processes, started as there is work for them; 0: one per core.
        log: file that gets what decoders write to the terminal, and the stacks of the dead. None:
            they stay on the terminal.
        say: is told when a process died.
        idle: is called at least every 0.2 s.
        setup: is called in every process before its first task.
        setup_args: its arguments. A lock that processes share stays locked when one is killed.

    Raises:
        PrepError: processes cannot be started, or one task killed two of them outside `decoding`.
    """
    if IN_THIS_PROCESS and jobs == 1:
        if setup:
            setup(*setup_args)
        yield from map(task, items)
        return
    with tempfile.TemporaryDirectory(prefix="chorus-") as notes:
        start = partial(_Worker, Path(notes), log, setup, setup_args)
        yield from _from_workers(task, items, jobs, start, log, say, idle)


def _from_workers(
    task: Callable[[In], Out],
    items: Iterable[In],
    jobs: int,
    make: Callable[[], _Worker],
    log: Path | None,
    say: Callable[[str], None],
    idle: Callable[[], None] | None,
) -> Generator[Out, None, None]:
    """Work as `each` does; `make` starts a process."""
    waiting = map(_Task, items)
    again: list[_Task[In]] = []
    busy: dict[Future[Out], tuple[_Worker, _Task[In]]] = {}
    with ExitStack() as stack:

        def start() -> _Worker:
            return stack.enter_context(make())

        free = [start() for _ in range(jobs or len(os.sched_getaffinity(0)))]
        while True:
            while free and (entry := again.pop() if again else next(waiting, None)):
                worker = free.pop()
                try:
                    busy[worker.submit(task, entry)] = worker, entry
                except BrokenProcessPool:  # killed while it had nothing to do
                    again.append(entry)
                    free.append(start())
            if not busy:
                return
            done, _ = wait(busy, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                worker, entry = busy.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    say(entry.after(worker, log))
                    again.append(entry)
                    free.append(start())
                    continue
                free.append(worker)
                yield result
            if idle:
                idle()


class _Worker(AbstractContextManager["_Worker"]):
    """One process with a queue of its own: nothing is shared that a killed one could keep locked.

    The process starts with the first task.
    """

    def __init__(
        self,
        notes: Path,
        log: Path | None,
        setup: Callable[..., None] | None,
        args: tuple[Any, ...],
    ) -> None:
        descriptor, name = tempfile.mkstemp(dir=notes)
        os.close(descriptor)
        self.note = Path(name)
        self.process: BaseProcess | None = None
        self.pool = ProcessPoolExecutor(
            1,
            # Spawned, not forked: a forked child of a process with threads (Polars, Arrow) hangs.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(name, str(log or ""), setup, args),
        )

    def submit(self, task: Callable[[In], Out], entry: _Task[In]) -> Future[Out]:
        """Let the process do `task` with an item."""
        others = set() if self.process else set(multiprocessing.active_children())
        future = self.pool.submit(_call, task, entry.item, dict(entry.without))
        if self.process is None:
            self.process = next(iter(set(multiprocessing.active_children()) - others), None)
        return future

    def exitcode(self) -> int | None:
        """Return how the process ended, as `multiprocessing` counts: -9 is SIGKILL."""
        # Its thread waits for the process, too; of two that wait, one learns nothing.
        self.pool.shutdown()
        return self.process.exitcode if self.process else None

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.terminate()
            self.process.join(ENDS_S)
            self.process.kill()
        self.pool.shutdown(cancel_futures=True)


@dataclass
class _Task(Generic[In]):
    """An item, and what ended processes while they worked on it."""

    item: In
    deaths: Counter[str] = field(default_factory=Counter)
    without: dict[str, tuple[str, str]] = field(default_factory=dict)

    def after(self, dead: _Worker, log: Path | None) -> str:
        """Note why a process died and return a sentence about it. Raises PrepError where another
        try cannot help.
        """
        exitcode = dead.exitcode()
        see = f"; see {log}" if log else ""
        if exitcode == 0:
            raise PrepError(f"The processes that decode do not start{see}.")
        text = dead.note.read_bytes()
        what = json.loads(text) if text else ""
        how = _how(exitcode)
        self.deaths[what] += 1
        if not what:
            if self.deaths[what] < DEATHS:
                return f"A process died ({how}); another one takes up its work."
            raise PrepError(
                f"Two processes died ({how}) at the same work, and not while decoding{see}. "
                "The same command continues; fewer processes (--jobs, `run.jobs`) need less memory."
            )
        if exitcode == -signal.SIGPROF:
            self.without[what] = ("hangs", "decoding it does not end")
            return f"{what}: decoding does not end; left out."
        if self.deaths[what] < DEATHS:
            return f"{what}: the process that decoded it died ({how}); another one tries."
        self.without[what] = ("crashes", f"{DEATHS} processes died while decoding it ({how})")
        return f"{what}: {DEATHS} processes died while decoding it ({how}); left out."


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


def _call(task: Callable[[In], Out], item: In, without: Mapping[str, tuple[str, str]]) -> Out:
    _hands.without = without
    try:
        return task(item)
    except SystemExit:  # SIGTERM; as a result it would end the parent
        os._exit(ASKED_TO_END)


def _start(note: str, log: str, setup: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    """Set up a process of a pool."""
    start_worker(log)
    _hands.note = os.open(note, os.O_WRONLY)
    if setup:
        setup(*args)


def start_worker(log: str = "") -> None:
    """Set up a process that decodes: it ends with its parent, and `log` gets what it prints."""
    if log:
        # libmpg123 writes its warnings straight to the terminal, across the progress bar.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    # When asked to end, raise an exception, so that half-written files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ASKED_TO_END))
    # The same few blocks again and again: given back each time, they cost a tenth in page faults.
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended: a killed run must not go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
