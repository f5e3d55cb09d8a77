"""How many requests one host takes at a time, learnt from how it answers.

An `AdaptiveLimiter` for each host holds its limit, which starts at its maximum, the configured one.
A 429, a 503 or a timeout halves it, and good answers raise it again by one at a time. A 429 or 503
also makes the host cool down, for as long as its Retry-After says within the configured bound. A
request waits for its host here, without a connection, first come, first served; and for the end of
a pause also without the slot of its batch, so that other hosts are asked meanwhile. A pause
holds for the client whose request was refused, and keeps no other client from the host. A host
that answers normally keeps no state once it is not in use.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from typing import Final, Literal, Protocol

import trio

from nursery_patterns import AdaptiveLimiter, current_request, released_slot
from trio_tools.http.wire.client import Answer
from trio_tools.http.wire.errors import Code, HostCoolingDown, Phase

_MAX_REMEMBERED = 10_000
_FIRST_PAUSE_SECONDS = 1.0
# How often more places are asked for where other servers hold them.
_ASK_AGAIN_SECONDS = 0.25

MAX_CLIENTS: Final = 50
"""How many clients of one host are remembered, for a status that shows each its own."""

_LONGEST_PAUSE_SECONDS = 999_999_999


@dataclass(frozen=True, slots=True)
class HostState:
    """One host as `HostLimits.snapshot` shows it.

    Attributes:
        limit: Requests it is given at a time now.
        in_flight: Requests it has now.
        waiting: Requests that wait for it.
        cooling_seconds: Seconds until it is asked again for the client of the current request; 0
            if it is not cooling down.
        clients: Clients that requested it since it came into use, the first `MAX_CLIENTS` of them.
    """

    limit: int
    in_flight: int
    waiting: int
    cooling_seconds: float
    clients: frozenset[str] = field(default=frozenset(), compare=False, repr=False)


class ThrottledError(Exception):
    """A host answered 429 or 503. It stays within the clients, which return its answer in the end.

    Attributes:
        answer: The reply.
        pause: Seconds until the host may be asked again.
        repeatable: Whether the request may be sent again.
    """

    def __init__(self, answer: Answer, pause: float, *, repeatable: bool = True) -> None:
        super().__init__()
        self.answer = answer
        self.pause = pause
        self.repeatable = repeatable


def seconds_to_retry(error: Exception) -> float | Literal["stop"]:
    """Decide, for a `Retry`, whether a request is sent again.

    It is sent at once, since it waits for the end of the pause in its turn, with its slot given to
    others; but not if there is no time for that pause.
    """
    if not (isinstance(error, ThrottledError) and error.repeatable):
        return "stop"
    until = trio.current_time() + error.pause
    return 0.0 if until < trio.current_effective_deadline() else "stop"


class _HalveOrAddOne:
    """Additive increase, multiplicative decrease (Chiu and Jain, 1989).

    Unlike `AIMD`, it also grows while few of the slots are used: it grows back to where it began,
    and a host that has got there again can be forgotten.
    """

    def update(self, limit: float, *, elapsed: float, in_flight: int, dropped: bool) -> float:  # noqa: ARG002 - as `LimitAlgorithm`
        return limit / 2 if dropped else limit + 1


class _Host:
    __slots__ = (
        "clients",
        "cools_until",
        "door",
        "freed",
        "in_flight",
        "limiter",
        "strikes",
        "struck_at",
        "users",
    )

    def __init__(self, limit: int) -> None:
        self.limiter = AdaptiveLimiter(limit, 1, limit, algorithm=_HalveOrAddOne())
        self.clients: set[str] = set()
        # All requests are alike, so slots are counted here: a third of what the limiter would take.
        self.in_flight = 0
        self.users = 0  # in flight or waiting; the host is forgotten only at 0
        self.cools_until: dict[str, float] = {}  # by client: one's refusal is no pause of another's
        self.strikes = 0  # refusals since the last good answer
        self.struck_at = -math.inf
        # Only who holds the door waits for a slot; the others wait for the door, in order. So one
        # task wakes per free slot, and nobody overtakes. When a pause begins all leave the queue.
        self.door: trio.StrictFIFOLock | None = None
        self.freed: trio.Event | None = None

    def cools(self) -> bool:
        """Whether it cools down for the current client."""
        # Nearly none has ever been refused, and then there is no need to look at the clock.
        return bool(self.cools_until) and trio.current_time() < self.end_of_pause()

    def end_of_pause(self) -> float:
        """Return until when it cools down for the current client."""
        return self.cools_until.get(_client_id(), -math.inf)

    def pause(self, now: float, seconds: float) -> float:
        """Let it cool down for the current client; return for how long it does."""
        client = _client_id()
        if client not in self.cools_until and len(self.cools_until) >= MAX_CLIENTS:
            del self.cools_until[min(self.cools_until, key=self.cools_until.__getitem__)]
        until = self.cools_until[client] = max(self.end_of_pause(), now + seconds)
        return until - now

    def in_trouble(self) -> bool:
        paused = bool(self.cools_until) and trio.current_time() < max(self.cools_until.values())
        return paused or self.limiter.total_tokens < self.limiter.maximum

    def take_slot(self) -> bool:
        """Take a slot if there is one."""
        if self.in_flight >= self.limiter.total_tokens:
            return False
        self.in_flight += 1
        return True

    def give_back(self) -> None:
        self.in_flight -= 1
        if self.freed is not None:
            self.freed.set()


def _client_id() -> str:
    request = current_request()
    return "" if request is None else request.client_id


class Places(Protocol):
    """Places of each host that several servers share, as far as this one holds them."""

    def watch(self, usage: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """Let it know how many places of each host are wanted, and how many are in use."""
        ...

    def held(self, name: str) -> int:
        """Return how many places of a host this server may use now."""
        ...

    async def ask(self, name: str) -> None:
        """Ask for as many places of a host as are wanted, once."""
        ...


class HostLimits:
    """The hosts in use and those in trouble.

    Args:
        max_per_host: Most requests in flight to one host.
        max_cooldown_seconds: Longest pause a host can impose, whatever its Retry-After says.
        places: Those of `max_per_host` that this server may use now, where several servers share
            them; None if all are its own.
    """

    def __init__(
        self, *, max_per_host: int, max_cooldown_seconds: float, places: Places | None = None
    ) -> None:
        self._places = places
        if places is not None:
            places.watch(self._usage)
        self._max_per_host = max_per_host
        self._max_cooldown_seconds = max_cooldown_seconds
        self._hosts: dict[str, _Host] = {}

    def enter_at_once(self, name: str) -> bool:
        """Enter as `enter` does if the host may get another request now; False if it may not."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._max_per_host)
        request = current_request()
        if request is not None and len(host.clients) < MAX_CLIENTS:
            host.clients.add(request.client_id)
        if host.door is not None or host.cools() or not self._take_slot(name, host):
            return False
        host.users += 1
        return True

    async def enter(self, name: str) -> None:
        """Wait until the host may get another request. Returns without a checkpoint if it may now.

        Each `enter` that returns is followed by one `leave`. A cancelled wait takes nothing.

        Raises:
            HostCoolingDown: The host cools down past the deadline of the caller's cancel scope, so
                waiting would be in vain.
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
        """Give the slot back."""
        host = self._hosts[name]
        host.give_back()
        self._let_go(name, host)

    def answered_well(self, name: str) -> None:
        """The host, entered, gave an answer other than 429 or 503: give it a little more."""
        host = self._hosts[name]
        host.strikes = 0
        if host.limiter.total_tokens < self._max_per_host:
            host.limiter.record(0.0)  # how long it took is not what the limit depends on

    def refused(self, name: str, *, started: float, retry_after: float | None) -> float:
        """The host, entered, answered 429 or 503: lower its limit, let it cool down.

        Args:
            name: The host.
            started: When the request was sent; one sent before the limit was last
                lowered does not lower it again.
            retry_after: Seconds it asked for; None if it did not say, then 1, 2, 4, ... s.

        Returns:
            Seconds until it may be asked again.
        """
        host = self._hosts[name]
        now = trio.current_time()
        _note_overload(host, started, now)
        if retry_after is None:
            retry_after = _FIRST_PAUSE_SECONDS * 2.0 ** min(host.strikes - 1, 30)
        pause = min(max(retry_after, 0.0), self._max_cooldown_seconds)
        return host.pause(now, pause)

    def timed_out(self, name: str, *, started: float) -> None:
        """The host, entered, did not answer in time: lower its limit."""
        _note_overload(self._hosts[name], started, trio.current_time())

    def cooling_seconds(self, name: str) -> float:
        """Return the seconds until the host may be asked again, 0 if it may be now."""
        host = self._hosts.get(name)
        return max(0.0, host.end_of_pause() - trio.current_time()) if host is not None else 0.0

    def snapshot(self) -> dict[str, HostState]:
        """Return every host in use or in trouble, by name."""
        now = trio.current_time()
        return {
            name: HostState(
                limit=int(host.limiter.total_tokens),
                in_flight=host.in_flight,
                waiting=host.users - host.in_flight,
                cooling_seconds=max(0.0, host.end_of_pause() - now),
                clients=frozenset(host.clients),
            )
            for name, host in self._hosts.items()
        }

    async def _wait_in_line(self, name: str, host: _Host) -> None:
        entered = False
        while not entered:
            while (now := trio.current_time()) < host.end_of_pause():
                self._refuse_vain_wait(name, host, now)
                async with released_slot():  # nothing but time is waited for
                    await trio.sleep_until(host.end_of_pause())
            door = host.door = host.door or trio.StrictFIFOLock()
            async with door:
                while not host.cools() and not (entered := self._take_slot(name, host)):
                    host.freed = trio.Event()
                    await self._wait_for_slot(name, host, host.freed)
            if not door.statistics().tasks_waiting and not door.locked():
                host.door = host.freed = None

    def _take_slot(self, name: str, host: _Host) -> bool:
        if self._places is not None and host.in_flight >= self._places.held(name):
            return False
        return host.take_slot()

    async def _wait_for_slot(self, name: str, host: _Host, freed: trio.Event) -> None:
        """Wait until a slot may be free. Where servers share them, ask for more places first."""
        if self._places is None or host.in_flight >= int(host.limiter.total_tokens):
            await freed.wait()
            return
        await self._places.ask(name)
        if host.in_flight >= self._places.held(name):
            with trio.move_on_after(_ASK_AGAIN_SECONDS):
                await freed.wait()

    def _usage(self) -> dict[str, tuple[int, int]]:
        return {name: (host.users, host.in_flight) for name, host in self._hosts.items()}

    def _refuse_vain_wait(self, name: str, host: _Host, now: float) -> None:
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

    def _let_go(self, name: str, host: _Host) -> None:
        host.users -= 1
        if host.users:
            return
        if not host.in_trouble():
            del self._hosts[name]
        elif len(self._hosts) > _MAX_REMEMBERED:
            oldest = next((n for n, other in self._hosts.items() if not other.users), name)
            del self._hosts[oldest]


def _note_overload(host: _Host, started: float, now: float) -> None:
    """Lower the limit and count a strike, unless the request was sent before the last strike."""
    if started >= host.struck_at:
        host.struck_at = now
        host.strikes += 1
        host.limiter.record(now - started, dropped=True)


def parse_retry_after(value: bytes) -> float | None:
    """Return the seconds that a Retry-After asks for, None if it cannot be read.

    A date in any of the three forms of HTTP is UTC. A number that is too large to be meant is a
    long pause.
    """
    text = value[:100].decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text), _LONGEST_PAUSE_SECONDS))
    try:
        date = email.utils.parsedate_to_datetime(text)
        if date.tzinfo is None:  # the form of asctime names no zone
            date = date.replace(tzinfo=UTC)
        seconds = date.timestamp() - time.time()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(0.0, seconds), float(_LONGEST_PAUSE_SECONDS))
