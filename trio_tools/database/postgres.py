"""PostgreSQL in a read-only transaction, with a cancel that reaches the server.

The thread waits inside the driver and cannot look around. So a task beside it waits for the end
or for a cancel; on a cancel it asks the server to drop the statement, which ends the thread's
wait. The caller waits half a second for that. A server that takes longer is asked for two seconds
and then hung up on, by threads that are left behind.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument, TimedOut, ToolFailure, UpstreamFailed
from trio_tools.database.engine import SqlDatabase
from trio_tools.database.statement import read_only, refused
from trio_tools.settings.threads import PATIENCE_SECONDS, run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg
    from sqlalchemy import Connection, CursorResult, Engine
    from sqlalchemy.engine import ExceptionContext

    from trio_tools.database.results import Query, QueryResult
    from trio_tools.database.statement import Statement

_ROWS_PER_FETCH = 100
_CANCEL_GRACE_SECONDS = 2.0
_CANCEL_AGAIN_SECONDS = 0.02
# Short answers that DECLARE does not take. Sent as they are, so the server has to find that very
# word in front: it ends comments elsewhere than our lexer does, and COPY would write files.
_WITHOUT_CURSOR = frozenset({"EXPLAIN", "SHOW"})

_READ_ONLY_STATES = frozenset({"25006", "42501"})  # in a read-only transaction; privilege
_TIMEOUT_STATES = frozenset({"57014"})
_TOO_LARGE_STATES = frozenset({"54000", "54001", "53200"})
# syntax and names; data; feature; cardinality; invalid cursor or transaction command
_REFUSED_CLASSES = frozenset({"42", "22", "0A", "21", "25", "2F", "34", "3D", "3F", "P0"})
_REFUSED_STATES = frozenset({"08P01"})  # $1 without a value


class _StaleConnection(UpstreamFailed):
    """A connection that was kept has died since; nothing was run."""


class PostgresDatabase(SqlDatabase):
    """One PostgreSQL database, through psycopg.

    Raises:
        ToolFailure: With the first query, if the extra `postgres` is not installed.
    """

    def _make_engine(self) -> Engine:
        if find_spec("psycopg") is None:
            raise UpstreamFailed(
                f"database {self.config.name!r} needs PostgreSQL's driver, which is not installed",
                error_code="EXTRA_NOT_INSTALLED",
                remediation="The operator runs: pip install trio-tools[postgres]",
            )
        import sqlalchemy  # noqa: PLC0415 - see engine.py
        from sqlalchemy import event  # noqa: PLC0415

        url = sqlalchemy.make_url(self.config.url).set(drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(
            url,
            max_overflow=-1,  # the limiter on threads is the bound
            pool_reset_on_return=None,  # `_Running.watch` does it, where it can be hung up on
            connect_args={
                "connect_timeout": self.config.connect_timeout_seconds,
                "prepare_threshold": 0,  # the protocol that takes one statement only
                "application_name": "trio-tools",
            },
        )
        event.listen(engine, "connect", _make_read_only)
        event.listen(engine, "handle_error", _close_cursor)
        return engine

    async def run(self, query: Query, limiter: trio.CapacityLimiter) -> QueryResult:
        """As `SqlDatabase.run`; a cancel is sent to the server. Half a second later it is over."""
        running, finished = _Running(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_server, running, finished)
            try:
                # A failure comes back as a value, or the nursery would wrap it in a group.
                outcome = await run_in_tool_thread(self._try, query, running, limiter=limiter)
            finally:
                finished.set()
        if isinstance(outcome, ToolFailure):
            raise outcome
        return outcome

    def _try(self, query: Query, running: _Running) -> QueryResult | ToolFailure:
        try:
            with suppress(_StaleConnection):
                return self.run_here(query, running.watch)
            # SQLAlchemy has dropped all connections of that age, so this one is new.
            return self.run_here(query, running.watch)
        except ToolFailure as failure:
            return failure

    def _execute(self, connection: Connection, query: Query) -> CursorResult[Any]:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - see engine.py

        statement = query.statement
        milliseconds = max(1, round(query.timeout_seconds * 1000))
        try:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        except DBAPIError as error:
            trio.from_thread.check_cancelled()
            if error.connection_invalidated:
                raise _StaleConnection(
                    f"database {self.config.name!r} closed the connection: call again"
                ) from error
            raise
        return connection.exec_driver_sql(
            statement.in_pyformat(),
            dict(query.parameters),
            execution_options={
                "stream_results": not statement.begins_with(_WITHOUT_CURSOR),
                "max_row_buffer": _ROWS_PER_FETCH,
            },
        )

    def _failure(self, error: BaseException | None, statement: Statement) -> ToolFailure:
        state = cast("str | None", getattr(error, "sqlstate", None))
        reason = str(error).strip().partition("\n")[0]
        if state in _READ_ONLY_STATES:
            return read_only(reason)
        if state in _TIMEOUT_STATES:
            return TimedOut(f"the database stopped the statement: {reason}")
        if state in _TOO_LARGE_STATES:
            return InvalidArgument(
                f"the statement asks for too much: {reason}", error_code="TOO_LARGE"
            )
        if state is None and _is_drivers_own(error):
            return InvalidArgument(
                f"a parameter does not fit the database: {reason}", error_code="BAD_PARAMETERS"
            )
        if state is not None and (state[:2] in _REFUSED_CLASSES or state in _REFUSED_STATES):
            return refused(statement, reason)
        return UpstreamFailed(f"database {self.config.name!r} failed: {reason}")


def _is_drivers_own(error: BaseException | None) -> bool:
    import psycopg  # noqa: PLC0415 - an extra

    return isinstance(error, psycopg.ProgrammingError | psycopg.DataError)


def _make_read_only(connection: psycopg.Connection, _: object) -> None:
    connection.read_only = True  # so that every transaction begins with BEGIN READ ONLY


def _close_cursor(context: ExceptionContext) -> None:
    # Of a lost connection SQLAlchemy leaves the cursor open, and psycopg warns when it is deleted.
    cursor = getattr(context.execution_context, "cursor", None)
    if context.is_disconnect and cursor is not None:
        cursor.close()


def _reset(connection: psycopg.Connection) -> None:
    """Leave nothing of a query behind; advisory locks are all that outlives a rollback."""
    connection.rollback()
    connection.autocommit = True
    connection.execute("SELECT pg_advisory_unlock_all()")
    connection.autocommit = False


class _Running:
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
    def watch(self, connection: Connection) -> Generator[None]:
        """Show `connection` while it runs the query, then clean it. Called by the query's thread.

        A connection that cannot be cleaned is given up.
        """
        import psycopg  # noqa: PLC0415 - an extra

        driver = cast("psycopg.Connection", connection.connection.driver_connection)
        with socket.socket(fileno=os.dup(driver.fileno())) as self._socket:
            self._at_rest.clear()
            with self._lock:
                self._connection = driver
            try:
                # A cancel before this line found nothing to end, and one after it will.
                trio.from_thread.check_cancelled()
                yield
            finally:
                with self._lock:  # waits for a cancel on its way, so it hits no later statement
                    self._connection = None
                try:
                    _reset(driver)
                except psycopg.Error:
                    connection.invalidate()
                finally:
                    self._at_rest.set()

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


async def _cancel_on_server(running: _Running, finished: trio.Event) -> None:
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
