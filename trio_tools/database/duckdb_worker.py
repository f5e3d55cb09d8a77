"""One statement on DuckDB, inside a worker process: on a database file, or on a folder of files.

It has four protections. Only statements run that DuckDB itself classifies as a SELECT or the plan
of one. The database file is opened read-only. Access to anything outside of the process is
disabled, except for the configured files, and the configuration is locked. Memory, threads and
time are bounded, and the worker can be killed.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trio_tools.answers.errors import Forbidden, InvalidArgument, ToolFailure, UpstreamFailed
from trio_tools.database.results import WorkerAnswer, json_row, least_size, take_rows
from trio_tools.database.statement import needs_too_much_memory, read_only, refused, too_slow

if TYPE_CHECKING:
    from trio_tools.database.results import Query
    from trio_tools.database.statement import Statement

_READERS: Final = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".csv.gz": "read_csv",
    ".csv.zst": "read_csv",
    ".tsv.gz": "read_csv",
}
_MAX_FILES: Final = 1_000
_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "max_temp_directory_size": "0KB",
    "memory_limit": "512MB",
    "python_enable_replacements": "false",  # else a table name could be a Python variable
    "temp_directory": "",
    "threads": "2",
}
# A statement with one of these words may use all tables.
_ABOUT_ALL: Final = re.compile(
    r"duckdb_|information_schema|pg_|sqlite_|\bshow\b|\bdescribe\b", re.IGNORECASE
)
_PLAN: Final = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+|\([^)]*\)\s*)?", re.IGNORECASE)
_ROWS_AT_ONCE = 256
_TABLES_TOLD = 1_000
_COLUMNS_TOLD = 500


class Place(NamedTuple):
    """A configured database file or folder of files."""

    name: str
    path: str


def run(place: Place, query: Query) -> WorkerAnswer:
    """Run one statement.

    Raises:
        ToolFailure: As `Databases.query`.
    """
    import duckdb  # noqa: PLC0415 - only workers load it

    started = time.monotonic()
    sql, names = query.statement.in_dollars()
    try:
        with ExitStack() as session:
            connection = _connect(place, query.statement.text, session)
            _refuse_what_writes(connection, sql)
            _interrupt_at(query.deadline, connection, session)
            connection.execute(sql, [query.parameters[name] for name in names])
            executed = time.monotonic()
            columns = tuple(str(column[0]) for column in connection.description or ())
            rows = _rows(connection)
            next(islice(rows, query.position, query.position), None)
            page = take_rows(rows, query, least_bytes=least_size, convert=json_row)
            return WorkerAnswer(columns, *page, (), started, executed)
    except duckdb.InterruptException as error:
        raise too_slow(query.timeout_seconds) from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise needs_too_much_memory() from error
    except duckdb.Error as error:
        raise _failure(place, error, query.statement) from error
    except (OverflowError, UnicodeError, ValueError) as error:
        raise InvalidArgument(
            f"a value or a parameter does not fit: {error}", error_code="BAD_PARAMETERS"
        ) from error


def outline(place: Place) -> list[dict[str, Any]]:
    """Return the tables and views with their columns.

    Raises:
        UpstreamFailed: The file cannot be read.
    """
    import duckdb  # noqa: PLC0415 - only workers load it

    try:
        with ExitStack() as session:
            connection = _connect(place, "duckdb_", session)
            return list(islice(_tables(connection), _TABLES_TOLD))
    except duckdb.Error as error:
        raise _unusable(place, error) from error


def _connect(place: Place, sql: str, session: ExitStack) -> Any:
    """Open the file or the folder with all protections. It is closed with the session."""
    import duckdb  # noqa: PLC0415 - only workers load it

    path = Path(place.path)
    if not path.exists():
        raise UpstreamFailed(
            f"database {place.name!r} is not there: the operator should look at its path",
            error_code="DATABASE_UNUSABLE",
        )
    if path.is_dir():
        connection = duckdb.connect(":memory:", config=_CONFIG)
        session.callback(connection.close)
        allowed = _make_views(connection, path, sql)
    else:
        try:
            connection = duckdb.connect(str(path), read_only=True, config=_CONFIG)
        except duckdb.Error as error:
            raise _unusable(place, error) from error
        session.callback(connection.close)
        allowed = []
    listed = ", ".join(map(_text, allowed))
    connection.execute(f"SET allowed_paths = [{listed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _make_views(connection: Any, folder: Path, sql: str) -> list[str]:
    """Make a view of each file that the statement may use; return their paths."""
    import duckdb  # noqa: PLC0415 - only workers load it

    about_all, lower = _ABOUT_ALL.search(sql), sql.lower()
    allowed: list[str] = []
    for name, (path, reader) in _files(folder).items():
        named = name.lower() in lower
        if not named and not about_all:
            continue
        columns = f"SELECT * FROM {reader}({_text(path)})"  # noqa: S608 - quoted
        statement = f"CREATE VIEW {_name(name)} AS {columns}"
        if named:
            connection.execute(statement)
        else:  # a defective file must not hide the others
            with suppress(duckdb.Error):
                connection.execute(statement)
        allowed.append(path)
    return allowed


def _files(folder: Path) -> dict[str, tuple[str, str]]:
    """Return path and reader of each table, by the file's name without its suffix.

    Links are skipped, since they could lead out of the folder. Of two files with one name, the
    second in order of name keeps its suffix.
    """
    found: dict[str, tuple[str, str]] = {}
    real = folder.resolve()
    with os.scandir(real) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    for name in names:
        suffix = next((s for s in sorted(_READERS, key=len)[::-1] if name.lower().endswith(s)), "")
        if suffix and len(found) < _MAX_FILES:
            stem = name[: -len(suffix)]
            key = name if stem.lower() in map(str.lower, found) else stem
            found[key] = (str(real / name), _READERS[suffix])
    return found


def _refuse_what_writes(connection: Any, sql: str) -> None:
    """Refuse everything but a SELECT: DuckDB may write to the files that it may read."""
    import duckdb  # noqa: PLC0415 - only workers load it

    select, plan = duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN
    (statement,) = connection.extract_statements(sql)
    if statement.type == plan:  # the plan of another statement: ANALYZE runs it
        (statement,) = connection.extract_statements(_PLAN.sub("", sql, count=1))
    if statement.type != select:
        kind = str(statement.type).rpartition(".")[2]
        raise read_only(f"it is a statement of the kind {kind}")


def _interrupt_at(deadline: float, connection: Any, session: ExitStack) -> None:
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.interrupt)
    timer.daemon = True
    timer.start()
    session.callback(timer.join)
    session.callback(timer.cancel)


def _rows(connection: Any) -> Iterator[tuple[Any, ...]]:
    while some := connection.fetchmany(_ROWS_AT_ONCE):
        yield from some


def _failure(place: Place, error: Exception, statement: Statement) -> ToolFailure:
    import duckdb  # noqa: PLC0415 - only workers load it

    text = str(error).split("\n\nLINE ", 1)[0]
    if isinstance(error, duckdb.PermissionException):
        return Forbidden(
            f"sql reads what is outside of database {place.name!r}: name its tables alone; without "
            "sql they are listed",
            error_code="OUTSIDE_DATABASE",
        )
    if "read-only" in text or "configuration has been locked" in text:
        return read_only(text)
    if isinstance(error, duckdb.IOException | duckdb.InternalException | duckdb.FatalException):
        return _unusable(place, error)
    return refused(statement, text)


def _unusable(place: Place, error: Exception) -> UpstreamFailed:
    text = str(error)
    if "lock on file" in text:
        return UpstreamFailed(
            f"database {place.name!r} is open for writing in another process: call again when that "
            "has closed it",
            error_code="DATABASE_LOCKED",
        )
    return UpstreamFailed(
        f"database {place.name!r} cannot be read ({text}): the operator should look at its files",
        error_code="DATABASE_UNUSABLE",
    )


def _tables(connection: Any) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        "SELECT c.schema_name, c.table_name, c.column_name, c.data_type, NOT c.is_nullable, "
        "v.view_name IS NOT NULL FROM duckdb_columns() c LEFT JOIN duckdb_views() v "
        "ON v.view_oid = c.table_oid WHERE NOT c.internal "
        "ORDER BY c.schema_name, c.table_name, c.column_index"
    ).fetchall()
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for schema, table, name, kind, required, is_view in rows:
        told = tables.setdefault(
            (schema, table),
            {
                "table": table,
                "schema": schema,
                "kind": "view" if is_view else "table",
                "columns": [],
            },
        )
        if len(told["columns"]) < _COLUMNS_TOLD:
            column = {"name": name, "type": kind}
            told["columns"].append({**column, "required": True} if required else column)
    yield from tables.values()


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
