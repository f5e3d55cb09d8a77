"""What was told is there after a restart, and what was parked goes on."""

import json
import sqlite3
import stat
from contextlib import closing
from types import SimpleNamespace

import pytest
import trio

from tests.support.followed_operations import server_with, until
from tests.support.servers_in_memory import call_as, envelope_of
from trio_tools.answers.errors import InvalidArgument
from trio_tools.live.operations import make_operation, working
from trio_tools.operations.operation import Operation
from trio_tools.transports.memory import connect_in_process


class Effects:
    """An operation that remembers what it did, over several servers."""

    def __init__(self):
        self.done = []
        self.keys = []

    async def nap(self, seconds: float) -> float:
        """Wait that long; a negative time fails."""
        self.done.append(seconds)
        await trio.sleep(abs(seconds))
        if seconds < 0:
            raise InvalidArgument("the words of a failure", data={"bound": 3})
        return seconds

    async def keyed(self, item: int, *, idempotency_key: str) -> str:
        """Return the key."""
        await trio.lowlevel.checkpoint()
        self.keys.append(idempotency_key)
        return idempotency_key


def nap_server(effects, **settings):
    return server_with(Operation(name="nap", fn=effects.nap), **settings)


async def batch(client, items, **arguments):
    return await envelope_of(
        client, "batch_process", {"operation": "nap", "items": items, **arguments}
    )


async def read(client, operation_id, **arguments):
    return await envelope_of(client, "get_operation", {"operation_id": operation_id, **arguments})


@pytest.mark.parametrize("name", ["plain", "a\0b", "é/\\'\"%_", "x" * 128])
async def test_an_operation_is_read_and_gone_on_with_after_a_restart(state, name):
    effects = Effects()
    items = [0.001, -0.001, 30.0, 0.002]
    async with connect_in_process(nap_server(effects, **state)) as client:
        first = await batch(client, items, operation_id=name, timeout_seconds=0.5)
    assert first["data"]["counts"]["cancelled"] == 1
    assert first["meta"]["warnings"]
    async with connect_in_process(nap_server(effects, **state)) as client:
        page = await read(client, name)
        assert page["data"]["counts"] == {
            key: value for key, value in first["data"]["counts"].items() if "limit" not in key
        } | {"cancelled": 0, "not_started": 1}
        assert not page["data"]["running"]
        assert [e["error_code"] for e in page["data"]["outcomes"] if "error_code" in e] == [
            "INVALID_ARGUMENT",
            "NOT_STARTED",
        ]
        effects.done.clear()
        again = await batch(client, items, operation_id=name, timeout_seconds=0.3)
        assert effects.done == [30.0]
        assert again["data"]["errors"][0] == first["data"]["errors"][0]
        assert again["data"]["results"] == first["data"]["results"]
        other = await batch(client, [5], operation_id=name)
        assert other["data"]["error_code"] == "OPERATION_MISMATCH"


async def test_failed_items_are_run_again_after_a_restart_and_what_succeeded_is_not(state):
    effects = Effects()
    items = [0.001, -0.001, 0.002]
    async with connect_in_process(nap_server(effects, **state)) as client:
        first = await batch(client, items, operation_id="mine")
    assert first["data"]["counts"]["failed"] == 1
    for _ in range(2):  # the second restart finds what the first retry wrote
        effects.done.clear()
        async with connect_in_process(nap_server(effects, **state)) as client:
            again = await envelope_of(
                client, "batch_process", {"operation_id": "mine", "retry": "failed"}
            )
            page = await read(client, "mine")
        assert effects.done == [-0.001]
        assert again["data"]["counts"] == first["data"]["counts"]
        assert again["data"]["results"] == first["data"]["results"]
        assert len(page["data"]["outcomes"]) == 3


async def test_a_chunk_of_a_dataset_goes_on_by_its_id_after_a_restart(state, tmp_path):
    effects = Effects()
    (tmp_path / "naps.jsonl").write_text("0.001\n30\n")
    settings = {**state, "file_roots": (tmp_path,)}
    asked = {"dataset": "naps.jsonl", "operation": "nap", "operation_id": "mine"}
    async with connect_in_process(nap_server(effects, **settings)) as client:
        first = await envelope_of(client, "process_large_dataset", {**asked, "timeout_seconds": 1})
    assert first["data"]["counts"]["succeeded"] == 1
    for arguments in ({"operation_id": "mine"}, asked):
        effects.done.clear()
        async with connect_in_process(nap_server(effects, **settings)) as client:
            again = await envelope_of(
                client, "process_large_dataset", {**arguments, "timeout_seconds": 0.2}
            )
        assert effects.done == [30.0]
        assert again["data"]["counts"] == first["data"]["counts"]


