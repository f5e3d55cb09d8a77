"""SQLite files of the operator's configuration, run by `sqlite_worker`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_tools.database import sqlite_worker
from trio_tools.database.engine import WorkerDatabase

if TYPE_CHECKING:
    import trio

    from trio_tools.database.results import DatabaseConfig, Query, WorkerAnswer


class SqliteDatabase(WorkerDatabase):
    """One SQLite file.

    Raises:
        ValueError: The URL has no file.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        _, _, path = config.url.partition(":///")
        if path in {"", ":memory:"}:
            raise ValueError(
                f"database {config.name!r}: a SQLite URL names a file that exists, "
                "as in sqlite:////srv/data/shop.db"
            )
        uri = f"{Path(path).absolute().as_uri()}?mode=ro"
        self._file = sqlite_worker.File(
            config.name, uri, config.max_value_bytes, config.busy_seconds
        )

    async def outline(self, limiter: trio.CapacityLimiter) -> list[dict[str, Any]]:
        """As `SqlDatabase.outline`."""
        return await self._in_worker(limiter, sqlite_worker.outline, self._file)

    async def _answer(self, query: Query, limiter: trio.CapacityLimiter) -> WorkerAnswer:
        return await self._in_worker(limiter, sqlite_worker.run, self._file, query)
