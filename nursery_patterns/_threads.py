"""Blocking calls in worker threads.

Unlike a process, a thread cannot be stopped. These threads have their own limiter, so offloaded
work never takes the threads that trio needs for files and name lookups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack, cast, final

import trio

from nursery_patterns._arguments import (
    check_limiter,
    check_plain_function,
    check_seconds,
    name_of,
)
from nursery_patterns._errors import WorkerCrashed
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._run_local import run_local

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

# The same number as trio's default limiter.
_THREADS = 40

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns threads"
)
_abandoned: trio.lowlevel.RunVar[set[_Place]] = trio.lowlevel.RunVar(
    "nursery_patterns abandoned threads"
)


def current_default_thread_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_thread` in this trio run: 40 threads unless changed.

    It is not trio's default limiter, which `trio.Path` and name lookups use. They do not wait when
    this limiter is full.
    """
    return run_local(_limiter, lambda: trio.CapacityLimiter(_THREADS))


async def run_in_thread(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    abandon_on_cancel: bool = False,
    abandon_after: float | None = None,
) -> _T:
    """Run `fn(*args)` in a worker thread and return its value; for blocking calls.

    The thread inherits context variables, including the request context. An exception in `fn` is
    raised unchanged.

    **Cancellation**: a thread cannot be stopped, but `fn` can call
    `trio.from_thread.check_cancelled()` from time to time. By default a cancel is delivered only
    after `fn` has returned, however long that takes. With `abandon_on_cancel` the wait ends at once
    and the thread is abandoned: it continues, its result is dropped, and it keeps its token of the
    limiter until it ends. With `abandon_after`, `fn` has that many seconds to end before it is
    abandoned. Its result is dropped also if it ends in time.

    Args:
        fn: A plain function; use `functools.partial` for keyword arguments.
        *args: Its arguments.
        limiter: Bounds the threads; `current_default_thread_limiter()` by default.
        abandon_on_cancel: Whether a cancel abandons the thread. Only for a `fn` whose later side
            effects are harmless. The same as `abandon_after=0`.
        abandon_after: Seconds from a cancel until the thread is abandoned; None for never.

    Raises:
        TypeError: `fn` is async or not callable, `limiter` is not a limiter, or `abandon_after` is
            not a number.
        ValueError: `abandon_after` is negative or NaN.
        WorkerCrashed: `fn` raised `KeyboardInterrupt` or `SystemExit`.
    """
    check_plain_function(fn, "run_in_thread")
    check_limiter(
        limiter, call="await run_in_thread(fn, argument, limiter=trio.CapacityLimiter(3))"
    )
    places = current_default_thread_limiter() if limiter is None else as_limiter(limiter)
    if abandon_on_cancel:
        abandon_after = 0.0
    patience = math.inf
    if abandon_after is not None:
        call = "await run_in_thread(fn, argument, abandon_after=0.5)"
        patience = check_seconds("abandon_after", abandon_after, call=call, zero=True)
    thread = f"{name_of(fn)} from {trio.lowlevel.current_task().name}"
    if patience == math.inf:
        return await trio.to_thread.run_sync(_call, fn, *args, thread_name=thread, limiter=places)
    place = _Place(places, run_local(_abandoned, set))
    try:
        return await trio.to_thread.run_sync(
            _call,
            fn,
            *args,
            thread_name=thread,
            abandon_on_cancel=True,
            limiter=cast("trio.CapacityLimiter", place),
        )
    finally:
        await place.wait_or_abandon(patience=patience)


def _call(fn: Callable[[Unpack[_Args]], _T], *args: *_Args) -> _T:
    try:
        return fn(*args)
    except (KeyboardInterrupt, SystemExit) as error:
        # They would end the program, but an exception of `fn` is the failure of this call only.
        raise WorkerCrashed(f"{name_of(fn)} raised {error!r} in its thread") from error


def abandoned_threads() -> int:
    """Return how many threads abandoned by `run_in_thread` in this trio run still run."""
    return len(run_local(_abandoned, set))


@final
class _Place:
    """A token of a limiter, held from before a thread starts until it ends.

    `trio.to_thread.run_sync` uses it as its limiter, so it knows when the thread starts and ends.
    """

    def __init__(self, limiter: trio.CapacityLimiter, abandoned: set[_Place]) -> None:
        self._limiter = limiter
        self._abandoned = abandoned
        self._held = False
        self._ended = trio.Event()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._held = True

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self._held = False
        self._abandoned.discard(self)
        self._ended.set()

    async def wait_or_abandon(self, *, patience: float) -> None:
        """Wait up to `patience` seconds for a running thread, and then abandon it."""
        if self._held and patience:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + patience):
                await self._ended.wait()
        if self._held:
            self._abandoned.add(self)
