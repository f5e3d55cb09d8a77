"""A synchronous queue with strict, ageing priorities, weighted fair between keys.

Between keys it is weighted fair queueing. With each served item a virtual clock advances by 1 /
(sum of all weights). The start tag of a key's next item is the finish tag of its last one; its
finish tag is 1/weight later. These are the tags of start-time fair queueing (Goyal, Vin and Cheng,
1996). Among the items whose start tag the clock has reached, the one with the earliest finish tag
is served: WF2Q+ (Bennett and Zhang, 1997). So a key that always has a waiting item is within one
item of its share in every prefix of a run. With start tags alone, a key of weight 10 beside ten
keys of weight 1 would be five items off.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar, final

ItemT = TypeVar("ItemT", bound=Hashable)

# Tolerance for rounding errors in a sum of many fractions.
_ROUNDING = 1e-9

# A heap with more stale entries than this is rebuilt.
_MOST_STALE = 64


@final
@dataclass(slots=True, eq=False)
class _Line(Generic[ItemT]):
    """Items of one key at one priority, in order of arrival."""

    key: Hashable
    weight: float
    start: float  # tag of the first item
    entry: int = 0  # number of its one heap entry that is up to date
    items: OrderedDict[ItemT, None] = field(default_factory=OrderedDict[ItemT, None])

    @property
    def finish(self) -> float:
        return self.start + 1 / self.weight

    @property
    def load(self) -> float:
        """Its length divided by its weight."""
        return len(self.items) / self.weight


_Heap = list[tuple[float, int, _Line[ItemT]]]


@final
class _Level(Generic[ItemT]):
    """All queues of one priority.

    Invariants: no queue is empty; each queue has one current entry in one of the two heaps;
    `total_weight` is the sum over all queues; `virtual` never decreases.
    """

    def __init__(self) -> None:
        self.lines: dict[Hashable, _Line[ItemT]] = {}
        self.arrivals: OrderedDict[ItemT, float] = OrderedDict()
        self.total_weight = 0.0
        self.virtual = 0.0
        self._started: _Heap[ItemT] = []  # by finish tag
        self._to_start: _Heap[ItemT] = []  # by start tag
        self._served_until: dict[Hashable, float] = {}  # last finish of keys without items
        self._number = count()

    def push(self, item: ItemT, key: Hashable, weight: float, now: float) -> None:
        line = self.lines.get(key)
        if line is None:
            start = max(self.virtual, self._served_until.pop(key, 0.0))
            line = self.lines[key] = _Line(key, weight, start)
            self.total_weight += weight
            self._enter(line)
        elif line.weight != weight:
            self.total_weight += weight - line.weight
            line.weight = weight
            self._enter(line)
        line.items[item] = None
        self.arrivals[item] = now

    def pop(self) -> ItemT:
        line = self._next_line()
        item, _ = line.items.popitem(last=False)
        del self.arrivals[item]
        self.virtual += 1 / self.total_weight
        line.start = line.finish
        if line.items:
            self._enter(line)
        else:
            self._leave(line)
        return item

    def remove(self, item: ItemT, key: Hashable) -> None:
        line = self.lines[key]
        del line.items[item], self.arrivals[item]
        if not line.items:
            self._leave(line)

    def _next_line(self) -> _Line[ItemT]:
        while True:
            while self._to_start and self._to_start[0][0] <= self.virtual + _ROUNDING:
                _, number, line = heapq.heappop(self._to_start)
                if line.entry == number:
                    heapq.heappush(self._started, (line.finish, number, line))
            while self._started:
                _, number, line = heapq.heappop(self._started)
                if line.entry == number:
                    return line
            self.virtual = max(self.virtual, self._to_start[0][0])  # no item is due earlier

    def _enter(self, line: _Line[ItemT]) -> None:
        line.entry = next(self._number) + 1
        heapq.heappush(self._to_start, (line.start, line.entry, line))
        if len(self._to_start) + len(self._started) > 2 * len(self.lines) + _MOST_STALE:
            self._started.clear()
            self._to_start[:] = [(each.start, each.entry, each) for each in self.lines.values()]
            heapq.heapify(self._to_start)

    def _leave(self, line: _Line[ItemT]) -> None:
        line.entry = 0
        del self.lines[line.key]
        self.total_weight -= line.weight
        self._served_until[line.key] = line.start
        if len(self._served_until) > len(self.lines) + _MOST_STALE:
            ahead = {k: tag for k, tag in self._served_until.items() if tag > self.virtual}
            self._served_until = ahead


@final
class FairQueue(Generic[ItemT]):
    """Items by priority (lowest number first), between keys by weight, within a key in order.

    Args:
        ageing: Seconds of waiting that count as one step of priority, so that no item waits for
            ever behind items of a higher priority.
    """

    def __init__(self, ageing: float) -> None:
        self._ageing = ageing
        self._levels: dict[float, _Level[ItemT]] = {}  # none is empty
        self._places: dict[ItemT, tuple[float, Hashable]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def push(
        self, item: ItemT, *, key: Hashable, weight: float, priority: float, now: float
    ) -> None:
        """Put an item at the end of its key's queue. O(log keys)."""
        self._levels.setdefault(priority, _Level()).push(item, key, weight, now)
        self._places[item] = priority, key

    def pop(self, now: float) -> ItemT:
        """Take the item whose turn it is. O(log keys + priorities)."""
        priority = min(self._levels, key=lambda priority: (self._aged(priority, now), priority))
        item = self._levels[priority].pop()
        del self._places[item]
        self._drop_if_empty(priority)
        return item

    def remove(self, item: ItemT) -> None:
        """Remove a waiting item. Its key is not charged for it. O(1)."""
        priority, key = self._places.pop(item)
        self._levels[priority].remove(item, key)
        self._drop_if_empty(priority)

    def displaceable_for(self, key: Hashable, weight: float, priority: float) -> ItemT | None:
        """Return the item that a new one displaces, or None if the new one must be refused.

        It is the latest item of the queue that is longest for its weight, at the lowest priority.
        At the priority of the new item, that queue must stay at least as long as the new item's.
        """
        lowest = max(self._levels, default=priority)
        if priority > lowest or not self._levels:
            return None
        longest = max(self._levels[lowest].lines.values(), key=lambda line: line.load)
        if priority == lowest:
            own = self._levels[lowest].lines.get(key)
            after = ((len(own.items) if own is not None else 0) + 1) / weight
            if own is longest or longest.load <= after:
                return None
        return next(reversed(longest.items))

    def _aged(self, priority: float, now: float) -> float:
        oldest = next(iter(self._levels[priority].arrivals.values()))
        return priority - (now - oldest) / self._ageing

    def _drop_if_empty(self, priority: float) -> None:
        if not self._levels[priority].lines:
            del self._levels[priority]
