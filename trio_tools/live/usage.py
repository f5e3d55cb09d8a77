"""The use of each client today, and its quota. Days are in UTC.

The use of a client with a quota is also counted in the state, over all servers with that state. A
call is counted there before it is accepted; items are counted soon after they ended. So a quota
is kept across restarts, workers and replicas. The use of other clients, and of all clients if the
state is memory, is counted in this process only, from its start.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from trio_tools.answers.errors import RateLimited
from trio_tools.operations.durable.records import Counted, Use
from trio_tools.settings.groups.clients import ClientSettings

MAX_CLIENTS: Final = 10_000
"""Limit of clients whose use is remembered. The least recently seen one is forgotten."""

_DAY_SECONDS: Final = 86_400
# Seconds before the state is tried again after a failed write.
_RETRY_SECONDS: Final = 2.0
_COUNT_SECONDS: Final = 0.25


class CountingStore(Protocol):
    """Counts over all servers with the same state."""

    async def count_use(self, use: Use) -> Counted | None:
        """Count the use of a client; None if only this process counts."""
        ...


@dataclass
class Used:
    """The use of one client on one day.

    Attributes:
        day: Days since 1970, UTC.
        calls: Accepted tool calls, without those that only read or control operations.
        items: Items of batch calls that ended.
        uncounted_calls: Calls that are not yet counted in the state.
        uncounted_items: Items that are not yet counted in the state.
    """

    day: int
    calls: int = 0
    items: int = 0
    uncounted_calls: int = 0
    uncounted_items: int = 0


class Usage:
    """The use of one server by its clients.

    Args:
        now: Returns the seconds since 1970.
        store: Counts over all servers of the state; None for this process alone.
        clients: Returns the settings of all named clients.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        *,
        store: CountingStore | None = None,
        clients: Callable[[], Mapping[str, ClientSettings]] = dict,
    ) -> None:
        self._now = now
        self._store = store
        self._clients = clients
        self._used: OrderedDict[str, Used] = OrderedDict()
        self._to_count = trio.Event()

    @property
    def has_store(self) -> bool:
        """Whether quotas are counted in the state."""
        return self._store is not None

    def is_kept(self, client_id: str) -> bool:
        """Whether the use of a client is counted in the state, so that it survives a restart."""
        client = self._clients().get(client_id)
        return self._store is not None and client is not None and client.has_quota

    def of(self, client_id: str) -> Used:
        """Return the use of a client today, as far as this server knows."""
        today = int(self._now() // _DAY_SECONDS)
        used = self._used.get(client_id)
        if used is None or used.day != today:
            used = self._used[client_id] = Used(today)
        self._used.move_to_end(client_id)
        if len(self._used) > MAX_CLIENTS:
            self._used.popitem(last=False)
        return used

    def all(self) -> Mapping[str, Used]:
        """Return the use by client; some of it may be of an earlier day."""
        return self._used

    async def take_call(self, client_id: str, client: ClientSettings) -> None:
        """Count a call before it is accepted; first in the state, if the client has a quota.

        While the state cannot be written, this process counts alone.

        Raises:
            RateLimited: The client has used its quota of the day; nothing is counted.
        """
        used = self.of(client_id)
        if self.is_kept(client_id):
            # Use that is not yet counted in the state counts too.
            use = Use(
                client_id,
                used.day,
                takes_call=True,
                most_calls=_less(client.calls_per_day, used.uncounted_calls),
                most_items=_less(client.items_per_day, used.uncounted_items),
            )
            counted = await self._count(used, use)
            if counted is not None:
                if not counted.taken:
                    self._refuse_if_used_up(client_id, used, client)
                return
            self._refuse_if_used_up(client_id, used, client)
            used.uncounted_calls += 1
            self._to_count.set()
        else:
            self._refuse_if_used_up(client_id, used, client)
        used.calls += 1

    def add_items(self, client_id: str, count: int) -> None:
        """Count items that ended."""
        used = self.of(client_id)
        used.items += count
        if count and self.is_kept(client_id):
            used.uncounted_items += count
            self._to_count.set()

    def seconds_left(self) -> int:
        """Return how many seconds there are until midnight, UTC, rounded up."""
        return _DAY_SECONDS - int(self._now() % _DAY_SECONDS)

    async def run(self) -> None:
        """Update the state until cancelled, and then count the rest."""
        for client_id in self._clients():
            if self.is_kept(client_id):
                used = self.of(client_id)
                await self._count(used, Use(client_id, used.day))
        try:
            while True:
                await self._to_count.wait()
                self._to_count = trio.Event()
                with trio.move_on_after(_COUNT_SECONDS, shield=True):  # so that no part is lost
                    if await self._count_all():
                        continue
                await trio.sleep(_RETRY_SECONDS)
                self._to_count.set()
        finally:
            with trio.move_on_after(_COUNT_SECONDS, shield=True):
                await self._count_all()

    async def _count_all(self) -> bool:
        """Count the rest in the state; return whether all of it is counted.

        If the state did not answer in time, the use is taken as counted, so it is never counted
        twice.
        """
        uncounted = [
            (client_id, used)
            for client_id, used in self._used.items()
            if used.uncounted_calls or used.uncounted_items
        ]
        for client_id, used in uncounted:
            calls, items = used.uncounted_calls, used.uncounted_items
            used.uncounted_calls = used.uncounted_items = 0
            counted = await self._count(used, Use(client_id, used.day, calls, items))
            if counted is None:
                used.uncounted_calls += calls
                used.uncounted_items += items
                return False
        return True

    async def _count(self, used: Used, use: Use) -> Counted | None:
        """Count in the state, and store the new totals."""
        assert self._store is not None
        counted = await self._store.count_use(use)
        if counted is not None:
            used.calls = counted.calls + used.uncounted_calls
            used.items = counted.items + used.uncounted_items
        return counted

    def _refuse_if_used_up(self, client_id: str, used: Used, client: ClientSettings) -> None:
        for name, so_far, most in (
            ("calls", used.calls, client.calls_per_day),
            ("items", used.items, client.items_per_day),
        ):
            if most is not None and so_far >= most:
                seconds = self.seconds_left()
                raise RateLimited(
                    f"This client has used its {most} {name} of today (UTC): call again in "
                    f"{seconds} s, or let the operator raise clients.{client_id}.{name}_per_day.",
                    error_code="QUOTA_EXCEEDED",
                    data={"quota": f"{name}_per_day", "used": so_far, "maximum": most}
                    | {"retry_after_seconds": seconds},
                )


def _less(most: int | None, uncounted: int) -> int | None:
    return None if most is None else most - uncounted
