"""How a worker gets its next item, and all that has to be there before the item starts.

A worker takes its next item at once where there is nothing to wait for. Else it waits in turn with
the others (`PullTurn`): for the item, for what paces the batch, and last for the shared limiter.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from nursery_patterns._outcome_queue import OutcomeQueue
from nursery_patterns._plan import Plan
from nursery_patterns._pull_turn import PullTurn
from nursery_patterns._slot import Slot, SlotLimiters
from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

# Seconds after which a worker checks the deadline itself. Trio delivers a cancel only when the
# loop runs, and items that do not wait keep it from running.
_DEADLINE_UNCHECKED = 0.001

# Items in a row that are skipped, since they have an outcome from before.
_SKIPS_PER_TURN = 100


class Intake(Generic[ItemT, ValueT]):
    """Where the workers of one run get their items.

    Attributes:
        turn: Held by the worker that waits for the next item.
        unchecked_until: No worker looks at the deadline before this time.
    """

    def __init__(
        self,
        plan: Plan[ItemT, ValueT],
        limiters: SlotLimiters,
        queue: OutcomeQueue[ItemT, ValueT] | None,
    ) -> None:
        self._plan = plan
        self._states = plan.states
        self._source = plan.states.source
        self._keys = plan.keys
        self._queue = queue
        self._limiters = limiters
        self.turn = PullTurn()
        self.unchecked_until = -math.inf
        self._is_paced = plan.bucket is not None or plan.keys is not None
        self._awaits_journal = False  # whether the worker that has the turn awaits `ready`
        # Whether a worker may take its next item itself: there is nothing to wait for but a slot.
        self._immediate = self._is_immediate()

    def next_nowait(self, slot: Slot) -> tuple[int, ItemT] | None:
        """Start the next item, unless anything has to be waited for."""
        plan = self._plan
        if not self._immediate or self.turn.taken:
            return None
        if plan.behind is not None and plan.behind():
            return None
        if self._limiters.shared is None:
            if not slot.may_keep():
                return None
        elif self._source.exhausted or not slot.try_keep():
            return None  # without a token of others taken in vain
        entry = self._source.pull_nowait()
        if entry is not None:
            if self._is_paced and not self._may_start(slot, entry):
                self._source.put_back(entry)
                return None
            if self._queue is not None:
                self._queue.expect(entry[0])
            if plan.on_started is not None:
                self._tell_started(entry)
            index, item = entry
            self._states.started(index, item)
        return entry

    def _may_start(self, slot: Slot, entry: tuple[int, ItemT]) -> bool:
        """Take what paces the batch, or the key of the item, if that is there."""
        if self._plan.bucket is not None:
            return _has_taken(self._plan.bucket)
        if self._keys is not None:
            self._states.pulled(*entry)  # where it stays if its key is wrong
            if not self._keys.enter_nowait(slot, entry[1]):
                del self._states.waiting[entry[0]]
                return False
        return True

    async def next(self, slot: Slot) -> tuple[int, ItemT] | None:
        """Wait for the next item and for all that it needs, in turn, and start it; None at the end.

        Cancelled, the item stays among those that wait, and comes first in the next run.
        """
        plan, states, queue, keys = self._plan, self._states, self._queue, self._keys
        if not (slot.may_keep() and self._may_wait()):
            return None
        if self.turn.taken:
            slot.release()  # a worker that only waits for its turn holds nothing
            await self.turn.wait()
        with self.turn:
            if queue is not None:
                await queue.wait_for_fresh()
            if not slot.has_batch_token:
                await slot.acquire_batch_token()
            slot.lend()
            try:
                if plan.ready is not None:
                    await self._wait_until_ready(plan.ready)
                entry = await (self._pull_missing() if states.restored else self._source.pull())
            finally:
                slot.end_loan()
            if entry is None:
                return None
            states.pulled(*entry)
            if queue is not None:
                queue.expect(entry[0])
            if keys is None or keys.enter_nowait(slot, entry[1]):
                return await self._start(slot, entry)
            self._tell_waiting(entry, "key")
            if not slot.set_aside():  # so many wait for their keys that no further one is pulled
                await keys.enter(slot, entry[1])
                return await self._start(slot, entry)
        await keys.enter(slot, entry[1])
        return await self._start(slot, entry)

    def _may_wait(self) -> bool:
        """Whether a worker may wait for the next item, instead of ending.

        It may not while another one awaits the journal, or all of them would come to wait in turn,
        one item a turn, for ever after.
        """
        return not self._awaits_journal or self._plan.behind is None

    async def _wait_until_ready(self, ready: Callable[[], Awaitable[None]]) -> None:
        behind = self._plan.behind
        if behind is not None and not behind():
            return
        self._awaits_journal = True
        try:
            await ready()
        finally:
            self._awaits_journal = False

    async def _pull_missing(self) -> tuple[int, ItemT] | None:
        """Pull the next item that has no outcome from before."""
        states = self._states
        while (entry := await self._source.pull()) is not None and states.skip(*entry):
            if not states.restored:
                self._immediate = self._is_immediate()
            elif len(states.restored) % _SKIPS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        return entry

    async def _start(self, slot: Slot, entry: tuple[int, ItemT]) -> tuple[int, ItemT]:
        """Wait for the token of the bucket and for the slot, and note that the item starts."""
        plan = self._plan
        if plan.bucket is not None and not _has_taken(plan.bucket):
            slot.release_for_wait()  # no slot is held while a token is waited for
            self._tell_waiting(entry, "bucket")
            await plan.bucket.acquire()
        if not slot.acquire_nowait():
            self._tell_waiting(entry, "limiter")
            await slot.acquire()
        await trio.lowlevel.checkpoint_if_cancelled()
        now = trio.current_time()
        if now > self.unchecked_until:
            await self.checkpoint_if_expired(now)
        if plan.keys is not None:
            plan.keys.started(slot)
        if plan.on_started is not None:
            self._tell_started(entry)
        self._states.started(*entry)
        return entry

    async def checkpoint_if_expired(self, now: float) -> None:
        """Raise `Cancelled` if a deadline has passed that trio had no turn to see yet."""
        self.unchecked_until = now + _DEADLINE_UNCHECKED
        if trio.current_effective_deadline() <= now:
            await trio.lowlevel.checkpoint()

    def _tell_waiting(self, entry: tuple[int, ItemT], reason: str) -> None:
        if self._plan.on_waiting is not None:
            self._plan.on_waiting(*entry, reason=reason)

    def _tell_started(self, entry: tuple[int, ItemT]) -> None:
        self._states.pulled(*entry)  # if this raises, it stays there and does not start
        if self._plan.on_started is not None:
            self._plan.on_started(*entry)

    def _is_immediate(self) -> bool:
        if self._states.restored:
            return False
        if self._plan.ready is not None and self._plan.behind is None:
            return False
        if self._keys is not None and self._plan.bucket is not None:
            return False  # a token of one is not taken before the other can be had
        return self._source.immediate


def _has_taken(bucket: TokenBucket) -> bool:
    """Take a token of the bucket if it is there."""
    try:
        bucket.acquire_nowait()
    except trio.WouldBlock:
        return False
    return True
