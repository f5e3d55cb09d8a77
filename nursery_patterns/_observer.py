"""Who is told what happens to the items of a batch, and who keeps it: `Observer` and `Journal`.

They are one idea. A journal is an observer that also has outcomes from before, and that may make
the batch wait until it has written what it was told.
"""

# ruff: noqa: ARG002 - mypy takes a method without a statement as one that has to be written, and the
# `return` makes it one to ruff whose arguments should be used

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from inspect import isfunction
from typing import Any, Protocol, TypeVar

from nursery_patterns._outcomes import Counts, Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Observer(Protocol[ItemT, ValueT]):
    """Is told what happens to each item of a batch: `Batch(fn, items, observer=...)`.

    Inherit from it and write the methods that are needed. A method that is not written costs
    nothing.

    **When.** All methods are called synchronously, in the task that runs the item, so they must be
    quick and must not block. An item is told in this order: `waiting` (each time it has to wait),
    `started`, `retried` (each time it is tried again), and at last `ended` or `cut`. Between the
    return of the item's function and `ended` there is no checkpoint, so no cancel can come between
    them. When `ended` is called the outcome is in the report already.

    **If a method raises**, the batch ends as if its source had failed: what is in flight is
    cancelled, and the error leaves `run()` or `stream()` in an `ExceptionGroup`. Nothing is lost:
    an outcome that was told stays in the report, an item whose `started` raised is not started,
    and the next run goes on from there.
    """

    def started(self, index: int, item: ItemT) -> None:
        """An item has its slot, and its function is called next."""
        return

    def ended(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """An item succeeded, failed or timed out; `outcome` is what the report has."""
        return

    def cut(self, index: int, item: ItemT) -> None:
        """A started item was cut before it had an outcome; told at the end of the run.

        The next run starts it again.
        """
        return

    def retried(
        self, index: int, item: ItemT, *, attempt: int, error: Exception, delay: float
    ) -> None:
        """Attempt number `attempt` (from 1) failed with `error`; the next one is in `delay` s."""
        return

    def waiting(self, index: int, item: ItemT, *, reason: str) -> None:
        """An item has left the source and has to wait before it starts.

        `reason` is `"bucket"` (a token of the batch's bucket), `"limiter"` (a token of the shared
        limiter) or `"key"` (the limit or the bucket of its key).
        """
        return


class Journal(Observer[ItemT, ValueT], Protocol[ItemT, ValueT]):
    """Keeps the outcomes of a batch beyond its process: `Batch(fn, items, journal=...)`.

    A batch with a journal goes on where an earlier one ended, in this process or in another one:
    items that have an outcome in `outcomes()` are not run again. An item of which only `started`
    was told was in flight when the process ended, and is run again. So outcomes are kept once, and
    effects happen at least once.

    `started` and `ended` are as in `Observer`: synchronous, and with no checkpoint between the
    return of the item's function and `ended`. A journal that writes in another thread puts the
    outcome into a queue of its own in `ended`, and bounds that queue in `ready`.
    """

    def outcomes(self) -> Iterable[Outcome[ItemT, ValueT]]:
        """Return the outcomes there are to begin with, in any order; read once, by `Batch(...)`.

        Each is `succeeded`, `failed` or `timed_out`; leave out the failed ones to have them run
        again. `item` may be None: the batch puts in its own when it comes to that index.
        They count, and are in the report, from the beginning. A stream does not yield them.
        """
        return ()

    async def ready(self) -> None:
        """Return when another item may start.

        This is the back-pressure of the journal: it need not wait at all, and while it waits the
        items in flight go on and no further one is started. The batch holds no token of a shared
        limiter meanwhile. A cancel ends the wait; what it raises leaves as from the other methods.

        It is awaited before each start; of a journal that has `behind` too, before each start for
        which `behind` returned true.
        """
        return

    def behind(self) -> bool:
        """Return whether `ready` has to be awaited before the next item starts.

        Called synchronously before each start, perhaps more than once. Write it where `ready`
        seldom waits: to await costs several times what starting an item costs.
        """
        return False


class BatchProgress(Protocol):
    """The counts of a batch, to read and to wait on. It is a `trio_util.AsyncValue` at run time.

    A predicate is a function of the counts. It is called at each change, so it has to be quick.
    """

    @property
    def value(self) -> Counts:
        """The counts now."""
        ...

    async def wait_value(
        self, value_or_predicate: Counts | Callable[[Counts], bool], *, held_for: float = 0.0
    ) -> Counts:
        """Wait until the counts match, and have matched for `held_for` seconds; return them."""
        ...

    async def wait_transition(
        self, value_or_predicate: Counts | Callable[[Counts, Counts], bool] = ...
    ) -> tuple[Counts, Counts]:
        """Wait for a change to counts that match; return the new and the old ones.

        The predicate gets both, the new ones first.
        """
        ...

    def eventual_values(
        self, value_or_predicate: Counts | Callable[[Counts], bool] = ..., held_for: float = 0.0
    ) -> AbstractContextManager[AsyncIterator[Counts]]:
        """Iterate over the counts that match. Some may be skipped, the latest is not."""
        ...

    def transitions(
        self, value_or_predicate: Counts | Callable[[Counts, Counts], bool] = ...
    ) -> AbstractContextManager[AsyncIterator[tuple[Counts, Counts]]]:
        """Iterate over the changes to counts that match, as (new, old)."""
        ...


def hook(observers: Iterable[object], name: str) -> Callable[..., None] | None:
    """Return one function that calls the method `name` of each observer that has its own."""
    calls = [method for each in observers if (method := _own(each, name)) is not None]
    if not calls:
        return None
    if len(calls) == 1:
        return calls[0]

    def call_all(*args: Any, **kwargs: Any) -> None:
        for call in calls:
            call(*args, **kwargs)

    return call_all


def ready_of(
    journal: object,
) -> tuple[Callable[[], Awaitable[None]] | None, Callable[[], bool] | None]:
    """Return the `ready` and the `behind` of a journal, as far as it has its own.

    A `behind` without a `ready` is not asked: there is nothing to wait for.
    """
    ready = _own(journal, "ready")
    return ready, None if ready is None else _own(journal, "behind")


def _own(observer: object, name: str) -> Callable[..., Any] | None:
    method = getattr(observer, name, None)
    return None if method is None or _is_inherited(method) else method


# The methods of the two protocols. They do nothing, so they are never called.
_EMPTY = frozenset(
    method for kind in (Observer, Journal) for method in vars(kind).values() if isfunction(method)
)


def _is_inherited(method: object) -> bool:
    """Whether a method is the one of the protocol, which does nothing."""
    return getattr(method, "__func__", None) in _EMPTY
