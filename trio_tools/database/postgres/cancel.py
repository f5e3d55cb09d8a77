"""A cancel that reaches the server.

The thread of a query waits inside the driver and cannot be cancelled. A task beside it waits for
its end or for a cancel. On a cancel it requests the server to end the statement, which ends the
thread's wait. The caller waits half a second for that. If the server takes longer, threads that
are not waited for repeat the request for two seconds, and then close the connection.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from nursery_patterns import run_in_thread
from trio_tools.settings.threads import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg

_CANCEL_GRACE_SECONDS = 2.0
_CANCEL_AGAIN_SECONDS = 0.02


class RunningStatement:
    """The state of a query's thread that another thread needs to end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock: None, or a connection that runs only this query.
        self._connection: psycopg.Connection | None = None
        # A duplicate of the connection's socket, closed when the connection is released.
        self._socket: socket.socket | None = None
        # Set unless a connection is in use or being cleaned.
        self._at_rest = threading.Event()
        self._at_rest.set()

    @contextmanager
    def watch(self, connection: psycopg.Connection) -> Generator[None]:
        """Publish `connection` while it is in use. Called by the query's thread."""
        with socket.socket(fileno=os.dup(connection.fileno())) as self._socket:
            self._at_rest.clear()
            with self._lock:
                self._connection = connection
            try:
                yield
            finally:
                self._at_rest.set()

    def over(self) -> None:
        """Mark the query as ended, before the connection is reset for others."""
        with self._lock:  # waits for a cancel in flight, so it cannot hit a later statement
            self._connection = None

    def end(self) -> None:
        """Make the thread release its connection. Blocks for about 2 s at most."""
        give_up_at = time.monotonic() + _CANCEL_GRACE_SECONDS
        while not self._at_rest.is_set():
            if time.monotonic() > give_up_at:
                self._hang_up()
                return
            self._cancel()
            # Between two statements the server ignores a cancel, so it is sent again.
            self._at_rest.wait(_CANCEL_AGAIN_SECONDS)

    def _cancel(self) -> None:
        """Request the server to end the statement, if one runs. Blocks on the network."""
        import psycopg  # noqa: PLC0415 - an extra

        with self._lock, suppress(psycopg.Error):
            if self._connection is not None:
                self._connection.cancel_safe(timeout=_CANCEL_GRACE_SECONDS)

    def _hang_up(self) -> None:
        """End the thread's wait for the server, and the connection. Does not block."""
        double = self._socket
        with suppress(OSError):  # the thread has closed it already
            if double is not None:
                double.shutdown(socket.SHUT_RDWR)


async def cancel_on_server(running: RunningStatement, finished: trio.Event) -> None:
    """Wait for the end of a query; after a cancel, ensure that it ends, later if necessary."""
    try:
        await finished.wait()
    finally:
        if not finished.is_set():
            deadline = trio.current_time() + PATIENCE_SECONDS
            with trio.CancelScope(shield=True, deadline=deadline):
                await run_in_thread(
                    running.end, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
                )
