"""A second attempt when the first one is late; the first success wins."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, final

import trio

from nursery_patterns._arguments import (
    check_async_function,
    check_count,
    check_seconds,
    check_share,
    name_of,
)

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_CALL = "await hedged({fn}, argument, delay=0.5)"

# Number of durations for the percentile. Old ones say little about a server's present state.
_KEPT = 256
# With fewer durations a percentile says little.
_ENOUGH = 20
# Attempts that can be saved up, so that a quiet hour does not allow a burst.
_MOST_SAVED = 10.0


@dataclass(frozen=True, slots=True)
class HedgeStatistics:
    """A `HedgePolicy` at one instant.

    Attributes:
        delay: Seconds after which an attempt currently counts as late.
        calls: Calls that were made with the policy.
        hedges: Further attempts that were started.
        refused: Further attempts that the budget did not allow.
        won: Calls whose first success came from a further attempt.
    """

    delay: float
    calls: int
    hedges: int
    refused: int
    won: int


@final
class HedgePolicy:
    """When an attempt is late, and how many further attempts are allowed; shared by many calls.

    Usage::

        policy = HedgePolicy(budget=0.05)
        answer = await hedged(fetch, url, delay=policy)

    An attempt is late if it takes longer than the `percentile` of the last 256 successful calls
    (Dean and Barroso, The Tail at Scale, 2013). Until 20 of them are known, it is late after
    `initial` seconds. On average there are at most `budget` further attempts per call, of which at
    most 10 are saved up.

    Args:
        delay: Fixed number of seconds; None for the percentile.
        percentile: Share of calls that are not late, above 0 and below 1.
        initial: Seconds before enough calls are known.
        budget: Most further attempts per call on average, above 0 and at most 1.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        delay: float | None = None,
        *,
        percentile: float = 0.95,
        initial: float = 1.0,
        budget: float = 0.1,
    ) -> None:
        if delay is not None:
            delay = check_seconds("delay", delay, call="HedgePolicy(delay=0.5)")
        self._fixed = delay
        self._percentile = check_share(
            "percentile", percentile, call="HedgePolicy(percentile=0.95)"
        )
        if self._percentile == 1:
            raise ValueError(
                "percentile must be below 1, got 1: write HedgePolicy(percentile=0.95)"
            )
        self._initial = check_seconds("initial", initial, call="HedgePolicy(initial=1.0)")
        self._budget = check_share("budget", budget, call="HedgePolicy(budget=0.1)")
        self._durations: deque[float] = deque(maxlen=_KEPT)
        self._saved = 1.0  # invariant: 0 <= _saved <= _MOST_SAVED
        self._calls = self._hedges = self._refused = self._won = 0

    def __repr__(self) -> str:
        return f"<HedgePolicy: late after {self.delay:.3g} s, {self._hedges} of {self._calls}>"

    @property
    def delay(self) -> float:
        """Seconds after which an attempt currently counts as late."""
        if self._fixed is not None:
            return self._fixed
        if len(self._durations) < _ENOUGH:
            return self._initial
        ordered = sorted(self._durations)
        return ordered[math.ceil(self._percentile * len(ordered)) - 1]

    def statistics(self) -> HedgeStatistics:
        """The policy at this instant."""
        return HedgeStatistics(self.delay, self._calls, self._hedges, self._refused, self._won)

    def called(self) -> None:
        """Count a call. It adds its share of a further attempt to the budget."""
        self._calls += 1
        self._saved = min(self._saved + self._budget, _MOST_SAVED)

    def try_again(self) -> bool:
        """Take a further attempt from the budget, if there is one."""
        if self._saved < 1:
            self._refused += 1
            return False
        self._saved -= 1
        self._hedges += 1
        return True

    def succeeded(self, elapsed: float, attempt: int) -> None:
        """Count a call that succeeded after `elapsed` seconds with attempt number `attempt`."""
        self._durations.append(elapsed)
        self._won += attempt > 1


