"""Limits of what is outside, which several replicas keep to together.

A task of the server has the heart beat, and every trip to the database is one call in a thread,
with a bound on its time. While the database is away, each replica goes on with its share of every
limit: the limit divided by how many replicas there were when they were last counted. So the limit
holds, as long as no more replicas are started meanwhile.

What a replica that stood still had in flight goes on when it wakes up: nobody can take that back.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from nursery_patterns import TokenBucket, TokenBucketStatistics, run_in_thread

if TYPE_CHECKING:
    from trio_tools.database.shared_store import Beat, Wanted

BEAT_SECONDS: Final = 0.5
"""How often a replica says that it lives, and settles what it holds."""

_TRIP_SECONDS = 1.0
# Each costs four trips to the database. Who waits for places asks for them by itself.
_SETTLED_A_BEAT = 50
_BLOCK_SECONDS = 0.5  # of a rate are taken at a time
_MOST_TOKENS = 20
# A token that nobody has used so long after it was due is gone.
_KEEP_SECONDS = 1.0

_T = TypeVar("_T")
_log = logging.getLogger("trio_tools")


class Store(Protocol):
    """What `SharedLimits` asks of `SharedStore`, whose documentation holds."""

    def take(self, name: str, rate: float, burst: int, tokens: int) -> float:
        """Take tokens of a bucket."""
        ...

    def beat(self, wanted: Mapping[str, Wanted], unused: Sequence[str] = ()) -> Beat:
        """Go on counting."""
        ...

    def hold(self, name: str, wanted: Wanted) -> int:
        """Settle how many places of one limit this replica holds."""
        ...

    def end(self) -> None:
        """Have a call that is under way close when it returns."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


Usage = Callable[[], dict[str, tuple[int, int]]]
"""Returns for each limit how many places could be used, and how many are."""


class SharedLimits:
    """The limits that this replica shares with others.

    Args:
        store: The tables, or the URL of their database.
        replicas: How many replicas there are taken to be before they were counted.

    Attributes:
        trouble: Why each replica keeps to its share now; empty if limits are shared.
        replicas: How many replicas there are, as counted last.
    """

    def __init__(self, store: Store | str, *, replicas: int = 1) -> None:
        self.trouble = ""
        self.replicas = replicas
        if isinstance(store, str):
            from trio_tools.database.shared_store import SharedStore  # noqa: PLC0415 - an extra

            store = SharedStore(store)
        self._store: Store = store
        self._thread = trio.CapacityLimiter(1)
        self._buckets: dict[str, SharedBucket] = {}
        self._places: dict[str, SharedPlaces] = {}

    def bucket(self, name: str, rate: float, burst: int) -> SharedBucket:
        """Return the bucket of that name, of which all replicas take."""
        made = self._buckets.get(name)
        if made is None or (made.rate, made.burst) != (rate, burst):
            made = self._buckets[name] = SharedBucket(self, name, rate, burst)
        return made

    def places(self, kind: str, capacity: int) -> SharedPlaces:
        """Return the places of limits of one kind, each with so many places over all replicas."""
        made = self._places[kind] = SharedPlaces(self, kind, capacity)
        return made

    def status(self) -> dict[str, Any]:
        """Return whether limits are shared now, with how many servers, and why they are not."""
        return {
            "shared": not self.trouble,
            "replicas": self.replicas,
            "trouble": self.trouble or None,
        }

    def warning(self) -> str:
        """Return what callers are told while limits are not shared; empty while they are."""
        if not self.trouble:
            return ""
        return (
            f"This server keeps to its share of the limits of APIs, upstreams and hosts, 1/"
            f"{self.replicas} of each, as it cannot share them now: {self.trouble}."
        )

    async def run(self) -> None:
        """Have the heart beat until cancelled, and give everything back then."""
        try:
            while True:
                kinds = list(self._places.values())
                unused = [name for places in kinds for name in places.unused()]
                wanted: dict[str, Wanted] = {}
                for places in kinds:
                    wanted |= places.wanted(_SETTLED_A_BEAT // len(kinds))
                beat = await self.trip(partial(self._store.beat, wanted, unused))
                if beat is not None:
                    self.replicas = max(1, beat.replicas)
                    for places in self._places.values():
                        places.settled(beat.held)
                await trio.sleep(BEAT_SECONDS)
        finally:
            self._store.end()  # an abandoned thread may hold the only place for longer than this
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _TRIP_SECONDS / 4):
                await run_in_thread(self._store.close, limiter=self._thread, abandon_on_cancel=True)

    async def trip(self, work: Callable[[], _T]) -> _T | None:
        """Go to the database once. None if that failed: then the share holds."""
        from trio_tools.database.shared_store import (  # noqa: PLC0415 - an extra
            FencedError,
            SharedStoreError,
        )

        words = "the PostgreSQL database of state.url does not answer in time"
        with trio.move_on_after(_TRIP_SECONDS):
            try:
                result = await run_in_thread(work, limiter=self._thread, abandon_on_cancel=True)
            except FencedError:
                self._begin_anew()
                return None
            except SharedStoreError as error:
                words = str(error)
            else:
                self._note("")
                return result
        self._note(words)
        return None

    async def take(self, bucket: SharedBucket, tokens: int) -> float | None:
        """Take tokens of a bucket. See `SharedStore.take`; None if the share holds."""
        if self.trouble:  # the next heart-beat that succeeds ends it
            return None
        name, rate, burst = bucket.name, bucket.rate, bucket.burst
        return await self.trip(lambda: self._store.take(name, rate, burst, tokens))

    async def hold(self, name: str, wanted: Wanted) -> int | None:
        """Settle how many places of one limit this replica holds; None if the share holds."""
        if self.trouble:
            return None
        return await self.trip(lambda: self._store.hold(name, wanted))

    def _note(self, trouble: str) -> None:
        if trouble and not self.trouble:
            _log.warning(
                "limits are not shared now, this server keeps to 1/%d of each: %s",
                self.replicas,
                trouble,
            )
        elif self.trouble and not trouble:
            _log.warning("limits are shared again, with %d servers", self.replicas)
        self.trouble = trouble

    def _begin_anew(self) -> None:
        """Use nothing more of what was given before: others may have it now."""
        _log.info("this server was cut off for so long that its part of the limits is void")
        for bucket in self._buckets.values():
            bucket.drop()
        for places in self._places.values():
            places.drop()


