"""The nurseries in which upstreams live: one for each served connection of this server."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio


@dataclass(frozen=True, eq=False)
class _Home:
    """A nursery for owners, and the context they run in: that of the server, not of a caller."""

    nursery: trio.Nursery
    context: contextvars.Context


class Homes:
    """The nurseries that run the owners of upstreams. Imports nothing of MCP."""

    def __init__(self) -> None:
        self._homes: list[_Home] = []

    def __bool__(self) -> bool:
        return bool(self._homes)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Let owners run during the block; at its end those in its nursery are cancelled.

        Blocks may overlap. An owner runs in the oldest block that is open when it starts.
        """
        async with trio.open_nursery() as nursery:
            home = _Home(nursery, contextvars.copy_context())
            self._homes.append(home)
            try:
                yield
            finally:
                self._homes.remove(home)
                nursery.cancel_scope.cancel(reason="the server ends")

    def start(self, own: Callable[[], Awaitable[None]]) -> None:
        """Run an owner in the oldest block. A block must be open."""
        home = self._homes[0]
        home.context.copy().run(home.nursery.start_soon, own)