async def hedged(
    fn: Callable[[Unpack[_Args]], Awaitable[_T]],
    *args: *_Args,
    delay: float | HedgePolicy,
    attempts: int = 2,
) -> _T:
    """Call `fn(*args)`, and call it again when it is late; the first success wins.

    Usage::

        answer = await hedged(fetch, url, delay=0.3)

    Each time `delay` seconds pass without a success, a further attempt starts, up to `attempts` in
    all. The earlier attempts continue. Use it only for idempotent calls, because every attempt may
    have its effects. After the first success the other attempts are cancelled, and `hedged` returns
    when they have unwound.

    It is not a retry: a failed attempt starts no other one. If all attempts fail, the exception of
    the earliest one is raised unchanged, with a note for each of the others.

    **Cancellation**: cancels all attempts.

    Args:
        fn: An async function.
        *args: Its arguments.
        delay: Seconds, or a `HedgePolicy`, which measures what is late and has a budget.
        attempts: Most attempts, including the first (int >= 1).

    Returns:
        The value of the first successful attempt.

    Raises:
        TypeError: An argument has the wrong type; the message has the corrected call.
        ValueError: `delay` or `attempts` is out of its bounds.
        Exception: As `fn`, if every attempt failed.
    """
    check_async_function(fn, call=_CALL, item=False)
    check_count("attempts", attempts, call=_CALL.format(fn="fn"))
    if not isinstance(delay, HedgePolicy):
        check_seconds("delay", delay, call=_CALL.format(fn="fn"), zero=True)
    policy = delay if isinstance(delay, HedgePolicy) else None
    seconds = policy.delay if policy is not None else cast("float", delay)
    if policy is not None:
        policy.called()
    race: _Race[_T] = _Race(started=trio.current_time())
    async with trio.open_nursery(strict_exception_groups=True) as nursery:
        for attempt in range(1, attempts + 1):
            if attempt > 1 and policy is not None and not policy.try_again():
                break
            race.start()
            nursery.start_soon(race.run, attempt, fn, args, name=f"try {attempt} of {name_of(fn)}")
            with trio.move_on_after(seconds if attempt < attempts else math.inf):
                await race.decided.wait()
            if race.decided.is_set():
                break
        await race.decided.wait()
        nursery.cancel_scope.cancel(reason="another try has succeeded")
    if policy is not None and race.won_by:
        policy.succeeded(race.elapsed, race.won_by)
    return race.result()


@final
class _Race(Generic[_T]):
    """The attempts of one call. It is decided by a success, or when all started attempts failed."""

    def __init__(self, *, started: float) -> None:
        self.decided = trio.Event()
        self.won_by = 0  # the number of an attempt; 0 while none has succeeded
        self.elapsed = 0.0
        self._started = started
        self._running = 0
        self._value: _T | None = None
        self._errors: dict[int, Exception] = {}

    def start(self) -> None:
        """Count an attempt; its task runs a little later."""
        self._running += 1

    async def run(
        self, attempt: int, fn: Callable[..., Awaitable[_T]], args: tuple[Any, ...]
    ) -> None:
        try:
            try:
                value = await fn(*args)
            except Exception as error:  # noqa: BLE001 - it is raised if no try succeeds
                self._lose(attempt, error)
            else:
                self._win(attempt, value)
        except* Exception as errors:  # noqa: BLE001 - beside a cancel, which goes on from here
            self._lose(attempt, errors)

    def _win(self, attempt: int, value: _T) -> None:
        if not self.won_by:
            self.won_by, self._value = attempt, value
            self.elapsed = trio.current_time() - self._started
            self.decided.set()

    def _lose(self, attempt: int, error: Exception) -> None:
        self._errors[attempt] = error
        self._running -= 1
        if not self._running:
            self.decided.set()

    def result(self) -> _T:
        if self.won_by:
            return cast("_T", self._value)
        earliest, *others = sorted(self._errors)
        error = self._errors[earliest]
        for other in others:
            error.add_note(f"try {other} failed too: {self._errors[other]!r}")
        self._errors.clear()  # or an error's traceback, which has this frame, would keep itself
        try:
            raise error
        finally:
            del error
