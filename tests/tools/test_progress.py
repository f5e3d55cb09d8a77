"""Progress: in order, seldom, for people, and never at the expense of the batch."""

import json
import re

import pytest
import trio

from tests.support.followed_operations import nap_server, server_with
from tests.support.servers_in_memory import connected, status_of
from trio_tools.operations.operation import Operation
from trio_tools.tools.call import Call


async def _told(server, era, items, seconds=200, **options):
    """Call nap over the items; return the messages with their times, and the answer or None."""
    told = []

    async def tell(progress, total, message):
        told.append((trio.current_time(), progress, total, message))

    answer = None
    async with connected(server, era) as client:
        with trio.move_on_after(seconds):
            arguments = {"operation": "nap", "items": items, **options}
            answer = await client.call_tool("batch_process", arguments, progress_callback=tell)
        cut = trio.current_time()
        await trio.sleep(100)
    return told, answer, cut


async def test_messages_rise_from_nothing_to_the_whole(autojump_clock, era):
    server, _ = nap_server()
    told, answer, _ = await _told(server, era, [1, 2, 3, -1, 4])
    done = [progress for _, progress, _, _ in told]
    assert done == sorted(set(done))
    assert done[-1] == 5
    assert {total for _, _, total, _ in told} == {5}
    operation_id = answer.structured_content["data"]["operation_id"]
    assert told[0][3].startswith(f"{operation_id}: ")
    line, *outcomes = told[-1][3].splitlines()
    assert line == f"{operation_id}: 5 of 5 done, 1 failed, last: 4.0"
    assert json.loads(outcomes[-1]) == {"index": 4, "item": 4.0, "value": 4.0}
    every = [json.loads(line) for _, _, _, text in told for line in text.splitlines()[1:]]
    assert sorted(one["index"] for one in every) == [0, 1, 2, 3, 4]
    (failed,) = (one for one in every if "value" not in one)
    assert list(failed) == ["index", "item", "status", "error_code", "reason"]


async def test_a_message_shows_the_latest_outcomes_and_large_results_by_their_beginning(
    autojump_clock,
):
    async def page(number: int) -> str:
        await trio.sleep(1 if number else 0)
        return "x" * 5_000

    told = []

    async def tell(progress, total, message):
        told.append(message)

    async with connected(server_with(page)) as client:
        arguments = {"operation": "page", "items": list(range(31)), "max_concurrent": 50}
        await client.call_tool("batch_process", arguments, progress_callback=tell)
    _, first, *_, last = [text.splitlines()[1:] for text in told]
    value = {"truncated": True, "json_chars": 5_002, "json_start": '"' + "x" * 99}
    assert [json.loads(line) for line in first] == [{"index": 0, "item": 0, "value": value}]
    assert max(len(text) for text in told) < 6_000
    assert len(last) == 20


async def test_items_in_flight_count_for_what_they_tell_of_themselves(autojump_clock, era):
    async def climb(steps: int, *, report_progress) -> str:
        for step in range(1, steps + 1):
            await trio.sleep(1)
            report_progress(step, steps if steps < 9 else None, f"step {step}")
            report_progress(step - 0.5, steps, "less than before")
        return "up"

    told = []

    async def tell(progress, total, message):
        told.append((trio.current_time(), progress, message.splitlines()[1:]))

    async with connected(server_with(climb), era) as client:
        start = trio.current_time()
        arguments = {"operation": "climb", "items": [4, 9]}
        answer = await client.call_tool("batch_process", arguments, progress_callback=tell)
    assert answer.structured_content["data"]["complete"]
    assert [round(at - start, 3) for at, *_ in told] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    done = [progress for _, progress, _ in told]
    assert done == sorted(set(done))
    assert done[1] == 0.25 + 0.01 / 2
    assert done[4] == 1 + 0.01 * 4 / 5
    assert done[-1] == 2
    assert [json.loads(line) for line in sorted(told[1][2])] == [
        {"index": 0, "item": 4, "progress": 1, "total": 4, "message": "step 1"},
        {"index": 1, "item": 9, "progress": 1, "total": None, "message": "step 1"},
    ]
    assert json.loads(told[4][2][0]) == {"index": 0, "item": 4, "value": "up"}


