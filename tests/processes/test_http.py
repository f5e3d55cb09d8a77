"""HTTP with a real process: abuse, stops in every state, and nothing left afterwards."""

import random
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from tests.processes.running import environment, http_process
from tests.transports.lines import call, request
from tests.transports.requests import (
    Reader,
    connect,
    exchange,
    get,
    modern,
    modern_call,
    open_session,
    post,
)


async def unread(address, raw):
    """A connection with a small window that sends and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    await stream.socket.connect((address.host, address.port))
    await stream.send_all(raw)
    return stream


async def sent(address, raw):
    stream = await connect(address)
    await stream.send_all(raw)
    return stream


async def keep_alive(address):
    stream = await sent(address, get("/healthz"))
    await Reader(stream).read()
    return stream


async def legacy_stream(address):
    session = await open_session(address)
    return await sent(address, get("/mcp", accept="text/event-stream", **session))


async def legacy_call(address):
    session = await open_session(address)
    return await sent(address, post(call(1, "nap", seconds=600), **session))


async def legacy_unread(address):
    session = await open_session(address)
    return await unread(address, post(call(1, "talk", token="t", messages=10**6), **session))


STATES = {
    "idle": None,
    "a kept connection": keep_alive,
    "a call": lambda address: sent(address, modern_call(1, "nap", seconds=600)),
    "a call of the older era": legacy_call,
    "a stream of the older era": legacy_stream,
    "a stream of the newer era": lambda address: sent(
        address, modern(request(1, "subscriptions/listen", notifications={}))
    ),
    "answers unread": lambda address: unread(
        address, modern_call(1, "talk", token="t", messages=10**6)
    ),
    "answers of the older era unread": legacy_unread,
    "half a header": lambda address: sent(address, b"POST /mcp HTTP/1.1\r\nho"),
    "half a body": lambda address: sent(address, modern_call(1, "nap", seconds=0)[:-9]),
    "a worker and a stuck thread": lambda address: sent(
        address, modern_call(1, "worker") + modern_call(2, "stuck_thread")
    ),
    "a stuck thread": lambda address: sent(address, modern_call(2, "stuck_thread")),
    "a held loop": lambda address: sent(address, modern_call(1, "held_loop", seconds=600)),
}


# The others are side by side on one server; each of these would hide them.
ALONE = ["idle", "a stuck thread", "a held loop"]
OTHERS = [state for state in STATES if state not in ALONE]


@pytest.mark.parametrize("states", [OTHERS, *([state] for state in ALONE)], ids=len)
async def test_a_signal_ends_the_process_in_time_in_every_state(states):
    async def ends(number):
        async with http_process() as server, AsyncExitStack() as connections:
            for state in states:
                if (reach := STATES[state]) is not None:
                    connections.push_async_callback((await reach(server.address)).aclose)
            await trio.sleep(0.4)
            server.kill(number)
            await server.ended()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends, signal.SIGTERM)
        nursery.start_soon(ends, signal.SIGINT)


async def test_a_thousand_connections_and_those_who_leave_without_a_word():
    async with http_process(http__max_connections=500) as server:
        address, before = server.address, descriptors(server)
        async with AsyncExitStack() as connections:
            for number in range(1000):
                raw = (b"", b"G", get("/mcp")[:-2], post(b"{}")[:-1])[number % 4]
                stream = await connect(address)
                connections.push_async_callback(stream.aclose)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(raw)
            await trio.sleep(0.3)
            assert descriptors(server) <= before + 510
        with trio.fail_after(10):
            # It is another process, which tells nobody when it has noticed.
            while (await exchange(address, get("/readyz"))).status != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)
            assert (await exchange(address, modern_call(1, "echo", text="x"))).status == 200
            while descriptors(server) > before + 2:  # noqa: ASYNC110
                await trio.sleep(0.1)
        server.kill()
        await server.ended()


async def test_calls_in_both_eras_leave_nothing_behind():
    async with http_process(http__calls_per_second_per_client=10_000) as server:
        address = server.address

        async def calls(number):
            session = await open_session(address)
            for _ in range(5):
                for raw in (
                    modern_call(number, "nap", seconds=0.01),
                    post(call(number, "nap", seconds=0.01), **session),
                ):
                    answer = (await exchange(address, raw)).json()
                    assert answer["id"] == number
                    assert not answer["result"]["isError"]

        await calls("warm")
        before = descriptors(server)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(calls, number)
        await trio.sleep(0.3)
        assert descriptors(server) <= before + 2
        status = (await exchange(address, modern_call(1, "get_concurrency_status"))).json()
        data = status["result"]["structuredContent"]["data"]
        assert data["work_for_departed_callers"] == 0
        assert len(data["calls"]) <= 1
        await exchange(address, modern_call(2, "compute_hash", text="x"))
        metrics = (await exchange(address, get("/metrics"))).body.decode()
        assert 'trio_tools_calls_total{outcome="succeeded",tool="nap"} 210.0' in metrics
        for live in ('calls_running{tool="', 'in_use{limit="', "blocked_steps_total "):
            assert f"trio_tools_{live}" in metrics
        server.kill()
        await server.ended()


async def test_a_signal_at_any_moment_under_load_ends_cleanly():
    dice = random.Random(7)

    async def load(address, name, answered):
        with suppress(OSError, trio.BrokenResourceError):
            while True:
                answer = await exchange(address, modern_call(name, "nap", seconds=0.02))
                if answer is None or answer.status == 503:
                    return
                assert answer.json()["id"] == name
                answered.append(name)

    async def ends(number, delay):
        answered = []
        async with http_process() as server, trio.open_nursery() as nursery:
            for name in range(10):
                nursery.start_soon(load, server.address, name, answered)
            await trio.sleep(delay)
            server.kill(number)
            await server.ended()
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number in (signal.SIGTERM, signal.SIGINT):
            nursery.start_soon(ends, number, dice.uniform(0.1, 0.6))


async def test_a_port_that_is_taken_is_one_clear_error_and_no_traceback_of_ours():
    async with http_process() as first:
        code = (
            "import trio\n"
            "from trio_tools.settings import Settings\n"
            "from trio_tools.transports import serve_http\n"
            "try:\n"
            f"    trio.run(serve_http, Settings(http={{'port': {first.address.port}}}))\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)\n"
        )
        result = await trio.run_process(
            [sys.executable, "-c", code],
            capture_stdout=True,
            capture_stderr=True,
            env=environment(),
        )
        assert (result.stdout, result.stderr) == (b"OSError\n", b"")
        first.kill()
        await first.ended()


async def test_a_hangup_reads_the_tokens_again_and_ends_nothing(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"me {'x' * 32}\n")
    async with http_process(http__token_file=file) as server:
        file.write_text(f"me {'y' * 32}\n")
        server.kill(signal.SIGHUP)
        raw = get("/metrics", authorization=f"Bearer {'y' * 32}")
        with trio.fail_after(20):
            while (await exchange(server.address, raw)).status != 200:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert (await exchange(server.address, get("/readyz"))).status == 200
        server.kill()
        await server.ended()


def descriptors(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
