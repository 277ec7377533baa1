"""Access to an object store: connections, ranged reads of one version, repetition, plain errors.

Any file system of fsspec can be used; S3 (s3fs) is tested against a server. The server and the
credentials are not part of a recipe. They are set as for every other program: AWS_PROFILE or
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ~/.aws/config, or fsspec's own
configuration.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import tenacity

from dawnchorus.trainer.errors import DataError

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Longest time in which one attempt must connect, and must receive something on the connection.
_CONNECT_S, _READ_S = 10, 30
_EXTRAS = {"s3": "s3", "s3a": "s3"}
_TAGS = ("LastModified", "mtime", "last_modified", "generation", "created")
# Libraries beneath fsspec; their own exceptions mean trouble with the connection.
_NETWORK = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3"}
_MISTAKES = {
    "NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound",
    "NoRegionError", "InvalidRegionError", "TokenRetrievalError", "SSOTokenLoadError",
    "UnauthorizedSSOTokenError", "CredentialRetrievalError", "InvalidConfigError", "InvalidURL",
}  # fmt: skip
_FINAL = {errno.EINVAL, errno.ENOSYS, errno.EPERM}
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class Version(NamedTuple):
    """Identifies one content of a remote file."""

    size: int
    """Bytes."""
    etag: str
    """S3's entity tag, which a request can demand; empty elsewhere."""
    tag: str
    """Another value of the store that changes with the content: a time or a number."""

    def __str__(self) -> str:
        return f"{self.size} bytes, {self.etag or self.tag or 'no version'}"


class Changed(Exception):
    """A remote file is not the version that was asked for."""


class _Cut(OSError):
    """The answer was shorter than the range."""


def version_of(info: dict[str, Any]) -> Version:
    """The version in an entry of an fsspec listing."""
    etag = str(info.get("ETag") or "").strip('"')
    # S3's times come from the listing and from the object with different precision.
    found = None if etag else next((info[name] for name in _TAGS if info.get(name)), None)
    # Some stores give a moment as a number in one place and as a date in another.
    tag = str(found.timestamp() if isinstance(found, datetime) else found or "")
    return Version(int(info["size"]), etag, tag)


@lru_cache(maxsize=64)
def connect(url: str, pid: int) -> tuple[Any, str]:
    """The file system of a URL, and the URL's path in it.

    Args:
        url: URL of a file or folder.
        pid: number of this process, because a connection must not be used across a fork.

    Raises:
        DataError: the scheme is unknown, or the package for it is not installed.
    """
    import fsspec
    from fsspec.core import split_protocol, url_to_fs

    protocol = split_protocol(url)[0]
    options: dict[str, Any] = {}
    if protocol in _EXTRAS:
        # Only one attempt each: `patiently` repeats requests, and decides when to give up.
        config = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S,
                  "retries": {"mode": "standard", "total_max_attempts": 1}}  # fmt: skip
        own = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        options = {"config_kwargs": config | own}
    try:
        filesystem, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        install = f'pip install "dawnchorus[{extra}]"' if extra else "see fsspec's documentation"
        raise DataError(
            f"{url}: the package for {protocol}:// is not installed ({error}): {install}"
        ) from None
    except ValueError as error:
        raise DataError(f"{url} cannot be opened ({_said(error)}): check the path") from None
    if protocol in _EXTRAS:
        filesystem.retries = 1
    return filesystem, str(path)


def read_range(url: str, version: Version, first: int, end: int) -> bytes:
    """Read bytes [first, end) of a file, of this version if the store can be asked for a version.

    Raises:
        Changed: the store has another version by now.
        Exception: any exception of the file system.
    """
    folder, _, name = url.rpartition("/")
    filesystem, root = connect(folder, os.getpid())
    path = f"{root.rstrip('/')}/{name}"
    if end <= first:
        return b""
    if version.etag and hasattr(filesystem, "call_s3"):
        data = _read_s3(filesystem, path, version.etag, first, end)
    else:
        data = filesystem.cat_file(path, start=first, end=end)
    if len(data) != end - first:
        raise _Cut(f"got {len(data)} of {end - first} bytes")
    return bytes(data)


def _read_s3(filesystem: Any, path: str, etag: str, first: int, end: int) -> bytes:
    from fsspec.asyn import sync

    bucket, key, _ = filesystem.split_path(path)

    async def get() -> tuple[str, bytes]:
        answer = await filesystem._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={first}-{end - 1}", IfMatch=etag
        )
        async with answer["Body"] as body:
            return str(answer.get("ETag", "")).strip('"'), await body.read()

    try:
        found, data = sync(filesystem.loop, get, timeout=4 * (_CONNECT_S + _READ_S))
    except OSError as error:
        answer = getattr(error.__cause__, "response", None) or {}
        if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
            raise Changed(f"it is no longer {etag}") from None
        raise
    if found and found != etag:  # a server that does not know If-Match
        raise Changed(f"{etag} became {found}")
    return bytes(data)


def patiently(what: str, patience_s: float, call: Callable[[], T]) -> T:
    """Call a remote operation, and repeat it while its failure may be temporary.

    Args:
        what: URL, for messages.
        patience_s: how long to repeat it; pauses grow to 15 s, with jitter.
        call: the operation.

    Raises:
        DataError: the failure is permanent, or lasted too long.
        Changed: `call` raised it.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=15),
        stop=tenacity.stop_after_delay(patience_s),
        before_sleep=lambda state: _note(what, state),
        reraise=True,
    )
    try:
        return retrying(call)
    except (DataError, Changed):
        raise
    except FileNotFoundError:
        raise DataError(f"there is no {what}: check the path, and whether it was deleted") from None
    except Exception as error:
        name = type(error).__name__
        if isinstance(error, PermissionError) or name in _MISTAKES:
            mending = "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws) and rights"
        elif _may_pass(error):
            mending = (
                f"tried for {patience_s:g} s (data.remote.patience_s). Is the object store "
                "reachable from here?"
            )
        else:
            mending = "check the path and the object store's settings"
        # No exception chain: exceptions of HTTP libraries hold requests with their secret headers.
        raise DataError(f"cannot read {what}: {_said(error)}; {mending}") from None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, OSError | TimeoutError | EOFError):
        return error.errno not in _FINAL if isinstance(error, OSError) else True
    kind = type(error)
    return kind.__module__.partition(".")[0] in _NETWORK and kind.__name__ not in _MISTAKES


def _note(what: str, state: tenacity.RetryCallState) -> None:
    if state.attempt_number % 5 == 3 and state.outcome is not None:
        error = state.outcome.exception()
        _log.warning("%s: attempt %d failed (%s)", what, state.attempt_number, _said(error))


def _said(error: BaseException | None) -> str:
    """The text of an exception in one short line, without secrets."""
    text = re.sub(r"\?\S+", "", " ".join(str(error).split()))  # signed requests
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) > 3:
            text = text.replace(secret, "***")
    return f"{type(error).__name__}: {text[:300]}"
