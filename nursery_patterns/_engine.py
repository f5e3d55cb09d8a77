"""The engine: one nursery, a bounded number of workers, and states that outlive every cancel.

Two kinds of task make a batch. The *dispatcher* waits for a token of the batch's limiter and
starts a worker for it. A *worker* takes an item from the intake, runs it, and goes on with the
next one while it may keep its slot, since keeping a task is much cheaper than making one. So tasks
exist only for items in flight; and because the dispatcher waits in the limiter's queue, a limit
that is raised takes effect at that instant.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import trio

from nursery_patterns._intake import Intake
from nursery_patterns._item_calls import OutOfTimeError
from nursery_patterns._outcome_queue import OutcomeQueue
from nursery_patterns._outcomes import Outcome, Status, make_outcome
from nursery_patterns._plan import Plan
from nursery_patterns._slot import Slot, SlotLimiters
from nursery_patterns._tracebacks import release_frames

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

# Before Python 3.12 the lookup of an enum member costs a Python call.
_SUCCEEDED, _FAILED, _TIMED_OUT = Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT

# With an item function that never waits, one worker would run without end. After this many items in
# a row a worker runs a checkpoint.
_ITEMS_PER_TURN = 16


class Engine(Generic[ItemT, ValueT]):
    """One run of a batch: its dispatcher and its workers.

    Args:
        plan: The function, and the rules for each item.
        queue: Where outcomes are handed to the consumer of a stream; None without a consumer.
    """

    def __init__(
        self, plan: Plan[ItemT, ValueT], queue: OutcomeQueue[ItemT, ValueT] | None = None
    ) -> None:
        self._plan = plan
        self._states = plan.states
        self._source = plan.states.source
        self._queue = queue
        self._now = trio.lowlevel.current_clock().current_time  # the source of trio.current_time
        self._limiters = SlotLimiters(
            plan.batch_limiter,
            plan.shared_limiter,
            keep_batch_token=queue is not None and queue.ordered,
            leave_key=None if plan.keys is None else plan.keys.leave,
        )
        self._intake = Intake(plan, self._limiters, queue)
        self._until_exhausted = trio.CancelScope()

    async def run(self, nursery: trio.Nursery) -> None:
        """Start a worker of the nursery for each token of the batch's limiter, until the end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        turn = self._intake.turn
        with self._until_exhausted:
            while not self._source.exhausted:
                if self._queue is not None:
                    await self._queue.wait_for_fresh()
                await turn.wait_until_free()
                await trio.lowlevel.checkpoint()  # workers come first, and may find the end
                slot = Slot(self._limiters)
                await slot.acquire_batch_token()
                if self._source.exhausted or turn.taken:
                    slot.release()
                else:
                    nursery.start_soon(self._work, slot, name=self._plan.name)
        if self._queue is not None:
            self._queue.end()

    async def _work(self, slot: Slot) -> None:  # noqa: C901, PLR0912 - one frame on purpose
        """Run items one after the other, while there are items and the slot may be kept.

        A waiting item suspends and resumes through each frame between the item and trio. A second
        frame here costs as much as the record of an outcome.
        """
        plan, states, intake = self._plan, self._states, self._intake
        queue, now, turns = self._queue, self._now, 0
        ended = now()
        with slot:
            while True:
                # Nothing starts after a failure or a cancel. An item may have ended without having
                # noticed it, under a shield or because it does not wait.
                await trio.lowlevel.checkpoint_if_cancelled()
                if ended > intake.unchecked_until:
                    await intake.checkpoint_if_expired(ended)
                entry = intake.next_nowait(slot)
                if entry is None:
                    entry = await intake.next(slot)
                    if entry is None:
                        break
                    ended = now()
                started = ended
                index, item = entry
                # Between the return of the function and the record there is no checkpoint.
                try:
                    try:
                        value = await (
                            plan.call(item)
                            if plan.retries is None
                            else plan.retries.call(plan.call, slot, index, item)
                        )
                    except Exception as error:  # noqa: BLE001 - the one place where a failure ends
                        ended = now()
                        release_frames(error)
                        outcome = self._failure(index, item, error, ended - started)
                    else:
                        ended = now()
                        attempts = states.attempts_of(index) if states.attempts else 1
                        outcome = make_outcome(
                            index, item, _SUCCEEDED, value, None, ended - started, attempts
                        )
                except* Exception as failures:
                    # A nursery of the item's own failed while it was cancelled: the failure is the
                    # item's, and the cancel is raised again from here.
                    self._conclude(self._failure(index, item, failures, now() - started))
                    plan.raised.append(failures)
                    if plan.fail_fast:
                        raise
                else:
                    self._conclude(outcome)
                    if plan.fail_fast and outcome.status is _FAILED:
                        plan.raise_error_of(outcome)
                turns += 1
                if plan.keys is not None:
                    plan.keys.leave(slot)
                if queue is not None:
                    slot.release_shared_token()  # for others, while the consumer is busy
                    await queue.wait_until_taken()
                    ended = now()
                if turns % _ITEMS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                    ended = now()
                slot.fresh = False
        if self._source.exhausted:
            self._until_exhausted.cancel(reason="no items are left to start")

    def _failure(
        self, index: int, item: ItemT, error: Exception, elapsed: float
    ) -> Outcome[ItemT, Any]:
        """Make the outcome of an item that raised, or whose own deadline has passed."""
        attempts = self._states.attempts_of(index)
        if isinstance(error, OutOfTimeError):
            return make_outcome(index, item, _TIMED_OUT, None, error.error, elapsed, attempts)
        return make_outcome(index, item, _FAILED, None, error, elapsed, attempts)

    def _conclude(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Record the outcome and offer it. There is no await, so nothing is lost here."""
        self._states.ended(outcome)
        if self._queue is not None:
            self._queue.offer(outcome)
        if self._plan.on_ended is not None:
            self._plan.on_ended(outcome)  # last: it may run code that is not ours, and raise
