"""Pages of an archive's API over HTTP: at the pace that it asks for, with patience, within bounds.

`chorus prep download` fetches files, and many at once; it has a queue of its own for what is to be
tried again (`download/`), but reads `Retry-After` and the passing statuses as they are read here.
"""

from __future__ import annotations

import email.utils
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypeVar

import httpx
import tenacity

from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.about import package_version

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530})
"""Statuses that another try may change. Any other status is the answer."""
_MAX_PAGE_BYTES = 64 << 20
Say = Callable[[str], None]
Page = TypeVar("Page")


class TryLater(Exception):
    """The server asks for patience, or the line broke; `wait_s` is how long, where it says so."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


def retry_after_s(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 §10.2.3), None for none."""
    text = text.strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


@dataclass
class Pace:
    """When the next request may leave: `pause_s` after the last, at most so many in a day."""

    server: str
    pause_s: float
    say: Say
    day_limit: int = 0
    """Requests in `day_s` seconds; 0: as many as the pause allows."""
    day_s: float = 86400.0
    sent: deque[float] = field(default_factory=deque)
    """When the requests of the last day left, in seconds since 1970."""

    def wait(self) -> None:
        """Sleep until a request may leave, and count it."""
        now = time.time()
        while self.sent and self.sent[0] < now - self.day_s:
            self.sent.popleft()
        if self.day_limit and len(self.sent) >= self.day_limit:
            rest = self.sent[0] + self.day_s - now
            self.say(
                f"{self.day_limit:,} requests in a day, as many as {self.server} allows: waiting "
                f"{rest / 3600:.1f} h (or stop; the same command continues)"
            )
            time.sleep(max(0.0, rest))
        elif self.sent and self.sent[-1] + self.pause_s > now:
            time.sleep(min(self.pause_s, self.sent[-1] + self.pause_s - now))
        self.sent.append(time.time())


@dataclass
class PoliteClient(AbstractContextManager["PoliteClient"]):
    """Asks one server for pages; to be used in a `with`. Times in seconds."""

    pace: Pace
    tries: int
    first_wait_s: float
    """Before the first retry for which the server names no time; it doubles from there."""
    longest_wait_s: float
    timeout_s: float = 60.0
    transport: httpx.BaseTransport | None = None
    hide: Callable[[str], str] = str
    """Takes secrets out of what is said."""

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            transport=self.transport,
            timeout=self.timeout_s,
            follow_redirects=False,
            headers={"User-Agent": f"dawnchorus/{package_version()}", "Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def page(
        self,
        url: str,
        parameters: Mapping[str, str],
        what: str,
        read: Callable[[httpx.Response, bytes], Page],
    ) -> Page:
        """Return what `read` makes of an answer, after as many tries as it takes.

        Args:
            url: the address.
            parameters: of its query.
            what: names the page in messages.
            read: gets the answer and its body; raises TryLater where another try may help, and
                PrepError where it will not. Statuses of `PASSING` do not reach it.

        Raises:
            PrepError: `read` raised it, the server did not answer properly after all tries, or it
                asks to wait longer than `longest_wait_s`.
        """
        server = self.pace.server
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryLater),
            wait=self._wait,
            stop=tenacity.stop_after_attempt(self.tries),
            before_sleep=lambda state: self.pace.say(
                f"{what}: {state.outcome and state.outcome.exception()}; "
                f"again in {state.next_action.sleep if state.next_action else 0:.0f} s"
            ),
            reraise=True,
        )
        try:
            found: Page = retrying(self._ask, url, parameters, read)
            return found
        except TryLater as err:
            raise PrepError(
                f"{server} does not answer: {err} ({self.tries} tries, {what}). What was fetched "
                "is kept; run the same command later to go on."
            ) from err

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TryLater) and error.wait_s is not None:
            return error.wait_s
        return float(min(self.first_wait_s * 2 ** (state.attempt_number - 1), self.longest_wait_s))

    def _ask(
        self,
        url: str,
        parameters: Mapping[str, str],
        read: Callable[[httpx.Response, bytes], Page],
    ) -> Page:
        self.pace.wait()
        try:
            with self._client.stream("GET", url, params=dict(parameters)) as answer:
                body = bytearray()
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_PAGE_BYTES:
                        raise PrepError(f"{url} sends more than {_MAX_PAGE_BYTES >> 20} MB.")
        except httpx.InvalidURL as err:
            raise PrepError(f"{url} is no address: {err}.") from err
        except httpx.HTTPError as err:
            raise TryLater(f"{type(err).__name__}: {self.hide(str(err))}") from err
        if answer.status_code in PASSING:
            self._check_patience(answer, bytes(body))
        return read(answer, bytes(body))

    def _check_patience(self, answer: httpx.Response, body: bytes) -> None:
        """Raise TryLater, or PrepError where the server asks for too much of it."""
        wait_s = retry_after_s(answer.headers.get("Retry-After", ""))
        if wait_s is not None and wait_s > self.longest_wait_s:
            raise PrepError(
                f"{self.pace.server} asks to wait {wait_s:.0f} s (HTTP {answer.status_code}). What "
                "was fetched is kept; run the same command then to go on."
            )
        said = self.hide(" ".join(body.decode("utf-8", "replace").split()))[:200]
        raise TryLater(f"HTTP {answer.status_code}: {said}", wait_s)
