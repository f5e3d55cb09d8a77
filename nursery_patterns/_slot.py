"""The places a worker holds: one in its batch, and one in the shared limiter if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from types import TracebackType


class Slot:
    """What one worker may hold, taken in a fixed order and given back together.

    Room in the batch comes first and the shared place last, so that nobody sits on shared
    capacity while waiting for anything else. Leaving the `with` block gives back what is held.
    """

    __slots__ = ("_has_room", "_has_shared", "_room", "_shared")

    def __init__(self, room: trio.CapacityLimiter, shared: trio.CapacityLimiter | None) -> None:
        self._room = room
        self._shared = shared
        self._has_room = False
        self._has_shared = False

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

        Nobody else than the batch's own dispatcher is in line for the room, so there it is enough
        that the limit still covers all who hold a place.
        """
        if self._room.borrowed_tokens > self._room.total_tokens:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
