"""`MemoryStore`: operations that outlive their calls, within a memory limit.

Finished results stay readable, and missing ones can be added.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import trio

from trio_tools.answers.errors import InvalidArgument, NotFound, ServerOverloaded
from trio_tools.answers.json_values import json_bytes
from trio_tools.operations.durable.journal import ItemJournal
from trio_tools.operations.durable.records import Counted, Use
from trio_tools.operations.item_runner import same_json
from trio_tools.operations.operation import Operation
from trio_tools.operations.stored_operation import StoredOperation

_ID_DIGITS: Final = 24


class MemoryStore:
    """Operations in memory, until they are too old, too many or too large.

    An operation is dropped when it was unused for `ttl` seconds. When there are more than
    `capacity`, or all together use more than `max_bytes`, the least recently used operation of
    the owner with the most bytes is dropped. Running operations are never dropped. An owner who
    uses less than the requester never loses an operation, so no client can evict the others.

    Items that do not fit are refused. Results are not, because they are finished. So items wait
    before they start, and `MemoryBudget` bounds by how much results exceed `max_bytes`.

    Attributes:
        when_dropped: Called with the bytes of each dropped operation.
        when_let_go: Called with the bytes of results that are on the disk only from now on.
        when_safe: Called when further results may be dropped from memory.
    """

    def __init__(self, *, ttl: float, capacity: int, max_bytes: int) -> None:
        self._ttl = ttl
        self._capacity = capacity
        self._max_bytes = max_bytes
        # Invariant: `_bytes` is the sum of `work.size` of all kept operations.
        self._kept: dict[tuple[str, str], StoredOperation] = {}
        self._bytes = 0
        self.when_dropped: Callable[[int], None] = _nothing
        self.when_let_go: Callable[[int], None] = _nothing
        self.when_safe: Callable[[], None] = _do_nothing

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def trouble(self) -> str:
        """Empty: a store in memory has no errors."""
        return ""

    def key(self) -> bytes | None:
        """Return None: cursors live as long as the operations."""

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
        """Return none: interrupted operations end with the process."""
        return []

    async def recall(self, operation_id: str, owner: str) -> None:
        """Do nothing: everything is in memory."""

    async def begin(self, operation: StoredOperation) -> None:
        """Do nothing: there is no other server."""

    def end(self, operation: StoredOperation) -> None:
        """Do nothing."""

    async def stop_elsewhere(self, operation: StoredOperation) -> bool:
        """Return False: there is no other server."""
        del operation
        return False

    async def settled(self, operation: StoredOperation, *, patient: bool = False) -> None:
        """Do nothing: outcomes are as safe as they get."""

    async def changed(self, operation: StoredOperation | None, seconds: float) -> None:
        """Wait: no other server can report a change."""
        del operation
        await trio.sleep(seconds)

    @property
    def will_let_go(self) -> bool:
        """Whether results are being written to a disk, after which memory can drop them."""
        return False

    @property
    def kept_bytes(self) -> int:
        """Approximate bytes of all kept operations."""
        return self._bytes

    def find(self, operation_id: str, owner: str) -> StoredOperation:
        """Return an operation.

        Raises:
            NotFound: This owner has no operation of that id, or no longer has it.
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
        """Keep the operation, or return the one that is kept under its id.

        Raises:
            InvalidArgument: The id belongs to a call with other arguments, or the items do not
                fit into the memory limit.
            ServerOverloaded: The limit of kept operations is reached by running ones.
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
        """Count `size` further bytes for items; idle operations are dropped if necessary.

        Raises:
            InvalidArgument: They do not fit. Items larger than the whole limit drop nothing.
        """
        if size > self._max_bytes:
            raise InvalidArgument(
                f"this takes about {size:,} bytes, and the server keeps {self._max_bytes:,} in "
                "all: give fewer items, or smaller ones",
                error_code="RESULTS_TOO_LARGE",
                data={"max_kept_bytes": self._max_bytes},
            )
        self.let_go(self._max_bytes - size)
        while self._bytes + size > self._max_bytes:
            if not self._drop_idle(owner, _size):
                raise InvalidArgument(
                    f"running operations, and those of clients that keep less than this one, take "
                    f"all {self._max_bytes:,} bytes that this server keeps: give fewer items, or "
                    "smaller ones, or call again later",
                    error_code="RESULTS_TOO_LARGE",
                    data={"max_kept_bytes": self._max_bytes},
                )
        self._bytes += size

    def count(self, owner: str, size: int) -> None:
        """Count a result of `size` bytes; idle operations are dropped for it if allowed."""
        self._bytes += size
        if self._bytes > self._max_bytes:
            self.make_room(owner, self._max_bytes)

    def let_go(self, most: int) -> None:
        """Do nothing: results are only in memory."""

    async def forget_unused(self) -> None:
        """Do nothing: operations are only in memory."""

    def make_room(self, owner: str, most: int) -> None:
        """Drop idle operations until `most` bytes are kept, as far as `owner` may cause it."""
        self.let_go(most)
        while self._bytes > most and self._drop_idle(owner, _size):
            pass

    def running(self) -> list[StoredOperation]:
        """Return the running operations, oldest first."""
        return [kept for kept in self._kept.values() if kept.running_here]

    def _keep(self, operation: StoredOperation) -> None:
        while len(self._kept) >= self._capacity:
            if not self._drop_idle(operation.owner, _one):
                raise _too_many(self._capacity)
        self.reserve(operation.owner, operation.work.size)
        self._kept[operation.owner, operation.operation_id] = operation

    def operations(self) -> list[StoredOperation]:
        """Return all kept operations, least recently used first."""
        return list(self._kept.values())

    async def names(self, owner: str) -> list[str]:
        """Return the ids of an owner's operations, newest first."""
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
        """Drop an operation for `owner`. False if no operation may be dropped for it."""
        held = Counter({owner: 0})
        for kept in self._kept.values():
            held[kept.owner] += weigh(kept)
        idle = [
            (self._is_only_here(kept), -held[kept.owner], kept.last_used, key)
            for key, kept in self._kept.items()
            if not kept.running_here and held[kept.owner] >= held[owner]
        ]
        if idle:
            self._drop(min(idle)[-1])
        return bool(idle)

    def _is_only_here(self, kept: StoredOperation) -> bool:
        """Whether an operation should be on the disk, and is not; it is dropped last."""
        del kept
        return False

    def _drop(self, key: tuple[str, str]) -> None:
        size = self._kept.pop(key).work.size
        self._bytes -= size
        self.when_dropped(size)


def _same_request(one: Any, other: Any) -> bool:
    """Whether two requests are the same JSON. A stored request is read as plain values."""
    if same_json(one) == same_json(other):
        return True
    plain = [same_json(json.loads(json_bytes(each, fallback=repr))) for each in (one, other)]
    return plain[0] == plain[1]


def _nothing(_: int) -> None:
    """Do nothing: the default for the callback about dropped operations."""


def _do_nothing() -> None:
    """Do nothing: the default for the callback about results on the disk."""


def _one(_: StoredOperation) -> int:
    return 1


def _size(kept: StoredOperation) -> int:
    return kept.work.size


def new_operation_id() -> str:
    """Return an id that cannot be guessed: 80 bits, as digits, which cost a model few tokens."""
    return f"op_{secrets.randbelow(10**_ID_DIGITS):0{_ID_DIGITS}}"


def _too_many(capacity: int) -> ServerOverloaded:
    return ServerOverloaded(
        f"of the {capacity} operations that this server keeps none may go, since they are running "
        "or of clients that keep fewer than this one: wait for one to end",
        data={"retry_after_seconds": 1.0},
    )
