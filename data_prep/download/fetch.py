"""One file over HTTP: redirects by hand, continued where it stopped, judged before it counts."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from dawnchorus.data_prep.download.addresses import follow, host_of, redact
from dawnchorus.data_prep.download.download_recipe import DownloadRecipe, HostLimits
from dawnchorus.data_prep.download.gate import Gate, Gates, HostGivenUp
from dawnchorus.data_prep.download.ledger import Item
from dawnchorus.data_prep.download.partial_file import Finished, Part, Unusable, checksums_of
from dawnchorus.data_prep.download.private import PrivateNetwork, refuse_private
from dawnchorus.data_prep.download.sniff import not_audio
from dawnchorus.data_prep.tools.polite_http import PASSING, retry_after_s

_REDIRECTS = {301, 302, 303, 307, 308}
# Statuses that concern us or the host, not the file.
_HOST_SAYS = PASSING | {401, 403, 407, 418}
_JUDGED_BYTES = 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


class Failure(Exception):
    """A file that was not fetched. `again`: try again within this run; `passing`: a later run may
    try. `gate` is the host that was asked last, at `began_s`; `trouble` says whether the host may
    be the cause; `item` is the recording with the bytes that are kept.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        again: bool = False,
        passing: bool | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        self.reason, self.detail, self.again = reason, redact(detail)[:300], again
        super().__init__(f"{reason}: {self.detail}")
        self.retry_after_s = retry_after_s
        self.passing = again if passing is None else passing
        self.gate: Gate | None = None
        self.trouble, self.began_s = False, 0.0
        self.item: Item | None = None


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Read the certificate authorities once in a process."""
    return httpx.create_ssl_context()


def make_client(recipe: DownloadRecipe) -> httpx.AsyncClient:
    """Return a client that says who is asking, follows nothing, keeps no cookies."""
    timeout = recipe.timeout
    return httpx.AsyncClient(
        headers={
            "User-Agent": recipe.user_agent,
            "Accept": "audio/*, application/octet-stream;q=0.9, */*;q=0.5",
            # With this, lengths and ranges count the bytes of the file itself.
            "Accept-Encoding": "identity",
        },
        verify=_tls(),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        timeout=httpx.Timeout(timeout.read_s, connect=timeout.connect_s, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
    )


@dataclass
class _Attempt:
    """One try: the part on disk, and the validator of the version that it belongs to."""

    item: Item
    part: Part
    validator: str = ""

    def keep(self) -> Item:
        """Secure what can be continued; return the recording with the bytes that are kept."""
        if self.validator and self.part.size:
            self.part.flush(secure=True)
            return replace(self.item, validator=self.validator, part_bytes=self.part.secured)
        self.part.reset()
        return replace(self.item, validator="", part_bytes=0)

    def restart(self) -> None:
        """Discard the part."""
        self.part.reset()
        self.validator = ""


class Fetcher:
    """Fetches files into `folder`, through the gates of their hosts.

    `secured` is told how much of a recording is safe on disk, so that a later run continues.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        gates: Gates,
        folder: Path,
        secured: Callable[[Item], None],
    ) -> None:
        self.client, self.gates, self.folder = client, gates, folder
        self.recipe = gates.recipe
        self._secured = secured

    async def fetch(self, item: Item) -> Finished:
        """Return the file in its place.

        Raises Failure (its `item` has the bytes that are kept), HostGivenUp, or OSError of the disk
        (the part is then removed). A cancelled fetch leaves what can be continued; a file that has
        arrived completely is finished all the same.
        """
        part = Part(self.folder, item.id, item.part_bytes if item.validator else 0)
        attempt = _Attempt(item, part, item.validator if part.size else "")
        kept = item
        try:
            return await self._follow(attempt)
        except (asyncio.CancelledError, HostGivenUp, Failure) as err:
            if isinstance(err, Failure) and not err.passing:
                attempt.restart()
            kept = attempt.keep()
            if kept != item:
                self._secured(kept)
            if isinstance(err, Failure):
                err.item = kept
            raise
        finally:
            part.close(remove=not kept.part_bytes or kept is item)

    async def _follow(self, attempt: _Attempt) -> Finished:
        url, seen, asked = attempt.item.url, set[str](), set[Gate]()
        while True:
            gate = self.gates.of(host_of(url))
            seen.add(url)
            asked.add(gate)
            async with gate.turn() as began_s, _named(gate, began_s):
                answer = await self._ask(attempt, url, gate)
            if isinstance(answer, Finished):
                for gate in asked:  # a redirect alone is no sign that a host works
                    gate.works()
                return answer
            try:
                url = follow(url, answer)
            except ValueError as err:
                raise Failure("bad_redirect", str(err)) from err
            if url in seen:
                raise Failure("redirect_loop", f"back at {url}")
            if len(seen) > self.recipe.files.max_redirects:
                raise Failure("redirect_loop", f"more than {len(seen) - 1} redirects, to {url}")

    async def _ask(self, attempt: _Attempt, url: str, gate: Gate) -> Finished | str:
        """Return the file, or the address that the answer redirects to."""
        headers = {}
        if attempt.part.size:
            headers = {"Range": f"bytes={attempt.part.size}-", "If-Range": attempt.validator}
        async with (
            _as_failure(),
            self.client.stream(
                "GET", url, headers=headers, extensions=refuse_private(url, self.recipe)
            ) as response,
        ):
            status = response.status_code
            if status in _REDIRECTS:
                if "location" not in response.headers:
                    raise Failure(f"http_{status}", "a redirect that names no address")
                await _read_small(response)
                return str(response.headers["location"])
            if status == 416:  # the file is shorter now than what we have
                attempt.restart()
                raise Failure("changed", "the range is not there any more", again=True)
            if status not in (200, 206):
                await _read_small(response)
                raise refusal(response)
            total = self._where(response, attempt)
            now = validator_of(response.headers)
            attempt.validator = now or (attempt.validator if status == 206 else "")
            await self._body(response, attempt, gate)
        return await self._finish(attempt, response, total, gate.limits)

    def _where(self, response: httpx.Response, attempt: _Attempt) -> int | None:
        """Set the part to the position where the body begins; return the size of the whole file if
        stated.
        """
        headers, part = response.headers, attempt.part
        encoded = headers.get("content-encoding", "identity").lower() != "identity"
        if response.status_code == 200:
            part.reset()  # no range was asked for, or the server ignores it, or the file changed
            length = headers.get("content-length", "")
            known = length.isdecimal() and len(length) < 16 and not encoded
            total = int(length) if known else None
        else:
            said = headers.get("content-range", "")
            found = _CONTENT_RANGE.fullmatch(said)
            now = validator_of(headers)
            # A server may leave a kind of validator out; two of the same kind must be equal.
            other = now and now[:1] == attempt.validator[:1] and now != attempt.validator
            if encoded or other or not found or int(found[1]) != part.size or not part.size:
                have = part.size
                attempt.restart()
                raise Failure("bad_range", f"asked from {have} on, got {said!r}", again=True)
            total = int(found[3]) if found[3] != "*" else None
        if (total or 0) > self.recipe.files.max_mb * 1e6:
            raise Failure("too_large", f"{total or 0:,} bytes")
        return total

    async def _body(self, response: httpx.Response, attempt: _Attempt, gate: Gate) -> None:
        """Write the body to the part."""
        part, slow = attempt.part, self.recipe.timeout
        largest = self.recipe.files.max_mb * 1e6
        step = self.recipe.files.checkpoint_mb * 1e6
        judged = part.size > 0
        mark_s, mark_bytes = time.monotonic(), part.size
        async for data in response.aiter_bytes():
            part.add(data)
            gate.received(len(data))
            if part.size > largest:
                raise Failure("too_large", f"more than {largest:,.0f} bytes")
            if not judged and part.size >= _JUDGED_BYTES:
                judged = True
                other = not_audio(part.head())
                if other:
                    raise Failure("not_audio", other)
            secure = part.size - part.secured >= step
            if part.full or secure:
                await in_thread(partial(part.flush, secure=secure))
                if secure and attempt.validator:
                    secured = replace(
                        attempt.item, validator=attempt.validator, part_bytes=part.secured
                    )
                    self._secured(secured)
            passed_s = time.monotonic() - mark_s
            if passed_s >= slow.slow_after_s:
                if part.size - mark_bytes < slow.slow_bytes_per_s * passed_s:
                    said = f"{part.size - mark_bytes} bytes in {passed_s:.0f} s"
                    raise Failure("too_slow", said, again=True)
                mark_s, mark_bytes = time.monotonic(), part.size

    async def _finish(
        self, attempt: _Attempt, response: httpx.Response, total: int | None, limits: HostLimits
    ) -> Finished:
        part, said = attempt.part, checksums_of(response.headers, etag_is_md5=limits.etag_is_md5)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            said = {}  # they are those of the encoded bytes
        work = asyncio.ensure_future(asyncio.to_thread(part.finish, total=total, checksums=said))
        try:
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # All bytes have arrived, so the file is finished.
                return await work
        except Unusable as err:
            attempt.restart()  # all of it came and it is not right: nothing to continue
            raise Failure(err.reason, err.detail, again=err.again) from err


