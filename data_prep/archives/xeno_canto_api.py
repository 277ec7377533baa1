"""Xeno-canto's API v3: pages fetched one after another, politely, and kept as they come.

Every page is a file. A query that was stopped goes on with the first page that is missing; a query
that is complete asks nothing. tenacity does the retries. The key is added to the address below
httpx: neither its log, nor its errors, nor a file of ours ever sees it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

import httpx
import tenacity

from dawnchorus.data_prep.archives.xeno_canto import error_text
from dawnchorus.data_prep.archives.xeno_canto_query import check_queries
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.trainer.files import write_whole

KEY_VARIABLE = "XENO_CANTO_KEY"
API = "https://xeno-canto.org/api/3/recordings"
PER_PAGE = 500
"""The most that the API gives at a time."""
PAUSE_S = 1.0
"""At least so long from one request to the next."""
_TRIES = 8
_LONGEST_WAIT_S = 600.0
_TIMEOUT_S = 60.0
_MAX_PAGE_BYTES = 64 << 20
_LOCAL = ("localhost", "127.0.0.1", "::1")
_KEY_IN_TEXT = re.compile(r"""(\bkey(?:=|%3[Dd]|"\s*:\s*"))[^&\s"'\\<>]+""")

Say = Callable[[str], None]


class _Later(Exception):
    """The server asks for patience, or the line broke; after `wait_s`, where it says so."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class _WithKey(httpx.BaseTransport):
    """Adds the key to the address of a request on its way out."""

    def __init__(self, key: str) -> None:
        self._key, self._inner = key, httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._inner.handle_request(
            httpx.Request(
                request.method,
                request.url.copy_merge_params({"key": self._key}),
                headers=request.headers,
                extensions=request.extensions,
            )
        )

    def close(self) -> None:
        self._inner.close()


@dataclass
class XenoCanto(AbstractContextManager["XenoCanto"]):
    """The API, to be used in a `with`. `pause_s` and `first_wait_s` (before the first retry that no
    Retry-After times) are shorter in tests.
    """

    key: str = field(repr=False)
    url: str = API
    pause_s: float = PAUSE_S
    first_wait_s: float = 2.0
    say: Say = print

    def __post_init__(self) -> None:
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as err:
            raise PrepError(f"The API's address is none: {self.url!r} ({err}).") from err
        if address.scheme != "https" and address.host not in _LOCAL:
            raise PrepError(f"{self.url} is not https: the key would travel for all to read.")
        self.client = httpx.Client(
            transport=_WithKey(self.key.strip()), timeout=_TIMEOUT_S, follow_redirects=False
        )
        self._last = -float("inf")

    def __enter__(self) -> Self:
        # At DEBUG httpcore logs the headers of answers, and a server may repeat the key there.
        log = logging.getLogger("httpcore")
        self._log_level = log.level
        log.setLevel(max(log.level, logging.INFO))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        logging.getLogger("httpcore").setLevel(self._log_level)

    def pages(self, query: str, folder: Path) -> Iterator[Path]:
        """Yield the files of a query's pages below `folder`, fetching those that are missing.

        Raises PrepError when the query is wrong, the key is not accepted, or the server does not
        answer after several tries; what was fetched stays, and the same call goes on.
        """
        check_queries([query])
        here = folder / _slug(query)
        here.mkdir(parents=True, exist_ok=True)
        number, total, count = 1, 1, ""
        fetched = 0
        while number <= total:
            file = here / f"{number:06d}.json"
            if not file.is_file():
                _write(file, self._page(query, number))
                fetched += 1
            page = _load(file)
            total = max(1, _whole(page.get("numPages")))
            found = str(page.get("numRecordings", ""))
            if count and found != count:
                self.say(
                    f"{query}: {found} recordings instead of {count} while it was read; some may "
                    f"be missing. Delete {here} to ask again."
                )
            if found != count or fetched % 20 == 1:
                self.say(f"{query}: {found} recordings, page {number} of {total}")
            count = found
            yield file
            number += 1
        if not fetched:
            day = datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
            self.say(f"{query}: complete since {day}; delete {here} to ask again")

    def _page(self, query: str, number: int) -> bytes:
        """Fetch a page; wait and try again as long as that may help."""
        if not self.key.strip():
            raise PrepError(
                f"Xeno-canto's API wants a key. Log in at xeno-canto.org (any member with a "
                f"verified e-mail has one, on the account page) and set {KEY_VARIABLE} to it: "
                f"export {KEY_VARIABLE}=…"
            )
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Later),
            wait=self._wait,
            stop=tenacity.stop_after_attempt(_TRIES),
            before_sleep=lambda state: self.say(
                f"{query}, page {number}: {state.outcome and state.outcome.exception()}; "
                f"again in {state.next_action.sleep if state.next_action else 0:.0f} s"
            ),
            reraise=True,
        )
        try:
            return retrying(self._request, query, number)
        except _Later as err:
            raise PrepError(
                f"Xeno-canto does not answer: {err} ({_TRIES} tries, page {number} of {query}). "
                "What was fetched is kept; run the same command later to go on."
            ) from err

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Return what the server asked for, else a wait that doubles, up to ten minutes."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Later) and error.wait_s is not None:
            return error.wait_s
        return float(min(self.first_wait_s * 2 ** (state.attempt_number - 1), _LONGEST_WAIT_S))

    def _request(self, query: str, number: int) -> bytes:
        """Ask once for a page. Raises _Later where patience may help, PrepError where not."""
        time.sleep(max(0.0, self._last + self.pause_s - time.monotonic()))
        parameters = {"query": query, "per_page": str(PER_PAGE), "page": str(number)}
        try:
            with self.client.stream("GET", self.url, params=parameters) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_PAGE_BYTES:
                        raise PrepError(f"{self.url} sends more than {_MAX_PAGE_BYTES >> 20} MB.")
        except httpx.HTTPError as err:
            raise _Later(f"{type(err).__name__}: {self.without_key(str(err))}") from err
        finally:
            self._last = time.monotonic()
        text = self.without_key(body.decode("utf-8", "replace"))
        self._check(response, text)
        return text.encode()

    def _check(self, response: httpx.Response, text: str) -> None:
        """Raise unless the answer is a page of recordings."""
        status = response.status_code
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        message = error_text(answer) or " ".join(text.split())[:200]
        if status == 429 or status >= 500:
            wait_s = retry_after_s(response.headers.get("Retry-After", ""))
            if wait_s is not None and wait_s > _LONGEST_WAIT_S:
                raise PrepError(
                    f"Xeno-canto asks to wait {wait_s:.0f} s (HTTP {status}). What was fetched is "
                    "kept; run the same command then to go on."
                )
            raise _Later(f"HTTP {status}: {message}", wait_s)
        if status in (401, 403) or (status != 200 and "key" in message.lower()):
            raise PrepError(
                f"Xeno-canto does not accept the key in {KEY_VARIABLE} (HTTP {status}): {message}"
            )
        if status != 200 or (isinstance(answer, dict) and "error" in answer):
            where = self.without_key(response.headers.get("Location", ""))
            raise PrepError(
                f"{self.url} answers HTTP {status}: {message}{f' -> {where}' if where else ''}"
            )
        if not isinstance(answer, dict) or not isinstance(answer.get("recordings"), list):
            raise _Later(f"no page of recordings, but {message!r}")

    def without_key(self, text: str) -> str:
        """Return `text` without the key, should a server repeat it."""
        text = _KEY_IN_TEXT.sub(r"\1…", text)
        # A short key ("demo") may be a word of a recording's remarks.
        return text.replace(self.key.strip(), "…") if len(self.key.strip()) >= 12 else text


def retry_after_s(header: str) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date), or None."""
    if not header.strip():
        return None
    try:
        return (
            max(0.0, float(header))
            if header.strip().isdecimal()
            else max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
        )
    except (ValueError, TypeError):
        return None


def _slug(query: str) -> str:
    """Return a folder's name for a query: readable, and different for different queries."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", query).strip("-")[:60]
    return f"{words}-{hashlib.blake2b(query.encode(), digest_size=4).hexdigest()}"


def _write(file: Path, content: bytes) -> None:
    try:
        write_whole(file, content)
    except OSError as err:
        raise PrepError(f"Writing {file} failed: {err}. Make room, then run it again.") from err


def _load(file: Path) -> dict[str, Any]:
    try:
        page = json.loads(file.read_bytes())
    except ValueError as err:
        raise PrepError(f"{file} is damaged ({err}): delete it, then run it again.") from err
    if not isinstance(page, dict):
        raise PrepError(f"{file} is no page of the API: delete it, then run it again.")
    return page


def _whole(value: Any) -> int:
    return int(value) if str(value).isdecimal() else 0
