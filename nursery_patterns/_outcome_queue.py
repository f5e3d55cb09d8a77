"""Where workers hand outcomes to the consumer of a stream: a rendezvous, not a buffer.

A worker that has finished an item waits until the consumer has taken an outcome. So at most `limit`
outcomes wait for the consumer, and a slow consumer slows the workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from nursery_patterns._item_states import ItemStates
    from nursery_patterns._outcomes import Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

_OUTCOMES_PER_TURN = 16


class OutcomeQueue(Generic[ItemT, ValueT]):
    """The outcomes that wait for the consumer, and the workers that wait for it.

    Invariant: each undelivered outcome has one worker parked in `wait_until_taken`, except those
    that an earlier stream left. While there are any of those, no new item starts.
    """

    def __init__(self, states: ItemStates[ItemT, ValueT], *, ordered: bool) -> None:
        self._states = states
        self._ready = states.undelivered  # it outlives this stream
        self._left_over = set(self._ready)
        # Indexes not yet taken, lowest first. Items are pulled in that order, and returned ones
        # before new ones, so appending the new ones keeps it sorted.
        self._open: deque[int] | None = None
        if ordered:
            given_back = (index for index, _ in states.source.given_back())
            self._open = deque(sorted((*self._ready, *given_back)))
        self._closed = False
        self._taken = 0  # outcomes since the consumer let others run
        self._fresh_from = states.source.pulled
        self._dispatcher = trio.lowlevel.ParkingLot()
        self._workers = trio.lowlevel.ParkingLot()
        self._consumers = trio.lowlevel.ParkingLot()

    @property
    def ordered(self) -> bool:
        """Whether outcomes are yielded in input order."""
        return self._open is not None

    async def wait_for_fresh(self) -> None:
        """Wait until a new item may start.

        Otherwise each stream would leave `limit` more outcomes.
        """
        if self._left_over and not self._states.source.given_back():
            await self._dispatcher.park()

    def expect(self, index: int) -> None:
        """Record that an outcome of `index` will come. Called when the item is pulled."""
        if self._open is not None and index >= self._fresh_from:
            self._open.append(index)

    def offer(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Store an outcome for the consumer. It stays until it is taken, also after a cancel."""
        self._ready[outcome.index] = outcome
        if self._consumers:
            self._consumers.unpark()

    def wait_until_taken(self) -> Awaitable[None]:
        """Wait until the consumer has taken as many outcomes as are stored now."""
        return self._workers.park()  # no frame of its own: a frame costs time

    def end(self) -> None:
        """Signal the consumers that no further item will start."""
        self._consumers.unpark_all()

    def close(self) -> None:
        """Refuse further `take` calls: the stream's block was left."""
        self._closed = True
        self._consumers.unpark_all()

    def take_nowait(self) -> Outcome[ItemT, ValueT] | None:
        """Take the next outcome if there is one; None also if other tasks should run first.

        That is at every 16th outcome, where `take` is a checkpoint. A task switch per outcome would
        cost more than everything else here.
        """
        if self._closed or self._taken == _OUTCOMES_PER_TURN:
            return None
        index = self._next_ready()
        if index is None:
            return None
        self._taken += 1
        return self._give_out(index)

    async def take(self) -> Outcome[ItemT, ValueT] | None:
        """Take the next outcome when there is one; None when no more can come.

        Raises:
            trio.ClosedResourceError: The stream's block was left.
        """
        if self._taken == _OUTCOMES_PER_TURN:
            await trio.lowlevel.checkpoint()
        self._taken = 1
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
        """Deliver an outcome, and wake the tasks that wait for this."""
        outcome = self._ready.pop(index)
        if self._left_over:
            self._left_over.discard(index)
            if not self._left_over:
                self._dispatcher.unpark_all()
        if self._open is not None:
            self._open.popleft()
            if self._consumers and self._next_ready() is not None:
                self._consumers.unpark()  # the consumer woken for it found it out of order
        if len(self._workers) > len(self._ready) - len(self._left_over):
            self._workers.unpark()
        if self._consumers and self._drained():
            self.end()  # there may be no further take to wake them
        return outcome

    def _next_ready(self) -> int | None:
        queue = self._ready if self._open is None else self._open
        for index in queue:
            return index if index in self._ready else None
        return None

    def _drained(self) -> bool:
        states = self._states
        return states.source.exhausted and not (states.running or states.waiting or self._ready)
