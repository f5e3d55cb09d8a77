"""The course of one query on a thread, the same for every database.

SQLAlchemy keeps the connections and speaks to the driver; the SQL itself goes to the driver as it
is. SQLAlchemy is imported for the first query, in a thread: 150 ms and more that a server without
queries need not spend, and that the event loop never does.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument, ToolFailure
from trio_tools.database.results import Query, QueryResult, QueryTiming, take_rows
from trio_tools.settings.threads import run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, CursorResult, Engine

    from trio_tools.database.results import DatabaseConfig
    from trio_tools.database.statement import Statement


def _unwatched(_: Connection) -> AbstractContextManager[object]:
    return nullcontext()


class SqlDatabase(ABC):
    """One database: an engine made with the first query, and what its driver does differently."""

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config
        self._engine: Engine | None = None
        self._lock = threading.Lock()  # guards the making of the engine, which two threads may want

    async def load(self, limiter: trio.CapacityLimiter) -> None:
        """Make the engine, with all that it imports, before the first query.

        That takes 150 ms, and a cancel leaves it to itself: it is no work of whoever asks first.

        Raises:
            ToolFailure: The driver is not installed.
        """
        if self._engine is None:
            await run_in_thread(self._get_engine, limiter=limiter, abandon_on_cancel=True)

    async def run(self, query: Query, limiter: trio.CapacityLimiter) -> QueryResult:
        """Run `query` on a thread under `limiter`. A cancel ends the statement, then the thread.

        Raises:
            ToolFailure: As `Databases.query`.
        """
        return await run_in_tool_thread(self.run_here, query, limiter=limiter)

    def run_here(
        self,
        query: Query,
        watch: Callable[[Connection], AbstractContextManager[object]] = _unwatched,
    ) -> QueryResult:
        """Run `query` in the calling thread, which must be a trio worker thread.

        Args:
            query: What to run.
            watch: Entered with the connection while it is in use.
        """
        started = time.perf_counter()
        engine = self._get_engine()
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - loaded by now

        try:
            with (
                engine.connect() as connection,
                watch(connection),
                self._execute(connection, query) as result,
            ):
                executed = time.perf_counter()
                columns = tuple(result.keys()) if result.returns_rows else ()
                rows, more = take_rows(iter(result.fetchone, None) if columns else iter(()), query)
        except DBAPIError as error:
            trio.from_thread.check_cancelled()  # then the error is only how the statement ended
            raise self._failure(error.orig, query.statement) from error
        except (OverflowError, UnicodeError) as error:
            raise InvalidArgument(
                f"a parameter does not fit the database: {error}", error_code="BAD_PARAMETERS"
            ) from error
        return QueryResult(
            columns=columns,
            rows=tuple(rows),
            truncated=more,
            next_position=query.position + len(rows) if more else None,
            timing=QueryTiming(
                wait_seconds=started - query.called_at,
                execute_seconds=executed - started,
                fetch_seconds=time.perf_counter() - executed,
            ),
        )

    def close(self) -> None:
        """Close the idle connections. Those in use are closed when their query ends."""
        if self._engine is not None:
            self._engine.dispose()

    def _get_engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    @abstractmethod
    def _make_engine(self) -> Engine: ...

    @abstractmethod
    def _execute(self, connection: Connection, query: Query) -> CursorResult[Any]:
        """Execute the statement and return rows that come as they are asked for."""

    @abstractmethod
    def _failure(self, error: BaseException | None, statement: Statement) -> ToolFailure:
        """Say what an error of the driver means to the caller."""
