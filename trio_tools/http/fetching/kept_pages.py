"""Texts that were longer than requested, kept for a while so that reading can continue.

A page is downloaded and extracted once. The requested part of its text is returned, and the whole
is kept here, bounded in characters and in time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import trio

from trio_tools.http.fetching.types import FetchedPage, FetchRequest

_SECONDS = 600.0
_MAX_CHARS = 8_000_000
# Most bytes of one part as JSON, where a control character takes six: five megabytes of them would
# take thirty, several times over, and 130 ms of the event loop to write.
_MAX_JSON_BYTES = 10_000_000
_LONGEST_ESCAPE = 6
_SHORT_ESCAPES = b'"\\\b\t\n\f\r'
_LONG_ESCAPES = bytes(code for code in range(32) if code not in _SHORT_ESCAPES)


class KeptPages:
    """Pages with their whole text, by request; the least recently used are dropped first."""

    def __init__(self) -> None:
        # chars == the length of all texts in here <= _MAX_CHARS
        self._pages: OrderedDict[Any, tuple[float, FetchedPage]] = OrderedDict()
        self._chars = 0

    def find(self, request: FetchRequest) -> FetchedPage | None:
        """Return the kept page of a request, if it is not too old."""
        self._drop_old()
        found = self._pages.get(_key(request))
        return None if found is None else found[1]

    def part(self, request: FetchRequest, page: FetchedPage) -> FetchedPage:
        """Return a page with the requested part of its text, and keep the whole."""
        text = page.text
        if text is None:
            return page
        start = min(request.offset, len(text))
        end = len(text) if request.max_chars is None else start + request.max_chars
        if _json_bytes(text[start:end]) > _MAX_JSON_BYTES:
            end = start + _MAX_JSON_BYTES // _LONGEST_ESCAPE
        elif request.max_chars is None and not request.offset:
            return page
        more = end < len(text)
        if more:
            self._keep(_key(request), page, len(text))
        return page._replace(
            text=text[start:end],
            text_chars=len(text),
            next_offset=end if more else None,
        )

    def _keep(self, key: Any, page: FetchedPage, chars: int) -> None:
        self._drop_old()
        self._forget(key)
        if chars > _MAX_CHARS:
            return
        self._pages[key] = (trio.current_time() + _SECONDS, page)
        self._chars += chars
        while self._chars > _MAX_CHARS:
            self._forget(next(iter(self._pages)))

    def _forget(self, key: Any) -> None:
        found = self._pages.pop(key, None)
        if found is not None:
            self._chars -= len(found[1].text or "")

    def _drop_old(self) -> None:
        now = trio.current_time()
        while self._pages:
            key, (until, _) = next(iter(self._pages.items()))
            if until > now:
                return
            self._forget(key)


def _json_bytes(text: str) -> int:
    """Return how many bytes a text takes as JSON, or more if it is short."""
    if len(text) * _LONGEST_ESCAPE <= _MAX_JSON_BYTES:
        return len(text) * _LONGEST_ESCAPE
    data = text.encode("utf-8", "surrogatepass")
    short = len(data) - len(data.translate(None, _SHORT_ESCAPES))
    long = len(data) - len(data.translate(None, _LONG_ESCAPES))
    return len(data) + short + (_LONGEST_ESCAPE - 1) * long


def _key(request: FetchRequest) -> Any:
    headers = tuple(sorted(request.headers.items()))
    return (request.url, request.method, headers, request.body_as, request.max_bytes)
