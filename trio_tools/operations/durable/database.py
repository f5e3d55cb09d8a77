"""The tables of stored operations, in SQLAlchemy Core, for SQLite and PostgreSQL alike.

Everything here blocks and is called in a thread. One commit writes what ended of several
operations, as one blob for each: row by row, the thread would give up the interpreter for each row,
and a busy event loop would let it wait each time.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc
import sqlalchemy.pool
from sqlalchemy import event
from sqlalchemy.engine import RowMapping

from trio_tools.operations.durable.counters import count_use, usage_table
from trio_tools.operations.durable.location import Location, StateTroubleError
from trio_tools.operations.durable.notices import CHANNEL, Kind, payload_of
from trio_tools.operations.durable.records import (
    Change,
    Counted,
    Record,
    Use,
    encode,
    has_died,
)

VERSION: Final = 2
"""The version of the tables that this code writes."""

_T = TypeVar("_T")

_BUSY_SECONDS = 2.0
_TABLES_LOCK = 7_246_000  # any number that is always the same
_CONNECT_SECONDS = 3

_metadata = sa.MetaData()
_integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_meta = sa.Table(
    "trio_tools_meta",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
_operations = sa.Table(
    "operations",
    _metadata,
    sa.Column("key", _integer, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("operation_id", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("options", sa.LargeBinary, nullable=False),
    sa.Column("background", sa.Boolean, nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("total", _integer),
    sa.Column("succeeded", _integer, nullable=False),
    sa.Column("failed", _integer, nullable=False),
    sa.Column("timed_out", _integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("last_used", sa.Double, nullable=False, index=True),
    sa.Column("size", _integer, nullable=False),
    sa.Column("holder", sa.Text),
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("revision", _integer, nullable=False),
    sa.Column("stop", sa.Boolean, nullable=False),
    sa.UniqueConstraint("owner", "operation_id"),
    sqlite_autoincrement=True,
)
_outcomes = sa.Table(
    "outcomes",
    _metadata,
    sa.Column("key", _integer, primary_key=True),
    sa.Column("revision", _integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

_usage = usage_table(_metadata)

MIGRATIONS: Final[dict[int, Callable[[sa.Connection], None]]] = {1: _usage.create}
"""What takes the tables of one version to the next, by the version they are in."""

# Columns that a commit changes; the others are those of the call that made the operation.
_CHANGING = (
    "options",
    "background",
    "run",
    "total",
    "succeeded",
    "failed",
    "timed_out",
    "last_used",
    "size",
    "holder",
    "lease_until",
    "stop",
)


REFUSED: Final = 0
GONE: Final = -1


@dataclass(frozen=True)
class Saved:
    """How a change went.

    Attributes:
        revision: Of the operation as it is stored now; or `REFUSED`, since another server holds it
            or has changed it; or `GONE`, since it was deleted, and has to be written whole.
        holder: Who holds the operation, if it was refused for that.
        stop: Whether somebody asked the holder to stop it.
    """

    revision: int
    holder: str | None = None
    stop: bool = False


class StateDatabase:
    """The tables at one location.

    Args:
        location: Where they are.
        holder: The name of this server.
        now: Returns the seconds since the epoch.
        read_only: Refuse every change, and make no tables.
    """

    def __init__(
        self,
        location: Location,
        holder: str,
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self._read_only = read_only
        self._location = location
        self._holder = holder
        self._now = now
        self._opening = threading.Lock()
        self._engine: sa.Engine | None = None
        self._closed = False

    def commit(self, changes: Sequence[Change]) -> list[Saved]:
        """Write all changes in one transaction. When this returns they are on the disk.

        Raises:
            StateTroubleError: Nothing was written.
        """
        return self._in_transaction(lambda connection: [self._save(connection, c) for c in changes])

    def load(self, owner: str, operation_id: str) -> tuple[Record, list[bytes]] | None:
        """Return an operation and the blobs of its outcomes, oldest first; None if there is none.

        Raises:
            StateTroubleError: The state cannot be read.
        """

        def read(connection: sa.Connection) -> tuple[Record, list[bytes]] | None:
            row = connection.execute(_of(owner, operation_id)).mappings().one_or_none()
            if row is None:
                return None
            blobs = connection.execute(
                sa.select(_outcomes.c.data)
                .where(_outcomes.c.key == row["key"])
                .order_by(_outcomes.c.revision)
            )
            return _record(row), [bytes(blob) for blob in blobs.scalars()]

        return self._in_transaction(read, reads=True)

    def revision(self, owner: str, operation_id: str) -> int:
        """Return which revision of an operation is stored; 0 if there is none.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        statement = sa.select(_operations.c.revision).where(
            _operations.c.owner == owner, _operations.c.operation_id == operation_id
        )
        return (
            self._in_transaction(lambda connection: connection.scalar(statement), reads=True) or 0
        )

    def records(self, *, owner: str | None = None) -> list[Record]:
        """Return all operations, of one owner or of all, oldest first, without their requests.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        columns = [column for column in _operations.c if column.name != "request"]
        statement = sa.select(*columns).order_by(_operations.c.created, _operations.c.key)
        if owner is not None:
            statement = statement.where(_operations.c.owner == owner)
        return self._in_transaction(
            lambda connection: [_record(row) for row in connection.execute(statement).mappings()],
            reads=True,
        )

    def parked(self) -> list[Record]:
        """Return the background operations that nobody works on, in the order they were made.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        return [
            record
            for record in self.records()
            if record.background and self._is_free(record.holder, record.lease_until)
        ]

    def stop(self, owner: str, operation_id: str) -> bool:
        """Ask whoever works on an operation to stop it, and let nobody take it up by itself.

        Returns:
            Whether anybody works on it, or was to take it up.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def ask(connection: sa.Connection) -> bool:
            row = connection.execute(_of(owner, operation_id)).mappings().one_or_none()
            if row is None:
                return False
            held = not self._is_free(row["holder"], row["lease_until"])
            values = {"stop": held, "background": False, "revision": row["revision"] + 1}
            connection.execute(
                sa.update(_operations).where(_operations.c.key == row["key"]).values(**values)
            )
            self._tell(connection, "stop", owner, operation_id)
            return held or bool(row["background"])

        return self._in_transaction(ask)

    def delete(self, owner: str, operation_id: str) -> bool:
        """Delete an operation that nobody works on. False if there is none, or it is held.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def drop(connection: sa.Connection) -> bool:
            row = connection.execute(_of(owner, operation_id)).mappings().one_or_none()
            if row is None or not self._is_free(row["holder"], row["lease_until"]):
                return False
            self._drop(connection, [row["key"]])
            return True

        return self._in_transaction(drop)

    def prune(self, *, ttl: float, max_bytes: int) -> int:
        """Delete what nobody has used for `ttl` seconds, then what is over `max_bytes`.

        Of several owners the one with most makes room, with the operation unused for longest.
        What a server works on or is to take up stays.

        Returns:
            How many operations were deleted.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def drop(connection: sa.Connection) -> int:
            columns = _operations.c
            told = (columns.key, columns.owner, columns.size, columns.last_used)
            held_by = (columns.holder, columns.lease_until, columns.background)
            rows = connection.execute(sa.select(*told, *held_by).order_by(columns.last_used)).all()
            doomed = _doomed(
                [
                    _Kept(row.key, row.owner, row.size, row.last_used, self._is_idle(row))
                    for row in rows
                ],
                oldest=self._now() - ttl,
                max_bytes=max_bytes,
            )
            self._drop(connection, doomed)
            return len(doomed)

        return self._in_transaction(drop)

    def count_use(self, use: Use) -> Counted:
        """Count what a client used, in one transaction; take a call of it if its quota allows one.

        Raises:
            StateTroubleError: Nothing was counted.
        """
        return self._in_transaction(lambda connection: count_use(connection, _usage, use))

    def key(self) -> bytes:
        """Return the key that signs cursors, made with the first use.

        Raises:
            StateTroubleError: The state cannot be read or written.
        """

        def read(connection: sa.Connection) -> bytes:
            return bytes(connection.scalar(_meta_value("key")) or b"")

        return self._in_transaction(read, reads=True)

    def close(self) -> None:
        """Close all connections, in any thread and without waiting for another one.

        A transaction that still runs, in a thread that was abandoned, closes its own when it ends.
        """
        self._closed = True  # first, so that a transaction that ends now does not miss it
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _save(self, connection: sa.Connection, change: Change) -> Saved:
        record = change.record
        row = connection.execute(_state_of(record.owner, record.operation_id)).one_or_none()
        replace = change.replace
        if change.touch:
            if row is not None:
                connection.execute(
                    sa.update(_operations)
                    .where(_operations.c.key == row.key)
                    .values(last_used=record.last_used)
                )
            return Saved(record.revision or 1)
        if row is None:
            if record.revision and not replace:
                return Saved(GONE)
            revision, replace, stop = 1, False, False
            values = asdict(record) | {"revision": revision, "stop": False}
            key = connection.scalar(
                sa.insert(_operations).values(**values).returning(_operations.c.key)
            )
        else:
            # The row is this server's to write if it holds it, or takes it over.
            if not self._is_free(row.holder, row.lease_until, unless=self._holder):
                return Saved(REFUSED, row.holder)
            if change.claim and row.revision != record.revision and not replace:
                return Saved(REFUSED)  # it is not as this server knows it: to be read again
            key, revision = row.key, row.revision + 1
            stop = row.stop and not change.claim
            values = {name: getattr(record, name) for name in _CHANGING} | {
                "revision": revision,
                "stop": stop,
            }
            connection.execute(
                sa.update(_operations).where(_operations.c.key == key).values(**values)
            )
        if replace:
            connection.execute(sa.delete(_outcomes).where(_outcomes.c.key == key))
        if change.outcomes or change.started or change.growth:
            connection.execute(
                sa.insert(_outcomes).values(key=key, revision=revision, data=encode(change))
            )
        parked = record.background and record.holder is None
        self._tell(connection, "parked" if parked else "news", record.owner, record.operation_id)
        return Saved(revision, stop=stop)

    def _tell(self, connection: sa.Connection, kind: Kind, owner: str, operation_id: str) -> None:
        """Tell other servers, when this is committed. Those of a file look by themselves."""
        if self._location.path is None:
            payload = payload_of(kind, owner, operation_id)
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))

    def _is_idle(self, row: Any) -> bool:
        return not row.background and self._is_free(row.holder, row.lease_until)

    def _is_free(self, holder: str | None, lease_until: float, *, unless: str = "") -> bool:
        """Whether nobody holds an operation, but for the one named in `unless`."""
        if holder is None or holder == unless:
            return True
        return lease_until < self._now() or has_died(holder)

    @staticmethod
    def _drop(connection: sa.Connection, keys: Sequence[int]) -> None:
        for key in keys:
            connection.execute(sa.delete(_outcomes).where(_outcomes.c.key == key))
            connection.execute(sa.delete(_operations).where(_operations.c.key == key))

    def _in_transaction(self, work: Callable[[sa.Connection], _T], *, reads: bool = False) -> _T:
        try:
            engine = self._opened()
            pool = engine.pool  # `engine.dispose` gives the engine another one
            try:
                with engine.connect() as connection:
                    connection.execution_options(trio_tools_reads=reads)
                    with connection.begin():
                        return work(connection)
            finally:
                if self._closed:
                    pool.dispose()
        except sqlalchemy.exc.DBAPIError as error:
            raise StateTroubleError(self._words(error.orig)) from None
        except OSError as error:
            raise StateTroubleError(f"{self._location.told}: {error.strerror}") from None

    def _opened(self) -> sa.Engine:
        """Return the engine; with the first use, make the tables or check their version."""
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
                # A peer that is gone without a word is noticed within seconds.
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
        with ExitStack() as failing:  # as with a locked file, or one that is no database
            failing.callback(connection.close)
            if not self._read_only:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
            failing.pop_all()
        return connection

    def _check_version(self, connection: sa.Connection) -> None:
        """Make the tables, or bring older ones up to date.

        Raises:
            StateTroubleError: A newer version made them; they are left as they are.
        """
        if self._location.path is None:  # servers that start together make the tables once
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
        if not sa.inspect(connection).has_table(_meta.name):
            if self._read_only:
                raise StateTroubleError(f"{self._location.told} holds no operations of trio-tools")
            _metadata.create_all(connection)
            for name, value in (("version", b"%d" % VERSION), ("key", secrets.token_bytes(32))):
                connection.execute(sa.insert(_meta).values(name=name, value=value))
            return
        found = int(bytes(connection.scalar(_meta_value("version")) or b"0"))
        if found > VERSION:
            raise StateTroubleError(
                f"{self._location.told} was written by a newer trio-tools (version {found} of its "
                f"tables, this one knows {VERSION}): upgrade trio-tools, or set state.url to "
                "another place"
            )
        if found < VERSION and self._read_only:
            raise StateTroubleError(
                f"{self._location.told} was written by an older trio-tools: start a server of this "
                "version with it first"
            )
        for version in range(found, VERSION):
            MIGRATIONS[version](connection)
        if found < VERSION:
            connection.execute(
                sa.update(_meta).where(_meta.c.name == "version").values(value=b"%d" % VERSION)
            )

    def _words(self, error: BaseException | None) -> str:
        """Say what an error of the driver means, without anything that could be a secret."""
        told = self._location.told
        if self._location.path is None:
            state = getattr(error, "sqlstate", None)
            return f"{told} does not answer as it should ({state or type(error).__name__})"
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return f"{told} {_SQLITE_WORDS.get(code, f'cannot be used ({error})')}"


_SQLITE_WORDS = {
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_PERM: "cannot be opened: its permissions forbid it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that its folder exists and can be written to",
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_NOTADB: "is no SQLite database: move it away, or set state.url to another file",
    sqlite3.SQLITE_CORRUPT: "is damaged: move it away, or set state.url to another file",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk failed",
}


class _Kept(NamedTuple):
    key: int
    owner: str
    size: int
    last_used: float
    idle: bool


def _doomed(rows: Sequence[_Kept], *, oldest: float, max_bytes: int) -> list[int]:
    """Return the keys of what has to go. `rows` are ordered by their last use."""
    doomed = [row.key for row in rows if row.idle and row.last_used < oldest]
    left = [row for row in rows if not (row.idle and row.last_used < oldest)]
    held = Counter[str]()
    idle: defaultdict[str, deque[_Kept]] = defaultdict(deque)
    for row in left:
        held[row.owner] += row.size
        if row.idle:
            idle[row.owner].append(row)
    while held.total() > max_bytes and (owners := [owner for owner in held if idle[owner]]):
        owner = max(owners, key=held.__getitem__)
        row = idle[owner].popleft()
        held[owner] -= row.size
        doomed.append(row.key)
    return doomed


def _of(owner: str, operation_id: str) -> sa.Select[Any]:
    return sa.select(_operations).where(
        _operations.c.owner == owner, _operations.c.operation_id == operation_id
    )


def _state_of(owner: str, operation_id: str) -> Any:
    columns = _operations.c
    return sa.select(
        columns.key, columns.holder, columns.lease_until, columns.revision, columns.stop
    ).where(columns.owner == owner, columns.operation_id == operation_id)


def _meta_value(name: str) -> sa.Select[Any]:
    return sa.select(_meta.c.value).where(_meta.c.name == name)


def _record(row: RowMapping) -> Record:
    values: dict[str, Any] = {name: value for name, value in row.items() if name != "key"}
    values["request"] = bytes(values.get("request", b""))
    values["options"] = bytes(values["options"])
    return Record(**values)


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediately(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes could fail in between: take the lock at once.
    reads = connection.get_execution_options().get("trio_tools_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
