"""The state of each item of a batch: plain bookkeeping, without a single await."""

from __future__ import annotations

from itertools import chain
from typing import Generic, TypeVar

from nursery_patterns._outcomes import Counts, Outcome, Report, Status, make_outcome
from nursery_patterns._source import Source

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class ItemStates(Generic[ItemT, ValueT]):
    """Keeps every item in exactly one place, at every moment.

    Invariant: an index below `source.pulled` is in exactly one of
        `waiting`   pulled, and waiting for a token or a slot, or for the first step of its worker
        `running`   its function was called
        given back  in the source again, after a run that was cut
        ended       counted by its status, and kept in `outcomes` where outcomes are retained,
                    and in a stream in `undelivered` until its consumer has taken it
    """

    def __init__(self, source: Source[ItemT]) -> None:
        self.source = source
        self.waiting: dict[int, ItemT] = {}
        self.running: dict[int, ItemT] = {}
        self.outcomes: dict[int, Outcome[ItemT, ValueT]] = {}
        self.undelivered: dict[int, Outcome[ItemT, ValueT]] = {}
        self.retain: bool = True
        self._cut: set[int] = set()  # started once, and not since
        self._succeeded = 0
        self._failed = 0
        self._timed_out = 0

    def pulled(self, index: int, item: ItemT) -> None:
        """Note that the item left the source and waits to be started."""
        self.waiting[index] = item

    def started(self, index: int, item: ItemT) -> None:
        """Note that the item has its slot."""
        if self.waiting:
            self.waiting.pop(index, None)
        if self._cut:
            self._cut.discard(index)
        self.running[index] = item

    def ended(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Note the outcome of a running item. It is safe from here on."""
        if self.retain:
            self.outcomes[outcome.index] = outcome
        if outcome.error is None:
            self._succeeded += 1
        elif outcome.status is Status.FAILED:
            self._failed += 1
        else:
            self._timed_out += 1
        del self.running[outcome.index]

    def begin(self, *, retain: bool) -> None:
        """Give back what an earlier run left unfinished, so that it comes first."""
        self._cut.update(self.running)
        self.source.resume((*self.waiting.items(), *self.running.items()))
        self.waiting.clear()
        self.running.clear()
        self.retain = retain

    def counts(self, *, active: bool) -> Counts:
        """Add up how the items stand. `active`: whether a run is under way. O(1)."""
        done = self._succeeded + self._failed + self._timed_out
        cancelled = len(self._cut) + (0 if active else len(self.running))
        total = self.source.total
        known = self.source.pulled if total is None else total
        return Counts(
            total=total,
            succeeded=self._succeeded,
            failed=self._failed,
            timed_out=self._timed_out,
            cancelled=cancelled,
            not_started=known - done - cancelled,
            in_flight=len(self.running) if active else 0,
        )

    def report(self, *, active: bool, elapsed: float) -> Report[ItemT, ValueT]:
        """Write down all that is known, in input order. O(items known)."""
        by_index = {**self.outcomes, **self.undelivered}
        for index, item in chain(
            self.source.given_back(), self.source.rest(), self.waiting.items()
        ):
            status = Status.CANCELLED if index in self._cut else Status.NOT_STARTED
            by_index[index] = make_outcome(index, item, status, None, None, 0.0)
        for index, item in self.running.items():
            status = Status.NOT_STARTED if active else Status.CANCELLED
            by_index[index] = make_outcome(index, item, status, None, None, 0.0)
        return Report(
            outcomes=tuple(by_index[index] for index in sorted(by_index)),
            counts=self.counts(active=active),
            elapsed=elapsed,
        )
