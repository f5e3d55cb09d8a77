"""Quotas of a day hold across restarts, and over all servers of one state."""

import sqlite3
from contextlib import closing

import pytest
import trio

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import call_as
from trio_tools.live.usage import Usage
from trio_tools.operations.durable import tables
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.records import Counted, Use
from trio_tools.operations.durable.tables import VERSION
from trio_tools.operations.operation import Operation
from trio_tools.settings.groups.clients import ClientSettings
from trio_tools.transports.memory import connect_in_process

CLIENT = "alice"


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Let a busy machine take its time: no call here is to be counted without the state."""
    monkeypatch.setattr("trio_tools.operations.durable_store._COUNT_SECONDS", 30.0)
    monkeypatch.setattr("trio_tools.live.usage._COUNT_SECONDS", 30.0)


async def same(item: int) -> int:
    await trio.lowlevel.checkpoint()
    return item


def server_of(state, **quotas):
    clients = {CLIENT: quotas}
    return server_with(Operation(name="same", fn=same), clients=clients, **state)


async def run(server, items=1):
    asked = {"operation": "same", "items": list(range(items))}
    return await call_as(server, CLIENT, "batch_process", asked)


async def usage_of(server):
    status = await call_as(server, CLIENT, "get_concurrency_status")
    return status["data"]["usage"]


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request, state):
    """Settings of a state in a file, and in PostgreSQL."""
    if request.param == "sqlite":
        return state
    return {"state": {"url": request.getfixturevalue("postgres_url")}}


async def test_a_quota_of_calls_holds_across_a_restart(anywhere):
    for taken in (2, 1):
        server = server_of(anywhere, calls_per_day=3)
        async with connect_in_process(server):
            for _ in range(taken):
                assert (await run(server))["success"]
    server = server_of(anywhere, calls_per_day=3)
    async with connect_in_process(server):
        refused = await run(server)
        assert refused["data"]["error_code"] == "QUOTA_EXCEEDED"
        assert refused["data"]["used"] == 3
        assert (await usage_of(server))["calls_today"] == 3
        assert (await usage_of(server))["kept_in"] == "state"


async def test_a_quota_of_items_holds_across_a_restart(state):
    server = server_of(state, items_per_day=5)
    async with connect_in_process(server):
        await run(server, items=5)
    server = server_of(state, items_per_day=5)
    async with connect_in_process(server):
        refused = await run(server)
    assert refused["data"]["quota"] == "items_per_day"
    assert refused["data"]["used"] == 5


async def test_servers_of_one_state_take_no_call_too_many_together(anywhere, monkeypatch):
    monkeypatch.setitem(globals(), "CLIENT", "bob")  # the database may be that of another test
    servers = [server_of(anywhere, calls_per_day=5) for _ in range(2)]
    answers = []

    async def call(server):
        answers.append(await run(server))

    async with (
        connect_in_process(servers[0]),
        connect_in_process(servers[1]),
        trio.open_nursery() as nursery,
    ):
        for server in servers * 5:
            nursery.start_soon(call, server)
    taken = [answer for answer in answers if answer["success"]]
    assert (len(answers), len(taken)) == (10, 5), answers
    refused = {answer["data"]["error_code"] for answer in answers if not answer["success"]}
    assert refused == {"QUOTA_EXCEEDED"}


async def test_the_memory_forgets_and_the_status_says_so():
    memory = {"state": {"url": "memory"}}
    for _ in range(2):
        server = server_of(memory, calls_per_day=1)
        async with connect_in_process(server):
            assert (await run(server))["success"]
            assert (await usage_of(server))["kept_in"] == "memory"


async def test_a_state_that_cannot_be_written_refuses_nobody(state, state_file):
    state_file.parent.mkdir()
    state_file.write_bytes(b"no database" * 1_000)
    server = server_of(state, calls_per_day=2)
    async with connect_in_process(server):
        assert [(await run(server))["success"] for _ in range(3)] == [True, True, False]


class Store:
    """Counts in memory, unless it is away."""

    def __init__(self):
        self.away = False
        self.calls = self.items = 0

    async def count_use(self, use):
        await trio.lowlevel.checkpoint()
        if self.away:
            return None
        self.calls += use.calls
        self.items += use.items
        taken = use.takes_call and self.calls < (use.most_calls or 99)
        self.calls += taken
        return Counted(self.calls, self.items, taken=taken)


async def test_what_was_used_while_the_state_was_away_is_counted_when_it_is_back(autojump_clock):
    store, client = Store(), ClientSettings(calls_per_day=9)
    usage = Usage(lambda: 0.0, store=store, clients=lambda: {"alice": client})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(usage.run)
        await trio.sleep(1)
        store.away = True
        for _ in range(3):
            await usage.take_call("alice", client)
        usage.add_items("alice", 4)
        await trio.sleep(10)
        assert (store.calls, store.items) == (0, 0)
        store.away = False
        await trio.sleep(2)
        assert (store.calls, store.items) == (3, 4)
        usage.add_items("alice", 1)
        nursery.cancel_scope.cancel()
    assert store.items == 5  # the end counts what is left
    assert (usage.of("alice").calls, usage.of("alice").items) == (3, 5)


def test_counters_are_by_client_and_day_and_old_days_go(state_file):
    database = StateDatabase(Location(state_file), new_holder())
    try:
        assert database.count_use(Use("a", 10, takes_call=True)) == (1, 0, True)
        assert database.count_use(Use("a", 10, calls=2, items=7)) == (3, 7, False)
        refused = database.count_use(Use("a", 10, takes_call=True, most_calls=3))
        assert refused == (3, 7, False)
        refused = database.count_use(Use("a", 10, takes_call=True, most_items=7))
        assert refused == (3, 7, False)
        assert database.count_use(Use("b", 10, takes_call=True)) == (1, 0, True)
        assert database.count_use(Use("a", 12, takes_call=True)) == (1, 0, True)
    finally:
        database.close()
    with closing(sqlite3.connect(state_file)) as file:
        assert file.execute("SELECT client, day FROM usage").fetchall() == [("a", 12)]


def test_tables_of_version_1_get_the_counters_and_keep_what_they_have(state_file):
    location = Location(state_file)
    first = StateDatabase(location, new_holder())
    key = first.key()
    first.close()
    with closing(sqlite3.connect(state_file, isolation_level=None)) as file:
        file.execute("DROP TABLE usage")
        file.execute("UPDATE trio_tools_meta SET value = X'31' WHERE name = 'version'")
    later = StateDatabase(location, new_holder())
    try:
        assert later.count_use(Use("a", 1, takes_call=True)) == (1, 0, True)
        assert later.key() == key
    finally:
        later.close()
    with closing(sqlite3.connect(state_file)) as file:
        (value,) = file.execute(
            "SELECT value FROM trio_tools_meta WHERE name = 'version'"
        ).fetchone()
    assert int(value) == VERSION
    assert set(tables.MIGRATIONS) == set(range(1, VERSION))
