"""A state that cannot be written: the server goes on in memory, says so, and comes back to it."""

import gc
import sqlite3
import weakref
from contextlib import closing

import pytest
import trio

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import envelope_of
from tests.transports.requests import exchange, get, http_server
from trio_tools.operations.durable import writer
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.holders import new_holder
from trio_tools.operations.durable.location import Location, StateTroubleError
from trio_tools.operations.durable.tables import VERSION
from trio_tools.transports.memory import connect_in_process


async def same(item: int) -> int:
    """Return the item."""
    await trio.lowlevel.checkpoint()
    return item


@pytest.fixture(autouse=True)
def retries_are_quick(monkeypatch):
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.05)


async def batch(client, operation_id, items):
    asked = {"operation": "same", "items": items, "operation_id": operation_id}
    return await envelope_of(client, "batch_process", asked)


def full(database):
    def commit(self, changes):
        del self, changes
        raise StateTroubleError("the file cannot grow: the disk is full")

    return commit


async def test_the_work_goes_on_in_memory_and_is_written_when_it_can_be(state, monkeypatch):
    async with connect_in_process(server_with(same, **state)) as client:
        await batch(client, "before", [1, 2])
        with monkeypatch.context() as broken:
            broken.setattr(StateDatabase, "commit", full(StateDatabase))
            done = await batch(client, "op", [1, 2, 3])
            assert done["data"]["counts"]["succeeded"] == 3
            assert "the disk is full" in done["meta"]["warnings"][0]
            page = await envelope_of(client, "get_operation", {"operation_id": "op"})
            assert page["data"]["counts"]["succeeded"] == 3
            assert "kept in memory only" in page["meta"]["warnings"][0]
        with trio.fail_after(20):
            while (await batch(client, "op", [1, 2, 3]))["meta"]["warnings"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
    async with connect_in_process(server_with(same, **state)) as client:
        for operation_id, count in (("before", 2), ("op", 3)):
            asked = {"operation_id": operation_id}
            page = await envelope_of(client, "get_operation", asked)
            assert page["data"]["counts"]["succeeded"] == count
            assert page["meta"]["warnings"] == []


async def test_memory_has_its_bound_while_the_state_is_away(state, monkeypatch, caplog):
    server = server_with(same, max_operations=2, **state)
    async with connect_in_process(server) as client:
        await batch(client, "before", [1])
        monkeypatch.setattr(StateDatabase, "commit", full(StateDatabase))
        await batch(client, "first", [1])
        (first,) = [o for o in server.state.store.operations() if o.operation_id == "first"]
        freed = weakref.ref(first.batch)
        del first
        for name in ("second", "third"):
            await batch(client, name, [1])
        kept = [each.operation_id for each in server.state.store.operations()]
        assert kept == ["second", "third"]  # what is on the disk goes first, then the oldest
        assert "'first' is dropped before it could be written" in caplog.text
        gc.collect()
        assert freed() is None


async def test_a_locked_file_and_one_that_is_no_database(state, state_file):
    state_file.parent.mkdir()
    state_file.write_bytes(b"no database" * 1_000)
    async with connect_in_process(server_with(same, **state)) as client:
        done = await batch(client, "op", [1])
        assert "is not a SQLite database" in done["meta"]["warnings"][0]
    assert state_file.read_bytes() == b"no database" * 1_000
    state_file.unlink()
    async with connect_in_process(server_with(same, **state)) as client:
        await batch(client, "one", [1])
        with closing(sqlite3.connect(state_file, isolation_level=None)) as other, other:
            other.execute("BEGIN EXCLUSIVE")
            done = await batch(client, "two", [1])
            other.execute("ROLLBACK")
        other.close()
        assert "is locked" in done["meta"]["warnings"][0]


async def test_a_file_of_a_newer_version_is_left_as_it_is(state, state_file):
    async with connect_in_process(server_with(same, **state)) as client:
        await batch(client, "op", [1])
    with closing(sqlite3.connect(state_file)) as database, database:
        value = b"%d" % (VERSION + 1)
        database.execute("UPDATE trio_tools_meta SET value = ? WHERE name = 'version'", (value,))
    database.close()
    async with connect_in_process(server_with(same, **state)) as client:
        done = await batch(client, "other", [1])
        assert "upgrade trio-tools" in done["meta"]["warnings"][0]
    with closing(sqlite3.connect(state_file)) as database, database:
        assert database.execute("SELECT count(*) FROM operations").fetchone() == (1,)
    database.close()


async def test_postgresql_promises_the_same(postgres_url):
    state = {"state": {"url": postgres_url}}
    async with connect_in_process(server_with(same, **state)) as client:
        done = await batch(client, "a\0b", [1, 2])
        assert done["meta"]["warnings"] == []
    async with connect_in_process(server_with(same, **state)) as client:
        page = await envelope_of(client, "get_operation", {"operation_id": "a\0b"})
        assert page["data"]["counts"]["succeeded"] == 2
        assert not page["data"]["running"]
    with closing(StateDatabase(Location.of_url(postgres_url), new_holder())) as database:
        assert database.parked() == []
        assert len(database.key()) == 32
        assert database.prune(ttl=-1.0, max_bytes=2**40) == 1


async def test_a_wrong_password_is_not_shown(postgres_folder):
    url = f"postgresql://nobody:hunter2@/postgres?host={postgres_folder}"
    async with connect_in_process(server_with(same, state={"url": url})) as client:
        done = await batch(client, "op", [1])
    assert done["data"]["counts"]["succeeded"] == 1
    assert "PostgreSQL" in done["meta"]["warnings"][0]
    assert "hunter2" not in str(done)


async def test_status_readyz_and_log_tell_of_a_lost_state_and_of_its_return(
    state, monkeypatch, caplog
):
    server = server_with(same, **state)

    async def told(client, address):
        status = await envelope_of(client, "get_concurrency_status", {})
        return status["data"]["state"], (await exchange(address, get("/readyz"))).body

    async with connect_in_process(server) as client, http_server(server) as address:
        await batch(client, "before", [1])
        assert await told(client, address) == (
            {"in_memory_only": False, "trouble": None},
            b"ready\n",
        )
        with monkeypatch.context() as broken:
            broken.setattr(StateDatabase, "commit", full(StateDatabase))
            await batch(client, "op", [1])
            shown, ready = await told(client, address)
            assert shown["in_memory_only"]
            assert "the disk is full" in shown["trouble"]
            assert ready == b"ready, but the state cannot be written: work is in memory only\n"
            assert "the work goes on in memory" in caplog.text
        with trio.fail_after(20):
            while (await told(client, address))[0]["in_memory_only"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert (await told(client, address))[1] == b"ready\n"
        assert "the state is written again" in caplog.text
