"""Limits of external services that several replicas share.

A task of the server sends the heart-beats. Every access to the database is one call in a thread
with a timeout. While the database is unavailable, each replica continues with its share of every
limit: the limit divided by the number of replicas at the last count. So the limit holds unless
more replicas are started meanwhile.

Requests that a suspended replica had in flight continue when it resumes; this cannot be
prevented.
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
"""Seconds between heart-beats, at which a replica also reports the tokens it holds."""

_TRIP_SECONDS = 1.0
# Number of limits per heart-beat. Each takes four statements. A waiting task requests tokens
# itself.
_SETTLED_A_BEAT = 50
_BLOCK_SECONDS = 0.5  # seconds of a rate that are taken at a time
_MOST_TOKENS = 20
# A token that was not used for this long after it was due is dropped.
_KEEP_SECONDS = 1.0

_T = TypeVar("_T")
_log = logging.getLogger("trio_tools")


class Store(Protocol):
    """The interface that `SharedLimits` needs of `SharedStore`, which documents it."""

    def take(self, name: str, rate: float, burst: int, tokens: int) -> float:
        """Take tokens of a bucket."""
        ...

    def beat(self, wanted: Mapping[str, Wanted], unused: Sequence[str] = ()) -> Beat:
        """Go on counting."""
        ...

    def hold(self, name: str, wanted: Wanted) -> int:
        """Update the number of tokens of one limit that this replica holds."""
        ...

    def end(self) -> None:
        """Have a call that is under way close when it returns."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


Usage = Callable[[], dict[str, tuple[int, int]]]
"""Returns for each limit the number of tokens that could be used, and that are used."""


