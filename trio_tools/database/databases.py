"""The databases of a server by name, and one function to query them.

A timeout is only a cancel scope: a late query is cancelled like any other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument, NotFound, brief_repr, use_one_of
from trio_tools.database.duckdb import DuckDatabase
from trio_tools.database.postgres.connections import PostgresDatabase
from trio_tools.database.results import Query, QueryResult, QueryTiming, shown_size
from trio_tools.database.sqlite import SqliteDatabase
from trio_tools.database.statement import Statement, too_slow
from trio_tools.settings.threads import run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from trio_tools.database.engine import SqlDatabase
    from trio_tools.database.results import DatabaseConfig

DEFAULT_CONCURRENCY = 5
_CLOSE_SECONDS = 2.0
# Parsing a longer statement takes several milliseconds, too long for one step of the event loop.
_SHORT_SQL_CHARACTERS = 2_000


_USUAL_SCHEMA = "main"  # default schema of SQLite and DuckDB, usually not written


class Databases:
    """Read-only databases by name. Opens nothing until the first query.

    Leaving `async with` closes the idle connections.

    Args:
        configs: The databases; names must differ.
        limiter: Bounds the threads and worker processes that run queries, over all databases; 5
            by default. Only this service uses it, so slow queries delay nothing else.

    Raises:
        ValueError: Two databases have the same name, or a URL is of an unknown kind.
    """

    def __init__(
        self, configs: Iterable[DatabaseConfig], *, limiter: trio.CapacityLimiter | None = None
    ) -> None:
        self.limiter = limiter or trio.CapacityLimiter(DEFAULT_CONCURRENCY)
        self._databases: dict[str, SqlDatabase] = {}
        for config in configs:
            if config.name in self._databases:
                raise ValueError(f"database {config.name!r} is configured twice: rename one")
            self._databases[config.name] = _make(config)

    @property
    def names(self) -> tuple[str, ...]:
        """The configured names, in order."""
        return tuple(self._databases)

    async def query(
        self,
        name: str,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        max_rows: int = 100,
        max_bytes: int = 1_000_000,
        timeout_seconds: float = 30.0,
        position: int = 0,
    ) -> QueryResult:
        """Run one read-only statement.

        A cancel or a timeout ends the statement: PostgreSQL receives a cancel request, and a
        worker process is killed. Without ORDER BY, the order of rows may differ between pages.

        Args:
            name: The name of the database.
            sql: One statement, with `:name` for each parameter.
            parameters: A value for each parameter: text, number, true, false or none.
            max_rows: Limit of returned rows.
            max_bytes: Limit of returned bytes, counted as JSON.
            timeout_seconds: Timeout of the whole call, including the wait for the limiter.
            position: Rows to skip: 0, or `next_position` of the previous page. The database
                computes the skipped rows again, so use WHERE for deep pages.

        Raises:
            NotFound: No database has that name; the message lists them.
            InvalidArgument: Not exactly one statement, invalid SQL, parameters that do not match,
                or a value or row that is too large.
            Forbidden: It does more than read.
            TimedOut: It took longer than `timeout_seconds`.
            UpstreamFailed: The database is locked, broken or cannot be reached.
        """
        database = self._find(name)
        for argument, value, least in (
            ("max_rows", max_rows, 1),
            ("max_bytes", max_bytes, 1),
            ("position", position, 0),
        ):
            if value < least:
                raise InvalidArgument(f"{argument} must be at least {least}, got {value}")
        if not timeout_seconds > 0:  # also refuses NaN
            raise InvalidArgument(f"timeout_seconds must be above 0, got {timeout_seconds}")
        called_at = time.monotonic()
        with trio.move_on_after(timeout_seconds + database.grace_seconds):
            query = Query(
                await self._parse(sql, parameters or {}),
                parameters or {},
                position,
                max_rows,
                max_bytes,
                timeout_seconds,
                called_at,
            )
            return await database.run(query, self.limiter)
        raise too_slow(timeout_seconds)

    async def outline(self, name: str, *, timeout_seconds: float = 30.0) -> list[dict[str, Any]]:
        """Return the tables and views of a database, ordered by name, with their columns.

        Each is `{"table", "kind", "columns"}`, with `"schema"` and `"comment"` where the database
        has them; a column is `{"name", "type"}`, with `"required"`, `"key"`, `"references"` and
        `"comment"` where they apply. At most 1,000 tables of 500 columns.

        Raises:
            NotFound, TimedOut, UpstreamFailed: As `query`.
        """
        database = self._find(name)
        with trio.move_on_after(timeout_seconds):
            return await database.outline(self.limiter)
        raise too_slow(timeout_seconds)

    async def catalogue(
        self,
        name: str,
        *,
        max_rows: int,
        max_bytes: int,
        timeout_seconds: float,
        position: int = 0,
    ) -> QueryResult:
        """Return the outline as rows, one page at a time: table, columns, comment.

        Raises:
            NotFound, TimedOut, UpstreamFailed: As `query`.
        """
        called_at = time.monotonic()
        tables = await self.outline(name, timeout_seconds=timeout_seconds)
        taken: list[tuple[Any, ...]] = []
        used = 0
        for table in tables[position : position + max_rows]:
            row = _catalogue_row(table, max_bytes // 2)
            used += shown_size(row)
            if taken and used > max_bytes * 3 // 4:
                break
            taken.append(row)
        end = position + len(taken)
        more = end < len(tables)
        return QueryResult(
            columns=("table", "columns", "comment"),
            rows=tuple(taken),
            truncated=more,
            next_position=end if more else None,
            timing=QueryTiming(0.0, time.monotonic() - called_at, 0.0),
        )

    async def _parse(self, sql: str, parameters: Mapping[str, Any]) -> Statement:
        if len(sql) <= _SHORT_SQL_CHARACTERS:
            return Statement.parse(sql, parameters)
        return await run_in_tool_thread(Statement.parse, sql, parameters, limiter=self.limiter)

    async def aclose(self) -> None:
        """Close the idle connections, within 2 seconds even if the caller is cancelled."""
        deadline = trio.current_time() + _CLOSE_SECONDS
        with trio.CancelScope(shield=True, deadline=deadline):
            for database in self._databases.values():
                await run_in_thread(database.close, abandon_on_cancel=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _find(self, name: str) -> SqlDatabase:
        if name not in self._databases:
            raise NotFound(
                f"no database is named {brief_repr(name)}: {use_one_of(self.names)}",
                error_code="UNKNOWN_DATABASE",
                data={"databases": list(self.names)},
            )
        return self._databases[name]


def _make(config: DatabaseConfig) -> SqlDatabase:
    scheme = config.url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        return SqliteDatabase(config)
    if scheme == "duckdb":
        return DuckDatabase(config)
    if scheme in {"postgresql", "postgres"}:
        return PostgresDatabase(config)
    raise ValueError(
        f"database {config.name!r}: the URL must begin with sqlite:///, duckdb:/// or postgresql://"
    )


def _catalogue_row(table: dict[str, Any], most_chars: int) -> tuple[Any, ...]:
    schema = table.get("schema", _USUAL_SCHEMA)
    name = table["table"] if schema == _USUAL_SCHEMA else f"{schema}.{table['table']}"
    columns = ", ".join(map(_column_text, table["columns"]))
    if len(columns) > most_chars:
        columns = f"{columns[:most_chars]}…"
    comment = table.get("comment")
    kind = table.get("kind", "table")
    told = [word for word in ("" if kind == "table" else kind, comment) if word]
    return name, columns, ": ".join(told) or None


def _column_text(column: dict[str, Any]) -> str:
    """Return a column in the form of CREATE TABLE."""
    words = [f"{column['name']} {column['type'] or ''}".rstrip()]
    words += ["PRIMARY KEY"] * bool(column.get("key"))
    words += ["NOT NULL"] * bool(column.get("required") and not column.get("key"))
    words += [f"REFERENCES {column['references']}"] if column.get("references") else []
    words += [f"({column['comment']})"] if column.get("comment") else []
    return " ".join(words)
