"""Named capacity limiters that can be resized and inspected while in use."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import cast, final

import trio

from nursery_patterns._admission import Admission
from nursery_patterns._arguments import check_count, check_instance, check_seconds
from nursery_patterns._limiter import DelegatingLimiter

_CALL = 'Limits({"fetch": 10}, default=10)'


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """The state of one limiter at one moment.

    Attributes:
        capacity: Most holders at once; 0 means paused, `math.inf` no bound.
        in_use: Holders now. It may exceed `capacity` for some time after that was lowered.
        waiting: Tasks in the queue.
        started: Holders so far, including those of now.
        finished: Holders so far that have released their token.
        peak: Most holders at once so far.
    """

    capacity: float
    in_use: int
    waiting: int
    started: int
    finished: int
    peak: int


@final
class _CountedLimiter(DelegatingLimiter):
    """A limiter that counts its holders.

    Invariant: each holder either holds its token now or has released it, so `started` need not be
    counted. The number in use falls only at a release, so reading the peak before each release is
    enough.
    """

    def __init__(self, total_tokens: int) -> None:
        super().__init__(total_tokens)
        self._finished = 0
        self._peak = 0

    def __repr__(self) -> str:
        return repr(self._limiter)

    def release_on_behalf_of(self, borrower: object) -> None:
        in_use = self.borrowed_tokens
        super().release_on_behalf_of(borrower)
        self._finished += 1
        self._peak = max(self._peak, in_use)

    def snapshot(self) -> LimitSnapshot:
        now = self.statistics()
        return LimitSnapshot(
            capacity=now.total_tokens,
            in_use=now.borrowed_tokens,
            waiting=now.tasks_waiting,
            started=self._finished + now.borrowed_tokens,
            finished=self._finished,
            peak=max(self._peak, now.borrowed_tokens),
        )


class Limits(Mapping[str, trio.CapacityLimiter]):
    """Capacity limiters by name, made at their first use.

    Usage::

        limits = Limits({"fetch_urls": 10, "query_database": 5}, default=10)
        async with limits["fetch_urls"]:
            ...
        report = await run_batch(fetch, urls, limiter=limits["fetch_urls"])

        async with limits.slot("fetch_urls", key=client_id, priority=1):  # fair between clients
            ...

    Iterating yields the names so far. `limits[name]` makes a new name with `default`.

    Args:
        capacities: Most holders at once, per name (int >= 1).
        default: Capacity of any other name; with None, another name is a `KeyError`.
        ageing: Seconds of waiting in `slot` that count as one step of priority.

    Raises:
        TypeError: `capacities` is not a mapping, or a capacity is not a whole number.
        ValueError: A capacity is below 1.
    """

    def __init__(
        self,
        capacities: Mapping[str, int] | None = None,
        *,
        default: int | None = 10,
        ageing: float = 10.0,
    ) -> None:
        self._ageing = check_seconds("ageing", ageing, call="Limits(ageing=10)")
        self._admissions: dict[str, Admission] = {}
        if default is not None:
            check_count("default", default, call=_CALL)
        self._default = default
        self._limiters: dict[str, _CountedLimiter] = {}
        if capacities is not None:
            check_instance("capacities", capacities, Mapping, call=_CALL)
        for name, capacity in (capacities or {}).items():
            check_count(f"the capacity of {name!r}", capacity, call=_CALL)
            self._limiters[name] = _CountedLimiter(capacity)

    def __getitem__(self, name: str) -> trio.CapacityLimiter:
        if name not in self._limiters:
            if self._default is None:
                known = ", ".join(self._limiters) or "none"
                raise KeyError(f"no limit is named {name!r}; there are: {known}")
            self._limiters[name] = _CountedLimiter(self._default)
        return cast("trio.CapacityLimiter", self._limiters[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._limiters)

    def __len__(self) -> int:
        return len(self._limiters)

    def __contains__(self, name: object) -> bool:
        return name in self._limiters

    @asynccontextmanager
    async def slot(
        self, name: str, *, key: Hashable = None, weight: float = 1.0, priority: float = 0
    ) -> AsyncGenerator[None]:
        """Hold a token of the limit `name`: by priority, and between keys by weight.

        Like `Admission.slot`, with an unlimited queue. Direct users of `limits[name]` are served
        first in, first out together with the front of that queue.

        Args:
            name: Of the limit.
            key: The limit is fair between keys, such as client ids.
            weight: The key's share.
            priority: Lower numbers are served first.

        Raises:
            KeyError: No limit has that name, and there is no default.
            RuntimeError: This task already holds a token, and would wait for itself.
            TypeError: `key` cannot be hashed, or `weight` or `priority` is not a number.
            ValueError: `weight` is not above 0, or one of the two is NaN or infinite.
        """
        if name not in self._admissions:
            limiter = self[name]
            self._admissions[name] = Admission(limiter, sys.maxsize, ageing=self._ageing)
        async with self._admissions[name].slot(key, weight=weight, priority=priority):
            yield

    def resize(self, name: str, capacity: int) -> None:
        """Change a capacity (int >= 0) while it is in use; 0 pauses.

        A higher capacity takes effect at once for waiting tasks. With a lower one the present
        holders finish.

        Raises:
            KeyError: No limit has that name, and there is no default.
            TypeError: `capacity` is not a whole number.
            ValueError: `capacity` is negative.
        """
        check_count("capacity", capacity, call='limits.resize("fetch", 10)', minimum=0)
        self[name].total_tokens = capacity

    def snapshot(self) -> dict[str, LimitSnapshot]:
        """Return the state of every limiter, by name."""
        return {name: self._snapshot(name) for name in self._limiters}

    def _snapshot(self, name: str) -> LimitSnapshot:
        now = self._limiters[name].snapshot()
        fair = self._admissions.get(name)
        # The front of a fair queue waits in the limiter's own queue and is counted there.
        return now if fair is None else replace(now, waiting=now.waiting + fair.queued)
