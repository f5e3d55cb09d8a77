"""The engine: one nursery, a bounded number of workers, and states that outlive every cancel.

Two kinds of task make a batch. The *dispatcher* waits for a token of the batch's limiter and
starts a worker for it. A *worker* takes an item from the source, runs it, and goes on with the
next one while it may keep its slot, since keeping a task is much cheaper than making one. So tasks
exist only for items in flight; and because the dispatcher waits in the limiter's queue, a limit
that is raised takes effect at that instant.

A worker takes its next item at once where there is nothing to wait for. Else it waits in turn with
the others (`PullTurn`): for the item, for what paces the batch, and last for the shared limiter.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NoReturn, TypeVar

import trio

from nursery_patterns._item_states import ItemStates
from nursery_patterns._key_limits import KeyLimits
from nursery_patterns._observer import hook
from nursery_patterns._outcome_stream import OutcomeQueue
from nursery_patterns._outcomes import Outcome, Status, make_outcome
from nursery_patterns._pull_turn import PullTurn
from nursery_patterns._retry import Attempts, Retry, RetryBudget
from nursery_patterns._slot import Slot, SlotLimiters, released
from nursery_patterns._token_bucket import TokenBucket
from nursery_patterns._tracebacks import release_frames

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

# Until Python 3.12 it costs a Python call to look up a member of an enum.
_SUCCEEDED, _FAILED, _TIMED_OUT = Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT

# An item function that never waits would let one worker run on without end: after this many items
# in a row a worker lets the others have their turn.
_ITEMS_PER_TURN = 16

# Seconds after which a worker looks at the deadline itself. Trio makes a cancel of it only when the
# loop gets to run, which items that do not wait prevent.
_DEADLINE_UNCHECKED = 0.001


# Items in a row that are skipped, since they have an outcome from before.
_SKIPS_PER_TURN = 100


class _OutOfTimeError(Exception):
    """An item's own scope cut it; what the outcome gets as its error. Never leaves the worker."""

    def __init__(self, error: trio.TooSlowError) -> None:
        super().__init__()
        self.error = error


