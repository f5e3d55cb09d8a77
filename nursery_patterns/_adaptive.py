"""A limiter that adapts its capacity to the duration of calls and to refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, final

import trio

from nursery_patterns._arguments import check_count, check_number, check_seconds, check_share
from nursery_patterns._errors import Overloaded
from nursery_patterns._limiter import DelegatingLimiter
from nursery_patterns._outcomes import Status

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from nursery_patterns._outcomes import Outcome

_CALL = "AdaptiveLimiter(initial=10, minimum=1, maximum=100)"

# Least number of calls for one step of an algorithm. Fewer are mostly noise.
_LEAST_SAMPLES = 10

# Number of windows for which the long average is a plain mean, before it is exponential.
_WARM_UP = 10

# Exceptions that mean that the other side is overloaded, not that the call was wrong.
_SIGNS_OF_OVERLOAD = (trio.TooSlowError, TimeoutError, Overloaded)


class LimitAlgorithm(Protocol):
    """Calculates the next limit. Each limiter needs its own, because it may have state."""

    def update(self, limit: float, *, elapsed: float, in_flight: int, dropped: bool) -> float:
        """Return the next limit, which the limiter then keeps within its bounds.

        Called after about as many calls as the limit allows at once, so about once per duration of
        a call; and at once after a dropped call.

        Args:
            limit: The limit now; it need not be a whole number.
            elapsed: Mean seconds of the calls since the last update, or seconds of the dropped
                call.
            in_flight: Most calls in flight since the last update.
            dropped: Whether a call was refused or timed out.
        """
        ...


@final
@dataclass
class AIMD:
    """Additive increase, multiplicative decrease: one more at a time, a share less after a drop.

    Like TCP (Chiu and Jain, 1989), with the constants of `AIMDLimit.java` in Netflix's
    concurrency-limits. It needs drops to find the limit: timeouts or refusals. The limit rises
    until drops begin, falls to `backoff` times that value, and rises again.

    Args:
        backoff: Share of the limit that is left after a drop, at least 0.5 and below 1.
        slow_after: A call that takes longer, in seconds, counts as dropped.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its bounds.
    """

    backoff: float = 0.9
    slow_after: float = 5.0

    def __post_init__(self) -> None:
        check_share("backoff", self.backoff, call="AIMD(backoff=0.9)")
        if not 0.5 <= self.backoff < 1:  # noqa: PLR2004 - the bounds of the source
            raise ValueError(
                f"backoff must be at least 0.5 and below 1, got {self.backoff}: "
                "write AIMD(backoff=0.9)"
            )
        check_seconds("slow_after", self.slow_after, call="AIMD(slow_after=5)")

    def update(self, limit: float, *, elapsed: float, in_flight: int, dropped: bool) -> float:
        """Return the next limit; see `LimitAlgorithm`."""
        if dropped or elapsed > self.slow_after:
            return min(limit - 1, limit * self.backoff)
        return limit + 1 if in_flight * 2 >= limit else limit


@final
@dataclass
class Gradient2:
    """Grow while calls take as long as before, shrink when they slow down.

    The formulas and constants are those of `Gradient2Limit.java` in Netflix's concurrency-limits
    (2018), which compares a short average with a long one. It needs no drops; a drop counts as the
    steepest gradient. If calls slow down permanently, the long average follows, and the limit rises
    to the maximum: choose a maximum that the server survives.

    Args:
        queue_size: Growth of the limit in a step while calls are not slower than before, before
            `smoothing`.
        smoothing: Share of a new limit in the next one, above 0 and at most 1.
        long_window: Number of steps in the long average (int >= 1).
        tolerance: Factor by which calls may be slower than usual before the limit shrinks (>= 1).

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its bounds.
    """

    queue_size: int = 4
    smoothing: float = 0.2
    long_window: int = 600
    tolerance: float = 1.0

    def __post_init__(self) -> None:
        check_count("queue_size", self.queue_size, call="Gradient2(queue_size=4)")
        check_share("smoothing", self.smoothing, call="Gradient2(smoothing=0.2)")
        check_count("long_window", self.long_window, call="Gradient2(long_window=600)")
        check_number("tolerance", self.tolerance, call="Gradient2(tolerance=1.2)", minimum=1)
        self._usual = 0.0  # seconds; 0 before the first step
        self._steps = 0

    def update(self, limit: float, *, elapsed: float, in_flight: int, dropped: bool) -> float:
        """Return the next limit; see `LimitAlgorithm`."""
        if dropped:
            gradient = 0.5
        else:
            self._measure(elapsed)
            if in_flight < limit / 2:
                return limit  # too few calls for an estimate
            slowdown = self.tolerance * self._usual / elapsed if elapsed > 0 else 1.0
            gradient = max(0.5, min(1.0, slowdown))
        wanted = limit * gradient + self.queue_size
        return limit * (1 - self.smoothing) + wanted * self.smoothing

    def _measure(self, elapsed: float) -> None:
        self._steps += 1
        newest = 1 / self._steps if self._steps <= _WARM_UP else 2 / (self.long_window + 1)
        self._usual += (elapsed - self._usual) * newest
        if self._usual > 2 * elapsed:  # it was slow for a long time and has recovered
            self._usual *= 0.95


@final
class AdaptiveLimiter(DelegatingLimiter):
    """A capacity limiter that finds out how many concurrent calls the other side can serve.

    Usage::

        limiter = AdaptiveLimiter(initial=10, minimum=1, maximum=100)

        report = await run_batch(fetch, urls, limit=100, limiter=limiter)

        async with limiter:  # or around one call
            await fetch(url)

    It can be used in place of a `trio.CapacityLimiter`. It learns from the items of batches with
    this `limiter`, from blocks of `async with limiter`, and from `record`. A call is *dropped* if
    it timed out, or if its exception is one of `overload`. Other failures are not counted, because
    they say nothing about the load.

    Calls that waited for the limit before it was last lowered do not lower it again.

    Args:
        initial: The first limit (int, from `minimum` to `maximum`).
        minimum: The lowest limit (int >= 1).
        maximum: The highest limit. Choose one that the other side survives.
        algorithm: `"gradient2"` (from durations), `"aimd"` (from drops), or an object with an
            `update` method such as `AIMD(backoff=0.8)`; each limiter needs its own.
        overload: Exception types of dropped calls. By default `trio.TooSlowError`, `TimeoutError`
            and `Overloaded`.

    Raises:
        TypeError: An argument has the wrong type; the message has the corrected call.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        initial: int = 10,
        minimum: int = 1,
        maximum: int = 100,
        *,
        algorithm: Literal["gradient2", "aimd"] | LimitAlgorithm = "gradient2",
        overload: tuple[type[Exception], ...] = _SIGNS_OF_OVERLOAD,
    ) -> None:
        check_count("minimum", minimum, call=_CALL)
        check_count("maximum", maximum, call=_CALL, minimum=minimum)
        check_count("initial", initial, call=_CALL, minimum=minimum)
        if initial > maximum:
            raise ValueError(
                f"initial must be at most the maximum {maximum}, got {initial}: write {_CALL}"
            )
        super().__init__(initial)
        self.minimum = minimum
        self.maximum = maximum
        self._algorithm = _algorithm_of(algorithm)
        self._overload = overload
        self._limit = float(initial)  # invariant: minimum <= _limit <= maximum
        self._changed_at = -math.inf
        self._started: dict[trio.lowlevel.Task, float] = {}
        self._begin_window()

    def __repr__(self) -> str:
        return (
            f"<AdaptiveLimiter {self._limit:.1f} of {self.minimum} to {self.maximum}, "
            f"{self.borrowed_tokens} in use>"
        )

    @property
    def total_tokens(self) -> float:
        """The current limit. An assignment continues from that value; 0 pauses.

        While it is paused it learns nothing; assign a limit to continue.
        """
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        if value != 0 and not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"the limit must be 0, or from {self.minimum} to {self.maximum}, got {value}: "
                "write limiter.total_tokens = 10"
            )
        self._limiter.total_tokens = value
        self._limit = float(value) or self._limit
        self._begin_window()

    def record(self, elapsed: float, *, dropped: bool = False) -> None:
        """Learn from a call that has ended. Call it before its token is released.

        Args:
            elapsed: Seconds that the call took.
            dropped: Whether the call timed out or was refused because of the load.

        Raises:
            TypeError: `elapsed` is not a number.
            ValueError: `elapsed` is negative or NaN.
        """
        check_seconds("elapsed", elapsed, call="limiter.record(0.25)", zero=True)
        self._busiest = max(self._busiest, self.borrowed_tokens)
        if dropped:
            if trio.current_time() - elapsed >= self._changed_at:
                self._update(elapsed, dropped=True)
            return
        self._samples += 1
        self._seconds += elapsed
        if self._samples >= max(_LEAST_SAMPLES, self._limit):
            self._update(self._seconds / self._samples, dropped=False)

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Learn from an item of a batch. The batch calls it."""
        dropped = outcome.status is Status.TIMED_OUT or isinstance(outcome.error, self._overload)
        if dropped or outcome.error is None:
            self.record(outcome.elapsed, dropped=dropped)

    async def acquire(self) -> None:
        """Wait for a token in the name of the current task, first come, first served."""
        await super().acquire()
        self._started[trio.lowlevel.current_task()] = trio.current_time()

    def release(self) -> None:
        """Give back the token of the current task."""
        self._started.pop(trio.lowlevel.current_task(), None)
        super().release()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Learn from the block, and release the token."""
        dropped = isinstance(exc, self._overload)
        started = self._started[trio.lowlevel.current_task()]
        try:
            if exc is None or dropped:
                self.record(trio.current_time() - started, dropped=dropped)
        finally:
            self.release()

    def _update(self, elapsed: float, *, dropped: bool) -> None:
        if self._limiter.total_tokens == 0:
            return
        limit = self._algorithm.update(
            self._limit, elapsed=elapsed, in_flight=self._busiest, dropped=dropped
        )
        if not math.isfinite(limit):
            raise ValueError(f"{self._algorithm!r} returned {limit} for a limit")
        if limit < self._limit:
            self._changed_at = trio.current_time()
        self._limit = min(max(limit, self.minimum), self.maximum)
        self._limiter.total_tokens = int(self._limit)
        self._begin_window()

    def _begin_window(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._busiest = 0


def _algorithm_of(algorithm: str | LimitAlgorithm) -> LimitAlgorithm:
    if algorithm == "gradient2":
        return Gradient2()
    if algorithm == "aimd":
        return AIMD()
    if isinstance(algorithm, str) or not callable(getattr(algorithm, "update", None)):
        raise ValueError(  # noqa: TRY004 - a text that is none of the two is the usual mistake
            f"algorithm must be 'gradient2', 'aimd' or an object with an update method, got "
            f"{algorithm!r}: write AdaptiveLimiter(10, 1, 100, algorithm='aimd')"
        )
    return algorithm
