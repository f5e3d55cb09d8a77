"""One statement on one connection to PostgreSQL, in its own read-only transaction.

Everything that a statement needs on the server is set within its transaction and ends with it: no
prepared statement has a name, and no setting belongs to the session. So a pooler such as
PgBouncer may use another server process for each transaction.

The server refuses a row that is too large. libpq would hold all of it in memory twice.

Runs in a worker thread. Results are read as text in the order in which PostgreSQL sends them, one
row at a time; the thread waits without the interpreter lock.
"""

from __future__ import annotations

import re
import select
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import postgres, pq

from trio_tools.database.postgres.values import Converter, array_converter, converter_of
from trio_tools.database.statement import without_comments_in_front

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.pq.abc import PGconn, PGresult

    from trio_tools.database.statement import Statement

Row = list[bytes | None]

_CURSOR = "trio_tools"
_ROWS_PER_FETCH = 100
_ALL_ROWS = 2**31 - 1
_LONGEST_TIMEOUT = 2**31 - 1
_FIRST_OWN_OID = 16_384  # first id of types that are not built in
# Limit of what is read after the requested rows. Reading more would take longer than
# reconnecting.
_DRAINED_BYTES = 1_000_000

_TOO_LARGE_MARK = "trio-tools: a row of"
# The inner SELECT prevents that PostgreSQL computes all columns a second time.
_IN_FRONT = f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR SELECT * FROM (SELECT * FROM (\n"  # noqa: S608
_BEHIND = f"""
) AS "trio tools inner" OFFSET 0) AS "trio tools row"
WHERE CASE WHEN octet_length("trio tools row"::text) <= {{bytes}} THEN true
ELSE ('{_TOO_LARGE_MARK} ' || octet_length("trio tools row"::text))::boolean END"""
_EXPLAIN = re.compile(
    r"EXPLAIN \s* (?:\( (?P<options>[^()]*) \))? \s* (?P<analyze>ANALYZE\b|ANALYSE\b)? \s*"
    r"(?P<verbose>VERBOSE\b)? (?P<inner>.*)",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ARRAYS = {info.array_oid: info.oid for info in postgres.types if info.array_oid}


class PostgresError(Exception):
    """An error that the server sent, or the end of the connection (without `state`)."""

    def __init__(self, pgconn: PGconn, result: PGresult | None = None, *, offset: int = 0) -> None:
        def field(name: pq.DiagnosticField) -> str | None:
            value = None if result is None else result.error_field(name)
            return None if value is None else value.decode(errors="replace")

        self.state = field(pq.DiagnosticField.SQLSTATE)
        self.function = field(pq.DiagnosticField.SOURCE_FUNCTION)
        self.primary = field(pq.DiagnosticField.MESSAGE_PRIMARY) or "the connection was lost"
        self.detail = field(pq.DiagnosticField.MESSAGE_DETAIL)
        self.hint = field(pq.DiagnosticField.MESSAGE_HINT)
        position = field(pq.DiagnosticField.STATEMENT_POSITION)
        self.position = None if position is None else int(position) - offset
        severity = field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        self.lost = pgconn.status == pq.ConnStatus.BAD or severity in {"FATAL", "PANIC"}
        super().__init__(self.primary)


class RowTooLarge(NamedTuple):
    """Represents rows that the server did not send, since one of them is too large."""

    rows: int


class Rows(NamedTuple):
    """The result of a statement: names and types of its columns, and rows on demand."""

    columns: tuple[str, ...]
    types: tuple[int, ...]
    rows: Iterator[Row | RowTooLarge]


class Session:
    """One transaction on a connection, which must be idle.

    Args:
        connection: Used by this thread only, except for a cancel.
        schema: Set as the search path, if given.
    """

    def __init__(self, connection: psycopg.Connection, schema: str | None = None) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._schema = schema

    def begin(self, timeout_seconds: float) -> None:
        """Begin a read-only transaction.

        If the role or the database has a lower limit, it stays.
        """
        milliseconds = min(max(1, round(timeout_seconds * 1000)), _LONGEST_TIMEOUT)
        settings = {
            "datestyle": "'ISO'",
            "intervalstyle": "'postgres'",
            "bytea_output": "'hex'",
            "extra_float_digits": "'1'",
            "statement_timeout": "least(nullif((extract(epoch from current_setting("
            "'statement_timeout')::interval) * 1000)::bigint, 0), "
            f"{milliseconds})::text",
        }
        if self._schema is not None:
            literal = pq.Escaping(self._pgconn).escape_literal(self._schema.encode())
            settings["search_path"] = f"quote_ident({bytes(literal).decode()})"
        if self._pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
            # Such a server converts nothing; it would only refuse invalid UTF-8.
            settings["client_encoding"] = "'SQL_ASCII'"
        each = ", ".join(f"set_config('{name}', {value}, true)" for name, value in settings.items())
        self._simple(f"BEGIN READ ONLY; SELECT {each}; SAVEPOINT {_CURSOR}")

    def end(self) -> bool:
        """Roll back. Returns whether the connection can be used again.

        Locks of the session are released in the same transaction, since behind a pooler the next
        one may be on another server process.
        """
        if not self._drain():
            return False
        if self._pgconn.transaction_status == pq.TransactionStatus.IDLE:
            return True
        self._simple(f"ROLLBACK TO SAVEPOINT {_CURSOR}; SELECT pg_advisory_unlock_all(); ROLLBACK")
        return self._pgconn.transaction_status == pq.TransactionStatus.IDLE

    def execute(
        self,
        statement: Statement,
        parameters: Mapping[str, Any],
        *,
        position: int,
        count: int,
        max_row_bytes: int,
    ) -> Rows:
        """Run a statement and return up to `count` rows after the first `position`.

        A statement is run by a cursor, which accepts only a query that reads. EXPLAIN is rebuilt
        around such a query, and SHOW cannot contain anything else.
        """
        sql, names = statement.in_dollars()
        values, types = _parameters([parameters[name] for name in names])
        if statement.begins_with({"SHOW"}):
            return self._direct(statement.sql, values, types, position)
        if statement.begins_with({"EXPLAIN"}):
            explain = _EXPLAIN.fullmatch(without_comments_in_front(sql))
            assert explain is not None  # it begins with that word, and the rest is optional
            return self._direct(self._explain(explain, values, types), values, types, position)
        # Without the brackets first, so that it cannot close them, and positions in errors are
        # right.
        self._pgconn.send_prepare(b"", sql.encode(), types)
        self._only_result()
        behind = _BEHIND.format(bytes=max_row_bytes)
        self._extended(f"{_IN_FRONT}{sql}{behind}", values, types, offset=len(_IN_FRONT))
        self._pgconn.send_describe_portal(_CURSOR.encode())
        described = self._only_result()
        if position:
            self._extended(f"MOVE FORWARD {min(position, _ALL_ROWS)} IN {_CURSOR}")
        return Rows(*_columns(described), self._fetch(count))

    def _explain(
        self, explain: re.Match[str], values: Sequence[bytes | None], types: Sequence[int]
    ) -> str:
        options = [explain["options"]] if (explain["options"] or "").strip() else []
        options += [word for word in (explain["analyze"], explain["verbose"]) if word]
        if re.search("analy[sz]e", ",".join(options), re.IGNORECASE):
            # It runs the explained statement. A cursor accepts only queries that read, which
            # excludes CREATE TABLE AS; a read-only transaction would allow that.
            check = f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR "
            self._extended(f"{check}{explain['inner']}", values, types, offset=len(check))
            self._extended(f"CLOSE {_CURSOR}")
        # In brackets, so that no word before the statement is parsed as an option.
        return f"EXPLAIN ({', '.join(options) or 'COSTS ON'}) {explain['inner']}"

    def types_of(self, oids: Sequence[int], known: dict[int, int]) -> list[Converter]:
        """Return the converters of columns.

        Args:
            oids: The types of the columns.
            known: Element type by array type, 0 for a type that is not an array; for types that
                are not built in. New ones are added to it.
        """
        unknown = {oid for oid in oids if oid >= _FIRST_OWN_OID} - known.keys()
        if unknown:
            result = self._extended(
                "SELECT t.oid, CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 "
                "THEN coalesce(nullif(e.typbasetype, 0), e.oid) ELSE 0 END "
                "FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem "
                "WHERE t.oid = ANY ($1::oid[])",
                ["{" + ",".join(map(str, sorted(unknown))) + "}"],
                [0],
            )
            for row in range(result.ntuples):
                known[int(result.get_value(row, 0) or 0)] = int(result.get_value(row, 1) or 0)
        elements = {**_ARRAYS, **known}
        return [
            array_converter(elements[oid]) if elements.get(oid) else converter_of(oid)
            for oid in oids
        ]

    def rows(self, sql: str) -> list[list[str | None]]:
        """Return all rows of a statement of our own, as text."""
        result = self._extended(sql)
        return [
            [None if value is None else value.decode(errors="replace") for value in _row(result, n)]
            for n in range(result.ntuples)
        ]

    def _direct(
        self, sql: str, values: Sequence[bytes | None], types: Sequence[int], position: int
    ) -> Rows:
        """Run a statement that cursors do not support. Its result is short."""
        result = self._extended(sql, values, types)
        rows = (_row(result, number) for number in range(position, result.ntuples))
        return Rows(*_columns(result), rows)

    def _fetch(self, count: int) -> Iterator[Row | RowTooLarge]:
        while count:
            asked = min(count, _ROWS_PER_FETCH)
            got = 0
            try:
                for row in self._stream(f"FETCH FORWARD {asked} FROM {_CURSOR}"):
                    got += 1
                    yield row
            except PostgresError as error:
                if _TOO_LARGE_MARK not in error.primary:
                    raise
                yield RowTooLarge(asked)
                return
            if got < asked:
                return
            count -= asked

    def _stream(self, sql: str) -> Iterator[Row]:
        self._pgconn.send_query_params(sql.encode(), None)
        self._pgconn.set_single_row_mode()
        for result in self._results():
            self._check(result)
            for number in range(result.ntuples):
                yield _row(result, number)

    def _drain(self) -> bool:
        """Read the rest of the server's output. Return False if it is too long."""
        room = _DRAINED_BYTES
        while self._pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            for result in self._results():
                if result.ntuples:
                    room -= sum(len(value) for value in _row(result, 0) if value is not None)
                if room < 0:
                    return False
        return self._pgconn.status == pq.ConnStatus.OK

    def _simple(self, sql: str) -> None:
        """Run statements of our own, several at a time."""
        self._pgconn.send_query(sql.encode())
        for result in self._results():
            self._check(result)

    def _extended(
        self,
        sql: str,
        values: Sequence[bytes | str | None] | None = None,
        types: Sequence[int] | None = None,
        *,
        offset: int = 0,
    ) -> PGresult:
        """Run one statement with the protocol that allows only one."""
        encoded = [v.encode() if isinstance(v, str) else v for v in values or ()]
        self._pgconn.send_query_params(sql.encode(), encoded, types)
        return self._only_result(offset=offset)

    def _only_result(self, *, offset: int = 0) -> PGresult:
        results = list(self._results())
        return self._check(results[-1] if results else None, offset=offset)

    def _results(self) -> Iterator[PGresult]:
        pgconn = self._pgconn
        try:
            poll = select.poll()
            poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
            while pgconn.flush():
                poll.poll()
                pgconn.consume_input()
            poll.modify(pgconn.socket, select.POLLIN)
            while True:
                while pgconn.is_busy():
                    poll.poll()
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    return
                yield result
        except psycopg.OperationalError as error:
            raise PostgresError(pgconn) from error

    def _check(self, result: PGresult | None, *, offset: int = 0) -> PGresult:
        if result is None or result.status == pq.ExecStatus.FATAL_ERROR:
            raise PostgresError(self._pgconn, result, offset=offset)
        return result


def _columns(result: PGresult) -> tuple[tuple[str, ...], tuple[int, ...]]:
    columns = range(result.nfields)
    names = tuple((result.fname(column) or b"").decode(errors="replace") for column in columns)
    return names, tuple(result.ftype(column) for column in columns)


def _row(result: PGresult, number: int) -> Row:
    return [result.get_value(number, column) for column in range(result.nfields)]


def _parameters(values: Sequence[Any]) -> tuple[list[bytes | None], list[int]]:
    """Return texts and types, so that a number stays one where nothing else gives its type."""
    texts: list[bytes | None] = []
    types: list[int] = []
    for value in values:
        match value:
            case None:
                texts.append(None)
                types.append(0)
            case bool():
                texts.append(b"t" if value else b"f")
                types.append(16)
            case int():
                texts.append(str(value).encode())
                types.append(
                    23 if -(2**31) <= value < 2**31 else 20 if abs(value) < 2**63 else 1700
                )
            case float():
                texts.append(repr(value).encode())
                types.append(701)
            case str():
                if "\0" in value:
                    raise ValueError("PostgreSQL has no texts with a NUL")
                texts.append(value.encode())
                types.append(0)
            case _:
                raise TypeError(
                    f"a {type(value).__name__} is not a text, number, true, false or null"
                )
    return texts, types