class Engine(Generic[ItemT, ValueT]):
    """How a batch runs its items: what outlives each run, and may be changed while one goes on.

    Attributes:
        states: The state of each item, which is what lasts.
        ready: Awaited before a start, if there is a journal that wants it.
        behind: Whether `ready` is to be awaited now; None if it is before each start.
    """

    def __init__(
        self,
        fn: Callable[[ItemT], Awaitable[ValueT]],
        states: ItemStates[ItemT, ValueT],
        *,
        batch_limiter: trio.CapacityLimiter,
        shared_limiter: trio.CapacityLimiter | None,
        item_timeout: float | None,
        total_timeout: float | None,
        retry: Retry | None,
        bucket: TokenBucket | None,
        keys: KeyLimits[ItemT] | None,
        ready: Callable[[], Awaitable[None]] | None,
        behind: Callable[[], bool] | None,
        fail_fast: bool,
        name: str,
    ) -> None:
        self.fn = fn
        self.states = states
        self.batch_limiter = batch_limiter
        self.shared_limiter = shared_limiter
        self.item_timeout = item_timeout
        self.total_timeout = total_timeout
        self.retry = retry
        self.budget = RetryBudget(None if retry is None else retry.budget)
        self.bucket = bucket
        self.keys = keys
        self.ready = ready
        self.behind = behind
        self.fail_fast = fail_fast
        self.name = name
        self.raised: list[Exception] = []  # errors of outcomes that left a worker too
        self._observers: tuple[object, ...] = ()
        self.observe()

    @property
    def item_timeout(self) -> float | None:
        """Seconds an item may take. Changing it holds for those that start from then on."""
        return self._item_timeout

    @item_timeout.setter
    def item_timeout(self, seconds: float | None) -> None:
        self._item_timeout = seconds
        # A cancel scope per item costs nearly as much as all the rest: only who asks pays for it.
        self.call = self.fn if seconds is None else _in_time(self.fn, seconds)

    def observe(self, *observers: object) -> None:
        """Tell these too what happens, after those that are told already."""
        self._observers += observers
        self.on_started = hook(self._observers, "started")
        self.on_ended = hook(self._observers, "ended")
        self.on_cut = hook(self._observers, "cut")
        self.on_retried = hook(self._observers, "retried")
        self.on_waiting = hook(self._observers, "waiting")

    def raise_error_of(self, outcome: Outcome[ItemT, ValueT]) -> NoReturn:
        """Let the error of an outcome leave the run too, which cancels the rest."""
        assert outcome.error is not None
        self.raised.append(outcome.error)
        raise outcome.error

    def settle(self) -> None:
        """After a run: name the items that were cut, and let go of the frames of its tasks."""
        for error in self.raised:
            release_frames(error)
        self.raised.clear()
        if self.on_cut is not None:
            errors: list[Exception] = []
            for index, item in self.states.running.items():
                try:
                    self.on_cut(index, item)
                except Exception as error:  # noqa: BLE001 - the others are told first
                    errors.append(error)
            if errors:
                raise ExceptionGroup(f"the observers of {self.name}", errors)

    async def run(
        self, nursery: trio.Nursery, queue: OutcomeQueue[ItemT, ValueT] | None = None
    ) -> None:
        """Start all items that have not ended, in workers of the nursery."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await _Run(self, queue).dispatch(nursery)


class _Run(Generic[ItemT, ValueT]):
    """One run of a batch: its dispatcher and its workers."""

    def __init__(
        self, engine: Engine[ItemT, ValueT], queue: OutcomeQueue[ItemT, ValueT] | None
    ) -> None:
        self._engine = engine
        self._states = engine.states
        self._source = engine.states.source
        self._queue = queue
        self._keys = engine.keys
        self._is_paced = engine.bucket is not None or engine.keys is not None
        self._now = trio.lowlevel.current_clock().current_time  # what trio.current_time asks
        self._limiters = SlotLimiters(
            engine.batch_limiter,
            engine.shared_limiter,
            keep_batch_token=queue is not None and queue.ordered,
        )
        self._turn = PullTurn()
        self._awaits_journal = False  # whether the worker that has the turn awaits `ready`
        self._until_exhausted = trio.CancelScope()
        self._unchecked_until = -math.inf  # no worker looks at the deadline before
        # Whether a worker may take its next item itself: there is nothing to wait for but a slot.
        self._immediate = self._is_immediate()

    async def dispatch(self, nursery: trio.Nursery) -> None:
        """Start a worker for each token of the batch's limiter, until the source is exhausted."""
        with self._until_exhausted:
            while not self._source.exhausted:
                if self._queue is not None:
                    await self._queue.wait_for_fresh()
                await self._turn.wait_until_free()
                await trio.lowlevel.checkpoint()  # workers come first, and may find the end
                slot = Slot(self._limiters)
                await slot.acquire_batch_token()
                if self._source.exhausted or self._turn.taken:
                    slot.release()
                else:
                    nursery.start_soon(self._work, slot, name=self._engine.name)
        if self._queue is not None:
            self._queue.end()

    async def _work(self, slot: Slot) -> None:
        """Run items in a slot, and give back all that they hold."""
        keys = self._keys
        with slot:
            try:
                await self._run_items(slot)
            finally:
                if keys is not None:
                    keys.leave(slot)
        if self._source.exhausted:
            self._until_exhausted.cancel(reason="no items are left to start")

    async def _run_items(self, slot: Slot) -> None:
        """Run items one after the other, while there are items and the slot may be kept."""
        keys, queue, now, behind = self._keys, self._queue, self._now, self._engine.behind
        turns = 0
        ended = now()
        while True:
            # Nothing starts after a failure or a cancel. An item may have ended without having
            # noticed it, under a shield or because it does not wait.
            await trio.lowlevel.checkpoint_if_cancelled()
            if ended > self._unchecked_until:
                await self._checkpoint_if_expired(ended)
            entry = self._next_nowait(slot) if behind is None or not behind() else None
            if entry is None:
                entry = await self._next(slot)
                if entry is None:
                    return
                ended = now()
            ended = await self._run_item(slot, *entry, ended)
            turns += 1
            if keys is not None:
                keys.leave(slot)
            if queue is not None:
                slot.release_shared_token()  # for others, while the consumer is busy
                await queue.wait_until_taken()
                ended = now()
            if turns % _ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
                ended = now()
            slot.fresh = False

    async def _run_item(self, slot: Slot, index: int, item: ItemT, started: float) -> float:
        """Run an item that has started, record its outcome, and return when it ended.

        Between the return of its function and the record there is no checkpoint.
        """
        engine, now = self._engine, self._now
        try:
            try:
                if engine.retry is None:
                    value = await engine.call(item)
                else:
                    value = await self._call_with_retries(slot, index, item)
            except Exception as error:  # noqa: BLE001 - the one place where a failure ends
                ended = now()
                release_frames(error)
                outcome = _failure(index, item, error, ended - started, self._attempts_of(index))
            else:
                ended = now()
                attempts = 1 if engine.retry is None else self._attempts_of(index)
                outcome = make_outcome(
                    index, item, _SUCCEEDED, value, None, ended - started, attempts
                )
        except* Exception as failures:
            # A nursery of the item's own failed while it was cut: the failure is the item's, and
            # the cancel that came with it goes on from here.
            ended = now()
            self._conclude(
                _failure(index, item, failures, ended - started, self._attempts_of(index))
            )
            engine.raised.append(failures)
            if engine.fail_fast:
                raise
        else:
            self._conclude(outcome)
            if engine.fail_fast and outcome.status is _FAILED:
                engine.raise_error_of(outcome)
        return ended

    def _next_nowait(self, slot: Slot) -> tuple[int, ItemT] | None:
        """Start the next item, unless anything has to be waited for."""
        if not self._immediate or self._turn.taken:
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
            if self._engine.on_started is not None:
                self._tell_started(entry)
            self._states.started(*entry)
        return entry

    def _may_start(self, slot: Slot, entry: tuple[int, ItemT]) -> bool:
        """Take what paces the batch, or the key of the item, if that is there."""
        if self._engine.bucket is not None:
            return _has_taken(self._engine.bucket)
        if self._keys is not None:
            self._states.pulled(*entry)  # where it stays if its key is wrong
            if not self._keys.enter_nowait(slot, entry[1]):
                del self._states.waiting[entry[0]]
                return False
        return True

    async def _next(self, slot: Slot) -> tuple[int, ItemT] | None:
        """Wait for the next item and for all that it needs, in turn, and start it; None at the end.

        Cancelled, the item stays among those that wait, and comes first in the next run.
        """
        engine, queue = self._engine, self._queue
        if not slot.may_keep():
            return None
        if self._awaits_journal and engine.behind is not None:
            return None  # or all would come to wait in turn, one item a turn, for ever after
        if self._turn.taken:
            slot.release()  # a worker that only waits for its turn holds nothing
        async with self._turn:
            if queue is not None:
                await queue.wait_for_fresh()
            await slot.acquire_batch_token()
            slot.lend()
            try:
                if engine.ready is not None:
                    await self._wait_until_ready(engine.ready)
                entry = await self._pull()
            finally:
                slot.end_loan()
            if entry is None:
                return None
            self._states.pulled(*entry)
            if queue is not None:
                queue.expect(entry[0])
            keys = engine.keys
            if keys is None or keys.enter_nowait(slot, entry[1]):
                return await self._start(slot, entry)
            self._tell_waiting(entry, "key")
            if not slot.set_aside():  # so many wait for their keys that no further one is pulled
                await keys.enter(slot, entry[1])
                return await self._start(slot, entry)
        await keys.enter(slot, entry[1])
        return await self._start(slot, entry)

    async def _wait_until_ready(self, ready: Callable[[], Awaitable[None]]) -> None:
        behind = self._engine.behind
        if behind is not None and not behind():
            return
        self._awaits_journal = True
        try:
            await ready()
        finally:
            self._awaits_journal = False

    async def _start(self, slot: Slot, entry: tuple[int, ItemT]) -> tuple[int, ItemT]:
        """Wait for the token of the bucket and for the slot, and note that the item starts."""
        engine = self._engine
        if engine.bucket is not None:
            await self._take_from(engine.bucket, slot, entry)
        await self._acquire(slot, entry)
        await trio.lowlevel.checkpoint_if_cancelled()
        now = trio.current_time()
        if now > self._unchecked_until:
            await self._checkpoint_if_expired(now)
        if engine.keys is not None:
            engine.keys.started(slot)
        if engine.on_started is not None:
            self._tell_started(entry)
        self._states.started(*entry)
        return entry

    async def _call_with_retries(self, slot: Slot, index: int, item: ItemT) -> ValueT:
        """Call the function until it succeeds, the policy gives up, or its time is up."""
        if self._states.attempts:
            self._states.attempts.pop(index, None)  # those of an earlier run, which was cut
        seconds = self._engine.total_timeout
        if seconds is None:
            return await self._attempt(slot, index, item)
        with trio.move_on_after(seconds):
            return await self._attempt(slot, index, item)
        attempts = self._states.attempts.get(index) or self._first_attempt(index)
        raise _OutOfTimeError(attempts.too_slow(seconds))

    async def _attempt(self, slot: Slot, index: int, item: ItemT) -> ValueT:
        """Call the function until it succeeds or the policy gives up; back off without the slot."""
        engine = self._engine
        attempts: Attempts | None = None  # made for the few that fail
        while True:
            try:
                value = await engine.call(item)
            except Exception as exc:
                error = exc.error if isinstance(exc, _OutOfTimeError) else exc
                attempts = attempts or self._first_attempt(index)
                delay = attempts.delay_after(error)
                if delay is None:
                    raise
                if engine.on_retried is not None:
                    engine.on_retried(index, item, attempt=attempts.count, error=error, delay=delay)
            else:
                engine.budget.succeeded()
                return value
            async with released(slot):
                await trio.sleep(delay)
            attempts.count += 1

    def _first_attempt(self, index: int) -> Attempts:
        engine = self._engine
        assert engine.retry is not None
        attempts = self._states.attempts[index] = Attempts(engine.retry, engine.budget)
        attempts.count = 1
        return attempts

    def _attempts_of(self, index: int) -> int:
        """Return how often the function was called for an item that has ended."""
        if not self._states.attempts:
            return 1
        attempts = self._states.attempts.pop(index, None)
        return 1 if attempts is None else attempts.count

    async def _pull(self) -> tuple[int, ItemT] | None:
        """Pull the next item that has no outcome from before."""
        states = self._states
        if not states.restored:
            return await self._source.pull()
        while (entry := await self._source.pull()) is not None and states.skip(*entry):
            if not states.restored:
                self._immediate = self._is_immediate()
            elif len(states.restored) % _SKIPS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        return entry

    async def _take_from(self, bucket: TokenBucket, slot: Slot, entry: tuple[int, ItemT]) -> None:
        """Take a token of the bucket. While it has to be waited for, no slot is held."""
        if not _has_taken(bucket):
            slot.release()
            self._tell_waiting(entry, "bucket")
            await bucket.acquire()

    async def _acquire(self, slot: Slot, entry: tuple[int, ItemT]) -> None:
        if not slot.acquire_nowait():
            self._tell_waiting(entry, "limiter")
            await slot.acquire()

    async def _checkpoint_if_expired(self, now: float) -> None:
        """Raise `Cancelled` if a deadline has passed that trio had no turn to see yet."""
        self._unchecked_until = now + _DEADLINE_UNCHECKED
        if trio.current_effective_deadline() <= now:
            await trio.lowlevel.checkpoint()

    def _tell_waiting(self, entry: tuple[int, ItemT], reason: str) -> None:
        if self._engine.on_waiting is not None:
            self._engine.on_waiting(*entry, reason=reason)

    def _tell_started(self, entry: tuple[int, ItemT]) -> None:
        self._states.pulled(*entry)  # where it stays if this raises, which keeps it from starting
        if self._engine.on_started is not None:
            self._engine.on_started(*entry)

    def _is_immediate(self) -> bool:
        if self._states.restored:
            return False
        if self._engine.ready is not None and self._engine.behind is None:
            return False
        if self._keys is not None and self._engine.bucket is not None:
            return False  # a token of one is not taken before the other can be had
        return self._source.immediate

    def _conclude(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Record the outcome and offer it. Without an await, so nothing is ever lost here."""
        self._states.ended(outcome)
        if self._queue is not None:
            self._queue.offer(outcome)
        if self._engine.on_ended is not None:
            self._engine.on_ended(outcome)  # last: it may run code that is not ours, and raise


def _failure(
    index: int, item: ItemT, error: Exception, elapsed: float, attempts: int
) -> Outcome[ItemT, Any]:
    """Make the outcome of an item that raised, or that its own scope cut."""
    if isinstance(error, _OutOfTimeError):
        return make_outcome(index, item, _TIMED_OUT, None, error.error, elapsed, attempts)
    return make_outcome(index, item, _FAILED, None, error, elapsed, attempts)


def _has_taken(bucket: TokenBucket) -> bool:
    """Take a token of the bucket if it is there."""
    try:
        bucket.acquire_nowait()
    except trio.WouldBlock:
        return False
    return True


def _in_time(
    fn: Callable[[ItemT], Awaitable[ValueT]], seconds: float
) -> Callable[[ItemT], Awaitable[ValueT]]:
    """Put each call of the function within a scope of its own, and say so if that cut it."""

    async def call(item: ItemT) -> ValueT:
        with trio.move_on_after(seconds):
            return await fn(item)
        raise _OutOfTimeError(trio.TooSlowError(f"not done within {seconds:g} s"))

    return call
