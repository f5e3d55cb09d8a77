"""Operations that outlive their calls: what finished stays readable, what is missing can be done.

A `Batch` keeps its books outside of whatever scope runs it. So keeping an operation is no more
than keeping its batch; nothing is copied, flushed or rescued when a call is cancelled.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import trio

from nursery_patterns import Batch, Counts
from trio_tools.answers.errors import InvalidArgument, NotFound, ServerOverloaded
from trio_tools.answers.json_values import json_bytes
from trio_tools.operations.durable.records import Counted, Use
from trio_tools.operations.durable.writer import ItemJournal, OperationJournal
from trio_tools.operations.item_runner import ItemRunner, Result, same_json
from trio_tools.operations.memory_budget import MemoryAccount
from trio_tools.operations.operation import Operation
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.timeline import Timeline


@dataclass(eq=False)
class StoredOperation:
    """One operation: a batch, whose it is, and how long it is kept.

    Attributes:
        operation_id: Names it; unguessable if the server made it.
        owner: The client that may see it.
        tool: The tool that was called.
        request: What was asked, to tell a resumed call from another one.
        work: What is done to which items.
        batch: The doing of it, with everything that finished.
        request_id: The call that works on it, or did last.
        deadline: When that call will answer, or did at the latest; None before the first.
        journal: Hears what ends, if that is stored beyond memory.
        background: Whether it goes on by itself, without a call that waits for it.
        begun: Set when the work in the background has begun, or cannot.
        cannot_go_on: Why its missing items cannot be done any more; empty if they can.
        interrupted: Why its latest run in the background ended early; empty if it did not, or if
            time was up or somebody stopped it.
        memory: What its items in flight have reserved.
        timeline: When its latest items started and ended.
        output: The file that its outcomes go to; None for no file. `note_output` changes it.
    """

    operation_id: str
    owner: str
    tool: str
    request: Any
    work: ItemRunner
    batch: Batch[Any, Result]
    created: float = field(default_factory=trio.current_time)
    last_used: float = field(default_factory=trio.current_time)
    request_id: str | None = None
    deadline: float | None = None
    journal: OperationJournal | None = None
    background: bool = False
    begun: trio.Event = field(default_factory=trio.Event)
    cannot_go_on: str = ""
    interrupted: str = ""
    memory: MemoryAccount | None = None
    timeline: Timeline = field(default_factory=Timeline)
    output: OutputState | None = None
    _scope: trio.CancelScope | None = None
    _ended: trio.Event = field(default_factory=trio.Event)

    @property
    def running(self) -> bool:
        """Whether a call is at work on it, or another server that shares its store."""
        return self.running_here or (self.journal is not None and self.journal.held_elsewhere)

    @property
    def running_here(self) -> bool:
        """Whether a call of this server is at work on it."""
        return self._scope is not None

    @contextmanager
    def at_work(self) -> Generator[trio.CancelScope]:
        """Mark the block as the call that works on it.

        Yields:
            The scope to work in, which `stop` cancels; it may have done so before it is entered.

        Raises:
            InvalidArgument: Another call is at work on it.
        """
        if self.running_here:
            self.refuse_second_call()
        self._scope = trio.CancelScope()
        try:
            yield self._scope
        finally:
            self._scope = None
            self.last_used = trio.current_time()
            self._ended.set()
            self._ended = trio.Event()

    async def ended_or_more_than(self, done: float) -> None:
        """Wait until the call that works on it has ended, or more than so many items have."""

        def is_news(counts: Counts) -> bool:
            return counts.done > done

        if not self.running_here or is_news(self.batch.progress.value):
            await trio.lowlevel.checkpoint()
            return
        async with trio.open_nursery() as nursery:

            async def wait_for_end() -> None:
                await self._ended.wait()
                nursery.cancel_scope.cancel(reason="the work on the operation has ended")

            nursery.start_soon(wait_for_end)
            await self.batch.progress.wait_value(is_news)  # pyright: ignore[reportUnknownMemberType] - trio-util annotates it loosely
            nursery.cancel_scope.cancel(reason="there is news")

    @property
    def goes_on(self) -> bool:
        """Whether more of it is done without another call: it runs, or a start takes it up."""
        return self.running or (self.background and not self.batch.progress.value.complete)

    def note_output(self, output: OutputState | None) -> None:
        """Keep what is known of the file of outcomes, also in the record that is stored."""
        self.output = output
        if self.journal is not None:
            record = self.journal.record
            options = OutputState.store_in(json.loads(record.options), output)
            record.options = json.dumps(options).encode()

    def refuse_second_call(self) -> NoReturn:
        """Raise what a call is told that would work on it beside another one."""
        raise InvalidArgument(
            f"operation {self.operation_id!r} is running: read it with get_operation, stop it "
            "with cancel_operation, or use another operation_id",
            error_code="OPERATION_RUNNING",
        )

    def stop(self, *, for_good: bool = False) -> bool:
        """Let the call that works on it return what it has. False if none does.

        Args:
            for_good: Also of one in the background: no server takes it up again by itself.
        """
        if for_good:
            self.background = False
        if self._scope is None:
            return False
        self._scope.cancel(reason="the operation was stopped")
        return True


class OperationStore(Protocol):
    """Where operations are kept: in memory, or beyond the process.

    Whoever tells anybody what ended awaits `settled` first.
    """

    @property
    def trouble(self) -> str:
        """Why what ends is kept in memory only, though it should not be; empty if it is not."""
        ...

    def key(self) -> bytes | None:
        """Return the secret that signs cursors; None for one that lasts as long as the server."""
        ...

    async def open_key(self) -> None:
        """Have the secret at hand, if that takes longer than reading a small file."""
        ...

    async def count_use(self, use: Use) -> Counted | None:
        """Count what a client used, over all servers of the state; None where that is not done."""
        ...

    async def load_library(self) -> None:
        """Load the library of the database, so that the first operation need not wait for it."""
        ...

    async def write(self) -> None:
        """Write what has to be written, until cancelled."""
        ...

    def journal(
        self, operation_id: str, owner: str, tool: str, operation: Operation, request: object
    ) -> ItemJournal | None:
        """Return what hears from the batch of a new operation; None if nothing has to."""
        ...

    async def parked(self) -> list[StoredOperation]:
        """Return the background operations that nobody works on, oldest first."""
        ...

    async def recall(self, operation_id: str, owner: str) -> None:
        """Bring an operation into reach of `find` and `open`, if it is stored elsewhere."""
        ...

    async def begin(self, operation: StoredOperation) -> None:
        """Take an operation for this server, which is about to work on it.

        Raises:
            InvalidArgument: Another server works on it.
        """
        ...

    def end(self, operation: StoredOperation) -> None:
        """Let others work on an operation."""
        ...

    async def stop_elsewhere(self, operation: StoredOperation) -> bool:
        """Ask another server that works on an operation to stop it within seconds.

        What is parked is not taken up again. Returns whether there was anything to stop.
        """
        ...

    async def settled(self, operation: StoredOperation) -> None:
        """Wait until what ended so far is safe: it may be told then."""
        ...

    async def changed(self, operation: StoredOperation | None, seconds: float) -> None:
        """Wait until another server tells of a change, at most so long.

        Args:
            operation: Whose change; None for one that is parked to be taken up.
            seconds: Time after which the caller looks by itself.
        """
        ...

    def find(self, operation_id: str, owner: str) -> StoredOperation:
        """Return an operation of that owner, or raise `NotFound`."""
        ...

    def open(self, operation: StoredOperation) -> StoredOperation:
        """Keep a new operation, or return the one of that id if it is the same request."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Bytes that all operations in memory take, about."""
        ...

    def make_room(self, owner: str, most: int) -> None:
        """Drop what nobody works on until `most` bytes are kept, as far as `owner` may ask."""
        ...

    def reserve(self, owner: str, size: int) -> None:
        """Count `size` bytes more for an operation of that owner, or raise `InvalidArgument`."""
        ...

    def running(self) -> list[StoredOperation]:
        """Return the operations that calls are at work on, oldest first."""
        ...

    def operations(self) -> list[StoredOperation]:
        """Return the operations that are held in memory, the least recently used first."""
        ...

    async def names(self, owner: str) -> list[str]:
        """Return the ids of an owner's operations, wherever they are, the newest first."""
        ...


