"""What a call may count on: its time, its end, its siblings' independence, and its progress."""

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nursery_patterns.testing import InFlightGauge
from tests.support.servers_in_memory import (
    NAP,
    connected,
    envelope_of,
    limits,
    nap_many,
    server_of,
    status_of,
    values_of,
    work,
)
from trio_tools.answers.errors import ToolFailure
from trio_tools.tools.batches.calls import BatchRequest, run_batch_call
from trio_tools.tools.call import Answer

FOREVER = 10**6


async def test_a_deadline_is_kept_to_the_instant_with_all_that_finished(era, autojump_clock):
    items = [1, FOREVER, 2, -1, FOREVER, 3, 3]
    async with connected(server_of(nap_many), era) as client:
        started = trio.current_time()
        envelope = await envelope_of(
            client, "nap_many", {"items": items, "max_concurrent": 3, "timeout_seconds": 3}
        )
        assert trio.current_time() - started == 3
    data = envelope["data"]
    assert values_of(data) == [1.0, 2.0]
    assert [(e["item"], e["error_code"]) for e in data["errors"]] == [
        (FOREVER, "CANCELLED"),
        (-1, "INTERNAL"),
        (FOREVER, "CANCELLED"),
        (3, "CANCELLED"),
        (3, "NOT_STARTED"),
    ]
    counts = data["counts"]
    assert counts.pop("concurrency_limit") == 3
    assert counts.pop("total") == sum(counts.values()) == len(items)
    assert data["complete"] is False
    assert data["timing"] == {
        "elapsed_seconds": 3.0,
        "timeout_seconds": 3.0,
        "headroom_seconds": 0.0,
    }
    assert any('operation_id="' in warning for warning in envelope["meta"]["warnings"])


async def test_a_second_call_with_the_same_id_does_only_what_is_missing(era, autojump_clock):
    gauge = InFlightGauge()

    async def count(seconds: float) -> float:
        with gauge:
            await trio.sleep(seconds)
        return seconds

    async def batch(call, *, items: list[float], timeout_seconds: float) -> Answer:
        """Count who works."""
        operation = type(NAP)(name="count", fn=count)
        asked = BatchRequest(
            operation, items, timeout_seconds=timeout_seconds, operation_id="again"
        )
        return await run_batch_call(call, asked)

    async with connected(server_of(batch), era) as client:
        arguments = {"items": [1, 5, 2, 6], "timeout_seconds": 4}
        first = (await envelope_of(client, "batch", arguments))["data"]
        assert (values_of(first), first["complete"], gauge.entered) == ([1.0, 2.0], False, 4)
        arguments["timeout_seconds"] = 7
        second = (await envelope_of(client, "batch", arguments))["data"]
        assert (values_of(second), second["complete"]) == ([1.0, 5.0, 2.0, 6.0], True)
        assert gauge.entered == 4 + 2


async def test_a_batch_that_used_most_of_its_time_says_so(autojump_clock):
    async with connected(server_of(nap_many)) as client:
        tight = await envelope_of(client, "nap_many", {"items": [9], "timeout_seconds": 10})
        easy = await envelope_of(client, "nap_many", {"items": [8], "timeout_seconds": 10})
    assert [len(e["meta"]["warnings"]) for e in (tight, easy)] == [1, 0]
    assert "9 of 10 s" in tight["meta"]["warnings"][0]


async def test_an_item_past_its_own_time_is_named_and_its_siblings_go_on(autojump_clock):
    async with connected(server_of(nap_many)) as client:
        envelope = await envelope_of(
            client, "nap_many", {"items": [1, FOREVER, 2], "item_timeout_seconds": 2.5}
        )
    [error] = envelope["data"]["errors"]
    assert (error["item"], error["error_code"]) == (FOREVER, "ITEM_TIMEOUT")
    assert values_of(envelope["data"]) == [1.0, 2.0]
    assert envelope["data"]["complete"] is True
    assert envelope["data"]["timing"]["elapsed_seconds"] == 2.5


