"""Streamable HTTP in this process, over real sockets."""

import logging
import os
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
import trio.testing
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from sse_starlette.sse import EventSourceResponse
from trio.testing import wait_all_tasks_blocked

from nursery_patterns import current_request
from tests.transports.lines import call, cancel, make_server, request
from tests.transports.requests import (
    PING,
    Reader,
    connect,
    exchange,
    get,
    http_server,
    modern,
    modern_call,
    open_session,
    post,
)
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http, serve_stdio
from trio_tools.transports.http import asgi_guard as gate_module
from trio_tools.transports.http import http11 as connections_module
from trio_tools.transports.http import request_body

SECRET, OTHER = "s" * 32, "o" * 32


@pytest.fixture(autouse=True)
async def _in_time():
    with trio.fail_after(30):
        yield


# The client leaves async generators of its HTTP library to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_is_served_in_both_eras(mode):
    async with http_server() as address, Client(address.url, mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"nap", "talk", "echo"}
        assert (await client.call_tool("echo", {"text": "ü"})).content[0].text == "ü"


async def test_several_servers_live_in_one_process_and_one_can_stop():
    async with http_server() as first:
        async with http_server() as second:
            assert first.port != second.port
        assert (await exchange(first, get("/healthz"))).status == 200
        with pytest.raises(OSError, match="connect"):
            await connect(second)


async def test_a_server_that_was_made_with_settings_is_served_by_them(monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_HTTP__PATH", "/elsewhere")
    server = create_server(Settings(http={"port": 0, "path": "/here", "tokens": {"me": SECRET}}))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_http, server=server))
        assert address.url.endswith("/here")
        anonymous = await exchange(address, post(PING, path="/here"))
        assert anonymous.status == 401
        nursery.cancel_scope.cancel()


async def test_a_plain_server_is_served_by_the_settings_of_the_environment(monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_HTTP__PORT", "0")
    monkeypatch.setenv("TRIO_TOOLS_HTTP__PATH", "/elsewhere")
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_http, server=make_server()))
        assert address.url.endswith("/elsewhere")
        nursery.cancel_scope.cancel()


async def test_stdio_too_is_served_by_the_settings_of_the_server(monkeypatch):
    graces = []

    async def serve_streams(*_, grace_seconds, **__):
        graces.append(grace_seconds)

    monkeypatch.setattr("trio_tools.transports.stdio.serve.serve_streams", serve_streams)
    monkeypatch.setenv("TRIO_TOOLS_SHUTDOWN_GRACE_SECONDS", "7")
    await serve_stdio(server=create_server(Settings(shutdown_grace_seconds=3)))
    await serve_stdio(server=make_server())
    await serve_stdio(Settings(shutdown_grace_seconds=2), server=make_server())
    assert graces == [3, 7, 2]


async def test_a_taken_port_is_an_error_and_starts_nothing():
    entered = []
    server = make_server()
    async with http_server() as address:
        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with http_server(server, port=address.port):
                entered.append(True)
    assert entered == []
    assert len(server.middleware) == len(make_server().middleware)


async def test_a_server_that_is_being_served_is_not_served_a_second_time():
    server = make_server()
    async with http_server(server) as first:
        with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
            async with http_server(server):
                pass
        assert (await exchange(first, modern_call(1, "echo", text="x"))).status == 200
    async with http_server(server) as again:
        assert (await exchange(again, modern_call(1, "echo", text="x"))).status == 200


@asynccontextmanager
async def breaks_at_its_end(_):
    """A lifespan."""
    yield
    raise ZeroDivisionError("at the end")


@contextmanager
def pipes():
    """Stand in for the claim to standard input and output."""
    ends = [*os.pipe(), *os.pipe()]
    try:
        yield ends[0], ends[3]
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("serve", [serve_http, serve_stdio])
async def test_what_the_lifespan_raises_at_its_end_comes_out_of_a_cancelled_server(
    serve, monkeypatch
):
    monkeypatch.setattr("trio_tools.transports.stdio.serve.claim_stdio", pipes)
    server = MCPServer("plain", lifespan=breaks_at_its_end)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, Settings(http={"port": 0}), server=server))
            nursery.cancel_scope.cancel()


