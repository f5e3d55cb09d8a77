"""Stored operations in a database, SQLite or PostgreSQL: written, read, found and deleted.

Everything here blocks and is called in a thread. One commit writes the ended items of several
operations, as one blob for each. If it wrote row by row, the thread would release the interpreter
lock for each row, and a busy event loop would delay it each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import sqlalchemy as sa

from trio_tools.operations.durable import tables
from trio_tools.operations.durable.blobs import Stored, encode, read_part
from trio_tools.operations.durable.counters import count_use
from trio_tools.operations.durable.engine import StateEngine
from trio_tools.operations.durable.holders import has_died
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.notices import CHANNEL, Kind, payload_of
from trio_tools.operations.durable.pruning import Kept, doomed, held_by_owner
from trio_tools.operations.durable.records import (
    GONE,
    REFUSED,
    Change,
    Counted,
    Part,
    Record,
    Saved,
    Use,
)
from trio_tools.operations.durable.tables import operations, outcomes
from trio_tools.operations.result import Place

ReadBlob = Callable[[int, int], bytes]


class StateDatabase:
    """The tables at one location.

    Args:
        location: Their location.
        holder: The name of this server.
        now: Returns the seconds since the epoch.
        read_only: Refuse every change, and do not create tables.
    """

    def __init__(
        self,
        location: Location,
        holder: str,
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self._location = location
        self._holder = holder
        self._now = now
        self._engine = StateEngine(location, read_only=read_only)
        self._in_transaction = self._engine.in_transaction

    def commit(self, changes: Sequence[Change]) -> list[Saved]:
        """Write all changes in one transaction. When this returns, they are committed.

        Raises:
            StateTroubleError: Nothing was written.
        """
        return self._in_transaction(lambda connection: [self._save(connection, c) for c in changes])

    def load(self, owner: str, operation_id: str) -> tuple[Record, Stored] | None:
        """Return an operation with its stored outcomes; None if it does not exist.

        Results of more than `KEPT_BYTES` are not loaded: `read` returns parts of them.

        Raises:
            StateTroubleError: The state cannot be read.
        """

        def read(connection: sa.Connection) -> tuple[Record, Stored] | None:
            row = connection.execute(tables.of(owner, operation_id)).mappings().one_or_none()
            if row is None:
                return None
            columns = outcomes.c
            blobs = connection.execute(
                sa.select(columns.revision, sa.func.length(columns.data))
                .where(columns.key == row["key"])
                .order_by(columns.revision)
            ).all()
            stored = Stored()
            for revision, size in blobs:
                with self._blob(connection, row["key"], revision) as read_blob:
                    assert read_blob is not None  # within the same transaction
                    stored.add(revision, size, read_blob)
            return tables.record_of(row), stored

        return self._in_transaction(read, reads=True)

    def read(self, key: int, parts: Sequence[Part]) -> list[bytes | None]:
        """Return parts of results of an operation; None for a part that no longer exists.

        Args:
            key: Of the record.
            parts: The parts to read, grouped by revision if possible.

        Raises:
            StateTroubleError: The state cannot be read.
        """

        def read(connection: sa.Connection) -> list[bytes | None]:
            found: list[bytes | None] = []
            for part in parts:
                with self._blob(connection, key, part.place.revision) as read_blob:
                    found.append(None if read_blob is None else read_part(part, read_blob))
            return found

        return self._in_transaction(read, reads=True)

    def revision(self, owner: str, operation_id: str) -> int:
        """Return the stored revision of an operation; 0 if it does not exist.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        statement = sa.select(operations.c.revision).where(
            operations.c.owner == owner, operations.c.operation_id == operation_id
        )
        return (
            self._in_transaction(lambda connection: connection.scalar(statement), reads=True) or 0
        )

    def records(self, *, owner: str | None = None) -> list[Record]:
        """Return all operations of one owner or of all, oldest first, without their requests.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        columns = [column for column in operations.c if column.name != "request"]
        statement = sa.select(*columns).order_by(operations.c.created, operations.c.key)
        if owner is not None:
            statement = statement.where(operations.c.owner == owner)
        return self._in_transaction(
            lambda connection: [
                tables.record_of(row) for row in connection.execute(statement).mappings()
            ],
            reads=True,
        )

    def parked(self) -> list[Record]:
        """Return the background operations without a running server, in order of creation.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        return [
            record
            for record in self.records()
            if record.background and self._is_free(record.holder, record.lease_until)
        ]

    def stop(self, owner: str, operation_id: str) -> bool:
        """Ask the server that runs an operation to stop it, and prevent that another resumes it.

        Returns:
            Whether a server runs it, or would resume it.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def ask(connection: sa.Connection) -> bool:
            row = connection.execute(tables.of(owner, operation_id)).mappings().one_or_none()
            if row is None:
                return False
            held = not self._is_free(row["holder"], row["lease_until"])
            values = {"stop": held, "background": False, "revision": row["revision"] + 1}
            connection.execute(
                sa.update(operations).where(operations.c.key == row["key"]).values(**values)
            )
            self._tell(connection, "stop", owner, operation_id)
            return held or bool(row["background"])

        return self._in_transaction(ask)

    def delete(self, owner: str, operation_id: str) -> bool:
        """Delete an operation that no server runs. False if it does not exist or is held.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def drop(connection: sa.Connection) -> bool:
            row = connection.execute(tables.of(owner, operation_id)).mappings().one_or_none()
            if row is None or not self._is_free(row["holder"], row["lease_until"]):
                return False
            self._drop(connection, [row["key"]])
            return True

        return self._in_transaction(drop)

    def prune(self, *, ttl: float, max_bytes: int) -> int:
        """Delete operations unused for `ttl` seconds, and then those above `max_bytes`.

        Of several owners, the one with the most bytes loses its least recently used operation.
        Operations that a server runs or will resume stay.

        Returns:
            How many operations were deleted.

        Raises:
            StateTroubleError: The state cannot be written.
        """
        return self._in_transaction(
            lambda connection: len(self._prune(connection, ttl=ttl, max_bytes=max_bytes)[0])
        )

    def make_room(self, owner: str, *, ttl: float, max_bytes: int) -> Counter[str]:
        """Delete what is old, and then what is over `max_bytes` as far as an owner may ask for it.

        Returns:
            Bytes that are stored then, by owner.

        Raises:
            StateTroubleError: The state cannot be written.
        """

        def make_room(connection: sa.Connection) -> Counter[str]:
            gone, rows = self._prune(connection, ttl=ttl, max_bytes=max_bytes, needed_by=owner)
            deleted = set(gone)
            return held_by_owner(row for row in rows if row.key not in deleted)

        return self._in_transaction(make_room)

    def _prune(
        self, connection: sa.Connection, *, ttl: float, max_bytes: int, needed_by: str | None = None
    ) -> tuple[list[int], list[Kept]]:
        """Delete what has to go; return its keys, and all that was there."""
        columns = operations.c
        told = (columns.key, columns.owner, columns.size, columns.last_used)
        held_by = (columns.holder, columns.lease_until, columns.background)
        rows = connection.execute(sa.select(*told, *held_by).order_by(columns.last_used)).all()
        kept = [
            Kept(row.key, row.owner, row.size, row.last_used, self._is_idle(row)) for row in rows
        ]
        oldest = self._now() - ttl
        gone = doomed(kept, oldest=oldest, max_bytes=max_bytes, needed_by=needed_by)
        self._drop(connection, gone)
        return gone, kept

    def count_use(self, use: Use) -> Counted:
        """Count the use of a client in one transaction; accept a call if its quota allows one.

        Raises:
            StateTroubleError: Nothing was counted.
        """
        return self._in_transaction(lambda connection: count_use(connection, tables.usage, use))

    def key(self) -> bytes:
        """Return the key that signs cursors. The first use creates it.

        Raises:
            StateTroubleError: The state cannot be read or written.
        """

        def read(connection: sa.Connection) -> bytes:
            return bytes(connection.scalar(tables.meta_value("key")) or b"")

        return self._in_transaction(read, reads=True)

    def close(self) -> None:
        """Close all connections. May be called in any thread; does not wait for other threads."""
        self._engine.close()

    def _save(self, connection: sa.Connection, change: Change) -> Saved:
        """Write one change. This server must hold the row, or take it over."""
        record = change.record
        row = connection.execute(tables.state_of(record.owner, record.operation_id)).one_or_none()
        if change.touch:
            if row is not None:
                connection.execute(
                    sa.update(operations)
                    .where(operations.c.key == row.key)
                    .values(last_used=record.last_used)
                )
            return Saved(record.revision or 1, key=record.key)
        data, larger = encode(change)
        if row is None:
            if record.revision and not change.whole:
                return Saved(GONE)
            record.size = len(record.request) + len(data)
            key, revision, stop = self._insert(connection, record), 1, False
            size = record.size
        else:
            if not self._is_free(row.holder, row.lease_until, unless=self._holder):
                return Saved(REFUSED, row.holder)
            is_as_known = row.revision == record.revision
            if change.claim and not (is_as_known or change.unsure or change.whole):
                return Saved(REFUSED)  # it must be read again
            key, revision, stop = row.key, row.revision + 1, row.stop and not change.claim
            size = len(data)
            values = {name: getattr(record, name) for name in tables.CHANGING}
            connection.execute(
                sa.update(operations)
                .where(operations.c.key == key)
                .values(**values, revision=revision, stop=stop, size=operations.c.size + size)
            )
        if data:
            connection.execute(sa.insert(outcomes).values(key=key, revision=revision, data=data))
        placed = [(result, Place(revision, offset)) for result, offset in larger]
        parked = record.background and record.holder is None
        self._tell(connection, "parked" if parked else "news", record.owner, record.operation_id)
        return Saved(revision, stop=stop, key=key, size=size, placed=placed)

    @staticmethod
    def _insert(connection: sa.Connection, record: Record) -> int:
        values = asdict(record) | {"revision": 1, "stop": False}
        del values["key"]  # the database chooses it
        statement = sa.insert(operations).values(**values).returning(operations.c.key)
        return connection.execute(statement).scalar_one()

    @contextmanager
    def _blob(
        self, connection: sa.Connection, key: int, revision: int
    ) -> Generator[ReadBlob | None]:
        """Yield a function that reads parts of a blob, which may be larger than the memory limit.

        Yields None if the blob does not exist.
        """
        where = (outcomes.c.key == key, outcomes.c.revision == revision)
        if self._location.path is None:
            there = connection.scalar(sa.select(sa.literal(1)).where(*where))

            def part(start: int, size: int) -> bytes:
                wanted = sa.func.substring(outcomes.c.data, start + 1, size)
                return bytes(connection.scalar(sa.select(wanted).where(*where)) or b"")

            yield part if there else None
            return
        # In SQL, SQLite reads the whole blob for a part of it. A blob that is opened by its row
        # avoids that.
        rowid: sa.ColumnClause[int] = sa.literal_column("rowid")
        row = connection.scalar(sa.select(rowid).select_from(outcomes).where(*where))
        if row is None:
            yield None
            return
        raw = cast("Any", connection.connection.driver_connection)
        with raw.blobopen("outcomes", "data", row, readonly=True) as blob:

            def read(start: int, size: int) -> bytes:
                blob.seek(min(max(0, start), len(blob)))
                return blob.read(size)

            yield read

    def _tell(self, connection: sa.Connection, kind: Kind, owner: str, operation_id: str) -> None:
        """Notify other servers at the commit. Servers of a SQLite file poll instead."""
        if self._location.path is None:
            payload = payload_of(kind, owner, operation_id)
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))

    def _is_idle(self, row: Any) -> bool:
        return not row.background and self._is_free(row.holder, row.lease_until)

    def _is_free(self, holder: str | None, lease_until: float, *, unless: str = "") -> bool:
        """Whether no server holds an operation, or only the one named in `unless`."""
        if holder is None or holder == unless:
            return True
        return lease_until < self._now() or has_died(holder)

    @staticmethod
    def _drop(connection: sa.Connection, keys: Sequence[int]) -> None:
        for key in keys:
            connection.execute(sa.delete(outcomes).where(outcomes.c.key == key))
            connection.execute(sa.delete(operations).where(operations.c.key == key))
