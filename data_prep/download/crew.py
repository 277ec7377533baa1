"""Downloads all files of a plan: workers per host, retries, the breaker, stops, commits."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import shutil
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dawnchorus.data_prep.download.download_recipe import GB, DownloadRecipe
from dawnchorus.data_prep.download.fetch import Failure, Fetcher, make_client
from dawnchorus.data_prep.download.gate import Gates, HostGivenUp
from dawnchorus.data_prep.download.ledger import Item, Ledger
from dawnchorus.data_prep.download.partial_file import PARTS, Finished, Part, already_there
from dawnchorus.trainer.progress import Bar, Progress

_TICK_S = 0.5
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Job:
    """A recording to fetch, and how often it was tried in this run."""

    item: Item
    tries: int = 0


class Feed:
    """The queue of one host: recordings that are due for another try, then the ledger's next ones.

    A recording waits here for its next try, not in a worker, which continues with others. Retry
    libraries sleep in the worker, which would block the host's turn.
    """

    def __init__(self, ledger: Ledger, host: str) -> None:
        self.ledger, self.host = ledger, host
        self._after = -1
        self._next: deque[Item] = deque()
        self._again: list[tuple[float, int, Job]] = []
        self._count = itertools.count()
        self._lock = asyncio.Lock()

    def again(self, job: Job, wait_s: float) -> None:
        """Take back a job, to be tried again after a while."""
        heapq.heappush(self._again, (time.monotonic() + wait_s, next(self._count), job))

    async def next(self, over: Callable[[], bool]) -> Job | None:
        """Return the next job when it is due; None when none is left or `over` is true."""
        while not over():
            now = time.monotonic()
            if self._again and self._again[0][0] <= now:
                return heapq.heappop(self._again)[2]
            async with self._lock:
                if not self._next:
                    found = await asyncio.to_thread(
                        self.ledger.next_items, self.host, self._after, _BATCH
                    )
                    self._next.extend(found)
                    self._after = found[-1].number if found else self._after
            if self._next:
                return Job(self._next.popleft())
            if not self._again:
                return None
            await asyncio.sleep(min(1.0, max(0.01, self._again[0][0] - now)))
        return None


@dataclass
class Tally:
    """What happened in this run."""

    files: int = 0
    size_bytes: int = 0
    failed: int = 0
    by_host: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Crew:
    """Fetches everything that the ledger's plan holds into `folder`.

    The run ends when `max_bytes` lie there. `unsure`: the run before was killed, so a file may be
    there without an entry in the ledger.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        recipe: DownloadRecipe,
        progress: Progress,
        *,
        max_bytes: float | None = None,
        unsure: bool = True,
    ) -> None:
        self.folder, self.ledger, self.recipe, self.progress = folder, ledger, recipe, progress
        self.unsure = unsure
        self._ended = False
        self.tally = Tally()
        have = sum(size for *_, size in ledger.outcome())
        self._room = None if max_bytes is None else max_bytes - have
        self.full = self._room is not None and self._room <= 0
        """Whether `max_bytes` ended the run."""
        self.gates = Gates(
            recipe, say=progress.say, sent=ledger.traffic, minutes=ledger.traffic_of_the_day
        )
        self._held: dict[str, list[tuple[Feed, Job, Failure]]] = defaultdict(list)

    async def run(self) -> signal.Signals | None:
        """Fetch everything; return the signal that ended it early, if there was one.

        Raises OSError when the disk is full. Whatever ends it, the ledger knows what is done.
        """
        waiting = self.ledger.waiting()
        stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        with _signals(stop), self.progress.files(sum(waiting.values()), "fetching") as bar:
            async with make_client(self.recipe) as client:
                self.fetcher = Fetcher(client, self.gates, self.folder, self._secured)
                places = asyncio.Semaphore(self.recipe.hosts_at_once)
                tasks = [asyncio.ensure_future(self._host(host, places)) for host in waiting]
                work = asyncio.ensure_future(_all(tasks))
                tick = asyncio.ensure_future(self._tick(bar, waiting))
                try:
                    await asyncio.wait((work, tick, stop), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._ended = True  # a worker whose file is whole finishes it, and no more
                    for task in (tick, *tasks):
                        task.cancel()
                    await asyncio.gather(tick, work, *tasks, return_exceptions=True)
            self._release_held()
            self.ledger.commit()
            for task in (work, tick):
                if not task.cancelled() and (err := task.exception()):
                    raise err
            self._show(bar, waiting)
        return stop.result() if stop.done() and not stop.cancelled() else None

    def _secured(self, item: Item) -> None:
        self.ledger.part(item, item.validator, item.part_bytes)

    async def _host(self, host: str, places: asyncio.Semaphore) -> None:
        """Fetch everything from one host, as many at a time as the recipe says."""
        async with places:
            feed = Feed(self.ledger, host)
            count = self.recipe.limits(host)[1].concurrency
            await _all([asyncio.ensure_future(self._work(feed)) for _ in range(count)])

    async def _work(self, feed: Feed) -> None:
        gate = self.gates.of(feed.host)

        def over() -> bool:
            return self.full or self._ended or bool(gate.given_up)

        while not over() and (job := await feed.next(over)):
            item = job.item
            if self.unsure:
                found = await asyncio.to_thread(already_there, self.folder, item.id)
                if found:
                    self._done(feed, item, found)
                    continue
            try:
                finished = await self.fetcher.fetch(item)
            except HostGivenUp as err:
                if gate.given_up:
                    return
                # It redirects to another host, which was given up.
                failure = Failure("host_given_up", str(err), passing=True)
                failure.gate, failure.trouble, failure.began_s = gate, True, time.monotonic()
                self._failed(feed, job, failure)
            except Failure as err:
                self._failed(feed, job, err)
            else:
                self._done(feed, item, finished)

    def _done(self, feed: Feed, item: Item, finished: Finished) -> None:
        self.ledger.done(item, finished.path, finished.size, finished.sha256)
        self.tally.files += 1
        self.tally.size_bytes += finished.size
        self.tally.by_host[feed.host] += 1
        if self._room is not None and self.tally.size_bytes >= self._room:
            self.full = True
        self._settle(feed)

    def _settle(self, feed: Feed) -> None:
        """Record the failures that were held back as the files' own, because the host works."""
        for _, job, failure in self._held.pop(feed.host, ()):
            self._record(feed, job.item, failure)

    def _failed(self, feed: Feed, job: Job, failure: Failure) -> None:
        """Try it again later, or record it; a failure that may be the host's is held back.

        It is held until the host works again (then the file was the cause) or the breaker trips
        (then it was the host, and the file is tried again after the pause).
        """
        job = Job(failure.item or job.item, job.tries + 1)
        gate = failure.gate
        tripped = False
        if gate is not None and failure.trouble:
            tripped = gate.troubled(failure.began_s, str(failure))
            wait_s = failure.retry_after_s
            if wait_s > self.recipe.retry.longest_retry_after_s:
                gate.give_up(f"{failure.reason}, it asks to wait for {wait_s / 3600:.1f} h")
            gate.pause(wait_s)
        elif gate is not None:
            gate.works()
            self._settle(feed)
        if failure.again and job.tries < self.recipe.retry.attempts:
            feed.again(job, self._wait_s(job.tries))
        elif gate is not None and failure.trouble:
            self._held[feed.host].append((feed, job, failure))
        else:
            self._record(feed, job.item, failure)
        if tripped:
            for held_by, held, _ in self._held.pop(feed.host, ()):
                held_by.again(Job(held.item), self.recipe.breaker.pause_s)

    def _wait_s(self, tries: int) -> float:
        """Return how long to wait: doubled each time, spread so that files do not come together."""
        retry = self.recipe.retry
        longest = min(retry.longest_wait_s, retry.first_wait_s * 2.0 ** (tries - 1))
        return longest * random.uniform(0.5, 1.0)

    def _record(self, feed: Feed, item: Item, failure: Failure) -> None:
        self.ledger.failed(item, failure.reason, failure.detail, for_good=not failure.passing)
        self.tally.failed += 1
        self.tally.by_host[feed.host] += 1

    def _release_held(self) -> None:
        """Record what is held at the end, except for hosts that were given up: the next run asks
        them.
        """
        for host, held in self._held.items():
            if not self.gates.of(host).given_up:
                for feed, job, failure in held:
                    self._record(feed, job.item, failure)
        self._held.clear()

    async def _tick(self, bar: Bar, waiting: dict[str, int]) -> None:
        """Commit, show progress and watch the disk, until an error or a cancellation."""
        keep_free = self.recipe.files.keep_free_gb * GB
        while True:
            await asyncio.sleep(_TICK_S)
            await asyncio.to_thread(self.ledger.commit)
            free = shutil.disk_usage(self.folder).free
            if free < keep_free:
                raise OSError(28, f"only {free / GB:.2f} GB are free")
            self._show(bar, waiting)

    def _show(self, bar: Bar, waiting: dict[str, int]) -> None:
        passed_s = max(0.001, time.monotonic() - bar.started)
        tally = self.tally
        left_s = 0.0
        for host, count in waiting.items():
            _, limits = self.recipe.limits(host)
            done = tally.by_host.get(host, 0)
            rate = done / passed_s or limits.requests_per_s or 1.0
            left_s = max(left_s, (count - done) / rate)
        note = f"{tally.size_bytes / 1e6 / passed_s:.1f} MB/s, {tally.failed:,} failed"
        slow = [gate.name for gate in self.gates.by_name.values() if gate.waiting_for]
        if slow:
            note += f", waiting for {', '.join(slow[:3])}"
        bar.update(tally.files + tally.failed, note, left_s)

    def left(self, host: str) -> str:
        """Return why recordings of a host are still to be fetched."""
        gate = self.gates.by_name.get(self.recipe.limits(host)[0])
        if gate is not None and gate.given_up:
            return f"the host was left alone: {gate.given_up}"
        return "--max-gb was reached" if self.full else "the run ended before its turn"


def remove_stray_parts(folder: Path, ledger: Ledger) -> None:
    """Remove parts that no recording in the ledger can continue."""
    there = list((folder / PARTS).glob("*.part"))
    wanted = {Part(folder, item.id).path for item in ledger.begun()} if there else set()
    for path in there:
        if path not in wanted:
            path.unlink(missing_ok=True)


async def _all(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Wait for all; the first error ends the others."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _signals(stop: asyncio.Future[signal.Signals]) -> Iterator[None]:
    """Let Ctrl-C and a scheduler's signals end the run in order; a second one ends it at once."""
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def end(kind: signal.Signals) -> None:
        for other in kinds:
            loop.remove_signal_handler(other)
        if not stop.done():
            stop.set_result(kind)

    # A process inherits which signals are blocked from the one that started it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, kinds)
    for kind in kinds:
        # Only the main thread may set handlers; other threads run without.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(kind, end, kind)
    try:
        yield
    finally:
        for kind in kinds:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(kind)
