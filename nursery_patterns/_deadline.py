"""A cancel scope that reports afterwards: the time given, the time used, and whether it expired."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import trio

from nursery_patterns._arguments import check_seconds

if TYPE_CHECKING:
    from types import TracebackType

_TIGHT = 0.8  # above this share of a budget, the next run may exceed it


class TimeBudget:
    """The time budget of a block. Made by `time_budget`; can be used once.

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
        if outer == -math.inf:  # already cancelled, but not by a deadline
            outer = math.inf
        # An outer deadline is used unchanged, so that inner and outer scope expire at the same
        # instant.
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
        """The deadline on trio's clock. Valid once the block has been entered."""
        return self.scope.deadline

    @property
    def cancel_called(self) -> bool:
        """Whether the deadline has passed, or `cancel` was called."""
        return self.scope.cancel_called

    @property
    def cancelled_caught(self) -> bool:
        """Whether the block was cancelled: by its deadline, or by `cancel`."""
        return self.scope.cancelled_caught

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block now."""
        self.scope.cancel(reason=reason)

    @property
    def seconds(self) -> float:
        """Seconds in the budget: as requested, or less if an outer deadline came first."""
        return self._seconds

    @property
    def elapsed(self) -> float:
        """Seconds used until now, or until the block ended."""
        return (trio.current_time() if self._ended is None else self._ended) - self._started

    @property
    def headroom(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._seconds - self.elapsed)

    @property
    def expired(self) -> bool:
        """Whether the deadline passed. `cancelled_caught` says whether the block was cancelled."""
        now = trio.current_time() if self._ended is None else self._ended
        return now >= self.scope.deadline

    @property
    def tight(self) -> bool:
        """Whether more than 80 % of the time was used."""
        return self.elapsed > _TIGHT * self._seconds


def time_budget(seconds: float) -> TimeBudget:
    """Give a block at most `seconds`, and report the time used::

        with time_budget(30) as budget:
            await batch.run()
        if budget.expired: ...

    At the deadline the block is cancelled and execution continues after it, as with
    `trio.move_on_after`. An inner budget never extends an outer one: it gets at most the time left.
    Outer deadlines are read once, when the block is entered. If one is extended later, this budget
    is not.

    Args:
        seconds: At least 0; `math.inf` for no limit besides the outer one.

    Raises:
        TypeError: Not a number.
        ValueError: NaN or negative.
    """
    return TimeBudget(seconds)
