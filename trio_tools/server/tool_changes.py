"""Notifies clients when the list of tools or a schema in it changes.

Each listing is compared with the previous one. When upstreams change, a listing is made for the
comparison. Clients of the modern protocol receive the notification on `subscriptions/listen`,
those of older ones on the stream of their session.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ToolsListChanged
from mcp.types import Tool as ToolListing

from trio_tools.upstream.upstreams import Upstreams

# A client that does not read its stream delays others for at most this time.
_SEND_SECONDS = 5.0


class ToolChanges:
    """The latest list of tools of one server, and the sessions to notify of a change.

    Attributes:
        bus: Sends the notifications to clients of the modern protocol.
    """

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        # A session of an older protocol lives as long as its connection.
        self._sessions: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._latest: list[ToolListing] | None = None
        self._news = trio.Event()

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Declare the notification in the handshake, as a stage of a server's middleware."""
        result = await call_next(ctx)
        if ctx.method == "initialize" and isinstance(result, dict):
            # The SDK has an option for it that none of its HTTP transports sets.
            result.get("capabilities", {}).get("tools", {})["listChanged"] = True
            self._sessions.add(_connection_of(ctx))
        return result

    def note(self, listing: Sequence[ToolListing]) -> None:
        """Compare a list of tools with the previous one, and notify clients of a difference."""
        before, self._latest = self._latest, list(listing)
        if before is not None and before != self._latest:
            self._news.set()

    def note_if_listed(self, listing: Sequence[ToolListing]) -> None:
        """Compare if there is a previous list; otherwise no client has seen one."""
        if self._latest is not None:
            self.note(listing)

    async def tell(self) -> None:
        """Notify clients of each change, until cancelled. Concurrent changes are sent once."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            async with trio.open_nursery() as nursery:
                for session in list(self._sessions):
                    nursery.start_soon(_tell_one, session)
                await self.bus.publish(ToolsListChanged())

    async def watch(
        self, upstreams: Upstreams, list_tools: Callable[[], Awaitable[Sequence[ToolListing]]]
    ) -> None:
        """Compare the list whenever the tools of upstreams change, until cancelled.

        Args:
            upstreams: The upstreams to watch.
            list_tools: Returns the current list, without waiting for upstreams.
        """
        version = -1  # changes while this did not run are detected at once
        while True:
            version = await upstreams.changed(version)
            if self._latest is not None:
                self.note(await list_tools())


async def _tell_one(session: Connection) -> None:
    with trio.move_on_after(_SEND_SECONDS):
        await session.send_tool_list_changed()


def _connection_of(ctx: ServerRequestContext[Any, Any]) -> Connection:
    # The SDK passes handlers a proxy for the request, with no public way to its session.
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