class SharedBucket:
    """A token bucket of several replicas. First come, first served among the tasks of each.

    Over all replicas, in any span of t seconds, at most `burst + rate * t` tokens are due; each
    replica may use one a second late at most.

    Args:
        limits: Goes to the database.
        name: Of the bucket.
        rate: Tokens a second, over all replicas.
        burst: Most tokens that can be saved up.
    """

    def __init__(self, limits: SharedLimits, name: str, rate: float, burst: int) -> None:
        self.name = name
        self.rate = rate
        self.burst = burst
        self._limits = limits
        self._queue = trio.StrictFIFOLock()
        # When each token in hand is due, the next one first.
        self._due: deque[float] = deque()
        self._share = TokenBucket(rate, burst)

    def drop(self) -> None:
        """Use no token in hand any more."""
        self._due.clear()

    def statistics(self) -> TokenBucketStatistics:
        """The bucket at this instant. Its tokens are those in hand that are due."""
        now, queue = trio.current_time(), self._queue.statistics()
        if self._limits.trouble:
            return self._own_share().statistics()
        return TokenBucketStatistics(
            rate=self.rate,
            capacity=self.burst,
            tokens=sum(due <= now for due in self._due),
            waiting=queue.locked + queue.tasks_waiting,
        )

    async def ready(self, waiting: int = 0) -> None:
        """Wait until a token can be taken at once. For one task at a time.

        Args:
            waiting: How many more tokens are wanted soon.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._drop_old()
            if not self._due and not await self._take(1 + waiting):
                await self._share_is_due()
                return
            if not self._due:
                continue  # what was given is void already
            await trio.sleep_until(self._due[0])
            if self._due:
                return

    async def acquire(self) -> float:
        """Take a token, after all who came before; return the seconds waited.

        Cancelled while it waits, it takes nothing.
        """
        arrived = trio.current_time()
        async with self._queue:
            await self.take()
        return trio.current_time() - arrived

    async def take(self) -> None:
        """Take a token: at once after `ready`, unless it is void by now. For one task at a time."""
        await self.ready(self._queue.statistics().tasks_waiting)
        if self._due:
            self._due.popleft()
        else:
            await self._own_share().acquire()

    async def _take(self, tokens: int) -> bool:
        # More than the burst, too: those above it are due in the future.
        most = min(_MOST_TOKENS, max(1, math.ceil(self.rate * _BLOCK_SECONDS)))
        tokens = min(tokens, most)
        first = await self._limits.take(self, tokens)
        if first is None:
            return False
        now = trio.current_time()
        self._due.extend(now + first + number / self.rate for number in range(1, tokens + 1))
        return True

    def _drop_old(self) -> None:
        oldest = trio.current_time() - max(_KEEP_SECONDS, self.burst / self.rate)
        while self._due and self._due[0] < oldest:
            self._due.popleft()

    def _own_share(self) -> TokenBucket:
        replicas = self._limits.replicas
        rate, burst = self.rate / replicas, max(1, self.burst // replicas)
        if (self._share.rate, self._share.capacity) != (rate, burst):
            self._share = TokenBucket(rate, burst)
        return self._share

    async def _share_is_due(self) -> None:
        """Wait until a token of this replica's share can be taken."""
        held = self._own_share().statistics()
        await trio.sleep((1 - min(held.tokens, 1)) / held.rate)


