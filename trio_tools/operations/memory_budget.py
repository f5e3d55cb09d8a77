"""One budget of memory for all items in flight and all kept results of a server.

An item waits before it starts while the budget is used. What it will take is not known before it
ends, so it reserves what the latest items of its operation took, and gives that back when it ends:
its result is counted by the store from then on. A finished result is never dropped to make room for
an item of the same operation. So when nothing is in flight and the next item has no room:

* results are on their way to the disk: it waits, and memory lets go of them when they are there;
* the results of its own operation cannot leave memory, and its own would not fit beside them: its
  call stops, with all that finished;
* neither: it runs alone, whatever it takes.
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
"""How often a result is in memory while its item runs: as a body, as a text, as JSON."""

UNKNOWN_BYTES: Final = 2**20
"""What a result is taken for before any item of its operation has ended, in bytes."""

_LEAST_BYTES = 4_096
# From here on the C library may keep what is freed for itself.
_LARGE_BYTES = 65_536
# How fast an estimate falls when results get smaller. It rises at once.
_FALL = 1 / 8


def _nothing(_: int) -> None:
    """Stand in for what hears of freed memory."""


@dataclass(frozen=True)
class MemoryStatistics:
    """How a budget is used.

    Attributes:
        max_bytes: All of it.
        kept_bytes: What kept items, results and failures take.
        reserved_bytes: What items in flight, and those that start next, have reserved.
        reserved_items: How many these are.
        waiting: Batches whose next item waits for memory.
        waits: How often an item had to wait so far.
    """

    max_bytes: int
    kept_bytes: int
    reserved_bytes: int
    reserved_items: int
    waiting: int
    waits: int


class MemoryBudget:
    """Bytes that items in flight and kept results take together.

    The next to start is the one that waits longest of the owner whose turn it is; the turn goes
    round.

    Args:
        max_bytes: All of the budget.
        max_kept: Of these, what kept results may take.
        kept: Returns the bytes that kept results take.
        let_go: Called with a number of bytes: drops results from memory that are on the disk until
            no more than that is kept. Nothing is lost by it.
        make_room: Called with an owner and a number of bytes: drops what nobody works on until no
            more than that is kept, as far as that owner may ask for it.
        will_let_go: Returns whether results are on their way to the disk.

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
        # Invariant: these are the sum, and the number, of what all accounts have reserved.
        self._bytes = 0
        self._items = 0
        self._waits = 0
        # Accounts that wait, by owner; the owner whose turn is next comes first, none is empty.
        self._waiting: OrderedDict[str, OrderedDict[MemoryAccount, trio.Event]] = OrderedDict()
        self._latest: dict[str, float] = {}  # bytes of the latest results, by operation

    def statistics(self) -> MemoryStatistics:
        """Return how the budget is used now."""
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
        """Take note of the size of a result of an operation."""
        known = self._latest.get(operation, 0)
        self._latest[operation] = size if size > known else known - (known - size) * _FALL
        if size >= _LARGE_BYTES:
            self.given_back(size * (COPIES - 1))

    def learn_of_failure(self, operation: str) -> None:
        """Take note that an item failed, which tells nothing of what results take."""
        self._latest.setdefault(operation, 0.0)

    def take_nowait(self, account: MemoryAccount) -> bool:
        """Reserve for the next item of an account if there is room and nobody waits for it."""
        return not self._waiting and self._take(account)

    async def take(self, account: MemoryAccount) -> None:
        """Wait for room for the next item of an account, and reserve it.

        A cancel ends the wait, reserves nothing and delays nobody.
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
        """Give back what an item had reserved."""
        self._bytes -= size
        self._items -= 1
        self.serve()

    def serve(self) -> None:
        """Let those start that wait and have room now; called whenever less is held."""
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
        """Have others make room for an item of that size; or let it run alone, or stop its call."""
        reserved = self._bytes + size
        self._let_go(max(0, min(self._max_bytes - reserved, self._max_kept - reserved // COPIES)))
        if self._has_room(size):
            return True
        least = min(self._max_bytes - size, self._max_kept - size // COPIES)
        if self._kept() > least:  # when all that is in flight has ended, it would not be enough
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
    """What the items of one batch have reserved; the batch waits for it as for its journal.

    Args:
        budget: Of all batches.
        owner: The client whose batch it is.
        operation: Names the operation.
        journal: Hears all that the batch tells, and has its outcomes; None for none.
        leaves_memory: Whether results go to a disk, so that memory can let go of them.

    Attributes:
        reserved_next: Bytes for an item that has not started; 0 for none.
        keeps_results: Whether it has results that cannot leave memory.
        when_full: Called, perhaps more than once, while these leave no room for the next item.
            It has to end the wait for it, which would be one for ever. None while no call works.
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
        self._reserved: dict[int, int] = {}  # by the index of the item
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
        """Return those of the journal."""
        return self._journal.outcomes()

    def behind(self) -> bool:
        """Whether the next item has to wait; if it has not, memory is reserved for it."""
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
        """Note which item has what was reserved for the next one."""
        self._journal.started(index, item)
        self._reserved[index], self.reserved_next = self.reserved_next, 0

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """Give back what the item had reserved, and learn what items of its operation take."""
        if outcome.value is not None:
            self._budget.learn(self.operation, outcome.value.size)
        else:
            self._budget.learn_of_failure(self.operation)
        self.keeps_results = self._stays
        self._journal.ended(outcome)  # first: it may be on its way to the disk now
        self._release(outcome.index)

    def cut(self, index: int, item: Any) -> None:
        """Give back what the item had reserved."""
        self._release(index)
        self._journal.cut(index, item)

    def rest(self) -> None:
        """Give back what was reserved for an item that did not start: the run has ended."""
        if self.reserved_next:
            size, self.reserved_next = self.reserved_next, 0
            self._budget.release(size)

    def _release(self, index: int) -> None:
        size = self._reserved.pop(index, 0)
        if size:  # none if an item started without, as of a batch with limits for each key
            self._budget.release(size)
