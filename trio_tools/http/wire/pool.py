"""Chooses the connection of a request. Idle ones are in last-in-first-out stacks, one per origin.

A request first takes one of its origin's slots, then one of the pool's; both queues are first in,
first out. With its slots it takes the connection that became idle last, or opens one. Every step
is O(1) for any number of connections: a pool that scans all connections for each request makes
bulk fetching slow.

Bounds: at most `max_per_origin` connections of an origin and `max_connections` in total are in
    use or being opened. Idle ones count too: where they would exceed the total, the one that has
    been idle longest is closed. So at most `max_connections` sockets exist at any time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import trio

from trio_tools.http.wire.connection import Connection
from trio_tools.http.wire.connector import Connector
from trio_tools.http.wire.errors import Code, FetchError, FetchTimedOut, Phase
from trio_tools.http.wire.urls import Origin


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of connections and their lifetime.

    Attributes:
        max_connections: Limit of sockets, including idle ones.
        max_per_origin: Limit of connections of one origin in use.
        keepalive_seconds: How long an idle connection may be reused. There is no background task:
            expired ones are closed at the next use of the pool, or when it is closed.
    """

    max_connections: int = 100
    max_per_origin: int = 10
    keepalive_seconds: float = 30.0


class _Slots:
    """Slots, of which every request takes one. Tasks that wait for one get it in their order.

    A `trio.Semaphore` whose counter can be read and changed without a call: that is done several
    times for each request, and nearly always no task waits.
    """

    __slots__ = ("_waiting", "free")

    def __init__(self, count: int) -> None:
        # A slot is free only if no task waits for one, so taking a free one overtakes no task.
        self.free = count
        self._waiting = trio.lowlevel.ParkingLot()

    async def acquire(self) -> None:
        """Wait for a slot and take it. Cancelled, none is taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.free:
            self.free -= 1
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._waiting.park()

    def release(self) -> None:
        """Give a slot back, to the task that has waited longest if there is one."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self.free += 1


class _Site:
    """The connections of one origin."""

    __slots__ = ("idle", "origin", "slots", "users")

    def __init__(self, origin: Origin, max_per_origin: int) -> None:
        self.origin = origin
        self.slots = _Slots(max_per_origin)
        # The right end became idle last, so `idle_since` increases from left to right.
        self.idle: deque[Connection] = deque()
        # Exchanges that hold or wait for a slot. The site is in the pool's table as long as
        # `users` or `idle` is not empty.
        self.users = 0


