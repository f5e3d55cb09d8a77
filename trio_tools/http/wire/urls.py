"""A URL, parsed once, as browsers do: the destination, and the bytes of the request.

The rules are those of https://url.spec.whatwg.org, in a parser that passes the browsers' tests
(ada): surrounding white space is dropped; spaces, quotes and Unicode are encoded; backslashes are
slashes; dot segments are resolved. All later code uses `Target`, the result of that parser, so no
later step can parse the same text differently.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any, NamedTuple

from trio_tools.http.wire.errors import Code, FetchRefused, InvalidRequest

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535
MAX_URL_LENGTH = 65_536

# Nearly every URL matches this and needs no normalisation. The parser, which would cost more than
# everything else here, would return it unchanged.
_USUAL_URL = re.compile(
    r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([1-9][0-9]{0,4}))?"
    r"(/[A-Za-z0-9\-._~!$&()*+,;=:@/%]*(?:\?[A-Za-z0-9\-._~!$&()*+,;=:@/?%]+)?)\Z"
)
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1?[1-9]?[0-9]|10[0-9])(?:\.(?!\Z)|\Z)){4}\Z")
_BRACKETED = re.compile(r"\s*<([^<>]*)>\s*\Z")
# Not a scheme but a host with a port, or with dots.
_HOST_FIRST = re.compile(
    r"(?:[^/?#:@]*\.[^/?#:@]*|localhost|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?(?:[/?#]|\Z)"
)


class Origin(NamedTuple):
    """The destination of a connection. Connections are shared within one origin, never across."""

    scheme: str
    host: str
    """Lower case, IDNA encoded; an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


class Target(NamedTuple):
    """One resource at an origin."""

    url: str
    """The requested URL, without its fragment."""
    origin: Origin
    host_header: bytes
    path: bytes
    """Path and query of the request line; never empty."""


def bracketed(host: str) -> str:
    """Return `host` in the form of a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_url(text: str, *, base: str | None = None) -> Target:
    """Parse a URL.

    Args:
        text: An absolute URL, or one relative to `base`.
        base: The absolute URL that contains `text`, such as that of a redirect.

    Raises:
        InvalidRequest: It is not a valid URL for a request; the message says why.
    """
    usual = _USUAL_URL.match(text)
    if usual is not None and len(text) <= MAX_URL_LENGTH:
        scheme, host, digits, path = usual.groups()
        port = int(digits) if digits else DEFAULT_PORTS[scheme]
        # A dot after a slash, escaped or not, may be a segment that must be resolved.
        plain = "/." not in path and "%2" not in path and _is_plain_host(host)
        if plain and port <= MAX_PORT:
            return _target(scheme, host, port, path)
    if len(text) > MAX_URL_LENGTH:
        raise _invalid(text, f"it is {len(text)} characters long, more than {MAX_URL_LENGTH}")
    return _parse(text, base)


@functools.lru_cache(maxsize=1024)
def _is_plain_host(host: str) -> bool:
    """Whether a host of letters, digits, dots and hyphens is a name, or an address unchanged."""
    last = host.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        return _IPV4.match(host) is not None
    return "xn--" not in host


def _parse(text: str, base: str | None) -> Target:
    """Parse a URL in the way of browsers."""
    ada: Any = importlib.import_module("ada_url")  # 60 ms to load, and rarely needed
    bracketed = _BRACKETED.match(text)
    text = bracketed[1] if bracketed else text
    try:
        url = ada.URL(text, base=base) if base else ada.URL(text)
    except UnicodeEncodeError as exc:
        raise _invalid("(not text)", "it contains a lone surrogate") from exc
    except ValueError as exc:
        raise _invalid(text, _fault_of(text)) from exc
    scheme = url.protocol[:-1]
    if scheme not in DEFAULT_PORTS:
        if _HOST_FIRST.match(text):
            raise _invalid(text, _fault_of(text))
        raise FetchRefused(
            f"The scheme {scheme[:40]!r} is not spoken here, only http and https are.",
            code=Code.BLOCKED_SCHEME,
            remediation="Give a URL that starts with https:// or http://.",
        )
    if url.username or url.password:
        raise _invalid("(hidden)", "it carries credentials, which are never sent from a URL")
    if any(map(_is_bad_punycode, url.hostname.split("."))):
        raise _invalid(text, "a part of its host begins with xn-- and is not Punycode")
    port = int(url.port) if url.port else DEFAULT_PORTS[scheme]
    if not port:
        raise _invalid(text, "it has no port that can be connected to")
    href: str = url.href.partition("#")[0]
    path = href[len(f"{scheme}://{url.host}") :]
    return _target(scheme, url.hostname.strip("[]"), port, path)


def _is_bad_punycode(label: str) -> bool:
    if not label.startswith("xn--"):
        return False
    try:
        return not label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return True


def _fault_of(text: str) -> str:
    """Return the error in a text that the parser refused."""
    text = text.strip()
    if text.startswith("//"):
        return f"it has no scheme; did you mean {_shown('https:' + text)}"
    if _HOST_FIRST.match(text):
        scheme = "http" if text.startswith(("localhost", "[", "127.")) else "https"
        return f"it has no scheme; did you mean {_shown(f'{scheme}://{text}')}"
    if "://" not in text:
        return "it has no scheme and host; write it like https://host/path"
    return "a browser would not take its host or its port"


def _target(scheme: str, host: str, port: int, path: str) -> Target:
    origin, shown = _named_origin(scheme, host, port)
    return Target(f"{scheme}://{shown}{path}", origin, shown.encode("ascii"), path.encode("ascii"))


@functools.lru_cache(maxsize=1024)
def _named_origin(scheme: str, host: str, port: int) -> tuple[Origin, str]:
    """Return the origin and its name in a URL; cached, since bulk fetching repeats few of them."""
    shown = bracketed(host) if port == DEFAULT_PORTS[scheme] else f"{bracketed(host)}:{port}"
    return Origin(scheme, host, port), shown


def _invalid(text: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"{_shown(text)!r} cannot be fetched: {reason}.",
        code=Code.INVALID_URL,
        remediation="Give an absolute URL such as https://example.org/path?query.",
    )


def _shown(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - for the eye only
