"""What code around a request calls, and OpenTelemetry's side implements."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from nursery_patterns import Batch, Observer


class RequestSpan(Protocol):
    """The span of one HTTP request that is being sent."""

    def header_lines(self) -> bytes:
        """Return the lines that hand the trace on to the other end, each with its end of line."""
        ...

    def answered(self, status: int) -> None:
        """Note the status of the reply."""
        ...


class Tracing(Protocol):
    """Makes spans for what leaves this server. An exception that leaves a block ends it in error.

    No argument of a call, no query, no credentials and no message of an error are in a span.
    """

    def request(
        self, method: str, scheme: str, host: str, port: int, path: str | None
    ) -> AbstractContextManager[RequestSpan]:
        """Put one HTTP request into a span, current within the block.

        Args:
            method: Of the request.
            scheme: `http` or `https`.
            host: Name or address of the other end.
            port: Its port.
            path: Of the URL, with or without a query; None where it is not to be told.
        """
        ...

    def upstream_call(
        self, tool: str, *, protocol: str | None, over_stdio: bool
    ) -> AbstractContextManager[None]:
        """Put one tool call of an upstream MCP server into a span, current within the block."""
        ...

    def batch(self, batch: Batch[Any, Any], tool: str) -> AbstractContextManager[None]:
        """Put a run of the batch of an operation into a span, current within the block."""
        ...

    def item_spans(self) -> Observer[Any, Any]:
        """Return what makes the spans of the items of one batch."""
        ...


current_tracing: Final[ContextVar[Tracing | None]] = ContextVar("current_tracing", default=None)
"""Traces what the current call sends; None where nothing is traced."""
