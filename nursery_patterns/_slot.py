"""A worker's slot: a token of its batch's limiter, and one of the shared limiter, if any."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

# An item that released its slot is a task with its memory, about 10 kB; this number bounds them.
_MAX_RELEASED = 1_000

# The slots of the items inside which the current task runs, outermost first.
_held: ContextVar[tuple[Slot, ...]] = ContextVar("_held", default=())


class SlotLimiters:
    """The shared state of all slots of one run: their limiters, and the released slots.

    Args:
        batch: Bounds the items of this batch.
        shared: Bounds the items of several batches, if there is one.
        keep_batch_token: Whether an item keeps its token of `batch` while it waits. Required for
            ordered streams: outcomes hold their tokens there while they wait for the outcome of an
            item before them, which would then wait for a token of theirs.
        leave_key: Releases what a worker's item holds of its key, if there are limits per key.
    """

    __slots__ = (
        "batch",
        "keep_batch_token",
        "leave_key",
        "lent",
        "reacquiring",
        "released",
        "shared",
    )

    def __init__(
        self,
        batch: trio.CapacityLimiter,
        shared: trio.CapacityLimiter | None,
        *,
        keep_batch_token: bool = False,
        leave_key: Callable[[Slot], None] | None = None,
    ) -> None:
        self.batch = batch
        self.shared = shared
        self.keep_batch_token = keep_batch_token
        self.leave_key = leave_key
        # Slots that their items released, until they are reacquired or their worker ends. At most
        # _MAX_RELEASED.
        self.released: set[Slot] = set()
        # How many of these are being reacquired without a token of `batch`.
        self.reacquiring = 0
        # Slots whose workers wait for an item to come. Those that hold a token meanwhile give it to
        # an item that acquires its slot again. Longest wait first.
        self.lent: dict[Slot, None] = {}


class Slot:
    """The tokens that one worker holds, acquired in a fixed order and released together.

    The token of the batch's limiter comes first and the shared one last, so no task holds shared
    capacity while it waits for anything else. Within the `with` block it is the slot of the current
    task only. Leaving the block releases it, and what its item holds of its key.

    Attributes:
        fresh: Whether no item has used it yet.
        has_batch_token: Whether it holds a token of the batch's limiter.
    """

    __slots__ = (
        "_batch_limiter",
        "_has_shared_token",
        "_limiters",
        "_shared_limiter",
        "_task",
        "fresh",
        "has_batch_token",
    )

    def __init__(self, limiters: SlotLimiters) -> None:
        self._limiters = limiters
        self._batch_limiter = limiters.batch
        self._shared_limiter = limiters.shared
        self.has_batch_token: bool = False
        self._has_shared_token = False
        self._task: trio.lowlevel.Task | None = None
        self.fresh: bool = True

    def __enter__(self) -> Self:
        self._task = trio.lowlevel.current_task()
        _held.set((*_held.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        self._task = None  # it no longer works on an item
        limiters = self._limiters
        if limiters.leave_key is not None:
            limiters.leave_key(self)
        self.release()
        limiters.released.discard(self)

    async def acquire_batch_token(self) -> None:
        """Wait for the token of the batch's limiter. No checkpoint if it is held or available."""
        if self.has_batch_token:
            return
        try:
            self._batch_limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            await self._batch_limiter.acquire_on_behalf_of(self)
        self.has_batch_token = True

    async def acquire(self) -> None:
        """Wait for each token that is not held yet."""
        if self._is_over_limit() and not self._limiters.keep_batch_token:
            self.release()
        await self.acquire_batch_token()
        if self._shared_limiter is not None and not self._has_shared_token:
            await self._shared_limiter.acquire_on_behalf_of(self)
            self._has_shared_token = True

    def acquire_nowait(self) -> bool:
        """Acquire the shared token without waiting; return whether the whole slot is held."""
        if not self.has_batch_token or self._is_over_limit():
            return False
        if self._shared_limiter is None or self._has_shared_token:
            return True
        try:
            self._shared_limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            return False
        self._has_shared_token = True
        return True

    def may_keep(self) -> bool:
        """Whether the worker may keep the token of the batch's limiter.

        It may if no limit was lowered and no item waits to reacquire its slot. Apart from these
        items, only the batch's own dispatcher waits for that limiter.
        """
        limiter = self._batch_limiter
        return (
            self.has_batch_token
            and limiter.borrowed_tokens <= limiter.total_tokens
            and (self.fresh or not self._limiters.reacquiring)
        )

    def try_keep(self) -> bool:
        """Keep the slot for another item if that is fair; return whether it is held.

        The shared token is released first, and reacquired only if no other task waits for it.
        """
        if not self.may_keep():
            return False
        if self._shared_limiter is None:
            return True
        self.release_shared_token()
        return self.acquire_nowait()

    def lend(self) -> None:
        """Let a reacquiring item take the token while this worker waits for the source."""
        self.release_shared_token()
        if self._limiters.reacquiring:
            self.release()
        else:
            self._limiters.lent[self] = None

    def end_loan(self) -> None:
        """Keep the token if no item has taken it."""
        self._limiters.lent.pop(self, None)

    def _is_over_limit(self) -> bool:
        return self._batch_limiter.borrowed_tokens > self._batch_limiter.total_tokens

    def release_shared_token(self) -> None:
        """Release the shared token, and keep the one of the batch's limiter."""
        if self._has_shared_token and self._shared_limiter is not None:
            self._has_shared_token = False
            self._shared_limiter.release_on_behalf_of(self)

    def release(self) -> None:
        """Release each token that is held."""
        if self._has_shared_token:
            self.release_shared_token()
        if self.has_batch_token:
            self.has_batch_token = False
            self._batch_limiter.release_on_behalf_of(self)

    def release_for_wait(self) -> None:
        """Release what an item must not hold while it waits for anything but its slot."""
        if self._limiters.keep_batch_token:
            self.release_shared_token()
        else:
            self.release()

    def try_release_for_wait(self) -> bool:
        """Release the slot while the item only waits; return False if the item must keep it.

        It must keep it in a task that the item started, in a nested block, if there is no token to
        release, and if too many slots are already released.
        """
        limiters = self._limiters
        held = self._has_shared_token if limiters.keep_batch_token else self.has_batch_token
        if (
            not held
            or len(limiters.released) >= _MAX_RELEASED
            or self._task is not trio.lowlevel.current_task()
        ):
            return False
        self.release_for_wait()
        limiters.released.add(self)
        return True

    def set_aside(self) -> bool:
        """Release the slot while its item waits for its key; return whether to pull others."""
        self.release_for_wait()
        if len(self._limiters.released) >= _MAX_RELEASED:
            return False
        self._limiters.released.add(self)
        return True

    async def reacquire(self) -> None:
        """Wait for the released tokens again, first in, first out with all other tasks."""
        limiters = self._limiters
        if self.has_batch_token:
            await self.acquire()
        else:
            lent = next(iter(limiters.lent), None)
            if lent is not None:
                lent.end_loan()
                lent.release()
            limiters.reacquiring += 1
            try:
                await self.acquire()
            finally:
                limiters.reacquiring -= 1
        limiters.released.discard(self)

    @property
    def limiter(self) -> trio.CapacityLimiter | None:
        """The limiter in force, or None once the worker has ended.

        Tasks that its items started may still run then.
        """
        return None if self._task is None else self._shared_limiter or self._batch_limiter


