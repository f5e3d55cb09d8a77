"""Memory of large requests and results, returned to the system after they are freed.

The C library keeps freed memory between blocks that are in use. After a burst of large calls a
process would hold hundreds of megabytes of unused memory.
"""

from __future__ import annotations

import ctypes
from typing import Final

import trio

TRIM_BYTES: Final = 16 * 2**20
"""Number of freed bytes after which memory is returned."""

TRIM_PAUSE_SECONDS: Final = 2.0
"""Seconds without large freed values before memory is returned."""

MOST_PAUSES: Final = 3
"""Number of these pauses after which memory is returned even if large values are freed."""


class MemoryTrim:
    """Returns memory in an idle moment after many bytes were freed."""

    def __init__(self) -> None:
        self._bytes = 0
        self._due = trio.Event()

    def add(self, count: int) -> None:
        """Count freed bytes: of a completed request, a result, an operation."""
        self._bytes += count
        if self._bytes >= TRIM_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Return memory whenever it is due, until cancelled."""
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
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
    if trim is not None:
        trim(0)
