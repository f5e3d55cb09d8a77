"""`Batch`: the public interface of the engine, and the state that outlives each run."""

from __future__ import annotations

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Generic, Literal, Self, TypeVar, cast

import trio
from trio_util import AsyncValue

from nursery_patterns._arguments import check_choice, check_count, check_in_trio
from nursery_patterns._batch_arguments import (
    check_limits,
    check_work,
    key_limits,
    retry_policy,
    seconds_per_item,
    stored_outcomes,
)
from nursery_patterns._batch_progress import BatchProgress, ProgressPublisher
from nursery_patterns._engine import Engine
from nursery_patterns._errors import NestedBatch
from nursery_patterns._frontier import Frontier
from nursery_patterns._frontier_source import source_of
from nursery_patterns._item_states import ItemStates
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._observer import Journal, Observer, check_observer, hook, ready_of
from nursery_patterns._outcome_queue import OutcomeQueue
from nursery_patterns._outcomes import Counts, Outcome, Report
from nursery_patterns._plan import Plan
from nursery_patterns._retry import Retry
from nursery_patterns._slot import held_limiters
from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Batch(Generic[ItemT, ValueT]):
    """Run an async function over many items, a bounded number at a time.

    Finished outcomes stay readable in `report()`, also after a cancel::

        batch = Batch(fetch, urls, limit=10)
        with trio.move_on_after(30):
            await batch.run()
        report = batch.report()  # complete, or as far as it got

    Args:
        fn: Async function of one item. Its exceptions (`Exception` and below) become outcomes.
            Items that the same worker runs share one `contextvars` context.
        items: Any iterable or async iterable. It is read lazily and in order, one item for each
            free slot. At most one item is read ahead; it waits for the shared slot. The length of a
            sized iterable is read once, now.
        limit: Most items in flight in this batch.
        limiter: Capacity shared with others: every running item also holds one of its tokens,
            first come, first served. The effective bound is the smaller of the two.
        item_timeout: Seconds an item may take, counted from when it gets its slot. Then it becomes
            `timed_out`; the other items continue. With `retry`, seconds for each attempt.
        total_timeout: Seconds for all attempts of an item and the waits between them. Overrides
            that of `retry`.
        retry: Which failures are retried, and when. While an item backs off, others use its slot.
        bucket: Each item start takes one token. An item waits for its token without a slot.
        key: Function of an item that returns its key, for separate limits per key. Items that wait
            for their key do not delay others: up to 1,000 of them wait without a slot.
        limit_per_key: Most items of one key in flight.
        bucket_per_key: A `TokenBucket` to make one like it for each key; or a function of the key
            that makes one.
        on_error: `"collect"` makes a failure an outcome. `"cancel"` makes the first failure cancel
            the rest and leave the run as an `ExceptionGroup`. (A timed-out item is not a failure.)
        journal: Keeps outcomes beyond this process, and gives those there are to begin with.
        observer: Called when items start, end, wait and are retried; or several observers, called
            in their order.
        name: Shown in `repr` and in the names of the tasks.

    Attributes:
        name: As given, or the function's.

    Raises:
        TypeError: An argument has the wrong type; the message has the corrected call.
        ValueError: An argument is out of its bounds.
    """

    def __init__(
        self,
        fn: Callable[[ItemT], Awaitable[ValueT]],
        items: Iterable[ItemT] | AsyncIterable[ItemT] | Frontier[ItemT],
        *,
        limit: int = 10,
        limiter: AnyLimiter | None = None,
        item_timeout: float | None = None,
        total_timeout: float | None = None,
        retry: Retry | None = None,
        bucket: TokenBucket | None = None,
        key: Callable[[ItemT], Hashable] | None = None,
        limit_per_key: int | None = None,
        bucket_per_key: TokenBucket | Callable[[Any], TokenBucket] | None = None,
        on_error: Literal["collect", "cancel"] = "collect",
        journal: Journal[ItemT, ValueT] | None = None,
        observer: Observer[ItemT, ValueT] | Sequence[Observer[ItemT, ValueT]] | None = None,
        name: str | None = None,
    ) -> None:
        check_work(fn, items)
        check_limits(limit, limiter, bucket)
        item_timeout = seconds_per_item(item_timeout, call="Batch(fn, items, item_timeout=30)")
        retry, total_timeout = retry_policy(retry, total_timeout)
        keys = key_limits(key, limit_per_key, bucket_per_key)
        observers = observer if isinstance(observer, Sequence) else (observer,)
        for role, listener in (("journal", journal), *(("observer", one) for one in observers)):
            if listener is not None:
                check_observer(role, listener)
        check_choice("on_error", on_error, ("collect", "cancel"))

        self.name: str = name or getattr(fn, "__qualname__", type(fn).__name__)
        self._batch_limiter = trio.CapacityLimiter(limit)
        shared = None if limiter is None else as_limiter(limiter)
        self._limiter = shared or self._batch_limiter
        # These states outlive every run: they are outside of everything that can be cancelled.
        source = source_of(items)
        restored = () if journal is None else stored_outcomes(journal, source.total)
        self._states: ItemStates[ItemT, ValueT] = ItemStates(source, restored)
        ready, behind = ready_of(journal)
        self._plan = Plan(
            fn,
            self._states,
            batch_limiter=self._batch_limiter,
            shared_limiter=shared,
            item_timeout=item_timeout,
            total_timeout=total_timeout,
            retry=retry,
            bucket=bucket,
            keys=keys,
            ready=ready,
            behind=behind,
            fail_fast=on_error == "cancel",
            name=self.name,
        )
        told = (journal, *observers, limiter, source)
        self._plan.observe(*(one for one in told if one is not None))
        on_added = hook(told, "added")
        if on_added is not None:
            source.tell_added(on_added)
        self._progress: AsyncValue[Counts] | None = None
        self._active_since: float | None = None
        self._elapsed = 0.0

    def __repr__(self) -> str:
        counts = self._states.counts(active=self._active)
        total = "?" if counts.total is None else counts.total
        return f"<Batch {self.name}: {counts.done}/{total} done, {counts.in_flight} in flight>"

    async def run(self) -> Report[ItemT, ValueT]:
        """Run all items that have not ended, and report.

        Called again after a cancel or a failure, it resumes: items that were in flight run again
        first, then the rest. Items that ended are not repeated.

        A cancel from outside raises `Cancelled` once all items have unwound, as in any trio
        function. Finished outcomes stay in `report()`.

        Raises:
            ExceptionGroup: An item failed with `on_error="cancel"`, or the source raised.
            RuntimeError: The batch is already running. It is a `NestedBatch` if the caller is an
                item that holds this batch's limiter, so that the batch could wait for itself for
                ever. In a group: the source is a generator that a cancel closed while it made its
                next item, so its remaining items are lost. An iterator with its own `__next__` or
                `__anext__`, such as a memory channel, can be resumed.
        """
        with self._running(retain=True):
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                await Engine(self._plan).run(nursery)
        return self.report()

    @asynccontextmanager
    async def stream(
        self, *, ordered: bool = False, retain: bool = False
    ) -> AsyncGenerator[OutcomeStream[ItemT, ValueT]]:
        """Run the items and yield their outcomes, as they complete or in input order.

        Usage::

            async with batch.stream() as outcomes:
                async for outcome in outcomes:
                    ...

        While the consumer is busy, the workers continue until `limit` outcomes wait for it. Then
        they wait too. Leaving the block cancels the remaining items and returns once they have
        unwound. Outcomes that were not taken are kept for the next stream and for `report()`.

        Args:
            ordered: Yield in input order. A slow item delays the items after it.
            retain: Also keep the outcomes for `report()`. Otherwise a stream keeps only counts, so
                that memory stays O(limit) over an endless source.

        Raises:
            ExceptionGroup: The block raised, an item failed with `on_error="cancel"`, or the
                source raised.
            RuntimeError: As `run`.
        """
        with (
            self._running(retain=retain),
            closing(OutcomeQueue(self._states, ordered=ordered)) as queue,
        ):
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                engine = Engine(self._plan, queue)
                nursery.start_soon(engine.run, nursery, name=f"{self.name} dispatcher")
                yield OutcomeStream(self, queue)
                nursery.cancel_scope.cancel(reason="the stream's block was left")

    @property
    def limiter(self) -> trio.CapacityLimiter:
        """The limiter in force: the shared one, or the batch's own.

        A change of its `total_tokens` takes effect at once for items that have not started; 0
        pauses. Do not share the batch's own limiter with another batch. In a stream, outcomes that
        wait for the consumer hold its tokens, so a second batch inside that consumer could
        deadlock.
        """
        return self._limiter

    @property
    def limit(self) -> float:
        """Most items in flight in this batch. A change takes effect at once; 0 pauses.

        A whole number, or `math.inf` if the batch's own limiter was set to it.
        """
        return self._batch_limiter.total_tokens

    @limit.setter
    def limit(self, value: float) -> None:
        if value != math.inf:
            check_count("limit", value, call="batch.limit = 10", minimum=0)
        self._batch_limiter.total_tokens = value

    @property
    def item_timeout(self) -> float | None:
        """Seconds an item may take; None for no bound.

        A change applies to items that start later. Items in flight keep their timeout.
        """
        return self._plan.item_timeout

    @item_timeout.setter
    def item_timeout(self, value: float | None) -> None:
        self._plan.item_timeout = seconds_per_item(value, call="batch.item_timeout = 30")

    def report(self) -> Report[ItemT, ValueT]:
        """Report the current state of all items: during a run, after a cancel, or at the end.

        Costs O(items known). `counts` and `progress` are O(1).
        """
        return self._states.report(active=self._active, elapsed=self._seconds_run())

    @property
    def counts(self) -> Counts:
        """The number of items in each status now: the same as `report().counts`, in O(1)."""
        return self._states.counts(active=self._active)

    @property
    def progress(self) -> BatchProgress:
        """The counts as a value to wait on, as in `await batch.progress.wait_value(predicate)`.

        It is updated with every ended item, from the first use of this property on. A batch whose
        progress is never read does not pay for it.
        """
        if self._progress is None:
            self._progress = AsyncValue(self._states.counts(active=self._active))
            self._plan.observe(ProgressPublisher(self._progress, self._states))
        self._publish()
        return cast("BatchProgress", self._progress)

    def retain(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """Keep an outcome that a stream has yielded, for `report()`."""
        self._states.outcomes[outcome.index] = outcome

    @contextmanager
    def _running(self, *, retain: bool) -> Generator[None]:
        """Claim the batch for one run. Items that the last run did not finish come first."""
        check_in_trio("Batch.run() or Batch.stream()")
        if self._active:
            raise RuntimeError(f"{self!r} is running already: wait for it, or make another Batch")
        if any(held is self._limiter for held in held_limiters()):
            raise NestedBatch(
                f"{self!r} was started inside an item that holds the same limiter, and could wait "
                "for that item for ever: give the inner batch a limiter of its own"
            )
        self._states.begin(retain=retain)
        self._active_since = trio.current_time()
        try:
            yield
        finally:
            self._elapsed = self._seconds_run()
            self._active_since = None
            self._states.source.stop()
            self._publish()
            self._plan.settle()  # last: it may run code that is not ours, and raise
        if self._states.source.broken is not None:  # the items before the error have ended
            raise ExceptionGroup(f"{self!r}", [self._states.source.broken])

    @property
    def _active(self) -> bool:
        return self._active_since is not None

    def _seconds_run(self) -> float:
        if self._active_since is None:
            return self._elapsed
        return self._elapsed + trio.current_time() - self._active_since

    def _publish(self) -> None:
        if self._progress is not None:
            self._progress.value = self._states.counts(active=self._active)


class OutcomeStream(Generic[ItemT, ValueT]):
    """The outcomes of a running batch, as an async iterator. Made by `Batch.stream`.

    Several tasks may iterate over it at once. Each outcome goes to one of them.

    Attributes:
        batch: The batch, for its `report()` and `progress`.
    """

    def __init__(self, batch: Batch[ItemT, ValueT], queue: OutcomeQueue[ItemT, ValueT]) -> None:
        self.batch = batch
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome[ItemT, ValueT]:
        outcome = self._queue.take_nowait()
        if outcome is None:
            outcome = await self._queue.take()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def values(self) -> AsyncIterator[ValueT]:
        """Return an async iterator of the values only, as the source of another batch.

        Usage::

            async with stream_batch(download, urls, limit=20) as pages:
                report = await run_batch(parse, pages.values(), limit=4)
            failed = pages.batch.report().errors()  # those of this stage

        Outcomes of failed and timed-out items are kept for `report()` of this batch, so memory is
        O(failures). The second batch pulls, so a slow stage slows the stages before it.
        """
        return _Values(self)


class _Values(Generic[ItemT, ValueT]):
    """Not an async generator, because a cancel in the middle of an item would close it."""

    def __init__(self, outcomes: OutcomeStream[ItemT, ValueT]) -> None:
        self._outcomes = outcomes

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ValueT:
        async for outcome in self._outcomes:
            if outcome.succeeded:
                return outcome.unwrap()
            self._outcomes.batch.retain(outcome)
        raise StopAsyncIteration
