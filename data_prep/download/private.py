"""Tables and servers of unknown origin must not make us ask machines of our own network.

A table names addresses, and a server may redirect to others. A name does not tell where it leads:
it may resolve to any address, and to another one the next time. So the address that a connection
has really reached is checked before anything is sent.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from dawnchorus.data_prep.download.addresses import host_of, private_address, private_name
from dawnchorus.data_prep.download.download_recipe import DownloadRecipe

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]


class PrivateNetwork(Exception):
    """An address of this machine or its network that the recipe does not allow; the message names
    it.
    """


def refuse_private(url: str, recipe: DownloadRecipe) -> dict[str, Trace]:
    """Return request extensions for `url` that stop it from reaching a private network.

    Hosts that the recipe names in `private_hosts` are asked wherever they are. Through a proxy the
    connection is the proxy's, and only the name in the address can be looked at.

    Raises PrivateNetwork where the address itself names such a host.
    """
    host = host_of(url)
    name = urlsplit(url).hostname or ""
    if {host, name} & set(recipe.private_hosts):
        return {}
    if private_name(url):
        raise PrivateNetwork(f"{host} is in your own network; {_MEND}")
    if _proxied(url):
        return {}

    async def look(event: str, info: dict[str, Any]) -> None:
        if event != "connection.connect_tcp.complete":
            return
        stream = info["return_value"]
        reached = stream.get_extra_info("server_addr")
        if reached and private_address(str(reached[0])):
            await stream.aclose()
            raise PrivateNetwork(f"{host} leads to {reached[0]} in your own network; {_MEND}")

    return {"trace": look}


_MEND = "name it in the recipe's private_hosts if it is a mirror of yours"


def _proxied(url: str) -> bool:
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    through = parts.scheme in proxies or "all" in proxies
    return through and not urllib.request.proxy_bypass(parts.hostname or "")
