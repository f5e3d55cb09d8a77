"""One operation that outlives its call, and the interface of a store of operations.

A `Batch` keeps its state outside of the scope that runs it. So keeping an operation is only
keeping its batch: nothing is copied or flushed when a call is cancelled. Results leave memory
when they are on the disk, and are loaded in parts.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import trio

from nursery_patterns import Batch, Counts, Outcome
from trio_tools.answers.errors import InvalidArgument, NotFound, ToolFailure
from trio_tools.operations.durable.journal import ItemJournal, OperationJournal
from trio_tools.operations.durable.location import StateTroubleError
from trio_tools.operations.durable.records import Counted, Part, Use
from trio_tools.operations.item_runner import ItemRunner
from trio_tools.operations.memory_budget import MemoryAccount
from trio_tools.operations.operation import Operation
from trio_tools.operations.output_state import OutputState
from trio_tools.operations.result import Piece, Result, chars_of
from trio_tools.operations.timeline import Timeline

CHUNK_BYTES = 2**20
"""Bytes of results that are read from the disk at a time."""


@dataclass(eq=False)
class StoredOperation:
    """One operation: a batch, its owner, and its lifetime.

    Attributes:
        operation_id: Its id; unguessable if the server made it.
        owner: The client that may see it.
        tool: The tool that was called.
        request: The request, to distinguish a resumed call from another one.
        work: The operation and its items.
        batch: The batch, with all finished outcomes.
        request_id: The call that runs it, or ran it last.
        deadline: When that call will answer, or had to answer; None before the first.
        journal: Receives its events, if they are stored beyond memory.
        background: Whether it runs by itself, without a call that waits for it.
        begun: Set when the background run has begun, or cannot begin.
        cannot_go_on: Why its missing items cannot be run any more; empty if they can.
        interrupted: Why its latest run ended early; empty if it did not, or if it timed out or
            was stopped on request.
        memory: The reservations of its items in flight.
        timeline: When its latest items started and ended.
        output: The file for its outcomes; None for no file. `note_output` changes it.
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
        """Whether a call, here or in another server of its store, runs it."""
        return self.running_here or (self.journal is not None and self.journal.held_elsewhere)

    @property
    def running_here(self) -> bool:
        """Whether a call of this server runs it."""
        return self._scope is not None

    @contextmanager
    def at_work(self) -> Generator[trio.CancelScope]:
        """Mark the block as the call that runs it.

        Yields:
            The scope to work in, which `stop` cancels, possibly before it is entered.

        Raises:
            InvalidArgument: Another call runs it.
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
        """Wait until the call that runs it has ended, or more than so many items have."""

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
        """Whether it continues without another call: it runs, or a server will resume it."""
        return self.running or (self.background and not self.batch.progress.value.complete)

    def note_output(self, output: OutputState | None) -> None:
        """Store the state of the output file, also in the stored record."""
        self.output = output
        if self.journal is not None:
            record = self.journal.record
            options = OutputState.store_in(json.loads(record.options), output)
            record.options = json.dumps(options).encode()

    async def read(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return parts of results. Waits only for those that are not in memory.

        Args:
            pieces: The parts to read. All of them are in memory at the same time.

        Raises:
            NotFound: A part is no longer on the disk.
            ToolFailure: The disk cannot be read.
        """
        here = [p.result.json[p.start : p.start + p.size] if p.result.json else b"" for p in pieces]
        missing = [(n, p) for n, p in enumerate(pieces) if p.result.json is None]
        if not missing:
            return here
        parts: list[Part] = []
        for _, (result, start, size) in missing:
            assert result.place is not None
            parts.append(Part(result.place, result.size, start, size))
        assert self.journal is not None
        try:
            found = await self.journal.read(parts)
        except StateTroubleError as error:
            raise ToolFailure(
                f"the results are on the disk, and {error}: call again when it can be read, with "
                f'get_operation(operation_id="{self.operation_id}")',
                error_code="STATE_UNREADABLE",
            ) from None
        for (number, _), data in zip(missing, found, strict=True):
            if data is None:
                raise NotFound(
                    f"a result of operation {self.operation_id!r} is not on the disk any more: the "
                    "operation was deleted, or made room for others. Call the batch tool again to "
                    "start anew.",
                    error_code="UNKNOWN_OPERATION_ID",
                )
            here[number] = data
        return here

    async def whole_results(self, outcomes: Sequence[Outcome[Any, Result]]) -> list[bytes | None]:
        """Return the JSON of results, and None for each item without one. See `read`."""
        found = await self.read([Piece.whole(o.value) for o in outcomes if o.value is not None])
        results = iter(found)
        return [None if o.value is None else next(results) for o in outcomes]

    async def chars_of(self, result: Result) -> int:
        """Return the characters of a large result. The first call may read all of it."""
        if result.chars is None:
            count = 0
            for start in range(0, result.size, CHUNK_BYTES):
                (data,) = await self.read([Piece(result, start, CHUNK_BYTES)])
                count += chars_of(data)
            result.chars = count
        return result.chars

    def stop_for_room(self) -> None:
        """Stop the call: its own results use the memory that its next item would need."""
        self.interrupted = (
            "its results take all the memory that this server keeps for them, so no further item "
            "was started. Read them with get_operation, and give what is missing to a new call, or "
            "ask for less of each item. The operator can set state.url to a file, or raise "
            "max_kept_bytes"
        )
        self.stop(for_good=True)

    def stop_for_disk(self) -> None:
        """Stop the call: what runs takes all that may be stored, and no idle operation is left."""
        self.interrupted = (
            "the operations of this client that run take all that the server stores "
            "(state.max_bytes), so no further item was started. Read its results, and only then "
            "give what is missing to a new call: the oldest results are deleted to make room for "
            "it. The operator can raise state.max_bytes"
        )
        self.stop(for_good=True)

    def refuse_second_call(self) -> NoReturn:
        """Raise the error for a second call that would run it at the same time."""
        raise InvalidArgument(
            f"operation {self.operation_id!r} is running: read it with get_operation, stop it "
            "with cancel_operation, or use another operation_id",
            error_code="OPERATION_RUNNING",
        )

    def stop(self, *, for_good: bool = False) -> bool:
        """Make the call that runs it return its results so far. False if no call runs it.

        Args:
            for_good: Also stop one in the background: no server resumes it by itself.
        """
        if for_good:
            self.background = False
        if self._scope is None:
            return False
        self._scope.cancel(reason="the operation was stopped")
        return True


