"""The content of `/metrics`: ended calls, and the state of the live objects at the request.

Each server has its own registry, so several in one process do not add up. Label values are the
server's own names and never come from a request, so no client can make the text grow.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final, cast

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from trio_tools.live.figures import Figure, figures_of, process_figures
from trio_tools.live.state import ServerState
from trio_tools.live.workers import Sums
from trio_tools.transports.http.workers.siblings import Siblings
from trio_tools.version import __version__

OWN: Final = b"own"
"""The query of `/metrics` that requests the figures of only one worker."""

_BUILD: Final = {
    "version": __version__,
    "python": platform.python_version(),
    "trio": trio.__version__,
    "mcp": version("mcp"),
}
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The figures of one server, and a stage of its middleware that observes the calls.

    Args:
        state: The live objects, if the server has them.
        connections: Returns the number of open connections.
        restarts: Number of restarts of this worker; None for a single process.

    Attributes:
        tools: The names that may become labels; others count as `other`.
    """

    def __init__(
        self,
        state: ServerState | None,
        *,
        connections: Callable[[], int],
        restarts: int | None = None,
    ) -> None:
        self.tools: Collection[str] = ()
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "trio_tools_calls",
            "Tool calls that ended, by outcome.",
            ["tool", "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "trio_tools_call_seconds",
            "Time from a call's arrival to its end.",
            ["tool"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_Live(state, connections))
        # Under the names that common dashboards for processes use.
        ProcessCollector(registry=self._registry)
        if restarts is not None:
            Counter(
                "trio_tools_worker_restarts",
                "How often the worker was started again.",
                registry=self._registry,
            ).inc(restarts)

    def text(self) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, and count it if it is a tool call."""
        if ctx.method != "tools/call" or ctx.request_id is None:
            return await call_next(ctx)
        name = (ctx.params or {}).get("name")
        tool = name if isinstance(name, str) and name in self.tools else "other"
        started = trio.current_time()
        outcome = "cut short"  # for a cancel or a protocol error; an answer replaces it below
        try:
            result = await call_next(ctx)
            outcome = _outcome(result)
        finally:
            self._calls.labels(tool, outcome).inc()
            self._seconds.labels(tool).observe(trio.current_time() - started)
        return result


_ASK_WORKER: Final = b"GET /metrics?%s HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n" % OWN


async def metrics_of_all(
    own: Metrics, siblings: Siblings | None, scope: Scope
) -> tuple[bytes, str]:
    """Return the text of `/metrics` for a request. Each of several workers has its own label.

    Args:
        own: The figures of this process.
        siblings: The other workers; None for none.
        scope: The request.
    """
    await trio.lowlevel.checkpoint()
    text, content_type = own.text()
    if siblings is None or scope["query_string"] == OWN:
        return text, content_type
    texts = {siblings.place.index: text, **await siblings.ask_others(_ASK_WORKER)}
    return merged(texts), content_type


async def sums_of_all(own: Metrics, siblings: Siblings) -> dict[int, Sums | None]:
    """Return the figures of each worker, summed over labels; None if one does not answer."""
    texts = {siblings.place.index: own.text()[0], **await siblings.ask_others(_ASK_WORKER)}
    return {worker: None if text is None else _sums(text) for worker, text in texts.items()}


def _sums(text: bytes) -> Sums:
    sums: defaultdict[str, float] = defaultdict(float)
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            sums[sample.partition("{")[0]] += float(value)
    return sums


def merged(texts: Mapping[int, bytes | None]) -> bytes:
    """Return the figures of all workers as one text; None is one that did not answer."""
    families: dict[str, list[str]] = {}
    for worker, text in sorted(texts.items()):
        told = b"" if text is None else text
        family: list[str] = []
        for line in told.decode().splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line, [])
            elif line.startswith("# "):
                family += [] if line in family else [line]
            else:
                family.append(_labelled(line, worker))
        up = families.setdefault("# HELP trio_tools_worker_up Whether the worker answers.", [])
        up += [] if up else ["# TYPE trio_tools_worker_up gauge"]
        up.append(f'trio_tools_worker_up{{worker="{worker}"}} {1.0 if told else 0.0}')
    return "".join(
        f"{line}\n" for head, rest in families.items() for line in (head, *rest)
    ).encode()


def _labelled(sample: str, worker: int) -> str:
    label = f'worker="{worker}"'
    name, brace, labels = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{labels}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


class _Live(Collector):
    """Reads the live objects at each request; stores nothing."""

    def __init__(self, state: ServerState | None, connections: Callable[[], int]) -> None:
        self._state = state
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        """Yield the current figures."""
        yield _build()
        yield GaugeMetricFamily(
            "trio_tools_connections", "Connections open.", value=self._connections()
        )
        for figure in process_figures():
            yield _family(figure)
        for figure in () if self._state is None else figures_of(self._state):
            yield _family(figure)


def _family(figure: Figure) -> Metric:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = kind(figure.name, figure.help, labels=figure.labels)
    for labels, value in figure.values.items():
        family.add_metric(labels, value)
    return family


def _build() -> GaugeMetricFamily:
    build = GaugeMetricFamily(
        "trio_tools_build_info", "Always 1; the labels tell what runs.", labels=list(_BUILD)
    )
    build.add_metric(list(_BUILD.values()), 1)
    return build


def _outcome(result: HandlerResult) -> str:
    answer = result if isinstance(result, dict) else {}
    if not answer.get("isError"):
        return "succeeded"
    data = _within(_within(answer, "structuredContent"), "data")
    return str(data.get("error_type") or "failed")


def _within(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object `name` in an answer; empty if it has none."""
    inner = fields.get(name)
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
