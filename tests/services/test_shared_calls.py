"""`Services.share`: calls that several callers need at once are made once."""

import socket

import pytest
import trio

from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.errors import FetchError
from trio_tools.services import Services
from trio_tools.settings import Settings


@pytest.fixture
def services():
    return Services(Settings(), api_limiter=trio.CapacityLimiter(1))


async def test_concurrent_calls_with_the_same_arguments_are_one(services, autojump_clock):
    calls = []

    async def look_up(host, port):
        calls.append((host, port))
        await trio.sleep(1)
        return host

    shared = services.share(look_up)
    async with services.opened(), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(shared, "a", 443)
        nursery.start_soon(shared, "b", 443)
    assert sorted(calls) == [("a", 443), ("b", 443)]
    assert trio.current_time() == 1


async def test_a_call_goes_on_in_the_next_connection_when_its_own_ends(services, autojump_clock):
    started = []

    async def look_up(host):
        started.append(trio.current_time())
        await trio.sleep(10)
        return host

    shared = services.share(look_up)
    first_may_end = trio.Event()

    async def first():
        async with services.opened():
            await first_may_end.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        async with services.opened():
            nursery.start_soon(shared, "a")
            await trio.sleep(4)
            first_may_end.set()
            assert await shared("a") == "a"
    assert started == [0, 4]
    assert trio.current_time() == 14


async def test_an_error_of_the_function_reaches_each_caller_once(services):
    calls = []

    async def fail(host):
        calls.append(host)
        await trio.lowlevel.checkpoint()
        raise RuntimeError("it is down")

    shared = services.share(fail)
    async with services.opened():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="it is down"):
                await shared("a")
    assert calls == ["a", "a"]


async def test_without_a_connection_each_call_is_made_by_itself(services):
    async def look_up(host):
        await trio.lowlevel.checkpoint()
        return host

    assert await services.share(look_up)("a") == "a"


async def test_a_server_looks_a_name_up_once_for_all_its_connections(services, monkeypatch):
    looked_up = []

    def getaddrinfo(host, port, **_):
        looked_up.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with services.opened():
        fetcher = await services.fetcher()
        failures = []

        async def fetch(path):
            try:
                await fetcher.fetch(FetchRequest(f"http://a.test/{path}"))
            except FetchError as error:
                failures.append(error.error_code)

        async with trio.open_nursery() as nursery:
            for path in range(8):
                nursery.start_soon(fetch, path)
    assert failures == ["DNS_FAILED"] * 8
    assert looked_up == ["a.test"]