class OperationStore(Protocol):
    """The store of operations: in memory, or beyond the process.

    Code that reports ended items to a caller must await `settled` first.
    """

    @property
    def trouble(self) -> str:
        """Why outcomes are kept in memory only, though they should be stored; empty if not so."""
        ...

    def key(self) -> bytes | None:
        """Return the secret that signs cursors; None for one that lives as long as the server."""
        ...

    async def open_key(self) -> None:
        """Load the secret, if that takes longer than reading a small file."""
        ...

    async def count_use(self, use: Use) -> Counted | None:
        """Count the use of a client over all servers of the state; None if that is not done."""
        ...

    async def forget_unused(self) -> None:
        """Drop operations from memory that are on the disk and unused, until cancelled."""
        ...

    async def load_library(self) -> None:
        """Load the library of the database, so that the first operation need not wait for it."""
        ...

    async def write(self) -> None:
        """Write changes until cancelled."""
        ...

    def journal(
        self, operation_id: str, owner: str, tool: str, operation: Operation, request: object
    ) -> ItemJournal | None:
        """Return the journal for the batch of a new operation; None if it needs none."""
        ...

    async def parked(self) -> list[StoredOperation]:
        """Return the background operations that no server runs, oldest first."""
        ...

    async def recall(self, operation_id: str, owner: str) -> None:
        """Load an operation, so that `find` and `open` see it, if it is stored elsewhere."""
        ...

    async def begin(self, operation: StoredOperation) -> None:
        """Claim an operation for this server, which is about to run it.

        Raises:
            InvalidArgument: Another server runs it.
        """
        ...

    def end(self, operation: StoredOperation) -> None:
        """Release an operation, so that other servers may run it."""
        ...

    async def stop_elsewhere(self, operation: StoredOperation) -> bool:
        """Ask another server that runs an operation to stop it within seconds.

        An interrupted operation is not resumed. Returns whether there was anything to stop.
        """
        ...

    async def settled(self, operation: StoredOperation, *, patient: bool = False) -> None:
        """Wait until all ended items are safe, so that they may be reported.

        Args:
            operation: The operation whose outcomes will be reported.
            patient: Whether they may wait some milliseconds to be written with others.
        """
        ...

    async def changed(self, operation: StoredOperation | None, seconds: float) -> None:
        """Wait until another server reports a change, at most so long.

        Args:
            operation: The operation that changes; None for any that waits to be resumed.
            seconds: Time after which the caller checks by itself.
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
        """Approximate bytes of all operations in memory."""
        ...

    def make_room(self, owner: str, most: int) -> None:
        """Drop idle operations until `most` bytes are kept, as far as `owner` may cause it."""
        ...

    def reserve(self, owner: str, size: int) -> None:
        """Count `size` further bytes for items of that owner, or raise `InvalidArgument`."""
        ...

    def count(self, owner: str, size: int) -> None:
        """Count `size` further bytes for a finished result of that owner; it is always kept."""
        ...

    def let_go(self, most: int) -> None:
        """Drop results that are on the disk from memory, until `most` bytes are kept."""
        ...

    def running(self) -> list[StoredOperation]:
        """Return the operations that calls run, oldest first."""
        ...

    def operations(self) -> list[StoredOperation]:
        """Return the operations in memory, least recently used first."""
        ...

    async def names(self, owner: str) -> list[str]:
        """Return the ids of an owner's operations, in memory and elsewhere, newest first."""
        ...
