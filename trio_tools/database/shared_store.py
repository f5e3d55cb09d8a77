"""The tables of one PostgreSQL database with which replicas share limits. Blocking, for a thread.

A replica is a row with an end time that its heart-beats extend; the number of the row is its
fencing number. Its tokens are valid as long as the row is. A replica that was disconnected or
suspended for longer finds its row expired, is refused, and starts again with a higher number. All
times are those of the database.

The table names end in a version number. Server versions that use the tables differently do not
share limits, and do not interfere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import psycopg

LEASE_SECONDS: Final = 2.0
"""Seconds for which a replica and its tokens are valid without a heart-beat."""

_CONNECT_SECONDS = 2
_STATEMENT_MILLISECONDS = 1_500
_LOCK: Final = 7_246_001  # for creating the tables; any constant number

_T = TypeVar("_T")

_TABLES = """
CREATE TABLE IF NOT EXISTS trio_tools_replicas_v1 (
    fence bigserial PRIMARY KEY, until double precision NOT NULL);
CREATE TABLE IF NOT EXISTS trio_tools_rates_v1 (
    name text PRIMARY KEY, due double precision NOT NULL);
CREATE TABLE IF NOT EXISTS trio_tools_places_v1 (
    name text, fence bigint REFERENCES trio_tools_replicas_v1 ON DELETE CASCADE,
    wanted integer NOT NULL, held integer NOT NULL, PRIMARY KEY (name, fence))
"""
_NOW = "extract(epoch FROM clock_timestamp())::double precision"
_JOIN = f"INSERT INTO trio_tools_replicas_v1 (until) VALUES ({_NOW} + %s) RETURNING fence"  # noqa: S608
_LIVES = f"EXISTS (SELECT FROM trio_tools_replicas_v1 WHERE fence = %(fence)s AND until > {_NOW})"
# The conformance test of the Generic Cell Rate Algorithm: `due` is the time at which the bucket
# is full again, less its size. Taking tokens advances it, also beyond now: then the tokens are
# due in the future.
_TAKE = f"""
INSERT INTO trio_tools_rates_v1 AS rates (name, due)
SELECT %(name)s, {_NOW} - %(burst)s / %(rate)s + %(tokens)s / %(rate)s WHERE {_LIVES}
ON CONFLICT (name) DO UPDATE SET due =
    greatest(rates.due, {_NOW} - %(burst)s / %(rate)s) + %(tokens)s / %(rate)s
