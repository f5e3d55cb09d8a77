"""However a call ends, its items are conserved: what finished is readable, the rest can be done."""

import threading
import time

import trio

from tests.support.followed_operations import calling, nap_server, server_with, total
from tests.support.servers_in_memory import connected, envelope_of, status_of, values_of
from trio_tools.operations.operation import Operation

ITEMS = [1, 40, 2, -1, 40, 3, 4]
ASKED = {"operation": "nap", "items": ITEMS, "operation_id": "mine", "max_concurrent": 3}


async def _cancelled_after(client, seconds, arguments):
    with trio.move_on_after(seconds):
        await client.call_tool("batch_process", arguments)
    await trio.testing.wait_all_tasks_blocked()  # the older protocol cancels by a message


async def test_what_a_cancelled_call_had_finished_is_readable_and_not_repeated(autojump_clock, era):
    server, trace = nap_server()
    async with connected(server, era) as client:
        await _cancelled_after(client, 3.5, ASKED)
        read = await envelope_of(client, "get_operation", {"operation_id": "mine"})
        counts = read["data"]["counts"]
        assert total(counts) == len(ITEMS)
        assert not read["data"]["running"]
        outcomes = read["data"]["outcomes"]
        assert [o["index"] for o in outcomes] == list(range(len(ITEMS)))
        done = [o["value"] for o in outcomes if "value" in o]
        assert done == sorted(trace.finished)
        assert done

        begun = len(trace.begun)
        again = await envelope_of(client, "batch_process", ASKED)
        assert values_of(again["data"]) == [1, 40, 2, 40, 3, 4]
        assert again["data"]["complete"]
        assert len(trace.begun) - begun == counts["cancelled"] + counts["not_started"]


async def test_a_call_that_goes_on_does_so_with_its_own_item_timeout_and_concurrency(
    autojump_clock, era
):
    server, _ = nap_server()
    asked = {"operation": "nap", "items": [1, 8, 8, 2, 8], "operation_id": "mine"}
    async with calling(server, era) as call:
        first = await call("batch_process", **asked, max_concurrent=1, timeout_seconds=3)
        assert values_of(first["data"]) == [1]
        again = await call(
            "batch_process", **asked, max_concurrent=4, item_timeout_seconds=6, timeout_seconds=5
        )
        assert again["data"]["counts"]["concurrency_limit"] == 4
        assert values_of(again["data"]) == [1, 2]
        cut = await call("batch_process", **asked, max_concurrent=4, item_timeout_seconds=6)
        assert cut["data"]["complete"]
        assert cut["data"]["timing"]["elapsed_seconds"] == 6.0
        assert [error["error_code"] for error in cut["data"]["errors"]] == ["ITEM_TIMEOUT"] * 3
        assert {error["reason"] for error in cut["data"]["errors"]} == {"not done within 6 s"}


async def test_a_call_that_goes_on_without_an_item_timeout_has_none(autojump_clock, era):
    server, _ = nap_server()
    asked = {"operation": "nap", "items": [8, 8], "operation_id": "mine"}
    async with calling(server, era) as call:
        await call("batch_process", **asked, item_timeout_seconds=6, timeout_seconds=5)
        again = await call("batch_process", **asked)
    assert values_of(again["data"]) == [8, 8]


