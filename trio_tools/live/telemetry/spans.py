"""Spans by the semantic conventions for MCP and for HTTP clients.

A span contains no arguments of a call, no query or credentials of a URL, and no error message,
since each may contain a secret. Names in a span were chosen by the server or the operator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from nursery_patterns import Batch, Observer
from nursery_patterns.telemetry import ItemSpans, batch_span
from trio_tools.settings.telemetry.seam import RequestSpan

_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_FAILED_FROM: Final = 400
_REDACTED: Final = "/REDACTED"
_MOST_HEADER_CHARS: Final = 8_192


class OtelTracing:
    """The `Tracing` of a server.

    Args:
        tracer: Makes the spans.
        meter: Makes the durations of calls and requests; None for none.
        item_sample: The share of items with a span.
        url_paths: Whether spans of requests have the path of the URL.
    """

    def __init__(
        self, tracer: Tracer, meter: Meter | None, *, item_sample: float, url_paths: bool
    ) -> None:
        self._tracer = tracer
        self._item_sample = item_sample
        self._url_paths = url_paths
        self._served = _durations(meter, "mcp.server.operation.duration", "Requests answered.")
        self._called = _durations(meter, "mcp.client.operation.duration", "Calls of upstreams.")
        self._requested = _durations(meter, "http.client.request.duration", "HTTP requests sent.")

    @contextmanager
    def serve(
        self,
        method: str,
        tool: str | None,
        *,
        parents: tuple[Mapping[str, Any] | None, Mapping[str, str] | None],
        attributes: Mapping[str, str | int],
    ) -> Generator[Call]:
        """Put the handling of one MCP request into a span, current within the block.

        Args:
            method: The MCP method.
            tool: The called tool, if it is one of the server.
            parents: Where the trace context of the caller may be: the `_meta` of the request, and
                the header fields of the HTTP request. The first one with a trace context is used.
            attributes: Further attributes.
        """
        told = _of_mcp(method, tool)
        parent = next((c for c in map(_parent_in, parents) if c is not None), None)
        name = f"{method} {tool}" if tool else method
        with (
            _within(parent),  # with its baggage
            self._span(name, SpanKind.SERVER, {**told, **attributes}) as span,
        ):
            call = Call(span)
            with self._served({**told, **_of_transport(attributes)}, lambda: call.error_type):
                try:
                    yield call
                finally:
                    call.note(sys.exc_info()[1])

    @contextmanager
    def upstream_call(
        self, tool: str, *, protocol: str | None, over_stdio: bool
    ) -> Generator[None]:
        """Put one tool call of an upstream MCP server into a span, current within the block."""
        told = _of_mcp("tools/call", tool)
        told["network.transport"] = "pipe" if over_stdio else "tcp"
        if protocol is not None:
            told["mcp.protocol.version"] = protocol
        with self._span(f"tools/call {tool}", SpanKind.CLIENT, told) as span:
            call = Call(span)
            with self._called(told, lambda: call.error_type):
                try:
                    yield
                finally:
                    call.note(sys.exc_info()[1])

    @contextmanager
    def request(
        self, method: str, scheme: str, host: str, port: int, path: str | None
    ) -> Generator[RequestSpan]:
        """Put one HTTP request into a span, current within the block."""
        told: dict[str, str | int] = {
            "http.request.method": method,
            "server.address": host,
            "server.port": port,
        }
        bracketed = f"[{host}]" if ":" in host else host
        shown = path.partition("?")[0] if self._url_paths and path is not None else _REDACTED
        url = f"{scheme}://{bracketed}:{port}{shown}"
        with self._span(method, SpanKind.CLIENT, {**told, "url.full": url}) as span:
            sent = _SentRequest(span)
            with self._requested(told, lambda: sent.error_type):
                try:
                    yield sent
                finally:
                    sent.note(sys.exc_info()[1])

    @contextmanager
    def batch(self, batch: Batch[Any, Any], tool: str) -> Generator[None]:
        """Put a run of the batch of an operation into a span, current within the block."""
        with batch_span(batch, tracer=self._tracer, attributes={"trio_tools.tool": tool}):
            yield

    def item_spans(self) -> Observer[Any, Any]:
        """Return an observer that makes the spans of the items of one batch."""
        return ItemSpans(sample=self._item_sample, tracer=self._tracer, error_type=error_type_of)

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
    ) -> Generator[Span]:
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span


class Call:
    """The span of one call.

    Attributes:
        error_type: The error type; None without an error.
    """

    def __init__(self, span: Span) -> None:
        self._span = span
        self.error_type: str | None = None

    def failed(self, error_type: str, attributes: Mapping[str, str] | None = None) -> None:
        """Record a failure, by a name from a small set."""
        self.error_type = error_type
        self._span.set_attribute("error.type", error_type)
        self._span.set_attributes(attributes or {})
        self._span.set_status(Status(StatusCode.ERROR))

    def note(self, error: BaseException | None) -> None:
        """Record the exception that left the block, if any."""
        if isinstance(error, Exception):
            if self.error_type is None:
                self.failed(error_type_of(error))
        elif error is not None:  # a cancel is not an error
            self.error_type = "cancelled"
            self._span.set_attribute("error.type", "cancelled")


class _SentRequest(Call):
    """The span of one HTTP request."""

    def header_lines(self) -> bytes:
        """Return the header lines that pass the trace to the server, each with its end of line."""
        headers: dict[str, str] = {}
        propagate.inject(headers)
        return b"".join(
            f"{name}: {value}\r\n".encode("ascii")
            for name, value in headers.items()
            if value.isascii() and value.isprintable() and len(value) <= _MOST_HEADER_CHARS
        )

    def answered(self, status: int) -> None:
        """Record the status of the reply."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= _FAILED_FROM:
            self.failed(str(status))


def error_type_of(error: BaseException) -> str:
    """Return the error code of a failure of ours, or the class of any other one."""
    code = getattr(error, "error_code", None)
    return str(code) if code else type(error).__qualname__


def _of_mcp(method: str, tool: str | None) -> dict[str, str | int]:
    told: dict[str, str | int] = {"mcp.method.name": method}
    if method == "tools/call":
        told["gen_ai.operation.name"] = "execute_tool"
        if tool is not None:
            told["gen_ai.tool.name"] = tool
    return told


def _of_transport(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    """Return the attributes with few different values, for metrics."""
    few = ("network.transport", "network.protocol.name", "mcp.protocol.version")
    return {name: attributes[name] for name in few if name in attributes}


def _parent_in(carrier: Mapping[str, Any] | None) -> Context | None:
    """Return the context in a carrier; None if it contains no trace."""
    texts = {k: v for k, v in (carrier or {}).items() if isinstance(v, str)}
    if "traceparent" not in texts:
        return None
    context = propagate.extract(texts, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


@contextmanager
def _within(context: Context | None) -> Generator[None]:
    """Make a context the current one within the block; None changes nothing."""
    if context is None:
        yield
        return
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def _durations(meter: Meter | None, name: str, text: str) -> Callable[..., Any]:
    """Return a function that makes a context manager which records its duration."""
    histogram = meter and meter.create_histogram(
        name, unit="s", description=text, explicit_bucket_boundaries_advisory=_SECONDS
    )

    @contextmanager
    def timed(
        attributes: Mapping[str, str | int], error_type: Callable[[], str | None]
    ) -> Generator[None]:
        started = trio.current_time()
        try:
            yield
        finally:
            if histogram is not None:
                failed = {"error.type": error} if (error := error_type()) else {}
                histogram.record(trio.current_time() - started, {**attributes, **failed})

    return timed
