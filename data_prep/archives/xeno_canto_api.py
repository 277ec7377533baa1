"""Xeno-canto's API v3: pages fetched one after another, politely, and kept as they come.

Every page is a file. A query that was stopped goes on with the first page that is missing; a query
that is complete asks nothing. The key is added to the address below httpx, so that neither its log
nor its errors nor a file of ours ever holds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx

from dawnchorus.data_prep.archives.xeno_canto import error_text
from dawnchorus.data_prep.archives.xeno_canto_query import check_queries
from dawnchorus.data_prep.errors import PrepError
from dawnchorus.data_prep.tools.polite_http import Pace, PoliteClient, Say, TryLater
from dawnchorus.trainer.files import write_whole

KEY_VARIABLE = "XENO_CANTO_KEY"
API = "https://xeno-canto.org/api/3/recordings"
PER_PAGE = 500
"""The most that the API gives at a time."""
PAUSE_S = 1.0
"""Least time from one request to the next."""
_TRIES = 8
_LONGEST_WAIT_S = 600.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
_KEY_IN_TEXT = re.compile(r"""(\bkey(?:=|%3[Dd]|"\s*:\s*"))[^&\s"'\\<>]+""")


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
        self.client = PoliteClient(
            Pace("Xeno-canto", self.pause_s, self.say),
            tries=_TRIES,
            first_wait_s=self.first_wait_s,
            longest_wait_s=_LONGEST_WAIT_S,
            transport=_WithKey(self.key.strip()),
            hide=self.without_key,
        )

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
        """Return the bytes of a page as the API sends it, without the key."""
        if not self.key.strip():
            raise PrepError(
                f"Xeno-canto's API wants a key. Log in at xeno-canto.org (any member with a "
                f"verified e-mail has one, on the account page) and set {KEY_VARIABLE} to it: "
                f"export {KEY_VARIABLE}=…"
            )
        parameters = {"query": query, "per_page": str(PER_PAGE), "page": str(number)}
        return self.client.page(self.url, parameters, f"{query}, page {number}", self._checked)

    def _checked(self, response: httpx.Response, body: bytes) -> bytes:
        """Return the body without the key; raise unless it is a page of recordings."""
        status, text = response.status_code, self.without_key(body.decode("utf-8", "replace"))
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        message = error_text(answer) or " ".join(text.split())[:200]
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
            raise TryLater(f"no page of recordings, but {message!r}")
        return text.encode()

    def without_key(self, text: str) -> str:
        """Return `text` without the key, in case a server repeats it."""
        text = _KEY_IN_TEXT.sub(r"\1…", text)
        # A short key ("demo") may be a word of a recording's remarks.
        return text.replace(self.key.strip(), "…") if len(self.key.strip()) >= 12 else text


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
