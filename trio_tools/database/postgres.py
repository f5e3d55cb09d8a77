"""PostgreSQL: its connections, a cancel that reaches the server, and what its errors mean.

The thread waits inside the driver and cannot look around. So a task beside it waits for the end
or for a cancel; on a cancel it asks the server to drop the statement, which ends the thread's
wait. The caller waits half a second for that. A server that takes longer is asked for two seconds
and then hung up on, by threads that are left behind.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import (
    Forbidden,
    InvalidArgument,
    TimedOut,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.answers.shortages import SHORTAGES, local_shortage
from trio_tools.database.engine import SqlDatabase
from trio_tools.database.results import QueryResult, QueryTiming, row_too_large, take_rows
from trio_tools.database.statement import read_only, refused
from trio_tools.settings.database_urls import PostgresUrl
from trio_tools.settings.threads import PATIENCE_SECONDS, run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import psycopg

    from trio_tools.database.postgres_session import PostgresError, Row, RowTooLarge, Session
    from trio_tools.database.postgres_values import Converter
    from trio_tools.database.results import DatabaseConfig, Query
    from trio_tools.database.statement import Statement

_T = TypeVar("_T")

_log = logging.getLogger("trio_tools.database")

_CANCEL_GRACE_SECONDS = 2.0
_CANCEL_AGAIN_SECONDS = 0.02
_OUTLINE_SECONDS = 30.0
_TABLES_TOLD = 1_000
_COLUMNS_TOLD = 100_000

_READ_ONLY_STATES = frozenset({"25006"})
_PERMISSION_STATES = frozenset({"42501"})
_TIMEOUT_STATES = frozenset({"57014"})
_LOCK_STATES = frozenset({"55P03", "40P01"})
_TOO_LARGE_STATES = frozenset({"54000", "54001", "53200"})
_UNTYPED_STATES = frozenset({"42P18", "42P08"})
# syntax and names; data; feature; cardinality; invalid cursor or transaction command
_REFUSED_CLASSES = frozenset({"42", "22", "0A", "21", "25", "2F", "34", "3D", "3F", "P0", "54"})
_REFUSED_STATES = frozenset({"08P01"})  # $1 without a value

_OUTLINE = f"""
SELECT n.nspname, c.relname, CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
  WHEN 'f' THEN 'foreign table' ELSE 'table' END, obj_description(c.oid, 'pg_class'), a.attname,
  format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN '1' END,
  col_description(c.oid, a.attnum),
  (SELECT '1' FROM pg_constraint p WHERE p.conrelid = c.oid AND p.contype = 'p'
    AND a.attnum = ANY (p.conkey) LIMIT 1),
  (SELECT p.confrelid::regclass::text || '.' || b.attname FROM pg_constraint p
    JOIN pg_attribute b ON b.attrelid = p.confrelid
      AND b.attnum = p.confkey[array_position(p.conkey, a.attnum)]
    WHERE p.conrelid = c.oid AND p.contype = 'f' AND a.attnum = ANY (p.conkey) LIMIT 1)