async def test_the_status_tells_how_far_items_in_flight_are(autojump_clock):
    async def climb(name: str, *, report_progress) -> None:
        report_progress(float("nan"), 1, "no number")
        report_progress(1, float("inf"), name)
        await trio.sleep(10)

    async with connected(server_with(climb)) as client, trio.open_nursery() as nursery:
        arguments = {"operation": "climb", "items": [str(n) for n in range(30)]}
        nursery.start_soon(client.call_tool, "batch_process", arguments)
        await trio.sleep(5)
        (running,) = (await status_of(client))["operations"]
    assert len(running["in_progress"]) == running["in_flight"] == 10
    found = {"index": 0, "item": "0", "progress": 1, "total": None, "message": "0"}
    assert found in running["in_progress"]


def test_only_an_async_function_can_tell_its_progress():
    def climb(steps: int, *, report_progress) -> None:
        report_progress(1, steps, "up")

    with pytest.raises(TypeError, match="only an async function"):
        Operation(name="climb", fn=climb, runs="thread")


async def test_at_most_twenty_messages_fall_into_any_second(autojump_clock, era):
    server, _ = nap_server()
    items = [n / 100 for n in range(1, 301)]
    told, answer, _ = await _told(server, era, items, max_concurrent=50)
    times = [at for at, *_ in told]
    assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 20
    assert len(times) > 20
    assert answer.structured_content["data"]["complete"]


async def test_nothing_is_told_after_a_cancel(autojump_clock, era):
    server, _ = nap_server()
    told, answer, cut = await _told(server, era, [1, 2, 3, 4, 5] * 4, seconds=4.5)
    assert answer is None
    assert told
    assert max(at for at, *_ in told) <= cut


async def test_the_id_of_a_cancelled_call_is_in_its_first_message(autojump_clock):
    server, _ = nap_server()
    told, _, _ = await _told(server, "auto", [1, 90], seconds=4.5)
    (operation_id,) = re.findall(r"^(op_\S+): 0 of 2 done$", told[0][3])
    async with connected(server) as client:
        read = await client.call_tool("get_operation", {"operation_id": operation_id})
    assert read.structured_content["data"]["outcomes"][0]["value"] == 1


@pytest.mark.parametrize("reads", [0, 3])
async def test_a_client_that_does_not_read_holds_up_nothing(autojump_clock, monkeypatch, reads):
    told = []

    async def stuck(*message):
        told.append(message)
        if len(told) > reads:
            await trio.sleep_forever()

    server, _ = nap_server()
    tool = server._tools_by_name["batch_process"]
    call = Call(server.state, "batch_process", "anna", stuck)
    answer = await tool.fn(call, operation="nap", items=[1.0] * 50)
    assert answer.data["complete"]
    assert trio.current_time() == 5.05
    assert len(told) == reads + 2  # the one that is stuck, and the last one, which is given up


async def test_a_way_to_the_caller_that_is_broken_ends_the_telling_only(autojump_clock):
    told = []

    async def broken(*message):
        told.append(message)
        raise trio.BrokenResourceError

    server, _ = nap_server()
    tool = server._tools_by_name["batch_process"]
    call = Call(server.state, "batch_process", "anna", broken)
    answer = await tool.fn(call, operation="nap", items=[1.0] * 50)
    assert answer.data["complete"]
    assert len(told) == 1


PATTERNS = {
    "process_batch_streaming": {"items": ["a"] * 100, "max_concurrent": 1},
}


@pytest.mark.parametrize("tool", PATTERNS)
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.01, 0.1])
async def test_the_small_tools_tell_as_seldom_and_the_last_they_tell_is_the_whole(
    autojump_clock, era, tool, seconds
):
    told = []

    async def tell(progress, total, message):
        told.append((trio.current_time(), progress, total, message))

    async with connected(server_with(toolset="patterns"), era) as client:
        arguments = {**PATTERNS[tool], "seconds": seconds}
        answer = await client.call_tool(tool, arguments, progress_callback=tell)
        await trio.sleep(1)
    assert not answer.is_error
    times = [at for at, *_ in told]
    assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 20
    done = [progress for _, progress, _, _ in told]
    assert done == sorted(set(done))
    assert told[-1][1:3] == (100, 100)
    assert len(told) >= min(100, 100 * seconds / 0.06)


async def test_a_client_that_does_not_read_holds_up_no_small_tool(autojump_clock):
    async def stuck(*_):
        await trio.sleep_forever()

    server = server_with(toolset="patterns")
    tool = server._tools_by_name["process_batch_streaming"]
    call = Call(server.state, tool.name, "anna", stuck, timed=False)
    await tool.fn(call, items=["a"] * 40, seconds=0.25, max_concurrent=1)
    assert trio.current_time() == 10.05  # the last message is given up
