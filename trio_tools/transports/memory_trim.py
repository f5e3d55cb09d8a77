"""Memory of large requests and results, given back to the system when they are freed.

The C library keeps what was freed between blocks that are in use: after a burst of large calls a
process holds hundreds of megabytes that nobody uses.
"""

from __future__ import annotations

import ctypes
from typing import Final

import trio

TRIM_BYTES: Final = 16 * 2**20
"""Freed bytes after which memory is given back."""

TRIM_PAUSE_SECONDS: Final = 2.0
"""How long nothing large has to be freed before memory is given back, in seconds."""

MOST_PAUSES: Final = 3
"""After so many of these pauses memory is given back also while large values are freed."""


class MemoryTrim:
    """Gives memory back in a quiet moment after many bytes were freed."""

    def __init__(self) -> None:
        self._bytes = 0
        self._due = trio.Event()

    def add(self, count: int) -> None:
        """Count the bytes of what is freed: a request that is done, a result, an operation."""
        self._bytes += count
        if self._bytes >= TRIM_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Give memory back whenever it is due, until this is cancelled."""
        while True:
            await self._due.wait()
            for _ in range(MOST_PAUSES):
                known = self._bytes
                await trio.sleep(TRIM_PAUSE_SECONDS)
                if self._bytes == known:
                    break
            self._bytes = 0
            self._due = trio.Event()
            # It takes some milliseconds for each hundred megabytes.
            await trio.to_thread.run_sync(_trim, abandon_on_cancel=True)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
