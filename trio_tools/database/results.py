"""What a query takes and gives, and rows made ready for JSON within two bounds."""

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
        name: What callers say.
        url: `sqlite:////absolute/path.db`, `duckdb:////absolute/path` (a file or a folder), or
            `postgresql://user:password@host/database`. Never shown.
        max_value_bytes: The largest single value that SQLite may make or read.
        busy_seconds: How long to try again while another process locks the SQLite file.
        connect_timeout_seconds: For PostgreSQL; whole seconds, at least 2.
    """

    name: str
    url: str = field(repr=False)
    max_value_bytes: int = 1_000_000
    busy_seconds: float = 5.0
    connect_timeout_seconds: int = 5


# What an answer has beside its rows. One row alone may take that room, too.
_FIXED_BYTES = 1_500


class Query(NamedTuple):
    """One call, on its way to the thread that runs it."""

    statement: Statement
    parameters: Mapping[str, Any]
    position: int
    max_rows: int
    max_bytes: int
    timeout_seconds: float
    called_at: float
    """By `time.monotonic`, which all processes of a machine share and no virtual clock moves."""

    @property
    def deadline(self) -> float:
        """When its time is up, by `time.monotonic`."""
        return self.called_at + self.timeout_seconds


@dataclass(frozen=True, slots=True)
class QueryTiming:
    """Where the time of one query went, in seconds of real time."""

    wait_seconds: float
    """Until a thread or a worker process was free."""
    execute_seconds: float
    """Until the database had the first row ready; connecting included."""
    fetch_seconds: float
    """For the rows themselves, skipped ones included."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of one statement, in the order of the database."""

    columns: tuple[str, ...]
    """May repeat, as in `SELECT 1 AS a, 2 AS a`."""
    rows: tuple[tuple[Any, ...], ...]
    """Values as JSON has them: bytes in base64; dates, decimals and all else as text."""
    truncated: bool
    """True if a bound ended the rows and the database has more."""
    next_position: int | None
    """The rows before the next page. None if there are no more."""
    timing: QueryTiming
    warnings: tuple[str, ...] = ()
    """Sentences about values that are not what the database has."""

    @property
    def row_count(self) -> int:
        """The number of `rows`."""
        return len(self.rows)


class WorkerAnswer(NamedTuple):
    """What a worker process sends for one statement."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool
    warnings: tuple[str, ...]
    started: float
    """By `time.monotonic`, as `executed`."""
    executed: float


class Page(NamedTuple):
    """Rows within the bounds of a query."""

    rows: list[tuple[Any, ...]]
    more: bool
    """Whether a bound ended them and there are more."""


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
        least_bytes: No less than half and no more than all of what a row takes as JSON. A row
            that is too large is refused by this alone, before anything of it is converted.
        convert: Returns the values of a row as JSON has them.

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
    """Return the error for a row that alone is above the bound on bytes: the first one of a page.

    Args:
        query: What was asked.
        rows: Among how many it is, if the database does not say.
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
    """Return the bytes of a row as JSON and as a row of a Markdown table, the larger of both."""
    text = json.dumps(values, ensure_ascii=False)
    # In a table, each cell has a character more around it, and each row two.
    return len(text.encode(errors="replace")) + len(values) + 2 + text.count("|")


def least_size(row: Sequence[object]) -> int:
    """Return a lower bound of what Python values take as JSON, without a look into them."""
    return sum(len(value) for value in row if isinstance(value, str | bytes))


def json_row(row: Sequence[object]) -> tuple[Any, ...]:
    """Return the values of a row as JSON has them."""
    return tuple(json_value(value) for value in row)


def json_value(value: object) -> Any:
    """Return `value` as JSON has it. What JSON lacks becomes text, without loss."""
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
