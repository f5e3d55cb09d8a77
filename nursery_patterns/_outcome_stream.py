"""Where workers hand outcomes to the consumer of a stream: a rendezvous, not a buffer.

A worker that finished an item waits until the consumer has taken an outcome before it goes on. So
at most `limit` outcomes are ever ahead of the consumer, and a slow consumer slows the workers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from nursery_patterns._item_states import ItemStates
    from nursery_patterns._outcomes import Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_OUTCOMES_PER_TURN = 16


class OutcomeQueue(Generic[ItemT, ValueT]):
    """The outcomes that wait for the consumer, and who waits for whom.

    Invariant: each undelivered outcome has one worker parked in `wait_until_taken`, but for those
    that an earlier stream left over; no fresh item is started for as long as there are any.
    """

    def __init__(self, states: ItemStates[ItemT, ValueT], *, ordered: bool) -> None:
        self._states = states
        self._ready = states.undelivered  # outlives this stream: what is not taken is not lost
        self._left_over = set(self._ready)
        # Indexes not yet taken, lowest first. Items are pulled in that order, those given back
        # before any fresh one, so that appending the fresh ones keeps it sorted.
        self._open: deque[int] | None = None
        if ordered:
            given_back = (index for index, _ in states.source.given_back())
            self._open = deque(sorted((*self._ready, *given_back)))
        self._closed = False
        self._taken = 0
        self._fresh_from = states.source.pulled
        self._dispatcher = trio.lowlevel.ParkingLot()
        self._workers = trio.lowlevel.ParkingLot()
        self._consumers = trio.lowlevel.ParkingLot()

    @property
    def ordered(self) -> bool:
        """Whether outcomes are given out in input order."""
        return self._open is not None

    async def wait_for_fresh(self) -> None:
        """Wait until a fresh item may be started: each stream would leave `limit` more behind."""
        if self._left_over and not self._states.source.given_back():
            await self._dispatcher.park()

    def expect(self, index: int) -> None:
        """Note that an outcome of `index` will come, as soon as it is pulled."""
        if self._open is not None and index >= self._fresh_from:
            self._open.append(index)

    def offer(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Lay an outcome down for the consumer. It stays until it is taken, whatever is cut."""
        self._ready[outcome.index] = outcome
        if self._consumers:
            self._consumers.unpark()

    async def wait_until_taken(self) -> None:
        """Wait until the consumer took as many outcomes as were there."""
        await self._workers.park()

    def end(self) -> None:
        """Let consumers see that nothing more will be started."""
        self._consumers.unpark_all()

    def close(self) -> None:
        """Refuse to give out anything more: the stream's block was left."""
        self._closed = True
        self._consumers.unpark_all()

    async def take(self) -> Outcome[ItemT, ValueT] | None:
        """Take the next outcome as soon as there is one; None when none can come any more.

        It lets others run when it has to wait, and at every 16th outcome that it finds ready:
        a switch per outcome would cost more than all the rest of the hand-over.

        Raises:
            trio.ClosedResourceError: The stream's block was left, so nothing runs any more.
        """
        self._taken += 1
        if self._taken % _OUTCOMES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        while not self._closed:
            index = self._next_ready()
            if index is not None:
                return self._give_out(index)
            if self._drained():
                await trio.lowlevel.checkpoint()
                return None
            await self._consumers.park()
        raise trio.ClosedResourceError(
            "the stream's block was left, and its items were cancelled: "
            "iterate inside `async with batch.stream() as outcomes:`"
        )

    def _give_out(self, index: int) -> Outcome[ItemT, ValueT]:
        """Hand an outcome over, and wake whom that concerns."""
        outcome = self._ready.pop(index)
        if self._left_over:
            self._left_over.discard(index)
            if not self._left_over:
                self._dispatcher.unpark_all()
        if self._open is not None:
            self._open.popleft()
            if self._consumers and self._next_ready() is not None:
                self._consumers.unpark()  # the one woken for that outcome found it not yet due
        if len(self._workers) > len(self._ready) - len(self._left_over):
            self._workers.unpark()
        if self._consumers and self._drained():
            self.end()  # no other take may ever come to tell them
        return outcome

    def _next_ready(self) -> int | None:
        queue = self._ready if self._open is None else self._open
        for index in queue:
            return index if index in self._ready else None
        return None

    def _drained(self) -> bool:
        states = self._states
        return states.source.exhausted and not (states.running or states.waiting or self._ready)
