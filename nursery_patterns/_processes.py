"""Keep the event loop free: heavy computation goes to worker processes, which a cancel kills."""

from __future__ import annotations

import importlib
import logging
import math
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, final

import trio

from nursery_patterns._arguments import check_limiter, check_plain_function, name_of
from nursery_patterns._errors import WorkerCrashed
from nursery_patterns._run_local import run_local

if TYPE_CHECKING:
    from multiprocessing import Process

    import trio_parallel

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_log = logging.getLogger("nursery_patterns.processes")

# Seconds that idle workers get to leave when the run ends, before they are killed.
_GRACE = 1.0

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns processes"
)


def current_default_process_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_process` in this trio run: one per CPU unless changed."""
    return run_local(_limiter, lambda: trio.CapacityLimiter(os.cpu_count() or 1))


async def run_in_process(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
) -> _T:
    """Run `fn(*args)` in a worker process and return its value: for calls that compute.

    Workers stay warm and are reused, last used first; a call finds its arguments, its value and
    the worker's module globals, and nothing else, in particular no context variables and thus no
    request context. The first call of a worker waits for an interpreter to start and to import
    the main module and that of `fn`. Arguments and value are pickled in the event loop: send a
    path instead of many megabytes. An exception in `fn` arrives as itself.

    **Cancellation**: kills the worker, so that the computation really stops, and returns when it
    is gone. Its next call starts a new one.

    No worker outlives the run: idle ones end with it, and one whose parent was killed ends itself,
    in the middle of a call too.

    Args:
        fn: A plain function that the worker can import: defined at the top level of a module.
        *args: Its arguments, picklable.
        limiter: Bounds the processes that compute; `current_default_process_limiter()` by default.

    Raises:
        TypeError: `fn` is async or not callable, it or an argument cannot be pickled, or `limiter`
            is no limiter.
        WorkerCrashed: The process died during this call, or `fn` called `sys.exit`.
    """
    check_plain_function(fn, "run_in_process")
    check_limiter(limiter, "run_in_process")
    job = _pickle_job(fn, args)
    workers = await _workers_of_this_run()
    return await workers.run(
        name_of(fn), job, current_default_process_limiter() if limiter is None else limiter
    )


@final
class _Workers:
    """The worker processes of one trio run, which end with it."""

    def __init__(self) -> None:
        # Invariant: `_context` is there from when `opened` is set.
        self.opened = trio.Event()
        self.keeper: trio.lowlevel.Task | None = None
        self._context: trio_parallel.WorkerContext

    async def keep(self) -> None:
        """Hold the context open until the run ends; runs as a system task."""
        # Most programs never start a process, and loading what does takes a tenth of a second.
        await trio.to_thread.run_sync(importlib.import_module, "trio_parallel")
        import trio_parallel  # noqa: PLC0415

        try:
            async with trio_parallel.open_worker_context(  # pyright: ignore[reportUnknownMemberType]
                init=_end_with_parent, grace_period=_GRACE
            ) as self._context:
                self.opened.set()
                try:
                    await trio.sleep_forever()
                finally:
                    # Closing takes one of trio's own threads, and stuck calls that were abandoned
                    # may hold all of them. The run is over, so nobody needs that bound any more.
                    trio.to_thread.current_default_thread_limiter().total_tokens = math.inf
        except trio_parallel.BrokenWorkerError as error:
            # Every worker is gone, which is what matters; an error here would crash the run.
            _log.debug("not all idle workers ended by themselves: %s", error)

    async def run(self, name: str, job: bytes, limiter: trio.CapacityLimiter) -> Any:
        import trio_parallel  # noqa: PLC0415

        try:
            return await self._context.run_sync(  # pyright: ignore[reportUnknownMemberType]
                _run_job, job, kill_on_cancel=True, limiter=limiter
            )
        except trio_parallel.BrokenWorkerError as error:
            raise WorkerCrashed(
                f"the worker process {_how_it_ended(error.args[-1])} while it ran {name}; other "
                "calls go on. SIGKILL mostly means that memory ran out: lower the limit of "
                "processes. Status 1 in every call mostly means that the main module does its work "
                'on import: put it under if __name__ == "__main__":'
            ) from error


_workers: trio.lowlevel.RunVar[_Workers] = trio.lowlevel.RunVar("nursery_patterns workers")


async def _workers_of_this_run() -> _Workers:
    workers = run_local(_workers, _start_workers)
    await workers.opened.wait()
    return workers


def _start_workers() -> _Workers:
    workers = _Workers()
    workers.keeper = trio.lowlevel.spawn_system_task(workers.keep)
    return workers


async def keeper_of_workers() -> trio.lowlevel.Task | None:
    """Return the task that keeps the workers of this run warm, once it does; None without any."""
    try:
        workers = _workers.get()
    except LookupError:
        return None
    await workers.opened.wait()
    return workers.keeper


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


def _how_it_ended(process: Process) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"exited with status {code}"
    names = {number.value: number.name for number in signal.Signals}  # not of every real-time one
    return f"was killed by {names.get(-code, f'signal {-code}')}"


# What runs in the worker.


def _run_job(job: bytes) -> object:
    fn, args = pickle.loads(job)  # noqa: S301 - from our own parent
    try:
        return fn(*args)
    except SystemExit as error:  # which meant to end this process, not the one that asked
        raise WorkerCrashed(f"{name_of(fn)} called sys.exit({error.code!r})") from None


def _end_with_parent() -> None:
    """Watch the parent from a thread; the main thread may be busy with a call."""
    from multiprocessing import parent_process  # noqa: PLC0415 - only workers need it

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
