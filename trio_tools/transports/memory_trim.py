"""Memory of large requests, given back to the system when they are done.

The C library keeps what was freed between blocks that are in use: after a burst of large requests
a process holds hundreds of megabytes that nobody uses.
"""

from __future__ import annotations

import ctypes
from typing import Final

import trio

TRIM_BYTES: Final = 16 * 2**20
"""Bytes of requests after which memory is given back."""

TRIM_PAUSE_SECONDS: Final = 2.0
"""Least time between two times, in which what was asked for meanwhile ends too."""


class MemoryTrim:
    """Gives memory back some time after many bytes of requests."""

    def __init__(self) -> None:
        self._bytes = 0
        self._due = trio.Event()

    def add(self, count: int) -> None:
        """Count the bytes of a request that is done."""
        self._bytes += count
        if self._bytes >= TRIM_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Give memory back whenever it is due, until this is cancelled."""
        while True:
            await self._due.wait()
            await trio.sleep(TRIM_PAUSE_SECONDS)
            self._bytes = 0
            self._due = trio.Event()
            # It takes some milliseconds for each hundred megabytes.
            await trio.to_thread.run_sync(_trim, abandon_on_cancel=True)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
