"""When the items of an operation started and ended, and the progress of those in flight.

An observer of the batch. It keeps only the latest items, so its memory and the data for a reader
do not grow with the number of items.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import trio

from nursery_patterns import Observer, Outcome

MAX_SPANS: Final = 400
"""Limit of kept ended items, and of shown items in flight."""
MAX_LATEST: Final = 20
"""Limit of kept outcomes."""

MAX_MESSAGE_CHARS: Final = 200
"""Limit of characters of an item's progress message."""

ReportProgress = Callable[[float, float | None, str | None], None]
"""Called with the progress of an item: done, total or None, message or None. Must not wait."""

# Share for an item that reports no total: it makes progress, but the share is unknown.
_WITHOUT_TOTAL: Final = 0.01
_MOST_OF_AN_ITEM: Final = 0.99

# The index of the item that the current task runs.
_index: ContextVar[int] = ContextVar("_index")


@dataclass(frozen=True, slots=True)
class ItemProgress:
    """The progress of an item in flight.

    Attributes:
        number: Grows with each report of the operation.
        index: Index of the item.
        item: The item in the form that the operation takes.
        done: A count of the item's operation: 0 or more.
        total: The final value of `done`; None if unknown.
        message: A short text, or None.
        share: The finished share of the item: at least 0, less than 1, and never decreasing.
    """

    number: int
    index: int
    item: Any
    done: float
    total: float | None
    message: str | None
    share: float


def _share(done: float, total: float | None) -> float:
    if total is None or total <= 0:
        return _WITHOUT_TOTAL * done / (done + 1)
    return min(done / total, _MOST_OF_AN_ITEM)


Span = tuple[int, float, float | None, str]
"""Index, start and end in seconds of trio's clock, and status; no end while it is in flight."""


class Timeline(Observer[Any, Any]):
    """The latest items of one batch, as time spans.

    Usage::

        timeline = Timeline()
        batch = Batch(fn, items, observer=timeline)

    Memory: `MAX_SPANS` ended items, `MAX_LATEST` outcomes, and the items in flight with one
        report of progress each.

    Attributes:
        latest: The latest outcomes, in the order of their ends.
    """

    def __init__(self) -> None:
        self._in_flight: dict[int, float] = {}
        self._ended: deque[Span] = deque(maxlen=MAX_SPANS)
        self.latest: deque[Outcome[Any, Any]] = deque(maxlen=MAX_LATEST)
        # Only for items in flight; the latest report is the last one.
        self._reports: dict[int, ItemProgress] = {}
        self._number = 0
        self._reported = trio.Event()

    def started(self, index: int, item: Any) -> None:
        """Record the start of an item."""
        del item
        _index.set(index)
        self._in_flight[index] = trio.current_time()

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Record the end of an item, with its status."""
        self._end(outcome.index, outcome.status.value)
        self.latest.append(outcome)

    def cut(self, index: int, item: Any) -> None:
        """Record that an item was cancelled."""
        del item
        self._end(index, "cancelled")

    def reporter(self, item: Any) -> ReportProgress:
        """Return the function that reports progress of the current task's item.

        A report for an item that is not in flight, or that is not above the previous one, is
        ignored: progress only grows.
        """
        return partial(self._report, _index.get(), item)

    def _report(
        self, index: int, item: Any, done: float, total: float | None, message: str | None
    ) -> None:
        before = self._reports.get(index)
        least = (0.0, 0.0) if before is None else (before.done, before.share)
        if index not in self._in_flight or not math.isfinite(done) or done < least[0]:
            return
        if before is not None and done == least[0]:
            return
        if total is not None and not math.isfinite(total):
            total = None
        self._number += 1
        self._reports.pop(index, None)
        words = None if message is None else message[:MAX_MESSAGE_CHARS]
        share = max(least[1], _share(done, total))
        self._reports[index] = ItemProgress(self._number, index, item, done, total, words, share)
        reported, self._reported = self._reported, trio.Event()
        reported.set()

    def reports(self) -> list[ItemProgress]:
        """Return the reported progress of items in flight, the latest report first."""
        return [*reversed(self._reports.values())]

    def share(self) -> float:
        """Return the sum of the shares of items in flight: less than their number.

        Added to the number of ended items, it never decreases while a batch runs.
        """
        return sum(report.share for report in self._reports.values())

    async def report(self) -> None:
        """Wait for the next report."""
        await self._reported.wait()

    def _end(self, index: int, status: str) -> None:
        self._reports.pop(index, None)
        started = self._in_flight.pop(index, None)
        if started is not None:
            self._ended.append((index, started, trio.current_time(), status))

    def spans(self) -> list[Span]:
        """Return ended items in the order of their ends, then the longest running ones.

        At most `MAX_SPANS` of each.
        """
        oldest = islice(self._in_flight.items(), MAX_SPANS)  # in order of their starts
        running: list[Span] = [(i, at, None, "running") for i, at in oldest]
        return [*self._ended, *running]

    def rate(self, now: float, window: float) -> float:
        """Return how many items ended per second within the last `window` seconds.

        If more items ended than are kept, the window is the time in which the kept ones ended.
        """
        recent = [end for _, _, end, _ in self._ended if end is not None and end > now - window]
        if not recent:
            return 0.0
        full = len(recent) == MAX_SPANS
        return len(recent) / max(now - min(recent) if full else window, 1e-9)
