"""Connections to the state, opened at first use, and atomic transactions."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Final, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc
import sqlalchemy.pool
from sqlalchemy import event

from trio_tools.operations.durable import tables
from trio_tools.operations.durable.location import Location, StateTroubleError

_T = TypeVar("_T")

_BUSY_SECONDS = 2.0
_TABLES_LOCK = 7_246_000  # any constant number
_CONNECT_SECONDS = 3

_SQLITE_WORDS: Final = {
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_PERM: "cannot be opened: its permissions forbid it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that its folder exists and can be written to",
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_NOTADB: (
        "is not a SQLite database: move it away, or set state.url to another file"
    ),
    sqlite3.SQLITE_CORRUPT: "is damaged: move it away, or set state.url to another file",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk failed",
}


class StateEngine:
    """Runs transactions at one location. Blocking, for threads.

    Args:
        location: The location of the tables.
        read_only: Refuse every change, and do not create tables.
    """

    def __init__(self, location: Location, *, read_only: bool) -> None:
        self._location = location
        self._read_only = read_only
        self._opening = threading.Lock()
        self._engine: sa.Engine | None = None
        self._closed = False

    def in_transaction(self, work: Callable[[sa.Connection], _T], *, reads: bool = False) -> _T:
        """Return `work(connection)`. Its changes are committed when this returns.

        Raises:
            StateTroubleError: Nothing was changed; the message says why.
        """
        try:
            engine = self._opened()
            pool = engine.pool  # `engine.dispose` replaces the engine's pool
            try:
                with engine.connect() as connection:
                    connection.execution_options(trio_tools_reads=reads)
                    with connection.begin():
                        return work(connection)
            finally:
                if self._closed:  # it may have had its connection of either pool
                    pool.dispose()
                    engine.dispose()
        except sqlalchemy.exc.DBAPIError as error:
            raise StateTroubleError(self._words(error.orig)) from None
        except sqlite3.Error as error:  # from a blob that is read without SQLAlchemy
            raise StateTroubleError(self._words(error)) from None
        except OSError as error:
            raise StateTroubleError(f"{self._location.told}: {error.strerror}") from None

    def close(self) -> None:
        """Close all connections. May be called in any thread; does not wait for other threads.

        A transaction that still runs in an abandoned thread closes its own connection at its end.
        """
        self._closed = True  # set first, so that a transaction that ends now sees it
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _opened(self) -> sa.Engine:
        """Return the engine. The first use creates the tables or checks their version."""
        with self._opening:
            engine = self._engine
            if engine is None:
                engine = self._make_engine()
                with ExitStack() as failing:
                    failing.callback(engine.dispose)
                    with engine.begin() as connection:
                        self._check_version(connection)
                    failing.pop_all()
                self._engine = engine
            return engine

    def _make_engine(self) -> sa.Engine:
        if self._location.path is not None:
            if not self._read_only:
                self._location.make_file()
            engine = sa.create_engine(
                "sqlite+pysqlite://",
                creator=self._connect_to_file,
                poolclass=sqlalchemy.pool.QueuePool,
                pool_size=2,
                max_overflow=-1,
            )
            event.listen(engine, "begin", _begin if self._read_only else _begin_immediately)
            return engine
        if find_spec("psycopg") is None:
            raise StateTroubleError(
                "state.url names PostgreSQL, whose driver is not installed: "
                "pip install trio-tools[postgres]"
            )
        url = sa.make_url(self._location.url).set(drivername="postgresql+psycopg")
        return sa.create_engine(
            url,
            pool_size=2,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "trio-tools state",
                **({"options": "-c default_transaction_read_only=on"} if self._read_only else {}),
                # A lost connection is detected within seconds.
                "tcp_user_timeout": 5_000,
            },
        )

    def _connect_to_file(self) -> sqlite3.Connection:
        assert self._location.path is not None
        connection = sqlite3.connect(
            f"{self._location.path.as_uri()}?mode={'ro' if self._read_only else 'rw'}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        with ExitStack() as failing:  # for example a locked file, or one that is not a database
            failing.callback(connection.close)
            if not self._read_only:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
            failing.pop_all()
        return connection

    def _check_version(self, connection: sa.Connection) -> None:
        """Create the tables, or migrate older ones.

        Raises:
            StateTroubleError: A newer version made them; they are not changed.
        """
        if self._location.path is None:  # servers that start together create the tables once
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
        if not sa.inspect(connection).has_table(tables.meta.name):
            if self._read_only:
                raise StateTroubleError(f"{self._location.told} holds no operations of trio-tools")
            tables.metadata.create_all(connection)
            first = (("version", b"%d" % tables.VERSION), ("key", secrets.token_bytes(32)))
            for name, value in first:
                connection.execute(sa.insert(tables.meta).values(name=name, value=value))
            return
        found = int(bytes(connection.scalar(tables.meta_value("version")) or b"0"))
        if found != tables.VERSION:
            self._migrate(connection, found)

    def _migrate(self, connection: sa.Connection, found: int) -> None:
        if found > tables.VERSION:
            raise StateTroubleError(
                f"{self._location.told} was written by a newer trio-tools (version {found} of its "
                f"tables, this one knows {tables.VERSION}): upgrade trio-tools, or set state.url "
                "to another place"
            )
        if self._read_only:
            raise StateTroubleError(
                f"{self._location.told} was written by an older trio-tools: start a server of this "
                "version with it first"
            )
        for version in range(found, tables.VERSION):
            tables.MIGRATIONS[version](connection)
        connection.execute(
            sa.update(tables.meta)
            .where(tables.meta.c.name == "version")
            .values(value=b"%d" % tables.VERSION)
        )

    def _words(self, error: BaseException | None) -> str:
        """Describe an error of the driver, without anything that could be a secret."""
        told = self._location.told
        if self._location.path is None:
            state = getattr(error, "sqlstate", None)
            words = f"{told} does not answer as it should ({state or type(error).__name__})"
            return words if state else f"{words}: check that it runs, and the role and password"
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return f"{told} {_SQLITE_WORDS.get(code, f'cannot be used ({error})')}"


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediately(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes could fail in between, so it locks at its
    # start.
    reads = connection.get_execution_options().get("trio_tools_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
