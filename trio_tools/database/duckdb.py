"""DuckDB: a database file, or a folder of Parquet and CSV files, run by `duckdb_worker`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.database import duckdb_worker
from trio_tools.database.engine import WorkerDatabase

if TYPE_CHECKING:
    import trio

    from trio_tools.database.results import DatabaseConfig, Query, WorkerAnswer


class DuckDatabase(WorkerDatabase):
    """One DuckDB file, or one folder in which each Parquet and CSV file is a table.

    Raises:
        ValueError: The URL has no path.
    """

    # DuckDB may take half a gigabyte; the rest is for the interpreter, threads and the rows.
    memory_bytes = 2**30

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        _, _, path = config.url.partition(":///")
        if path in {"", ":memory:"}:
            raise ValueError(
                f"database {config.name!r}: a DuckDB URL names a file or a folder that exists, "
                "as in duckdb:////srv/data/shop.duckdb"
            )
        self._place = duckdb_worker.Place(config.name, str(Path(path).absolute()))

    async def outline(self, limiter: trio.CapacityLimiter) -> list[dict[str, Any]]:
        """As `SqlDatabase.outline`."""
        _check_installed(self.config.name)
        return await self._in_worker(limiter, duckdb_worker.outline, self._place)

    async def _answer(self, query: Query, limiter: trio.CapacityLimiter) -> WorkerAnswer:
        _check_installed(self.config.name)
        return await self._in_worker(limiter, duckdb_worker.run, self._place, query)


def _check_installed(name: str) -> None:
    if find_spec("duckdb") is None:
        raise UpstreamFailed(
            f"database {name!r} needs DuckDB, which is not installed",
            error_code="EXTRA_NOT_INSTALLED",
            remediation="The operator runs: pip install trio-tools[duckdb]",
        )
