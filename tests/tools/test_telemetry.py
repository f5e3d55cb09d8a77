"""Spans and metrics of a server: what is in them, where they belong, and where they go."""

import json
import os
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio

from tests.support.raw_http_servers import answering, reply, serving
from tests.support.servers_in_memory import connected, envelope_of
from tests.support.upstreams import small
from trio_tools import Operation, Settings, create_server

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra telemetry is not installed")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
SECRET = "hush-hush-123"


class Recorded:
    """Providers of an application, and what came to them."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.spans_to = TracerProvider(shutdown_on_exit=False)
        self.spans_to.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.metrics_to = MeterProvider([self.reader], shutdown_on_exit=False)

    def server(self, *operations, **settings):
        return create_server(
            Settings(**{"telemetry": {"item_sample": 1}, **settings}),
            operations=operations,
            tracer_provider=self.spans_to,
            meter_provider=self.metrics_to,
        )

    def named(self, name):
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def the(self, name):
        (span,) = self.named(name)
        return span

    def text(self):
        """Return all that was told, to search it for what must not be told."""
        return "".join(span.to_json() for span in self.exporter.get_finished_spans())


@pytest.fixture
def recorded():
    return Recorded()


@asynccontextmanager
async def clean(server, recorded, era="auto"):
    """Connect, and forget the spans of connecting."""
    async with connected(server, era) as client:
        recorded.exporter.clear()
        yield client


def parent_of(span):
    return format(span.parent.span_id, "016x")


def id_of(span):
    return format(span.context.span_id, "016x")


async def half(number: float) -> float:
    await trio.lowlevel.checkpoint()
    if number == 0:
        raise ZeroDivisionError(SECRET)
    return number / 2


HALF = Operation(name="half", fn=half)


async def test_a_call_its_batch_and_its_items_are_spans_in_the_trace_of_the_caller(recorded, era):
    async with clean(recorded.server(HALF), recorded, era) as client:
        await client.call_tool(
            "batch_process",
            {"operation": "half", "items": [2, 4, 0]},
            meta={"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
        )
    call = recorded.the("tools/call batch_process")
    assert format(call.context.trace_id, "032x") == TRACE_ID
    assert parent_of(call) == CALLER
    assert call.context.trace_state.get("vendor") == "1"
    told = dict(call.attributes)
    assert told.pop("jsonrpc.request.id")
    assert told.pop("mcp.protocol.version")
    assert told == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "batch_process",
        "network.transport": "pipe",
    }
    batch = recorded.the("batch half")
    assert parent_of(batch) == id_of(call)
    assert batch.attributes["trio_tools.tool"] == "batch_process"
    assert batch.attributes["nursery_patterns.batch.failed"] == 1
    items = sorted(
        recorded.named("item"), key=lambda s: s.attributes["nursery_patterns.item.index"]
    )
    assert [parent_of(item) for item in items] == [id_of(batch)] * 3
    assert [item.attributes.get("error.type") for item in items] == [None, None, "INTERNAL"]
    assert SECRET not in recorded.text()


async def test_a_call_that_fails_says_how_and_repeats_nothing_of_the_client(recorded):
    async with clean(recorded.server(HALF), recorded) as client:
        await client.call_tool("batch_process", {"operation": SECRET, "items": [1]})
        await client.call_tool(SECRET, {"text": SECRET})
    known, unknown = recorded.the("tools/call batch_process"), recorded.the("tools/call")
    for span in (known, unknown):
        assert span.attributes["error.type"] == "tool_error"
        assert span.status.description is None
    assert known.attributes["trio_tools.error_code"] == "UNKNOWN_OPERATION"
    assert unknown.attributes["trio_tools.error_code"] == "UNKNOWN_TOOL"
    assert "gen_ai.tool.name" not in unknown.attributes
    assert SECRET not in recorded.text()


async def test_a_call_that_is_cancelled_ends_its_spans(recorded, autojump_clock):
    nap = Operation(name="nap", fn=trio.sleep, item_type=float)
    async with clean(recorded.server(nap), recorded) as client:
        with trio.move_on_after(1):
            await client.call_tool("batch_process", {"operation": "nap", "items": [9, 9]})
        await trio.sleep(1)
    for name in ("tools/call batch_process", "batch nap"):
        assert recorded.the(name).attributes["error.type"] == "cancelled"
    assert len(recorded.named("item")) == 2


async def test_the_trace_goes_on_to_apis_and_not_to_foreign_pages(recorded, monkeypatch):
    monkeypatch.setitem(os.environ, "SHOP_KEY", SECRET)
    async with (
        serving(answering(reply(b"{}", "Content-Type: application/json"))) as api,
        serving(answering(reply(b"gone", status="404 Not Found"))) as page,
    ):
        server = recorded.server(
            apis={"shop": {"base_url": f"{api.url}/base", "auth_env": "SHOP_KEY"}},
            fetch={"allow_private": True, "ports": None},
        )
        async with clean(server, recorded) as client:
            await client.call_tool(
                "call_external_api",
                {"api": "shop", "path": "/orders", "query": {"token": SECRET}},
                meta={"traceparent": TRACEPARENT, "baggage": "team=blue"},
            )
            await client.call_tool("fetch_urls", {"urls": [f"{page.url}/a?key={SECRET}"]})
    (to_api,), (to_page,) = api.requests, page.requests
    sent, fetched = recorded.named("GET")
    assert f"traceparent: 00-{TRACE_ID}-{id_of(sent)}-01\r\n".encode() in to_api
    assert b"baggage: team=blue\r\n" in to_api
    assert b"traceparent" not in to_page
    assert b"baggage" not in to_page
    assert dict(sent.attributes) == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "url.full": f"{api.url}/REDACTED",
        "http.response.status_code": 200,
    }
    assert fetched.attributes["url.full"] == f"{page.url}/REDACTED"
    assert fetched.attributes["error.type"] == "404"
    assert parent_of(fetched) == id_of(recorded.the("item"))
    assert SECRET not in recorded.text()


async def test_paths_are_told_where_the_operator_wants_it_and_queries_never(recorded):
    async with serving(answering(reply(b"ok"))) as page:
        server = recorded.server(
            fetch={"allow_private": True, "ports": None}, telemetry={"url_paths": True}
        )
        async with clean(server, recorded) as client:
            await client.call_tool("fetch_urls", {"urls": [f"{page.url}/a/b?key={SECRET}#c"]})
    assert recorded.the("GET").attributes["url.full"] == f"{page.url}/a/b"
    assert SECRET not in recorded.text()


async def test_the_trace_goes_on_to_upstreams_in_meta(recorded, tmp_path):
    told = tmp_path / "told"
    upstream = small("tell-meta", env={"UPSTREAM_TRACE": str(told)})
    async with clean(recorded.server(upstreams={"small": upstream}), recorded) as client:
        asked = {"operation": "small.echo", "items": [{"text": SECRET}]}
        answer = await envelope_of(
            client, "batch_process", asked, meta={"traceparent": TRACEPARENT, "baggage": "a=b"}
        )
    assert answer["data"]["complete"], answer
    called = recorded.the("tools/call echo")
    assert dict(called.attributes) == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "network.transport": "pipe",
        "mcp.protocol.version": "2025-06-18",
    }
    assert parent_of(called) == id_of(recorded.the("item"))
    (line,) = [line for line in told.read_text().splitlines() if line.startswith("meta ")]
    meta = json.loads(line.removeprefix("meta "))
    assert meta["traceparent"] == f"00-{TRACE_ID}-{id_of(called)}-01"
    assert meta["baggage"] == "a=b"
    assert SECRET not in recorded.text()


async def test_items_without_a_span_hand_on_that_they_are_not_sampled(recorded):
    async with serving(answering(reply(b"ok"))) as page:
        server = recorded.server(
            fetch={"allow_private": True, "ports": None}, telemetry={"item_sample": 0}
        )
        async with clean(server, recorded) as client:
            await client.call_tool("fetch_urls", {"urls": [f"{page.url}/{n}" for n in range(5)]})
    assert recorded.named("item") == recorded.named("GET") == []
    assert recorded.the("batch fetch").attributes["nursery_patterns.batch.succeeded"] == 5


@pytest.mark.parametrize("meta", [{"traceparent": "nonsense"}, {"traceparent": 5}, {}])
async def test_what_is_no_trace_begins_one(recorded, meta):
    async with clean(recorded.server(), recorded) as client:
        await client.call_tool("get_concurrency_status", {}, meta=meta)
    assert recorded.the("tools/call get_concurrency_status").parent is None


def points_of(recorded):
    data = recorded.reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_metrics_are_those_of_the_metrics_page_and_durations(recorded):
    async with clean(recorded.server(HALF), recorded) as client:
        await client.call_tool("batch_process", {"operation": "half", "items": [2, 0]})
    points = points_of(recorded)
    ended = {point.attributes["status"]: point.value for point in points["trio_tools_items"]}
    assert (ended["succeeded"], ended["failed"]) == (1, 1)
    assert {point.attributes["limit"] for point in points["trio_tools_in_use"]} >= {"half"}
    served = {
        point.attributes.get("gen_ai.tool.name"): point
        for point in points["mcp.server.operation.duration"]
    }
    assert served["batch_process"].count == 1


# Where spans and metrics go.


class Receiver:
    """A receiver of OTLP over HTTP. It answers when it may."""

    def __init__(self):
        self.requests = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), body))
                receiver.may_answer.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def bodies(self, path):
        return [body for got, _, body in self.requests if got == path]

    def spans(self):
        return [
            (resource.resource, span)
            for body in self.bodies("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self):
        return {
            metric.name
            for body in self.bodies("/v1/metrics")
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@contextmanager
def receiving():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


async def test_spans_and_metrics_go_to_a_receiver_of_otlp_and_none_is_lost_at_the_end(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    with receiving() as receiver:
        server = create_server(
            Settings(telemetry={"enabled": True, "endpoint": receiver.url}), operations=[HALF]
        )
        async with connected(server) as client:
            await client.call_tool("batch_process", {"operation": "half", "items": [2, 4]})
        spans = receiver.spans()
        assert {"tools/call batch_process", "batch half", "item"} <= {s.name for _, s in spans}
        resource = {a.key: a.value.string_value for a in spans[0][0].attributes}
        assert resource["service.name"] == "trio-tools"
        assert {"trio_tools_items", "mcp.server.operation.duration"} <= receiver.metrics()
        assert {headers["x-tenant"] for _, headers, _ in receiver.requests} == {"blue"}


async def test_the_environment_of_opentelemetry_holds(monkeypatch):
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        async with connected(create_server(Settings(telemetry={"enabled": True}))):
            pass
        names = {
            a.value.string_value
            for resource, _ in receiver.spans()
            for a in resource.attributes
            if a.key == "service.name"
        }
        assert names == {"ours"}
        assert receiver.metrics() == set()


async def test_a_receiver_that_does_not_answer_delays_neither_calls_nor_the_end():
    with receiving() as receiver:
        receiver.may_answer.clear()
        server = create_server(
            Settings(telemetry={"enabled": True, "endpoint": receiver.url}), operations=[HALF]
        )
        async with connected(server) as client:
            for _ in range(20):
                await client.call_tool("get_concurrency_status")
            closing = time.monotonic()
        assert time.monotonic() - closing < 10  # a second, on a machine that does nothing else
        receiver.may_answer.set()


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:4318", "grpc://collector:4317", "http://user:pw@collector", "http://c/?key=1"],
)
def test_an_endpoint_that_is_none_is_refused_with_the_fix(endpoint):
    with pytest.raises(ValueError, match="write it as in http://localhost:4318"):
        Settings(telemetry={"endpoint": endpoint})


def test_a_way_of_sending_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL") as caught:
        create_server(Settings(telemetry={"enabled": True}))
    assert str(caught.value) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and this server sends by OTLP over HTTP alone: "
        "set it to http/protobuf, or leave it out"
    )


def test_without_the_extra_the_setting_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(ValueError, match="telemetry") as caught:
        create_server(Settings(telemetry={"enabled": True}))
    assert str(caught.value) == (
        "telemetry.enabled needs opentelemetry.exporter.otlp.proto.http, which is not installed: "
        "pip install 'trio-tools[telemetry]', or set telemetry.enabled to false"
    )
