"""The engine: one nursery, a bounded number of workers, and states that outlive every cancel.

Two kinds of task make a batch. The *dispatcher* waits for a token of the batch's limiter, takes an
item from the source and starts a worker for it. A *worker* runs items. While it may keep its slot
and items are there to take at once, it goes on with the next item itself, since keeping a task is
much cheaper than making one. So tasks exist only for items in flight, whatever the number of
items; and because the dispatcher waits in the limiter's queue, a limit that is raised takes effect
at that instant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

import trio

from nursery_patterns._item_states import ItemStates
from nursery_patterns._outcome_stream import OutcomeQueue
from nursery_patterns._outcomes import Outcome, Status, make_outcome
from nursery_patterns._slot import Slot, SlotLimiters
from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

# Until Python 3.12 it costs a Python call to look up a member of an enum.
_SUCCEEDED, _FAILED, _TIMED_OUT = Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT

# An item function that never waits would let one worker run on without end: after this many items
# in a row a worker lets the others, and a pending cancel, have their turn.
_ITEMS_PER_TURN = 16


class _OutOfTimeError(Exception):
    """An item's own scope, of so many seconds, cut it. Never leaves the worker."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Engine(Generic[ItemT, ValueT]):
    """Starts items as soon as there is a slot for them, and writes down what becomes of each.

    It has no state of its own but the wait for a token: what lasts is in `states`.

    Attributes:
        on_ended: Called after each item that ended, if anybody wants to know.
    """

    def __init__(
        self,
        fn: Callable[[ItemT], Awaitable[ValueT]],
        states: ItemStates[ItemT, ValueT],
        *,
        batch_limiter: trio.CapacityLimiter,
        shared_limiter: trio.CapacityLimiter | None,
        item_timeout: float | None,
        bucket: TokenBucket | None,
        fail_fast: bool,
        name: str,
    ) -> None:
        self.fn = fn
        self.states = states
        self.batch_limiter = batch_limiter
        self.shared_limiter = shared_limiter
        self.item_timeout = item_timeout
        self.bucket = bucket
        self.fail_fast = fail_fast
        self.name = name
        self.on_ended: Callable[[], None] | None = None
        # Whether a worker may take its next item itself: nothing to wait for but a slot, and
        # nothing has failed that cancels the rest.
        self.immediate = False
        self._waiting_for_token = trio.CancelScope()
        self._now = trio.current_time

    @property
    def item_timeout(self) -> float | None:
        """Seconds an item may take. Changing it holds for those that start from then on."""
        return self._item_timeout

    @item_timeout.setter
    def item_timeout(self, seconds: float | None) -> None:
        self._item_timeout = seconds
        # A cancel scope per item costs nearly as much as all the rest: only who asks pays for it.
        self.call = self.fn if seconds is None else _in_time(self.fn, seconds)

    async def dispatch(
        self, nursery: trio.Nursery, queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> None:
        """Start each item as soon as there is a slot for it, until the source is exhausted."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._now = trio.lowlevel.current_clock().current_time  # what trio.current_time asks
        self.immediate = self.states.source.immediate and self.bucket is None
        ordered = queue is not None and queue.ordered
        limiters = SlotLimiters(self.batch_limiter, self.shared_limiter, keep_batch_token=ordered)
        while not self.states.source.exhausted:
            if queue is not None:
                await queue.wait_for_fresh()
            with ExitStack() as giving_up:
                slot = giving_up.enter_context(Slot(limiters))
                entry = await self._next_entry(slot, queue)
                if entry is None:
                    break
                giving_up.pop_all()  # the slot is the worker's from here on
            nursery.start_soon(self._work, slot, *entry, queue, name=self.name)
        if queue is not None:
            queue.end()

    async def _next_entry(
        self, slot: Slot, queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> tuple[int, ItemT] | None:
        """Wait for a token, then for the item and the bucket, and last for the shared token."""
        with trio.CancelScope() as self._waiting_for_token:
            await slot.acquire_batch_token()
        if self.states.source.exhausted:
            return None
        if self.immediate:
            entry = self.states.source.pull_nowait()
        else:
            slot.release()  # nothing is held while the source or the bucket makes us wait
            entry = await self.states.source.pull()
        if entry is None:
            return None
        self.states.pulled(*entry)
        if queue is not None:
            queue.expect(entry[0])
        if self.bucket is not None:
            await self.bucket.acquire()
        await slot.acquire()
        return entry

    async def _work(  # noqa: C901 - one frame on purpose: every item and every cancel crosses it
        self, slot: Slot, index: int, item: ItemT, queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> None:
        """Run an item, and then others while the slot may be kept and items are there at once."""
        slot.begin()
        outcome: Outcome[ItemT, ValueT]
        now = self._now
        turns = 0
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # a failure may have come first
            self.states.started(index, item)
            while True:
                started = now()
                try:
                    try:
                        outcome = make_outcome(
                            index, item, _SUCCEEDED, await self.call(item), None, now() - started
                        )
                    except _OutOfTimeError as cut:
                        late = trio.TooSlowError(f"not done within {cut.seconds:g} s")
                        outcome = make_outcome(index, item, _TIMED_OUT, None, late, now() - started)
                    except Exception as exc:  # noqa: BLE001 - the one place where a failure ends
                        outcome = make_outcome(index, item, _FAILED, None, exc, now() - started)
                except* Exception as failures:
                    # A nursery of the item's own failed while it was cut: the failure is the
                    # item's, and the cancel that came with it goes on from here.
                    outcome = make_outcome(index, item, _FAILED, None, failures, now() - started)
                    self._conclude(outcome, queue)
                    if self.fail_fast:
                        self.immediate = False
                        raise
                else:
                    self._conclude(outcome, queue)  # no checkpoint since fn returned
                    if self.fail_fast:
                        self._pass_on(outcome)
                # An error's traceback has this frame, which must not have the error: the two would
                # keep each other, and the item, alive until a garbage collection.
                del outcome
                if queue is not None:
                    slot.release_shared_token()  # for others, while the consumer is busy
                    await queue.wait_until_taken()
                turns += 1
                if turns % _ITEMS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                entry = self._entry_at_once(slot, queue)
                if entry is None:
                    break
                index, item = entry
        finally:
            slot.end()
        if self.states.source.exhausted:
            self._waiting_for_token.cancel(reason="no items are left to wait for")

    def _entry_at_once(
        self, slot: Slot, queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> tuple[int, ItemT] | None:
        """Start another item, unless anything would have to be waited for."""
        if not self.immediate or self.states.source.exhausted or not slot.try_keep():
            return None
        entry = self.states.source.pull_nowait()
        if entry is not None:
            self.states.started(*entry)
            if queue is not None:
                queue.expect(entry[0])
        return entry

    def _conclude(
        self, outcome: Outcome[ItemT, ValueT], queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> None:
        """Write the outcome down and offer it. Without an await, so nothing is ever lost here."""
        self.states.ended(outcome)
        if queue is not None:
            queue.offer(outcome)
        if self.on_ended is not None:
            self.on_ended()  # last: it may run code that is not ours, and raise

    def _pass_on(self, outcome: Outcome[ItemT, ValueT]) -> None:
        if outcome.status is _FAILED:
            assert outcome.error is not None
            self.immediate = False  # no worker starts another item
            raise outcome.error


def _in_time(
    fn: Callable[[ItemT], Awaitable[ValueT]], seconds: float
) -> Callable[[ItemT], Awaitable[ValueT]]:
    """Put each call of the function within a scope of its own, and say so if that cut it."""

    async def call(item: ItemT) -> ValueT:
        with trio.move_on_after(seconds):
            return await fn(item)
        raise _OutOfTimeError(seconds)

    return call
