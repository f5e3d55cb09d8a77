"""The state of each item of a batch: synchronous bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Generic, TypeVar

from nursery_patterns._outcomes import Counts, Outcome, Report, Status, make_outcome
from nursery_patterns._retry import Attempts
from nursery_patterns._source import Source

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class ItemStates(Generic[ItemT, ValueT]):
    """Keeps every item in exactly one place, at every moment.

    Invariant: an index below `source.pulled` is in exactly one of
        `waiting`   pulled, and waiting for a token or a slot, or for the first step of its worker
        `running`   its function was called
        given back  in the source again, after a cancelled run
        ended       counted by its status, and kept in `outcomes` where outcomes are retained,
                    and in a stream in `undelivered` until its consumer has taken it
    An index in `restored` is counted as ended, and the source has yet to yield its item.
    """

    def __init__(
        self, source: Source[ItemT], restored: Sequence[Outcome[ItemT, ValueT]] = ()
    ) -> None:
        self.source = source
        self.waiting: dict[int, ItemT] = {}
        self.running: dict[int, ItemT] = {}
        self.outcomes: dict[int, Outcome[ItemT, ValueT]] = {}
        self.undelivered: dict[int, Outcome[ItemT, ValueT]] = {}
        self.retain: bool = True
        self._cut: set[int] = set()  # started once, and not since
        found, unpulled = source.adopt(restored)
        self.restored: set[int] = unpulled
        for outcome in found:
            self.outcomes[outcome.index] = outcome
        # The attempts of running and of cancelled items, if there is a retry policy.
        self.attempts: dict[int, Attempts] = {}
        statuses = [outcome.status for outcome in self.outcomes.values()]
        self._succeeded = statuses.count(Status.SUCCEEDED)
        self._failed = statuses.count(Status.FAILED)
        self._timed_out = statuses.count(Status.TIMED_OUT)

    def skip(self, index: int, item: ItemT) -> bool:
        """Whether an item from the source has an outcome from an earlier process."""
        if index not in self.restored:
            return False
        self.restored.discard(index)
        self._give_item(index, item)
        return True

    def pulled(self, index: int, item: ItemT) -> None:
        """Record that the item left the source and waits to start."""
        self.waiting[index] = item

    def started(self, index: int, item: ItemT) -> None:
        """Record that the item has its slot."""
        if self.waiting:
            self.waiting.pop(index, None)
        if self._cut:
            self._cut.discard(index)
        self.running[index] = item

    def ended(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Record the outcome of a running item. From here on it is safe."""
        if self.retain:
            self.outcomes[outcome.index] = outcome
        if outcome.error is None:
            self._succeeded += 1
        elif outcome.status is Status.FAILED:
            self._failed += 1
        else:
            self._timed_out += 1
        del self.running[outcome.index]

    def attempts_of(self, index: int) -> int:
        """Return how often the function was called for an item that has ended, and forget it."""
        attempts = self.attempts.pop(index, None)
        return 1 if attempts is None else attempts.count

    def begin(self, *, retain: bool) -> None:
        """Return the unfinished items of an earlier run to the source, so that they come first."""
        self._cut.update(self.running)
        self.source.resume((*self.waiting.items(), *self.running.items()))
        self.waiting.clear()
        self.running.clear()
        self.retain = retain

    def counts(self, *, active: bool) -> Counts:
        """Return the counts. `active`: whether a run is in progress. O(1)."""
        done = self._succeeded + self._failed + self._timed_out
        cancelled = len(self._cut) + (0 if active else len(self.running))
        total = self.source.total
        known = self.source.known
        if total is None or self.source.at_end:  # restored indexes are higher than those pulled
            known += len(self.restored)
            total = None if total is None else known
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
        """Return the report, in input order. O(known items)."""
        by_index = {**self.outcomes, **self.undelivered}
        for index, item in chain(
            self.source.given_back(), self.source.rest(), self.waiting.items()
        ):
            if index in self.restored:
                self._give_item(index, item)
                by_index[index] = self.outcomes[index]
                continue
            by_index[index] = self._unfinished(index, item, cut=index in self._cut)
        for index, item in self.running.items():
            by_index[index] = self._unfinished(index, item, cut=not active)
        return Report(
            outcomes=tuple(by_index[index] for index in sorted(by_index)),
            counts=self.counts(active=active),
            elapsed=elapsed,
        )

    def _unfinished(self, index: int, item: ItemT, *, cut: bool) -> Outcome[ItemT, ValueT]:
        if not cut:
            return make_outcome(index, item, Status.NOT_STARTED, None, None, 0.0, 0)
        attempts = self.attempts.get(index)
        count, note = (1, None) if attempts is None else (attempts.count, attempts.note)
        return make_outcome(index, item, Status.CANCELLED, None, None, 0.0, count, note)

    def _give_item(self, index: int, item: ItemT) -> None:
        """Insert the item into a restored outcome, which may have none."""
        self.outcomes[index] = replace(self.outcomes[index], item=item)
