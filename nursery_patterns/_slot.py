"""The places a worker holds: one in its batch, and one in the shared limiter if there is one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

# Each item that is away from its slot is a task with its memory, some 10 kB: this many bound it.
_MOST_AWAY = 1_000

# The slots of the items that the current task runs inside of, outermost first.
_held: ContextVar[tuple[Slot, ...]] = ContextVar("_held", default=())


class Places:
    """What the slots of one run have in common: where places come from, and who is away from his.

    Args:
        room: Places in the batch.
        shared: Places shared with others, if any.
        keeps_room: Whether an item that gives its slot back keeps its room in the batch. It must
            where finished items wait in their room for one that has yet to come back.
    """

    __slots__ = ("away", "keeps_room", "returning", "room", "shared")

    def __init__(
        self,
        room: trio.CapacityLimiter,
        shared: trio.CapacityLimiter | None,
        *,
        keeps_room: bool = False,
    ) -> None:
        self.room = room
        self.shared = shared
        self.keeps_room = keeps_room
        # Whose items are without their places, until they have them again or their worker ends.
        # At most _MOST_AWAY.
        self.away: set[Slot] = set()
        self.returning = 0  # of these, who wait for their places again


class Slot:
    """What one worker may hold, taken in a fixed order and given back together.

    Room in the batch comes first and the shared place last, so that nobody sits on shared
    capacity while waiting for anything else. Leaving the `with` block gives back what is held.
    """

    __slots__ = ("_has_room", "_has_shared", "_places", "_room", "_shared", "_task")

    def __init__(self, places: Places) -> None:
        self._places = places
        self._room = places.room
        self._shared = places.shared
        self._has_room = False
        self._has_shared = False
        self._task: trio.lowlevel.Task | None = None

    def begin(self) -> None:
        """Make it the slot of the current task, and of nobody else, until `end`."""
        self._task = trio.lowlevel.current_task()
        _held.set((*_held.get(), self))

    def end(self) -> None:
        """Give back whatever is held: the task works on no item any more."""
        self._task = None
        self.release()
        self._places.away.discard(self)

    async def take_room(self) -> None:
        """Wait for a place in the batch."""
        await self._room.acquire_on_behalf_of(self)
        self._has_room = True

    async def take(self) -> None:
        """Wait for every place that is not held yet."""
        if not self._has_room:
            await self.take_room()
        if self._shared is not None:
            await self._shared.acquire_on_behalf_of(self)
            self._has_shared = True

    def keep(self) -> bool:
        """Stay for another item if that is fair: nobody waits in front, and no limit was lowered.

        Besides items that want their places back only the batch's own dispatcher stands in line
        for the room, so there it is enough that the limit still covers all who hold a place.
        """
        if self._room.borrowed_tokens > self._room.total_tokens:
            return False
        if self._places.returning or not self._has_room:
            return False
        if self._shared is None:
            return True
        self.release_shared()
        try:
            self._shared.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            return False
        self._has_shared = True
        return True

    def release_shared(self) -> None:
        """Give back the shared place, and keep the room in the batch."""
        if self._has_shared and self._shared is not None:
            self._has_shared = False
            self._shared.release_on_behalf_of(self)

    def release(self) -> None:
        """Give back whatever is held."""
        if self._has_shared:
            self.release_shared()
        if self._has_room:
            self._has_room = False
            self._room.release_on_behalf_of(self)

    def leave(self) -> bool:
        """Let others have the places while the item only waits; False if it has to stay.

        That is so in a task that the item started, in a second block inside of the first, where
        nothing could be given back, and where too many are away already.
        """
        places = self._places
        held = self._has_shared if places.keeps_room else self._has_room
        if (
            not held
            or len(places.away) >= _MOST_AWAY
            or self._task is not trio.lowlevel.current_task()
        ):
            return False
        if places.keeps_room:
            self.release_shared()
        else:
            self.release()
        places.away.add(self)
        return True

    async def come_back(self) -> None:
        """Wait for the places again, in line with everybody else."""
        self._places.returning += 1
        try:
            await self.take()
        finally:
            self._places.returning -= 1
        self._places.away.discard(self)

    @property
    def limiter(self) -> trio.CapacityLimiter | None:
        """The limiter in force; None once its worker has ended, whose items' tasks may live on."""
        return None if self._task is None else self._shared or self._room

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def held_limiters() -> tuple[trio.CapacityLimiter, ...]:
    """Return the limiters of the items that the current task runs inside of, outermost first."""
    return tuple(limiter for slot in _held.get() if (limiter := slot.limiter) is not None)


@asynccontextmanager
async def released_slot() -> AsyncGenerator[None]:
    """Give the slot of the current item to others for as long as the item only waits.

    Inside the function of a batch's item::

        async with released_slot():
            await trio.sleep(retry_after)  # others run meanwhile

    The item counts as in flight all the while, and its `item_timeout` goes on. Leaving the block
    waits for a slot again, first come, first served with items not yet started; so hold nothing
    else there that others might wait for. A deadline for the wait belongs inside of the block.

    Cancelled inside the block, or while it waits for its slot, the item has none: let it end then.

    At most 1,000 items of a run are away at a time; the next ones keep their slots while they
    wait. In an ordered stream an item gives back its token of the shared limiter, and keeps its
    place in the batch: items that are done wait there for those before them. Outside of a batch,
    and in tasks that an item started, the block changes nothing.
    """
    slots = _held.get()
    if not slots or not slots[-1].leave():
        yield
        return
    try:
        yield
    finally:
        await slots[-1].come_back()