class SharedLimits:
    """The limits that this replica shares with others.

    Args:
        store: The tables, or the URL of their database.
        replicas: Assumed number of replicas before the first count.

    Attributes:
        trouble: Why each replica uses only its share now; empty if limits are shared.
        replicas: Number of replicas at the latest count.
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
        """Return the bucket of that name, which all replicas share."""
        made = self._buckets.get(name)
        if made is None or (made.rate, made.burst) != (rate, burst):
            made = self._buckets[name] = SharedBucket(self, name, rate, burst)
        return made

    def places(self, kind: str, capacity: int) -> SharedPlaces:
        """Return the limits of one kind, each with so many tokens over all replicas."""
        made = self._places[kind] = SharedPlaces(self, kind, capacity)
        return made

    def status(self) -> dict[str, Any]:
        """Return whether limits are shared now, with how many servers, and the reason if not."""
        return {
            "shared": not self.trouble,
            "replicas": self.replicas,
            "trouble": self.trouble or None,
        }

    def warning(self) -> str:
        """Return the warning for callers while limits are not shared; empty while they are."""
        if not self.trouble:
            return ""
        return (
            f"This server keeps to its share of the limits of APIs, upstreams and hosts, 1/"
            f"{self.replicas} of each, as it cannot share them now: {self.trouble}."
        )

    async def run(self) -> None:
        """Send heart-beats until cancelled, and then release everything."""
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
        """Access the database once. Return None if that failed; then the share applies."""
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
        """Take tokens of a bucket. See `SharedStore.take`; None if the share applies."""
        if self.trouble:  # the next successful heart-beat ends it
            return None
        name, rate, burst = bucket.name, bucket.rate, bucket.burst
        return await self.trip(lambda: self._store.take(name, rate, burst, tokens))

    async def hold(self, name: str, wanted: Wanted) -> int | None:
        """Update the tokens of one limit that this replica holds; None if the share applies."""
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
        """Drop all tokens that were granted before: other replicas may have them now."""
        _log.info(
            "this server was disconnected for so long that its part of the limits has expired"
        )
        for bucket in self._buckets.values():
            bucket.drop()
        for places in self._places.values():
            places.drop()


class SharedBucket:
    """A token bucket that several replicas share. First come, first served among local tasks.

    Over all replicas, in any span of t seconds, at most `burst + rate * t` tokens are due. Each
    replica may use a token at most one second late.

    Args:
        limits: Accesses the database.
        name: The name of the bucket.
        rate: Tokens per second, over all replicas.
        burst: Limit of saved tokens.
    """

    def __init__(self, limits: SharedLimits, name: str, rate: float, burst: int) -> None:
        self.name = name
        self.rate = rate
        self.burst = burst
        self._limits = limits
        self._queue = trio.StrictFIFOLock()
        # The times at which the held tokens are due, the next one first.
        self._due: deque[float] = deque()
        self._share = TokenBucket(rate, burst)

    def drop(self) -> None:
        """Drop the held tokens."""
        self._due.clear()

    def statistics(self) -> TokenBucketStatistics:
        """The current state of the bucket. Its tokens are the held ones that are due."""
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
            waiting: Number of further tokens that are needed soon.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._drop_old()
            if not self._due and not await self._take(1 + waiting):
                await self._share_is_due()
                return
            if not self._due:
                continue  # the granted tokens are already void
            await trio.sleep_until(self._due[0])
            if self._due:
                return

    async def acquire(self) -> float:
        """Take a token, first come, first served; return the seconds waited.

        If cancelled while it waits, it takes nothing.
        """
        arrived = trio.current_time()
        async with self._queue:
            await self.take()
        return trio.current_time() - arrived

    async def take(self) -> None:
        """Take a token: at once after `ready`, unless it became void. For one task at a time."""
        await self.ready(self._queue.statistics().tasks_waiting)
        if self._due:
            self._due.popleft()
        else:
            await self._own_share().acquire()

    async def _take(self, tokens: int) -> bool:
        # More than the burst too: the tokens above it are due in the future.
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
    """Limits of one kind over all replicas, such as the requests to each host.

    A replica holds a number of tokens of each limit that it uses, and requests more when it needs
    them. With each heart-beat it releases unused tokens, and those above its fair share if others
    need some.

    Args:
        limits: Accesses the database.
        kind: Prefix of the name of each limit.
        capacity: Tokens of each limit over all replicas.
    """

    def __init__(self, limits: SharedLimits, kind: str, capacity: int) -> None:
        self._limits = limits
        self._kind = kind
        self._capacity = capacity
        self._held: dict[str, int] = {}
        self._usage: Usage = dict
        # The limit in use that is updated next.
        self._next = 0

    def watch(self, usage: Usage) -> None:
        """Set the function that returns, by name, how many tokens could be used and are used."""
        self._usage = usage

    def held(self, name: str) -> int:
        """Return how many tokens of a limit this replica may use now."""
        if self._limits.trouble:
            return max(1, self._capacity // self._limits.replicas)
        return self._held.get(name, 0)

    async def ask(self, name: str) -> None:
        """Request once the tokens of a limit that could be used."""
        wanted = self._wanted(name, *self._usage().get(name, (0, 0)))
        held = await self._limits.hold(self._full(name), wanted)
        if held is not None:
            self._held[name] = held

    def unused(self) -> list[str]:
        """Return the full names of limits without a used token, and drop their tokens."""
        usage = self._usage()
        unused = [name for name in self._held if not any(usage.get(name, ()))]
        for name in unused:
            del self._held[name]
        return [self._full(name) for name in unused]

    def wanted(self, most: int) -> dict[str, Wanted]:
        """Return the demand for some limits in use, each time for the next ones."""
        usage = list(self._usage().items())
        start = self._next if self._next < len(usage) else 0
        self._next = start + max(1, most)
        return {
            self._full(name): self._wanted(name, *users)
            for name, users in usage[start : self._next]
        }

    def settled(self, held: Any) -> None:
        """Store how many tokens this replica holds of the updated limits, by full name."""
        prefix = self._full("")
        self._held |= {
            name.removeprefix(prefix): places
            for name, places in held.items()
            if name.startswith(prefix)
        }

    def drop(self) -> None:
        """Drop all granted tokens."""
        self._held.clear()

    def _wanted(self, name: str, users: int, in_use: int) -> Wanted:
        """Return the demand, and use no more tokens than now until it is granted."""
        from trio_tools.database.shared_store import Wanted  # noqa: PLC0415 - an extra

        self._held[name] = min(self._held.get(name, 0), in_use)
        return Wanted(self._capacity, min(users, self._capacity), in_use)

    def _full(self, name: str) -> str:
        return f"{self._kind}:{name}"