async def test_other_addresses_need_tokens():
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with http_server(host="0.0.0.0"):
            pass


async def test_health_needs_neither_token_nor_host():
    async with http_server(tokens={"alice": SECRET}) as address:
        for path, text in (("/healthz", b"alive\n"), ("/readyz", b"ready\n")):
            answer = await exchange(address, get(path, host="probe.example"))
            assert (answer.status, answer.body) == (200, text)


@pytest.mark.parametrize("path", ["/mcp", "/metrics"])
async def test_host_origin_and_token_guard_every_other_path(path):
    token = {"authorization": f"Bearer {SECRET}"}
    async with http_server(tokens={"alice": SECRET}) as address:
        raw = get(path, host="evil.example", **token)
        assert (await exchange(address, raw)).status == 421
        raw = get(path, origin="http://evil.example", **token)
        assert (await exchange(address, raw)).status == 403
        assert (await exchange(address, get(path, authorization="Bearer no"))).status == 401
        answer = await exchange(address, get(path))
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await exchange(address, get(path, **token))).status in {200, 400, 406}


async def test_the_tokens_name_reaches_the_tools_in_both_eras():
    server = make_server()

    @server.tool()
    async def who() -> str:
        """Say who asks, from a child task."""
        names = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: names_from_child(names))
        return names[0]

    async def names_from_child(names):
        await trio.lowlevel.checkpoint()
        names.append(current_request().client_id)

    async with http_server(server, tokens={"alice": SECRET, "bob": OTHER}) as address:
        for name, secret in (("alice", SECRET), ("bob", OTHER)):
            token = {"authorization": f"Bearer {secret}"}
            answer = await exchange(address, modern_call(1, "who", headers=token))
            assert answer.json()["result"]["structuredContent"] == {"result": name}
            session = await open_session(address, **token)
            answer = await exchange(address, post(call(1, "who"), **session))
            assert answer.json()["result"]["structuredContent"] == {"result": name}


async def test_a_session_belongs_to_the_client_that_opened_it():
    async with http_server(tokens={"alice": SECRET, "bob": OTHER}) as address:
        session = await open_session(address, authorization=f"Bearer {SECRET}")
        stolen = {**session, "authorization": f"Bearer {OTHER}"}
        assert (await exchange(address, post(PING, **stolen))).status == 404
        assert (await exchange(address, post(PING, **session))).status == 200


async def test_bodies_and_headers_have_bounds():
    async with http_server(max_body_bytes=10_000, max_header_bytes=4_000) as address:
        assert (await exchange(address, post(b"x" * 20_000))).status == 413
        assert (await exchange(address, get("/mcp", big="x" * 5_000))).status == 431
        assert (await exchange(address, get("/mcp", big="x" * 200_000))).status == 431
        assert (await exchange(address, modern(PING))).status == 404  # 2026 has no ping


async def test_a_body_that_says_it_is_too_long_is_not_waited_for():
    async with http_server(max_body_bytes=10_000) as address:
        with trio.fail_after(5):
            answer = await exchange(address, post(b"x", **{"content-length": "99999999999"}))
    assert answer.status == 413


@pytest.mark.parametrize("size", [20_000, 3_000_000])
async def test_a_refusal_reaches_a_client_that_is_still_sending(size):
    async with http_server(max_body_bytes=10_000) as address:
        for _ in range(20):
            answer = await exchange(address, post(b"x" * size))
            assert (answer.status, answer.body) == (413, b"The body is longer than 10000 bytes.\n")


async def test_a_refusal_is_whole_whatever_comes_behind_it():
    async with http_server() as address:
        for _ in range(20):
            async with await connect(address) as stream:
                await stream.send_all(post(PING, host="evil.example") + get("/readyz"))
                reader = Reader(stream)
                refusal = await reader.read()
                assert (refusal.status, refusal.body[:9]) == (421, b"This Host")
                assert (await reader.read()).body == b"ready\n"


