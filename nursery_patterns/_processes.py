"""CPU-bound calls in worker processes, which a cancel kills."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from nursery_patterns._arguments import (
    check_count,
    check_limiter,
    check_plain_function,
    check_seconds,
    name_of,
)
from nursery_patterns._cpus import usable_cpus
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._run_local import run_local
from nursery_patterns._worker import patch_multiprocessing, run_job
from nursery_patterns._worker_pool import WorkerPool

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

# An interpreter with its modules needs tens of megabytes before it runs anything.
_LEAST_MEMORY = 64 * 2**20

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns processes"
)


def current_default_process_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_process` in this trio run: one per CPU unless changed."""
    return run_local(_limiter, lambda: trio.CapacityLimiter(usable_cpus()))


async def run_in_process(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    max_memory_bytes: int | None = None,
    max_cpu_seconds: float | None = None,
) -> _T:
    """Run `fn(*args)` in a worker process and return its value; for CPU-bound calls.

    Workers stay warm and are reused, last used first; a call finds its arguments, its value and
    the worker's module globals, and nothing else, in particular no context variables and thus no
    request context. The first call of a worker waits for an interpreter to start and to import
    the module of `fn`. At most `usable_cpus()` interpreters start at a time; a call that waits to
    start one takes a worker that becomes free first. The main module is imported only if `fn` or
    an argument is defined in it; its work then has to be under `if __name__ == "__main__":`.
    Arguments and value are pickled in the event loop: send a path instead of many megabytes. An
    exception in `fn` arrives as itself.

    A worker imports from the same directories as its parent. Code in the working directory does not
    run, unless the program itself was started with that directory in `sys.path`.

    **Cancellation**: kills the worker, so the computation stops, and returns when it is dead. The
    next call starts a new worker.

    No worker outlives the run. Idle workers end with it. If the parent is killed, a worker ends
    itself, also during a call.

    Args:
        fn: A plain function that the worker can import: defined at the top level of a module.
        *args: Its arguments, picklable.
        limiter: Bounds the running processes; `current_default_process_limiter()` by default.
        max_memory_bytes: Most memory of the worker in bytes, including interpreter and modules; at
            least 64 MiB. Python code that needs more raises `MemoryError`; a C library may crash.
            Calls with the same bound share workers. Linux enforces it (`RLIMIT_DATA`); other
            systems may not.
        max_cpu_seconds: Most CPU seconds of the call, over all its threads, rounded up to the next
            whole second of the worker. If a call needs more, its worker is killed.

    Raises:
        TypeError: `fn` is async or not callable, it or an argument cannot be pickled, `limiter` is
            not a limiter, or a bound is not a number.
        ValueError: A bound is too low.
        MemoryError: The call needed more than `max_memory_bytes`.
        OSError: No worker could be started, because of too few descriptors, processes or memory.
            Only this call fails; the next one tries again.
        WorkerCrashed: The process died during this call, used more than `max_cpu_seconds`, `fn`
            raised `SystemExit` or `KeyboardInterrupt`, or the main module is needed and cannot be
            imported.
    """
    check_plain_function(fn, "run_in_process")
    check_limiter(
        limiter, call="await run_in_process(fn, argument, limiter=trio.CapacityLimiter(3))"
    )
    if max_memory_bytes is not None:
        bounded = "await run_in_process(fn, argument, max_memory_bytes=500_000_000)"
        check_count("max_memory_bytes", max_memory_bytes, call=bounded, minimum=_LEAST_MEMORY)
    if max_cpu_seconds is not None:
        bounded = "await run_in_process(fn, argument, max_cpu_seconds=30)"
        max_cpu_seconds = check_seconds("max_cpu_seconds", max_cpu_seconds, call=bounded)
    job = _pickle_job(fn, args)
    workers = await _workers_of_this_run()
    return await workers.run(
        name_of(fn),
        partial(run_job, job, name_of(fn), max_cpu_seconds),
        current_default_process_limiter() if limiter is None else as_limiter(limiter),
        max_memory_bytes,
    )


_workers: trio.lowlevel.RunVar[WorkerPool] = trio.lowlevel.RunVar("nursery_patterns workers")


async def _workers_of_this_run() -> WorkerPool:
    # Most programs never start a process, and loading what does takes a tenth of a second. It is
    # loaded here and not in the system task, in which a failure would end the whole run.
    if "trio_parallel" not in sys.modules:
        loading = trio.CapacityLimiter(1)  # trio's own may be taken
        await trio.to_thread.run_sync(importlib.import_module, "trio_parallel", limiter=loading)
    patch_multiprocessing()
    return run_local(_workers, WorkerPool)


def keeper_of_workers() -> trio.lowlevel.Task | None:
    """Return the task that owns the workers of this run; None if there are none."""
    try:
        return _workers.get().keeper
    except LookupError:
        return None


def _pickle_job(fn: Callable[..., object], args: tuple[object, ...]) -> bytes:
    try:
        return pickle.dumps((fn, args), protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name_of(fn)} and its arguments must be picklable to be sent to another process, "
            f"but: {error}. Use a function defined at the top level of a module, not a lambda, a "
            "closure or a method of an object that holds open files, locks or connections; or "
            "stay in this process with run_in_thread"
        ) from error
