"""Addresses: which may be asked, how they are shown without secrets, file names made from ids."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from dawnchorus.trainer.public import without_login

# Names of query parameters whose values are secrets (API keys, signed addresses of object stores).
_SECRET = re.compile(
    r"((?:^|[?&;])[^=&;#\s]*(?:key|token|secret|sig|passw|pwd|auth|credential|session)[^=&;#\s]*=)"
    r"[^&;#\s\"'<>]+",
    re.IGNORECASE,
)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
_PORTS = {"http": 80, "https": 443}
# Such an id is used as the file name: it is equal on file systems that ignore case, has no dots,
# and does not end like the digest that all other names have, so two ids never share a name.
_PLAIN = re.compile(r"[a-z0-9]+:[a-z0-9][a-z0-9_-]{0,99}")
_DIGEST = re.compile(r".*-[0-9a-f]{16}")


class BadAddress(ValueError):
    """An address that must not be asked; the message says why."""


def redact(text: str) -> str:
    """Return `text` without the secrets in addresses: keys, tokens, signatures, passwords."""
    return without_login(_SECRET.sub(r"\1***", text))


def host_of(url: str) -> str:
    """Return the host that `url` names, lower case, with its port where that is unusual.

    Raises BadAddress for anything but http and https, user names in the address, no host.
    """
    if len(url) > 4096 or _UNPRINTABLE.search(url):
        raise BadAddress("white space, control characters or more than 4,096 letters")
    start = _ORIGIN.match(url)
    return _host_of_origin(start.group() if start else url)


@lru_cache(maxsize=4096)
def _host_of_origin(url: str) -> str:
    """Return `host_of` of "scheme://authority", cached: a million addresses have few of these."""
    try:
        parts = urlsplit(url)
        port, name = parts.port, parts.hostname
    except ValueError as err:
        raise BadAddress(str(err)) from err
    if parts.scheme not in _PORTS:
        raise BadAddress(f"only http and https are asked, not {parts.scheme[:20]!r}")
    if parts.username is not None or parts.password is not None:
        raise BadAddress("a user name or password in the address")
    if not name:
        raise BadAddress("no host")
    shown = f"[{name}]" if ":" in name else name.rstrip(".")
    return shown if port in (None, _PORTS[parts.scheme]) else f"{shown}:{port}"


def ending_of(url: str) -> str:
    """Return the ending of the file that `url` seems to name ("mp3"), or ''."""
    last = url.partition("?")[0].partition("#")[0].rpartition("/")[2]
    ending = last.rpartition(".")[2].lower() if "." in last else ""
    return ending if ending.isalnum() and len(ending) <= 5 else ""


def follow(url: str, location: str) -> str:
    """Return the address that a redirect from `url` leads to.

    Raises BadAddress for redirects from https to http and to other schemes. Whether it leads into a
    private network is asked of every address (`private_name`, `private_address`).
    """
    target = urljoin(url, location.strip())
    host_of(target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise BadAddress("a redirect from https to http")
    return target


def private_name(url: str) -> bool:
    """Return whether the host of `url` is by its name one of this machine or its network. Only the
    text counts, with every spelling of a number that the C library reads as an address ("127.1",
    "2130706433", "0x7f000001"); the address of a name is checked when it is connected.
    """
    name = (urlsplit(url).hostname or "").rstrip(".")
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return private_address(socket.inet_ntoa(socket.inet_aton(name)))
    except (OSError, ValueError):
        return private_address(name)


_HOLD_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""Addresses of IPv6 that end in one of IPv4: a gateway asks it (NAT64, RFC 6052), or they once
stood for it (RFC 4291, section 2.5.5.1)."""
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
"""Of gateways that may lead into private networks (RFC 8215)."""


def private_address(address: str) -> bool:
    """Return whether an IP address is not a public one; False for any other text."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if found in _LOCAL_NAT64:
        return True
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if any(found in network for network in _HOLD_IPV4):
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return not (inner or found).is_global or found.is_multicast


def file_stem(recording_id: str) -> str:
    """Return a file name without ending, made from the id alone: "xc:254462" -> "xc_254462".

    Ids with anything but lower-case letters, digits, "_" and "-" get a digest of the id, so that
    names differ where ids do, on every file system.
    """
    if _PLAIN.fullmatch(recording_id) and not _DIGEST.fullmatch(recording_id):
        return recording_id.replace(":", "_", 1)
    safe = re.sub(r"[^a-z0-9_-]+", "_", recording_id.lower())[:80].strip("_") or "id"
    digest = hashlib.blake2b(recording_id.encode("utf-8", "surrogatepass"), digest_size=8)
    return f"{safe}-{digest.hexdigest()}"


def number_of(recording_id: str) -> int:
    """Return the number of an id: 63 bits of its hash, the order in which the ledger is walked."""
    digest = hashlib.blake2b(recording_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def file_folder(recording_id: str) -> str:
    """Return the folder of a recording's file: "audio/xc/3f", 256 folders a source.

    A million recordings then lie 4,000 to a folder, which every file system lists quickly; the
    ledger's order goes through them one after the other.
    """
    source = re.sub(r"[^a-z0-9_-]+", "_", recording_id.partition(":")[0].lower())[:40] or "_"
    return f"audio/{source}/{number_of(recording_id) >> 55:02x}"
