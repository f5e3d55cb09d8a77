"""One statement on one SQLite file, inside a worker process.

It has five protections. The file is opened read-only. An authorizer allows only reads when a
statement is compiled, and no internal tables of SQLite. Limits bound values, statements and the
memory of SQLite. A progress handler ends late statements. The worker can be killed inside of a
function that no handler interrupts.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from trio_tools.answers.errors import InvalidArgument, ToolFailure, UpstreamFailed
from trio_tools.database.results import WorkerAnswer, json_row, least_size, take_rows
from trio_tools.database.statement import needs_too_much_memory, read_only, refused, too_slow

if TYPE_CHECKING:
    from trio_tools.database.results import Query
    from trio_tools.database.statement import Statement

# The compilation of a kilobyte of SQL may take gigabytes, and so may a row of many values. This
# limit applies to SQLite in the process, not to Python, which needs as much again.
_HEAP_BYTES = 2**26
_PROGRESS_STEPS = 10_000  # SQLite instructions, about 0.5 ms: frequent enough, and negligible cost
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 400_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
_DENIED_FUNCTIONS = frozenset(
    {
        "load_extension",
        "readfile",
        "writefile",
        "edit",
        "lsdir",
        "fsdir",
        "fts3_tokenizer",  # its argument is the address of code
        "sqlite_log",
    }
)
_PRAGMAS_WITH_NAME = frozenset(
    {
        "foreign_key_check",
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
        "compile_options",
        "data_version",
        "database_list",
        "encoding",
        "foreign_key_check",
        "function_list",
        "read_uncommitted",
        "schema_version",
        "table_list",
        "user_version",
    }
)
# Tables that exist without being in the schema. Others, such as sqlite_stmt and dbstat, would
# reveal statements of other callers or the location of pages.
_BUILT_IN_TABLES = frozenset(
    {
        "json_each",
        "json_tree",
        "generate_series",
        "sqlite_master",
        "sqlite_schema",
        "sqlite_temp_master",
        "sqlite_temp_schema",
        *(f"pragma_{name}" for name in _PRAGMAS_WITH_NAME | _PRAGMAS_WITHOUT_VALUE),
    }
)
# Names in double quotes, and every token in which a double quote has another meaning.
_DOUBLE_QUOTED = re.compile(
    r"""
      "(?P<name>(?:[^"]|"")*+)"
    | --[^\n]*+ | /\*.*?(?:\*/|\Z) | '(?:[^']|'')*+(?:'|\Z) | `(?:[^`]|``)*+(?:`|\Z)
    | \[[^\]]*+(?:\]|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_TABLES_TOLD = 1_000
_COLUMNS_TOLD = 500


class File(NamedTuple):
    """A configured SQLite file."""

    name: str
    uri: str
    max_value_bytes: int
    busy_seconds: float


def run(file: File, query: Query) -> WorkerAnswer:
    """Run one statement.

    Raises:
        ToolFailure: As `Databases.query`.
    """
    started = time.monotonic()
    try:
        with closing(_Session(file, query.deadline)) as session:
            sql = names_in_backquotes(query.statement.sql)
            cursor = session.connection.execute(sql, dict(query.parameters))
            executed = time.monotonic()
            columns = tuple(str(column[0]) for column in cursor.description or ())
            rows = cast("Iterator[tuple[Any, ...]]", cursor)
            next(islice(rows, query.position, query.position), None)
            page = take_rows(rows, query, least_bytes=least_size, convert=json_row)
            return WorkerAnswer(columns, *page, session.warnings(), started, executed)
    except sqlite3.Error as error:
        if time.monotonic() >= query.deadline and _code(error) == sqlite3.SQLITE_INTERRUPT:
            raise too_slow(query.timeout_seconds) from error
        raise _failure(file, error, query.statement) from error
    except MemoryError as error:
        raise needs_too_much_memory() from error
    except (OverflowError, UnicodeError, ValueError) as error:
        raise InvalidArgument(
            f"a parameter does not fit the database: {error}", error_code="BAD_PARAMETERS"
        ) from error


def outline(file: File) -> list[dict[str, Any]]:
    """Return the tables and views of the file, with their columns.

    Raises:
        UpstreamFailed: The file cannot be read.
    """
    try:
        with closing(_Session(file, time.monotonic() + 10)) as session:
            return list(islice(_tables(session.connection), _TABLES_TOLD))
    except sqlite3.Error as error:
        raise _unusable(file, error) from error


def names_in_backquotes(sql: str) -> str:
    """Return the statement with backquotes instead of double quotes around names.

    SQLite treats an unknown name in double quotes as a text, so a misspelt column would return
    its own name in each row. With backquotes it reports an error.
    """
    return _DOUBLE_QUOTED.sub(_in_backquotes, sql)


def _in_backquotes(token: re.Match[str]) -> str:
    name = token["name"]
    if name is None:
        return token[0]
    return "`" + name.replace('""', '"').replace("`", "``") + "`"


class _Session:
    """A connection with all protections, for one statement."""

    def __init__(self, file: File, deadline: float) -> None:
        self._replaced = 0
        self.connection = sqlite3.connect(
            file.uri,
            uri=True,
            timeout=min(file.busy_seconds, max(0.0, deadline - time.monotonic())),
            isolation_level=None,
            cached_statements=0,
        )
        with ExitStack() as on_failure:
            on_failure.callback(self.connection.close)
            self._fence(file, deadline)
            on_failure.pop_all()

    def _fence(self, file: File, deadline: float) -> None:
        connection = self.connection
        connection.text_factory = self._decode
        connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
        names = {str(name).lower() for (name,) in connection.execute(_TABLE_NAMES)}
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, file.max_value_bytes)
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        modules = {str(name).lower() for (name,) in connection.execute("PRAGMA module_list")}
        readable = names | _BUILT_IN_TABLES
        connection.set_authorizer(_authorizer(readable, modules - readable))
        connection.set_progress_handler(lambda: time.monotonic() >= deadline, _PROGRESS_STEPS)

    def close(self) -> None:
        self.connection.close()

    def warnings(self) -> tuple[str, ...]:
        if not self._replaced:
            return ()
        warning = (
            f"{self._replaced} texts in the database are not UTF-8: what could not be read "
            "stands as \ufffd; select CAST(column AS BLOB) for the bytes."
        )
        return (warning,)

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._replaced += 1
            return raw.decode(errors="replace")


