"""Loads the modules of the first batch call before that call arrives.

The library for stored operations takes half a second of CPU to load. A client lists the tools
before it calls one, and usually waits for its model in between.
"""

from __future__ import annotations

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from trio_tools.live.state import ServerState


class EarlyLoading:
    """A stage of a server's middleware that starts loading after the first list of tools.

    Args:
        state: The live server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._begun = False

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, and start loading after the first list of tools."""
        result = await call_next(ctx)
        if ctx.method == "tools/list" and not self._begun:
            self._begun = self._state.jobs.start(self._state.store.load_library)
        return result
