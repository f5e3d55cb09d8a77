"""Two servers that share a PostgreSQL database: either of them serves what the other one runs."""

import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from itertools import count

import pytest
import trio

from tests.processes.running import ROOT, environment
from tests.support.nginx import NEEDS_NGINX, free_port, nginx, until_it_listens
from tests.transports.requests import PING, Reader, exchange, modern_call, open_session, post
from trio_tools.transports.http import Address

DEPLOYING = ROOT / "docs" / "deploying"
ITEMS = 2_000
AT_ONCE = 10


@contextmanager
def replica(url, effects):
    given = environment(http__port=0, state__url=url, max_items=ITEMS) | {"EFFECTS": str(effects)}
    command = [sys.executable, "-m", "tests.support.replica"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=given, cwd=ROOT
    )
    with process:
        try:
            port = int(process.stdout.readline())
            yield process, Address("127.0.0.1", port, f"http://127.0.0.1:{port}/mcp")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def two_replicas(postgres_folder, tmp_path_factory):
    url = f"postgresql://postgres@/postgres?host={postgres_folder}"
    effects = tmp_path_factory.mktemp("replicas") / "effects"
    with replica(url, effects) as one, replica(url, effects) as other:
        yield one, other, effects


async def ask(address, tool, **arguments):
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(modern_call(1, tool, **arguments))
        answer = (await Reader(stream).read()).json()["result"]
    assert not answer["isError"], answer
    return answer["structuredContent"]["data"]


async def start(address, numbers, name):
    await ask(
        address,
        "batch_process",
        operation="note",
        items=list(numbers),
        background=True,
        max_concurrent=AT_ONCE,
        operation_id=name,
    )


async def test_the_other_replica_reads_waits_for_and_stops_what_one_runs(two_replicas):
    (_, one), (_, other), _ = two_replicas
    with trio.fail_after(120):
        await start(one, range(-ITEMS, 0), "stopped")
        seen = await ask(other, "get_operation", operation_id="stopped", wait_seconds=5)
        assert seen["running"]
        assert seen["counts"]["succeeded"] > 0
        stopped = await ask(other, "cancel_operation", operation_id="stopped")
        assert stopped["stopped"]
        read = [await ask(each, "get_operation", operation_id="stopped") for each in (one, other)]
        assert not any(each["running"] for each in read)
        done = {each["counts"]["succeeded"] for each in (*read, stopped)}
        assert len(done) == 1  # all tell the same
        assert done.pop() < ITEMS


async def test_a_cursor_of_one_replica_is_read_at_the_other(two_replicas):
    (_, one), (_, other), _ = two_replicas
    with trio.fail_after(120):
        items = list(range(10))
        await ask(one, "batch_process", operation="note", items=items, operation_id="paged")
        answer = await ask_whole(one, "get_operation", operation_id="paged", page_size=4)
        cursor = answer["meta"]["pagination"]["cursor"]
        rest = await ask(other, "get_operation", operation_id="paged", cursor=cursor)
        assert [outcome["index"] for outcome in rest["outcomes"]] == [4, 5, 6, 7, 8, 9]


async def ask_whole(address, tool, **arguments):
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await stream.send_all(modern_call(1, tool, **arguments))
        return (await Reader(stream).read()).json()["result"]["structuredContent"]


@asynccontextmanager
async def proxy_of(one, other, folder):
    port = free_port()
    changes = {
        "127.0.0.1:8001": f"127.0.0.1:{one.port}",
        "127.0.0.1:8002": f"127.0.0.1:{other.port}",
        "127.0.0.1:8080": f"127.0.0.1:{port}",
    }
    async with nginx(folder, DEPLOYING / "nginx-replicas.conf", changes):
        await until_it_listens(port)
        yield Address("127.0.0.1", port, f"http://127.0.0.1:{port}/mcp")


@NEEDS_NGINX
async def test_behind_nginx_a_client_keeps_its_replica_and_reads_what_the_other_one_runs(
    two_replicas, tmp_path
):
    (_, one), (_, other), _ = two_replicas
    with trio.fail_after(120):
        async with proxy_of(one, other, tmp_path) as proxy:
            sessions = [await open_session(proxy, authorization=f"Bearer {n}") for n in range(8)]
            for session in sessions:  # on a connection of its own each time
                for _ in range(3):
                    assert (await exchange(proxy, post(PING, **session))).json()["result"] == {}
            at_one = [(await exchange(one, post(PING, **each))).status for each in sessions]
            assert set(at_one) == {200, 404}  # both have clients
            await ask(proxy, "batch_process", operation="note", items=[1, 2], operation_id="both")
            for each in (one, other, proxy):
                seen = await ask(each, "get_operation", operation_id="both")
                assert seen["counts"]["succeeded"] == 2


@NEEDS_NGINX
async def test_a_replica_that_is_killed_behind_nginx_has_its_work_finished_by_the_other(
    two_replicas, tmp_path
):
    (process, one), (_, other), effects = two_replicas
    numbers = range(10_000, 10_000 + ITEMS)

    def done():
        lines = map(int, effects.read_text().split())
        return Counter(number for number in lines if number in numbers)

    with trio.fail_after(240):
        async with proxy_of(one, other, tmp_path) as proxy:
            client = Polling(proxy, await token_of_a_client_of(one, proxy))
            await start(one, numbers, "taken over")
            seen = await client.poll(0.1)
            while len(done()) < ITEMS / 4 or not seen["counts"]["succeeded"]:
                seen = await client.poll(0.1)
            assert not seen["complete"]
            process.kill()
            process.wait()
            told, begun = seen["counts"]["succeeded"], len(done())
            while not (seen := await client.poll(5))["complete"]:
                pass
    assert seen["counts"]["succeeded"] == ITEMS
    assert client.lost <= 1
    times = done()
    assert len(times) == ITEMS
    assert max(times.values()) <= 2
    # What an answer has reported is not done again; only what was in flight, or not committed yet.
    again = sum(each == 2 for each in times.values())
    assert told <= begun - again


async def token_of_a_client_of(replica, proxy):
    """Return a token with which the proxy sends a client to this replica."""
    for number in count():
        session = await open_session(proxy, authorization=f"Bearer {number}")
        if (await exchange(replica, post(PING, **session))).status == 200:
            return session["authorization"]
    raise AssertionError


class Polling:
    """A client behind the proxy that asks again if its answer was lost with a replica."""

    def __init__(self, proxy, authorization):
        self.proxy, self.headers = proxy, {"authorization": authorization}
        self.lost = 0

    async def poll(self, seconds):
        arguments = {"operation_id": "taken over", "wait_seconds": seconds}
        while True:
            call = modern_call(1, "get_operation", headers=self.headers, **arguments)
            answer = await exchange(self.proxy, call)
            if answer.status == 200:
                result = answer.json()["result"]
                assert not result["isError"], result
                return result["structuredContent"]["data"]
            assert answer.status == 502
            self.lost += 1
