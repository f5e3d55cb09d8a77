"""What a supervisor such as systemd is told.

No library of systemd is needed: a message is one datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

import trio


class Supervisor:
    """Tells the supervisor of this process what it does; without one, nothing happens.

    No message waits for anybody: one that cannot be sent at once is lost.

    Args:
        address: Where messages go; a leading `@` stands for the abstract name space. None if there
            is no supervisor.
        watchdog_seconds: Time after which a supervisor that heard nothing ends the process; None
            if it never does.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def of_environment(cls) -> Supervisor:
        """Return the one that the environment names, and remove it there, for child processes."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        usec = os.environ.pop("WATCHDOG_USEC", "")
        # Two names of one process: what was started for another one is not meant for this one.
        is_ours = pid == str(os.getpid()) and usec.isdecimal() and int(usec) > 0
        return cls(address, int(usec) / 1e6 if is_ours else None)

    def ready(self) -> None:
        """Say that requests are taken."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._tell("STOPPING=1")

    @contextmanager
    def reloading(self) -> Generator[None]:
        """Say that settings are read again during the block."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={usec}")
        try:
            yield
        finally:
            self.ready()

    async def keep_alive(
        self, all_answer: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ) -> None:
        """Say that all is well, twice in each `watchdog_seconds`, until this is cancelled.

        A loop that is blocked says nothing, so the supervisor ends the process and starts another.

        Args:
            all_answer: Returns when all that has to run has answered. While it has not, nothing is
                said; each half of `watchdog_seconds` it is called again.
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
        # A supervisor that does not read is no reason to wait or to fail.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link,
        ):
            link.sendto(message.encode(), self._address)
