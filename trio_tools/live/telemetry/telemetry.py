"""`Telemetry`: on while the server serves, flushed at its end. Imports OpenTelemetry when it is on.

Spans and metrics are sent in threads, so a slow or unavailable receiver delays nothing. When the
last connection ends, the rest is sent, also in a thread, within one second.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import trio

from nursery_patterns import run_in_thread
from trio_tools.live.figures import Figure
from trio_tools.settings import Settings
from trio_tools.settings.telemetry.seam import current_tracing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from trio_tools.live.telemetry.meters import Meters
    from trio_tools.live.telemetry.providers import Providers
    from trio_tools.live.telemetry.spans import OtelTracing

FLUSH_SECONDS: Final = 1.0
"""Time to send the rest at the end, if nothing was cancelled."""

LEAST_FLUSH_SECONDS: Final = 0.15
"""The same after a cancel."""

# Part of the stop's grace period that is reserved for the rest of the shutdown.
_SPARE_SECONDS: Final = 0.05
_NAME: Final = "trio_tools"
_VARIABLES: Final = {
    "OTEL_TRACES_EXPORTER": ("otlp", "none"),
    "OTEL_METRICS_EXPORTER": ("otlp", "none"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ("http/protobuf",),
}


class Telemetry:
    """The telemetry of one server.

    Args:
        settings: The operator's settings.
        figures: Returns the figures of the server; called in the event loop.
        tracer_provider: The application's, used instead of one from the settings; it is not
            closed.
        meter_provider: The same for metrics.

    Attributes:
        tracing: Makes the spans while the server serves; None while telemetry is off.

    Raises:
        ValueError: Telemetry is on and OpenTelemetry's SDK is not installed, or the environment
            requires an unsupported exporter.
    """

    def __init__(
        self,
        settings: Settings,
        figures: Callable[[], Iterable[Figure]],
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._given = tracer_provider, meter_provider
        self._has_own = tracer_provider is None and meter_provider is None
        if self._has_own and settings.telemetry.enabled:
            _check_installed()
            _check_environment()
        self.tracing: OtelTracing | None = None
        self._own: Providers | None = None
        self._meters: Meters | None = None
        self._connections = 0

    @property
    def is_on(self) -> bool:
        """Whether spans or metrics are sent."""
        return self._settings.telemetry.enabled or not self._has_own

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Send telemetry within the block. Of overlapping blocks, the last one closes it."""
        if self.is_on and not self._connections:
            self._open()
        self._connections += 1
        token = current_tracing.set(self.tracing)
        try:
            yield
        finally:
            current_tracing.reset(token)
            self._connections -= 1
            if not self._connections:
                own, self._own, self.tracing = self._own, None, None
                if self._meters is not None:
                    self._meters.take(self._figures())
                if own is not None:
                    await _close(own.close)

    async def send_metrics(self) -> None:
        """Take and send the figures repeatedly: a job of a serving server."""
        meters, own = self._meters, self._own
        if meters is None:
            return
        from trio_tools.live.telemetry.providers import seconds_between_metrics  # noqa: PLC0415

        seconds, one_at_a_time = seconds_between_metrics(), trio.CapacityLimiter(1)
        while True:
            meters.take(self._figures())
            await trio.sleep(seconds)
            meters.take(self._figures())
            if own is not None:
                await run_in_thread(own.send, limiter=one_at_a_time, abandon_on_cancel=True)

    def _open(self) -> None:
        from opentelemetry.trace import NoOpTracerProvider  # noqa: PLC0415 - the extra

        from trio_tools.live.telemetry.meters import Meters  # noqa: PLC0415
        from trio_tools.live.telemetry.providers import Providers  # noqa: PLC0415
        from trio_tools.live.telemetry.spans import OtelTracing  # noqa: PLC0415

        settings = self._settings.telemetry
        tracers, meters = self._given
        if self._has_own:
            self._own = Providers(settings, self._settings.name)
            tracers, meters = self._own.tracer_provider, self._own.meter_provider
        meter = None if meters is None else meters.get_meter(_NAME)
        self._meters = None if meter is None else Meters(meter)
        self.tracing = OtelTracing(
            (tracers or NoOpTracerProvider()).get_tracer(_NAME),
            meter,
            item_sample=settings.item_sample,
            url_paths=settings.url_paths,
        )


async def _close(close: Callable[[], None]) -> None:
    """Send the rest while the stop has time for it, and then abandon the thread."""
    now = trio.current_time()
    latest = min(now + FLUSH_SECONDS, trio.current_effective_deadline() - _SPARE_SECONDS)
    deadline = max(now + LEAST_FLUSH_SECONDS, latest)
    with trio.CancelScope(shield=True, deadline=deadline):
        await run_in_thread(close, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)


def _check_installed() -> None:
    for module in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = find_spec(module) is not None
        except ModuleNotFoundError:  # or its parent package is missing
            found = False
        if not found:
            raise ValueError(
                f"telemetry.enabled needs {module}, which is not installed: pip install "
                "'trio-tools[telemetry]', or set telemetry.enabled to false"
            )


def _check_environment() -> None:
    """Refuse settings with which nothing would be sent.

    Raises:
        ValueError: A variable names an unsupported exporter.
    """
    for name, allowed in _VARIABLES.items():
        value = os.environ.get(name, "").strip().lower()
        if value and value not in allowed:
            raise ValueError(
                f"{name} is {value!r}, and this server sends by OTLP over HTTP alone: set it to "
                f"{' or '.join(allowed)}, or leave it out"
            )
