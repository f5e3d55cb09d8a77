"""A cancel that reaches the server.

The thread of a query waits inside the driver and cannot be cancelled. A task beside it waits for
the end or for a cancel. On a cancel it asks the server to drop the statement, which ends the
thread's wait. The caller waits half a second for that. A server that takes longer is asked for two
seconds, and then the connection is closed, by threads that are left behind.
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
    """What a query's thread shows of itself, so that another one can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Under the lock: None, or a connection that runs this query and no other.
        self._connection: psycopg.Connection | None = None
        # A double of the connection's socket, closed when the connection is given back.
        self._socket: socket.socket | None = None
        # Set unless a connection is in use or being cleaned.
        self._at_rest = threading.Event()
        self._at_rest.set()

    @contextmanager
    def watch(self, connection: psycopg.Connection) -> Generator[None]:
        """Show `connection` while it is in use. Called by the query's thread."""
        with socket.socket(fileno=os.dup(connection.fileno())) as self._socket:
            self._at_rest.clear()
            with self._lock:
                self._connection = connection
            try:
                yield
            finally:
                self._at_rest.set()

    def over(self) -> None:
        """Say that the query is over, before the connection is cleaned for others."""
        with self._lock:  # waits for a cancel on its way, so it hits no later statement
            self._connection = None

    def end(self) -> None:
        """See to it that the thread gives its connection back. Blocks, for 2 s or little more."""
        give_up_at = time.monotonic() + _CANCEL_GRACE_SECONDS
        while not self._at_rest.is_set():
            if time.monotonic() > give_up_at:
                self._hang_up()
                return
            self._cancel()
            # Between two statements the server drops nothing, so it is asked again.
            self._at_rest.wait(_CANCEL_AGAIN_SECONDS)

    def _cancel(self) -> None:
        """Ask the server to drop the statement, if one runs. Blocks on the network."""
        import psycopg  # noqa: PLC0415 - an extra

        with self._lock, suppress(psycopg.Error):
            if self._connection is not None:
                self._connection.cancel_safe(timeout=_CANCEL_GRACE_SECONDS)

    def _hang_up(self) -> None:
        """End the thread's wait for the server, and the connection with it. Does not block."""
        double = self._socket
        with suppress(OSError):  # the thread was faster, and has closed it
            if double is not None:
                double.shutdown(socket.SHUT_RDWR)


async def cancel_on_server(running: RunningStatement, finished: trio.Event) -> None:
    """Wait for the end of a query; on a cancel, see to it that it ends, if need be later."""
    try:
        await finished.wait()
    finally:
        if not finished.is_set():
            deadline = trio.current_time() + PATIENCE_SECONDS
            with trio.CancelScope(shield=True, deadline=deadline):
                await run_in_thread(
                    running.end, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
                )
