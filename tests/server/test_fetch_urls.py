"""`fetch_urls` over a web site in trouble, through a real client, real sockets and virtual time."""

from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from tests.support.servers_in_memory import connected, envelope_of, status_of, values_of
from trio_tools.server import create_server
from trio_tools.settings import Settings

PAGES = 200
KINDS = ("fine", "slow", "hangs", "breaks-off", "fine")


@asynccontextmanager
async def site():
    """Serve pages that behave as the last part of their path says; yield the address."""

    async def answer(stream):
        # A client whose time is up leaves in the middle.
        async with stream:
            with suppress(trio.BrokenResourceError):
                await serve(stream)

    async def serve(stream):
        async for request in stream:
            path = request.split()[1].decode()
            kind = path.rpartition("/")[2]
            if kind == "hangs":
                await trio.sleep_forever()
            await trio.sleep(1 if kind == "slow" else 0)
            length = 100 if kind == "breaks-off" else len(path)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            await stream.send_all(f"{head}{path}".encode())
            if kind == "breaks-off":
                return

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, answer, [listener]))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.fixture
def clock(mock_clock):
    """Virtual time that passes when nothing has moved for that long in real time, which both
    ends of the loopback sockets, being in this process, would have."""
    mock_clock.autojump_threshold = 0.2
    return mock_clock


@pytest.fixture
def server():
    doors = {"allow_private": True, "ports": None, "max_connections_per_host": 100}
    return create_server(Settings(fetch=doors, max_output_chars=100_000))


async def test_two_hundred_urls_in_three_seconds_are_all_accounted_for(server, era, clock):
    paths = [f"/{n}/{KINDS[n % len(KINDS)]}" for n in range(PAGES)]
    async with site() as address, connected(server, era) as client:
        arguments = {
            "urls": [f"{address}{path}" for path in paths],
            "max_concurrent": 50,
            "timeout_seconds": 3,
        }
        started = trio.current_time()
        envelope = await envelope_of(client, "fetch_urls", arguments)
        assert trio.current_time() - started <= 3.05
        status = await status_of(client)
    data = envelope["data"]
    counts = dict(data["counts"])
    assert counts.pop("concurrency_limit") == 50
    assert counts.pop("total") == sum(counts.values()) == PAGES
    assert len(values_of(data)) == counts["succeeded"]
    assert len(data["errors"]) == PAGES - counts["succeeded"]
    # Every one that finished is there as itself, in input order; every other one is named.
    finished = [result["url"].removeprefix(address) for result in values_of(data)]
    missing = [error["item"].removeprefix(address) for error in data["errors"]]
    assert [result["text"] for result in values_of(data)] == finished
    assert sorted(finished + missing) == sorted(paths)
    assert finished == [path for path in paths if path in set(finished)]
    assert {path.rpartition("/")[2] for path in finished} == {"fine", "slow"}
    codes = {e["item"].rpartition("/")[2]: e["error_code"] for e in data["errors"]}
    assert codes["breaks-off"] == "PROTOCOL_ERROR"
    assert codes["hangs"] in {"CANCELLED", "NOT_STARTED"}
    assert all(error["reason"] for error in data["errors"])
    assert data["complete"] is False
    assert data["timing"]["timeout_seconds"] == 3.0
    assert status["limits"]["fetch_urls"]["in_use"] == 0
    assert status["limits"]["fetch_urls"]["peak"] == 50


async def test_a_second_call_fetches_only_what_is_missing(server, clock):
    async with site() as address, connected(server) as client:
        arguments = {
            "urls": [f"{address}/{n}/{kind}" for n, kind in enumerate(["fine", "hangs", "slow"])],
            "timeout_seconds": 2,
            "operation_id": "mine",
        }
        first = (await envelope_of(client, "fetch_urls", arguments))["data"]
        before = (await status_of(client))["limits"]["fetch_urls"]["started"]
        second = (await envelope_of(client, "fetch_urls", arguments))["data"]
        after = (await status_of(client))["limits"]["fetch_urls"]["started"]
    assert [result["url"][-4:] for result in values_of(first)] == ["fine", "slow"]
    assert values_of(second) == values_of(first)
    assert (before, after) == (3, 4)
