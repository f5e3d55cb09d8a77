"""Work that goes on while a server serves, whichever of its connections come and go.

Each connection that is served brings a nursery of its own, since a task belongs to a block of code.
A job runs in one of them; if that one ends first, the job is cut and called again in another one.
So a job is a function that can be called again after a cancel.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

_log = logging.getLogger("trio_tools")

Job = Callable[[], Awaitable[None]]


class Jobs:
    """The jobs of one server."""

    def __init__(self) -> None:
        self._nurseries: list[trio.Nursery] = []
        # Those that have not ended by themselves, and where each runs.
        self._unfinished: dict[Job, trio.Nursery] = {}

    @asynccontextmanager
    async def opened(self, *first: Job) -> AsyncGenerator[None]:
        """Run jobs within the block; at its end they are cancelled, or go on in another block.

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
        """Start a job. False if nothing is served, so that it cannot run."""
        if not self._nurseries:
            return False
        nursery = self._nurseries[0]
        self._unfinished[job] = nursery
        nursery.start_soon(self._run, job)
        return True

    async def _run(self, job: Job) -> None:
        try:
            await job()
        except Exception:  # noqa: BLE001 - logged, and nobody waits for it
            # It would end the connection that it happens to run in, and all of its calls.
            _log.exception("a background job failed")
        del self._unfinished[job]  # a cancel does not come here

    def _move_from(self, nursery: trio.Nursery | None) -> None:
        cut = [job for job, where in self._unfinished.items() if where is nursery]
        for job in cut:
            if not self.start(job):
                del self._unfinished[job]
