"""The interface that code around a request calls, and that OpenTelemetry's side implements."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from nursery_patterns import Batch, Observer


class RequestSpan(Protocol):
    """The span of one HTTP request that is being sent."""

    def header_lines(self) -> bytes:
        """Return the header lines that pass the trace to the server, each with its end of line."""
        ...

    def answered(self, status: int) -> None:
        """Record the status of the reply."""
        ...


class Tracing(Protocol):
    """Makes spans for outgoing requests and calls.

    An exception that leaves a block ends its span in error.

    A span contains no argument of a call, no query, no credentials and no error message.
    """

    def request(
        self, method: str, scheme: str, host: str, port: int, path: str | None
    ) -> AbstractContextManager[RequestSpan]:
        """Put one HTTP request into a span, current within the block.

        Args:
            method: The method of the request.
            scheme: `http` or `https`.
            host: Name or address of the server.
            port: Its port.
            path: The path of the URL, with or without a query; None if spans must not have it.
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
        """Return an observer that makes the spans of the items of one batch."""
        ...


current_tracing: Final[ContextVar[Tracing | None]] = ContextVar("current_tracing", default=None)
"""Traces the requests of the current call; None without tracing."""
