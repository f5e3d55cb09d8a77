"""When the items of an operation started and ended, for a picture of the run.

An observer of the batch. It keeps the latest items alone, so what it holds and what a reader is
sent do not grow with the number of items.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import trio

from nursery_patterns import Observer, Outcome

MAX_SPANS: Final = 400
"""How many ended items are kept."""
MAX_LATEST: Final = 20
"""How many outcomes are kept."""

Span = tuple[int, float, float | None, str]
"""Index, start and end in seconds of trio's clock, and status; no end while it is in flight."""


class Timeline(Observer[Any, Any]):
    """The latest items of one batch, as spans of time.

    Usage::

        timeline = Timeline()
        batch = Batch(fn, items, observer=timeline)

    Memory: `MAX_SPANS` ended items, `MAX_LATEST` outcomes, and the items in flight.

    Attributes:
        latest: The outcomes that ended last, in the order of their ends.
    """

    def __init__(self) -> None:
        self._in_flight: dict[int, float] = {}
        self._ended: deque[Span] = deque(maxlen=MAX_SPANS)
        self.latest: deque[Outcome[Any, Any]] = deque(maxlen=MAX_LATEST)

    def started(self, index: int, item: Any) -> None:
        """Note the start of an item."""
        del item
        self._in_flight[index] = trio.current_time()

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Note the end of an item, with its status."""
        self._end(outcome.index, outcome.status.value)
        self.latest.append(outcome)

    def cut(self, index: int, item: Any) -> None:
        """Note that an item was cancelled."""
        del item
        self._end(index, "cancelled")

    def _end(self, index: int, status: str) -> None:
        started = self._in_flight.pop(index, None)
        if started is not None:
            self._ended.append((index, started, trio.current_time(), status))

    def spans(self) -> list[Span]:
        """Return what is kept: ended items in the order of their ends, then those in flight."""
        running: list[Span] = [(i, at, None, "running") for i, at in self._in_flight.items()]
        return [*self._ended, *running]

    def rate(self, now: float, window: float) -> float:
        """Return how many items ended per second within the last `window` seconds.

        Where more ended than are kept, the time that those took is the window.
        """
        recent = [end for _, _, end, _ in self._ended if end is not None and end > now - window]
        if not recent:
            return 0.0
        full = len(recent) == MAX_SPANS
        return len(recent) / max(now - min(recent) if full else window, 1e-9)