async def test_cursors_go_on_after_a_restart(state):
    async def text(item: int) -> str:
        await trio.lowlevel.checkpoint()
        return f"{item}" * 600

    def server():
        return server_with(text, max_output_chars=2_000, **state)

    shown = []
    async with connect_in_process(server()) as client:
        asked = {"operation": "text", "items": [*range(9)]}
        done = await envelope_of(client, "batch_process", asked)
        operation_id = done["data"]["operation_id"]
        page = await read(client, operation_id, page_size=4)
    while True:
        shown += [outcome["index"] for outcome in page["data"]["outcomes"]]
        cursor = page["meta"]["pagination"]["cursor"]
        if cursor is None:
            break
        async with connect_in_process(server()) as client:
            page = await read(client, operation_id, cursor=cursor, page_size=4)
    assert shown == [*range(9)]


async def test_another_client_does_not_see_it_after_a_restart_either(state):
    effects = Effects()
    server = nap_server(effects, **state)
    async with connect_in_process(server):
        asked = {"operation": "nap", "items": [0.001], "operation_id": "op"}
        await call_as(server, "anna", "batch_process", asked)
    server = nap_server(effects, **state)
    async with connect_in_process(server):
        read = {"operation_id": "op"}
        assert (await call_as(server, "anna", "get_operation", read))["success"]
        theirs = await call_as(server, "berta", "get_operation", read)
        assert theirs["data"]["error_code"] == "UNKNOWN_OPERATION_ID"


async def test_an_operation_whose_function_is_gone_or_changed_says_so_and_can_be_read(state):
    async def work(item: int) -> int:
        await trio.sleep(item)
        return item

    async with connect_in_process(server_with(work, **state)) as client:
        asked = {
            "operation": "work",
            "items": [0, 30],
            "operation_id": "op",
            "timeout_seconds": 0.3,
        }
        await envelope_of(client, "batch_process", asked)
    async with connect_in_process(server_with(**state)) as client:
        page = await read(client, "op")
        assert page["data"]["counts"]["succeeded"] == 1
        assert "no operation 'work' any more" in page["meta"]["warnings"][0]

    async def changed(item: str) -> str:
        return item

    server = server_with(Operation(name="work", fn=changed), **state)
    async with connect_in_process(server) as client:
        page = await read(client, "op")
        assert "have another schema now" in page["meta"]["warnings"][0]
        assert page["data"]["outcomes"][0]["value"] == 0


async def test_the_idempotency_key_names_operation_and_index(state):
    for settings in ({}, state):
        effects = Effects()
        async with connect_in_process(server_with(effects.keyed, **settings)) as client:
            asked = {"operation": "keyed", "items": [7, 8, 9], "operation_id": "op"}
            done = await envelope_of(client, "batch_process", asked)
        keys = [result["value"] for result in done["data"]["results"]]
        assert keys == ["op/0", "op/1", "op/2"]


async def test_an_item_that_must_not_run_twice_is_named_lost(state, state_file):
    ran, paid = [], []

    async def pay(item: int) -> int:
        ran.append(item)
        await trio.sleep(item)
        paid.append(item)
        return item

    def server():
        return server_with(Operation(name="pay", fn=pay, at_most_once=True), **state)

    asked = {"operation": "pay", "items": [0, 300, 0], "operation_id": "op"}
    async with connect_in_process(server()) as client, trio.open_nursery() as nursery:
        cut = {**asked, "max_concurrent": 2}
        nursery.start_soon(envelope_of, client, "batch_process", cut)
        await until(lambda: paid == [0, 0] and 300 in ran)
        nursery.cancel_scope.cancel()
    async with connect_in_process(server()) as client:
        done = await envelope_of(client, "batch_process", asked)
    assert sorted(ran) == [0, 0, 300]
    assert done["data"]["complete"]
    assert [error["error_code"] for error in done["data"]["errors"]] == ["LOST"]


async def test_the_file_is_its_owners_alone(state, state_file):
    async with connect_in_process(nap_server(Effects(), **state)) as client:
        await batch(client, [0.001])
        for path in state_file.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_nothing_is_made_before_the_first_operation(state, state_file):
    async with connect_in_process(nap_server(Effects(), **state)) as client:
        await envelope_of(client, "get_concurrency_status", {})
        assert not state_file.exists()


async def test_background_work_is_parked_by_a_stop_and_taken_up_by_a_start(state):
    effects = Effects()
    items = [0.001] * 3 + [0.4] * 3
    async with connect_in_process(nap_server(effects, **state)) as client:
        answer = await batch(client, items, operation_id="op", background=True)
        assert answer["data"]["operation_id"] == "op"
        await until(lambda: len(effects.done) == 6)
        await read(client, "op")
    effects.done.clear()
    async with connect_in_process(nap_server(effects, **state)) as client:
        while not (page := await read(client, "op", wait_seconds=10))["data"]["complete"]:
            pass
    assert page["data"]["counts"]["succeeded"] == 6
    assert len(effects.done) <= 6
    # It is done: nobody takes it up again.
    effects.done.clear()
    async with connect_in_process(nap_server(effects, **state)) as client:
        assert not (await read(client, "op"))["data"]["running"]
    assert effects.done == []


