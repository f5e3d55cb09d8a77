"""The journal of an operation's batch: it collects changes for the writer without waiting.

An outcome is pending, then part of a commit, then safe. If a commit fails, its outcomes are
pending again, before newer ones. Only safe outcomes may be reported to callers, and only their
results may be dropped from memory.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

from nursery_patterns import Batch, Journal, Outcome, Status
from trio_tools.operations.durable.holders import has_died
from trio_tools.operations.durable.records import (
    GONE,
    REFUSED,
    Change,
    Part,
    Record,
    Saved,
    restored_name,
)
from trio_tools.operations.result import Result

_log = logging.getLogger("trio_tools")

MOST_BYTES_A_COMMIT: Final = 4 * 2**20
"""Limit of result bytes in one commit, but at least one result: they are in memory twice."""

# The index of the item that the current task runs.
_index: ContextVar[int] = ContextVar("_index")

_ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT})


class JournalWriter(Protocol):
    """The interface of the writer that the journals of all operations use.

    Attributes:
        holder: The name of this server.
        now: Returns the seconds since the epoch.
        taken_over: Called with the journal of an operation that another server runs now.
        asked_to_stop: Called with the journal of an operation whose holder was asked to stop it.
    """

    holder: str
    now: Callable[[], float]
    taken_over: Callable[[OperationJournal], None]
    asked_to_stop: Callable[[OperationJournal], None]

    @property
    def behind(self) -> bool:
        """Whether so much is to be written, or stored, that `room` has to be awaited."""
        ...

    def heard(self, journal: OperationJournal) -> None:
        """Queue a journal that has changes to write."""
        ...

    def heard_end(self, journal: OperationJournal, size: int) -> None:
        """Queue a journal that has an outcome to write, with a result of `size` bytes."""
        ...

    async def room(self, journal: OperationJournal) -> None:
        """Wait while too much is still to be written, or the state is full."""
        ...

    async def settled(self, journal: OperationJournal, *, patient: bool = False) -> None:
        """Wait until the journal's changes so far are written, or cannot be."""
        ...

    async def read_parts(self, key: int, parts: Sequence[Part]) -> list[bytes | None]:
        """Return parts of results; None for a part that no longer exists."""
        ...


class ItemJournal(Journal[Any, Any]):
    """Knows the item of an operation that the current task runs.

    Args:
        operation_id: The id of the operation.
    """

    def __init__(self, operation_id: str) -> None:
        self._operation_id = operation_id

    def started(self, index: int, item: Any) -> None:
        """Set the item that the current task runs."""
        del item
        _index.set(index)

    @property
    def item_key(self) -> str:
        """The idempotency key of the item that the current task runs."""
        return f"{self._operation_id}/{_index.get()}"

    async def note_start(self) -> None:
        """Record that the current item starts, and return when that is committed."""