async def test_a_client_that_does_not_hang_up_in_its_turn_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(connections_module, "LINGER_SECONDS", 0.1)
    async with http_server() as address, await connect(address) as stream:
        await stream.send_all(modern_call(1, "echo", text="x", headers={"connection": "close"}))
        assert (await Reader(stream).read()).status == 200
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"x")
                    await trio.sleep(0.01)


async def test_a_connection_that_is_hung_up_in_the_middle_of_a_request_is_not_reset():
    length = {"content-length": "5", "transfer-encoding": "chunked"}
    raw = post(b"", **length) + b"0\r\n\r\n" + b"x" * 300_000
    async with http_server() as address:
        for _ in range(20):
            async with await connect(address) as stream:
                await stream.send_all(raw)
                assert b"200" not in b"".join([bytes(data) async for data in stream])


async def test_who_was_answered_and_does_not_hang_up_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(connections_module, "LINGER_SECONDS", 60)
    async with AsyncExitStack() as clients:
        with trio.fail_after(10):
            async with http_server(grace_seconds=60) as address:
                for _ in range(50):
                    stream = await clients.enter_async_context(await connect(address))
                    headers = {"connection": "close"}
                    await stream.send_all(modern_call(1, "echo", text="x", headers=headers))
                    assert (await Reader(stream).read()).status == 200


async def metrics(address):
    return (await exchange(address, get("/metrics"))).body


@pytest.mark.parametrize("end", ["leaves", "resets"])
async def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing(end):
    async with http_server() as address:
        for _ in range(10):
            stream = await connect(address)
            await stream.send_all(post(PING)[:-1])
            if end == "resets":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.sleep(0.02)
            await stream.aclose()
        while b"\ntrio_tools_connections 1.0" not in await metrics(address):  # noqa: ASYNC110
            await trio.sleep(0.05)


@pytest.mark.parametrize("leaves", ["call", "stream"])
async def test_a_client_that_disconnects_with_a_queued_request_leaves_nothing(leaves, monkeypatch):
    monkeypatch.setattr(EventSourceResponse, "DEFAULT_PING_INTERVAL", 0.05)
    async with http_server() as address:
        session = await open_session(address)
        first = (
            post(call(1, "nap", seconds=0.2), **session)
            if leaves == "call"
            else get("/mcp", accept="text/event-stream", **session)
        )
        async with await connect(address) as stream:
            await stream.send_all(first + get("/healthz") + get("/healthz"))
            await trio.sleep(0.1)
        while b"\ntrio_tools_connections 1.0" not in await metrics(address):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def test_a_client_that_sends_on_after_its_refusal_is_hung_up_on():
    async with http_server(max_body_bytes=10_000) as address, await connect(address) as stream:
        await stream.send_all(post(b"", **{"content-length": "100000000"}))
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x" * 65536)


@pytest.mark.parametrize(
    "body",
    [b"{bad", b"\xff\xfe", b"[" * 100_000, b"[]", b"{}", b'{"jsonrpc":"2.0","id":1}', b""],
)
async def test_a_body_that_is_no_message_is_refused_in_both_eras(body):
    async with http_server() as address:
        for headers in ({}, {"mcp-protocol-version": "2026-07-28"}):
            answer = await exchange(address, post(body, **headers))
            assert answer.status == 400
        assert (await exchange(address, get("/readyz"))).status == 200


async def test_pipelined_requests_are_answered_in_order():
    async with http_server() as address, await connect(address) as stream:
        calls = [modern_call(number, "echo", text=str(number)) for number in range(20)]
        await stream.send_all(b"".join(calls))
        reader = Reader(stream)
        ids = [(await reader.read()).json()["id"] for _ in range(20)]
    assert ids == list(range(20))


@pytest.mark.parametrize("path", ["/mcp", "/healthz"])
async def test_a_body_of_two_lengths_is_refused_with_all_that_comes_behind_it(path):
    end, behind = b"0\r\n\r\n", get("/metrics")
    length = {"content-length": str(len(end + behind)), "transfer-encoding": "chunked"}
    raw = post(b"", path=path, **length) + end
    async with http_server() as address:
        answer = await exchange(address, raw)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        async with await connect(address) as stream:
            await stream.send_all(raw + behind)
            said = b"".join([bytes(data) async for data in stream])
            assert b"200" not in said


