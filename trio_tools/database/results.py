"""A query and its result: configuration, rows as JSON values, and the two bounds of a page."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from trio_tools.answers.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trio_tools.database.statement import Statement

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """A database by name.

    Attributes:
        name: The name that callers use.
        url: `sqlite:////absolute/path.db`, `duckdb:////absolute/path` (a file or a folder), or
            `postgresql://user:password@host/database`. Never shown.
        max_value_bytes: Limit of bytes of one value that SQLite makes or reads.
        busy_seconds: Seconds to retry while another process locks the SQLite file.
        connect_timeout_seconds: For PostgreSQL; whole seconds, at least 2.
    """

    name: str
    url: str = field(repr=False)
    max_value_bytes: int = 1_000_000
    busy_seconds: float = 5.0
    connect_timeout_seconds: int = 5


# Bytes of an answer beside its rows. A single row may use them too.
_FIXED_BYTES = 1_500


class Query(NamedTuple):
    """One call, passed to the thread that runs it."""

    statement: Statement
    parameters: Mapping[str, Any]
    position: int
    max_rows: int
    max_bytes: int
    timeout_seconds: float
    called_at: float
    """In `time.monotonic`, which all processes of a machine share."""

    @property
    def deadline(self) -> float:
        """The end of its timeout, in `time.monotonic`."""
        return self.called_at + self.timeout_seconds


@dataclass(frozen=True, slots=True)
class QueryTiming:
    """The durations of the parts of one query, in seconds of real time."""

    wait_seconds: float
    """Wait for a free thread or worker process."""
    execute_seconds: float
    """Until the database had the first row, including the connection."""
    fetch_seconds: float
    """Reading of the rows, including skipped ones."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of one statement, in the order of the database."""

    columns: tuple[str, ...]
    """Names may repeat, as in `SELECT 1 AS a, 2 AS a`."""
    rows: tuple[tuple[Any, ...], ...]
    """JSON values: bytes in base64; dates, decimals and other types as text."""
    truncated: bool
    """True if a bound ended the page and the database has more rows."""
    next_position: int | None
    """Number of rows before the next page. None if there are no more."""
    timing: QueryTiming
    warnings: tuple[str, ...] = ()
    """Warnings about values that differ from those in the database."""

    @property
    def row_count(self) -> int:
        """The number of `rows`."""
        return len(self.rows)


class WorkerAnswer(NamedTuple):
    """The message of a worker process for one statement."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool
    warnings: tuple[str, ...]
    started: float
    """In `time.monotonic`, as `executed`."""
    executed: float


class Page(NamedTuple):
    """Rows within the bounds of a query."""

    rows: list[tuple[Any, ...]]
    more: bool
    """Whether a bound ended the page and there are more rows."""


def take_rows(
    rows: Iterator[_Row],
    query: Query,
    *,
    least_bytes: Callable[[_Row], int],
    convert: Callable[[_Row], tuple[Any, ...]],
) -> Page:
    """Take rows until a bound is reached.

    Args:
        rows: Without those that `query.position` skips.
        query: The bounds.
        least_bytes: Returns a lower bound of a row's size as JSON, at least half of it. A row
            that is too large is refused by this bound, before it is converted.
        convert: Returns the values of a row as JSON values.

    Raises:
        InvalidArgument: The first row alone has more than `query.max_bytes`.
    """
    taken: list[tuple[Any, ...]] = []
    used = 0
    room = max(query.max_bytes - _FIXED_BYTES, query.max_bytes * 3 // 4)
    for row in rows:
        if len(taken) == query.max_rows:
            return Page(taken, more=True)
        values = convert(row) if least_bytes(row) <= query.max_bytes else None
        size = query.max_bytes + 1 if values is None else shown_size(values)
        used += size
        if taken and used > room:
            return Page(taken, more=True)
        if values is None or size > query.max_bytes:
            raise row_too_large(query)
        taken.append(values)
    return Page(taken, more=False)


def row_too_large(query: Query, *, rows: int = 1) -> InvalidArgument:
    """Return the error for a first row that alone is above the bound on bytes.

    Args:
        query: The query.
        rows: The number of rows of which one is too large, if the database does not say which.
    """
    first = query.position + 1
    which = f"row {first}" if rows == 1 else f"one of the rows {first} to {first + rows - 1}"
    return InvalidArgument(
        f"{which} alone has more than {query.max_bytes:,} bytes: "
        "select fewer columns, or a part of the long ones with substr(column, 1, 1000)",
        error_code="TOO_LARGE",
        data={"max_bytes": query.max_bytes},
    )


def shown_size(values: Sequence[Any]) -> int:
    """Return the larger size of a row in bytes: as JSON, or as a row of a Markdown table."""
    text = json.dumps(values, ensure_ascii=False)
    # In a table, each cell has one character more around it, and each row two.
    return len(text.encode(errors="replace")) + len(values) + 2 + text.count("|")


def least_size(row: Sequence[object]) -> int:
    """Return a lower bound of the size of Python values as JSON, without visiting them."""
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def json_row(row: Sequence[object]) -> tuple[Any, ...]:
    """Return the values of a row as JSON values."""
    return tuple(json_value(value) for value in row)


def json_value(value: object) -> Any:
    """Return `value` as a JSON value. Types that JSON lacks become text, without loss."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [json_value(each) for each in cast("Sequence[object]", value)]
    if isinstance(value, dict):
        pairs = cast("Mapping[object, object]", value)
        return {str(key): json_value(each) for key, each in pairs.items()}
    return str(value)
