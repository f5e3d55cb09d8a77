"""Named databases that can be read and nothing else, one bounded statement at a time.

Each module imports only from those above it:

    statement           what was asked, checked before it runs
    results             what is answered, and how a database is configured
    engine              what all kinds of database have in common
    sqlite_worker       one statement on a SQLite file, in a worker process
    sqlite              SQLite files
    duckdb_worker       one statement on DuckDB, in a worker process
    duckdb              DuckDB files, and folders of Parquet and CSV files
    postgres            PostgreSQL: connections, sessions, values, errors
    databases           `Databases`: what `query_database` uses
    shared_store        what replicas share of limits, in PostgreSQL
    shared_limits       limits that several replicas keep to together
    tables              a table read a chunk at a time, by its key

The public names load their modules when they are first used: a worker process that runs one SQLite
statement imports `sqlite_worker` alone, and so starts in a third of the time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases
    from trio_tools.database.results import DatabaseConfig, QueryResult, QueryTiming

__all__ = ["DatabaseConfig", "Databases", "QueryResult", "QueryTiming"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "databases" if name == "Databases" else "results"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