@asynccontextmanager
async def _named(gate: Gate, began_s: float) -> AsyncIterator[None]:
    """Note at a failure which host was asked, and whether the host may be the cause."""
    try:
        yield
    except Failure as err:
        said = err.reason.removeprefix("http_")
        err.trouble = int(said) in _HOST_SAYS if said.isdigit() else err.reason in _HOST_TROUBLE
        err.gate, err.began_s = gate, began_s
        raise


_HOST_TROUBLE = {"timeout", "no_connection", "connection_lost", "not_audio", "empty", "too_slow",
                 "truncated", "bad_answer"}  # fmt: skip


@asynccontextmanager
async def _as_failure() -> AsyncIterator[None]:
    """Turn errors of the connection into a Failure."""
    try:
        yield
    except Unusable as err:
        raise Failure(err.reason, err.detail, again=err.again) from err
    except PrivateNetwork as err:
        raise Failure("private_network", str(err)) from err
    except httpx.TimeoutException as err:
        raise Failure("timeout", type(err).__name__, again=True) from err
    except (httpx.ConnectError, ssl.SSLError, ConnectionError) as err:  # other OSErrors: the disk
        raise Failure("no_connection", str(err), again=True) from err
    except httpx.RemoteProtocolError as err:
        if "location header" in str(err):
            raise Failure("bad_redirect", str(err)) from err
        short = "complete message body" in str(err) or "incomplete" in str(err)
        raise Failure("truncated" if short else "bad_answer", str(err), again=True) from err
    except httpx.NetworkError as err:
        raise Failure("connection_lost", str(err) or type(err).__name__, again=True) from err
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as err:
        raise Failure("bad_url", str(err)) from err
    except httpx.HTTPError as err:
        raise Failure("bad_answer", f"{type(err).__name__}: {err}", again=True) from err


