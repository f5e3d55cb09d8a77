"""Keep the event loop free: blocking calls go to threads.

A thread cannot be stopped, which is what sets it apart from a process to a caller. Threads are
bounded by a limiter of their own, so that work offloaded here never takes the ones that trio
itself needs for files and name lookups.
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

# As many as trio allows itself: enough to wait on disks and databases, few enough to schedule.
_THREADS = 40

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns threads"
)
_abandoned: trio.lowlevel.RunVar[set[_Place]] = trio.lowlevel.RunVar(
    "nursery_patterns abandoned threads"
)


def current_default_thread_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_thread` in this trio run: 40 threads unless changed.

    It is not trio's default limiter, which `trio.Path` and name lookups use: tool work that fills
    this one does not make those wait.
    """
    return run_local(_limiter, lambda: trio.CapacityLimiter(_THREADS))


async def run_in_thread(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    abandon_on_cancel: bool = False,
    abandon_after: float | None = None,
) -> _T:
    """Run `fn(*args)` in a worker thread and return its value: for calls that wait.

    Context variables carry over into the thread, the request context among them. An exception in
    `fn` arrives as itself.

    **Cancellation**: a thread cannot be stopped, but `fn` itself may ask now and then whether it is
    still wanted, with `trio.from_thread.check_cancelled()`. By default a cancel is delivered only
    after `fn` has returned, however long that takes. With `abandon_on_cancel` the wait ends at once
    while the thread runs on, its result is dropped, and its place in the limiter stays taken until
    it ends. `abandon_after` is between the two: `fn` has that long to end before it is abandoned,
    and its result is dropped then too.

    Args:
        fn: A plain function; use `functools.partial` for keyword arguments.
        *args: Its arguments.
        limiter: Bounds the threads; `current_default_thread_limiter()` by default.
        abandon_on_cancel: Whether a cancel leaves the thread behind. Only for a `fn` whose side
            effects nobody minds after that. The same as `abandon_after=0`.
        abandon_after: Seconds from a cancel to when the thread is left behind; None for never.

    Raises:
        TypeError: `fn` is async, or not callable, or `limiter` is no limiter, or `abandon_after` no
            number.
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
        # They are meant to end a program. What `fn` raises is the failure of this call.
        raise WorkerCrashed(f"{name_of(fn)} raised {error!r} in its thread") from error


def abandoned_threads() -> int:
    """Return how many threads that `run_in_thread` abandoned in this trio run have not ended."""
    return len(run_local(_abandoned, set))


@final
class _Place:
    """A place in a limiter, held from before a thread starts until it ends, whoever waits for it.

    To `trio.to_thread.run_sync` it is the limiter; so it knows when the thread starts and ends.
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
        """Give a thread that still runs `patience` seconds to end, and then abandon it."""
        if self._held and patience:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + patience):
                await self._ended.wait()
        if self._held:
            self._abandoned.add(self)