class OperationJournal(ItemJournal):
    """Receives the events of the items of one operation, and has them written.

    It is the `journal` of the operation's batch.

    Args:
        writer: Writes the changes.
        record: The stored record of the operation; code that changes it calls `ask`.
        outcomes: The stored outcomes.
        growth: Items that were added while it ran, in stored form.

    Attributes:
        refused: After a claim, why the operation must not run here: the name of another holder,
            or an empty text if another server has changed it; None if it may run.
        when_full: Called, perhaps more than once, when the state has no room for a further item.
            It has to end the wait for it. None while no call works on the operation.
    """

    def __init__(
        self,
        writer: JournalWriter,
        record: Record,
        outcomes: Iterable[Outcome[Any, Any]] = (),
        growth: Iterable[bytes] = (),
    ) -> None:
        super().__init__(restored_name(record.operation_id))
        self.record = record
        self.refused: str | None = None
        self.when_full: Callable[[], None] | None = None
        self.batch: Batch[Any, Any] | None = None
        self._writer = writer
        self._first = tuple(outcomes)
        # Invariant: a change that must be written is written, or is in `_pending`, `_started`,
        # `_growth` or the record, or in a change that is being written; `asked - saved` counts
        # the latter.
        self._pending: list[Outcome[Any, Any]] = []
        self.bytes_ahead = 0  # bytes of the results in `_pending`
        self._started: list[int] = []
        self._growth: list[bytes] = []
        self._all_growth = list(growth)
        self._claims = False
        self._unsure = False
        self._whole = False
        self._touched = False
        self.asked = 0
        self.saved = 0
        # Results on the disk and in memory, in the order of their commits.
        self._cached: dict[Result, None] = {}

    def outcomes(self) -> Iterable[Outcome[Any, Any]]:
        """Return the stored outcomes."""
        return self._first

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Queue an outcome to be written. It does not wait."""
        size = 0 if outcome.value is None else outcome.value.size
        self._pending.append(outcome)
        self.bytes_ahead += size
        self.asked += 1
        self._writer.heard_end(self, size)

    def grow(self, growth: bytes) -> None:
        """Queue added items to be written, before any of their outcomes."""
        self._all_growth.append(growth)
        self._growth.append(growth)
        if self.batch is not None:  # earlier, the operation may turn out to exist already
            self.ask()

    def behind(self) -> bool:
        """Whether so much is still to be written, or stored, that `ready` has to be awaited."""
        return self._writer.behind

    async def ready(self) -> None:
        """Wait while too much is still to be written, or the state has no room."""
        await self._writer.room(self)

    async def note_start(self) -> None:
        """Record that the current item starts, and return when that is committed."""
        self._started.append(_index.get())
        self.ask()
        await self.settled()

    def ask(self, *, claim: bool = False) -> None:
        """Queue the record; it is written in its state at the time of the commit.

        Args:
            claim: Take the operation over from a holder whose lease has ended.
        """
        self._claims |= claim
        self.asked += 1
        self._writer.heard(self)

    async def settled(self, *, patient: bool = False) -> None:
        """Wait until everything so far is on the disk, or the state has an error.

        Args:
            patient: Whether the commit may begin some milliseconds later, to include items that
                end until then.
        """
        await self._writer.settled(self, patient=patient)

    def touch(self) -> None:
        """Have the time of the last use written together with the next change."""
        self._touched = True
        self._writer.heard(self)

    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        """Return parts of results from the disk; None for a part that no longer exists.

        Raises:
            StateTroubleError: The state cannot be read.
        """
        return await self._writer.read_parts(self.record.key, parts)

    def let_go(self, most: int) -> int:
        """Drop results that are on the disk from memory, oldest first.

        Args:
            most: Number of bytes after which it stops.

        Returns:
            The number of dropped bytes.
        """
        dropped = 0
        while dropped < most and self._cached:
            result = next(iter(self._cached))
            del self._cached[result]
            result.json = None
            dropped += result.held_bytes
        return dropped

    def take(self, most: int) -> tuple[Change, int]:
        """Return the next change to write, and the value of `saved` after it."""
        record = self.record
        if self.batch is not None:
            counts = self.batch.counts
            record.total = counts.total
            record.succeeded, record.failed = counts.succeeded, counts.failed
            record.timed_out = counts.timed_out
        taken, size = self._next_outcomes(most)
        change = Change(
            copy.copy(record),
            taken,
            size,
            self._started,
            self._growth,
            unsure=self._unsure,
            whole=self._whole,
            claim=self._claims,
            touch=self.asked == self.saved and not self._whole,
        )
        self._started, self._growth = [], []
        self._unsure, self._whole, self._claims, self._touched = False, False, False, False
        return change, self.asked - len(self._pending)

    def _next_outcomes(self, most: int) -> tuple[list[Outcome[Any, Any]], int]:
        """Remove outcomes from the pending ones; return them and the bytes of their results."""
        if self.bytes_ahead > MOST_BYTES_A_COMMIT:
            size = 0
            for count, outcome in enumerate(self._pending[:most]):
                more = 0 if outcome.value is None else outcome.value.size
                if count and size + more > MOST_BYTES_A_COMMIT:
                    most = count
                    break
                size += more
        taken, self._pending = self._pending[:most], self._pending[most:]
        size = sum(o.value.size for o in taken if o.value is not None)
        self.bytes_ahead -= size
        return taken, size

    def put_back(self, change: Change) -> None:
        """Queue a change again whose commit has an unknown result.

        A duplicate outcome is ignored when it is read.
        """
        self._pending = [*change.outcomes, *self._pending]
        self.bytes_ahead += change.size
        self._started = [*change.started, *self._started]
        self._growth = [*change.growth, *self._growth]
        self._claims |= change.claim
        self._whole |= change.whole
        self._touched |= change.touch
        self._unsure = True
        self._writer.heard(self)

    def wrote(self, change: Change, saved: Saved, asked: int) -> None:
        """Process the result of a change."""
        if saved.revision == GONE:
            self._write_whole(change)
            return
        self.saved = asked
        if saved.revision == REFUSED:
            self.refused = saved.holder or ""
            if not change.claim or not change.record.revision:  # no task waits for the claim
                _log.warning(
                    "operation %r was taken over by another server", self.record.operation_id
                )
                self._writer.taken_over(self)
            return
        self.record.revision = saved.revision
        self.record.key = saved.key or self.record.key
        self.record.size = saved.size + (0 if change.whole else self.record.size)
        self.refused = None
        for result, place in saved.placed:
            result.place = place
            self._cached[result] = None
        if saved.stop:
            self._writer.asked_to_stop(self)

    def _write_whole(self, change: Change) -> None:
        """Queue everything in memory of an operation that is no longer stored."""
        self._whole = True
        self._claims |= change.claim
        known = change.outcomes if self.batch is None else self.batch.report().outcomes
        self._pending = [o for o in known if o.status in _ENDS and not _is_elsewhere(o)]
        self.bytes_ahead = sum(o.value.size for o in self._pending if o.value is not None)
        for result in self._cached:
            result.place = None
        self._cached.clear()
        self._growth = list(self._all_growth)
        self._writer.heard(self)

    @property
    def held_elsewhere(self) -> bool:
        """Whether another server is known to run the operation."""
        holder = self.record.holder
        if holder is None or holder == self._writer.holder:
            return False
        return self.record.lease_until > self._writer.now() and not has_died(holder)

    @property
    def in_flight(self) -> int:
        """How many items of the operation are worked on."""
        return 0 if self.batch is None else self.batch.progress.value.in_flight

    @property
    def outcomes_ahead(self) -> int:
        """Number of outcomes that are not written yet."""
        return len(self._pending)

    @property
    def has_news(self) -> bool:
        """Whether anything is not written yet."""
        return self.asked > self.saved or self._whole or self._touched


def _is_elsewhere(outcome: Outcome[Any, Any]) -> bool:
    """Whether the result of an outcome is not in memory any more."""
    return outcome.value is not None and outcome.value.json is None
