"""The stages of each request, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext


class Stage(Protocol):
    """Handles the requests of a method."""

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request. The next stage, or else the method itself, returns its result."""
        ...


class Stages:
    """A server's middleware: a request passes through the stages of its method, and no others.

    Args:
        by_method: Stages, the outermost first.
    """

    def __init__(self, by_method: Mapping[str, Sequence[Stage]]) -> None:
        self._by_method = by_method

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request."""
        for stage in reversed(self._by_method.get(ctx.method, ())):
            call_next = partial(stage, call_next=call_next)
        return await call_next(ctx)
