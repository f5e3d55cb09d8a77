"""The proxy of a request, and the requests to it. No I/O.

For https origins a tunnel is opened with CONNECT, and TLS runs through it to the origin. Other
requests are sent to the proxy with their absolute URL. Credentials of a proxy are sent only to
the proxy.
"""

from __future__ import annotations

import base64
import importlib
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from trio_tools.http.wire.urls import DEFAULT_PORTS, MAX_PORT, Origin, bracketed

ENVIRONMENT = "environment"
"""The value for using HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""

_URLLIB: Any = importlib.import_module("urllib.request")  # not typed in all versions
_USUAL_PORT = 8080


class Proxy(NamedTuple):
    """One proxy.

    Attributes:
        origin: Its address.
        fields: Header fields for the proxy only, each with its line end.
    """

    origin: Origin
    fields: bytes = b""

    def __repr__(self) -> str:  # the fields contain a password
        return f"<Proxy at {self.origin}>"

    def connect_head(self, host: str, port: int) -> bytes:
        """Return the request for a tunnel to `host`, a name or an address."""
        authority = f"{bracketed(host)}:{port}".encode("ascii")
        return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (authority, authority, self.fields)

    def relayed(self, origin: Origin, head: bytes) -> bytes:
        """Return the head of a request to `origin` in the form for the proxy."""
        method, _, rest = head.partition(b" ")
        line, _, fields = rest.partition(b"\r\n")
        port = "" if origin.port == DEFAULT_PORTS[origin.scheme] else f":{origin.port}"
        site = f"{origin.scheme}://{bracketed(origin.host)}{port}".encode("ascii")
        return b"%b %b%b\r\n%b%b" % (method, site, line, self.fields, fields)


class Proxies:
    """The proxies of a client.

    Args:
        setting: The URL of a proxy for every request, or "environment".
        resolves: Whether the proxy resolves names. Otherwise they are resolved and checked here,
            and a tunnel leads to the checked address.

    Raises:
        ValueError: It is not the URL of a proxy.
    """

    def __init__(self, setting: str, *, resolves: bool = False) -> None:
        self.resolves = resolves
        self._environment: dict[str, str] | None = None
        self._by_scheme: dict[str, Proxy | None] = {}
        if setting == ENVIRONMENT:
            self._environment = getproxies_environment()
            every = self._environment.get("all")
            for scheme in DEFAULT_PORTS:
                url = self._environment.get(scheme) or every
                self._by_scheme[scheme] = parse_proxy(url) if url else None
        else:
            self._by_scheme = dict.fromkeys(DEFAULT_PORTS, parse_proxy(setting))

    def for_origin(self, origin: Origin) -> Proxy | None:
        """Return the proxy for requests to `origin`; None for a direct connection."""
        if self._environment is not None:
            host = f"{bracketed(origin.host)}:{origin.port}"
            if _URLLIB.proxy_bypass_environment(host, self._environment):
                return None
        return self._by_scheme[origin.scheme]


def parse_proxy(url: str) -> Proxy:
    """Return the proxy of a URL such as http://user:password@proxy.example:3128.

    Raises:
        ValueError: It is not a proxy URL. The message does not show it, as it may contain a
        password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = _USUAL_PORT if parts.port is None else parts.port
    except ValueError as exc:
        raise ValueError(f"it is no URL: {exc}") from None
    if parts.scheme != "http":
        raise ValueError(
            f"its scheme is {parts.scheme!r}; proxies are spoken to over http only: write "
            "http://host:port"
        )
    if not parts.hostname or not 0 < port <= MAX_PORT or parts.path.strip("/") or parts.query:
        raise ValueError("it must name a host and a port alone: write http://host:port")
    fields = b""
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        credentials = base64.b64encode(f"{user}:{password}".encode())
        fields = b"Proxy-Authorization: Basic %b\r\n" % credentials
    return Proxy(Origin("http", parts.hostname, port), fields)