@pytest.mark.parametrize("items", [[1], [1, 1, 1], [n / 70 for n in range(40)]], ids=len)
async def test_progress_only_grows_ends_at_the_total_and_names_the_operation(
    items, era, autojump_clock
):
    heard = []

    async def hear(done, total, message):
        heard.append((done, total, message))

    async with connected(server_of(nap_many), era) as client:
        await envelope_of(
            client,
            "nap_many",
            {"items": items, "max_concurrent": 3, "operation_id": "named"},
            progress_callback=hear,
        )
        await wait_all_tasks_blocked()
    amounts = [done for done, _, _ in heard]
    assert amounts == sorted(set(amounts))
    assert amounts[-1] == len(items)
    assert {total for _, total, _ in heard} == {len(items)}
    assert all(message.startswith("named: ") for _, _, message in heard)
    assert len(heard) >= 2


async def test_a_client_that_does_not_read_progress_holds_up_nothing(autojump_clock):
    async def never_read(*_):
        await trio.sleep_forever()

    async with connected(server_of(nap_many)) as client:
        started = trio.current_time()
        envelope = await envelope_of(
            client, "nap_many", {"items": [1, 2]}, progress_callback=never_read
        )
        assert envelope["data"]["timing"]["elapsed_seconds"] <= 2.05
        assert trio.current_time() - started <= 2.05


async def with_children(call) -> Answer:
    """Start children that tell how they end."""
    told = call.state.user_message = []

    async def child(number):
        try:
            await trio.sleep_forever()
        finally:
            told.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(child, number)
    return Answer(summary="never", data={})


async def test_cancelling_a_call_ends_its_children_and_nothing_of_it_is_left(era, autojump_clock):
    server = server_of(with_children)
    async with connected(server, era) as client:
        started = trio.current_time()
        with trio.move_on_after(5) as scope:
            await envelope_of(client, "with_children")
        assert scope.cancelled_caught
        assert trio.current_time() - started == 5
        await wait_all_tasks_blocked()
        assert sorted(server.state.user_message) == [0, 1, 2]
        assert server.state.calls == {}
        status = await status_of(client)
        assert status["calls"] == []
        assert status["lines"]["with_children"]["holding"] == 0
        assert status["work_for_departed_callers"] == 0


async def test_what_a_cancelled_call_had_finished_is_kept_for_the_next_one(era, autojump_clock):
    arguments = {"items": [1, 2, 60], "operation_id": "kept", "timeout_seconds": 100}
    async with connected(server_of(nap_many), era) as client:
        with trio.move_on_after(3):
            await envelope_of(client, "nap_many", arguments)
        await wait_all_tasks_blocked()
        kept = await envelope_of(client, "nap_many", arguments)
    assert values_of(kept["data"]) == [1.0, 2.0, 60.0]
    assert kept["data"]["timing"]["elapsed_seconds"] == 60.0


