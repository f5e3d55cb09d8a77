"""Limits for each key of a batch's items: concurrent items, and items per second."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from nursery_patterns._token_bucket import TokenBucket

ItemT = TypeVar("ItemT")

# Above this number of keys, unused ones are removed.
_MIN_KEPT = 1_000


@dataclass(slots=True, eq=False)
class _Key:
    limiter: trio.CapacityLimiter | None
    bucket: TokenBucket | None
    users: int = 0  # items that hold it or wait for it
    set_aside: int = 0  # of these, the ones that had to wait and have not started

    def is_as_new(self) -> bool:
        if self.users:
            return False
        if self.bucket is None:
            return True
        return self.bucket.statistics().tokens >= self.bucket.capacity


@dataclass(slots=True, eq=False)
class _Hold:
    name: Hashable
    key: _Key
    has_token: bool  # of its limiter, if there is one
    set_aside: bool = False


class KeyLimits(Generic[ItemT]):
    """Lets an item start when its key has capacity, first in, first out for each capacity.

    Memory: O(keys in use), plus keys whose bucket is not yet full again.
    """

    def __init__(
        self,
        key: Callable[[ItemT], Hashable],
        limit: int | None,
        bucket: TokenBucket | Callable[[Any], TokenBucket] | None,
    ) -> None:
        self._key = key
        self._limit = limit
        self._bucket = bucket
        self._keys: dict[Hashable, _Key] = {}
        self._holds: dict[object, _Hold] = {}
        self._prune_at = _MIN_KEPT

    def _of(self, item: ItemT) -> tuple[Hashable, _Key]:
        """Return the key of an item, and its limits.

        Raises:
            TypeError: The key cannot be hashed, or `bucket_per_key` did not return a bucket.
        """
        name = self._key(item)
        try:
            key = self._keys.get(name)
        except TypeError as error:
            raise TypeError(
                f"the key {name!r} of an item cannot be hashed: write Batch(fn, items, key=...) "
                "with a function that returns a text, a number or a tuple of them"
            ) from error
        if key is None:
            if len(self._keys) >= self._prune_at:
                self._keys = {n: k for n, k in self._keys.items() if not k.is_as_new()}
                self._prune_at = max(_MIN_KEPT, 2 * len(self._keys))
            limiter = None if self._limit is None else trio.CapacityLimiter(self._limit)
            key = self._keys[name] = _Key(limiter, self._make_bucket(name))
        return name, key

    def enter_nowait(self, owner: object, item: ItemT) -> bool:
        """Take the tokens of an item's key, if they are available."""
        name, key = self._of(item)
        if key.set_aside:
            return False  # they come first
        if key.limiter is not None:
            try:
                key.limiter.acquire_on_behalf_of_nowait(owner)
            except trio.WouldBlock:
                return False
        if key.bucket is not None:
            try:
                key.bucket.acquire_nowait()
            except trio.WouldBlock:
                if key.limiter is not None:
                    key.limiter.release_on_behalf_of(owner)
                return False
        key.users += 1
        self._holds[owner] = _Hold(name, key, has_token=True)
        return True

    async def enter(self, owner: object, item: ItemT) -> None:
        """Wait for the tokens of an item's key. After a cancel it holds none."""
        name, key = self._of(item)
        key.users += 1
        key.set_aside += 1
        hold = self._holds[owner] = _Hold(name, key, has_token=False, set_aside=True)
        if key.limiter is not None:
            await key.limiter.acquire_on_behalf_of(owner)
            hold.has_token = True
        if key.bucket is not None:
            await key.bucket.acquire()

    def started(self, owner: object) -> None:
        """Record that an item starts, so that later items need not wait for it."""
        hold = self._holds[owner]
        if hold.set_aside:
            hold.set_aside = False
            hold.key.set_aside -= 1

    def leave(self, owner: object) -> None:
        """Release the tokens of an owner, also if it has stopped waiting."""
        hold = self._holds.pop(owner, None)
        if hold is None:
            return
        key = hold.key
        if hold.set_aside:
            key.set_aside -= 1
        if key.limiter is not None and hold.has_token:
            key.limiter.release_on_behalf_of(owner)
        key.users -= 1
        if not key.users and key.bucket is None:
            self._keys.pop(hold.name, None)

    def _make_bucket(self, name: Hashable) -> TokenBucket | None:
        bucket = self._bucket
        if bucket is None:
            return None
        if isinstance(bucket, TokenBucket):
            return TokenBucket(bucket.rate, bucket.capacity)
        made: Any = bucket(name)
        if not isinstance(made, TokenBucket):
            raise TypeError(
                f"bucket_per_key must return a TokenBucket, got {made!r}: write "
                "bucket_per_key=lambda key: TokenBucket(rate=5, capacity=5)"
            )
        return made
