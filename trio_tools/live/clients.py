"""Who shares this server, and what one client may hold of what all of them share."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, NamedTuple, cast

import trio

from nursery_patterns import CombinedLimiter, current_request

ACTIVE_SECONDS: Final = 600.0
"""A client counts as one that shares for this long after its last request, in seconds."""


class _Share(NamedTuple):
    """What one client may hold of one limit."""

    own: trio.CapacityLimiter
    whole: trio.CapacityLimiter
    combined: trio.CapacityLimiter

    def resize(self, *, several: bool) -> None:
        self.own.total_tokens = max(1, self.whole.total_tokens - 1) if several else math.inf


class Clients:
    """The clients of one server, and their shares.

    While one client alone asks, it may take all places of a limit. While several do, each may take
    all but one, so that the next one that comes finds a place however long the calls of the others
    take. A limit of one place is held by one client at a time.
    """

    def __init__(self) -> None:
        self._last_seen: OrderedDict[str, float] = OrderedDict()  # the latest one last
        self._shares: dict[tuple[str, str], _Share] = {}
        self._several = False

    def seen(self, client_id: str) -> None:
        """Take note of a request."""
        now = trio.current_time()
        self._last_seen[client_id] = now
        self._last_seen.move_to_end(client_id)
        latest = reversed(self._last_seen.values())
        next(latest)
        several = now - next(latest, -math.inf) < ACTIVE_SECONDS
        if several != self._several:
            self._several = several
            for share in self._shares.values():
                share.resize(several=several)

    def share_of(self, name: str, whole: trio.CapacityLimiter) -> trio.CapacityLimiter:
        """Return what the client of the current request may hold of the limit `name`.

        Its token is held beside one of `whole`, and taken first.
        """
        return self._share(name, whole).own

    def limiter(self, name: str, whole: trio.CapacityLimiter) -> trio.CapacityLimiter:
        """Return `whole` as the client of the current request may use it."""
        return self._share(name, whole).combined

    def _share(self, name: str, whole: trio.CapacityLimiter) -> _Share:
        request = current_request()
        key = name, "" if request is None else request.client_id
        share = self._shares.get(key)
        if share is None:
            own = trio.CapacityLimiter(math.inf)
            combined = cast("trio.CapacityLimiter", CombinedLimiter(own, whole))
            share = self._shares[key] = _Share(own, whole, combined)
        share.resize(several=self._several)  # the limit may have been resized
        return share
