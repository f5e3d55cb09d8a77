"""A tool's thread that hears no cancel keeps neither its caller nor the host of the server."""

import threading

import pytest
import trio

from tests.support.servers_in_memory import connected, envelope_of, status_of
from tests.transports.lines import INITIALIZE, call, served
from tests.transports.requests import connect, http_server, modern_call
from trio_tools.operations.operation import Operation
from trio_tools.server import create_server
from trio_tools.settings import Settings

GRACE_SECONDS = 0.3
STUCK = {"operation": "stuck", "items": [1]}


@pytest.fixture
def release():
    """Ends the threads that are stuck."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def at_work():
    """Set once the item is in its thread."""
    return trio.Event()


@pytest.fixture
def server(release, at_work):
    def stuck(item: int) -> bool:
        trio.from_thread.run_sync(at_work.set)
        return release.wait()

    operation = Operation(name="stuck", fn=stuck, runs="thread")
    return create_server(Settings(), operations=[operation])


async def test_a_host_gets_control_back_from_http_in_time(server, at_work):
    with trio.fail_after(10):
        async with http_server(server, grace_seconds=GRACE_SECONDS) as address:
            stream = await connect(address)
            await stream.send_all(modern_call(1, "batch_process", **STUCK))
            await at_work.wait()
            started = trio.current_time()
        assert trio.current_time() - started < GRACE_SECONDS + 1
    await stream.aclose()


async def test_a_host_gets_control_back_from_stdio_in_time(server, at_work):
    with trio.fail_after(10):
        async with served(server, grace_seconds=GRACE_SECONDS) as client:
            await client.write(INITIALIZE, call(1, "batch_process", **STUCK))
            await at_work.wait()
            started = trio.current_time()
        assert trio.current_time() - started < GRACE_SECONDS + 1


async def test_the_status_counts_a_thread_that_was_left_behind_until_it_ends(server, release):
    async with connected(server) as client:
        asked = {**STUCK, "timeout_seconds": 0.1}
        with trio.fail_after(5):
            answer = (await envelope_of(client, "batch_process", asked))["data"]
        assert answer["counts"]["cancelled"] == 1
        assert (await status_of(client))["work_for_departed_callers"] == 1
        release.set()
        with trio.fail_after(5):
            while (await status_of(client))["work_for_departed_callers"]:
                pass
