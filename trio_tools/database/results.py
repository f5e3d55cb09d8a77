"""What a query takes and gives, and rows made ready for JSON within two bounds."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from trio_tools.answers.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trio_tools.database.statement import Statement


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """A database by name.

    Attributes:
        name: What callers say.
        url: `sqlite:////absolute/path.db`, or `postgresql://user:password@host/database`. Never
            shown.
        max_value_bytes: The largest single value that SQLite may make or read. It bounds memory,
            and the time in which a built-in function cannot be interrupted.
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
    """By `time.perf_counter`: a thread works in real time and cannot read the loop's clock."""


@dataclass(frozen=True, slots=True)
class QueryTiming:
    """Where the time of one query went, in seconds of real time."""

    wait_seconds: float
    """Until a thread was free."""
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

    @property
    def row_count(self) -> int:
        """The number of `rows`."""
        return len(self.rows)


def take_rows(rows: Iterator[Sequence[Any]], query: Query) -> tuple[list[tuple[Any, ...]], bool]:
    """Skip `query.position` rows, then take rows until a bound is reached.

    Returns:
        The rows, and whether there are more.

    Raises:
        InvalidArgument: The first row alone has more than `query.max_bytes`.
    """
    for _ in range(query.position):
        if next(rows, None) is None:
            return [], False
    taken: list[tuple[Any, ...]] = []
    used = 0
    room = max(query.max_bytes - _FIXED_BYTES, query.max_bytes * 3 // 4)
    for row in rows:
        if len(taken) == query.max_rows:
            return taken, True
        values = tuple(json_value(value) for value in row)
        text = json.dumps(values, ensure_ascii=False)
        # In a Markdown table, each cell has a character more around it, and each row two.
        size = len(text.encode(errors="replace")) + len(values) + 2 + text.count("|")
        used += size
        if taken and used > room:
            return taken, True
        if size > query.max_bytes:
            raise InvalidArgument(
                f"row {query.position + 1} alone has more than {query.max_bytes:,} bytes: "
                "select fewer columns, or a part of the long ones with substr(column, 1, 1000)",
                error_code="TOO_LARGE",
                data={"max_bytes": query.max_bytes},
            )
        taken.append(values)
    return taken, False


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
