"""`DurableStore`: all operations on the disk, and those in use in memory.

An operation that is dropped from memory stays on the disk, and is loaded again at its next use.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import InvalidArgument
from trio_tools.answers.json_values import json_bytes
from trio_tools.operations.durable.blobs import Stored
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.durable.location import Location, StateTroubleError
from trio_tools.operations.durable.notices import Notices, payload_of
from trio_tools.operations.durable.records import (
    Counted,
    Record,
    Use,
    plain_name,
    restored_name,
    schema_mark,
)
from trio_tools.operations.durable.writer import Writer
from trio_tools.operations.operation import Operation
from trio_tools.operations.store import MemoryStore
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.settings.threads import run_in_tool_thread

if TYPE_CHECKING:
    from trio_tools.operations.durable.database import StateDatabase

_T = TypeVar("_T")
_log = logging.getLogger("trio_tools")

# Seconds that a call waits to be counted in the state.
_COUNT_SECONDS = 2.0
# Share of the kept bytes that is dropped from memory in addition to the necessary part.
_MORE_TO_LET_GO = 16

UNUSED_SECONDS = 20.0
"""Seconds without use after which an operation that is on the disk may leave memory."""

UNUSED_BYTES = 8 * 2**20
"""Bytes that unused operations may keep in memory all the same."""

Revive = Callable[[Writer, Record, Stored], Awaitable[StoredOperation]]
"""Makes an operation from its writer, its record, and its stored outcomes."""


class DurableStore(MemoryStore):
    """Operations that outlive the process.

    Args:
        location: Where they are stored.
        ttl: Seconds that an operation is kept after its last use, in memory and on the disk.
        capacity: Limit of operations in memory.
        max_bytes: Limit of bytes in memory.
        max_stored_bytes: Limit of bytes on the disk.
        revive: Makes an operation from its stored form.
    """

    def __init__(
        self,
        location: Location,
        *,
        ttl: float,
        capacity: int,
        max_bytes: int,
        max_stored_bytes: int,
        revive: Revive,
    ) -> None:
        super().__init__(ttl=ttl, capacity=capacity, max_bytes=max_bytes)
        self.location = location
        self.writer = Writer(
            location,
            taken_over=self._stop,
            asked_to_stop=self._stop_for_good,
            when_safe=self._committed,
            came_back=self._write_what_is_gone,
            ttl=ttl,
            max_bytes=max_stored_bytes,
        )
        self._notices = Notices(location, self.writer.look)
        self._revive = revive
        self._max_stored_bytes = max_stored_bytes
        self._key: bytes | None = None
        # Set while more than UNUSED_BYTES are kept, some of them perhaps of unused operations.
        self._much = trio.Event()

    @property
    def trouble(self) -> str:
        """Why outcomes are kept in memory only; empty if they are written to the disk."""
        return self.writer.trouble

    def journal(
        self,
        operation_id: str,
        owner: str,
        tool: str,
        operation: Operation,
        request: object,
    ) -> OperationJournal:
        """Return a journal for a new operation. Nothing is stored before it begins."""
        now = self.writer.now()
        record = Record(
            owner=plain_name(owner),
            operation_id=plain_name(operation_id),
            tool=tool,
            name=operation.name,
            schema=schema_mark(operation.item_schema()),
            request=json_bytes(request, fallback=repr),
            created=now,
            last_used=now,
        )
        return OperationJournal(self.writer, record)

    def key(self) -> bytes | None:
        """Return the secret that signs cursors. All servers of this state share it."""
        return self._key or self.location.file_key()

    async def open_key(self) -> None:
        """Load the secret, which is a file beside a SQLite file, or in a table of PostgreSQL."""
        if self.location.path is None and self._key is None:
            try:
                self._key = await self.writer.read(lambda database: database.key())
            except StateTroubleError as error:
                self.writer.note_trouble(error)

    async def count_use(self, use: Use) -> Counted | None:
        """Count the use of a client over all servers of the state. None if not possible now.

        It waits for a commit, at most 2 s.
        """
        if self.writer.trouble or not self.writer.running:
            return None
        stored = use._replace(client=plain_name(use.client))
        with trio.move_on_after(_COUNT_SECONDS):
            try:
                return await self.writer.read(lambda database: database.count_use(stored))
            except StateTroubleError as error:
                self.writer.note_trouble(error)
        return None

    async def load_library(self) -> None:
        """Load the library of the database in a thread. A cancel abandons the thread."""
        await run_in_thread(
            importlib.import_module,
            "trio_tools.operations.durable.database",
            limiter=trio.CapacityLimiter(1),
            abandon_on_cancel=True,
        )

    async def write(self) -> None:
        """Write changes, and receive notices of other servers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notices.listen)
            await self.writer.run()

    async def changed(self, operation: StoredOperation | None, seconds: float) -> None:
        """Wait until another server reports a change, at most so long. See `OperationStore`."""
        awaited: str = "parked"
        if operation is not None and operation.journal is not None:
            record = operation.journal.record
            awaited = f"{payload_of('news', record.owner, record.operation_id)}"
        await self._notices.wait(awaited, seconds)

    async def recall(self, operation_id: str, owner: str) -> None:
        """Load an operation from the disk, if its stored form is newer than the one in memory."""
        kept = self._kept.get((owner, operation_id))
        if kept is not None and (kept.running_here or kept.journal is None):
            return
        if not self.writer.running or not self.location.may_hold_operations():
            return
        names = (plain_name(owner), plain_name(operation_id))
        try:
            if kept is not None and kept.journal is not None:
                revision = await self.writer.read(lambda database: database.revision(*names))
                if revision in (0, kept.journal.record.revision):
                    return
            found = await self.writer.read(lambda database: database.load(*names))
        except StateTroubleError as error:
            self.writer.note_trouble(error)
            return
        if found is not None:
            await self._take_in(*found)

    async def _take_in(self, record: Record, stored: Stored) -> StoredOperation | None:
        """Put a loaded operation into memory, unless memory has it in that form.

        Another task may have loaded it too, and be about to run it: there must not be two.
        """
        operation = await self._revive(self.writer, record, stored)
        key = (operation.owner, operation.operation_id)
        kept = self._kept.get(key)
        if kept is not None:
            if kept.running_here or kept.journal is None:
                return None
            if kept.journal.record.revision >= record.revision:
                return kept
            self._drop(key)
        self._keep(operation)
        return operation

    async def records(self) -> list[Record]:
        """Return the records of all operations of all owners, oldest first.

        Raises:
            ValueError: The state cannot be read.
        """
        if not self.location.may_hold_operations():
            return []
        return await self._read(lambda database: database.records())

    async def names(self, owner: str) -> list[str]:
        """Return the ids of an owner's operations, in memory and on the disk, newest first."""
        here = await super().names(owner)
        if not self.writer.running or not self.location.may_hold_operations():
            return here
        try:
            stored = await self.writer.read(
                lambda database: database.records(owner=plain_name(owner))
            )
        except StateTroubleError as error:
            self.writer.note_trouble(error)
            return here
        there = [restored_name(record.operation_id) for record in reversed(stored)]
        return list(dict.fromkeys((*here, *there)))

    async def prune(self, ttl: float | None = None) -> int:
        """Delete operations that were unused for so long, by default the time to live.

        Raises:
            ValueError: The state cannot be written.
        """
        if not self.location.may_hold_operations():
            return 0
        seconds = self._ttl if ttl is None else ttl
        return await self._read(
            lambda database: database.prune(ttl=seconds, max_bytes=self._max_stored_bytes)
        )

    async def _read(self, work: Callable[[StateDatabase], _T]) -> _T:
        try:
            return await self.writer.read(work)
        except StateTroubleError as error:
            raise ValueError(str(error)) from None

    @staticmethod
    def name_of(record: Record) -> tuple[str, str]:
        """Return the id of a stored operation, and its owner."""
        return restored_name(record.operation_id), restored_name(record.owner)

    def is_held(self, record: Record) -> bool:
        """Whether a server runs a stored operation."""
        return OperationJournal(self.writer, record).held_elsewhere

    async def parked(self) -> list[StoredOperation]:
        """Load the background operations that no server runs, oldest first."""
        if not await run_in_tool_thread(self.location.has_parked):
            return []
        taken: list[StoredOperation] = []
        try:
            for record in await self.writer.read(lambda database: database.parked()):
                names = (record.owner, record.operation_id)
                found = await self.writer.read(lambda database, n=names: database.load(*n))
                operation = None if found is None else await self._take_in(*found)
                if operation is not None:
                    taken.append(operation)
        except StateTroubleError as error:
            self.writer.note_trouble(error)
        return taken

    async def begin(self, operation: StoredOperation) -> None:
        """Claim an operation for this server, also on the disk. See `OperationStore`."""
        journal = operation.journal
        if journal is None:
            return
        record = journal.record
        journal.batch = operation.batch
        record.run += 1
        record.background = operation.background
        self.writer.hold(journal)
        journal.ask(claim=True)
        if not record.revision:  # a new one: it is written with its first outcomes
            return
        begun = False
        try:
            await journal.settled()
            begun = journal.refused is None
        finally:
            if not begun:
                self.writer.let_go(journal)
        if not begun:
            raise InvalidArgument(
                f"operation {operation.operation_id!r} is running in another server: read it with "
                "get_operation, or call again when that one has ended",
                error_code="OPERATION_RUNNING",
            )

    async def stop_elsewhere(self, operation: StoredOperation) -> bool:
        """Ask the server that runs an operation to stop it. See `OperationStore`."""
        if operation.journal is None:
            return False
        record = operation.journal.record
        names = (record.owner, record.operation_id)
        try:
            return await self.writer.read(lambda database: database.stop(*names))
        except StateTroubleError as error:
            self.writer.note_trouble(error)
            return False

    def end(self, operation: StoredOperation) -> None:
        """Release an operation, so that other servers may run it."""
        journal = operation.journal
        if journal is not None:
            record = journal.record
            record.last_used = self.writer.now()
            complete = operation.batch.progress.value.complete
            record.background = operation.background and not complete
            self.writer.release(journal)

    async def settled(self, operation: StoredOperation, *, patient: bool = False) -> None:
        """Wait until everything so far is on the disk, or cannot be written."""
        if operation.journal is not None:
            await operation.journal.settled(patient=patient)

    def let_go(self, most: int) -> None:
        """Drop results that are on the disk from memory, until `most` bytes are kept.

        Idle operations are dropped from first, the least recently used before others. A little
        more than necessary is dropped, so that this does not happen for each item.
        """
        if self._bytes <= most:
            return
        wanted = self._bytes - most + self._max_bytes // _MORE_TO_LET_GO
        freed = 0
        for kept in sorted(self._kept.values(), key=_by_use):
            if kept.journal is not None:
                size = kept.journal.let_go(wanted - freed)
                kept.work.let_go(size)
                freed += size
            if freed >= wanted:
                break
        if freed:
            self._bytes -= freed
            self.when_let_go(freed)

    @property
    def will_let_go(self) -> bool:
        """Whether results are being written to the disk, after which memory can drop them."""
        return self.writer.has_outcomes_ahead

    async def forget_unused(self) -> None:
        """Drop operations that are on the disk from memory when they are unused, until cancelled.

        They stay readable. So a process does not keep the memory of a burst for an hour.
        """
        while True:
            await self._much.wait()
            await trio.sleep(UNUSED_SECONDS)
            self._much = trio.Event()
            since = trio.current_time() - UNUSED_SECONDS
            idle = [
                (key, kept)
                for key, kept in self._kept.items()
                if not kept.running_here and not self._is_only_here(kept)
            ]
            for key, kept in sorted(idle, key=lambda each: each[1].last_used):
                if self.kept_bytes <= UNUSED_BYTES:
                    break
                if kept.last_used > since:
                    self._much.set()  # look again; a running one is looked at when it is written
                    break
                self._drop(key)

    def _committed(self) -> None:
        if self.kept_bytes > UNUSED_BYTES:
            self._much.set()
        self.when_safe()

    def _write_what_is_gone(self) -> None:
        """Write the operations again that are no longer on the disk.

        The file may have been replaced. An operation whose stored form is the known one stays.
        One that another server runs or has changed belongs to that server.
        """
        for kept in self._kept.values():
            if not kept.running_here and kept.journal is not None:
                kept.journal.ask(claim=True)

    def _is_only_here(self, kept: StoredOperation) -> bool:
        return kept.journal is not None and kept.journal.has_news

    def _use(self, key: tuple[str, str]) -> StoredOperation:
        kept = super()._use(key)
        if kept.journal is not None and kept.journal.record.revision:
            kept.journal.record.last_used = self.writer.now()
            kept.journal.touch()
        return kept

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept[key]
        super()._drop(key)
        if kept.journal is not None:
            self.writer.forget(kept.journal)
            if self.writer.trouble and kept.journal.has_news:
                # It would use memory until the state is available, and the memory limit is
                # reached.
                _log.warning(
                    "operation %r is dropped before it could be written", kept.operation_id
                )
                self.writer.give_up(kept.journal)
            if not kept.journal.has_news:
                # The two refer to each other, and would stay until the next full collection.
                kept.journal.batch = None

    def _stop(self, journal: OperationJournal, *, for_good: bool = False) -> None:
        for kept in self.running():
            if kept.journal is journal:
                kept.stop(for_good=for_good)

    def _stop_for_good(self, journal: OperationJournal) -> None:
        self._stop(journal, for_good=True)


def _by_use(kept: StoredOperation) -> tuple[bool, float]:
    return kept.running_here, kept.last_used