async def in_thread(work: Callable[[], None]) -> None:
    """Run blocking work; a cancellation waits for its end, so that no file is cut under it."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if err := task.exception():
            raise err from None  # an error of the disk is more important than the cancellation
        raise


async def _read_small(response: httpx.Response) -> None:
    """Read what comes with a redirect or a refusal, so that the connection can be used again."""
    length = response.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 6:
        with suppress(TimeoutError, httpx.HTTPError):
            await asyncio.wait_for(response.aread(), timeout=5)


def validator_of(headers: Mapping[str, str]) -> str:
    """Return what to send as If-Range for this version of a file, or ''.

    A strong ETag or the date (RFC 9110 §13.1.5); nothing for an encoded body, whose bytes are not
    the file's.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        return ""
    tag = headers.get("etag", "")
    found = tag if tag.startswith('"') else headers.get("last-modified", "")
    return found if len(found) < 300 and found.isprintable() else ""


def refusal(response: httpx.Response) -> Failure:
    """Return the failure for an answer without the file."""
    status = response.status_code
    detail = response.reason_phrase or "no reason given"
    wait_s = retry_after_s(response.headers.get("retry-after", "")) if status in PASSING else None
    if wait_s is not None:
        detail += f", asks to wait for {wait_s:.0f} s"
    return Failure(f"http_{status}", detail, again=status in PASSING, retry_after_s=wait_s or 0.0)