FROM (SELECT * FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'f', 'p')
    AND has_table_privilege(oid, 'SELECT')) c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema'
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, 2, a.attnum LIMIT {_COLUMNS_TOLD}
"""  # noqa: S608 - a number of ours


class _StaleConnection(UpstreamFailed):
    """A connection that was kept has died since; nothing was run."""


class PostgresDatabase(SqlDatabase):
    """One PostgreSQL database, through psycopg.

    Raises:
        ToolFailure: With the first query, if the extra `postgres` is not installed.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        try:
            self._url = PostgresUrl.parse(config.url)
        except ValueError as error:
            raise ValueError(f"database {config.name!r}: {error}") from None
        self._lock = threading.Lock()  # guards the next two
        self._idle: list[psycopg.Connection] = []
        self._closed = False
        self._element_types: dict[int, int] = {}
        self._loaded = False

    async def run(self, query: Query, limiter: trio.CapacityLimiter) -> QueryResult:
        """As `SqlDatabase.run`; a cancel is sent to the server. Half a second later it is over."""
        return await self._watched(
            lambda running: self._with_session(
                running, query.timeout_seconds, query.statement, lambda it: _query(it, query, self)
            ),
            limiter,
        )

    async def outline(self, limiter: trio.CapacityLimiter) -> list[dict[str, Any]]:
        """As `SqlDatabase.outline`: of all schemas, the tables that the role may read."""
        return await self._watched(
            lambda running: self._with_session(running, _OUTLINE_SECONDS, None, _outline), limiter
        )

    def close(self) -> None:
        """Close the idle connections. Those in use are closed when their query ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def converters(self, session: Session, types: tuple[int, ...]) -> list[Converter]:
        """Return what makes JSON values of the columns of a result."""
        return session.types_of(types, self._element_types)

    async def _watched(self, work: Callable[[_Running], _T], limiter: trio.CapacityLimiter) -> _T:
        await self._load(limiter)
        running, finished = _Running(), trio.Event()

        def attempt() -> _T | ToolFailure:
            try:
                with suppress(_StaleConnection):
                    return work(running)
                # All kept connections of that age were dropped, so this one is new.
                return work(running)
            except ToolFailure as failure:
                return failure

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_server, running, finished)
            try:
                # A failure comes back as a value, or the nursery would wrap it in a group.
                outcome = await run_in_tool_thread(attempt, limiter=limiter)
            finally:
                finished.set()
        if isinstance(outcome, ToolFailure):
            raise outcome
        return outcome

    async def _load(self, limiter: trio.CapacityLimiter) -> None:
        """Import the driver before the first query.

        That takes 100 ms. Cancelling the caller does not stop loading; later queries need it.
        """
        if self._loaded:
            return
        if find_spec("psycopg") is None:
            raise UpstreamFailed(
                f"database {self.config.name!r} needs PostgreSQL's driver, which is not installed",
                error_code="EXTRA_NOT_INSTALLED",
                remediation="The operator runs: pip install trio-tools[postgres]",
            )
        await run_in_thread(_import_driver, limiter=limiter, abandon_on_cancel=True)
        self._loaded = True

    def _with_session(
        self,
        running: _Running,
        seconds: float,
        statement: Statement | None,
        work: Callable[[Session], _T],
    ) -> _T:
        """Call `work` with a transaction on a connection. Runs in a thread."""
        from trio_tools.database.postgres_session import PostgresError, Session  # noqa: PLC0415

        connection, kept = self._take()
        session = Session(connection, self._url.schema)
        with running.watch(connection):
            try:
                # A cancel before this line found nothing to end, and one after it will.
                trio.from_thread.check_cancelled()
                try:
                    session.begin(seconds)
                except PostgresError as error:
                    trio.from_thread.check_cancelled()
                    if kept and error.lost:
                        self._forget_idle()
                        raise _StaleConnection(self._lost(error)) from error
                    raise
                return work(session)
            except PostgresError as error:
                trio.from_thread.check_cancelled()  # then the error is only how it ended
                raise self._failure(error, statement) from error
            except (TypeError, ValueError) as error:
                raise InvalidArgument(
                    f"a parameter does not fit the database: {error}", error_code="BAD_PARAMETERS"
                ) from error
            finally:
                running.over()
                self._give_back(connection, session)

    def _take(self) -> tuple[psycopg.Connection, bool]:
        """Return a connection, and whether it was kept from an earlier query."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._connect(), False

    def _connect(self) -> psycopg.Connection:
        import psycopg  # noqa: PLC0415 - an extra

        try:
            return psycopg.connect(
                self._url.conninfo,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=self._url.connect_timeout or self.config.connect_timeout_seconds,
                client_encoding="UTF8",
                fallback_application_name="trio-tools",
            )
        except psycopg.Error as error:
            trio.from_thread.check_cancelled()
            # The driver's message names host, port and user, which callers must not see.
            _log.warning("database %s cannot be reached: %s", self.config.name, _one_line(error))
            for number in SHORTAGES:
                if os.strerror(number) in str(error):
                    raise local_shortage(os.strerror(number)) from None
            raise UpstreamFailed(
                f"database {self.config.name!r} cannot be reached: the operator should look at "
                "its URL, its role and the server (the log has the reason)",
                error_code="DATABASE_UNREACHABLE",
            ) from None

    def _give_back(self, connection: psycopg.Connection, session: Session) -> None:
        from trio_tools.database.postgres_session import PostgresError  # noqa: PLC0415

        clean = False
        with suppress(PostgresError):
            clean = session.end()
        with self._lock:
            if clean and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _forget_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _lost(self, error: PostgresError) -> str:
        return f"database {self.config.name!r} closed the connection ({error.primary}): call again"

    def _failure(self, error: PostgresError, statement: Statement | None) -> ToolFailure:  # noqa: PLR0911 - a table
        state, reason = error.state, _reason(error)
        if state is None or error.lost or state.startswith("57P"):
            return UpstreamFailed(self._lost(error), error_code="DATABASE_UNREACHABLE")
        if state in _READ_ONLY_STATES:
            return read_only(reason)
        if state in _PERMISSION_STATES:
            if statement is None or statement.seems_to_write:
                return read_only(reason)
            return Forbidden(
                f"the role of database {self.config.name!r} may not do that: {reason}",
                error_code="PERMISSION_DENIED",
                remediation="Read another table, or let the operator grant it to the role.",
            )
        if state in _TIMEOUT_STATES:
            return TimedOut(
                f"the database stopped the statement: {reason}; narrow it with WHERE or LIMIT"
            )
        if state in _LOCK_STATES:
            return UpstreamFailed(
                f"a lock in database {self.config.name!r} was not to be had: {reason}; call again",
                error_code="DATABASE_LOCKED",
            )
        if state in _TOO_LARGE_STATES and error.function != "chr":
            return InvalidArgument(
                f"the statement asks for too much: {reason}", error_code="TOO_LARGE"
            )
        if state in _UNTYPED_STATES and statement is not None:
            return _untyped(statement, reason)
        if statement is not None and (state[:2] in _REFUSED_CLASSES or state in _REFUSED_STATES):
            return refused(statement, reason)
        return UpstreamFailed(f"database {self.config.name!r} failed: {reason} ({state})")


