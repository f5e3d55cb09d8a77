"""Notices between servers that share a PostgreSQL database: LISTEN and NOTIFY.

A notice is only a hint. It may be lost with the connection, so a task that waits for one also
polls from time to time.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Final, Literal

import trio

from nursery_patterns import run_in_thread
from trio_tools.operations.durable.location import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg
    from psycopg.pq.abc import PGconn

CHANNEL: Final = "trio_tools"

Kind = Literal["news", "stop", "parked"]
"""Kinds: an operation was written; its holder is asked to stop it; no server runs it."""

_CONNECT_SECONDS = 3
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0

_log = logging.getLogger("trio_tools")


def payload_of(kind: Kind, owner: str, operation_id: str) -> str:
    """Return a notice about an operation; only a server that knows the operation can read it."""
    name = f"{owner}\0{operation_id}".encode()
    return f"{kind} {hashlib.sha256(name).hexdigest()}"


class Notices:
    """Receives notices of other servers, and wakes the tasks that wait for them.

    Args:
        location: Location of the database. A file has no notices: waiting tasks poll.
        heard: Called with each payload.
    """

    def __init__(self, location: Location, heard: Callable[[str], None]) -> None:
        self._location = location
        self._heard = heard
        self._waiting: defaultdict[str, trio.lowlevel.ParkingLot] = defaultdict(
            trio.lowlevel.ParkingLot
        )

    async def wait(self, awaited: str, seconds: float) -> None:
        """Wait for a notice that is or begins with a text, at most `seconds`."""
        with trio.move_on_after(seconds):
            try:
                await self._waiting[awaited].park()
            finally:
                if not self._waiting[awaited]:
                    del self._waiting[awaited]

    async def listen(self) -> None:
        """Receive notices until cancelled; connect again when the database is available."""
        if self._location.path is not None:
            await trio.sleep_forever()
        pause = _FIRST_PAUSE_SECONDS
        limiter = trio.CapacityLimiter(1)
        while True:
            with closing(_ListeningConnection(self._location.url)) as listening:
                await run_in_thread(listening.open, limiter=limiter, abandon_on_cancel=True)
                if listening.connection is not None:
                    pause = _FIRST_PAUSE_SECONDS
                    self._tell_all()  # notices in between were lost
                    await self._hear(listening.connection)
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _hear(self, connection: psycopg.Connection) -> None:
        """Pass on notices until the connection is lost."""
        import psycopg  # noqa: PLC0415

        while True:
            await trio.lowlevel.wait_readable(connection.pgconn.socket)
            try:
                connection.pgconn.consume_input()
            except psycopg.Error:
                return
            for payload in _payloads(connection.pgconn):
                self._heard(payload)
                self._wake(payload)

    def _wake(self, payload: str) -> None:
        for awaited in (payload, payload.partition(" ")[0]):
            if awaited in self._waiting:
                self._waiting[awaited].unpark_all()

    def _tell_all(self) -> None:
        for waiting in self._waiting.values():
            waiting.unpark_all()


class _ListeningConnection:
    """A connection that a thread opens for a task that may be cancelled meanwhile.

    Args:
        url: Of the database.

    Attributes:
        connection: It, where notices arrive; None if there is none.
    """

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection | None = None
        self._url = "postgresql" + url[url.index("://") :]
        self._lock = threading.Lock()  # guards `_closed`, and `connection` until it is set
        self._closed = False

    def open(self) -> None:
        """Connect. Blocking, for a thread, which may end after `close`."""
        import psycopg  # noqa: PLC0415 - an extra

        try:
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                application_name="trio-tools notices",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=2,
            )
        except psycopg.Error as error:
            _log.debug("no notices from other servers: %s", type(error).__name__)
            return
        with ExitStack() as failing:
            failing.callback(connection.close)
            with suppress(psycopg.Error):  # behind a pooler that has no sessions, for example
                connection.execute(f"LISTEN {CHANNEL}")
                with self._lock:
                    if not self._closed:
                        self.connection = connection
                        failing.pop_all()

    def close(self) -> None:
        """Close the connection, also one that `open` has not finished to make."""
        with self._lock:
            self._closed = True
        if self.connection is not None:
            self.connection.close()


def _payloads(pgconn: PGconn) -> Iterator[str]:
    while (notice := pgconn.notifies()) is not None:
        yield notice.extra.decode()
