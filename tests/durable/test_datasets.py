"""With `background=true` one operation goes through a whole dataset, across restarts."""

import json

import pytest
import trio

from tests.support.followed_operations import server_with, total, until
from tests.support.servers_in_memory import envelope_of
from trio_tools.operations.operation import Operation
from trio_tools.transports.memory import connect_in_process


class Worker:
    """Remembers what it did; holds items back until it is told to go on."""

    def __init__(self, hold_from=10**9):
        self.done = []
        self._hold_from = hold_from

    async def work(self, n: int) -> int:
        """Double it."""
        if n >= self._hold_from:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.done.append(n)
        return 2 * n


@pytest.fixture
def numbers(tmp_path):
    lines = [str(n) for n in range(60)]
    lines[33] = "nonsense"
    (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
    return tmp_path / "numbers.jsonl"


@pytest.fixture
def server(numbers, state):
    def make(worker, **settings):
        operation = Operation(name="work", fn=worker.work)
        return server_with(operation, file_roots=(numbers.parent,), **{**state, **settings})

    return make


ASKED = {
    "dataset": "numbers.jsonl",
    "operation": "work",
    "chunk_size": 7,
    "operation_id": "op",
    "background": True,
}


async def start(client, **arguments):
    return await envelope_of(client, "process_large_dataset", {**ASKED, **arguments})


async def read(client, **arguments):
    return await envelope_of(client, "get_operation", {"operation_id": "op", **arguments})


async def read_to_end(client):
    with trio.fail_after(20):
        while not (page := await read(client, wait_seconds=10))["data"]["complete"]:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return page


@pytest.mark.parametrize("where", ["disk", "memory"])
async def test_one_operation_goes_through_all_chunks(server, where):
    settings = {} if where == "disk" else {"state": {"url": "memory"}}
    worker = Worker()
    async with connect_in_process(server(worker, **settings)) as client:
        answer = await start(client)
        assert answer["data"]["next_cursor"] is None
        assert answer["data"]["operation_id"] == "op"
        page = await read_to_end(client)
    assert page["data"]["complete"]
    assert total(page["data"]["counts"]) == 60
    assert page["data"]["counts"]["succeeded"] == 59
    assert [o["value"] for o in page["data"]["outcomes"] if "value" in o] == [
        2 * n for n in range(60) if n != 33
    ]
    (failed,) = [o for o in page["data"]["outcomes"] if "value" not in o]
    assert (failed["index"], failed["item"]) == (33, "line 34")
    assert sorted(worker.done) == [n for n in range(60) if n != 33]


async def test_a_restart_goes_on_with_what_was_read_and_then_with_the_rest(server, numbers):
    first, second = Worker(hold_from=40), Worker()
    async with connect_in_process(server(first)) as client:
        await start(client, max_concurrent=3)
        await until(lambda: len(first.done) == 39)
        page = await read(client)
        assert page["data"]["running"]
        assert not page["data"]["complete"]
    # What was read is not read again: 40 and 41 were, before this.
    lines = numbers.read_text().split("\n")
    assert len(lines[0]) == 1
    numbers.write_text("\n".join(["9", *lines[1:]]))
    async with connect_in_process(server(second)) as client:
        page = await read_to_end(client)
        assert total(page["data"]["counts"]) == 60
        assert page["data"]["complete"]
        values = [o["value"] for o in page["data"]["outcomes"] if "value" in o]
    assert values == [2 * n for n in range(60) if n != 33]
    assert sorted(second.done) == [*range(40, 60)]
    # A whole one is read back as such, and its call has nothing left to do.
    third = Worker()
    async with connect_in_process(server(third)) as client:
        page = await read(client)
        assert page["data"]["complete"]
        assert total(page["data"]["counts"]) == 60
    assert third.done == []


async def test_a_cancelled_one_keeps_what_it_has_and_the_same_call_goes_on(server):
    worker = Worker(hold_from=30)
    async with connect_in_process(server(worker)) as client:
        await start(client)
        await until(lambda: len(worker.done) == 30)
        stopped = await envelope_of(client, "cancel_operation", {"operation_id": "op"})
        assert stopped["data"]["stopped"]
        assert stopped["data"]["counts"]["succeeded"] == 30
    worker = Worker()
    async with connect_in_process(server(worker)) as client:
        page = await read(client)
        assert not page["data"]["running"]
        assert page["data"]["counts"]["succeeded"] == 30
        await start(client)
        page = await read_to_end(client)
        assert total(page["data"]["counts"]) == 60
        assert sorted(worker.done) == [n for n in range(30, 60) if n != 33]
        other = await start(client, chunk_size=8)
        assert other["data"]["error_code"] == "OPERATION_MISMATCH"


async def test_a_dataset_that_cannot_be_read_on_is_told_and_loses_nothing(server, numbers):
    worker = Worker(hold_from=18)
    whole = numbers.read_text()
    async with connect_in_process(server(worker)) as client:
        await start(client, max_concurrent=3)
        await until(lambda: len(worker.done) == 18)
        await envelope_of(client, "cancel_operation", {"operation_id": "op"})
        numbers.write_text("0\n")
        worker._hold_from = 10**9
        again = await start(client)
        assert again["data"]["operation_id"] == "op"
        page = await read(client, wait_seconds=10)
        assert "It ended early" in page["meta"]["warnings"][0]
        assert page["data"]["counts"]["succeeded"] >= 18
        assert not page["data"]["complete"]
        numbers.write_text(whole)
        await start(client)
        page = await read_to_end(client)
        assert page["data"]["complete"]
        assert total(page["data"]["counts"]) == 60


async def test_a_wrong_dataset_is_told_at_once(server):
    async with connect_in_process(server(Worker())) as client:
        answer = await start(client, dataset="nothing.jsonl")
        assert not answer["success"]
        assert "nothing.jsonl" in json.dumps(answer)
        missing = await read(client)
        assert missing["data"]["error_code"] == "UNKNOWN_OPERATION_ID"
