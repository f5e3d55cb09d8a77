"""A cancel scope that remembers: how much time there was, what was used, and whether it was cut."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import trio

from nursery_patterns._arguments import check_seconds

if TYPE_CHECKING:
    from types import TracebackType

_TIGHT = 0.8  # the share of a budget above which the next run may well not make it


class TimeBudget:
    """The seconds a block may take. Made by `time_budget`; usable once.

    Attributes:
        scope: The cancel scope behind it.
    """

    def __init__(self, seconds: float) -> None:
        self._asked = check_seconds("seconds", seconds, call="time_budget(30)", zero=True)
        self._started = math.nan
        self._ended: float | None = None
        self._seconds = self._asked
        self.scope: trio.CancelScope = trio.CancelScope()

    def __enter__(self) -> Self:
        self._started = trio.current_time()
        outer = trio.current_effective_deadline()
        if outer == -math.inf:  # cancelled already, which is no matter of time
            outer = math.inf
        # An outer deadline is kept as it is, so that inner and outer end at the same instant.
        deadline = min(self._started + self._asked, outer)
        self._seconds = min(self._asked, max(0.0, deadline - self._started))
        self.scope.deadline = deadline
        self.scope.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._ended = trio.current_time()
        return self.scope.__exit__(exc_type, exc, traceback)

    @property
    def deadline(self) -> float:
        """When the time is up, on trio's clock. Known from when the block is entered."""
        return self.scope.deadline

    @property
    def cancel_called(self) -> bool:
        """Whether the time is up, or `cancel` was called."""
        return self.scope.cancel_called

    @property
    def cancelled_caught(self) -> bool:
        """Whether the block was cut: by its deadline, or by `cancel`."""
        return self.scope.cancelled_caught

    def cancel(self, reason: str | None = None) -> None:
        """Cut the block now, whatever time is left."""
        self.scope.cancel(reason=reason)

    @property
    def seconds(self) -> float:
        """Seconds there were: what was asked for, or less if an outer deadline came first."""
        return self._seconds

    @property
    def elapsed(self) -> float:
        """Seconds used: until now, or until the block ended."""
        return (trio.current_time() if self._ended is None else self._ended) - self._started

    @property
    def headroom(self) -> float:
        """Seconds left over, at least 0."""
        return max(0.0, self._seconds - self.elapsed)

    @property
    def expired(self) -> bool:
        """Whether the time ran out. (`cancelled_caught` tells whether the block was cut.)"""
        now = trio.current_time() if self._ended is None else self._ended
        return now >= self.scope.deadline

    @property
    def tight(self) -> bool:
        """Whether more than 80 % of the time was used."""
        return self.elapsed > _TIGHT * self._seconds


def time_budget(seconds: float) -> TimeBudget:
    """Give a block at most `seconds`, and tell afterwards how it went::

        with time_budget(30) as budget:
            await batch.run()
        if budget.expired: ...

    When the time is up the block is cancelled and execution goes on after it, as with
    `trio.move_on_after`. A budget inside another never extends it: it gets what is left. Deadlines
    around it are looked at once, when the block is entered: one that is moved on later does not
    give it more.

    Args:
        seconds: At least 0; `math.inf` for no bound of its own.

    Raises:
        TypeError: Not a number.
        ValueError: NaN or negative.
    """
    return TimeBudget(seconds)
