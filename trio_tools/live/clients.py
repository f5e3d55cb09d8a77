"""The clients that share this server, and the share of each in a limit."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, NamedTuple, cast

import trio

from nursery_patterns import CombinedLimiter, current_request

ACTIVE_SECONDS: Final = 600.0
"""A client counts as one that shares for this long after its last request, in seconds."""

MAX_SHARES: Final = 10_000
"""Limit of remembered shares, one for each client and limit. The least recently used idle one is
forgotten first."""

# How many of the oldest shares are checked for an idle one, so that no request takes long.
_LOOKS: Final = 8


class _Share(NamedTuple):
    """The share of one client in one limit."""

    own: trio.CapacityLimiter
    whole: trio.CapacityLimiter
    combined: trio.CapacityLimiter

    @property
    def is_idle(self) -> bool:
        """Whether no task holds or waits for a part of it."""
        used = self.own.statistics()
        return not used.borrowed_tokens and not used.tasks_waiting

    def resize(self, *, several: bool) -> None:
        self.own.total_tokens = max(1, self.whole.total_tokens - 1) if several else math.inf


class Clients:
    """The clients of one server, and their shares.

    A client that is alone may take all tokens of a limit. While several clients send requests,
    each may take all but one, so that one token stays for the next client, even during long calls
    of the others. A limit of one token is held by one client at a time.
    """

    def __init__(self) -> None:
        # The clients of the two latest requests, the latest at the end. They show whether there
        # are several.
        self._last_seen: OrderedDict[str, float] = OrderedDict()
        # The least recently used one first. At most MAX_SHARES, and more only while they are in
        # use.
        self._shares: OrderedDict[tuple[str, str], _Share] = OrderedDict()
        self._several = False

    def seen(self, client_id: str) -> None:
        """Record a request."""
        now = trio.current_time()
        self._last_seen[client_id] = now
        self._last_seen.move_to_end(client_id)
        if len(self._last_seen) > 2:  # noqa: PLR2004 - this one and the one before it
            self._last_seen.popitem(last=False)
        several = len(self._last_seen) > 1 and self._is_active(next(iter(self._last_seen)), now)
        if several != self._several:
            self._several = several
            for share in self._shares.values():
                share.resize(several=several)

    def _is_active(self, client_id: str, now: float) -> bool:
        return now - self._last_seen[client_id] < ACTIVE_SECONDS

    def share_of(self, name: str, whole: trio.CapacityLimiter) -> trio.CapacityLimiter:
        """Return the share of the current request's client in the limit `name`.

        A task takes a token of it first, and then holds one of `whole` too.
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
            self._make_room()
        self._shares.move_to_end(key)
        share.resize(several=self._several)  # the limit may have been resized
        return share

    def _make_room(self) -> None:
        """Forget the least recently used idle shares beyond the bound; those in use stay."""
        for _ in range(_LOOKS):
            if len(self._shares) <= MAX_SHARES:
                return
            oldest = next(iter(self._shares))
            if self._shares[oldest].is_idle:
                del self._shares[oldest]
            else:
                self._shares.move_to_end(oldest)
