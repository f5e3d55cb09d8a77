"""Background work of a server, independent of any one connection.

Each served connection brings its own nursery, since a task belongs to a block of code. A job runs
in one of them. If that nursery ends first, the job is cancelled and called again in another one.
So a job must be a function that can be called again after a cancel.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

_log = logging.getLogger("trio_tools")

Job = Callable[[], Awaitable[None]]


@dataclass(frozen=True, eq=False)
class _Started:
    """A job that was started. The same function may be started several times at once."""

    job: Job
    nursery: trio.Nursery


class Jobs:
    """The jobs of one server."""

    def __init__(self) -> None:
        self._nurseries: list[trio.Nursery] = []
        # Jobs that have not ended, in the order of their start.
        self._unfinished: dict[_Started, None] = {}

    @asynccontextmanager
    async def opened(self, *first: Job) -> AsyncGenerator[None]:
        """Run jobs within the block. At its end they are cancelled, or continue in another block.

        Args:
            first: Jobs to start if no other block is open.
        """
        nursery = None
        try:
            async with trio.open_nursery() as nursery:
                self._nurseries.append(nursery)
                if len(self._nurseries) == 1:
                    for job in first:
                        self.start(job)
                try:
                    yield
                finally:
                    self._nurseries.remove(nursery)
                    nursery.cancel_scope.cancel(reason="the connection is served no more")
        finally:
            self._move_from(nursery)

    def start(self, job: Job) -> bool:
        """Start a job. Return False if no connection is served, so that it cannot run."""
        if not self._nurseries:
            return False
        started = _Started(job, self._nurseries[0])
        self._unfinished[started] = None
        started.nursery.start_soon(self._run, started)
        return True

    async def _run(self, started: _Started) -> None:
        try:
            await started.job()
        except Exception:  # noqa: BLE001 - logged, and nobody waits for it
            # It would end the connection whose nursery it runs in, and all calls of that
            # connection.
            _log.exception("a background job failed")
        del self._unfinished[started]  # not reached after a cancel

    def _move_from(self, nursery: trio.Nursery | None) -> None:
        for started in [each for each in self._unfinished if each.nursery is nursery]:
            del self._unfinished[started]
            self.start(started.job)  # in another nursery, if there is one