def _import_driver() -> None:
    import_module("trio_tools.database.postgres_session")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reason(error: PostgresError) -> str:
    """Return the error in the words of the server, with all that it says how to mend it."""
    parts = [error.primary]
    if error.position is not None and error.position > 0:
        parts.append(f"at character {error.position}")
    if error.detail:
        parts.append(f"detail: {error.detail}")
    if error.hint:
        parts.append(f"hint: {error.hint}")
    return "; ".join(" ".join(part.split()) for part in parts)


def _untyped(statement: Statement, reason: str) -> InvalidArgument:
    _, names = statement.in_dollars()
    for number, name in reversed([*enumerate(names, 1)]):
        reason = reason.replace(f"${number}", f":{name}")
    example = next((name for name in names if f":{name}" in reason), names[0] if names else "name")
    return InvalidArgument(
        f"the database cannot tell the type of a parameter in sql: {reason}. Write the type, as in "
        f"CAST(:{example} AS text), at each place where it stands alone",
        error_code="BAD_SQL",
    )


def _query(session: Session, query: Query, database: PostgresDatabase) -> QueryResult:
    from trio_tools.database.postgres_session import RowTooLarge  # noqa: PLC0415 - loaded by now

    started = time.monotonic()
    statement = query.statement
    found = session.execute(
        statement,
        query.parameters,
        position=query.position,
        count=query.max_rows + 1,
        max_row_bytes=8 * query.max_bytes + 1_000_000,
    )
    converters = database.converters(session, found.types)
    executed = time.monotonic()
    odd = 0
    any_row = False

    def least_bytes(row: Row | RowTooLarge) -> int:
        nonlocal any_row
        if isinstance(row, RowTooLarge):
            if any_row:
                return query.max_bytes + 1  # ends the page before them
            raise row_too_large(query, rows=row.rows)
        any_row = True
        # Bytes shrink from hexadecimal to base64, and quotes within arrays are doubled here only.
        return sum(len(value) for value in row if value is not None) // 4

    def convert(row: Row | RowTooLarge) -> tuple[Any, ...]:
        nonlocal odd
        assert not isinstance(row, RowTooLarge)
        values: list[Any] = []
        for value, convert_text in zip(row, converters, strict=True):
            if value is None:
                values.append(None)
                continue
            try:
                text = value.decode()
            except UnicodeDecodeError:
                odd += 1
                text = value.decode(errors="replace")
            values.append(convert_text(text))
        return tuple(values)

    rows, more = take_rows(found.rows, query, least_bytes=least_bytes, convert=convert)
    return QueryResult(
        columns=found.columns,
        rows=tuple(rows),
        truncated=more,
        next_position=query.position + len(rows) if more else None,
        timing=QueryTiming(
            wait_seconds=max(0.0, started - query.called_at),
            execute_seconds=executed - started,
            fetch_seconds=time.monotonic() - executed,
        ),
        warnings=(
            f"{odd} values of the database are not UTF-8: what could not be read stands as \ufffd.",
        )
        if odd
        else (),
    )


def _outline(session: Session) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = []
    rows = session.rows(_OUTLINE)
    for (schema, name, kind, comment), group in groupby(rows, key=lambda row: tuple(row[:4])):
        columns = [_column(*row[4:]) for row in group]
        table = {"schema": schema, "table": name, "kind": kind, "comment": comment}
        tables.append({k: v for k, v in table.items() if v is not None} | {"columns": columns})
        if len(tables) == _TABLES_TOLD:
            break
    return tables


def _column(
    name: str | None,
    type_: str | None,
    required: str | None,
    comment: str | None,
    key: str | None,
    references: str | None,
) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": type_}
    if required:
        column["required"] = True
    if key:
        column["key"] = True
    if references:
        column["references"] = references
    if comment:
        column["comment"] = comment
    return column


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