_TABLE_NAMES = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"


def _authorizer(tables: set[str], hidden: set[str]) -> Callable[..., int]:
    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        name = (first or "").lower()
        if action == sqlite3.SQLITE_READ:
            # count(*) reads no column, and its name may be one that the statement defines.
            named_here = not second and name not in hidden and not name.startswith("pragma_")
            allowed = name in tables or named_here
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() not in _DENIED_FUNCTIONS
        elif action == sqlite3.SQLITE_PRAGMA:
            allowed = name in (_PRAGMAS_WITHOUT_VALUE if second is None else _PRAGMAS_WITH_NAME)
        elif action == sqlite3.SQLITE_UPDATE:
            # A virtual table (FTS5, json_each) declares its columns through the schema table.
            # That table itself cannot be written without the pragma writable_schema.
            allowed = first == "sqlite_master"
        else:
            allowed = action in _READING
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


def _failure(file: File, error: sqlite3.Error, statement: Statement) -> ToolFailure:
    text = str(error)
    if "not authorized" in text or "prohibited" in text:  # reported with the code of an SQL error
        return read_only(text)
    match _code(error):
        case sqlite3.SQLITE_AUTH | sqlite3.SQLITE_READONLY:
            return read_only(text)
        case sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_NOMEM:
            limit = file.max_value_bytes
            return InvalidArgument(
                f"sql makes a value larger than {limit:,} bytes: select other columns, or "
                "look at its length(...) only",
                error_code="TOO_LARGE",
                data={"max_value_bytes": limit},
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UpstreamFailed(
                f"database {file.name!r} stayed locked for {file.busy_seconds:g} seconds: "
                "call again",
                error_code="DATABASE_LOCKED",
            )
        case (
            None
            | sqlite3.SQLITE_ERROR
            | sqlite3.SQLITE_MISMATCH
            | sqlite3.SQLITE_RANGE
            | sqlite3.SQLITE_SCHEMA
        ):
            if text.startswith("no such column") and '"' in statement.sql:
                text += " (double quotes are for names; write a text in single quotes)"
            return refused(statement, text)
        case _:
            return _unusable(file, error)


def _unusable(file: File, error: sqlite3.Error) -> UpstreamFailed:
    return UpstreamFailed(
        f"database {file.name!r} cannot be read ({error}): the operator should look at its file",
        error_code="DATABASE_UNUSABLE",
    )


def _code(error: sqlite3.Error) -> int | None:
    """Return the primary result code of SQLite. None if the module itself refused the call."""
    code = cast("int | None", getattr(error, "sqlite_errorcode", None))
    return None if code is None else code & 0xFF


def _tables(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    listed = connection.execute(
        "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') "
        r"AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name"
    )
    for name, kind in listed.fetchall():
        quoted = '"' + str(name).replace('"', '""') + '"'
        foreign = {
            str(row[3]): f"{row[2]}.{row[4]}" if row[4] else str(row[2])
            for row in connection.execute(f"PRAGMA foreign_key_list({quoted})")
        }
        columns: list[dict[str, Any]] = []
        for row in connection.execute(f"PRAGMA table_xinfo({quoted})").fetchmany(_COLUMNS_TOLD):
            column: dict[str, Any] = {"name": row[1], "type": row[2]}
            if row[3]:
                column["required"] = True
            if row[5]:
                column["key"] = True
            if row[1] in foreign:
                column["references"] = foreign[row[1]]
            columns.append(column)
        yield {"table": name, "kind": kind, "columns": columns}
