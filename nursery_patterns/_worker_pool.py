"""The worker processes of one trio run: warm ones are reused, few start at a time, all end with it.

trio-parallel provides the worker and its pipes. This module chooses a worker for each call, and
ends all of them in time.
"""

from __future__ import annotations

import logging
import signal
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, final

import trio
import trio.lowlevel

from nursery_patterns._cpus import usable_cpus
from nursery_patterns._errors import WorkerCrashed
from nursery_patterns._worker import is_spent, main_module, prepare, starting_worker

if TYPE_CHECKING:
    from multiprocessing import Process

_log = logging.getLogger("nursery_patterns.processes")

# Seconds that an idle worker waits for its next call.
_IDLE = 600.0

# Seconds that idle workers get to leave when the run ends, before they are killed.
_GRACE = 0.3


@final
class WorkerPool:
    """The worker processes of one trio run, which end with it.

    Attributes:
        keeper: The system task that ends them.
    """

    def __init__(self) -> None:
        self.keeper = trio.lowlevel.spawn_system_task(self._keep)
        # Idle workers, by their most memory. A bound is set once in the life of a process, so that
        # nothing which runs in it can lift the bound.
        self._idle: defaultdict[int | None, Any] = defaultdict(_new_cache)
        # Invariant: at most `_most_starting` interpreters start at a time. More would compete for
        # the CPUs, and the first one would be ready as late as the last one.
        self._starting = 0
        self._most_starting = usable_cpus()
        # Where calls wait for an idle worker, or for the turn to start one.
        self._waiting = trio.lowlevel.ParkingLot()
        self._running = 0
        self._over: trio.Event | None = None

    async def run(
        self,
        name: str,
        job: Callable[[], object],
        limiter: trio.CapacityLimiter,
        max_memory_bytes: int | None,
    ) -> Any:
        """Run `job()` in a worker, within `limiter`. A cancel kills the worker.

        Args:
            name: Of the function, for errors.
            job: What to run; it can be pickled.
            limiter: Held until the job has ended.
            max_memory_bytes: Most memory of the worker, in bytes.

        Raises:
            WorkerCrashed: The worker ended during the job.
            OSError: No worker could be started.
        """
        import trio_parallel  # noqa: PLC0415 - loaded by now, in a thread

        self._running += 1
        try:
            async with limiter:
                return await self._run(job, max_memory_bytes)
        except trio_parallel.BrokenWorkerError as error:
            raise WorkerCrashed(_how_it_ended(error.args[-1], name)) from error
        finally:
            self._running -= 1
            if self._over is not None and not self._running:
                self._over.set()

    @trio.lowlevel.enable_ki_protection
    async def _run(self, job: Callable[[], object], max_memory_bytes: int | None) -> Any:
        idle = self._idle[max_memory_bytes]
        while True:
            worker = await self._take(idle, max_memory_bytes)
            result = await worker.run_sync(job)
            if result is not None:
                idle.append(worker)
                self._waiting.unpark_all()
                return result.unwrap()
            # The worker had left, as it was idle for long. Another one has to do the job.
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _take(self, idle: Any, max_memory_bytes: int | None) -> Any:
        """Return an idle worker, or start one when it may."""
        while True:
            idle.prune()
            if idle:
                return idle.pop()
            if self._starting < self._most_starting:
                return await self._start(max_memory_bytes)
            await self._waiting.park()

    async def _start(self, max_memory_bytes: int | None) -> Any:
        from trio_parallel._proc import SpawnProcWorker  # noqa: PLC0415 - see above

        # Set before a new process receives its data, which must not contain the main module.
        first: Any = partial(prepare, max_memory_bytes, main_module())
        self._starting += 1
        told = starting_worker.set(True)
        try:
            worker: Any = SpawnProcWorker(_IDLE, first, is_spent)
            await worker.start()
            await worker.run_sync(bool)  # which returns when the interpreter is ready
        finally:
            starting_worker.reset(told)
            self._starting -= 1
            self._waiting.unpark_all()
        return worker

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
            for worker in [worker for idle in self._idle.values() for worker in idle]:
                worker.kill()  # if there was no time, or no thread, to wait for its end

    async def _end_workers(self) -> None:
        """End those that are idle. An error here would crash the run, so it is only logged."""
        try:
            await trio.to_thread.run_sync(
                self._shut_down, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
        except RuntimeError as error:  # no thread can be started
            _log.debug("idle workers are not waited for: %s", error)

    def _shut_down(self) -> None:
        for idle in self._idle.values():
            try:
                idle.shutdown(_GRACE)
            except RuntimeError as error:  # the message names it; all of them have ended
                _log.debug("not all idle workers ended by themselves: %s", error)


def _new_cache() -> Any:
    from trio_parallel._proc import WorkerProcCache  # noqa: PLC0415 - loaded by now, in a thread

    return WorkerProcCache()


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
