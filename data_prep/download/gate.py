"""When a host may be asked: at its pace, within its volume, and not while it fails.

Hosts that the recipe names together share one gate. The pace is kept by hand: rate limiters from
the registry let a burst through or count from the planned time of a request, so that a busy moment
brings two of them close together; here the gap counts from the last request that was really sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dawnchorus.data_prep.download.download_recipe import Breaker, DownloadRecipe, HostLimits

# How often a waiting worker checks whether the host was given up.
_LOOK_S = 1.0


class HostGivenUp(Exception):
    """A host that is not asked again in this run; the message says why."""


@dataclass
class Volume:
    """Bytes that came through a gate in the last hour and day, by minute."""

    windows: list[tuple[float, float]]
    """(seconds, bytes) of each limit."""
    minutes: deque[tuple[int, int]] = field(default_factory=deque)

    def add(self, now_s: float, size: int) -> int:
        """Count bytes; return the minute they were counted in."""
        minute = int(now_s // 60)
        if self.minutes and self.minutes[-1][0] >= minute:
            minute, before = self.minutes.pop()
            size += before
        self.minutes.append((minute, size))
        return minute

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next request is within every limit."""
        longest = max((seconds for seconds, _ in self.windows), default=0.0)
        while self.minutes and self.minutes[0][0] * 60 + 60 + longest <= now_s:
            self.minutes.popleft()
        wait = 0.0
        for seconds, limit in self.windows:
            recent = [(m, size) for m, size in self.minutes if m * 60 + 60 + seconds > now_s]
            over = sum(size for _, size in recent) - limit
            for minute, size in recent:
                if over < 0:
                    break
                # A minute leaves the window when its last second does.
                wait = max(wait, minute * 60 + 60 + seconds - now_s)
                over -= size
        return wait


class Gate:
    """One host, or several that the recipe names together."""

    def __init__(
        self,
        name: str,
        limits: HostLimits,
        breaker: Breaker,
        *,
        say: Callable[[str], None],
        sent: Callable[[str, int, int], None],
        minutes: list[tuple[int, int]],
    ) -> None:
        self.name, self.limits, self.breaker = name, limits, breaker
        self.volume = Volume(limits.windows(), deque(minutes))
        self.given_up = ""
        self.waiting_for = ""  # for the progress bar
        self._say, self._sent = say, sent
        self._places = asyncio.Semaphore(limits.concurrency)
        self._pace = asyncio.Lock()
        self._gap_s = 1 / limits.requests_per_s if limits.requests_per_s else 0.0
        self._next_s = self._paused_until_s = 0.0
        self._in_a_row = self._pauses = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn, and hold it; yields the time (monotonic) at which it began.

        Raises HostGivenUp.
        """
        async with self._places:
            async with self._pace:
                began = await self._wait()
            yield began

    async def _wait(self) -> float:
        while True:
            if self.given_up:
                raise HostGivenUp(self.given_up)
            now = time.monotonic()
            pause = self._paused_until_s - now
            volume = self.volume.wait_s(time.time())
            if pause > 0 or volume > 0:
                self._tell(volume if volume > pause else 0.0)
                await asyncio.sleep(min(max(pause, volume), _LOOK_S))
            elif self._next_s > now:
                await asyncio.sleep(self._next_s - now)
            else:
                self.waiting_for = ""
                self._next_s = now + self._gap_s
                return now

    def _tell(self, volume_s: float) -> None:
        if volume_s and self.waiting_for != "volume":
            until = time.strftime("%a %H:%M", time.localtime(time.time() + volume_s))
            self._say(f"{self.name}: the polite volume is used up; it continues {until}")
            self.waiting_for = "volume"
        elif not volume_s:
            self.waiting_for = "pause"

    def received(self, size: int) -> None:
        """Count bytes that a host sent."""
        self._sent(self.name, self.volume.add(time.time(), size), size)

    def pause(self, seconds: float) -> None:
        """Ask nothing for so long (Retry-After). An earlier, longer pause stays."""
        self._paused_until_s = max(self._paused_until_s, time.monotonic() + seconds)

    def give_up(self, why: str) -> None:
        """Ask nothing more in this run."""
        if not self.given_up:
            self.given_up = why
            self._say(f"{self.name}: left alone until the next run: {why}")

    def works(self) -> None:
        """Forget earlier failures, because the host answered properly."""
        self._in_a_row = self._pauses = 0

    def troubled(self, began_s: float, why: str) -> bool:
        """Count a failure that may be the host's; return whether it made the breaker trip."""
        if began_s < self._paused_until_s or self.given_up:
            return False  # this request was sent before the pause began
        self._in_a_row += 1
        if self._in_a_row < self.breaker.failures_in_a_row:
            return False
        self._in_a_row = 0
        self._pauses += 1
        what = f"{self.breaker.failures_in_a_row} failures in a row, the last: {why}"
        if self._pauses >= self.breaker.give_up_after:
            self.give_up(f"{what}; {self._pauses} pauses did not help")
            return True
        seconds = self.breaker.pause_s * 2 ** (self._pauses - 1)
        self._say(f"{self.name}: paused for {seconds:.0f} s after {what}")
        self.pause(seconds)
        return True


class Gates:
    """The gates of all hosts, made when they are first needed."""

    def __init__(
        self,
        recipe: DownloadRecipe,
        *,
        say: Callable[[str], None],
        sent: Callable[[str, int, int], None],
        minutes: Callable[[str], list[tuple[int, int]]],
    ) -> None:
        self.recipe, self._say, self._sent, self._minutes = recipe, say, sent, minutes
        self.by_name: dict[str, Gate] = {}

    def of(self, host: str) -> Gate:
        """Return the gate that requests to this host go through."""
        name, limits = self.recipe.limits(host)
        if name not in self.by_name:
            self.by_name[name] = Gate(
                name, limits, self.recipe.breaker, say=self._say, sent=self._sent,
                minutes=self._minutes(name),
            )  # fmt: skip
        return self.by_name[name]
