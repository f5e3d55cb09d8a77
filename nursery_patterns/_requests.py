"""The context of a request, inherited by child tasks and threads.

A node of a cluster imports this module for its first call, so trio is imported where it is used.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)

# Returns the trace of the current task as headers name it; set by `telemetry`, if that is imported.
_trace_headers: Callable[[], dict[str, str]] = dict


class _Clock(Protocol):
    """What is used of a `trio.abc.Clock`."""

    def current_time(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request.

    Attributes:
        request_id: Identifies the request in answers and logs.
        client_id: Identifies the caller.
        started: When it began, on trio's clock.
        deadline: On a node of a cluster, the deadline of the caller, on the same clock; else
            infinity.
    """

    request_id: str
    client_id: str
    started: float
    _clock: _Clock = field(repr=False)
    deadline: float = math.inf

    @property
    def elapsed(self) -> float:
        """Seconds since it began. Also readable in a worker thread."""
        return self._clock.current_time() - self.started

    @property
    def elapsed_seconds(self) -> float:
        """The same as `elapsed`, under the name used in answers."""
        return self.elapsed

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinity without one, and in a worker thread."""
        if self.deadline != math.inf:
            return self.deadline - self._clock.current_time()
        import trio  # noqa: PLC0415

        try:
            return trio.current_effective_deadline() - trio.current_time()
        except RuntimeError:  # not in a task
            return math.inf


@contextmanager
def request_context(
    request_id: str | None = None, client_id: str = "anonymous"
) -> Generator[RequestContext]:
    """Set the request for a block.

    Child tasks, `run_in_thread` and `run_in_cluster` inherit it; worker processes do not.

    Args:
        request_id: Any text; by default a new random one (32 hexadecimal digits).
        client_id: The caller.
    """
    import trio  # noqa: PLC0415

    context = RequestContext(
        request_id=request_id or uuid.uuid4().hex,
        client_id=client_id,
        started=trio.current_time(),
        _clock=trio.lowlevel.current_clock(),
    )
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def current_request() -> RequestContext | None:
    """Return the request that the current task or worker thread serves, or None."""
    return _current.get()


def carry_trace(headers: Callable[[], dict[str, str]]) -> None:
    """Have what leaves this process for a request carry a trace, as `headers` returns it."""
    global _trace_headers  # noqa: PLW0603 - set once, by the import of a module
    _trace_headers = headers


def trace_headers() -> dict[str, str]:
    """Return the trace of the current task; empty without OpenTelemetry."""
    return _trace_headers()


class RequestLogFilter(logging.Filter):
    """Adds `request_id`, `client_id` and `elapsed` (seconds) to every log record.

    Outside of a request they are `"-"`, `"-"` and 0. It lets every record pass::

        handler.addFilter(RequestLogFilter())
    """

    def filter(self, record: logging.LogRecord) -> bool:
        context = current_request()
        record.request_id = context.request_id if context else "-"
        record.client_id = context.client_id if context else "-"
        record.elapsed = round(context.elapsed, 6) if context else 0.0
        return True


class _ClockOfANode:
    """A clock without trio: seconds since the node received the request."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._start = monotonic()

    def current_time(self) -> float:
        """Seconds since the node received the request."""
        return self._monotonic() - self._start


@contextmanager
def remote_request_context(
    request_id: str,
    client_id: str,
    elapsed: float,
    remaining: float,
    monotonic: Callable[[], float],
) -> Generator[None]:
    """Set the request on a node of a cluster."""
    clock = _ClockOfANode(monotonic)  # it begins at 0
    context = RequestContext(request_id, client_id, -elapsed, clock, remaining)
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
