"""Messages to a supervisor such as systemd.

This needs no library: a message is one datagram to the socket in NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

import trio


class Supervisor:
    """Notifies the supervisor of this process; without one, it does nothing.

    Sending never waits: a message that cannot be sent at once is dropped.

    Args:
        address: The socket of the supervisor; a leading `@` means the abstract name space. None
            without a supervisor.
        watchdog_seconds: Seconds without a message after which the supervisor ends the process;
            None if it has no watchdog.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def of_environment(cls) -> Supervisor:
        """Return the supervisor in the environment, and remove its variables for children."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        usec = os.environ.pop("WATCHDOG_USEC", "")
        # Both variables identify the process: a message for another one must not be sent.
        is_ours = pid == str(os.getpid()) and usec.isdecimal() and int(usec) > 0
        return cls(address, int(usec) / 1e6 if is_ours else None)

    def ready(self) -> None:
        """Report that requests are accepted."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._tell("STOPPING=1")

    @contextmanager
    def reloading(self) -> Generator[None]:
        """Report a reload during the block."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={usec}")
        try:
            yield
        finally:
            self.ready()

    async def keep_alive(
        self, all_answer: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ) -> None:
        """Report that the process is alive, twice in each `watchdog_seconds`, until cancelled.

        A blocked event loop reports nothing, so the supervisor ends the process and starts
        another.

        Args:
            all_answer: Returns when all parts have answered. Until then nothing is reported; it
                is called again after each half of `watchdog_seconds`.
        """
        while self._watchdog_seconds is not None:
            next_time = trio.current_time() + self._watchdog_seconds / 2
            with trio.move_on_at(next_time) as patience:
                await all_answer()
            if not patience.cancelled_caught:
                self._tell("WATCHDOG=1")
            await trio.sleep_until(next_time)

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # A supervisor that does not read must not cause a wait or a failure.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link,
        ):
            link.sendto(message.encode(), self._address)
