"""Threads and processes that work for a tool: their limits, and how long a cancel waits for them.

A thread that is blocked in a hung file system or in a foreign library cannot be cancelled. After
`PATIENCE_SECONDS` it is abandoned, so that the caller is answered in time and an application that
embeds the server can end.

Worker processes that compute are shared by all clients. Each client may use as many at once as
there are CPUs, and all clients together twice as many. So the long computations of one client
make another client's slower, but do not block them until they end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple, Unpack
from weakref import WeakValueDictionary

import trio

from nursery_patterns import (
    CombinedLimiter,
    current_request,
    run_in_process,
    run_in_thread,
    usable_cpus,
)

PATIENCE_SECONDS: Final = 0.5
"""How long a cancel waits for a thread. The status shows the abandoned ones."""

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


def check_cancelled() -> None:
    """Raise `trio.Cancelled` in a tool's thread if its call was cancelled.

    Does nothing in a worker process and on a node of a cluster, which a cancel kills.

    Raises:
        trio.Cancelled: The call was cancelled.
        trio.RunFinishedError: The thread was abandoned, and the run has ended.
    """
    try:
        trio.from_thread.check_cancelled()
    except trio.RunFinishedError:
        raise
    except RuntimeError:
        return  # not a thread of trio


async def run_in_tool_thread(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
) -> _T:
    """Run `fn(*args)` as `run_in_thread` does, but leave it `PATIENCE_SECONDS` after a cancel.

    It holds its token of the limiter until it ends.
    """
    return await run_in_thread(fn, *args, limiter=limiter, abandon_after=PATIENCE_SECONDS)


class LimiterOfEachClient:
    """A limiter for each client, made at its first use and dropped when unused.

    Args:
        total_tokens: Limit of concurrent holders of one client.
    """

    def __init__(self, total_tokens: int) -> None:
        self._total_tokens = total_tokens
        # A thread that was abandoned holds its limiter until it ends.
        self._limiters: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    def current(self) -> trio.CapacityLimiter:
        """Return the limiter of the client whose request is served."""
        request = current_request()
        client_id = "" if request is None else request.client_id
        limiter = self._limiters.get(client_id)
        if limiter is None:
            limiter = self._limiters[client_id] = trio.CapacityLimiter(self._total_tokens)
        return limiter


_workers_of: Final = trio.lowlevel.RunVar[tuple[LimiterOfEachClient, trio.CapacityLimiter]](
    "trio_tools workers"
)


def worker_limiter() -> CombinedLimiter:
    """Return the limiter of the worker processes of the client whose request is served."""
    try:
        each, together = _workers_of.get()
    except LookupError:
        cpus = usable_cpus()
        each, together = LimiterOfEachClient(cpus), trio.CapacityLimiter(2 * cpus)
        _workers_of.set((each, together))
    return CombinedLimiter(each.current(), together)


async def run_in_tool_process(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
    max_memory_bytes: int | None = None,
    max_cpu_seconds: float | None = None,
) -> _T:
    """Run `fn(*args)` as `run_in_process` does, by default within the current client's share."""
    return await run_in_process(
        fn,
        *args,
        limiter=limiter or worker_limiter(),
        max_memory_bytes=max_memory_bytes,
        max_cpu_seconds=max_cpu_seconds,
    )
