"""The number of concurrent requests to one host, adapted to its replies. Nothing here waits.

An `AdaptiveLimiter` holds the limit, which starts at its maximum, the configured one. A 429, a
503 or a timeout halves it, and other replies raise it again by one at a time. A 429 or 503 also
starts a pause for the client whose request was refused, and for no other client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import trio

from nursery_patterns import AdaptiveLimiter, current_request

_FIRST_PAUSE_SECONDS = 1.0

MAX_CLIENTS: Final = 50
"""Limit of remembered clients of one host, for a status that shows each client its own hosts."""


@dataclass(frozen=True, slots=True)
class HostState:
    """One host as `HostLimits.snapshot` shows it.

    Attributes:
        limit: Current limit of concurrent requests.
        in_flight: Requests in flight.
        waiting: Waiting requests.
        cooling_seconds: Seconds until the end of its pause for the client of the current request;
            0 without a pause.
        clients: Clients that requested it since it came into use, the first `MAX_CLIENTS` of
            them.
    """

    limit: int
    in_flight: int
    waiting: int
    cooling_seconds: float
    clients: frozenset[str] = field(default=frozenset(), compare=False, repr=False)


class _HalveOrAddOne:
    """Additive increase, multiplicative decrease (Chiu and Jain, 1989).

    Unlike `AIMD`, it also grows while few of the slots are used: it grows back to its start, and
    a host that has reached it again can be forgotten.
    """

    def update(self, limit: float, *, elapsed: float, in_flight: int, dropped: bool) -> float:  # noqa: ARG002 - as `LimitAlgorithm`
        return limit / 2 if dropped else limit + 1


class Host:
    """One host: its requests, its limit and its pauses.

    Attributes:
        limit: Current limit of concurrent requests.
        in_flight: Requests that have a slot.
        users: Requests that have a slot or wait for one; the host is forgotten only at 0.
        clients: See `HostState`.
        door: Held by the one request that waits for a slot; the others wait for the door, in
            order. So one task wakes per free slot, and none overtakes. When a pause begins, all
            leave the queue. None while no request waits.
        freed: Set when a slot is released, if a request waits for that.
    """

    __slots__ = (
        "_cools_until",
        "_limiter",
        "_strikes",
        "_struck_at",
        "clients",
        "door",
        "freed",
        "in_flight",
        "limit",
        "users",
    )

    def __init__(self, most: int) -> None:
        # All requests are alike, so slots are counted here, for a third of the limiter's cost.
        self._limiter = AdaptiveLimiter(most, 1, most, algorithm=_HalveOrAddOne())
        self._cools_until: dict[str, float] = {}  # by client
        self._strikes = 0  # refusals since the last other reply
        self._struck_at = -math.inf
        self.limit = most
        self.in_flight = 0
        self.users = 0
        self.clients: set[str] = set()
        self.door: trio.StrictFIFOLock | None = None
        self.freed: trio.Event | None = None

    def requested(self) -> None:
        """Remember the client of the current request."""
        request = current_request()
        if request is not None and len(self.clients) < MAX_CLIENTS:
            self.clients.add(request.client_id)

    def take_slot(self) -> bool:
        """Take a slot if one is free."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    def give_back(self) -> None:
        """Release a slot."""
        self.in_flight -= 1
        if self.freed is not None:
            self.freed.set()

    def answered_well(self) -> None:
        """Record a reply other than 429 or 503: the limit grows a little."""
        self._strikes = 0
        if self.limit < self._limiter.maximum:
            self._learn(0.0)  # the limit does not depend on the duration

    def overloaded(self, started: float) -> None:
        """Record a refusal or a missing reply: the limit is lowered.

        A request that was sent before the limit was last lowered does not lower it again.
        """
        if started >= self._struck_at:
            now = self._struck_at = trio.current_time()
            self._strikes += 1
            self._learn(now - started, dropped=True)

    def pause(self, seconds: float | None, most: float) -> float:
        """Start a pause for the current client; return its seconds.

        Args:
            seconds: The requested pause; None if none was requested, then 1, 2, 4, ... s.
            most: The longest pause.
        """
        if seconds is None:
            seconds = _FIRST_PAUSE_SECONDS * 2.0 ** min(self._strikes - 1, 30)
        client, now = _client_id(), trio.current_time()
        pauses = self._cools_until
        if client not in pauses and len(pauses) >= MAX_CLIENTS:
            del pauses[min(pauses, key=pauses.__getitem__)]
        pauses[client] = max(self.end_of_pause(), now + min(max(seconds, 0.0), most))
        return pauses[client] - now

    def cools(self) -> bool:
        """Whether it has a pause for the current client."""
        # Few hosts have ever refused a request; otherwise the clock need not be read.
        return bool(self._cools_until) and trio.current_time() < self.end_of_pause()

    def end_of_pause(self) -> float:
        """Return the end of its pause for the current client."""
        return self._cools_until.get(_client_id(), -math.inf)

    def in_trouble(self) -> bool:
        """Whether it must be remembered, though no request uses it."""
        if self.limit < self._limiter.maximum:
            return True
        return bool(self._cools_until) and trio.current_time() < max(self._cools_until.values())

    def state(self) -> HostState:
        """Return its state for the status."""
        return HostState(
            limit=self.limit,
            in_flight=self.in_flight,
            waiting=self.users - self.in_flight,
            cooling_seconds=max(0.0, self.end_of_pause() - trio.current_time()),
            clients=frozenset(self.clients),
        )

    def _learn(self, elapsed: float, *, dropped: bool = False) -> None:
        self._limiter.record(elapsed, dropped=dropped)
        self.limit = int(self._limiter.total_tokens)


def _client_id() -> str:
    request = current_request()
    return "" if request is None else request.client_id
