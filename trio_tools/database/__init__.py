"""Named databases, read-only, one bounded statement at a time.

Each module imports only from those above it:

    statement       a statement and its parameters, checked before it runs
    results         rows, their bounds, and the configuration of a database
    engine          the interface and the code that all databases share
    sqlite_worker   one statement on a SQLite file, in a worker process
    sqlite          SQLite files
    duckdb_worker   one statement on DuckDB, in a worker process
    duckdb          DuckDB files, and folders of Parquet and CSV files
    postgres        PostgreSQL: connections, sessions, values, errors
    databases       `Databases`, which `query_database` uses
    shared_store    the tables in PostgreSQL with which replicas share limits
    shared_limits   limits that several replicas share
    tables          a table read a chunk at a time, by its key

The public names load their modules at first use: a worker process that runs one SQLite statement
imports only `sqlite_worker`, and so starts in a third of the time.
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
