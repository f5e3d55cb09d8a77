"""Loads what the first batch call needs before that call comes.

The library for the stored operations takes half a second of CPU to load. A client lists the tools
before it calls one, and mostly thinks for a while in between.
"""

from __future__ import annotations

from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from trio_tools.live.state import ServerState


class EarlyLoading:
    """A stage of a server's middleware that begins to load after the first list of tools.

    Args:
        state: The live server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._begun = False

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, and begin to load if it was the first of its kind."""
        result = await call_next(ctx)
        if ctx.method == "tools/list" and not self._begun:
            self._begun = self._state.jobs.start(self._state.store.load_library)
        return result
