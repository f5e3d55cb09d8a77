"""SQLite that cannot write, cannot hold a thread and cannot fill the memory.

Four fences: the file is opened read-only; an authorizer allows what reads and refuses the rest
when a statement is compiled; limits bound values and statements; and a progress handler asks
every so often whether the caller is still there. Raising in the handler ends the statement that
runs, on its own thread, so it can never hit the next one.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from trio_tools.answers.errors import InvalidArgument, ToolFailure, UpstreamFailed
from trio_tools.database.engine import SqlDatabase
from trio_tools.database.statement import read_only, refused

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Engine

    from trio_tools.database.results import DatabaseConfig, Query
    from trio_tools.database.statement import Statement

_PROGRESS_STEPS = 10_000  # of SQLite's machine, about 0.5 ms: often enough, and too rare to cost
_BUSY_TRY_SECONDS = 0.025  # SQLite sleeps that long for a lock, and asks nobody meanwhile
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 400_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_DENIED_FUNCTIONS = frozenset(
    {
        "load_extension",
        "readfile",
        "writefile",
        "edit",
        "lsdir",
        "fsdir",
        "fts3_tokenizer",  # takes the address of code
        "regexp",  # SQLAlchemy's, in Python: a bad pattern would hold the interpreter for ever
    }
)
_PRAGMAS_WITH_NAME = frozenset(
    {
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_PRAGMAS_WITHOUT_VALUE = frozenset(
    {
        "collation_list",
        "data_version",
        "encoding",
        "read_uncommitted",
        "schema_version",
        "table_list",
        "user_version",
    }
)


def _authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() not in _DENIED_FUNCTIONS
    elif action == sqlite3.SQLITE_PRAGMA:
        names = _PRAGMAS_WITHOUT_VALUE if second is None else _PRAGMAS_WITH_NAME
        allowed = (first or "").lower() in names
    elif action == sqlite3.SQLITE_UPDATE:
        # A virtual table (FTS5, json_each) declares its columns by way of the schema table. That
        # table itself cannot be written to without the pragma writable_schema.
        allowed = first == "sqlite_master"
    else:
        allowed = action in _READING
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _ask_after_caller() -> int:
    # An exception here ends the statement, and sqlite3 drops it; `run_here` then asks again.
    trio.from_thread.check_cancelled()
    return 0


class SqliteDatabase(SqlDatabase):
    """One SQLite file.

    Raises:
        ValueError: The URL names no file.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        super().__init__(config)
        _, _, path = config.url.partition(":///")
        if path in {"", ":memory:"}:
            raise ValueError(
                f"database {config.name!r}: a SQLite URL names a file that exists, "
                "as in sqlite:////srv/data/shop.db"
            )
        self._path = Path(path).absolute()

    def _make_engine(self) -> Engine:
        import sqlalchemy  # noqa: PLC0415 - see engine.py

        return sqlalchemy.create_engine(
            "sqlite+pysqlite://",
            creator=self._connect,
            poolclass=sqlalchemy.QueuePool,
            max_overflow=-1,  # the limiter on threads is the bound
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=ro",
            uri=True,
            timeout=_BUSY_TRY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.config.max_value_bytes)
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(_ask_after_caller, _PROGRESS_STEPS)
        return connection

    def _execute(self, connection: Connection, query: Query) -> CursorResult[Any]:
        from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - see engine.py

        give_up_at = time.perf_counter() + self.config.busy_seconds
        while True:
            try:
                return connection.exec_driver_sql(query.statement.sql, dict(query.parameters))
            except OperationalError as error:
                # Waiting in SQLite itself could not be cancelled, so it waits in short turns.
                if _code(error.orig) != sqlite3.SQLITE_BUSY or time.perf_counter() > give_up_at:
                    raise
                trio.from_thread.check_cancelled()

    def _failure(self, error: BaseException | None, statement: Statement) -> ToolFailure:
        if "not authorized" in str(error):  # a function is refused under the code of a mistake
            return read_only(str(error))
        match _code(error):
            case sqlite3.SQLITE_AUTH | sqlite3.SQLITE_READONLY:
                return read_only(str(error))
            case sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_NOMEM:
                limit = self.config.max_value_bytes
                return InvalidArgument(
                    f"sql makes a value larger than {limit:,} bytes: select other columns, or "
                    "look at its length(...) only",
                    error_code="TOO_LARGE",
                    data={"max_value_bytes": limit},
                )
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return UpstreamFailed(
                    f"database {self.config.name!r} stayed locked for "
                    f"{self.config.busy_seconds:g} seconds: call again",
                    error_code="DATABASE_LOCKED",
                )
            case None | sqlite3.SQLITE_ERROR | sqlite3.SQLITE_MISMATCH | sqlite3.SQLITE_RANGE:
                return refused(statement, str(error))
            case _:
                return UpstreamFailed(f"database {self.config.name!r} failed: {error}")


def _code(error: BaseException | None) -> int | None:
    """Return the primary result code of SQLite. None if the module itself refused the call."""
    code = cast("int | None", getattr(error, "sqlite_errorcode", None))
    return None if code is None else code & 0xFF
