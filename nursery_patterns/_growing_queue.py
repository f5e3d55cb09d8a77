"""The queue of a `Frontier`: its waiting items, and the keys of all that were added."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any, Final, Generic, TypeVar, final

import trio

from nursery_patterns._errors import FrontierFull

ItemT = TypeVar("ItemT")

RESTORE: Final = "Frontier.restore([(first, 0), (other, None)], key=..., max_items=1000)"
"""A call that goes on from an earlier process, for messages."""

_RANKED = "write Frontier(items, priority=...) with a function such as lambda item: item.depth"


@final
class GrowingQueue(Generic[ItemT]):
    """The waiting items of a frontier, all keys added so far, and the number of running items."""

    def __init__(
        self,
        key: Callable[[ItemT], Hashable] | None,
        priority: Callable[[ItemT], float] | None,
        max_items: int,
    ) -> None:
        self._key = key
        self._priority = priority
        self._max_items = max_items
        self._numbers = count()
        self._arrivals = trio.lowlevel.ParkingLot()
        self.seen: set[Hashable] = set()
        # Items that were pulled in an earlier process, by index.
        self.pulled_before: dict[int, ItemT] = {}
        self._is_restored = False
        self._is_taken = False
        self._on_added: Callable[[ItemT], object] | None = None
        self.waiting: list[tuple[float, int, ItemT]] = []  # a heap
        self.open: int = 0  # running items, which may still add others
        self.running: bool = False
        self.closed: bool = False

    def take(self) -> None:
        """Belong to a batch from now on.

        Raises:
            ValueError: It belongs to one already.
        """
        if self._is_taken:
            raise ValueError(
                "this frontier is the source of another batch, which takes its items: make a "
                "Frontier for each batch, or run that batch again to resume it"
            )
        self._is_taken = True

    def tell(self, on_added: Callable[[ItemT], object]) -> None:
        """Call a function with the first items, and with each item just before it is added."""
        self._on_added = on_added
        if not self._is_restored:
            for _, _, item in sorted(self.waiting, key=lambda entry: entry[1]):
                on_added(item)

    def add(self, item: ItemT) -> bool:
        """Add an item, unless its key was seen; return whether it was added."""
        entry = self._entry(item)
        if entry is None:
            return False
        if self._on_added is not None:
            self._on_added(item)
        self._push(entry)
        return True

    def restore(self, entries: Iterable[tuple[ItemT, int | None]]) -> None:
        """Add the items of an earlier process, and take those that were pulled in it."""
        self._is_restored = True
        for item, index in map(_checked_entry, entries):
            entry = self._entry(item)
            if entry is None:
                continue
            if index is None:
                self._push(entry)
                continue
            if index in self.pulled_before:
                raise ValueError(
                    f"{self.pulled_before[index]!r} and {item!r} both have the index {index}: "
                    "restore each item with the index under which it started"
                )
            self.seen.add(entry[-1])
            self.pulled_before[index] = item
        for index in range(max(self.pulled_before, default=0)):
            if index in self.pulled_before:
                continue
            # The item with this index was pulled, and had not started.
            if not self.waiting:
                raise ValueError(
                    f"an item with a higher index than {index} was started, and no item is left "
                    f"for {index}: restore every item that was added, also those that wait"
                )
            self.pulled_before[index] = self.pull()

    def _entry(self, item: ItemT) -> tuple[float, int, ItemT, Hashable] | None:
        """Return what is put into the heap, and the key; None if the key was seen."""
        key: Hashable = item if self._key is None else self._key(item)
        try:
            if key in self.seen:
                return None
        except TypeError as error:
            raise TypeError(
                f"the key {key!r} of an item cannot be hashed: write Frontier(items, key=...) with "
                "a function that returns a text, a number or a tuple of them"
            ) from error
        if len(self.seen) >= self._max_items:
            raise FrontierFull(
                f"cannot add {item!r}: {self._max_items} items were added, which is max_items; "
                f"write Frontier(items, max_items={2 * self._max_items}), or add fewer"
            )
        return self._rank(item), next(self._numbers), item, key

    def _push(self, entry: tuple[float, int, ItemT, Hashable]) -> None:
        rank, number, item, key = entry
        self.seen.add(key)
        heapq.heappush(self.waiting, (rank, number, item))
        if self._arrivals:
            self._arrivals.unpark()

    def _rank(self, item: ItemT) -> float:
        if self._priority is None:
            return 0.0
        rank: Any = self._priority(item)
        if not isinstance(rank, int | float):
            raise TypeError(f"priority must return a number, got {rank!r} for {item!r}: {_RANKED}")
        if math.isnan(rank):
            raise ValueError(
                f"priority must return a number to sort by, got NaN for {item!r}: {_RANKED}"
            )
        return rank

    def items(self) -> list[ItemT]:
        """Return the waiting items, in the order in which they are pulled."""
        return [item for _, _, item in sorted(self.waiting, key=lambda entry: entry[:2])]

    def pull(self) -> ItemT:
        """Remove and return the next item. The queue must not be empty."""
        return heapq.heappop(self.waiting)[2]

    def close(self) -> None:
        """Refuse further items."""
        self.closed = True
        self._arrivals.unpark_all()

    async def wait(self) -> None:
        """Wait until an item is added, or the queue is closed."""
        await self._arrivals.park()


def _checked_entry(entry: Any) -> tuple[Any, int | None]:
    try:
        item, index = entry
    except (TypeError, ValueError):
        raise TypeError(_wrong_entry(entry)) from None
    if index is not None and not (type(index) is int and index >= 0):
        raise TypeError(_wrong_entry(entry))
    return item, index


def _wrong_entry(entry: object) -> str:
    return (
        f"each entry must be an item and the index under which it started, at least 0, or None, "
        f"got {entry!r}: write {RESTORE}"
    )
