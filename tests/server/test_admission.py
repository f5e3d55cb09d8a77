"""A full queue refuses at once, it is fair, and status and cancel never wait in it."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.servers_in_memory import (
    call_as,
    connected,
    envelope_of,
    limits,
    server_of,
    status_of,
    work,
)

ONE_AT_A_TIME = limits("work", max_calls=1, max_waiting=1)


@pytest.fixture
def finished():
    """Names and virtual times of calls, in the order in which they were answered."""
    return []


async def test_a_call_waits_for_its_turn_and_one_too_many_is_refused_with_a_time_to_retry(
    era, autojump_clock, finished
):
    async def call_once(name):
        envelope = await envelope_of(client, "work", {"seconds": 4})
        finished.append((name, trio.current_time() - started, envelope))

    async with connected(server_of(work, **ONE_AT_A_TIME), era) as client:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in ("holds", "waits", "leaves"):
                nursery.start_soon(call_once, name)
                await wait_all_tasks_blocked()
    told = [(name, at, envelope["success"]) for name, at, envelope in finished]
    assert told == [("leaves", 0, False), ("holds", 4, True), ("waits", 8, True)]
    refused = finished[0][2]
    assert refused["data"]["error_type"] == "overloaded"
    assert refused["data"]["error_code"] == "OVERLOADED"
    assert refused["data"]["retry_after_seconds"] == 2.0  # 1 s per call unmeasured, 2 before it
    assert "Call again in 2 s" in refused["error"]


async def test_a_refused_call_succeeds_when_it_comes_back_after_that_time(autojump_clock):
    async with connected(server_of(work, **ONE_AT_A_TIME)) as client:
        await envelope_of(client, "work", {"seconds": 1})  # so that it knows how long one takes
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(envelope_of, client, "work", {"seconds": 1})
                await wait_all_tasks_blocked()
            refused = await envelope_of(client, "work", {})
            await trio.sleep(refused["data"]["retry_after_seconds"])
            assert (await envelope_of(client, "work", {}))["success"] is True


async def test_clients_take_turns_whoever_has_more_calls_in_line(autojump_clock, finished):
    server = server_of(work, **limits("work", max_calls=1, max_waiting=10))

    async def call_once(client_id, number):
        await call_as(server, client_id, "work", {"seconds": 1})
        finished.append(f"{client_id} {number}")

    async with trio.open_nursery() as nursery:
        for client_id, number in [*(("greedy", n) for n in range(5)), ("modest", 0)]:
            nursery.start_soon(call_once, client_id, number)
            await wait_all_tasks_blocked()
    # One works, one stands in front; from then on it is one each in turn.
    assert finished == ["greedy 0", "greedy 1", "greedy 2", "modest 0", "greedy 3", "greedy 4"]


async def test_a_queue_full_of_one_client_makes_room_for_another(autojump_clock):
    server = server_of(work, **limits("work", max_calls=1, max_waiting=4))
    answers = {}

    async def call_once(client_id, number):
        answers[client_id, number] = await call_as(server, client_id, "work", {"seconds": 1})

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(call_once, "greedy", number)
            await wait_all_tasks_blocked()
        nursery.start_soon(call_once, "modest", 0)
    assert answers["modest", 0]["success"] is True
    refused = [key for key, envelope in answers.items() if not envelope["success"]]
    assert refused == [("greedy", 4)]


async def test_status_never_waits_in_line_and_tells_who_does(era, autojump_clock):
    async with (
        connected(server_of(work, **ONE_AT_A_TIME), era) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(envelope_of, client, "work", {"seconds": 9})
            await wait_all_tasks_blocked()
        await trio.sleep(3)
        before = trio.current_time()
        status = await status_of(client)
        assert trio.current_time() == before
        assert [(c["tool"], c["age_seconds"], c["waits_for"]) for c in status["calls"]] == [
            ("work", 3.0, None),
            ("work", 3.0, "its turn"),
        ]
        line = status["lines"]["work"]
        assert (line["capacity"], line["holding"], line["waiting"]) == (1, 1, 1)


async def test_tools_do_not_stand_in_each_others_lines(autojump_clock):
    async def other(call, *, seconds: float):
        """Wait."""
        return await work(call, seconds=seconds)

    async with connected(server_of(work, other, **ONE_AT_A_TIME)) as client:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(envelope_of, client, "work", {"seconds": 5})
            nursery.start_soon(envelope_of, client, "other", {"seconds": 5})
        assert trio.current_time() - started == 5


async def test_bad_arguments_are_told_even_when_the_line_is_full(autojump_clock):
    async with (
        connected(server_of(work, **ONE_AT_A_TIME)) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(envelope_of, client, "work", {"seconds": 9})
            await wait_all_tasks_blocked()
        envelope = await envelope_of(client, "work", {"seconds": "soon"})
        assert envelope["data"]["error_type"] == "validation"


async def test_who_leaves_the_line_frees_a_place_in_it(autojump_clock):
    async with (
        connected(server_of(work, **ONE_AT_A_TIME)) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(envelope_of, client, "work", {"seconds": 9})
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await envelope_of(client, "work", {})
        assert (await status_of(client))["lines"]["work"]["waiting"] == 0
        assert (await envelope_of(client, "work", {}))["success"] is True


async def test_many_quick_calls_at_once_all_have_their_turn(era, autojump_clock):
    answers = []

    async def call_once():
        answers.append(await envelope_of(client, "work", {"seconds": 0.04}))

    async with connected(server_of(work), era) as client, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(call_once)
    assert [answer["success"] for answer in answers] == [True] * 50


async def test_a_call_whose_turn_would_come_too_late_is_refused_at_once(autojump_clock):
    async with connected(server_of(work, **limits("work", max_calls=1))) as client:
        await envelope_of(client, "work", {"seconds": 16})  # so that it knows how long one takes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(envelope_of, client, "work", {"seconds": 1})
            await wait_all_tasks_blocked()
            nursery.start_soon(envelope_of, client, "work", {"seconds": 1})
            await wait_all_tasks_blocked()
            started = trio.current_time()
            refused = await envelope_of(client, "work", {})
            assert trio.current_time() == started
    assert refused["data"]["error_code"] == "OVERLOADED"
    assert refused["data"]["expected_wait_seconds"] == 32
    assert refused["data"]["retry_after_seconds"] == 2
    assert "expected to wait 32 s" in refused["error"]
