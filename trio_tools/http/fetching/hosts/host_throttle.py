"""The hosts in use. A request waits here for a slot of its host, without a connection.

It waits first in, first out. During a pause it also releases the slot of its batch, so that other
hosts are requested meanwhile. A host that replies normally keeps no state while it is not in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from nursery_patterns import released_slot
from trio_tools.http.fetching.hosts.host import Host, HostState
from trio_tools.http.wire.errors import Code, HostCoolingDown, Phase

_MAX_REMEMBERED = 10_000
# Seconds between requests for more slots, where several servers share them.
_ASK_AGAIN_SECONDS = 0.25


class Places(Protocol):
    """The slots of each host that several servers share, as far as this server holds them."""

    def watch(self, usage: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """Set the function that returns how many slots of each host are wanted and used."""
        ...

    def held(self, name: str) -> int:
        """Return how many slots of a host this server may use now."""
        ...

    async def ask(self, name: str) -> None:
        """Request once the slots of a host that are wanted."""
        ...


class HostLimits:
    """The hosts in use, and the hosts with a lowered limit or a pause.

    Args:
        max_per_host: Limit of requests in flight to one host.
        max_cooldown_seconds: Longest pause of a host, with any Retry-After.
        places: The slots of `max_per_host` that this server may use now, where several servers
            share them; None if all belong to this one.
    """

    def __init__(
        self, *, max_per_host: int, max_cooldown_seconds: float, places: Places | None = None
    ) -> None:
        self._places = places
        if places is not None:
            places.watch(self._usage)
        self._max_per_host = max_per_host
        self._max_cooldown_seconds = max_cooldown_seconds
        self._hosts: dict[str, Host] = {}

    def enter_at_once(self, name: str) -> bool:
        """Enter as `enter` does if the host has a free slot now; return False otherwise."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(self._max_per_host)
        host.requested()
        if host.door is not None or host.cools() or not self._take_slot(name, host):
            return False
        host.users += 1
        return True

    async def enter(self, name: str) -> None:
        """Wait for a slot of the host. Returns without a checkpoint if one is free.

        Each `enter` that returns is followed by one `leave`. A cancelled wait takes nothing.

        Raises:
            HostCoolingDown: The pause of the host ends after the deadline of the caller's cancel
                scope.
        """
        if self.enter_at_once(name):
            return
        host = self._hosts[name]
        host.users += 1
        entered = False
        try:
            await self._wait_in_line(name, host)
            entered = True
        finally:
            if not entered:
                self._let_go(name, host)

    def leave(self, name: str) -> None:
        """Release the slot."""
        host = self._hosts[name]
        host.give_back()
        self._let_go(name, host)

    def answered_well(self, name: str) -> None:
        """Record a reply other than 429 or 503 of an entered host: its limit grows a little."""
        self._hosts[name].answered_well()

    def refused(self, name: str, *, started: float, retry_after: float | None) -> float:
        """Record a 429 or 503 of an entered host: lower its limit and start its pause.

        Args:
            name: The host.
            started: When the request was sent. A request that was sent before the limit was last
                lowered does not lower it again.
            retry_after: The requested seconds; None if none were requested, then 1, 2, 4, ... s.

        Returns:
            Seconds until the end of the pause.
        """
        host = self._hosts[name]
        host.overloaded(started)
        return host.pause(retry_after, self._max_cooldown_seconds)

    def timed_out(self, name: str, *, started: float) -> None:
        """Record a timeout of an entered host: lower its limit."""
        self._hosts[name].overloaded(started)

    def cooling_seconds(self, name: str) -> float:
        """Return the seconds until the end of the host's pause; 0 without a pause."""
        host = self._hosts.get(name)
        return max(0.0, host.end_of_pause() - trio.current_time()) if host is not None else 0.0

    def snapshot(self) -> dict[str, HostState]:
        """Return every host in use, or with a lowered limit or a pause, by name."""
        return {name: host.state() for name, host in self._hosts.items()}

    async def _wait_in_line(self, name: str, host: Host) -> None:
        entered = False
        while not entered:
            while (now := trio.current_time()) < host.end_of_pause():
                self._refuse_vain_wait(name, host, now)
                async with released_slot():  # it only waits for time to pass
                    await trio.sleep_until(host.end_of_pause())
            door = host.door = host.door or trio.StrictFIFOLock()
            async with door:
                while not host.cools() and not (entered := self._take_slot(name, host)):
                    host.freed = trio.Event()
                    await self._wait_for_slot(name, host, host.freed)
            if not door.statistics().tasks_waiting and not door.locked():
                host.door = host.freed = None

    def _take_slot(self, name: str, host: Host) -> bool:
        if self._places is not None and host.in_flight >= self._places.held(name):
            return False
        return host.take_slot()

    async def _wait_for_slot(self, name: str, host: Host, freed: trio.Event) -> None:
        """Wait until a slot may be free. Where servers share slots, request more first."""
        if self._places is None or host.in_flight >= host.limit:
            await freed.wait()
            return
        await self._places.ask(name)
        if host.in_flight >= self._places.held(name):
            with trio.move_on_after(_ASK_AGAIN_SECONDS):
                await freed.wait()

    def _usage(self) -> dict[str, tuple[int, int]]:
        return {name: (host.users, host.in_flight) for name, host in self._hosts.items()}

    def _refuse_vain_wait(self, name: str, host: Host, now: float) -> None:
        if (until := host.end_of_pause()) >= trio.current_effective_deadline():
            seconds = until - now
            raise HostCoolingDown(
                f"{name} asked for a pause; it may be asked again in {seconds:.0f} s, which is "
                "past the time this call has.",
                code=Code.HOST_COOLING_DOWN,
                remediation="Fetch the rest first and come back to this host later.",
                phase=Phase.TOTAL,
                data={"retry_after_seconds": seconds},
            )

    def _let_go(self, name: str, host: Host) -> None:
        host.users -= 1
        if host.users:
            return
        if not host.in_trouble():
            del self._hosts[name]
        elif len(self._hosts) > _MAX_REMEMBERED:
            oldest = next((n for n, other in self._hosts.items() if not other.users), name)
            del self._hosts[oldest]
