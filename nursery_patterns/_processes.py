"""Keep the event loop free: heavy computation goes to worker processes, which a cancel kills."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, final

import trio

from nursery_patterns._arguments import (
    check_count,
    check_limiter,
    check_plain_function,
    check_seconds,
    name_of,
)
from nursery_patterns._errors import WorkerCrashed
from nursery_patterns._limiter import AnyLimiter, as_limiter
from nursery_patterns._run_local import run_local
from nursery_patterns._worker import (
    is_spent,
    main_module,
    patch_multiprocessing,
    prepare,
    run_job,
    starting_worker,
)

if TYPE_CHECKING:
    from multiprocessing import Process

    from trio_parallel import WorkerContext

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_log = logging.getLogger("nursery_patterns.processes")

# Seconds that an idle worker waits for its next call.
_IDLE = 600.0

# Seconds that idle workers get to leave when the run ends, before they are killed.
_GRACE = 0.3

# An interpreter with its modules needs tens of megabytes before it runs anything.
_LEAST_MEMORY = 64 * 2**20

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "nursery_patterns processes"
)


def _usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def current_default_process_limiter() -> trio.CapacityLimiter:
    """Return the limiter of `run_in_process` in this trio run: one per CPU unless changed."""
    return run_local(_limiter, lambda: trio.CapacityLimiter(_usable_cpus()))


async def run_in_process(
    fn: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    limiter: AnyLimiter | None = None,
    max_memory_bytes: int | None = None,
    max_cpu_seconds: float | None = None,
) -> _T:
    """Run `fn(*args)` in a worker process and return its value: for calls that compute.

    Workers stay warm and are reused, last used first; a call finds its arguments, its value and
    the worker's module globals, and nothing else, in particular no context variables and thus no
    request context. The first call of a worker waits for an interpreter to start and to import
    the module of `fn`. The main module is imported only if `fn` or an argument is defined in it;
    its work then has to be under `if __name__ == "__main__":`. Arguments and value are pickled in
    the event loop: send a path instead of many megabytes. An exception in `fn` arrives as itself.

    A worker imports from where its parent does. Code in the working directory is not run unless
    the program itself was started with that directory in `sys.path`.

    **Cancellation**: kills the worker, so that the computation really stops, and returns when it
    is gone. Its next call starts a new one.

    No worker outlives the run: idle ones end with it, and one whose parent was killed ends itself,
    in the middle of a call too.

    Args:
        fn: A plain function that the worker can import: defined at the top level of a module.
        *args: Its arguments, picklable.
        limiter: Bounds the processes that compute; `current_default_process_limiter()` by default.
        max_memory_bytes: Most memory of the worker, in bytes, interpreter and modules included;
            at least 64 MiB. Python code that needs more raises `MemoryError`; a library in C may
            crash. Calls with the same bound share workers. Linux enforces it (`RLIMIT_DATA`);
            other systems may not.
        max_cpu_seconds: Most CPU time of the call, of all its threads together, rounded up to the
            next whole second of the worker. A call that needs more ends with its worker.

    Raises:
        TypeError: `fn` is async or not callable, it or an argument cannot be pickled, `limiter`
            is no limiter, or a bound is no number.
        ValueError: A bound is too low.
        MemoryError: The call needed more than `max_memory_bytes`.
        OSError: No worker could be started, because descriptors, processes or memory are short.
            It fails this call alone; the next one tries again.
        WorkerCrashed: The process died during this call, or used more than `max_cpu_seconds`, or
            `fn` raised `SystemExit` or `KeyboardInterrupt`, or the main module is needed and
            cannot be imported.
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


@final
class _Workers:
    """The worker processes of one trio run, which end with it."""

    def __init__(self) -> None:
        self.keeper = trio.lowlevel.spawn_system_task(self._keep)
        # By the most memory of a worker. A bound is set once in the life of a process, so that
        # nothing which runs in it can lift the bound.
        self._contexts: dict[int | None, WorkerContext] = {}
        self._running = 0
        self._over: trio.Event | None = None

    async def run(
        self,
        name: str,
        job: Callable[[], object],
        limiter: trio.CapacityLimiter,
        max_memory_bytes: int | None,
    ) -> Any:
        import trio_parallel  # noqa: PLC0415

        context = self._context_for(max_memory_bytes)
        self._running += 1
        told = starting_worker.set(True)
        try:
            return await context.run_sync(  # pyright: ignore[reportUnknownMemberType]
                job, kill_on_cancel=True, limiter=limiter
            )
        except trio_parallel.BrokenWorkerError as error:
            raise WorkerCrashed(_how_it_ended(error.args[-1], name)) from error
        finally:
            starting_worker.reset(told)
            self._running -= 1
            if self._over is not None and not self._running:
                self._over.set()

    def _context_for(self, max_memory_bytes: int | None) -> WorkerContext:
        if max_memory_bytes not in self._contexts:
            from trio_parallel import WorkerContext  # noqa: PLC0415

            # Not by `open_worker_context`: that one ends its workers in a thread of trio's default
            # limiter, of which calls that the program has abandoned may hold every token.
            self._contexts[max_memory_bytes] = WorkerContext._create(  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
                idle_timeout=_IDLE,
                init=partial(prepare, max_memory_bytes, main_module()),
                retire=is_spent,
                grace_period=_GRACE,
            )
        return self._contexts[max_memory_bytes]

    async def _keep(self) -> None:
        """Wait until the run ends, and end the workers; runs as a system task."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(2 * _GRACE, shield=True):
                if self._running:  # in other system tasks, which are cancelled now
                    self._over = trio.Event()
                    await self._over.wait()
                await self._end_workers()

    async def _end_workers(self) -> None:
        """End those that are idle. An error here would crash the run, so it is only logged."""
        try:
            await trio.to_thread.run_sync(
                self._shut_down, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except RuntimeError as error:  # no thread can be started; workers end with this process
            _log.debug("idle workers were not waited for: %s", error)

    def _shut_down(self) -> None:
        for context in self._contexts.values():
            cache: Any = getattr(context, "_worker_cache")  # noqa: B009 - its private part
            try:
                cache.shutdown(_GRACE)
            except RuntimeError as error:  # it says which; every one of them is gone now
                _log.debug("not all idle workers ended by themselves: %s", error)


_workers: trio.lowlevel.RunVar[_Workers] = trio.lowlevel.RunVar("nursery_patterns workers")


async def _workers_of_this_run() -> _Workers:
    # Most programs never start a process, and loading what does takes a tenth of a second. It is
    # loaded here and not in the system task, in which a failure would end the whole run.
    if "trio_parallel" not in sys.modules:
        loading = trio.CapacityLimiter(1)  # trio's own may be taken
        await trio.to_thread.run_sync(importlib.import_module, "trio_parallel", limiter=loading)
    patch_multiprocessing()
    return run_local(_workers, _Workers)


def keeper_of_workers() -> trio.lowlevel.Task | None:
    """Return the task that keeps the workers of this run warm; None without any."""
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


def _how_it_ended(process: Process, name: str) -> str:
    code = process.exitcode
    if code == -signal.SIGXCPU:
        return (
            f"{name} used all the CPU time that it may have, max_cpu_seconds, and its worker "
            "process was ended; other calls go on"
        )
    how = f"exited with status {code}"
    if code is not None and code < 0:
        names = {number.value: number.name for number in signal.Signals}  # not every real-time one
        how = f"was killed by {names.get(-code, f'signal {-code}')}"
    return (
        f"the worker process {how} while it ran {name}; other calls go on. SIGKILL mostly means "
        "that memory ran out: lower the limit of processes"
    )