class MemoryStore:
    """Operations in memory, until they are old, too many or too large.

    An operation is dropped when nobody has used it for `ttl` seconds. When there are more than
    `capacity`, or all together take more than `max_bytes`, the owner who holds most makes room: of
    its operations the one unused for longest goes first. Running ones never go, nor does anything
    of an owner who holds less than the one who needs room; so nobody can push out the others.

    Attributes:
        when_dropped: Called with the bytes of each operation that was dropped.
    """

    def __init__(self, *, ttl: float, capacity: int, max_bytes: int) -> None:
        self._ttl = ttl
        self._capacity = capacity
        self._max_bytes = max_bytes
        # Invariant: `_bytes` is the sum of `work.size` over all that is kept.
        self._kept: dict[tuple[str, str], StoredOperation] = {}
        self._bytes = 0
        self.when_dropped: Callable[[int], None] = _nothing

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def trouble(self) -> str:
        """Empty: memory promises nothing beyond the process."""
        return ""

    def key(self) -> bytes | None:
        """Return None: cursors last as long as what they point into."""

    async def open_key(self) -> None:
        """Do nothing."""

    async def count_use(self, use: Use) -> Counted | None:
        """Return None: nothing is counted beyond the process."""
        del use

    async def load_library(self) -> None:
        """Do nothing."""

    async def write(self) -> None:
        """Do nothing."""

    def journal(
        self, operation_id: str, owner: str, tool: str, operation: Operation, request: object
    ) -> ItemJournal | None:
        """Return one that only knows the items; the batch keeps its outcomes itself."""
        del owner, tool, request
        if operation.takes_key or operation.at_most_once:
            return ItemJournal(operation_id)
        return None

    async def parked(self) -> list[StoredOperation]:
        """Return none: what is parked ends with the process."""
        return []

    async def recall(self, operation_id: str, owner: str) -> None:
        """Do nothing: all there is is in reach."""

    async def begin(self, operation: StoredOperation) -> None:
        """Do nothing: nobody else could work on it."""

    def end(self, operation: StoredOperation) -> None:
        """Do nothing."""

    async def stop_elsewhere(self, operation: StoredOperation) -> bool:
        """Return False: there is no other server."""
        del operation
        return False

    async def settled(self, operation: StoredOperation) -> None:
        """Do nothing: what ended is as safe as it gets."""

    async def changed(self, operation: StoredOperation | None, seconds: float) -> None:
        """Wait: there is no other server to tell anything."""
        del operation
        await trio.sleep(seconds)

    @property
    def kept_bytes(self) -> int:
        """Bytes that all kept operations take, about."""
        return self._bytes

    def find(self, operation_id: str, owner: str) -> StoredOperation:
        """Return an operation.

        Raises:
            NotFound: This owner has none of that id, or not any more.
        """
        self._drop_old()
        key = (owner, operation_id)
        if key not in self._kept:
            raise NotFound(
                f"there is no operation {operation_id!r}: it never was, or was last used more "
                f"than {self._ttl:g} s ago, or made room for others. Call the batch tool again to "
                "start anew.",
                error_code="UNKNOWN_OPERATION_ID",
            )
        return self._use(key)

    def open(self, operation: StoredOperation) -> StoredOperation:
        """Keep the operation, or return what is kept under its id.

        Raises:
            InvalidArgument: The id belongs to a call with other arguments, or the items take more
                than there is room for.
            ServerOverloaded: As many operations are running as can be kept.
        """
        self._drop_old()
        key = (operation.owner, operation.operation_id)
        kept = self._kept.get(key)
        if kept is None:
            self._keep(operation)
            return operation
        if kept.tool != operation.tool or not _same_request(kept.request, operation.request):
            raise InvalidArgument(
                f"operation_id {operation.operation_id!r} belongs to an earlier call with other "
                "arguments: repeat those to go on with it, or leave them out, or choose another id",
                error_code="OPERATION_MISMATCH",
            )
        return self._use(key)

    def reserve(self, owner: str, size: int) -> None:
        """Count `size` bytes more for an operation; idle ones make room if need be.

        Raises:
            InvalidArgument: There is no room. What is larger than all of it drops nothing.
        """
        if size > self._max_bytes:
            raise InvalidArgument(
                f"this takes about {size:,} bytes, and the server keeps {self._max_bytes:,} in "
                "all: ask for less of each item (max_bytes, max_rows), or for fewer items",
                error_code="RESULTS_TOO_LARGE",
                data={"max_kept_bytes": self._max_bytes},
            )
        while self._bytes + size > self._max_bytes:
            if not self._drop_idle(owner, _size):
                raise InvalidArgument(
                    f"running operations, and those of clients that keep less than this one, take "
                    f"all {self._max_bytes:,} bytes that this server keeps: ask for less of each "
                    "item (max_bytes, max_rows), or for fewer items",
                    error_code="RESULTS_TOO_LARGE",
                    data={"max_kept_bytes": self._max_bytes},
                )
        self._bytes += size

    def make_room(self, owner: str, most: int) -> None:
        """Drop what nobody works on until `most` bytes are kept, as far as `owner` may ask."""
        while self._bytes > most and self._drop_idle(owner, _size):
            pass

    def running(self) -> list[StoredOperation]:
        """Return the operations at work, oldest first."""
        return [kept for kept in self._kept.values() if kept.running_here]

    def _keep(self, operation: StoredOperation) -> None:
        while len(self._kept) >= self._capacity:
            if not self._drop_idle(operation.owner, _one):
                raise _too_many(self._capacity)
        self.reserve(operation.owner, operation.work.size)
        self._kept[operation.owner, operation.operation_id] = operation

    def operations(self) -> list[StoredOperation]:
        """Return all that is kept, the least recently used first."""
        return list(self._kept.values())

    async def names(self, owner: str) -> list[str]:
        """Return the ids of an owner's operations, the newest first."""
        self._drop_old()
        kept = sorted(self._kept.values(), key=lambda kept: kept.created, reverse=True)
        return [each.operation_id for each in kept if each.owner == owner]

    def _use(self, key: tuple[str, str]) -> StoredOperation:
        kept = self._kept[key]
        kept.last_used = trio.current_time()
        return kept

    def _drop_old(self) -> None:
        oldest = trio.current_time() - self._ttl
        for key, kept in list(self._kept.items()):
            if not kept.running_here and kept.last_used < oldest:
                self._drop(key)

    def _drop_idle(self, owner: str, weigh: Callable[[StoredOperation], int]) -> bool:
        """Make room for `owner`. False if only those are left that need not make any."""
        held = Counter({owner: 0})
        for kept in self._kept.values():
            held[kept.owner] += weigh(kept)
        idle = [
            (-held[kept.owner], kept.last_used, key)
            for key, kept in self._kept.items()
            if not kept.running_here and held[kept.owner] >= held[owner]
        ]
        if idle:
            self._drop(min(idle)[-1])
        return bool(idle)

    def _drop(self, key: tuple[str, str]) -> None:
        size = self._kept.pop(key).work.size
        self._bytes -= size
        self.when_dropped(size)


def _same_request(one: Any, other: Any) -> bool:
    """Whether two requests are the same JSON. One that was stored is read back as plain values."""
    if same_json(one) == same_json(other):
        return True
    plain = [same_json(json.loads(json_bytes(each, fallback=repr))) for each in (one, other)]
    return plain[0] == plain[1]


def _nothing(_: int) -> None:
    """Stand in for what hears of dropped operations."""


def _one(_: StoredOperation) -> int:
    return 1


def _size(kept: StoredOperation) -> int:
    return kept.work.size


def new_operation_id() -> str:
    """Return an id that nobody can guess (128 bits)."""
    return "op_" + secrets.token_urlsafe(16)


def _too_many(capacity: int) -> ServerOverloaded:
    return ServerOverloaded(
        f"of the {capacity} operations that this server keeps none may go, since they are running "
        "or of clients that keep fewer than this one: wait for one to end",
        data={"retry_after_seconds": 1.0},
    )
