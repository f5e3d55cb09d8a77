"""The receivers of spans and metrics: OTLP over HTTP, from the settings and the environment.

The SDK exports in its own threads, with bounded queues. Records that do not fit are dropped, and
the event loop never waits.
"""

from __future__ import annotations

import math
import os
import uuid
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from trio_tools.settings import TelemetrySettings
from trio_tools.version import __version__

_USUAL_INTERVAL: Final = 60_000.0
_LEAST_INTERVAL: Final = 100.0


class Providers:
    """The OpenTelemetry providers of this server's own process.

    Args:
        settings: The settings of telemetry.
        name: The name of the server. It is the service name, unless the environment sets one.

    Attributes:
        tracer_provider: Makes tracers.
        meter_provider: Makes meters; None if no metrics are sent.
    """

    def __init__(self, settings: TelemetrySettings, name: str) -> None:
        resource = _resource(name)
        self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if _is_sent("OTEL_TRACES_EXPORTER"):
            spans = OTLPSpanExporter(endpoint=_endpoint(settings, "traces"))
            self.tracer_provider.add_span_processor(BatchSpanProcessor(spans))
        self.meter_provider: MeterProvider | None = None
        if settings.metrics and _is_sent("OTEL_METRICS_EXPORTER"):
            metrics = OTLPMetricExporter(endpoint=_endpoint(settings, "metrics"))
            # No thread of its own: the event loop takes the figures, and `send` sends them.
            reader = PeriodicExportingMetricReader(metrics, export_interval_millis=math.inf)
            self.meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)

    def send(self) -> None:
        """Send the current metrics. Blocks until they are sent or the timeout expires."""
        if self.meter_provider is not None:
            self.meter_provider.force_flush()

    def close(self) -> None:
        """Send the rest, and stop the threads. Blocks for 10 s if the receiver does not answer."""
        self.tracer_provider.shutdown()
        self.send()
        if self.meter_provider is not None:
            self.meter_provider.shutdown()


def seconds_between_metrics() -> float:
    """Return the interval between two exports of metrics, from `OTEL_METRIC_EXPORT_INTERVAL`."""
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    try:
        milliseconds = float(text or _USUAL_INTERVAL)
    except ValueError:
        milliseconds = _USUAL_INTERVAL
    if not math.isfinite(milliseconds):
        milliseconds = _USUAL_INTERVAL
    return max(milliseconds, _LEAST_INTERVAL) / 1_000


def _resource(name: str) -> Resource:
    told = {"service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    named = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not os.environ.get("OTEL_SERVICE_NAME") and f"{SERVICE_NAME}=" not in named:
        told[SERVICE_NAME] = name
    return Resource.create(told)


def _endpoint(settings: TelemetrySettings, signal: str) -> str | None:
    """Return the endpoint of a signal; None if the environment decides."""
    return None if settings.endpoint is None else f"{settings.endpoint}/v1/{signal}"


def _is_sent(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() != "none"
