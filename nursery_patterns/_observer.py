"""Callbacks for the items of a batch, and storage of their outcomes: `Observer` and `Journal`.

A journal is an observer that also returns stored outcomes, and that may make the batch wait until
it has written its data.
"""

# ruff: noqa: ARG002 - mypy takes a method without a statement as one that has to be written, and the
# `return` makes it one to ruff whose arguments should be used

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from inspect import isfunction
from typing import Any, Protocol, TypeVar

from nursery_patterns._outcomes import Outcome

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


class Observer(Protocol[ItemT, ValueT]):
    """Callbacks for each item of a batch: `Batch(fn, items, observer=...)`.

    Inherit from it and override the methods that you need. A method that is not overridden costs
    nothing.

    **When.** All methods are called synchronously, in the task that runs the item, so they must be
    quick and must not block. The order for an item is: `waiting` (each time it has to wait),
    `started`, `retried` (each time it is retried), and finally `ended` or `cut`. Between the return
    of the item's function and `ended` there is no checkpoint, so no cancel can come between them.
    When `ended` is called, the outcome is already in the report.

    **If a method raises**, the batch ends as if its source had failed: items in flight are
    cancelled, and the error leaves `run()` or `stream()` in an `ExceptionGroup`. Nothing is lost:
    an outcome that was passed to `ended` stays in the report, an item whose `started` raised has
    not started, and the next run continues from there.
    """

    def added(self, item: ItemT) -> None:
        """An item is about to be added to the batch's `Frontier`: `add` returns true for it.

        `Batch(...)` calls it for the first items, in their order. If it raises, the item is not
        added, and the error leaves `Frontier.add` or `Batch(...)`.
        """
        return

    def started(self, index: int, item: ItemT) -> None:
        """An item has its slot, and its function will be called next."""
        return

    def ended(self, outcome: Outcome[ItemT, ValueT]) -> None:
        """An item succeeded, failed or timed out; `outcome` is what the report has."""
        return

    def cut(self, index: int, item: ItemT) -> None:
        """A started item was cancelled before it had an outcome. Called at the end of the run.

        The next run starts the item again.
        """
        return

    def retried(
        self, index: int, item: ItemT, *, attempt: int, error: Exception, delay: float
    ) -> None:
        """Attempt number `attempt` (from 1) failed with `error`; the next one is in `delay` s."""
        return

    def waiting(self, index: int, item: ItemT, *, reason: str) -> None:
        """An item was taken from the source and has to wait before it starts.

        `reason` is `"bucket"` (a token of the batch's bucket), `"limiter"` (a token of the shared
        limiter) or `"key"` (the limit or the bucket of its key).
        """
        return


class Journal(Observer[ItemT, ValueT], Protocol[ItemT, ValueT]):
    """Stores the outcomes of a batch beyond its process: `Batch(fn, items, journal=...)`.

    A batch with a journal continues where an earlier one ended, in this process or in another one:
    items with an outcome in `outcomes()` do not run again. An item for which only `started` was
    called was in flight when the process ended, and runs again. So each outcome is stored once, and
    effects happen at least once.

    Over a `Frontier`, store the items that `added` and `started` are called with, in their order,
    each no later than any outcome that comes after it. Then `Frontier.restore` has what an item
    added if the item has an outcome.

    `started` and `ended` are as in `Observer`: synchronous, and with no checkpoint between the
    return of the item's function and `ended`. A journal that writes in another thread puts the
    outcome into its own queue in `ended`, and bounds that queue in `ready`.
    """

    def outcomes(self) -> Iterable[Outcome[ItemT, ValueT]]:
        """Return the stored outcomes, in any order. `Batch(...)` calls it once.

        Each is `succeeded`, `failed` or `timed_out`. Omit the failed ones to run them again. `item`
        may be None: the batch inserts its own item when it reaches that index. These outcomes are
        in the counts and the report from the beginning. A stream does not yield them.
        """
        return ()

    async def ready(self) -> None:
        """Return when another item may start.

        This is the back-pressure of the journal. While it waits, items in flight continue and no
        further item starts. The batch holds no token of a shared limiter meanwhile. A cancel ends
        the wait. An exception leaves the run, as from the other methods.

        It is awaited before each start; if the journal also has `behind`, only before starts for
        which `behind` returned true.
        """
        return

    def behind(self) -> bool:
        """Return whether `ready` must be awaited before the next item starts.

        Called synchronously before each start, possibly more than once. Override it if `ready`
        seldom waits, because awaiting costs several times as much as starting an item.
        """
        return False


def hook(observers: Iterable[object], name: str) -> Callable[..., None] | None:
    """Return one function that calls the method `name` of each observer that overrides it."""
    calls = [method for each in observers if (method := _own(each, name)) is not None]
    if not calls:
        return None
    if len(calls) == 1:
        return calls[0]

    def call_all(*args: Any, **kwargs: Any) -> None:
        for call in calls:
            call(*args, **kwargs)

    return call_all


def check_observer(name: str, observer: object) -> None:
    """Refuse an object that has no method of the protocols.

    Raises:
        TypeError: With the corrected call.
    """
    if not any(callable(getattr(observer, each, None)) for each in _NAMES):
        raise TypeError(
            f"{name} must be an object with methods such as `ended(outcome)`, got {observer!r}: "
            f"inherit from {name.capitalize()}, and write Batch(fn, items, {name}=...)"
        )


def ready_of(
    journal: object,
) -> tuple[Callable[[], Awaitable[None]] | None, Callable[[], bool] | None]:
    """Return `ready` and `behind` of a journal, if it overrides them.

    A `behind` without a `ready` is not called, because there is nothing to wait for.
    """
    ready = _own(journal, "ready")
    return ready, None if ready is None else _own(journal, "behind")


def _own(observer: object, name: str) -> Callable[..., Any] | None:
    method = getattr(observer, name, None)
    return None if getattr(method, "__func__", None) in _EMPTY else method


# The methods of the two protocols. They do nothing, so they are never called.
_EMPTY = frozenset(
    method for kind in (Observer, Journal) for method in vars(kind).values() if isfunction(method)
)
_NAMES = frozenset(
    name for kind in (Observer, Journal) for name in vars(kind) if not name.startswith("_")
)