async def test_half_a_request_holds_nothing_up(monkeypatch):
    async with http_server() as address:
        async with await connect(address) as half:
            await half.send_all(post(PING)[:-5])
            assert (await exchange(address, modern_call(1, "echo", text="x"))).status == 200
        assert (await exchange(address, get("/readyz"))).status == 200


async def test_a_body_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.1)
    async with http_server() as address:
        assert (await exchange(address, post(PING)[:-5])).status == 408


async def test_headers_that_drip_are_given_up(monkeypatch):
    monkeypatch.setattr(connections_module, "HEADER_SECONDS", 0.3)
    async with http_server() as address, await connect(address) as stream:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            for byte in get("/mcp", padding="x" * 1000):
                await stream.send_all(bytes([byte]))
                with trio.move_on_after(0.02):
                    assert await stream.receive_some(1)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_connection_that_is_done_with_is_closed(era, monkeypatch):
    monkeypatch.setattr(connections_module, "HEADER_SECONDS", 0.2)
    async with http_server() as address:
        session = await open_session(address) if era == "legacy" else {}
        for headers in ({"connection": "close"}, {}):
            raw = (
                post(call(1, "echo", text="x"), **session, **headers)
                if era == "legacy"
                else modern_call(1, "echo", text="x", headers=headers)
            )
            async with await connect(address) as stream:
                await stream.send_all(raw)
                assert (await Reader(stream).read()).status == 200
                with trio.fail_after(5):
                    assert await stream.receive_some() == b""


async def test_the_bodies_of_all_requests_have_a_bound(monkeypatch):
    monkeypatch.setattr(gate_module, "MAX_BODIES_BYTES", 30_000)
    async with http_server() as address, await connect(address) as half:
        await half.send_all(post(b"x" * 20_000)[:-1])
        await trio.sleep(0.1)
        answer = await exchange(address, post(b"x" * 20_000))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await exchange(address, modern_call(1, "echo", text="x"))).status == 200
        await half.send_all(b"x")  # and its bytes are given back when it has ended
        assert (await Reader(half).read()).status == 400
        assert (await exchange(address, post(b"x" * 20_000))).status == 400


async def test_one_client_cannot_hold_all_that_the_bodies_of_requests_may_weigh(monkeypatch):
    monkeypatch.setattr(gate_module, "MAX_BODIES_BYTES", 100_000)
    tokens = {"alice": SECRET, "bob": "b" * 32}
    alice, bob = ({"authorization": f"Bearer {token}"} for token in tokens.values())
    async with http_server(tokens=tokens) as address, AsyncExitStack() as clients:
        for _ in range(3):
            half = await clients.enter_async_context(await connect(address))
            await half.send_all(post(b"x" * 25_000, **alice)[:-1])
        await trio.sleep(0.2)
        refused = await exchange(address, post(b"x" * 10_000, **alice))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"wait for answers" in refused.body
        assert (await exchange(address, post(b"x" * 20_000, **bob))).status == 400


async def test_a_request_for_a_stream_of_notifications_has_a_lower_bound():
    wanted = {"resourceSubscriptions": ["operation://" + "x" * 100] * 200}
    message = request(1, "subscriptions/listen", notifications=wanted)
    async with http_server() as address:
        answer = await exchange(address, modern(message))
        assert (answer.status, answer.body) == (413, b"The body is longer than 16384 bytes.\n")


async def test_one_connection_over_the_bound_is_told_so():
    async with http_server(max_connections=2) as address:
        async with await connect(address) as one, await connect(address) as two:
            for stream in (one, two):
                await stream.send_all(get("/healthz"))
                assert (await Reader(stream).read()).status == 200
            async with await connect(address) as three:
                answer = await Reader(three).read()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        # Whoever leaves makes room at once.
        await trio.sleep(0.1)
        assert (await exchange(address, get("/healthz"))).status == 200


