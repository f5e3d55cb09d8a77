"""Where workers hand outcomes to the consumer of a stream: a rendezvous, not a buffer.

A worker that finished an item waits until the consumer has taken an outcome before it goes on. So
at most `limit` outcomes are ever ahead of the consumer, and a slow consumer slows the workers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from nursery_patterns._ledger import Ledger
    from nursery_patterns._outcomes import Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_OUTCOMES_PER_TURN = 16


class Handoff(Generic[ItemT, ValueT]):
    """The outcomes that wait for the consumer, and who waits for whom.

    Invariant: each undelivered outcome has one worker parked in `give`, but for those that an
    earlier stream left over.
    """

    def __init__(self, ledger: Ledger[ItemT, ValueT], *, ordered: bool) -> None:
        self._ledger = ledger
        self._ready = ledger.undelivered  # outlives this stream: what is not taken is not lost
        # Indexes not yet taken, lowest first. Items start in that order, those given back before
        # any fresh one, so that appending the fresh ones keeps it sorted.
        self._open: deque[int] | None = None
        if ordered:
            given_back = (index for index, _ in ledger.source.given_back())
            self._open = deque(sorted((*self._ready, *given_back)))
        self._taken = 0
        self._fresh_from = ledger.source.pulled
        self._workers = trio.lowlevel.ParkingLot()
        self._consumers = trio.lowlevel.ParkingLot()

    def expect(self, index: int) -> None:
        """Note that an outcome of `index` will come."""
        if self._open is not None and index >= self._fresh_from:
            self._open.append(index)

    async def give(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Offer an outcome, and wait until the consumer took one. A cancel leaves it in place."""
        self._ready[outcome.index] = outcome
        if self._consumers:
            self._consumers.unpark()
        await self._workers.park()

    def close(self) -> None:
        """Let consumers see that nothing more will be started."""
        self._consumers.unpark_all()

    async def take(self) -> Outcome[ItemT, ValueT] | None:
        """Take the next outcome as soon as there is one; None when none can come any more.

        It lets others run when it has to wait, and at every 16th outcome that it finds ready:
        a switch per outcome would cost more than all the rest of the hand-over.
        """
        self._taken += 1
        if self._taken % _OUTCOMES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        while (index := self._next_ready()) is None:
            if self._drained():
                self.close()  # for the other consumers, if there are any
                await trio.lowlevel.checkpoint()
                return None
            await self._consumers.park()
        if self._open is not None:
            self._open.popleft()
        self._workers.unpark()
        return self._ready.pop(index)

    def _next_ready(self) -> int | None:
        queue = self._ready if self._open is None else self._open
        for index in queue:
            return index if index in self._ready else None
        return None

    def _drained(self) -> bool:
        books = self._ledger
        return books.source.exhausted and not (books.running or books.waiting or self._ready)
