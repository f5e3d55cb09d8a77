"""What only an attacker or a broken client sends, against a real process, which goes on serving."""

from contextlib import AsyncExitStack, suppress

import pytest
import trio

from tests.processes.running import http_process
from tests.processes.test_http import descriptors, unread
from tests.transports.requests import (
    PING,
    Reader,
    connect,
    exchange,
    get,
    modern_call,
    open_session,
    post,
)
from trio_tools.transports.http.http11 import HEADER_SECONDS

SECRET, OTHER = "s" * 32, "o" * 32
TOKEN = {"authorization": f"Bearer {SECRET}"}
MODERN = {"mcp-protocol-version": "2026-07-28"}


def tool_call(number):
    return modern_call(number, "echo", headers=TOKEN, text="x")


@pytest.fixture
async def server():
    """A server with a token. Whatever a test does to it, it serves on, and then ends cleanly."""
    tokens = f'{{"alice": "{SECRET}"}}'
    async with http_process(http__tokens=tokens, http__max_body_bytes=120_000) as server:
        assert (await exchange(server.address, tool_call(1))).status == 200
        before = descriptors(server)
        yield server
        with trio.fail_after(20):
            assert (await exchange(server.address, get("/readyz"))).body == b"ready\n"
            answer = (await exchange(server.address, tool_call(2))).json()
            assert answer["result"]["structuredContent"] == {"result": "x"}
        await trio.sleep(0.3)
        assert descriptors(server) <= before + 1
        server.kill()
        await server.ended()
        assert SECRET.encode() not in server.stderr
        assert OTHER.encode() not in server.stderr
        with pytest.raises(OSError, match="connect"):
            await connect(server.address)


REFUSED = {
    "a body that is too long": (post(b"x" * 150_000, **TOKEN), 413),
    "headers that are too long": (get("/mcp", **TOKEN, big="x" * 40_000), 431),
    "a header without end": (b"GET /mcp HTTP/1.1\r\nbig: " + b"x" * 100_000, 431),
    "what is no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00" + b"\r\n" * 40, 400),
    "a wrong Host": (get("/mcp", host="evil.example", **TOKEN), 421),
    "a wrong Origin": (get("/mcp", origin="http://evil.example", **TOKEN), 403),
    "a wrong token": (get("/mcp", authorization=f"Bearer {OTHER}"), 401),
    "no token": (get("/mcp"), 401),
    "metrics without a token": (get("/metrics"), 401),
    **{
        f"{what} in the {era} era": (post(body, **TOKEN, **headers), 400)
        for what, body in {
            "bad JSON": b'{"jsonrpc": "2.0", "id": 1,',
            "bad UTF-8": b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe"}',
            "deep JSON": b"[" * 100_000,
            "a batch": b"[]",
            "no message": b"{}",
        }.items()
        for era, headers in {"older": {}, "newer": MODERN}.items()
    },
}


async def test_what_cannot_be_served_is_refused_by_its_status(server):
    said = {what: await exchange(server.address, raw) for what, (raw, _) in REFUSED.items()}
    assert {what: answer and answer.status for what, answer in said.items()} == {
        what: status for what, (_, status) in REFUSED.items()
    }


async def test_pipelined_calls_are_answered_in_order(server):
    async with await connect(server.address) as stream:
        await stream.send_all(b"".join(tool_call(number) for number in range(50)))
        reader = Reader(stream)
        with trio.fail_after(20):
            assert [(await reader.read()).json()["id"] for _ in range(50)] == list(range(50))


async def test_two_hundred_that_drip_their_headers_hold_nobody_up_and_are_hung_up_on(server):
    hung_up = 0

    async def drip(stream):
        nonlocal hung_up
        with suppress(trio.BrokenResourceError):
            for byte in get("/mcp", padding="x" * 1000):
                await stream.send_all(bytes([byte]))
                with trio.move_on_after(0.5):
                    if not await stream.receive_some():
                        break
        hung_up += 1

    async with AsyncExitStack() as connections:
        streams = [await connect(server.address) for _ in range(200)]
        for stream in streams:
            connections.push_async_callback(stream.aclose)
        with trio.fail_after(HEADER_SECONDS + 10):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(drip, stream)
                await trio.sleep(1)
                started = trio.current_time()
                assert (await exchange(server.address, tool_call(1))).status == 200
                assert trio.current_time() - started < 1
    assert hung_up == 200


async def test_half_requests_and_streams_that_nobody_reads_hold_nobody_up(server):
    address = server.address
    raws = [
        post(PING, **TOKEN)[:-5],
        get("/mcp", **TOKEN)[:-2],
        *(modern_call(n, "talk", token="t", headers=TOKEN, messages=10**6) for n in range(20)),
    ]
    async with AsyncExitStack() as connections:
        for raw in raws:
            connections.push_async_callback((await unread(address, raw)).aclose)
        session = await open_session(address, **TOKEN)
        listening = get("/mcp", accept="text/event-stream", **session)
        connections.push_async_callback((await unread(address, listening)).aclose)
        await trio.sleep(1)
        for number in range(10):
            started = trio.current_time()
            assert (await exchange(address, tool_call(number))).status == 200
            assert (await exchange(address, post(PING, **session))).status == 200
            assert trio.current_time() - started < 1
