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
        if text is None or (request.max_chars is None and not request.offset):
            return page
        start = min(request.offset, len(text))
        end = len(text) if request.max_chars is None else start + request.max_chars
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


def _key(request: FetchRequest) -> Any:
    headers = tuple(sorted(request.headers.items()))
    return (request.url, request.method, headers, request.body_as, request.max_bytes)
