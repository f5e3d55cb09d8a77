"""A thread that works for a tool, and how long a cancel waits for it.

A thread that is blocked in a hung file system or in a foreign library cannot be cancelled. After
`PATIENCE_SECONDS` it is abandoned, so that the caller is answered in time and an application that
embeds the server can end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple, Unpack

import trio

from nursery_patterns import run_in_thread

PATIENCE_SECONDS: Final = 0.5
"""How long a cancel waits for a thread. The status shows the ones that are left behind."""

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


def check_cancelled() -> None:
    """In a tool's thread: end it if its call was cancelled.

    Does nothing in a worker process and on a node of a cluster, which a cancel kills.

    Raises:
        trio.Cancelled: The call was cancelled.
        trio.RunFinishedError: The thread was left behind, and the run is over.
    """
    try:
        trio.from_thread.check_cancelled()
    except trio.RunFinishedError:
        raise
    except RuntimeError:
        return  # no thread of trio's


async def run_in_tool_thread(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
) -> _T:
    """Run `fn(*args)` as `run_in_thread` does, but leave it `PATIENCE_SECONDS` after a cancel.

    Its place in the limiter stays taken until it ends.
    """
    return await run_in_thread(fn, *args, limiter=limiter, abandon_after=PATIENCE_SECONDS)
