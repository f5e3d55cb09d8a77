"""The dashboard of a state that other processes write to, such as servers on stdio.

It reads and changes nothing. It shows all operations of all clients, since a process that can
read the state can read them anyway. It shows what servers have stored: counts, outcomes, and
which server runs which operation. It cannot show items in flight.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from nursery_patterns import run_in_thread
from trio_tools.answers.errors import NotFound
from trio_tools.live.operations import revive
from trio_tools.live.snapshot import MAX_OPERATIONS, failed_items
from trio_tools.live.state import ServerState
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.durable.location import StateTroubleError
from trio_tools.operations.durable.records import Record, plain_name, restored_name
from trio_tools.operations.durable_store import DurableStore
from trio_tools.operations.stored_operation import StoredOperation
from trio_tools.version import __version__

MAX_FAILED: Final = 100
"""How many failed items of an operation are shown; a download contains all."""

_FRESH_SECONDS = 0.5
_RATE_SECONDS = 10.0
# Reading the failed items of an operation takes at most this share of the time.
_SHARE_OF_TIME = 0.1


@dataclass(eq=False)
class _Seen:
    """The data that is kept of an operation between two reads."""

    revision: int = -1
    failed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    next_look: float = 0.0
    done: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])


class StoredView:
    """Reads the state of other processes for the dashboard.

    Args:
        state: With a store on a disk or in a database. It need not be served.

    Raises:
        ValueError: Its operations are kept in memory, or nothing is stored yet.
    """

    def __init__(self, state: ServerState) -> None:
        store = state.store
        if not isinstance(store, DurableStore):
            raise ValueError(  # noqa: TRY004 - of the setting, not of the code
                "state.url is memory, which ends with the process that has it: start the server "
                "with another state.url and name that one here with --state, or open the page of "
                "a server on HTTP"
            )
        if not store.location.may_hold_operations():
            raise ValueError(
                f"{store.location.told} is not there, so no server has stored anything in it yet: "
                "name the state of your server with --state, or make a batch call first"
            )
        self._state = state
        self._writer = store.writer
        self._told = store.location.told
        self._database = StateDatabase(store.location, store.writer.holder, read_only=True)
        self._writer.read_with(self._database)  # for the results of the operations
        self._one = trio.CapacityLimiter(1)
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._looking = trio.Lock()
        self._latest: dict[str, Any] = {}
        self._looked_at = float("-inf")

    @property
    def reads_only(self) -> bool:
        """True: an operation is stopped with `trio-tools operations cancel`."""
        return True

    async def check(self) -> None:
        """Check that the state can be read.

        Raises:
            ValueError: It cannot.
        """
        try:
            await self._records()
        except StateTroubleError as error:
            raise ValueError(str(error)) from None

    def close(self) -> None:
        """Close the connections to the state."""
        self._database.close()

    async def snapshot(self, client_id: str) -> dict[str, Any]:
        """Return the stored operations as JSON values; concurrent readers share one read."""
        del client_id
        async with self._looking:
            if trio.current_time() - self._looked_at >= _FRESH_SECONDS:
                trouble = ""
                operations: list[dict[str, Any]] = self._latest.get("operations", [])
                try:
                    operations = await self._look()
                except StateTroubleError as error:
                    trouble = str(error)
                self._latest = {"server": self._server(trouble), "operations": operations}
                self._looked_at = trio.current_time()
        return self._latest

    async def find(self, key: str, client_id: str) -> StoredOperation:
        """Return an operation with all its outcomes.

        Args:
            key: The key of a snapshot.
            client_id: The requesting client; each client sees all outcomes.

        Raises:
            NotFound: The operation does not exist.
        """
        del client_id
        try:
            owner, operation_id = json.loads(key)
            kept = await self._load(plain_name(str(owner)), plain_name(str(operation_id)))
        except (ValueError, TypeError, StateTroubleError):
            kept = None
        if kept is None:
            raise NotFound("there is no such operation", error_code="UNKNOWN_OPERATION_ID")
        return kept

    def _server(self, trouble: str) -> dict[str, Any]:
        return {
            "name": self._state.settings.name,
            "version": __version__,
            "client": self._told,
            "read_only": True,
            "trouble": trouble,
        }

    async def _look(self) -> list[dict[str, Any]]:
        records = await self._records()
        self._seen = {key: self._seen.get(key, _Seen()) for key in map(_names, records)}

        def weight(record: Record) -> tuple[bool, float]:
            return self._is_held(record), record.created

        newest = heapq.nlargest(MAX_OPERATIONS, records, key=weight)
        return [await self._view(record) for record in newest]

    async def _view(self, record: Record) -> dict[str, Any]:
        seen, running = self._seen[_names(record)], self._is_held(record)
        done = record.succeeded + record.failed + record.timed_out
        left = None if record.total is None else record.total - done
        rate = self._rate(seen, done) if running else 0.0
        if record.failed + record.timed_out:
            await self._read_failed(record, seen)
        operation_id, owner = restored_name(record.operation_id), restored_name(record.owner)
        return {
            "key": json.dumps([owner, operation_id]),
            "operation_id": operation_id,
            "client": owner,
            "tool": record.tool,
            "operation": record.name,
            "running": running,
            "age_seconds": round(time.time() - record.created, 1),
            "deadline_left_seconds": None,
            "counts": {
                "total": record.total,
                "succeeded": record.succeeded,
                "failed": record.failed,
                "timed_out": record.timed_out,
                "cancelled": 0,
                "not_started": 0 if running else left or 0,
                "in_flight": None,
            },
            "rate_per_second": round(rate, 2),
            "seconds_left": round(left / rate, 1) if rate and left is not None else None,
            "timeline": [],
            "failed": seen.failed,
        }

    @staticmethod
    def _rate(seen: _Seen, done: int) -> float:
        """Return how many items ended per second, as observed here."""
        now = trio.current_time()
        seen.done.append((now, done))
        while seen.done[0][0] < now - _RATE_SECONDS:
            seen.done.popleft()
        since, before = seen.done[0]
        return (done - before) / (now - since) if now > since else 0.0

    async def _read_failed(self, record: Record, seen: _Seen) -> None:
        """Read the failed items, if there may be new ones."""
        started = trio.current_time()
        if seen.revision == record.revision or started < seen.next_look:
            return
        kept = await self._load(record.owner, record.operation_id)
        if kept is not None:
            seen.failed = failed_items(kept, MAX_FAILED)
            seen.revision = record.revision
        now = trio.current_time()
        seen.next_look = now + (now - started) / _SHARE_OF_TIME

    async def _load(self, owner: str, operation_id: str) -> StoredOperation | None:
        found = await run_in_thread(
            self._database.load, owner, operation_id, limiter=self._one, abandon_on_cancel=True
        )
        if found is None:
            return None
        return await revive(self._state, self._writer, *found)

    async def _records(self) -> list[Record]:
        return await run_in_thread(
            self._database.records, limiter=self._one, abandon_on_cancel=True
        )

    def _is_held(self, record: Record) -> bool:
        return OperationJournal(self._writer, record).held_elsewhere


def _names(record: Record) -> tuple[str, str]:
    return record.owner, record.operation_id
