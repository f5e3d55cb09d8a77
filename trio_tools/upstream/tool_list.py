"""The tools of one connection: listed after its handshake, and again when they change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from mcp.client import Client, ClientSession, IncomingMessage
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import PaginatedRequestParams, Tool, ToolListChangedNotification
from pydantic import ValidationError

from trio_tools.settings import UpstreamSettings
from trio_tools.upstream.catalog import Catalog, make_catalog
from trio_tools.upstream.messages import Link

LISTED_AT_MOST: Final = 1_000
"""Limit of listed tools of one upstream that are checked."""

_MAX_PAGES: Final = 50
_RELIST_SECONDS: Final = 1.0


class ToolList:
    """Updates the catalog of an upstream while a connection to it is open.

    Args:
        settings: The settings of the upstream.
        link: The state of the connection's transport.
        catalog: The tools, if known from before.
        on_catalog: Called with the tools after each listing.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        link: Link,
        catalog: Catalog | None,
        on_catalog: Callable[[Catalog], None],
    ) -> None:
        self._settings = settings
        self._link = link
        self._catalog = catalog
        self._on_catalog = on_catalog
        self._stale = trio.Event()

    async def read(self, session: ClientSession) -> None:
        """List the tools.

        Raises:
            MCPError: The upstream answered with an error, or the connection has ended.
            ValidationError: The answer is not a list of tools.
        """
        listed: list[Tool] = []
        cursor: str | None = None
        left_out = self._link.left_out
        left_out.clear()
        for _ in range(_MAX_PAGES):
            params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
            page = await session.list_tools(params=params)
            listed += page.tools
            cursor = page.next_cursor
            if cursor is None or len(listed) > LISTED_AT_MOST:
                break
        for tool in listed[LISTED_AT_MOST:]:
            left_out[tool.name[:128]] = f"it lists more than {LISTED_AT_MOST:,} tools"
        listed = listed[:LISTED_AT_MOST]
        self._catalog = await make_catalog(listed, self._settings.tools, left_out, self._catalog)
        self._on_catalog(self._catalog)

    async def hear(self, message: IncomingMessage) -> None:
        """Handle a message of the upstream, which may be the notice of a change."""
        await trio.lowlevel.checkpoint()
        if isinstance(message, ToolListChangedNotification):
            self._stale.set()

    async def listen(self, client: Client) -> None:
        """Subscribe to notices of changes. An upstream of the 2026 protocol requires that."""
        with suppress(MCPError, ListenNotSupportedError, SubscriptionLost):
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._stale.set()

    async def follow_changes(self, session: ClientSession) -> None:
        """List the tools again after each notice, at most once a second, until cancelled."""
        while True:
            await self._stale.wait()
            self._stale = trio.Event()
            try:
                with trio.fail_after(self._settings.start_timeout_seconds):
                    await self.read(session)
            except (MCPError, ValidationError, trio.TooSlowError) as error:
                self._link.trouble(f"its changed list of tools cannot be read: {error}")
            await trio.sleep(_RELIST_SECONDS)
