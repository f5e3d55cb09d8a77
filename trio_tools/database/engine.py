"""The interface of all kinds of database, and the code that they share.

SQLite and DuckDB run inside the calling process. Not every statement can be interrupted, and a
statement allocates memory of that process. So they run in worker processes with a memory limit,
and a cancel kills the worker. A late statement ends itself at its deadline where possible, and
then the worker stays.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from nursery_patterns import WorkerCrashed, run_in_process
from trio_tools.answers.errors import UpstreamFailed
from trio_tools.database.results import QueryResult, QueryTiming
from trio_tools.database.statement import needs_too_much_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from trio_tools.database.results import DatabaseConfig, Query, WorkerAnswer

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class SqlDatabase(ABC):
    """One database by name.

    Attributes:
        config: The operator's configuration.
        grace_seconds: Seconds after its deadline in which a statement may end by itself, before
            it is cancelled.
    """

    grace_seconds = 0.0

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config

    @abstractmethod
    async def run(self, query: Query, limiter: trio.CapacityLimiter) -> QueryResult:
        """Run `query` under `limiter`. A cancel ends the statement.

        Raises:
            ToolFailure: As `Databases.query`.
        """

    @abstractmethod
    async def outline(self, limiter: trio.CapacityLimiter) -> list[dict[str, Any]]:
        """Return the tables and views with their columns.

        Raises:
            ToolFailure: As `Databases.query`.
        """

    def close(self) -> None:  # noqa: B027 - most keep none
        """Close the idle connections. Those in use are closed when their query ends."""


class WorkerDatabase(SqlDatabase):
    """A database inside a worker process, which opens it again for each statement.

    So a replaced file is seen at once, and no statement leaves anything to the next one.

    Attributes:
        memory_bytes: Memory limit of a worker, including its interpreter.
    """

    grace_seconds = 0.1
    memory_bytes = 2**28

    async def run(self, query: Query, limiter: trio.CapacityLimiter) -> QueryResult:
        """As `SqlDatabase.run`. A cancel kills the worker process."""
        answer = await self._answer(query, limiter)
        ended = time.monotonic()
        return QueryResult(
            columns=answer.columns,
            rows=tuple(answer.rows),
            truncated=answer.more,
            next_position=query.position + len(answer.rows) if answer.more else None,
            timing=QueryTiming(
                wait_seconds=max(0.0, answer.started - query.called_at),
                execute_seconds=answer.executed - answer.started,
                fetch_seconds=max(0.0, ended - answer.executed),
            ),
            warnings=answer.warnings,
        )

    @abstractmethod
    async def _answer(self, query: Query, limiter: trio.CapacityLimiter) -> WorkerAnswer:
        """Run the statement by `_in_worker`."""

    async def _in_worker(
        self,
        limiter: trio.CapacityLimiter,
        fn: Callable[[Unpack[_Args]], _T],
        *args: *_Args,
    ) -> _T:
        try:
            return await run_in_process(
                fn, *args, limiter=limiter, max_memory_bytes=self.memory_bytes
            )
        except MemoryError as error:
            raise needs_too_much_memory() from error
        except WorkerCrashed as error:
            raise UpstreamFailed(
                f"the process that runs the statements of database {self.config.name!r} ended "
                "while it ran this one: the statement may need too much memory; select less",
                error_code="WORKER_CRASHED",
            ) from error
