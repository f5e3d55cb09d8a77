"""The header lines of a request: the default ones, and those that a caller may add."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from trio_tools.http.wire.codecs import accepted_encodings
from trio_tools.http.wire.errors import Code, FetchRefused, InvalidRequest

# Headers with credentials or a meaning for one origin, whatever their value.
_HARMLESS = frozenset(
    {"accept", "accept-charset", "accept-language", "cache-control", "if-match"}
    | {"if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "pragma", "range"}
    | {"user-agent"}
)
_NAME_OF_SECRET = re.compile(
    r"auth|cookie|token|key|secret|session|credential|passw|pwd|passcode|signature|jwt|bearer|csrf|"
    r"xsrf|\bsid\b|\bpin\b|referer|private|license|account|login|identity|assertion|ticket|"
    r"\bdpop\b|\bcert\b"
)
# A scheme of authentication, or one long word without spaces, as keys are.
_LOOKS_SECRET = re.compile(
    r"(?i:basic|bearer|digest|negotiate|token|apikey|aws4-\S+)\s+\S|[A-Za-z0-9+/=_.~:-]{20,}\Z"
)
# Set by the engine itself; a caller who could set them could break the framing.
_OURS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}
    | {"expect", "keep-alive", "accept-encoding", "proxy-connection"}
)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}\Z")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]{0,8192}\Z")


class RequestHeaders:
    """Makes header lines; the default ones are made only once.

    Args:
        user_agent: Sent unless a caller sets another one and that is allowed.
        allowed: Names (lower case) that a caller may set.
    """

    def __init__(self, user_agent: str, allowed: AbstractSet[str]) -> None:
        self._usual = {
            "accept": "*/*",
            "accept-encoding": accepted_encodings(),
            "user-agent": user_agent,
        }
        self._usual_lines = header_lines(self._usual)
        self._allowed = frozenset(allowed) - _OURS

    def lines(self, headers: Mapping[str, str], cookie: str | None = None) -> bytes:
        """Return all lines except Host, with the empty line that ends them.

        Args:
            headers: The caller's headers.
            cookie: Cookies of the redirect chain; they are added after the caller's.

        Raises:
            FetchRefused: `BLOCKED_HEADER`.
            InvalidRequest: HTTP does not allow a name or a value.
        """
        if not headers and cookie is None:
            return self._usual_lines
        merged = dict(self._usual)
        for name, value in headers.items():
            lower = name.lower()
            if lower not in self._allowed:
                raise FetchRefused(
                    f"The request header {name!r} may not be set.",
                    code=Code.BLOCKED_HEADER,
                    remediation="Leave it out, or let the operator add it to `allow_headers`; "
                    f"allowed are {', '.join(sorted(self._allowed))}.",
                )
            merged[lower] = value
        if cookie is not None:
            merged["cookie"] = f"{merged['cookie']}; {cookie}" if "cookie" in merged else cookie
        return header_lines(merged)


def within_origin(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may be sent to another origin than the intended one.

    Headers whose name or value looks like a secret are removed.
    """
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in _HARMLESS
        or not (_NAME_OF_SECRET.search(name.lower()) or _LOOKS_SECRET.match(value))
    }


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Return the header lines with the empty line that ends them.

    Raises:
        InvalidRequest: HTTP does not allow a name or a value, such as a value of two lines.
    """
    for name, value in headers.items():
        if not _NAME.match(name):
            raise wrong_argument("a header name", name, "a token of at most 100 characters")
        if not _VALUE.match(value):
            # The value may be a secret, so it is not shown.
            raise wrong_argument(f"the header {name!r}", "(hidden)", "one line of Latin-1 text")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return lines.encode("latin-1") + b"\r\n"


def wrong_argument(name: str, value: object, allowed: str) -> InvalidRequest:
    """Return the error for an argument that is not one of `allowed`."""
    return InvalidRequest(
        f"{name} must be {allowed}, got {value!r}.",
        code=Code.INVALID_REQUEST,
        remediation=f"Give {name} as {allowed}.",
    )
