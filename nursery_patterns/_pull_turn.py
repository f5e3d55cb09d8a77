"""The turn to wait for the next item of a batch."""

from __future__ import annotations

from typing import final

import trio


@final
class PullTurn:
    """One worker at a time waits for the next item, for its tokens and for its slot.

    So items start in the order of their source. The other workers wait for the turn, first in,
    first out. The dispatcher, which starts new workers, comes last.
    """

    def __init__(self) -> None:
        # Invariant: while a worker waits for the turn, it is taken.
        self.taken: bool = False
        self._workers = trio.lowlevel.ParkingLot()
        self._dispatcher = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Wait for a turn that another worker has. Woken, this one has it: enter its block."""
        await self._workers.park()

    def __enter__(self) -> None:
        self.taken = True

    def __exit__(self, *_: object) -> None:
        """Pass the turn on."""
        if self._workers:
            self._workers.unpark()
        else:
            self.taken = False
            self._dispatcher.unpark_all()

    async def wait_until_free(self) -> None:
        """Wait until no worker has the turn. No checkpoint if it is free."""
        while self.taken:
            await self._dispatcher.park()
