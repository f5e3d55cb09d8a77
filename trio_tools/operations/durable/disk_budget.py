"""The use of `state.max_bytes`, and which operations may start further items.

Idle operations make room whenever an item has none: those of the owner who holds most first, and of
these the one unused for longest. Nothing goes of an owner who holds less than the one who needs
room. What then is still too much belongs to operations that are running or parked. A result that
finished is never deleted for another one of the same operation, so operations stop instead: those
of the owner who holds most a little before the bound, and others wait for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_tools.operations.durable.database import StateDatabase

_SHARE: Final = 16
_COUNT_SECONDS: Final = 60.0
_ANY_NUMBER: Final = 2**62


class DiskBudget:
    """The bytes that stored operations may take, as far as this server knows.

    Counted again from time to time; in between, the bytes that this server writes are added.

    Args:
        max_bytes: Limit of bytes.
        ttl: Seconds after which unused operations are deleted.
        now: Returns the seconds since the epoch.
    """

    def __init__(self, max_bytes: int, *, ttl: float, now: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._start_bytes = max_bytes - max_bytes // _SHARE
        # What is left when room is made: a little less than has to be, to do it seldom.
        self._after_pruning = max_bytes - 2 * (max_bytes // _SHARE)
        self._ttl = ttl
        self._now = now
        # Invariant: `_total` is the sum over `_held`, which is by owner.
        self._held = Counter[str]()
        self._total = 0
        # When it was counted last, and how many bytes this server has written since.
        self._counted_at = -math.inf
        self._uncounted = 0

    def may_be_full(self, ahead: int) -> bool:
        """Whether the limit for an item of the owner with the most bytes is reached.

        Args:
            ahead: Bytes that are still to be written.
        """
        return self._total + ahead > self._start_bytes

    def is_full(self, owner: str, ahead: int, own_ahead: int) -> bool:
        """Whether the limit for an item of an owner is reached.

        Args:
            owner: The owner of the item.
            ahead: Bytes that are still to be written.
            own_ahead: Those of this owner.
        """
        has_most = self.has_most(owner, own_ahead)
        return self._total + ahead > (self._start_bytes if has_most else self._max_bytes)

    def has_most(self, owner: str, own_ahead: int = 0) -> bool:
        """Whether no owner holds more: then its operations stop where there is no room."""
        return self._held[owner] + own_ahead >= max(self._held.values(), default=0)

    def wrote(self, sizes: Mapping[str, int], database: StateDatabase) -> None:
        """Record a commit; sometimes delete old operations and count. Runs in the thread.

        Operations above the limit are deleted only when an item needs the bytes.

        Args:
            sizes: Bytes that were written, by owner.
            database: The database.
        """
        written = sum(sizes.values())
        # Replaced and not changed: the event loop reads it meanwhile.
        self._held, self._total = self._held + Counter(sizes), self._total + written
        self._uncounted += written
        is_due = self._now() > self._counted_at + _COUNT_SECONDS
        if is_due or self._uncounted > self._max_bytes // _SHARE:
            self._prune(database, "", _ANY_NUMBER)

    def make_room(self, owner: str, ahead: int, database: StateDatabase) -> None:
        """Delete idle operations as far as an owner may cause it. Runs in the thread."""
        self._prune(database, owner, max(0, self._after_pruning - ahead))

    def _prune(self, database: StateDatabase, owner: str, max_bytes: int) -> None:
        self._counted_at, self._uncounted = self._now(), 0
        self._held = database.make_room(owner, ttl=self._ttl, max_bytes=max_bytes)
        self._total = self._held.total()
