"""Retries with back-off and a budget."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any, Literal, ParamSpec, TypeVar, cast, final

import trio

from nursery_patterns._arguments import check_async_function, check_count, check_seconds

T = TypeVar("T")
P = ParamSpec("P")

# Retries that a budget allows before the first success.
_FREE_RETRIES = 10

Verdict = float | Literal["stop"] | None
On = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], Verdict]


@final
class Retry:
    """A policy: which failures are retried, when, and how often.

    In a batch, other items use the slot during each back-off::

        await run_batch(fetch, urls, retry=Retry(attempts=3, on=ConnectionError))

    For single calls, each decorated function has its own budget::

        @Retry(attempts=3, on=ConnectionError)
        async def fetch(url): ...

    The wait before attempt n + 1 is `initial * 2 ** (n - 1)` seconds, at most `maximum`. The
    fraction `jitter` of it is random. A cancel ends an attempt or a wait at once.

    Args:
        attempts: Most calls of the function, including the first.
        initial: Seconds before the second attempt, at least 0.
        maximum: Most seconds between two attempts.
        jitter: Random fraction of each wait, from 0 (none) to 1 (the whole wait).
        on: Types of exceptions that are retried; or a function of the exception that returns the
            seconds to wait (a Retry-After), None for the usual back-off, or `"stop"`.
        budget: Most retries per success, above 0 and at most 1; 10 retries are allowed in advance.
            So during an outage there are few more calls than without retries. None: no bound.
        total_timeout: Seconds for all attempts of a call and the waits between them.

    Raises:
        TypeError: An argument has the wrong type; the message has the corrected call.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        initial: float = 0.1,
        maximum: float = 10.0,
        jitter: float = 0.5,
        on: On = Exception,
        budget: float | None = 0.2,
        total_timeout: float | None = None,
    ) -> None:
        call = "Retry(attempts=3, initial=0.1, maximum=10)"
        self.attempts: int = check_count("attempts", attempts, call=call)
        self.initial: float = check_seconds("initial", initial, call=call, zero=True)
        self.maximum: float = check_seconds("maximum", maximum, call=call, zero=True)
        self.jitter: float = _check_share("jitter", jitter, call="Retry(jitter=0.5)", zero=True)
        self.on: On = on
        self._verdict: Callable[[Exception], Verdict] = _check_on(on)
        self.budget: float | None = budget
        if budget is not None:
            self.budget = _check_share("budget", budget, call="Retry(budget=0.2)")
        self.total_timeout: float | None = total_timeout
        if total_timeout is not None:
            self.total_timeout = check_seconds(
                "total_timeout", total_timeout, call="Retry(total_timeout=30)"
            )

    def __repr__(self) -> str:
        return f"Retry(attempts={self.attempts}, initial={self.initial:g}, budget={self.budget})"

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function with this policy and a budget of its own.

        A failure that is not retried is raised unchanged. After `total_timeout` the call raises
        `trio.TooSlowError`, with the last failure as a note.
        """
        check_async_function(fn, call="Retry(attempts=3)({fn})", item=False)
        budget = RetryBudget(self.budget)

        @functools.wraps(fn)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            attempts = Attempts(self, budget)
            if self.total_timeout is None:
                return await _call(attempts, fn, args, kwargs)
            with trio.move_on_after(self.total_timeout):
                return await _call(attempts, fn, args, kwargs)
            raise attempts.too_slow(self.total_timeout)

        return wrapper

    def decide(self, error: Exception, attempt: int) -> float | None:
        """Return the seconds to wait after attempt number `attempt` failed; None to give up."""
        if attempt >= self.attempts:
            return None
        try:
            verdict = self._verdict(error)
        except Exception as raised:
            raised.add_note(
                f"raised by the function `on` of Retry for {error!r}: return seconds, 'stop', or "
                "None for the usual wait"
            )
            raise
        if verdict == "stop":
            return None
        if verdict is not None:
            return check_seconds(
                "the wait that `on` returned", verdict, call="return 2.5", zero=True
            )
        return self.backoff(attempt)

    def backoff(self, attempt: int) -> float:
        """Return the usual wait after attempt number `attempt` (from 1) failed, in seconds."""
        delay = min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 1_000))
        return delay * (1 - self.jitter * random.random())  # noqa: S311 - spreads, hides nothing


@final
class RetryBudget:
    """Limits retries to a fraction of the successes."""

    def __init__(self, share: float | None) -> None:
        self._share = share
        self._left: float = _FREE_RETRIES

    def succeeded(self) -> None:
        """Count a success, which adds a fraction of a retry."""
        if self._share is not None:
            self._left = min(self._left + self._share, _FREE_RETRIES * 10)

    def take(self) -> bool:
        """Take a retry from the budget, if there is one."""
        if self._share is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True


@final
class Attempts:
    """The attempts of one call."""

    __slots__ = ("_budget", "_policy", "count", "note")

    def __init__(self, policy: Retry, budget: RetryBudget) -> None:
        self._policy = policy
        self._budget = budget
        self.count: int = 0  # calls so far
        self.note: str | None = None  # how the last attempt failed

    def succeeded(self) -> None:
        """Note that the last attempt succeeded."""
        self._budget.succeeded()

    def delay_after(self, error: Exception) -> float | None:
        """Return the seconds until the next attempt, or None if there is none."""
        delay = self._policy.decide(error, self.count)
        if delay is None:
            return None
        if not self._budget.take():
            error.add_note(
                f"not tried again after attempt {self.count}: the retry budget is spent "
                f"({self._policy.budget:g} of what succeeded)"
            )
            return None
        self.note = _note_of(error, self.count)
        return delay

    def too_slow(self, seconds: float | None) -> trio.TooSlowError:
        """Return the error of a call that exceeded its timeout, with its last failure as a note."""
        error = trio.TooSlowError(f"not done within {seconds:g} s, in {self.count} attempts")
        if self.note is not None:
            error.add_note(self.note)
        return error


async def _call(
    attempts: Attempts,
    fn: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> T:
    while True:
        attempts.count += 1
        try:
            value = await fn(*args, **kwargs)
        except Exception as error:
            delay = attempts.delay_after(error)
            if delay is None:
                raise
        else:
            attempts.succeeded()
            return value
        await trio.sleep(delay)


def _note_of(error: Exception, attempt: int) -> str:
    """Describe how an attempt failed, for a call that did not finish."""
    text = str(error)
    kind = type(error).__name__
    return f"attempt {attempt} failed: {kind}: {text}" if text else f"attempt {attempt}: {kind}"


def _check_share(name: str, value: Any, *, call: str, zero: bool = False) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number from 0 to 1, got {value!r}: write {call}")
    if not (0 <= value <= 1) or (value == 0 and not zero):
        low = "from 0" if zero else "above 0"
        raise ValueError(f"{name} must be {low} and at most 1, got {value}: write {call}")
    return float(value)


def _check_on(on: Any) -> Callable[[Exception], Verdict]:
    """Return `on` as a function."""
    kinds = cast("tuple[Any, ...]", on if isinstance(on, tuple) else (on,))
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return lambda error: None if isinstance(error, kinds) else "stop"
    if not isinstance(on, type | tuple) and callable(on):
        return cast("Callable[[Exception], Verdict]", on)
    raise TypeError(
        f"on must be an exception type, a tuple of them, or a function of the exception, got "
        f"{on!r}: write Retry(on=ConnectionError) (Cancelled and KeyboardInterrupt are never tried "
        "again)"
    )