class Pool:
    """Lends connections to exchanges.

    Each `checkout` or `checkout_idle` that returns a connection must be followed by exactly one
    `checkin`.
    """

    def __init__(self, connector: Connector, limits: PoolLimits) -> None:
        self._connector = connector
        self._limits = limits
        self._now = trio.lowlevel.current_clock().current_time  # what trio.current_time asks
        self._slots = _Slots(limits.max_connections)
        self._sites: dict[Origin, _Site] = {}
        # All idle connections, the longest idle first: the union of the sites' `idle`.
        self._idle: OrderedDict[Connection, _Site] = OrderedDict()
        # Connections in use or idle. Held slots are those of connections in use or being opened,
        # and held slots + len(_idle) <= max_connections.
        self._open: set[Connection] = set()
        self._held = 0
        self._closed = False

    @property
    def idle_count(self) -> int:
        """Number of idle connections."""
        return len(self._idle)

    @property
    def busy_count(self) -> int:
        """Number of held slots, by connections in use or being opened."""
        return self._held

    def checkout_idle(self, origin: Origin) -> Connection | None:
        """Return an idle connection to `origin` if that needs no wait, else None."""
        site = self._sites.get(origin)
        if site is None or not (site.idle and site.slots.free and self._slots.free):
            return None
        site.users += 1
        connection = self._take_idle(site)
        if connection is None:
            self._leave(site)
            return None
        site.slots.free -= 1
        self._slots.free -= 1
        self._held += 1
        return connection

    async def checkout(
        self,
        origin: Origin,
        *,
        pool_timeout: float | None = None,
        connect_timeout: float | None = None,
        fresh: bool = False,
    ) -> Connection:
        """Return a connection to `origin` for exclusive use. May return without a checkpoint.

        Args:
            origin: The destination.
            pool_timeout: Limit of seconds to wait for a slot; None for no bound.
            connect_timeout: Limit of seconds to open a connection; None for no bound.
            fresh: Close idle connections and open a new one.

        Raises:
            FetchError: What `Connector.connect` raises, or `CLIENT_CLOSED`.
            FetchTimedOut: No slot within `pool_timeout`.
        """
        self._check_open()
        site = self._sites.get(origin)
        if site is None:
            site = self._sites[origin] = _Site(origin, self._limits.max_per_origin)
        site.users += 1
        connection = None
        try:
            await self._take_slots(site, pool_timeout)
            if fresh:
                self._drop_idle(site)
            connection = self._take_idle(site)
            if connection is None:
                connection = await self._connect(site, connect_timeout)
            return connection
        finally:
            if connection is None:
                self._leave(site)

    def checkin(self, connection: Connection, *, reusable: bool) -> None:
        """Return a connection and pass its slots to waiting tasks.

        Args:
            connection: From `checkout`.
            reusable: Whether it may carry another request; otherwise it is closed.
        """
        site = self._sites[connection.origin]
        self._give_slots(site)
        if reusable and not self._closed:
            connection.used = True
            connection.idle_since = self._now()
            site.idle.append(connection)
            self._idle[connection] = site
        else:
            self._drop(connection)
        self._leave(site)

    def close(self) -> None:
        """Close every connection, also those in use. Tasks that hold or await one fail."""
        self._closed = True
        while self._idle:
            self._drop_oldest()
        for connection in self._open:  # each is taken out when it is checked in
            connection.close()

    async def _take_slots(self, site: _Site, seconds: float | None) -> None:
        if site.slots.free and self._slots.free:
            site.slots.free -= 1
            self._slots.free -= 1
            self._held += 1
            return
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            await site.slots.acquire()
            taken = False
            try:
                await self._slots.acquire()
                taken = True
            finally:
                if not taken:
                    site.slots.release()
            self._held += 1
            return
        raise FetchTimedOut(
            f"No connection to {site.origin.host} was free within {seconds:g} s.",
            code=Code.TIMEOUT,
            remediation="Fetch fewer URLs at once, or let the operator raise `max_connections`.",
            phase=Phase.POOL,
        )

    def _give_slots(self, site: _Site) -> None:
        self._held -= 1
        self._slots.release()
        site.slots.release()

    def _take_idle(self, site: _Site) -> Connection | None:
        expired = self._now() - self._limits.keepalive_seconds
        while self._idle and next(iter(self._idle)).idle_since <= expired:
            self._drop_oldest()
        while site.idle:
            connection = site.idle.pop()
            del self._idle[connection]
            if not connection.is_stale():
                return connection
            self._drop(connection)
        return None

    async def _connect(self, site: _Site, seconds: float | None) -> Connection:
        if self._held + len(self._idle) > self._limits.max_connections:
            self._drop_oldest()
        usable = False
        try:
            self._check_open()  # the pool may have been closed while this task waited,
            connection = await self._connector.connect(site.origin, seconds)
            if self._closed:  # or while it connected
                connection.close()
            self._check_open()
            usable = True
            self._open.add(connection)
            return connection
        finally:
            if not usable:
                self._give_slots(site)

    def _check_open(self) -> None:
        if self._closed:
            raise FetchError(
                "This HTTP client is closed.",
                code=Code.CLIENT_CLOSED,
                remediation="Make requests inside the client's `async with` block.",
                phase=Phase.POOL,
            )

    def _leave(self, site: _Site) -> None:
        site.users -= 1
        if not site.users:
            self._forget_if_unused(site)

    def _forget_if_unused(self, site: _Site) -> None:
        if not site.users and not site.idle:
            del self._sites[site.origin]

    def _drop_idle(self, site: _Site) -> None:
        while site.idle:
            connection = site.idle.pop()
            del self._idle[connection]
            self._drop(connection)

    def _drop_oldest(self) -> None:
        connection, site = self._idle.popitem(last=False)
        site.idle.popleft()  # the longest idle of all is the longest idle of its site
        self._drop(connection)
        self._forget_if_unused(site)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()
