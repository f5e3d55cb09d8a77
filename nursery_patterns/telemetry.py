"""Spans of OpenTelemetry for batches and their items (extra `telemetry`).

Only the API of OpenTelemetry is needed here; the program chooses an SDK and where spans go. Nothing
else in this package imports it.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import trio

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags
except ImportError as _error:
    raise ImportError(
        "nursery_patterns.telemetry needs OpenTelemetry, which is not installed: "
        "pip install opentelemetry-api"
    ) from _error

from nursery_patterns._arguments import check_instance, check_number
from nursery_patterns._batch import Batch
from nursery_patterns._observer import Observer
from nursery_patterns._outcomes import Outcome
from nursery_patterns._outcomes import Status as ItemStatus
from nursery_patterns._requests import carry_trace

if TYPE_CHECKING:
    from contextvars import Token

AttributeValue = str | bool | int | float

_PREFIX: Final = "nursery_patterns"
_NANOSECONDS: Final = 10**9


def type_of_error(error: BaseException) -> str:
    """Return the value of `error.type` of a span: the name of the exception's class."""
    return type(error).__qualname__


@contextmanager
def batch_span(
    batch: Batch[Any, Any],
    *,
    tracer: trace.Tracer | None = None,
    name: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Generator[Span]:
    """Put a run of a batch into a span, the current one within the block.

    Usage::

        batch = Batch(fetch, urls, observer=ItemSpans(sample=0.1))
        with batch_span(batch):
            await batch.run()  # or: async with batch.stream() as outcomes: ...

    The span has the counts of the batch at its end. Its status is an error if an exception leaves
    the block, with the class of the exception and without its message. Its `error.type` is
    `cancelled` if a cancel does.

    Args:
        batch: The batch, before it runs.
        tracer: Makes the span; by default one of the global tracer provider.
        name: Of the span; by default `batch` and the name of the batch.
        attributes: Further ones.

    Yields:
        The span, for further attributes.

    Raises:
        TypeError: `batch` is not a `Batch`.
    """
    check_instance("batch", batch, Batch, call="with batch_span(batch): await batch.run()")
    told = {f"{_PREFIX}.batch.name": batch.name, **(attributes or {})}
    with _tracer(tracer).start_as_current_span(
        name or f"batch {batch.name}",
        attributes=told,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        finally:
            counts = batch.progress.value
            for field in ("total", "succeeded", "failed", "timed_out", "cancelled", "not_started"):
                count = getattr(counts, field)
                if count is not None:
                    span.set_attribute(f"{_PREFIX}.batch.{field}", count)
            _note_error(span, sys.exc_info()[1], type_of_error)


@final
class ItemSpans(Observer[Any, Any]):
    """Makes spans for items of one batch: `Batch(fn, items, observer=ItemSpans(sample=0.1))`.

    The span of an item is a child of the span that is current where the batch is run. It is current
    while the item's function runs, so what that starts are its children. It has the index and
    the outcome of the item, its attempts as events, and how long it waited before its start; never
    the item, its value, or the message of an error.

    A sampled share of the items have spans, evenly spread and the same in each run: with
    `sample=0.1` the items 0, 10, 20 and so on. The others have no span, and nothing that
    they start has one either. An item that fails or times out always has a span; made at its end,
    it has no children unless the item was sampled.

    A batch in a trace that is not sampled costs one look per item.

    Args:
        sample: The share of items with a span, from 0 to 1.
        tracer: Makes the spans; by default one of the global tracer provider.
        name: The name of the spans.
        attributes: Further attributes of each span.
        error_type: Returns the value of `error.type` for an exception; by default the name of its
            class. It must not return the message, which may contain secrets.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `sample` is not from 0 to 1.
    """

    def __init__(
        self,
        *,
        sample: float = 1.0,
        tracer: trace.Tracer | None = None,
        name: str = "item",
        attributes: Mapping[str, AttributeValue] | None = None,
        error_type: Callable[[BaseException], str] = type_of_error,
    ) -> None:
        check_number("sample", sample, call="ItemSpans(sample=0.1)", minimum=0)
        if sample > 1:
            raise ValueError(f"sample must be at most 1, got {sample}: write ItemSpans(sample=0.1)")
        self._sample = sample
        self._tracer = _tracer(tracer)
        self._name = name
        self._attributes = dict(attributes or {})
        self._error_type = error_type
        # The context in which the batch runs, and one in which no span is made; of one run.
        self._outer = self._quiet = Context()
        self._recording = False
        # Sampled items in flight: at most as many as the batch has slots.
        self._open: dict[int, tuple[Span, Token[Context]]] = {}
        self._waiting: dict[int, tuple[str, float]] = {}

    def started(self, index: int, item: Any) -> None:
        """Begin the span of a sampled item, or make what the item starts invisible."""
        del item
        current = otel_context.get_current()
        if current is not self._quiet and current is not self._outer:
            self._begin_run(current)
        if not self._recording:
            return
        if not self._is_sampled(index):
            if current is not self._quiet:
                # Stays until this worker has an item with a span: the context is the worker's.
                otel_context.attach(self._quiet)
            return
        span = self._tracer.start_span(
            self._name, context=self._outer, attributes=self._attributes_of(index)
        )
        if (waited := self._waiting.pop(index, None)) is not None:
            reason, since = waited
            span.set_attribute(f"{_PREFIX}.item.waited_for", reason)
            span.set_attribute(f"{_PREFIX}.item.waited_seconds", trio.current_time() - since)
        token = otel_context.attach(trace.set_span_in_context(span, self._outer))
        self._open[index] = span, token

    def ended(self, outcome: Outcome[Any, Any]) -> None:
        """End the span of an item; one that failed without a span has it now."""
        if not self._recording:
            return
        opened = self._open.pop(outcome.index, None)
        if opened is not None:
            span, token = opened
            otel_context.detach(token)
        elif outcome.status is ItemStatus.SUCCEEDED:
            return
        else:
            began = time.time_ns() - int(outcome.elapsed * _NANOSECONDS)
            span = self._tracer.start_span(
                self._name,
                context=self._outer,
                attributes=self._attributes_of(outcome.index),
                start_time=began,
            )
        span.set_attribute(f"{_PREFIX}.item.status", outcome.status.value)
        if outcome.attempts != 1:
            span.set_attribute(f"{_PREFIX}.item.attempts", outcome.attempts)
        if outcome.status is ItemStatus.TIMED_OUT:
            _set_error(span, "timeout")
        elif outcome.error is not None:
            _set_error(span, self._error_type(outcome.error))
        span.end()

    def cut(self, index: int, item: Any) -> None:
        """End the span of an item that a cancel ended."""
        del item
        self._waiting.clear()
        if (opened := self._open.pop(index, None)) is not None:
            span, _ = opened  # the context belonged to a worker that has ended
            span.set_attribute(f"{_PREFIX}.item.status", ItemStatus.CANCELLED.value)
            span.set_attribute("error.type", "cancelled")
            span.end()

    def retried(
        self, index: int, item: Any, *, attempt: int, error: Exception, delay: float
    ) -> None:
        """Note a failed attempt."""
        del item
        if (opened := self._open.get(index)) is not None:
            opened[0].add_event(
                "retry",
                {
                    f"{_PREFIX}.item.attempt": attempt,
                    f"{_PREFIX}.item.delay_seconds": delay,
                    "error.type": self._error_type(error),
                },
            )

    def waiting(self, index: int, item: Any, *, reason: str) -> None:
        """Note since when and for what a sampled item waits."""
        del item
        if self._is_sampled(index):
            self._waiting.setdefault(index, (reason, trio.current_time()))

    def _begin_run(self, current: Context) -> None:
        """Take the context of a run, in which its workers begin."""
        around = trace.get_current_span(current).get_span_context()
        self._outer = current
        self._recording = not around.is_valid or around.trace_flags.sampled
        unsampled = SpanContext(
            trace_id=around.trace_id or random.getrandbits(128),
            span_id=around.span_id or random.getrandbits(64),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.DEFAULT),
            trace_state=around.trace_state,
        )
        self._quiet = trace.set_span_in_context(trace.NonRecordingSpan(unsampled), current)

    def _is_sampled(self, index: int) -> bool:
        return math.floor(index * self._sample) != math.floor((index - 1) * self._sample)

    def _attributes_of(self, index: int) -> dict[str, AttributeValue]:
        return {f"{_PREFIX}.item.index": index, **self._attributes}


def _tracer(given: trace.Tracer | None) -> trace.Tracer:
    return trace.get_tracer(_PREFIX) if given is None else given


def _note_error(
    span: Span, error: BaseException | None, type_of: Callable[[BaseException], str]
) -> None:
    if isinstance(error, Exception):
        _set_error(span, type_of(error))
    elif error is not None:  # a cancel, or a group with one in it
        span.set_attribute("error.type", "cancelled")


def _set_error(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


def _headers_of_trace() -> dict[str, str]:
    """Return the trace context of the current task, as headers name it."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


# From now on `run_in_cluster` passes the trace to its nodes.
carry_trace(_headers_of_trace)
