"""A table read in chunks of rows, each chunk starting after the last row of the one before.

Nothing is held open between chunks: the key of the last row is the position of the next chunk.
That requires a key that is unique. Only the database can check this, since it may compare
differently from Python: with a collation, or with fewer digits. So at each chunk border the
number of rows with that key is queried, and any number but one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_tools.answers.errors import InvalidArgument, brief_repr

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases
    from trio_tools.database.results import QueryResult

Key = str | int | float


class TableChunk(NamedTuple):
    """Rows in key order, and the key of the last one; None at the end of the table."""

    rows: list[dict[str, Any]]
    last_key: Key | None


@dataclass(frozen=True)
class Table:
    """A table or view, ordered by a column with unique values.

    Attributes:
        databases: The databases that contain it.
        database: Name of its database.
        name: Its name, optionally as `schema.table`. It is quoted here, so it cannot inject SQL.
        key: The column.
        timeout_seconds: Timeout of each statement; a chunk takes three.
    """

    databases: Databases
    database: str
    name: str
    key: str
    timeout_seconds: float

    async def read_chunk(self, after: Key | None, size: int) -> TableChunk:
        """Return up to `size` rows after the one with the key `after`; None for the first rows.

        Over all chunks each row is returned once, if the table does not change meanwhile.

        Raises:
            InvalidArgument: The column does not exist, or its values do not determine where the
                next chunk begins.
            ToolFailure: As `Databases.query`.
        """
        await self._check_that_the_key_is_there()
        where = "" if after is None else f"WHERE {_quoted(self.key)} > :after"
        given = {} if after is None else {"after": after}
        result = await self._query("*", f"{where} ORDER BY {_quoted(self.key)}", given, size)
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        if not result.truncated:
            return TableChunk(rows, None)
        last = rows[-1][self.key]
        await self._check_border(last)
        return TableChunk(rows, last)

    async def _check_that_the_key_is_there(self) -> None:
        """Compare names: some databases treat an unknown quoted name as a text."""
        columns = (await self._query("*", "WHERE 1 = 0", {}, 1)).columns
        if self.key not in columns:
            raise InvalidArgument(
                f"table {self.name!r} has no column {self.key!r}, which is its key here; it has: "
                f"{', '.join(columns)}",
                error_code="UNKNOWN_KEY",
                remediation="Let the operator name one of them as the key of this dataset.",
                data={"columns": list(columns)},
            )

    async def _check_border(self, last: Any) -> None:
        key = _quoted(self.key)
        if not isinstance(last, Key):
            raise self._unusable(f"{brief_repr(last)} is not a position to continue from")
        try:
            found = await self._query(
                f"{key} IS NULL", f"WHERE {key} = :last OR {key} IS NULL", {"last": last}, 2
            )
        except InvalidArgument as failure:  # the database cannot parse its own value
            raise self._unusable(
                f"{brief_repr(last)} is not a position to continue from"
            ) from failure
        if any(is_null for (is_null,) in found.rows):
            raise self._unusable("there are rows that have no value in it (NULL)")
        if found.row_count > 1:
            raise self._unusable(f"several rows have the value {brief_repr(last)}")
        if not found.row_count:
            raise self._unusable(f"{brief_repr(last)} does not find its own row again")

    def _unusable(self, why: str) -> InvalidArgument:
        return InvalidArgument(
            f"table {self.name!r} cannot be read in chunks by its key {self.key!r}: {why}. "
            "Nothing of this chunk was done",
            error_code="UNUSABLE_KEY",
            remediation="Let the operator name as the key of this dataset a column of whole "
            "numbers or texts that is different in each row and never NULL, such as the primary "
            "key. A chunk_size that takes in all rows needs none.",
            data={"key": self.key},
        )

    async def _query(
        self, what: str, rest: str, parameters: dict[str, Any], max_rows: int
    ) -> QueryResult:
        table = ".".join(map(_quoted, self.name.split(".")))
        return await self.databases.query(
            self.database,
            f"SELECT {what} FROM {table} {rest}",  # noqa: S608 - all names are quoted
            parameters,
            max_rows=max_rows,
            timeout_seconds=self.timeout_seconds,
        )


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
