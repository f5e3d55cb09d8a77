"""Where CPU-bound functions run: in a thread, a worker process, or on a cluster.

An async operation may call CPU-bound functions, such as the one that extracts the main text of a
page. They run in a worker process, or on the cluster within `computing_on_cluster`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack

import trio

from nursery_patterns import run_in_cluster
from trio_tools.settings.threads import run_in_tool_process, run_in_tool_thread

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

Place = Literal["thread", "process", "cluster"]
"""Where a plain function runs."""

EXECUTIONS: Final[dict[str, str]] = {
    "async": "async (I/O-bound)",
    "thread": "sync, run in a thread",
    "process": "sync, run in a worker process that a cancel kills",
    "cluster": "cluster (CPU-bound), where a cancel frees the core",
}
"""How a tool's description names the place where it runs."""

_on_cluster: ContextVar[bool] = ContextVar("computations run on the cluster", default=False)


@contextmanager
def computing_on_cluster() -> Generator[None]:
    """Within the block, and in tasks started there, `run_computation` runs on the cluster."""
    token = _on_cluster.set(True)
    try:
        yield
    finally:
        _on_cluster.reset(token)


async def run_at(
    place: Place,
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
) -> _T:
    """Run a synchronous function there. A cancel has the effect that it has there.

    Args:
        place: The place.
        fn: A function that can be sent there.
        *args: Its arguments.
        limiter: Bounds the calls; by default that of the place.
    """
    if place == "thread":
        return await run_in_tool_thread(fn, *args, limiter=limiter)
    if place == "process":
        return await run_in_tool_process(fn, *args, limiter=limiter)
    return await run_in_cluster(fn, *args, limiter=limiter)


async def run_computation(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None,
    max_memory_bytes: int,
    max_cpu_seconds: float,
) -> _T:
    """Run `fn(*args)` in a worker process, or on the cluster within `computing_on_cluster`.

    Args:
        fn: A function that worker processes can import.
        *args: Its arguments.
        limiter: Bounds the calls; by default that of the place.
        max_memory_bytes: Of the worker process. Nodes of a cluster have a bound of their own.
        max_cpu_seconds: Of the call in a worker process. On a cluster the deadline of the caller
            bounds it.
    """
    if _on_cluster.get():
        return await run_in_cluster(fn, *args, limiter=limiter)
    return await run_in_tool_process(
        fn,
        *args,
        limiter=limiter,
        max_memory_bytes=max_memory_bytes,
        max_cpu_seconds=max_cpu_seconds,
    )