RETURNING due - %(tokens)s / %(rate)s - {_NOW}
"""
_OTHERS = f"""
SELECT coalesce(sum(held), 0), count(*) FILTER (WHERE wanted > 0)
FROM trio_tools_places_v1 JOIN trio_tools_replicas_v1 AS replicas USING (fence)
WHERE name = %(name)s AND fence <> %(fence)s AND until > {_NOW}
"""  # noqa: S608
_GIVE_BACK = (
    "DELETE FROM trio_tools_places_v1 WHERE fence = %(fence)s AND name = ANY(%(unused)s::text[])"
)
_HOLD = f"""
INSERT INTO trio_tools_places_v1 (name, fence, wanted, held)
SELECT %(name)s, %(fence)s, %(wanted)s, %(held)s WHERE {_LIVES}
ON CONFLICT (name, fence) DO UPDATE SET wanted = excluded.wanted, held = excluded.held
RETURNING held
"""


class SharedStoreError(Exception):
    """The database cannot be used now; the message says why, without secrets."""


class FencedError(Exception):
    """The replica has expired: all tokens that it was granted are void."""


class Wanted(NamedTuple):
    """The demand of a replica for one limit, in tokens.

    Attributes:
        capacity: Tokens over all replicas.
        wanted: Tokens that it could use now.
        in_use: Tokens that it uses now and keeps in any case.
    """

    capacity: int
    wanted: int
    in_use: int


class Beat(NamedTuple):
    """The result of a heart-beat.

    Attributes:
        replicas: Number of live replicas.
        held: Tokens that this one holds from now on, of the updated limits.
    """

    replicas: int
    held: Mapping[str, int]


class SharedStore:
    """The tables, seen by one replica. For one thread at a time.

    Args:
        url: The database's URL, which may contain a password.
        lease_seconds: Seconds for which this replica is valid without a heart-beat.
    """

    def __init__(self, url: str, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._lease_seconds = lease_seconds
        self._url = "postgresql" + url[url.index("://") :]
        self._connection: psycopg.Connection[Any] | None = None
        self._fence: int | None = None
        self._ended = False

    def take(self, name: str, rate: float, burst: int, tokens: int) -> float:
        """Take tokens of a bucket, which may be due in the future.

        Returns:
            The time before the first token is due, in seconds from now, minus one interval: token
            number i, from 1, is due `i / rate` later.

        Raises:
            FencedError: This replica has expired; nothing was taken.
            SharedStoreError: The database cannot be used.
        """
        # PostgreSQL's division of two integers truncates.
        values = {"name": name, "rate": float(rate), "burst": float(burst), "tokens": tokens}
        row = self._run(lambda connection: self._one(connection, _TAKE, values))
        return float(row[0])

    def beat(self, wanted: Mapping[str, Wanted], unused: Sequence[str] = ()) -> Beat:
        """Extend the lease, release tokens, and update the held tokens of some limits.

        Args:
            wanted: The demand for the limits to update. Other limits stay.
            unused: Limits of which this replica uses no token.

        Raises:
            FencedError: This replica counts no more.
            SharedStoreError: The database cannot be used.
        """

        def beat(connection: psycopg.Connection[Any]) -> Beat:
            extend = (
                f"UPDATE trio_tools_replicas_v1 SET until = {_NOW} + {self._lease_seconds} "  # noqa: S608
                f"WHERE fence = %(fence)s AND until > {_NOW} RETURNING fence"
            )
            self._one(connection, extend, {})
            old = f"DELETE FROM trio_tools_replicas_v1 WHERE until < {_NOW} - 60"  # noqa: S608
            connection.execute(old)
            count = f"SELECT count(*) FROM trio_tools_replicas_v1 WHERE until > {_NOW}"  # noqa: S608
            row = connection.execute(count).fetchone()
            connection.execute(_GIVE_BACK, {"fence": self._fence, "unused": list(unused)})
            held = {name: self._settle(connection, name, each) for name, each in wanted.items()}
            return Beat(1 if row is None else row[0], held)

        return self._run(beat)

    def hold(self, name: str, wanted: Wanted) -> int:
        """Update how many tokens of one limit this replica holds, and return that number.

        Raises:
            FencedError: This replica counts no more.
            SharedStoreError: The database cannot be used.
        """
        return self._run(lambda connection: self._settle(connection, name, wanted))

    def end(self) -> None:
        """Have a call that is under way, and later ones, close when they return. In any thread."""
        self._ended = True

    def close(self) -> None:
        """Give everything back, as far as the database can be reached. It may be used again."""
        self._ended = False
        connection, fence = self._connection, self._fence
        self._connection = self._fence = None
        if connection is not None:
            try:
                connection.execute("DELETE FROM trio_tools_replicas_v1 WHERE fence = %s", [fence])
            except psycopg.Error:
                pass  # it expires by itself
            finally:
                connection.close()

    def _settle(self, connection: psycopg.Connection[Any], name: str, wanted: Wanted) -> int:
        """Take the tokens that others leave, up to a fair share if demand exceeds capacity."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
            found = connection.execute(_OTHERS, {"name": name, "fence": self._fence}).fetchone()
            others, rivals = found or (0, 0)
            free = max(0, wanted.capacity - others)
            fair = max(1, wanted.capacity // (rivals + 1)) if rivals else wanted.capacity
            held = max(min(wanted.wanted, free, fair), min(wanted.in_use, free))
            values = {"name": name, "wanted": wanted.wanted, "held": held}
            return self._one(connection, _HOLD, values)[0]

    def _one(
        self, connection: psycopg.Connection[Any], statement: str, values: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Return the one row of a statement that has none if the replica has expired."""
        row = connection.execute(statement, values | {"fence": self._fence}).fetchone()  # type: ignore[arg-type]
        if row is None:
            raise FencedError
        return row

    def _run(self, work: Callable[[psycopg.Connection[Any]], _T]) -> _T:
        try:
            return work(self._opened())
        except psycopg.Error as error:
            self._drop()
            told = error.sqlstate or type(error).__name__
            raise SharedStoreError(
                f"the PostgreSQL database of state.url does not answer as it should ({told})"
            ) from None
        except FencedError:
            self._fence = None  # the next use registers again
            raise
        finally:
            if self._ended:
                self.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                application_name="trio-tools limits",
                options=f"-c statement_timeout={_STATEMENT_MILLISECONDS}",
                tcp_user_timeout=2_000,
            )
            with self._connection.transaction():
                self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                self._connection.execute(_TABLES)
        if self._fence is None:
            made = self._connection.execute(_JOIN, [self._lease_seconds]).fetchone()
            assert made is not None
            self._fence = made[0]
        return self._connection
