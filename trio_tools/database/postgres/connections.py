"""PostgreSQL: its connections, and how a query runs in a thread on one of them."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import (
    InvalidArgument,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.answers.shortages import SHORTAGES, local_shortage
from trio_tools.database.engine import SqlDatabase
from trio_tools.database.postgres.cancel import RunningStatement, cancel_on_server
from trio_tools.database.postgres.errors import failure_of, lost
from trio_tools.database.results import QueryResult, QueryTiming, row_too_large, take_rows
from trio_tools.settings.database_urls import PostgresUrl
from trio_tools.settings.threads import run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from trio_tools.database.postgres.session import Row, RowTooLarge, Session
    from trio_tools.database.postgres.values import Converter
    from trio_tools.database.results import DatabaseConfig, Query
    from trio_tools.database.statement import Statement

_T = TypeVar("_T")

_log = logging.getLogger("trio_tools.database")

_OUTLINE_SECONDS = 30.0
_TABLES_TOLD = 1_000
_COLUMNS_TOLD = 100_000

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
    """A pooled connection has been lost since its last use; nothing was run."""


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
        """As `SqlDatabase.run`; a cancel is sent to the server and waits half a second."""
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
        """Return the function that converts the columns of a result to JSON values."""
        return session.types_of(types, self._element_types)

    async def _watched(
        self, work: Callable[[RunningStatement], _T], limiter: trio.CapacityLimiter
    ) -> _T:
        await self._load(limiter)
        running, finished = RunningStatement(), trio.Event()

        def attempt() -> _T | ToolFailure:
            try:
                with suppress(_StaleConnection):
                    return work(running)
                # All pooled connections of that age were closed, so this one is new.
                return work(running)
            except ToolFailure as failure:
                return failure

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_server, running, finished)
            try:
                # A failure is returned as a value, since the nursery would wrap it in a group.
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
        running: RunningStatement,
        seconds: float,
        statement: Statement | None,
        work: Callable[[Session], _T],
    ) -> _T:
        """Call `work` with a transaction on a connection. Runs in a thread."""
        from trio_tools.database.postgres.session import PostgresError, Session  # noqa: PLC0415

        connection, kept = self._take()
        session = Session(connection, self._url.schema)
        with running.watch(connection):
            try:
                # A cancel before this line found nothing to end; a cancel after it will.
                trio.from_thread.check_cancelled()
                try:
                    session.begin(seconds)
                except PostgresError as error:
                    trio.from_thread.check_cancelled()
                    if kept and error.lost:
                        self._forget_idle()
                        raise _StaleConnection(lost(self.config.name, error)) from error
                    raise
                return work(session)
            except PostgresError as error:
                trio.from_thread.check_cancelled()  # after a cancel, the error is only its effect
                raise failure_of(self.config.name, error, statement) from error
            except (TypeError, ValueError) as error:
                raise InvalidArgument(
                    f"a parameter does not fit the database: {error}", error_code="BAD_PARAMETERS"
                ) from error
            finally:
                running.over()
                self._give_back(connection, session)

    def _take(self) -> tuple[psycopg.Connection, bool]:
        """Return a connection, and whether it is a pooled one."""
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
            # The driver's message contains host, port and user, which callers must not see.
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
        from trio_tools.database.postgres.session import PostgresError  # noqa: PLC0415

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


def _import_driver() -> None:
    import_module("trio_tools.database.postgres.session")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _query(session: Session, query: Query, database: PostgresDatabase) -> QueryResult:
    from trio_tools.database.postgres.session import RowTooLarge  # noqa: PLC0415 - loaded by now

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
                return query.max_bytes + 1  # ends the page before these rows
            raise row_too_large(query, rows=row.rows)
        any_row = True
        # The size shrinks from hexadecimal to base64, and quotes within arrays are doubled only
        # here.
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
            f"{odd} values of the database are not UTF-8: unreadable bytes are shown as \ufffd.",
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
