"""The figures of the server as instruments of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from trio_tools.live.figures import Figure


class Meters:
    """Instruments that report the latest figures.

    The figures are read in the event loop, by `take`. A thread of OpenTelemetry calls the
    instruments, which read only the taken figures and no live object.

    Args:
        meter: Makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._latest: dict[str, Figure] = {}
        self._made: set[str] = set()

    def take(self, figures: Iterable[Figure]) -> None:
        """Replace the reported figures."""
        self._latest = latest = {figure.name: figure for figure in figures}
        for name, figure in latest.items():
            if name not in self._made:
                self._made.add(name)
                self._make(figure)

    def _make(self, figure: Figure) -> None:
        callbacks: list[Callable[[CallbackOptions], Iterable[Observation]]] = [
            partial(self._observe, figure.name)
        ]
        meter = self._meter
        make = (
            meter.create_observable_counter
            if figure.kind == "counter"
            else meter.create_observable_gauge
        )
        make(figure.name, callbacks=callbacks, description=figure.help)

    def _observe(self, name: str, _options: CallbackOptions) -> Iterable[Observation]:
        figure = self._latest.get(name)
        if figure is None:  # an upstream was removed from the settings
            return []
        return [
            Observation(value, dict(zip(figure.labels, labels, strict=True)))
            for labels, value in figure.values.items()
        ]