async def test_with_resume_off_it_stays_parked(state):
    effects = Effects()
    async with connect_in_process(nap_server(effects, **state)) as client:
        await batch(client, [30.0], operation_id="op", background=True)
    settings = {"state": {**state["state"], "resume": False}}
    async with connect_in_process(nap_server(effects, **settings)) as client:
        await trio.sleep(0.3)
        page = await read(client, "op")
        assert not page["data"]["running"]
        assert len(effects.done) == 1


async def test_what_was_cancelled_is_not_taken_up_again(state):
    effects = Effects()
    async with connect_in_process(nap_server(effects, **state)) as client:
        await batch(client, [0.001, 30.0], operation_id="op", background=True)
        await until(lambda: len(effects.done) == 2)
        stopped = await envelope_of(client, "cancel_operation", {"operation_id": "op"})
        assert stopped["data"]["stopped"]
        assert stopped["data"]["counts"]["cancelled"] == 1
    effects.done.clear()
    async with connect_in_process(nap_server(effects, **state)) as client:
        page = await read(client, "op")
        assert not page["data"]["running"]
        assert page["data"]["counts"]["succeeded"] == 1
    assert effects.done == []


async def test_two_servers_do_not_run_the_same_operation(state):
    one, other = Effects(), Effects()
    async with (
        connect_in_process(nap_server(one, **state)) as first,
        connect_in_process(nap_server(other, **state)) as second,
    ):
        await batch(first, [0.001, 0.8], operation_id="op", background=True)
        refused = await batch(second, [0.001, 0.8], operation_id="op")
        assert refused["data"]["error_code"] == "OPERATION_RUNNING"
        page = await read(second, "op", wait_seconds=20)
        assert page["data"]["running"] or page["data"]["complete"]
        while not (page := await read(second, "op", wait_seconds=20))["data"]["complete"]:
            pass
    assert other.done == []


async def test_a_dead_holder_is_not_waited_for_and_a_strange_one_until_its_lease_ends(
    state, state_file
):
    effects = Effects()
    async with connect_in_process(nap_server(effects, **state)) as client:
        await batch(client, [0.001, 30.0], operation_id="op", timeout_seconds=0.3)

    def hold(holder, lease):
        with closing(sqlite3.connect(state_file)) as database, database:
            database.execute("UPDATE operations SET holder = ?, lease_until = ?", (holder, lease))
        database.close()

    hold("another machine|1|1|x", 2**40)
    async with connect_in_process(nap_server(effects, **state)) as client:
        refused = await batch(client, [0.001, 30.0], operation_id="op", timeout_seconds=0.3)
        assert refused["data"]["error_code"] == "OPERATION_RUNNING"
        hold("another machine|1|1|x", 1.0)
        done = await batch(client, [0.001, 30.0], operation_id="op", timeout_seconds=0.3)
        assert done["success"]


async def test_old_operations_are_deleted_from_the_disk(state, state_file):
    async with connect_in_process(nap_server(Effects(), **state)) as client:
        await batch(client, [0.001], operation_id="old")
    with closing(sqlite3.connect(state_file)) as database, database:
        database.execute("UPDATE operations SET last_used = 1")
    database.close()
    async with connect_in_process(nap_server(Effects(), **state)) as client:
        await batch(client, [0.001], operation_id="new")
        gone = await read(client, "old")
        assert gone["data"]["error_code"] == "UNKNOWN_OPERATION_ID"


async def test_wait_seconds_and_background_seconds_have_caps(state):
    async with connect_in_process(nap_server(Effects(), **state)) as client:
        answer = await read(client, "op", wait_seconds=51)
        assert answer["data"]["error_code"] == "INVALID_ARGUMENT"
        assert "50" in answer["error"]
        answer = await batch(client, [1], background=True, background_timeout_seconds=86_401)
        assert "86400" in answer["error"]
        assert json.dumps(answer)


async def test_one_that_is_stopped_while_it_begins_is_cut_at_once(state):
    """As when it is cancelled while a start takes it up, and its lease is being written."""
    server = nap_server(Effects(), **state)
    operation = server.state.operations["nap"]
    kept = make_operation(
        server.state, operation, [30.0], given=[30.0], operation_id="op", owner="a", tool="t"
    )
    ended = []

    class Store:
        async def begin(self, kept):
            kept.stop()
            await trio.lowlevel.checkpoint()

        def end(self, kept):
            ended.append(kept)

    with trio.fail_after(20):
        async with working(SimpleNamespace(store=Store()), kept):
            await trio.sleep_forever()
    assert ended == [kept]
    assert not kept.running_here