async def slow_to_leave(call) -> Answer:
    """Take two seconds to clean up."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(2, shield=True):
            await trio.sleep_forever()
    return Answer(summary="never", data={})


async def test_work_that_unwinds_for_a_caller_that_left_is_counted_until_it_has(
    era, autojump_clock
):
    async with (
        connected(server_of(slow_to_leave), era) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(envelope_of, client, "slow_to_leave")
        await trio.sleep(1)
        assert (await status_of(client))["work_for_departed_callers"] == 0
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 9):
            await trio.sleep(1)
            status = await status_of(client)
            assert status["work_for_departed_callers"] == 1
            assert [call["tool"] for call in status["calls"]] == ["slow_to_leave"]
            await trio.sleep(1.5)
            assert (await status_of(client))["work_for_departed_callers"] == 0


async def test_drain_lets_every_running_batch_return_what_it_has(era, autojump_clock):
    answers = {}

    async def call_once(number):
        items = [1, 2, FOREVER, number]
        answers[number] = await envelope_of(client, "nap_many", {"items": items})

    server = server_of(nap_many)
    async with connected(server, era) as client:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in (50, 51):
                nursery.start_soon(call_once, number)
            await trio.sleep(4)
            server.drain()
        assert trio.current_time() - started == 4
    for number, envelope in answers.items():
        data = envelope["data"]
        assert envelope["success"] is True
        assert (values_of(data), data["complete"]) == ([1.0, 2.0], False)
        assert [error["item"] for error in data["errors"]] == [FOREVER, number]


async def test_a_batch_that_gets_its_turn_after_the_drain_answers_and_does_nothing(
    era, autojump_clock
):
    answers = []

    async def call_once(item):
        answers.append((await envelope_of(client, "nap_many", {"items": [item]}))["data"])

    server = server_of(nap_many, **limits("nap_many", max_calls=1))
    async with connected(server, era) as client:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call_once, FOREVER)
            await trio.sleep(4)
            server.drain()
        assert trio.current_time() - started == 4
    assert [data["complete"] for data in answers] == [False] * 3
    ends = [data["counts"]["not_started"] for data in answers]
    assert sorted(ends) == [0, 1, 1]  # the one that ran was cut
    assert all(data["operation_id"] for data in answers)


async def test_a_call_that_fails_has_not_departed_and_its_time_is_told(autojump_clock):
    async def fail(call) -> Answer:
        """Take three seconds to fail."""
        await trio.sleep(3)
        raise ToolFailure("as it had to")

    server = server_of(fail, **limits("fail", max_calls=1, max_waiting=0))
    departed = []

    class Watch(trio.abc.Instrument):
        def after_task_step(self, task):
            departed.extend(running.departed for running in server.state.calls.values())

    async with connected(server) as client:
        trio.lowlevel.add_instrument(Watch())
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # of which one is refused for lack of room, at once
                nursery.start_soon(envelope_of, client, "fail")
        durations = (await status_of(client))["durations"]
    assert departed
    assert not any(departed)
    assert durations["fail"] == {"calls": 1, "p50_seconds": 3.0, "p95_seconds": 3.0}


async def test_items_of_several_calls_share_one_capacity(autojump_clock):
    settings = limits("nap", concurrency=2, max_concurrency=3)
    async with connected(server_of(nap_many, **settings)) as client:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                call = partial(client.call_tool, "nap_many", {"items": [1, 1, 1]})
                nursery.start_soon(call)
        assert trio.current_time() - started == 2
        assert (await status_of(client))["limits"]["nap"]["peak"] == 3


@pytest.mark.parametrize("capacity", [1, 4, 7])
async def test_descriptions_schemas_caps_and_status_follow_a_limit_that_is_resized(
    capacity, era, autojump_clock
):
    server = server_of(nap_many, work)
    async with connected(server, era) as client:
        await envelope_of(client, "nap_many", {"items": [1]})
        server.state.limits.resize("nap_many", capacity)
        server.state.limits.resize("nap", capacity)
        [_, listing, _] = await server.list_tools()
        assert f"up to {capacity} in parallel, 1000 waiting" in listing.description
        option = listing.input_schema["properties"]["max_concurrent"]
        assert option["maximum"] == capacity
        too_many = {"items": [1], "max_concurrent": capacity + 1}
        told = await envelope_of(client, "nap_many", too_many)
        assert f"at most {capacity}, got {capacity + 1}" in told["error"]
        status = await status_of(client)
        assert status["limits"]["nap"]["capacity"] == capacity
        assert status["limits"]["nap"]["per_call"] == capacity
        envelope = await envelope_of(client, "nap_many", {"items": [1] * 8})
        assert envelope["data"]["counts"]["concurrency_limit"] == capacity


async def test_a_batch_under_way_follows_a_limit_that_is_resized(autojump_clock):
    settings = limits("nap", concurrency=4, max_concurrency=4)
    server = server_of(nap_many, **settings)
    async with connected(server) as client, trio.open_nursery() as nursery:
        started = trio.current_time()
        answered = trio.Event()

        async def call_once():
            await envelope_of(client, "nap_many", {"items": [2] * 8})
            answered.set()

        nursery.start_soon(call_once)
        await trio.sleep(1)
        server.state.limits.resize("nap", 1)  # four are at work, then one more starts at 2
        await trio.sleep(2)
        server.state.limits.resize("nap", 4)  # and the other three here
        await answered.wait()
        assert trio.current_time() - started == 5