async def test_a_call_that_is_refused_changes_nothing_of_the_one_that_runs(autojump_clock, era):
    server, _ = nap_server()
    asked = {"operation": "nap", "items": [4] * 4, "operation_id": "mine"}
    answers = []
    async with calling(server, era) as call:

        async def run():
            answers.append(await call("batch_process", **asked, max_concurrent=1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(1)
            other = await call("batch_process", **asked, max_concurrent=4, item_timeout_seconds=1)
            assert other["data"]["error_code"] == "OPERATION_RUNNING"
    assert values_of(answers[0]["data"]) == [4] * 4
    assert answers[0]["data"]["timing"]["elapsed_seconds"] == 16.0


async def test_a_cancelled_call_leaves_nothing_at_work(autojump_clock, era):
    server, _ = nap_server()
    async with connected(server, era) as client:
        before = trio.current_time()
        await _cancelled_after(client, 3.5, ASKED)
        assert trio.current_time() == before + 3.5
        status = await status_of(client)
    assert status["calls"] == []
    assert status["work_for_departed_callers"] == 0
    assert status["limits"]["nap"]["in_use"] == 0


async def test_cancel_operation_makes_the_running_call_answer_with_what_it_has(autojump_clock, era):
    server, _ = nap_server()
    answers = []
    async with calling(server, era) as call:

        async def run():
            answers.append(await call("batch_process", **ASKED))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(2.5)
            stopped = await call("cancel_operation", operation_id="mine")
            assert stopped["data"]["stopped"]
        (answer,) = answers
        assert answer["success"]
        assert values_of(answer["data"]) == [1, 2]
        assert total(answer["data"]["counts"]) == len(ITEMS)
        assert "stopped" in answer["data"]["summary"]
        idle = await call("cancel_operation", operation_id="mine")
        assert not idle["data"]["stopped"]
        again = await call("batch_process", **ASKED)
    assert again["data"]["complete"]


async def test_items_are_conserved_whenever_the_deadline_comes(autojump_clock):
    for seconds in (0.001, 1, 1.5, 2, 5, 9, 40, 42):
        server, _ = nap_server()
        async with calling(server) as call:
            answer = await call("batch_process", **{**ASKED, "timeout_seconds": seconds})
            data = answer["data"]
            assert total(data["counts"]) == len(ITEMS)
            assert len(values_of(data)) == data["counts"]["succeeded"]
            assert len(values_of(data)) + len(data["errors"]) == len(ITEMS)
            assert data["complete"] is (seconds == 42)


async def test_an_operation_can_be_read_while_it_runs(autojump_clock):
    server, _ = nap_server()
    async with calling(server) as call, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call("batch_process", **ASKED))
        await trio.sleep(2.5)
        data = (await call("get_operation", operation_id="mine"))["data"]
        assert data["running"]
        assert [o["value"] for o in data["outcomes"] if "value" in o] == [1, 2]
        assert total(data["counts"]) == len(ITEMS)


async def test_what_is_not_done_is_told_as_it_is_with_how_to_go_on(autojump_clock, era):
    def unfinished(answer):
        found = [o for o in answer["data"]["outcomes"] if "value" not in o]
        return {(o["error_code"], o["reason"]) for o in found}

    server, _ = nap_server()
    asked = {"operation": "nap", "items": [1, 9, 9, 9], "operation_id": "mine", "max_concurrent": 2}
    async with calling(server, era) as call:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: call("batch_process", **asked))
            await trio.sleep(2)
            running = await call("get_operation", operation_id="mine")
            stopped = await call("cancel_operation", operation_id="mine")
        ended = await call("get_operation", operation_id="mine")
        await call("batch_process", **asked)
        complete = await call("get_operation", operation_id="mine")
    assert unfinished(running) == {("NOT_DONE_YET", "not done yet, its operation is running")}
    assert unfinished(ended) == {
        ("CANCELLED", "started, but cancelled before it ended"),
        ("NOT_STARTED", "not started before the work was ended"),
    }
    (told,) = running["meta"]["warnings"]
    assert "again without cursor" in told
    for answer in (stopped, ended):
        (told,) = answer["meta"]["warnings"]
        assert told.startswith("3 items are not done.")
        assert 'operation_id="mine"' in told
    assert complete["meta"]["warnings"] == []


async def test_a_thread_that_cannot_be_stopped_is_counted_until_it_ends():
    started, release = threading.Event(), threading.Event()

    def stubborn(_: int) -> None:
        started.set()
        release.wait(10)

    server = server_with(Operation(name="stubborn", fn=stubborn, runs="thread"))
    asked = {"operation": "stubborn", "items": [1]}
    async with connected(server, "legacy") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.call_tool("batch_process", asked))
            await trio.to_thread.run_sync(started.wait)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while not (await status_of(client))["work_for_departed_callers"]:
                await trio.lowlevel.checkpoint()
        release.set()
        with trio.fail_after(5):
            while (await status_of(client))["work_for_departed_callers"]:
                await trio.lowlevel.checkpoint()


def spin(_: int) -> None:
    """Compute for ever."""
    while True:
        pass


def wait_politely(_: int) -> None:
    """Block, and ask now and then whether anybody still waits."""
    while True:
        trio.from_thread.check_cancelled()
        time.sleep(0.005)


async def test_a_cancel_ends_threads_and_worker_processes_with_the_call():
    server = server_with(
        Operation(name="spin", fn=spin, runs="process"),
        Operation(name="wait", fn=wait_politely, runs="thread"),
    )
    async with connected(server) as client:
        for operation in ("spin", "wait"):
            started = trio.current_time()
            with trio.move_on_after(2) as scope:
                asked = {"operation": operation, "items": [1, 2]}
                await client.call_tool("batch_process", asked)
            assert scope.cancelled_caught
            assert trio.current_time() - started < 4  # 2.05 on an idle machine
            status = await status_of(client)
            assert status["work_for_departed_callers"] == 0
            assert status["limits"][operation]["in_use"] == 0