async def test_a_client_has_its_share_of_calls_in_both_eras():
    async with (
        http_server(max_calls_per_client=2) as address,
        trio.open_nursery() as nursery,
    ):
        for number in range(2):
            nursery.start_soon(exchange, address, modern_call(number, "nap", seconds=2))
        await trio.sleep(0.5)
        session = await open_session(address)
        for raw in (modern_call(3, "echo", text="x"), post(call(3, "echo", text="x"), **session)):
            result = (await exchange(address, raw)).json()["result"]
            assert result["isError"]
            assert result["structuredContent"]["data"]["error_code"] == "OVERLOADED"
            # Two in flight, taken to take a second each.
            assert 0.5 <= result["structuredContent"]["data"]["retry_after_seconds"] < 2
        # What is no call is not counted.
        assert (await exchange(address, post(PING, **session))).json()["result"] == {}
        nursery.cancel_scope.cancel()


async def test_a_client_has_its_share_of_calls_over_time():
    async with http_server(calls_per_second_per_client=2) as address:
        errors = [
            (await exchange(address, modern_call(n, "echo", text=""))).json()["result"]["isError"]
            for n in range(3)
        ]
    assert errors == [False, False, True]


async def test_a_client_that_leaves_cancels_its_call():
    server, ended = make_server(), trio.Event()

    @server.tool()
    async def hang() -> str:
        """Wait for the cancel."""
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with http_server(server) as address:
        async with await connect(address) as stream:
            await stream.send_all(modern_call(1, "hang"))
            await trio.sleep(0.2)
            assert not ended.is_set()
        with trio.fail_after(2):
            await ended.wait()


async def test_a_client_that_cancels_and_leaves_at_once_logs_no_traceback(caplog):
    async with http_server() as address:
        for _ in range(20):
            session = await open_session(address)
            end = post(b"", **session).replace(b"POST", b"DELETE", 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange, address, post(call(1, "nap", seconds=60), **session))
                await trio.sleep(0.01)
                for raw in (post(cancel(1), **session), end, post(cancel(1), **session)):
                    nursery.start_soon(exchange, address, raw)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_stop_lets_calls_answer_and_refuses_new_ones(caplog):
    answers = {}

    async def keep(name, raw):
        answers[name] = await exchange(address, raw)

    async with trio.open_nursery() as nursery, http_server(grace_seconds=1) as address:
        session = await open_session(address)
        nursery.start_soon(keep, "short", modern_call(1, "nap", seconds=0.7))
        nursery.start_soon(keep, "long", modern_call(2, "nap", seconds=50))
        nursery.start_soon(keep, "old", post(call(3, "nap", seconds=50), **session))
        await trio.sleep(0.3)
        started = trio.current_time()
        nursery.start_soon(after, 0.2, keep, "late", modern_call(4, "echo", text=""))
        nursery.start_soon(after, 0.2, keep, "ready", get("/readyz"))
        nursery.start_soon(after, 0.2, keep, "alive", get("/healthz"))
    assert trio.current_time() - started < 1 + 1
    assert answers["short"].json()["result"]["content"][0]["text"] == "slept 0.7"
    for name in ("long", "old"):
        assert answers[name].json()["error"]["code"] == -32000
    assert answers["late"].status == 503
    assert (answers["ready"].status, answers["ready"].body) == (503, b"stopping\n")
    assert answers["alive"].status == 200


async def after(seconds, fn, *args):
    await trio.sleep(seconds)
    await fn(*args)


async def test_a_client_that_never_reads_does_not_keep_the_server():
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(raw))
    async with stream:
        async with http_server(grace_seconds=0.2) as address:
            await stream.socket.connect((address.host, address.port))
            await stream.send_all(modern_call(1, "talk", token="t", messages=100_000))
            await trio.sleep(0.3)
            assert (await exchange(address, get("/readyz"))).status == 200
            started = trio.current_time()
        assert trio.current_time() - started < 0.2 + 1


async def test_a_client_that_stopped_reading_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections_module, "STALL_SECONDS", 0.3)
    server, ended = make_server(), trio.Event()
    talk = server.tool("talk2")

    @talk
    async def talk2(text: str) -> str:
        """Answer with much."""
        try:
            return text * 10_000_000
        finally:
            ended.set()

    async with http_server(server) as address, await connect(address) as stream:
        await stream.send_all(modern_call(1, "talk2", text="x"))
        await ended.wait()
        await trio.sleep(1)
        with pytest.raises((trio.BrokenResourceError, EOFError)):
            while True:
                if not await stream.receive_some():
                    raise EOFError


