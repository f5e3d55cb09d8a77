"""Selects the stored operations to delete."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Kept(NamedTuple):
    """The facts about one operation; `idle` if no server runs it or will resume it."""

    key: int
    owner: str
    size: int
    last_used: float
    idle: bool


def doomed(
    rows: Sequence[Kept], *, oldest: float, max_bytes: int, needed_by: str | None = None
) -> list[int]:
    """Return the keys of operations to delete: old ones, and then those above `max_bytes`.

    Of several owners, the one with the most bytes loses its least recently used operation.

    Args:
        rows: All operations, in the order of their last use.
        oldest: Operations last used before this time are deleted.
        max_bytes: Limit of bytes of the remaining ones.
        needed_by: The owner who needs the room: nothing goes of one who holds less. None if all
            have to make room.
    """
    gone = [row.key for row in rows if row.idle and row.last_used < oldest]
    left = [row for row in rows if not (row.idle and row.last_used < oldest)]
    held = held_by_owner(left)
    idle: defaultdict[str, deque[Kept]] = defaultdict(deque)
    for row in left:
        if row.idle:
            idle[row.owner].append(row)
    least = 0 if needed_by is None else held[needed_by]
    while held.total() > max_bytes and (
        owners := [owner for owner in held if idle[owner] and held[owner] >= least]
    ):
        owner = max(owners, key=held.__getitem__)
        row = idle[owner].popleft()
        held[owner] -= row.size
        gone.append(row.key)
        if owner == needed_by:
            least = held[owner]
    return gone


def held_by_owner(rows: Iterable[Kept]) -> Counter[str]:
    """Return how many bytes each owner holds."""
    held = Counter[str]()
    for row in rows:
        held[row.owner] += row.size
    return held
