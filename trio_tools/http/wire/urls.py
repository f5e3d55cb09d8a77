"""A URL, taken apart once: where to connect, and the bytes that name it on the wire.

Everything after this module works on `Target`, so no later step can understand the same text in
another way. What is unusual is refused rather than guessed at: control characters, credentials in
the URL, ports that are no port.
"""

from __future__ import annotations

import functools
import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import idna

from trio_tools.http.wire.errors import Code, FetchRefused, InvalidRequest

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535
MAX_URL_LENGTH = 65_536

# Nearly every URL looks like this, and then nothing about it needs a second thought. Whatever it
# matches, the long way below takes apart in the same way.
_USUAL_URL = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([1-9][0-9]{0,4}))?"
    r"(/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]+)?)\Z"
)
_USUAL_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?\Z")
_USUAL_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*\Z")
_WRONG_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
# What RFC 3986 lets stand in a path or a query, and "%", so that escapes stay as they were.
_KEEP = "!$&'()*+,;=:@/?%[]|-._~"


class Origin(NamedTuple):
    """Where a connection leads: connections are shared within one origin, never across."""

    scheme: str
    host: str
    """Lower case, IDNA encoded; an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


class Target(NamedTuple):
    """One resource at an origin."""

    url: str
    """The URL without its fragment, as it is asked for."""
    origin: Origin
    host_header: bytes
    path: bytes
    """Path and query as they stand in the request line; never empty."""


def bracketed(host: str) -> str:
    """Return `host` as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_url(text: str, *, base: str | None = None) -> Target:
    """Take a URL apart.

    Args:
        text: An absolute URL, or one relative to `base`.
        base: The absolute URL that `text` was found at, such as that of a redirect.

    Raises:
        InvalidRequest: It is not a URL that can be asked for; the message says why.
    """
    usual = _USUAL_URL.match(text)
    if usual is not None and len(text) <= MAX_URL_LENGTH:
        scheme, host, digits, path = usual.groups()
        port = int(digits) if digits else DEFAULT_PORTS[scheme]
        if port <= MAX_PORT:
            return _target(scheme, host, port, path)
    parts, port = _split(text, base)
    scheme = parts.scheme
    if scheme and scheme not in DEFAULT_PORTS:
        raise FetchRefused(
            f"The scheme {scheme!r} is not spoken here, only http and https are.",
            code=Code.BLOCKED_SCHEME,
            remediation="Give a URL that starts with https:// or http://.",
        )
    if not scheme or not parts.netloc:
        raise _invalid(text, "it has no scheme and host; write it like https://host/path")
    if "@" in parts.netloc:
        raise _invalid("(hidden)", "it carries credentials, which are never sent from a URL")
    host = _host(parts.hostname or "", text)
    port = DEFAULT_PORTS[scheme] if port is None else port
    if not port:
        raise _invalid(text, "it has no port that can be connected to")
    path = _escaped((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    return _target(scheme, host, port, path)


def _target(scheme: str, host: str, port: int, path: str) -> Target:
    origin, shown = _named_origin(scheme, host, port)
    return Target(f"{scheme}://{shown}{path}", origin, shown.encode("ascii"), path.encode("ascii"))


@functools.lru_cache(maxsize=1024)
def _named_origin(scheme: str, host: str, port: int) -> tuple[Origin, str]:
    """Return the origin and its name in a URL; bulk fetching asks for few of them, often."""
    shown = bracketed(host) if port == DEFAULT_PORTS[scheme] else f"{bracketed(host)}:{port}"
    return Origin(scheme, host, port), shown


def _split(text: str, base: str | None) -> tuple[SplitResult, int | None]:
    if len(text) > MAX_URL_LENGTH:
        raise _invalid(text, f"it is {len(text)} characters long, more than {MAX_URL_LENGTH}")
    text = text.strip(" \t\r\n")
    if base is not None:
        text = text.replace(" ", "%20")  # a bare space is common in redirects, and harmless
    if _WRONG_IN_URL.search(text):
        raise _invalid(text, "it contains a space, a backslash or a control character")
    try:
        parts = urlsplit(text if base is None else urljoin(base, text))
        port = parts.port
    except ValueError as exc:
        raise _invalid(text, str(exc)) from exc
    return parts, port


def _escaped(path: str) -> str:
    if _USUAL_PATH.match(path):
        return path
    try:
        return quote(path, safe=_KEEP)
    except UnicodeEncodeError as exc:
        raise _invalid("(not text)", "it contains half of a character") from exc


def _host(host: str, text: str) -> str:
    """Return the host name in the one form in which it is compared, resolved and sent."""
    if _USUAL_HOST.match(host):
        return host
    try:
        if ":" in host:
            # A zone ("%eth0") has a meaning on this machine only, so it is no part of a URL.
            return str(IPv6Address(host.partition("%")[0]))
        return idna.encode(host, uts46=True).decode("ascii").lower()
    except (AddressValueError, idna.IDNAError, UnicodeError) as exc:
        raise _invalid(text, f"{host!r} is no host name") from exc


def _invalid(text: str, reason: str) -> InvalidRequest:
    shown = text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - for the eye only
    return InvalidRequest(
        f"{shown!r} cannot be fetched: {reason}.",
        code=Code.INVALID_URL,
        remediation="Give an absolute URL such as https://example.org/path?query.",
    )
