"""One memory limit for all items in flight and all kept results of a server.

While the limit is reached, an item waits before it starts. Its size is unknown before it ends, so
it reserves the size of the latest results of its operation, and releases that when it ends: from
then on the store counts its result. A finished result is never dropped for an item of the same
operation. So there are three cases when nothing is in flight and the next item does not fit:

* Results are being written to the disk. The item waits; memory drops them when they are written.
* The results of its own operation cannot leave memory, and its own would not fit beside them. The
  call stops with all finished results.
* Neither. The item runs alone, with any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import trio

from nursery_patterns import Journal, Outcome
from trio_tools.operations.durable.journal import ItemJournal

COPIES: Final = 3
"""Number of copies of a result while its item runs: body, text and JSON."""

UNKNOWN_BYTES: Final = 2**20
"""Assumed size of a result in bytes before any item of its operation has ended."""

_LEAST_BYTES = 4_096
# From this size on, the C library may keep freed memory for itself.
_LARGE_BYTES = 65_536
# Rate at which an estimate falls when results get smaller. It rises at once.
_FALL = 1 / 8


def _nothing(_: int) -> None:
    """Do nothing: the default for the callback about freed memory."""


@dataclass(frozen=True)
class MemoryStatistics:
    """The current use of a budget.

    Attributes:
        max_bytes: The limit.
        kept_bytes: Bytes of kept items, results and failures.
        reserved_bytes: Bytes that items in flight, and those that start next, have reserved.
        reserved_items: Number of these items.
        waiting: Number of batches whose next item waits for memory.
        waits: Number of items that had to wait so far.
    """

    max_bytes: int
    kept_bytes: int
    reserved_bytes: int
    reserved_items: int
    waiting: int
    waits: int


class MemoryBudget:
    """The memory that items in flight and kept results use together.

    The batch that has waited longest of the next owner starts its item; owners take turns.

    Args:
        max_bytes: The limit.
        max_kept: The part of it that kept results may use.
        kept: Returns the bytes of kept results.
        let_go: Called with a number of bytes: drops results that are on the disk from memory
            until at most that many are kept. Nothing is lost.
        make_room: Called with an owner and a number of bytes: drops idle operations until at most
            that many bytes are kept, as far as that owner may cause it.
        will_let_go: Returns whether results are being written to the disk.

    Attributes:
        given_back: Called with the bytes of large values that were freed.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        kept: Callable[[], int],
        make_room: Callable[[str, int], None],
        max_kept: int | None = None,
        let_go: Callable[[int], None] = _nothing,
        will_let_go: Callable[[], bool] = lambda: False,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_kept = max_bytes if max_kept is None else max_kept
        self._kept = kept
        self._make_room = make_room
        self._let_go = let_go
        self._will_let_go = will_let_go
        self.given_back: Callable[[int], None] = _nothing
        # Invariant: these are the sum and the number of the reservations of all accounts.
        self._bytes = 0
        self._items = 0
        self._waits = 0
        # Waiting accounts by owner; the owner who is next comes first, and none is empty.
        self._waiting: OrderedDict[str, OrderedDict[MemoryAccount, trio.Event]] = OrderedDict()
        self._latest: dict[str, float] = {}  # size of the latest results in bytes, by operation

    def statistics(self) -> MemoryStatistics:
        """Return the current use of the budget."""
        waiting = sum(map(len, self._waiting.values()))
        return MemoryStatistics(
            self._max_bytes, self._kept(), self._bytes, self._items, waiting, self._waits
        )

    def is_waiting(self, account: MemoryAccount) -> bool:
        """Whether the next item of an account waits for memory."""
        return account in self._waiting.get(account.owner, ())

    def size_of_next(self, operation: str) -> int:
        """Return the bytes that the next item of an operation reserves."""
        return COPIES * max(_LEAST_BYTES, int(self._latest.get(operation, UNKNOWN_BYTES)))

    def learn(self, operation: str, size: int) -> None:
        """Record the size of a result of an operation."""
        known = self._latest.get(operation, 0)
        self._latest[operation] = size if size > known else known - (known - size) * _FALL
        if size >= _LARGE_BYTES:
            self.given_back(size * (COPIES - 1))

    def learn_of_failure(self, operation: str) -> None:
        """Record that an item failed, which does not change the estimate of results."""
        self._latest.setdefault(operation, 0.0)

    def take_nowait(self, account: MemoryAccount) -> bool:
        """Reserve for the next item of an account if it fits and no account waits."""
        return not self._waiting and self._take(account)

    async def take(self, account: MemoryAccount) -> None:
        """Wait until the next item of an account fits, and reserve its memory.

        A cancel ends the wait, reserves nothing and delays no other account.
        """
        if self.take_nowait(account):
            await trio.lowlevel.checkpoint()
            return
        self._waits += 1
        event = trio.Event()
        self._waiting.setdefault(account.owner, OrderedDict())[account] = event
        try:
            await event.wait()
        finally:
            self._leave(account)
            self.serve()

    def release(self, size: int) -> None:
        """Release the reservation of an item."""
        self._bytes -= size
        self._items -= 1
        self.serve()

    def serve(self) -> None:
        """Start waiting items that fit now; called whenever memory is released."""
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            account, event = next(iter(queue.items()))
            if not self._take(account):
                return
            self._leave(account)
            if owner in self._waiting:
                self._waiting.move_to_end(owner)
            event.set()

    def _take(self, account: MemoryAccount) -> bool:
        size = self.size_of_next(account.operation)
        if not (self._has_room(size) or self._found_room(account, size)):
            return False
        self._bytes += size
        self._items += 1
        account.reserved_next = size
        return True

    def _has_room(self, size: int) -> bool:
        kept, reserved = self._kept(), self._bytes + size
        return kept <= min(self._max_bytes - reserved, self._max_kept - reserved // COPIES)

    def _found_room(self, account: MemoryAccount, size: int) -> bool:
        """Free memory for an item of that size; or let it run alone, or stop its call."""
        reserved = self._bytes + size
        self._let_go(max(0, min(self._max_bytes - reserved, self._max_kept - reserved // COPIES)))
        if self._has_room(size):
            return True
        least = min(self._max_bytes - size, self._max_kept - size // COPIES)
        if self._kept() > least:  # the end of all items in flight would not be enough
            self._make_room(account.owner, max(0, least))
        if self._has_room(size):
            return True
        if self._items or self._will_let_go():
            return False
        if account.keeps_results and self._kept() > self._max_kept - size // COPIES:
            if account.when_full is not None:
                account.when_full()
            return False
        return True

    def _leave(self, account: MemoryAccount) -> None:
        queue = self._waiting.get(account.owner)
        if queue is not None:
            queue.pop(account, None)
            if not queue:
                del self._waiting[account.owner]


class MemoryAccount(Journal[Any, Any]):
    """The reservations of the items of one batch; the batch waits for it as for its journal.

    Args:
        budget: The budget of all batches.
        owner: The client of the batch.
        operation: The name of the operation.
        journal: Receives the events of the batch, and has its outcomes; None for no journal.
        leaves_memory: Whether results are written to a disk, so that memory can drop them.

    Attributes:
        reserved_next: Bytes for an item that has not started; 0 for none.
        keeps_results: Whether it has results that cannot leave memory.
        when_full: Called, possibly more than once, while these results leave no memory for the
            next item. It must end the wait, which would never end otherwise. None while no call
            runs.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        owner: str,
        operation: str,
        journal: Journal[Any, Any] | None,
        *,
        leaves_memory: bool = False,
    ) -> None:
        self._budget = budget
        self._journal = journal or ItemJournal("")
        self._reserved: dict[int, int] = {}  # by item index
        self._stays = not leaves_memory
        self.owner = owner
        self.operation = operation
        self.reserved_next = 0
        self.keeps_results = self._stays and any(self.outcomes())
        self.when_full: Callable[[], None] | None = None

    @property
    def waits(self) -> bool:
        """Whether the next item waits for memory."""
        return self._budget.is_waiting(self)

    def outcomes(self) -> Iterable[Outcome[Any, Any]]:
        """Return the outcomes of the journal."""
        return self._journal.outcomes()

    def behind(self) -> bool:
        """Whether the next item must wait; if not, its memory is reserved."""
        if self._journal.behind():
            return True
        return not self.reserved_next and not self._budget.take_nowait(self)

    async def ready(self) -> None:
        """Wait for the journal, and for memory for the next item."""
        if self._journal.behind():
            await self._journal.ready()
        if not self.reserved_next:
            await self._budget.take(self)

    def added(self, item: Any) -> None:
        """Tell the journal of an item that is added to a frontier."""
        self._journal.added(item)

    def started(self, index: int, item: Any) -> None:
        """Assign the reservation for the next item to this item."""
        self._journal.started(index, item)
        self._reserved[index], self.reserved_next = self.reserved_next, 0

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Release the reservation of the item, and update the estimate of its operation."""
        if outcome.value is not None:
            self._budget.learn(self.operation, outcome.value.size)
        else:
            self._budget.learn_of_failure(self.operation)
        self.keeps_results = self._stays
        self._journal.ended(outcome)  # first, so that it may be written to the disk now
        self._release(outcome.index)

    def cut(self, index: int, item: Any) -> None:
        """Release the reservation of the item."""
        self._release(index)
        self._journal.cut(index, item)

    def rest(self) -> None:
        """Release the reservation for an item that did not start, since the run has ended."""
        if self.reserved_next:
            size, self.reserved_next = self.reserved_next, 0
            self._budget.release(size)

    def _release(self, index: int) -> None:
        size = self._reserved.pop(index, 0)
        if size:  # 0 if an item started without one, as in a batch with per-key limits
            self._budget.release(size)
