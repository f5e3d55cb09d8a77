"""SQLite files: what the operator configured, run by `sqlite_worker`."""

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
        ValueError: The URL names no file.
    """

    catalogue_sql = """\
SELECT m.name AS "table", group_concat(rtrim(c.name || ' ' || c.type), ', ') AS columns
FROM sqlite_master AS m, pragma_table_info(m.name) AS c
WHERE m.type IN ('table', 'view') AND substr(m.name, 1, 7) <> 'sqlite_'
GROUP BY m.name ORDER BY m.name"""

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