async def test_metrics_count_calls_and_no_client_can_grow_them():
    async with http_server() as address:
        await exchange(address, modern_call(1, "echo", text="x"))
        for number in range(20):
            await exchange(address, modern_call(2, f"invented-{number}"))
        await trio.testing.wait_all_tasks_blocked(0.05)  # those connections are gone
        answer = await exchange(address, get("/metrics"))
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'trio_tools_calls_total{outcome="succeeded",tool="echo"} 1.0' in text
    assert 'trio_tools_calls_total{outcome="failed",tool="other"} 20.0' in text
    assert "invented" not in text
    assert "trio_tools_connections 1.0" in text


async def test_what_is_refused_is_logged_without_secrets_and_nothing_else_configured(caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    before = logging.getLogger().handlers[:]
    async with http_server(tokens={"alice": SECRET}) as address:
        await exchange(address, get("/mcp", authorization=f"Bearer {OTHER}"))
        async with await connect(address) as stream:
            await stream.send_all(PREFACE)
            assert await stream.receive_some()
    said = [(each.getMessage(), getattr(each, "fields", {})) for each in caplog.records]
    assert said[0][0].startswith("serving MCP at http://")
    (first, fields), second, third, (last, _) = said[1:]
    assert "bearer token is needed" in first
    assert fields == {"status": 401, "peer": "127.0.0.1"}
    assert second == (
        "refused a request: HTTP Version Not Supported",
        {"status": 505, "peer": "127.0.0.1"},
    )
    assert third == ("stopping: cancelled", {"reason": "cancelled"})
    assert last.startswith("stopped after ")
    assert OTHER not in caplog.text
    assert logging.getLogger().handlers == before


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
H2C = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABk"}


async def test_http_2_is_answered_with_505_and_the_connection_is_closed():
    async with http_server(tokens={"alice": SECRET}) as address:
        async with await connect(address) as stream:
            await stream.send_all(PREFACE)
            said = b"".join([bytes(data) async for data in stream])
        assert said.startswith(b"HTTP/1.1 505 ")
        assert b"\r\nconnection: close\r\n" in said.lower()


@pytest.mark.parametrize("settings", ["AAMAAABk", "!!!!", None])
async def test_an_offer_of_h2c_is_ignored_and_http_1_goes_on(settings):
    raw = get("/healthz", **{**H2C, "http2-settings": settings})
    async with http_server() as address, await connect(address) as stream:
        await stream.send_all(raw + get("/readyz"))
        reader = Reader(stream)
        assert (await reader.read()).body == b"alive\n"
        assert (await reader.read()).body == b"ready\n"


@pytest.mark.parametrize("raw", [PREFACE, get("/healthz", **H2C)], ids=["preface", "upgrade"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_what_spoke_http_2_leaves_no_connection_behind(raw, leaves, monkeypatch):
    monkeypatch.setattr(connections_module, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(connections_module, "LINGER_SECONDS", 0.2)
    async with http_server() as address, AsyncExitStack() as clients:
        for _ in range(20):
            stream = await clients.enter_async_context(await connect(address))
            await stream.send_all(raw)
            if leaves:
                await stream.aclose()
        while b"\ntrio_tools_connections 1.0" not in await metrics(address):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def idle_connections(clients, address, number):
    """Open connections, ask each for /healthz and leave it idle."""
    for _ in range(number):
        stream = await clients.enter_async_context(await connect(address))
        await stream.send_all(get("/healthz"))
        assert (await Reader(stream).read()).status == 200


async def test_idle_peers_without_a_token_cannot_take_every_place():
    token = {"authorization": f"Bearer {SECRET}"}
    async with (
        http_server(tokens={"alice": SECRET}, max_connections=10) as address,
        AsyncExitStack() as clients,
    ):
        await idle_connections(clients, address, 10)
        known = await clients.enter_async_context(await connect(address))
        reader = Reader(known)
        await known.send_all(modern_call(1, "echo", text="x", headers=token))
        assert (await reader.read()).status == 200
        await idle_connections(clients, address, 20)
        # The one with a token has kept its place.
        await known.send_all(modern_call(2, "echo", text="x", headers=token))
        assert (await reader.read()).status == 200


async def test_bodies_that_drip_without_end_cannot_take_every_place():
    async with (
        http_server(tokens={"alice": SECRET}, max_connections=5) as address,
        AsyncExitStack() as clients,
    ):
        for path in ("/mcp", "/healthz") * 5:
            stream = await clients.enter_async_context(await connect(address))
            await stream.send_all(post(b"x" * 100, path=path)[:-1])
        raw = modern_call(1, "echo", text="x", headers={"authorization": f"Bearer {SECRET}"})
        assert (await exchange(address, raw)).status == 200


async def test_one_address_has_a_share_of_the_places_and_its_newcomers_replace_its_idle_ones():
    async with http_server(max_connections_per_peer=2) as address, AsyncExitStack() as clients:
        await idle_connections(clients, address, 10)
        assert b"\ntrio_tools_connections 2.0" in await metrics(address)
        for number in range(2):
            stream = await clients.enter_async_context(await connect(address))
            await stream.send_all(modern_call(number, "nap", seconds=60))
        await trio.sleep(0.2)
        async with await connect(address) as refused:
            assert (await Reader(refused).read()).status == 503


@pytest.mark.parametrize("tokens", [{}, {"alice": SECRET}])
@pytest.mark.parametrize("max_waiting", [0, 1, 2, 4])
async def test_the_calls_of_one_client_alone_do_not_make_the_server_unready(tokens, max_waiting):
    limits = {"max_calls": 2, "max_waiting": max_waiting}
    server = create_server(Settings(limits={"fetch_urls": limits}))
    line = server.state.admission_of("fetch_urls")
    async with http_server(server, tokens=tokens) as address, trio.open_nursery() as nursery:

        async def call(key):
            async with line.slot(key):
                await trio.sleep_forever()

        for _ in range(2 + max_waiting):
            nursery.start_soon(call, "anonymous")
        await wait_all_tasks_blocked()
        assert line.full
        assert (await exchange(address, get("/readyz"))).body == b"ready\n"
        nursery.cancel_scope.cancel()
    assert not line.full
    async with http_server(server, tokens=tokens) as address, trio.open_nursery() as nursery:
        for key in range(2 + max_waiting):
            nursery.start_soon(call, key)
        await wait_all_tasks_blocked()
        answer = await exchange(address, get("/readyz"))
        assert (answer.status, answer.body) == (503, b"overloaded\n")
        nursery.cancel_scope.cancel()


async def test_what_is_over_a_share_counts_as_overloaded():
    async with http_server(calls_per_second_per_client=1) as address:
        for number in range(3):
            await exchange(address, modern_call(number, "echo", text="x"))
        text = (await exchange(address, get("/metrics"))).body.decode()
    assert 'trio_tools_calls_total{outcome="succeeded",tool="echo"} 1.0' in text
    assert 'trio_tools_calls_total{outcome="overloaded",tool="echo"} 2.0' in text


async def test_an_offer_of_a_websocket_is_ignored():
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    async with http_server() as address:
        raw = get("/mcp", **upgrade, **{"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})
        assert (await exchange(address, raw)).status == (
            await exchange(address, get("/mcp"))
        ).status


@pytest.mark.parametrize("raw", [b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n", get("/healthz")])
async def test_a_kept_connection_goes_on_behind_an_answer_without_a_body(raw):
    async with http_server() as address, await connect(address) as stream:
        await stream.send_all(raw + b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        said = b"".join([bytes(data) async for data in stream])
        assert said.endswith(b"\r\n\r\nready\n")
        assert said.count(b"HTTP/1.1 200") == 2


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it():
    raw = modern_call(1, "echo", text="x", headers={"expect": "100-continue"})
    head, _, body = raw.partition(b"\r\n\r\n")
    async with http_server() as address, await connect(address) as stream:
        await stream.send_all(head + b"\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
        await stream.send_all(body)
        assert (await Reader(stream).read()).status == 200