class SharedPlaces:
    """Places of limits of one kind, such as the requests to each host, over all replicas.

    A replica holds a number of places of each limit that it uses, and asks for more when it needs
    them. With each heart-beat it gives back what it does not use, and what is above its fair share
    if others want some.

    Args:
        limits: Goes to the database.
        kind: Stands before the name of each limit.
        capacity: Places of each limit over all replicas.
    """

    def __init__(self, limits: SharedLimits, kind: str, capacity: int) -> None:
        self._limits = limits
        self._kind = kind
        self._capacity = capacity
        self._held: dict[str, int] = {}
        self._usage: Usage = dict
        # Which of the limits in use is to be settled next.
        self._next = 0

    def watch(self, usage: Usage) -> None:
        """Let it know, by name, how many places could be used, and how many are."""
        self._usage = usage

    def held(self, name: str) -> int:
        """Return how many places of a limit this replica may use now."""
        if self._limits.trouble:
            return max(1, self._capacity // self._limits.replicas)
        return self._held.get(name, 0)

    async def ask(self, name: str) -> None:
        """Ask for the places of a limit that could be used, once."""
        wanted = self._wanted(name, *self._usage().get(name, (0, 0)))
        held = await self._limits.hold(self._full(name), wanted)
        if held is not None:
            self._held[name] = held

    def unused(self) -> list[str]:
        """Return the limits of which no place is used any more, by full name; use none of them."""
        usage = self._usage()
        unused = [name for name in self._held if not any(usage.get(name, ()))]
        for name in unused:
            del self._held[name]
        return [self._full(name) for name in unused]

    def wanted(self, most: int) -> dict[str, Wanted]:
        """Return what is wanted of some limits in use, each time of the next ones."""
        usage = list(self._usage().items())
        start = self._next if self._next < len(usage) else 0
        self._next = start + max(1, most)
        return {
            self._full(name): self._wanted(name, *users)
            for name, users in usage[start : self._next]
        }

    def settled(self, held: Any) -> None:
        """Take note of what this replica holds of limits that were settled, by full name."""
        prefix = self._full("")
        self._held |= {
            name.removeprefix(prefix): places
            for name, places in held.items()
            if name.startswith(prefix)
        }

    def drop(self) -> None:
        """Use none of the places that were given."""
        self._held.clear()

    def _wanted(self, name: str, users: int, in_use: int) -> Wanted:
        """Return what is wanted, and use no more than now until that is settled."""
        from trio_tools.database.shared_store import Wanted  # noqa: PLC0415 - an extra

        self._held[name] = min(self._held.get(name, 0), in_use)
        return Wanted(self._capacity, min(users, self._capacity), in_use)

    def _full(self, name: str) -> str:
        return f"{self._kind}:{name}"
