"""The target of a redirect, and the cookies that are sent within the chain."""

from __future__ import annotations

import email.message
import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy

from trio_tools.http.wire.client import Answer
from trio_tools.http.wire.errors import Code, FetchError, InvalidRequest
from trio_tools.http.wire.response_parser import Header, Reply
from trio_tools.http.wire.urls import Target, parse_url

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_COOKIE_BYTES = 8192


def location_of(reply: Reply) -> str | None:
    """Return the target of a reply's redirect; None without a redirect or a target.

    Of two fields the first counts. Its bytes are kept: non-ASCII bytes are escaped, in any
    charset.
    """
    if reply.status not in REDIRECTS:
        return None
    value = next((value for name, value in reply.headers if name.lower() == b"location"), b"")
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in value)  # noqa: PLR2004
    return text.strip() or None


def redirected(target: Target, location: str) -> Target:
    """Return the URL of `location` in the reply of `target`.

    Raises:
        FetchRefused: Its scheme is not supported.
        FetchError: `INVALID_URL`.
    """
    try:
        return parse_url(location, base=target.url)
    except InvalidRequest as exc:  # the caller's URL was valid
        raise FetchError(
            f"{target.url} redirects to an invalid URL: {exc.message}",
            code=Code.INVALID_URL,
            remediation="The server is broken; ask for where it should lead to directly.",
        ) from exc


class ChainCookies:
    """The cookies set within one redirect chain, sent by the rules of domain, path and Secure.

    They end with the chain: a cookie of one URL is never sent with another.
    """

    def __init__(self) -> None:
        self._jar: CookieJar | None = None

    def keep(self, target: Target, answer: Answer) -> None:
        """Add the cookies in the reply of `target`."""
        if b"set-cookie" not in answer.fields:
            return
        if self._jar is None:
            self._jar = CookieJar(DefaultCookiePolicy(strict_domain=True))
        response = _Response(answer.reply.headers)
        self._jar.extract_cookies(response, urllib.request.Request(target.url))  # type: ignore[arg-type]  # noqa: S310 - never opened

    def value_for(self, target: Target) -> str | None:
        """Return the value of the Cookie field for a request to `target`; None for no field."""
        if self._jar is None:
            return None
        request = urllib.request.Request(target.url)  # noqa: S310 - never opened
        self._jar.add_cookie_header(request)
        value = request.get_header("Cookie")
        return value if value and len(value) <= _MAX_COOKIE_BYTES else None


class _Response:
    """The interface that a cookie jar needs of a response."""

    def __init__(self, headers: list[Header]) -> None:
        self._message = email.message.Message()
        for name, value in headers:
            if name.lower() == b"set-cookie":
                self._message["Set-Cookie"] = value.decode("latin-1")

    def info(self) -> email.message.Message:
        return self._message
