"""Named capacity limiters, resized and looked at while they are in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import trio

from nursery_patterns._arguments import check_count, check_instance

if TYPE_CHECKING:
    from types import TracebackType

_CALL = 'Limits({"fetch": 10}, default=10)'


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """One limiter at one moment.

    Attributes:
        capacity: Most holders at once; 0 means paused, `math.inf` no bound.
        in_use: Holders now. May exceed `capacity` for a while after it was lowered.
        waiting: Tasks in line.
        started: Holders there ever were.
        finished: Of those, how many gave their place back.
        peak: Most holders there ever were at once.
    """

    capacity: float
    in_use: int
    waiting: int
    started: int
    finished: int
    peak: int


class _CountedLimiter:
    """A `trio.CapacityLimiter` that counts. It delegates, since trio's class is final.

    It says it is a CapacityLimiter, so that `isinstance` checks of trio's users hold.

    Invariant: whoever got a place holds it now or has given it back, so `started` need not be
    counted. And the number in use falls only at a release, so the peak is seen just before one.
    """

    def __init__(self, total_tokens: int) -> None:
        self._limiter = trio.CapacityLimiter(total_tokens)
        self._finished = 0
        self._peak = 0

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return trio.CapacityLimiter

    def __repr__(self) -> str:
        return repr(self._limiter)

    @property
    def total_tokens(self) -> float:
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        self._limiter.total_tokens = value

    @property
    def borrowed_tokens(self) -> int:
        return self._limiter.borrowed_tokens

    @property
    def available_tokens(self) -> float:
        return self._limiter.available_tokens

    def statistics(self) -> Any:
        return self._limiter.statistics()

    def acquire_nowait(self) -> None:
        self._limiter.acquire_nowait()

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        self._limiter.acquire_on_behalf_of_nowait(borrower)

    async def acquire(self) -> None:
        await self._limiter.acquire()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)

    def release(self) -> None:
        self.release_on_behalf_of(trio.lowlevel.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        in_use = self._limiter.borrowed_tokens
        self._limiter.release_on_behalf_of(borrower)
        self._finished += 1
        self._peak = max(self._peak, in_use)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def snapshot(self) -> LimitSnapshot:
        now = self._limiter.statistics()
        return LimitSnapshot(
            capacity=now.total_tokens,
            in_use=now.borrowed_tokens,
            waiting=now.tasks_waiting,
            started=self._finished + now.borrowed_tokens,
            finished=self._finished,
            peak=max(self._peak, now.borrowed_tokens),
        )


class Limits(Mapping[str, trio.CapacityLimiter]):
    """Capacity limiters by name, made when first asked for.

    Usage::

        limits = Limits({"fetch_urls": 10, "query_database": 5}, default=10)
        async with limits["fetch_urls"]:
            ...
        report = await run_batch(fetch, urls, limiter=limits["fetch_urls"])

    Iterating gives the names there are so far; asking for any other makes it with `default`.

    Args:
        capacities: Most holders at once, per name (int >= 1).
        default: Capacity of a name that is not among them; None makes such a name a `KeyError`.

    Raises:
        TypeError: No mapping, or a capacity is not a whole number.
        ValueError: A capacity is below 1.
    """

    def __init__(
        self, capacities: Mapping[str, int] | None = None, *, default: int | None = 10
    ) -> None:
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

    def resize(self, name: str, capacity: int) -> None:
        """Change a capacity (int >= 0) while it is in use; 0 pauses.

        More takes effect at once for those in line. Less lets the present holders finish.

        Raises:
            KeyError: Nothing has that name and there is no default.
            TypeError: `capacity` is not a whole number.
            ValueError: `capacity` is negative.
        """
        check_count("capacity", capacity, call='limits.resize("fetch", 10)', minimum=0)
        self[name].total_tokens = capacity

    def snapshot(self) -> dict[str, LimitSnapshot]:
        """Look at every limiter there is, by name."""
        return {name: limiter.snapshot() for name, limiter in self._limiters.items()}
