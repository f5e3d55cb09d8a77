"""Operations that outlive their calls: what finished stays readable, what is missing can be done.

A `Batch` keeps its books outside of whatever scope runs it. So keeping an operation is no more
than keeping its batch; nothing is copied, flushed or rescued when a call is cancelled.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from nursery_patterns import Batch
from trio_tools.errors import InvalidArgument, NotFound, ServerOverloaded


@dataclass(eq=False)
class StoredOperation:
    """One operation: a batch, whose it is, and how long it is kept.

    Attributes:
        operation_id: Names it; unguessable if the server made it.
        owner: The client that may see it.
        tool: The tool that was called.
        request: What was asked, to tell a resumed call from another one.
        batch: The work, with everything that finished.
        describe: How an item of it is named in reports.
    """

    operation_id: str
    owner: str
    tool: str
    request: Any
    batch: Batch[Any, Any]
    describe: Any
    created: float = field(default_factory=trio.current_time)
    last_used: float = field(default_factory=trio.current_time)
    deadline: float | None = None
    _scope: trio.CancelScope | None = None

    @property
    def running(self) -> bool:
        """Whether a call is at work on it."""
        return self._scope is not None

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Mark the block as the call that works on it; `stop` cuts the block short.

        Raises:
            InvalidArgument: Another call is at work on it.
        """
        if self.running:
            raise InvalidArgument(
                f"operation {self.operation_id!r} is running: read it with get_operation, stop it "
                "with cancel_operation, or use another operation_id",
                error_code="OPERATION_RUNNING",
            )
        try:
            with trio.CancelScope() as self._scope:
                self.deadline = trio.current_effective_deadline()
                yield
        finally:
            self._scope = None
            self.last_used = trio.current_time()

    def stop(self) -> bool:
        """Let the call that works on it return what it has. False if none does."""
        if self._scope is None:
            return False
        self._scope.cancel(reason="the operation was stopped")
        return True


class OperationStore(Protocol):
    """Where operations are kept. A durable one implements the same."""

    def find(self, operation_id: str, owner: str) -> StoredOperation:
        """Return an operation of that owner, or raise `NotFound`."""
        ...

    def open(self, operation: StoredOperation) -> StoredOperation:
        """Keep a new operation, or return the one of that id if it is the same request."""
        ...

    def running(self) -> list[StoredOperation]:
        """Return the operations that calls are at work on, oldest first."""
        ...


class MemoryStore:
    """Operations in memory, until they are old or too many.

    An operation is dropped when nobody has used it for `ttl` seconds. When there are more than
    `capacity`, those unused for longest go first; running ones never do.
    """

    def __init__(self, *, ttl: float, capacity: int) -> None:
        self._ttl = ttl
        self._capacity = capacity
        self._kept: dict[tuple[str, str], StoredOperation] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, operation_id: str, owner: str) -> StoredOperation:
        """Return an operation.

        Raises:
            NotFound: This owner has none of that id, or not any more.
        """
        self._drop_old()
        found = self._kept.get((owner, operation_id))
        if found is None:
            raise NotFound(
                f"there is no operation {operation_id!r}: it never was, or was last used more "
                f"than {self._ttl:g} s ago. Call the batch tool again to start anew.",
                error_code="UNKNOWN_OPERATION",
            )
        found.last_used = trio.current_time()
        return found

    def open(self, operation: StoredOperation) -> StoredOperation:
        """Keep the operation, or return what is kept under its id.

        Raises:
            InvalidArgument: The id belongs to a call with other arguments.
            ServerOverloaded: As many operations are running as can be kept.
        """
        self._drop_old()
        key = (operation.owner, operation.operation_id)
        kept = self._kept.get(key)
        if kept is None:
            self._make_room()
            self._kept[key] = operation
            return operation
        if (kept.tool, kept.request) != (operation.tool, operation.request):
            raise InvalidArgument(
                f"operation_id {operation.operation_id!r} belongs to an earlier call with other "
                "arguments: repeat those to go on with it, or choose another id",
                error_code="OPERATION_MISMATCH",
            )
        return kept

    def running(self) -> list[StoredOperation]:
        """Return the operations at work, oldest first."""
        return [kept for kept in self._kept.values() if kept.running]

    def _drop_old(self) -> None:
        oldest = trio.current_time() - self._ttl
        for key, kept in list(self._kept.items()):
            if not kept.running and kept.last_used < oldest:
                del self._kept[key]

    def _make_room(self) -> None:
        idle = [(kept.last_used, key) for key, kept in self._kept.items() if not kept.running]
        while len(self._kept) >= self._capacity:
            if not idle:
                raise ServerOverloaded(
                    f"{self._capacity} operations are running, as many as this server keeps: "
                    "wait for one to end",
                    data={"retry_after_seconds": 1.0},
                )
            oldest = min(idle)
            idle.remove(oldest)
            del self._kept[oldest[1]]


def new_operation_id() -> str:
    """Return an id that nobody can guess (128 bits)."""
    return "op_" + secrets.token_urlsafe(16)