def held_limiters() -> tuple[trio.CapacityLimiter, ...]:
    """Return the limiters of the items inside which the current task runs, outermost first."""
    return tuple(limiter for slot in _held.get() if (limiter := slot.limiter) is not None)


@asynccontextmanager
async def released_slot() -> AsyncGenerator[None]:
    """Release the slot of the current item while the item only waits.

    Inside the function of a batch's item::

        async with released_slot():
            await trio.sleep(retry_after)  # others run meanwhile

    The item still counts as in flight, and its `item_timeout` continues. Leaving the block waits
    for a slot again, first in, first out with items that have not started. So do not hold anything
    there that others may wait for. Put a deadline for the wait inside the block.

    After a cancel inside the block, or during the wait for its slot, the item has no slot: let it
    end.

    At most 1,000 items of a run release their slots at a time; further items keep theirs. In an
    ordered stream an item releases its token of the shared limiter and keeps the one of the batch,
    because finished items there wait for earlier ones. Outside of a batch, and in tasks that an
    item started, the block changes nothing.
    """
    slots = _held.get()
    if not slots:
        yield
        return
    async with released(slots[-1]):
        yield


@asynccontextmanager
async def released(slot: Slot) -> AsyncGenerator[None]:
    """Release a slot while its item only waits, if possible."""
    if not slot.try_release_for_wait():
        yield
        return
    try:
        yield
    finally:
        await slot.reacquire()
