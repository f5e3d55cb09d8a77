"""Group commit: changes that arrive during one commit are written by the next one.

A batch calls the journal of its operation without waiting. One task collects the changes of all
journals and writes them in one transaction, in its own thread. A task that is about to report an
outcome waits for that commit. While the state cannot be written, no task waits: the server
continues in memory and reports it. When the state can be written again, the rest is written.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from trio.lowlevel import ParkingLot

from nursery_patterns import run_in_thread
from trio_tools.operations.durable.disk_budget import DiskBudget
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.journal import MOST_BYTES_A_COMMIT, OperationJournal
from trio_tools.operations.durable.location import Location, StateTroubleError
from trio_tools.operations.durable.notices import payload_of
from trio_tools.operations.durable.records import Change, Part, Saved

if TYPE_CHECKING:
    from trio_tools.operations.durable.database import StateDatabase

_log = logging.getLogger("trio_tools")

LEASE_SECONDS: Final = 10.0
"""Seconds for which an operation belongs to its server after the last write."""

_RENEW_SECONDS = LEASE_SECONDS / 4
_RETRY_SECONDS = 2.0
_LAST_COMMIT_SECONDS = 0.25
_ABANDON_SECONDS = 0.2
# Until an operation that has no room looks for it again.
_ROOM_SECONDS = 1.0
# Outcomes that no task waits for are written at the latest after this time.
_GATHER_SECONDS = 0.02
# Outcomes per commit; and the limits of unwritten outcomes and bytes in all.
_MOST_A_COMMIT = 2_000
_MOST_AHEAD = 10_000
_MOST_BYTES_AHEAD = 64 * 2**20
_ENOUGH_BYTES_FOR_A_COMMIT = 2**20

_T = TypeVar("_T")


class Writer:
    """Writes the changes of journals, one commit at a time.

    Args:
        location: Where to write.
        now: Returns the seconds since the epoch.
        taken_over: Called with the journal of an operation that another server works on now.
        asked_to_stop: Called with the journal of one that somebody asked its holder to stop.
        when_safe: Called after each commit: memory may let go of results now.
        came_back: Called when the state can be written again, which may be another one than before.
        ttl: Seconds after which what nobody has used is deleted.
        max_bytes: Most bytes that are stored.

    Attributes:
        holder: The name of this server.
        trouble: Why the state cannot be used now, for people; empty if it can.
        running: Whether the task that writes is running.
    """

    def __init__(
        self,
        location: Location,
        *,
        now: Callable[[], float] = time.time,
        taken_over: Callable[[OperationJournal], None] = lambda _: None,
        asked_to_stop: Callable[[OperationJournal], None] = lambda _: None,
        when_safe: Callable[[], None] = lambda: None,
        came_back: Callable[[], None] = lambda: None,
        ttl: float = math.inf,
        max_bytes: int = 2**62,
    ) -> None:
        self._disk = DiskBudget(max_bytes, ttl=ttl, now=now)
        self.location = location
        self.holder = new_holder()
        self.now = now
        self.taken_over = taken_over
        self.asked_to_stop = asked_to_stop
        self.when_safe = when_safe
        self.came_back = came_back
        self.trouble = ""
        self.running = False
        self._database: StateDatabase | None = None
        self._opening = threading.Lock()
        self._ended = False
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(2)
        self._dirty: dict[OperationJournal, None] = {}
        self._held: dict[OperationJournal, None] = {}
        self._outcomes_ahead = 0
        self._bytes_ahead = 0
        self._in_commit = False
        self._heard = trio.Event()  # there is something to write
        self._wanted = trio.Event()  # and it is to be written now
        self._news = ParkingLot()

    @property
    def behind(self) -> bool:
        """Whether so much is to be written, or stored, that `room` has to be awaited."""
        return (
            self._outcomes_ahead >= _MOST_AHEAD
            or self._bytes_ahead >= _MOST_BYTES_AHEAD
            or self._disk.may_be_full(self._bytes_ahead)
        )

    @property
    def has_outcomes_ahead(self) -> bool:
        """Whether outcomes are unwritten, and a task runs to write them."""
        if not self.running:
            return False
        return self._in_commit or any(journal.outcomes_ahead for journal in self._dirty)

    def heard(self, journal: OperationJournal) -> None:
        """Queue a journal that has changes to write."""
        self._dirty[journal] = None

    def heard_end(self, journal: OperationJournal, size: int) -> None:
        """Queue a journal that has an outcome to write, with a result of `size` bytes."""
        self._dirty[journal] = None
        if not self._outcomes_ahead:
            self._heard.set()
        self._outcomes_ahead += 1
        self._bytes_ahead += size
        self._want_if_enough()

    def _want(self) -> None:
        """Make the next commit begin now, or as soon as the current one has ended."""
        self._heard.set()
        self._wanted.set()

    def _want_if_enough(self) -> None:
        """Request a commit if there is enough for one."""
        if (
            self._outcomes_ahead >= _MOST_A_COMMIT
            or self._bytes_ahead >= _ENOUGH_BYTES_FOR_A_COMMIT
        ):
            self._want()

    def look(self, payload: str) -> None:
        """Check at once whether the operation of a notice must be stopped, if it is held here."""
        for journal in self._held:
            record = journal.record
            if payload == payload_of("stop", record.owner, record.operation_id):
                journal.ask()
                self._want()

    async def settled(self, journal: OperationJournal, *, patient: bool = False) -> None:
        """Wait until the journal's changes so far are written, or cannot be.

        Args:
            journal: The journal of an operation.
            patient: Whether the commit may begin at its usual time instead of at once.
        """
        target = journal.asked
        while journal.saved < target and self.running and not self.trouble:
            if patient:
                self._heard.set()
            else:
                self._want()
            await self._news.park()

    async def room(self, journal: OperationJournal) -> None:
        """Wait while more than half of what may be ahead is to be written, or the state is full.

        Args:
            journal: Of the operation that is to start an item. When those in flight have ended,
                it is told to stop if nothing else can make room for it.
        """
        while self.running and not self.trouble and self._is_ahead_by(0.5):
            self._want()
            await self._news.park()
        owner = journal.record.owner
        while self._is_full(journal):
            await self.settled(journal)
            await self._make_room(owner)
            if self._is_full(journal):
                if self._disk.has_most(owner) and journal.when_full and not journal.in_flight:
                    journal.when_full()
                with trio.move_on_after(_ROOM_SECONDS):
                    await self._news.park()

    def _is_full(self, journal: OperationJournal) -> bool:
        """Whether the state has no room for an item of an operation."""
        if not self.running or self.trouble:
            return False
        owner = journal.record.owner
        return self._disk.is_full(owner, self._bytes_ahead, journal.bytes_ahead)

    async def _make_room(self, owner: str) -> None:
        """Delete idle operations, as far as an owner may ask for it; count what is left."""
        ahead = self._bytes_ahead

        def make_room() -> None:
            self._disk.make_room(owner, ahead, self._opened())

        try:
            await run_in_thread(make_room, limiter=self._writing, abandon_on_cancel=True)
        except StateTroubleError as error:
            self.note_trouble(error)

    def _is_ahead_by(self, share: float) -> bool:
        """Whether more than this share of the limit is unwritten."""
        return (
            self._outcomes_ahead > share * _MOST_AHEAD
            or self._bytes_ahead > share * _MOST_BYTES_AHEAD
        )

    def hold(self, journal: OperationJournal) -> None:
        """Renew the lease of an operation until it is released."""
        journal.record.holder = self.holder
        journal.record.lease_until = self.now() + LEASE_SECONDS
        self._held[journal] = None

    def let_go(self, journal: OperationJournal) -> None:
        """Write no changes of an operation that another server holds."""
        self._held.pop(journal, None)
        self._dirty.pop(journal, None)
        journal.record.holder = journal.refused or None
        journal.refused = None

    def release(self, journal: OperationJournal) -> None:
        """Release an operation, so that other servers may run it."""
        self._held.pop(journal, None)
        journal.record.holder = None
        journal.ask()

    def forget(self, journal: OperationJournal) -> None:
        """Write nothing more of an operation, except for what was already requested."""
        self._held.pop(journal, None)

    def give_up(self, journal: OperationJournal) -> None:
        """Write nothing more of an operation, not even what was already requested."""
        self._dirty.pop(journal, None)
        journal.batch = None

    async def read(self, work: Callable[[StateDatabase], _T]) -> _T:
        """Run `work(database)` in a thread.

        Raises:
            StateTroubleError: The state cannot be read.
        """

        def here() -> _T:
            return work(self._opened())

        return await run_in_thread(here, limiter=self._reading, abandon_on_cancel=True)

    async def read_parts(self, key: int, parts: Sequence[Part]) -> list[bytes | None]:
        """Return parts of results of an operation; None for a part that no longer exists.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        return await self.read(lambda database: database.read(key, parts))

    async def run(self) -> None:
        """Write changes until cancelled, and then the rest."""
        self.running, self._ended = True, False
        try:
            while True:
                await self._pause()
                await self._commit()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_COMMIT_SECONDS):
                while self._dirty and not self.trouble:
                    await self._commit()
            # A commit that was abandoned may still run. This does not wait for it.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _ABANDON_SECONDS):
                await run_in_thread(
                    self._end, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
                )
            self.running = False
            self._news.unpark_all()

    async def _pause(self) -> None:
        """Wait until a commit is requested, a lease must be renewed, or a retry is due."""
        if self.trouble:
            await trio.sleep(_RETRY_SECONDS)
            return
        patience = _RENEW_SECONDS if self._held else math.inf
        with trio.move_on_after(patience):
            await self._heard.wait()
        if self._heard.is_set():
            with trio.move_on_after(_GATHER_SECONDS):
                await self._wanted.wait()
        else:
            for journal in self._held:
                journal.ask()
        self._heard, self._wanted = trio.Event(), trio.Event()

    async def _commit(self) -> None:
        """Write one group with at most the limit of outcomes per commit."""
        taken = self._take()
        if not taken and not self.trouble:
            return
        results: list[Saved] | None = None
        self._in_commit = True
        try:
            results = await run_in_thread(
                self._write,
                [change for _, change, _ in taken],
                limiter=self._writing,
                abandon_after=_ABANDON_SECONDS,
            )
        except Exception as error:  # noqa: BLE001 - the work goes on in memory in any case
            self.note_trouble(error)
            return
        finally:
            self._in_commit = False
            if results is None:  # or its result is unknown
                for journal, change, _ in taken:
                    journal.put_back(change)
        assert results is not None
        if self.trouble:
            _log.warning("the state is written again: %s", self.location.told)
            self.trouble = ""
            self.came_back()
        for (journal, change, asked), saved in zip(taken, results, strict=True):
            journal.wrote(change, saved, asked)
            if not journal.has_news:
                self._dirty.pop(journal, None)
        self._outcomes_ahead = sum(journal.outcomes_ahead for journal in self._dirty)
        self._bytes_ahead = sum(journal.bytes_ahead for journal in self._dirty)
        if self._outcomes_ahead:  # items that ended meanwhile
            self._heard.set()
        self._want_if_enough()
        self._news.unpark_all()
        self.when_safe()

    def _take(self) -> list[tuple[OperationJournal, Change, int]]:
        """Return the next changes, their journals, and the values of `saved` after them."""
        taken: list[tuple[OperationJournal, Change, int]] = []
        room, room_bytes = _MOST_A_COMMIT, MOST_BYTES_A_COMMIT
        renewed = self.now() + LEASE_SECONDS
        for journal in self._dirty:
            if journal in self._held:
                journal.record.lease_until = renewed
            change, asked = journal.take(room)
            taken.append((journal, change, asked))
            room -= len(change.outcomes)
            room_bytes -= change.size
            if room <= 0 or room_bytes <= 0:
                break
        return taken

    def note_trouble(self, error: Exception) -> None:
        """Continue in memory, with the reason, until a commit succeeds."""
        self._close()  # its connections may be the cause
        self._outcomes_ahead = self._bytes_ahead = 0
        words = str(error) if isinstance(error, StateTroubleError) else repr(error)
        if words != self.trouble:
            _log.warning("the state cannot be written, the work goes on in memory: %s", words)
        self.trouble = words
        self._want()  # to retry
        self._news.unpark_all()

    def _write(self, changes: Sequence[Change]) -> list[Saved]:
        """Write a group, and sometimes delete old operations. Runs in the thread."""
        database = self._opened()
        saved = database.commit(changes)
        written = Counter[str]()
        for change, one in zip(changes, saved, strict=True):
            written[change.record.owner] += one.size
        self._disk.wrote(written, database)
        return saved

    def read_with(self, database: StateDatabase) -> None:
        """Read with a database that is open, such as one that is read-only."""
        self._database = database

    def _close(self) -> None:
        database = self._database
        if database is not None:
            self._database = None
            database.close()

    def _end(self) -> None:
        """Close the database for good, even if abandoned threads still use it."""
        with self._opening:
            self._ended = True
        self._close()

    def _opened(self) -> StateDatabase:
        """Return the database. The first use loads its library. Runs in a thread."""
        with self._opening:
            if self._ended:
                raise StateTroubleError(f"{self.location.told} is closed: the server has stopped")
            if self._database is None:
                from trio_tools.operations.durable.database import (  # noqa: PLC0415 - heavy
                    StateDatabase,
                )

                self._database = StateDatabase(self.location, self.holder, now=self.now)
            return self._database
