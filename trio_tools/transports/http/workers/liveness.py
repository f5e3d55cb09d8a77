"""Whether all workers are alive and their event loops run, as checked by their parent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio


class WorkerLinks:
    """The parent's ends of the links to its workers.

    A worker sends a byte when it accepts calls, and then one from its event loop for each byte
    that it receives.

    Args:
        count: Number of workers.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Workers that accept calls. A received byte sets the event.
        self._links: dict[int, tuple[trio.abc.Stream, trio.Event]] = {}
        self._came = trio.lowlevel.ParkingLot()

    async def hear(self, index: int, link: trio.abc.Stream, ready: Callable[[], None]) -> None:
        """Receive from a worker until its end; call `ready` when it accepts calls."""
        with suppress(trio.BrokenResourceError):
            if not await link.receive_some(1):
                return
            self._links[index] = link, trio.Event()
            self._came.unpark_all()
            ready()
            try:
                while await link.receive_some():
                    self._links[index][1].set()
            finally:
                del self._links[index]

    async def all_answer(self) -> None:
        """Return when each worker has answered; waits for workers that are starting.

        For a worker that has died or whose event loop is blocked it waits for ever, so bound it.
        """
        async with trio.open_nursery() as nursery:
            for index in range(self._count):
                nursery.start_soon(self._answers, index)

    async def _answers(self, index: int) -> None:
        while index not in self._links:
            await self._came.park()
        link, _ = self._links[index]
        answered = trio.Event()
        self._links[index] = link, answered
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await link.send_all(b"?")
        await answered.wait()
