"""What is stored stays within `state.max_bytes`, and no result goes for another one of its call."""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest
import trio

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import call_as, envelope_of
from trio_tools.operations.durable import writer
from trio_tools.operations.durable.disk_budget import DiskBudget
from trio_tools.operations.durable.pruning import Kept, doomed
from trio_tools.transports.memory import connect_in_process

PAGE = 2_000
BOUND = 400_000  # of these, operations of the one who holds most start no item from 375,000 on
gate = trio.Event()


async def page(number: int) -> str:
    """Return 2 kB; a negative number waits first until somebody opens the gate."""
    await trio.lowlevel.checkpoint()
    if number < 0:
        await gate.wait()
    return f"{number:08}" * (PAGE // 8)


@pytest.fixture(autouse=True)
def closed_gate(monkeypatch):
    monkeypatch.setitem(globals(), "gate", trio.Event())
    monkeypatch.setattr(writer, "_ROOM_SECONDS", 0.02)


def bounded(state, **more):
    return server_with(page, state=state["state"] | {"max_bytes": BOUND, **more})


def stored(path):
    """Return the bytes of results that are stored, by operation."""
    with closing(sqlite3.connect(path)) as database:
        return dict(
            database.execute(
                "SELECT operation_id, sum(length(data)) FROM operations JOIN outcomes USING (key) "
                "GROUP BY key ORDER BY key"
            ).fetchall()
        )


async def batch(client, operation_id, items, **options):
    asked = {"operation": "page", "items": [*items], "operation_id": operation_id, **options}
    return await envelope_of(client, "batch_process", asked)


async def ended(client, operation_id):
    """Wait for the end of an operation in the background; return what is told of it."""
    with trio.fail_after(60):
        while True:
            asked = {"operation_id": operation_id, "wait_seconds": 5}
            told = await envelope_of(client, "get_operation", asked)
            if not told["data"]["running"]:
                return told


async def succeeded(client, operation_id):
    page = await envelope_of(client, "get_operation", {"operation_id": operation_id})
    return page["data"]["counts"]["succeeded"] if page["success"] else page["data"]["error_code"]


@pytest.mark.parametrize("background", [False, True])
async def test_a_call_stops_at_the_bound_and_all_that_finished_stays(state, state_file, background):
    async with connect_in_process(bounded(state)) as client:
        done = await batch(client, "op", range(500), max_concurrent=2, background=background)
        if background:
            done = await ended(client, "op")
        counts = done["data"]["counts"]
        assert 183 <= counts["succeeded"] <= 189
        assert counts["succeeded"] + counts["not_started"] == 500
        assert not done["data"]["complete"]
        assert any("state.max_bytes" in warning for warning in done["meta"]["warnings"])
    assert stored(state_file)["op"] <= BOUND
    async with connect_in_process(bounded(state)) as client:  # and is not taken up again
        assert await succeeded(client, "op") == counts["succeeded"]
        page = await envelope_of(client, "get_operation", {"operation_id": "op"})
        assert not page["data"]["running"]
    async with connect_in_process(bounded(state, max_bytes=2 * 10**6)) as client:
        again = await batch(client, "op", range(500))
        assert again["data"]["complete"]


async def test_idle_operations_make_room_the_oldest_first(state, state_file):
    async with connect_in_process(bounded(state)) as client:
        for number in range(12):
            done = await batch(client, f"op{number}", range(50))
            assert done["data"]["complete"]
        assert await succeeded(client, "op11") == 50
    left = stored(state_file)
    assert list(left) == [f"op{number}" for number in range(12 - len(left), 12)]
    assert 2 * BOUND / 3 < sum(left.values()) < BOUND


async def test_a_client_that_holds_less_goes_on_and_loses_nothing(state, state_file):
    server = bounded(state)

    async def call(client, operation_id, items, **options):
        asked = {"operation": "page", "items": [*items], "operation_id": operation_id, **options}
        return await call_as(server, client, "batch_process", asked)

    async with connect_in_process(server):
        small = await call("small", "kept", range(10))
        assert small["data"]["complete"]
        cut = await call("large", "op", range(500), max_concurrent=1)
        assert 0 < cut["data"]["counts"]["not_started"] < 350
        # The large one has stopped a little before the bound.
        assert (await call("small", "more", range(5)))["data"]["complete"]
        assert list(stored(state_file)) == ["kept", "op", "more"]
        # What it needs beyond that, the one makes room for that holds most.
        assert (await call("small", "most", range(40)))["data"]["complete"]
    assert list(stored(state_file)) == ["kept", "more", "most"]


async def test_a_client_that_holds_less_waits_for_one_that_fills_the_state(state):
    server = bounded(state)

    async def call(client, operation_id, items, **options):
        asked = {"operation": "page", "items": [*items], "operation_id": operation_id, **options}
        return await call_as(server, client, "batch_process", asked)

    async with connect_in_process(server), trio.open_nursery() as nursery:
        # Its first item is still in flight when the state is full.
        nursery.start_soon(call, "large", "op", [-1, *range(300)])
        with trio.fail_after(60):
            while not server.state.store.writer._disk.may_be_full(0):  # noqa: ASYNC110
                await trio.sleep(0.01)
        told = await call("small", "cut", range(100), max_concurrent=1, timeout_seconds=2)
        assert told["data"]["counts"]["succeeded"] < 100
        gate.set()
        told = await call("small", "done", range(100), max_concurrent=1)
        assert told["data"]["complete"]


def test_of_an_owner_who_holds_less_nothing_goes():
    rows = [
        Kept(1, "small", 10, 1.0, idle=True),
        Kept(2, "large", 50, 2.0, idle=False),
        Kept(3, "large", 20, 3.0, idle=True),
        Kept(4, "middle", 30, 4.0, idle=True),
    ]
    assert doomed(rows, oldest=0.0, max_bytes=0, needed_by="large") == [3]
    assert doomed(rows, oldest=0.0, max_bytes=0, needed_by="small") == [3, 4, 1]
    assert doomed(rows, oldest=0.0, max_bytes=95, needed_by="small") == [3]
    assert doomed(rows, oldest=0.0, max_bytes=0) == [3, 4, 1]


def test_the_owner_who_holds_most_stops_a_little_before_the_others():
    class Database:
        def make_room(self, owner, *, ttl, max_bytes):
            assert ttl == 5.0
            asked.append((owner, max_bytes))
            return Counter({"large": 100, "small": 50})

    asked = []
    budget = DiskBudget(160, ttl=5.0, now=lambda: 1.0)
    assert not budget.may_be_full(150)
    assert budget.may_be_full(151)
    budget.wrote({"small": 1}, Database())
    assert asked == [("", 2**62)]  # the first commit counts, and makes no room
    assert budget.is_full("large", 1, 0)
    assert not budget.is_full("small", 1, 0)
    assert budget.is_full("small", 1, 50)
    assert budget.is_full("small", 11, 0)
    assert budget.has_most("large")
    assert not budget.has_most("small")
    assert not budget.has_most("new")
    budget.wrote({"small": 5, "new": 5}, Database())
    assert len(asked) == 1
    assert budget.is_full("new", 1, 0)
    budget.wrote({"small": 10}, Database())
    budget.make_room("small", 3, Database())
    assert asked[1:] == [("", 2**62), ("small", 137)]
